"""A noise run's result in words and as intervals to draw. Pure: reads what `noise_report` made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.noise_report import METRICS
from playground.statistics import PAIRS
from playground.subjects import letter

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
STARTS = 3
WIDTH = 100.0
LEAST = math.log(1.02)


@dataclass(frozen=True)
class Bar:
    """An interval on a scale that a page shares: places from 0 to WIDTH, no difference in the middle."""

    low: float
    middle: float
    high: float
    floor_low: float
    floor_width: float


@dataclass(frozen=True)
class Verdict:
    """One metric of one pair. `kind`: "same", "differs", "void", "none"."""

    metric: str
    kind: str
    words: str
    bar: Bar | None = None
    raw: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Row:
    """One pair, its verdicts by the order of METRICS."""

    a: str
    b: str
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Table:
    """Rows whose bars share one scale: at its ends something is slower by `reach`."""

    rows: Sequence[Row]
    reach: str


def tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Each column against itself, then each against each."""
    own = [test for test in result["speed"] if test["a"] == test["b"]]
    return _table(own), _table([test for test in result["speed"] if test["a"] != test["b"]])


def _table(tests: Sequence[Mapping[str, Any]]) -> Table:
    limit = _limit(tests)
    pairs: dict[tuple[int, int], list[Verdict]] = {}
    for test in tests:
        pairs.setdefault((test["a"], test["b"]), []).append(verdict(test, limit))
    rows = [Row(letter(a), letter(b), verdicts) for (a, b), verdicts in pairs.items()]
    return Table(rows, percent(math.exp(limit)))


def verdict(test: Mapping[str, Any], limit: float) -> Verdict:
    """What may be said of it."""
    name = NAMES[test["metric"]]
    if "ratio" not in test:
        return Verdict(name, "none", _too_few(test["n"]), raw=test["raw"])
    kind = "void" if test["void"] else "differs" if test["found"] else "same"
    return Verdict(name, kind, _words(test, kind), _bar(test, limit))


def _too_few(pairs: int) -> str:
    if pairs == 0:
        return "n/a: no pair of answers has it"
    return f"n/a: {pairs} pair{'' if pairs == 1 else 's'}, at least {PAIRS} are needed; raw values"


def _words(test: Mapping[str, Any], kind: str) -> str:
    a, b = letter(test["a"]), letter(test["b"])
    own = test["a"] == test["b"]
    if kind == "same":
        same = "the same as itself" if own else "the same within the noise"
        return f"{same}: a difference under {percent(test['findable'])} could not have been found"
    if kind == "void":
        return "no verdict: one of the two differs from itself, so something else changed during the run"
    low, high, ratio = test["low"], test["high"], test["ratio"]
    slow = "its second answers are" if own else f"{b} is"
    if ratio < 1:
        slow = "its first answers are" if own else f"{a} is"
        low, high, ratio = 1 / high, 1 / low, 1 / ratio
    words = f"{slow} {percent(ratio)} slower ({percent(low)} to {percent(high)})"
    return f"differs from itself: {words}" if own else words


def percent(ratio: float) -> str:
    """1.083 → "8 %", 1.0042 → "0.4 %", 4.1 → "310 %", with a space that does not break."""
    share = 100 * (ratio - 1)
    return f"{share:.0f}\u00a0%" if share >= 2.95 else f"{share:.1f}\u00a0%"


def _limit(tests: Sequence[Mapping[str, Any]]) -> float:
    """How far the scale reaches to either side, as a logarithm."""
    ends = [
        abs(math.log(test[name])) for test in tests if "ratio" in test for name in ("low", "high", "findable")
    ]
    return max([LEAST, *ends]) * 1.05


def _bar(test: Mapping[str, Any], limit: float) -> Bar:
    def at(ratio: float) -> float:
        return round(WIDTH / 2 * (1 + math.log(ratio) / limit), 2)

    low, middle, high, floor = (at(test[name]) for name in ("low", "ratio", "high", "findable"))
    return Bar(low, middle, high, round(WIDTH - floor, 2), round(2 * floor - WIDTH, 2))


