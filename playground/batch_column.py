"""One column of a batch while this process asks its rows: as many at once as the engine is fastest with.

Claims rows ahead of need, starts them, and hands what came to the process's keeper. It decides nothing that
has to last: what it holds is freed by its lease should it vanish.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Coroutine
from typing import Any, Protocol

from django.conf import settings
from django.db import Error

from playground import batch_asking, batch_claims, batch_gates, batches, nudges
from playground.answers import Answer
from playground.batch_asking import Place, Standing
from playground.batch_claims import Result, Row
from playground.engine_client import EngineError
from playground.feeds import Feed
from playground.knee import Knee
from playground.models import BatchColumn
from playground.orm import orm

# A slice claims for so long; its successor is sent before that ends, so that the engine never idles.
SLICE_S = 50.0
NEXT_S = 40.0
LOOK_S = 0.5
STEP_S = 0.25
# Rows for so long are had ready, at the pace of the last ones: a fast engine never waits for PostgreSQL.
AHEAD_S = 0.5
# Nothing was due: asked again after this.
EMPTY_S = 0.5
# Without a ready replica for so long, a slice gives its rows back; the sweep sends another when one is ready.
ABANDONED_S = 20.0
# People are waited for this long after their last answer, by a share of what would go at once.
GIVES_WAY_S = 2.0
SHARE = 4
AWAY_S = 0.5
# What a gate holds back asks again at least so often: its limit may have been raised meanwhile.
GATE_S = 3.0
# How often one row is refused for want of room before that is its result.
REFUSALS = 30
# So many results may wait for PostgreSQL before no more rows are asked.
UNKEPT = 1000
DIED = "The engine died each time this row was asked, three times with nothing else in flight."
BUG = "Something went wrong here while the row was asked; the worker's log tells what."

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What a column needs of its process."""

    owner: str
    in_flight: Counter[int]
    # Replica → the column whose row is, or waits to be, alone there.
    alone: dict[int, int]

    def keep(self, column: "Column", result: Result) -> None:
        """Record it, and free its claim."""

    def died(self, column: "Column", row: Row, result: Result) -> None:
        """An engine died while it was in flight; `result` is what that makes of it the last time."""

    def unkept(self) -> int:
        """How many results are not recorded yet."""

    async def settled(self, column: "Column") -> None:
        """Once everything of the column is recorded."""


