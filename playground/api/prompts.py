"""The library of prompts: versions, saving on what one began from, differences, files."""

from datetime import datetime
from typing import Any, Literal

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import prompt_files, prompts
from playground.api.answers import Given
from playground.api.caller import Request, Where, Window, cut, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import Page, Row, person
from playground.models import Prompt, PromptVersion

router = Routes(tags=["prompts"])


class SaidGiven(Given):
    """What a version says."""

    messages: list[dict[str, Any]] = Field(max_length=1000, description="Any roles; {{variables}} in texts.")
    variables: list[dict[str, Any]] = Field(
        [], max_length=200, description='{"name", "type", "default", "description"} each.'
    )
    parameters: dict[str, Any] = Field({}, description="Sampling, response_format, tools.")
    note: str = Field("", max_length=1000, description="What changed, and why.")

    def said(self) -> prompts.Said:
        return prompts.Said(self.messages, self.variables, self.parameters)


class PromptGiven(SaidGiven):
    """A prompt and its first version."""

    name: str = Field(max_length=200)
    description: str = Field("", max_length=4000)
    tags: list[str] = Field([], max_length=50)


class VersionGiven(SaidGiven):
    """The version that follows `base`."""

    base: int = Field(ge=1, le=2**31 - 1, description="The number of the version it was begun from.")


class About(Given):
    """What is absent stays."""

    name: str | None = Field(None, max_length=200)
    description: str | None = Field(None, max_length=4000)
    tags: list[str] | None = Field(None, max_length=50)


class Restored(Given):
    """Which version to bring back, on which one."""

    number: int = Field(ge=1, le=2**31 - 1)
    base: int = Field(ge=1, le=2**31 - 1)


class Values(Given):
    """What its variables are given, by name."""

    variables: dict[str, Any] = {}


class Filled(Schema):
    """The messages with every variable filled in."""

    messages: list[dict[str, Any]]
    parameters: dict[str, Any]


class PromptShown(Row):
    """A prompt of the library."""

    name: str
    description: str
    tags: list[str]
    sharing: str = Field(description="What others of the team may do: edit, view, private.")
    head: int = Field(description="The newest version's number: the `base` to save on.")
    updated_at: datetime


class PromptVersionShown(Schema):
    """What it said from one save to the next."""

    id: int
    prompt: int
    number: int
    messages: list[dict[str, Any]]
    variables: list[dict[str, Any]]
    parameters: dict[str, Any]
    note: str
    restores: int | None
    created_by: str | None
    created_at: datetime

    @staticmethod
    def resolve_prompt(row: PromptVersion) -> int:
        return row.prompt_id

    @staticmethod
    def resolve_created_by(row: PromptVersion) -> str | None:
        return person(row.created_by)


class FileGiven(Given):
    """A file's name, which tells its format, and its text."""

    name: str = Field(max_length=255)
    text: str = Field(max_length=prompt_files.BYTES)


class FileShown(Schema):
    """A prompt as a file."""

    name: str
    text: str


class ImportedShown(Schema):
    """What came of a file: "made", "saved", "changed" or "same"."""

    what: str
    prompt: PromptShown


@router.reads("/prompts", Page[PromptShown])
def listing(request: Request, window: Query[Window], text: str = "", tag: str = "") -> Any:
    """The team's prompts, newest first."""
    team = team_of(request, window)
    keys = prompts.find(team, text, tag).values("pk")
    return paged(visible(request, _rows().filter(pk__in=keys), team), window)


@router.writes("POST", "/prompts", PromptShown, needs="chat", status=201)
def create(request: Request, where: Query[Where], given: PromptGiven) -> Any:
    """A prompt with its first version."""
    team = team_of(request, where, "chat")
    about = given.dict(include={"description", "tags", "note"})
    return prompts.create(team, request.auth.user, given.name, given.said(), **about)