def texts(result: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """For each two columns how often their texts differ; None where prompts were not identical."""
    if result["text"] is None:
        return None
    return [_text(test, result["unit"]) for test in result["text"]]


def _text(test: Mapping[str, Any], unit: str) -> dict[str, str]:
    a, b, n = letter(test["a"]), letter(test["b"]), test["n"]
    of = f"of {n} {unit}{'' if n == 1 else 's'}"
    said = {
        None: f"n/a: {n} pairs, at least {PAIRS} are needed; only the counts show",
        True: "their texts differ more than either differs from itself",
        False: "no more than they differ from themselves",
    }
    return {
        "a": a,
        "b": b,
        "differ": f"{test['differ']} {of}",
        "self_a": f"{test['self_a']} {of}",
        "self_b": f"{test['self_b']} {of}",
        "words": said[test["found"]]
        if test["differ"] or test["found"] is None
        else "identical text is identical",
        "kind": "differs" if test["found"] else "same",
    }


def asked(settings: Mapping[str, Any]) -> str:
    """What a run asked, as its heading: "12 prompts, 1 round, 1 at a time, warm, 64 tokens at most"."""
    many = len(settings["prompts"])
    prompts = "this prompt only" if settings["only"] else f"{many} prompt{'' if many == 1 else 's'}"
    if settings.get("dataset"):
        prompts += f" of {settings['dataset']}"
    rounds = f"{settings['rounds']} round{'' if settings['rounds'] == 1 else 's'}"
    cache = f"{settings['cache']} caches"
    return ", ".join(
        [
            prompts,
            rounds,
            f"{settings['at_once']} at a time",
            cache,
            f"{settings['max_tokens']} tokens at most",
        ]
    )


def page(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows of a finished run."""
    own, pairs = tables(result)
    return {
        "columns": [
            {**column, **summary, "letter": letter(place)}
            for place, (column, summary) in enumerate(
                zip(settings["columns"], result["columns"], strict=True)
            )
        ],
        "own": own,
        "pairs": pairs,
        "texts": texts(result),
        "floor": _floor(result),
        "tests": result["tests"],
        "unit": result["unit"],
        "notes": _notes(settings, result),
    }


def _floor(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """By metric, the smallest difference that could have been found in every pair of two columns.

    Of one column alone: between its own answers.
    """
    found = []
    alone = len(result["columns"]) == 1
    for metric in METRICS:
        known = [test for test in result["speed"] if test["metric"] == metric]
        tests = [test for test in known if alone or test["a"] != test["b"]]
        least = [test["findable"] for test in tests if "findable" in test]
        found.append((NAMES[metric], percent(max(least)) if least and len(least) == len(tests) else "n/a"))
    return found


def _notes(settings: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know to read the rest right."""
    columns = result["columns"]
    notes = [
        "Timed one at a time on shared hardware; interleaved."
        if settings["shared"]
        else "Interleaved; timed one column at a time."
    ]
    if any(column["starts"] < STARTS for column in columns):
        notes.append(f"True of these starts, not of the engine: that takes at least {STARTS} starts of each.")
    if result["unit"] == "round":
        notes.append("This prompt only: pairs are repeats of one prompt, and say nothing of others.")
    notes += _cached(settings, columns)
    tokens = [column["tokens"] for column in columns if column["tokens"] is not None]
    if tokens and max(tokens) > 1.02 * min(tokens):
        notes.append("The columns' answers are not equally long: E2E compares different amounts of work.")
    return notes


def _cached(settings: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """What caches met although they were to be cold: chat templates may put words before ours."""
    if settings["cache"] != "cold":
        return []
    return [
        f"{letter(place)}: its cache knew {column['cached']:g} of {column['prompt']:g} prompt tokens all the "
        "same. Chat templates may put words of their own before the digits."
        for place, column in enumerate(columns)
        if column["cached"] and column["prompt"]
    ]
