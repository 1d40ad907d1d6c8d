"""What becomes of logged requests: rows of a dataset, or a conversation in the playground that goes on.

Nothing is made up: a request of which something was left out, or that says what a conversation cannot hold,
is refused with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from endpoints import as_chat, request_log
from endpoints.models import Endpoint, LoggedRequest
from endpoints.protocol import Refusal
from playground import access, adapters, conversations, events, policy, reading, sampling
from playground.models import Column, Conversation, Deployment, Generation, Model, Turn, User
from playground.reading import Problem, Row

TASKS = {
    reading.CHAT: Model.Task.CHAT,
    reading.COMPLETIONS: Model.Task.COMPLETION,
    reading.EMBEDDINGS: Model.Task.EMBEDDING,
}
RESPONSES = as_chat.ROUTE[1]
# What is no part of what was asked: who, how it was sent, and what the release or the site says.
NOT_ASKED = frozenset({"model", "stream", "stream_options", "user", "metadata", "store", "prompt_cache_key"})
MOST_DAYS = 365


class LoggedRefused(Exception):
    """It cannot become that; the text says why. `field` is the input's name where one was wrong."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


# Whether requests are kept


def set_log(endpoint: Endpoint, user: User, share: float, days: int) -> None:
    """Keep what is asked and answered of `share` (0 to 1) of its requests from now on, for `days` days."""
    if not 0 <= share <= 1:
        raise LoggedRefused("A share is from 0 to 100 percent.", "share")
    if not 1 <= days <= MOST_DAYS:
        raise LoggedRefused(f"From 1 to {MOST_DAYS} days.", "days")
    before = {"share": endpoint.log_share, "days": endpoint.log_days}
    after = {"share": share, "days": days}
    if before == after:
        return
    with transaction.atomic():
        Endpoint.objects.filter(pk=endpoint.pk).update(log_share=share, log_days=days)
        about = f"endpoint:{endpoint.pk}"
        access.audit(
            user, endpoint.team, "log requests", about, name=endpoint.name, before=before, after=after
        )
        events.notify(endpoint.team_id, about)
    endpoint.log_share, endpoint.log_days = share, days


def of(endpoint: Endpoint) -> QuerySet[LoggedRequest]:
    """What is kept of the endpoint's requests and is not older than it says."""
    rows = LoggedRequest.objects.filter(usage__team=endpoint.team_id, usage__endpoint=endpoint.name)
    return rows.filter(usage__at__gt=Now() - timedelta(days=endpoint.log_days))


# What was said


@dataclass(frozen=True)
class Said:
    """An answer's text, and why it ended."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    error: str = ""


def said(answer: object) -> Said:
    """Of an answer as it is kept: of its first choice."""
    known = answer if isinstance(answer, Mapping) else {}
    error = known.get("error")
    words = str(error.get("message") or "") if isinstance(error, Mapping) else ""
    before = known.get("before")
    held = before if isinstance(before, Mapping) else known
    if isinstance(held.get("output"), list):
        return _said_by_items(held, words)
    choices = held.get("choices")
    first = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = _mapping(first.get("message"))
    return Said(
        _words(message.get("content") or first.get("text")),
        _words(message.get("reasoning_content") or message.get("reasoning")),
        _words(first.get("finish_reason"))[:30],
        words,
    )


def _said_by_items(response: Mapping[str, Any], error: str) -> Said:
    """Of a response: its messages' texts, and what it thought."""
    texts: dict[str, str] = {"message": "", "reasoning": ""}
    for item in map(_mapping, response["output"]):
        parts = item.get("content")
        kind = item.get("type")
        if kind in texts and isinstance(parts, list):
            texts[kind] += "".join(_words(_mapping(part).get("text")) for part in parts)
    why = _mapping(response.get("incomplete_details")).get("reason")
    reason = _words(why) or ("stop" if response.get("status") == "completed" else "")
    return Said(texts["message"], texts["reasoning"], reason[:30], error)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: object) -> str:
    return value if isinstance(value, str) else ""


# Rows of a dataset


def rows(found: Iterable[LoggedRequest], *, answers: bool) -> Iterator[Row | Problem]:
    """One a request, asked as it was. `answers`: what was answered counts as right."""
    for place, one in enumerate(found, 1):
        try:
            yield _row(place, one, answers)
        except (policy.BadRequest, LoggedRefused, ValueError) as problem:
            yield Problem(place, str(problem))


def _row(place: int, one: LoggedRequest, answers: bool) -> Row:
    route, body = _as_asked(one)
    if route not in TASKS:
        raise LoggedRefused("Only chats, completions and embeddings become rows of a dataset.")
    asked = {name: value for name, value in body.items() if name not in NOT_ASKED}
    good = answers and route != reading.EMBEDDINGS and one.usage.status == 200
    expected = said(one.answer).text or None if good else None
    identity = f"request-{one.usage.request_id}"
    return reading.checked(Row(place, identity, route, asked, {}, expected))


def _as_asked(one: LoggedRequest) -> tuple[str, dict[str, Any]]:
    """(route, body): a response as the chat completion that says the same."""
    body, route = _whole(one), one.usage.route
    if route in (reading.CHAT, RESPONSES) and body.get("prompt") is not None:
        raise LoggedRefused("It names a prompt of the library, whose texts are not kept with it.")
    if route != RESPONSES:
        return route, body
    try:
        return reading.CHAT, as_chat.body({"model": "", **body})
    except Refusal as refused:
        raise LoggedRefused(f"It says what a chat cannot: {refused.param}.") from refused


