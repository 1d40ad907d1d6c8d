"""What the gateway adds: the same requests straight to a mock engine and through it, in paired rounds.

Run as `python -m tests.bench.gateway`. It starts a PostgreSQL of its own, a mock engine and a web process,
and ends them. Figures are medians over rounds; CPU is the web process's own. It gates nothing.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from tests import home

BODY = {"model": "words", "messages": [{"role": "user", "content": "What is the capital of France?" * 20}]}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 64}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 140, "completion_tokens": 64, "total_tokens": 204},
    }
).encode()
CHUNK = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
    }
).encode()
EVENTS = 100
ROUNDS, SECONDS = 3, 2.0
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def mock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that costs next to nothing: one answer, or EVENTS events a few milliseconds apart."""
    while head := await _head(reader):
        body = await reader.readexactly(_length(head))
        if b'"stream":true' in body.replace(b" ", b""):
            await _events(writer)
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % len(ANSWER)
            )
            writer.write(ANSWER)
        await writer.drain()
    writer.close()


async def _events(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(EVENTS):
        _chunk(writer, b"data: " + CHUNK + b"\n\n")
        await asyncio.sleep(0.01)
    _chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def whole(client: Client, request: bytes) -> int:
    """One answer read; its events (1)."""
    client[1].write(request)
    head = await _head(client[0])
    assert head.startswith(b"HTTP/1.1 200"), head[:200]
    await client[0].readexactly(_length(head))
    return 1


async def streamed(client: Client, request: bytes) -> int:
    """One stream read to its end; its events."""
    client[1].write(request)
    head = await _head(client[0])
    assert head.startswith(b"HTTP/1.1 200"), head[:200]
    seen = b""
    while not seen.endswith(b"0\r\n\r\n"):
        seen += await client[0].read(65536)
    return seen.count(b"data: ")


async def load(
    port: int, request: bytes, connections: int, one: Callable[[Client, bytes], Awaitable[int]]
) -> tuple[float, int, list[float]]:
    """Closed loop for SECONDS: requests a second, requests, and each one's seconds."""
    end = time.perf_counter() + SECONDS
    times: list[float] = []

    async def client() -> None:
        ends = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            await one(ends, request)
            times.append(time.perf_counter() - began)
        ends[1].close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return len(times) / (time.perf_counter() - began), len(times), times


def request(port: int, key: str, *, stream: bool) -> bytes:
    body = json.dumps(BODY | ({"stream": True} if stream else {})).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def measure(engine: int, gateway: int, key: str, pid: int) -> None:
    cells = [("whole", 1), ("whole", 16), ("whole", 64), ("stream", 1), ("stream", 16)]
    sys.stdout.write(
        "cell         direct req/s   gateway req/s   added p50 ms   us CPU/request   us CPU/event\n"
    )
    for kind, connections in cells:
        rows = [await _round(kind, connections, engine, gateway, key, pid) for _ in range(ROUNDS)]
        direct, through, added, cost = (statistics.median(column) for column in zip(*rows, strict=True))
        event = f"{cost / (EVENTS + 1):14.1f}" if kind == "stream" else " " * 14
        sys.stdout.write(
            f"{kind:6} c{connections:<4}{direct:13.0f}{through:16.0f}"
            f"{added * 1000:15.2f}{cost:17.0f}{event}\n"
        )


async def _round(
    kind: str, connections: int, engine: int, gateway: int, key: str, pid: int
) -> tuple[float, float, float, float]:
    process, stream = psutil.Process(pid), kind == "stream"
    one = streamed if stream else whole
    rate, _, direct = await load(engine, request(engine, key, stream=stream), connections, one)
    before = sum(process.cpu_times()[:2])
    through, count, times = await load(gateway, request(gateway, key, stream=stream), connections, one)
    cost = (sum(process.cpu_times()[:2]) - before) / max(1, count) * 1e6
    return rate, through, statistics.median(times) - statistics.median(direct), cost


def main() -> None:
    home.pytest_configure(None)  # type: ignore[arg-type]
    try:
        _run()
    finally:
        home.pytest_unconfigure(None)  # type: ignore[arg-type]


def _run() -> None:
    import os

    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "playground.settings"
    django.setup()
    from django.core.management import call_command

    from playground.models import Team
    from tests import fakes, gateway_site

    call_command("migrate", verbosity=0)
    team = Team.objects.get(slug="default")
    engine = fakes.free_port()
    behind = gateway_site.deployment(team, released=True)
    gateway_site.endpoint(team, "words", behind)
    row = gateway_site.replica(behind, fakes.RunningFake("", engine, "", None))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, gateway_site.running_site(Path(folder)) as site:
        key = site.key(team)
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(_serve_and_measure(engine, site.port, key, site.process.pid))
    row.delete()


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


async def _serve_and_measure(engine: int, gateway: int, key: str, pid: int) -> None:
    async with await asyncio.start_server(mock, "127.0.0.1", engine):
        await measure(engine, gateway, key, pid)


if __name__ == "__main__":
    main()
