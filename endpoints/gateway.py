"""/v1: bare ASGI, in front of Django. Authorise, answer, account.

One `Exchange` a request. The client's side of it is `connection`'s, what an engine is asked `relaying`'s,
files and batches are `stored`'s. Nothing of a request's or an answer's content is ever logged.
"""

import asyncio
import logging
import traceback
from time import monotonic
from urllib.parse import unquote

from django.conf import settings

from endpoints import idempotency, limits, metrics, protocol, routing, stored, usage
from endpoints.connection import JSON, OCTETS, Message, Receive, Send
from endpoints.protocol import Refusal
from endpoints.relaying import Relaying
from endpoints.table import Key, Route

log = logging.getLogger(__name__)

MAX_ACTIVE = 4000
# An unknown key is refused after one look at the next table, at most so much later.
NEW_KEY_S = 0.25
# What limits refuse was not let in: it leaves no record, and a flood of it no rows.
TOO_MANY = 429
HUNG_UP = 499

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


class Exchange(Relaying):
    """One request and its answer."""

    __slots__ = ("code", "key")

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.code = ""
        self.key: Key | None = None

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

    async def _ended(self) -> None:
        """After a cancellation: ours is an answer of its own, the server's goes on up."""
        if not self._ended_by or self._task is None:
            self.status, self.code = self.status or 503, "shutting_down"
            raise asyncio.CancelledError
        self._task.uncancel()
        if self.answered:
            return
        self.code = self._ended_by.replace(" ", "_").replace("-", "_")
        if self._ended_by == "slow body":
            self._ended_by = ""
            await self._refuse(Refusal(408, "The body took too long to arrive.", "slow_body"))
        elif not self.status or self.started:
            self.status = HUNG_UP

    # Account for it

    def _close(self) -> None:
        _active.discard(self)
        self._disconnect()
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

    # Whose request, and for what

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
        route = routing.require(key, name)
        await self._json(protocol.model_object(route.name, route.created))

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
