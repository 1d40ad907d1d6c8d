"""How a runner tells what happens to it, and learns what is wanted: the seam between it and the database.

Reports leave in order. While nobody can be reached they wait here and the engine serves on.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from playground.engines.base import Reason, Reported

log = logging.getLogger(__name__)


class Wish(StrEnum):
    """What the row says this replica should do now."""

    RUN = "run"
    DRAIN = "drain"
    STOP = "stop"


class Superseded(Exception):
    """Another replica or state took over: the engine is stopped and the runner ends."""


class Unreachable(Exception):
    """Nobody to report to at the moment: serve on, try again at the next beat."""


@dataclass(frozen=True)
class Took:
    """What one start took. `resident_bytes`: of its processes, once ready; `said`: the engine's own word."""

    ready_s: float
    resident_bytes: int
    gpu_bytes: int | None
    said: Reported


class Reporter(Protocol):
    """Each call may raise Superseded or Unreachable."""

    async def claim(self, runner_pid: int) -> bool:
        """assigned → starting. False: the race is lost, nothing was started, exit."""

    async def started(self, command: list[str], port: int, engine_pid: int, relay_port: int | None) -> None:
        """The engine process exists. Said again with a new port when the first was taken."""

    async def loading(self, note: str = "") -> None:
        """First sign of life, then steps in words: "loading weights 40 %", "warming up"."""

    async def ready(self, took: Took) -> None:
        """It answered a request; what it took to get there."""

    async def unhealthy(self, why: str) -> None: ...

    async def recovered(self) -> None: ...

    async def failed(self, reason: Reason, log_tail: list[str]) -> None:
        """It failed by itself; no process of it is left."""

    async def stopping(self) -> None: ...

    async def stopped(self, reason: Reason, log_tail: list[str]) -> None:
        """It was ended; no process of it is left."""

    async def beat(self, health: dict[str, Any]) -> Wish:
        """Alive, with the latest reading; answers what is wanted."""


class Courier:
    """Carries reports to a Reporter, one at a time and in order, for as long as it takes."""

    def __init__(self, reporter: Reporter, retry_s: float, superseded: Callable[[], None]) -> None:
        self._reporter, self._retry_s, self._superseded = reporter, retry_s, superseded
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._one = asyncio.Lock()

    def post(self, verb: str, *arguments: Any) -> None:
        """Queue a report; never waits."""
        self._waiting.append((verb, arguments))
        self._some.set()
        self._none.clear()

    async def carry(self) -> None:
        """Deliver for ever."""
        while True:
            await self._some.wait()
            verb, arguments = self._waiting[0]
            if not await self._deliver(getattr(self._reporter, verb), arguments):
                await asyncio.sleep(self._retry_s)
                continue
            self._waiting.popleft()
            if not self._waiting:
                self._some.clear()
                self._none.set()

    async def _deliver(self, send: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> bool:
        """Whether this report is done with. A defect of the reporter must not end a serving engine either."""
        try:
            async with self._one:
                await send(*arguments)
        except Superseded:
            self._superseded()
        except Unreachable as error:
            log.warning("cannot report %s yet: %s", send.__name__, error)
            return False
        except Exception:
            log.exception("reporting %s failed; it will be sent again", send.__name__)
            return False
        return True

    async def beat(self, health: dict[str, Any]) -> Wish | None:
        """What is wanted; None while nobody can be reached."""
        try:
            async with self._one:
                return await self._reporter.beat(health)
        except Superseded:
            self._superseded()
        except Unreachable as error:
            log.warning("no heartbeat: %s", error)
        except Exception:
            log.exception("the heartbeat failed")
        return None

    async def flush(self, within_s: float) -> bool:
        """Wait until every report is delivered; False when that took longer than `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self._none.wait()
        except TimeoutError:
            log.error("ending with %d reports undelivered", len(self._waiting))
            return False
        return True
