"""What a team and each person may take: held where the act happens, in words; two at once never pass it."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import admission, batches, deployments, landing, members, quotas, reconcile, teams, uploads
from playground.admission import QuotaReached
from playground.batches import BatchRefused
from playground.datasets import DatasetRefused
from playground.deployments import DeploymentRefused
from playground.landing import LandingRefused
from playground.models import (
    AuditEntry,
    Batch,
    BatchItem,
    Deployment,
    Membership,
    Model,
    Node,
    Replica,
    ReplicaEvent,
    RowsTaken,
    Team,
    Upload,
    User,
)
from tests import batch_rows, fleet

pytestmark = pytest.mark.django_db
State = Replica.State
GIB = 1 << 30


@pytest.fixture
def node(db: None) -> Node:
    inventory = {"cores": 2, "memory_bytes": 8 * GIB, "memory_available_bytes": 8 * GIB, "gpus": []}
    return Node.objects.create(name="test-node", heartbeat_at=timezone.now(), inventory=inventory)


@pytest.fixture
def model(team: Team) -> Model:
    return fleet.tiny_model(team)


def ask(model: Model, user: User | None = None, **values: object) -> Deployment:
    given = {"team": model.team, "user": user, "model": model, "engine": "fake", "options": {}} | values
    return deployments.request(**given)  # type: ignore[arg-type]


def limit(team: Team, **most: float) -> None:
    team.quotas = most
    team.save()


def at_once(verb: Callable[[int], object], times: int = 4) -> list[Exception]:
    """What was raised when it is done several times at once."""
    raised: list[Exception] = []
    start = threading.Barrier(times)

    def run(number: int) -> None:
        try:
            start.wait(10)
            verb(number)
        except (DeploymentRefused, BatchRefused, LandingRefused, DatasetRefused) as problem:
            raised.append(problem)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return raised


# Replicas


def test_one_more_replica_than_the_team_may_run_is_refused_in_words(model: Model, user: User) -> None:
    user.is_staff = True
    user.save()
    limit(model.team, replicas=1)
    first = ask(model)
    with pytest.raises(DeploymentRefused) as refused:
        ask(model)
    words = str(refused.value)
    assert "Default may run 1 replica at once, and 1 run or wait" in words
    assert "ask a site administrator (ada) for more" in words
    assert Deployment.objects.count() == 1
    deployments.stop(first, None)
    second = ask(model)
    with pytest.raises(DeploymentRefused, match="1 replica"):
        deployments.start(first, None)
    first.refresh_from_db()
    assert first.desired == Deployment.Desired.STOPPED
    deployments.restart(second, None)
    deployments.start(second, None)


def test_one_in_the_place_of_another_counts_beside_it_until_it_is_ready(model: Model, user: User) -> None:
    limit(model.team, replicas=1)
    first = ask(model)
    with pytest.raises(DeploymentRefused, match="until the new one is ready, and both count"):
        ask(model, replaces=first)
    assert Deployment.objects.count() == 1
    limit(model.team, replicas=2)
    assert ask(model, replaces=first)
    assert quotas.replicas(model.team) == 2


def test_a_person_has_limits_of_their_own_which_a_team_administrator_raises(
    model: Model, user: User, node: Node
) -> None:
    team = model.team
    bob = User.objects.create_user("bob")
    row = Membership.objects.create(user=bob, team=team, role=Membership.Role.OPERATOR)
    members.set_team_quotas(team, "person_quotas", {"replicas": 1}, user)
    ask(model, bob)
    with pytest.raises(DeploymentRefused) as refused:
        ask(model, bob)
    assert "In Default bob may run 1 replica at once, and 1 run or wait" in str(refused.value)
    assert "ask an administrator of the team (ada) for more" in str(refused.value)
    assert ask(model, user)
    members.set_quotas(row, {"replicas": 2}, user)
    ask(model, bob)
    # What serves an endpoint is the team's.
    assert ask(model, bob, released=True)
    changes = AuditEntry.objects.filter(action__startswith="set quotas").order_by("pk")
    assert [(entry.before, entry.after) for entry in changes] == [
        ({"person_quotas": {}}, {"person_quotas": {"replicas": 1}}),
        ({}, {"replicas": 2}),
    ]


def test_a_personal_team_has_the_sites_own_limit(user: User, settings) -> None:
    settings.QUOTAS = {**settings.QUOTAS, "personal": {**settings.QUOTAS["personal"], "replicas": 1.0}}
    mine = fleet.tiny_model(teams.make_personal(user))
    ask(mine, user)
    with pytest.raises(DeploymentRefused, match="1 replica"):
        ask(mine, user)


@pytest.mark.django_db(transaction=True)
def test_several_starts_at_once_do_not_pass_the_limit(model: Model) -> None:
    limit(model.team, replicas=2)
    rows = [
        Deployment.objects.create(
            team=model.team, name=f"d{n}", model=model, engine="fake", desired="stopped"
        )
        for n in range(4)
    ]
    refused = at_once(lambda number: deployments.start(rows[number], None))
    assert len(refused) == 2
    assert Deployment.objects.filter(desired="running").count() == 2
    refused = at_once(lambda number: ask(model, name=f"new-{number}"))
    assert len(refused) == 4
    assert Deployment.objects.count() == 4


def test_what_was_scaled_up_waits_for_the_limit_and_goes_on_by_itself(model: Model, node: Node) -> None:
    row = ask(model, min_replicas=1, max_replicas=3)
    Deployment.objects.filter(pk=row.pk).update(min_replicas=2)
    limit(model.team, replicas=1)
    reconcile.settle(row.pk)
    states = list(row.replicas.order_by("pk").values_list("state", flat=True))
    assert states == [State.ASSIGNED, State.PENDING]
    waiting = row.replicas.get(state=State.PENDING)
    assert waiting.reason.startswith("It waits. Default may run 1 replica at once, and 1 run")
    limit(model.team, replicas=2)
    reconcile.settle(row.pk)
    waiting.refresh_from_db()
    assert waiting.state == State.ASSIGNED


# GPU-hours


def held(model: Model, node: Node, hours: float, share: int | None = None, ended: bool = False) -> Replica:
    """A replica that has held a GPU for so long."""
    row = Deployment.objects.create(
        team=model.team, name="gpu", model=model, engine="fake", desired="stopped"
    )
    replica = Replica.objects.create(
        deployment=row,
        node=node,
        state=State.STOPPED if ended else State.READY,
        resources={"gpus": [{"index": 0, "share": share}]},
        ended_at=timezone.now() if ended else None,
    )
    event = ReplicaEvent.objects.create(replica=replica, state=State.ASSIGNED)
    ReplicaEvent.objects.filter(pk=event.pk).update(at=timezone.now() - timedelta(hours=hours))
    return replica


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day began twelve hours ago."""
    begin = timezone.now() - timedelta(hours=12)
    monkeypatch.setattr(quotas, "midnight", lambda: begin)


