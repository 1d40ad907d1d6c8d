"""Datasets: their versions and rows, and adding a version from text."""

import tempfile
from pathlib import Path
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query
from pydantic import Field

from playground import datasets
from playground.api.answers import Given
from playground.api.caller import Request, Where, Window, cut, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import DatasetRowShown, DatasetShown, Page, VersionShown
from playground.models import Dataset, DatasetRow, DatasetVersion

router = Routes(tags=["datasets"])
TEXT = 3_500_000


class Named(Given):
    """A dataset without versions."""

    name: str = Field(max_length=200)


class Told(Given):
    """A file's text. Larger files: the Datasets page takes them in pieces."""

    source: str = Field(max_length=255, description="The file's name: rows.jsonl, rows.csv.")
    text: str = Field(max_length=TEXT)
    kind: str | None = Field(None, max_length=16, description="Absent: what it looks like.")
    template: list[dict[str, Any]] | None = Field(
        None, max_length=50, description="Of a table: messages with {{column}} in them."
    )
    expected: str = Field("", max_length=120, description="A table's column of right answers.")
    identity: str = Field("", max_length=120, description="A table's column of custom ids.")
    skip_bad: bool = Field(True, description="Leave out lines that cannot be used; else refuse the file.")


@router.reads("/datasets", Page[DatasetShown])
def listing(request: Request, window: Query[Window]) -> Any:
    """The team's datasets, newest first."""
    return paged(visible(request, _rows(), team_of(request, window)), window)


@router.reads("/datasets/{pk}", DatasetShown, of=Dataset)
def read(request: Request, pk: int) -> Any:
    """One dataset and its versions."""
    return fetch(request, _rows(), pk)


@router.writes("POST", "/datasets", DatasetShown, needs="chat", status=201)
def create(request: Request, where: Query[Where], given: Named) -> Any:
    """A new one, still without rows."""
    team = team_of(request, where, "chat")
    return _rows().get(pk=datasets.create(team, request.auth.user, given.name).pk)


@router.writes("POST", "/datasets/{pk}/versions", VersionShown, needs="chat", of=Dataset, status=201)
def add_version(request: Request, pk: int, given: Told) -> Any:
    """Read JSON lines, CSV or TSV into the next version."""
    row = fetch(request, _rows(), pk, "chat")
    user = request.auth.user
    with tempfile.NamedTemporaryFile(suffix=".upload") as file:
        path = Path(file.name)
        path.write_text(given.text, newline="")
        told = {"expected": given.expected, "identity": given.identity, "skip_bad": given.skip_bad}
        template = given.template
        return datasets.add_version(row, user, path, given.source, given.kind, template, **told)  # type: ignore[arg-type]


@router.writes("DELETE", "/datasets/{pk}", None, needs="chat", of=Dataset)
def delete(request: Request, pk: int) -> Any:
    """With all its versions, unless a batch stands on one."""
    datasets.remove(fetch(request, _rows(), pk, "chat"), request.auth.user)


@router.writes("DELETE", "/datasets/{pk}/versions/{number}", None, needs="chat", of=Dataset)
def delete_version(request: Request, pk: int, number: int) -> Any:
    """One version, unless a batch stands on it."""
    row = fetch(request, _rows(), pk, "chat")
    datasets.remove_version(_version(row, number), request.auth.user)


@router.reads("/datasets/{pk}/versions/{number}/rows", Page[DatasetRowShown], of=Dataset)
def rows(request: Request, pk: int, number: int, window: Query[Window]) -> Any:
    """Its rows in the file's order; `after` is a row's number."""
    version = _version(fetch(request, _rows(), pk), number)
    found = DatasetRow.objects.filter(version=version).order_by("number")
    found = found.filter(number__gt=window.after) if window.after else found
    return cut(list(found[: window.limit + 1]), window, key="number")


def _rows() -> QuerySet[Dataset]:
    return Dataset.objects.select_related("team", "created_by").prefetch_related("versions")


def _version(row: Dataset, number: int) -> DatasetVersion:
    found = row.versions.select_related("dataset__team").filter(number=number).first()
    if found is None:
        raise Http404("no such version")
    return found
