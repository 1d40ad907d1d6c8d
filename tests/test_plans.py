"""Columns that do not fit together, run one after another by a real job, a real worker and fake engines."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker

from playground import deployments, jobs, plan_requests, plans, processes
from playground.models import (
    Conversation,
    Deployment,
    Generation,
    Job,
    Measurement,
    Membership,
    Model,
    Node,
    Replica,
    Team,
    User,
)
from tests import chats, fleet
from tests.fleet import Fleet, until
from tests.home import HOME

pytestmark = pytest.mark.slow
State = Generation.State
HOLDING = [state for state in Replica.HOLDING if state != Replica.State.LOST]


@pytest.fixture(scope="module")
def worker(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """This machine's worker and a web process, for the whole module: rows are kept between tests."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        workers = Fleet()
        try:
            workers.work(SLIPWAY_LEASE_S="2")
            with chats.running_web():
                yield workers
        finally:
            workers.close()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def model(worker: Fleet) -> Model:
    return fleet.tiny_model(Team.objects.get(slug="default"))


@pytest.fixture(scope="module")
def ada(worker: Fleet) -> User:
    return _person("ada", Membership.Role.ADMIN)


def _person(name: str, role: str, team: Team | None = None) -> User:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team or Team.objects.get(slug="default"), role=role)
    return person


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves a node with nothing on it."""
    yield
    if "worker" not in request.fixturenames:
        return
    for job in Job.objects.filter(kind=Job.Kind.RUN_PLAN, state__in=Job.ACTIVE):
        jobs.cancel(job, None)
    until("no plan runs", lambda: not Job.objects.filter(state__in=Job.ACTIVE).exists())
    Deployment.objects.update(released=False)
    for row in Deployment.objects.exclude(desired="deleted"):
        deployments.delete(row, None)
    until("everything stops", lambda: not Replica.objects.exclude(state__in=Replica.TERMINAL).exists())
    until("every runner ends", lambda: not fleet.runners())
    assert not processes.marked(HOME)


def big(model: Model, user: User, name: str, **options: Any) -> Deployment:
    """A deployment that takes more than half of the machine, so that no two run at once; stopped."""
    node = until(
        "the node tells its memory", lambda: Node.objects.filter(inventory__memory_bytes__gt=0).first()
    )
    half = int(node.inventory["memory_bytes"] * 0.55) >> 20
    row = deployments.request(
        team=model.team,
        user=user,
        model=model,
        engine="fake",
        name=name,
        options={"tokens": 8, "memory_mib": half, **options},
    )
    deployments.stop(row, user)
    return row


def running(row: Deployment) -> Deployment:
    deployments.start(row, None)
    fleet.ready(row)
    return row


def ask(chat: Conversation, user: User, *prompts: str, **wanted: Any) -> Measurement:
    """Plan and run it."""
    made = plans.plan(chat, user, len(prompts), wanted.pop("also", ()))
    return plan_requests.request(chat, user, list(prompts), made, **wanted)


def ended(row: Measurement, within_s: float = 90.0) -> Job:
    def look() -> Job | None:
        return Job.objects.filter(pk=row.job_id).exclude(state__in=Job.ACTIVE).first()

    found: Job = until("the plan ends", look, within_s)
    return found


def answers(row: Measurement) -> list[tuple[str, int, str]]:
    """(deployment, number of the prompt, state) in the order asked."""
    turns = row.settings["turns"]
    rows = Generation.objects.filter(turn__in=turns).select_related("column__deployment").order_by("pk")
    return [(one.column.deployment.name, turns.index(one.turn_id), one.state) for one in rows]


def stopped(*rows: Deployment) -> None:
    for row in rows:
        until(f"{row.name} stops", lambda row=row: not row.replicas.filter(state__in=HOLDING).exists())
        row.refresh_from_db()
        assert row.desired == Deployment.Desired.STOPPED


def test_what_does_not_fit_runs_one_after_another_and_what_ran_is_back(model: Model, ada: User) -> None:
    model: Model, ada: User
) -> None:
    first, second = running(big(model, ada, "a")), big(model, ada, "b")
    chat = chats.conversation(model.team, first, second, created_by=ada)
    verdict = plans.fits_together(list(chat.columns.select_related("deployment")), ada)
    assert not verdict.fits and "a and b need" in verdict.why and "test-node has" in verdict.why
    row = ask(chat, ada, "one [[echo]]", "two [[echo]]")
    job = ended(row)
    assert job.state == Job.State.DONE, job.error + job.log_tail
    done = State.COMPLETE
    assert answers(row) == [("a", 0, done), ("a", 1, done), ("b", 0, done), ("b", 1, done)]
    replicas = [Replica.objects.filter(deployment=one).order_by("pk") for one in (first, second)]
    began = replicas[1].get().events.get(state=Replica.State.STARTING).at
    assert replicas[0][0].ended_at and replicas[0][0].ended_at <= began, "never both at once"
    for column in chat.columns.all():
        one, two = Generation.objects.filter(column=column).order_by("pk")
        assert two.previous == one and one.ended_at and one.ended_at <= two.created_at
        said = [message["content"] for message in two.request["messages"]]
        assert said == ["one [[echo]]", "one", "two [[echo]]"]
    fleet.ready(first, other_than=replicas[0][0].pk)
    stopped(second)
    assert job.result["again"] == ["a"]
