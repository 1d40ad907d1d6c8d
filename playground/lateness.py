"""How late the event loop runs: figures taken while it lagged are marked, since they are read by it."""

import asyncio
import time

STEP_S = 0.05
LATE_S = 0.005


class Lateness:
    """Looks at the loop's punctuality while it is used."""

    def __init__(self) -> None:
        self.users = 0
        self.last_late = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> float:
        """Begin to look; the moment to ask `late_since` about."""
        self.users += 1
        if self.users == 1:
            self._plan()
        return time.monotonic()

    def stop(self) -> None:
        self.users -= 1
        if not self.users and self._timer:
            self._timer.cancel()
            self._timer = None

    def late_since(self, moment: float) -> bool:
        return self.last_late >= moment

    def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(STEP_S, self._look, time.monotonic() + STEP_S)

    def _look(self, due: float) -> None:
        now = time.monotonic()
        if now - due > LATE_S:
            self.last_late = now
        self._plan()
