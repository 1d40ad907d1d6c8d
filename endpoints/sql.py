"""Every statement of the gateway, on psycopg alone: the ORM's thread hop has no place in production traffic.

Each function takes an open asynchronous connection in autocommit mode. Rows come back as named tuples.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row

CHANNEL = "slipway_routes"

_KEYS = """
    SELECT id, team_id, prefix, secret_hash, scopes, name, endpoints, routes, limits,
           coalesce(family, id) AS family,
           extract(epoch FROM expires_at - now())::float8 AS expires_in
    FROM endpoints_apikey
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_ENDPOINTS = """
    SELECT endpoint.id, endpoint.team_id, endpoint.name, endpoint.log_share,
           extract(epoch FROM endpoint.created_at)::bigint AS created,
           release.id AS release_id, release.sampling, release.deployment_id,
           tested.prompt_id, tested.number AS prompt_number
    FROM endpoints_endpoint AS endpoint
    JOIN endpoints_release AS release ON release.id = endpoint.live_id
    LEFT JOIN playground_promptversion AS tested ON tested.id = release.prompt_version_id
"""
# Texts are read when they are first asked for: versions never change. A private prompt is a person's; keys
# are the team's.
_PROMPTS = "SELECT id, team_id, name, head FROM playground_prompt WHERE sharing <> 'private'"
_PROMPT_VERSION = """
    SELECT version.messages, version.variables, version.parameters
    FROM playground_promptversion AS version
    JOIN playground_prompt AS prompt ON prompt.id = version.prompt_id
    WHERE prompt.team_id = %s AND version.prompt_id = %s AND version.number = %s
"""
# What each ready replica holds of its machine, and the machine's price an hour.
_PRICES = """
    SELECT replica.id, replica.resources, node.price_per_hour,
           jsonb_array_length(coalesce(nullif(node.inventory -> 'gpus', 'null'), '[]')) AS gpus,
           node.inventory -> 'cores' AS cores
    FROM playground_replica AS replica
    JOIN playground_node AS node ON node.id = replica.node_id
    WHERE replica.state = 'ready' AND node.price_per_hour IS NOT NULL
"""
_LIVE = """
    SELECT count(*) AS processes FROM endpoints_webprocess WHERE heartbeat_at > now() - interval '10 seconds'
"""
# What lines of keys took this day and this minute by UTC: requests of /v1, and rows of batches that an engine
# worked on.
USED = """
    WITH mine AS (
        SELECT id, coalesce(family, id) AS line FROM endpoints_apikey WHERE coalesce(family, id) = ANY(%s)
    ), took AS (
        SELECT mine.line, used.at, coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) AS tokens, cost
        FROM endpoints_usage AS used JOIN mine ON mine.id = used.key_id
        WHERE used.at >= date_trunc('day', now(), 'UTC')
        UNION ALL
        SELECT mine.line, made.created_at,
               coalesce((made.usage ->> 'prompt_tokens')::bigint, 0)
               + coalesce((made.usage ->> 'completion_tokens')::bigint, 0),
               (made.timings ->> 'cost')::float8
        FROM endpoints_apibatch AS sent
        JOIN mine ON mine.id = sent.key_id
        JOIN playground_batch AS batch ON batch.id = sent.batch_id
        JOIN playground_batchcolumn AS own ON own.batch_id = batch.id
        JOIN playground_batchresult AS made ON made.column_id = own.id
        WHERE made.replica_id IS NOT NULL AND made.created_at >= date_trunc('day', now(), 'UTC')
          AND (batch.ended_at IS NULL OR batch.ended_at >= date_trunc('day', now(), 'UTC'))
    ), told AS (SELECT *, at >= date_trunc('minute', now(), 'UTC') AS fresh FROM took)
    SELECT line, count(*) AS requests_day, count(*) FILTER (WHERE fresh) AS requests_minute,
           sum(tokens)::bigint AS tokens_day, sum(tokens) FILTER (WHERE fresh)::bigint AS tokens_minute,
           sum(cost) AS spend_day, sum(cost) FILTER (WHERE fresh) AS spend_minute
    FROM told GROUP BY line
"""
_DEPLOYMENTS = """
    SELECT deployment.id, deployment.team_id, deployment.engine, deployment.problem, deployment.released,
           model.task, coalesce(configuration.adapters, '[]') AS adapters,
           extract(epoch FROM deployment.created_at)::bigint AS created,
           EXISTS (
               SELECT FROM playground_replica AS coming
               WHERE coming.deployment_id = deployment.id
                 AND coming.state IN ('pending', 'preparing', 'assigned', 'starting', 'loading')
           ) AS coming
    FROM playground_deployment AS deployment
    JOIN playground_model AS model ON model.id = deployment.model_id
    LEFT JOIN playground_configuration AS configuration ON configuration.id = deployment.configuration_id
    WHERE deployment.desired = 'running'
"""
_REPLICAS = """
    SELECT replica.id, replica.deployment_id, replica.served_name, replica.port, replica.engine_key,
           replica.relay_port, replica.relay_key, node.name AS node_name, node.address AS node_address
    FROM playground_replica AS replica
    JOIN playground_node AS node ON node.id = replica.node_id
    WHERE replica.state = 'ready' AND replica.drain_at IS NULL
    ORDER BY replica.id
"""
_PRESENT = """
    INSERT INTO endpoints_webprocess (boot_id, node, pid, table_at, heartbeat_at)
    VALUES (%(boot)s, %(node)s, %(pid)s, %(table_at)s, now())
    ON CONFLICT (boot_id) DO UPDATE SET table_at = excluded.table_at, heartbeat_at = excluded.heartbeat_at
"""
_GONE = "DELETE FROM endpoints_webprocess WHERE boot_id = %s OR heartbeat_at < now() - interval '1 day'"
_KEYS_USED = "UPDATE endpoints_apikey SET last_used_at = now() WHERE id = ANY(%s)"
# Takes over what nobody works on any more, and what is too old to be replayed.
_CLAIM = """
    INSERT INTO endpoints_idempotentrequest AS held
           (key_id, token_hash, body_hash, owner, lease_until, created_at, size)
    VALUES (%(key)s, %(token)s, %(body)s, %(owner)s, now() + %(lease)s, now(), 0)
    ON CONFLICT (key_id, token_hash) DO UPDATE
    SET body_hash = excluded.body_hash, owner = excluded.owner, lease_until = excluded.lease_until,
        created_at = excluded.created_at, answer = NULL, size = 0
    WHERE held.created_at < now() - %(life)s OR (held.answer IS NULL AND held.lease_until < now())
    RETURNING owner
"""
_HELD = """
    SELECT body_hash, answer FROM endpoints_idempotentrequest WHERE key_id = %s AND token_hash = %s
"""
_RENEW = """
    UPDATE endpoints_idempotentrequest SET lease_until = now() + %s WHERE owner = ANY(%s) AND answer IS NULL
"""
_KEEP = """
    UPDATE endpoints_idempotentrequest SET answer = %s, size = %s WHERE owner = %s AND answer IS NULL
"""
_FREE = "DELETE FROM endpoints_idempotentrequest WHERE owner = %s AND answer IS NULL"
# Each key's newest answers stay, up to a sum of bytes.
_SWEEP = """
    DELETE FROM endpoints_idempotentrequest
    WHERE (created_at < now() - %(life)s AND (answer IS NOT NULL OR lease_until < now()))
       OR id IN (
           SELECT id FROM (
               SELECT id, sum(size) OVER (PARTITION BY key_id ORDER BY created_at DESC, id DESC) AS total
               FROM endpoints_idempotentrequest WHERE answer IS NOT NULL
           ) AS stored
           WHERE total > %(limit)s
       )
"""
_DEPLOYMENTS_USED = "UPDATE playground_deployment SET last_used_at = now() WHERE id = ANY(%s)"


