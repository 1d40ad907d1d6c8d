"""Answers being written, from the process that writes them to those that follow, over Redis Streams.

A stream (`gen:<pk>`) holds frames `[content from, content, reasoning from, reasoning, state]`. The writer
appends with NOMKSTREAM: where the stream is gone, it first puts the whole text in as one frame. Nothing
depends on Redis for good: each second a process with followers asks PostgreSQL for checkpoints and ends.
"""

import asyncio
import json
import logging
from typing import Any

import redis.asyncio as redis
from django.conf import settings
from django.db.models.functions import Length
from redis.exceptions import RedisError

from playground.feeds import Feed, feeds
from playground.models import Generation
from playground.orm import orm

FRAMES = 20_000
KEPT_S = 3600
RETRY_S = 0.5
CHECK_S = 1.0
BLOCK_MS = 5000

log = logging.getLogger(__name__)


def _key(generation: int) -> str:
    return f"gen:{generation}"


class Publisher:
    """Sends what this process writes. It knows what each stream holds: what was missed goes with the next."""

    def __init__(self) -> None:
        self.client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)
        # Feed → (content, reasoning) offsets its stream holds; absent: nothing is known to be there.
        self.sent: dict[Feed, tuple[int, int]] = {}
        self.due: set[Feed] = set()
        self.wake = asyncio.Event()

    def publish(self, feed: Feed) -> None:
        self.due.add(feed)
        self.wake.set()

    async def run(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            batch, self.due = self.due, set()
            try:
                await self._send(list(batch))
            except (RedisError, OSError) as problem:
                await self._missed(batch, problem)

    async def close(self) -> None:
        """Send what is left, if Redis is there."""
        try:
            await self._send(list(self.due))
        except (RedisError, OSError) as problem:
            log.warning(
                "Redis is away, the ends of %d answers come from PostgreSQL: %s", len(self.due), problem
            )
        await self.client.aclose()

    async def _missed(self, batch: set[Feed], problem: Exception) -> None:
        """Redis is away: answers go on without it, and their streams are made anew once it is back."""
        if self.sent:
            log.warning("Redis is away, answers are replayed from PostgreSQL: %s", problem)
        self.sent.clear()
        self.due |= {feed for feed in batch if not feed.state}
        await asyncio.sleep(RETRY_S)
        if self.due:
            self.wake.set()

    async def _send(self, batch: list[Feed]) -> None:
        if not batch:
            return
        async with self.client.pipeline(transaction=False) as pipe:
            held = [self._append(pipe, feed) for feed in batch]
            answers = await pipe.execute()
        for feed, offsets, answer in zip(batch, held, answers[::2], strict=True):
            self._note(feed, offsets, answer)

    def _append(self, pipe: Any, feed: Feed) -> tuple[int, int]:
        """Queue one frame of what the stream lacks; what it holds afterwards."""
        known = feed in self.sent
        content, reasoning = self.sent.get(feed, (0, 0))
        frame = [content, feed.content[content:], reasoning, feed.reasoning[reasoning:], feed.state]
        pipe.xadd(_key(feed.generation), {"f": json.dumps(frame)}, maxlen=FRAMES, nomkstream=known)
        pipe.expire(_key(feed.generation), KEPT_S)
        return len(feed.content), len(feed.reasoning)

    def _note(self, feed: Feed, offsets: tuple[int, int], answer: Any) -> None:
        """Remember what the stream holds; nil means that it is gone, and the whole text goes in next."""
        if answer is None:
            self.sent.pop(feed, None)
            self.publish(feed)
        elif feed.state:
            self.sent.pop(feed, None)
        else:
            self.sent[feed] = offsets


class Reader:
    """Keeps this process's copies current: frames from Redis as they come, once a second from PostgreSQL."""

    def __init__(self, process: str) -> None:
        # A blocking read outlives redis-py's default time-out of the socket.
        self.client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=None, socket_connect_timeout=2)
        self.waker = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)
        self.bell = f"gen:wake:{process}"
        self.rung_to = "0"
        self.some = asyncio.Event()

    async def added(self) -> None:
        """A copy was added: look at its stream now, not after the present wait."""
        self.some.set()
        try:
            async with self.waker.pipeline(transaction=False) as pipe:
                pipe.xadd(self.bell, {"n": 1}, maxlen=1, approximate=False)
                pipe.expire(self.bell, KEPT_S)
                await pipe.execute()
        except (RedisError, OSError) as problem:
            log.debug("Redis is away, the copy comes from PostgreSQL: %s", problem)

    async def read(self) -> None:
        """Apply frames for ever."""
        while True:
            copies = {_key(feed.generation): feed for feed in feeds.copies()}
            if not copies:
                self.some.clear()
                await self.some.wait()
                continue
            try:
                streams: dict[Any, Any] = {key: feed.read_to for key, feed in copies.items()}
                answer = await self.client.xread(streams | {self.bell: self.rung_to}, block=BLOCK_MS)
            except (RedisError, OSError) as problem:
                log.debug("Redis is away: %s", problem)
                await asyncio.sleep(RETRY_S)
                continue
            for name, entries in _entries(answer):
                if feed := copies.get(name):
                    take(feed, entries)
                elif name == self.bell:
                    self.rung_to = entries[-1][0].decode()

    async def check(self) -> None:
        """Ask PostgreSQL once a second what Redis may not have told: more text, and the end."""
        while True:
            await asyncio.sleep(CHECK_S)
            copies = {feed.generation: feed for feed in feeds.copies()}
            if copies:
                try:
                    await self._compare(copies)
                except Exception:
                    log.exception("Copies of answers could not be checked")

    async def _compare(self, copies: dict[int, Feed]) -> None:
        rows = await orm(_lengths, list(copies))
        for pk in copies.keys() - rows.keys():
            feeds.close(copies[pk], Generation.State.INTERRUPTED)
        for pk, (content, reasoning, state) in rows.items():
            feed = copies[pk]
            behind = content > len(feed.content) or reasoning > len(feed.reasoning)
            if behind or state not in Generation.LIVE:
                await _reload(feed)

    async def close(self) -> None:
        await self.client.aclose()
        await self.waker.aclose()


