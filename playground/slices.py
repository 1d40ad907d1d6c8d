"""Slices of batches: this node's process that asks their rows, and the way in for Celery.

A slice is a leave to claim rows of one column for under a minute. Its rows live on in the process when it
ends, and its successor is there before: what makes it last is only that slices keep coming. One event loop
asks for all columns, one connection at a time writes what came, in groups.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence

from django.conf import settings
from django.db import DataError, Error, transaction

from playground import batch_claims, batch_gates, engine_client, events, nodes, sharing_told
from playground.batch_claims import Result, Row
from playground.batch_column import SLICE_S, Column
from playground.batch_live import Shown
from playground.models import Replica
from playground.orm import orm

# Results that came within so long are written together.
GROUP_S = 0.02
AGAIN_S = 0.5
SHOW_S = 0.3
NOTICE_S = 0.4
# How often a row is asked alone after an engine died over it.
ALONE = 3
# What a person, or an idle time-out, ended.
STOPPED = (Replica.State.DRAINING, Replica.State.STOPPING, Replica.State.STOPPED)
MALFORMED = "The engine's answer holds what cannot be stored."

Death = tuple[Column, Row, Result]
log = logging.getLogger(__name__)


class Process:
    """What one process holds of batches. Everything but `slice` and `stop` runs in its loop."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.in_flight: Counter[int] = Counter()
        self.alone: dict[int, int] = {}
        self.columns: dict[int, Column] = {}
        self.results: list[tuple[Column, Result]] = []
        self.deaths: list[tuple[Column, Row, Result]] = []
        self.idle_since = time.monotonic()
        self._slices: dict[int, asyncio.Event] = {}
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._came = asyncio.Event()
        self._written = asyncio.Condition()
        self._noticed: dict[int, float] = {}
        self._shown = Shown()
        self._closing = False

    # Slices

    async def slice(self, column: int) -> None:
        """Claim rows of a column until another slice takes over, none is left, or the time is over."""
        if self._closing:
            return
        if before := self._slices.get(column):
            before.set()
        over = self._slices[column] = asyncio.Event()
        found = self.columns.get(column)
        if found is None:
            found = self.columns[column] = Column(column, self)
            self._runs[column] = asyncio.create_task(self._run(found), name=f"column {column}")
        found.extend()
        ended = [self._runs[column], asyncio.create_task(over.wait())]
        await asyncio.wait(ended, timeout=SLICE_S, return_when=asyncio.FIRST_COMPLETED)
        ended[1].cancel()

    async def _run(self, column: Column) -> None:
        try:
            await column.run()
        except Exception:
            log.exception("column %d of a batch ended; the sweep begins it again", column.pk)
        finally:
            del self.columns[column.pk], self._runs[column.pk]
            self.idle_since = time.monotonic()

    # What came

    def keep(self, column: Column, result: Result) -> None:
        self.results.append((column, result))
        self._came.set()

    def died(self, column: Column, row: Row, result: Result) -> None:
        self.deaths.append((column, row, result))
        self._came.set()

    def unkept(self) -> int:
        return len(self.results)

    async def settled(self, column: Column) -> None:
        async with self._written:
            await self._written.wait_for(lambda: not self._of(column))

    def _of(self, column: Column) -> bool:
        return any(one[0] is column for one in (*self.results, *self.deaths))

    async def write(self) -> None:
        """Record what came, in groups, for ever. PostgreSQL away: everything waits for it here."""
        while True:
            await self._came.wait()
            self._came.clear()
            results, deaths = list(self.results), list(self.deaths)
            try:
                await orm(self._write, results, deaths)
            except Error as problem:
                log.warning("results of batches wait for the database: %s", problem)
                await asyncio.sleep(AGAIN_S)
                self._came.set()
                continue
            await self._forget(results, deaths)
            await asyncio.sleep(GROUP_S)

    async def _forget(self, results: Sequence[tuple[Column, Result]], deaths: Sequence[Death]) -> None:
        del self.results[: len(results)], self.deaths[: len(deaths)]
        ended = [(column, result.item) for column, result in results]
        for column, item in [*ended, *((column, row.item) for column, row, _ in deaths)]:
            column.held.pop(item, None)
            column.refused.pop(item, None)
            column.changed.set()
        for column, _, _ in deaths:
            column.look_again()
        async with self._written:
            self._written.notify_all()

    def _write(self, results: Sequence[tuple[Column, Result]], deaths: Sequence[Death]) -> None:
        if results:
            record([one for _, one in results])
        if deaths:
            self._bury(deaths)
        for column in {*(one[0] for one in results), *(one[0] for one in deaths)}:
            self._notice(column)

    def _bury(self, deaths: Sequence[Death]) -> None:
        """A stop that was asked for is nobody's fault. Else the row is asked alone, until it was thrice."""
        replicas = Replica.objects.filter(pk__in={result.replica for _, _, result in deaths})
        stopped = set(replicas.filter(state__in=STOPPED).values_list("pk", flat=True))
        free = [row.item for _, row, result in deaths if result.replica in stopped]
        over = [(row, one) for _, row, one in deaths if row.item not in free and row.deaths >= ALONE]
        if over:
            record([result for _, result in over])
        batch_claims.give_back(free, self.owner)
        suspects = {row.item for _, row, _ in deaths} - set(free) - {row.item for row, _ in over}
        batch_claims.give_back(sorted(suspects), self.owner, died=True)

    def _notice(self, column: Column) -> None:
        """Tell pages, a few times a second at most; the last change of all is told when the batch ends."""
        standing, now = column.standing, time.monotonic()
        if standing and now >= self._noticed.get(standing.batch, 0.0) + NOTICE_S:
            self._noticed[standing.batch] = now
            events.publish({"team": standing.team, "topics": [f"batch:{standing.batch}"]})

    # Beside it

    async def renew(self) -> None:
        """Hold what is ours, for ever."""
        while True:
            await asyncio.sleep(settings.LEASE_S / 3)
            held = [item for column in self.columns.values() for item in list(column.held)]
            if held:
                try:
                    await orm(batch_claims.renew, sorted(held), self.owner)
                except Error as problem:
                    log.warning("leases of rows are not renewed now: %s", problem)

    async def show(self) -> None:
        """Show rows that are watched, for ever."""
        while True:
            await asyncio.sleep(SHOW_S)
            for column in list(self.columns.values()):
                if column.feeds:
                    await self._shown.show(column.pk, column.feeds)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve slices until `stopping`; then give back what is held."""
        beside = [asyncio.create_task(work) for work in (self.write(), self.renew(), self.show())]
        await stopping.wait()
        self._closing = True
        for column in self.columns.values():
            column.close()
        if self._runs:
            await asyncio.wait(list(self._runs.values()))
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await self._shown.close()
        await batch_gates.close()
        await sharing_told.close()
        await engine_client.close()


def record(results: Sequence[Result]) -> None:
    """Keep results; one that PostgreSQL does not take becomes an error of its row."""
    try:
        with transaction.atomic():
            batch_claims.keep(results)
    except DataError as problem:
        if len(results) > 1:
            for one in results:
                record([one])
        elif results[0].error_code == "malformed":
            raise
        else:
            log.warning("an answer cannot be stored: %s", problem)
            record([_unstorable(results[0])])


def _unstorable(one: Result) -> Result:
    return Result(
        one.item,
        one.attempt,
        False,
        error_code="malformed",
        error=MALFORMED,
        configuration=one.configuration,
        replica=one.replica,
    )


# The process's own


class Serving:
    """The loop, in a thread of its own, that Celery's threads hand slices to."""

    def __init__(self) -> None:
        self.process = Process(f"{nodes.local_node().pk}.{secrets.token_hex(6)}")
        self.loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def slice(self, column: int) -> None:
        """Returns when that slice is over: under a minute."""
        asyncio.run_coroutine_threadsafe(self.process.slice(column), self.loop).result()

    def stop(self) -> None:
        """Begin to end; `join` waits for it."""
        self.loop.call_soon_threadsafe(self._stopping.set)

    def join(self, within_s: float) -> None:
        self._thread.join(within_s)

    def idle_s(self) -> float:
        """How long nothing has been asked."""
        return 0.0 if self.process.columns else time.monotonic() - self.process.idle_since

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.process.run(self._stopping))


_serving: Serving | None = None


def serve() -> Serving:
    """This process asks rows of batches from now on."""
    global _serving
    _serving = Serving()
    return _serving


def run(column_pk: int, slice_id: str = "") -> None:
    """One slice of a column, in the process that serves this node's batches; nothing anywhere else."""
    if _serving is None:
        log.warning("slice %s of column %d came to a process that asks no rows", slice_id, column_pk)
        return
    _serving.slice(column_pk)
