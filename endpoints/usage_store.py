"""Usage in PostgreSQL: carried from the files of web processes in groups, each request once; deleted in time.

A file belongs to the web process that writes it, which holds the lock beside it. What a dead process left is
carried by the next one, or by its node's sweep, whichever comes first. Runs on threads, by the ORM's
connection.
"""

import fcntl
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import batched
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction
from django.utils import timezone

from endpoints import usage_days
from playground import spending
from playground.models import Replica

log = logging.getLogger(__name__)

GROUP = 500
DELETED_AT_ONCE = 10_000
# What a record holds, and what PostgreSQL is to take it for. `at`: seconds since 1970, None for now.
FIELDS = {
    "request_id": "text",
    "client_id": "text",
    "at": "float8",
    "team": "bigint",
    "key": "bigint",
    "endpoint": "text",
    "adapter": "text",
    "release": "bigint",
    "deployment": "bigint",
    "replica": "bigint",
    "route": "text",
    "status": "int",
    "code": "text",
    "stream": "bool",
    "prompt_tokens": "int",
    "completion_tokens": "int",
    "cached_tokens": "int",
    "ttft_ms": "float8",
    "e2e_ms": "float8",
    "busy_s": "float8",
    "cost": "float8",
    "gpu_s": "float8",
    "core_s": "float8",
    "request": "json",
    "answer": "json",
    "cut": "bool",
}
_SHAPE = ", ".join(f"{name} {kind}" for name, kind in FIELDS.items())
# Rows that are gone since are left out, and a request of a team that is gone with it.
_WRITE = f"""
    WITH given AS (SELECT * FROM json_to_recordset(%s::json) AS record({_SHAPE})),
    used AS (
        INSERT INTO endpoints_usage
               (request_id, client_id, at, team_id, key_id, key_name, endpoint, adapter, release_id,
                deployment_id, replica, model, engine, route, status, code, stream, prompt_tokens,
                completion_tokens, cached_tokens, ttft_ms, e2e_ms, busy_s, cost, gpu_s, core_s)
        SELECT given.request_id, coalesce(given.client_id, ''), coalesce(to_timestamp(given.at), now()),
               team.id, key.id, coalesce(key.name, ''), left(given.endpoint, 120),
               left(coalesce(given.adapter, ''), 100), release.id, deployment.id, given.replica,
               coalesce(left(model.name, 255), ''), coalesce(deployment.engine, ''), given.route,
               given.status, left(coalesce(given.code, ''), 40), given.stream, given.prompt_tokens,
               given.completion_tokens, given.cached_tokens, given.ttft_ms, given.e2e_ms, given.busy_s,
               given.cost, given.gpu_s, given.core_s
        FROM given
        JOIN playground_team AS team ON team.id = given.team
        LEFT JOIN endpoints_apikey AS key ON key.id = given.key
        LEFT JOIN endpoints_release AS release ON release.id = given.release
        LEFT JOIN playground_deployment AS deployment ON deployment.id = given.deployment
        LEFT JOIN playground_model AS model ON model.id = deployment.model_id
        ORDER BY given.at, given.request_id
        ON CONFLICT (request_id) DO NOTHING
        RETURNING *
    ), {usage_days.CELLS}, added AS (
        {usage_days.ADD}
    ), logged AS (
        INSERT INTO endpoints_loggedrequest (usage_id, request, answer, cut)
        SELECT used.id, given.request, given.answer, coalesce(given.cut, false)
        FROM used JOIN given USING (request_id)
        WHERE given.request IS NOT NULL
    )
    SELECT count(*) FROM used
"""
# Of endpoints that are gone too: nobody says any more how long they are kept.
_OLD_LOGGED = """
    DELETE FROM endpoints_loggedrequest WHERE id IN (
        SELECT logged.id FROM endpoints_loggedrequest AS logged
        JOIN endpoints_usage AS used ON used.id = logged.usage_id
        LEFT JOIN endpoints_endpoint AS endpoint
               ON endpoint.team_id = used.team_id AND endpoint.name = used.endpoint
        WHERE endpoint.id IS NULL OR used.at < now() - make_interval(days => endpoint.log_days)
        LIMIT %s
    )
"""
_OLD = """
    SELECT id FROM endpoints_usage WHERE at < now() - make_interval(days => %s) ORDER BY at LIMIT %s
"""


