"""Usage as it is recorded: every request of /v1 that was let in once, whatever ends it, and carried once."""

import asyncio
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2 as httpx
import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from endpoints import keys, usage, usage_store
from endpoints.models import ApiKey, Endpoint, LoggedRequest, Usage
from playground import servers
from playground.models import Deployment, Node, Replica, Team
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site
from tests.home import HOME

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, fake_engine: Engines) -> Site:
    return ready(served, team, fake_engine)


def ready(served: Site, team: Team, fake_engine: Engines) -> Site:
    """The endpoint `words` in front of one fake engine on a priced node of four cores, and a key."""
    engine = fake_engine(key="engine-secret", tokens=8)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind)
    row = replica(behind, engine)
    Replica.objects.filter(pk=row.pk).update(resources={"cores": 2, "gpus": []})
    Node.objects.update(price_per_hour="7.2", inventory={"cores": 4, "gpus": []})
    served.key(team)
    served.until(lambda: served.get("/v1/models/words").status_code == 200)
    served.engine = engine
    return served


def recorded(site: Site, count: int = 1, timeout_s: float = 10.0) -> list[Usage]:
    """The rows, once there are so many."""
    site.until(lambda: Usage.objects.count() >= count, timeout_s)
    return list(Usage.objects.order_by("pk"))


def test_an_answer_is_recorded_with_what_it_took(site: Site, team: Team) -> None:
    before = timezone.now()
    assert site.post(json=ask("[[delay=20]]"), headers={"x-request-id": "mine"}).status_code == 200
    (row,) = recorded(site)
    behind = Deployment.objects.get()
    assert (row.team_id, row.endpoint, row.adapter, row.route) == (
        team.pk,
        "words",
        "",
        "/v1/chat/completions",
    )
    assert (row.status, row.code, row.stream, row.client_id) == (200, "", False, "mine")
    assert (row.deployment_id, row.release_id) == (behind.pk, Endpoint.objects.get().live_id)
    assert (row.replica, row.model, row.engine) == (Replica.objects.get().pk, "tiny", "fake")
    assert row.key == ApiKey.objects.get() and row.key_name == "test"
    assert row.completion_tokens == 8 and row.prompt_tokens
    assert row.ttft_ms is None, "nothing was streamed, so nobody saw a first token"
    assert row.e2e_ms >= 160
    assert row.busy_s and 0.15 < row.busy_s <= row.e2e_ms / 1000
    # Two of four cores of 7.2 dollars an hour: a tenth of a cent a second.
    assert row.cost == pytest.approx(row.busy_s * 0.001, rel=1e-3)
    assert row.core_s == pytest.approx(2 * row.busy_s, rel=1e-3) and row.gpu_s is None
    assert before - timedelta(seconds=1) < row.at < timezone.now()


