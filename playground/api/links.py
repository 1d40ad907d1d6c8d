"""Public links of conversations, prompts and batches: which hold, making one, taking one back."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.urls import reverse
from django.utils import timezone
from ninja import Schema
from pydantic import Field

from playground import links, sharing_rules
from playground.api.answers import Given, Problem
from playground.api.caller import Request, fetch
from playground.api.routes import Routes
from playground.api.shapes import person
from playground.models import Batch, Conversation, Prompt, ShareLink

router = Routes(tags=["sharing"])


def refused(problem: links.LinkRefused) -> int:
    """Of what is wrong in the input, or of too many links."""
    return 422 if problem.field else 409


REFUSED: dict[type[Exception], Callable[[Any], int]] = {links.LinkRefused: refused}


class LinkGiven(Given):
    """For how long."""

    days: int = Field(7, ge=1, le=links.MOST_DAYS)


class PromptLinkGiven(LinkGiven):
    """And of which version."""

    version: int | None = Field(None, ge=1, le=2**31 - 1, description="Absent: the newest of each day.")


class LinkShown(Schema):
    """Whoever has its address reads what it is of, without signing in."""

    id: int
    kind: str
    object: int = Field(description="The conversation's, prompt's or batch's id.")
    version: int | None
    url: str
    opened: int = Field(description="How often.")
    created_by: str | None
    created_at: datetime
    expires_at: datetime


class LinksShown(Schema):
    """Those that hold, newest first. Only their number for whoever may not make them."""

    holding: int
    may_share: bool
    links: list[LinkShown]


@router.reads("/conversations/{pk}/links", LinksShown, of=Conversation)
def of_conversation(request: Request, pk: int) -> Any:
    """Public links of a conversation."""
    return _held(request, Conversation, pk)


@router.reads("/prompts/{pk}/links", LinksShown, of=Prompt)
def of_prompt(request: Request, pk: int) -> Any:
    """Public links of a prompt."""
    return _held(request, Prompt, pk)


@router.reads("/batches/{pk}/links", LinksShown, of=Batch)
def of_batch(request: Request, pk: int) -> Any:
    """Public links of a batch."""
    return _held(request, Batch, pk)


@router.writes("POST", "/conversations/{pk}/links", LinkShown, needs="chat", of=Conversation, status=201)
def make_for_conversation(request: Request, pk: int, given: LinkGiven) -> Any:
    """A new public link. For the conversation's owner, and the team's administrators."""
    return _made(request, Conversation, pk, given)


@router.writes("POST", "/prompts/{pk}/links", LinkShown, needs="chat", of=Prompt, status=201)
def make_for_prompt(request: Request, pk: int, given: PromptLinkGiven) -> Any:
    """A new public link. For the prompt's owner, and the team's administrators."""
    return _made(request, Prompt, pk, given, given.version)


@router.writes("POST", "/batches/{pk}/links", LinkShown, needs="chat", of=Batch, status=201)
def make_for_batch(request: Request, pk: int, given: LinkGiven) -> Any:
    """A new public link. For the batch's owner, and the team's administrators."""
    return _made(request, Batch, pk, given)


@router.writes("DELETE", "/links/{pk}", None, needs="chat", of=ShareLink)
def revoke(request: Request, pk: int) -> Any:
    """From now on it opens nothing."""
    row = fetch(request, ShareLink.objects.select_related("team"), pk)
    fetch(request, _rows(links.MODELS[row.kind]), row.object_id)
    if not links.revoke(row, request.auth.user):
        raise Problem(409, "conflict", "It was taken back before.")


def _rows(kind: Any) -> Any:
    return kind._default_manager.select_related("team", "created_by")


def _held(request: Request, kind: Any, pk: int) -> dict[str, Any]:
    thing = fetch(request, _rows(kind), pk)
    held, may = links.of(thing), sharing_rules.may_share(request.auth.user, thing)
    return {
        "holding": len(held),
        "may_share": may,
        "links": [_link(request, one) for one in held] if may else [],
    }


def _made(request: Request, kind: Any, pk: int, given: LinkGiven, version: int | None = None) -> Any:
    thing = fetch(request, _rows(kind), pk)
    until = timezone.now() + timedelta(days=given.days)
    return _link(request, links.make(thing, request.auth.user, until, version))


def _link(request: Request, row: ShareLink) -> dict[str, Any]:
    names = ("id", "kind", "version", "opened", "created_at", "expires_at")
    told = {name: getattr(row, name) for name in names} | {"object": row.object_id}
    address = request.build_absolute_uri(reverse("shared", args=[links.token(row)]))
    return told | {"url": address, "created_by": person(row.created_by)}