class Column:
    """The rows of one column that this process holds, and how many it asks at once."""

    def __init__(self, pk: int, process: Keeper) -> None:
        self.pk, self.process = pk, process
        self.knee = Knee()
        self.standing: Standing | None = None
        self.held: dict[int, Row] = {}
        self.waiting: deque[Row] = deque()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.feeds: dict[int, Feed] = {}
        self.refused: Counter[int] = Counter()
        # What holds rows back beside their engines, and the rows it let in.
        self.gate: batch_gates.Gate | None = None
        self.passes: dict[int, batch_gates.Pass] = {}
        self.away: dict[int, float] = {}
        self.changed = asyncio.Event()
        self.until = self.next_at = 0.0
        self._claiming: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = self._empty_until = self._pause_until = self._yields_until = 0.0
        self._ready_at = time.monotonic()
        self._empty = False
        self._others: dict[int, int] = {}
        self._closing = False
        # Rows ended since `_looked_at`, and a second; the sum of rows in flight over time, up to a moment.
        self._ended = 0
        self._pace = 0.0
        self._flown, self._flown_at = 0.0, time.monotonic()

    def extend(self) -> None:
        """Another slice begins: claim for as long as it lasts."""
        now = time.monotonic()
        self.until, self.next_at = now + SLICE_S, now + NEXT_S
        self.look_again()

    def look_again(self) -> None:
        """Rows may be due now."""
        self._empty, self._empty_until = False, 0.0
        self.changed.set()

    def close(self) -> None:
        """End soon; what is in flight is hung up on and given back."""
        self._closing = True
        self.changed.set()

    async def run(self) -> None:
        """Ask rows until none is left, the slices end, or it is closed."""
        try:
            self.knee.limit = await orm(batch_asking.started, self.pk)
            self.gate = await batch_gates.of(self.pk)
            await self._look()
            while self._step():
                self.changed.clear()
                try:
                    await asyncio.wait_for(self.changed.wait(), STEP_S)
                except TimeoutError:
                    continue
        except BatchColumn.DoesNotExist:
            log.info("column %d of a batch was deleted", self.pk)
        except EngineError as problem:
            log.info("column %d of a batch cannot be asked: %s", self.pk, problem)
        finally:
            await self._end()

    def _step(self) -> bool:
        """Do what can be done now, without waiting; whether there is more to come."""
        now, standing = time.monotonic(), self.standing
        if self._closing or standing is None or standing.hangs_up:
            return False
        claims = standing.goes_on and now < self.until and not self._abandoned(now, standing)
        if self._looking is None and now >= self._looked_at + LOOK_S:
            self._looking = self._begin(self._look())
        if claims:
            self._send_next(now)
        if claims and standing.places:
            self._claim(now)
        if standing.goes_on:
            self._start(now)
        if self.tasks or self._claiming:
            return True
        if self._abandoned(now, standing) or not standing.goes_on:
            return False
        return bool(self.held) or (claims and not self._empty)

    def _abandoned(self, now: float, standing: Standing) -> bool:
        if standing.places:
            self._ready_at = now
        return now - self._ready_at > ABANDONED_S

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._report)
        return task

    def _report(self, task: asyncio.Task[None]) -> None:
        """Part of the work ended. Without PostgreSQL it is done again; else the column ends."""
        self.changed.set()
        problem = None if task.cancelled() else task.exception()
        if isinstance(problem, Error):
            log.warning("column %d of a batch waits for the database: %s", self.pk, str(problem).strip())
        elif problem is not None:
            self._closing = True
            log.warning("column %d of a batch is not asked: %r", self.pk, problem)

    # Claims

    def _claim(self, now: float) -> None:
        """Have half as many ready as go at once, or half of what AHEAD_S takes, if that is more."""
        ahead = max(self.limit, int(self._pace * AHEAD_S))
        if self._claiming or now < self._empty_until or self.process.unkept() > UNKEPT:
            return
        if len(self.waiting) <= ahead // 2:
            self._claiming = self._begin(self._claim_rows(max(2, ahead)))

    async def _claim_rows(self, count: int) -> None:
        try:
            rows = await orm(batch_claims.claim, self.pk, self.process.owner, count)
            self.held |= {row.item: row for row in rows}
            self.waiting.extend(rows)
            self._empty, self._empty_until = not rows, 0.0 if rows else time.monotonic() + EMPTY_S
        except Error:
            self._empty_until = time.monotonic() + EMPTY_S
            raise
        finally:
            self._claiming = None

    def _send_next(self, now: float) -> None:
        if now >= self.next_at:
            self.next_at = float("inf")
            self._begin(orm(_nudge, self.pk))

    # How many at once

    @property
    def limit(self) -> int:
        """How many to have in flight: fewer while people wait for answers of the same engine."""
        if time.monotonic() < self._yields_until:
            return max(1, self.knee.limit // SHARE)
        return self.knee.limit

    async def _look(self) -> None:
        """Read how the column stands, and whether others ask the same engines."""
        try:
            self.standing = found = await orm(batch_asking.standing, self.pk)
            talks = found.talks
            for place in found.places:
                talks += await self._talks_at(place)
            if talks:
                self._yields_until = time.monotonic() + GIVES_WAY_S
        finally:
            now = time.monotonic()
            self._pace = (self._pace + self._ended / max(LOOK_S, now - self._looked_at)) / 2
            self._looking, self._looked_at, self._ended = None, now, 0

    async def _talks_at(self, place: Place) -> int:
        """Requests there that are not this process's. One look could be in between: it takes two."""
        ours = self.process.in_flight[place.replica]
        running = await batch_asking.others(place.target)
        ours = max(ours, self.process.in_flight[place.replica])
        seen = max(0, (running or 0) - ours)
        before, self._others[place.replica] = self._others.get(place.replica, 0), seen
        return min(before, seen)

    # Rows

    def _start(self, now: float) -> None:
        """Ask waiting rows, in order, while there is room."""
        if now < self._pause_until or self.process.unkept() > UNKEPT:
            return
        while self.waiting and len(self.tasks) < self.limit:
            row = self.waiting[0]
            place = self._alone(now) if row.deaths else self._place(now)
            if place is None:
                return
            self.waiting.popleft()
            self.process.in_flight[place.replica] += 1
            self._fly(time.monotonic())
            self.tasks[row.item] = self._begin(self._ask(row, place))

    def _places(self, now: float) -> list[Place]:
        found = self.standing.places if self.standing else ()
        return [place for place in found if self.away.get(place.replica, 0.0) <= now]

    def _place(self, now: float) -> Place | None:
        """The replica with the fewest in flight, of those where nobody has to be alone."""
        free = [place for place in self._places(now) if place.replica not in self.process.alone]
        return min(free, key=lambda place: self.process.in_flight[place.replica], default=None)

    def _alone(self, now: float) -> Place | None:
        """A replica with nothing in flight, where nothing else is begun meanwhile."""
        alone, places = self.process.alone, self._places(now)
        mine = next((place for place in places if alone.get(place.replica) == self.pk), None)
        if mine is None:
            free = [place for place in places if place.replica not in alone]
            mine = min(free, key=lambda place: self.process.in_flight[place.replica], default=None)
            self._leave_alone()
            if mine is None:
                return None
            alone[mine.replica] = self.pk
        return None if self.process.in_flight[mine.replica] else mine

    def _leave_alone(self) -> None:
        """Whatever this column kept for itself is everybody's again."""
        for replica in [one for one, column in self.process.alone.items() if column == self.pk]:
            del self.process.alone[replica]

    async def _ask(self, row: Row, place: Place) -> None:
        assert self.standing is not None
        answer = Answer(Feed(0), _told)
        self.feeds[row.number] = answer.feed
        begun, busy = time.monotonic(), len(self.tasks) >= self.limit == self.knee.limit
        flown = self._fly(begun)
        try:
            await self._let_in(row)
            begun = time.monotonic()
            flown = self._fly(begun)
            result = await batch_asking.ask(row, self.standing, place, answer)
        except batch_gates.Waits as waits:
            self.waiting.appendleft(row)
            self._pause_until = max(self._pause_until, time.monotonic() + min(waits.seconds, GATE_S))
        except batch_gates.Refused as refused:
            self._keep(batch_asking.refused(row, refused.code, refused.text))
        except EngineError as problem:
            self._ill(row, place, problem, answer)
        except Exception:
            log.exception("row %d of column %d could not be asked", row.number, self.pk)
            self._keep(batch_asking.failed(row, place, "internal", BUG))
        else:
            units, now = result.usage.get("completion_tokens") or 1, time.monotonic()
            took = now - begun
            at_once = (self._fly(now) - flown) / took if took else None
            self.knee.note(units, took, busy and not row.deaths, at_once)
            self._keep(result)
        finally:
            self._fly(time.monotonic())
            self._ended += 1
            self.feeds.pop(row.number, None)
            self.process.in_flight[place.replica] -= 1
            del self.tasks[row.item]
            if row.deaths:
                self._leave_alone()

    async def _let_in(self, row: Row) -> None:
        """Through the gate, once however often it is asked. Raises Waits or Refused."""
        if self.gate is not None and row.item not in self.passes:
            assert self.standing is not None
            self.passes[row.item] = await self.gate.admit(row, self.standing.told)

    def _keep(self, result: Result) -> None:
        """A row's result, and what it took of limits."""
        if let_in := self.passes.pop(result.item, None):
            let_in.close(result)
        self.process.keep(self, result)

    def _fly(self, now: float) -> float:
        """The sum of rows in flight over time, in seconds, up to now. Told before their number changes."""
        self._flown += len(self.tasks) * (now - self._flown_at)
        self._flown_at = now
        return self._flown

    def _ill(self, row: Row, place: Place, problem: EngineError, answer: Answer) -> None:
        """No answer: what was never asked is asked again, what an engine died over is asked alone."""
        now = time.monotonic()
        if problem.code == "unreachable":
            self.away[place.replica] = now + AWAY_S
            self.waiting.appendleft(row)
        elif problem.code == "overloaded" and self.refused[row.item] < REFUSALS:
            self._refuse(row, now)
        elif problem.code == "died_midway":
            self.away[place.replica] = now + AWAY_S
            last = batch_asking.failed(row, place, problem.code, DIED, answer)
            # Asked again it passes the gate anew: an engine worked on it.
            if let_in := self.passes.pop(row.item, None):
                let_in.close(last)
            self.process.died(self, row, last)
        else:
            self._keep(batch_asking.failed(row, place, problem.code, problem.text, answer))

    def _refuse(self, row: Row, now: float) -> None:
        """The engine has no room: fewer at once, after a pause that grows with the row's refusals."""
        self.refused[row.item] += 1
        self.waiting.appendleft(row)
        if now >= self._pause_until:
            self._pause_until = now + min(5.0, 0.1 * 2 ** self.refused[row.item])
            self.knee.overloaded()

    async def _end(self) -> None:
        """Hang up on what is in flight; record what came; free what is held."""
        pending = [one for one in (*self.tasks.values(), self._claiming, self._looking) if one]
        for task in self.tasks.values():
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        self._leave_alone()
        for let_in in self.passes.values():
            let_in.give_back()
        self.passes.clear()
        await self.process.settled(self)
        if self.held:
            await orm(batch_claims.give_back, list(self.held), self.process.owner)
        await orm(batches.keep_concurrency, self.pk, self.knee.limit)
        if self.standing:
            await orm(_settle, self.standing.batch)


def _told(_: Feed) -> None:
    """Nobody is told of each piece: who watches a row is shown its text a few times a second."""


def _nudge(column: int) -> None:
    nudges.send("playground.batch_slice", column, queue=f"batch.{settings.NODE_NAME}")


def _settle(batch: int) -> None:
    nudges.send("playground.settle_batch", batch)
