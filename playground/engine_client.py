"""The only HTTP to engines: stream, complete, relay, ask what runs. Closing a stream closes the connection:
that is how an engine learns that nobody wants the answer any more.

Engines are not trusted: sizes are capped, redirects never followed, what is not the API ends in EngineError.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from ssl import PROTOCOL_TLS_CLIENT, VERIFY_X509_PARTIAL_CHAIN, SSLContext
from types import SimpleNamespace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from playground import engines
from playground.engines.base import ALLOWED, Ask
from playground.models import Replica

CONNECT_S = 2.0
BETWEEN_CHUNKS_S = 120.0
DRAIN_S = 0.2
RESENDS = 4
UNANSWERED = "The engine closed the connection unanswered."
LINE_BYTES = 1 << 20
TOTAL_BYTES = 64 << 20
ERROR_BYTES = 64 << 10
TEXT_CHARS = 500

Code = Literal[
    "unreachable",
    "refused",
    "context_exceeded",
    "died_midway",
    "malformed",
    "timeout",
    "overloaded",
    "bad_request",
]
Kind = Literal["content", "reasoning", "tool_call", "usage", "finish", "role"]

CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum (model|sequence) length|max_model_len|too many tokens"
    r"|tokens\) is too large to process",
    re.IGNORECASE,
)
# Headers that belong to one connection, or that would lie once relayed.
HOP = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What a client's request carries for us, never for the engine behind.
OURS = HOP | {"accept-encoding", "authorization", "cookie", "expect", "host", "x-api-key"}


class EngineError(Exception):
    """An engine did not answer as it should. `str()` is one sentence for people; `status` is the engine's."""

    def __init__(self, code: Code, text: str, status: int | None = None) -> None:
        super().__init__(text[:TEXT_CHARS])
        self.code, self.text, self.status = code, text[:TEXT_CHARS], status


@dataclass(frozen=True)
class Target:
    """One replica as this process reaches it."""

    base_url: str
    headers: Mapping[str, str]
    served_name: str
    engine: str
    replica: int
    ssl: SSLContext | None = None
    selects: Mapping[str, Any] = field(default_factory=dict)
    """What a request says over its own to be answered by one of the model's adapters."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing an engine's stream said. `at`: monotonic seconds; `tokens`: how many it held, if known.

    `text` holds the reason of a finish; `data` the usage object, or the list of tool call deltas.
    """

    kind: Kind
    text: str = ""
    at: float = 0.0
    tokens: int | None = None
    data: Any = None


@dataclass(frozen=True)
class Relayed:
    """An engine's answer, bytes untouched. Headers of the connection are left out; names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


def target(replica: Replica) -> Target:
    """How to reach a replica: straight on its own node, through its runner's relay from any other."""
    if replica.port is None or replica.node is None:
        raise EngineError("unreachable", "This replica has no engine to talk to yet.")
    engine = replica.deployment.engine
    if replica.node.name == settings.NODE_NAME:
        url, key, context = f"http://127.0.0.1:{replica.port}", replica.engine_key, None
    elif replica.relay_port is None:
        raise EngineError("unreachable", f"Node {replica.node.name} has not opened its relay yet.")
    else:
        host = f"[{replica.node.address}]" if ":" in replica.node.address else replica.node.address
        scheme, context = ("https", _pinned(settings.TLS_CERT)) if settings.TLS_CERT else ("http", None)
        url, key = f"{scheme}://{host}:{replica.relay_port}", replica.relay_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return Target(url, headers, replica.served_name, engine, replica.pk, context)


@cache
def _pinned(certificate: str) -> SSLContext:
    """Trust this certificate (or its issuer, when the file holds it) and no other; nodes go by address."""
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """This loop's session. Its pool has no limits of its own: admission is decided elsewhere."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        found = _sessions[loop] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            trace_configs=[_notes_reuse()],
            headers={"Accept-Encoding": "identity", "User-Agent": "slipway"},
        )
    return found


async def close() -> None:
    """Close this loop's session, and with it every answer still being streamed."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()


