"""A team's usage over a time: requests, tokens, hours, cost, errors and TTFT, grouped as one likes.

Four sources are told apart and never mixed in one row: requests of /v1 (Usage), answers in the playground
(Generation), rows of batches (BatchResult; those sent by /v1/batches too, so that nothing counts twice) and
requests of runs that measure (MeasuredUse). Their TTFT are not the same figure: of /v1 it is from arrival, of
the others the engine's. All of it is counted by PostgreSQL. What nobody knows is None and is shown as "n/a";
sums are of what is known.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from endpoints import usage_days, usage_sql
from playground import spending
from playground.models import Replica, Team

SOURCES = {"api": "API", "playground": "Playground", "batch": "Batches", "measured": "Measurements"}
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
# Of so many requests the percentiles are worked out from each; of more, over days, from steps of 2 %.
SORTED = 50_000


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


_SUMMED = tuple(usage_days.SUMS)
_LABEL = {"day": "%Y-%m-%d", "hour": "%Y-%m-%d %H:00"}


@dataclass(frozen=True)
class Report:
    totals: list[Line]
    """One a source that has anything."""
    lines: list[Line]
    """One a group and source: most requests first, of days the newest."""
    steps: list[Line]
    """One a step of the period and source, oldest first; without percentiles."""
    rough: bool = False
    """Whether percentiles of /v1 are read from steps of 2 %: of many requests over many days."""


def report(team: Team, when: Period, by: str, sources: Sequence[str] = tuple(SOURCES)) -> Report:
    """All that is told of a period, grouped by `by`, one of GROUPS."""
    found = [_of(team, when, by, source) for source in sources]
    totals = [line for one in found for line in one.totals]
    lines = [line for one in found for line in one.lines]
    steps = [line for one in found for line in one.steps]
    lines.sort(key=lambda line: (-line.requests, line.label))
    if by == "day":
        lines.sort(key=lambda line: line.label, reverse=True)
    rough = any(one.rough for one in found)
    return Report(totals, lines, sorted(steps, key=lambda line: line.label), rough)


def _of(team: Team, when: Period, by: str, source: str) -> Report:
    summed = source == "api" and when.step == "day"
    sums, whole, each, rough = (_by_days if summed else _by_rows)(team, when, by, source)
    lines = _added(sums, source, lambda row: _name(row["label"], "day") or "")
    return Report(
        [_with_ttft(line, whole) for line in _added(sums, source, lambda row: "")],
        [_with_ttft(line, each.get(line.label)) for line in lines],
        _added(sums, source, lambda row: _name(row["step"], when.step) or ""),
        rough,
    )


Percentiles = Sequence[float | None]
# Sums by step and label, percentiles of all and of each label, and whether those are rough.
Found = tuple[list[dict[str, Any]], Percentiles | None, dict[str, Percentiles], bool]


def _by_rows(team: Team, when: Period, by: str, source: str) -> Found:
    """Counted from each row."""
    rows = _rows(when, by, source)
    values = {"team": team.pk, "begin": when.begin, "end": when.end}
    sums = query(usage_sql.SUMS.format(rows=rows), values)
    return sums, *(_spread(rows, values) if sums else (None, {})), False


def _rows(when: Period, by: str, source: str) -> str:
    step = usage_sql.STEP.format(step=when.step, at=usage_sql.AT[source])
    label, joins = (
        (usage_sql.STEP.format(step="day", at=usage_sql.AT[source]), "")
        if by == "day"
        else usage_sql.LABELS[by][source]
    )
    return usage_sql.ROWS[source].format(label=label, joins=joins, step=step)


def _spread(rows: str, values: dict[str, Any]) -> tuple[Percentiles | None, dict[str, Percentiles]]:
    # One row is of all together, beside that of rows without a label.
    spread = query(usage_sql.SPREAD.format(rows=rows), values)
    whole = next((row["ttft"] for row in spread if row["whole"]), None)
    return whole, {_name(row["label"], "day") or "": row["ttft"] for row in spread if not row["whole"]}


def _by_days(team: Team, when: Period, by: str, source: str) -> Found:
    """From the sums of each day; percentiles of no more than SORTED requests are exact."""
    dimension, label, joins = usage_sql.DAY_LABELS[by]
    values = {"team": team.pk, "dimension": dimension, "first": when.first, "last": when.last}
    sums = query(usage_sql.DAY_SUMS.format(label=label, joins=joins), values)
    if sum(row["requests"] for row in sums) <= SORTED:
        times = {"team": team.pk, "begin": when.begin, "end": when.end}
        return sums, *(_spread(_rows(when, by, source), times) if sums else (None, {})), False
    found: dict[str, list[tuple[int, int]]] = {}
    whole: Counter[int] = Counter()
    for row in query(usage_sql.DAY_SPREAD.format(label=label, joins=joins), values):
        found.setdefault(_name(row["label"], "day") or "", []).append((row["step"], row["times"]))
        whole[row["step"]] += row["times"]
    each = {name: _percentiles(steps) for name, steps in found.items()}
    return sums, _percentiles(sorted(whole.items())), each, True


def _percentiles(steps: Sequence[tuple[int, int]]) -> Percentiles:
    return [usage_days.percentile(steps, share) for share in (0.5, 0.95)]


def query(statement: str, values: dict[str, Any] | list[Any]) -> list[dict[str, Any]]:
    """Its rows, each by the names of its columns."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _name(label: str | datetime | None, step: str) -> str | None:
    return label.strftime(_LABEL[step]) if isinstance(label, datetime) else label


def _with_ttft(line: Line, known: Sequence[float | None] | None) -> Line:
    first, last = known or (None, None)
    return replace(line, ttft_p50=first, ttft_p95=last)


def _added(sums: list[dict[str, Any]], source: str, label: Callable[[dict[str, Any]], str]) -> list[Line]:
    """The rows of each label together. What no row of them knows stays unknown."""
    found: dict[str, dict[str, Any]] = {}
    for row in sums:
        held = found.setdefault(label(row), dict.fromkeys(_SUMMED))
        for name in _SUMMED:
            if row[name] is not None:
                held[name] = (held[name] or 0) + row[name]
    return [Line(label=name, source=source, **held) for name, held in found.items()]


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
