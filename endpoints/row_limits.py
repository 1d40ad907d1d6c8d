"""Rows of /v1/batches against the limits of the key that sent them: each is a request as others are.

While a minute's limit is used up rows wait; what would pass a day's limit, or is larger than a minute's, is
not asked and says so. A batch takes none of the places of concurrent requests. The process that asks rows
takes its part of each limit as web processes do (`limits`); without Redis that is one more share.
"""

import json
from collections.abc import Mapping
from time import monotonic
from typing import Any

from django.db import Error, connection

from endpoints import drain, limits, protocol, sql
from endpoints.models import ApiBatch, ApiKey
from endpoints.protocol import Refusal
from endpoints.table import Key
from playground import batch_asking, batch_gates
from playground.batch_claims import Result, Row
from playground.orm import orm

# How often a key's limits, and how many processes there are, are read again.
READ_S = 2.0

_begun = False
_processes = 1


async def opens(column: int) -> "Gate | None":
    """The gate of a column of a batch of /v1; None of any other."""
    found = await orm(_key_of, column)
    if found is None:
        return None
    await _begin()
    return Gate(*found)


async def closes() -> None:
    """Give back what this process holds of limits, and end its dealings with Redis."""
    global _begun
    if _begun:
        _begun = False
        await limits.shutdown()


async def _begin() -> None:
    global _begun
    if not _begun:
        _begun = True
        await limits.startup(used=_used, processes=lambda: _processes)


def _key_of(column: int) -> tuple[int, int, Key] | None:
    """(the key's id, the deployment, the key as limits know it)."""
    rows = ApiBatch.objects.filter(batch__columns=column, key__isnull=False)
    found = rows.values_list("key_id", "batch__columns__deployment_id").first()
    return None if found is None else (found[0], found[1] or 0, _read(found[0]))


def _read(pk: int) -> Key:
    global _processes
    _processes = drain.live().count() + 1
    row = ApiKey.objects.get(pk=pk)
    family = row.family or row.pk
    nothing: frozenset[str] = frozenset()
    return Key(row.pk, row.team_id, nothing, "", float("inf"), row.name, family, limits=row.limits)


async def _used(family: int) -> limits.Used:
    return await orm(_used_today, family)


def _used_today(family: int) -> limits.Used:
    with connection.cursor() as cursor:
        cursor.execute(sql.USED, [[family]])
        return sql.of_day(cursor.fetchone())


def _weight(row: Row, defaults: Mapping[str, Any]) -> int:
    """The tokens it is thought to take."""
    size = len(json.dumps(row.body, ensure_ascii=False).encode())
    return protocol.weight(size, {**defaults, **row.body}, batch_asking.TASKS.get(row.url, "chat"))


class Gate:
    """Of one column: its key's limits, as they are now."""

    def __init__(self, pk: int, deployment: int, key: Key) -> None:
        self._pk, self._deployment, self._key = pk, deployment, key
        self._read_at = monotonic()

    async def admit(self, row: Row, defaults: Mapping[str, Any]) -> "Pass":
        await self._follow()
        tokens = _weight(row, defaults) if self._key.limits else 0
        try:
            return Pass(await limits.admit_row(self._key, self._deployment, tokens))
        except Refusal as refused:
            again = refused.headers.get("retry-after")
            if refused.headers.get("x-should-retry") == "false" or again is None:
                raise batch_gates.Refused(refused.code or "", refused.message) from refused
            raise batch_gates.Waits(float(again)) from refused

    async def _follow(self) -> None:
        """Take over limits that were changed meanwhile; without PostgreSQL those that were known stay."""
        if monotonic() < self._read_at + READ_S:
            return
        self._read_at = monotonic()
        try:
            self._key = await orm(_read, self._pk)
        except (Error, ApiKey.DoesNotExist):
            return


class Pass:
    """A row that was let in."""

    def __init__(self, admission: limits.Admission) -> None:
        self._admission = admission

    def close(self, result: Result) -> None:
        told = [result.usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        self._admission.close(
            tokens=sum(told) or None,
            cost=_cost(result),
            failed=not result.ok and not result.usage and not result.text,
        )

    def give_back(self) -> None:
        self._admission.give_back()


def _cost(result: Result) -> float | None:
    """Dollars; without a price nothing is counted, without a time it is not known."""
    if "busy_s" not in result.timings:
        return None
    return float(result.timings.get("cost") or 0.0)
