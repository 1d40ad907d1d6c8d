"""The whole product on each real engine: a worker starts it, the site and its API ask it, it stops.

llama.cpp, transformers and Triton are installed by a Job here, and the safetensors form is made by one.
vLLM's environment, the largest, is borrowed from an earlier run where there was one.
"""

import shutil
import signal
import socket
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

from playground import catalogue, deployments, engines, processes
from playground.figures import figures
from playground.models import (
    Column,
    Conversation,
    Deployment,
    Generation,
    Job,
    Membership,
    Replica,
    Team,
    User,
)
from tests import chats, fleet, real_engines
from tests.chats import Page
from tests.fleet import Fleet, assert_sound, engine_processes, until
from tests.gateway_site import Site, running_site
from tests.home import HOME

State = Replica.State
heavy = [pytest.mark.engines, pytest.mark.slow]
every = pytest.mark.parametrize(
    "live",
    [
        pytest.param("llama.cpp", marks=pytest.mark.slow),
        pytest.param("transformers", marks=heavy),
        pytest.param("triton", marks=heavy),
        pytest.param("vllm", marks=heavy),
    ],
    indirect=True,
)
vllm = pytest.mark.parametrize("live", [pytest.param("vllm", marks=heavy)], indirect=True)

CONTEXT = {"llama.cpp": 2048, "transformers": 8192, "triton": 2048, "vllm": 2048}
OPTIONS: dict[str, dict[str, Any]] = {
    "llama.cpp": {"context": 2048},
    "transformers": {},
    "triton": {"context": 2048},
    "vllm": {"max_model_len": 2048, "kv_cache_gib": 0.25},
}
# Who tells what the template made of the messages.
RENDERS = {"llama.cpp": "engine", "transformers": "tokenizer", "triton": "engine", "vllm": "engine"}
# Tell how many tokens they made only once an answer is whole, and count none when asked.
UNCOUNTED = {"transformers"}
JOBS = {
    "llama.cpp": {"install_environment"},
    "transformers": {"install_environment", "convert_model"},
    "triton": {"install_environment"},
    "vllm": set(),
}
# Times as in production: a busy machine must not take a slow engine for a frozen one.
WORKER = {
    "SLIPWAY_LOST_AFTER_S": "30",
    "SLIPWAY_FROZEN_AFTER_S": "120",
    "SLIPWAY_GRACE_S": "10",
    "SLIPWAY_DRAIN_S": "10",
}
WEB = {"SLIPWAY_BODY_TIMEOUT_S": "30", "SLIPWAY_HOLD_S": "60", "SLIPWAY_STALL_S": "30"}
LENGTH = 1500
TOKENS = {
    "llama.cpp": "llamacpp:tokens_predicted_total",
    "transformers": "transformers:generation_tokens_total",
    "triton": "triton:generation_tokens_total",
    "vllm": "vllm:generation_tokens_total",
}
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

    def metric(self, name: str) -> float:
        """One of the engine's own numbers."""
        headers = {"Authorization": f"Bearer {self.replica.engine_key}"}
        text = httpx.get(f"http://127.0.0.1:{self.replica.port}/metrics", headers=headers, timeout=20).text
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
        assert values, f"{name} is not told"
        return sum(float(value) for value in values)

    def running(self) -> float:
        """Requests the engine works on now."""
        return self.metric(engines.get(self.engine).quirks.running_metric)

    @contextmanager
    def stops_early(self) -> Iterator[None]:
        """What is asked inside for LENGTH tokens is given up long before: the engine's own counts say so.

        By tokens, not by seconds: a busy machine is slow to notice, and slow to answer, too.
        """
        before = self.metric(TOKENS[self.engine])
        yield
        until("the engine stops", lambda: self.running() == 0, 60)
        assert self.metric(TOKENS[self.engine]) - before < LENGTH / 2

    def works(self) -> None:
        until("the engine works", self.running, 30)

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """A browser that is signed in, with the token its forms carry."""
        name, _, value = chats.cookie(self.user).partition("=")
        with httpx.Client(base_url=self.site.url, timeout=30, cookies={name: value}) as client:
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


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """This machine's worker and a web process, for the whole module: rows are kept between tests."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        real_engines.borrow_environments("vllm")
        shutil.rmtree(HOME / "models" / catalogue.DEMO / "safetensors", ignore_errors=True)
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
    began = time.monotonic()
    row = deployments.request(
        team=team,
        user=user,
        model=catalogue.demo(team),
        engine=request.param,
        options=OPTIONS[request.param],
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


# From the wish to a ready engine


@every
def test_it_starts_by_named_steps(live: Live) -> None:
    steps = [event.state for event in live.replica.events.all()]
    assert [step for step in steps if step != State.LOADING][-1] == State.READY
    assert {State.PREPARING, State.ASSIGNED, State.STARTING, State.LOADING} <= set(steps)
    notes = [event.note for event in live.replica.events.filter(state=State.LOADING)]
    assert any("loading weights" in note for note in notes), notes
    assert live.replica.command[0].startswith(str(HOME / "environments"))
    jobs = Job.objects.filter(created_at__gte=live.row.created_at, state=Job.State.DONE)
    assert JOBS[live.engine] <= set(jobs.values_list("kind", flat=True))
    spent = live.replica.ready_at - live.replica.events.filter(state=State.STARTING).earliest("at").at
    print(
        f"{live.engine}: ready {live.ready_s:.1f} s after the wish, {spent.total_seconds():.1f} s of engine"
    )


@every
def test_everything_it_started_carries_the_mark(live: Live) -> None:
    """Also after a process renamed itself, which may overwrite the environment that /proc shows."""
    assert live.replica.engine_pid
    engine = psutil.Process(live.replica.engine_pid)
    family = {engine.pid, *(child.pid for child in engine.children(recursive=True))}
    marked = {process.pid for process in engine_processes(live.replica)}
    assert marked == family
    if live.engine == "vllm":
        assert core_of(live.replica).pid in marked


# In the playground


@every
def test_a_conversation_of_two_turns_is_streamed_and_measured(live: Live) -> None:
    live.set(max_tokens=24, temperature=0, presence_penalty=0.5)
    for text in ("What is the capital of France?", "And of Italy?"):
        page = live.page()
        with page.socket:
            row = live.send(text)
            page.watch(row.pk)
            assert page.until_end(60) == "complete"
        row = chats.answer(row.pk)
        assert row.text and page.text["content"] == row.text
        live.said.append(row)
    first, second = (figures(row) for row in live.said)
    for told in (first, second):
        assert told.ttft and told.e2e and told.tokens_per_s
        assert told.tokens and 2 <= told.tokens <= 24
        assert not told.approximate_tokens
    assert first.prompt_tokens and second.prompt_tokens
    assert second.prompt_tokens > first.prompt_tokens + (first.tokens or 0), "the first turn is in the prompt"
    print(f"{live.engine}: TTFT {second.ttft:.0f} ms, {second.tokens_per_s:.0f} tok/s")


@every
def test_it_tells_what_was_really_asked(live: Live) -> None:
    row = live.said[-1]
    with live.http() as client:
        shown = client.get(f"/playground/answers/{row.pk}/request/")
    assert shown.status_code == 200
    row.refresh_from_db()
    assert row.effective["by"] == RENDERS[live.engine]
    prompt = row.effective["rendered"]
    for said in ("<|im_start|>user", "capital of France", "And of Italy?", live.said[0].text.strip()):
        assert said in prompt
    assert prompt.rstrip().endswith("<|im_start|>assistant")
    assert len(row.effective["token_ids"]) == row.usage["prompt_tokens"]
    ignored = "presence_penalty" in engines.get(live.engine).quirks.ignored
    assert row.effective.get("ignored", []) == (["presence_penalty"] if ignored else [])
    assert ("Ignored" in shown.text) is ignored
    assert "&lt;|im_start|&gt;user" in shown.text


@every
def test_stop_reaches_the_engine_and_the_text_stays(live: Live) -> None:
    live.set(max_tokens=LENGTH, temperature=1)
    page = live.page()
    with page.socket, live.stops_early():
        row = live.send(LONG)
        page.watch(row.pk)
        page.until(lambda: len(page.text["content"]) > 40, 60)
        assert live.running() == 1
        page.send(type="stop", generation=row.pk)
        assert page.until_end(10) == "stopped"
    row = chats.answer(row.pk)
    assert row.state == Generation.State.STOPPED
    assert row.text and row.text.startswith(page.text["content"][:40])
    tokens = figures(row).tokens
    assert tokens is None if live.engine in UNCOUNTED else 0 < (tokens or 0) < LENGTH


@every
def test_a_conversation_beyond_the_context_says_so(live: Live) -> None:
    row = live.send("hi " * (CONTEXT[live.engine] + 100))
    row = chats.answer(row.pk, within_s=60)
    assert (row.state, row.error_code) == ("failed", "context_exceeded"), row.error
    assert "context" in row.error and str(CONTEXT[live.engine]) in row.error.replace(",", "")
    print(f"{live.engine}: {row.error}")


# By the API


def asked(live: Live, text: str = "What is the capital of France?", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": f"deployment/{live.row.pk}", "messages": messages, "temperature": 0, **more}


@every
def test_the_openai_client_gets_an_answer(live: Live) -> None:
    answer = live.site.client().chat.completions.create(**asked(live, max_tokens=8))
    assert answer.choices[0].message.content
    assert answer.usage and 0 < answer.usage.completion_tokens <= 8


@every
def test_the_openai_client_gets_a_stream(live: Live) -> None:
    wanted = asked(live, max_tokens=8, stream=True, stream_options={"include_usage": True})
    chunks = list(live.site.client().chat.completions.create(**wanted))
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([part for part in parts if part]) >= 2
    assert chunks[-1].choices == [] and chunks[-1].usage
    assert 0 < chunks[-1].usage.completion_tokens <= 8


@every
def test_a_client_that_hangs_up_on_a_stream_stops_the_engine(live: Live) -> None:
    wanted = asked(live, LONG, max_tokens=LENGTH, temperature=1, stream=True)
    with live.stops_early():
        with live.site.client().chat.completions.create(**wanted) as stream:
            next(iter(stream))
            live.works()


@every
def test_a_client_that_hangs_up_on_a_whole_answer_stops_the_engine(live: Live) -> None:
    body = httpx.Request(
        "POST", live.site.url, json=asked(live, LONG, max_tokens=LENGTH, temperature=1)
    ).content
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{live.site.port}\r\n"
        f"Authorization: Bearer {live.site.secret}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with live.stops_early():
        with socket.create_connection(("127.0.0.1", live.site.port), 10) as client:
            client.sendall(head.encode() + body)
            live.works()


# The end, last: what stands below starts it again


def assert_nothing_left(replica: Replica) -> None:
    """No process of it, its slots' locks free, nobody on its port, nothing of it in the temporary folder."""
    assert not engine_processes(replica)
    held = processes.take_slots(HOME, replica.resources["slots"])
    assert held is not None, "its locks are held"
    processes.release(held)
    assert processes.listener(replica.port or 0, list) == processes.Listener.NOBODY


