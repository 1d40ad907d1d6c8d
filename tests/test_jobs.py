"""Jobs: one for many who ask, progress, cancel, and what becomes of one whose runner died."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from django.conf import settings
from django.db import connections

from playground import environments, jobs, nodes
from playground.models import EngineEnvironment, Job, Node, Team, User
from tests.slow_engine import write_package

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def node(team: Team) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A FIFO at which the slow engine's installation waits; `open_gate` lets it go on."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    monkeypatch.setenv("GATE", str(path))
    monkeypatch.setenv("SLOW_PACKAGE", str(write_package(tmp_path / "package")))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("SLIPWAY_EXTRA_ENGINES", "fake=tests.fake_adapter:Fake,slow=tests.slow_engine:Slow")
    yield path
    for row in environments.installed():
        if row.engine == "slow":
            shutil.rmtree(environments.path(row))


@pytest.fixture
def job(node: Node, gate: Path) -> Job:
    found = environments.ensure(node, "slow")
    assert isinstance(found, Job)
    return found


def open_gate(gate: Path) -> None:
    """From now on nothing waits at the gate; what waits there now goes on."""
    waiting = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    gate.unlink()
    gate.write_text("")
    os.close(waiting)


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def step_of(job: Job) -> str:
    job.refresh_from_db()
    return str(job.progress.get("step", ""))


def marked(job: Job) -> list[psutil.Process]:
    """Living processes that the job started."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("SLIPWAY_JOB") == str(job.pk)
            here = process.environ().get("SLIPWAY_HOME") == str(settings.HOME)
            if ours and here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def leftovers() -> list[str]:
    return [path.name for path in (settings.HOME / "environments").glob(".*")]


def run_in_thread(job: Job) -> threading.Thread:
    def work() -> None:
        try:
            jobs.run(job.pk)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def spawn_runner(job: Job, lease_s: float = 4.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "run_job", str(job.pk)],
        cwd=ROOT,
        env=os.environ | {"SLIPWAY_LEASE_S": str(lease_s)},
        start_new_session=True,
    )


def test_two_who_ask_share_one_job(node: Node, team: Team, user: User) -> None:
    first = jobs.request(Job.Kind.FETCH_MODEL, node, "format:1", {"format": 1}, team, user)
    second = jobs.request(Job.Kind.FETCH_MODEL, node, "format:1", {"format": 1}, team)
    assert first == second
    assert Job.objects.count() == 1


def test_many_who_ask_at_once_share_one_job(node: Node, team: Team) -> None:
    made: list[int] = []

    def ask() -> None:
        try:
            made.append(jobs.request(Job.Kind.FETCH_MODEL, node, "format:1", {"format": 1}, team).pk)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1


def test_it_shows_its_steps_and_ends_with_a_result(job: Job, gate: Path) -> None:
    said: list[str] = []
    open_gate(gate)
    assert jobs.run(job.pk, said.append) == Job.State.DONE
    job.refresh_from_db()
    assert [one["step"] for one in job.progress["past"]][:2] == ["finding Python", "making the environment"]
    assert said[0] == "finding Python"
    made = EngineEnvironment.objects.get(digest=job.result["environment"])
    assert made.packages.startswith("slow-package")
    assert environments.on_disk().count(made.digest) == 1
    assert "uv" in job.log_tail


def test_a_cancel_ends_it_and_everything_it_started(job: Job, gate: Path, user: User) -> None:
    thread = run_in_thread(job)
    until(lambda: step_of(job) == "resolving packages" and marked(job))
    assert jobs.cancel(job, user)
    thread.join(timeout=20)
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.CANCELLED, "Cancelled by ada.")
    assert marked(job) == []
    assert leftovers() == []
    assert not jobs.cancel(job, user)


def test_a_cancelled_queued_job_never_runs(job: Job, user: User) -> None:
    assert jobs.cancel(job, user)
    assert jobs.run(job.pk) == Job.State.CANCELLED
    job.refresh_from_db()
    assert job.attempt == 0


def test_a_killed_runner_is_replaced_and_its_programs_end(job: Job, gate: Path) -> None:
    runner = spawn_runner(job)
    until(lambda: step_of(job) == "resolving packages" and marked(job))
    runner.kill()
    runner.wait()
    orphans = marked(job)
    assert orphans, "the killed runner's programs should still be there for this test"
    until(lambda: job in jobs.due())
    job.refresh_from_db()
    assert job.state == Job.State.QUEUED
    open_gate(gate)
    assert jobs.run(job.pk) == Job.State.DONE
    job.refresh_from_db()
    assert job.attempt == 2
    assert not any(process.is_running() and process.status() != "zombie" for process in orphans)
    assert leftovers() == []


def test_a_runner_told_to_end_queues_its_job_again(job: Job) -> None:
    runner = spawn_runner(job, lease_s=30)
    until(lambda: step_of(job) == "resolving packages" and marked(job))
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=20) == 0
    job.refresh_from_db()
    assert (job.state, job.attempt) == (Job.State.QUEUED, 0)
    assert marked(job) == []
    assert leftovers() == []


def test_a_node_that_stops_ends_its_job_runners(job: Job) -> None:
    runner = spawn_runner(job, lease_s=30)
    until(lambda: step_of(job) == "resolving packages")
    ended = threading.Thread(target=runner.wait)
    ended.start()
    assert jobs.stop_local() == []
    ended.join(timeout=5)
    job.refresh_from_db()
    assert job.state == Job.State.QUEUED


def test_it_gives_up_after_three_dead_runners(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(
        state=Job.State.RUNNING, attempt=jobs.ATTEMPTS, lease_expires_at=job.created_at
    )
    assert job not in jobs.due()
    job.refresh_from_db()
    assert job.state == Job.State.FAILED
    assert "died 3 times" in job.error


def test_a_second_runner_leaves_the_target_to_the_first(job: Job) -> None:
    with jobs.alone(job.target) as held:
        assert held
        assert jobs.run(job.pk) == Job.State.QUEUED


def test_a_failure_says_what_went_wrong(
    node: Node, gate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLOW_PACKAGE", str(tmp_path / "nothing-there"))
    found = environments.ensure(node, "slow")
    assert isinstance(found, Job)
    assert jobs.run(found.pk) == Job.State.FAILED
    found.refresh_from_db()
    assert "nothing-there" in found.error
    assert "nothing-there" in found.log_tail
    assert environments.ensure(node, "slow", since=found.created_at) == found
    again = environments.ensure(node, "slow")
    assert again != found


def test_a_node_that_does_not_accept_starts_no_job(job: Job, node: Node) -> None:
    Job.objects.filter(pk=job.pk).update(attempt=1)
    assert job in jobs.due()
    Node.objects.filter(pk=node.pk).update(accepting=False)
    assert jobs.due() == []


def test_a_sweep_starts_a_job_once_however_slow_its_runner_begins(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(created_at="2000-01-01T00:00Z")
    Node.objects.filter(pk=job.node_id).update(accepting=True)
    for _ in range(4):
        nodes.sweep()
    started = [child for child in psutil.Process().children() if runs(child, job)]
    assert len(started) == 1
    until(lambda: step_of(job))
    jobs.cancel(job, None)
    until(lambda: not any(runs(child, job) for child in psutil.Process().children()))


def runs(process: psutil.Process, job: Job) -> bool:
    try:
        return process.cmdline()[-2:] == ["run_job", str(job.pk)]
    except psutil.NoSuchProcess:
        return False
