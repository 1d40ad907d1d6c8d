"""Busy time of replicas, split equally among the answers in flight there. Knows only this process's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Clock:
    """Runs slower the more share it: a second passes as 1/n."""

    users: int = 0
    passed: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def read(self) -> float:
        now = time.monotonic()
        if self.users:
            self.passed += (now - self.at) / self.users
        self.at = now
        return self.passed


@dataclass
class Share:
    """One answer's part of its replica's time, in seconds; final once it left."""

    seconds: float = 0.0


_clocks: dict[int, _Clock] = {}


@contextmanager
def share(replica: int) -> Iterator[Share]:
    """While inside, an answer is in flight on `replica`."""
    clock, mine = _clocks.setdefault(replica, _Clock()), Share()
    begun = clock.read()
    clock.users += 1
    try:
        yield mine
    finally:
        mine.seconds = clock.read() - begun
        clock.users -= 1
        if not clock.users:
            _clocks.pop(replica, None)
