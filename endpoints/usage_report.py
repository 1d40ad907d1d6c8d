"""A team's usage over a time: requests, tokens, hours, cost, errors and TTFT, grouped as one likes.

Three sources are told apart and never mixed in one row: requests of /v1 (Usage), answers in the playground
(Generation) and rows of batches (BatchResult; those sent by /v1/batches too, so that nothing counts twice).
Their TTFT are not the same figure: of /v1 it is from arrival, of the others the engine's. All of it is
counted by PostgreSQL. What nobody knows is None and is shown as "n/a"; sums are of what is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from playground import spending
from playground.models import Replica, Team

SOURCES = {"api": "API", "playground": "Playground", "batch": "Batches"}
# What rows are grouped by, and what that is of each source.
GROUPS = {
    "person": "Person",
    "key": "Key",
    "endpoint": "Endpoint",
    "model": "Model",
    "engine": "Engine",
    "day": "Day",
}
PERIODS = {"today": ("Today", 1), "7": ("7 days", 7), "30": ("30 days", 30)}
LONGEST_DAYS = 400
MOST_ROWS = 500


class PeriodRefused(Exception):
    """No time that can be told of; `field` is the input's name."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True)
class Period:
    """Whole days by UTC, the last one included."""

    first: date
    last: date
    name: str = ""

    @property
    def begin(self) -> datetime:
        return datetime.combine(self.first, time(), timezone.get_current_timezone())

    @property
    def end(self) -> datetime:
        return self.begin + timedelta(days=self.days)

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def step(self) -> str:
        """What one bar of the chart is."""
        return "hour" if self.days <= 2 else "day"


@dataclass(frozen=True)
class Line:
    """What one group of one source came to. Times in milliseconds, the rest in seconds, dollars, tokens."""

    label: str
    source: str
    requests: int
    errors: int
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    gpu_s: float | None = None
    core_s: float | None = None
    cost: float | None = None
    unpriced: int = 0
    """Requests that took time of a replica whose machine had no price."""
    ttft_p50: float | None = None
    ttft_p95: float | None = None

    @property
    def source_name(self) -> str:
        return SOURCES[self.source]

    @property
    def gpu_h(self) -> float | None:
        return None if self.gpu_s is None else self.gpu_s / 3600

    @property
    def core_h(self) -> float | None:
        return None if self.core_s is None else self.core_s / 3600


def period(name: str, first: str = "", last: str = "") -> Period:
    """One of PERIODS, or "custom" from `first` to `last` as YYYY-MM-DD. PeriodRefused with the field."""
    today = timezone.now().date()
    if name in PERIODS:
        return Period(today - timedelta(days=PERIODS[name][1] - 1), today, name)
    begin, end = _date(first, "from"), _date(last, "to")
    if end < begin:
        raise PeriodRefused("The last day is before the first.", "to")
    if (end - begin).days >= LONGEST_DAYS:
        raise PeriodRefused(f"At most {LONGEST_DAYS} days at once.", "to")
    return Period(begin, end, "custom")


def _date(text: str, field: str) -> date:
    try:
        found = date.fromisoformat(text.strip())
    except ValueError as problem:
        raise PeriodRefused("Give a day as YYYY-MM-DD.", field) from problem
    if not 2000 <= found.year <= 9000:
        raise PeriodRefused("Give a day of this century.", field)
    return found


