"""The web process: uvicorn around `playground.asgi`, and the limits it lacks: on what a client may send as
headers, and on how long it may leave an answer unread.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
# A client that has not sent its whole head by then holds a connection for nothing.
HEAD_S = 20.0
KEEP_ALIVE_S = 75
SHUTDOWN_S = 5


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with bounded heads: too many headers or bytes → 431, too slow → 408.

    A client that reads nothing for STALL_S is cut off: closing would wait for it to read what is buffered.
    """

    head_timer: asyncio.TimerHandle | None = None
    head_bytes = 0
    refused = False
    unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.head_timer = self.loop.call_later(HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread_timer = self.loop.call_later(settings.STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = 0
        if self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_S, self._too_slow)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self.refused:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if not self.refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        if not self.refused:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        if not self.refused:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if not self.refused and (self.head_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS):
            self._end(431, "Too many headers.")

    def _too_slow(self) -> None:
        self.head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer still streams; a half-sent next request may not cut it.
            self.head_timer = self.loop.call_later(HEAD_S, self._too_slow)
        elif self.head_bytes:
            self._end(408, "The request's head did not arrive in time.")
        else:
            self.transport.close()

    def _end(self, status: int, why: str) -> None:
        """Answer and close; whatever else arrives on this connection is dropped."""
        self.refused = True
        self._stop_timer()
        body = why.encode()
        head = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _stop_unread_timer(self) -> None:
        if self.unread_timer is not None:
            self.unread_timer.cancel()
            self.unread_timer = None

    def _stop_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


def config() -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if settings.TLS_CERT and settings.TLS_KEY:
        tls = {"ssl_certfile": settings.TLS_CERT, "ssl_keyfile": settings.TLS_KEY}
    return uvicorn.Config(
        "playground.asgi:application",
        host=settings.BIND,
        port=settings.PORT,
        loop="uvloop",
        http=Protocol,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        # Addresses come from the connection: a client's X-Forwarded-* headers say nothing.
        proxy_headers=False,
        server_header=False,
        ws_max_size=64 * 1024,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        **tls,
    )


def serve(listeners: Sequence[int] = ()) -> None:
    """Serve until SIGTERM or SIGINT, on the inherited listening sockets `listeners` or one of our own."""
    sockets = [socket.socket(fileno=listener) for listener in listeners]
    uvicorn.Server(config()).run(sockets=sockets or None)
