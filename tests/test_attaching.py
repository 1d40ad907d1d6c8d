"""Adapters attached to what runs and detached from it: a real worker, a fake engine that can, a real site."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoDbBlocker

from playground import adapters, attaching, deployments
from playground.models import (
    Adapter,
    AuditEntry,
    Configuration,
    Deployment,
    Job,
    Membership,
    Replica,
    Team,
    User,
)
from tests import chats, fleet, real_engines
from tests import lora as made
from tests.fleet import Fleet, until
from tests.gateway_site import Site, running_site
from tests.home import HOME

PLACE = HOME / "models" / "runtime"


@dataclass
class Served:
    """A ready deployment of an engine that attaches while it runs, and a browser."""

    site: Site
    team: Team
    user: User
    row: Deployment
    adapter: Adapter
    browser: Client

    def ask(self, verb: str) -> Job:
        """Press the button, and wait for what comes of it."""
        address = reverse(f"adapter-{verb}", args=[self.row.pk])
        assert self.browser.post(address, {"adapter": self.adapter.pk}).status_code == 302
        job = attaching.newest_job(self.row)
        assert job is not None
        until("it is over", lambda: Job.objects.get(pk=job.pk).state not in Job.ACTIVE, 30)
        self.row.refresh_from_db()
        job.refresh_from_db()
        return job

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """A call to the engine itself."""
        replica = self.replica
        headers = {"Authorization": f"Bearer {replica.engine_key}"}
        address = f"http://127.0.0.1:{replica.port}{path}"
        return httpx2.request("POST" if body else "GET", address, json=body, headers=headers).json()

    def status(self) -> int:
        """Of a request that names the adapter."""
        body = {"model": f"deployment/{self.row.pk}:rhyming", "messages": [{"role": "user", "content": "Hi"}]}
        return int(self.site.post(json=body).status_code)

    @property
    def replica(self) -> Replica:
        return self.row.replicas.get(state=Replica.State.READY)

    @property
    def frozen(self) -> Configuration:
        assert self.row.configuration is not None
        return self.row.configuration


@pytest.fixture(scope="module")
def served(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        user = User.objects.create_user(username="ada-attach")
        Membership.objects.create(user=user, team=team, role=Membership.Role.ADMIN)
        real_engines.node()
        model, _ = real_engines.demo("gguf")
        made.gguf(PLACE / "rhyming.gguf")
        adapter = adapters.add(model, "runtime/rhyming.gguf", "rhyming", user)
        options = {"runtime_lora": True}
        row = deployments.request(team=team, user=user, model=model, engine="fake", options=options)
        browser = Client()
        name, _, value = chats.cookie(user).partition("=")
        browser.cookies[name] = value
        workers = Fleet()
        try:
            workers.work()
            with running_site(tmp_path_factory.mktemp("site")) as web:
                fleet.ready(row, 30)
                row.refresh_from_db()
                web.key(team)
                yield Served(web, team, user, row, adapter, browser)
        finally:
            workers.close()
            shutil.rmtree(PLACE)
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


def test_attached_it_answers_by_its_name_and_detached_it_does_not(served: Served) -> None:
    before, replica = served.frozen, served.replica
    known = AuditEntry.objects.latest("pk").pk
    assert served.status() == 404
    job = served.ask("attach")
    assert job.state == Job.State.DONE, job.error
    assert served.call("/fake/loras") == ["rhyming"]
    assert served.frozen.adapters == [{"name": "rhyming", "digest": served.frozen.adapters[0]["digest"]}]
    assert served.frozen.digest != before.digest, "what answers now is another configuration"
    assert served.replica.pk == replica.pk and served.replica.configuration == served.row.configuration
    served.site.until(lambda: served.status() == 200, 10)
    page = served.browser.get(reverse("deployment", args=[served.row.pk])).content.decode()
    assert "Detach rhyming" in page
    again = served.browser.post(
        reverse("adapter-attach", args=[served.row.pk]), {"adapter": served.adapter.pk}, follow=True
    )
    assert "rhyming is attached already." in again.content.decode()
    assert served.browser.post(reverse("adapter-remove", args=[served.adapter.pk])).status_code == 422
    assert served.ask("detach").state == Job.State.DONE
    assert served.call("/fake/loras") == []
    assert served.row.configuration == before, "without it, it is what it was"
    served.site.until(lambda: served.status() == 404, 10)
    told = AuditEntry.objects.filter(user=served.user, pk__gt=known).order_by("pk")
    about = f"deployment:{served.row.pk}"
    assert list(told.values_list("action", "object", "name")) == [
        ("attach adapter", about, "rhyming"),
        ("detach adapter", about, "rhyming"),
    ], "one entry each, not one more of its job"


def test_what_the_engine_refuses_changes_nothing(served: Served) -> None:
    before = served.frozen
    served.call("/load_lora", {"name": "rhyming"})
    job = served.ask("attach")
    assert job.state == Job.State.FAILED and "Fake refused it" in job.error
    assert served.row.configuration == before and not served.row.wanted["adapters"]
    page = served.browser.get(reverse("deployment", args=[served.row.pk])).content.decode()
    assert "The last one did not work." in page
    served.call("/unload_lora", {"name": "rhyming"})


def test_started_anew_it_has_what_was_attached(served: Served) -> None:
    assert served.ask("attach").state == Job.State.DONE
    old = served.replica
    deployments.restart(served.row, served.user)
    new = fleet.ready(served.row, 30, other_than=old.pk)
    assert "--lora" in new.command and "rhyming" in new.command
    served.row.refresh_from_db()
    assert served.ask("detach").state == Job.State.DONE


def test_what_cannot_attach_says_so(served: Served) -> None:
    model = served.row.model
    for engine, options, words in [
        ("fake", {}, "It was started without the option “Attach while it runs”."),
        ("llama.cpp", {}, "llama.cpp attaches adapters only when it starts."),
        ("transformers", {}, "transformers attaches no LoRA adapters."),
    ]:
        row = Deployment.objects.create(
            team=served.team,
            model=model,
            engine=engine,
            name=engine,
            wanted={"options": options},
            desired=Deployment.Desired.STOPPED,
        )
        with pytest.raises(attaching.AttachRefused, match=words):
            attaching.request(row, served.adapter, attaching.ATTACH, served.user)
        page = served.browser.get(reverse("deployment", args=[row.pk])).content.decode()
        assert words in page and "Attach now" not in page
    released = Deployment(team=served.team, model=model, engine="fake", released=True, wanted={})
    assert "as it was promoted" in attaching.can(released).why


def test_viewers_and_strangers_attach_nothing(served: Served) -> None:
    address = reverse("adapter-attach", args=[served.row.pk])
    count = Job.objects.filter(kind=Job.Kind.ATTACH_ADAPTER).count()
    stranger = User.objects.create_user(username="mallory-attach")
    other = Team.objects.create(slug="attach-other", name="Other")
    Membership.objects.create(user=stranger, team=other, role=Membership.Role.ADMIN)
    browser = Client()
    browser.force_login(stranger)
    assert browser.post(address, {"adapter": served.adapter.pk}).status_code == 404
    Membership.objects.filter(user=stranger).update(team=served.team, role=Membership.Role.MEMBER)
    assert browser.post(address, {"adapter": served.adapter.pk}).status_code == 403
    assert served.browser.post(address, {"adapter": "x"}).status_code == 404
    assert Job.objects.filter(kind=Job.Kind.ATTACH_ADAPTER).count() == count
