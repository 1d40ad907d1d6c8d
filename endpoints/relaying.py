"""What is asked of an engine: a request below /v1 read, sent to a replica, its answer passed on.

What a request may say is `protocol`'s, where it goes is `routing`'s, what happens to streamed bytes is
`streams`'.
"""

import json
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Any, NamedTuple

from django.conf import settings

from endpoints import (
    as_chat,
    as_response,
    idempotency,
    limits,
    prompted,
    protocol,
    request_log,
    responses,
    routing,
)
from endpoints.connection import JSON, SSE, Connection, Headers, Message, Receive, Send
from endpoints.streams import Malformed, Stream
from endpoints.table import Key, Route
from endpoints.whole import Whole
from playground import engine_client, sharing
from playground.engine_client import EngineError, Relayed

ANSWER_LIMIT = 64 * 1024 * 1024
ERROR_LIMIT = 64 * 1024
# The engine gets nothing of the client's headers: least of all its key.
ENGINE_HEADERS = {"content-type": "application/json"}
# Another replica may do better, as long as the client has had no byte.
RETRYABLE = frozenset({"unreachable", "died_midway", "overloaded"})
REPLAYED: Headers = [*JSON, (b"idempotent-replayed", b"true")]
NOTHING: Mapping[str, Any] = {}


class Wanted(NamedTuple):
    """What is asked of an engine: the body without `prompt`, that one's parameters, and tokens at most."""

    body: dict[str, Any]
    prompt: Mapping[str, Any]
    tokens: int


class Relaying(Connection):
    """A request that an engine answers."""

    __slots__ = (
        "_asked_as",
        "_claim",
        "_gathers",
        "_kind",
        "_logged",
        "_price",
        "_told",
        "busy_s",
        "label",
        "replica",
        "route",
        "ttft",
        "usage",
    )

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.label = ""
        self._gathers = False
        self._kind = self._asked_as = ""
        self._told: as_response.Told | None = None
        self.route: Route | None = None
        self.replica: int | None = None
        self.busy_s: float | None = None
        self._logged: tuple[dict[str, Any], request_log.Answer] | None = None
        self._claim: idempotency.Claim | None = None
        self._price = 0.0
        self.ttft: float | None = None
        self.usage: dict[str, Any] | None = None

    # Read

    async def _ask(self, key: Key, found: dict[bytes, bytes], kind: str) -> None:
        raw = await self._body(protocol.body_length(found))
        body = protocol.parse(raw, kind)
        route = routing.require(key, body["model"])
        self.route, self.label, self._kind = route, route.name, kind
        self._told = as_response.Told(body) if kind == "responses" else None
        self._ask_as(route)
        if request_log.chosen(route.log_share):
            self._logged = body, request_log.Answer()
        protocol.refuse_wrong_task(kind, self._engine_path, route.task, route.quirks)
        self.streaming = body.get("stream") is True
        self._watch_soon()
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

    # Choose a replica, and send

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
            route = routing.require(key, route.name)
        return route, target

    # Pass its answer on

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
        await self._answer(answer)

    async def _answer(self, answer: dict[str, Any], raw: bytes | None = None) -> None:
        """Send a whole answer, and keep it for whoever sends the same Idempotency-Key again.

        `raw`: as it came from the engine, sent where nothing of it is told otherwise.
        """
        self.usage = answer.get("usage")
        if self._told is not None and self._translated:
            try:
                answer, raw = self._told.whole(answer), None
            except (Malformed, AttributeError, TypeError, ValueError) as error:
                raise protocol.bad_engine() from error
        if raw is None:
            raw = json.dumps(answer).encode()  # In ASCII: an engine may end within a character.
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