def _whole(one: LoggedRequest) -> dict[str, Any]:
    """The body, if all that was asked is still there."""
    if request_log.has_pictures(one.request):
        raise LoggedRefused("It was asked with a picture or another file, which is not kept.")
    if one.cut or not isinstance(one.request, dict):
        raise LoggedRefused("It was longer than what is kept of one, so that only a part of it is here.")
    return one.request


# A conversation


@dataclass(frozen=True)
class _Told:
    """A request's messages as a conversation has them: (what a person said, what was answered) in order."""

    system: str = ""
    before: tuple[tuple[str, str], ...] = ()
    last: str = ""


@dataclass
class Opened:
    """The conversation, and the names of what it cannot hold of the request."""

    conversation: Conversation
    left_out: list[str] = field(default_factory=list)


def open_in_playground(one: LoggedRequest, user: User) -> Opened:
    """A conversation of `user` with the request's messages, parameters and answer."""
    (route, body), used = _as_asked(one), one.usage
    access.require(user, "chat", used.team)
    if route == reading.CHAT:
        told = _told(body.get("messages"))
    elif route == reading.COMPLETIONS and isinstance(body.get("prompt"), str):
        told = _Told(last=body["prompt"])
    else:
        raise LoggedRefused("Only chats, and completions of one text, open in the playground.")
    asked = (used.release.sampling if used.release else {}) | body
    parameters, left_out = _parameters(asked)
    deployment = _deployment(one)
    with transaction.atomic():
        row = Conversation.objects.create(
            team=used.team,
            created_by=user,
            title=f"{used.endpoint}, {timezone.localtime(used.at):%-d %b %H:%M:%S}"[:200],
            task=TASKS[route],
            system_prompt=told.system,
            parameters=parameters,
        )
        adapter = used.adapter if deployment and used.adapter in adapters.served(deployment) else ""
        column = Column.objects.create(conversation=row, deployment=deployment, adapter=adapter)
        _say(column, told, one, user)
        conversations.record(row, user, "open request", None, {"endpoint": used.endpoint, "request": used.pk})
        conversations.tell(row)
    return Opened(row, left_out)


def _told(messages: object) -> _Told:
    """Raises where they are no dialogue of texts, which is what a conversation holds."""
    texts = [_text(message) for message in messages] if isinstance(messages, list) else []
    system = [text for role, text in texts if role in ("system", "developer")]
    spoken = [(role, text) for role, text in texts if role not in ("system", "developer")]
    roles = [role for role, _ in spoken]
    if len(system) > 1 or (system and texts[0][0] not in ("system", "developer")):
        raise LoggedRefused("It has system messages in the middle, which a conversation cannot hold.")
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise LoggedRefused(
            "Its messages do not take turns, the person's last: a conversation cannot hold that."
        )
    pairs = zip(spoken[:-1:2], spoken[1::2], strict=True)
    before = tuple((asked, answered) for (_, asked), (_, answered) in pairs)
    return _Told(system[0] if system else "", before, spoken[-1][1])


def _text(message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping) or message.get("tool_calls") or message.get("role") == "tool":
        raise LoggedRefused("It calls tools, which a conversation cannot hold.")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return str(message.get("role")), _words(content)


def _parameters(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those that a conversation has, and the names of the others."""
    known = {parameter.name for parameter in sampling.PARAMETERS}
    asked = {name: value for name, value in asked.items() if name not in NOT_ASKED and value is not None}
    if "max_completion_tokens" in asked:
        asked["max_tokens"] = asked.pop("max_completion_tokens")
    if isinstance(asked.get("stop"), str):
        asked["stop"] = [asked["stop"]]
    held = {name: value for name, value in asked.items() if name in known}
    return held, sorted(asked.keys() - known - {"messages", "prompt"})


def _deployment(one: LoggedRequest) -> Deployment | None:
    """The one that answered if it should run, else one of the same configuration that does, else that one."""
    own = one.usage.deployment
    if own is None:
        return None
    same = Q(pk=own.pk) | Q(configuration=own.configuration_id, configuration__isnull=False)
    rows = Deployment.objects.filter(same, team=one.usage.team).exclude(desired=Deployment.Desired.DELETED)
    found = list(rows.filter(desired=Deployment.Desired.RUNNING).order_by("pk"))
    return next((row for row in found if row.pk == own.pk), found[0] if found else rows.first())


def _say(column: Column, told: _Told, one: LoggedRequest, user: User) -> None:
    """The dialogue as turns and answers, the last one the logged request's own."""
    used, answer = one.usage, said(one.answer)
    turn: Turn | None = None
    previous: Generation | None = None
    for place, (asked, answered) in enumerate(told.before):
        turn = _turn(column, turn, asked, place, user)
        previous = Generation.objects.create(
            turn=turn, column=column, previous=previous, state=Generation.State.COMPLETE, text=answered
        )
    turn = _turn(column, turn, told.last, len(told.before), user)
    State = Generation.State
    state = State.COMPLETE if used.status == 200 else State.STOPPED if used.status == 499 else State.FAILED
    counts = {name: getattr(used, name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}
    Generation.objects.create(
        turn=turn,
        column=column,
        previous=previous,
        state=state,
        text=answer.text,
        reasoning=answer.reasoning,
        finish_reason=answer.finish_reason,
        error=answer.error,
        error_code=used.code if state == State.FAILED else "",
        configuration=used.deployment.configuration if used.deployment else None,
        usage={name: value for name, value in counts.items() if value is not None},
    )


def _turn(column: Column, parent: Turn | None, text: str, place: int, user: User) -> Turn:
    return Turn.objects.create(
        conversation=column.conversation,
        parent=parent,
        text=text,
        client_id=f"logged-{place}",
        created_by=user,
    )