# What each source's rows are, by one set of names. %(team)s, %(begin)s and %(end)s are filled in.
_API = """
    SELECT used.at, used.status >= 400 AS failed, used.prompt_tokens, used.cached_tokens,
           used.completion_tokens, used.gpu_s, used.core_s, used.cost, used.busy_s, used.ttft_ms AS ttft,
           {label} AS label
    FROM endpoints_usage AS used {joins}
    WHERE used.team_id = %(team)s AND used.at >= %(begin)s AND used.at < %(end)s
"""
_HELD = """
    (made.timings ->> 'busy_s')::float8 AS busy_s, (made.timings ->> 'gpu_s')::float8 AS gpu_s,
    CASE WHEN made.timings ? 'gpu_s' THEN NULL
         ELSE (made.timings ->> 'busy_s')::float8 * (replica.resources ->> 'cores')::float8 END AS core_s,
    (made.timings ->> 'cost')::float8 AS cost, (made.timings ->> 'ttft')::float8 AS ttft,
    (made.usage ->> 'prompt_tokens')::bigint AS prompt_tokens,
    (made.usage ->> 'cached_tokens')::bigint AS cached_tokens,
    (made.usage ->> 'completion_tokens')::bigint AS completion_tokens
"""
# An answer without an owner is a copy: of a fork, or of a logged request. It was asked elsewhere.
_PLAYGROUND = f"""
    SELECT made.created_at AS at, made.state IN ('failed', 'interrupted') AS failed, {_HELD},
           {{label}} AS label
    FROM playground_conversation AS conversation
    JOIN playground_turn AS turn ON turn.conversation_id = conversation.id
    JOIN playground_generation AS made ON made.turn_id = turn.id
    LEFT JOIN playground_replica AS replica ON replica.id = made.replica_id {{joins}}
    WHERE conversation.team_id = %(team)s AND made.created_at >= %(begin)s AND made.created_at < %(end)s
      AND made.state NOT IN ('pending', 'streaming') AND made.owner <> ''
"""
_BATCH = f"""
    SELECT made.created_at AS at, NOT made.ok AS failed, {_HELD}, {{label}} AS label
    FROM playground_batch AS batch
    JOIN playground_batchcolumn AS own ON own.batch_id = batch.id
    JOIN playground_batchresult AS made ON made.column_id = own.id
    LEFT JOIN playground_replica AS replica ON replica.id = made.replica_id {{joins}}
    WHERE batch.team_id = %(team)s AND made.created_at >= %(begin)s AND made.created_at < %(end)s
"""
_ROWS = {"api": _API, "playground": _PLAYGROUND, "batch": _BATCH}

_KEY = " LEFT JOIN endpoints_apikey AS key ON key.id = {of}.key_id"
_PERSON = " LEFT JOIN playground_user AS person ON person.id = {id}"
_MODEL = (
    " LEFT JOIN playground_configuration AS configuration ON configuration.id = made.configuration_id"
    " LEFT JOIN playground_model AS model ON model.id = configuration.model_id"
)
_SENT = " LEFT JOIN endpoints_apibatch AS sent ON sent.batch_id = batch.id"
_DAY = "to_char(date_trunc('{step}', {at} AT TIME ZONE 'UTC'), 'YYYY-MM-DD{hours}')"
# (label, joins) by group and source. A request's person is who made its key.
_LABELS: dict[str, dict[str, tuple[str, str]]] = {
    "person": {
        "api": ("person.username", _KEY.format(of="used") + _PERSON.format(id="key.created_by_id")),
        "playground": ("person.username", _PERSON.format(id="turn.created_by_id")),
        "batch": (
            "person.username",
            _SENT
            + _KEY.format(of="sent")
            + _PERSON.format(id="coalesce(batch.created_by_id, key.created_by_id)"),
        ),
    },
    "key": {
        "api": (
            "coalesce(key.name || ' (sk-slip-' || key.prefix || ')', used.key_name)",
            _KEY.format(of="used"),
        ),
        "playground": ("NULL", ""),
        "batch": ("key.name || ' (sk-slip-' || key.prefix || ')'", _SENT + _KEY.format(of="sent")),
    },
    "endpoint": {
        "api": ("used.endpoint", ""),
        "playground": ("NULL", ""),
        "batch": ("nullif(split_part(sent.model, ':', 1), '')", _SENT),
    },
    "model": {
        "api": ("nullif(used.model, '')", ""),
        "playground": ("model.name", _MODEL),
        "batch": ("model.name", _MODEL),
    },
    "engine": {
        "api": ("nullif(used.engine, '')", ""),
        "playground": ("configuration.engine", _MODEL),
        "batch": ("configuration.engine", _MODEL),
    },
}
_AT = {"api": "used.at", "playground": "made.created_at", "batch": "made.created_at"}
_SUMS = """
    SELECT label, count(*) AS requests, count(*) FILTER (WHERE failed) AS errors,
           sum(prompt_tokens)::bigint AS prompt_tokens, sum(cached_tokens)::bigint AS cached_tokens,
           sum(completion_tokens)::bigint AS completion_tokens, sum(gpu_s) AS gpu_s, sum(core_s) AS core_s,
           sum(cost) AS cost, count(*) FILTER (WHERE busy_s IS NOT NULL AND cost IS NULL) AS unpriced,
           {percentiles}
    FROM ({rows}) AS rows GROUP BY label
"""
_PERCENTILES = """
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY ttft) FILTER (WHERE NOT failed) AS ttft
"""


