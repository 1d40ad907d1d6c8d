"""Deployments by their verbs and by passes of the control plane: what is refused, what follows what."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from django.conf import settings
from django.db import connections
from django.utils import timezone

from playground import catalogue, configurations, deployments, nodes, nudges, reconcile
from playground.engines.base import Reason, ReasonCode
from playground.models import AuditEntry, Deployment, Model, Node, Replica, Team, User
from tests import fleet
from tests.home import HOME

pytestmark = pytest.mark.django_db
State = Replica.State
GIB = 1 << 30
CRASH = Reason(ReasonCode.CRASHED, "It crashed.")


@pytest.fixture
def node(db: None) -> Node:
    """This machine's node, alive, with two cores and 8 GiB."""
    inventory = {"cores": 2, "memory_bytes": 8 * GIB, "memory_available_bytes": 8 * GIB, "gpus": []}
    return Node.objects.create(name="test-node", heartbeat_at=timezone.now(), inventory=inventory)


@pytest.fixture
def model(team: Team) -> Model:
    return fleet.tiny_model(team)


def ask(model: Model, **values: object) -> Deployment:
    given = {"team": model.team, "user": None, "model": model, "engine": "fake", "options": {}} | values
    return deployments.request(**given)  # type: ignore[arg-type]


def settled(deployment: Deployment) -> Replica:
    """The newest replica after one pass."""
    reconcile.settle(deployment.pk)
    deployment.refresh_from_db()
    newest = deployment.replicas.order_by("-pk").first()
    assert newest is not None
    return newest


def brought_to_ready(deployment: Deployment) -> Replica:
    """Its replica, ready, by the reports a runner would make."""
    replica = settled(deployment)
    assert deployments.claim(replica.pk, 1)
    assert deployments.mark_started(replica.pk, ["fake"], 18000, 2, None)
    assert deployments.mark_loading(replica.pk, "")
    assert deployments.mark_ready(replica.pk)
    replica.refresh_from_db()
    return replica


# Asking


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"--trust-remote-code": True}, "--trust-remote-code"),
        ({"trust_remote_code": "true"}, "trust_remote_code"),
        ({"host": "0.0.0.0"}, "host"),
        ({"environment": {"LD_PRELOAD": "x"}}, "environment"),
        ({"tokens": "5; rm -rf /"}, "tokens"),
        ({"tokens": "5\n--host"}, "tokens"),
        ({"crash_at_load": "--host=0.0.0.0"}, "crash_at_load"),
        ({"tokens": 0}, "tokens"),
        ({";": "x"}, ";"),
    ],
)
def test_it_refuses_options_the_engine_does_not_have(
    model: Model, options: dict[str, object], field: str
) -> None:
    with pytest.raises(deployments.DeploymentRefused) as refusal:
        ask(model, options=options)
    assert field in refusal.value.fields
    assert not Deployment.objects.exists()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"engine": "nope"}, "engine"),
        ({"version": "1.0 --index-url http://x"}, "version"),
        ({"version": "latest"}, "version"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"min_replicas": 2}, "min_replicas"),
        ({"max_replicas": 65}, "min_replicas"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"gpus": 0}, "gpus"),
        ({"cores": -1}, "cores"),
    ],
)
def test_it_refuses_what_cannot_be(model: Model, values: dict[str, object], field: str) -> None:
    with pytest.raises(deployments.DeploymentRefused) as refusal:
        ask(model, **values)
    assert field in refusal.value.fields


def test_it_refuses_a_model_that_may_not_be_loaded(model: Model) -> None:
    model.refused = "It holds code."
    model.save()
    with pytest.raises(deployments.DeploymentRefused, match="It holds code"):
        ask(model)


def test_it_refuses_another_teams_model(model: Model, stranger: User) -> None:
    other = Team.objects.get(slug="other")
    with pytest.raises(deployments.DeploymentRefused, match="No such model"):
        ask(model, team=other)


