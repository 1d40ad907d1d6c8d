"""What a batch came to so far, column by column: counts, rate, time left, totals, percentiles, a histogram.

All of it is counted by PostgreSQL. Definitions: README, "Figures". Failed rows are left out of latency, and
so are rows whose timing was late; both numbers are told. None is shown as "n/a".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Min
from django.db.models.functions import Now
from django.utils import timezone

from playground.models import Batch, BatchColumn, BatchItem, BatchResult

State = BatchItem.State
PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft", "e2e", "tpot")
# Over how many seconds the rate is taken.
RATE_S = 60
BINS = 24


@dataclass(frozen=True)
class Progress:
    """`rate`: rows a second that ended lately; `left_s`: how long the rest takes at that rate."""

    total: int
    states: dict[str, int]
    rate: float | None = None
    left_s: float | None = None

    @property
    def done(self) -> int:
        return self.states.get(State.DONE, 0)

    @property
    def failed(self) -> int:
        return self.states.get(State.FAILED, 0)

    @property
    def cancelled(self) -> int:
        return self.states.get(State.CANCELLED, 0)

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.cancelled

    @property
    def done_share(self) -> int:
        """In thousandths of all rows."""
        return round(1000 * self.done / self.total) if self.total else 0

    @property
    def failed_share(self) -> int:
        """In thousandths; what failed shows, however few it is."""
        share = round(1000 * self.failed / self.total) if self.total else 0
        return max(share, 4) if self.failed else 0

    @property
    def open(self) -> int:
        return self.states.get(State.WAITING, 0) + self.states.get(State.CLAIMED, 0)


@dataclass(frozen=True)
class Spread:
    """Percentiles of what is known, between the two nearest ranks; `n` says of how many."""

    n: int
    at: dict[int, float]


@dataclass(frozen=True)
class Totals:
    """Of the rows that succeeded. `tokens_s`: output tokens over the time from the first request to the last
    answer, pauses included; None where a row's tokens are not known.
    """

    n: int = 0
    tokens: int | None = None
    approximate: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    tokens_s: float | None = None
    span_s: float | None = None
    cost: float | None = None
    gpu_s: float | None = None
    late: int = 0
    spreads: dict[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """`low` and `high` in milliseconds or tokens; the last of a histogram holds all beyond it."""

    low: float
    high: float
    count: int


def progress(batch: Batch, columns: Sequence[BatchColumn]) -> dict[int, Progress]:
    """By column pk."""
    states: dict[int, dict[str, int]] = {column.pk: {} for column in columns}
    counted = BatchItem.objects.filter(column__in=states).values_list("column", "state")
    for pk, state, n in counted.annotate(n=Count("pk")):
        states[pk][state] = n
    running = batch.state in (Batch.State.RUNNING, Batch.State.CANCELLING)
    rates = _rates(list(states)) if running else {}
    return {pk: _progress(batch.version.row_count, found, rates.get(pk)) for pk, found in states.items()}


def _progress(total: int, states: dict[str, int], rate: float | None) -> Progress:
    left = states.get(State.WAITING, 0) + states.get(State.CLAIMED, 0)
    return Progress(total, states, rate, left / rate if rate else None)


def whole(parts: Sequence[Progress]) -> Progress:
    """All columns as one: rates add up, and the slowest says when it ends."""
    states: dict[str, int] = {}
    for part in parts:
        for state, n in part.states.items():
            states[state] = states.get(state, 0) + n
    rates = [part.rate for part in parts if part.rate]
    open_ = [part for part in parts if part.open]
    lefts = [part.left_s for part in open_ if part.left_s is not None]
    known = open_ and len(lefts) == len(open_)
    return Progress(
        sum(part.total for part in parts),
        states,
        sum(rates) if rates else None,
        max(lefts) if known else None,
    )


def _rates(columns: Sequence[int]) -> dict[int, float]:
    """Results a second over the last minute, or since the first of it where that was later."""
    since = timezone.now() - timedelta(seconds=RATE_S)
    rows = BatchResult.objects.filter(column__in=columns, created_at__gte=since).values("column")
    found = {}
    for row in rows.annotate(n=Count("pk"), first=Min("created_at"), now=Now()):
        seconds = (row["now"] - row["first"]).total_seconds()
        if row["n"] > 1 and seconds > 0:
            found[row["column"]] = row["n"] / seconds
    return found


# Totals

TPOT = """CASE WHEN (timings->>'chunks')::float >= 2 AND tokens >= 2 AND e2e > ttft
    AND tokens > coalesce(nullif((timings->>'first_chunk_tokens')::float, 0), 1)
    THEN (e2e - ttft) / (tokens - coalesce(nullif((timings->>'first_chunk_tokens')::float, 0), 1)) END"""
LATE = "coalesce((timings->>'lagged')::boolean, false)"
APPROXIMATE = "coalesce((usage->>'approximate')::boolean, false)"
SHARES = "ARRAY[" + ",".join(str(share / 100) for share in PERCENTILES) + "]"


def _spread_of(expression: str, where: str) -> str:
    kept = f"FILTER (WHERE {where} AND ({expression}) IS NOT NULL)"
    return (
        f"count(*) {kept}, percentile_cont({SHARES}::float[]) WITHIN GROUP (ORDER BY ({expression})) {kept}"
    )


TOTALS = f"""
SELECT column_id, count(*), count(tokens), sum(tokens), count(*) FILTER (WHERE {APPROXIMATE}),
    sum((usage->>'prompt_tokens')::float), sum((usage->>'cached_tokens')::float),
    extract(epoch FROM max(created_at) - min(created_at - make_interval(secs => coalesce(e2e, 0) / 1000))),
    count(timings->>'cost'), sum((timings->>'cost')::float), sum((timings->>'gpu_s')::float),
    count(*) FILTER (WHERE {LATE}),
    {_spread_of("ttft", f"NOT {LATE}")}, {_spread_of("e2e", f"NOT {LATE}")},
    {_spread_of(TPOT, f"NOT {LATE} AND NOT {APPROXIMATE}")}
