"""Rows of a batch as PostgreSQL hands them out and takes them back: claims, leases, results. Statements only.

Each function is one short transaction. A claim belongs to a process by its name, for as long as that renews
it; a result is kept by (column, row, attempt), whoever brings it first.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import connection

# Rows that were in flight when an engine died are asked alone: so many are held at a time.
SUSPECTS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One claimed row: what to ask, and under which attempt's number."""

    item: int
    number: int
    attempt: int
    deaths: int
    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt came to."""

    item: int
    attempt: int
    ok: bool
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] | None = None
    error_code: str = ""
    error: str = ""
    configuration: int | None = None
    replica: int | None = None


_CLAIM = """
    UPDATE playground_batchitem i
    SET state = 'claimed', claimed_by = %(owner)s, retry_at = NULL,
        lease_expires_at = now() + %(lease)s * interval '1 second'
    FROM (
        SELECT id, row_id FROM playground_batchitem
        WHERE column_id = %(column)s AND state = 'waiting' AND {which}
          AND (retry_at IS NULL OR retry_at <= now())
          AND EXISTS (
              SELECT FROM playground_batchcolumn c JOIN playground_batch b ON b.id = c.batch_id
              WHERE c.id = %(column)s AND b.state = 'running'
          )
        ORDER BY place LIMIT %(count)s FOR UPDATE SKIP LOCKED
    ) AS next JOIN playground_datasetrow r ON r.id = next.row_id
    WHERE i.id = next.id
    RETURNING i.place, i.id, i.number, i.attempt, i.deaths, r.url, r.body::text
"""
_RENEW = """
    UPDATE playground_batchitem SET lease_expires_at = now() + %s * interval '1 second'
    WHERE id = ANY(%s) AND claimed_by = %s AND state = 'claimed'
"""
# What is cancelled stays so; what an engine died over is asked alone, a little later.
_GIVE_BACK = """
    UPDATE playground_batchitem i
    SET state = CASE WHEN b.state IN ('running', 'paused') THEN 'waiting' ELSE 'cancelled' END,
        deaths = i.deaths + %s, claimed_by = '', lease_expires_at = NULL
    FROM playground_batchcolumn c JOIN playground_batch b ON b.id = c.batch_id
    WHERE i.id = ANY(%s) AND i.claimed_by = %s AND i.state = 'claimed' AND c.id = i.column_id
"""
# Rows are locked in order, so that two processes never wait for each other. An attempt that was answered
# already, by whoever held the row before, changes nothing.
_KEEP = """
    WITH came AS (
        SELECT * FROM unnest(
            %s::bigint[], %s::int[], %s::bool[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[]
        ) AS t(item, attempt, ok, text, reasoning, finish_reason, usage, timings, response,
               error_code, error, configuration, replica)
    ), mine AS (
        SELECT i.id, i.column_id, i.number, came.*
        FROM playground_batchitem i JOIN came ON came.item = i.id
        WHERE i.attempt = came.attempt AND i.state IN ('waiting', 'claimed')
        ORDER BY i.id FOR UPDATE OF i
    ), kept AS (
        INSERT INTO playground_batchresult
            (column_id, number, attempt, ok, text, reasoning, finish_reason, usage, timings, response,
             error_code, error, configuration_id, replica_id, created_at)
        SELECT column_id, number, attempt, ok, text, reasoning, finish_reason, usage::jsonb, timings::jsonb,
               response::jsonb, error_code, error, configuration, replica, now()
        FROM mine
        ON CONFLICT (column_id, number, attempt) DO NOTHING
        RETURNING column_id, number, ok
    )
    UPDATE playground_batchitem i
    SET state = CASE WHEN kept.ok THEN 'done' ELSE 'failed' END, claimed_by = '', lease_expires_at = NULL
    FROM kept WHERE i.column_id = kept.column_id AND i.number = kept.number
"""


def claim(column: int, owner: str, count: int) -> list[Row]:
    """Up to `count` rows that are due, in the order they are asked. Suspects only where no other is due."""
    rows = _claim(column, owner, count, "deaths = 0")
    return rows or _claim(column, owner, min(count, SUSPECTS), "deaths > 0")


def _claim(column: int, owner: str, count: int, which: str) -> list[Row]:
    values: dict[str, int | float | str] = {
        "column": column,
        "owner": owner,
        "count": count,
        "lease": settings.LEASE_S,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(which=which), values)
        found = sorted(cursor.fetchall())
    return [
        Row(item, number, attempt, deaths, url, json.loads(body))
        for _, item, number, attempt, deaths, url, body in found
    ]


def renew(items: Sequence[int], owner: str) -> None:
    """Hold what is ours for another while."""
    with connection.cursor() as cursor:
        cursor.execute(_RENEW, [settings.LEASE_S, list(items), owner])


def give_back(items: Sequence[int], owner: str, *, died: bool = False) -> None:
    """Free what is ours unanswered. `died`: an engine died while these were in flight."""
    if not items:
        return
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_BACK, [int(died), list(items), owner])


def keep(results: Sequence[Result]) -> int:
    """Record each, once; how many were new."""
    columns: list[list[Any]] = [
        [one.item for one in results],
        [one.attempt for one in results],
        [one.ok for one in results],
        [one.text for one in results],
        [one.reasoning for one in results],
        [one.finish_reason for one in results],
        [json.dumps(one.usage) for one in results],
        [json.dumps(one.timings) for one in results],
        [None if one.response is None else json.dumps(one.response) for one in results],
        [one.error_code for one in results],
        [one.error for one in results],
        [one.configuration for one in results],
        [one.replica for one in results],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, columns)
        return int(cursor.rowcount)
