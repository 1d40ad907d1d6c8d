"""The pages of plans and replays: what they tell beforehand, whom they refuse, how answers are replayed."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import expected, paces, plan_requests, plans
from playground.models import (
    Column,
    Conversation,
    Deployment,
    Generation,
    Job,
    Measurement,
    Membership,
    Node,
    Replica,
    Start,
    Team,
    Turn,
    User,
)
from tests import chats, gateway_site

pytestmark = pytest.mark.django_db(transaction=True)
GIB = 1 << 30
State = Generation.State


@pytest.fixture
def node(team: Team) -> Node:
    """A machine of 8 GiB that lives."""
    told = {"cores": 4, "memory_bytes": 8 * GIB, "memory_available_bytes": 8 * GIB, "gpus": []}
    return Node.objects.create(name="test-node", heartbeat_at=timezone.now(), inventory=told)


def big(team: Team, user: User | None, name: str, **more: Any) -> Deployment:
    """A deployment that takes more than half of the node, stopped."""
    frozen = gateway_site.configuration(team, memory_mib=5000, tokens=len(name))
    return Deployment.objects.create(
        team=team,
        name=name,
        model=frozen.model,
        engine="fake",
        configuration=frozen,
        created_by=user,
        wanted={"options": frozen.options},
        **{"desired": Deployment.Desired.STOPPED, **more},
    )


def runs(row: Deployment, node: Node) -> Deployment:
    Replica.objects.create(
        deployment=row,
        node=node,
        configuration=row.configuration,
        state=Replica.State.READY,
        resources={"build": "cpu", "cores": 4, "memory_bytes": 5000 << 20, "slots": ["cpu.0"]},
    )
    Deployment.objects.filter(pk=row.pk).update(desired=Deployment.Desired.RUNNING)
    row.refresh_from_db()
    return row


@pytest.fixture
def chat(team: Team, user: User, node: Node) -> Conversation:
    """Two columns that do not fit together; the first one's runs."""
    first = runs(big(team, user, "first"), node)
    return chats.conversation(team, first, big(team, user, "second!"), created_by=user)