def test_it_keeps_only_what_was_set_in_the_engines_own_types(model: Model) -> None:
    deployment = ask(model, options={"tokens": "7", "orphan": None})
    assert deployment.wanted["options"] == {"tokens": 7}
    assert deployment.desired == "running"


def test_names_nobody_gave_do_not_repeat(model: Model) -> None:
    assert [ask(model).name, ask(model).name, ask(model, name="mine").name] == [
        "tiny-fake",
        "tiny-fake-2",
        "mine",
    ]


def test_a_released_deployment_refuses_the_playgrounds_verbs(model: Model, node: Node, user: User) -> None:
    replica = brought_to_ready(ask(model))
    assert replica.configuration is not None
    own = deployments.release(replica.configuration, team=model.team, user=user, name="prod-1")
    assert own.configuration == replica.configuration
    for verb in (deployments.start, deployments.stop, deployments.restart, deployments.delete):
        with pytest.raises(deployments.DeploymentRefused, match="serves an endpoint"):
            verb(own, user)
    own.refresh_from_db()
    assert own.desired == "running"
    deployments.retire(own, user)
    own.refresh_from_db()
    assert (own.desired, own.released) == ("stopped", False)


def test_a_deleted_deployment_cannot_be_started(model: Model, user: User) -> None:
    deployment = ask(model)
    deployments.delete(deployment, user)
    with pytest.raises(deployments.DeploymentRefused, match="was deleted"):
        deployments.start(deployment, user)
    verbs = AuditEntry.objects.filter(object=f"deployment:{deployment.pk}").values_list("action", flat=True)
    assert list(verbs.order_by("id")) == ["start", "delete"]


# From wish to ready


def test_one_pass_takes_a_start_to_its_node_and_slot(model: Model, node: Node) -> None:
    deployment = ask(model)
    replica = settled(deployment)
    assert (replica.state, replica.node, replica.resources["slots"]) == (State.ASSIGNED, node, ["cpu.0"])
    assert replica.resources["memory_bytes"] == 36 << 20
    assert replica.configuration == deployment.configuration
    assert replica.engine_key and replica.relay_key and replica.engine_key != replica.relay_key
    steps = list(replica.events.values_list("state", flat=True))
    assert steps == [State.PENDING, State.PREPARING, State.ASSIGNED]


def test_passes_are_idempotent(model: Model, node: Node) -> None:
    deployment = ask(model)
    first = settled(deployment)
    assert settled(deployment) == first
    assert first.events.count() == 3


def test_replicas_beside_each_other_get_slots_of_their_own(model: Model, node: Node) -> None:
    found = [settled(ask(model)) for _ in range(3)]
    assert [row.resources["slots"] for row in found] == [["cpu.0"], ["cpu.1"], ["cpu.2"]]


def test_equal_wishes_are_one_configuration_and_others_are_not(model: Model, node: Node) -> None:
    first, second = settled(ask(model, options={"tokens": 5})), settled(ask(model, options={"tokens": "5"}))
    third = settled(ask(model, options={"tokens": 6}))
    assert first.configuration == second.configuration != third.configuration
    assert first.configuration is not None
    assert configurations.digest(first.configuration.canonical) == first.configuration.digest
    assert catalogue.local(first.configuration.format).path.is_file()


def test_no_node_is_no_problem_at_first_and_one_later(model: Model) -> None:
    deployment = ask(model)
    replica = settled(deployment)
    assert (replica.state, deployment.problem) == (State.PENDING, "")
    assert "start a worker" in replica.reason
    Replica.objects.filter(pk=replica.pk).update(created_at=timezone.now() - timedelta(seconds=60))
    settled(deployment)
    assert "start a worker" in deployment.problem


def test_a_node_without_room_is_a_problem_in_words_until_there_is_some(model: Model, node: Node) -> None:
    node.inventory |= {"memory_bytes": 40 << 20, "memory_available_bytes": 40 << 20}
    node.save()
    holder, waiting = ask(model), ask(model)
    held = settled(holder)
    replica = settled(waiting)
    assert (replica.state, replica.reason_code) == (State.PENDING, ReasonCode.NO_ROOM)
    assert "tiny-fake (0.0 GiB)" in waiting.problem and waiting.problem == replica.reason
    deployments.end(held, deployments.ASKED)
    assert settled(waiting).state == State.ASSIGNED
    assert waiting.problem == ""