@dataclass(frozen=True)
class Snapshot:
    """The rows of one consistent read. `at` is the database's clock, as `Replica.drain_at` is."""

    at: datetime
    keys: list[Any]
    endpoints: list[Any]
    deployments: list[Any]
    replicas: list[Any]
    prompts: list[Any]
    prices: list[Any]
    processes: int


async def connect(url: str) -> AsyncConnection[Any]:
    """A connection that also listens for changes. Statements are limited to five seconds."""
    connection = await AsyncConnection.connect(
        url,
        autocommit=True,
        row_factory=namedtuple_row,
        connect_timeout=5,
        application_name="slipway gateway",
        options="-c statement_timeout=5000",
    )
    await connection.execute(f"LISTEN {CHANNEL}")
    return connection


async def snapshot(connection: AsyncConnection[Any]) -> Snapshot:
    """Everything the gateway routes by, read in one transaction so that no half of a change is seen."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        moment = await (await connection.execute("SELECT now() AS at")).fetchone()
        keys, endpoints, deployments, replicas, prompts, prices, live = [
            await (await connection.execute(query)).fetchall()
            for query in (_KEYS, _ENDPOINTS, _DEPLOYMENTS, _REPLICAS, _PROMPTS, _PRICES, _LIVE)
        ]
    assert moment is not None
    processes = max(1, live[0].processes)
    return Snapshot(moment.at, keys, endpoints, deployments, replicas, prompts, prices, processes)


async def present(
    connection: AsyncConnection[Any], boot: str, node: str, pid: int, table_at: datetime
) -> None:
    """Say that this web process lives and how new its table is: draining waits for that."""
    await connection.execute(_PRESENT, {"boot": boot, "node": node, "pid": pid, "table_at": table_at})


async def leave(connection: AsyncConnection[Any], boot: str) -> None:
    """Forget this web process, and any that have been silent for a day."""
    await connection.execute(_GONE, [boot])


async def used(connection: AsyncConnection[Any], keys: Iterable[int], deployments: Iterable[int]) -> None:
    """Note keys and deployments as used now; the idle time-out reads the latter."""
    if ids := list(keys):
        await connection.execute(_KEYS_USED, [ids])
    if ids := list(deployments):
        await connection.execute(_DEPLOYMENTS_USED, [ids])


async def prompt_version(connection: AsyncConnection[Any], team: int, prompt: int, number: int) -> Any:
    """(messages, variables, parameters) of a version; None where the team has no such."""
    return await (await connection.execute(_PROMPT_VERSION, [team, prompt, number])).fetchone()


async def used_today(connection: AsyncConnection[Any], family: int) -> tuple[int, int, float]:
    """(requests, tokens, dollars) that a line of keys has used since the day began by UTC."""
    return of_day(await (await connection.execute(USED, [[family]])).fetchone())


def of_day(row: Any) -> tuple[int, int, float]:
    """The day's sums of a row of USED; zeros where there is none."""
    return (row[1], row[3], row[5] or 0.0) if row else (0, 0, 0.0)


