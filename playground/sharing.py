"""Busy time of replicas, split equally among the answers in flight there, whichever process asked for them.

Each process knows its own answers; `sharing_told` brings the number of those of others, while Redis is up.
Without it each process counts as if it were alone: too much, never too little.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Clock:
    """Runs slower the more share it: a second passes as 1/n."""

    users: int = 0
    others: int = 0
    passed: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def read(self) -> float:
        now = time.monotonic()
        if self.users:
            self.passed += (now - self.at) / (self.users + self.others)
        self.at = now
        return self.passed


@dataclass
class Share:
    """One answer's part of its replica's time, in seconds; final once it left."""

    seconds: float = 0.0


_clocks: dict[int, _Clock] = {}


def in_flight() -> dict[int, int]:
    """Answers of this process, by replica."""
    return {replica: clock.users for replica, clock in _clocks.items()}


def set_others(replica: int, count: int) -> None:
    """So many answers of other processes are in flight there from now on."""
    if clock := _clocks.get(replica):
        clock.read()
        clock.others = count


def _tell() -> None:
    """Here, since only processes that ask engines need a client of Redis for it."""
    from playground import sharing_told

    sharing_told.begun()


@contextmanager
def share(replica: int) -> Iterator[Share]:
    """While inside, an answer is in flight on `replica`."""
    clock, mine = _clocks.setdefault(replica, _Clock()), Share()
    begun = clock.read()
    clock.users += 1
    if clock.users == 1:
        _tell()
    try:
        yield mine
    finally:
        mine.seconds = clock.read() - begun
        clock.users -= 1
        if not clock.users:
            _clocks.pop(replica, None)
