"""A load run as it is shown: its columns, a row a level in words, the charts, what to know of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground.load_chart import SHAPES, Chart, Point, chart
from playground.load_form import Level, Wanted
from playground.templatetags.figures import MISSING, duration, rate

CHARTED = (("ttft", "TTFT"), ("tpot", "TPOT"))


@dataclass(frozen=True)
class Shown:
    """One level of a column, each figure as text."""

    level: Level
    offered: str
    completed: str
    failed: str
    unfinished: int
    tokens_s: str
    requests_s: str
    ttft: str
    tpot: str
    tpot_n: str
    e2e: str
    goodput: str
    good: str
    tokens: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ColumnShown:
    name: str
    engine: str
    hardware: str
    index: int
    """Which shape, pattern and colour it has in the charts."""
    shape: str
    rows: tuple[Shown, ...]
    left: str = ""
    """Why it, or the rest of it, was not measured."""
    lengths: str = ""


@dataclass(frozen=True)
class Results:
    wanted: Wanted
    columns: tuple[ColumnShown, ...]
    charts: tuple[Chart, ...]
    shared: str
    limits: str
    loops: tuple[str, ...] = field(default=())

    @property
    def stated(self) -> dict[str, str]:
        """The limits as a form shows them."""
        known = [(name, value) for name, value in self.wanted.limits.items() if value is not None]
        return {name: f"{value:.3f}".rstrip("0").rstrip(".") for name, value in known}

    @property
    def rates(self) -> bool:
        """Whether there are open levels."""
        return any(level.open for level in self.wanted.levels)

    @property
    def any(self) -> bool:
        return any(column.rows for column in self.columns)


def of(settings: Mapping[str, Any], result: Mapping[str, Any]) -> Results:
    """What a Measurement of the kind "load" found so far."""
    wanted = Wanted.of(settings)
    described: Sequence[Mapping[str, Any]] = settings.get("columns", [])
    rows: Sequence[Mapping[str, Any]] = result.get("rows", [])
    columns = tuple(_column(index, one, wanted, rows, result) for index, one in enumerate(described))
    names = [column.name for column in columns]
    places = {one["pk"]: index for index, one in enumerate(described)}
    charts = [chart(key, title, names, _points(key, places, wanted, rows)) for key, title in CHARTED]
    return Results(
        wanted,
        columns,
        tuple(one for one in charts if one),
        " ".join(filter(None, (sharing(described), distance(settings.get("node", ""), described)))),
        limits(wanted),
        _loops(wanted),
    )


def _column(
    index: int,
    described: Mapping[str, Any],
    wanted: Wanted,
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
) -> ColumnShown:
    own = [row for row in rows if row["column"] == described["pk"]]
    return ColumnShown(
        name=described["name"],
        engine=f"{described['engine']} {described['version']}".strip(),
        hardware=", ".join(described["hardware"]),
        index=index % len(SHAPES),
        shape=SHAPES[index % len(SHAPES)],
        rows=tuple(_shown(row, wanted) for row in own),
        left=result.get("left", {}).get(str(described["pk"]), ""),
        lengths=_lengths(own, described, wanted),
    )


def _shown(row: Mapping[str, Any], wanted: Wanted) -> Shown:
    stated = any(limit is not None for limit in wanted.limits.values())
    tpot_n: int = row["tpot"]["n"]
    return Shown(
        level=wanted.levels[row["level"]],
        offered=f"{row['offered']:,}",
        completed=f"{row['completed']:,}",
        failed=f"{row['failed']:,}",
        unfinished=row["unfinished"],
        tokens_s=rate(row["tokens_s"], "tok/s"),
        requests_s=rate(row["requests_s"], "/s"),
        ttft=pair(row["ttft"]),
        tpot=pair(row["tpot"]),
        tpot_n=f"n = {tpot_n}" if tpot_n and tpot_n != row["completed"] else "",
        e2e=pair(row["e2e"]),
        goodput=rate(row["goodput"], "/s") if stated else "no limits set",
        good=f"{row['good']:,} of {row['offered']:,}" if row["good"] is not None else "",
        tokens=MISSING if row["tokens_mean"] is None else f"{row['tokens_mean']:,.1f}".removesuffix(".0"),
        notes=tuple(_notes(row)),
    )


def _notes(row: Mapping[str, Any]) -> list[str]:
    """What limits the worth of a row's figures."""
    notes = []
    if row["completed"] and not row["tail_cut"]:
        notes.append("tail not cut: too few requests for this level")
    if row["late"]:
        notes.append(f"{row['late']} timed while this machine was late")
    if row["unfinished"]:
        notes.append(f"{row['unfinished']} cut off when the time was over")
    return notes