# Idempotency keys


async def claim(
    connection: AsyncConnection[Any],
    *,
    key: int,
    token: str,
    body: str,
    owner: str,
    lease: timedelta,
    life: timedelta,
) -> bool:
    """Take the token for `owner`, unless someone works on it or its answer is kept."""
    values = {"key": key, "token": token, "body": body, "owner": owner, "lease": lease, "life": life}
    return await (await connection.execute(_CLAIM, values)).fetchone() is not None


async def held(connection: AsyncConnection[Any], key: int, token: str) -> tuple[str, bytes | None] | None:
    """(hash of the body, the answer when there is one) of a token; None when it was freed meanwhile."""
    row = await (await connection.execute(_HELD, [key, token])).fetchone()
    return None if row is None else (row[0], row[1])


async def renew(connection: AsyncConnection[Any], owners: Iterable[str], lease: timedelta) -> None:
    await connection.execute(_RENEW, [lease, list(owners)])


async def keep(connection: AsyncConnection[Any], owner: str, answer: bytes) -> bool:
    """Store the answer; False when the lease was lost to someone else."""
    return (await connection.execute(_KEEP, [answer, len(answer), owner])).rowcount == 1


async def free(connection: AsyncConnection[Any], owner: str) -> None:
    """Forget a claim whose request brought no answer worth keeping."""
    await connection.execute(_FREE, [owner])


async def sweep(connection: AsyncConnection[Any], life: timedelta, limit: int) -> int:
    """Delete what is older than `life`, and each key's oldest answers beyond `limit` bytes; how many."""
    return (await connection.execute(_SWEEP, {"life": life, "limit": limit})).rowcount
