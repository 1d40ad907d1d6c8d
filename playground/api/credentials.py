"""What a team gives Slipway to open other doors with: kept encrypted, never told again."""

from datetime import datetime
from typing import Any

from ninja import Query, Schema
from pydantic import Field

from playground import external, imports, secrets
from playground.api.answers import Given, Problem
from playground.api.caller import Request, Where, fetch, team_of
from playground.api.routes import Routes
from playground.api.shapes import person
from playground.models import Model, Secret, Team

router = Routes(tags=["credentials"])


class Kept(Schema):
    """Whether there is one, and who gave it. Itself it is told to nobody."""

    kept: bool
    hint: str = Field("", description="Its last letters, where it is long enough.")
    created_by: str | None = None
    created_at: datetime | None = None
    used_at: datetime | None = None


class TokenGiven(Given):
    """A token of the Hub that may read."""

    token: str = Field(max_length=secrets.MAX_TOKEN)


class BucketKey(Given):
    """What opens the team's buckets."""

    key: str = Field(max_length=200, description="The access key.")
    secret: str = Field(max_length=200)
    endpoint: str = Field("", max_length=300, description="https://minio.example:9000; none: AWS.")
    region: str = Field("", max_length=40)


class ServerKey(Given):
    """What somebody else's server asks for."""

    key: str = Field(max_length=external.MOST, pattern=r"\S")


@router.reads("/hub/token", Kept, needs="tokens")
def hub_token(request: Request, where: Query[Where]) -> Any:
    """Whether the team has a token for gated models."""
    return _kept(secrets.find(team_of(request, where, "tokens"), secrets.HUB))


@router.writes("PUT", "/hub/token", Kept, needs="tokens")
def hub_token_set(request: Request, where: Query[Where], given: TokenGiven) -> Any:
    """Keep this one, in the place of the one before."""
    team = team_of(request, where, "tokens")
    return _kept(secrets.keep_token(team, given.token.strip(), request.auth.user))


@router.writes("DELETE", "/hub/token", None, needs="tokens")
def hub_token_forget(request: Request, where: Query[Where]) -> Any:
    """Forget it, if there is one."""
    secrets.forget(team_of(request, where, "tokens"), secrets.HUB, request.auth.user)


@router.reads("/buckets/credentials", Kept)
def bucket_key(request: Request, where: Query[Where]) -> Any:
    """Whether the team has credentials for buckets; without any only public ones open."""
    return _bucket(team_of(request, where))


@router.writes("PUT", "/buckets/credentials", Kept, needs="tokens")
def bucket_key_set(request: Request, where: Query[Where], given: BucketKey) -> Any:
    """Keep these, in the place of the ones before."""
    team = team_of(request, where, "tokens")
    trimmed = {name: value.strip() for name, value in given.dict().items()}
    imports.keep_credentials(team, request.auth.user, imports.Credentials(**trimmed))
    return _bucket(team)


@router.writes("DELETE", "/buckets/credentials", None, needs="tokens")
def bucket_key_forget(request: Request, where: Query[Where]) -> Any:
    """Forget them, if there are any."""
    secrets.forget(team_of(request, where, "tokens"), imports.SECRET, request.auth.user)


@router.reads("/models/{pk}/server-key", Kept, needs="external", of=Model)
def server_key(request: Request, pk: int) -> Any:
    """Whether the server of a model of somebody else's has a key."""
    return _kept(external.kept(_model(request, pk)))


@router.writes("PUT", "/models/{pk}/server-key", Kept, needs="external", of=Model)
def server_key_set(request: Request, pk: int, given: ServerKey) -> Any:
    """Keep this one. What runs keeps the old one until it is restarted."""
    row = _elsewhere(request, pk)
    external.set_key(row, request.auth.user, given.key.strip())
    return _kept(external.kept(row))


@router.writes("DELETE", "/models/{pk}/server-key", None, needs="external", of=Model)
def server_key_forget(request: Request, pk: int) -> Any:
    """Forget it, if there is one."""
    external.forget_key(_elsewhere(request, pk), request.auth.user)


def _kept(row: Secret | None) -> dict[str, Any]:
    if row is None:
        return {"kept": False}
    names = ("hint", "created_at", "used_at")
    told = {name: getattr(row, name) for name in names}
    return {"kept": True, "created_by": person(row.created_by), **told}


def _bucket(team: Team) -> dict[str, Any]:
    return _kept(secrets.find(team, imports.SECRET))


def _model(request: Request, pk: int) -> Model:
    return fetch(request, Model.objects.select_related("team"), pk, "external")


def _elsewhere(request: Request, pk: int) -> Model:
    row = _model(request, pk)
    if not row.is_elsewhere:
        raise Problem(409, "conflict", f"{row.name} is on no server of others.")
    return row
