"""The client's side of one request below /v1: its body as it comes, its answer as it goes, and what ends it.

Connections have no timers of their own: the gateway's janitor looks over all of them, ends those whose client
sends or reads too slowly, and keeps waiting streams alive with comments.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from django.conf import settings

from endpoints import limits, protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BUFFERED = 512 * 1024 * 1024
# Bytes a second below which an upload counts as too slow, once BODY_TIMEOUT_S is over.
UPLOAD_RATE = 64 * 1024
# Answers quicker than this are not watched for a client that hangs up: it costs more than it saves.
WATCH_AFTER_S = 0.02
# How long an engine may take to end its stream after the last event of it.
LINGER_S = 1.0

JSON: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
OCTETS: Headers = [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-store")]
KEEP_ALIVE = b": keep-alive\n\n"


class Connection:
    """One request as it is received, and what is sent for it."""

    __slots__ = (
        "_admission",
        "_body_until",
        "_buffered",
        "_commenting",
        "_ended_by",
        "_receive",
        "_send",
        "_sending_since",
        "_sent_at",
        "_task",
        "_watch",
        "answered",
        "began",
        "method",
        "path",
        "query",
        "raw_headers",
        "request_id",
        "started",
        "status",
        "streaming",
    )
    buffered = 0
    """Bytes of request bodies in memory, in this process."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.began = monotonic()
        self.method: str = scope["method"]
        self.path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope["query_string"]
        self.raw_headers: Headers = scope["headers"]
        self.request_id = ""
        self.status = 0
        self.started = self.answered = self.streaming = False
        self._admission: limits.Admission | None = None
        self._receive, self._send = receive, send
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._watch: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._commenting: asyncio.Task[None] | None = None
        self._ended_by = ""
        self._body_until = self._sending_since = float("inf")
        self._sent_at = self.began
        self._buffered = 0

    def _disconnect(self) -> None:
        """Hold nothing of it any more."""
        Connection.buffered -= self._buffered
        if self._watch is not None:
            self._watch.cancel()

    # What the client sends

    async def _body(self, announced: int | None) -> bytes:
        """The whole body; refused when it is larger than it may be or slower than it should be."""
        self._body_until = self.began + settings.BODY_TIMEOUT_S
        message = await self._receive()
        chunks, size = [], 0
        while message["type"] == "http.request":
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if not message.get("more_body"):
                self._body_until = float("inf")
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._admit(size)
            message = await self._receive()
        self._hang_up("hang-up")
        raise asyncio.CancelledError

    def _admit(self, size: int) -> None:
        """Bound what bodies still on their way take, each and together."""
        if size > protocol.BODY_LIMIT:
            raise protocol.too_large()
        Connection.buffered += size - self._buffered
        self._buffered = size
        if Connection.buffered > MAX_BUFFERED:
            raise protocol.unavailable("Too much is being uploaded here.", 5, "too_busy")

    async def _pieces(self) -> AsyncIterator[bytes]:
        """An upload as it comes. It may take long, as long as it goes on at UPLOAD_RATE."""
        size, more = 0, True
        while more:
            self._body_until = self.began + settings.BODY_TIMEOUT_S + size / UPLOAD_RATE
            message = await self._receive()
            if message["type"] != "http.request":
                self._hang_up("hang-up")
                raise asyncio.CancelledError
            data, more = message.get("body", b""), message.get("more_body", False)
            size += len(data)
            yield data
        self._body_until = float("inf")

    # What the client gets

    async def _json(self, value: dict[str, Any]) -> None:
        await self._send_whole(json.dumps(value).encode())

    async def _send_whole(self, raw: bytes, headers: Headers = JSON) -> None:
        await self._start(200, [*headers, (b"content-length", str(len(raw)).encode())])
        await self._write(raw, more=False)

    async def _start(self, status: int, headers: Headers) -> None:
        self.started, self.status = True, status
        took = str(int((monotonic() - self.began) * 1000)).encode()
        headers = [*headers, (b"x-request-id", self.request_id.encode()), (b"openai-processing-ms", took)]
        if self._admission is not None:
            headers += self._admission.headers()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, data: bytes, *, more: bool) -> None:
        if self._commenting is not None:
            await self._commenting
            self._commenting = None
        self._sending_since = monotonic()
        self.answered = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sent_at, self._sending_since = self._sending_since, float("inf")

    # What ends or keeps it from outside

    def _watch_soon(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_watch)

    def look_after(self, now: float) -> None:
        """The janitor's visit: end a client that is too slow, keep a waiting stream alive."""
        if now > self._body_until:
            self._hang_up("slow body")
        elif now - self._sending_since > settings.STALL_S:
            self._hang_up("slow reader")
        elif self._is_silent(now):
            self._commenting = asyncio.create_task(self._comment())

    def _is_silent(self, now: float) -> bool:
        """A stream whose client has heard nothing for long, with no write under way."""
        writing = self._commenting is not None or self._sending_since != float("inf")
        return (
            self.streaming
            and not self.answered
            and not writing
            and now - self._sent_at > settings.KEEP_ALIVE_S
        )

    async def _comment(self) -> None:
        if not self.started:
            await self._start(200, SSE)
        self._sent_at = monotonic()
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    def _start_watch(self) -> None:
        self._watch = asyncio.create_task(self._watch_client())

    async def _watch_client(self) -> None:
        """End the exchange, and with it the engine's work, when the client hangs up.

        The server says the same of a client that has its whole answer. What the engine sends after that is
        the end of its own, which frees its connection for the next request: it is waited for a while.
        """
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self.answered:
            await asyncio.sleep(LINGER_S)
        self._hang_up("hang-up")

    def _hang_up(self, why: str) -> None:
        if not self._ended_by and self._task is not None:
            self._ended_by = why
            self._task.cancel()
