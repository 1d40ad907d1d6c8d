"""LoRA adapters: of a model, and attached to what runs."""

from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import adapters, attaching, hub_adapters, jobs, landing
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Window, fetch, paged
from playground.api.routes import Routes
from playground.api.shapes import JobShown, Page, Row
from playground.models import Adapter, Deployment, Job, Model

router = Routes(tags=["adapters"])


class AdapterShown(Row):
    """Weights on top of a model; attached, it is served under its own name."""

    name: str
    model: int
    source: str
    kind: str
    rank: int | None
    size_bytes: int | None
    digest: str = Field(description="Empty until it is here.")
    refused: str

    @staticmethod
    def resolve_model(row: Adapter) -> int:
        return row.model_id


class AdapterGiven(Given):
    """Where it is: a repository of the Hub, or a folder or file below the models folder."""

    name: str = Field(max_length=100, description="What requests give as the model.")
    repo: str = Field("", max_length=200, description="With its commit: org/name@<40 digits>.")
    path: str = Field("", max_length=400)


class AdapterFound(Schema):
    """An adapter that the Hub says was made for a model."""

    repo: str
    downloads: int | None
    likes: int | None


class AdapterJob(Schema):
    """The job that brings it; none where it is here, or was never asked for."""

    job: JobShown | None


class Attached(Given):
    """Which adapter of its model."""

    adapter: int = Field(ge=1, le=BIGGEST)


@router.reads("/models/{pk}/adapters", Page[AdapterShown], of=Model)
def adapters_list(request: Request, pk: int, window: Query[Window]) -> Any:
    """Those of one model, newest first."""
    row = fetch(request, Model.objects.select_related("team"), pk)
    return paged(_rows().filter(model=row), window)


@router.writes("POST", "/models/{pk}/adapters", AdapterShown, needs="add models", of=Model, status=201)
def adapter_add(request: Request, pk: int, given: AdapterGiven) -> Any:
    """Take one for this model. One of the Hub is on its way at once."""
    row = fetch(request, Model.objects.select_related("team"), pk, "add models")
    user = request.auth.user
    if bool(given.repo) == bool(given.path):
        raise Problem(422, "invalid", "Give either a repository or a path.", "repo")
    if given.path:
        return _rows().get(pk=adapters.add(row, given.path, given.name, user).pk)
    node = landing.node()
    made = hub_adapters.add(row, given.repo, given.name, user)
    adapters.ensure(node, made, team=row.team, user=user)
    return _rows().get(pk=made.pk)


@router.reads("/models/{pk}/adapters/hub", list[AdapterFound], of=Model)
def on_the_hub(request: Request, pk: int) -> Any:
    """What the Hub has for a model of its own, most used first."""
    return list(hub_adapters.found(fetch(request, Model.objects.all(), pk)))


@router.writes("POST", "/adapters/{pk}/fetch", AdapterJob, needs="add models", of=Adapter, status=202)
def adapter_fetch(request: Request, pk: int) -> Any:
    """Bring one of the Hub here, once more after it did not come."""
    row = fetch(request, _rows(), pk, "add models")
    found = adapters.ensure(landing.node(), row, team=row.team, user=request.auth.user)
    return {"job": found if isinstance(found, Job) else None}


@router.writes("POST", "/adapters/{pk}/cancel", AdapterJob, needs="add models", of=Adapter)
def adapter_cancel(request: Request, pk: int) -> Any:
    """End the fetching of one; what came is kept for the next time."""
    job = adapters.newest_job(fetch(request, _rows(), pk, "add models"))
    if job is not None:
        jobs.cancel(job, request.auth.user)
        job.refresh_from_db()
    return {"job": job}


@router.writes("DELETE", "/adapters/{pk}", None, needs="remove models", of=Adapter)
def adapter_remove(request: Request, pk: int) -> Any:
    """Forget it, unless a deployment has it. Files of the folder stay where they are."""
    adapters.remove(fetch(request, _rows(), pk, "remove models"), request.auth.user)


@router.writes("POST", "/deployments/{pk}/attach", JobShown, needs="start", of=Deployment, status=202)
def attach(request: Request, pk: int, given: Attached) -> Any:
    """Serve one more beside its model: the job that does so."""
    return _ask(request, pk, given, attaching.ATTACH)


@router.writes("POST", "/deployments/{pk}/detach", JobShown, needs="start", of=Deployment, status=202)
def detach(request: Request, pk: int, given: Attached) -> Any:
    """Serve one less: the job that does so."""
    return _ask(request, pk, given, attaching.DETACH)


def _rows() -> QuerySet[Adapter]:
    return Adapter.objects.select_related("team", "created_by", "model")


def _ask(request: Request, pk: int, given: Attached, verb: str) -> Any:
    running = Deployment.objects.exclude(desired=Deployment.Desired.DELETED)
    row = fetch(request, running.select_related("model", "team"), pk, "start")
    adapter = row.model.adapters.filter(pk=given.adapter).first()
    if adapter is None:
        raise Http404("no such adapter")
    return attaching.request(row, adapter, verb, request.auth.user)