# Files


def folder() -> Path:
    return Path(settings.HOME) / "usage"


def path_of(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}.{number:08d}.jsonl"


def lock_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def files_of(folder: Path, name: str) -> list[Path]:
    """A process's files, oldest first."""
    return sorted(folder.glob(f"{name}.*.jsonl"))


def adopt() -> int:
    """Carry what processes of this home left that are dead; how many requests that were."""
    left = [*folder().glob("[!.]*.lock"), *folder().glob("[!.]*.jsonl")]
    names = {path.name.split(".")[0] for path in left}
    return sum(_adopt(name) for name in sorted(names))


def _adopt(name: str) -> int:
    with _only_one(lock_of(folder(), name)) as ours:
        if not ours:
            return 0
        carried = sum(carry(path) for path in files_of(folder(), name))
        lock_of(folder(), name).unlink(missing_ok=True)
        return carried


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Whether nobody else has the lock; held while inside."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def carry(path: Path) -> int:
    """Write a whole file's requests, and remove it once all are committed; how many were new."""
    carried = 0
    try:
        with path.open("rb") as file:
            for group in batched(_records(file), GROUP, strict=False):
                carried += keep(group)
    except FileNotFoundError:
        return carried
    path.unlink(missing_ok=True)
    return carried


def _records(file: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a file. The last one of a process that was killed may be half of one."""
    for line in file:
        try:
            record = json.loads(line)
        except ValueError:
            log.warning("half a usage record was left behind by a process that was killed")
            continue
        if isinstance(record, dict):
            yield record


# Rows


def keep(records: Iterable[dict[str, Any]]) -> int:
    """Write records that are not there yet, priced; how many. What PostgreSQL refuses is logged and left."""
    rows = list(_priced(records))
    try:
        return _keep(rows)
    except (DataError, IntegrityError):
        return sum(_keep_one(row) for row in rows)


def _keep(rows: list[dict[str, Any]]) -> int:
    if not rows:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_WRITE, [json.dumps(rows, ensure_ascii=False)])
        return int(cursor.fetchone()[0])


def _keep_one(row: dict[str, Any]) -> int:
    try:
        return _keep([row])
    except (DataError, IntegrityError) as error:
        log.error("request %s has no usage row: %s", row.get("request_id"), type(error).__name__)
        return 0


def _priced(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """With the GPUs or cores that a share of a replica was of, and dollars where they have a price."""
    rows = list(records)
    wanted = {row["replica"] for row in rows if row.get("replica") is not None}
    known = Replica.objects.select_related("node").in_bulk(wanted)
    for row in rows:
        replica, busy_s = known.get(row.get("replica") or 0), row.get("busy_s")
        if replica is None or busy_s is None:
            yield row
            continue
        found: dict[str, Any] = dict(spending.shared(replica, busy_s))
        yield found | {name: value for name, value in row.items() if value is not None}


# Time


def forget() -> tuple[int, int]:
    """Delete logged requests and usage whose time is over; how many of each."""
    logged = used = 0
    while count := _delete_logged():
        logged += count
    while count := _delete_used():
        used += count
    # Of the day that the limit cuts, what is left is summed anew.
    oldest = timezone.now().date() - timedelta(days=settings.USAGE_DAYS)
    usage_days.forget(oldest)
    usage_days.again(oldest, oldest)
    return logged, used


def _delete_logged() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_OLD_LOGGED, [DELETED_AT_ONCE])
        return int(cursor.rowcount)


def _delete_used() -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_OLD, [settings.USAGE_DAYS, DELETED_AT_ONCE])
        ids = [row[0] for row in cursor.fetchall()]
        cursor.execute("DELETE FROM endpoints_loggedrequest WHERE usage_id = ANY(%s)", [ids])
        cursor.execute("DELETE FROM endpoints_usage WHERE id = ANY(%s)", [ids])
        return len(ids)
