"""Editing a deployment: what changes, beside or in its place, success and failure, two edits at once."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from playground import deployments, processes, reconcile
from playground.engines.base import Reason, ReasonCode
from playground.models import (
    AuditEntry,
    Column,
    Conversation,
    Deployment,
    Membership,
    Model,
    ModelFormat,
    Node,
    Replica,
    Team,
    User,
)
from tests import fleet
from tests.fleet import Fleet, assert_sound, ready, until
from tests.home import HOME
from tests.test_deployments import ask, brought_to_ready, settled
from tests.test_options import words

State = Replica.State
GIB = 1 << 30
OOM = Reason(ReasonCode.OUT_OF_MEMORY, "It needs more.")
rows = pytest.mark.django_db


@pytest.fixture
def node(db: None) -> Node:
    inventory = {"cores": 4, "memory_bytes": 8 * GIB, "memory_available_bytes": 8 * GIB, "gpus": []}
    return Node.objects.create(name="test-node", heartbeat_at=timezone.now(), inventory=inventory)


@pytest.fixture
def model(team: Team) -> Model:
    return fleet.tiny_model(team)


@pytest.fixture
def page(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def old(model: Model, node: Node) -> Deployment:
    """A deployment that runs, with options of its own."""
    row = ask(model, options={"tokens": 5, "context": 512}, name="chat", idle_timeout_s=600)
    brought_to_ready(row)
    return row


def talk(deployment: Deployment, adapter: str = "") -> Column:
    conversation = Conversation.objects.create(team=deployment.team, title="capitals")
    return Column.objects.create(conversation=conversation, deployment=deployment, adapter=adapter)


def fresh(deployment: Deployment) -> Deployment:
    return Deployment.objects.get(pk=deployment.pk)


def changes(answer: Any) -> dict[str, tuple[str, str]]:
    """The table of what changes: name → (now, then)."""
    rows = re.findall(r'<tr><th class="narrow" scope="row">(.*?)</tr>', answer.content.decode())
    cells = [re.sub(r"<[^>]+>", "|", row).split("|") for row in rows]
    lines = [[cell for cell in row if cell] for row in cells]
    return {name: (now, then) for name, now, then in lines}


# What the form shows


@rows
def test_edit_opens_the_form_as_it_was_filled_in(page: Client, old: Deployment) -> None:
    shown = page.get(reverse("deployment", args=[old.pk])).content.decode()
    address = reverse("model", args=[old.model_id]) + f"?edit={old.pk}"
    assert f'href="{address}"' in shown
    answer = page.get(address)
    form = answer.content.decode()
    assert re.search(r'name="option\.tokens"\s+type="number"\s+value="5"', form)
    assert re.search(r'name="option\.context"\s+type="number"\s+value="512"', form)
    assert '<option value="600" selected>' in form and f'name="edit" value="{old.pk}"' in form
    assert "Nothing yet: it would run as" in words(answer) and changes(answer) == {}


@rows
def test_what_changes_is_shown_by_its_name_now_and_then(page: Client, old: Deployment) -> None:
    posted = {
        "edit": old.pk,
        "engine": "fake",
        "option.tokens": "7",
        "option.slots": "2",
        "option.context": "512",
        "version": "0.9",
        "cores": "2",
        "idle_timeout_s": "",
        "extra.flag": ["--mood"],
        "extra.value": ["calm"],
    }
    assert changes(page.post(reverse("model-form", args=[old.model_id]), posted)) == {
        "Version": ("1.0", "0.9"),
        "Reply length": ("5", "7"),
        "Parallel requests": ("unset", "2"),
        "Cores": ("unset", "2"),
        "Stop when unused, s": ("600", "unset"),
        "--mood": ("unset", "calm"),
    }


@rows
def test_another_engine_and_other_weights_are_changes(page: Client, old: Deployment) -> None:
    other = ModelFormat.objects.create(model=old.model, kind="safetensors", path="tiny", dtype="bfloat16")
    posted = {"edit": old.pk, "engine": "vllm", "options-of": "fake", "option.context": "512"}
    found = changes(page.post(reverse("model-form", args=[old.model_id]), posted))
    assert found["Engine"] == ("Fake", "vLLM")
    assert found["Weights"][1] == f"safetensors {other.dtype}"


@rows
def test_only_a_deployment_of_that_model_which_one_may_see_is_edited(
    page: Client, old: Deployment, stranger: User
) -> None:
    other = Model.objects.create(team=old.team, name="other", source="local:other")
    for pk in (old.pk, 10**17, "x", "-1"):
        assert page.get(reverse("model", args=[other.pk]), {"edit": pk}).status_code == 404, pk
    foreign = Client()
    foreign.force_login(stranger)
    assert foreign.get(reverse("model", args=[old.model_id]), {"edit": old.pk}).status_code == 404
    deployments.delete(old, None)
    assert page.get(reverse("model", args=[old.model_id]), {"edit": old.pk}).status_code == 404


@rows
def test_a_viewer_edits_nothing(old: Deployment, team: Team) -> None:
    vera = User.objects.create_user(username="vera")
    Membership.objects.create(user=vera, team=team, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(vera)
    assert "?edit=" not in client.get(reverse("deployment", args=[old.pk])).content.decode()
    posted = {"edit": old.pk, "engine": "fake", "place": "instead"}
    assert client.post(reverse("model-start", args=[old.model_id]), posted).status_code == 403
    assert Deployment.objects.count() == 1


@rows
def test_where_both_have_no_room_the_old_one_may_be_stopped_first(page: Client, old: Deployment) -> None:
    new = ask(old.model, options={"tokens": 7}, replaces=old)
    full = {"cores": 4, "memory_bytes": 30 << 20, "memory_available_bytes": 1 << 20, "gpus": []}
    Node.objects.update(inventory=full)
    replica = settled(new)
    assert replica.state == State.PENDING and replica.reason
    shown = page.get(reverse("deployment", args=[new.pk]))
    assert replica.reason in words(shown) and "Stop that one now to make room" in words(shown)
    page.post(reverse("deployment-stop", args=[old.pk]))
    Node.objects.update(inventory=full | {"memory_bytes": 8 * GIB, "memory_available_bytes": 8 * GIB})
    brought_to_ready(new)
    reconcile.settle(new.pk)
    assert (fresh(new).name, fresh(old).desired) == ("chat", "stopped")


# Beside it


@rows
def test_beside_it_both_run(page: Client, old: Deployment) -> None:
    posted = {"edit": old.pk, "engine": "fake", "place": "beside", "option.tokens": "7"}
    page.post(reverse("model-start", args=[old.model_id]), posted)
    new = Deployment.objects.get(wanted__options__tokens=7)
    brought_to_ready(new)
    reconcile.settle(new.pk)
    assert [(row.name, row.desired) for row in (fresh(old), fresh(new))] == [
        ("chat", "running"),
        ("tiny-fake", "running"),
    ]
    assert fresh(old).configuration_id != fresh(new).configuration_id


# In its place


@rows
def test_in_its_place_the_new_one_takes_name_and_conversations_once_ready(
    page: Client, old: Deployment
) -> None:
    column, tuned = talk(old), talk(old, adapter="tuned")
    posted = {
        "edit": old.pk,
        "engine": "fake",
        "place": "instead",
        "take-over": "1",
        "option.tokens": "7",
        "option.slots": "2",
    }
    page.post(reverse("model-start", args=[old.model_id]), posted)
    new = Deployment.objects.get(wanted__options__tokens=7)
    settled(new)
    assert fresh(old).desired == "running" and fresh(old).name == "chat", "not before it is ready"
    assert "takes its place once it is ready" in words(page.get(reverse("deployment", args=[old.pk])))
    assert "takes the place of chat" in words(page.get(reverse("deployment", args=[new.pk])))
    brought_to_ready(new)
    reconcile.settle(new.pk)
    after, new = fresh(old), fresh(new)
    assert (new.name, after.name, after.desired) == ("chat", "chat-before", "stopped")
    assert "replaces" not in new.wanted and new.desired == "running"
    for one in (column, tuned):
        one.refresh_from_db()
        assert (one.deployment_id, one.adapter) == (new.pk, "")
    assert AuditEntry.objects.filter(action="replace", object=f"deployment:{old.pk}").count() == 1
    assert "took its place" in words(page.get(reverse("deployment", args=[old.pk])))
    assert old.replicas.get().reason == "chat took its place."
    told = page.get(reverse("deployment-status", args=[new.pk])).content.decode()
    assert '<span id="name" hx-swap-oob="true">chat</span>' in told, "the page learns of its name"
    reconcile.settle(new.pk)
    deployments.start(after, None)
    assert fresh(old).desired == "running", "it may run again, beside the new one"
    assert fresh(new).desired == "running"


@rows
def test_a_name_that_was_given_stays_and_conversations_stay_unless_asked(old: Deployment) -> None:
    column = talk(old)
    new = ask(old.model, options={"tokens": 7}, name="faster", replaces=old)
    brought_to_ready(new)
    reconcile.settle(new.pk)
    column.refresh_from_db()
    assert (fresh(new).name, fresh(old).name, fresh(old).desired) == ("faster", "chat", "stopped")
    assert column.deployment_id == old.pk


@rows
def test_where_the_new_one_fails_the_old_one_runs_on(page: Client, old: Deployment) -> None:
    new = ask(old.model, options={"tokens": 7}, replaces=old)
    replica = settled(new)
    assert deployments.claim(replica.pk, 1)
    assert deployments.mark_failed(replica.pk, OOM, [])
    reconcile.settle(new.pk)
    reconcile.settle(old.pk)
    assert fresh(new).problem == OOM.text
    assert (fresh(old).name, fresh(old).desired) == ("chat", "running")
    assert old.replicas.filter(state=State.READY).count() == 1
    shown = words(page.get(reverse("deployment", args=[new.pk])))
    assert "which goes on until then: it still does" in shown
    assert "takes its place" not in words(page.get(reverse("deployment", args=[old.pk])))
    deployments.start(new, None)
    brought_to_ready(new)
    reconcile.settle(new.pk)
    assert (fresh(new).name, fresh(old).desired) == ("chat", "stopped"), "tried again, it takes over"


@rows
@pytest.mark.parametrize("verb", [deployments.stop, deployments.delete])
def test_one_that_was_stopped_meanwhile_takes_no_place_later(
    old: Deployment, verb: Callable[..., None]
) -> None:
    new = ask(old.model, options={"tokens": 7}, replaces=old)
    settled(new)
    verb(new, None)
    reconcile.settle(new.pk)
    assert "replaces" not in fresh(new).wanted
    if fresh(new).desired == "stopped":
        deployments.start(fresh(new), None)
        brought_to_ready(new)
        reconcile.settle(new.pk)
    assert (fresh(old).name, fresh(old).desired) == ("chat", "running")


@rows
def test_what_serves_an_endpoint_is_replaced_only_there(page: Client, old: Deployment) -> None:
    Deployment.objects.filter(pk=old.pk).update(released=True)
    posted = {"edit": old.pk, "engine": "fake", "place": "instead"}
    answer = page.post(reverse("model-start", args=[old.model_id]), posted)
    assert answer.status_code == 422 and "serves an endpoint" in words(answer)
    shown = page.get(reverse("model", args=[old.model_id]), {"edit": old.pk}).content.decode()
    assert re.search(r'value="instead" disabled', shown)
    page.post(reverse("model-start", args=[old.model_id]), posted | {"place": "beside"})
    assert Deployment.objects.count() == 2


@rows
def test_promoted_meanwhile_it_is_not_stopped(old: Deployment) -> None:
    new = ask(old.model, options={"tokens": 7}, replaces=old)
    Deployment.objects.filter(pk=old.pk).update(released=True)
    brought_to_ready(new)
    reconcile.settle(new.pk)
    assert (fresh(old).name, fresh(old).desired) == ("chat", "running")
    assert (fresh(new).name, fresh(new).desired) == ("tiny-fake", "running")
    assert "replaces" not in fresh(new).wanted


@rows
def test_an_edit_of_an_edit_under_way_replaces_both(old: Deployment) -> None:
    second = ask(old.model, options={"tokens": 6}, replaces=old)
    settled(second)
    third = ask(old.model, options={"tokens": 7}, replaces=second)
    brought_to_ready(third)
    reconcile.settle(third.pk)
    assert fresh(second).desired == "stopped" and fresh(old).desired == "running"
    reconcile.settle(third.pk)
    assert fresh(old).desired == "stopped"
    assert fresh(third).name == "chat"
    assert {fresh(old).name, fresh(second).name} == {"chat-before", "tiny-fake-before"}


@rows
def test_a_later_edit_wins_over_one_that_failed_and_comes_back(old: Deployment) -> None:
    failed = ask(old.model, options={"tokens": 6}, replaces=old)
    replica = settled(failed)
    deployments.claim(replica.pk, 1)
    deployments.mark_failed(replica.pk, OOM, [])
    later = ask(old.model, options={"tokens": 7}, replaces=old)
    deployments.start(fresh(failed), None)
    brought_to_ready(failed)
    reconcile.settle(failed.pk)
    assert fresh(old).desired == "running" and "replaces" not in fresh(failed).wanted
    brought_to_ready(later)
    reconcile.settle(later.pk)
    assert fresh(later).name == "chat" and fresh(old).desired == "stopped"


# At once


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each call gave or raised, begun at the same moment."""
    barrier, outcomes = threading.Barrier(len(calls)), []

    def run(call: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            outcomes.append(call())
        except deployments.DeploymentRefused as refusal:
            outcomes.append(refusal)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.django_db(transaction=True)
def test_of_two_edits_at_once_one_takes_the_place_and_the_other_is_told(old: Deployment) -> None:
    found = together(
        lambda: ask(old.model, options={"tokens": 6}, replaces=old),
        lambda: ask(old.model, options={"tokens": 7}, replaces=old),
    )
    assert sum(isinstance(one, Deployment) for one in found) == 1
    refused = next(one for one in found if isinstance(one, deployments.DeploymentRefused))
    assert "already" in refused.fields["place"]
    assert Deployment.objects.filter(wanted__has_key="replaces").count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("place", ["instead", "beside"])
def test_pressed_twice_it_is_one_start(old: Deployment, user: User, place: str) -> None:
    posted = {"edit": old.pk, "engine": "fake", "place": place, "once": "f" * 32, "option.tokens": "7"}

    def press() -> str:
        client = Client()
        client.force_login(user)
        return client.post(reverse("model-start", args=[old.model_id]), posted).headers["Location"]

    found = together(press, press)
    assert len(set(found)) == 1 and Deployment.objects.count() == 2
    posted["option.tokens"] = "8"
    if place == "beside":
        assert press() not in found, "changed in between it is another"


# With real processes


@pytest.fixture(scope="module")
def worker(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """This machine's worker, and rows that are kept between the tests with it."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        workers = Fleet()
        workers.work()
        yield workers
        for row in Deployment.objects.exclude(desired="deleted"):
            deployments.delete(row, None)
        live = Replica.objects.exclude(state__in=Replica.TERMINAL)
        until("everything stops", lambda: not live.exists())
        assert_sound()
        assert not processes.marked(HOME)
        workers.close()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def running(worker: Fleet) -> Deployment:
    team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
    row = ask(fleet.tiny_model(team), options={"tokens": 5}, name="chat", version="0.9")
    ready(row)
    return fresh(row)


@pytest.mark.slow
def test_a_new_version_takes_over_a_running_one_and_a_failing_one_does_not(running: Deployment) -> None:
    """The upgrade: 0.9 serves until 1.0 is ready; then a start that dies leaves 1.0 serving."""
    new = ask(
        running.model,
        options={"tokens": 7, "load_s": 1},
        version="1.0",
        extra=[("--mood", "calm"), ("--quiet", "")],
        replaces=running,
    )
    first = running.replicas.get()
    second = ready(new)
    assert second.command[-3:] == ["--mood", "calm", "--quiet"]
    until("the old one stops", lambda: not running.replicas.exclude(state__in=Replica.TERMINAL).exists())
    first.refresh_from_db()
    assert second.ready_at and first.ended_at and first.ended_at > second.ready_at
    old, new = fresh(running), fresh(new)
    assert (new.name, old.name) == ("chat", "chat-before")
    assert old.configuration and new.configuration
    assert (old.configuration.environment.version, new.configuration.environment.version) == ("0.9", "1.0")
    assert not fleet.engine_processes(first) and fleet.engine_processes(second)

    broken = ask(running.model, options={"crash_at_load": "oom"}, replaces=new)
    until("it gives up", lambda: fresh(broken).problem)
    second.refresh_from_db()
    assert second.state == State.READY and fleet.engine_processes(second)
    assert (fresh(new).name, fresh(new).desired) == ("chat", "running")

    deployments.start(old, None)
    third = ready(old, other_than=first.pk)
    assert third.configuration_id == old.configuration_id, "the old version runs beside the new one"
    second.refresh_from_db()
    assert second.state == State.READY
