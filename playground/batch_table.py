"""A batch's table page by page: which rows come next under a filter or an order, and what became of them.

Pages follow each other by key, never by offset, so that the last of a million rows costs what the first does.
What no index tells (rows that differ, regressions) is looked for in windows; a page says how far it looked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connection
from django.db.models.functions import Left

from playground import scoring
from playground.models import Batch, BatchColumn, BatchItem, BatchResult, BatchScore, DatasetRow

SIZE = 50
# How many rows one page looks through for what no index tells, and how many of them at first.
LOOKED_AT_MOST, FIRST_LOOK = 50_000, 1_000
FILTERS = ("all", "failed", "differs", "regressions")
FIGURES = ("ttft", "e2e", "tokens")
EXCERPT = 280
ASKED = ("prompt", "input", "query", "documents")


@dataclass(frozen=True)
class Wanted:
    """`figure`: the rows in order of it as `column` (a pk) has it; empty: in the file's order.

    `after`: the key that the page before ended with, the row's number or "figure:number".
    """

    filter: str = "all"
    figure: str = ""
    column: int | None = None
    descending: bool = False
    after: str = ""


@dataclass(frozen=True)
class Cell:
    """What a column made of a row: its item, the last result of its attempts, its scores by their names."""

    item: BatchItem | None
    result: BatchResult | None
    scores: list[tuple[str, BatchScore]] = field(default_factory=list)

    @property
    def state(self) -> str:
        return self.item.state if self.item else ""

    @property
    def failed(self) -> bool:
        return self.state == BatchItem.State.FAILED

    @property
    def again(self) -> bool:
        """It failed before and waits to be asked once more."""
        pending = self.state in (BatchItem.State.WAITING, BatchItem.State.CLAIMED)
        return pending and self.result is not None and not self.result.ok


@dataclass(frozen=True)
class Line:
    row: DatasetRow
    cells: list[Cell]
    columns: Sequence[BatchColumn]

    @property
    def differs(self) -> bool:
        """Whether the columns that answered it answered differently."""
        said = {cell.result.text for cell in self.cells if cell.result and cell.result.ok}
        return len(said) > 1

    @property
    def pairs(self) -> list[tuple[Cell, BatchColumn]]:
        """Each cell with its column."""
        return list(zip(self.cells, self.columns, strict=True))

    @property
    def asked(self) -> str:
        return asked(self.row.body)


@dataclass(frozen=True)
class Page:
    """`after`: where the next page begins, empty at the end. `looked_to`: the last row looked at, where the
    page stopped looking before it was full.
    """

    lines: list[Line]
    after: str = ""
    looked_to: int | None = None


def page(batch: Batch, columns: Sequence[BatchColumn], wanted: Wanted, size: int = SIZE) -> Page:
    """One page. A wish that makes no sense for the batch (one column differs from none) shows no rows."""
    if wanted.figure:
        return _ordered(batch, columns, wanted, size)
    after = _number(wanted.after)
    if wanted.filter in ("differs", "regressions"):
        return _looked_for(batch, columns, wanted, after, size)
    pks = [column.pk for column in columns]
    found = _failed(pks, after, size) if wanted.filter == "failed" else _all(batch, after, size)
    more = len(found) > size
    shown = found[:size]
    return Page(lines(batch, columns, shown), str(shown[-1]) if more else "")


def lines(batch: Batch, columns: Sequence[BatchColumn], numbers: Sequence[int]) -> list[Line]:
    """The rows `numbers`, in that order, with a cell a column; answers cut to what a table shows."""
    pks = [column.pk for column in columns]
    rows = DatasetRow.objects.filter(version=batch.version_id, number__in=numbers).defer("cells")
    by_number = {row.number: row for row in rows}
    items = {
        (item.number, item.column_id): item
        for item in BatchItem.objects.filter(column__in=pks, number__in=numbers)
    }
    results = last_results(pks, numbers)
    scores, titles = scores_of(pks, numbers), dict(titles_of(batch))
    return [
        Line(
            by_number[number],
            [
                Cell(
                    items.get((number, pk)),
                    results.get((number, pk)),
                    [
                        (titles[at], score)
                        for at, score in scores.get((number, pk), {}).items()
                        if at in titles
                    ],
                )
                for pk in pks
            ],
            columns,
        )
        for number in numbers
        if number in by_number
    ]


def last_results(
    columns: Sequence[int], numbers: Sequence[int], *, whole: bool = False
) -> dict[tuple[int, int], BatchResult]:
    """The result of the last attempt by (number, column); `text` is an excerpt unless `whole`."""
    rows = BatchResult.objects.filter(column__in=columns, number__in=numbers)
    rows = rows.order_by("number", "column_id", "-attempt").distinct("number", "column_id")
    if not whole:
        rows = rows.annotate(excerpt=Left("text", EXCERPT)).defer("text", "reasoning", "response")
    found = {(row.number, row.column_id): row for row in rows}
    for row in found.values() if not whole else ():
        row.text = row.excerpt  # type: ignore[attr-defined]
    return found


def scores_of(columns: Sequence[int], numbers: Sequence[int]) -> dict[tuple[int, int], dict[int, BatchScore]]:
    found: dict[tuple[int, int], dict[int, BatchScore]] = {}
    for score in BatchScore.objects.filter(column__in=columns, number__in=numbers).order_by("scorer"):
        found.setdefault((score.number, score.column_id), {})[score.scorer] = score
    return found


def titles_of(batch: Batch) -> list[tuple[int, str]]:
    """Each scorer's place and what it is called."""
    return [(place, scorer.title) for place, scorer in scoring.scorers_of(batch)]


