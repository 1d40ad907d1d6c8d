"""The columns of a conversation: who answers beside whom, with which settings; and forks of it."""

from typing import Any

from django.http import Http404
from pydantic import Field

from playground import comparison, conversations, forks, thread
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, fetch
from playground.api.conversations import require_parameters, writable
from playground.api.conversations import rows as conversation_rows
from playground.api.routes import Routes
from playground.api.shapes import ConversationShown
from playground.models import Column, Conversation, Deployment, Team

router = Routes(tags=["conversations"])
REFUSED: dict[type[Exception], int] = {comparison.ComparisonRefused: 409, forks.ForkRefused: 409}


class ColumnAdded(Given):
    """Who answers in it; absent: what runs and answers in none yet."""

    deployment: int | None = Field(None, ge=1, le=BIGGEST)
    adapter: str = Field("", max_length=100)


class ColumnChange(Given):
    """What is absent stays. Null settings: the conversation's."""

    deployment: int | None = Field(None, ge=1, le=BIGGEST)
    adapter: str | None = Field(None, max_length=100, description="Empty: the model itself.")
    system_prompt: str | None = Field(None, max_length=conversations.PROMPT)
    parameters: dict[str, Any] | None = None
    place: int | None = Field(None, ge=1, le=comparison.MOST, description="Where it stands, from the left.")


class Fork(Given):
    """Up to and with which message; absent: all that the conversation shows."""

    upto: int | None = Field(None, ge=1, le=BIGGEST)


@router.writes(
    "POST", "/conversations/{pk}/columns", ConversationShown, needs="chat", of=Conversation, status=201
)
def add(request: Request, pk: int, given: ColumnAdded) -> Any:
    """One more column at the end."""
    row = writable(request, pk)
    chosen = given.deployment and _deployment(request, row.team, given.deployment)
    comparison.add(row, chosen or None, given.adapter)
    return conversation_rows().get(pk=pk)


@router.writes("PATCH", "/columns/{pk}", ConversationShown, needs="chat", of=Column)
def change(request: Request, pk: int, given: ColumnChange) -> Any:
    """Who answers in a column, its own settings and its place, from the next message on."""
    row = _column(request, pk)
    require_parameters(given.parameters or {})
    _choose(request, row, given)
    own = given.dict(include=given.model_fields_set & {"system_prompt", "parameters"})
    if own:
        kept = {"system_prompt": row.system_prompt, "parameters": row.parameters}
        comparison.configure(row, **kept | own)
    if given.place is not None:
        there = [one.pk for one in comparison.shown(row.conversation)]
        comparison.move(row, given.place - 1 - there.index(row.pk))
    return conversation_rows().get(pk=row.conversation_id)


@router.writes("DELETE", "/columns/{pk}", None, needs="chat", of=Column)
def close(request: Request, pk: int) -> Any:
    """Take a column away. What it answered stays with the conversation."""
    comparison.close(_column(request, pk))


@router.writes(
    "POST", "/conversations/{pk}/fork", ConversationShown, needs="chat", of=Conversation, status=201
)
def fork(request: Request, pk: int, given: Fork) -> Any:
    """The branch that the conversation shows, as one's own."""
    row = fetch(request, conversation_rows(), pk)
    made = forks.fork(row, request.auth.user, thread.show(row), given.upto)
    return conversation_rows().get(pk=made.pk)


def _column(request: Request, pk: int) -> Column:
    row = Column.objects.select_related("deployment").filter(pk=pk, closed=False).first()
    if row is None:
        raise Http404("no such column")
    row.conversation = writable(request, row.conversation_id)
    return row


def _choose(request: Request, row: Column, given: ColumnChange) -> None:
    """Another deployment is asked without an adapter unless one is named."""
    if given.deployment is not None:
        chosen = _deployment(request, row.conversation.team, given.deployment)
        conversations.choose(row, chosen, given.adapter or "")
    elif given.adapter is not None:
        if row.deployment is None:
            raise Problem(422, "invalid", "No model is chosen in this column.", "adapter")
        conversations.choose(row, row.deployment, given.adapter)


def _deployment(request: Request, team: Team, pk: int) -> Deployment:
    """One of the conversation's team."""
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("model")
    found = request.auth.within(rows).filter(pk=pk, team=team).first()
    if found is None:
        raise Problem(422, "invalid", f"The team has no deployment {pk}.", "deployment")
    return found
