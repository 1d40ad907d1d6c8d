"""Models of a team's own: files sent in pieces, as the page sends them, and folders of a bucket.

A script names each file (`begin`), sends it in pieces from where it is, and asks for the end (`finish`). That
job judges the whole and makes it a model. After a break a script begins anew, and goes on where the file is.
"""

from datetime import datetime
from typing import Any

from ninja import Query, Schema
from pydantic import Field

from playground import imports, landing, uploads
from playground.api.answers import Given, Problem
from playground.api.caller import Request, Where, fetch, team_of
from playground.api.routes import BYTES, Routes, piece_of
from playground.api.shapes import JobShown
from playground.models import Job, Upload

router = Routes(tags=["own models"])
SHA256 = "^([0-9a-f]{64})?$"


class UploadGiven(Given):
    """One file of a model."""

    name: str = Field(max_length=200, description="What the model will be called: one folder's name.")
    path: str = Field(max_length=200, description="Where the file is in it: config.json.")
    size_bytes: int = Field(ge=0, le=uploads.MAX_SIZE)
    sha256: str = Field("", pattern=SHA256, description="Of the whole file; given, it is checked at the end.")


class UploadShown(Schema):
    """How far a file is; `received_bytes` is where the next piece begins."""

    id: int
    name: str
    path: str
    size_bytes: int
    received_bytes: int
    sha256: str
    updated_at: datetime


class UploadBegun(UploadShown):
    """With the end of what came, by which a script knows that it goes on with the same file."""

    tail_bytes: int = Field(description="So many of the last bytes received …")
    tail_sha256: str = Field(description="… have this SHA-256; empty while there are none.")


class Piece(Schema):
    """Where the piece belongs."""

    offset: int = Field(ge=0, le=uploads.MAX_SIZE, description="The file's received_bytes.")
    sha256: str = Field("", pattern=SHA256, description="Of the piece: one that was damaged is refused.")


class ModelNamed(Given):
    """Which model's files."""

    name: str = Field(max_length=200)


class Coming(Schema):
    """One model on its way."""

    name: str
    size_bytes: int
    received_bytes: int
    complete: bool = Field(description="All that was begun is here; `finish` may be asked.")
    problem: str = Field(description="Why the last check failed.")
    files: list[UploadShown]
    job: JobShown | None


class BucketGiven(Given):
    """A folder, or one GGUF file, of a bucket."""

    address: str = Field(max_length=1000, description="s3://bucket/folder/of/the-model")
    name: str = Field("", max_length=200, description="Absent: as the folder is called.")


@router.reads("/uploads", list[Coming])
def listing(request: Request, where: Query[Where]) -> Any:
    """What is on its way to the team, oldest first. What nobody goes on with is forgotten after two weeks."""
    return [_coming(one) for one in uploads.coming(team_of(request, where))]


@router.writes("POST", "/uploads", UploadBegun, needs="add models")
def begin(request: Request, where: Query[Where], given: UploadGiven) -> Any:
    """One file of a model, new or as far as it is. A file that no model needs is refused as `left_out`."""
    team = team_of(request, where, "add models")
    name = given.name.strip()
    return _begun(uploads.begin(team, request.auth.user, name, given.path, given.size_bytes, given.sha256))


@router.writes("POST", "/uploads/finish", JobShown, needs="add models", status=202)
def finish(request: Request, where: Query[Where], given: ModelNamed) -> Any:
    """Have it judged and put among the models: the job, whose result names the model."""
    team = team_of(request, where, "add models")
    return uploads.finish(team, request.auth.user, given.name.strip())


@router.writes("POST", "/uploads/remove", None, needs="add models")
def remove(request: Request, where: Query[Where], given: ModelNamed) -> Any:
    """Throw away what came of one model so far, and end its check."""
    team = team_of(request, where, "add models")
    if not uploads.remove(team, request.auth.user, given.name):
        raise Problem(422, "invalid", "No upload is called that.", "name")


@router.reads("/uploads/{pk}", UploadBegun, of=Upload)
def read(request: Request, pk: int) -> Any:
    """How far one file is."""
    return _begun(fetch(request, _rows(), pk))


@router.writes("PUT", "/uploads/{pk}", UploadShown, needs="add models", of=Upload, takes=BYTES)
def piece(request: Request, pk: int, at: Query[Piece]) -> Any:
    """Add the next piece: the body is its bytes, at most 8 MiB. 409 where the file goes on elsewhere."""
    row = fetch(request, _rows(), pk, "add models")
    uploads.write(row, at.offset, piece_of(request, uploads.PIECE), at.sha256)
    return _rows().get(pk=row.pk)


@router.reads("/imports", list[JobShown])
def imports_list(request: Request, where: Query[Where]) -> Any:
    """Imports from buckets that run, or failed and left something."""
    return landing.imports(team_of(request, where))


@router.writes("POST", "/imports", JobShown, needs="add models", status=202)
def import_begin(request: Request, where: Query[Where], given: BucketGiven) -> Any:
    """Fetch a model from a bucket, with the team's credentials: the job. Asked again it goes on."""
    team = team_of(request, where, "add models")
    return imports.request(team, request.auth.user, given.address, given.name)


@router.writes("DELETE", "/imports/{pk}", None, needs="add models", of=Job)
def import_stop(request: Request, pk: int) -> Any:
    """Cancel one that runs, or throw away what a failed one left."""
    rows = Job.objects.filter(kind=Job.Kind.IMPORT_MODEL).select_related("team")
    landing.give_up(fetch(request, rows, pk, "add models"), request.auth.user)


def _rows() -> Any:
    return Upload.objects.select_related("team", "created_by")


def _begun(row: Upload) -> dict[str, Any]:
    amount, digest = uploads.tail(row)
    return {**_file(row), "tail_bytes": amount, "tail_sha256": digest}


def _file(row: Upload) -> dict[str, Any]:
    return {name: getattr(row, name) for name in UploadShown.model_fields}


def _coming(one: uploads.Coming) -> dict[str, Any]:
    return {
        "name": one.name,
        "size_bytes": one.size,
        "received_bytes": one.received,
        "complete": one.is_complete,
        "problem": one.trouble,
        "files": [_file(row) for row in one.files],
        "job": one.job,
    }