def test_a_node_that_is_stopping_or_silent_gets_nothing(model: Model, node: Node) -> None:
    Node.objects.update(accepting=False)
    assert settled(ask(model)).state == State.PENDING
    Node.objects.update(accepting=True, heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert settled(ask(model)).state == State.PENDING


def test_the_runners_first_act_is_won_once(model: Model, node: Node) -> None:
    replica = settled(ask(model))
    assert deployments.claim(replica.pk, 1)
    assert not deployments.claim(replica.pk, 2)
    replica.refresh_from_db()
    assert (replica.state, replica.runner_pid) == (State.STARTING, 1)


def test_a_report_out_of_turn_changes_nothing(model: Model, node: Node) -> None:
    replica = settled(ask(model))
    assert not deployments.mark_ready(replica.pk)
    assert not deployments.mark_unhealthy(replica.pk, "why")
    assert not deployments.mark_stopping(replica.pk)
    assert deployments.beat(replica.pk, {}) is None
    replica.refresh_from_db()
    assert replica.state == State.ASSIGNED


def test_ready_has_times_and_unhealthy_comes_back(model: Model, node: Node) -> None:
    deployment = ask(model)
    replica = brought_to_ready(deployment)
    assert replica.ready_at is not None
    assert deployments.ready_replicas(deployment) == [replica]
    assert deployments.mark_unhealthy(replica.pk, "no answer")
    assert deployments.ready_replicas(deployment) == []
    assert deployments.mark_recovered(replica.pk)
    assert deployments.ready_replicas(deployment) == [replica]


# Failures


def fail(replica: Replica, reason: Reason = CRASH) -> None:
    assert deployments.mark_failed(replica.pk, reason, ["last", "words"])


def test_a_failed_start_is_tried_again_after_its_wait_and_then_given_up(model: Model, node: Node) -> None:
    deployment = ask(model)
    for attempt in range(1, deployments.ATTEMPTS + 1):
        replica = settled(deployment)
        assert deployment.replicas.count() == attempt
        fail(replica)
        assert settled(deployment) == replica, "not before the wait is over"
        Deployment.objects.update(retry_at=timezone.now())
    assert settled(deployment) == replica
    assert deployment.problem == "It crashed."
    assert (replica.state, deployment.desired) == (State.ASSIGNED, "running")
    replica.refresh_from_db()
    assert replica.log_tail == "last\nwords"
    deployments.start(deployment, None)
    assert settled(deployment) != replica


def test_a_permanent_reason_is_given_up_at_once(model: Model, node: Node) -> None:
    deployment = ask(model)
    fail(settled(deployment), Reason(ReasonCode.OUT_OF_MEMORY, "It needs 2 GiB more."))
    settled(deployment)
    assert deployment.problem == "It needs 2 GiB more."
    assert deployment.replicas.count() == 1


def test_what_served_is_always_started_again(model: Model, node: Node) -> None:
    deployment = ask(model)
    for _ in range(deployments.ATTEMPTS + 2):
        fail(brought_to_ready(deployment))
        Deployment.objects.update(retry_at=timezone.now())
    deployment.refresh_from_db()
    assert deployment.problem == ""
    assert settled(deployment).state == State.ASSIGNED


def test_a_replica_ends_once(model: Model, node: Node) -> None:
    replica = brought_to_ready(ask(model))
    fail(replica)
    assert not deployments.mark_failed(replica.pk, CRASH, [])
    assert not deployments.mark_stopped(replica.pk, deployments.ASKED, [])
    assert not deployments.mark_lost(replica.pk)
    assert Deployment.objects.get(pk=replica.deployment_id).failures == 1


def silence(replica: Replica, *, suspected: bool = False) -> None:
    ago = timezone.now() - timedelta(minutes=10)
    Replica.objects.filter(pk=replica.pk).update(
        heartbeat_at=ago, **({"suspected_at": ago} if suspected else {})
    )


def test_a_silent_replica_is_suspected_then_lost_and_replaced_with_its_slot_kept(
    model: Model, node: Node
) -> None:
    deployment = ask(model)
    replica = brought_to_ready(deployment)
    silence(replica)
    settled(deployment)
    replica.refresh_from_db()
    assert replica.state == State.READY and replica.suspected_at
    silence(replica, suspected=True)
    second = settled(deployment)
    replica.refresh_from_db()
    assert replica.state == State.LOST
    assert second.resources["slots"] == ["cpu.1"], "what the lost one held is not given away"
    assert deployments.beat(replica.pk, {}) is None, "its runner learns that it was superseded"
    assert deployments.free(replica, None)
    replica.refresh_from_db()
    assert replica.state == State.FAILED


def test_a_beat_clears_the_suspicion(model: Model, node: Node) -> None:
    deployment = ask(model)
    replica = brought_to_ready(deployment)
    silence(replica)
    settled(deployment)
    assert deployments.beat(replica.pk, {"running": 1}) is not None
    settled(deployment)
    replica.refresh_from_db()
    assert (replica.state, replica.suspected_at, replica.health) == (State.READY, None, {"running": 1})


# Stopping


def test_stop_drains_what_serves_and_ends_what_does_not(model: Model, node: Node) -> None:
    serving, starting = ask(model), ask(model)
    first, second = brought_to_ready(serving), settled(starting)
    for deployment in (serving, starting):
        deployments.stop(deployment, None)
        settled(deployment)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (State.DRAINING, State.STOPPED)
    assert first.drain_at is not None
    assert deployments.mark_stopping(first.pk)
    assert deployments.mark_stopped(first.pk, Reason(ReasonCode.ASKED, "Stopped as asked."), [])
    settled(serving)
    assert serving.replicas.count() == 1


def test_a_drain_waits_for_every_router_but_not_for_ever(
    model: Model, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = brought_to_ready(ask(model))
    deployments.end(replica, deployments.ASKED)
    replica.refresh_from_db()
    monkeypatch.setattr(deployments, "DRAIN_CHECKS", [lambda row: row.pk != replica.pk])
    assert not deployments.drained(replica)
    replica.drain_at = timezone.now() - timedelta(seconds=settings.DRAIN_S + 1)
    assert deployments.drained(replica)


def test_nobody_uses_it_so_it_stops_and_touch_keeps_it(model: Model, node: Node) -> None:
    deployment = ask(model, idle_timeout_s=60)
    replica = brought_to_ready(deployment)
    long_ago = timezone.now() - timedelta(seconds=90)
    Deployment.objects.update(last_used_at=long_ago)
    deployments.touch(deployment)
    settled(deployment)
    assert deployment.desired == "running"
    Deployment.objects.update(last_used_at=long_ago)
    Replica.objects.update(health={"running": 1})
    settled(deployment)
    assert deployment.desired == "running", "it is answering somebody"
    Replica.objects.update(health={"running": 0})
    settled(deployment)
    replica.refresh_from_db()
    assert (deployment.desired, replica.state, replica.reason_code) == (
        "stopped",
        State.DRAINING,
        ReasonCode.IDLE,
    )


def test_the_idle_time_out_can_be_changed_within_its_range(model: Model, node: Node, user: User) -> None:
    deployment = ask(model)
    with pytest.raises(deployments.DeploymentRefused) as refusal:
        deployments.set_idle_timeout(deployment, 0, user)
    assert "idle_timeout_s" in refusal.value.fields
    deployments.set_idle_timeout(deployment, 60, user)
    deployment.refresh_from_db()
    assert deployment.idle_timeout_s == 60


def test_a_hand_over_moves_the_running_replica_once(model: Model, node: Node) -> None:
    tested = ask(model)
    replica = brought_to_ready(tested)
    assert replica.configuration is not None
    own = deployments.release(replica.configuration, team=model.team, user=None, name="prod-1")
    waiting = settled(own)
    assert deployments.hand_over(tested, own)
    replica.refresh_from_db()
    waiting.refresh_from_db()
    tested.refresh_from_db()
    assert (replica.deployment, replica.state, waiting.state) == (own, State.READY, State.STOPPED)
    assert tested.desired == "stopped"
    assert not deployments.hand_over(tested, own)
    settled(own)
    assert own.replicas.exclude(state__in=Replica.TERMINAL).get() == replica


def test_a_hand_over_to_another_configuration_is_refused(model: Model, node: Node) -> None:
    tested, other = ask(model), ask(model, options={"tokens": 3})
    brought_to_ready(tested)
    replica = brought_to_ready(other)
    assert replica.configuration is not None
    own = deployments.release(replica.configuration, team=model.team, user=None, name="prod-1")
    assert not deployments.hand_over(tested, own)


def test_weights_changed_since_are_not_served_under_the_old_name(model: Model, node: Node) -> None:
    deployment = ask(model)
    fail(brought_to_ready(deployment))
    path = HOME / "models" / "tiny.gguf"
    path.write_bytes(path.read_bytes() + bytes(32))
    Deployment.objects.update(retry_at=None)
    replica = settled(deployment)
    replica.refresh_from_db()
    assert (replica.state, replica.reason_code) == (State.FAILED, ReasonCode.BAD_WEIGHTS)
    deployment.refresh_from_db()
    assert "start the model anew" in deployment.problem


# Several at once, and a broker that is away


@pytest.mark.django_db(transaction=True)
def test_two_control_workers_never_give_a_slot_twice(team: Team, model: Model, node: Node) -> None:
    rows = [ask(model) for _ in range(4)]
    started = threading.Barrier(4)

    def work(order: list[Deployment]) -> None:
        try:
            started.wait()
            for row in order:
                reconcile.settle(row.pk)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[rows[n:] + rows[:n]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replicas = Replica.objects.all()
    assert replicas.count() == 4
    slots = sorted(slot for row in replicas for slot in row.resources["slots"])
    assert slots == ["cpu.0", "cpu.1", "cpu.2", "cpu.3"]


@pytest.mark.django_db(transaction=True)
def test_a_nudge_to_a_broker_that_is_away_is_dropped_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = Celery("away", broker=f"redis+socket://{tmp_path}/none.sock", set_as_current=False)
    monkeypatch.setattr(nudges, "app", away)
    nudges.send("playground.reconcile")
    assert "not sent" in caplog.text


# The node


def test_this_machine_offers_what_it_has(db: None) -> None:
    nodes.heartbeat()
    row = nodes.local_node()
    found = nodes.hardware(row)
    assert found.cores >= 1 and found.memory_bytes > 0
    assert row.heartbeat_at is not None
    assert {"environments", "formats", "gpus", "memory_available_bytes"} <= set(row.inventory)


def test_an_open_network_needs_tls_or_the_owners_word(db: None, settings: pytest.FixtureRequest) -> None:
    settings.NODE_ADDRESS = "192.0.2.7"  # type: ignore[attr-defined]
    with pytest.raises(nodes.NodeRefused, match="SLIPWAY_TLS_CERT"):
        nodes.local_node()
    settings.PRIVATE_NETWORK = True  # type: ignore[attr-defined]
    assert nodes.local_node().address == "192.0.2.7"


def test_a_replica_of_another_node_is_not_started_here(model: Model, node: Node) -> None:
    replica = settled(ask(model))
    Node.objects.update(name="elsewhere")
    assert not nodes.start_replica(replica.pk)


def test_what_never_started_leaves_a_stopping_node(model: Model, node: Node) -> None:
    deployment = ask(model)
    replica = settled(deployment)
    assert nodes.stop_local(timeout=5) == []
    replica.refresh_from_db()
    assert (replica.state, replica.reason_code) == (State.STOPPED, ReasonCode.NODE_STOPPING)
    assert settled(deployment).state == State.PENDING
    Node.objects.update(accepting=True)
    assert settled(deployment).state == State.ASSIGNED
