"""What runs: starting, stopping, restarting, changing, and its log."""

from typing import Any

from asgiref.sync import async_to_sync
from django.db.models import QuerySet
from ninja import Query, Schema
from pydantic import Field

from playground import access, deployments, engine_logs, engines, standing
from playground.api import shapes
from playground.api.answers import Given
from playground.api.caller import BIGGEST, Request, Window, cut, fetch, team_of, visible
from playground.api.routes import Routes, Verb
from playground.api.shapes import DeploymentShown, Page, ReplicaShown
from playground.models import Deployment, Model

router = Routes(tags=["deployments"])


class StartOptions(Given):
    """How a model runs. What is absent is as the engine, or Slipway, has it."""

    options: dict[str, Any] = Field({}, description="Of /engines; only what is not the engine's default.")
    version: str | None = Field(None, max_length=40)
    form: int | None = Field(None, ge=1, le=BIGGEST, description="Of the model's forms, which it loads.")
    gpus: int | None = Field(None, ge=1, le=1000)
    adapters: list[int] = Field([], max_length=50)


class StartWanted(StartOptions):
    """With what the start itself needs."""

    name: str = Field("", max_length=120)
    idle_timeout_s: int | None = Field(None, ge=1, le=10**9)
    cores: int | None = Field(None, ge=1, le=100_000)


class DeploymentWanted(StartWanted):
    """What to start."""

    model: int = Field(ge=1, le=BIGGEST)
    engine: str = Field(max_length=30)
    extra: list[tuple[str, str]] = Field([], max_length=50, description="For site administrators.")
    replaces: int | None = Field(None, ge=1, le=BIGGEST, description="Once ready it takes this one's place.")
    take_over: bool = Field(False, description="… and its conversations.")
    once: str = Field("", max_length=64, description="Asked twice with the same, it is started once.")


class DeploymentChange(Given):
    """What can be changed while it runs."""

    idle_timeout_s: int | None = Field(ge=1, le=10**9, description="Null: never stopped for being idle.")


class Log(Schema):
    """The end of a replica's log."""

    replica: ReplicaShown | None
    text: str


class DeploymentWhole(DeploymentShown):
    """With its replicas, newest first."""

    replicas: list[ReplicaShown]


@router.reads("/deployments", Page[DeploymentShown])
def listing(request: Request, window: Query[Window]) -> Any:
    """The team's deployments, newest first."""
    rows = visible(request, _rows(), team_of(request, window))
    rows = rows.filter(pk__lt=window.after) if window.after else rows
    keys = list(rows.order_by("-pk").values_list("pk", flat=True)[: window.limit + 1])
    stands = standing.all_of(_rows().filter(pk__in=keys))
    page = cut([one.deployment for one in stands], window, key="pk")
    return {"items": [shapes.deployment(one) for one in stands[: window.limit]], "next": page["next"]}


@router.reads("/deployments/{pk}", DeploymentWhole, of=Deployment)
def read(request: Request, pk: int) -> Any:
    """One deployment, how it stands, and its starts."""
    return _whole(fetch(request, _rows(), pk))


@router.writes("POST", "/deployments", DeploymentWhole, needs="start", of=Model, status=201)
def start_new(request: Request, given: DeploymentWanted) -> Any:
    """Start a model of one of your teams on an engine. It is started in that model's team."""
    model = fetch(request, Model.objects.select_related("team"), given.model, "start")
    if given.extra:
        access.require(request.auth.user, "extra arguments", model.team)
    named = given.dict(exclude={"model", "engine", "adapters", "replaces", "extra"})
    old = _rows().filter(model=model)
    row = deployments.request(
        team=model.team,
        user=request.auth.user,
        model=model,
        engine=engines.get(given.engine).name,
        attached=given.adapters,
        extra=given.extra,
        replaces=fetch(request, old, given.replaces, "start") if given.replaces else None,
        **named,
    )
    return _whole(row)


@router.writes("PATCH", "/deployments/{pk}", DeploymentWhole, needs="start", of=Deployment)
def change(request: Request, pk: int, given: DeploymentChange) -> Any:
    """After how long without use it stops. Other options: start a new one that `replaces` it."""
    row = fetch(request, _rows(), pk, "start")
    deployments.set_idle_timeout(row, given.idle_timeout_s, request.auth.user)
    return _whole(_rows().get(pk=pk))


@router.writes("DELETE", "/deployments/{pk}", None, needs="stop", of=Deployment)
def delete(request: Request, pk: int) -> Any:
    """Stop it and take it from every list."""
    deployments.delete(fetch(request, _rows(), pk, "stop"), request.auth.user)


@router.reads("/deployments/{pk}/log", Log, of=Deployment)
def log(request: Request, pk: int, replica: int | None = None) -> Any:
    """The end of the engine's log: of its newest replica, or of `replica`."""
    row = fetch(request, _rows(), pk)
    rows = row.replicas.select_related("node", "deployment").order_by("-pk")
    found = (rows.filter(pk=replica) if replica is not None else rows).first()
    return {"replica": found, "text": async_to_sync(engine_logs.tail)(found) if found else ""}


def _rows() -> QuerySet[Deployment]:
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED)
    return rows.select_related("model", "created_by", "team", "configuration")


def _whole(row: Deployment) -> dict[str, Any]:
    replicas = row.replicas.select_related("node").order_by("-pk")[:50]
    return shapes.deployment(standing.of(row)) | {"replicas": list(replicas)}


router.verbs(
    "/deployments/{pk}",
    DeploymentWhole,
    Deployment,
    _rows,
    _whole,
    start=Verb("start", deployments.start, "It should run."),
    stop=Verb("stop", deployments.stop, "It should not run."),
    restart=Verb("start", deployments.restart, "Replace its replicas by new ones."),
    free=Verb("stop", deployments.free_lost, "Nothing of its lost replicas runs any more: you say so."),
)
