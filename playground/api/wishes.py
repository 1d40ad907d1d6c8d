"""Asking an operator for a start, and answering."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from ninja import Query
from pydantic import Field

from playground import engines, start_wishes
from playground.api.answers import Given
from playground.api.caller import Request, Window, fetch, paged, team_of
from playground.api.deployments import StartWanted
from playground.api.routes import Routes
from playground.api.shapes import Page, Row, person
from playground.models import Deployment, Model, StartWish

router = Routes(tags=["deployments"])
REFUSED: dict[type[Exception], int] = {start_wishes.WishRefused: 409}


class WishText(Given):
    """For whoever may start it."""

    text: str = Field("", max_length=500, description="Why, or until when.")


class WishGiven(StartWanted, WishText):
    """How to start it; without an engine as the Start form would."""

    engine: str | None = Field(None, max_length=30)

    def wanted(self) -> dict[str, Any]:
        """As `deployments.request` takes it; nothing without an engine."""
        if self.engine is None:
            return {}
        named = self.dict(exclude={"text", "engine", "adapters"})
        return {"engine": engines.get(self.engine).name, "attached": self.adapters, "extra": [], **named}


class WishAnswer(Given):
    """Why not, so that they know what to do instead."""

    answer: str = Field(max_length=500, pattern=r"\S")


class WishShown(Row):
    """What somebody asks for who may not start it themselves."""

    what: str
    model: int | None
    deployment: int | None = Field(description="What was started for it, once it was.")
    wanted: dict[str, Any]
    text: str
    state: str = Field(description="open, done or declined.")
    answer: str
    answered_by: str | None
    answered_at: datetime | None

    @staticmethod
    def resolve_what(row: StartWish) -> str:
        return start_wishes.name(row)

    @staticmethod
    def resolve_model(row: StartWish) -> int | None:
        return row.model_id

    @staticmethod
    def resolve_deployment(row: StartWish) -> int | None:
        return row.deployment_id

    @staticmethod
    def resolve_answered_by(row: StartWish) -> str | None:
        return person(row.answered_by)


@router.reads("/wishes", Page[WishShown])
def listing(request: Request, window: Query[Window]) -> Any:
    """What the caller may answer, and what they asked for, newest first."""
    return paged(start_wishes.seen_by(request.auth.user, team_of(request, window)), window)


@router.writes("POST", "/models/{pk}/wishes", WishShown, needs="ask", of=Model, status=201)
def ask_for_model(request: Request, pk: int, given: WishGiven) -> Any:
    """Ask those who may to start a model. Asked again, it is the open wish with what was said last."""
    model = fetch(request, Model.objects.select_related("team"), pk, "ask")
    return start_wishes.ask_for_model(request.auth.user, model, given.wanted(), given.text)


@router.writes("POST", "/deployments/{pk}/wishes", WishShown, needs="ask", of=Deployment, status=201)
def ask_for_deployment(request: Request, pk: int, given: WishText) -> Any:
    """Ask those who may to start a deployment that is stopped."""
    running = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("team")
    row = fetch(request, running, pk, "ask")
    return start_wishes.ask_for_deployment(request.auth.user, row, given.text)


@router.writes("POST", "/wishes/{pk}/start", WishShown, needs="start", of=StartWish)
def start(request: Request, pk: int) -> Any:
    """Start what was asked for."""
    row = fetch(request, _rows(), pk, "start")
    start_wishes.start(row, request.auth.user)
    return _rows().get(pk=pk)


@router.writes("POST", "/wishes/{pk}/decline", WishShown, needs="start", of=StartWish)
def decline(request: Request, pk: int, given: WishAnswer) -> Any:
    """Say no, and why."""
    row = fetch(request, _rows(), pk, "start")
    start_wishes.decline(row, request.auth.user, given.answer)
    return _rows().get(pk=pk)


@router.writes("DELETE", "/wishes/{pk}", None, needs="ask", of=StartWish)
def drop(request: Request, pk: int) -> Any:
    """Take one's own back, or clear its answer."""
    start_wishes.drop(fetch(request, _rows(), pk, "ask"), request.auth.user)


def _rows() -> QuerySet[StartWish]:
    return StartWish.objects.select_related("team", "model", "deployment", "created_by", "answered_by")
