"""Word to a team's own server that a batch has ended: signed, and sent again until it is taken.

Messages and signatures are those of OpenAI's webhooks (standardwebhooks.com), so its clients can check them.
An address is judged when it is entered and again at each connection, which then goes to the very address that
was judged; redirects are not followed, and nothing of the answer is kept but its status.
"""

import base64
import hashlib
import hmac
import http.client
import json
import re
import secrets as random
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db.models import Exists, OuterRef, Value
from django.db.models.fields import CharField
from django.db.models.functions import Cast, Concat, Now

from playground import jobs, secrets
from playground.engines.launchers import addresses
from playground.models import Batch, Team, User, WebhookDelivery

MOST = 500
WAIT_S = 10.0
SECRET = "webhook"
START = "whsec_"
EVENTS = {
    Batch.State.COMPLETED: "batch.completed",
    Batch.State.FAILED: "batch.failed",
    Batch.State.CANCELLED: "batch.cancelled",
    Batch.State.EXPIRED: "batch.expired",
}
# Only what ended lately: an address that somebody adds to an old batch is told nothing.
LATELY = timedelta(days=1)
AT_ONCE = 20


class WebhookRefused(Exception):
    """No message goes there; the text says why."""


# Addresses


def check(url: str) -> str:
    """The address as it is kept; WebhookRefused where nothing may be told. Looks up where it leads."""
    server = _server(url.strip())
    _judged(server)
    return url.strip()


def _server(url: str) -> addresses.Server:
    """Host and port of an address; unlike a server's base it may have a query."""
    if not 0 < len(url) <= MOST or not url.isascii() or not url.isprintable() or re.search(r"[\s\\#]", url):
        raise WebhookRefused("An address like https://example.com/done: plain characters, no spaces, no #.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise WebhookRefused(f"That is no address: {problem}.") from problem
    if "@" in parts.netloc:
        raise WebhookRefused("No user or password in the address: messages are signed.")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    try:
        return addresses.parse(
            f"{parts.scheme}://{host}:{port}" if port is not None else f"{parts.scheme}://{host}"
        )
    except addresses.Forbidden as problem:
        raise WebhookRefused(str(problem)) from problem


def _judged(server: addresses.Server) -> list[str]:
    """The addresses that its name leads to now, each of which may be told."""
    allowed = addresses.networks(settings.WEBHOOK_NETWORKS)
    try:
        found = addresses.resolve(server)
        addresses.judge(server, found, allowed, "SLIPWAY_WEBHOOK_NETWORKS")
    except addresses.Forbidden as problem:
        raise WebhookRefused(str(problem)) from problem
    return found


# The secret


def secret(team: Team) -> str:
    """What the team's messages are signed with, made at first need: "whsec_" and base64."""
    if secrets.find(team, SECRET) is None:
        return renew_secret(team, None)
    return secrets.reveal(team, SECRET)


def renew_secret(team: Team, user: User | None) -> str:
    """A new secret; messages are signed with it from now on."""
    value = START + base64.b64encode(random.token_bytes(32)).decode()
    secrets.keep(team, SECRET, value, user)
    return value


def sign(secret: str, identity: str, moment: int, body: bytes) -> str:
    """The signature of a message, as standardwebhooks.com has it: "v1,…"."""
    key = base64.b64decode(secret.removeprefix(START))
    signed = f"{identity}.{moment}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


# Messages


def announce(team: int, subject: str, url: str, event: str, about: str) -> None:
    """Have it told, once, that `event` ("batch.completed") happened to `about`. For a transaction."""
    payload = {
        "object": "event",
        "id": f"evt_{random.token_hex(12)}",
        "type": event,
        "created_at": int(time.time()),
        "data": {"id": about},
    }
    values = {"team_id": team, "url": url, "payload": payload, "due_at": Now()}
    WebhookDelivery.objects.get_or_create(subject=subject, defaults=values)


def sweep() -> None:
    """Announce the batches that have ended, and send what is due; at once on one thread of a node."""
    with jobs.alone("webhooks") as held:
        if held:
            _announce_ended()
            for row in WebhookDelivery.objects.filter(due_at__lte=Now()).order_by("due_at")[:AT_ONCE]:
                _try(row)


def _announce_ended() -> None:
    subject = Concat(Value("batch:"), Cast(OuterRef("pk"), CharField()))
    told = WebhookDelivery.objects.filter(subject=subject)
    ended = Batch.objects.filter(state__in=EVENTS, ended_at__gt=Now() - LATELY)
    for batch in ended.exclude(webhook="").exclude(Exists(told)):
        event = EVENTS[Batch.State(batch.state)]
        announce(batch.team_id, f"batch:{batch.pk}", batch.webhook, event, str(batch.pk))


def _try(row: WebhookDelivery) -> None:
    """One attempt, by whoever claims it."""
    waits = settings.WEBHOOK_RETRY_S
    last = row.attempts >= len(waits)
    again = None if last else Now() + timedelta(seconds=waits[row.attempts])
    mine = WebhookDelivery.objects.filter(pk=row.pk, attempts=row.attempts, due_at=row.due_at)
    # The last one may be repeated where a process died over it: better told twice than never.
    lease = Now() + timedelta(seconds=3 * WAIT_S)
    if not mine.update(attempts=row.attempts + 1, due_at=lease):
        return
    values: dict[str, Any] = {"due_at": again}
    try:
        send(row)
        values = {"due_at": None, "delivered_at": Now(), "problem": ""}
    except (WebhookRefused, secrets.Unreadable) as problem:
        values["problem"] = f"{problem} Given up after {row.attempts + 1} attempts." if last else str(problem)
    WebhookDelivery.objects.filter(pk=row.pk, attempts=row.attempts + 1).update(**values)


def send(row: WebhookDelivery) -> None:
    """Send one message now; WebhookRefused where it was not taken."""
    server = _server(row.url)
    body = json.dumps(row.payload, separators=(",", ":")).encode()
    moment = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "slipway",
        "webhook-id": str(row.payload["id"]),
        "webhook-timestamp": str(moment),
        "webhook-signature": sign(secret(row.team), str(row.payload["id"]), moment, body),
    }
    parts = urlsplit(row.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _Pinned(server, _judged(server)[0])
    # Each read has a time-out of its own; a server that answers a byte at a time has this one.
    hurry = threading.Timer(2 * WAIT_S, connection.hang_up)
    hurry.start()
    try:
        connection.request("POST", target, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        why = "took too long to answer" if connection.hurried else f"could not be reached: {problem}"
        raise WebhookRefused(f"It {why}.") from problem
    finally:
        hurry.cancel()
        connection.close()
    if connection.hurried:
        raise WebhookRefused("It took too long to answer.")
    if not 200 <= status < 300:
        raise WebhookRefused(f"It answered {status}.")


class _Pinned(http.client.HTTPConnection):
    """A connection to the very address that was judged, under the server's name."""

    def __init__(self, server: addresses.Server, address: str) -> None:
        super().__init__(server.host, server.port, timeout=WAIT_S)
        self.default_port = 443 if server.secure else 80
        self._server, self._address, self.hurried = server, address, False

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self._server.port), self.timeout)
        if self._server.secure:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self._server.host)

    def hang_up(self) -> None:
        """From another thread: what is being read ends at once."""
        self.hurried = True
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