def _entries(answer: Any) -> list[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """XREAD's answer as (stream, entries), in either protocol's shape."""
    if isinstance(answer, dict):
        return [(key.decode(), [entry for part in value for entry in part]) for key, value in answer.items()]
    return [(key.decode(), entries) for key, entries in answer or []]


def take(feed: Feed, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
    """Apply a stream's frames to a copy. A frame with a gap before it waits for PostgreSQL's text."""
    for entry, fields in entries:
        frame = _frame(fields)
        feed.read_to = entry.decode()
        if frame is None:
            log.warning("A frame of answer %d is malformed; dropped", feed.generation)
            continue
        content, more, reasoning, thoughts, state = frame
        if content > len(feed.content) or reasoning > len(feed.reasoning):
            return
        feed.append(more[len(feed.content) - content :], thoughts[len(feed.reasoning) - reasoning :])
        if state:
            feeds.close(feed, state)


def _frame(fields: dict[bytes, bytes]) -> tuple[int, str, int, str, str] | None:
    """A frame's parts; None for anything we did not write."""
    try:
        content, more, reasoning, thoughts, state = json.loads(fields[b"f"])
    except (KeyError, ValueError, TypeError):
        return None
    known = state == "" or state in Generation.State.values
    if (
        type(content) is int
        and type(reasoning) is int
        and isinstance(more, str)
        and isinstance(thoughts, str)
    ):
        return (content, more, reasoning, thoughts, state) if known and min(content, reasoning) >= 0 else None
    return None


def _lengths(generations: list[int]) -> dict[int, tuple[int, int, str]]:
    rows = Generation.objects.filter(pk__in=generations)
    return {
        pk: (content, reasoning, state)
        for pk, content, reasoning, state in rows.values_list(
            "pk", Length("text"), Length("reasoning"), "state"
        )
    }


async def _reload(feed: Feed) -> None:
    """Take the row's text: when the answer ended, else where it is further; then read the stream anew."""
    row = await orm(_texts, feed.generation)
    if row is None:
        return
    content, reasoning, state = row
    if state not in Generation.LIVE:
        feed.replace(content, reasoning)
        feeds.close(feed, state)
    elif len(content) >= len(feed.content) and len(reasoning) >= len(feed.reasoning):
        feed.replace(content, reasoning)
        feed.read_to = "0"


def _texts(generation: int) -> tuple[str, str, str] | None:
    return Generation.objects.filter(pk=generation).values_list("text", "reasoning", "state").first()
