"""The measuring of a load run: an event loop in a thread of its own, that asks and tells each answer.

Knows no database: what it asks was made ready for it, what came is told.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playground import asking, engine_client
from playground.answers import Question
from playground.asking import Taken
from playground.load_form import RUN_S, Level, Wanted
from playground.models import Column, Generation, Replica

# So many failures one after another end a column: asking on would only hammer it.
GIVE_UP = 10
CUT = "Still running when the time of the run was over."


@dataclass(frozen=True)
class Came:
    """A request that ended. `scheduled_ms` is None in a closed loop."""

    place: "Place"
    level: int
    number: int
    prompt: int
    scheduled_ms: float | None
    sent_ms: float
    replica: Replica
    taken: Taken


@dataclass(frozen=True)
class Ended:
    """A level of a column, or with `why` all of the column, is over."""

    place: "Place"
    level: int
    why: str = ""


@dataclass(frozen=True)
class Warmed:
    """A request that only warmed a column up: nobody's figure, but asked."""

    replica: Replica
    taken: Taken


Told = Came | Ended | Warmed


@dataclass
class Place:
    """A column as it is measured: for each of its replicas, each prompt as a question."""

    column: Column
    name: str
    questions: list[tuple[Replica, list[Question]]]
    in_flight: Counter[int] = field(default_factory=Counter)

    def least_busy(self) -> tuple[Replica, list[Question]]:
        return min(self.questions, key=lambda one: self.in_flight[one[0].pk])


class Measuring:
    """Asks, in an event loop of its own, and tells each answer. Knows no rows but those it was given."""

    def __init__(self, wanted: Wanted, places: list[Place], tell: Callable[[Told], None]) -> None:
        self.wanted, self.places, self.tell = wanted, places, tell
        self.began = self.ends = 0.0
        self.failures = 0
        self.last_error = ""
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """End it from another thread; what ended already stays so."""
        self._begun.wait()
        if self._loop and self._task and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:  # It closed meanwhile.
                return

    async def run(self) -> None:
        """Every level of every column, one after another."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self.began = time.monotonic()
        self.ends = self.began + RUN_S
        self._begun.set()
        try:
            for place in self.places:
                await self._column(place)
        finally:
            await engine_client.close()

    async def _column(self, place: Place) -> None:
        self.failures = 0
        for index, level in enumerate(self.wanted.levels):
            await self._warm_up(place, level)
            await (self._open if level.open else self._closed)(place, index)
            why = self._given_up(place)
            self.tell(Ended(place, index, why))
            if why:
                return

    def _given_up(self, place: Place) -> str:
        if self.failures >= GIVE_UP:
            return f"{place.name} failed {GIVE_UP} times one after another: {self.last_error}"
        if time.monotonic() >= self.ends:
            return f"The {RUN_S / 60:.0f} minutes of a run were over."
        return ""

    async def _warm_up(self, place: Place, level: Level) -> None:
        """Requests that nobody counts, as many at once as the level has."""
        width = self.wanted.warm_up if level.open else min(self.wanted.warm_up, int(level.value))
        numbers = iter(range(self.wanted.warm_up))

        async def ask() -> None:
            for number in numbers:
                replica, _, taken = await self._ask(place, number)
                self.tell(Warmed(replica, taken))

        await _together(ask() for _ in range(min(width, 8) if level.open else width))

    async def _closed(self, place: Place, index: int) -> None:
        """So many at once: each next one is sent when one has ended."""
        numbers = iter(range(self.wanted.requests))
        until = self._until()

        async def ask() -> None:
            while time.monotonic() < until and self.failures < GIVE_UP:
                if (number := next(numbers, None)) is None:
                    return
                await self._one(place, index, number, None)

        level = self.wanted.levels[index]
        await _together(ask() for _ in range(min(int(level.value), self.wanted.requests)))

    async def _open(self, place: Place, index: int) -> None:
        """Each at its time, however many are still running."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, after in enumerate(self.wanted.arrivals(index)):
                due = start + after
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if due >= self.ends or self.failures >= GIVE_UP:
                    return
                group.create_task(self._one(place, index, number, due))

    def _until(self) -> float:
        """When the level that begins now sends no more."""
        seconds = self.wanted.seconds
        return self.ends if seconds is None else min(self.ends, time.monotonic() + seconds)

    async def _one(self, place: Place, index: int, number: int, due: float | None) -> None:
        sent = time.monotonic()
        replica, prompt, taken = await self._ask(place, number)
        failed = taken.state == Generation.State.FAILED
        self.failures = self.failures + 1 if failed else 0
        self.last_error = taken.error or self.last_error
        scheduled = None if due is None else self._ms(due)
        at = self._ms(taken.sent_at or sent)
        self.tell(Came(place, index, number, prompt, scheduled, at, replica, taken))

    async def _ask(self, place: Place, number: int) -> tuple[Replica, int, Taken]:
        """One answer of the replica that has the least to do; one that outlasts the run is cut off."""
        replica, questions = place.least_busy()
        prompt = number % len(questions)
        place.in_flight[replica.pk] += 1
        try:
            async with asyncio.timeout_at(self._at(self.ends)):
                taken = await asking.ask(questions[prompt])
        except TimeoutError:
            taken = Taken(str(Generation.State.STOPPED), 0.0, error=CUT)
        finally:
            place.in_flight[replica.pk] -= 1
        return replica, prompt, taken

    def _at(self, moment: float) -> float:
        """A moment of the monotonic clock on the loop's."""
        return asyncio.get_running_loop().time() + moment - time.monotonic()

    def _ms(self, moment: float) -> float:
        return round((moment - self.began) * 1000, 2)


async def _together(asks: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for ask in asks:
            group.create_task(ask)


@contextmanager
def in_thread(measuring: "Measuring") -> Iterator[threading.Thread]:
    """A thread that measures; left early, everything it asked is called off, and it has ended."""
    problems: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(measuring.run())
        except asyncio.CancelledError:
            pass
        except BaseException as problem:  # Told where somebody waits for it.
            problems.append(problem)

    thread = threading.Thread(target=work, name="load")
    thread.start()
    try:
        yield thread
    finally:
        measuring.cancel()
        thread.join()
    if problems:
        raise problems[0]