@every
def test_stopped_it_leaves_nothing(live: Live) -> None:
    deployments.stop(live.row, None)
    until("it is stopped", lambda: Replica.objects.get(pk=live.replica.pk).state == State.STOPPED, 40)
    until("its runner ends", lambda: not fleet.runners())
    assert_nothing_left(live.replica)
    assert_sound()


def core_of(replica: Replica) -> psutil.Process:
    """vLLM's inner process, that holds the model."""
    for process in engine_processes(replica):
        if "EngineCore" in f"{process.name()} {' '.join(process.cmdline())}":
            return process
    raise AssertionError(f"no EngineCore among {[one.cmdline() for one in engine_processes(replica)]}")


def failed_within(replica: Replica, seconds: float) -> Replica:
    def look() -> Replica | None:
        return Replica.objects.filter(pk=replica.pk, state=State.FAILED).first()

    found: Replica = until("the fault is seen", look, seconds)
    return found


@vllm
def test_a_killed_core_of_vllm_is_seen_and_the_replica_replaced(live: Live) -> None:
    deployments.start(live.row, None)
    first = ready(live.row)
    core_of(first).kill()
    first = failed_within(first, 15)
    assert first.reason_code == "crashed" and first.reason, first.reason
    print(f"vllm without its core: {first.reason}")
    assert_nothing_left(first)
    live.replica = ready(live.row, other_than=first.pk)
    assert live.site.client().chat.completions.create(**asked(live, max_tokens=2)).choices


@vllm
def test_a_killed_api_server_of_vllm_leaves_no_core(live: Live) -> None:
    first, core = live.replica, core_of(live.replica)
    assert first.engine_pid and first.engine_pid != core.pid
    psutil.Process(first.engine_pid).send_signal(signal.SIGKILL)
    failed_within(first, 15)
    # A killed process that gives its memory back has no environment any more, and still runs.
    until("the core is gone", lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE, 3)
    assert_nothing_left(first)
    until("another is on its way", lambda: live.row.replicas.filter(pk__gt=first.pk).exists())
