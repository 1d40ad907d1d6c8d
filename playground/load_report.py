"""What a load run found: figures a column and level, and which points nothing else beats. Pure.

Definitions: README, "Figures". Throughput and goodput are taken over a window from the first request of the
level (its warm-up was before) to the last answer that ended while requests were still being sent: what ended
later ended under less load than the level says, and is the tail. Latency takes every completed request.
None is shown as "n/a".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from playground.asking import Taken
from playground.models import Generation

State = Generation.State
# A request sent later than this after its time was held up by the client itself.
LATE_MS = 5.0
PERCENTILES = (50, 95)


@dataclass(frozen=True)
class Request:
    """One request of a level; milliseconds on the run's clock, latencies from `start_ms`."""

    state: str
    start_ms: float
    """When it was to be sent in an open loop, when it was sent in a closed one."""
    sent_ms: float
    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    tokens: int | None = None
    late: bool = False
    """The client's own event loop was late, or sent it late."""

    @property
    def completed(self) -> bool:
        return self.state == State.COMPLETE and self.e2e is not None

    @property
    def end_ms(self) -> float:
        """When its last content came. Only of a completed one."""
        return self.start_ms + (self.e2e or 0.0)


@dataclass(frozen=True)
class Limits:
    """What a request must meet to be good, in milliseconds; None: no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @property
    def stated(self) -> bool:
        return any(limit is not None for limit in asdict(self).values())

    def meets(self, request: Request) -> bool:
        """Whether it completed within every limit. What has no such figure (one token has no TPOT) meets it
        only where nothing was asked of it, but for TPOT: an answer of one token is as good as its TTFT.
        """
        if not request.completed:
            return False
        single = self.tpot is None or (request.tokens is not None and request.tokens < 2)
        return (
            _within(request.ttft, self.ttft)
            and (single or _within(request.tpot, self.tpot))
            and _within(request.e2e, self.e2e)
        )


def _within(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def request(taken: Taken, scheduled_ms: float | None, sent_ms: float) -> Request:
    """A request of a run by what came of it. In an open loop it counts from when it was to be sent."""
    found = taken.figures
    start = sent_ms if scheduled_ms is None else scheduled_ms
    waited = sent_ms - start
    return Request(
        state=taken.state,
        start_ms=start,
        sent_ms=sent_ms,
        ttft=None if found.ttft is None else found.ttft + waited,
        tpot=found.tpot,
        e2e=None if found.e2e is None else found.e2e + waited,
        tokens=None if found.approximate_tokens else found.tokens,
        late=found.lagged or waited > LATE_MS,
    )


def row(requests: Sequence[Request], limits: Limits) -> dict[str, Any]:
    """The figures of one level of one column, as they are kept: rates a second, latencies in milliseconds."""
    completed = [one for one in requests if one.completed]
    failed = sum(one.state == State.FAILED for one in requests)
    counts = [one.tokens for one in completed if one.tokens is not None]
    return {
        "offered": len(requests),
        "completed": len(completed),
        "failed": failed,
        "unfinished": len(requests) - len(completed) - failed,
        **_rates(requests, completed, limits),
        **{name: spread([getattr(one, name) for one in completed]) for name in ("ttft", "tpot", "e2e")},
        "tokens_mean": sum(counts) / len(counts) if counts else None,
        "tokens_least": min(counts, default=None),
        "tokens_most": max(counts, default=None),
        "late": sum(one.late for one in requests),
    }


def _rates(requests: Sequence[Request], completed: Sequence[Request], limits: Limits) -> dict[str, Any]:
    """What a second brought, over the level's window."""
    inside, tail_cut = _window(requests, completed)
    good = sum(limits.meets(one) for one in completed)
    rates: dict[str, Any] = {"good": good if limits.stated else None, "counted": len(inside)}
    rates |= dict.fromkeys(("window_s", "tokens_s", "requests_s", "goodput"))
    rates["tail_cut"] = tail_cut
    if not inside:
        return rates
    seconds = (max(one.end_ms for one in inside) - min(one.start_ms for one in requests)) / 1000
    if seconds <= 0:
        return rates
    counts = [one.tokens for one in inside if one.tokens is not None]
    whole = len(counts) == len(inside)
    return rates | {
        "window_s": seconds,
        "tokens_s": sum(counts) / seconds if whole else None,
        "requests_s": len(inside) / seconds,
        "goodput": sum(limits.meets(one) for one in inside) / seconds if limits.stated else None,
    }


def _window(requests: Sequence[Request], completed: Sequence[Request]) -> tuple[list[Request], bool]:
    """The completed requests that count, and whether a tail was cut: not where nothing ended before it."""
    last_sent = max((one.sent_ms for one in requests), default=0.0)
    inside = [one for one in completed if one.end_ms <= last_sent]
    return (inside, True) if inside else (list(completed), False)


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """{"n", "p50", "p95"} of the values that are known."""
    known = sorted(value for value in values if value is not None)
    return {"n": len(known)} | {f"p{share}": percentile(known, share) for share in PERCENTILES}


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Between the two nearest ranks, in proportion; None of nothing."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (throughput, latency), whether no other point has more of the one and less of the other."""
    return [not any(_beats(other, one) for other in points) for one in points]


def _beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    """At least as good in both, better in one."""
    return other != one and other[0] >= one[0] and other[1] <= one[1]


def limits_of(settings: Mapping[str, Any]) -> Limits:
    """The limits as a run's settings keep them."""
    return Limits(**{name: settings.get(name) for name in ("ttft", "tpot", "e2e")})
