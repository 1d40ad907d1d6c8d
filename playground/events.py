"""Small notices between processes over Redis: "row N changed, look again", "stop generation N".

They only make things sooner: whoever hears one reads the truth from PostgreSQL, and whoever misses one finds
out by the next sweep or page load. So a Redis that is away costs a log line, never an error.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import redis
import redis.asyncio
from django.conf import settings
from django.db import transaction

CHANNEL = "slipway:events"
# After a failure nothing is tried for this long: callers do not wait for a dead server again and again.
PAUSE_S = 1.0
MAX_BYTES = 64 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Rows that changed, by topic ("deployment:5"). `team` says who may hear it; None is everyone."""

    team: int | None
    topics: tuple[str, ...]


@dataclass(frozen=True)
class StopWanted:
    """Somebody asked to stop this generation; its owner looks at the row."""

    generation: int


@dataclass(frozen=True)
class Standing:
    """What these people may do changed: their open sockets are looked at anew."""

    users: tuple[int, ...]


@dataclass(frozen=True)
class Looking:
    """Who has these places open in the process `boot`: place → users. `ask`: who else has them, says so."""

    boot: str
    places: dict[str, tuple[int, ...]]
    ask: bool


@dataclass(frozen=True)
class Resumed:
    """Redis was away and is back: notices in between were lost."""


Heard = Notice | StopWanted | Standing | Looking | Resumed


class Malformed(Exception):
    """Something on the channel that we did not send."""


def notify(team_id: int | None, *topics: str) -> None:
    """Tell browsers, once the transaction commits, that the rows behind `topics` changed. Never raises."""
    if topics:
        transaction.on_commit(partial(publish, {"team": team_id, "topics": list(topics)}))


def want_stop(generation: int) -> None:
    """Tell the owner of a generation, once the transaction commits, to look for a stop. Never raises."""
    transaction.on_commit(partial(publish, {"stop": generation}))


def standing(*users: int) -> None:
    """Tell, once the transaction commits, that what these people may do changed. Never raises.

    They left a team, changed roles, were deactivated, or one of their sessions ended: their open sockets are
    looked at anew at once.
    """
    if users:
        transaction.on_commit(partial(publish, {"users": list(users)}))


def read(raw: bytes) -> Notice | StopWanted | Standing | Looking:
    """What a message on the channel says; Malformed when it is none of ours."""
    try:
        data = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except ValueError as problem:
        raise Malformed("not JSON") from problem
    if not isinstance(data, dict):
        raise Malformed("not an object")
    if type(data.get("stop")) is int:
        return StopWanted(data["stop"])
    if _are_keys(users := data.get("users")):
        return Standing(tuple(users))
    if isinstance(data.get("looking"), dict):
        return _looking(data)
    team, topics = data.get("team"), data.get("topics")
    if not (team is None or type(team) is int) or not isinstance(topics, list):
        raise Malformed("neither a notice nor a stop")
    if not all(isinstance(topic, str) and len(topic) < 100 for topic in topics):
        raise Malformed("a topic that is none")
    return Notice(team, tuple(topics))


def _looking(data: dict[str, Any]) -> Looking:
    boot, places = data.get("boot"), data["looking"]
    if not isinstance(boot, str) or len(boot) > 40 or len(places) > 1000:
        raise Malformed("nobody who looks")
    if not all(len(place) < 100 and _are_keys(users) for place, users in places.items()):
        raise Malformed("a place that is none")
    return Looking(boot, {place: tuple(users) for place, users in places.items()}, data.get("ask") is True)


def _are_keys(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) <= 1000 and all(type(one) is int for one in found)


class _Sender:
    """One connection pool a process, and the memory of Redis having been away."""

    def __init__(self) -> None:
        self.client: redis.Redis | None = None
        self.away_until = 0.0
        self.away = False

    def send(self, message: dict[str, Any]) -> None:
        if time.monotonic() < self.away_until:
            return
        try:
            self._client().publish(CHANNEL, json.dumps(message))
        except redis.RedisError as problem:
            if not self.away:
                log.warning("Redis is away, browsers hear of changes later: %s", problem)
            self.away, self.away_until = True, time.monotonic() + PAUSE_S
        else:
            self.away = False

    def _client(self) -> redis.Redis:
        if self.client is None:
            self.client = redis.Redis.from_url(
                settings.REDIS_URL, socket_connect_timeout=0.5, socket_timeout=0.5
            )
        return self.client


_sender = _Sender()


def publish(message: dict[str, Any]) -> None:
    """Send now. Blocks for at most half a second, and only when Redis is in trouble."""
    _sender.send(message)


class Listening:
    """One subscription a process, for ever. Whoever joins `listeners` hears everything and must not block."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[Heard], None]] = []
        self.dropped = 0

    async def run(self) -> None:
        # A subscription is silent for as long as nothing happens, so its socket has no time-out.
        client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=None, socket_connect_timeout=2, health_check_interval=0
        )
        lost = False
        try:
            while True:
                try:
                    await self._hear(client, lost)
                except (redis.RedisError, OSError) as problem:
                    if not lost:
                        log.warning("Redis is away, nothing is heard: %s", problem)
                    lost = True
                    await asyncio.sleep(PAUSE_S)
        finally:
            await client.aclose()

    async def _hear(self, client: redis.asyncio.Redis, lost: bool) -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(CHANNEL)
            if lost:
                self._tell(Resumed())
            async for message in subscription.listen():
                self._take(message["data"])

    def _take(self, raw: bytes) -> None:
        try:
            heard = read(raw)
        except Malformed as problem:
            self.dropped += 1
            log.warning("Something strange on %s was dropped (%d so far): %s", CHANNEL, self.dropped, problem)
        else:
            self._tell(heard)

    def _tell(self, heard: Heard) -> None:
        for listener in list(self.listeners):
            listener(heard)


listening = Listening()
