"""Rows that somebody looks at while they are being answered: their text so far, through Redis.

A page says which row it watches; whoever answers that row then writes its text there a few times a second.
Nothing is written of rows that nobody watches. Redis away: the row is shown once it is done.
"""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from django.conf import settings

# How long a page's interest lasts, and how long a text is of use.
WATCH_S = 10
TEXT_S = 15

log = logging.getLogger(__name__)
_client: redis.Redis | None = None


def _watched(column: int) -> str:
    return f"slipway:batch:{column}:watched"


def _text(column: int, number: int) -> str:
    return f"slipway:batch:{column}:{number}"


def watch(column: int, number: int) -> dict[str, str] | None:
    """{"content", "reasoning"} of a row as far as it is written; None where nothing is known yet.

    Each call says that somebody watches it, for WATCH_S.
    """
    global _client
    if _client is None:
        _client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=0.5)
    try:
        with _client.pipeline(transaction=False) as pipe:
            pipe.zadd(_watched(column), {str(number): time.time() + WATCH_S})
            pipe.expire(_watched(column), WATCH_S)
            pipe.get(_text(column, number))
            raw = pipe.execute()[-1]
    except redis.RedisError as problem:
        log.info("the text of a row is not known now: %s", problem)
        return None
    found: dict[str, str] | None = json.loads(raw) if raw else None
    return found


class Shown:
    """The side of whoever answers: which rows of a column are watched, and their text."""

    def __init__(self) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=0.5, decode_responses=True
        )

    async def show(self, column: int, texts: Mapping[int, Any]) -> None:
        """Write the text of those of `texts` (row's number → its feed) that somebody watches."""
        try:
            raw = await self._client.zrangebyscore(_watched(column), time.time(), "+inf")
            feeds = {number: texts[number] for number in (int(str(one)) for one in raw) if number in texts}
            for number, feed in feeds.items():
                said = json.dumps({"content": feed.content, "reasoning": feed.reasoning})
                await self._client.set(_text(column, number), said, ex=TEXT_S)
        except (redis.RedisError, OSError) as problem:
            log.info("the text of watched rows is not shown now: %s", problem)

    async def close(self) -> None:
        await self._client.aclose()
