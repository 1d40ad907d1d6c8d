"""How many requests at once are enough: the fewest with which an engine is as fast as it gets. Pure.

Doubles while more at once brings more; then stays where that ended, and looks now and then whether more, or
fewer, would do. Speed is what was answered a second, in tokens where they are known.
"""

from dataclasses import dataclass

MOST = 256
# More at once has to bring so much more, or it only makes a queue.
GAIN = 1.08
LOSS = 0.97
# Each measurement takes so long at least, and so many answers for each of those at once.
WINDOW_S = 0.4
ROUNDS = 2
# So many windows without a look to either side.
REST = 8


@dataclass
class Knee:
    """`limit` is how many to have in flight now."""

    limit: int = 4
    rising: bool = True
    best: float = 0.0
    _before: int = 0
    _rested: int = 0
    _tried: int = 0
    _skip: int = 0
    _since: float | None = None
    _answers: int = 0
    _units: float = 0.0

    def note(self, now: float, units: float, busy: bool) -> None:
        """An answer of so many tokens came. `busy`: as many were in flight as `limit` says."""
        if not busy:
            self._restart()
            return
        if self._skip > 0:
            self._skip -= 1
            return
        if self._since is None:
            self._since = now
            return
        self._answers += 1
        self._units += units
        if self._answers >= ROUNDS * self.limit and now - self._since >= WINDOW_S:
            rate = self._units / (now - self._since)
            self._decide(rate)
            self._restart()

    def overloaded(self) -> None:
        """The engine refused for want of room."""
        self.rising = False
        self._before = 0
        self._go(max(1, self.limit // 2))
        self._restart()

    def _restart(self) -> None:
        self._since, self._answers, self._units = None, 0, 0.0

    def _go(self, limit: int) -> None:
        self.limit = max(1, min(MOST, limit))
        self._skip = self.limit

    def _decide(self, rate: float) -> None:
        if self.rising:
            self._rise(rate)
        elif self._before:
            self._judge(rate)
        else:
            self._rest(rate)

    def _rise(self, rate: float) -> None:
        """Twice as many, for as long as that helps; else back to what was as good."""
        if rate > self.best * GAIN:
            self.best = rate
            self.rising = self.limit < MOST
            self._go(self.limit * 2)
        else:
            self.rising = False
            self.best = max(self.best, rate)
            self._go(max(1, self.limit * 5 // 8))

    def _rest(self, rate: float) -> None:
        self.best = rate
        self._rested += 1
        if self._rested >= REST:
            self._rested = 0
            self._tried += 1
            self._before = self.limit
            up = self._tried % 2 == 1
            self._go(self.limit + max(1, self.limit // 4) if up else self.limit - max(1, self.limit // 5))

    def _judge(self, rate: float) -> None:
        """After a look aside: more only for a gain, fewer where nothing is lost."""
        more = self.limit > self._before
        keeps = rate > self.best * GAIN if more else rate >= self.best * LOSS
        if not keeps:
            self._go(self._before)
        else:
            self.rising = more
            self.best = rate
        self._before = 0
