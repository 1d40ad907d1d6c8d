"""Batches with rows answered by hand, for tests of what is shown and counted of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection

from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchResult,
    DatasetRow,
    DatasetVersion,
    Team,
)
from tests import chats

Item = BatchItem.State
TIMES = {"ttft": 40.0, "e2e": 240.0, "chunks": 11, "first_chunk_tokens": 1}
USAGE = {"prompt_tokens": 12, "completion_tokens": 11}


def batch(
    team: Team, version: DatasetVersion, columns: int = 2, state: str = Batch.State.RUNNING, **more: Any
) -> tuple[Batch, list[BatchColumn]]:
    """One whose rows all wait, with columns "one", "two", …"""
    made = Batch.objects.create(
        team=team, name=more.pop("name", "triage"), version=version, state=state, **more
    )
    names = ("one", "two", "three")[:columns]
    placed = [
        BatchColumn.objects.create(batch=made, position=at, deployment=chats.deployment(team, name))
        for at, name in enumerate(names)
    ]
    for column in placed:
        BatchItem.objects.bulk_create(
            BatchItem(column=column, row=row, number=row.number, place=row.number)
            for row in version.rows.order_by("number")
        )
    return made, placed


def answer(column: BatchColumn, number: int, text: str = "Paris", **more: Any) -> BatchResult:
    """A success of the item's attempt."""
    item = BatchItem.objects.get(column=column, number=number)
    timings: Mapping[str, Any] = {**TIMES, **more.pop("timings", {})}
    usage: Mapping[str, Any] = {**USAGE, **more.pop("usage", {})}
    BatchItem.objects.filter(pk=item.pk).update(state=Item.DONE)
    return BatchResult.objects.create(
        column=column,
        number=number,
        attempt=item.attempt,
        ok=True,
        text=text,
        timings=timings,
        usage=usage,
        **{"finish_reason": "stop", **more},
    )


def fail(column: BatchColumn, number: int, error: str = "It was too long.") -> BatchResult:
    """A failure of the item's attempt."""
    item = BatchItem.objects.get(column=column, number=number)
    BatchItem.objects.filter(pk=item.pk).update(state=Item.FAILED)
    return BatchResult.objects.create(
        column=column, number=number, attempt=item.attempt, ok=False, error=error, error_code="too_long"
    )


def again(column: BatchColumn, number: int) -> None:
    """A failed row waits for its next attempt, as after Retry."""
    item = BatchItem.objects.get(column=column, number=number)
    BatchItem.objects.filter(pk=item.pk).update(state=Item.WAITING, attempt=item.attempt + 1)


def many(team: Team, version: DatasetVersion, columns: Sequence[BatchColumn], rows: int) -> None:
    """`rows` rows made by the database, all answered but each thousandth of the first column: it failed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO playground_datasetrow (version_id, number, line, custom_id, url, body, cells)"
            " SELECT %s, n, n, 'row-' || n, '/v1/chat/completions',"
            " jsonb_build_object('messages', jsonb_build_array("
            "   jsonb_build_object('role', 'user', 'content', 'Question ' || n))), '{}'"
            " FROM generate_series(1, %s) n",
            [version.pk, rows],
        )
        for place, column in enumerate(columns):
            failing = f"n %% 1000 = 0 AND {place} = 0"
            cursor.execute(
                "INSERT INTO playground_batchitem"
                " (column_id, row_id, number, place, state, attempt, deaths, claimed_by)"
                f" SELECT %s, r.id, n, n, CASE WHEN {failing} THEN 'failed' ELSE 'done' END, 0, 0, ''"
                " FROM playground_datasetrow r, LATERAL (SELECT r.number AS n) AS numbered"
                " WHERE r.version_id = %s",
                [column.pk, version.pk],
            )
            cursor.execute(
                "INSERT INTO playground_batchresult (column_id, number, attempt, ok, text, reasoning,"
                " finish_reason, usage, timings, error_code, error, created_at)"
                f" SELECT %s, n, 0, NOT ({failing}), 'Answer ' || n, '', 'stop',"
                " jsonb_build_object('completion_tokens', n %% 97, 'prompt_tokens', 9),"
                " jsonb_build_object('ttft', n %% 501, 'e2e', 1000 + n %% 1009, 'chunks', 5), '', '', now()"
                " FROM generate_series(1, %s) n",
                [column.pk, rows],
            )
        cursor.execute("ANALYZE playground_datasetrow, playground_batchitem, playground_batchresult")
    DatasetVersion.objects.filter(pk=version.pk).update(row_count=rows)
    version.refresh_from_db()


def emptied(version: DatasetVersion) -> DatasetVersion:
    """Without rows, for `many` to fill."""
    DatasetRow.objects.filter(version=version).delete()
    return version
