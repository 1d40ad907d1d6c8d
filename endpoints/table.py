"""What the gateway routes by, as one consistent view: keys, names, ready replicas, prompts, prices.

Made whole of the rows of one read; who keeps it and chooses among its replicas is `routing`.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings

from endpoints import sql
from playground import engine_client, engines, spending
from playground.engine_client import EngineError, Target
from playground.engines.base import Quirks
from playground.models import Deployment, Node, Replica

log = logging.getLogger(__name__)


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


# None for a replica that cannot be reached from here.
_targets: dict[tuple[Any, ...], Target | None] = {}


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