def test_two_at_once_share_their_replicas_time(site: Site) -> None:
    threads = [
        threading.Thread(target=site.post, kwargs={"json": ask("[[tokens=40]] [[delay=20]]")})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = recorded(site, 2)
    assert sum(row.busy_s or 0 for row in rows) < 1.3 * max(row.e2e_ms for row in rows) / 1000


def test_a_stream_has_its_first_tokens_time(site: Site) -> None:
    list(site.client().chat.completions.create(**ask("[[wait=0.2]] [[delay=10]]"), stream=True))
    (row,) = recorded(site)
    assert row.stream and row.completion_tokens == 8
    assert row.ttft_ms and 200 <= row.ttft_ms < row.e2e_ms


def test_ids_that_clients_repeat_are_requests_of_their_own(site: Site) -> None:
    for _ in range(3):
        site.post(json=ask(), headers={"x-request-id": "again"})
    assert {row.client_id for row in recorded(site, 3)} == {"again"}
    assert Usage.objects.values("request_id").distinct().count() == 3


@pytest.mark.parametrize("linger_s", [0.3, 30])
def test_a_whole_answer_is_one_however_late_its_engine_ends_the_stream(site: Site, linger_s: float) -> None:
    asked = ask(f"[[linger={linger_s}]] [[tokens=4]]")
    chunks = list(site.client().chat.completions.create(**asked, stream=True))
    assert chunks[-1].choices[0].finish_reason
    (row,) = recorded(site)
    assert (row.status, row.code, row.completion_tokens) == (200, "", 4)


def test_a_client_that_hangs_up_is_recorded_with_what_is_known(site: Site) -> None:
    assert site.engine
    with site.client().chat.completions.create(**ask("[[tokens=5000]] [[delay=10]]"), stream=True) as stream:
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
    (row,) = recorded(site)
    assert (row.status, row.code) == (499, "hang_up")
    assert row.completion_tokens is None, "the engine told none, and none is made up"
    assert row.busy_s and row.cost and row.ttft_ms
    site.engine.wait_idle()


def test_an_engine_that_fails_is_recorded(site: Site) -> None:
    site.post(json=ask("[[error=500]]"))
    assert (recorded(site)[0].status, recorded(site)[0].code) == (502, "engine_failed")
    with pytest.raises(Exception, match="middle of its answer"):
        list(site.client().chat.completions.create(**ask("[[delay=5]] [[cut=4]]"), stream=True))
    last = recorded(site, 2)[-1]
    assert (last.status, last.code, last.stream) == (502, "died_midway", True)


def test_no_replica_is_recorded_without_one(site: Site, team: Team) -> None:
    endpoint(team, "empty", deployment(team, name="empty", released=True))
    site.until(lambda: site.get("/v1/models/empty").status_code == 200)
    assert site.post(json=ask(model="empty")).status_code == 503
    (row,) = recorded(site)
    assert (row.endpoint, row.status, row.code, row.replica) == ("empty", 503, "no_capacity", None)
    assert (row.busy_s, row.cost, row.prompt_tokens) == (None, None, None)


def test_who_was_not_let_in_leaves_nothing(site: Site, team: Team) -> None:
    for header in ({"authorization": "Bearer nothing"}, {}):
        httpx.post(f"{site.url}/v1/chat/completions", json=ask(), headers=header)
    site.post(json=ask(model="nothing"))
    site.get("/v1/models")
    assert site.post(json=ask()).status_code == 200
    assert [row.endpoint for row in recorded(site)] == ["words"]


def test_a_deployment_asked_by_its_name_is_recorded_by_it(site: Site) -> None:
    pk = Deployment.objects.get().pk
    site.post(json=ask(model=f"deployment/{pk}"))
    (row,) = recorded(site)
    assert (row.endpoint, row.deployment_id, row.release_id) == (f"deployment/{pk}", pk, None)


# Attack 29


def test_a_thousand_disconnects_midway_leave_nothing_running_and_are_each_recorded(site: Site) -> None:
    assert site.engine
    count = 1000
    asyncio.run(_hang_up_all(site, count))
    site.engine.wait_idle(20)
    rows = recorded(site, count, 60)
    assert len(rows) == count
    assert {row.status for row in rows} == {499}


async def _hang_up_all(site: Site, count: int) -> None:
    limits = httpx.Limits(max_connections=None)
    # A key has so many at once at most.
    turn = asyncio.Semaphore(200)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        await asyncio.gather(*(_hang_up(client, site, turn) for _ in range(count)))


async def _hang_up(client: httpx.AsyncClient, site: Site, turn: asyncio.Semaphore) -> None:
    body = ask("[[tokens=5000]] [[delay=50]]", stream=True)
    headers = {"authorization": f"Bearer {site.secret}"}
    path = f"{site.url}/v1/chat/completions"
    async with turn, client.stream("POST", path, json=body, headers=headers) as answer:
        assert answer.status_code == 200
        async for _ in answer.aiter_bytes():
            return


# Whatever ends a process or a server


def load(site: Site, until: threading.Event, answered: list[str]) -> None:
    """Ask until told to stop; `answered` gets the id of each whole answer."""
    n = 0
    while not until.is_set():
        n += 1
        name = f"{threading.get_ident()}-{n}"
        try:
            answer = site.post(json=ask("[[delay=1]]"), headers={"x-request-id": name})
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            answered.append(name)


def test_a_killed_web_process_loses_no_request_and_doubles_none(
    team: Team, fake_engine: Engines, tmp_path: Path
) -> None:
    answered: list[str] = []
    early: list[str] = []
    with running_site(tmp_path) as site:
        ready(site, team, fake_engine)
        stop = threading.Event()
        threads = [threading.Thread(target=load, args=[site, stop, answered]) for _ in range(4)]
        for thread in threads:
            thread.start()
        site.until(lambda: len(answered) > 60)
        early = list(answered)
        # Whatever was answered so long before is in the file or beyond it.
        threading.Event().wait(usage.WRITE_S * 4)
        os.kill(site.process.pid, signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
    held = Usage.objects.count()
    adopted = usage_store.adopt()
    assert held + adopted == Usage.objects.count()
    assert usage_store.adopt() == 0
    found = list(Usage.objects.values_list("client_id", flat=True))
    assert len(found) == len(set(found)), "each once"
    assert set(early) <= set(found), "each"
    # Of what was in flight some had ended here, though its client never heard.
    assert len(set(found) - set(answered)) <= len(threads)
    assert not list(usage_store.folder().glob("*.jsonl"))


def test_an_orderly_end_carries_everything_first(team: Team, fake_engine: Engines, tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        ready(site, team, fake_engine)
        for _ in range(5):
            site.post(json=ask())
        site.process.terminate()
        site.process.wait(timeout=20)
    assert Usage.objects.count() == 5
    assert not list(usage_store.folder().glob("*.jsonl"))


def test_a_restarted_web_process_carries_what_the_killed_one_left(
    team: Team, fake_engine: Engines, tmp_path: Path
) -> None:
    connections.close_all()
    with running_site(tmp_path) as site:
        ready(site, team, fake_engine)
        servers.stop_postgres(HOME)
        try:
            assert {site.post(json=ask()).status_code for _ in range(5)} == {200}
            threading.Event().wait(usage.WRITE_S * 4)
            os.kill(site.process.pid, signal.SIGKILL)
            site.process.wait()
        finally:
            servers.start_postgres(HOME)
            connections.close_all()
    assert Usage.objects.count() == 0
    (tmp_path / "second").mkdir()
    with running_site(tmp_path / "second") as second:
        assert len(recorded(second, 5)) == 5


def test_postgresql_away_means_later_and_once(site: Site) -> None:
    connections.close_all()
    servers.stop_postgres(HOME)
    began = time.monotonic()
    try:
        statuses = []
        while time.monotonic() - began < 6:
            statuses.append(site.post(json=ask()).status_code)
            time.sleep(0.05)
    finally:
        servers.start_postgres(HOME)
        connections.close_all()
    assert set(statuses) == {200}
    assert len(recorded(site, len(statuses), 20)) == len(statuses)
    files = list(usage_store.folder().glob("*.jsonl"))
    site.until(lambda: not [path for path in files if path.exists()])


# Carrying


def record(team: Team, name: str, **more: object) -> dict[str, object]:
    plain = {
        "request_id": name,
        "client_id": "c",
        "at": time.time(),
        "team": team.pk,
        "endpoint": "words",
        "route": "/v1/chat/completions",
        "status": 200,
        "stream": False,
        "e2e_ms": 12.5,
    }
    return plain | more


def left(name: str, *lines: str) -> Path:
    """A file of a process that is gone."""
    usage_store.folder().mkdir(exist_ok=True)
    path = usage_store.path_of(usage_store.folder(), name, 0)
    path.write_text("".join(lines))
    return path


def test_what_is_carried_twice_counts_once(team: Team) -> None:
    line = json.dumps(record(team, "one")) + "\n"
    assert usage_store.carry(left("dead", line, line)) == 1
    assert usage_store.carry(left("dead", line)) == 0
    assert Usage.objects.count() == 1


def test_half_a_line_costs_only_itself(team: Team) -> None:
    path = left("dead", json.dumps(record(team, "one")) + "\n", json.dumps(record(team, "two"))[:40])
    assert usage_store.carry(path) == 1
    assert not path.exists()


def test_a_record_that_is_refused_does_not_keep_the_others(team: Team) -> None:
    lines = [json.dumps(record(team, f"n{i}", **({"status": 99999} if i == 1 else {}))) for i in range(3)]
    assert usage_store.carry(left("dead", *(line + "\n" for line in lines))) == 2


def test_what_is_gone_since_is_left_out(team: Team) -> None:
    lines = [record(team, "one", key=10**9, release=10**9, deployment=10**9, replica=10**9, busy_s=1.0)]
    lines.append(record(team, "two") | {"team": 10**9})
    assert usage_store.carry(left("dead", *(json.dumps(line) + "\n" for line in lines))) == 1
    row = Usage.objects.get()
    assert (row.key_id, row.release_id, row.deployment_id, row.cost) == (None, None, None, None)
    assert (row.model, row.engine, row.key_name) == ("", "", "")


def test_a_living_processs_file_is_its_own(team: Team) -> None:
    path = left("alive", json.dumps(record(team, "one")) + "\n")
    with usage_store.lock_of(usage_store.folder(), "alive").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert usage_store.adopt() == 0
        assert path.exists()
    assert usage_store.adopt() == 1
    assert not path.exists() and not usage_store.lock_of(usage_store.folder(), "alive").exists()


def test_a_full_disk_keeps_records_in_memory_and_no_half_line(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = usage.Journal(tmp_path, "full")
    journal.put(record(team, "one"))
    journal.write()
    real, calls = os.write, []

    def full(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, data[:10])

    monkeypatch.setattr(os, "write", full)
    journal.put(record(team, "two"))
    journal.write()
    monkeypatch.setattr(os, "write", real)
    journal.put(record(team, "three"))
    journal.write()
    (path,) = journal.finished()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == [
        "one",
        "two",
        "three",
    ]
    journal.close()


def test_a_backlog_is_one_file_that_grows(team: Team, tmp_path: Path) -> None:
    journal = usage.Journal(tmp_path, "slow")
    journal.put(record(team, "one"))
    journal.write()
    first = journal.finished()
    for n in range(3):
        journal.put(record(team, f"more {n}"))
        journal.write()
        assert journal.finished() == first
    assert len(usage_store.files_of(tmp_path, "slow")) == 2
    journal.close()


def test_time_ends_usage_and_what_was_logged_with_it(team: Team, settings_days: None) -> None:
    endpoint(team, "words", deployment(team))
    Endpoint.objects.update(log_days=3)
    old, recent, new = (time.time() - days * 86400 for days in (11, 4, 1))
    rows = [
        record(team, name, at=at, request={"a": 1}, answer={}, cut=False)
        for name, at in (("old", old), ("recent", recent), ("new", new))
    ]
    rows.append(record(team, "gone", at=new, endpoint="deleted", request={"a": 1}))
    assert usage_store.keep(rows) == 4
    usage_store.forget()
    assert set(Usage.objects.values_list("request_id", flat=True)) == {"recent", "new", "gone"}
    assert [row.usage.request_id for row in LoggedRequest.objects.select_related("usage")] == ["new"]


@pytest.fixture
def settings_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "USAGE_DAYS", 10)


def test_the_keys_own_usage_is_told_apart(site: Site, team: Team) -> None:
    _, other = keys.make(team, None, "other", ["endpoints"])
    site.until(lambda: site.client(other).models.list().data != [])
    site.client(other).chat.completions.create(**ask())
    site.post(json=ask())
    assert sorted(row.key_name for row in recorded(site, 2)) == ["other", "test"]
