"""Datasets: their versions and rows, and adding a version from text."""

import tempfile
from pathlib import Path
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import arriving, collecting, datasets, thread
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Where, Window, cut, fetch, paged, team_of, visible
from playground.api.routes import BYTES, Routes, piece_of
from playground.api.shapes import DatasetRowShown, DatasetShown, Page, VersionShown
from playground.arriving import Arriving
from playground.models import Conversation, Dataset, DatasetRow, DatasetVersion, Team

router = Routes(tags=["datasets"])
TEXT = 3_500_000


class Named(Given):
    """A dataset without versions."""

    name: str = Field(max_length=200)


class FileNamed(Given):
    """A file that will come in pieces."""

    name: str = Field(max_length=255)
    size_bytes: int = Field(ge=0, le=2**50)


class FileComing(Schema):
    """How far it is; `received_bytes` is where the next piece begins. It is kept for a day."""

    file: str = Field(description="What /datasets/{pk}/versions calls it.")
    name: str
    size_bytes: int
    received_bytes: int


class Place(Schema):
    """Where the piece belongs."""

    offset: int = Field(ge=0, le=2**50, description="The file's received_bytes.")


class Told(Given):
    """A file's text, or a file that came in pieces."""

    source: str = Field("", max_length=255, description="The text's name: rows.jsonl, rows.csv.")
    text: str | None = Field(None, max_length=TEXT)
    file: str = Field("", max_length=64, description="In place of a text: of /datasets/files.")
    kind: str | None = Field(None, max_length=16, description="Absent: what it looks like.")
    template: list[dict[str, Any]] | None = Field(
        None, max_length=50, description="Of a table: messages with {{column}} in them."
    )
    expected: str = Field("", max_length=120, description="A table's column of right answers.")
    identity: str = Field("", max_length=120, description="A table's column of custom ids.")
    skip_bad: bool = Field(True, description="Leave out lines that cannot be used; else refuse the file.")


class Said(Given):
    """What was said in a conversation."""

    conversation: int = Field(ge=1, le=BIGGEST)
    message: int | None = Field(
        None, ge=1, le=BIGGEST, description="One of the branch; absent: the newest branch."
    )
    answers: bool = Field(True, description="The answers are what is expected.")


@router.writes("POST", "/datasets/files", FileComing, needs="chat", status=201)
def file_begin(request: Request, where: Query[Where], given: FileNamed) -> Any:
    """Room for a file of up to 200 MB that comes in pieces."""
    return _coming(arriving.begin(team_of(request, where, "chat"), given.name, given.size_bytes))


@router.writes("PUT", "/datasets/files/{key}", FileComing, needs="chat", takes=BYTES)
def file_piece(request: Request, key: str, where: Query[Where], at: Query[Place]) -> Any:
    """Add the next piece: the body is its bytes, at most 8 MiB. 409 where the file goes on elsewhere."""
    found = _file(team_of(request, where, "chat"), key)
    arriving.write(found, at.offset, piece_of(request, arriving.PIECE))
    return _coming(found)


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
    """Read JSON lines, CSV, TSV or Parquet into the next version. A file that was read is forgotten."""
    row = fetch(request, _rows(), pk, "chat")
    if (given.text is None) == (not given.file):
        raise Problem(422, "invalid", "Give either a text or a file.", "text")
    if given.text is not None:
        with tempfile.NamedTemporaryFile(suffix=".upload") as file:
            path = Path(file.name)
            path.write_text(given.text, newline="")
            return _add(request, row, given, path, given.source)
    found = _file(row.team, given.file)
    if not found.is_whole:
        raise Problem(409, "conflict", f"{found.name} goes on at byte {found.received}.", "file")
    made = _add(request, row, given, found.path, given.source or found.name)
    arriving.remove(found)
    return made


@router.writes("POST", "/datasets/{pk}/conversation", VersionShown, needs="chat", of=Dataset, status=201)
def add_conversation(request: Request, pk: int, given: Said) -> Any:
    """The next version: with what a conversation's messages ask added."""
    row = fetch(request, _rows(), pk, "chat")
    talks = Conversation.objects.filter(team=row.team).select_related("team")
    talk = fetch(request, talks, given.conversation)
    point = None if given.message is None else thread.Point(given.message)
    return collecting.add_conversation(row, request.auth.user, talk, point, answers=given.answers)


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


def _add(request: Request, row: Dataset, given: Told, path: Path, source: str) -> DatasetVersion:
    return datasets.add_version(
        row,
        request.auth.user,
        path,
        source,
        given.kind,
        given.template,
        expected=given.expected,
        identity=given.identity,
        skip_bad=given.skip_bad,
    )


def _file(team: Team, key: str) -> Arriving:
    found = arriving.find(team, key)
    if found is None:
        raise Problem(409, "conflict", "The file is not here any more: begin it again.", "file")
    return found


def _coming(file: Arriving) -> dict[str, Any]:
    told = {"file": file.key, "name": file.name, "size_bytes": file.size}
    return told | {"received_bytes": file.received}


def _version(row: Dataset, number: int) -> DatasetVersion:
    found = row.versions.select_related("dataset__team").filter(number=number).first()
    if found is None:
        raise Http404("no such version")
    return found
