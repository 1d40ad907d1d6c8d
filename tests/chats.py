"""Conversations with fake engines, web processes of their own, and sockets to them, for tests of answers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone
from websockets.sync.client import ClientConnection, connect

from playground import leases as leases
from playground.models import Column, Conversation, Deployment, Generation, Model, Node, Replica, Team, User
from tests.fakes import RunningFake, free_port

# A lease short enough that a killed process is noticed within a test.
QUICK = {"SLIPWAY_LEASE_S": "2", "SLIPWAY_DATABASE_POOL": "6"}


def deployment(team: Team, name: str = "tiny", **more: Any) -> Deployment:
    """A deployment of the fake engine without replicas."""
    model, _ = Model.objects.get_or_create(team=team, source="local:tiny", defaults={"name": "tiny"})
    return Deployment.objects.create(team=team, name=name, model=model, engine="fake", **more)


def ready(row: Deployment, fake: RunningFake) -> Replica:
    """A ready replica of `row`: the fake engine, on this node."""
    node, _ = Node.objects.get_or_create(name=settings.NODE_NAME)
    return Replica.objects.create(
        deployment=row,
        node=node,
        state=Replica.State.READY,
        served_name="fake",
        port=fake.port,
        engine_key=fake.key,
        heartbeat_at=timezone.now(),
    )


def conversation(team: Team, *deployments: Deployment, **more: Any) -> Conversation:
    """One with a column a deployment."""
    row = Conversation.objects.create(team=team, **more)
    for position, chosen in enumerate(deployments):
        Column.objects.create(conversation=row, position=position, deployment=chosen)
    return row


def until(what: str, check: Callable[[], Any], within_s: float = 15.0) -> Any:
    """The first true answer of `check`; the test fails, saying `what` was waited for, when there is none."""
    deadline = time.monotonic() + within_s
    while True:
        if found := check():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.02)


def answer(pk: int, *states: str, within_s: float = 15.0) -> Generation:
    """The generation once it is in one of `states`; without any, once it ended."""

    def look() -> Generation | None:
        row = Generation.objects.get(pk=pk)
        return row if (row.state in states if states else row.state not in Generation.LIVE) else None

    found: Generation = until(f"generation {pk} {' or '.join(states) or 'ended'}", look, within_s)
    return found


aanswer = sync_to_async(answer, thread_sensitive=False)


def cookie(user: User) -> str:
    """A Cookie header of a session in which `user` is signed in."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}"


@dataclass
class Web:
    """One web process."""

    port: int
    process: subprocess.Popen[bytes]

    def socket(self, cookie: str, origin: str | None = "", **more: Any) -> ClientConnection:
        """An open WebSocket; origin "" is this site's own, None sends none."""
        headers = {"Cookie": cookie} if cookie else {}
        own: Any = f"http://127.0.0.1:{self.port}" if origin == "" else origin
        return connect(f"ws://127.0.0.1:{self.port}/ws/", additional_headers=headers, origin=own, **more)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def listens(self) -> bool:
        assert self.process.poll() is None, f"the web process ended with {self.process.returncode}"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except ConnectionRefusedError:
            return False
        finally:
            connection.close()


@contextmanager
def running_web(**environment: str) -> Iterator[Web]:
    """A web process on the databases of this run, on a port of its own or PORT; ended by its pid."""
    with running_webs(1, **environment) as (web,):
        yield web


@contextmanager
def running_webs(count: int, **environment: str) -> Iterator[list[Web]]:
    """Several, started side by side."""
    webs = [_start(environment) for _ in range(count)]
    try:
        for web in webs:
            until("the web process listens", web.listens, 60)
        yield webs
    finally:
        for web in webs:
            web.kill()


def _start(environment: dict[str, str]) -> Web:
    port = int(environment.get("PORT", free_port()))
    command = [sys.executable, "-m", "uvicorn", "playground.asgi:application", "--port", str(port)]
    command += ["--log-level", "warning", "--timeout-graceful-shutdown", "5"]
    return Web(port, subprocess.Popen(command, env=os.environ | QUICK | {"PORT": str(port)} | environment))


@dataclass
class Page:
    """What a page does with its socket: keeps the text by offsets and asks again after a gap."""

    socket: ClientConnection
    text: dict[str, str] = field(default_factory=lambda: {"content": "", "reasoning": ""})
    state: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def watch(self, generation: int) -> None:
        offsets = {kind: len(text) for kind, text in self.text.items()}
        self.send(type="watch", generation=generation, **offsets)

    def take(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """The next message, applied."""
        message: dict[str, Any] = json.loads(self.socket.recv(timeout_s))
        self.seen.append(message)
        if message["type"] == "text":
            assert message["from"] == len(self.text[message["kind"]]), "a gap, or a piece twice"
            self.text[message["kind"]] += message["text"]
            assert message["to"] == len(self.text[message["kind"]])
        elif message["type"] == "snapshot":
            self.text[message["kind"]] = message["text"]
        elif message["type"] == "end":
            self.state = message["state"]
        return message

    def until(self, check: Callable[[], Any], timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not check():
            self.take(max(0.01, deadline - time.monotonic()))

    def until_end(self, timeout_s: float = 15.0) -> str:
        self.until(lambda: self.state, timeout_s)
        return self.state


def words(count: int) -> str:
    """What the fake engine answers to [[tokens=count]]."""
    return " ".join(f"word{i}" for i in range(count))
