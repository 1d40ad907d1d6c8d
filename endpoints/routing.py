"""The gateway's table in memory: keys, endpoints, live releases, ready replicas; and the choice among them.

One task a web process keeps it: read whole every two seconds, sooner when PostgreSQL announces a change.
Without PostgreSQL the last table serves for a minute, then nothing is served. Redis plays no part.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import psycopg
from django.conf import settings

from endpoints import protocol, sql
from endpoints.table import Key, Prompt, Route, Table, build
from playground.engine_client import Target

log = logging.getLogger(__name__)

RELOAD_S = 2.0
# Announcements closer together than this are answered by one reload.
CALM_S = 0.05
BOOT_ID = secrets.token_hex(8)


_table = Table()
_changed = asyncio.Event()
_task: asyncio.Task[None] | None = None
# Estimated tokens each replica still owes to requests of this process.
_outstanding: Counter[int] = Counter()
_used_keys: set[int] = set()
_used_deployments: set[int] = set()
_busy_deployments: Counter[int] = Counter()


def table() -> Table:
    return _table


def authorise(secret: str) -> Key | None:
    """The key a secret belongs to; None when there is none, or it was revoked or has expired."""
    prefix, _, rest = secret.removeprefix("sk-slip-").partition("-")
    key = _table.keys.get(prefix)
    if key is None or not rest or key.expires <= time.monotonic():
        return None
    digest = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
    if not hmac.compare_digest(digest, key.digest):
        return None
    _used_keys.add(key.id)
    return key


def find(key: Key, name: str) -> Route | None:
    """Where `name` leads for that key's team."""
    return _table.routes.get((key.team, name))


def require(key: Key, name: str) -> Route:
    """The same, for a key that may call it; Refusal says why not."""
    scope = "playground" if "/" in name else "endpoints"
    if scope not in key.scopes:
        raise protocol.Refusal(403, f"This key lacks the scope {scope!r}.", "missing_scope", "model")
    route = find(key, name)
    if route is None:
        raise protocol.no_such_model(name)
    if not key.may_call(name):
        raise protocol.Refusal(403, "This key may not call that model.", "model_not_allowed", "model")
    return route


def names(key: Key) -> list[Route]:
    """Every route the key may call."""
    return [route for (team, name), route in _table.routes.items() if team == key.team and key.may_call(name)]


def prompt(key: Key, name: str) -> Prompt | None:
    """The prompt of the key's team with that id, else that name."""
    return _table.prompts.get((key.team, name))


def price(replica: int) -> float | None:
    """Dollars a second of what a replica holds; None where its machine has no price."""
    return _table.prices.get(replica)


def choose(route: Route, failed: Collection[int] = ()) -> Target | None:
    """The ready replica with the fewest tokens outstanding, none of `failed`."""
    seats = [target for target in route.replicas if target.replica not in failed]
    return min(seats, key=lambda target: _outstanding[target.replica], default=None)


def take(route: Route, target: Target, tokens: int) -> None:
    """Count a request's tokens against a replica until `release` gives them back."""
    _outstanding[target.replica] += tokens
    _busy_deployments[route.deployment] += 1


def release(route: Route, target: Target, tokens: int) -> None:
    _outstanding[target.replica] -= tokens
    _busy_deployments[route.deployment] -= 1
    _used_deployments.add(route.deployment)


async def changed(timeout_s: float) -> None:
    """Wait for the next table, at most so long."""
    try:
        async with asyncio.timeout(timeout_s):
            await _changed.wait()
    except TimeoutError:
        pass


async def startup() -> None:
    """Begin keeping the table, and wait a little for the first one."""
    global _task
    _task = asyncio.create_task(_keep(), name="routing table")
    await changed(5)


async def shutdown() -> None:
    global _task
    if _task is not None:
        _task.cancel()
        await asyncio.gather(_task, return_exceptions=True)
        _task = None


async def _keep() -> None:
    """Keep the table for as long as the process lives, whatever becomes of PostgreSQL."""
    wait, complained = 0.2, False
    while True:
        try:
            async with await sql.connect(settings.DATABASE_URL) as connection:
                wait, complained = 0.2, False
                await _follow(connection)
        except Exception as error:
            # Whatever it is: a process that gives up here serves nothing until somebody restarts it.
            if not complained:
                log.warning("the routing table is not being renewed: %s", type(error).__name__)
            complained = True
        await asyncio.sleep(wait)
        wait = min(wait * 2, RELOAD_S)


async def _follow(connection: psycopg.AsyncConnection[Any]) -> None:
    try:
        while True:
            async with asyncio.timeout(5 + RELOAD_S):
                await _reload(connection)
            async for _ in connection.notifies(timeout=RELOAD_S, stop_after=1):
                await asyncio.sleep(CALM_S)
            async for _ in connection.notifies(timeout=0):
                pass  # One reload answers everything announced so far.
    except asyncio.CancelledError:
        await sql.leave(connection, BOOT_ID)
        raise


async def _reload(connection: psycopg.AsyncConnection[Any]) -> None:
    """Read everything, put it in place at once, and say so."""
    began = time.monotonic()
    snapshot = await sql.snapshot(connection)
    _install(build(snapshot, began))
    await sql.present(connection, BOOT_ID, settings.NODE_NAME, os.getpid(), snapshot.at)
    busy = {deployment for deployment, running in _busy_deployments.items() if running > 0}
    keys, used = set(_used_keys), _used_deployments | busy
    _used_keys.clear()
    _used_deployments.clear()
    await sql.used(connection, keys, used)


def _install(table: Table) -> None:
    global _table, _changed
    _table = table
    waiting, _changed = _changed, asyncio.Event()
    waiting.set()
