"""Conversations: beginning one, reading it, sending and reading answers."""

import uuid
from typing import Any

from asgiref.sync import async_to_sync
from django.db.models import Prefetch, QuerySet
from django.http import Http404
from ninja import Query
from pydantic import Field

from playground import conversations, generation, policy, sharing_rules, votes
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Window, cut, fetch, paged, team_of, visible
from playground.api.routes import Routes
from playground.api.shapes import AnswerShown, ConversationShown, MessageShown, Page
from playground.models import Column, Conversation, Deployment, Generation, Turn, User

router = Routes(tags=["conversations"])


class ConversationBegun(Given):
    """Who answers, and what it is called."""

    deployment: int = Field(ge=1, le=BIGGEST)
    title: str = Field("", max_length=200)
    system_prompt: str = Field("", max_length=conversations.PROMPT)
    parameters: dict[str, Any] = Field({}, description="As a request of /v1 has them: temperature, seed, …")


class ConversationChange(Given):
    """What is absent stays."""

    title: str | None = Field(None, max_length=200)
    system_prompt: str | None = Field(None, max_length=conversations.PROMPT)
    parameters: dict[str, Any] | None = None


class MessageGiven(Given):
    """What to say."""

    text: str = Field(max_length=generation.CHARACTERS)
    after: int | None = Field(
        None, ge=1, le=BIGGEST, description="The message it follows; absent: the newest."
    )
    query: str | None = Field(None, max_length=generation.CHARACTERS, description="Of a rerank.")
    once: str = Field("", max_length=generation.CLIENT_ID, description="Sent twice with the same, it is one.")


@router.reads("/conversations", Page[ConversationShown])
def listing(request: Request, window: Query[Window], text: str = "") -> Any:
    """The team's conversations, newest first; `text` searches in names and messages."""
    team = team_of(request, window)
    keys = conversations.find(team, text).values("pk")
    return paged(visible(request, rows().filter(pk__in=keys), team), window)


@router.reads("/conversations/{pk}", ConversationShown, of=Conversation)
def read(request: Request, pk: int) -> Any:
    """One conversation, without its messages."""
    return fetch(request, rows(), pk)


@router.writes("POST", "/conversations", ConversationShown, needs="chat", of=Deployment, status=201)
def begin(request: Request, given: ConversationBegun) -> Any:
    """Begin one with a deployment of your teams."""
    running = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("team", "model")
    deployment = fetch(request, running, given.deployment, "chat")
    require_parameters(given.parameters)
    row = conversations.begin(deployment.team, request.auth.user, deployment)
    named = ConversationChange(
        title=given.title or None, system_prompt=given.system_prompt, parameters=given.parameters
    )
    _set(row, named, request.auth.user)
    return rows().get(pk=row.pk)


@router.writes("PATCH", "/conversations/{pk}", ConversationShown, needs="chat", of=Conversation)
def change(request: Request, pk: int, given: ConversationChange) -> Any:
    """Its name, system prompt and parameters, from the next message on."""
    row = writable(request, pk)
    require_parameters(given.parameters or {})
    _set(row, given, request.auth.user)
    return rows().get(pk=pk)


@router.writes("DELETE", "/conversations/{pk}", None, needs="chat", of=Conversation)
def delete(request: Request, pk: int) -> Any:
    """With every message."""
    conversations.delete(writable(request, pk), request.auth.user)


@router.reads("/conversations/{pk}/messages", Page[MessageShown], of=Conversation)
def messages(request: Request, pk: int, window: Query[Window]) -> Any:
    """Its messages with their answers, newest first, all branches."""
    row = fetch(request, rows(), pk)
    turns = row.turns.select_related("created_by").order_by("-pk").prefetch_related(_answers())
    turns = turns.filter(pk__lt=window.after) if window.after else turns
    found = list(turns[: window.limit + 1])
    hidden = votes.hidden_of(row, found, request.auth.user)
    return cut(found, window) | {"items": [_message(turn, hidden) for turn in found[: window.limit]]}


