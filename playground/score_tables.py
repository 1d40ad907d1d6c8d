"""A batch's scores out of the database, summed there: a table may hold a million. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection

from playground import score_judge, scoring
from playground.models import Batch, BatchColumn, BatchItem, BatchResult, BatchScore, DatasetRow
from playground.score_report import PairSums, Sums
from playground.scorers import Scorer

WHICH = ("worse", "better", "low", "null", "all")
_SCORES = BatchScore._meta.db_table
_WRONG = f"{scoring.FAILED}%"


def sums(batch: Batch, columns: Sequence[BatchColumn]) -> dict[tuple[int, int], Sums]:
    """By (scorer's place, column's pk)."""
    keys = [column.pk for column in columns]
    ended = (BatchItem.State.DONE, BatchItem.State.FAILED)
    rows = {column.pk: column.items.filter(state__in=ended).count() for column in columns}
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT scorer, column_id, count(value), coalesce(sum(value), 0), coalesce(sum(value * value), 0),
                   coalesce(bool_and(value IN (0, 1)), true),
                   count(*) FILTER (WHERE value IS NOT NULL AND why LIKE %s), count(*) - count(value)
            FROM {_SCORES} WHERE column_id = ANY(%s) GROUP BY scorer, column_id
            """,
            [_WRONG, keys],
        )
        found = {
            (place, pk): replace(Sums(*values), rows=rows[pk]) for place, pk, *values in cursor.fetchall()
        }
    places = [place for place, _ in scoring.scorers_of(batch)]
    return {(place, pk): found.get((place, pk), Sums(rows=rows[pk])) for place in places for pk in keys}


# Two columns' scores beside each other by row. Grouped, not joined: what the planner does not know yet of a
# table that was just filled makes it take a join that looks through all of it for each row.
_PAIRS = f"""
    SELECT scorer, number,
           max(value) FILTER (WHERE column_id = %s) AS new, max(why) FILTER (WHERE column_id = %s) AS new_why,
           max(value) FILTER (WHERE column_id = %s) AS old, max(why) FILTER (WHERE column_id = %s) AS old_why
    FROM {_SCORES} WHERE column_id IN (%s, %s)"""


def _pair(column: BatchColumn, baseline: BatchColumn | None) -> list[int]:
    old = (baseline or column).pk
    return [column.pk, column.pk, old, old, column.pk, old]


def pair_sums(baseline: BatchColumn, others: Sequence[BatchColumn]) -> dict[tuple[int, int], PairSums]:
    """By (scorer's place, other column's pk), over rows that both have a score of."""
    found: dict[tuple[int, int], PairSums] = {}
    for column in others:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                SELECT scorer, count(*), sum(d), sum(d * d), count(*) FILTER (WHERE d > 0),
                       count(*) FILTER (WHERE d < 0), bool_and(d IN (-1, 0, 1))
                FROM (SELECT scorer, new - old AS d FROM ({_PAIRS} GROUP BY scorer, number) pairs) differences
                WHERE d IS NOT NULL GROUP BY scorer
                """,
                _pair(column, baseline),
            )
            found |= {(place, column.pk): PairSums(*values) for place, *values in cursor.fetchall()}
    return found


@dataclass(frozen=True)
class Compared:
    """One row beside the baseline: scores, reasons, and the last result of each. `old`: the baseline's."""

    number: int
    row: DatasetRow
    new: float | None
    new_why: str
    new_result: BatchResult | None
    old: float | None = None
    old_why: str = ""
    old_result: BatchResult | None = None
    question: str = ""
    wanted: str | None = None
    prompt: str = ""


def compared(
    place: int,
    scorer: Scorer,
    column: BatchColumn,
    baseline: BatchColumn | None,
    which: str,
    offset: int = 0,
    limit: int = 25,
) -> list[Compared]:
    """Rows of `column`: "worse" or "better" than the baseline's, most first; "low": not wholly right,
    lowest first; "null": without a score; "all" in their order.
    """
    told = _told(place, column, baseline, which, offset, limit)
    numbers = [number for number, *_ in told]
    rows = {
        row.number: row
        for row in DatasetRow.objects.filter(version=column.batch.version_id, number__in=numbers)
    }
    new = scoring.last_results(column, numbers)
    old = scoring.last_results(baseline, numbers) if baseline else {}
    return [_compared(scorer, rows[one[0]], one, new.get(one[0]), old.get(one[0])) for one in told]


def _compared(
    scorer: Scorer, row: DatasetRow, told: Any, new: BatchResult | None, old: BatchResult | None
) -> Compared:
    number, value, why, old_value, old_why = told
    question = score_judge.question_of(row.body)
    wanted = scorer.wanted(row.expected, row.cells)
    prompt = ""
    if scorer.kind == "judge" and new and new.ok:
        prompt = score_judge.filled(scorer.prompt, question, wanted, new.text)
    return Compared(number, row, value, why, new, old_value, old_why or "", old, question, wanted, prompt)


# Which rows, and in which order. `new_why` is null where the column has no score at all.
_ORDERS = {
    "worse": ("new < old", "new - old, number"),
    "better": ("new > old", "old - new, number"),
    "low": ("new < 1", "new, number"),
    "null": ("new IS NULL", "number"),
    "all": ("true", "number"),
}


def _told(
    place: int, column: BatchColumn, baseline: BatchColumn | None, which: str, offset: int, limit: int
) -> list[Any]:
    """(number, value, why, baseline's value, its why) of one page."""
    where, order = _ORDERS[which]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT number, new, new_why, old, old_why
            FROM ({_PAIRS} AND scorer = %s GROUP BY scorer, number) pairs
            WHERE new_why IS NOT NULL AND {where} ORDER BY {order} LIMIT %s OFFSET %s
            """,
            [*_pair(column, baseline), place, limit, offset],
        )
        return list(cursor.fetchall())


def count(place: int, column: BatchColumn, baseline: BatchColumn | None, which: str) -> int:
    """How many rows `compared` has in all."""
    where, _ = _ORDERS[which]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(*) FROM ({_PAIRS} AND scorer = %s GROUP BY scorer, number) pairs
            WHERE new_why IS NOT NULL AND {where}
            """,
            [*_pair(column, baseline), place],
        )
        found: int = cursor.fetchone()[0]
        return found