def lines(team: Team, when: Period, by: str, sources: Sequence[str] = tuple(SOURCES)) -> list[Line]:
    """By group of `by` (one of GROUPS) and source, most requests first; by day, newest first."""
    found = [line for source in sources for line in _of(team, when, by, source)]
    if by == "day":
        return sorted(found, key=lambda line: (line.label, line.requests), reverse=True)
    return sorted(found, key=lambda line: (-line.requests, line.label))


def totals(team: Team, when: Period, sources: Sequence[str] = tuple(SOURCES)) -> list[Line]:
    """One line a source that has any."""
    return [line for source in sources for line in _of(team, when, "", source)]


def steps(team: Team, when: Period, sources: Sequence[str] = tuple(SOURCES)) -> list[Line]:
    """By hour or day and source, oldest first, without percentiles: for the chart."""
    found = [line for source in sources for line in _of(team, when, when.step, source, spread=False)]
    return sorted(found, key=lambda line: line.label)


def _of(team: Team, when: Period, by: str, source: str, *, spread: bool = True) -> list[Line]:
    label, joins = _label(by, source)
    rows = _ROWS[source].format(label=label, joins=joins)
    percentiles = _PERCENTILES if spread else "NULL::float8[] AS ttft"
    values = {"team": team.pk, "begin": when.begin, "end": when.end}
    with connection.cursor() as cursor:
        # Counting is done in memory: what it takes is a few groups, whatever the rows.
        cursor.execute(_SUMS.format(rows=rows, percentiles=percentiles), values)
        names = [column.name for column in cursor.description or ()]
        return [_line(source, dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _label(by: str, source: str) -> tuple[str, str]:
    if by in ("day", "hour"):
        hours = ' HH24":00"' if by == "hour" else ""
        return _DAY.format(step=by, hours=hours, at=_AT[source]), ""
    return _LABELS[by][source] if by else ("''::text", "")


def _line(source: str, found: dict[str, Any]) -> Line:
    ttft = found.pop("ttft") or [None, None]
    line = Line(source=source, **found | {"label": found["label"] or ""})
    return replace(line, ttft_p50=ttft[0], ttft_p95=ttft[1])


@dataclass(frozen=True)
class Held:
    """What the team's replicas held while they were ready, used or not, at the nodes' prices of now."""

    ready_s: float = 0.0
    gpu_s: float = 0.0
    core_s: float = 0.0
    cost: float | None = None
    unpriced: int = 0


def held(team: Team, when: Period) -> Held:
    """Of every replica that was ready at some moment of the period."""
    now = timezone.now()
    rows = Replica.objects.filter(deployment__team=team, ready_at__lt=when.end)
    rows = rows.filter(Q(ended_at=None) | Q(ended_at__gt=when.begin)).select_related("node")
    found = Held()
    for row in rows:
        assert row.ready_at is not None
        until = min(row.ended_at or now, when.end, now)
        found = _with(found, row, max(0.0, (until - max(row.ready_at, when.begin)).total_seconds()))
    return found


def _with(found: Held, row: Replica, seconds: float) -> Held:
    gpus = len(row.resources.get("gpus") or [])
    price = spending.per_second(row, row.node) if row.node else None
    return Held(
        found.ready_s + seconds,
        found.gpu_s + seconds * gpus,
        found.core_s + (0.0 if gpus else seconds * (row.resources.get("cores") or 0)),
        found.cost if price is None else (found.cost or 0.0) + seconds * float(price),
        found.unpriced + (price is None),
    )
