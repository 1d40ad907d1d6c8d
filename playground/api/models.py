"""Models: the catalogue, adding from the Hub or an external server, files, removing."""

from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import (
    catalogue,
    external,
    holdings,
    hub,
    hub_models,
    jobs,
    removal,
    repositories,
)
from playground.api.answers import Given, Problem
from playground.api.caller import Request, Where, Window, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import JobShown, ModelShown, Page
from playground.models import Job, Model, Node

router = Routes(tags=["models"])


class FromHub(Given):
    """A repository of the Hub at one commit."""

    repo: str = Field(max_length=200)
    commit: str = Field(max_length=40, description="40 hexadecimal digits: branches and tags move.")
    forms: list[str] = Field([], max_length=50, description="Keys of /hub/repository; none: the usual one.")


class FromServer(Given):
    """A model of somebody else's server that speaks the OpenAI API."""

    name: str = Field(max_length=100)
    url: str = Field(max_length=500)
    model: str = Field(max_length=200, description="What it is called there.")
    key: str = Field("", max_length=500)
    task: str = Model.Task.CHAT.value
    context: int | None = Field(None, ge=1)
    takes_images: bool = False


class FormOffered(Schema):
    """One form a repository has its weights in."""

    key: str
    kind: str
    dtype: str
    size_bytes: int


class RepositoryShown(Schema):
    """A repository of the Hub at the commit its revision means now."""

    repo: str
    commit: str
    refused: str = Field(description="Why it may not be loaded here; empty when it may.")
    forms: list[FormOffered]
    added: int | None = Field(description="The team's model of this commit, if it has one.")


class FoundShown(Schema):
    """A hit of the Hub's search."""

    repo: str
    task: str
    licence: str
    downloads: int | None
    likes: int | None


class Removal(Schema):
    """The jobs that take its files from the nodes."""

    jobs: list[JobShown]


class PlaceShown(Schema):
    """One form of a model on one live node."""

    node: str
    here: bool
    job: int | None = Field(description="What brings it now, or the last that did not.")
    problem: str = Field(description="Why the last one did not bring it.")


class Held(Schema):
    """One form of a model's weights and where it lies."""

    form: int
    can_come: bool = Field(description="A node may be asked to fetch or make it.")
    places: list[PlaceShown]


class UseOf(Schema):
    """Something that would miss a model."""

    what: str
    name: str
    keeps: bool = Field(description="The model may not be removed before that ends.")


class NodeNamed(Given):
    """Where to."""

    node: str = Field(max_length=60, description="The node's name.")


class Fetching(Schema):
    """The job that brings a form; none when it is there already."""

    job: JobShown | None


@router.reads("/models", Page[ModelShown])
def listing(request: Request, window: Query[Window], task: str | None = None) -> Any:
    """The team's models, newest first."""
    team = team_of(request, window)
    rows = visible(request, _rows().filter(missing=False), team)
    return paged(rows.filter(task=task) if task else rows, window)


@router.writes("POST", "/models/rescan", Page[ModelShown], needs="view")
def rescan(request: Request, window: Query[Window]) -> Any:
    """Read the models folder anew; answers what the catalogue then holds."""
    team = team_of(request, window)
    catalogue.scan(team)
    return paged(visible(request, _rows().filter(missing=False), team), window)


@router.writes("POST", "/models/external", ModelShown, needs="external", status=201)
def add_external(request: Request, where: Query[Where], given: FromServer) -> Any:
    """Add a model that is asked on another server."""
    team = team_of(request, where, "external")
    named = given.dict() | {"context": "" if given.context is None else str(given.context)}
    return _rows().get(pk=external.add(team, request.auth.user, named).pk)


@router.reads("/models/{pk}", ModelShown, of=Model)
def read(request: Request, pk: int) -> Any:
    """One model."""
    return fetch(request, _rows(), pk)


