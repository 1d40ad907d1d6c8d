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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from django.conf import settings

from endpoints import sql
from playground import engine_client, engines, spending
from playground.engine_client import EngineError, Target
from playground.engines.base import Quirks
from playground.models import Deployment, Node, Replica

log = logging.getLogger(__name__)

RELOAD_S = 2.0
# Announcements closer together than this are answered by one reload.
CALM_S = 0.05
BOOT_ID = secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may call: not revoked, not expired when the table was read."""

    id: int
    team: int
    scopes: frozenset[str]
    digest: str
    expires: float
    """On this process's monotonic clock; infinity for none."""
    name: str = ""
    family: int = 0
    """Keys that replaced each other share it, and with it their limits."""
    endpoints: frozenset[str] = frozenset()
    """Names it may call; empty: all."""
    routes: frozenset[str] = frozenset()
    """Addresses it may call, "/v1/embeddings"; empty: all."""
    limits: Mapping[str, float] = field(default_factory=dict)

    def may_call(self, name: str) -> bool:
        """Whether its scopes and names let it call `name`; an adapter is called by its endpoint's name."""
        if ("playground" if "/" in name else "endpoints") not in self.scopes:
            return False
        return not self.endpoints or name.partition(":")[0] in self.endpoints

    def may_use(self, route: str) -> bool:
        return not self.routes or route in self.routes


@dataclass(frozen=True, slots=True)
class Route:
    """Where one name leads: a deployment's ready replicas, and what its release adds to a request."""

    name: str
    team: int
    created: int
    deployment: int
    quirks: Quirks
    replicas: tuple[Target, ...]
    coming: bool
    """A replica is on its way: worth waiting for."""
    task: str = "chat"
    """Of the model behind it."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    release: int | None = None
    tested: tuple[int, int] | None = None
    """The prompt it was tested with, and that one's version."""
    log_share: float = 0.0
    """Of how many of its requests what was asked and answered is kept, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a team's library: its newest version is `head`."""

    id: int
    team: int
    head: int


@dataclass(frozen=True, slots=True)
class Table:
    """One consistent view. `read` is monotonic, `at` the database's time of it."""

    read: float = float("-inf")
    at: datetime | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)
    routes: Mapping[tuple[int, str], Route] = field(default_factory=dict)
    prompts: Mapping[tuple[int, str], Prompt] = field(default_factory=dict)
    """By team and id as text, and by team and name."""
    prices: Mapping[int, float] = field(default_factory=dict)
    """Dollars a second of each ready replica whose machine has a price."""
    processes: int = 1
    """Web processes that live."""

    def fresh(self) -> bool:
        return time.monotonic() - self.read < settings.TABLE_STALE_S


_table = Table()
_changed = asyncio.Event()
_task: asyncio.Task[None] | None = None
# None for a replica that cannot be reached from here.
_targets: dict[tuple[Any, ...], Target | None] = {}
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


def build(snapshot: sql.Snapshot, read: float) -> Table:
    """The table of a snapshot; `read` is the monotonic moment before it was taken."""
    global _targets
    engine_of = {row.id: row.engine for row in snapshot.deployments}
    rows = [tuple(row) for row in snapshot.replicas if row.deployment_id in engine_of]
    _targets = {row: _targets[row] if row in _targets else _target(row, engine_of[row[1]]) for row in rows}
    ready: dict[int, list[Target]] = {}
    for row, target in _targets.items():
        if target is not None:
            ready.setdefault(row[1], []).append(target)
    deployments = {row.id: _deployment(row, ready.get(row.id, [])) for row in snapshot.deployments}
    attached = {row.id: (row.engine, [one["name"] for one in row.adapters]) for row in snapshot.deployments}
    every = [*deployments.values(), *(_endpoint(row, deployments) for row in snapshot.endpoints)]
    every += [one for route in every for one in _adapters(route, *attached.get(route.deployment, ("", [])))]
    routes = {(route.team, route.name): route for route in every}
    keys = {row.prefix: _key(row, read) for row in snapshot.keys}
    prices = {row.id: _price(row) for row in snapshot.prices}
    prompts = _prompts(snapshot.prompts)
    return Table(read, snapshot.at, keys, routes, prompts, prices, snapshot.processes)


def _prompts(rows: Iterable[Any]) -> dict[tuple[int, str], Prompt]:
    """By name, and by id: where a name is another's id, the id counts."""
    found = [(row, Prompt(row.id, row.team_id, row.head)) for row in rows]
    by_name = {(row.team_id, row.name): prompt for row, prompt in found}
    return by_name | {(row.team_id, str(row.id)): prompt for row, prompt in found}


def _price(row: Any) -> float:
    node = Node(
        price_per_hour=row.price_per_hour, inventory={"gpus": [None] * row.gpus, "cores": row.cores or 0}
    )
    return float(spending.per_second(Replica(resources=row.resources), node) or 0)


def _key(row: Any, read: float) -> Key:
    expires = float("inf") if row.expires_in is None else read + row.expires_in
    return Key(
        row.id,
        row.team_id,
        frozenset(row.scopes),
        row.secret_hash,
        expires,
        name=row.name,
        family=row.family,
        endpoints=frozenset(row.endpoints),
        routes=frozenset(row.routes),
        limits=row.limits,
    )


def _deployment(row: Any, replicas: list[Target]) -> Route:
    return Route(
        name=f"deployment/{row.id}",
        team=row.team_id,
        created=row.created,
        deployment=row.id,
        quirks=_quirks(row.engine),
        replicas=tuple(replicas),
        coming=row.coming and not row.problem,
        task=row.task,
    )


def _endpoint(row: Any, deployments: Mapping[int, Route]) -> Route:
    behind = deployments.get(row.deployment_id)
    return Route(
        name=row.name,
        team=row.team_id,
        created=row.created,
        deployment=row.deployment_id,
        quirks=behind.quirks if behind else Quirks(),
        replicas=behind.replicas if behind else (),
        coming=behind.coming if behind else False,
        task=behind.task if behind else "chat",
        sampling=row.sampling,
        release=row.release_id,
        tested=None if row.prompt_id is None else (row.prompt_id, row.prompt_number),
        log_share=row.log_share,
    )


def _adapters(route: Route, engine: str, names: list[str]) -> Iterator[Route]:
    """A route of its own for each adapter: "capitals:polite" to the same replicas, answered by it."""
    for place, name in enumerate(names if engine in engines.names() else []):
        selects = engines.get(engine).selecting(place, name)
        seats = tuple(replace(target, selects=selects) for target in route.replicas)
        yield replace(route, name=f"{route.name}:{name}", replicas=seats)


def _quirks(engine: str) -> Quirks:
    try:
        return engines.get(engine).quirks
    except engines.UnknownEngine:
        return Quirks()


def _target(row: tuple[Any, ...], engine: str) -> Target | None:
    """How a replica is reached; None, said once, where its row does not tell: the others serve on."""
    try:
        return _reached(row, engine)
    except EngineError as error:
        log.warning("replica %s is not routed to: %s", row[0], error)
        return None


def _reached(row: tuple[Any, ...], engine: str) -> Target:
    """The rows are made here and never saved: they only carry the facts."""
    pk, deployment, served_name, port, engine_key, relay_port, relay_key, node_name, address = row
    return engine_client.target(
        Replica(
            pk=pk,
            deployment=Deployment(pk=deployment, engine=engine),
            node=Node(name=node_name, address=address),
            served_name=served_name,
            port=port,
            engine_key=engine_key,
            relay_port=relay_port,
            relay_key=relay_key,
        )
    )
