"""Usage step by step as stacked bars, one series a source, and the same numbers as a table. Pure.

The drawing is WIDTH wide and HEIGHT high and is stretched to its place; its words stand beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from endpoints.usage_report import SOURCES, Line, Period

WIDTH, HEIGHT = 1000.0, 100.0
FIGURES: dict[str, tuple[str, Callable[[Line], float | None]]] = {
    "requests": ("Requests", lambda line: line.requests),
    "errors": ("Errors", lambda line: line.errors),
    "tokens": ("Tokens in and out", lambda line: _sum(line.prompt_tokens, line.completion_tokens)),
    "gpu": ("GPU-hours", lambda line: line.gpu_h),
    "core": ("Core-hours", lambda line: line.core_h),
    "cost": ("Cost", lambda line: line.cost),
}


@dataclass(frozen=True)
class Bar:
    series: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Row:
    """One step: the value of each source shown (None: unknown, or nothing there), and their sum."""

    label: str
    values: tuple[float | None, ...]
    total: float | None


@dataclass(frozen=True)
class Chart:
    figure: str
    title: str
    sources: tuple[tuple[int, str], ...]
    """(series, name) of each source that has something."""
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    most: float
    words: str

    @property
    def first(self) -> str:
        return self.rows[0].label

    @property
    def last(self) -> str:
        return self.rows[-1].label


def of(lines: Sequence[Line], when: Period, figure: str) -> Chart | None:
    """None where no step has any of it."""
    title, value = FIGURES[figure]
    known = {(line.label, line.source): value(line) for line in lines}
    shown = [name for name in SOURCES if any(source == name and n for (_, source), n in known.items())]
    rows = [_row(label, [known.get((label, name)) for name in shown]) for label in _labels(when)]
    most = max((row.total or 0 for row in rows), default=0)
    if not most:
        return None
    series = {name: place for place, name in enumerate(SOURCES)}
    bars = tuple(_bars(rows, [series[name] for name in shown], most))
    return Chart(
        figure,
        title,
        tuple((series[name], SOURCES[name]) for name in shown),
        tuple(rows),
        bars,
        most,
        f"{title} by {when.step}, {rows[0].label} to {rows[-1].label}; the table below has the numbers",
    )


def _labels(when: Period) -> Iterator[str]:
    """Every step of the period, those without anything too."""
    if when.step == "day":
        yield from ((when.first + timedelta(days=n)).isoformat() for n in range(when.days))
        return
    for n in range(24 * when.days):
        yield (when.begin + timedelta(hours=n)).strftime("%Y-%m-%d %H:00")


def _row(label: str, values: list[float | None]) -> Row:
    return Row(label, tuple(values), _sum(*values))


def _bars(rows: Sequence[Row], series: Sequence[int], most: float) -> Iterator[Bar]:
    step = WIDTH / len(rows)
    gap = min(step * 0.2, 4.0)
    for place, row in enumerate(rows):
        top = HEIGHT
        for own, value in zip(series, row.values, strict=True):
            if not value:
                continue
            height = HEIGHT * value / most
            top -= height
            x = place * step + gap / 2
            yield Bar(own, round(x, 2), round(top, 2), round(step - gap, 2), round(height, 2))


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
