"""How much a request to a page may send.

Django keeps a body on the disk before any view sees it, so what is too large is refused while it comes. Knows
nothing about what is sent. What is below API is answered as the management API answers.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The largest thing a page is sent is a piece of an upload, or a message with its pictures.
MOST = 32 << 20
API = "/api/v1/"


class TooLarge(Exception):
    """More came than a page takes."""


async def bounded(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the application; 413 in its place where the body is larger than MOST."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > MOST:
        await _refuse(scope, send)
        return
    received = 0

    async def counted() -> dict[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MOST:
            raise TooLarge
        return message

    try:
        await application(scope, counted, send)
    except TooLarge:
        await _refuse(scope, send)


async def _refuse(scope: Scope, send: Send) -> None:
    text, kind = f"At most {MOST >> 20} MB are taken at once.", b"text/plain"
    if scope.get("path", "").startswith(API):
        error: dict[str, Any] = {"code": "too_large", "message": text, "field": None, "fields": {}}
        text, kind = json.dumps({"error": error}), b"application/json"
    body = f"{text}\n".encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
