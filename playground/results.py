"""A result as the page shows it: vectors and how alike they are, documents by rank, labels by share. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

CUT = 160
SHADES = 10


class Answered(Protocol):
    """What is read of a Generation."""

    result: Any
    request: Any


@dataclass(frozen=True)
class Bar:
    """One score. `start` and `width` in percent of the scale that all bars of a result share."""

    name: str
    score: float
    start: float
    width: float


@dataclass(frozen=True)
class Row:
    """One text with its vector's facts, or with its labels, most likely first."""

    place: int
    text: str
    norm: float = 0.0
    first: tuple[float, ...] = ()
    bars: tuple[Bar, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Cell:
    """How alike two texts are; `shade` 0 to 10, None where a vector has no direction."""

    value: float | None
    shade: int


@dataclass(frozen=True)
class Shown:
    """`kind`: "embedding", "rerank" or "classification"."""

    kind: str
    rows: tuple[Row, ...] = ()
    bars: tuple[Bar, ...] = ()
    dimension: int = 0
    matrix: tuple[tuple[Row, tuple[Cell, ...]], ...] = ()


def shown(answer: Answered) -> Shown | None:
    """What came of an answer without text; None for one with text, or before it came."""
    found = answer.result
    if "similarity" in found:
        return _vectors(found, answer.request["input"])
    if "ranks" in found:
        return Shown("rerank", bars=_ranks(found["ranks"], answer.request["documents"]))
    if "texts" in found:
        pairs = enumerate(zip(answer.request["input"], found["texts"], strict=True))
        return Shown("classification", rows=tuple(_labels(place, text, one) for place, (text, one) in pairs))
    return None


def _vectors(found: dict[str, Any], texts: Sequence[str]) -> Shown:
    rows = tuple(
        Row(place, _cut(text), norm, tuple(first))
        for place, (text, norm, first) in enumerate(zip(texts, found["norms"], found["first"], strict=True))
    )
    cells = [tuple(Cell(value, _shade(value)) for value in line) for line in found["similarity"]]
    matrix = tuple(zip(rows, cells, strict=True)) if len(rows) > 1 else ()
    return Shown("embedding", rows=rows, dimension=found["dimension"], matrix=matrix)


def _ranks(ranks: Sequence[tuple[int, float]], documents: Sequence[str]) -> tuple[Bar, ...]:
    scores = [score for _, score in ranks]
    return _bars([(documents[place], score) for place, score in ranks], min(0.0, *scores), max(0.0, *scores))


def _labels(place: int, text: str, one: dict[str, Any]) -> Row:
    bars = _bars([(label, share) for label, share in one["scores"]], 0.0, 1.0)
    return Row(place, _cut(text), bars=bars, more=one["more"])


def _bars(scores: Sequence[tuple[str, float]], low: float, high: float) -> tuple[Bar, ...]:
    """On one scale from `low` to `high`, each from zero to its score."""
    scale = 100 / (high - low) if high > low else 0.0
    return tuple(
        Bar(name, score, round((min(score, 0.0) - low) * scale, 2), round(abs(score) * scale, 2))
        for name, score in scores
    )


def _shade(value: float | None) -> int:
    return round(max(value or 0.0, 0.0) * SHADES)


def _cut(text: str) -> str:
    return text if len(text) <= CUT else text[: CUT - 1] + "…"
