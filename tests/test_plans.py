"""Columns that do not fit together, run one after another by a real job, a real worker and fake engines."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import psutil
import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
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
    person, _ = User.objects.get_or_create(username=name)
    team = team or Team.objects.get(slug="default")
    Membership.objects.get_or_create(user=person, team=team, defaults={"role": role})
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
    Conversation.objects.all().delete()
    assert not processes.marked(HOME)


def big(model: Model, user: User, name: str, **options: Any) -> Deployment:
    """A deployment that takes more than half of the machine, so that no two run at once; stopped."""
    node = until(
        "the node tells its memory", lambda: Node.objects.filter(inventory__memory_bytes__gt=0).first()
    )
    half = int(node.inventory["memory_bytes"] * 0.55) >> 20
    wanted = {"version": None, "options": {"tokens": 8, "memory_mib": half, **options}}
    return Deployment.objects.create(
        team=model.team,
        created_by=user,
        model=model,
        engine="fake",
        name=name,
        wanted=wanted,
        desired=Deployment.Desired.STOPPED,
    )


def running(row: Deployment) -> Deployment:
    deployments.start(row, None)
    fleet.ready(row)
    return row


def ask(chat: Conversation, user: User, *prompts: str, **wanted: Any) -> Measurement:
    """Plan and run it."""
    made = plans.plan(chat, user, len(prompts), wanted.pop("also", ()))
    return plan_requests.request(chat, user, list(prompts), made, made.seal, **wanted)


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


def test_a_start_that_fails_fails_its_answers_with_the_reason_and_no_others(model: Model, ada: User) -> None:
    broken = big(model, ada, "broken", crash_at_load="option")
    chat = chats.conversation(model.team, broken, big(model, ada, "b"), created_by=ada)
    row = ask(chat, ada, "one", "two")
    assert ended(row).state == Job.State.DONE
    failed, done = State.FAILED, State.COMPLETE
    assert answers(row) == [("broken", 0, failed), ("broken", 1, failed), ("b", 0, done), ("b", 1, done)]
    why = Generation.objects.filter(column__deployment=broken).values_list("error", flat=True)
    assert all(text.startswith("broken does not run: ") and "--frobnicate" in text for text in why), list(why)
    stopped(*Deployment.objects.filter(desired="stopped"))
    assert not Replica.objects.filter(state__in=HOLDING).exists()


def test_a_cancel_midway_stops_the_answer_and_leaves_what_was_before(
    client: Client, model: Model, ada: User
) -> None:
    first, second = running(big(model, ada, "a")), big(model, ada, "b")
    chat = chats.conversation(model.team, first, second, created_by=ada)
    row = ask(chat, ada, "one", "[[tokens=5000]] [[delay=20]]")
    long = Generation.objects.filter(turn=row.settings["turns"][1], state=State.STREAMING)
    chats.leases.ask_to_stop(until("a's long answer runs", long.first).pk)
    pk = until("b's long answer runs", long.filter(column__deployment=second).first, 60).pk
    until("it has some text", lambda: Generation.objects.get(pk=pk).text)
    client.force_login(ada)
    assert client.post(reverse("plan-cancel", args=[chat.pk])).status_code == 302
    assert ended(row).state == Job.State.CANCELLED
    assert chats.answer(pk).state == State.STOPPED
    assert [state for _, _, state in answers(row)] == ["complete", "stopped", "complete", "stopped"]
    stopped(second)
    first.refresh_from_db()
    assert first.desired == Deployment.Desired.RUNNING
    fleet.ready(first)


def live(row: Deployment) -> list[int]:
    """Answers that it writes now."""
    rows = Generation.objects.filter(column__deployment=row, state=State.STREAMING)
    return list(rows.values_list("pk", flat=True))


def test_a_plan_whose_runner_is_killed_goes_on_and_asks_nothing_twice(model: Model, ada: User) -> None:
    first, second = big(model, ada, "a"), big(model, ada, "b")
    chat = chats.conversation(model.team, first, second, created_by=ada)
    row = ask(chat, ada, "one", "[[tokens=150]] [[delay=20]]")
    until("a writes its second answer", lambda: Generation.objects.count() and live(first), 60)
    until("the second", lambda: Generation.objects.filter(turn=row.settings["turns"][1]).exists())
    kill_runner()
    job = ended(row)
    assert (job.state, job.attempt) == (Job.State.DONE, 2), job.error
    done = State.COMPLETE
    assert answers(row) == [("a", 0, done), ("a", 1, done), ("b", 0, done), ("b", 1, done)]
    assert (
        first.replicas.exclude(ready_at=None).count() == second.replicas.exclude(ready_at=None).count() == 1
    )
    stopped(first, second)


def kill_runner() -> None:
    runners = [one for one in fleet.runners() if one.cmdline()[-2] == "run_job"]
    assert len(runners) == 1
    runners[0].send_signal(signal.SIGKILL)
    psutil.wait_procs(runners, 10)


def test_a_cancel_between_two_runners_leaves_nothing_running_either(
    worker: Fleet, model: Model, ada: User
) -> None:
    first, second = big(model, ada, "a"), big(model, ada, "b")
    chat = chats.conversation(model.team, first, second, created_by=ada)
    row = ask(chat, ada, "[[tokens=5000]] [[delay=20]]")
    until("a answers", lambda: live(first), 60)
    kill_runner()
    # As the sweep leaves it, before anybody takes it up again.
    Job.objects.filter(pk=row.job_id).update(state=Job.State.QUEUED, lease_expires_at=None, pid=None)
    assert jobs.cancel(Job.objects.get(pk=row.job_id), ada)
    assert ended(row).state == Job.State.CANCELLED
    stopped(first, second)
    until("its answer is stopped", lambda: not live(first))


def test_what_serves_an_endpoint_is_never_stopped(model: Model, ada: User) -> None:
    serving, other = running(big(model, ada, "serving")), big(model, ada, "b")
    Deployment.objects.filter(pk=serving.pk).update(released=True)
    chat = chats.conversation(model.team, serving, other, created_by=ada)
    made = plans.plan(chat, ada)
    assert [one.name for stage in made.stages for one in stage.asked] == ["serving"]
    assert not made.touches and not made.refusal
    ((column, why),) = made.left_out
    assert column.deployment == other and "Held by: serving" in why
    row = ask(chat, ada, "one")
    assert ended(row).state == Job.State.DONE
    assert answers(row) == [("serving", 0, State.COMPLETE)]
    assert serving.replicas.get().state == Replica.State.READY


def test_one_that_begins_to_serve_meanwhile_is_not_stopped_and_the_plan_says_so(
    model: Model, ada: User
) -> None:
    first, second = running(big(model, ada, "a")), big(model, ada, "b")
    chat = chats.conversation(model.team, first, second, created_by=ada)
    row = ask(chat, ada, "[[tokens=100]] [[delay=20]]")
    until("a answers", lambda: live(first))
    Deployment.objects.filter(pk=first.pk).update(released=True)
    job = ended(row)
    assert job.state == Job.State.FAILED and "a serves an endpoint by now" in job.error
    assert first.replicas.get().state == Replica.State.READY
    stopped(second)


def test_others_are_stopped_only_by_a_tick_and_never_somebody_elses(model: Model, ada: User) -> None:
    bob = _person("bob", Membership.Role.OPERATOR)
    mine, column = running(big(model, ada, "mine")), big(model, ada, "b")
    chat = chats.conversation(model.team, column, created_by=ada)
    made = plans.plan(chat, ada)
    assert not made.stages and made.offers == (mine,) and made.refusal
    assert not plans.plan(chat, bob).offers, "it is not bob's to stop"
    row = ask(chat, ada, "one", also=[mine.pk], again=False)
    assert ended(row).state == Job.State.DONE
    assert answers(row) == [("b", 0, State.COMPLETE)]
    stopped(mine, column)


def test_several_that_fit_together_are_still_asked_one_after_the_other(model: Model, ada: User) -> None:
    slow = {"tokens": 40, "token_delay_ms": 10}
    small = [
        deployments.request(team=model.team, user=ada, model=model, engine="fake", name=name, options=slow)
        for name in ("a", "b")
    ]
    for one in small:
        fleet.ready(one)
    chat = chats.conversation(model.team, *small, created_by=ada)
    assert plans.fits_together(list(chat.columns.select_related("deployment")), ada).fits
    row = ask(chat, ada, "one", "two")
    assert ended(row).state == Job.State.DONE
    assert [(name, prompt) for name, prompt, _ in answers(row)] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    spans = list(Generation.objects.order_by("pk").values_list("created_at", "ended_at"))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert all(one.replicas.get().state == Replica.State.READY for one in small), "nothing was touched"
