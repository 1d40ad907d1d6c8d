"""Code that a model brings of its own: reading it, and a site administrator's consent to exactly that."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from ninja import Schema
from pydantic import Field

from playground import own_code
from playground.api.answers import Given
from playground.api.caller import Request, fetch
from playground.api.routes import Routes
from playground.api.shapes import person
from playground.models import Model

router = Routes(tags=["models"])


class CodeFile(Schema):
    """One file of it."""

    path: str
    text: str
    problem: str = Field(description="Why it cannot be shown.")


class OwnCode(Schema):
    """What would run. Without code of its own a model has no pin and no files."""

    pin: str | None = Field(description="Names exactly this code; consent repeats it.")
    why: str = Field(description="Why it is refused without consent.")
    allowed_by: str | None
    allowed_at: datetime | None
    files: list[CodeFile]


class Consent(Given):
    """To which code."""

    pin: str = Field(max_length=80, description="As `read` told it: code that changed since is refused.")


@router.reads("/models/{pk}/code", OwnCode, of=Model)
def read(request: Request, pk: int) -> Any:
    """Its code, to be read before consent is given."""
    return _shown(fetch(request, _rows(), pk))


@router.writes("POST", "/models/{pk}/code/allow", OwnCode, needs="allow code", of=Model)
def allow(request: Request, pk: int, given: Consent) -> Any:
    """Let exactly this code run. Configurations that run it say so for ever."""
    row = fetch(request, _rows(), pk, "allow code")
    # Whoever sends the whole pin has named by hand which code is meant.
    own_code.allow(row, request.auth.user, given.pin, given.pin[: own_code.TYPED])
    return _shown(_rows().get(pk=pk))


@router.writes("POST", "/models/{pk}/code/withdraw", OwnCode, needs="allow code", of=Model)
def withdraw(request: Request, pk: int) -> Any:
    """Take consent back. What runs goes on."""
    own_code.withdraw(fetch(request, _rows(), pk, "allow code"), request.auth.user)
    return _shown(_rows().get(pk=pk))


def _rows() -> QuerySet[Model]:
    return Model.objects.select_related("team", "code_allowed_by")


def _shown(row: Model) -> dict[str, Any]:
    own = own_code.of(row)
    files = own_code.texts(row, own) if own else []
    return {
        "pin": own.pin if own else None,
        "why": own.why if own else "",
        "allowed_by": person(row.code_allowed_by),
        "allowed_at": row.code_allowed_at,
        "files": [{"path": path, "text": text, "problem": why} for path, text, why in files],
    }
