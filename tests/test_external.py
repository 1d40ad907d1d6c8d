"""Servers of others: who may name one, which addresses are never asked, and one that is asked for real."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2 as httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from django.conf import settings as site_settings
from django.core.management import call_command
from django.db import connections
from django.test import Client, override_settings
from django.urls import reverse
from pytest_django import DjangoDbBlocker

from endpoints import promotion
from playground import catalogue, deployments, engines, environments, external, removal, secrets
from playground.engines.base import LAUNCHERS
from playground.engines.launchers import addresses
from playground.engines.launchers.addresses import Forbidden
from playground.models import (
    AuditEntry,
    Column,
    Conversation,
    Deployment,
    Generation,
    Membership,
    Model,
    Node,
    Replica,
    Secret,
    Team,
    User,
)
from tests import chats, fleet
from tests.fakes import RunningFake, running_fake
from tests.fleet import Fleet, assert_sound, engine_processes, until
from tests.gateway_site import Site, running_site
from tests.home import HOME

KEY = "sk-upstream-canary-7f3a"
NEAR = "127.0.0.0/8"


# Which addresses may be asked (attack 9)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://[fd00:ec2::254]/v1",
        "https://[::ffff:169.254.169.254]/v1",
        "https://[64:ff9b::a9fe:a9fe]/v1",
        "https://100.100.100.200/v1",
        "https://168.63.129.16/v1",
        "https://0.0.0.0/v1",
        "https://[::]/v1",
        "https://[fe80::1]/v1",
        "https://2852039166/v1",
        "https://0xa9fea9fe/v1",
        "https://0251.0376.0251.0376/v1",
    ],
)
def test_where_machines_keep_secrets_nobody_may_ask(url: str) -> None:
    """Not even an operator who allows every network."""
    everything = addresses.networks(["0.0.0.0/0", "::/0"])
    server = addresses.parse(url)
    with pytest.raises(Forbidden, match="never asked"):
        addresses.judge(server, addresses.resolve(server), everything)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:5432/v1",
        "https://localhost/v1",
        "https://127.1/v1",
        "https://2130706433/v1",
        "https://0x7f.1/v1",
        "https://[::1]/v1",
        "https://[::ffff:10.0.0.5]/v1",
        "https://[2002:0a00:0005::]/v1",
        "https://10.0.0.5/v1",
        "https://192.168.1.4/v1",
        "https://172.16.0.1/v1",
        "https://100.64.0.1/v1",
        "https://[fd12::1]/v1",
    ],
)
def test_a_private_address_needs_the_operator_s_leave(url: str) -> None:
    server = addresses.parse(url)
    found = addresses.resolve(server)
    with pytest.raises(Forbidden, match="SLIPWAY_EXTERNAL_NETWORKS"):
        addresses.judge(server, found, addresses.networks(["203.0.113.0/24"]))
    allowed = [
        "127.0.0.0/8",
        "::1",
        "10.0.0.0/8",
        "192.168.0.0/16",
        "172.16.0.0/12",
        "100.64.0.0/10",
        "fd00::/8",
    ]
    addresses.judge(server, found, addresses.networks(allowed))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com/v1",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https:///v1",
        "https://user:word@example.com/v1",
        "https://example.com\\@127.0.0.1/v1",
        "https://example.com/v1?x=1",
        "https://example.com/v1#a",
        "https://example.com/v1/../admin",
        "https://example.com/%2e%2e/v1",
        "https://exa mple.com/v1",
        "https://example.com/\n",
        "https://exämple.com/v1",
        "https://example.com:0/v1",
        "https://example.com:99999/v1",
        "https://[fe80::1%eth0]/v1",
        "https://-oops/v1",
        "https://" + "a" * 600,
    ],
)
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(Forbidden):
        addresses.parse(url)


def test_a_public_address_goes_by_https_alone() -> None:
    addresses.judge(addresses.parse("https://93.184.216.34/v1"), ["93.184.216.34"], ())
    with pytest.raises(Forbidden, match="https"):
        addresses.judge(addresses.parse("http://93.184.216.34/v1"), ["93.184.216.34"], ())


def test_a_name_with_one_private_address_among_others_is_refused() -> None:
    with pytest.raises(Forbidden):
        addresses.judge(addresses.parse("https://mixed.example/v1"), ["93.184.216.34", "10.0.0.5"], ())


# The forwarder


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The forwarder's own module, which lies among the launchers."""
    monkeypatch.syspath_prepend(str(LAUNCHERS))
    import forward  # type: ignore[import-not-found]

    yield forward
    for name in ("forward", "addresses"):
        sys.modules.pop(name, None)


