"""The ASGI application: pages, WebSockets, /v1 and health. Lifespan is handled here: Channels' router does
not.

A request that names no host, two hosts or one that is not ours is refused before anything else sees it.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "playground.settings")
# Pages are rendered on threads beside the loop that streams answers. Python's 5 ms between two threads' turns
# would hold up an answer's first word while its message's page is still being written.
sys.setswitchinterval(0.001)
pages = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.http.request import split_domain_port, validate_host  # noqa: E402

from endpoints import gateway, metrics  # noqa: E402
from playground import bodies, consumers, engine_client, generation, health  # noqa: E402

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _socket(scope, receive, send)
    elif scope["path"] == "/healthz":
        await health.healthz(send)
    elif scope["path"] == "/readyz":
        await health.readyz(send)
    elif scope["path"] == "/metrics":
        await metrics.application(scope, receive, send)
    elif not names_us(scope):
        await _refuse(send)
    elif is_gateway(scope.get("raw_path") or scope["path"].encode()):
        await gateway.application(scope, receive, send)
    else:
        await bodies.bounded(pages, scope, receive, send)


def names_us(scope: Scope) -> bool:
    """Whether the request carries exactly one Host header, and it is one of ours."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return False
    domain, _ = split_domain_port(hosts[0].decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def is_gateway(raw_path: bytes) -> bool:
    """Paths below /v1 as they were sent, and those that only look it: they get the API's 404, not a page."""
    alike = unquote_to_bytes(raw_path).replace(b"\\", b"/").strip(b"/").lower()
    return raw_path.startswith(b"/v1/") or alike == b"v1" or alike.startswith(b"v1/")


async def _socket(scope: Scope, receive: Receive, send: Send) -> None:
    if names_us(scope):
        await consumers.websocket_application(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close", "code": 4400})


async def _live(receive: Receive, send: Send) -> None:
    """Start what this process owns, tell the server, and end it when the server does."""
    await receive()
    try:
        await generation.startup()
        await gateway.startup()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        raise
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await gateway.shutdown()
    await generation.shutdown()
    await engine_client.close()
    await send({"type": "lifespan.shutdown.complete"})


async def _refuse(send: Send) -> None:
    body = b"Bad request: this is not a name of this site.\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