def test_gpu_hours_count_from_the_place_to_the_end_within_the_day(
    model: Model, node: Node, noon: None
) -> None:
    held(model, node, hours=2)
    held(model, node, hours=4, share=1, ended=True)
    held(model, node, hours=30)
    assert quotas.gpu_hours(model.team) == pytest.approx(2 + 1 + 12, abs=0.01)


def test_cores_are_no_gpu_hours(model: Model, node: Node, noon: None) -> None:
    replica = held(model, node, hours=2)
    Replica.objects.filter(pk=replica.pk).update(resources={"cores": 2, "gpus": []})
    assert quotas.gpu_hours(model.team) == 0


def test_with_the_gpu_hours_spent_nothing_new_starts_on_gpus(
    model: Model, node: Node, noon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(model.team, gpu_hours_day=2)
    row = ask(model)
    running = held(model, node, hours=3)
    assert "Default may take 2 GPU-hours a day, which are used" in admission.gpus_spent(row)
    assert ask(model, name="on the cores")
    monkeypatch.setattr("playground.environments.build_of", lambda node, adapter=None: "cuda")
    with pytest.raises(DeploymentRefused, match="after midnight UTC"):
        ask(model, name="on a GPU")
    running.refresh_from_db()
    assert running.state == State.READY


# Batch rows


def test_rows_of_a_day_count_once_for_each_column(model: Model, user: User) -> None:
    team = model.team
    limit(team, batch_rows_day=5)
    row = ask(model)
    version = batch_rows.version(team, ["one", "two"])
    column = {"deployment": row}
    batches.begin(team, user, "first", version, [column], {})
    with pytest.raises(BatchRefused) as refused:
        batches.begin(team, user, "second", version, [column, column], {})
    assert (
        "may take 5 batch rows and measured requests a day; 2 were begun since midnight UTC, this has 4"
        in str(refused.value)
    )
    batches.begin(team, user, "third", version, [column], {})
    assert quotas.batch_rows(team) == 4


def test_failed_rows_asked_again_count_and_nothing_that_is_deleted_is_given_back(
    model: Model, user: User
) -> None:
    team = model.team
    limit(team, batch_rows_day=5)
    version = batch_rows.version(team, ["one", "two"])
    batch = batches.begin(team, user, "first", version, [{"deployment": ask(model)}], {})
    BatchItem.objects.filter(column__batch=batch).update(state="failed")
    assert batches.retry_failed(batch, user) == 2
    assert quotas.batch_rows(team, user) == 4
    BatchItem.objects.filter(column__batch=batch).update(state="failed")
    with pytest.raises(BatchRefused, match="4 were begun since midnight UTC, this has 2"):
        batches.retry_failed(batch, user)
    assert set(BatchItem.objects.values_list("state", "attempt")) == {("failed", 1)}
    Batch.objects.filter(pk=batch.pk).delete()
    assert quotas.batch_rows(team) == 4
    assert list(RowsTaken.objects.order_by("pk").values_list("what", "rows")) == [("batch", 2), ("again", 2)]


@pytest.mark.django_db(transaction=True)
def test_batches_begun_at_once_do_not_pass_the_limit(model: Model, user: User) -> None:
    team = model.team
    limit(team, batch_rows_day=4)
    row = ask(model)
    version = batch_rows.version(team, ["one", "two"])
    refused = at_once(
        lambda number: batches.begin(team, user, f"b{number}", version, [{"deployment": row}], {})
    )
    assert len(refused) == 2
    assert quotas.batch_rows(team) == 4


# Storage


def test_a_teams_own_limit_counts_all_kinds_together(team: Team, user: User, node: Node, settings) -> None:
    settings.NODE_NAME, settings.DISK_FREE = node.name, 0.0
    limit(team, storage_gb=1e-6)
    uploads.begin(team, user, "mine", "model.safetensors", 600)
    with pytest.raises(LandingRefused) as refused:
        uploads.begin(team, user, "mine", "config.json", 600)
    assert "may keep 0.0 GB of models, datasets and files" in str(refused.value)
    with pytest.raises(QuotaReached):
        admission.check_storage(team, user, "datasets", 600)
    assert quotas.stored(team) * 1e9 == pytest.approx(600)


def test_a_person_may_keep_less_than_the_team(team: Team, user: User, node: Node, settings) -> None:
    settings.NODE_NAME, settings.DISK_FREE = node.name, 0.0
    team.person_quotas = {"storage_gb": 1e-6}
    team.save()
    uploads.begin(team, user, "mine", "model.safetensors", 900)
    with pytest.raises(LandingRefused, match="ada may keep"):
        uploads.begin(team, user, "mine", "config.json", 600)
    bob = User.objects.create_user("bob")
    Membership.objects.create(user=bob, team=team, role=Membership.Role.MEMBER)
    assert uploads.begin(team, bob, "other", "model.safetensors", 600)
    assert [landing.usage(team), landing.usage(team, user), landing.usage(team, bob)] == [1500, 900, 600]


@pytest.mark.django_db(transaction=True)
def test_uploads_begun_at_once_do_not_pass_the_limit(team: Team, user: User, node: Node, settings) -> None:
    settings.NODE_NAME, settings.DISK_FREE = node.name, 0.0
    limit(team, storage_gb=1e-6)
    refused = at_once(lambda number: uploads.begin(team, user, f"m{number}", "model.safetensors", 400))
    assert len(refused) == 2
    assert Upload.objects.count() == 2


# The page


@pytest.mark.parametrize("text", ["-1", "1.5", "NaN", "1e3", "ten", "9" * 15])
def test_a_wrong_limit_is_said_at_its_field_and_kept(user: User, text: str) -> None:
    client = Client()
    client.force_login(user)
    answer = client.post(reverse("team-person-quotas"), {"replicas": text, "batch_rows_day": "1,000"})
    assert answer.status_code == 422
    shown = answer.content.decode()
    assert "A whole number from 0" in shown and f'value="{text}"' in shown and 'value="1,000"' in shown
    assert Team.objects.get(slug="default").person_quotas == {}


def test_the_team_page_shows_use_against_each_limit(user: User, model: Model) -> None:
    limit(model.team, replicas=3, batch_rows_day=1200)
    ask(model, user)
    client = Client()
    client.force_login(user)
    shown = client.get(reverse("team")).content.decode()
    assert "Running replicas" in shown and "1,200" in shown and "no limit" in shown
    assert {line.name: line.used for line in quotas.use(model.team)}["replicas"] == 1


def test_a_site_administrator_sets_a_teams_limits_and_nobody_else(user: User, stranger: User) -> None:
    team = Team.objects.get(slug="default")
    client = Client()
    client.force_login(stranger)
    assert (
        client.post(reverse("team-limits", args=[team.pk]), {"name": "X", "replicas": "9"}).status_code == 403
    )
    user.is_staff = True
    user.save()
    client.force_login(user)
    wrong = client.post(reverse("team-limits", args=[team.pk]), {"name": "", "replicas": "9"})
    assert wrong.status_code == 422 and "A name of one to 80" in wrong.content.decode()
    kept = client.post(reverse("team-limits", args=[team.pk]), {"name": "Default", "replicas": "9"})
    assert kept.status_code == 302
    team.refresh_from_db()
    assert team.quotas == {"replicas": 9}
    entry = AuditEntry.objects.get(action="set quotas")
    assert (entry.before, entry.after) == ({"quotas": {}}, {"quotas": {"replicas": 9}})
