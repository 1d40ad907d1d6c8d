"""A conversation's figures turn by turn, one line a column, as places on a small drawing. Pure.

The drawing is 300 wide and 110 high; its axes meet at (44, 90), and values rise to y = 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from playground.figures import figures
from playground.thread import Shown

LEFT, RIGHT, BOTTOM, TOP = 52.0, 246.0, 90.0, 10.0
METRICS = (("ttft", "Time to first token", "ms"), ("tokens_per_s", "Speed", "tok/s"), ("e2e", "E2E", "ms"))
TICKS = 12


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    turn: int
    value: str


@dataclass(frozen=True)
class Line:
    at: int
    dots: list[Dot] = field(default_factory=list)

    @property
    def points(self) -> str:
        return " ".join(f"{dot.x},{dot.y}" for dot in self.dots)

    @property
    def end(self) -> dict[str, float] | None:
        """Where its name stands: beside the others', which may end at the same height."""
        return {"x": self.dots[-1].x - 4 + 8 * self.at, "y": self.dots[-1].y + 3} if self.dots else None


@dataclass(frozen=True)
class Chart:
    title: str
    words: str
    top: str
    ticks: list[dict[str, float | int]]
    lines: list[Line]


def of(shown: Shown, places: Mapping[int, int]) -> list[Chart]:
    """One a metric, from the second turn on; a metric that no answer has is left out."""
    if len(shown.turns) < 2:
        return []
    return [chart for metric in METRICS if (chart := _chart(shown, places, *metric))]


def _chart(shown: Shown, places: Mapping[int, int], name: str, title: str, unit: str) -> Chart | None:
    known: dict[int, list[tuple[int, float]]] = {place: [] for place in places.values()}
    for number, turn in enumerate(shown.turns, 1):
        for answer in turn.answers:
            value = getattr(figures(answer.generation), name)
            place = places.get(answer.generation.column_id)
            if value is not None and place:
                known[place].append((number, value))
    most = max((value for points in known.values() for _, value in points), default=0)
    if not most:
        return None
    count = len(shown.turns)
    lines = [
        Line(at, [_dot(turn, value, count, most, unit) for turn, value in points])
        for at, points in known.items()
    ]
    every = -(-count // TICKS)
    ticks = [{"x": _x(turn, count), "label": turn} for turn in range(1, count + 1, every)]
    return Chart(f"{title} ({unit})", _words(title, unit, known), f"{most:,.0f}", ticks, lines)


def _dot(turn: int, value: float, count: int, most: float, unit: str) -> Dot:
    return Dot(
        _x(turn, count), round(BOTTOM - (BOTTOM - TOP) * value / most, 1), turn, f"{value:,.1f} {unit}"
    )


def _x(turn: int, count: int) -> float:
    return round(LEFT + (RIGHT - LEFT) * (turn - 1) / max(1, count - 1), 1)


def _words(title: str, unit: str, known: Mapping[int, list[tuple[int, float]]]) -> str:
    """The last value of each column, for whoever does not see the drawing."""
    last = [f"column {at} {points[-1][1]:,.1f} {unit}" for at, points in known.items() if points]
    return f"{title} by turn; last: {', '.join(last)}"
