"""Who may not start asks those who may: seen by operators, answered once, told to whoever asked."""

import threading

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import deployments, frame, holders, start_wishes, teams
from playground.models import AuditEntry, Deployment, Membership, Model, Node, Replica, StartWish, Team, User
from playground.start_wishes import WishRefused
from tests import batch_rows, fleet
from tests.test_pages import signed_in

pytestmark = pytest.mark.django_db
State = StartWish.State
GIB = 1 << 30


@pytest.fixture
def model(team: Team) -> Model:
    return fleet.tiny_model(team)


@pytest.fixture
def vera(team: Team) -> User:
    """A viewer."""
    person = User.objects.create_user("vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    return person


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


@pytest.fixture
def viewer(vera: User) -> Client:
    return signed_in(vera)


def stopped(model: Model) -> Deployment:
    row = deployments.request(team=model.team, user=None, model=model, engine="fake", options={})
    deployments.stop(row, None)
    return row


def needs(team: Team, user: User) -> list[str]:
    return [need.text for need in frame.needs(team, user)]


def test_a_viewer_asks_with_the_form_as_filled_in_and_an_operator_starts_it_with_one_press(
    model: Model, user: User, vera: User, viewer: Client, page: Client
) -> None:
    form = viewer.get(reverse("model", args=[model.pk])).content.decode()
    assert "Ask an operator" in form and ">Start</button>" not in form
    values = {"engine": "fake", "options-of": "fake", "option.tokens": "7", "wish-text": "for the demo"}
    asked = viewer.post(reverse("wish-model", args=[model.pk]), values, follow=True).content.decode()
    assert "ada may start it" in asked and "What you asked for" in asked
    wish = StartWish.objects.get()
    assert (wish.created_by, wish.text, wish.wanted["options"]) == (vera, "for the demo", {"tokens": "7"})
    assert needs(model.team, user) == ["vera asks to start tiny on fake: for the demo"]
    assert needs(model.team, vera) == []
    assert "asks to start" in page.get("/").content.decode()
    assert "asks to start" in page.get(reverse("model", args=[model.pk])).content.decode()
    answer = page.post(reverse("wish-start", args=[wish.pk]))
    started = Deployment.objects.get()
    assert answer.headers["Location"] == reverse("deployment", args=[started.pk])
    assert (started.wanted["options"], started.created_by, started.desired) == (
        {"tokens": 7},
        user,
        "running",
    )
    told = viewer.get(reverse("wishes")).content.decode()
    assert "started" in told and reverse("deployment", args=[started.pk]) in told
    assert needs(model.team, user) == []
    entry = AuditEntry.objects.get(action="answer a wish")
    assert (entry.before, entry.detail["asked_by"]) == ({"state": "open"}, "vera")
    assert entry.after == {"state": "done", "answer": ""}


def test_a_wrong_option_is_said_at_its_field_and_nothing_typed_is_lost(
    model: Model, user: User, viewer: Client
) -> None:
    values = {"engine": "fake", "options-of": "fake", "option.tokens": "many", "wish-text": "for the demo"}
    answer = viewer.post(reverse("wish-model", args=[model.pk]), values)
    assert answer.status_code == 422
    shown = answer.content.decode()
    assert 'value="for the demo"' in shown
    assert 'value="many"' in shown
    assert not StartWish.objects.exists()


def test_a_declined_wish_says_why_to_whoever_asked(
    model: Model, user: User, vera: User, viewer: Client, page: Client
) -> None:
    row = stopped(model)
    shown = viewer.get(reverse("deployment", args=[row.pk])).content.decode()
    assert "Ask an operator" in shown
    viewer.post(reverse("wish-deployment", args=[row.pk]), {"wish-text": "please"})
    wish = StartWish.objects.get()
    empty = page.post(reverse("wish-decline", args=[wish.pk]), {"answer": "  "})
    assert empty.status_code == 422 and "Say why" in empty.content.decode()
    page.post(reverse("wish-decline", args=[wish.pk]), {"answer": "<b>The GPU is taken</b> today."})
    assert needs(model.team, vera) == [f"ada does not start {row.name}: <b>The GPU is taken</b> today."]
    told = viewer.get(reverse("deployment", args=[row.pk])).content.decode()
    assert "&lt;b&gt;The GPU is taken" in told and "<b>The GPU" not in told
    viewer.post(reverse("wish-drop", args=[wish.pk]))
    assert needs(model.team, vera) == []
    assert AuditEntry.objects.filter(action="clear a wish", user=vera).exists()


def test_asking_twice_for_the_same_is_one_wish_with_the_last_words(model: Model, vera: User) -> None:
    start_wishes.ask_for_model(vera, model, {}, "first")
    start_wishes.ask_for_model(vera, model, {}, "second")
    assert StartWish.objects.get().text == "second"


def test_nobody_has_more_open_wishes_than_that(model: Model, vera: User, monkeypatch) -> None:
    monkeypatch.setattr(start_wishes, "OPEN_AT_MOST", 1)
    start_wishes.ask_for_model(vera, model, {})
    with pytest.raises(WishRefused, match="wait for an answer"):
        start_wishes.ask_for_deployment(vera, stopped(model))


def test_what_runs_is_not_asked_for_and_what_was_started_meanwhile_waits_for_nobody(
    model: Model, user: User, vera: User
) -> None:
    row = stopped(model)
    start_wishes.ask_for_deployment(vera, row)
    assert len(needs(model.team, user)) == 1
    deployments.start(row, user)
    assert needs(model.team, user) == []
    with pytest.raises(WishRefused, match="started already"):
        start_wishes.ask_for_deployment(vera, row)


def test_a_refused_start_leaves_the_wish_open(model: Model, user: User, vera: User, page: Client) -> None:
    start_wishes.ask_for_model(vera, model, {"engine": "fake", "options": {}})
    wish = StartWish.objects.get()
    model.team.quotas = {"replicas": 0}
    model.team.save()
    told = page.post(reverse("wish-start", args=[wish.pk]), follow=True).content.decode()
    assert "may run 0 replicas" in told
    wish.refresh_from_db()
    assert wish.state == State.OPEN and not Deployment.objects.exists()


def test_a_viewer_answers_no_wish_and_a_stranger_sees_none(
    model: Model, vera: User, viewer: Client, stranger: User
) -> None:
    wish = start_wishes.ask_for_model(vera, model, {})
    assert viewer.post(reverse("wish-start", args=[wish.pk])).status_code == 403
    assert viewer.post(reverse("wish-decline", args=[wish.pk]), {"answer": "no"}).status_code == 403
    other = signed_in(stranger)
    assert other.post(reverse("wish-start", args=[wish.pk])).status_code == 404
    assert other.post(reverse("wish-model", args=[model.pk])).status_code == 404
    assert "vera" not in other.get(reverse("wishes")).content.decode()
    assert StartWish.objects.get().state == State.OPEN


@pytest.mark.django_db(transaction=True)
def test_of_two_operators_who_press_start_one_starts_it(model: Model, user: User) -> None:
    vera = User.objects.create_user("vera")
    Membership.objects.create(user=vera, team=model.team, role=Membership.Role.VIEWER)
    wish = start_wishes.ask_for_model(vera, model, {"engine": "fake", "options": {}})
    refused: list[Exception] = []
    together = threading.Barrier(2)

    def press() -> None:
        try:
            together.wait(10)
            start_wishes.start(wish, user)
        except WishRefused as problem:
            refused.append(problem)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 1 and Deployment.objects.count() == 1


# Nothing free


@pytest.fixture
def taken(model: Model, user: User, stranger: User) -> Deployment:
    """A node on which the team and another one hold all of the memory."""
    inventory = {"cores": 2, "memory_bytes": 8 * GIB, "memory_available_bytes": 0, "gpus": []}
    node = Node.objects.create(name="node-1", heartbeat_at=timezone.now(), inventory=inventory)
    other = stranger.memberships.get().team
    theirs = Model.objects.create(team=other, name="secret-model", source="local:secret")
    for team, of, name, owner in (
        (model.team, model, "mine", user),
        (other, theirs, "secret-name", stranger),
    ):
        row = Deployment.objects.create(
            team=team, name=name, model=of, engine="fake", created_by=owner, last_used_at=timezone.now()
        )
        resources = {
            "cores": 2,
            "memory_bytes": 4 * GIB,
            "gpus": [],
            "slots": [f"cpu.{row.pk}"],
            "build": "cpu",
        }
        Replica.objects.create(deployment=row, node=node, state="ready", resources=resources)
    return Deployment.objects.get(name="mine")


def test_the_form_offers_the_queue_and_names_the_own_holder_only(
    taken: Deployment, model: Model, page: Client
) -> None:
    shown = page.get(reverse("model", args=[model.pk]) + "?engine=fake").content.decode()
    assert "Nothing is free now" in shown and "Start, and wait" in shown
    assert "mine" in shown and "ada" in shown and "another team" in shown
    assert "secret" not in shown and "mallory" not in shown


def test_a_waiting_deployment_says_behind_what_and_who_holds_the_machines(
    taken: Deployment, model: Model, page: Client, user: User
) -> None:
    first = Deployment.objects.create(team=model.team, name="first", model=model, engine="fake")
    second = Deployment.objects.create(team=model.team, name="second", model=model, engine="fake")
    for row in (first, second):
        deployments.wait_for_room(deployments.add_replica(row), "It needs 4 GiB.", tell=True)
    shown = page.get(reverse("deployment", args=[second.pk])).content.decode()
    assert "It waits in the queue behind" in shown and "first" in shown
    assert "secret" not in shown and "mallory" not in shown
    assert holders.ahead(user, first) == []
    assert holders.ahead(user, None) == ["first", "second"]


def test_another_of_ones_own_teams_is_named_and_a_strangers_is_not(
    taken: Deployment, user: User, page: Client
) -> None:
    own = teams.make_personal(user)
    teams.switch(user, own)
    for name in ("running", "nodes"):
        shown = page.get(reverse(name)).content.decode()
        assert "mine" in shown and "Default" in shown and "another team" in shown
        assert "secret" not in shown and "mallory" not in shown


def test_a_batch_of_what_is_stopped_says_whom_to_ask_and_keeps_what_was_typed(
    model: Model, team: Team, user: User, vera: User, viewer: Client
) -> None:
    Membership.objects.filter(user=vera).update(role=Membership.Role.MEMBER)
    row = stopped(model)
    fields = {"version": batch_rows.version(team, ["Which?"]).pk, "deployment": row.pk, "name": "nightly"}
    page = viewer.post(reverse("batch-new"), fields)
    text = page.content.decode()
    assert page.status_code == 422 and "is stopped, and starting it needs an operator" in text
    assert 'value="nightly"' in text and "Ask an operator" in text
    assert not AuditEntry.objects.filter(action__startswith="refused").exists()


def test_a_line_of_a_page_asks_and_tells_what_became_of_it(
    model: Model, user: User, vera: User, viewer: Client, page: Client
) -> None:
    row = stopped(model)
    address, htmx = reverse("wish-deployment", args=[row.pk]), {"HX-Request": "true"}
    assert viewer.get(address).status_code == 302  # without scripts the deployment's page asks
    assert "Ask an operator" in viewer.get(address, headers=htmx).content.decode()
    assert "ada may start it" in viewer.post(address, headers=htmx).content.decode()
    start_wishes.decline(StartWish.objects.get(), user, "The machine is full")
    line = viewer.get(address, headers=htmx).content.decode()
    assert "ada declined: The machine is full" in line and "Ask an operator" in line
    Deployment.objects.filter(pk=row.pk).update(desired=Deployment.Desired.RUNNING)
    assert "It was started." in viewer.get(address, headers=htmx).content.decode()
    assert "It was started." in viewer.post(address, headers=htmx).content.decode()
