"""Models made smaller: the ways there are, asking for one, and parent and child answering side by side."""

from typing import Any

from ninja import Schema
from pydantic import Field

from playground import pairs, quantise, ways
from playground.api.answers import Given, Problem
from playground.api.caller import Request, fetch
from playground.api.routes import Routes
from playground.api.shapes import ConversationShown, JobShown
from playground.models import Model

router = Routes(tags=["models"])


class WayShown(Schema):
    """One way to quantise it."""

    method: str = Field(description="Q4_K_M, FP8_DYNAMIC, …")
    words: str
    tool: str
    form: int = Field(description="The form it is made from.")
    size_bytes: int | None = Field(description="What it will have, where that is known.")
    note: str
    why_not: str = Field(description="Empty where it can be made.")

    @staticmethod
    def resolve_form(row: ways.Way) -> int:
        return row.form.pk


class Kin(Schema):
    """A model beside the one that was asked for."""

    model: int
    name: str
    method: str


class Quantising(Schema):
    """What may be, is being and was made from a model, and what it was made from itself."""

    ways: list[WayShown]
    active: list[JobShown]
    failed: list[JobShown]
    made: list[Kin]
    parent: Kin | None


class QuantiseWanted(Given):
    """Which way, and what the new model is called."""

    method: str = Field(max_length=40)
    name: str = Field("", max_length=80, description="Absent: after the model and the method.")


@router.reads("/models/{pk}/quantise", Quantising, of=Model)
def read(request: Request, pk: int) -> Any:
    """The ways there are for it, and what became of those that were gone."""
    row = fetch(request, Model.objects.select_related("team", "parent"), pk)
    parent = pairs.parent(row)
    return {
        "ways": ways.of(row),
        "active": quantise.active(row),
        "failed": quantise.failed(row),
        "made": [_kin(one) for one in pairs.children(row)],
        "parent": _kin(parent) if parent else None,
    }


@router.writes("POST", "/models/{pk}/quantise", JobShown, needs="start", of=Model, status=202)
def start(request: Request, pk: int, given: QuantiseWanted) -> Any:
    """Make a new model of it: the job, which /jobs/{pk}/cancel ends."""
    row = fetch(request, Model.objects.select_related("team"), pk, "start")
    return quantise.request(row, given.method.strip(), given.name.strip(), request.auth.user)


@router.writes("POST", "/models/{pk}/compare", ConversationShown, needs="chat", of=Model, status=201)
def compare(request: Request, pk: int) -> Any:
    """A conversation in which it answers beside what it was made from, where one of each runs."""
    row = fetch(request, Model.objects.select_related("team", "parent"), pk, "chat")
    both = pairs.sides(row.parent, row) if row.parent else None
    if both is None:
        raise Problem(409, "conflict", "It and what it was made from do not both run: start them first.")
    return pairs.compare(request.auth.user, *both)


def _kin(one: pairs.Kin) -> dict[str, Any]:
    return {"model": one.model.pk, "name": one.model.name, "method": one.method}
