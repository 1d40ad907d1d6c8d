"""Faults on one node, with a real worker, runners and fake engines: what is lost, what is never doubled."""

import signal
import threading
from collections.abc import Iterator

import psutil
import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from playground import deployments, processes, servers
from playground.models import Deployment, Model, Node, Replica, Team
from tests import fleet
from tests.fleet import Fleet, assert_sound, engine_processes, ready, start, until
from tests.home import HOME

pytestmark = pytest.mark.slow
State = Replica.State


@pytest.fixture(scope="module")
def worker(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """This machine's worker, for the whole module: rows are kept between tests, as on a real node."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        workers = Fleet()
        workers.work()
        yield workers
        workers.close()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def model(worker: Fleet) -> Model:
    team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
    return fleet.tiny_model(team)


@pytest.fixture(autouse=True)
def clean(worker: Fleet) -> Iterator[None]:
    """Every test leaves a sound node with nothing on it."""
    yield
    for row in Deployment.objects.exclude(desired="deleted"):
        deployments.delete(row, None)
    live = Replica.objects.exclude(state__in=Replica.TERMINAL)
    until("everything stops", lambda: not live.exists())
    until("every runner ends", lambda: not fleet.runners())
    assert_sound()
    assert not processes.marked(HOME)


def run(model: Model, **options: object) -> tuple[Deployment, Replica]:
    """A deployment on the fake engine and its ready replica."""
    deployment = start(model.team, model, **options)
    return deployment, ready(deployment)


def replaced(deployment: Deployment, first: Replica) -> Replica:
    """The replica that took over from `first`, which had ended before it started: never two."""
    second = ready(deployment, other_than=first.pk)
    first.refresh_from_db()
    assert first.state == State.FAILED and first.reason, fleet.story(deployment)
    claimed = second.events.filter(state=State.STARTING).earliest("at")
    assert first.ended_at is not None and first.ended_at <= claimed.at
    assert not engine_processes(first)
    assert_sound()
    return second


def test_a_killed_engine_is_replaced(model: Model) -> None:
    deployment, first = run(model)
    processes.kill(engine_processes(first))
    replaced(deployment, first)


def test_a_killed_inner_process_is_seen_and_replaced(model: Model) -> None:
    deployment, first = run(model, inner=True)
    inner = [process for process in engine_processes(first) if process.pid != first.engine_pid]
    assert inner
    processes.kill(inner)
    replaced(deployment, first)


def test_a_frozen_engine_is_seen_and_replaced(model: Model) -> None:
    deployment, first = run(model)
    processes.kill(engine_processes(first), signal.SIGSTOP)
    replaced(deployment, first)
    assert first.reason_code == "frozen"


def test_a_killed_runner_takes_its_engine_with_it_and_is_replaced(model: Model) -> None:
    deployment, first = run(model)
    assert first.runner_pid is not None
    psutil.Process(first.runner_pid).kill()
    replaced(deployment, first)
    assert first.reason_code == "runner_died"


def test_a_killed_worker_leaves_engines_alone_and_work_resumes(worker: Fleet, model: Model) -> None:
    deployment, first = run(model)
    worker.workers["test-node"].kill()
    worker.workers["test-node"].wait()
    second = start(model.team, model)
    beat = first.heartbeat_at
    until("the runner beats without a worker", lambda: Replica.objects.get(pk=first.pk).heartbeat_at != beat)
    worker.work()
    ready(second)
    first.refresh_from_db()
    assert first.state == State.READY
    assert psutil.pid_exists(first.engine_pid or 0)
    assert deployment.replicas.count() == 1
    assert_sound()


def test_redis_flushed_in_the_middle_of_a_start_costs_nothing(model: Model) -> None:
    deployment = start(model.team, model, load_s=1)
    client = redis.Redis.from_url(settings.REDIS_URL)
    for state in (State.ASSIGNED, State.LOADING):
        client.flushall()
        until(state, lambda state=state: deployment.replicas.filter(events__state=state).exists())
    client.flushall()
    ready(deployment)
    assert deployment.replicas.count() == 1
    assert_sound()


def test_a_start_gets_done_while_redis_is_away_and_tasks_resume_after_it(model: Model) -> None:
    deployment, first = run(model)
    servers.stop_valkey(HOME)
    try:
        second = start(model.team, model)
        ready(second)
    finally:
        servers.start_valkey(HOME)
    first.refresh_from_db()
    assert first.state == State.READY and deployment.replicas.count() == 1
    ready(start(model.team, model))
    assert_sound()


def test_postgresql_away_for_longer_than_the_lost_time_loses_nobody(model: Model) -> None:
    deployment, first = run(model)
    pid = first.engine_pid
    connections.close_all()
    servers.stop_postgres(HOME)
    try:
        ended = threading.Event()
        assert not ended.wait(float(fleet.QUICK["SLIPWAY_LOST_AFTER_S"]) + 1)
        assert psutil.Process(pid or 0).is_running()
    finally:
        servers.start_postgres(HOME)
        connections.close_all()
    back = timezone.now()
    until(
        "its runner beats again", lambda: Replica.objects.filter(pk=first.pk, heartbeat_at__gt=back).exists()
    )
    node = Node.objects.filter(name="test-node", heartbeat_at__gt=back)
    until("the node beats again", node.exists)
    ready(start(model.team, model))
    first.refresh_from_db()
    assert (first.state, first.engine_pid) == (State.READY, pid)
    assert deployment.replicas.count() == 1
    assert_sound()


def test_an_engine_that_finds_its_port_taken_each_time_is_given_up_with_the_reason(model: Model) -> None:
    deployment = start(model.team, model, crash_at_load="port")
    until("it gives up", lambda: Deployment.objects.get(pk=deployment.pk).problem, 40)
    attempts = list(deployment.replicas.order_by("pk"))
    assert [row.reason_code for row in attempts] == ["port_taken"] * deployments.ATTEMPTS
    assert all(row.log_tail for row in attempts)
    assert Deployment.objects.get(pk=deployment.pk).desired == "running"


def test_a_reason_that_would_come_again_is_not_tried_again(model: Model) -> None:
    deployment = start(model.team, model, crash_at_load="oom")
    until("it gives up", lambda: Deployment.objects.get(pk=deployment.pk).problem)
    only = deployment.replicas.get()
    assert only.reason_code == "out_of_memory"
    assert only.log_tail


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace_period(model: Model) -> None:
    deployment, replica = run(model, ignore_sigterm=True)
    deployments.stop(deployment, None)
    until("it stops", lambda: Replica.objects.get(pk=replica.pk).state == State.STOPPED)
    assert not engine_processes(replica)
    assert Replica.objects.get(pk=replica.pk).reason_code == "asked"


def test_an_orphaned_child_in_a_session_of_its_own_goes_too(model: Model) -> None:
    deployment, replica = run(model, orphan=True)
    assert len(engine_processes(replica)) > 1
    deployments.stop(deployment, None)
    until("it stops", lambda: Replica.objects.get(pk=replica.pk).state == State.STOPPED)
    assert not engine_processes(replica)


def test_starting_twice_starts_one(worker: Fleet, model: Model) -> None:
    deployment = start(model.team, model, load_s=0.5)
    threads = [threading.Thread(target=_start, args=[deployment]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replica = ready(deployment)
    again = worker.manage("run_replica", str(replica.pk))
    assert "nothing to run here" in again.stdout
    replica.refresh_from_db()
    assert replica.state == State.READY
    assert deployment.replicas.count() == 1
    assert len(fleet.runners()) == 1
    assert_sound()


def _start(deployment: Deployment) -> None:
    try:
        deployments.start(Deployment.objects.get(pk=deployment.pk), None)
    finally:
        connections.close_all()


def test_stop_ends_a_start_under_way(model: Model) -> None:
    deployment = start(model.team, model, load_s=60)
    loading = deployment.replicas.filter(state__in=[State.STARTING, State.LOADING], engine_pid__isnull=False)
    until("it loads", loading.exists)
    deployments.stop(deployment, None)
    until("it stops", lambda: deployment.replicas.get().state == State.STOPPED)
    assert not engine_processes(deployment.replicas.get())


def test_a_restart_replaces_the_replica_in_order(model: Model) -> None:
    deployment, first = run(model)
    deployments.restart(deployment, None)
    second = ready(deployment, other_than=first.pk)
    first.refresh_from_db()
    assert first.state == State.STOPPED and first.ended_at is not None
    assert first.ended_at <= second.created_at
    assert deployment.configuration_id == second.configuration_id


def test_a_stopped_node_leaves_nothing_and_brings_back_what_ran(worker: Fleet, model: Model) -> None:
    deployment, first = run(model)
    done = worker.manage("node", "stop", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    first.refresh_from_db()
    assert (first.state, first.reason_code) == (State.STOPPED, "node_stopping")
    assert not processes.marked(HOME) and not fleet.runners()
    deployment.refresh_from_db()
    assert deployment.desired == "running"
    worker.workers["test-node"].terminate()
    worker.workers["test-node"].wait(20)
    worker.work()
    ready(deployment, other_than=first.pk)
    assert_sound()
