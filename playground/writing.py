"""The answers this web process writes: a task and a lease each, stopping them, and the end of the process.

Tasks run on the loop that `Writer.start` was called on; `run` and `look` may be called from any thread.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseTrouble

from playground import deployments, events, leases, spending
from playground.answers import Answer
from playground.engine_client import EngineError, Target
from playground.events import Heard, Notice, StopWanted
from playground.feeds import Feed, feeds
from playground.models import Generation, Replica
from playground.orm import orm
from playground.replay import Publisher

DRAIN_S = 3.0
SAVE_S = 2.0
KEEP_TRYING_S = 600.0
LOOK_AGAIN_S = 1.0

State = Generation.State
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How an answer ended, and why where that needs words."""

    state: str
    code: str = ""
    error: str = ""


@dataclass(frozen=True)
class Claimed:
    """An answer that became ours, since when, and how it is asked where that is settled already."""

    row: Generation
    begun: leases.Begun | None = None
    since: float = field(default_factory=time.monotonic)


class NotOurs(Exception):
    """The row was deleted or taken from us: write nothing more."""


@dataclass(eq=False)
class Writing:
    """One answer being written."""

    claimed: Claimed
    answer: Answer
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    replica: Replica | None = None
    target: Target | None = None
    queue_ms: float | None = None
    kept: tuple[int, int] = (0, 0)

    @property
    def row(self) -> Generation:
        return self.claimed.row

    @property
    def feed(self) -> Feed:
        return self.answer.feed

    @property
    def reached(self) -> tuple[int, int]:
        return len(self.feed.content), len(self.feed.reasoning)


