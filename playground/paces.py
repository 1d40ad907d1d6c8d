"""How an answer came, for showing it again: its recorded pace, else an even one from its figures. Pure."""

import json
from dataclasses import dataclass
from typing import Any

from playground.figures import figures
from playground.models import Generation


@dataclass(frozen=True)
class Paced:
    """`points`: (milliseconds since the request was written, characters so far). `even`: not recorded."""

    points: tuple[tuple[float, int], ...]
    even: bool

    @property
    def json(self) -> str:
        return json.dumps(self.points)


def of(generation: Generation) -> Paced:
    """The pace of its reasoning and text together; without points where nothing came or no time is known."""
    length = len(generation.reasoning) + len(generation.text)
    if recorded := _recorded(generation.pace):
        return Paced(recorded, even=False)
    told = figures(generation)
    if not length or told.e2e is None:
        return Paced((), even=True)
    first = told.ttft if told.ttft is not None else told.e2e
    return Paced(((first, min(1, length)), (max(first, told.e2e), length)), even=True)


def _recorded(pace: Any) -> tuple[tuple[float, int], ...]:
    """Its points, each with both numbers rising; what is none is passed over."""
    points: list[tuple[float, int]] = []
    for point in pace if isinstance(pace, list) else []:
        ms, count = point if isinstance(point, list) and len(point) == 2 else (None, None)
        if not isinstance(ms, int | float) or not isinstance(count, int):
            continue
        if not points or (ms >= points[-1][0] and count >= points[-1][1]):
            points.append((float(ms), count))
    return tuple(points)