def pair(spread: Mapping[str, Any]) -> str:
    """p50 and p95: "41 · 60 ms", "980 ms · 1.2 s"."""
    if not spread["n"]:
        return MISSING
    low, high = milliseconds(spread["p50"]), milliseconds(spread["p95"])
    return f"{low.removesuffix(' ms') if high.endswith(' ms') else low} · {high}"


def milliseconds(value: float) -> str:
    """Three digits: 1.234 → "1.23 ms", 41.3 → "41.3 ms", 2130 → "2.13 s"."""
    if value >= 999.5:
        return f"{value / 1000:.2f} s" if value < 9995 else duration(value / 1000)
    return f"{value:.3g} ms"


def _lengths(rows: Sequence[Mapping[str, Any]], described: Mapping[str, Any], wanted: Wanted) -> str:
    """Whether every answer had the length asked for, and what was done for it."""
    least = [row["tokens_least"] for row in rows if row["tokens_least"] is not None]
    most = [row["tokens_most"] for row in rows if row["tokens_most"] is not None]
    if not least:
        return ""
    if min(least) == max(most) == wanted.max_tokens:
        return f"Every answer had {wanted.max_tokens} tokens."
    why = "" if described["length"] or not wanted.fixed else " This engine has no way to fix the length."
    low, high = min(least), max(most)
    said = f"from {low} to {high}" if low != high else f"{low}, not {wanted.max_tokens},"
    return f"Answers had {said} tokens: compare it with the mean of each row in mind.{why}"


def _points(
    key: str, places: Mapping[int, int], wanted: Wanted, rows: Sequence[Mapping[str, Any]]
) -> list[Point]:
    """What of the rows can be drawn: both figures are known."""
    return [
        Point(
            places[row["column"]],
            row["open"],
            wanted.levels[row["level"]].label,
            row["tokens_s"],
            row[key]["p50"],
        )
        for row in rows
        if row["tokens_s"] and row[key]["p50"] is not None
    ]


def sharing(columns: Sequence[Mapping[str, Any]]) -> str:
    """In what order columns are measured, and which stand on the same hardware."""
    if len(columns) < 2:
        return ""
    places: dict[str, list[str]] = {}
    for column in columns:
        for place in column["hardware"]:
            places.setdefault(place, []).append(column["name"])
    shared = [f"{', '.join(names)} share {place}" for place, names in places.items() if len(names) > 1]
    said = "; ".join(shared)
    return "Columns are measured one after another, not interleaved." + (f" {said}." if said else "")


def distance(node: str, columns: Sequence[Mapping[str, Any]]) -> str:
    """Where it was measured from, where a column is elsewhere: the network is in its figures."""
    away = [
        one["name"] for one in columns if any(not place.startswith(f"{node}, ") for place in one["hardware"])
    ]
    return f"Measured from {node}: the way to {', '.join(away)} is in its figures." if node and away else ""


def limits(wanted: Wanted) -> str:
    """The limits of goodput in words; empty without any."""
    titles = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
    stated = [
        (title, value) for name, title in titles.items() if (value := wanted.limits.get(name)) is not None
    ]
    return ", ".join(f"{title} ≤ {milliseconds(value)}" for title, value in stated)


def _loops(wanted: Wanted) -> tuple[str, ...]:
    said = []
    if any(not level.open for level in wanted.levels):
        said.append(
            "Concurrency is a closed loop: a request is sent when one has ended, and timed from its sending."
        )
    if any(level.open for level in wanted.levels):
        said.append(
            f"A rate is an open loop: Poisson arrivals (seed {wanted.seed}, the same for each column), "
            "whatever comes back; TTFT and E2E count from the moment a request was to be sent."
        )
    return tuple(said)
