"""Sums of usage by day, so that a month of many requests is told at once. Statements only.

A request is added to its day by the very statement that writes it (`usage_store`), once for each of
DIMENSIONS: the sums of a day are always those of its rows. What is deleted by age takes its days along, and
the day that this cuts is summed anew.

TTFT is counted in steps of 2 %: a percentile read from them is within 1 % of the true one.
"""

from collections.abc import Sequence
from datetime import date
from math import log

from django.db import connection, transaction

# What a request is summed by: (its value as text, its key).
DIMENSIONS = {
    "key": ("used.key_name", "used.key_id"),
    "endpoint": ("used.endpoint", "NULL::bigint"),
    "model": ("used.model", "NULL::bigint"),
    "engine": ("used.engine", "NULL::bigint"),
}
# Step n is from GROWTH^(n - 1) milliseconds to GROWTH^n; the last one ends at 17 minutes.
GROWTH, STEPS = 1.02, 700
SUMS = {
    "requests": "count(*)",
    "errors": "count(*) FILTER (WHERE status >= 400)",
    "prompt_tokens": "sum(prompt_tokens)::bigint",
    "cached_tokens": "sum(cached_tokens)::bigint",
    "completion_tokens": "sum(completion_tokens)::bigint",
    "gpu_s": "sum(gpu_s)",
    "core_s": "sum(core_s)",
    "cost": "sum(cost)",
    "unpriced": "count(*) FILTER (WHERE busy_s IS NOT NULL AND cost IS NULL)",
}
_STEP = f"least({STEPS}, 1 + floor(ln(greatest(used.ttft_ms, 1)) / {log(GROWTH)!r})::int)"
_LATERAL = ", ".join(f"('{name}', {value}, {key})" for name, (value, key) in DIMENSIONS.items())
_BY = "team_id, day, dimension, value, key"
CELLS = f"""
    rows AS (
        SELECT used.*, (used.at AT TIME ZONE 'UTC')::date AS day, one.dimension, one.value, one.key,
               CASE WHEN used.status < 400 AND used.ttft_ms IS NOT NULL THEN {_STEP} END AS step
        FROM used CROSS JOIN LATERAL (VALUES {_LATERAL}) AS one (dimension, value, key)
    ), spread AS (
        SELECT {_BY}, array_agg(step ORDER BY step) AS steps, array_agg(times ORDER BY step) AS times
        FROM (SELECT {_BY}, step, count(*)::int AS times FROM rows WHERE step IS NOT NULL
              GROUP BY {_BY}, step) AS counted
        GROUP BY {_BY}
    ), summed AS (
        SELECT {_BY}, {", ".join(f"{sum_} AS {name}" for name, sum_ in SUMS.items())} FROM rows GROUP BY {_BY}
    )
"""
"""CTEs that add up by cell what is in the one named `used`: rows of usage."""
# In the order of the cells, so that two who add never wait for each other.
_INSERT = f"""
    INSERT INTO endpoints_usageday AS known ({_BY}, {", ".join(SUMS)}, ttft_steps, ttft_times)
    SELECT summed.*, coalesce(spread.steps, '{{}}'), coalesce(spread.times, '{{}}')
    FROM summed LEFT JOIN spread
      ON (spread.team_id, spread.day, spread.dimension, spread.value)
       = (summed.team_id, summed.day, summed.dimension, summed.value)
     AND spread.key IS NOT DISTINCT FROM summed.key
    ORDER BY summed.team_id, summed.day, summed.dimension, summed.value, summed.key
"""
_MERGED = """
    (SELECT coalesce(array_agg(step ORDER BY step), '{}'), coalesce(array_agg(times ORDER BY step), '{}')
     FROM (SELECT step, sum(times)::int AS times
           FROM unnest(known.ttft_steps || excluded.ttft_steps, known.ttft_times || excluded.ttft_times)
             AS merged (step, times) GROUP BY step) AS one)
"""
_ADDED = ", ".join(
    f"{name} = coalesce(known.{name} + excluded.{name}, known.{name}, excluded.{name})" for name in SUMS
)
ADD = f"{_INSERT} ON CONFLICT ({_BY}) DO UPDATE SET {_ADDED}, (ttft_steps, ttft_times) = {_MERGED}"
"""Adds what CELLS came to to the days."""

_LOCK = "LOCK TABLE endpoints_usageday IN SHARE ROW EXCLUSIVE MODE"
_WITHIN = "at >= %s::date::timestamp AT TIME ZONE 'UTC' AND at < (%s::date + 1)::timestamp AT TIME ZONE 'UTC'"
_AGAIN = f"WITH used AS (SELECT * FROM endpoints_usage WHERE {_WITHIN}), {CELLS} {_INSERT}"


def again(first: date, last: date) -> None:
    """Sum the rows of these days anew. Whoever writes usage waits meanwhile."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK)
        cursor.execute("DELETE FROM endpoints_usageday WHERE day BETWEEN %s AND %s", [first, last])
        cursor.execute(_AGAIN, [first, last])


def forget(before: date) -> None:
    """Forget days whose rows are all gone: those before this one."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM endpoints_usageday WHERE day < %s", [before])


def percentile(steps: Sequence[tuple[int, int]], share: float) -> float | None:
    """Milliseconds, of (step, how often) in order: where `share` of all lies, within 1 %; None of none."""
    total = sum(times for _, times in steps)
    if not total:
        return None
    rank, seen = share * (total - 1), 0
    for step, times in steps:
        if rank < seen + times:
            within = (rank - seen + 0.5) / times
            return float(GROWTH ** (step - 1 + min(1.0, within)))
        seen += times
    return float(GROWTH ** steps[-1][0])