@pytest.fixture
def page(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def shown(client: Client, chat: Conversation, query: str = "") -> str:
    answer = client.get(reverse("plan", args=[chat.pk]) + query)
    assert answer.status_code == 200
    return str(answer.content.decode())


def post(client: Client, chat: Conversation, user: User, text: str, **more: Any) -> Any:
    seal = plans.plan(chat, user).seal
    return client.post(reverse("plan", args=[chat.pk]), {"text": text, "seal": seal, **more})


def member(team: Team) -> User:
    person = User.objects.create_user(username="mia")
    Membership.objects.create(user=person, team=team, role=Membership.Role.MEMBER)
    return person


# What would happen


def test_it_tells_stages_times_and_cost_before_it_starts(
    page: Client, chat: Conversation, node: Node
) -> None:
    first, second = (column.deployment for column in chat.columns.all())
    assert first and second
    Start.objects.create(configuration=second.configuration, node=node, ready_s=30)
    now = timezone.now()
    gone = {"state": Replica.State.STOPPED, "drain_at": now - timedelta(seconds=2), "ended_at": now}
    Replica.objects.create(deployment=second, configuration=second.configuration, **gone)
    turn = Turn.objects.create(conversation=chat, text="x", client_id="x")
    for column, ms in zip(chat.columns.all(), (2000, 3000), strict=True):
        made = Generation.objects.create(turn=turn, column=column, state=State.COMPLETE, timings={"e2e": ms})
        assert column.deployment
        Generation.objects.filter(pk=made.pk).update(configuration=column.deployment.configuration)
    Node.objects.update(price_per_hour=Decimal("3.60"))
    body = shown(page, chat, "?text=Why%3F%0AHow%3F&lines=1")
    assert "first and second! need 9.8 GiB together; node test-node has 8.0 GiB free for them." in body
    assert "Why?\nHow?" in body
    made = plans.plan(chat, User.objects.get(username="ada"), prompts=2)
    assert [[stop.deployment.name for stop in stage.stops] for stage in made.stages] == [[], ["first"]]
    assert [start.time.words for stage in made.stages for start in stage.starts] == ["30 s"]
    assert [one.time.words for stage in made.stages for one in stage.asked] == ["about 8.0 s", "about 10 s"]
    assert [stop.time.words for stage in made.stages for stop in stage.stops] == ["about 2.0 s"]
    assert (made.time.words, round(made.time.seconds)) == ("about 50 s", 50)
    # The second's start places it on all of the machine's cores, as the first holds them.
    assert made.cost.words == "about $0.0500"
    assert made.time.words in body and made.cost.words in body and "30 s" in body
    assert "Start first again at the end" in body


def test_what_was_never_measured_is_not_known_and_what_is_like_it_is_about(
    chat: Conversation, user: User, node: Node
) -> None:
    made = plans.plan(chat, user)
    assert (made.time.words, made.cost.words) == ("not known", "no price set")
    second = chat.columns.all()[1].deployment
    assert second and second.configuration
    other = gateway_site.configuration(chat.team, tokens=77)
    Start.objects.create(configuration=other, node=node, ready_s=12)
    assert expected.start(second).words == "not known", "of what size the weights are is not known"
    other.format.size_bytes = 100
    other.format.save()
    second.refresh_from_db()
    assert expected.start(second).words == "about 12 s"
    assert plans.plan(chat, user).time.words == "at least 12 s"


def test_gpus_without_a_price_are_told_in_gpu_seconds() -> None:
    assert plans.Cost(gpu_s=34.2, priced=False).words == "about 34 GPU-seconds, no price set"


def test_a_column_without_a_model_is_left_out_with_the_reason(page: Client, chat: Conversation) -> None:
    Column.objects.create(conversation=chat, position=2)
    assert "No model is chosen in this column." in shown(page, chat)


def test_columns_that_fit_are_said_to_fit(page: Client, chat: Conversation) -> None:
    chat.columns.all()[1].delete()
    assert "All columns fit together" in shown(page, chat)


def test_a_fragment_follows_the_form(page: Client, chat: Conversation) -> None:
    address = reverse("plan", args=[chat.pk])
    body = page.get(f"{address}?part=stages&text=a", headers={"HX-Request": "true"}).content.decode()
    assert body.strip().startswith('<div class="stack" id="stages">') and "<html" not in body


# Who may


def test_a_member_sees_the_plan_and_whom_to_ask_and_runs_nothing(client: Client, chat: Conversation) -> None:
    mia = member(chat.team)
    client.force_login(mia)
    body = shown(client, chat)
    assert "needs the role of operator in Default. Ask ada." in body
    assert "Run it" not in body
    answer = post(client, chat, mia, "Hello")
    assert answer.status_code == 422 and not Measurement.objects.exists()
    assert not Turn.objects.exists()


def test_an_operator_does_not_stop_what_somebody_else_started(chat: Conversation) -> None:
    olga = User.objects.create_user(username="olga")
    Membership.objects.create(user=olga, team=chat.team, role=Membership.Role.OPERATOR)
    made = plans.plan(chat, olga)
    assert [one.name for stage in made.stages for one in stage.asked] == ["first"]
    ((column, why),) = made.left_out
    assert column.deployment and column.deployment.name == "second!"
    assert why.endswith("first was started by ada: ask ada to run this, or to stop it first.")


def test_a_viewer_reads_and_runs_nothing(client: Client, chat: Conversation) -> None:
    vera = User.objects.create_user(username="vera")
    Membership.objects.create(user=vera, team=chat.team, role=Membership.Role.VIEWER)
    client.force_login(vera)
    assert "the role of member" in shown(client, chat)
    assert post(client, chat, vera, "Hello").status_code == 403
    assert client.post(reverse("plan-cancel", args=[chat.pk])).status_code == 403


def test_a_stranger_gets_404_everywhere(client: Client, chat: Conversation, stranger: User) -> None:
    turn = Turn.objects.create(conversation=chat, text="x", client_id="x")
    client.force_login(stranger)
    assert client.get(reverse("plan", args=[chat.pk])).status_code == 404
    assert client.post(reverse("plan", args=[chat.pk]), {"text": "x"}).status_code == 404
    assert client.post(reverse("plan-cancel", args=[chat.pk])).status_code == 404
    assert client.get(reverse("turn-replay", args=[turn.pk])).status_code == 404
    assert not Measurement.objects.exists()


# Asking for it


def test_a_second_press_makes_no_second_plan(page: Client, chat: Conversation, user: User) -> None:
    assert post(page, chat, user, "Hello").status_code == 302
    assert post(page, chat, user, "Hello").status_code == 302
    row = Measurement.objects.get()
    assert chat.turns.count() == 1 and Job.objects.get() == row.job
    assert row.settings["stages"] == [
        {"stops": [], "starts": [], "columns": [chat.columns.all()[0].pk]},
        {
            "stops": [chat.columns.all()[0].deployment_id],
            "starts": [chat.columns.all()[1].deployment_id],
            "columns": [chat.columns.all()[1].pk],
        },
    ]
    assert "Under way" in shown(page, chat)
    assert post(page, chat, user, "Something else").status_code == 422
    assert chat.turns.count() == 1


def test_a_plan_that_others_would_disturb_is_refused(page: Client, chat: Conversation, user: User) -> None:
    assert post(page, chat, user, "Hello").status_code == 302
    other = chats.conversation(chat.team, *[one.deployment for one in chat.columns.all() if one.deployment])
    answer = post(page, other, user, "Hello again")
    assert answer.status_code == 422
    assert "is under way in “Hello”" in answer.content.decode()
    assert "Hello again" in answer.content.decode(), "what was typed stays"
    assert not other.turns.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  \n ", "Write what is to be asked first."),
        ("a\nb\n" * 11, "These are 22 prompts; 20 is the most of one plan."),
        ("a\0b", "NUL"),
    ],
)
def test_bad_prompts_are_refused_with_a_sentence(text: str, why: str) -> None:
    with pytest.raises(plan_requests.PlanRefused, match=why):
        plan_requests.prompts_of(text, lines=True)


