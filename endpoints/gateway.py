"""/v1: bare ASGI, in front of Django. Authorise, admit, choose a replica, relay, account.

One `Exchange` a request. What a request may say is `protocol`'s, where it goes is `routing`'s, what happens
to streamed bytes is `streams`', files and batches are `stored`'s. Nothing of a request's or an answer's
content is ever logged.

Exchanges have no timers of their own: one janitor a process looks over all of them, ends those whose client
sends or reads too slowly, and keeps waiting streams alive with comments.
"""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote

from django.conf import settings

from endpoints import (
    as_chat,
    as_response,
    idempotency,
    limits,
    metrics,
    prompted,
    protocol,
    request_log,
    responses,
    routing,
    stored,
    usage,
)
from endpoints.protocol import Refusal
from endpoints.streams import Malformed, Stream
from endpoints.table import Key, Route
from endpoints.whole import Whole
from playground import engine_client, sharing
from playground.engine_client import EngineError, Relayed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

log = logging.getLogger(__name__)

MAX_ACTIVE = 4000
MAX_BUFFERED = 512 * 1024 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
ERROR_LIMIT = 64 * 1024
# Bytes a second below which an upload counts as too slow, once BODY_TIMEOUT_S is over.
UPLOAD_RATE = 64 * 1024
# Answers quicker than this are not watched for a client that hangs up: it costs more than it saves.
WATCH_AFTER_S = 0.02
# An unknown key is refused after one look at the next table, at most so much later.
NEW_KEY_S = 0.25
# The engine gets nothing of the client's headers: least of all its key.
ENGINE_HEADERS = {"content-type": "application/json"}
# Another replica may do better, as long as the client has had no byte.
RETRYABLE = frozenset({"unreachable", "died_midway", "overloaded"})

# What limits refuse was not let in: it leaves no record, and a flood of it no rows.
TOO_MANY = 429
HUNG_UP = 499

JSON: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
OCTETS: Headers = [(b"content-type", b"application/octet-stream"), (b"cache-control", b"no-store")]
REPLAYED: Headers = [*JSON, (b"idempotent-replayed", b"true")]
NOTHING: Mapping[str, Any] = {}
KEEP_ALIVE = b": keep-alive\n\n"

_active: set["Exchange"] = set()
_janitor: asyncio.Task[None] | None = None


async def startup() -> None:
    """Begin keeping the routing table and looking after exchanges."""
    global _janitor
    await routing.startup()
    await idempotency.startup()
    await limits.startup()
    await usage.startup()
    _janitor = asyncio.create_task(_look_after(), name="gateway janitor")


async def shutdown() -> None:
    global _janitor
    if _janitor is not None:
        _janitor.cancel()
        await asyncio.gather(_janitor, return_exceptions=True)
        _janitor = None
    await limits.shutdown()
    await idempotency.shutdown()
    await usage.shutdown()
    await routing.shutdown()


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """One HTTP request below /v1."""
    await Exchange(scope, receive, send).answer()


async def _look_after() -> None:
    pause = min(1.0, settings.KEEP_ALIVE_S / 4, settings.BODY_TIMEOUT_S / 4)
    while True:
        await asyncio.sleep(pause)
        now = monotonic()
        for exchange in list(_active):
            exchange.look_after(now)


