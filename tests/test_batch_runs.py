"""Batches that run: a real worker, its process for batches, runners and fake engines."""

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import psutil
import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models.functions import Now
from pytest_django import DjangoDbBlocker

from endpoints import key_report, keys, row_limits
from endpoints.models import ApiBatch, ApiKey
from playground import batch_live, batches, deployments, engine_client, processes
from playground.batch_claims import Row
from playground.batch_gates import Refused, Waits
from playground.models import (
    Batch,
    BatchItem,
    BatchResult,
    Column,
    Conversation,
    Deployment,
    Generation,
    Model,
    Node,
    Replica,
    Team,
    Turn,
)
from tests import dying_batch, fleet
from tests.batch_rows import version
from tests.fleet import Fleet, assert_sound, engine_processes, ready, start, until
from tests.home import HOME

pytestmark = pytest.mark.slow
State = Batch.State
QUICK = {"SLIPWAY_LEASE_S": "2"}


@pytest.fixture(scope="module")
def worker(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """This machine's worker, for the whole module."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        workers = Fleet()
        workers.work(**QUICK)
        yield workers
        workers.close()
        until("the process for batches ends", lambda: not asking())
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def model(worker: Fleet) -> Model:
    team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
    return fleet.tiny_model(team)


@pytest.fixture(scope="module")
def engine(model: Model) -> Deployment:
    """A fast engine that several tests share."""
    deployment = start(model.team, model, tokens=5, token_delay_ms=2)
    ready(deployment)
    return deployment


def asking() -> list[psutil.Process]:
    """The processes that ask rows."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if line[-2:] == ["worker", "--batch"] and process.environ().get("SLIPWAY_HOME") == str(HOME):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def kill_asking() -> None:
    for process in asking():
        process.kill()


def begin(deployment: Deployment, prompts: Sequence[Any], **more: Any) -> Batch:
    rows = version(deployment.team, prompts, name=f"rows-{time.monotonic()}")
    return batches.begin(deployment.team, None, "", rows, [{"deployment": deployment}], {}, **more)


def done(batch: Batch) -> int:
    return BatchItem.objects.filter(column__batch=batch, state__in=["done", "failed"]).count()


def ended(batch: Batch, within_s: float = 30.0) -> dict[str, int]:
    """How its only column's rows stand once it has ended."""

    def check() -> bool:
        batch.refresh_from_db()
        return batch.state not in Batch.OPEN

    until(f"batch {batch.pk} ends", check, within_s)
    (found,) = batches.counts(batch).values()
    return {state: count for state, count in found.items() if count}


def hash_of(batch: Batch) -> str:
    """Of what every row was answered with, in the file's order."""
    rows = BatchResult.objects.filter(column__batch=batch, ok=True).order_by("number")
    said = rows.values_list("number", "text", "finish_reason")
    return hashlib.sha256(repr(list(said)).encode()).hexdigest()


def assert_once(batch: Batch, count: int) -> None:
    """Every row has exactly one good result."""
    good = BatchResult.objects.filter(column__batch=batch, ok=True)
    assert sorted(good.values_list("number", flat=True)) == list(range(1, count + 1))


def test_every_row_is_answered_once_in_time_and_shape(engine: Deployment) -> None:
    batch = begin(engine, [f"[[text=answer {i}]]" for i in range(300)])
    assert ended(batch) == {"done": 300}
    assert_once(batch, 300)
    first = BatchResult.objects.get(column__batch=batch, number=1)
    assert (first.text, first.finish_reason, first.error) == ("answer 0", "stop", "")
    assert 0 < first.timings["ttft"] <= first.timings["e2e"]
    assert first.usage["completion_tokens"] > 0
    assert first.replica and first.configuration_id == first.replica.configuration_id
    assert not BatchItem.objects.filter(column__batch=batch).exclude(claimed_by="").exists()


# Rows that an API key sent, and that key's limits


def sent(deployment: Deployment, key: ApiKey, prompts: Sequence[Any]) -> Batch:
    """A batch that came by /v1/batches with this key."""
    with transaction.atomic():
        batch = begin(deployment, prompts)
        ApiBatch.objects.create(
            team=batch.team,
            token=f"batch_{batch.pk}",
            key=key,
            input_token="file_1",
            node="test-node",
            endpoint="/v1/chat/completions",
            batch=batch,
            expires_at=Now() + timedelta(days=1),
        )
    return batch


def limited(team: Team, **limits: float) -> ApiKey:
    return keys.make(team, None, "robot", ["endpoints"], limits=limits)[0]


def test_rows_of_a_key_count_to_its_limits_and_fail_in_words_beyond_the_day_s(engine: Deployment) -> None:
    Node.objects.update(price_per_hour=36)
    key = limited(engine.team, requests_day=3, tokens_day=100_000, spend_day=5)
    batch = sent(engine, key, ["[[tokens=2]]"] * 5)
    assert ended(batch) == {"done": 3, "failed": 2}
    refused = BatchResult.objects.filter(column__batch=batch, ok=False)
    assert set(refused.values_list("error_code", "replica")) == {("insufficient_quota", None)}
    assert "robot has used its 3 requests a day" in refused[0].error
    requests, tokens, spend = row_limits._used_today(key.pk)
    told = [one.usage for one in BatchResult.objects.filter(column__batch=batch, ok=True)]
    assert requests == 3 and spend > 0
    assert tokens == sum(one["prompt_tokens"] + one["completion_tokens"] for one in told)
    shown = key_report.lines([key])[key.pk]
    assert {line.title: line.used for line in shown}["Requests a day"] == "3"
    # Once those have ended, with a higher limit the failed rows may be asked again.
    ApiKey.objects.filter(pk=key.pk).update(limits={"requests_day": 9})
    assert batches.retry_failed(batch, None) == 2
    assert ended(batch) == {"done": 5}
    assert row_limits._used_today(key.pk)[0] == 5


def test_rows_wait_while_a_minute_s_limit_is_used_and_one_that_never_fits_is_refused(
    engine: Deployment,
) -> None:
    left = 60 - time.time() % 60
    if left < 8:
        until("a minute with time left in it begins", lambda: time.time() % 60 < 50, 10)
    key = limited(engine.team, requests_minute=2, tokens_minute=1000)
    batch = sent(engine, key, ["[[tokens=2]]"] * 3)
    until("two are done", lambda: done(batch) == 2)
    item = BatchItem.objects.get(column__batch=batch, state__in=["waiting", "claimed"])
    (column,) = batch.columns.all()

    async def others() -> list[Exception]:
        gate = await row_limits.opens(column.pk)
        assert gate is not None
        found: list[Exception] = []
        for body in ({"messages": []}, {"messages": [], "max_tokens": 5000}):
            try:
                await gate.admit(Row(item.pk, 1, 0, 0, "/v1/chat/completions", body), {})
            except (Waits, Refused) as problem:
                found.append(problem)
        await row_limits.closes()
        return found

    waits, refused = asyncio.run(others())
    assert isinstance(waits, Waits) and 0 < waits.seconds <= 60, "another process meets the same limit"
    assert isinstance(refused, Refused) and "ask for fewer tokens" in refused.text
    assert done(batch) == 2
    ApiKey.objects.filter(pk=key.pk).update(limits={"requests_minute": 9})
    assert ended(batch) == {"done": 3}, "those that wait go on"


def test_an_idle_site_has_no_process_for_batches_and_a_worker_ends_its_own(
    worker: Fleet, engine: Deployment
) -> None:
    begun = worker.workers["test-node"]
    batch = begin(engine, ["[[tokens=2]]"])
    ended(batch)
    (process,) = asking()
    assert process.parent() == psutil.Process(begun.pid)
    begun.terminate()
    begun.wait(20)
    assert not process.is_running()
    worker.work(**QUICK)
    ended(begin(engine, ["[[tokens=2]]"]))
    worker.workers["test-node"].kill()
    until("it ends with a killed parent", lambda: not asking(), 10)
    worker.work(**QUICK)


def test_it_survives_killed_processes_a_flushed_redis_and_killed_engines(
    worker: Fleet, engine: Deployment
) -> None:
    """The short form of tests/bench/batches.py."""
    prompts = [f"[[delay=20]] [[text=answer number {i}]]" for i in range(300)]
    plain = begin(engine, prompts)
    assert ended(plain) == {"done": 300}
    batch = begin(engine, prompts)
    faults: list[Callable[[], object]] = [
        lambda: (kill_asking(), redis.Redis.from_url(settings.REDIS_URL).flushall()),
        lambda: processes.kill(engine_processes(ready(engine))),
        worker.workers["test-node"].kill,
    ]
    for place, fault in enumerate(faults):
        until(f"fault {place}", lambda place=place: done(batch) >= 20 + 80 * place, 60)
        fault()
    worker.work(**QUICK)
    assert ended(batch, 120) == {"done": 300}
    assert_once(batch, 300)
    assert hash_of(batch) == hash_of(plain)
    assert_sound()


def test_killed_at_every_commit_each_row_is_recorded_once(worker: Fleet, model: Model) -> None:
    # So few at once that rows are left for the last moment, however fast it may be asked.
    engine = start(model.team, model, tokens=5, token_delay_ms=2, slots=4)
    ready(engine)
    worker.workers["test-node"].terminate()
    worker.workers["test-node"].wait(20)
    try:
        batch = _killed_again_and_again(worker, engine)
    finally:
        worker.work(**QUICK)
    assert ended(batch, 120) == {"done": 399, "failed": 1}
    results = BatchResult.objects.filter(column__batch=batch)
    assert sorted(results.values_list("number", flat=True)) == list(range(1, 401))
    deployments.stop(engine, None)


def _killed_again_and_again(worker: Fleet, engine: Deployment) -> Batch:
    """A batch of 400 rows that was worked on until each of the moments once, and is not over."""
    prompts = [f"[[delay=30]] [[text=answer {i}]]" for i in range(400)]
    # Its connection is cut, as if the engine had died; so rows are given back, too.
    prompts[3] = "[[delay=30]] [[cut=1]] [[tokens=4]]"
    batch = begin(engine, prompts)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.dying_batch"],
        cwd=fleet.ROOT,
        env=worker.environments["test-node"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as dying:
        assert dying.stdout
        for moment in dying_batch.MOMENTS:
            assert dying.stdout.readline().split() == [*moment, "-9"]
        dying.terminate()
    return batch


def test_a_row_that_kills_the_engine_is_tried_alone_three_times(engine: Deployment) -> None:
    """Once in company, three times alone, then an error row; who was in flight with it is answered."""
    before = engine.replicas.count()
    prompts = [f"[[delay=10]] [[text=answer {i}]]" for i in range(40)]
    prompts[7] = "[[delay=10]] [[crash]]"
    batch = begin(engine, prompts)
    assert ended(batch, 120) == {"done": 39, "failed": 1}
    killer = BatchItem.objects.get(column__batch=batch, state="failed")
    result = BatchResult.objects.get(column__batch=batch, number=killer.number)
    assert (killer.number, killer.deaths, result.error_code) == (8, 3, "died_midway")
    assert "nothing else in flight" in result.error
    ready(engine)
    assert engine.replicas.count() == before + 4


def test_what_fails_is_an_error_row_and_is_asked_again_when_asked_to(engine: Deployment) -> None:
    prompts: list[Any] = [
        "[[tokens=2]]",
        "[[error=500]]",
        "[[malformed]]",
        {"messages": [], "max_tokens": 4},
        {"messages": [{"role": "user", "content": "x"}], "chat_template": "no"},
        "[[error=400]]",
    ]
    batch = begin(engine, prompts)
    assert ended(batch) == {"done": 1, "failed": 5}
    wrong = BatchResult.objects.filter(column__batch=batch, ok=False).order_by("number")
    assert [one.error_code for one in wrong] == [
        "refused",
        "malformed",
        "bad_request",
        "bad_request",
        "bad_request",
    ]
    assert all(one.error for one in wrong)
    assert batches.retry_failed(batch, None) == 5
    assert ended(batch) == {"done": 1, "failed": 5}
    kept = BatchResult.objects.filter(column__batch=batch)
    assert sorted(kept.values_list("number", "attempt")) == sorted(
        [(1, 0)] + [(n, attempt) for n in range(2, 7) for attempt in (0, 1)]
    )


def test_pause_lets_rows_in_flight_end_and_resume_goes_on(engine: Deployment) -> None:
    batch = begin(engine, [f"[[delay=60]] [[text=answer {i}]]" for i in range(1000)])
    until("it answers", lambda: done(batch) >= 5)
    batches.pause(batch, None)
    claimed = BatchItem.objects.filter(column__batch=batch, state="claimed")
    until("nothing is in flight", lambda: not claimed.exists())
    stood = done(batch)
    assert 0 < stood < 1000
    time.sleep(1.5)
    assert done(batch) == stood
    assert not BatchResult.objects.filter(column__batch=batch, ok=False).exists()
    batches.resume(batch, None)
    assert ended(batch, 60) == {"done": 1000}


def test_cancel_hangs_up(engine: Deployment) -> None:
    batch = begin(engine, ["[[hang]]", "[[a]] [[tokens=2]]", *["[[hang]]"] * 8])
    until("it hangs", lambda: done(batch) == 1)
    batches.cancel(batch, None)
    assert ended(batch, 10) == {"done": 1, "cancelled": 9}
    assert batch.state == State.CANCELLED


def test_a_stopped_deployment_is_started_for_it_and_stopped_after_it(model: Model) -> None:
    deployment = start(model.team, model, tokens=3)
    ready(deployment)
    deployments.stop(deployment, None)
    until("it stops", lambda: not deployment.replicas.exclude(state__in=Replica.TERMINAL).exists())
    batch = begin(deployment, ["a", "b", "c"])
    assert ended(batch) == {"done": 3}
    deployment.refresh_from_db()
    assert deployment.desired == "stopped"
    until("it stops again", lambda: not deployment.replicas.exclude(state__in=Replica.TERMINAL).exists())


def test_a_stop_that_was_asked_for_is_no_row_s_fault(model: Model) -> None:
    deployment = start(model.team, model, tokens=5)
    ready(deployment)
    batch = begin(deployment, ["[[tokens=200]] [[delay=100]]", "[[tokens=3]]"])
    claimed = BatchItem.objects.filter(column__batch=batch, number=1)
    until("it is asked", lambda: done(batch) == 1)
    deployments.stop(deployment, None)
    until("it is given back", claimed.filter(state="waiting").exists)
    assert claimed.get().deaths == 0
    assert not BatchResult.objects.filter(column__batch=batch, ok=False).exists()
    batches.cancel(batch, None)
    assert ended(batch) == {"done": 1, "cancelled": 1}


def running(replica: Replica) -> int:
    """How many requests its engine works on."""
    return asyncio.run(_running(engine_client.target(replica))) or 0


def peak(replica: Replica, seconds: float = 0.6) -> int:
    """The most at once over the time of several rows: rows begun together also end together, so one look may
    fall between two."""
    end, most = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        most = max(most, running(replica))
    return most


async def _running(target: engine_client.Target) -> int | None:
    try:
        return await engine_client.running(target)
    finally:
        await engine_client.close()


def talk(deployment: Deployment) -> Generation:
    """An answer that a person waits for there, as a web process holds it."""
    conversation = Conversation.objects.create(team=deployment.team)
    column = Column.objects.create(conversation=conversation, deployment=deployment, position=0)
    turn = Turn.objects.create(conversation=conversation, client_id="1", text="Hello")
    return Generation.objects.create(
        turn=turn, column=column, state="streaming", owner="w", lease_expires_at=Now() + timedelta(minutes=5)
    )


def test_it_gives_way_while_people_wait_for_answers(model: Model) -> None:
    deployment = start(model.team, model, tokens=20, token_delay_ms=10)
    replica = ready(deployment)
    batch = begin(deployment, [f"row {i}" for i in range(4000)])
    until("many are in flight", lambda: peak(replica) >= 16)
    waits = talk(deployment)
    peaks: list[int] = []

    def gives_way() -> bool:
        """It may still have found room for more after the person came."""
        peaks.append(peak(replica))
        return peaks[-1] <= max(16, *peaks) // 2

    until("fewer are in flight", gives_way)
    waits.delete()
    until("more are in flight again", lambda: running(replica) > peaks[-1])
    batches.cancel(batch, None)
    ended(batch)
    deployments.stop(deployment, None)


def test_a_row_that_is_watched_shows_its_text_while_it_is_written(engine: Deployment) -> None:
    batch = begin(engine, ["[[delay=150]] [[text=It was a dark and stormy night, and the rain fell.]]"])
    column = batch.columns.get().pk
    seen: list[str] = []

    def grows() -> bool:
        found = batch_live.watch(column, 1)
        seen.append(found["content"] if found else "")
        return len({text for text in seen if text}) >= 3

    until("its text grows", grows)
    assert ended(batch) == {"done": 1}
    whole = BatchResult.objects.get(column__batch=batch).text
    assert all(whole.startswith(text) for text in seen) and whole not in seen
    assert batch_live.watch(column, 2) is None
