"""Word that a batch has ended: where it may go, how it is signed, and how often it is tried."""

import base64
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest
from django.utils import timezone

from playground import secrets, webhooks
from playground.models import Batch, Team, WebhookDelivery
from tests.batch_rows import version

pytestmark = pytest.mark.django_db(transaction=True)


class Listener:
    """A server that answers each message with the next of `statuses`; the last repeats."""

    def __init__(self, *statuses: int, drip: bool = False) -> None:
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.heard.append((self.path, dict(self.headers), body))
                if drip:
                    outer.drip(self.wfile)
                    return
                self.send_response(statuses[min(len(outer.heard), len(statuses)) - 1])
                self.send_header("location", outer.url)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def drip(to: Any) -> None:
        """A header that never ends."""
        try:
            to.write(b"HTTP/1.1 200 OK\r\nx: ")
            for _ in range(200):
                to.write(b"x")
                time.sleep(0.1)
        except OSError:
            pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/done?of=batches"


@pytest.fixture
def listener(settings: Any) -> Iterator[Listener]:
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    listener = Listener(204)
    yield listener
    listener.server.shutdown()


def ended(team: Team, url: str, state: str = "completed", **more: Any) -> Batch:
    rows = version(team, ["hello"], name=f"rows {time.monotonic()}")
    values = {"ended_at": timezone.now(), "webhook": url, **more}
    return Batch.objects.create(team=team, name="b", version=rows, state=state, **values)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://93.184.216.34/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//93.184.216.34/",
        "https://user:secret@93.184.216.34/",
        "https://93.184.216.34/a b",
        "https://93.184.216.34/#x",
        "https://93.184.216.34:0/",
        "https://93.184.216.34:99999/",
        "http://93.184.216.34/",
        "http://127.0.0.1:8000/",
        "http://localhost/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/",
        "https://nowhere.invalid/",
        "https://93.184.216.34/" + "x" * 500,
    ],
)
def test_an_address_that_may_not_be_told_is_refused(team: Team, url: str) -> None:
    with pytest.raises(webhooks.WebhookRefused):
        webhooks.check(url)


def test_public_addresses_and_named_networks_may_be_told(team: Team, settings: Any) -> None:
    assert webhooks.check(" https://93.184.216.34/done?a=b ") == "https://93.184.216.34/done?a=b"
    settings.WEBHOOK_NETWORKS = ["10.0.0.0/8"]
    assert webhooks.check("http://10.1.2.3:8080")
    with pytest.raises(webhooks.WebhookRefused) as refused:
        webhooks.check("http://192.168.0.1")
    assert "SLIPWAY_WEBHOOK_NETWORKS" in str(refused.value)
    settings.WEBHOOK_NETWORKS = ["0.0.0.0/0"]
    with pytest.raises(webhooks.WebhookRefused):
        webhooks.check("http://169.254.169.254/")


def test_a_batch_of_a_page_is_told_once(team: Team, listener: Listener) -> None:
    batch = ended(team, listener.url)
    ended(team, listener.url, state="running", ended_at=None)
    ended(team, listener.url, ended_at=timezone.now() - timedelta(days=2))
    ended(team, "")
    webhooks.sweep()
    webhooks.sweep()
    ((path, headers, body),) = listener.heard
    assert path == "/done?of=batches" and headers["Host"] in listener.url
    event = openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=webhooks.secret(team))
    assert event.type == "batch.completed" and event.data.id == str(batch.pk)
    row = WebhookDelivery.objects.get()
    assert row.delivered_at and row.due_at is None and row.attempts == 1


def test_it_is_sent_again_with_longer_and_longer_waits(team: Team, settings: Any) -> None:
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_RETRY_S = ["127.0.0.0/8"], [5.0, 60.0]
    listener = Listener(503)
    ended(team, listener.url)
    waits = []
    for _ in range(3):
        webhooks.sweep()
        row = WebhookDelivery.objects.get()
        waits.append(row.due_at and round((row.due_at - timezone.now()).total_seconds()))
        webhooks.sweep()
        WebhookDelivery.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
    assert waits == [pytest.approx(5, abs=1), pytest.approx(60, abs=1), None]
    assert len(listener.heard) == 3 and "It answered 503. Given up after 3 attempts." in row.problem
    identities = {headers["webhook-id"] for _, headers, _ in listener.heard}
    assert len(identities) == 1
    listener.server.shutdown()


def test_a_redirect_is_not_followed(team: Team, settings: Any) -> None:
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    listener = Listener(302, 204)
    ended(team, listener.url)
    webhooks.sweep()
    assert len(listener.heard) == 1
    assert WebhookDelivery.objects.get().problem == "It answered 302."
    listener.server.shutdown()


def test_a_name_that_leads_elsewhere_by_then_is_not_told(
    team: Team, listener: Listener, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leads_to(address: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, listener.server.server_port))]
        monkeypatch.setattr(webhooks.addresses.socket, "getaddrinfo", lambda *_, **__: found)

    settings.WEBHOOK_NETWORKS = []
    leads_to("93.184.216.34")
    url = webhooks.check("https://hook.example/done")
    leads_to("127.0.0.1")
    ended(team, url)
    webhooks.sweep()
    assert listener.heard == []
    assert "leads to 127.0.0.1" in WebhookDelivery.objects.get().problem


def test_a_server_that_drips_is_hung_up_on(
    team: Team, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    monkeypatch.setattr(webhooks, "WAIT_S", 0.5)
    listener = Listener(drip=True)
    ended(team, listener.url)
    began = time.monotonic()
    webhooks.sweep()
    assert time.monotonic() - began < 10
    assert WebhookDelivery.objects.get().problem == "It took too long to answer."
    listener.server.shutdown()


def test_the_secret_is_kept_encrypted_and_renewed(team: Team) -> None:
    first = webhooks.secret(team)
    assert first == webhooks.secret(team) and len(base64.b64decode(first.removeprefix("whsec_"))) == 32
    row = secrets.find(team, webhooks.SECRET)
    assert row and first.encode() not in bytes(row.ciphertext)
    assert webhooks.renew_secret(team, None) != first
    signed = [webhooks.sign(one, "evt_1", 1, b"{}") for one in (first, webhooks.secret(team))]
    assert signed[0] != signed[1]
