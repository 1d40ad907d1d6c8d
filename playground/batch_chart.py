"""A histogram a column, one under the other over the same axis, so that shapes can be compared. Pure.

Coordinates are those of the SVG's viewBox. The last bar, apart, holds all beyond the 99th percentile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.batch_report import Bin

WIDTH, HEIGHT = 460, 96
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 8, 74
APART = 6
TITLES = {"e2e": "E2E", "ttft": "TTFT", "tokens": "Output tokens"}


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Tick:
    at: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Chart:
    column: int
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    words: str
    width: int = WIDTH
    height: int = HEIGHT
    bottom: int = BOTTOM


def of(histogram: Mapping[int, Sequence[Bin]], figure: str) -> list[Chart]:
    """A chart a column that has answers, by its pk; heights are shares of the column's own rows."""
    shares = [bin.count / total for bins in histogram.values() if (total := _total(bins)) for bin in bins]
    most = max(shares, default=0)
    return [_chart(pk, bins, figure, most) for pk, bins in histogram.items() if _total(bins)]


def _total(bins: Sequence[Bin]) -> int:
    return sum(bin.count for bin in bins)


def _chart(pk: int, bins: Sequence[Bin], figure: str, most: float) -> Chart:
    total, width = _total(bins), (WIDTH - LEFT - RIGHT - APART) / len(bins)
    bars = []
    for at, bin in enumerate(bins):
        tall = (BOTTOM - TOP) * bin.count / total / most
        # What was counted shows, however few it is.
        tall = max(tall, 1.5) if bin.count else 0.0
        x = LEFT + at * width + (APART if at == len(bins) - 1 else 0)
        words = f"{_value(bin.low, figure)} to {_value(bin.high, figure)}: {_rows(bin.count)}"
        bars.append(
            Bar(round(x + 0.5, 1), round(BOTTOM - tall, 1), round(width - 1, 1), round(tall, 1), words)
        )
    fullest = max(bins, key=lambda bin: bin.count)
    words = (
        f"{TITLES[figure]} of {_rows(total)}: most, {fullest.count:,}, "
        f"between {_value(fullest.low, figure)} and {_value(fullest.high, figure)}"
    )
    return Chart(pk, tuple(bars), _ticks(bins, figure, width), words)


def _ticks(bins: Sequence[Bin], figure: str, width: float) -> tuple[Tick, ...]:
    """Where the axis begins, its middle, and its last bar."""
    middle = len(bins) // 2
    end = LEFT + (len(bins) - 1) * width + APART
    return (
        Tick(LEFT, _value(bins[0].low, figure), "start"),
        Tick(round(LEFT + middle * width, 1), _value(bins[middle].low, figure), "middle"),
        Tick(round(end, 1), f"over {_value(bins[-1].low, figure)}", "end"),
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _value(value: float, figure: str) -> str:
    if figure == "tokens":
        return f"{value:,.0f}"
    if value < 9.95:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 999.5 else f"{value / 1000:,.2f} s"