@router.writes(
    "POST", "/conversations/{pk}/messages", MessageShown, needs="chat", of=Conversation, status=201
)
def send(request: Request, pk: int, given: MessageGiven) -> Any:
    """Say something; every running column answers. Read the answers until none is pending or streaming."""
    row = writable(request, pk)
    parent = row.turns.order_by("-pk").first() if given.after is None else _turn(row, given.after)
    inputs = {} if given.query is None else {"query": given.query}
    once = given.once or uuid.uuid4().hex
    turn = generation.send(row, given.text, once, request.auth.user, parent, [], inputs)
    return message_shown(turn.pk, request.auth.user)


@router.reads("/answers/{pk}", AnswerShown, of=Generation)
def answer(request: Request, pk: int) -> Any:
    """One answer as it stands."""
    return _answer(request, pk)


@router.writes("POST", "/answers/{pk}/stop", AnswerShown, needs="chat", of=Generation)
def stop(request: Request, pk: int) -> Any:
    """Stop it. The text so far stays."""
    row = _answer(request, pk, write=True)
    async_to_sync(generation.stop)(row.pk)
    return _answer(request, pk)


@router.writes("POST", "/answers/{pk}/again", AnswerShown, needs="chat", of=Generation, status=201)
def again(request: Request, pk: int) -> Any:
    """Another answer to the same message in the same column. This one stays."""
    row = _answer(request, pk, write=True)
    return _answer(request, generation.regenerate(row.turn, row.column, request.auth.user).pk)


def rows() -> QuerySet[Conversation]:
    columns = Column.objects.select_related("deployment")
    return Conversation.objects.select_related("team", "created_by").prefetch_related(
        Prefetch("columns", columns)
    )


def _answers() -> Any:
    found = Generation.objects.defer("vectors").select_related("configuration")
    return Prefetch("generations", found.order_by("pk"))


def message_shown(pk: int, user: User) -> dict[str, Any]:
    """A MessageShown, as far as `user` may see who answered."""
    rows = Turn.objects.select_related("created_by", "conversation").prefetch_related(_answers())
    turn = rows.get(pk=pk)
    return _message(turn, votes.hidden_of(turn.conversation, [turn], user))


def _message(turn: Turn, hidden: Any) -> dict[str, Any]:
    names = ("text", "created_at")
    return {
        "id": turn.pk,
        "parent": turn.parent_id,
        "created_by": turn.created_by.get_username() if turn.created_by else None,
        **{name: getattr(turn, name) for name in names},
        "answers": [] if turn.pk in hidden else list(turn.generations.all()),
    }


def writable(request: Request, pk: int) -> Conversation:
    """One the caller may write in."""
    row = fetch(request, rows(), pk)
    sharing_rules.require_write(request.auth.user, row)
    return row


def turn_of(request: Request, pk: int, *, write: bool = False) -> Turn:
    """A message of a conversation that the caller sees, or with `write` may write in."""
    row = Turn.objects.filter(pk=pk).first()
    if row is None:
        raise Http404("no such message")
    key = row.conversation_id
    row.conversation = writable(request, key) if write else fetch(request, rows(), key)
    return row


def _turn(row: Conversation, pk: int) -> Turn:
    found = row.turns.filter(pk=pk).first()
    if found is None:
        raise Problem(422, "invalid", "There is no such message here.", "after")
    return found


def _answer(request: Request, pk: int, *, write: bool = False) -> Generation:
    found = Generation.objects.defer("vectors").select_related(
        "configuration", "column", "turn__conversation"
    )
    row = found.filter(pk=pk).first()
    if row is None:
        raise Http404("no such answer")
    user = request.auth.user
    conversation = fetch(request, rows(), row.turn.conversation_id)
    if write:
        sharing_rules.require_write(user, conversation)
    elif votes.hidden(conversation, row.turn, user):
        raise Http404("a blind answer is not told apart before the vote")
    row.turn.conversation = conversation
    return row


def require_parameters(parameters: dict[str, Any]) -> None:
    """Refuse what a request may not hold."""
    policy.check({**parameters, "messages": [{"role": "user", "content": ""}]}, chat=True)


def _set(row: Conversation, given: ConversationChange, user: User) -> None:
    if given.title is not None:
        conversations.rename(row, given.title, user)
    if given.system_prompt is not None or given.parameters is not None:
        prompt = row.system_prompt if given.system_prompt is None else given.system_prompt
        parameters = row.parameters if given.parameters is None else given.parameters
        conversations.configure(row, prompt, parameters, user)
