"""The client of engines against a real process that speaks HTTP, well and badly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from playground import engine_client
from playground.engine_client import EngineError, Frame, Target
from playground.engines.base import ALLOWED
from tests.fakes import RunningFake, free_port

CHAT = "/v1/chat/completions"
Start = Callable[..., RunningFake]


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    await engine_client.close()


def target(fake: RunningFake) -> Target:
    headers = {"Authorization": f"Bearer {fake.key}"} if fake.key else {}
    return Target(fake.base_url, headers, "fake", "fake", 1)


def ask(text: str, **more: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "fake", "messages": messages, "stream": True} | more


async def frames(at: Target, body: dict[str, Any], first_byte_s: float = 5) -> list[Frame]:
    return [frame async for frame in engine_client.stream(at, CHAT, body, first_byte_s=first_byte_s)]


def text_of(found: list[Frame], kind: str = "content") -> str:
    return "".join(frame.text for frame in found if frame.kind == kind)


async def test_it_streams_text_finish_and_usage(fake_engine: Start) -> None:
    fake = fake_engine(key="k")
    found = await frames(target(fake), ask("[[tokens=3]]", stream_options={"include_usage": True}))
    assert text_of(found) == "word0 word1 word2"
    assert [frame.text for frame in found if frame.kind == "finish"] == ["stop"]
    assert [frame.data["completion_tokens"] for frame in found if frame.kind == "usage"] == [3]
    assert found[0].kind == "role"
    assert [frame.at for frame in found] == sorted(frame.at for frame in found)


async def test_it_uses_a_connection_again_after_done(fake_engine: Start) -> None:
    fake = fake_engine()
    for _ in range(3):
        await frames(target(fake), ask("[[tokens=2]]"))
    connector = engine_client.session().connector
    assert isinstance(connector, aiohttp.TCPConnector)
    assert sum(len(held) for held in connector._conns.values()) == 1


async def test_it_tells_reasoning_from_content(fake_engine: Start) -> None:
    found = await frames(target(fake_engine()), ask("[[reason=2]] [[tokens=2]]"))
    assert text_of(found, "reasoning") == "thought0 thought1 "
    assert text_of(found) == "word0 word1"


async def test_it_passes_on_tool_calls(fake_engine: Start) -> None:
    found = await frames(target(fake_engine()), ask("[[tool]]"))
    assert [frame.data[0]["id"] for frame in found if frame.kind == "tool_call"] == ["call_1"]


@pytest.mark.parametrize("directive", ["[[no_done]]", "[[crlf]]", "[[usage_on_content]]", "[[role_only]]"])
async def test_it_tolerates_how_engines_end_and_frame(fake_engine: Start, directive: str) -> None:
    found = await frames(target(fake_engine()), ask(f"{directive} [[tokens=2]]"))
    assert text_of(found) == ("" if "role_only" in directive else "word0 word1")
    assert found[-1].kind in ("finish", "usage")


async def test_closing_a_stream_stops_the_engine(fake_engine: Start) -> None:
    fake = fake_engine()
    stream = engine_client.stream(target(fake), CHAT, ask("[[tokens=1000]] [[delay=5]]"), first_byte_s=5)
    async for frame in stream:
        if frame.kind == "content":
            break
    assert await engine_client.running(target(fake)) == 1
    await stream.aclose()
    await asyncio.to_thread(fake.wait_idle)
    assert await engine_client.running(target(fake)) == 0


async def test_cancelling_before_the_first_byte_stops_the_engine(fake_engine: Start) -> None:
    fake = fake_engine()
    task = asyncio.create_task(frames(target(fake), ask("[[hang]]")))
    async with asyncio.timeout(5):
        while await engine_client.running(target(fake)) != 1:
            assert not task.done()
    task.cancel()
    await asyncio.to_thread(fake.wait_idle)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("[[malformed]]", "malformed"),
        ("[[html]]", "malformed"),
        ("[[redirect]]", "malformed"),
        ("[[endless]]", "malformed"),
        ("[[die=2]]", "died_midway"),
        ("[[cut=2]]", "died_midway"),
        ("[[error=500]]", "refused"),
        ("[[error=429]]", "overloaded"),
        ("[[error=503]]", "overloaded"),
        ("[[error=401]]", "refused"),
        ("[[error=404]]", "bad_request"),
        ("", "bad_request"),
    ],
)
async def test_it_names_what_went_wrong(fake_engine: Start, prompt: str, code: str) -> None:
    with pytest.raises(EngineError) as caught:
        await frames(target(fake_engine()), ask(prompt))
    assert caught.value.code == code
    assert 0 < len(str(caught.value)) <= engine_client.TEXT_CHARS
    assert "<" not in str(caught.value)


async def test_it_keeps_what_came_before_the_engine_died(fake_engine: Start) -> None:
    found: list[Frame] = []
    with pytest.raises(EngineError, match="broke off"):
        async for frame in engine_client.stream(
            target(fake_engine()), CHAT, ask("[[die=3]] [[delay=5]]"), first_byte_s=5
        ):
            found.append(frame)
    assert text_of(found) == "word0 word1 word2 "


async def test_it_says_that_the_context_is_full(fake_engine: Start) -> None:
    fake = fake_engine(context=5)
    with pytest.raises(EngineError, match="maximum context length is 5") as caught:
        await frames(target(fake), ask("one two three four five six"))
    assert (caught.value.code, caught.value.status) == ("context_exceeded", 400)


async def test_it_does_not_wait_for_ever_for_the_first_byte(fake_engine: Start) -> None:
    with pytest.raises(EngineError) as caught:
        await frames(target(fake_engine()), ask("[[hang]]"), first_byte_s=0.2)
    assert caught.value.code == "timeout"


async def test_it_says_when_nobody_listens() -> None:
    nobody = Target(f"http://127.0.0.1:{free_port()}", {}, "fake", "fake", 1)
    with pytest.raises(EngineError) as caught:
        await frames(nobody, ask("hello"))
    assert caught.value.code == "unreachable"


async def test_it_answers_whole(fake_engine: Start) -> None:
    body = ask("[[tokens=2]]", stream=False)
    answer = await engine_client.complete(target(fake_engine()), CHAT, body)
    assert answer["choices"][0]["message"]["content"] == "word0 word1"


async def test_a_whole_answer_to_a_stream_request_still_reads(fake_engine: Start) -> None:
    found = await frames(target(fake_engine()), ask("[[tokens=2]]") | {"stream": False})
    assert text_of(found) == "word0 word1"
    assert [frame.text for frame in found if frame.kind == "finish"] == ["stop"]


async def test_it_relays_bytes_untouched(fake_engine: Start) -> None:
    fake = fake_engine(key="k")
    headers = {"Authorization": "Bearer the client's", "Cookie": "a=b", "X-Request-Id": "r1"}
    raw = engine_client._encoded(ask("[[tokens=2]] [[crlf]]"))
    async with engine_client.relay(target(fake), "POST", CHAT, headers, raw) as relayed:
        body = b"".join([chunk async for chunk in relayed.body])
    assert relayed.status == 200
    assert relayed.headers["content-type"] == "text/event-stream"
    assert "transfer-encoding" not in relayed.headers
    assert body.startswith(b": a comment\r\n\r\ndata: ")
    assert body.endswith(b"data: [DONE]\r\n\r\n")


async def test_it_passes_on_only_what_is_allowed(fake_engine: Start) -> None:
    at = target(fake_engine())
    for method, path in [
        ("POST", "/pause"),
        ("GET", "/fake/requests"),
        ("POST", "/v1/../pause"),
        ("PUT", CHAT),
    ]:
        with pytest.raises(EngineError) as caught:
            async with engine_client.relay(at, method, path, {}, b"{}"):
                pytest.fail("it was passed on")
        assert caught.value.status == 404
    assert ("POST", CHAT) in ALLOWED


class Closer:
    """A server that answers its first request, then closes that connection when it is used again."""

    def __init__(self) -> None:
        self.connections = self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        for turn in range(2):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            self.requests += 1
            if first and turn:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
        writer.close()


async def test_it_retries_once_when_a_pooled_connection_was_closed() -> None:
    closer, port = Closer(), free_port()
    async with await asyncio.start_server(closer.serve, "127.0.0.1", port):
        at = Target(f"http://127.0.0.1:{port}", {}, "fake", "fake", 1)
        assert await engine_client.complete(at, CHAT, {}) == {}
        assert await engine_client.complete(at, CHAT, {}) == {}
        assert (closer.connections, closer.requests) == (2, 3)
        await engine_client.close()


async def test_it_never_sends_twice_on_a_fresh_connection() -> None:
    requests = 0

    async def hang_up(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        assert request.transport
        request.transport.abort()
        return web.Response()

    port, app = free_port(), web.Application()
    app.router.add_post(CHAT, hang_up)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    with pytest.raises(EngineError) as caught:
        await engine_client.complete(Target(f"http://127.0.0.1:{port}", {}, "f", "fake", 1), CHAT, {})
    await runner.cleanup()
    assert (caught.value.code, requests) == ("died_midway", 1)


def reading(*chunks: dict[str, Any]) -> list[Frame]:
    made = engine_client.Reading(chat=True)
    return [frame for chunk in chunks for frame in made.frames(chunk, 0.0)]


def content(text: str, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]} | more


def test_it_counts_a_chunks_tokens_by_continuous_usage() -> None:
    found = reading(
        content("a", usage={"completion_tokens": 1}),
        content("bcd", usage={"completion_tokens": 4}),
        content("e", timings={"predicted_n": 5, "prompt_n": 3, "cache_n": 2}),
    )
    assert [frame.tokens for frame in found if frame.kind == "content"] == [1, 3, 1]
    assert found[-1].data["prompt_tokens"] == 5


def test_it_makes_text_that_every_store_takes() -> None:
    found = reading(content("a\x00b\ud800c"), content("\ud83d\ude00"))
    assert [frame.text for frame in found] == ["a\ufffdb\ufffdc", "😀"]


@pytest.mark.parametrize("chunk", [{}, {"choices": []}, {"choices": [None]}, {"choices": [{"delta": None}]}])
def test_it_passes_over_chunks_without_content(chunk: dict[str, Any]) -> None:
    assert reading(chunk) == []


def test_it_reads_events_however_they_are_cut() -> None:
    raw = b": hi\r\n\r\ndata: a\r\ndata:b\r\n\r\nevent: x\ndata: c\n\ndata: d"
    for size in range(1, len(raw)):
        events = engine_client.Events()
        parts = [raw[i : i + size] for i in range(0, len(raw), size)]
        found = [payload for part in parts for payload in events.feed(part)] + events.end()
        assert found == [b"a\nb", b"c", b"d"]