@router.writes("POST", "/prompts/import", ImportedShown, needs="chat")
def import_file(request: Request, where: Query[Where], given: FileGiven) -> Any:
    """A file's prompt: made, saved as a new version where it says something else, or left as it is."""
    team = team_of(request, where, "chat")
    told = prompt_files.read(given.text.encode(), given.name)
    done = prompt_files.keep(team, request.auth.user, told)
    return {"what": done.what, "prompt": _rows().get(pk=done.prompt.pk)}


@router.reads("/prompts/{pk}", PromptShown, of=Prompt)
def read(request: Request, pk: int) -> Any:
    """One prompt."""
    return fetch(request, _rows(), pk)


@router.writes("PATCH", "/prompts/{pk}", PromptShown, needs="chat", of=Prompt)
def change(request: Request, pk: int, given: About) -> Any:
    """Its name, description and tags."""
    row = fetch(request, _rows(), pk, "chat")
    kept = {"name": row.name, "description": row.description, "tags": row.tags}
    wanted = {name: value for name, value in given.dict().items() if value is not None}
    prompts.change(row, request.auth.user, **kept | wanted)
    return _rows().get(pk=pk)


@router.writes("DELETE", "/prompts/{pk}", None, needs="chat", of=Prompt)
def delete(request: Request, pk: int) -> Any:
    """With every version, unless a release or a batch names one."""
    prompts.delete(fetch(request, _rows(), pk, "chat"), request.auth.user)


@router.reads("/prompts/{pk}/versions", Page[PromptVersionShown], of=Prompt)
def versions(request: Request, pk: int, window: Query[Window]) -> Any:
    """Its versions, newest first; `after` is a number."""
    row = fetch(request, _rows(), pk)
    found = row.versions.select_related("created_by").order_by("-number")
    found = found.filter(number__lt=window.after) if window.after else found
    return cut(list(found[: window.limit + 1]), window, key="number")


@router.reads("/prompts/{pk}/versions/{number}", PromptVersionShown, of=Prompt)
def version(request: Request, pk: int, number: int) -> Any:
    """One version."""
    return _version(fetch(request, _rows(), pk), number)


@router.writes("POST", "/prompts/{pk}/versions", PromptVersionShown, needs="chat", of=Prompt, status=201)
def save(request: Request, pk: int, given: VersionGiven) -> Any:
    """The version after `base`. 409 where somebody saved since: read theirs, and save on that."""
    row = fetch(request, _rows(), pk, "chat")
    return prompts.save(row, request.auth.user, given.said(), base=given.base, note=given.note)


@router.writes("POST", "/prompts/{pk}/restore", PromptVersionShown, needs="chat", of=Prompt, status=201)
def restore(request: Request, pk: int, given: Restored) -> Any:
    """An earlier version as the newest one."""
    row = fetch(request, _rows(), pk, "chat")
    _version(row, given.number)
    return prompts.restore(row, request.auth.user, given.number, base=given.base)


@router.writes("POST", "/prompts/{pk}/versions/{number}/fill", Filled, needs="view", of=Prompt)
def fill(request: Request, pk: int, number: int, given: Values) -> Any:
    """Its messages with variables filled in. Changes nothing."""
    found = _version(fetch(request, _rows(), pk), number)
    return {"messages": prompts.filled(found, given.variables), "parameters": found.parameters}


@router.reads("/prompts/{pk}/file", FileShown, of=Prompt)
def export(request: Request, pk: int, format: Literal["yaml", "json"] = "yaml", every: bool = False) -> Any:
    """As a file for git: what the newest version says, or with `every` what each said."""
    row = fetch(request, _rows(), pk)
    found = list(row.versions.select_related("created_by").order_by("-number"))
    told = prompt_files.document(row, found, every=every)
    return {"name": prompt_files.filename(row, format), "text": prompt_files.write(told, format)}


def _rows() -> QuerySet[Prompt]:
    return Prompt.objects.select_related("team", "created_by")


def _version(row: Prompt, number: int) -> PromptVersion:
    found = row.versions.select_related("created_by", "prompt").filter(number=number).first()
    if found is None:
        raise Http404("no such version")
    return found