class Wanted(NamedTuple):
    """What is asked of an engine: the body without `prompt`, that one's parameters, and tokens at most."""

    body: dict[str, Any]
    prompt: Mapping[str, Any]
    tokens: int


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_admission",
        "_asked_as",
        "_body_until",
        "_buffered",
        "_claim",
        "_commenting",
        "_ended_by",
        "_gathers",
        "_kind",
        "_logged",
        "_price",
        "_receive",
        "_send",
        "_sending_since",
        "_sent_at",
        "_task",
        "_told",
        "_watch",
        "began",
        "busy_s",
        "code",
        "key",
        "label",
        "method",
        "path",
        "query",
        "raw_headers",
        "replica",
        "request_id",
        "route",
        "started",
        "status",
        "streaming",
        "ttft",
        "usage",
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
        self.label = ""
        self.status = 0
        self.started = self.streaming = self._gathers = False
        self._kind = self._asked_as = self.code = ""
        self._told: as_response.Told | None = None
        self.key: Key | None = None
        self.route: Route | None = None
        self.replica: int | None = None
        self.busy_s: float | None = None
        self._logged: tuple[dict[str, Any], request_log.Answer] | None = None
        self._claim: idempotency.Claim | None = None
        self._admission: limits.Admission | None = None
        self._price = 0.0
        self.ttft: float | None = None
        self.usage: dict[str, Any] | None = None
        self._receive, self._send = receive, send
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._watch: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._commenting: asyncio.Task[None] | None = None
        self._ended_by = ""
        self._body_until = self._sending_since = float("inf")
        self._sent_at = self.began
        self._buffered = 0

    async def answer(self) -> None:
        """Answer in every case, with the one error shape when it goes wrong, and account for it."""
        _active.add(self)
        try:
            await self._dispatch()
        except Refusal as refusal:
            await self._refuse(refusal)
        except asyncio.CancelledError:
            await self._ended()
        except Exception as error:
            self._log_fault(error)
            await self._refuse(Refusal(500, "Something went wrong here.", "internal_error"))
        finally:
            self._close()

    def _close(self) -> None:
        _active.discard(self)
        Exchange.buffered -= self._buffered
        if self._watch is not None:
            self._watch.cancel()
        if self._admission is not None:
            self._settle(self._admission)
        took = usage.tokens(self.usage)
        metrics.finished(self.label, self.status, monotonic() - self.began, self.ttft, took)
        if self.key is not None and self.route is not None and self.status != TOO_MANY:
            usage.write(self._record(self.key, self.route))

    def _settle(self, admission: limits.Admission) -> None:
        """Count against the key's limits what this took, where that is known."""
        told = usage.tokens(self.usage)
        admission.close(
            tokens=sum(told[name] or 0 for name in ("prompt_tokens", "completion_tokens")) or None,
            cost=None if self.busy_s is None else self._price * self.busy_s,
            failed=self.status >= 400 and self.ttft is None and self.usage is None and self.status != HUNG_UP,
        )

    def _record(self, key: Key, route: Route) -> usage.Record:
        """What is kept of it: figures alone, and what was said where its endpoint logs requests."""
        name, _, adapter = route.name.partition(":")
        record: usage.Record = {
            "request_id": usage.own_id(),
            "client_id": self.request_id,
            "at": usage.arrived(self.began),
            "team": key.team,
            "key": key.id,
            "endpoint": name,
            "adapter": adapter,
            "release": route.release,
            "deployment": route.deployment,
            "replica": self.replica,
            "route": self.path.decode(),
            "status": self.status,
            "code": self.code,
            "stream": self.streaming,
            **usage.tokens(self.usage),
            "ttft_ms": None if self.ttft is None else round(self.ttft * 1000, 3),
            "e2e_ms": round((monotonic() - self.began) * 1000, 3),
            "busy_s": None if self.busy_s is None else round(self.busy_s, 6),
        }
        if self._logged is not None:
            asked, answer = self._logged
            record["logged"] = (asked, answer.made)
        return record

    def _log_fault(self, error: Exception) -> None:
        """Where it happened, never what was said: an exception's text may quote the request."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}:{frame.lineno}"
        log.error("request %s failed: %s at %s", self.request_id, type(error).__name__, place)

    async def _dispatch(self) -> None:
        found = self._headers()
        kind = protocol.ROUTES.get((self.method, self.path))
        listing = self.method == "GET" and (
            self.path == protocol.MODELS or self.path.startswith(protocol.MODELS + b"/")
        )
        asked = stored.find(self.method, self.path)
        if kind is None and asked is None and not listing:
            raise protocol.unknown_route(self.method)
        key = self.key = await self._authorise(found)
        address = asked.route if asked is not None else self.path.decode()
        if not listing and not key.may_use(address):
            raise Refusal(403, f"This key may not call {address}.", "route_not_allowed")
        if asked is not None:
            await self._store(key, found, asked)
        elif kind is None:
            await self._models(key)
        else:
            await self._ask(key, found, kind)

    def _headers(self) -> dict[bytes, bytes]:
        given = next((value for name, value in self.raw_headers[:100] if name == b"x-request-id"), None)
        self.request_id = protocol.request_id(given)
        return protocol.headers(self.raw_headers)

    async def _authorise(self, found: dict[bytes, bytes]) -> Key:
        secret = protocol.secret(found)
        if not routing.table().fresh():
            raise protocol.unavailable("The gateway has lost its database. Try again shortly.", 5, "no_table")
        key = routing.authorise(secret)
        if key is None:
            # It may have been made a moment ago, and its announcement be on the way.
            await routing.changed(NEW_KEY_S)
            key = routing.authorise(secret)
        if key is None:
            raise protocol.wrong_key()
        if len(_active) > MAX_ACTIVE:
            raise protocol.unavailable("Too many requests are running here.", 2, "too_busy")
        return key

    # GET /v1/models

    async def _models(self, key: Key) -> None:
        if self.path == protocol.MODELS:
            rows = [route for route in routing.names(key) if route.release or route.replicas]
            data = [protocol.model_object(route.name, route.created) for route in rows]
            await self._json({"object": "list", "data": data})
            return
        name = unquote(self.path[len(protocol.MODELS) + 1 :].decode("ascii", "replace"))
        route = self._find(key, name)
        await self._json(protocol.model_object(route.name, route.created))

    def _find(self, key: Key, name: str) -> Route:
        scope = "playground" if "/" in name else "endpoints"
        if scope not in key.scopes:
            raise Refusal(403, f"This key lacks the scope {scope!r}.", "missing_scope", "model")
        route = routing.find(key, name)
        if route is None:
            raise protocol.no_such_model(name)
        if not key.may_call(name):
            raise Refusal(403, "This key may not call that model.", "model_not_allowed", "model")
        return route

    # /v1/files and /v1/batches

    async def _store(self, key: Key, found: dict[bytes, bytes], asked: stored.Asked) -> None:
        if self.method == "POST":
            self._admission = await limits.admit(key, 0, 0)
        body = stored.Body(lambda: self._body(protocol.body_length(found)), self._pieces)
        answer = await stored.answer(asked, key, found, self.query, body)
        if not isinstance(answer, stored.Content):
            await self._json(answer)
            return
        with answer.file:
            await self._start(200, [*OCTETS, (b"content-length", str(answer.size).encode())])
            try:
                async for piece in answer.pieces():
                    await self._write(piece, more=True)
            except OSError:
                self._ended_by = "hang-up"  # Nothing more fits into these bytes: the connection breaks.
                raise
            await self._write(b"", more=False)

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

    # POST: read, choose, relay

    async def _ask(self, key: Key, found: dict[bytes, bytes], kind: str) -> None:
        raw = await self._body(protocol.body_length(found))
        body = protocol.parse(raw, kind)
        route = self._find(key, body["model"])
        self.route, self.label, self._kind = route, route.name, kind
        self._told = as_response.Told(body) if kind == "responses" else None
        self._ask_as(route)
        if request_log.chosen(route.log_share):
            self._logged = body, request_log.Answer()
        protocol.refuse_wrong_task(kind, self._engine_path, route.task, route.quirks)
        self.streaming = body.get("stream") is True
        self._watch = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_watch)
        token = idempotency.token(found, streaming=self.streaming)
        asked, prompt, size = body, NOTHING, len(raw)
        if kind in protocol.PROMPTED and body.get("prompt") is not None:
            asked, prompt, added = await prompted.fill(key, route, body, kind)
            size += added
        protocol.refuse_unsupported(self._words(asked), route.quirks)
        wanted = Wanted(asked, prompt, protocol.weight(size, {**route.sampling, **prompt, **asked}, kind))
        if token is None:
            await self._relay(key, route, wanted)
        else:
            await self._once(key, route, wanted, token, idempotency.fingerprint(self.path, body))

    def _ask_as(self, route: Route) -> None:
        """By which of its routes the engine is asked: a response may come of a chat completion."""
        self._asked_as = "chat" if as_chat.needed(self._kind, route.quirks) else self._kind

    @property
    def _translated(self) -> bool:
        return self._asked_as != self._kind

    def _words(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body in the words of the route that the engine is asked by."""
        return as_chat.body(body) if self._translated else body

    @property
    def _engine_path(self) -> str:
        if self._translated:
            return as_chat.CHAT
        return protocol.ENGINE_PATHS.get(self.path) or self.path.decode()

    async def _once(self, key: Key, route: Route, wanted: Wanted, token: str, said: str) -> None:
        """Relay unless a request with this Idempotency-Key ran or runs: then replay its answer, or refuse."""
        claim = await idempotency.claim(key.id, token, said)
        if isinstance(claim, bytes):
            await self._send_whole(claim, REPLAYED)
            return
        self._claim = claim
        try:
            await self._relay(key, route, wanted)
        finally:
            await idempotency.free(claim)

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
        Exchange.buffered += size - self._buffered
        self._buffered = size
        if Exchange.buffered > MAX_BUFFERED:
            raise protocol.unavailable("Too much is being uploaded here.", 5, "too_busy")

    async def _relay(self, key: Key, route: Route, wanted: Wanted) -> None:
        """Send it to the best replica; to another one, once, where the first cannot be reached."""
        failed: set[int] = set()
        body, prompt, tokens = wanted
        self._admission = await limits.admit(key, route.deployment, tokens)
        while True:
            route, target = await self._replica(key, route, failed)
            self._ask_as(route)
            sampling = protocol.defaults(route.sampling, prompt, self._asked_as)
            self._gathers = self._gathered(route)
            payload = protocol.prepare(
                self._words(body),
                sampling,
                target,
                route.quirks,
                gathered=self._gathers,
                kind=self._asked_as,
            )
            self.route, self.replica = route, target.replica
            self._price = routing.price(target.replica) or 0.0
            routing.take(route, target, tokens)
            share = sharing.Share()
            try:
                with sharing.share(target.replica) as share:
                    async with engine_client.relay(
                        target, "POST", self._engine_path, ENGINE_HEADERS, payload
                    ) as answer:
                        await self._pass_on(answer, route, body)
                return
            except EngineError as error:
                if self.started or failed or error.code not in RETRYABLE:
                    raise protocol.engine_failed(error, self._kind) from error
                failed.add(target.replica)
            finally:
                self.busy_s = share.seconds
                routing.release(route, target, tokens)

    def _gathered(self, route: Route) -> bool:
        """Whether a whole answer is asked as a stream, so that the engine hears when the client leaves."""
        return route.quirks.whole_by_stream and not self.streaming and self._asked_as in protocol.GENERATING

    async def _replica(self, key: Key, route: Route, failed: set[int]) -> tuple[Route, engine_client.Target]:
        """The route as it is now and a ready replica of it; waits for one that is on its way."""
        until = monotonic() + settings.HOLD_S
        while (target := routing.choose(route, failed)) is None:
            left = until - monotonic()
            if not route.coming:
                raise protocol.unavailable(f"No replica of {route.name} is ready.")
            if left <= 0:
                raise protocol.unavailable(f"{route.name} is still starting.", 10, "starting")
            await routing.changed(left)
            route = self._find(key, route.name)
        return route, target

    async def _pass_on(self, answer: Relayed, route: Route, body: dict[str, Any]) -> None:
        if answer.status != 200:
            await self._engine_refused(answer)
        kind = answer.headers.get("content-type", "")
        if self.streaming and "text/event-stream" in kind:
            await self._pass_stream(answer.body, self._passage(route, body))
        elif self._gathers and "text/event-stream" in kind:
            await self._pass_gathered(answer.body)
        elif not self.streaming and "json" in kind:
            await self._pass_whole(answer.body)
        else:
            raise protocol.bad_engine()

    def _passage(self, route: Route, body: dict[str, Any]) -> Stream:
        """What becomes of a streamed answer on its way."""
        if self._told is None:
            options = body.get("stream_options") or {}
            return Stream(route.quirks, bool(options.get("include_usage")))
        if self._translated:
            return as_response.Events(route.quirks, usage_asked=False, told=self._told)
        return responses.Events(route.quirks, usage_asked=False)

    async def _engine_refused(self, answer: Relayed) -> None:
        """Raise what the engine's error means."""
        raw = b""
        async for data in answer.body:
            raw += data
            if len(raw) > ERROR_LIMIT:
                break
        raise engine_client.refusal(answer.status, raw)

    async def _pass_whole(self, body: AsyncIterator[bytes]) -> None:
        chunks, size = [], 0
        async for data in body:
            chunks.append(data)
            size += len(data)
            if size > ANSWER_LIMIT:
                raise protocol.answer_too_large(self._kind)
        raw = b"".join(chunks)
        try:
            answer = protocol.read_answer(raw, self._kind)
        except ValueError as error:
            raise protocol.bad_engine() from error
        await self._answer(answer, raw)

    async def _pass_gathered(self, body: AsyncIterator[bytes]) -> None:
        """The stream's answer in one piece; nothing of it where the engine did not come to its end."""
        whole, size = Whole(), 0
        try:
            async for data in body:
                size += len(data)
                if size > ANSWER_LIMIT:
                    raise protocol.bad_engine()
                whole.feed(data)
            if whole.failed:
                raise protocol.died_midway()
            answer = whole.answer()
        except Malformed as error:
            raise protocol.bad_engine() from error
        await self._answer(answer, json.dumps(answer, ensure_ascii=False).encode())

    async def _answer(self, answer: dict[str, Any], raw: bytes) -> None:
        """Send a whole answer, and keep it for whoever sends the same Idempotency-Key again."""
        self.usage = answer.get("usage")
        if self._told is not None and self._translated:
            try:
                answer = self._told.whole(answer)
            except Malformed as error:
                raise protocol.bad_engine() from error
            raw = json.dumps(answer, ensure_ascii=False).encode()
        if self._logged is not None:
            self._logged[1].take(answer)
        if self._claim is not None:
            await idempotency.keep(self._claim, raw)
        await self._send_whole(raw)

    async def _pass_stream(self, body: AsyncIterator[bytes], stream: Stream) -> None:
        """Pass events on as they come. Once begun it ends with [DONE] or an error event, never silently."""
        try:
            await self._pass_events(body, stream)
        except (EngineError, Malformed) as error:
            if not self.started and not isinstance(error, Malformed):
                raise
            stream.failed = True
        finally:
            self.usage = stream.usage
        if stream.complete:
            return
        if stream.failed or not stream.end_reached:
            raise protocol.died_midway()
        await self._write(stream.end(), more=False)

    async def _pass_events(self, body: AsyncIterator[bytes], stream: Stream) -> None:
        async for data in body:
            if stream.done:
                continue
            passing = stream.feed(data)
            if stream.failed:
                return
            if not passing:
                continue
            if self.ttft is None and stream.content_seen:
                self.ttft = monotonic() - self.began
            if not self.started:
                await self._start(200, SSE)
            if self._logged is not None:
                self._logged[1].feed(passing)
            await self._write(passing, more=not stream.done)

    # What the client gets

    async def _json(self, value: dict[str, Any]) -> None:
        await self._send_whole(json.dumps(value).encode())

    async def _send_whole(self, raw: bytes, headers: Headers = JSON) -> None:
        await self._start(200, [*headers, (b"content-length", str(len(raw)).encode())])
        await self._write(raw, more=False)

    async def _refuse(self, refusal: Refusal) -> None:
        """The error as an answer, or as the last event of a stream that has begun."""
        if self._ended_by == "hang-up":
            return
        self.code = refusal.code or ""
        if self._logged is not None:
            self._logged[1].fail({"message": refusal.message, "code": refusal.code, "param": refusal.param})
        if refusal.status >= 500:
            log.warning("request %s to %s: %s %s", self.request_id, self.label, refusal.status, refusal.code)
        if self.started:
            self.status = refusal.status
            await self._write(b"data: " + refusal.body() + b"\n\n", more=False)
            return
        raw = refusal.body()
        headers = [*JSON, (b"content-length", str(len(raw)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        if refusal.status in (408, 413, 415, 431, 507):
            headers.append((b"connection", b"close"))
        await self._start(refusal.status, headers)
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
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sent_at, self._sending_since = self._sending_since, float("inf")

    # What ends or keeps an exchange from outside

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
        return self.streaming and not writing and now - self._sent_at > settings.KEEP_ALIVE_S

    async def _comment(self) -> None:
        if not self.started:
            await self._start(200, SSE)
        self._sent_at = monotonic()
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    def _start_watch(self) -> None:
        self._watch = asyncio.create_task(self._watch_client())

    async def _watch_client(self) -> None:
        """End the exchange, and with it the engine's work, when the client hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._hang_up("hang-up")

    def _hang_up(self, why: str) -> None:
        if not self._ended_by and self._task is not None:
            self._ended_by = why
            self._task.cancel()

    async def _ended(self) -> None:
        """After a cancellation: ours is an answer of its own, the server's goes on up."""
        if not self._ended_by or self._task is None:
            self.status, self.code = self.status or 503, "shutting_down"
            raise asyncio.CancelledError
        self._task.uncancel()
        self.code = self._ended_by.replace(" ", "_").replace("-", "_")
        if self._ended_by == "slow body":
            self._ended_by = ""
            await self._refuse(Refusal(408, "The body took too long to arrive.", "slow_body"))
        elif not self.status or self.started:
            self.status = HUNG_UP
