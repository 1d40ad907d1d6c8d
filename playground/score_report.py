"""What scores allow to be said: a column's mean, columns against a baseline by row. Pure.

Takes sums, since a table may hold a million rows. Definitions: README, "Scores".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from playground import statistics
from playground.statistics import PAIRS, Paired

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sums:
    """One column's scores: of `n` their sum and squares, whether all are 0 or 1, and what has no score.

    `failed`: how many of the n are rows that failed, and so count as wrong; `null`: those that could not be
    scored; `rows`: answered rows, scored or not yet.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    binary: bool = True
    failed: int = 0
    null: int = 0
    rows: int = 0

    @property
    def left(self) -> int:
        """Answered rows that the scorer has not come to."""
        return max(0, self.rows - self.n - self.null)


@dataclass(frozen=True)
class Mean:
    """A mean and its interval at CONFIDENCE; no interval below PAIRS rows."""

    value: float | None
    low: float | None = None
    high: float | None = None


def mean(sums: Sums) -> Mean:
    """Wilson's interval where every score is 0 or 1, else that of Student's t, within 0…1."""
    if not sums.n:
        return Mean(None)
    middle = sums.total / sums.n
    if sums.n < PAIRS:
        return Mean(middle)
    if sums.binary:
        return Mean(middle, *statistics.wilson(round(sums.total), sums.n, CONFIDENCE))
    found = _paired(sums.n, sums.total, sums.squares)
    low, high = found.interval(1 - CONFIDENCE)
    return Mean(middle, max(0.0, low), min(1.0, high))


@dataclass(frozen=True)
class PairSums:
    """Column minus baseline, over the `n` rows that both have a score of.

    `even`: every difference is -1, 0 or 1, as of scores that are right or wrong.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    wins: int = 0
    losses: int = 0
    even: bool = True

    @property
    def ties(self) -> int:
        return self.n - self.wins - self.losses


@dataclass(frozen=True)
class Versus:
    """What may be said of a column against the baseline.

    `low`, `high`: of the mean difference, at the level it was decided at; None below PAIRS rows, and where
    all rows differ by the same. `p`: by the sign test where scores are right or wrong, else by Student's t.
    """

    pairs: PairSums
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    level: float | None = None
    found: bool = False

    @property
    def verdict(self) -> str:
        """ "better", "worse", "same" (not told apart), "few" (rows)."""
        if self.p is None:
            return "few"
        return ("better" if (self.mean or 0) > 0 else "worse") if self.found else "same"


def versus(several: Sequence[PairSums]) -> list[Versus]:
    """Each of a table's comparisons, decided together by Holm at statistics.ALPHA."""
    chances = {at: _chance(one) for at, one in enumerate(several) if one.n >= PAIRS}
    decided = dict(zip(chances, statistics.holm(list(chances.values())), strict=True))
    return [_versus(one, chances.get(at), decided.get(at)) for at, one in enumerate(several)]


def _versus(pairs: PairSums, chance: float | None, decision: statistics.Decision | None) -> Versus:
    middle = pairs.total / pairs.n if pairs.n else None
    if decision is None:
        return Versus(pairs, middle)
    found = _paired(pairs.n, pairs.total, pairs.squares)
    if not found.error:
        return Versus(pairs, middle, None, None, chance, decision.level, decision.found)
    low, high = found.interval(decision.level)
    return Versus(pairs, middle, max(-1.0, low), min(1.0, high), chance, decision.level, decision.found)


def _chance(pairs: PairSums) -> float:
    if pairs.even:
        return statistics.sign_test(pairs.wins, pairs.losses)
    return _paired(pairs.n, pairs.total, pairs.squares).p


def _paired(n: int, total: float, squares: float) -> Paired:
    """As `statistics.paired` has it, from sums."""
    middle = total / n
    # Of equal values rounding can leave a little below or above zero.
    spread = squares - n * middle * middle
    variance = 0.0 if spread < 1e-12 * max(1.0, squares) else spread / (n - 1)
    return Paired(n, middle, math.sqrt(variance / n))
