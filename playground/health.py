"""/healthz and /readyz: bare ASGI, for load balancers and scripts.

/healthz is 200 while this process serves. /readyz is 200 when PostgreSQL, Redis and a worker do too; its
body says which of them does not.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import redis.asyncio
from django.conf import settings
from django.db import DatabaseError
from django.db.models.functions import Now
from redis.exceptions import RedisError

from playground.models import Node
from playground.orm import orm

Send = Callable[[dict[str, Any]], Awaitable[None]]
CHECK_S = 3.0


async def healthz(send: Send) -> None:
    await _answer(send, 200, {"web": "ok"})


async def readyz(send: Send) -> None:
    (postgresql, worker), redis_state = await asyncio.gather(_database(), _redis())
    states = {"web": "ok", "postgresql": postgresql, "redis": redis_state, "worker": worker}
    await _answer(send, 200 if set(states.values()) == {"ok"} else 503, states)


async def _database() -> tuple[str, str]:
    """What PostgreSQL and, by its rows, a worker are up to."""
    try:
        alive = await asyncio.wait_for(orm(_a_worker_beats), CHECK_S)
    except (DatabaseError, TimeoutError):
        return "does not answer", "unknown"
    return "ok", "ok" if alive else "none has a fresh heartbeat"


def _a_worker_beats() -> bool:
    """Whether any node's heartbeat is fresh, by the database's clock."""
    since = Now() - timedelta(seconds=settings.LOST_AFTER_S)
    return Node.objects.filter(heartbeat_at__gt=since).exists()


async def _redis() -> str:
    client = redis.asyncio.Redis.from_url(
        settings.REDIS_URL, socket_timeout=CHECK_S, socket_connect_timeout=CHECK_S
    )
    try:
        await client.ping()
    except (RedisError, OSError):
        return "does not answer"
    finally:
        await client.aclose()
    return "ok"


async def _answer(send: Send, status: int, body: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
