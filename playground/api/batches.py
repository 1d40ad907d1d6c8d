"""Batches: beginning, pausing, results as they come, scores."""

from dataclasses import asdict
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import (
    batch_estimate,
    batch_report,
    batches,
    prompt_rows,
    score_report,
    score_tables,
    scorers,
    scoring,
    webhooks,
)
from playground.api import shapes
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Where, Window, cut, fetch, team_of, visible
from playground.api.conversations import require_parameters
from playground.api.routes import Routes, Verb
from playground.api.shapes import BatchShown, JobShown, Page, ResultShown
from playground.models import (
    Batch,
    BatchColumn,
    BatchResult,
    DatasetVersion,
    Deployment,
    PromptVersion,
    Team,
)
from playground.score_report import Sums

router = Routes(tags=["batches"])


class ColumnGiven(Given):
    """One answerer."""

    deployment: int = Field(ge=1, le=BIGGEST)
    adapter: str = Field("", max_length=100)
    parameters: dict[str, Any] | None = Field(None, description="Null: the batch's.")


class BatchBegun(Given):
    """Which rows, and who answers them."""

    version: int = Field(ge=1, le=BIGGEST, description="The dataset version's id.")
    columns: list[ColumnGiven] = Field(min_length=1, max_length=batches.COLUMNS)
    name: str = Field("", max_length=200)
    parameters: dict[str, Any] = {}
    webhook: str = Field("", max_length=500)
    prompt_version: int | None = Field(
        None, ge=1, le=BIGGEST, description="A prompt version's id: the table's cells fill its variables."
    )


class ScorerGiven(Given):
    """How rows are scored; what means nothing for its kind is left out."""

    kind: str = Field(max_length=20)
    against: str = Field("expected", max_length=20)
    cell: str = Field("", max_length=120)
    fixed: str = Field("", max_length=200_000)
    name: str = Field("", max_length=60)
    case: bool = False
    space: bool = False
    punctuation: bool = False
    whole: bool = False
    pick: str = Field("last", max_length=10)
    absolute: str = Field("0", max_length=40)
    relative: str = Field("0", max_length=40)
    fenced: bool = True
    deployment: int | None = Field(None, ge=1, le=BIGGEST, description="Of embedding or judging ones.")
    least: float | None = Field(None, ge=0, le=1)
    prompt: str = Field("", max_length=20_000)
    max_tokens: int = Field(512, ge=1, le=8192)


class ScoreShown(Schema):
    """What one scorer says of one column."""

    column: int
    mean: float | None
    low: float | None
    high: float | None
    scored: int
    left: int


class ScorerShown(Schema):
    """One scorer and its figures."""

    place: int
    title: str
    kept: dict[str, Any]
    columns: list[ScoreShown]


class PartEstimated(Schema):
    """How long one column would take, by answers that it gave before; null where it gave none."""

    deployment: int
    adapter: str
    seconds: float | None
    at_most: bool = Field(description="It takes so long or less.")
    cost: float | None = Field(description="Dollars.")
    source: str = Field(description="What it was taken from.")


class BatchEstimated(Schema):
    """Columns are asked side by side: the longest says how long, costs add up."""

    rows: int
    seconds: float | None
    at_most: bool
    cost: float | None
    columns: list[PartEstimated]


class Retried(Schema):
    """How many rows are asked again."""

    rows: int
    batch: BatchShown


@router.reads("/batches", Page[BatchShown])
def listing(request: Request, window: Query[Window]) -> Any:
    """The team's batches, newest first."""
    rows = visible(request, _rows(), team_of(request, window)).order_by("-pk")
    rows = rows.filter(pk__lt=window.after) if window.after else rows
    page = cut(list(rows[: window.limit + 1]), window)
    return page | {"items": [shapes.batch(row, list(row.columns.all())) for row in page["items"]]}


@router.writes("POST", "/batches/estimate", BatchEstimated, needs="view")
def estimate(request: Request, where: Query[Where], given: BatchBegun) -> Any:
    """How long it would take and what it would cost. Nothing begins."""
    version, columns = _wanted(request, team_of(request, where), given)
    named = [(one["deployment"], str(one["adapter"])) for one in columns]
    parts = [batch_estimate.of(*one, version.row_count) for one in named]
    shown = [
        asdict(part) | {"deployment": deployment.pk, "adapter": adapter}
        for part, (deployment, adapter) in zip(parts, named, strict=True)
    ]
    return asdict(batch_estimate.whole(parts)) | {"rows": version.row_count, "columns": shown}


@router.reads("/batches/{pk}", BatchShown, of=Batch)
def read(request: Request, pk: int) -> Any:
    """One batch, and how far each column is."""
    return _whole(fetch(request, _rows(), pk))


@router.writes("POST", "/batches", BatchShown, needs="chat", status=201)
def begin(request: Request, where: Query[Where], given: BatchBegun) -> Any:
    """Ask every row of each column. A stopped deployment is started, which needs "start"."""
    team = team_of(request, where, "chat")
    version, columns = _wanted(request, team, given)
    webhook = webhooks.check(given.webhook) if given.webhook else ""
    prompt, user = _prompt(request, team, given), request.auth.user
    made = prompt_rows.begin(
        team, user, given.name, version, columns, given.parameters, prompt=prompt, webhook=webhook
    )
    return _whole(_rows().get(pk=made.pk))


