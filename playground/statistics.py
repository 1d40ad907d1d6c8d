"""What numbers allow to be said: intervals of proportions, paired differences, several tests at once. Pure.

Definitions: README, "Differences between columns". Nothing here knows what was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

ALPHA = 0.01
POWER = 0.9
# Below so many pairs only raw values are shown.
PAIRS = 10
# Coins up to which their chances are added one by one; beyond, the same sum as an incomplete beta function.
EXACT = 500


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, low and high in 0…1; (0, 1) where nothing was counted.

    Wilson (1927), without continuity correction. ValueError for counts or a confidence that cannot be.
    """
    if not 0 <= successes <= n or not 0 < confidence < 1:
        raise ValueError(f"{successes} of {n} at {confidence} is no proportion")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    low = 0.0 if successes == 0 else (middle - spread) / whole
    high = 1.0 if successes == n else (middle + spread) / whole
    return low, high


# Student's t


def two_sided(t: float, freedom: int) -> float:
    """The chance of a Student's t at least as far from 0 as `t`, with `freedom` degrees of freedom."""
    if math.isinf(t):
        return 0.0
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: int) -> float:
    """The t ≥ 0 that is exceeded to either side with the chance `level`: quantile(0.05, 19) is 2.093."""
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"no quantile of t at {level} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > level:
        low, high = high, high * 2
    # Halved until the last digits of a float.
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > level else (low, middle)
    return high


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logs + a * math.log(x) + b * math.log1p(-x)) / a
    return front * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """That fraction's value by Lentz's method, to the last digits of a float."""
    tiny = 1e-300
    upper, lower = 1.0, 1 - (a + b) * x / (a + 1)
    lower = 1 / (lower or tiny)
    value = lower
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for part in (even, odd):
            lower = 1 / ((1 + part * lower) or tiny)
            upper = (1 + part / upper) or tiny
            change = lower * upper
            value *= change
        if abs(change - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the fraction of beta({a}, {b}) at {x} does not settle")


# Pairs


@dataclass(frozen=True)
class Paired:
    """Differences of logarithms, one a pair: their mean, its standard error, and its chance by noise."""

    n: int
    mean: float
    error: float

    @property
    def p(self) -> float:
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return two_sided(self.mean / self.error, self.n - 1)

    def interval(self, level: float = ALPHA) -> tuple[float, float]:
        """The t interval that misses the true mean with the chance `level`."""
        reach = quantile(level, self.n - 1) * self.error
        return self.mean - reach, self.mean + reach

    def findable(self, level: float = ALPHA, power: float = POWER) -> float:
        """The smallest mean that a test at `level` finds with the chance `power`, at this run's noise."""
        # One-sided, since only one side counts once a difference is there.
        reach = quantile(level, self.n - 1) + quantile(2 * (1 - power), self.n - 1)
        return reach * self.error


def paired(differences: Sequence[float]) -> Paired | None:
    """What pairs say; None below PAIRS of them."""
    n = len(differences)
    if n < PAIRS:
        return None
    mean = math.fsum(differences) / n
    variance = math.fsum((one - mean) ** 2 for one in differences) / (n - 1)
    return Paired(n, mean, math.sqrt(variance / n))


def sign_test(more: int, less: int) -> float:
    """The exact two-sided chance of so uneven a split by a fair coin: McNemar's test of discordant pairs."""
    n, fewer = more + less, min(more, less)
    if n > EXACT:
        return min(1.0, 2 * _beta(n - fewer, fewer + 1, 0.5))
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)


# Several at once


@dataclass(frozen=True)
class Decision:
    """Whether a test of several found something, and at which level it was decided."""

    found: bool
    level: float


def holm(chances: Sequence[float], alpha: float = ALPHA) -> list[Decision]:
    """Holm's step-down test: the chance that any find of them all is noise is at most `alpha`.

    An interval at a decision's level leaves out 0 where something was found, and holds it elsewhere.
    """
    order = sorted(range(len(chances)), key=lambda at: chances[at])
    decided: dict[int, Decision] = {}
    going = True
    level = alpha
    for rank, at in enumerate(order):
        if going:
            level = alpha / (len(chances) - rank)
            going = chances[at] <= level
        decided[at] = Decision(going, level)
    return [decided[at] for at in range(len(chances))]
