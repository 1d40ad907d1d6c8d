"""A replica's time is split among the answers of all processes, as Redis tells; else each counts alone."""

import asyncio
import time

import pytest
import redis
from django.conf import settings

from playground import sharing, sharing_told

HERE = 987_654_321


def elsewhere(**counts: int) -> redis.Redis:
    """What other processes say they have in flight, for some seconds on."""
    client: redis.Redis = redis.Redis.from_url(settings.REDIS_URL)
    later = int(time.time() * 1000) + 5_000
    for name, count in counts.items():
        client.hset(f"slipway:busy:{HERE}", name, f"{count}:{later}")
    return client


async def asked(seconds: float) -> float:
    """The share of an answer that took so long."""
    with sharing.share(HERE) as share:
        await asyncio.sleep(seconds)
    return share.seconds


async def seen(client: redis.Redis) -> None:
    """Once this process has said what it has in flight, and heard."""
    while True:
        await asyncio.sleep(0.01)
        if client.hexists(f"slipway:busy:{HERE}", sharing_told.ME):
            return


async def gone(client: redis.Redis) -> None:
    """Once nobody says that anything is in flight."""
    while True:
        await asyncio.sleep(0.01)
        if not client.exists(f"slipway:busy:{HERE}"):
            return


def test_answers_of_other_processes_share_the_time() -> None:
    client = elsewhere(one=2, two=1)

    async def both() -> tuple[float, float]:
        with sharing.share(HERE):
            await seen(client)
            began = time.monotonic()
            share = await asked(0.6)
            whole = time.monotonic() - began
        await sharing_told.close()
        return share, whole

    share, whole = asyncio.run(both())
    assert share == pytest.approx(whole / 5, rel=0.1), "two of ours, three of others"
    client.delete(f"slipway:busy:{HERE}")


def test_what_is_in_flight_is_told_and_what_ended_or_fell_silent_is_forgotten() -> None:
    client = elsewhere()
    client.hset(f"slipway:busy:{HERE}", "dead", f"7:{int(time.time() * 1000) - 2_000}")

    async def one() -> float:
        with sharing.share(HERE) as share:
            await seen(client)
            assert client.hget(f"slipway:busy:{HERE}", sharing_told.ME).split(b":")[0] == b"1"  # type: ignore[union-attr]
            began = time.monotonic()
            await asyncio.sleep(0.3)
        assert share.seconds >= (time.monotonic() - began) * 0.95, "a process that is gone takes no part"
        await gone(client)
        await sharing_told.close()
        return share.seconds

    assert asyncio.run(asyncio.wait_for(one(), 10)) > 0


def test_without_redis_it_counts_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "redis://127.0.0.1:1/0")

    async def one() -> tuple[float, float]:
        began = time.monotonic()
        share = await asked(0.3)
        whole = time.monotonic() - began
        await sharing_told.close()
        return share, whole

    share, whole = asyncio.run(one())
    assert share == pytest.approx(whole, rel=0.1)
