"""A model on a real engine behind a site's pages and API, for tests of models other than the demo."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
from django.conf import settings
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from playground import deployments
from playground.models import Conversation, Deployment, Generation, Membership, Model, Replica, Team, User
from tests import chats, real_engines
from tests.fleet import Fleet, until
from tests.gateway_site import Site, running_site
from tests.live import WORKER, ready


@dataclass
class Served:
    """A deployment that is ready."""

    site: Site
    user: User
    row: Deployment

    @property
    def name(self) -> str:
        """As the API calls it."""
        return f"deployment/{self.row.pk}"

    @contextmanager
    def browser(self) -> Iterator[tuple[httpx.Client, Conversation]]:
        """Somebody signed in, with the token their forms carry, and a conversation of the model's task."""
        task = self.row.model.task
        chat = chats.conversation(self.row.team, self.row, created_by=self.user, task=task)
        name, _, value = chats.cookie(self.user).partition("=")
        with httpx.Client(base_url=self.site.url, timeout=30, cookies={name: value}) as client:
            client.get(f"/playground/{chat.pk}/").raise_for_status()
            client.headers["X-CSRFToken"] = client.cookies[settings.CSRF_COOKIE_NAME]
            yield client, chat

    @staticmethod
    def send(browser: httpx.Client, chat: Conversation, text: str, **more: str) -> Generation:
        """Send as the page does, and wait for the answer's end."""
        client_id = f"c{chat.turns.count()}"
        form = {"text": text, "client_id": client_id, **more}
        sent = browser.post(f"/playground/{chat.pk}/send/", data=form)
        assert sent.status_code == 200, sent.text[:500]
        row = Generation.objects.get(turn__conversation=chat, turn__client_id=client_id)
        return chats.answer(row.pk, within_s=60)


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A web process and the default team's key for a whole module: rows are kept between its tests."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        with running_site(tmp_path_factory.mktemp("site")) as served:
            served.key(team)
            yield served
        call_command("flush", interactive=False, verbosity=0)


@contextmanager
def serving(site: Site, model: Model, engine: str, options: dict[str, Any]) -> Iterator[Served]:
    """The model on a real engine, as somebody asked for it and a worker of this node started it."""
    real_engines.environment(engine)
    user = User.objects.create_user(username=f"ada-{engine}")
    Membership.objects.create(user=user, team=model.team, role=Membership.Role.ADMIN)
    workers, began = Fleet(), time.monotonic()
    try:
        workers.work(**WORKER)
        row = deployments.request(team=model.team, user=user, model=model, engine=engine, options=options)
        ready(row)
        print(f"{engine}: {model.name} ready {time.monotonic() - began:.1f} s after the wish")
        one = Served(site, user, row)
        site.until(lambda: site.get(f"/v1/models/{one.name}").is_success)
        yield one
        deployments.delete(row, None)
        until("it stops", lambda: not row.replicas.exclude(state__in=Replica.TERMINAL).exists(), 60)
    finally:
        workers.close()