class Canary:
    """A server that must not be heard, and what was."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.server = TestServer(app)

    async def answer(self, request: web.Request) -> web.Response:
        self.heard.append(f"{request.method} {request.path}")
        return web.json_response({"choices": [{"message": {"content": "secrets"}}]})


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    one = Canary()
    await one.server.start_server()
    yield one
    await one.server.close()


def given(url: str, *allow: str) -> argparse.Namespace:
    return argparse.Namespace(
        url=url, asks="m", served_name="hosted", task="chat", allow=list(allow), parallel=None, silence=5
    )


@asynccontextmanager
async def facing(way: Any, forward: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a forwarder that goes that way."""
    front = TestServer(forward.application(way))
    await front.start_server()
    async with way.session, aiohttp.ClientSession(base_url=front.make_url("/")) as client:
        yield client
    await front.close()


BODY = {"model": "hosted", "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_name_that_leads_elsewhere_later_is_not_followed(
    forward: Any, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: judged at each connection, and the address judged is the one connected to."""
    leads_to = ["93.184.216.34"]
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        return real(leads_to[0] if host == "rebound.example" else host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    way = forward.connect(given(f"https://rebound.example:{canary.server.port}/v1"))
    leads_to[0] = "127.0.0.1"
    async with facing(way, forward) as client:
        async with client.post("/v1/chat/completions", json=BODY) as answer:
            assert answer.status == 502
            assert "private network" in (await answer.json())["error"]["message"]
    assert canary.heard == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(forward: Any, canary: Canary, status: int) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": str(canary.server.make_url("/v1/secret"))})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", away)
    async with TestServer(app) as server:
        way = forward.connect(given(str(server.make_url("/v1")), NEAR))
        async with facing(way, forward) as client:
            async with client.post("/v1/chat/completions", json=BODY) as answer:
                assert answer.status == 502
                assert "redirect" in (await answer.json())["error"]["message"]
    assert canary.heard == []


async def test_its_own_words_about_a_key_go_no_further(forward: Any) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": f"Incorrect API key provided: {KEY}"}}, status=401)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    async with TestServer(app) as server:
        way = forward.connect(given(str(server.make_url("/v1")), NEAR))
        async with facing(way, forward) as client:
            async with client.post("/v1/chat/completions", json=BODY) as answer:
                text = await answer.text()
    assert answer.status == 502
    assert KEY not in text and "refused its key" in text


async def test_a_server_that_wants_another_name_for_the_limit_gets_it(forward: Any) -> None:
    heard: list[dict[str, Any]] = []

    async def particular(request: web.Request) -> web.Response:
        heard.append(body := await request.json())
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return web.json_response({"error": {"message": said}}, status=400)
        return web.json_response({"choices": [{"message": {"content": "ok"}}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", particular)
    async with TestServer(app) as server:
        way = forward.connect(given(str(server.make_url("/")), NEAR))
        await way.first()
        async with facing(way, forward) as client:
            async with client.post("/v1/chat/completions", json=BODY | {"max_tokens": 7}) as answer:
                assert answer.status == 200
    assert heard[-1]["max_completion_tokens"] == 7 and heard[-1]["model"] == "m"


async def test_an_answer_that_breaks_off_there_breaks_off_here(forward: Any) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", half)
    async with TestServer(app) as server:
        way = forward.connect(given(str(server.make_url("/v1")), NEAR))
        async with facing(way, forward) as client:
            with pytest.raises(aiohttp.ClientError):
                async with client.post("/v1/chat/completions", json=BODY) as answer:
                    await answer.read()


# Naming one


FORM = {"name": "hosted", "url": "http://127.0.0.1:9/v1", "model": "big-model", "key": KEY, "task": "chat"}


@pytest.fixture
def near() -> Iterator[None]:
    with override_settings(EXTERNAL_NETWORKS=[NEAR]):
        yield


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def with_role(team: Team, role: str) -> Client:
    person = User.objects.create_user(username=f"a-{role}")
    Membership.objects.create(user=person, team=team, role=role)
    return signed_in(person)


def test_an_administrator_names_one(user: User, team: Team, near: None) -> None:
    page = signed_in(user)
    answer = page.post(
        reverse("external-add"), {**FORM, "context": "32768", "takes_images": "on"}, follow=True
    )
    row = Model.objects.get(source="external:hosted")
    shown = answer.content.decode()
    assert answer.redirect_chain[-1][0] == reverse("model", args=[row.pk])
    assert (row.name, row.context_length, row.takes_images) == ("hosted", 32768, True)
    assert "http://127.0.0.1:9/v1" in shown and "ends in" in shown and KEY not in shown
    assert "What will run" in shown and "forward.py" in shown
    assert "llama.cpp" not in shown, "engines that load weights have nothing to say of it"
    assert external.key(row) == KEY
    assert KEY.encode() not in bytes(Secret.objects.get(name="external:hosted").ciphertext)
    assert AuditEntry.objects.filter(action="add external server", user=user).exists()
    listing = page.get(reverse("models")).content.decode()
    assert reverse("model", args=[row.pk]) in listing and reverse("external") in listing


def test_other_models_are_not_offered_to_it(user: User, team: Team) -> None:
    model = catalogue.demo(team)
    assert "External server" not in signed_in(user).get(reverse("model", args=[model.pk])).content.decode()


@pytest.mark.parametrize("role", ["viewer", "member", "operator"])
def test_nobody_else_names_one(team: Team, near: None, role: str) -> None:
    page = with_role(team, role)
    assert page.post(reverse("external-add"), FORM).status_code == 403
    assert "role of administrator" in page.get(reverse("external")).content.decode()
    assert not Model.objects.filter(source__startswith="external:").exists()


def test_another_team_s_is_404(user: User, team: Team, stranger: User, near: None) -> None:
    row = external.add(team, user, FORM)
    answer = signed_in(stranger).post(reverse("external-key", args=[row.pk]), {"key": "mine-now"})
    assert answer.status_code == 404
    assert external.key(row) == KEY


def test_each_wrong_field_says_why_and_keeps_what_was_typed(user: User, team: Team) -> None:
    wrong = {"name": "../up", "url": "http://127.0.0.1:9/v1", "model": "", "key": KEY + " x", "task": "sing"}
    answer = signed_in(user).post(reverse("external-add"), {**wrong, "context": "many"})
    shown = answer.content.decode()
    assert answer.status_code == 422
    assert answer.context["errors"].keys() == {"name", "url", "model", "key", "task", "context"}
    assert 'value="../up"' in shown and "SLIPWAY_EXTERNAL_NETWORKS" in shown and KEY not in shown
    assert not Model.objects.filter(source__startswith="external:").exists()


def test_a_name_is_given_once(user: User, team: Team, near: None) -> None:
    external.add(team, user, FORM)
    with pytest.raises(external.ExternalRefused, match="There is one of that name"):
        external.add(team, user, FORM)


def test_its_key_is_replaced_and_forgotten(user: User, team: Team, near: None) -> None:
    row = external.add(team, user, FORM)
    page = signed_in(user)
    page.post(reverse("external-key", args=[row.pk]), {"key": "another-key"})
    assert external.key(row) == "another-key"
    page.post(reverse("external-key", args=[row.pk]), {"key": ""})
    assert external.key(row) == "another-key", "an empty field changes nothing"
    page.post(reverse("external-key", args=[row.pk]), {"forget": "1"})
    assert external.key(row) == ""


def test_a_model_with_files_has_no_server_key(user: User, team: Team) -> None:
    model = catalogue.demo(team)
    assert signed_in(user).post(reverse("external-key", args=[model.pk]), {"key": "k"}).status_code == 404
    assert external.key(model) == ""


def test_removed_its_key_goes_and_no_file_does(user: User, team: Team, near: None) -> None:
    kept = fleet.tiny_model(team)
    row = external.add(team, user, FORM)
    assert removal.request(row, user) == []
    assert secrets.find(team, "external:hosted") is None
    assert not Model.objects.filter(pk=row.pk).exists()
    assert (catalogue.root() / "tiny.gguf").is_file() and Model.objects.filter(pk=kept.pk).exists()


def test_another_server_under_an_old_name_is_another_configuration(
    user: User, team: Team, near: None
) -> None:
    first = external.add(team, user, FORM).formats.get().digest
    Model.objects.update(missing=True)
    assert external.add(team, user, {**FORM, "url": "http://127.0.0.1:10/v1"}).formats.get().digest != first


def test_it_runs_on_the_cpu_of_a_node_with_gpus(team: Team) -> None:
    node = Node(name="gpu", inventory={"gpus": [{"index": 0, "name": "H100", "memory_bytes": 80 << 30}]})
    assert environments.build_of(node, engines.get("external")) == "cpu"
    assert environments.build_of(node, engines.get("vllm")) == "cuda"


# One that is asked for real


@pytest.fixture(scope="module")
def upstream() -> Iterator[RunningFake]:
    with running_fake(key=KEY, served_name="big-model", token_delay_ms=10, tokens=3000) as fake:
        yield fake


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        workers = Fleet()
        try:
            workers.work(SLIPWAY_EXTERNAL_NETWORKS=NEAR, SLIPWAY_FROZEN_AFTER_S="8")
            with running_site(tmp_path_factory.mktemp("site")) as web:
                web.key(team)
                yield web
        finally:
            workers.close()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@dataclass
class Hosted:
    """A deployment that asks the stand-in for somebody else's server."""

    site: Site
    user: User
    team: Team
    row: Deployment
    replica: Replica

    def ask(self, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "[[echo]] over there"}]
        return {"model": f"deployment/{self.row.pk}", "messages": messages, **more}

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """A browser that is signed in, with the token its forms carry."""
        name, _, value = chats.cookie(self.user).partition("=")
        with httpx.Client(base_url=self.site.url, timeout=30, cookies={name: value}) as client:
            page = client.get("/playground/")
            assert page.status_code == 200, self.site.log.read_text()[-3000:]
            client.headers["X-CSRFToken"] = client.cookies[site_settings.CSRF_COOKIE_NAME]
            yield client


