"""The management API's requests of an endpoint: figures of all, texts of those kept, what becomes of them."""

from datetime import datetime
from typing import Any, Literal

from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from endpoints import logged, requests
from endpoints.api import EndpointShown, endpoint_of
from endpoints.models import Endpoint, LoggedRequest, Usage
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Where, Window, fetch, paged, visible
from playground.api.routes import Routes
from playground.api.shapes import Page, VersionShown
from playground.models import Dataset

router = Routes(tags=["endpoints and keys"])
REFUSED: dict[type[Exception], int] = {logged.LoggedRefused: 422}
MOST = 500


class Chosen(Window):
    """Which of them."""

    status: Literal["ok", "errors", "left"] | None = Field(None, description="left: the client hung up.")
    key: int | None = Field(None, ge=1, le=BIGGEST, description="An API key's id.")
    slower_ms: float | None = Field(
        None, ge=0, le=1e9, description="To the first token; of a whole answer to its end."
    )
    id: str = Field("", max_length=128, description="Ours, or the client's x-request-id.")


class RequestShown(Schema):
    """One request of /v1: what it took. Times in milliseconds, cost in dollars."""

    id: int
    request_id: str
    client_id: str
    at: datetime
    key: int | None
    key_name: str
    release: int | None = Field(description="Its number.")
    adapter: str
    model: str
    engine: str
    route: str
    status: int
    code: str
    stream: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    ttft_ms: float | None
    e2e_ms: float
    cost: float | None
    kept: bool = Field(description="What was asked and answered can be read.")

    @staticmethod
    def resolve_key(row: Usage) -> int | None:
        return row.key_id

    @staticmethod
    def resolve_release(row: Usage) -> int | None:
        return row.release.number if row.release else None


class RequestKept(RequestShown):
    """With what was asked and answered."""

    request: Any
    answer: Any
    cut: bool = Field(description="It was longer than what is kept.")


class Logging(Given):
    """Of how many requests what is asked and answered is kept."""

    share: float = Field(ge=0, le=1)
    days: int = Field(ge=1, le=logged.MOST_DAYS)


class RequestsAdded(Given):
    """Which requests of which endpoint."""

    endpoint: str = Field(max_length=80)
    requests: list[int] = Field(min_length=1, max_length=MOST)
    answers: bool = Field(True, description="What was answered counts as right.")


class RequestOpened(Schema):
    """The conversation that a request became, and what it cannot hold of it."""

    conversation: int
    left_out: list[str]


@router.reads("/endpoints/{name}/requests", Page[RequestShown], of=Endpoint)
def listing(request: Request, name: str, window: Query[Chosen]) -> Any:
    """Its requests, newest first."""
    row = endpoint_of(request, name, window)
    found = requests.chosen(
        row, status=window.status or "", key=window.key, slower_ms=window.slower_ms, name=window.id.strip()
    )
    return paged(found, window)


@router.reads("/endpoints/{name}/requests/{usage}", RequestKept, needs="chat", of=Endpoint)
def read(request: Request, name: str, usage: int, where: Query[Where]) -> Any:
    """What was asked and answered in one. For members: it is what somebody wrote."""
    endpoint = endpoint_of(request, name, where, "chat")
    row = _kept(endpoint, usage)
    shown = requests.chosen(endpoint).get(pk=usage)
    shown.request, shown.answer, shown.cut = row.request, row.answer, row.cut
    return shown


@router.writes(
    "POST",
    "/endpoints/{name}/requests/{usage}/open",
    RequestOpened,
    needs="chat",
    of=Endpoint,
    status=201,
)
def open_one(request: Request, name: str, usage: int, where: Query[Where]) -> Any:
    """A conversation that begins as this request did."""
    endpoint = endpoint_of(request, name, where, "chat")
    made = logged.open_in_playground(_kept(endpoint, usage), request.auth.user)
    return {"conversation": made.conversation.pk, "left_out": made.left_out}


@router.writes("PUT", "/endpoints/{name}/log", EndpointShown, needs="promote", of=Endpoint)
def set_log(request: Request, name: str, where: Query[Where], given: Logging) -> Any:
    """Keep what is asked and answered, of a share (0 to 1) of the requests from now on, or of none."""
    row = endpoint_of(request, name, where, "promote")
    logged.set_log(row, request.auth.user, given.share, given.days)
    return row


@router.writes("POST", "/datasets/{pk}/requests", VersionShown, needs="chat", of=Dataset, status=201)
def add(request: Request, pk: int, given: RequestsAdded) -> Any:
    """A version with requests of an endpoint of its team as further rows."""
    target = fetch(request, Dataset.objects.select_related("team"), pk, "chat")
    rows = visible(request, Endpoint.objects.select_related("team"), target.team)
    endpoint = rows.filter(name=given.endpoint).first()
    if endpoint is None:
        raise Problem(422, "invalid", "The team has no endpoint of that name.", "endpoint")
    return requests.add_to(target, request.auth.user, endpoint, given.requests, answers=given.answers)


def _kept(endpoint: Endpoint, usage: int) -> LoggedRequest:
    found = requests.one(endpoint, usage)
    if found is None:
        raise Http404("no such request, or it is not kept any more")
    return found