FROM playground_batchresult WHERE ok AND column_id = ANY(%s) GROUP BY column_id
"""


def totals(columns: Sequence[BatchColumn]) -> dict[int, Totals]:
    """By column pk; those without an answer have none of their figures."""
    found = {column.pk: Totals() for column in columns}
    with connection.cursor() as cursor:
        cursor.execute(TOTALS, [list(found)])
        for row in cursor.fetchall():
            found[row[0]] = _totals(*row[1:])
    return found


def _totals(
    n: int,
    counted: int,
    tokens: float | None,
    approximate: int,
    prompt: float | None,
    cached: float | None,
    span: Any,
    priced: int,
    cost: float | None,
    gpu_s: float | None,
    late: int,
    *spreads: Any,
) -> Totals:
    seconds = float(span) if span is not None else 0.0
    every = tokens is not None and counted == n
    pairs = zip(METRICS, spreads[::2], spreads[1::2], strict=True)
    return Totals(
        n=n,
        tokens=int(tokens) if every and tokens is not None else None,
        approximate=approximate,
        prompt_tokens=_whole(prompt),
        cached_tokens=_whole(cached),
        tokens_s=tokens / seconds if every and tokens is not None and seconds > 0 else None,
        span_s=seconds or None,
        # What some rows cost is not what all did.
        cost=cost if priced == n else None,
        gpu_s=gpu_s,
        late=late,
        spreads={
            name: Spread(known, dict(zip(PERCENTILES, values or (), strict=False)))
            for name, known, values in pairs
        },
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


# The histogram

EDGES = """
SELECT min({0}), percentile_cont(0.99) WITHIN GROUP (ORDER BY {0}), max({0})
FROM playground_batchresult WHERE ok AND column_id = ANY(%s) AND {0} IS NOT NULL
"""
COUNTS = """
SELECT column_id, least(width_bucket({0}, %s, %s, %s), %s), count(*)
FROM playground_batchresult WHERE ok AND column_id = ANY(%s) AND {0} IS NOT NULL GROUP BY 1, 2
"""


def histogram(columns: Sequence[BatchColumn], figure: str = "e2e") -> dict[int, list[Bin]]:
    """Counts by column pk over shared bins from the least value to the 99th percentile of all columns; the
    last bin holds what lies beyond. `figure`: "ttft", "e2e" or "tokens". Empty without an answer.
    """
    if figure not in ("ttft", "e2e", "tokens"):
        raise ValueError(f"no histogram of {figure}")
    pks = [column.pk for column in columns]
    with connection.cursor() as cursor:
        cursor.execute(EDGES.format(figure), [pks])
        low, high, most = cursor.fetchone()
        if low is None:
            return {}
        # All alike: one bin around it.
        high = high if high > low else low + max(1.0, abs(low) * 0.01)
        cursor.execute(COUNTS.format(figure), [low, high, BINS, BINS + 1, pks])
        found = {(pk, at): n for pk, at, n in cursor.fetchall()}
    width = (high - low) / BINS
    beyond = max(most, high)
    edges = [(low + at * width, low + (at + 1) * width) for at in range(BINS)] + [(high, beyond)]
    return {pk: [Bin(a, b, found.get((pk, at), 0)) for at, (a, b) in enumerate(edges, 1)] for pk in pks}


def failed(columns: Sequence[BatchColumn]) -> dict[int, int]:
    """How many rows failed, by column pk."""
    found = dict.fromkeys((column.pk for column in columns), 0)
    rows = BatchItem.objects.filter(column__in=found, state=State.FAILED).values_list("column")
    return found | dict(rows.annotate(n=Count("pk")))
