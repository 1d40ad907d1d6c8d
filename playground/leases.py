"""What PostgreSQL holds of answers being written: whose they are, how far they are, how they ended.

The only writer of Generation's state. A process owns what it claimed as long as it renews its leases; what
expired is marked interrupted, with its last checkpoint kept. Times are the database's.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from playground import adapters, deployments, engine_client, engines, events, widgets
from playground.answers import Question, checked
from playground.engine_client import EngineError, Target
from playground.history import messages
from playground.models import BatchColumn, Column, Deployment, Generation, Replica, Turn
from playground.prompt_texts import PromptRefused

BOOT_ID = secrets.token_hex(8)
UNCLAIMED_S = 60.0
ADOPT_S = 1.0
INTERRUPTED = "Its web process ended before the answer did. What had come is kept; ask again for the whole."

State = Generation.State


@dataclass(frozen=True)
class Begun:
    """An answer that is ours and about to be asked: whom, what, and the body as it is sent."""

    replica: Replica
    question: Question
    body: dict[str, Any]


class Lost(Exception):
    """The answer is not ours any more."""


def make(
    turn: Turn, column: Column, previous: Generation | None, after: Generation | None = None
) -> Generation:
    """A pending answer for whichever process claims it first, once `after` has ended."""
    return Generation.objects.create(turn=turn, column=column, previous=previous, after=after)


def make_ours(
    turn: Turn, column: Column, previous: Generation | None, in_flight: Mapping[int, int]
) -> tuple[Generation, Begun | None]:
    """An answer that is ours from the start. With a ready replica it is marked as asked in the same row, so
    that nothing is left to look up between the commit and the engine.
    """
    generation = Generation(turn=turn, column=column, previous=previous, owner=BOOT_ID)
    generation.lease_expires_at = Now() + _lease()
    begun = _at_once(generation, in_flight)
    for name, value in (_marks(begun) if begun else {}).items():
        setattr(generation, name, value)
    generation.save(force_insert=True)
    return generation, begun


def _at_once(generation: Generation, in_flight: Mapping[int, int]) -> Begun | None:
    """Whom to ask without waiting; None where a replica is still to come, or `begin` will say why not."""
    try:
        replica = replica_for(generation.column.deployment, in_flight)
        return _choose(generation, replica) if replica else None
    except EngineError:
        return None


def claim(pk: int) -> Generation | None:
    """Make a pending answer ours; None when another process was first, or it was stopped."""
    free = Generation.objects.filter(pk=pk, state=State.PENDING, owner="")
    if not free.update(owner=BOOT_ID, lease_expires_at=Now() + _lease()):
        return None
    return Generation.objects.select_related("turn__conversation", "column__deployment").get(pk=pk)


def unclaimed() -> list[int]:
    """Pending answers that nobody took for a second: the process that was to run them is gone."""
    waiting = Generation.objects.filter(state=State.PENDING, owner="").exclude(
        after__state__in=Generation.LIVE
    )
    old = waiting.filter(created_at__lt=Now() - timedelta(seconds=ADOPT_S))
    return list(old.order_by("pk").values_list("pk", flat=True)[:50])


def begin(generation: Generation, in_flight: Mapping[int, int]) -> Begun | None:
    """Choose a replica and mark the answer as asked; None while a replica may come, else EngineError or Lost.

    All in one go: what comes before the engine is asked is what a person waits for.
    """
    replica = replica_for(Deployment.objects.filter(columns=generation.column_id).first(), in_flight)
    if replica is None:
        return None
    begun = _choose(generation, replica)
    if not _mark(generation, begun):
        raise Lost
    return begun


def _choose(generation: Generation, replica: Replica) -> Begun:
    asked = question(generation, replica)
    return Begun(replica, asked, checked(asked))


def replica_for(deployment: Deployment | None, in_flight: Mapping[int, int]) -> Replica | None:
    """The ready replica with the fewest answers of ours; None while one may come, else EngineError."""
    if deployment is None or deployment.desired == Deployment.Desired.DELETED:
        raise EngineError("unreachable", "The deployment of this column was deleted. Choose another one.")
    if ready := deployments.ready_replicas(deployment):
        return min(ready, key=lambda replica: in_flight.get(replica.pk, 0))
    if deployment.desired != Deployment.Desired.RUNNING:
        raise EngineError("unreachable", f"{deployment.name} was stopped. Start it, then ask again.")
    if deployment.problem:
        raise EngineError("unreachable", f"{deployment.name} does not run: {deployment.problem}")
    return None


def question(generation: Generation, replica: Replica) -> Question:
    """What to ask `replica`."""
    conversation, own = generation.turn.conversation, generation.column.parameters
    parameters = conversation.parameters if own is None else own
    target, task = target_of(generation.column, replica), conversation.task
    if task != "chat":
        turn, model = generation.turn, replica.deployment.model
        asked = widgets.asked(task, turn.text, turn.inputs)
        return Question(target, asked, parameters, task, tuple(model.facts.get("labels") or ()))
    try:
        said = messages(generation)
    except PromptRefused as problem:
        raise EngineError("bad_request", f"The prompt cannot be filled in: {problem}") from problem
    if not any(isinstance(one.get("content"), list) for one in said) or sees(replica.deployment):
        return Question(target, {"messages": said}, parameters)
    return Question(target, {"messages": messages(generation, sees=False)}, parameters, unseen=True)


def target_of(column: Column | BatchColumn, replica: Replica) -> Target:
    """How to reach it, and which adapter is to answer; EngineError where it does not have that one."""
    reached = engine_client.target(replica)
    if not column.adapter:
        return reached
    served = adapters.names(replica.configuration)
    if column.adapter not in served:
        text = f"{replica.deployment.name} does not serve the adapter {column.adapter}: choose who answers."
        raise EngineError("unreachable", text)
    selects = engines.get(replica.deployment.engine).selecting(served.index(column.adapter), column.adapter)
    return replace(reached, selects=selects)


def sees(deployment: Deployment) -> bool:
    """Whether what answers there reads pictures: its model does, and its engine takes them."""
    return engines.get(deployment.engine).quirks.images and deployment.model.takes_images


def _mark(generation: Generation, begun: Begun) -> bool:
    """Ours, and about to be sent; False when it is not ours any more.

    Nobody is told: pages hear of an answer when it is made, and of its text by following it.
    """
    mine = Generation.objects.filter(pk=generation.pk, owner=BOOT_ID, state=State.PENDING)
    return bool(mine.update(**_marks(begun)))


def _marks(begun: Begun) -> dict[str, Any]:
    return {
        "state": State.STREAMING,
        "replica": begun.replica,
        "configuration_id": begun.replica.configuration_id,
        "request": {**begun.question.body(), **begun.question.target.selects},
        "effective": {"ignored": begun.question.ignored()},
    }


def renew(generations: Sequence[int]) -> dict[int, bool]:
    """Renew our leases in one statement; each that is still ours → whether it is to stop.

    What the sweep took while PostgreSQL was away is taken back: its text is here.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE playground_generation
            SET lease_expires_at = now() + %s * interval '1 second',
                ended_at = NULL, error_code = '', error = '',
                state = CASE WHEN state <> 'interrupted' THEN state
                             WHEN replica_id IS NULL THEN 'pending' ELSE 'streaming' END
            WHERE id = ANY(%s) AND owner = %s AND state IN ('pending', 'streaming', 'interrupted')
            RETURNING id, stop_requested_at IS NOT NULL
            """,
            [settings.LEASE_S, list(generations), BOOT_ID],
        )
        return dict(cursor.fetchall())


def checkpoint(texts: Sequence[tuple[int, str, str]]) -> None:
    """Keep (generation, content, reasoning) as far as they are."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE playground_generation g SET text = new.text, reasoning = new.reasoning
            FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS new(id, text, reasoning)
            WHERE g.id = new.id AND g.owner = %s AND g.state IN ('pending', 'streaming')
            """,
            [*(list(column) for column in zip(*texts, strict=True)), BOOT_ID],
        )


def finish(pk: int, state: str, **fields: Any) -> bool:
    """Keep how it ended; False when it is not ours."""
    mine = Generation.objects.filter(pk=pk, owner=BOOT_ID, state__in=[*Generation.LIVE, State.INTERRUPTED])
    finished = mine.update(state=state, ended_at=Now(), lease_expires_at=None, **fields)
    _tell(Generation.objects.filter(pk=pk))
    return bool(finished)


def ask_to_stop(pk: int) -> bool:
    """Ask the owner to stop; what nobody owns yet stops at once. False when it has ended already."""
    rows = Generation.objects.filter(pk=pk)
    if rows.filter(state=State.PENDING, owner="").update(state=State.STOPPED, ended_at=Now()):
        _tell(rows)
        return True
    live = rows.filter(state__in=Generation.LIVE, stop_requested_at=None)
    asked = live.update(stop_requested_at=Now())
    events.want_stop(pk)
    return bool(asked)


def sweep() -> int:
    """Mark what its owner abandoned as interrupted; how many that were."""
    expired = Q(lease_expires_at__lt=Now())
    long_ago = Now() - timedelta(seconds=UNCLAIMED_S)
    due = Q(after=None, created_at__lt=long_ago) | Q(after__ended_at__lt=long_ago)
    forgotten = Q(owner="") & due
    dead = Generation.objects.filter(expired | forgotten, state__in=Generation.LIVE)
    found = list(dead.values_list("pk", flat=True))
    if not found:
        return 0
    ended = dead.filter(pk__in=found).update(
        state=State.INTERRUPTED, ended_at=Now(), error_code="interrupted", error=INTERRUPTED
    )
    _tell(Generation.objects.filter(pk__in=found))
    return ended


def _lease() -> timedelta:
    return timedelta(seconds=settings.LEASE_S)


def _tell(rows: QuerySet[Generation]) -> None:
    places = rows.values_list("turn__conversation__team_id", "turn__conversation_id").distinct()
    for team, conversation in places:
        events.notify(team, f"conversation:{conversation}")
