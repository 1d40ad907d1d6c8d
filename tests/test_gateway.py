"""The gateway as programs meet it: the official client, strict, against a real web process and engine."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2 as httpx
import openai
import psycopg
import pytest
from django.conf import settings
from django.utils import timezone

from endpoints import drain, keys, promotion
from endpoints.models import ApiKey, Release, WebProcess
from playground.models import Deployment, Node, Replica, Team
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, fake_engine: Engines) -> Site:
    """The site with the endpoint `words` in front of one fake engine, and a key."""
    engine = fake_engine(key="engine-secret", tokens=8)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind, temperature=0.25)
    replica(behind, engine)
    served.key(team)
    served.until(lambda: served.post(json=ask()).status_code == 200)
    served.engine = engine
    return served


def deployment_of(name: str) -> Deployment:
    return Release.objects.get(endpoint__name=name).deployment


def engine_of(site: Site) -> RunningFake:
    assert site.engine is not None
    return site.engine


def test_the_client_gets_a_chat(site: Site) -> None:
    answer = site.client().chat.completions.create(**ask())
    assert answer.choices[0].message.content == " ".join(f"word{i}" for i in range(8))
    assert answer.usage and answer.usage.completion_tokens == 8


def test_the_client_streams_a_chat_without_a_usage_chunk_it_did_not_ask(site: Site) -> None:
    chunks = list(site.client().chat.completions.create(**ask(), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("word0 word1")
    assert all(chunk.choices for chunk in chunks)


def test_the_client_gets_the_usage_it_asked_for(site: Site) -> None:
    chunks = list(
        site.client().chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 8


def test_the_client_completes_with_and_without_a_stream(site: Site) -> None:
    whole = site.client().completions.create(model="words", prompt="hello", max_tokens=3)
    assert whole.choices[0].text.strip() == "word0 word1 word2"
    # Its strict mode knows no `finish_reason: null`, which every streamed completion has before its end.
    lenient = site.client().with_options(_extra_kwargs={"_strict_response_validation": False})
    parts = lenient.completions.create(model="words", prompt="hello", max_tokens=3, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices).strip() == "word0 word1 word2"


def test_it_lists_what_a_key_may_call(site: Site, team: Team) -> None:
    pk = deployment_of("words").pk
    listed = [model.id for model in site.client().models.list()]
    assert sorted(listed) == [f"deployment/{pk}", "words"]
    assert site.client().models.retrieve("words").id == "words"
    assert site.client().models.retrieve(f"deployment/{pk}").id == f"deployment/{pk}"
    with pytest.raises(openai.NotFoundError):
        site.client().models.retrieve("nothing")


def test_a_key_works_from_the_moment_it_is_made(site: Site, team: Team) -> None:
    for round in range(5):
        _, secret = keys.make(team, None, f"new {round}", ["endpoints"])
        assert "words" in [model.id for model in site.client(secret).models.list()]


def test_a_deployment_answers_only_a_key_with_that_scope(site: Site, team: Team) -> None:
    name = f"deployment/{deployment_of('words').pk}"
    assert site.client().chat.completions.create(**ask(model=name)).choices
    _, narrow = keys.make(team, None, "narrow", ["endpoints"])
    site.until(lambda: site.get("/v1/models", authorization=f"Bearer {narrow}").status_code == 200)
    with pytest.raises(openai.PermissionDeniedError):
        site.client(narrow).chat.completions.create(**ask(model=name))


def test_errors_become_the_clients_own_types(site: Site) -> None:
    client = site.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ask(model="nothing"))
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**ask(), max_tokens=-1)
    assert bad.value.param == "max_tokens"
    with pytest.raises(openai.AuthenticationError) as wrong:
        site.client("sk-slip-aaaaaaaa-nothing").chat.completions.create(**ask())
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**ask("[[error=500]]"))


def test_an_answer_carries_an_id_and_its_time(site: Site) -> None:
    given = site.post(json=ask(), headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    assert int(given.headers["openai-processing-ms"]) >= 0
    made = site.post(json=ask(), headers={"x-request-id": "<script>"})
    assert made.headers["x-request-id"].startswith("req_")


def test_an_engine_that_dies_midway_ends_a_stream_with_an_error(site: Site) -> None:
    with pytest.raises(openai.APIError) as error:
        list(
            site.client().chat.completions.create(**ask("[[tokens=50]] [[delay=5]] [[die=10]]"), stream=True)
        )
    assert "middle of its answer" in str(error.value)


@pytest.mark.parametrize("directive", ["[[malformed]]", "[[html]]"])
def test_an_engine_that_answers_nonsense_is_a_502(site: Site, directive: str) -> None:
    assert site.post(json=ask(directive)).status_code == 502


def test_a_client_that_hangs_up_stops_the_engine(site: Site) -> None:
    engine = engine_of(site)
    with site.client().chat.completions.create(**ask("[[tokens=5000]] [[delay=10]]"), stream=True) as stream:
        next(iter(stream))
        assert engine.metric("num_requests_running") == 1
    engine.wait_idle()


def test_a_client_that_hangs_up_on_a_whole_answer_stops_the_engine(site: Site) -> None:
    engine = engine_of(site)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{site.url}/v1/chat/completions",
            json=ask("[[tokens=5000]] [[delay=10]]"),
            headers={"authorization": f"Bearer {site.secret}"},
            timeout=0.5,
        )
    engine.wait_idle()


def test_a_revoked_key_is_refused_within_five_seconds(site: Site, team: Team) -> None:
    key, secret = keys.make(team, None, "short-lived", ["endpoints"])
    header = {"authorization": f"Bearer {secret}"}
    site.until(lambda: site.get("/v1/models", **header).status_code == 200)
    keys.revoke(key, None)
    began = time.monotonic()
    site.until(lambda: site.get("/v1/models", **header).status_code == 401, 5)
    assert time.monotonic() - began < 5


def test_an_expired_key_is_refused(site: Site, team: Team) -> None:
    expires = timezone.now() + timedelta(seconds=1.5)
    _, secret = keys.make(team, None, "short-lived", ["endpoints"], expires)
    header = {"authorization": f"Bearer {secret}"}
    site.until(lambda: site.get("/v1/models", **header).status_code == 200, 1.4)
    site.until(lambda: site.get("/v1/models", **header).status_code == 401, 4)


def test_use_is_noted_on_the_key(site: Site) -> None:
    prefix = site.secret.split("-")[2]
    site.until(lambda: ApiKey.objects.get(prefix=prefix).last_used_at is not None)


def test_a_waiting_stream_is_kept_alive_until_a_replica_is_ready(site: Site, team: Team) -> None:
    cold = deployment(team, name="cold", released=True)
    endpoint(team, "cold", cold)
    coming = Replica.objects.create(deployment=cold, configuration=cold.configuration, state="loading")
    site.until(lambda: site.get("/v1/models/cold").status_code == 200)
    warm = Replica.objects.exclude(pk=coming.pk).get()
    timer = threading.Timer(1.2, _make_ready, [coming.pk, warm.pk])
    timer.start()
    with httpx.stream(
        "POST",
        f"{site.url}/v1/chat/completions",
        json=ask(model="cold", stream=True),
        headers={"authorization": f"Bearer {site.secret}"},
        timeout=10,
    ) as answer:
        lines = list(answer.iter_lines())
    timer.join()
    assert ": keep-alive" in lines
    assert lines[-2] == "data: [DONE]" or lines[-1] == "data: [DONE]"
    assert any("word0" in line for line in lines)


def _make_ready(coming: int, like: int) -> None:
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as connection:
        connection.execute(
            "UPDATE playground_replica AS cold "
            "SET state = 'ready', port = warm.port, node_id = warm.node_id, "
            "engine_key = warm.engine_key, served_name = warm.served_name FROM playground_replica AS warm "
            "WHERE cold.id = %s AND warm.id = %s",
            [coming, like],
        )


def test_no_replica_is_a_503_that_says_when_to_retry(site: Site, team: Team) -> None:
    endpoint(team, "empty", deployment(team, name="empty", released=True))
    site.until(lambda: site.get("/v1/models/empty").status_code == 200)
    answer = site.post(json=ask(model="empty"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    with pytest.raises(openai.InternalServerError):
        site.client().chat.completions.create(**ask(model="empty"))


def test_a_dead_replica_costs_no_request_while_another_serves(site: Site, fake_engine: Engines) -> None:
    second = fake_engine(key="other", tokens=8)
    replica(deployment_of("words"), second)
    site.until(lambda: _used(site, second))
    os.kill(second.pid, signal.SIGKILL)
    statuses = {site.post(json=ask()).status_code for _ in range(20)}
    assert statuses == {200}


def _used(site: Site, engine: RunningFake) -> bool:
    """Whether requests sent at once reach this engine too."""
    threads = [
        threading.Thread(target=site.post, kwargs={"json": ask("[[tokens=5]] [[delay=30]]")})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    busy = False
    while any(thread.is_alive() for thread in threads):
        busy = busy or engine.metric("num_requests_running") > 0
    return busy


def test_a_replica_that_nobody_can_reach_does_not_stop_the_table(site: Site, team: Team) -> None:
    """Its node is another one and its relay was never opened."""
    away = Node.objects.create(name="away")
    behind = deployment_of("words")
    Replica.objects.create(deployment=behind, node=away, configuration=behind.configuration, state="ready")
    endpoint(team, "after", behind)
    site.until(lambda: site.get("/v1/models/after").status_code == 200)
    assert {site.post(json=ask()).status_code for _ in range(5)} == {200}


def test_rolling_back_moves_traffic_without_a_failed_request(
    site: Site, team: Team, fake_engine: Engines
) -> None:
    second = fake_engine(key="other", tokens=2)
    newer = deployment(team, name="newer", released=True, tokens=2)
    replica(newer, second)
    first = Release.objects.get(endpoint__name="words")
    Release.objects.filter(pk=first.pk).update(state=Release.State.WARM)
    row = endpoint(team, "words", newer)
    site.until(lambda: _words(site) == 2)
    stop, failed, done = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            answer = site.post(json=ask("[[delay=2]]"))
            (done if answer.status_code == 200 else failed).append(answer.status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert promotion.rollback(row, None).state == Release.State.LIVE
    site.until(lambda: _words(site) == 8)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(done) > 4


def _words(site: Site) -> int:
    answer = site.post(json=ask())
    return len(answer.json()["choices"][0]["message"]["content"].split())


def test_it_says_how_new_its_table_is(site: Site) -> None:
    site.until(lambda: WebProcess.objects.filter(pid=site.process.pid).exists())
    before = WebProcess.objects.get(pid=site.process.pid).table_at
    site.until(lambda: WebProcess.objects.get(pid=site.process.pid).table_at > before)


def test_a_drain_is_over_once_every_live_process_has_a_newer_table(site: Site) -> None:
    one = Replica.objects.get()
    assert drain.acknowledged(one), "nothing drains"
    now = timezone.now()
    late = WebProcess.objects.create(boot_id="late", node="n", pid=0, table_at=now, heartbeat_at=now)
    Replica.objects.filter(pk=one.pk).update(state=Replica.State.DRAINING, drain_at=timezone.now())
    one.refresh_from_db()
    site.until(lambda: site.post(json=ask()).status_code == 503)
    assert not drain.acknowledged(one), "a live process may still choose it"
    late.delete()
    site.until(lambda: drain.acknowledged(one))


def test_its_figures_hold_counts_and_no_prompts(site: Site) -> None:
    site.post(json=ask("canary-in-figures"))
    text = httpx.get(f"{site.url}/metrics").text
    assert 'slipway_requests_total{endpoint="words",status="200"}' in text
    assert "canary-in-figures" not in text


def test_its_figures_are_not_for_strangers(site: Site) -> None:
    assert site.get("/metrics", **{"x-forwarded-for": "203.0.113.9"}).status_code == 404


def test_without_its_database_the_cached_table_serves_and_then_nothing(
    tmp_path: Path, site: Site, team: Team
) -> None:
    """PostgreSQL away, as this process sees it: its connections are cut and new ones refused."""
    with (
        _ProxiedDatabase(tmp_path) as (url, cut),
        running_site(
            tmp_path, DATABASE_URL=url, REDIS_URL=settings.REDIS_URL, SLIPWAY_TABLE_STALE_S="3"
        ) as alone,
    ):
        alone.secret = site.secret
        alone.until(lambda: alone.post(json=ask()).status_code == 200)
        cut()
        gone = time.monotonic()
        assert alone.post(json=ask()).status_code == 200
        alone.until(lambda: alone.post(json=ask()).status_code == 503, 8)
        assert 2.0 < time.monotonic() - gone < 6.0


class _ProxiedDatabase:
    """A Unix socket that passes on to PostgreSQL until it is cut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        host = settings.DATABASES["default"]["HOST"]
        self.target = f"{host}/.s.PGSQL.5432"
        self.listener = socket.socket(socket.AF_UNIX)
        self.open: list[socket.socket] = []

    def __enter__(self) -> tuple[str, Callable[[], None]]:
        self.listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return f"postgresql://slipway@/slipway?host={self.folder}", self.cut

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        self.listener.close()
        (self.folder / ".s.PGSQL.5432").unlink(missing_ok=True)
        for end in self.open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            self.open += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def test_stopping_the_process_ends_its_streams_and_forgets_it(tmp_path: Path, site: Site) -> None:
    with running_site(tmp_path) as other:
        other.secret = site.secret
        other.until(lambda: WebProcess.objects.filter(pid=other.process.pid).exists())
        os.kill(other.process.pid, signal.SIGTERM)
        other.process.wait(timeout=15)
    assert not WebProcess.objects.filter(pid=other.process.pid).exists()


def test_a_request_is_given_the_releases_defaults_and_the_engine_its_own_key(site: Site) -> None:
    site.post(json=ask("hello", top_p=0.5))
    engine = engine_of(site)
    seen = httpx.get(
        f"{engine.base_url}/fake/requests", headers={"authorization": f"Bearer {engine.key}"}, timeout=5
    ).json()
    last = json.dumps([request for request in seen if request["method"] == "POST"][-1])
    assert '"temperature": 0.25' in last
    assert '"top_p": 0.5' in last
    assert site.secret not in last
