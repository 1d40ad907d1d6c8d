"""Columns that do not fit together, asked one after another: what would happen, and running it."""

from typing import Annotated, Any

from ninja import Query, Schema
from pydantic import Field

from playground import asking, plan_requests, plans, sharing_rules
from playground.api import run_shapes
from playground.api.answers import Given
from playground.api.caller import BIGGEST, Request, fetch
from playground.api.routes import Routes
from playground.api.run_shapes import RunWhole
from playground.expected import Expected
from playground.generation import CHARACTERS
from playground.models import Conversation, Deployment, Measurement

router = Routes(tags=["measured runs"])
Key = Annotated[int, Field(ge=1, le=BIGGEST)]
REFUSED: dict[type[Exception], int] = {plan_requests.PlanRefused: 409}


class PlanAsked(Schema):
    """For what a plan is shown."""

    prompts: int = Field(1, ge=1, le=plan_requests.PROMPTS)
    also: list[Key] = Field([], max_length=100, description="Others of your deployments that it may stop.")


class PlanWanted(Given):
    """What is asked, and the plan that it is asked by."""

    prompts: list[Annotated[str, Field(max_length=CHARACTERS, pattern=r"\S")]] = Field(
        min_length=1, max_length=plan_requests.PROMPTS
    )
    seal: str = Field(
        max_length=20_000, description="Of the plan as it was read: it runs only if that has not changed."
    )
    also: list[Key] = Field([], max_length=100, description="Others of your deployments that it may stop.")
    again: bool = Field(True, description="Start at the end what ran before and was stopped.")


class ChangePlanned(Schema):
    """A deployment that is started or stopped, and how long that likely takes."""

    deployment: int
    name: str
    node: str = Field(description="Where it starts; empty of a stop.")
    seconds: float | None


class ColumnPlanned(Schema):
    """A column, and how long its answers likely take."""

    column: int
    name: str
    seconds: float | None


class StagePlanned(Schema):
    """What happens together."""

    stops: list[ChangePlanned]
    starts: list[ChangePlanned]
    columns: list[ColumnPlanned]


class ColumnLeftOut(Schema):
    """A column that cannot be asked."""

    column: int
    why: str


class DeploymentNamed(Schema):
    """A deployment by id and name."""

    id: int
    name: str


class PlanShown(Schema):
    """What would happen."""

    fits: bool = Field(description="All columns run, or could, at the same time: no plan is needed.")
    why: str = Field(description="Why not.")
    stages: list[StagePlanned]
    left_out: list[ColumnLeftOut]
    offers: list[DeploymentNamed] = Field(description="Yours; name them in `also` to let the plan stop them.")
    again: list[DeploymentNamed] = Field(description="Run now, are stopped, and started again at the end.")
    waits: list[DeploymentNamed]
    seconds: float = Field(description="As far as it is known.")
    unknown: int = Field(description="How many parts of the time are not known.")
    cost: str
    refusal: str = Field(description="Why you may not run it; empty where you may.")
    seal: str


@router.reads("/conversations/{pk}/plan", PlanShown, of=Conversation)
def read(request: Request, pk: int, asked: Query[PlanAsked]) -> Any:
    """What would happen if so many prompts were asked."""
    row = fetch(request, _rows(), pk)
    verdict = plans.fits_together(asking.columns_of(row), request.auth.user)
    made = plans.plan(row, request.auth.user, asked.prompts, asked.also)
    return {"fits": verdict.fits, "why": verdict.why, **_plan(made)}


@router.writes("POST", "/conversations/{pk}/plan", RunWhole, needs="chat", of=Conversation, status=201)
def start(request: Request, pk: int, given: PlanWanted) -> Any:
    """Run it. Asked again with the same prompts while it runs, it is that run."""
    row, user = fetch(request, _rows(), pk), request.auth.user
    sharing_rules.require_write(user, row)
    made = plans.plan(row, user, len(given.prompts), given.also)
    prompts = plan_requests.checked(given.prompts)
    run = plan_requests.request(row, user, prompts, made, given.seal, again=given.again)
    rows = Measurement.objects.select_related("team", "created_by", "job")
    return run_shapes.whole(rows.get(pk=run.pk))


def _rows() -> Any:
    return Conversation.objects.select_related("team", "created_by")


def _plan(made: plans.Plan) -> dict[str, Any]:
    return {
        "stages": [_stage(stage) for stage in made.stages],
        "left_out": [{"column": column.pk, "why": why} for column, why in made.left_out],
        "offers": made.offers,
        "again": made.again,
        "waits": made.waits,
        "seconds": made.time.seconds,
        "unknown": made.time.unknown,
        "cost": made.cost.words,
        "refusal": made.refusal,
        "seal": made.seal,
    }


def _stage(stage: plans.PlannedStage) -> dict[str, Any]:
    return {
        "stops": [_change(one.deployment, one.time) for one in stage.stops],
        "starts": [_change(one.deployment, one.time, one.where) for one in stage.starts],
        "columns": [
            {"column": one.column.pk, "name": one.name, "seconds": one.time.seconds} for one in stage.asked
        ],
    }


def _change(row: Deployment, time: Expected, where: str = "") -> dict[str, Any]:
    return {"deployment": row.pk, "name": row.name, "node": where, "seconds": time.seconds}
