"""A batch's scores as people read them: what each scorer does, and a line a column. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground import score_report
from playground.score_report import Mean, PairSums, Sums, Versus
from playground.scorers import KINDS, Scorer
from playground.statistics import PAIRS

MINUS = "\u2212"


@dataclass(frozen=True)
class Line:
    """One column's line. `kind` of its verdict: see Versus.verdict; "" for the baseline."""

    place: int
    column: Any
    sums: Sums
    score: str
    interval: str
    versus: Versus | None
    words: str = ""
    kind: str = ""
    test: str = ""


@dataclass(frozen=True)
class Shown:
    """A scorer with its lines. `partial`: it scores its own model's answers."""

    place: int
    scorer: Scorer
    says: str
    lines: tuple[Line, ...]
    partial: str = ""


def shown(
    scorers: Sequence[tuple[int, Scorer]],
    columns: Sequence[Any],
    baseline: int,
    sums: Mapping[tuple[int, int], Sums],
    pairs: Mapping[tuple[int, int], PairSums],
) -> list[Shown]:
    """Every scorer. All comparisons of the page are decided together."""
    others = [(place, column.pk) for place, _ in scorers for column in columns if column.pk != baseline]
    decided = score_report.versus([pairs.get(key, PairSums()) for key in others])
    against = dict(zip(others, decided, strict=True))
    return [
        Shown(
            place,
            scorer,
            says(scorer),
            tuple(
                _line(
                    at, column, sums[place, column.pk], against.get((place, column.pk)), _binary(sums, place)
                )
                for at, column in enumerate(columns, 1)
            ),
            _partial(scorer, columns),
        )
        for place, scorer in scorers
    ]


def _binary(sums: Mapping[tuple[int, int], Sums], place: int) -> bool:
    """Whether the scorer only says right or wrong: then shares are shown, else means."""
    return all(one.binary for (at, _), one in sums.items() if at == place)


def _line(at: int, column: Any, sums: Sums, versus: Versus | None, binary: bool) -> Line:
    mean = score_report.mean(sums)
    score, interval = _score(mean, binary)
    if versus is None:
        return Line(at, column, sums, score, interval, None)
    return Line(
        at, column, sums, score, interval, versus, _versus(versus, binary), versus.verdict, _test(versus)
    )


def _score(mean: Mean, binary: bool) -> tuple[str, str]:
    if mean.value is None:
        return "n/a", ""
    if mean.low is None or mean.high is None:
        return _amount(mean.value, binary), ""
    if binary:
        return _amount(mean.value, True), f"{100 * mean.low:.1f} to {100 * mean.high:.1f} %"
    return _amount(mean.value, False), f"{mean.low:.3f} to {mean.high:.3f}"


def _amount(value: float, binary: bool) -> str:
    return f"{100 * value:.1f} %" if binary else f"{value:.3f}"


def _versus(versus: Versus, binary: bool) -> str:
    n = versus.pairs.n
    if versus.verdict == "few":
        return f"{n} row{'s' * (n != 1)} in common: {PAIRS} at least for a verdict"
    if not versus.pairs.wins and not versus.pairs.losses:
        return "the same on every row"
    amount = _difference(versus.mean or 0.0, binary)
    if versus.found:
        amount = f"{versus.verdict} by {amount.lstrip('+' + MINUS)}"
    else:
        amount = f"not told apart: {amount}"
    if versus.low is not None and versus.high is not None:
        amount += f" ({_difference(versus.low, binary)} to {_difference(versus.high, binary)})"
    return amount + " points" * binary


def _difference(value: float, binary: bool) -> str:
    """With its sign; of shares in percentage points."""
    digits = f"{100 * abs(value):.1f}" if binary else f"{abs(value):.3f}"
    sign = "" if not float(digits) else "+" if value > 0 else MINUS
    return sign + digits


def _test(versus: Versus) -> str:
    if versus.p is None:
        return ""
    test = "sign test" if versus.pairs.even else "paired t test"
    chance = "p < 0.0001" if versus.p < 0.0001 else f"p = {versus.p:.4f}"
    return f"{chance} by the {test}"


def _partial(scorer: Scorer, columns: Sequence[Any]) -> str:
    if scorer.kind != "judge":
        return ""
    own = [at for at, column in enumerate(columns, 1) if column.deployment_id == scorer.deployment]
    if not own:
        return ""
    return f"{scorer.served} judges its own answers in column {own[0]}: models favour those."


# What a scorer does


def says(scorer: Scorer) -> str:
    """In words, with everything that was chosen; its kind too where its title does not say it."""
    told = f"{SAYS[scorer.kind](scorer)}."
    return f"{KINDS[scorer.kind]}: {told}" if scorer.name else told[0].upper() + told[1:]


def _wanted(scorer: Scorer) -> str:
    if scorer.against == "fixed":
        return f"“{scorer.fixed[:80]}{'…' * (len(scorer.fixed) > 80)}”"
    return f"column {scorer.cell}" if scorer.against == "cell" else "the row's expected answer"


def _ignoring(scorer: Scorer) -> str:
    names = {"case": "case", "space": "white space", "punctuation": "punctuation"}
    found = [words for name, words in names.items() if getattr(scorer, name)]
    return f", ignoring {' and '.join(found)}" if found else ", to the letter"


def _number(scorer: Scorer) -> str:
    which = {"last": "the last number", "first": "the first number", "only": "the only number"}[scorer.pick]
    near = [f"{scorer.absolute}"] if float(scorer.absolute or 0) else []
    near += [f"{scorer.relative} of it"] if float(scorer.relative or 0) else []
    return f"{which} is {_wanted(scorer)}{', within ' + ' or '.join(near) if near else ''}"


SAYS: Mapping[str, Any] = {
    "exact": lambda one: f"the answer is {_wanted(one)}{_ignoring(one)}",
    "contains": lambda one: (
        f"{_wanted(one)} stands in the answer{' as whole words' * one.whole}{_ignoring(one)}"
    ),
    "regex": lambda one: (
        f"{_wanted(one)} {'matches all of' if one.whole else 'is found in'} the answer"
        f"{', ignoring case' * one.case}"
    ),
    "number": _number,
    "schema": lambda one: f"the answer is JSON that fits{', in a code block or not' * one.fenced}",
    "similarity": lambda one: (
        f"the cosine of the answer and {_wanted(one)} by {one.served}"
        f"{'' if one.least is None else f' is at least {one.least:g}'}"
    ),
    "judge": lambda one: f"{one.served} reads the answer and says 0 to 10",
}
