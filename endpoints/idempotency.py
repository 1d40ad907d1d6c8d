"""`Idempotency-Key`: one execution for many sendings of the same request, and its answer for a day.

A key belongs to the API key that sent it. The first request claims it under a lease; while that runs others
get 409; its answer, if it is a 200, is stored before the client gets it and replayed to every later sending
of the same body, with `idempotent-replayed: true`; another body is 422. A request that fails, or whose client
hangs up, frees the key: the next sending runs anew.

Whole answers only. A streamed request that carries the header is refused with 400: half of a stream can be
neither replayed nor taken back.

The lease is renewed for as long as the request runs. When its web process dies, or loses the database for
longer than a lease, the next sending runs the request again. An answer over STORED_LIMIT is passed on but not
kept, and frees the key too. Without PostgreSQL such requests get 503, since nothing could be promised.
"""

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg
from django.conf import settings
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from endpoints import sql
from endpoints.protocol import Refusal, unavailable

log = logging.getLogger(__name__)

LIFE = timedelta(hours=24)
STORED_LIMIT = 1024 * 1024
# What one API key may have stored, and how often the rest is swept away.
KEY_LIMIT = 256 * 1024 * 1024
SWEEP_S = 60.0
CONNECTIONS = 4

_TOKEN = re.compile(rb"[\x21-\x7e]{1,255}")
_AWAY = (psycopg.Error, PoolTimeout, OSError)

_pool: AsyncConnectionPool[Any] | None = None
_keeper: asyncio.Task[None] | None = None
_held: set[str] = set()


class Claim:
    """This request's own hold on an Idempotency-Key."""

    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner = secrets.token_hex(16)


async def startup() -> None:
    """Open the pool (it connects on first use) and begin renewing leases."""
    global _pool, _keeper
    _pool = AsyncConnectionPool(
        settings.DATABASE_URL,
        min_size=0,
        max_size=CONNECTIONS,
        timeout=5.0,
        max_idle=60.0,
        check=AsyncConnectionPool.check_connection,
        kwargs={
            "autocommit": True,
            "connect_timeout": 5,
            "application_name": "slipway idempotency",
            "options": "-c statement_timeout=5000",
        },
        name="idempotency",
        open=False,
    )
    await _pool.open()
    _keeper = asyncio.create_task(_keep_leases(), name="idempotency leases")


async def shutdown() -> None:
    global _pool, _keeper
    if _keeper is not None:
        _keeper.cancel()
        await asyncio.gather(_keeper, return_exceptions=True)
        _keeper = None
    if _pool is not None:
        await _pool.close()
        _pool = None


def token(found: Mapping[bytes, bytes], *, streaming: bool) -> str | None:
    """The request's key, hashed; None when it has none."""
    given = found.get(b"idempotency-key")
    if given is None:
        return None
    if not _TOKEN.fullmatch(given):
        raise Refusal(
            400,
            "Idempotency-Key is 1 to 255 visible ASCII characters.",
            "bad_idempotency_key",
            "Idempotency-Key",
        )
    if streaming:
        raise Refusal(
            400,
            "Idempotency-Key works with whole answers: leave the header out, or set stream to false.",
            "idempotency_key_with_stream",
            "Idempotency-Key",
        )
    return hashlib.sha256(given).hexdigest()


def fingerprint(path: bytes, body: Mapping[str, Any]) -> str:
    """What makes two requests the same: address and body, whatever the order and spacing of its fields."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(path + b"\n" + canonical.encode()).hexdigest()


async def claim(key: int, token: str, body: str) -> Claim | bytes:
    """A claim on `token`, or the answer that was given before. Refuses with 409, 422 or 503."""
    try:
        return await _claim(key, token, body)
    except _AWAY as error:
        raise unavailable(
            "Idempotency keys cannot be kept right now.", 5, "idempotency_unavailable"
        ) from error


async def _claim(key: int, token: str, body: str) -> Claim | bytes:
    mine = Claim()
    async with borrow() as connection:
        lease = timedelta(seconds=settings.LEASE_S)
        if await sql.claim(
            connection, key=key, token=token, body=body, owner=mine.owner, lease=lease, life=LIFE
        ):
            _held.add(mine.owner)
            return mine
        found = await sql.held(connection, key, token)
    if found is not None and found[0] != body:
        raise Refusal(
            422,
            "This Idempotency-Key was used with another request.",
            "idempotency_key_reused",
            "Idempotency-Key",
        )
    if found is None or found[1] is None:
        raise Refusal(
            409,
            "The first request with this Idempotency-Key is still running.",
            "idempotency_key_in_use",
            "Idempotency-Key",
            {"retry-after": "1"},
        )
    return found[1]


async def keep(claim: Claim, answer: bytes) -> None:
    """Store the answer for those who ask again. It is the client's in any case: failing is only logged."""
    if len(answer) > STORED_LIMIT:
        await free(claim)
        return
    try:
        async with borrow() as connection:
            if await sql.keep(connection, claim.owner, answer):
                _held.discard(claim.owner)
            else:
                log.warning("an idempotent answer lost its lease and is not kept")
    except _AWAY as error:
        log.warning("an idempotent answer is not kept: %s", type(error).__name__)


async def free(claim: Claim) -> None:
    """Let the key be used anew, unless its answer is kept. Without the database its lease lapses."""
    if claim.owner not in _held:
        return
    _held.discard(claim.owner)
    try:
        async with borrow() as connection:
            await sql.free(connection, claim.owner)
    except _AWAY as error:
        log.warning("an idempotency key waits for its lease to lapse: %s", type(error).__name__)


@asynccontextmanager
async def borrow() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    assert _pool is not None, "startup() opens it"
    async with _pool.connection() as connection:
        yield connection


async def _keep_leases() -> None:
    """Renew what this process works on, and sweep at times, whatever becomes of PostgreSQL."""
    swept = monotonic()
    while True:
        await asyncio.sleep(settings.LEASE_S / 4)
        try:
            if _held:
                async with borrow() as connection:
                    await sql.renew(connection, _held, timedelta(seconds=settings.LEASE_S))
            if monotonic() - swept > SWEEP_S:
                swept = monotonic()
                async with borrow() as connection:
                    await sql.sweep(connection, LIFE, KEY_LIMIT)
        except _AWAY as error:
            log.warning("idempotency leases are not being renewed: %s", type(error).__name__)