@router.writes("POST", "/models", ModelShown, needs="add models", status=201)
def add(request: Request, where: Query[Where], given: FromHub) -> Any:
    """Add a model of the Hub. Nothing is fetched yet: the first start does that, or `files_fetch`."""
    team = team_of(request, where, "add models")
    if not hub.COMMIT.fullmatch(given.commit):
        raise Problem(422, "invalid", "A model is added at a commit of 40 hexadecimal digits.", "commit")
    repository = hub.repository(*hub.split(f"{given.repo}@{given.commit}"))
    row = hub_models.add(repository, given.forms, team, request.auth.user)
    return _rows().get(pk=row.pk)


@router.writes("DELETE", "/models/{pk}", Removal, needs="remove models", of=Model, status=202)
def remove(request: Request, pk: int) -> Any:
    """Take it out of the catalogue, and its files from every node."""
    row = fetch(request, _rows(), pk, "remove models")
    return {"jobs": removal.request(row, request.auth.user)}


@router.writes("POST", "/models/{pk}/forms/{form}/fetch", Fetching, needs="add models", of=Model, status=202)
def files_fetch(request: Request, pk: int, form: int, given: NodeNamed) -> Any:
    """Bring one form of its weights to a node now, without starting anything."""
    row = fetch(request, _rows(), pk, "add models")
    chosen = row.formats.filter(pk=form).first()
    node = Node.objects.filter(name=given.node).first()
    if chosen is None:
        raise Http404("no such form")
    if node is None:
        raise Problem(422, "invalid", "There is no such node.", "node")
    if row.refused or row.missing:
        raise Problem(422, "refused", row.refused or f"{row.name} is not in the catalogue any more.")
    found = catalogue.ensure(node, row, chosen.kind, form=chosen, team=row.team, user=request.auth.user)
    return {"job": found if isinstance(found, Job) else None}


@router.reads("/models/{pk}/files", list[Held], of=Model)
def files(request: Request, pk: int) -> Any:
    """Where each of its forms lies, is coming to, or did not come."""
    return [_held(one) for one in holdings.of(fetch(request, _rows(), pk))]


@router.writes("POST", "/models/{pk}/files/{job}/cancel", JobShown, needs="add models", of=Model)
def files_cancel(request: Request, pk: int, job: int) -> Any:
    """End what brings one of its forms; what came is kept for the next time."""
    row = holdings.jobs_of(fetch(request, _rows(), pk, "add models")).filter(pk=job).first()
    if row is None:
        raise Http404("no such job")
    jobs.cancel(row, request.auth.user)
    row.refresh_from_db()
    return row


@router.reads("/models/{pk}/uses", list[UseOf], of=Model)
def uses(request: Request, pk: int) -> Any:
    """What would miss it, what keeps it from being removed first."""
    return removal.uses(fetch(request, _rows(), pk))


@router.reads("/hub/search", list[FoundShown])
def hub_search(request: Request, where: Query[Where], text: str = "") -> Any:
    """What the Hub finds."""
    team_of(request, where)
    return hub.search(hub.Wish(text=text[:200]))


@router.reads("/hub/repository", RepositoryShown)
def hub_repository(request: Request, where: Query[Where], repo: str, revision: str = "main") -> Any:
    """One repository: the commit its revision means now, and the forms it can be added in."""
    team = team_of(request, where)
    found = hub.repository(*hub.split(f"{repo[:200]}@{revision[:100]}"))
    added = hub_models.added(team, found)
    return {
        "repo": found.repo,
        "commit": found.commit,
        "refused": repositories.judge(found).refused,
        "forms": repositories.forms(found),
        "added": added.pk if added else None,
    }


def _held(one: holdings.Holding) -> dict[str, Any]:
    return {"form": one.form.pk, "can_come": one.can_come, "places": [_place(place) for place in one.places]}


def _place(place: holdings.Place) -> dict[str, Any]:
    job = place.line["job"] if place.line else place.failed
    told = {"node": place.node.name, "here": place.here, "job": job.pk if job else None}
    return told | {"problem": place.failed.error if place.failed else ""}


def _rows() -> QuerySet[Model]:
    return Model.objects.select_related("team", "created_by").prefetch_related("formats")
