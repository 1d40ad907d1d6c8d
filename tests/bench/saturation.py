"""Ten minutes of saturation: an engine with four slots, sixteen clients, and not one false restart.

The real llama.cpp on the demo model under a real runner with the site's own limits. Prints what the runner
said meanwhile, answers, tokens, and the longest time an answer waited for its first token.

    make bench ARGS=saturation        (SATURATION_S=60 for a minute of it)
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from playground import catalogue, environments
from playground.engine_log import EngineLog
from playground.engines.base import Hardware
from tests import real_engines
from tests.test_runner import replica

SECONDS = float(os.environ.get("SATURATION_S", "600"))
CLIENTS = 16


@pytest.mark.django_db
def test_saturation_restarts_nobody(tmp_path: Path) -> None:
    folder = environments.path(real_engines.environment("llama.cpp"))
    _, form = real_engines.demo("gguf")
    asyncio.run(_saturate(tmp_path, folder, catalogue.local(form)))


async def _saturate(home: Path, folder: Path, model: Any) -> None:
    spec = {"engine": "llama.cpp", "environment": folder, "model": model, "frozen_after_s": 120}
    async with replica(home, {"context": 2048}, hardware=Hardware(2, 8 << 30), **spec) as one:
        await one.ready()
        until, waits, tokens = time.monotonic() + SECONDS, list[float](), list[int]()
        # A kept connection may be closed by the server just as a request goes out on it.
        fresh = aiohttp.TCPConnector(force_close=True, limit=0)
        headers, patient = {"Authorization": "Bearer engine-key"}, aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(headers=headers, connector=fresh, timeout=patient) as session:
            try:
                async with asyncio.TaskGroup() as crowd:
                    for number in range(CLIENTS):
                        crowd.create_task(_client(session, one.base_url, number, until, waits, tokens))
            except BaseExceptionGroup:
                print(one.told.reports, one.told.health, *EngineLog(one.spec.folder, ()).tail(), sep="\n")
                raise
        print(f"\n{len(waits)} answers, {sum(tokens)} tokens in {SECONDS:.0f} s, {CLIENTS} clients")
        print(f"longest wait for a first token {max(waits):.1f} s; the runner said {one.told.verbs}")
        assert one.told.verbs[-1] == "ready" and "unhealthy" not in one.told.verbs


async def _client(
    session: aiohttp.ClientSession, url: str, number: int, until: float, waits: list[float], tokens: list[int]
) -> None:
    while time.monotonic() < until:
        text = f"{number}: tell a story of {len(waits)} words."
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 200,
            "stream": True,
        }
        began, count = time.monotonic(), 0
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            async for line in answer.content:
                if b'"content":"' in line:
                    count += 1
                    if count == 1:
                        waits.append(time.monotonic() - began)
        tokens.append(count)
