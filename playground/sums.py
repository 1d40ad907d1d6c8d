"""A column's figures over a conversation as shown: medians of its speeds, sums of what it made. Pure."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playground.figures import Figures, figures
from playground.models import Generation
from playground.thread import Shown


@dataclass(frozen=True)
class Sum:
    """`answers` were whole, `late` of them timed under load; `left_out` beside them were stopped or failed.

    Tokens are of all whole answers; times, in milliseconds, and cost of those that were not timed under load.
    """

    at: int
    answers: int = 0
    late: int = 0
    left_out: int = 0
    ttft: float | None = None
    tpot: float | None = None
    tokens: int | None = None
    e2e: float | None = None
    queue: float | None = None
    cost: float | None = None
    gpu_s: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        return 1000 / self.tpot if self.tpot else None


def of(shown: Shown, places: Mapping[int, int]) -> dict[int, Sum]:
    """Where a column stands → its sum, for every column of `places` (column → where it stands)."""
    answers: dict[int, list[Generation]] = defaultdict(list)
    for turn in shown.turns:
        for answer in turn.answers:
            if answer.generation.state not in Generation.LIVE:
                answers[answer.generation.column_id].append(answer.generation)
    return {place: _sum(place, answers[column]) for column, place in places.items()}


def _sum(at: int, answers: list[Generation]) -> Sum:
    whole = [figures(one) for one in answers if one.state == Generation.State.COMPLETE]
    kept = [one for one in whole if one.comparable]
    return Sum(
        at,
        answers=len(whole),
        late=sum(one.lagged for one in whole),
        left_out=len(answers) - len(whole),
        ttft=_median(kept, "ttft"),
        tpot=_median(kept, "tpot"),
        tokens=_total([one for one in whole if not one.approximate_tokens], "tokens"),
        e2e=_total(kept, "e2e"),
        queue=_total(kept, "queue"),
        cost=_total(kept, "cost"),
        gpu_s=_total(kept, "gpu_s"),
    )


def _known(kept: list[Figures], name: str) -> list[float]:
    return [value for one in kept if (value := getattr(one, name)) is not None]


def _median(kept: list[Figures], name: str) -> float | None:
    known = _known(kept, name)
    return statistics.median(known) if known else None


def _total(kept: list[Figures], name: str) -> Any:
    """None unless every answer has one: a sum of some would say less than it seems to."""
    known = _known(kept, name)
    return sum(known) if known and len(known) == len(kept) else None