@router.writes("POST", "/batches/{pk}/retry", Retried, needs="chat", of=Batch)
def retry(request: Request, pk: int) -> Any:
    """Ask the failed rows once more."""
    row = fetch(request, _rows(), pk, "chat")
    count = batches.retry_failed(row, request.auth.user)
    return {"rows": count, "batch": _whole(row)}


@router.reads("/batches/{pk}/results", Page[ResultShown], of=Batch)
def results(request: Request, pk: int, window: Query[Window], column: int | None = None) -> Any:
    """A column's results in the order they came, every attempt; `after` is a result's id."""
    row = fetch(request, _rows(), pk)
    found = BatchResult.objects.filter(column=_column(row, column)).order_by("pk")
    found = found.filter(pk__gt=window.after) if window.after else found
    return cut(list(found[: window.limit + 1]), window)


@router.reads("/batches/{pk}/scores", list[ScorerShown], of=Batch)
def scores(request: Request, pk: int) -> Any:
    """What its scorers say of each column so far."""
    row = fetch(request, _rows(), pk)
    return _scores(row)


@router.writes("POST", "/batches/{pk}/scorers", list[ScorerShown], needs="chat", of=Batch, status=201)
def scorer_add(request: Request, pk: int, given: ScorerGiven) -> Any:
    """Score it by one more."""
    row = fetch(request, _rows(), pk, "chat")
    scoring.add(row, scorers.made(given.dict()), request.auth.user)
    return _scores(row)


@router.writes("DELETE", "/batches/{pk}/scorers/{place}", None, needs="chat", of=Batch)
def scorer_remove(request: Request, pk: int, place: int) -> Any:
    """Take one, and its scores, away."""
    if not scoring.remove(fetch(request, _rows(), pk, "chat"), place, request.auth.user):
        raise Http404("no such scorer")


@router.writes("POST", "/batches/{pk}/score", JobShown, needs="chat", of=Batch, status=202)
def score(request: Request, pk: int) -> Any:
    """Score what has no score yet: the job that does."""
    return scoring.begin(fetch(request, _rows(), pk, "chat"), request.auth.user)


def _rows() -> QuerySet[Batch]:
    rows = Batch.objects.select_related("team", "created_by", "version__dataset")
    return rows.prefetch_related("columns__deployment")


def _whole(row: Batch) -> dict[str, Any]:
    columns = list(row.columns.select_related("deployment"))
    told = batch_report.progress(row, columns)
    for column in columns:
        column.progress = told[column.pk]  # type: ignore[attr-defined]
    return shapes.batch(row, columns)


def _wanted(request: Request, team: Team, given: BatchBegun) -> tuple[DatasetVersion, list[dict[str, Any]]]:
    """The rows and the columns that are meant, once requests may hold what is to be sent."""
    versions = DatasetVersion.objects.filter(dataset__team=team).select_related("dataset")
    version = versions.filter(pk=given.version).first()
    if version is None:
        raise Problem(422, "invalid", "The team has no such dataset version.", "version")
    for parameters in (given.parameters, *(one.parameters or {} for one in given.columns)):
        require_parameters(parameters)
    columns = [one.dict() | {"deployment": _deployment(request, team, one)} for one in given.columns]
    return version, columns


def _deployment(request: Request, team: Any, given: ColumnGiven) -> Deployment:
    rows = Deployment.objects.filter(team=team).exclude(desired=Deployment.Desired.DELETED)
    found = visible(request, rows, team).filter(pk=given.deployment).first()
    if found is None:
        raise Problem(422, "invalid", f"The team has no deployment {given.deployment}.", "columns")
    return found


def _prompt(request: Request, team: Team, given: BatchBegun) -> PromptVersion | None:
    if given.prompt_version is None:
        return None
    found = prompt_rows.of_team(team, request.auth.user, str(given.prompt_version))
    if found is None:
        raise Problem(422, "invalid", "The team has no such prompt version.", "prompt_version")
    return found


def _column(row: Batch, pk: int | None) -> BatchColumn:
    columns = row.columns.order_by("position", "pk")
    found = (columns if pk is None else columns.filter(pk=pk)).first()
    if found is None:
        raise Http404("no such column")
    return found


def _scores(row: Batch) -> list[dict[str, Any]]:
    columns = list(row.columns.order_by("position", "pk"))
    told = score_tables.sums(row, columns)
    return [
        {
            "place": place,
            "title": scorer.title,
            "kept": scorer.kept(),
            "columns": [_mean(column, told.get((place, column.pk), Sums())) for column in columns],
        }
        for place, scorer in scoring.scorers_of(row)
    ]


def _mean(column: BatchColumn, sums: Sums) -> dict[str, Any]:
    mean = score_report.mean(sums)
    told = {"mean": mean.value, "low": mean.low, "high": mean.high}
    return {"column": column.pk, **told, "scored": sums.n, "left": sums.left}


router.verbs(
    "/batches/{pk}",
    BatchShown,
    Batch,
    _rows,
    _whole,
    pause=Verb("chat", batches.pause, "Ask no more rows for now."),
    resume=Verb("chat", batches.resume, "Go on."),
    cancel=Verb("chat", batches.cancel, "Ask no more rows. What was answered stays."),
)
