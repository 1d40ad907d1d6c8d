"""How a row of a batch is asked, and what became of it: a Question for an engine, a Result for PostgreSQL.

Answers are read as they stream, and timed as those of conversations are (`answers`). What a stream would lose
(tools, several choices, log-probabilities, vectors) is asked whole, and the engine's own answer is kept.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now

from playground import deployments, engine_client, leases, sharing, spending
from playground.answers import FIRST_BYTE_S, Answer, Question, checked, counted, lateness
from playground.batch_claims import Result, Row
from playground.engine_client import EngineError, Target
from playground.engines.base import PATHS
from playground.models import Batch, BatchColumn, Generation, Replica

TASKS = {path: task for task, path in PATHS.items()}
# What is asked, beside how.
CONTENT = ("messages", "prompt", "input", "query", "documents")
OURS = ("model", "stream", "stream_options")
DEFAULT = BatchColumn._meta.get_field("concurrency").default
LENGTHS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Place:
    """A ready replica on this node, as a column asks it."""

    row: Replica
    """With its node, for what a share of its time costs."""
    target: Target

    @property
    def replica(self) -> int:
        return self.row.pk

    @property
    def configuration(self) -> int | None:
        return self.row.configuration_id

    def priced(self, timings: Mapping[str, Any]) -> dict[str, Any]:
        """The timings, with GPU-seconds and dollars where those are known."""
        return {**timings, **spending.of(self.row, timings.get("busy_s"))}


@dataclass(frozen=True)
class Standing:
    """A column as its rows say it is now. `talks`: answers that people wait for at its deployment."""

    batch: int
    team: int
    state: str
    task: str
    defaults: Mapping[str, Any]
    parameters: Mapping[str, Any]
    places: tuple[Place, ...] = ()
    talks: int = 0

    @property
    def goes_on(self) -> bool:
        return self.state == Batch.State.RUNNING

    @property
    def told(self) -> dict[str, Any]:
        """What a row that says nothing is sampled by."""
        return _over(self.defaults, self.parameters)

    @property
    def hangs_up(self) -> bool:
        """Whether rows in flight are to end, too."""
        return self.state not in (Batch.State.RUNNING, Batch.State.PAUSED)


def standing(column_pk: int) -> Standing:
    """How the column stands. BatchColumn.DoesNotExist where it was deleted."""
    column = BatchColumn.objects.select_related("batch", "deployment__model").get(pk=column_pk)
    batch, own = column.batch, column.parameters
    ready = deployments.ready_replicas(column.deployment)
    here = [replica for replica in ready if replica.node and replica.node.name == settings.NODE_NAME]
    return Standing(
        batch.pk,
        batch.team_id,
        batch.state,
        column.deployment.model.task,
        column.defaults,
        batch.parameters if own is None else own,
        tuple(Place(one, leases.target_of(column, one)) for one in here),
        _talks(column.deployment_id),
    )


def _talks(deployment: int) -> int:
    """Answers that people wait for now. One that nobody renews any more is none."""
    live = Generation.objects.filter(column__deployment=deployment, state__in=Generation.LIVE)
    held = Q(lease_expires_at__gt=Now()) | Q(owner="", created_at__gt=Now() - timedelta(seconds=5))
    return live.filter(held).count()


def started(column_pk: int) -> int:
    """How many at once to begin with: what was enough for its deployment last."""
    column = BatchColumn.objects.get(pk=column_pk)
    same = BatchColumn.objects.filter(deployment=column.deployment_id)
    known = same.exclude(concurrency=DEFAULT).order_by("-pk").values_list("concurrency", flat=True).first()
    return known or column.concurrency


def question(row: Row, column: Standing, target: Target) -> Question:
    """What to ask for a row: a release's sampling, under what the line says, under what the batch says."""
    body = {name: value for name, value in row.body.items() if name not in OURS}
    task = TASKS.get(row.url, "")
    if task == "chat" and "messages" not in body and "prompt" in body:
        if column.task == "completion":
            task = "completion"
        else:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if not task:
        raise EngineError("bad_request", f"Rows are not asked at {row.url[:60]}.")
    if task not in ("chat", "completion"):
        return Question(target, body, {}, task)
    asked = {name: body.pop(name) for name in CONTENT if name in body}
    return Question(target, asked, _over(_over(column.defaults, body), column.parameters), task)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One over the other; a length by either name replaces the other's."""
    clash = LENGTHS if any(name in above for name in LENGTHS) else ()
    return {name: value for name, value in below.items() if name not in clash} | dict(above)


def streams(asked: Question) -> bool:
    """Whether nothing of the answer is lost by reading it as it streams."""
    said = {**asked.asked, **asked.parameters}
    return asked.generates and not (said.get("tools") or said.get("logprobs") or (said.get("n") or 1) > 1)


async def ask(row: Row, column: Standing, place: Place, answer: Answer) -> Result:
    """A row's good result; EngineError where it has none. Cancelled, the engine stops."""
    asked = question(row, column, place.target)
    body = checked(asked)
    if not streams(asked):
        return await _whole(row, place, asked, body)
    await answer.ask(asked, body)
    return Result(
        row.item,
        row.attempt,
        True,
        answer.feed.content,
        answer.feed.reasoning,
        answer.finish_reason,
        answer.usage,
        place.priced(answer.timings()),
        None,
        configuration=place.configuration,
        replica=place.replica,
    )


async def _whole(row: Row, place: Place, asked: Question, body: Mapping[str, Any]) -> Result:
    """An answer that does not stream, kept as the engine gave it; timed to its end."""
    sent = {name: value for name, value in body.items() if name not in OURS[1:]}
    begun = lateness.start()
    try:
        with sharing.share(place.replica) as share:
            found = await engine_client.complete(place.target, asked.path, sent, first_byte_s=FIRST_BYTE_S)
    finally:
        late = lateness.late_since(begun)
        lateness.stop()
    e2e = round((time.monotonic() - begun) * 1000, 2)
    usage = found.get("usage")
    text, reason = _first(found, asked)
    return Result(
        row.item,
        row.attempt,
        True,
        text,
        finish_reason=reason,
        usage=counted(usage) if isinstance(usage, Mapping) else {},
        timings=place.priced({"e2e": e2e, "busy_s": round(share.seconds, 4), "lagged": late}),
        response=found,
        configuration=place.configuration,
        replica=place.replica,
    )


def _first(found: Mapping[str, Any], asked: Question) -> tuple[str, str]:
    """(text, reason of its end) of the first choice; EngineError where an answer without one came."""
    if not asked.generates:
        return "", ""
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        raise EngineError("malformed", "The engine answered without a choice.")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return str(text or ""), str(choice.get("finish_reason") or "")[:30]


def failed(row: Row, place: Place, code: str, text: str, answer: Answer | None = None) -> Result:
    """A row's bad result, with what had come."""
    return Result(
        row.item,
        row.attempt,
        False,
        answer.feed.content if answer else "",
        answer.feed.reasoning if answer else "",
        usage=answer.usage if answer else {},
        timings=place.priced(answer.timings()) if answer else {},
        error_code=code,
        error=text,
        configuration=place.configuration,
        replica=place.replica,
    )


def refused(row: Row, code: str, text: str) -> Result:
    """The result of a row that was never asked."""
    return Result(row.item, row.attempt, False, error_code=code, error=text)


async def others(target: Target) -> int | None:
    """How many requests its engine works on, ours included; None where it does not say now."""
    try:
        return await engine_client.running(target)
    except EngineError:
        return None
