"""How many requests at once are enough: the fewest with which an engine is as fast as it gets. Pure.

Doubles while more at once brings more; then stays where that ended, and looks ever more seldom whether fewer,
or more, would do. Speed is what is answered a second, in tokens where they are known: by Little's law the
requests at once over the time that one takes, so that answers may come in bursts. How many were at once is
measured too: where rows came too slowly to be asked, a limit that was never reached would look as good.
"""

from dataclasses import dataclass

MOST = 256
# More at once has to bring so much more, or it only makes a queue; fewer may cost so little.
GAIN = 1.08
LOSS = 0.97
# A measurement takes so many answers for each of those at once, and this many at least.
ROUNDS = 2
ANSWERS = 8
# So many measurements between two looks aside; twice as many after each that brought nothing, up to the last.
REST, RESTS = 4, 128


@dataclass
class Knee:
    """`limit` is how many to have in flight now."""

    limit: int = 4
    rising: bool = True
    best: float = 0.0
    _before: int = 0
    _down: bool = True
    _rest: int = REST
    _rested: int = 0
    _skip: int = 0
    _answers: int = 0
    _units: float = 0.0
    _seconds: float = 0.0
    _flown: float = 0.0

    def note(self, units: float, seconds: float, busy: bool, at_once: float | None = None) -> None:
        """An answer of so many tokens took so long. `busy`: as many were in flight as `limit` says.

        `at_once`: how many were in flight on average meanwhile; None: `limit`.
        """
        if not busy or seconds <= 0:
            return
        if self._skip > 0:
            self._skip -= 1
            return
        self._answers += 1
        self._units += units
        self._seconds += seconds
        self._flown += seconds * (self.limit if at_once is None else at_once)
        rounds = 1 if self.rising else ROUNDS
        if self._answers >= max(ANSWERS, rounds * self.limit):
            rate = self._flown / self._seconds * self._units / self._seconds
            self._begin()
            self._decide(rate)

    def overloaded(self) -> None:
        """The engine refused for want of room."""
        self.rising, self._before, self._rested = False, 0, 0
        self._go(self.limit // 2)

    def _go(self, limit: int) -> None:
        """From now on so many; what was begun before says nothing of it."""
        self._skip = max(self.limit, limit)
        self.limit = max(1, min(MOST, limit))
        self._begin()

    def _begin(self) -> None:
        """Another measurement."""
        self._answers, self._units, self._seconds, self._flown = 0, 0.0, 0.0, 0.0

    def _decide(self, rate: float) -> None:
        if self.rising:
            self._rise(rate)
        elif self._before:
            self._judge(rate)
        else:
            self.best = rate
            self._rested += 1
            if self._rested >= self._rest:
                self._look()

    def _rise(self, rate: float) -> None:
        """Twice as many, for as long as that helps; else back to what was as good."""
        if rate > self.best * GAIN:
            self.best = rate
            self.rising = self.limit < MOST
            if self.rising:
                self._go(self.limit * 2)
        else:
            self.rising, self._down = False, True
            self._go(self.limit * 5 // 8)

    def _look(self) -> None:
        """Try fewer, or more."""
        self._rested, self._before = 0, self.limit
        self._go(self.limit * 3 // 4 if self._down and self.limit > 1 else self.limit + self.limit // 4 + 1)

    def _judge(self, rate: float) -> None:
        """After a look aside: more only for a gain, fewer where little is lost."""
        more = self.limit > self._before
        if rate > self.best * GAIN if more else rate >= self.best * LOSS:
            self.rising, self.best = more, max(rate, self.best)
            self._rested, self._rest = self._rest, REST
        else:
            self._go(self._before)
            self._down = more
            self._rest = min(RESTS, self._rest * 2)
        self._before = 0
