"""Charts of a load run: throughput across, latency up, one line a column, the Pareto front marked. Pure.

Coordinates are those of the SVG's viewBox. Columns differ by the shape of their points and the pattern of
their lines as well as by colour.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.load_report import front

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 18, 44
TICKS = 5
# One a column, around the point: circle, square, triangle, diamond, cross, pentagon.
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6L5.5 4.5H-5.5z",
    "M0 -6.5L5.5 0L0 6.5L-5.5 0z",
    "M-5 -2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
    "M0 -6L5.7 -1.9L3.5 4.9H-3.5L-5.7 -1.9z",
)


# Of a point, and of a letter of its label.
MARK, LETTER, LINE = 6.5, 7.0, 10.0
# Above, below, right, left, then farther up and down: shares of the label's width, and distance of its foot.
AROUND = ((0, -9.5), (0, 18), (1, 4), (-1, 4), (0, -22), (0, 31))
Place = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """One level of a column: output tokens a second, and milliseconds."""

    column: int
    """Its place among the columns."""
    open: bool
    label: str
    throughput: float
    latency: float


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    label: str
    label_x: float
    label_y: float
    front: bool
    words: str


@dataclass(frozen=True)
class Line:
    """A column's points in one loop. `index` chooses shape, pattern and colour."""

    index: int
    name: str
    open: bool
    points: str
    marks: tuple[Mark, ...]
    shape: str


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    key: str
    title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    front: str
    words: str
    """What it shows, for who does not see it."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    middle_x: float = (LEFT + WIDTH - RIGHT) / 2
    middle_y: float = (TOP + HEIGHT - BOTTOM) / 2


@dataclass(frozen=True)
class Scale:
    """From figures to coordinates, zero included: a cut axis would make small differences look large."""

    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * value / self.most, 1)

    def ticks(self) -> tuple[Tick, ...]:
        step = _step(self.most)
        count = round(self.most / step)
        return tuple(Tick(self.at(step * place), f"{step * place:,.6g}") for place in range(count + 1))


def chart(key: str, title: str, names: Sequence[str], points: Sequence[Point]) -> Chart | None:
    """The chart of `points`; None where there is none to show."""
    if not points:
        return None
    across = Scale(_above(max(point.throughput for point in points)), LEFT, WIDTH - RIGHT)
    up = Scale(_above(max(point.latency for point in points)), HEIGHT - BOTTOM, TOP)
    best = dict(zip(points, front([(point.throughput, point.latency) for point in points]), strict=True))
    on_front = sorted((point for point in points if best[point]), key=lambda point: point.throughput)
    return Chart(
        key,
        title,
        f"{title} p50, ms",
        across.ticks(),
        up.ticks(),
        tuple(_lines(names, points, best, across, up)),
        _path(on_front, across, up),
        _words(title, names, on_front),
    )


def _lines(
    names: Sequence[str], points: Sequence[Point], best: Mapping[Point, bool], across: Scale, up: Scale
) -> list[Line]:
    """One a column and loop that has points, by the levels' order."""
    places = [(across.at(point.throughput), up.at(point.latency)) for point in points]
    labels = dict(zip(points, _labelled(places, [point.label for point in points]), strict=True))
    found = []
    for index, name in enumerate(names):
        for opened in (False, True):
            own = [point for point in points if point.column == index and point.open == opened]
            if own:
                marks = tuple(_mark(point, name, best[point], labels[point], across, up) for point in own)
                shape = SHAPES[index % len(SHAPES)]
                found.append(Line(index % len(SHAPES), name, opened, _path(own, across, up), marks, shape))
    return found


def _mark(point: Point, name: str, best: bool, label: Place, across: Scale, up: Scale) -> Mark:
    words = f"{name}, {point.label}: {_digits(point.throughput)} tok/s, {_digits(point.latency)} ms"
    x, y = across.at(point.throughput), up.at(point.latency)
    return Mark(x, y, point.label, round(label[0], 1), round(label[1], 1), best, words)


def _labelled(points: Sequence[Place], labels: Sequence[str]) -> list[Place]:
    """Where each label's middle goes: the first place around its point that hides nothing, else above it."""
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    found = []
    for (x, y), label in zip(points, labels, strict=True):
        half = len(label) * LETTER / 2
        tries = [(x + dx * (half + MARK + 1), y + dy) for dx, dy in AROUND]
        boxes = [(at - half, low - LINE, at + half, low + 2) for at, low in tries]
        free = [place for place, box in enumerate(boxes) if _free(box, taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        found.append(tries[chosen])
    return found


def _free(box: Box, taken: Sequence[Box]) -> bool:
    """Whether a label there lies within the frame and on nothing."""
    inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )


def _path(points: Sequence[Point], across: Scale, up: Scale) -> str:
    return " ".join(f"{across.at(point.throughput)},{up.at(point.latency)}" for point in points)


def _words(title: str, names: Sequence[str], on_front: Sequence[Point]) -> str:
    best = "; ".join(
        f"{names[point.column]} at {point.label}, "
        f"{_digits(point.throughput)} tokens a second and {_digits(point.latency)} ms"
        for point in on_front
    )
    return f"Output throughput against {title}. Nothing has more throughput at less {title} than: {best}."


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def _step(most: float) -> float:
    """A round distance between ticks: 1, 2 or 5 times a power of ten."""
    rough = most / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)


def _above(most: float) -> float:
    """The end of an axis: the first tick at or over `most`, which has some air above it."""
    top = max(most, 1e-6) * 1.04
    step = _step(top)
    return step * math.ceil(top / step - 1e-9)