def _notes_reuse() -> aiohttp.TraceConfig:
    """Tells a request whether it went out on a pooled connection, which its server may have closed."""

    async def reused(_: Any, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


async def stream(
    target: Target, path: str, body: Mapping[str, Any], *, first_byte_s: float
) -> AsyncGenerator[Frame]:
    """The frames of a streamed answer. Raises EngineError; closing it early stops the engine's work."""
    chat = path != "/v1/completions"
    async with _open(target, "POST", path, body=_encoded(body), first_byte_s=first_byte_s) as answer:
        await _require_ok(answer)
        if answer.content_type == "application/json":
            for frame in _buffered(_parsed(await _whole(answer)), chat):
                yield frame
            return
        if answer.content_type != "text/event-stream":
            raise EngineError(
                "malformed", f"The engine answered with {answer.content_type}, not with a stream."
            )
        async with aclosing(_frames(answer, chat, first_byte_s)) as frames:
            async for frame in frames:
                yield frame


async def complete(
    target: Target, path: str, body: Mapping[str, Any], *, first_byte_s: float = 600.0
) -> dict[str, Any]:
    """One answer, whole."""
    async with _open(target, "POST", path, body=_encoded(body), first_byte_s=first_byte_s) as answer:
        await _require_ok(answer)
        return _parsed(await _whole(answer))


def asking(target: Target) -> Ask:
    """How an adapter puts small questions to a running engine."""

    async def ask(method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        raw = None if body is None else _encoded(body)
        async with _open(target, method, path, body=raw, first_byte_s=10.0) as answer:
            await _require_ok(answer)
            return _parsed(await _whole(answer))

    return ask


@asynccontextmanager
async def relay(
    target: Target,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    first_byte_s: float = 600.0,
) -> AsyncIterator[Relayed]:
    """Pass a request on and its answer back, bytes untouched. Leaving early stops the engine's work."""
    passed = {name: value for name, value in headers.items() if name.lower() not in OURS}
    async with _open(target, method, path, headers=passed, body=body, first_byte_s=first_byte_s) as answer:
        kept = {k.lower(): v for k, v in answer.headers.items() if k.lower() not in HOP}
        async with aclosing(_chunks(answer)) as chunks:
            yield Relayed(answer.status, kept, chunks)


async def running(target: Target) -> int | None:
    """How many requests the engine works on now, by its own metrics; None where it does not say."""
    metric = engines.get(target.engine).quirks.running_metric
    if not metric:
        return None
    async with _open(target, "GET", "/metrics", first_byte_s=5.0) as answer:
        await _require_ok(answer)
        text = (await _whole(answer)).decode(errors="replace")
    found = re.findall(rf"^{re.escape(metric)}(?:\{{[^}}]*\}})?\s+([0-9.eE+-]+)", text, re.MULTILINE)
    return int(sum(float(value) for value in found)) if found else None


@asynccontextmanager
async def _open(
    target: Target,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    first_byte_s: float,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer whose headers came. Unless it was read to its end, its connection is closed at last."""
    if (method, path) not in ALLOWED:
        raise EngineError("bad_request", f"{method} {path} is not passed on to engines.", 404)
    given = {**(headers or {}), **target.headers}
    sent = {"content-type": "application/json"} | {name.lower(): value for name, value in given.items()}
    answer = await _request(target, method, path, sent, body, first_byte_s)
    try:
        yield answer
    finally:
        answer.close()


async def _request(
    target: Target, method: str, path: str, headers: dict[str, str], body: bytes | None, first_byte_s: float
) -> aiohttp.ClientResponse:
    """Send; again for as long as pooled connections turn out closed before any byte came.

    One that was sent and then finds nobody listening was in flight when the engine died.
    """
    for attempt in range(1, RESENDS + 1):
        context = SimpleNamespace(reused=False)
        try:
            async with asyncio.timeout(first_byte_s):
                return await session().request(
                    method,
                    target.base_url + path,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=target.ssl or True,
                    trace_request_ctx=context,
                )
        except TimeoutError as problem:
            raise _too_slow(problem, first_byte_s) from problem
        except aiohttp.ClientConnectorError as problem:
            if attempt > 1:
                raise EngineError("died_midway", UNANSWERED) from problem
            raise EngineError("unreachable", "The engine cannot be reached: it does not listen.") from problem
        except aiohttp.ClientResponseError as problem:
            raise EngineError("malformed", "The engine sent something that is not HTTP.") from problem
        except aiohttp.ClientError as problem:
            if attempt == RESENDS or not context.reused:
                raise EngineError("died_midway", UNANSWERED) from problem
    raise AssertionError("unreachable")


def _too_slow(problem: TimeoutError, first_byte_s: float) -> EngineError:
    if isinstance(problem, aiohttp.ServerTimeoutError):
        return EngineError("unreachable", f"The engine did not take the connection within {CONNECT_S:g} s.")
    return EngineError("timeout", f"The engine sent nothing within {first_byte_s:g} s.")


async def _require_ok(answer: aiohttp.ClientResponse) -> None:
    """Raise what an answer other than 200 means."""
    if answer.status == 200:
        return
    raw = b""
    async with aclosing(_chunks(answer)) as chunks:
        async for chunk in chunks:
            raw += chunk
            if len(raw) > ERROR_BYTES:
                break
    raise refusal(answer.status, raw)


def refusal(status: int, raw: bytes) -> EngineError:
    """An engine's error answer, sorted; its own text is kept, capped."""
    if status < 400:
        what = "a redirect; those are never followed" if status >= 300 else f"{status}, which is no answer"
        return EngineError("malformed", f"The engine sent {what}.", status)
    said, kind = _said(raw)
    # llama.cpp calls a text that it cannot embed an error of its own.
    if CONTEXT.search(said) or (status < 500 and "context" in kind):
        return EngineError("context_exceeded", f"This does not fit the model's context: {said}", status)
    if status in (401, 403):
        return EngineError("refused", "The engine refused this replica's key.", status)
    if status in (429, 503):
        return EngineError("overloaded", f"The engine takes no more requests now: {said}", status)
    if status < 500:
        return EngineError("bad_request", f"The engine refused the request: {said}", status)
    return EngineError("refused", f"The engine failed with {status}: {said}", status)


def _said(raw: bytes) -> tuple[str, str]:
    """(message, type and code) of an error body, whatever its shape."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return ("no readable reason" if b"<" in raw[:200] else _clean(raw.decode(errors="replace"))), ""
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return _clean(str(error)), ""
    message = error.get("message") or error.get("detail") or "no reason given"
    return _clean(str(message)), f"{error.get('type')} {error.get('code')}"


async def _chunks(answer: aiohttp.ClientResponse, first_s: float = BETWEEN_CHUNKS_S) -> AsyncGenerator[bytes]:
    """Bytes as they come: the first within `first_s`, the others at most BETWEEN_CHUNKS_S apart."""
    silence = Silence(answer.content)
    wait_s = first_s
    try:
        while chunk := await silence.read(wait_s):
            yield chunk
            wait_s = BETWEEN_CHUNKS_S
    except TimeoutError as problem:
        raise EngineError("timeout", f"The engine fell silent for {wait_s:g} s.") from problem
    except aiohttp.ClientError as problem:
        raise EngineError("died_midway", "The engine broke off in the middle of the answer.") from problem
    finally:
        silence.stop()


class Silence:
    """Ends reads that wait too long. One timer serves all reads of an answer: setting one each costs more
    than the read. The time between reads, while the reader's own client is slow, does not count.
    """

    __slots__ = ("_content", "_loop", "_timer", "_until")

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._until = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, wait_s: float) -> bytes:
        """What came, empty at the end; TimeoutError when nothing does within `wait_s`."""
        self._until = self._loop.time() + wait_s
        if self._timer is None or self._timer.when() > self._until:
            self.stop()
            self._timer = self._loop.call_at(self._until, self._look)
        chunk = await self._content.readany()
        self._until = float("inf")
        return chunk

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() >= self._until:
            self._content.set_exception(TimeoutError())
        elif self._until != float("inf"):
            self._timer = self._loop.call_at(self._until, self._look)


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async with aclosing(_chunks(answer)) as chunks:
        async for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > TOTAL_BYTES:
                raise EngineError("malformed", f"The answer is larger than {TOTAL_BYTES >> 20} MiB.")
    return b"".join(parts)


@dataclass
class Events:
    """Takes an event stream apart. Tolerates CRLF, comments, and a last event without its empty line."""

    rest: bytes = b""
    data: list[bytes] = field(default_factory=list)
    size: int = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completed."""
        self.size += len(chunk)
        if self.size > TOTAL_BYTES:
            raise EngineError("malformed", f"The answer is larger than {TOTAL_BYTES >> 20} MiB.")
        lines = (self.rest + chunk).split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > LINE_BYTES or any(len(line) > LINE_BYTES for line in lines):
            raise EngineError("malformed", f"The engine sent a line longer than {LINE_BYTES >> 20} MiB.")
        return [payload for line in lines if (payload := self._line(line.rstrip(b"\r"))) is not None]

    def end(self) -> list[bytes]:
        """What was left when the stream ended."""
        last = [payload for line in (self.rest, b"") if (payload := self._line(line)) is not None]
        self.rest = b""
        return last

    def _line(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            self.data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and self.data:
            payload, self.data = b"\n".join(self.data), []
            return payload
        return None


async def _frames(answer: aiohttp.ClientResponse, chat: bool, first_byte_s: float) -> AsyncGenerator[Frame]:
    """Frames until [DONE] or the end. An end with neither a finish reason nor [DONE] is a broken answer."""
    events, reading = Events(), Reading(chat)
    async with aclosing(_chunks(answer, first_byte_s)) as chunks:
        async for chunk in chunks:
            at = time.monotonic()
            for payload in events.feed(chunk):
                if payload.startswith(b"[DONE]"):
                    await _drain(answer)
                    return
                for frame in reading.frames(_parsed(payload), at):
                    yield frame
    for payload in events.end():
        if not payload.startswith(b"[DONE]"):
            for frame in reading.frames(_parsed(payload), time.monotonic()):
                yield frame
    if not reading.finished:
        raise EngineError("died_midway", "The engine broke off in the middle of the answer.")


async def _drain(answer: aiohttp.ClientResponse) -> None:
    """Read the end that follows [DONE], so that the connection can be used again; not for long."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN_S):
            while await answer.content.readany():
                pass


@dataclass
class Reading:
    """Makes frames of chunks. Remembers how many tokens were counted, to tell how many each chunk held."""

    chat: bool
    finished: bool = False
    counted: int = 0

    def frames(self, data: dict[str, Any], at: float) -> list[Frame]:
        if data.get("error"):
            raise refusal(500, json.dumps(data).encode())
        usage = _usage(data)
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        found = self._choice(choice, at, self._tokens(choice, usage)) if isinstance(choice, dict) else []
        if usage:
            found.append(Frame("usage", at=at, data=usage))
        return found

    def _choice(self, choice: dict[str, Any], at: float, tokens: int | None) -> list[Frame]:
        delta = choice.get("delta") if self.chat else {"content": choice.get("text")}
        delta = delta if isinstance(delta, dict) else {}
        found: list[Frame] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            found.append(Frame("reasoning", _clean(thought), at, tokens))
        if isinstance(delta.get("content"), str) and delta["content"]:
            found.append(Frame("content", _clean(delta["content"]), at, tokens))
        if delta.get("tool_calls"):
            found.append(Frame("tool_call", at=at, tokens=tokens, data=delta["tool_calls"]))
        if not found and delta.get("role"):
            found.append(Frame("role", str(delta["role"]), at))
        if choice.get("finish_reason"):
            self.finished = True
            found.append(Frame("finish", str(choice["finish_reason"]), at))
        return found

    def _tokens(self, choice: Any, usage: dict[str, Any] | None) -> int | None:
        """Tokens in this chunk: by its log-probabilities, or by how far a continuous count moved."""
        logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
        listed = logprobs.get("content") if isinstance(logprobs, dict) else None
        if isinstance(listed, list) and listed:
            return len(listed)
        total = usage.get("completion_tokens") if usage else None
        if type(total) is not int:
            return None
        before, self.counted = self.counted, total
        return total - before if total > before else None


def _usage(data: dict[str, Any]) -> dict[str, Any] | None:
    """A chunk's usage, from `usage` or from llama.cpp's `timings`, which come with each token if asked."""
    usage, timings = data.get("usage"), data.get("timings")
    if isinstance(usage, dict):
        return usage
    if isinstance(timings, dict) and type(timings.get("predicted_n")) is int:
        prompt, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
        return {
            "prompt_tokens": prompt + cached,
            "completion_tokens": timings["predicted_n"],
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    return None


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _buffered(data: dict[str, Any], chat: bool) -> list[Frame]:
    """Frames of an answer that came whole though a stream was asked for."""
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EngineError("malformed", "The engine answered without a choice.")
    choice = choices[0] | {"delta": choices[0].get("message")}
    return Reading(chat).frames(data | {"choices": [choice]}, time.monotonic())


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise EngineError("malformed", "The engine sent something that is not JSON.") from problem
    if not isinstance(data, dict):
        raise EngineError("malformed", "The engine sent JSON that is not an object.")
    return data


def _clean(text: str) -> str:
    """Text that every store takes: no NUL, no lone halves of surrogate pairs."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