class Writer:
    """All answers this process writes."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.publisher = Publisher()
        self.writing: dict[int, Writing] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.tick = asyncio.Event()
        self.closing = False
        events.listening.listeners.append(self._hear)

    def run(self, row: Generation, begun: leases.Begun | None) -> None:
        """Begin to write an answer that is ours; with `begun` the engine is asked at once."""
        self.loop.call_soon_threadsafe(self._begin, row.pk, Claimed(row, begun))

    def look(self) -> None:
        """Renew the leases now, to learn what is to stop."""
        self.loop.call_soon_threadsafe(self.tick.set)

    async def close(self, drain_s: float = DRAIN_S) -> None:
        """Let answers finish for a moment, then end the rest, their text kept and marked interrupted."""
        self.closing = True
        events.listening.listeners.remove(self._hear)
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=drain_s)
        for writing in self.writing.values():
            writing.ending.set()
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=SAVE_S + 1)
        await self.publisher.close()

    # Leases

    async def keep_leases(self) -> None:
        """Once a second: renew, learn what is to stop, keep the text so far, adopt what nobody took."""
        while True:
            try:
                async with asyncio.timeout(min(1.0, settings.LEASE_S / 4)):
                    await self.tick.wait()
            except TimeoutError:
                pass
            self.tick.clear()
            try:
                await self._renew()
                await self._checkpoint()
                await self._adopt()
            except DatabaseTrouble as problem:
                log.warning("PostgreSQL is away, %d answers go on without it: %s", len(self.writing), problem)

    async def _renew(self) -> None:
        if not self.writing:
            return
        asked = list(self.writing)
        ours = await orm(leases.renew, asked)
        for pk in asked:
            if writing := self.writing.get(pk):
                self._obey(writing, ours.get(pk))

    def _obey(self, writing: Writing, stop: bool | None) -> None:
        if stop is None:
            writing.gone.set()
        elif stop:
            writing.stopping.set()

    async def _checkpoint(self) -> None:
        moved = [writing for writing in self.writing.values() if writing.kept != writing.reached]
        if moved:
            reached = [writing.reached for writing in moved]
            await orm(leases.checkpoint, [(w.row.pk, w.feed.content, w.feed.reasoning) for w in moved])
            for writing, at in zip(moved, reached, strict=True):
                writing.kept = at

    async def _adopt(self) -> None:
        if not self.closing:
            for pk in await orm(leases.unclaimed):
                self._begin(pk)

    def _hear(self, heard: Heard) -> None:
        if isinstance(heard, StopWanted) and heard.generation in self.writing:
            self.tick.set()
        elif isinstance(heard, Notice):
            for writing in self.writing.values():
                if f"deployment:{writing.row.column.deployment_id}" in heard.topics:
                    writing.changed.set()

    # One answer

    def _begin(self, pk: int, claimed: Claimed | None = None) -> None:
        if pk in self.tasks or (self.closing and not claimed):
            return
        task = self.loop.create_task(self._write(pk, claimed), name=f"generation {pk}")
        self.tasks[pk] = task
        task.add_done_callback(lambda done: self._ended(pk, done))

    def _ended(self, pk: int, task: asyncio.Task[None]) -> None:
        del self.tasks[pk]
        if not task.cancelled() and (problem := task.exception()):
            log.error("Generation %d ended badly; the sweep marks it", pk, exc_info=problem)

    async def _write(self, pk: int, claimed: Claimed | None) -> None:
        claimed = claimed or await self._claim(pk)
        if claimed is None:
            return
        turn = claimed.row.turn
        blind = bool(turn.inputs.get("blind"))
        feed = feeds.own(pk, turn.conversation_id, turn.client_id, claimed.row.column_id, announced=not blind)
        writing = Writing(claimed, Answer(feed, self.publisher.publish))
        self.writing[pk] = writing
        outcome = Outcome(State.INTERRUPTED, "interrupted", leases.INTERRUPTED)
        try:
            outcome = await self._until_told(writing)
            await self._save(writing, outcome)
        except NotOurs:
            log.info("Generation %d is not ours any more", pk)
        finally:
            del self.writing[pk]
            feeds.close(writing.feed, outcome.state)
            self.publisher.publish(writing.feed)

    async def _claim(self, pk: int) -> Claimed | None:
        row = await orm(leases.claim, pk)
        return Claimed(row) if row else None

    async def _until_told(self, writing: Writing) -> Outcome:
        """Write until the answer is whole, or somebody wants it to end. Ending it early stops the engine."""
        work = asyncio.create_task(self._answer(writing))
        told = [asyncio.create_task(e.wait()) for e in (writing.stopping, writing.ending, writing.gone)]
        try:
            await asyncio.wait([work, *told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in told:
                task.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
        if writing.gone.is_set():
            raise NotOurs
        if not work.cancelled():
            return work.result()
        if writing.stopping.is_set():
            return Outcome(State.STOPPED)
        return Outcome(State.INTERRUPTED, "interrupted", leases.INTERRUPTED)

    async def _answer(self, writing: Writing) -> Outcome:
        try:
            await self._ask(writing)
        except EngineError as problem:
            return Outcome(State.FAILED, problem.code, problem.text)
        except DatabaseTrouble as problem:
            log.warning("Generation %d could not begin: %s", writing.row.pk, problem)
            return Outcome(State.FAILED, "database", "The database was away. Ask again.")
        return Outcome(State.COMPLETE)

    async def _ask(self, writing: Writing) -> None:
        claimed = writing.claimed
        try:
            begun = claimed.begun or await self._begun(writing)
        except leases.Lost:
            writing.gone.set()
            return
        writing.replica, writing.target = begun.replica, begun.question.target
        writing.queue_ms = round((time.monotonic() - claimed.since) * 1000, 2)
        used = asyncio.create_task(self._touch(begun.replica))
        try:
            await writing.answer.ask(begun.question, begun.body)
        finally:
            await used

    async def _touch(self, replica: Replica) -> None:
        """Say that the deployment is in use; beside the answer, which a person waits for."""
        try:
            await orm(deployments.touch, replica.deployment)
        except DatabaseTrouble as problem:
            log.warning("Deployment %d is used, PostgreSQL is away: %s", replica.deployment_id, problem)

    async def _begun(self, writing: Writing) -> leases.Begun:
        """With a ready replica, waited for as long as one may come."""
        while True:
            writing.changed.clear()
            if begun := await orm(leases.begin, writing.row, self.in_flight()):
                return begun
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await writing.changed.wait()
            except TimeoutError:
                continue

    def in_flight(self) -> Counter[int]:
        """How many answers each replica writes for this process. May be asked from any thread."""
        return Counter(writing.replica.pk for writing in list(self.writing.values()) if writing.replica)

    async def _save(self, writing: Writing, outcome: Outcome) -> None:
        """Keep the end, as long as it takes PostgreSQL to be there; at the process's end only briefly."""
        fields = await self._fields(writing, outcome)
        until = time.monotonic() + KEEP_TRYING_S
        while True:
            try:
                if not await orm(leases.finish, writing.row.pk, outcome.state, **fields):
                    raise NotOurs
                return
            except DatabaseTrouble as problem:
                if time.monotonic() > until or writing.ending.is_set():
                    raise
                log.warning(
                    "Generation %d is kept in memory, PostgreSQL is away: %s", writing.row.pk, problem
                )
                await asyncio.sleep(1)

    async def _fields(self, writing: Writing, outcome: Outcome) -> dict[str, Any]:
        answer, timings = writing.answer, writing.answer.timings()
        if writing.queue_ms is not None:
            timings["queue"] = writing.queue_ms
        if writing.replica:
            timings |= spending.of(writing.replica, answer.busy_s)
        usage = answer.usage
        if writing.target and not writing.ending.is_set():
            usage = await answer.count(writing.target, partial=outcome.state != State.COMPLETE)
        return {
            "text": writing.feed.content,
            "reasoning": writing.feed.reasoning,
            "result": answer.result,
            "vectors": answer.vectors,
            "finish_reason": answer.finish_reason,
            "usage": usage,
            "timings": timings,
            "pace": answer.pace.points,
            "error_code": outcome.code,
            "error": outcome.error,
        }
