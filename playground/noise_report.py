"""What the answers of a noise run allow to be said: differences within columns and between them.

Definitions: README, "Differences between columns". `evaluate` makes a run's result of its samples:

    {"columns": [{"answers", "failed", "error", "lagged", "approximate", "rough", "starts",
                  "ttft", "tpot", "e2e", "tokens", "prompt", "cached"}],
     "speed": [{"metric", "a", "b", "n", "raw"} and from 10 pairs on
               {"ratio", "low", "high", "findable", "found", "void"}],
     "text": None | [{"a", "b", "n", "differ", "self_a", "self_b", "found": bool | None}],
     "tests": how many were decided together, "unit": "prompt" | "round"}

Columns go by their place. `a == b` is a column against itself. Ratios are b's time over a's, geometric means;
medians are milliseconds and tokens. `findable` is the smallest ratio above 1 that would have been found nine
times of ten. "void": a or b differs from itself, so that nothing is said of both. "rough" counts answers
whose chunks held several tokens, so that TPOT is approximate.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Any

from playground.figures import Figures, figures
from playground.models import Generation, Measurement
from playground.noise_order import ARMS
from playground.statistics import PAIRS, Decision, Paired, holm, paired, sign_test

METRICS = ("ttft", "tpot", "e2e")


@dataclass(frozen=True)
class Observed:
    """One answer of the run."""

    column: int
    prompt: int
    round: int
    arm: str
    state: str
    text: str = ""
    error: str = ""
    replica: int | None = None
    timings: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None
    reasoning: str = ""

    @property
    def answered(self) -> bool:
        return self.state == Generation.State.COMPLETE

    @cached_property
    def figures(self) -> Figures:
        return figures(self)


def evaluate(measurement: Measurement) -> dict[str, Any]:
    """The result of a run whose samples are all there."""
    chosen = measurement.settings
    places = {column["pk"]: place for place, column in enumerate(chosen["columns"])}
    rows = measurement.samples.filter(column__in=places)
    seen = [
        Observed(
            places[row.column_id],
            row.prompt,
            row.round,
            row.arm,
            row.state,
            row.text,
            row.error,
            row.replica_id,
            row.timings,
            row.usage,
        )
        for row in rows.iterator()
        if row.column_id is not None
    ]
    only = len(chosen["prompts"]) == 1
    return compare(seen, len(places), only=only, texts=chosen["cache"] == "warm")


def compare(seen: Sequence[Observed], columns: int, *, only: bool, texts: bool) -> dict[str, Any]:
    """The same from plain answers. `only`: pairs are rounds of one prompt. `texts`: they are compared too."""
    speed = [_speed(seen, metric, a, b, only) for a, b in _pairs(columns) for metric in METRICS]
    words = [_text(seen, a, b, only) for a, b in combinations(range(columns), 2)] if texts else []
    every: list[_SpeedTest | _TextTest] = [*speed, *words]
    judged = [test for test in every if test.p is not None]
    decided = holm([test.p for test in judged if test.p is not None])
    for test, decision in zip(judged, decided, strict=True):
        test.decide(decision)
    _avoid(speed)
    return {
        "columns": [_summary([one for one in seen if one.column == place]) for place in range(columns)],
        "speed": [test.told for test in speed],
        "text": [test.told for test in words] if texts else None,
        "tests": len(judged),
        "unit": "round" if only else "prompt",
    }


def _avoid(speed: Sequence["_SpeedTest"]) -> None:
    """Nothing is said of two columns where one of them differs from itself: something else changed."""
    told = [test.told for test in speed if test.p is not None]
    unsteady = {(test["metric"], test["a"]) for test in told if test["a"] == test["b"] and test["found"]}
    for test in told:
        own = {(test["metric"], test["a"]), (test["metric"], test["b"])}
        test["void"] = test["a"] != test["b"] and bool(own & unsteady)


def best(result: Mapping[str, Any], columns: int) -> dict[str, int | None]:
    """By metric, the place of the column found faster than every other; None where there is none."""
    return {metric: _best(result, columns, metric) for metric in METRICS}


def _best(result: Mapping[str, Any], columns: int, metric: str) -> int | None:
    beaten: dict[int, set[int]] = defaultdict(set)
    for test in result["speed"]:
        if test["metric"] == metric and test["a"] != test["b"] and test.get("found") and not test["void"]:
            fast, slow = (test["a"], test["b"]) if test["ratio"] > 1 else (test["b"], test["a"])
            beaten[fast].add(slow)
    return next((place for place, others in beaten.items() if len(others) == columns - 1 > 0), None)


def _pairs(columns: int) -> list[tuple[int, int]]:
    """Each column with itself, then each with each."""
    return [*((place, place) for place in range(columns)), *combinations(range(columns), 2)]


def _summary(seen: Sequence[Observed]) -> dict[str, Any]:
    """What is said of one column's answers by themselves."""
    failed = [one for one in seen if not one.answered]
    known = [one.figures for one in seen if one.answered]
    fair = [one for one in known if one.comparable]

    def middle(values: Iterable[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return median(there) if there else None

    return {
        "answers": len(seen),
        "failed": len(failed),
        "error": failed[0].error[:400] if failed else "",
        "lagged": sum(one.lagged for one in known),
        "approximate": sum(one.approximate_tokens and not one.lagged for one in known),
        "rough": sum(one.approximate_tpot for one in fair),
        "starts": len({one.replica for one in seen if one.replica is not None}),
        **{metric: middle(getattr(one, metric) for one in fair) for metric in METRICS},
        "tokens": middle(one.tokens for one in fair),
        "prompt": middle(one.prompt_tokens for one in known),
        "cached": middle(one.cached_tokens for one in known),
    }


# Speed


class _SpeedTest:
    """One metric of one pair: `told` is what the result says of it."""

    def __init__(self, metric: str, a: int, b: int, pairs: Sequence[tuple[float, float]]) -> None:
        self.told: dict[str, Any] = {"metric": metric, "a": a, "b": b, "n": len(pairs), "raw": []}
        self.found: Paired | None = paired([log_b - log_a for log_a, log_b in pairs])
        if len(pairs) < PAIRS:
            self.told["raw"] = [[round(math.exp(log), 2) for log in pair] for pair in pairs]

    @property
    def p(self) -> float | None:
        return None if self.found is None else self.found.p

    def decide(self, decision: Decision) -> None:
        assert self.found is not None
        low, high = self.found.interval(decision.level)
        numbers = {"ratio": self.found.mean, "low": low, "high": high}
        numbers["findable"] = self.found.findable(decision.level)
        self.told |= {name: round(math.exp(log), 5) for name, log in numbers.items()}
        self.told["found"] = decision.found


def _speed(seen: Sequence[Observed], metric: str, a: int, b: int, only: bool) -> _SpeedTest:
    """Logs of a's and b's times, averaged over the two arms of a round, then over the rounds of a prompt."""
    logs: dict[tuple[int, int], dict[tuple[int, str], float]] = defaultdict(dict)
    for one in seen:
        if one.column in (a, b) and (value := _fair(one, metric)):
            logs[one.prompt, one.round][one.column, one.arm] = math.log(value)
    pairs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (prompt, number), there in sorted(logs.items()):
        if both := _both(there, a, b):
            pairs[number if only else prompt].append(both)
    means = [
        (sum(x for x, _ in many) / len(many), sum(y for _, y in many) / len(many)) for many in pairs.values()
    ]
    return _SpeedTest(metric, a, b, means)


def _fair(one: Observed, metric: str) -> float | None:
    """The figure, where it may be compared."""
    known = one.figures
    if not one.answered or not known.comparable:
        return None
    value: float | None = getattr(known, metric)
    return value


def _both(there: Mapping[tuple[int, str], float], a: int, b: int) -> tuple[float, float] | None:
    """The two sides of a round: a column's own two arms, or the mean of each column's."""
    if a == b:
        first, second = (there.get((a, arm)) for arm in ARMS)
        return None if first is None or second is None else (first, second)
    sides = [[there[column, arm] for arm in ARMS if (column, arm) in there] for column in (a, b)]
    if not all(sides):
        return None
    first, second = (sum(side) / len(side) for side in sides)
    return first, second


# Text


class _TextTest:
    """Whether two columns' texts differ more often than each differs from itself."""

    def __init__(self, a: int, b: int, differ: Sequence[tuple[int, int, int]], rounds: int) -> None:
        """`differ`: of each prompt's rounds, in how many a and b, a and a, b and b differ."""
        self.told: dict[str, Any] = {"a": a, "b": b, "n": len(differ), "rounds": rounds, "found": None}
        counts = [sum(one[at] > 0 for one in differ) for at in range(3)]
        self.told |= dict(zip(("differ", "self_a", "self_b"), counts, strict=True))
        self.p: float | None = None
        if len(differ) >= PAIRS:
            # Both have to hold, so the weaker counts.
            self.p = max(self._exceeds(differ, 1), self._exceeds(differ, 2))

    def _exceeds(self, differ: Sequence[tuple[int, int, int]], own: int) -> float:
        more, less = (sum(sign * (one[0] - one[own]) > 0 for one in differ) for sign in (1, -1))
        return sign_test(more, less) if more > less else 1.0

    def decide(self, decision: Decision) -> None:
        self.told["found"] = decision.found


def _text(seen: Sequence[Observed], a: int, b: int, only: bool) -> _TextTest:
    """Exact McNemar's test by prompt: A1 and B1 against A1 and A2, and against B1 and B2."""
    texts: dict[tuple[int, int], dict[tuple[int, str], str]] = defaultdict(dict)
    for one in seen:
        if one.column in (a, b) and one.answered:
            texts[one.prompt, one.round][one.column, one.arm] = one.text
    differ: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for (prompt, number), there in sorted(texts.items()):
        if len(there) == 4:
            differ[number if only else prompt].append(_differences(there.__getitem__, a, b))
    rounds = max((len(many) for many in differ.values()), default=0)
    sums = [tuple(map(sum, zip(*many, strict=True))) for many in differ.values()]
    return _TextTest(a, b, [(one[0], one[1], one[2]) for one in sums], rounds)


def _differences(text: Callable[[tuple[int, str]], str], a: int, b: int) -> tuple[int, int, int]:
    first, second = ARMS
    pairs = [((a, first), (b, first)), ((a, first), (a, second)), ((b, first), (b, second))]
    x, y, z = (int(text(left) != text(right)) for left, right in pairs)
    return x, y, z
