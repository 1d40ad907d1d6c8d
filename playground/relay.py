"""The way to an engine from another node: one listener a replica, with its own key. Knows no more than bytes.

It passes the same (method, path) list as the gateway, streams both ways, and closes the engine's side when
the caller hangs up. GET /log?offset=N gives a piece of the engine's log.
"""

import hmac
import ssl
from collections.abc import Mapping

import aiohttp
from aiohttp import web

from playground.engine_log import EngineLog
from playground.engines.base import ALLOWED
from playground.spec import Spec

LOG_BYTES = 1 << 20
NEXT_OFFSET = "X-Next-Offset"
# Headers of one connection, or ours; none of them goes on to the other side.
HOP = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Relay:
    """Listens on the node's address. `base_url` is the engine's, set once it is known."""

    def __init__(self, spec: Spec, log: EngineLog) -> None:
        self._spec, self._log = spec, log
        self.base_url = ""
        self._session: aiohttp.ClientSession | None = None
        self._web: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where the address is not this node's."""
        # Its own session: no time limit on an answer, no cookies kept between callers, bytes as they came.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._web = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await self._web.setup()
        site = web.TCPSite(self._web, self._spec.node_address, 0, ssl_context=_tls(self._spec))
        await site.start()
        port: int = self._web.addresses[0][1]
        return port

    async def close(self) -> None:
        if self._web:
            await self._web.cleanup()
        if self._session:
            await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not self._has_key(request):
            return _error(401, "a relay needs its replica's key", "invalid_api_key")
        path = request.raw_path.partition("?")[0]
        if (request.method, path) == ("GET", "/log"):
            return self._log_piece(request)
        if (request.method, path) not in ALLOWED:
            return _error(404, "no such route", "not_found")
        return await self._pass_on(request, path)

    def _has_key(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return bool(self._spec.relay_key) and hmac.compare_digest(
            given, f"Bearer {self._spec.relay_key}".encode()
        )

    def _log_piece(self, request: web.Request) -> web.Response:
        """At most a megabyte from `offset` on; the header says where the next piece starts."""
        text = request.query.get("offset", "0")
        if not text.isascii() or not text.isdigit():
            return _error(400, "offset must be a number of bytes", "bad_request")
        offset, piece = self._log.piece(int(text), LOG_BYTES)
        headers = {NEXT_OFFSET: str(offset + len(piece))}
        return web.Response(body=piece, headers=headers, content_type="text/plain", charset="utf-8")

    async def _pass_on(self, request: web.Request, path: str) -> web.StreamResponse:
        assert self._session is not None
        answer: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                self.base_url + path,
                headers=self._forward(request.headers),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as engine:
                answer = web.StreamResponse(status=engine.status, headers=_without_hop(engine.headers))
                await answer.prepare(request)
                async for piece in engine.content.iter_any():
                    await answer.write(piece)
                await answer.write_eof()
                return answer
        except aiohttp.ClientError as error:
            if answer is not None:
                return _break_off(request, answer)
            return _error(502, f"the engine does not answer: {type(error).__name__}", "unreachable")

    def _forward(self, headers: Mapping[str, str]) -> dict[str, str]:
        key = self._spec.engine_key
        passed = _without_hop(headers)
        if "Content-Length" in headers:
            passed["Content-Length"] = headers["Content-Length"]
        return passed | ({"Authorization": f"Bearer {key}"} if key else {})


def _without_hop(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP}


def _break_off(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """End the connection without an end of the answer: the caller must never take it for a whole one."""
    if request.transport is not None:
        request.transport.abort()
    return answer


def _tls(spec: Spec) -> ssl.SSLContext | None:
    if not spec.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(spec.tls_cert, spec.tls_key)
    return context


def _error(status: int, message: str, code: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