def asked(body: dict[str, Any]) -> str:
    """What a request says, in short: its last message, its prompt or its input."""
    messages = body.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        content = messages[-1].get("content")
        if isinstance(content, list):
            parts = [part.get("text") or "[picture]" for part in content if isinstance(part, dict)]
            return " ".join(str(part) for part in parts)[:EXCERPT]
        return str(content or "")[:EXCERPT]
    for name in ASKED:
        if body.get(name):
            value = body[name]
            return (value if isinstance(value, str) else str(value))[:EXCERPT]
    return ""


# Which rows


def _number(after: str) -> int:
    tail = after.rpartition(":")[2]
    return int(tail) if tail.isascii() and tail.isdecimal() and len(tail) < 10 else 0


def _all(batch: Batch, after: int, size: int) -> list[int]:
    rows = DatasetRow.objects.filter(version=batch.version_id, number__gt=after).order_by("number")
    return list(rows.values_list("number", flat=True)[: size + 1])


def _failed(columns: Sequence[int], after: int, size: int) -> list[int]:
    """Rows that failed in any column: each column's next ones, merged."""
    found: set[int] = set()
    for pk in columns:
        rows = BatchItem.objects.filter(column=pk, state="failed", number__gt=after).order_by("number")
        found.update(rows.values_list("number", flat=True)[: size + 1])
    return sorted(found)[: size + 1]


def _looked_for(batch: Batch, columns: Sequence[BatchColumn], wanted: Wanted, after: int, size: int) -> Page:
    """Look through growing windows until the page is full, the rows end, or enough was looked at."""
    last, most = after, batch.version.row_count
    found: list[int] = []
    window = FIRST_LOOK
    pks = [column.pk for column in columns]
    look = _differing if wanted.filter == "differs" else _regressed
    while len(found) <= size and last < most and last - after < LOOKED_AT_MOST:
        upto = min(last + window, after + LOOKED_AT_MOST)
        found += look(pks, last, upto, size + 1 - len(found))
        last, window = upto, window * 4
    shown = found[:size]
    made = Page(lines(batch, columns, shown))
    if len(found) > size:
        return replace(made, after=str(shown[-1]))
    return replace(made, after=str(last), looked_to=last) if last < most else made


DIFFERING = """
SELECT number FROM playground_batchresult
WHERE ok AND column_id = ANY(%s) AND number > %s AND number <= %s
GROUP BY number HAVING min(md5(text)) <> max(md5(text))
ORDER BY number LIMIT %s
"""


def _differing(columns: Sequence[int], after: int, upto: int, limit: int) -> list[int]:
    return _numbers(DIFFERING, [list(columns), after, upto, limit])


REGRESSED = """
SELECT DISTINCT base.number FROM playground_batchscore base
JOIN playground_batchscore other ON other.column_id = ANY(%s)
    AND other.number = base.number AND other.scorer = base.scorer
WHERE base.column_id = %s AND base.number > %s AND base.number <= %s AND other.value < base.value
ORDER BY base.number LIMIT %s
"""


def _regressed(columns: Sequence[int], after: int, upto: int, limit: int) -> list[int]:
    """Rows that any other column answers worse than the first, by any scorer."""
    if len(columns) < 2:
        return []
    return _numbers(REGRESSED, [list(columns[1:]), columns[0], after, upto, limit])


def _numbers(query: str, parameters: list[Any]) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return [number for (number,) in cursor.fetchall()]


def _ordered(batch: Batch, columns: Sequence[BatchColumn], wanted: Wanted, size: int) -> Page:
    """Rows that have the figure, by it; equal ones by their numbers."""
    if wanted.column not in {column.pk for column in columns}:
        return Page([])
    query, parameters = ordered_query(wanted, size)
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        found = cursor.fetchall()
    shown = found[:size]
    after = f"{shown[-1][0]!r}:{shown[-1][1]}" if len(found) > size else ""
    return Page(lines(batch, columns, [number for _, number in shown]), after)


def ordered_query(wanted: Wanted, size: int) -> tuple[str, list[Any]]:
    """The SQL of one page in order of a figure, and its parameters."""
    figure = wanted.figure if wanted.figure in FIGURES else FIGURES[0]
    order, beyond = ("DESC", "<") if wanted.descending else ("ASC", ">")
    query = f"SELECT {figure}, number FROM playground_batchresult WHERE ok AND column_id = %s"
    parameters: list[Any] = [wanted.column]
    if (key := _key(wanted.after)) is not None:
        query += f" AND ({figure}, number) {beyond} (%s, %s)"
        parameters += key
    query += f" AND {figure} IS NOT NULL ORDER BY {figure} {order}, number {order} LIMIT %s"
    return query, [*parameters, size + 1]


def _key(after: str) -> tuple[float, int] | None:
    value, _, number = after.partition(":")
    try:
        return float(value), int(number)
    except ValueError:
        return None