def test_a_plan_that_is_not_the_one_shown_is_shown_again(page: Client, chat: Conversation) -> None:
    answer = page.post(reverse("plan", args=[chat.pk]), {"text": "Hello", "seal": "other"})
    assert answer.status_code == 422
    assert "look at the plan again" in answer.content.decode() and "Hello" in answer.content.decode()


def test_without_a_worker_it_is_refused(page: Client, chat: Conversation, user: User) -> None:
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    answer = post(page, chat, user, "Hello")
    assert answer.status_code == 422 and not Measurement.objects.exists()


def test_it_is_cancelled_before_it_began(page: Client, chat: Conversation, user: User) -> None:
    post(page, chat, user, "Hello")
    assert page.post(reverse("plan-cancel", args=[chat.pk])).status_code == 302
    assert Job.objects.get().state == Job.State.CANCELLED
    assert "cancelled" in shown(page, chat)


def test_a_member_does_not_cancel_somebody_elses(client: Client, chat: Conversation, user: User) -> None:
    made = plans.plan(chat, user)
    plan_requests.request(chat, user, ["Hello"], made, made.seal)
    client.force_login(member(chat.team))
    assert client.post(reverse("plan-cancel", args=[chat.pk])).status_code == 403
    assert Job.objects.get().state == Job.State.QUEUED


# The replay


def answered(chat: Conversation, node: Node, *, apart: bool = True) -> Turn:
    turn = Turn.objects.create(conversation=chat, text="Why?", client_id="x")
    began = timezone.now().replace(year=2026, month=3, day=9)
    for place, column in enumerate(chat.columns.all()):
        assert column.deployment
        replica = Replica.objects.create(deployment=column.deployment, node=node, state=Replica.State.STOPPED)
        row = Generation.objects.create(
            turn=turn,
            column=column,
            replica=replica,
            state=State.COMPLETE,
            text=f"Answer of **{place}**",
            timings={"ttft": 100, "e2e": 900, "chunks": 3},
            pace=[[100.0, 2], [900.0, 15]] if place else [],
        )
        at = began + timedelta(seconds=60 * place if apart else 0)
        Generation.objects.filter(pk=row.pk).update(created_at=at, ended_at=at + timedelta(seconds=1))
    return turn


def test_a_replay_says_that_the_answers_were_not_made_at_the_same_time(
    page: Client, chat: Conversation, node: Node
) -> None:
    turn = answered(chat, node)
    body = page.get(reverse("turn-replay", args=[turn.pk])).content.decode()
    label = "these answers were made one after another on test-node on 9 March 2026, not at the same time."
    assert label in " ".join(body.split())
    assert "Answer of **0**" in body and "Answer of **1**" in body, "they are there without a script"
    assert 'data-pace="[[100.0, 2], [900.0, 15]]"' in body and body.count("evenly paced") == 1
    fragment = page.get(reverse("turn-replay", args=[turn.pk]), headers={"HX-Request": "true"})
    assert b"<html" not in fragment.content and b"data-replay" in fragment.content


def test_a_replay_of_answers_made_together_does_not_say_they_were_apart(
    page: Client, chat: Conversation, node: Node
) -> None:
    body = page.get(reverse("turn-replay", args=[answered(chat, node, apart=False).pk])).content.decode()
    assert "made at the same time" in body and "not at the same time" not in body


def test_a_replay_of_one_answer_compares_nothing(page: Client, chat: Conversation, node: Node) -> None:
    turn = answered(chat, node)
    turn.generations.order_by("-pk")[0].delete()
    body = page.get(reverse("turn-replay", args=[turn.pk])).content.decode()
    assert "this answer was made on test-node on 9 March 2026." in body


def test_a_replay_in_a_blind_conversation_hides_who_answered(
    page: Client, chat: Conversation, node: Node
) -> None:
    turn = answered(chat, node)
    Conversation.objects.update(blind=True)
    Turn.objects.update(inputs={"blind": True})
    body = page.get(reverse("turn-replay", args=[turn.pk])).content.decode()
    assert "vote on this message, and its replay shows" in body
    assert "second!" not in body and ">first<" not in body and "data-pace" not in body
    Conversation.objects.update(blind=False)
    assert "second!" in page.get(reverse("turn-replay", args=[turn.pk])).content.decode()


def test_a_pace_that_was_not_recorded_is_even() -> None:
    row = Generation(text="x" * 10, timings={"ttft": 200, "e2e": 1000}, usage={})
    assert paces.of(row) == paces.Paced(((200.0, 1), (1000.0, 10)), even=True)
    assert paces.of(Generation(text="x", timings={})).points == ()
    assert paces.of(Generation(text="", timings={"e2e": 5})).points == ()


def test_a_pace_is_taken_only_as_far_as_it_is_one() -> None:
    row = Generation(text="abc", pace=[[1, 1], ["x", 2], [0, 3], [5, 2], 7, [9, 3]])
    assert paces.of(row) == paces.Paced(((1.0, 1), (5.0, 2), (9.0, 3)), even=False)