@pytest.fixture(scope="module")
def hosted(site: Site, upstream: RunningFake) -> Hosted:
    team = Team.objects.get(slug="default")
    user = User.objects.create_user(username="ada")
    Membership.objects.create(user=user, team=team, role=Membership.Role.ADMIN)
    row = started(team, user, "hosted", upstream, KEY)
    return Hosted(site, user, team, row, fleet.ready(row))


def started(team: Team, user: User, name: str, upstream: RunningFake, key: str) -> Deployment:
    """What a person who names a server and starts it has then."""
    with override_settings(EXTERNAL_NETWORKS=[NEAR]):
        model = external.add(team, user, FORM | {"name": name, "url": f"{upstream.base_url}/v1", "key": key})
    return deployments.request(team=team, user=user, model=model, engine="external", options={})


def test_it_answers_by_the_api_and_in_a_conversation(hosted: Hosted, upstream: RunningFake) -> None:
    answer = hosted.site.client().chat.completions.create(**hosted.ask(max_tokens=4))
    assert answer.choices[0].message.content and answer.usage
    stream = hosted.site.client().chat.completions.create(**hosted.ask(max_tokens=4, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    heard = httpx.get(f"{upstream.base_url}/fake/requests").json()
    bodies = [one["body"] for one in heard if one["path"] == "/v1/chat/completions"]
    assert {body["model"] for body in bodies} == {"big-model"}
    chat = Conversation.objects.create(team=hosted.team, created_by=hosted.user)
    Column.objects.create(conversation=chat, deployment=hosted.row)
    with hosted.http() as browser:
        browser.post(f"/playground/{chat.pk}/send/", data={"text": "[[echo]] again", "client_id": "c1"})
    said = chats.answer(Generation.objects.get(turn__conversation=chat).pk)
    assert (said.state, "again" in said.text) == ("complete", True), said.error


def test_who_hangs_up_here_ends_the_work_there(hosted: Hosted, upstream: RunningFake) -> None:
    with hosted.site.client().chat.completions.create(**hosted.ask(stream=True)) as stream:
        next(iter(stream))
        assert upstream.metric("num_requests_running") == 1
    upstream.wait_idle()


def test_its_figures_are_told_and_its_server_s_beside_them(hosted: Hosted) -> None:
    headers = {"Authorization": f"Bearer {hosted.replica.engine_key}"}
    url = f"http://127.0.0.1:{hosted.replica.port}/metrics"
    text = httpx.get(url, headers=headers).text
    assert "external:num_requests_running 0" in text and "fake:tokens_total" in text
    assert httpx.get(url).status_code == 401


def test_its_key_is_in_one_process_alone(hosted: Hosted) -> None:
    (process,) = engine_processes(hosted.replica)
    assert KEY not in " ".join(process.cmdline())
    folder = HOME / "replicas" / str(hosted.replica.pk)
    for file in (*folder.rglob("*"), *HOME.glob("*.log"), hosted.site.log):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    hosted.row.refresh_from_db()
    assert hosted.row.configuration and KEY not in hosted.row.configuration.canonical


def test_it_is_promoted_like_any_other(hosted: Hosted) -> None:
    release = promotion.promote(hosted.row, endpoint="far", user=hosted.user)
    fleet.ready(release.deployment)
    promotion.settle()
    hosted.site.until(lambda: hosted.site.get("/v1/models/far").status_code == 200)
    answer = hosted.site.client().chat.completions.create(**{**hosted.ask(max_tokens=2), "model": "far"})
    assert answer.choices[0].message.content


def test_a_key_that_is_refused_ends_the_start_at_once(hosted: Hosted, upstream: RunningFake) -> None:
    row = started(hosted.team, hosted.user, "locked", upstream, "sk-a-wrong-key-entirely")
    until("it is given up", lambda: Deployment.objects.get(pk=row.pk).problem)
    row.refresh_from_db()
    replica = row.replicas.get()
    assert replica.reason_code == "server_refused" and "refused its key (401)" in row.problem
    deployments.stop(row, None)


def test_a_server_that_goes_away_is_seen_and_its_return_too(hosted: Hosted, upstream: RunningFake) -> None:
    """Last of those that ask it: nothing of it is left running."""
    os.kill(upstream.pid, signal.SIGSTOP)
    try:
        mine = Replica.objects.filter(pk=hosted.replica.pk)
        until("it is ill", lambda: mine.get().state == Replica.State.UNHEALTHY)
    finally:
        os.kill(upstream.pid, signal.SIGCONT)
    until("it is well", lambda: mine.get().state == Replica.State.READY)
    deployments.stop(hosted.row, None)
    until("it is stopped", lambda: mine.get().state == Replica.State.STOPPED)
    assert not engine_processes(hosted.replica)
    assert_sound()
