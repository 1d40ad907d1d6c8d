"""A real engine that a worker started as a person asked, and the ways to it: the page, the API, its own port.

Each engine is started once for all tests of `tests/test_whole_on_engines.py`, and again after its ends.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker

from playground import catalogue, deployments, engine_process, engines, processes
from playground.engines.base import Engine
from playground.models import Column, Conversation, Deployment, Generation, Membership, Replica, Team, User
from tests import chats, fleet, real_engines
from tests.chats import Page
from tests.fleet import Fleet, assert_sound, engine_processes, until
from tests.gateway_site import Site, running_site
from tests.home import HOME
from tests.real_engines import ROWS, Row

State = Replica.State
# Times as in production: a busy machine must not take a slow engine for a frozen one.
WORKER = {
    "SLIPWAY_LOST_AFTER_S": "30",
    "SLIPWAY_FROZEN_AFTER_S": "120",
    "SLIPWAY_GRACE_S": "15",
    "SLIPWAY_DRAIN_S": "60",
}
WEB = {"SLIPWAY_BODY_TIMEOUT_S": "30", "SLIPWAY_HOLD_S": "60", "SLIPWAY_STALL_S": "60"}
LARGE = [name for name, row in ROWS.items() if row.large]
LENGTH = 1500
LONG = "Write a very long story about a lighthouse."


@dataclass
class Live:
    """A deployment of a real engine that is ready, and a conversation with it."""

    site: Site
    user: User
    row: Deployment
    replica: Replica
    chat: Conversation
    ready_s: float
    said: list[Generation] = field(default_factory=list)

    @property
    def engine(self) -> str:
        return self.row.engine

    @property
    def facts(self) -> Row:
        return ROWS[self.engine]

    @property
    def adapter(self) -> Engine:
        return engines.get(self.engine)

    # Its own port

    def ask(self, key: str | None = None, **request: Any) -> httpx.Response:
        """A chat request straight to the engine, by its key or another."""
        secret = self.replica.engine_key if key is None else key
        return httpx.post(
            f"http://127.0.0.1:{self.replica.port}/v1/chat/completions",
            json={"model": self.replica.served_name, "temperature": 0, **request},
            headers={"Authorization": f"Bearer {secret}"} if secret else {},
            timeout=60,
        )

    def metrics(self) -> dict[str, float]:
        """The engine's own numbers, read as its runner reads them."""
        headers = {"Authorization": f"Bearer {self.replica.engine_key}"}
        url = f"http://127.0.0.1:{self.replica.port}/metrics"
        return engine_process.metrics_of(httpx.get(url, headers=headers, timeout=60).text)

    def running(self) -> float:
        """Requests the engine works on now."""
        return self.metrics()[self.adapter.quirks.running_metric]

    def works(self) -> None:
        until("the engine works", self.running, 60)

    @contextmanager
    def stops_early(self) -> Iterator[None]:
        """What is asked inside for LENGTH tokens is given up long before: the engine's own counts say so.

        By tokens, not by seconds: a busy machine is slow to notice, and slow to answer, too.
        """
        before = self.metrics().get(self.facts.tokens, 0)
        yield
        until("the engine stops", lambda: self.running() == 0, 60)
        assert self.metrics()[self.facts.tokens] - before < LENGTH / 2

    # The page

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """A browser that is signed in, with the token its forms carry."""
        name, _, value = chats.cookie(self.user).partition("=")
        with httpx.Client(base_url=self.site.url, timeout=60, cookies={name: value}) as client:
            client.get(f"/playground/{self.chat.pk}/").raise_for_status()
            client.headers["X-CSRFToken"] = client.cookies[settings.CSRF_COOKIE_NAME]
            yield client

    def send(self, text: str) -> Generation:
        """Send after the last answer, as the page does."""
        last = self.chat.turns.order_by("-pk").first()
        form = {
            "text": text,
            "client_id": f"c{self.chat.turns.count()}",
            "parent": str(last.pk) if last else "",
        }
        with self.http() as client:
            sent = client.post(f"/playground/{self.chat.pk}/send/", data=form)
        assert sent.status_code == 200, sent.text[:500]
        return Generation.objects.get(turn__client_id=form["client_id"], turn__conversation=self.chat)

    def page(self) -> Page:
        web = chats.Web(self.site.port, self.site.process)
        return Page(web.socket(chats.cookie(self.user)))

    def set(self, **parameters: Any) -> None:
        Conversation.objects.filter(pk=self.chat.pk).update(parameters=parameters)

    # The API

    def body(self, text: str = "What is the capital of France?", **more: Any) -> dict[str, Any]:
        """A chat request for the gateway."""
        messages = [{"role": "user", "content": text}]
        return {"model": f"deployment/{self.row.pk}", "messages": messages, "temperature": 0, **more}

    # Its processes

    def core(self) -> psutil.Process:
        """The process that holds the most memory: the model's, where it has one of its own."""
        return max(engine_processes(self.replica), key=lambda process: process.memory_info().rss)

    def again(self) -> None:
        """Wait for another replica of it, and go on with that."""
        self.replica = ready(self.row, other_than=self.replica.pk)


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """This machine's worker and a web process, for the whole module: rows are kept between tests."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        real_engines.borrow_environments(*LARGE)
        workers = Fleet()
        try:
            workers.work(**WORKER)
            with running_site(tmp_path_factory.mktemp("site"), **WEB) as web:
                yield web
        finally:
            workers.close()
            real_engines.keep_environments()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, site: Site) -> Iterator[Live]:
    """The demo model on a real engine, from nothing but what a person asks for."""
    team = Team.objects.get(slug="default")
    user = User.objects.create_user(username=f"ada-{request.param}")
    Membership.objects.create(user=user, team=team, role=Membership.Role.ADMIN)
    if engines.get(request.param).kinds == ("safetensors",):
        with real_engines.alone():
            real_engines.demo("safetensors")
        real_engines.borrow_environments(*LARGE)
    began = time.monotonic()
    row = deployments.request(
        team=team,
        user=user,
        model=catalogue.demo(team),
        engine=request.param,
        options=ROWS[request.param].options,
    )
    replica = ready(row)
    chat = Conversation.objects.create(team=team, created_by=user)
    Column.objects.create(conversation=chat, deployment=row)
    site.key(team)
    yield Live(site, user, row, replica, chat, time.monotonic() - began)
    deployments.delete(row, None)
    until("it stops", lambda: not row.replicas.exclude(state__in=Replica.TERMINAL).exists(), 60)
    assert_sound()


def ready(row: Deployment, other_than: int | None = None, within_s: float = 600) -> Replica:
    """Its replica once it is ready; fails at once where it is given up."""

    def look() -> Replica | None:
        assert not Deployment.objects.get(pk=row.pk).problem, fleet.story(row)
        return row.replicas.filter(state=State.READY).exclude(pk=other_than).first()

    found: Replica = until(f"{row.engine} is ready", look, within_s)
    return found


def ended(replica: Replica, state: str, within_s: float) -> Replica:
    """The replica once it is in that last state."""

    def look() -> Replica | None:
        return Replica.objects.filter(pk=replica.pk, state=state).first()

    found: Replica = until(f"it is {state}", look, within_s)
    return found


def assert_nothing_left(replica: Replica) -> None:
    """No process of it, its slots' locks free, nobody on its port, no temporary file of it."""
    assert not engine_processes(replica)
    held = processes.take_slots(HOME, replica.resources["slots"])
    assert held is not None, "its locks are held"
    processes.release(held)
    assert processes.listener(replica.port or 0, list) == processes.Listener.NOBODY


def chunks(answer: httpx.Response) -> list[Any]:
    """The events of a stream that was read whole: each the decoded JSON, or "[DONE]"."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
