"""Statistics against published values, and what they promise over many runs."""

import math
import random
import time

import pytest

from playground.statistics import Paired, holm, paired, quantile, sign_test, two_sided, wilson

SEEDS = range(200)

# Wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_a_wilson_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_a_wilson_interval_is_symmetric_and_narrows() -> None:
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    assert wilson(10, 10)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    wide, narrow = wilson(5, 10, 0.99), wilson(50, 100, 0.99)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 4, 0.95), (5, 4, 0.95), (1, 4, 1.0)])
def test_a_wilson_interval_of_nonsense_is_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, n, confidence)


# Student's t


@pytest.mark.parametrize(
    ("level", "freedom", "t"),
    [
        # Two-sided critical values, NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
        (0.20, 1, 3.078),
        (0.05, 1, 12.706),
        (0.01, 1, 63.657),
        (0.05, 5, 2.571),
        (0.01, 9, 3.250),
        (0.002, 9, 4.297),
        (0.10, 19, 1.729),
        (0.05, 19, 2.093),
        (0.01, 19, 2.861),
        (0.002, 19, 3.579),
        (0.01, 100, 2.626),
    ],
)
def test_quantiles_of_t_are_the_published_ones(level: float, freedom: int, t: float) -> None:
    assert quantile(level, freedom) == pytest.approx(t, abs=6e-4)
    assert two_sided(quantile(level, freedom), freedom) == pytest.approx(level, rel=1e-9)


def test_one_and_two_degrees_of_freedom_have_closed_forms() -> None:
    for t in (0.1, 1.0, 3.0, 40.0):
        assert two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-9)
        assert two_sided(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)
    assert two_sided(0.0, 7) == pytest.approx(1)
    assert two_sided(math.inf, 7) == 0


def test_a_level_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no quantile"):
        quantile(0.0, 5)


# Pairs


def test_pairs_give_the_textbook_t() -> None:
    # Student's sleep data (1908), hours gained by one drug over the other: t = 4.0621, p = 0.002833.
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = paired(hours)
    assert found is not None
    assert found.mean == pytest.approx(1.58)
    assert found.mean / found.error == pytest.approx(4.0621, abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.interval(0.05) == pytest.approx((0.7001, 2.4599), abs=1e-4)


def test_below_ten_pairs_nothing_is_said() -> None:
    assert paired([0.5] * 9) is None
    assert paired([0.5] * 10) is not None


def test_pairs_without_any_noise_are_told_apart() -> None:
    assert Paired(10, 0.0, 0.0).p == 1
    assert Paired(10, 0.1, 0.0).p == 0


def test_uneven_splits_have_exact_chances() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(10, 0) == sign_test(0, 10) == pytest.approx(2 / 1024)
    assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)


@pytest.mark.parametrize("fewer", [0, 150, 400, 480, 500])
def test_many_coins_have_the_chance_that_adding_one_by_one_gives(fewer: int) -> None:
    n = 1000
    added = sum(math.comb(n, k) for k in range(fewer + 1))
    assert sign_test(fewer, n - fewer) == pytest.approx(min(1, 2 * added / 2**n), rel=1e-9)


def test_a_million_coins_are_no_work() -> None:
    before = time.monotonic()
    # A thousand off the middle is two standard deviations, each of 500.
    assert sign_test(499_000, 501_000) == pytest.approx(0.0456, abs=1e-4)
    assert time.monotonic() - before < 0.5


def test_holm_steps_down_and_stops_at_the_first_miss() -> None:
    decisions = holm([0.01, 0.04, 0.03, 0.005], 0.05)
    assert [one.found for one in decisions] == [True, False, False, True]
    levels = [one.level for one in decisions]
    assert levels == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert holm([]) == []


# What they promise. The seeds are the first two hundred, none chosen.


def noisy(seed: int, slower: float, pairs: int = 20, variation: float = 0.03) -> list[float]:
    """Log-ratios of two engines whose times each vary so much."""
    chance = random.Random(seed)
    times = [
        (math.exp(chance.gauss(0, variation)), slower * math.exp(chance.gauss(0, variation)))
        for _ in range(pairs)
    ]
    return [math.log(second / first) for first, second in times]


def finds(differences: list[float]) -> bool:
    found = paired(differences)
    assert found is not None
    return holm([found.p])[0].found


def test_identical_engines_have_few_false_winners_and_a_slow_one_is_found() -> None:
    false = sum(finds(noisy(seed, 1.0)) for seed in SEEDS)
    assert false <= 6, f"{false} false winners"
    hits = sum(finds(noisy(seed, 1.05)) for seed in SEEDS)
    assert hits >= 190, f"only {hits} found"


def test_the_smallest_difference_is_found_as_often_as_is_said() -> None:
    # At this noise in truth: the standard error of twenty pairs of two times that vary by 3 % each.
    smallest = Paired(20, 0.0, 0.03 * math.sqrt(2 / 20)).findable()
    hits = sum(finds(noisy(seed, math.exp(smallest))) for seed in range(1000))
    assert 870 <= hits <= 930, hits


def test_intervals_agree_with_their_decisions() -> None:
    tests = [paired(noisy(seed, 1 + seed % 3 / 50)) for seed in SEEDS]
    rows = [one for one in tests if one is not None]
    for row, decision in zip(rows, holm([row.p for row in rows]), strict=True):
        low, high = row.interval(decision.level)
        assert decision.found == (not low <= 0 <= high)
