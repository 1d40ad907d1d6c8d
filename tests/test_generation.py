"""Asking models: what is sent, what is kept, what is timed and counted, and what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import PermissionDenied

from playground import effects, engine_client, generation, leases
from playground.figures import figures
from playground.history import messages
from playground.models import Conversation, Deployment, Generation, Membership, Replica, Team, User
from tests import chats
from tests.chats import Web, words
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module", autouse=True)
def web() -> Iterator[Web]:
    with chats.running_web() as running:
        yield running


@pytest.fixture
def fake(fake_engine: Callable[..., RunningFake]) -> RunningFake:
    return fake_engine(key="k", context=200)


@pytest.fixture
def deployment(team: Team) -> Deployment:
    return chats.deployment(team)


@pytest.fixture
def replica(deployment: Deployment, fake: RunningFake) -> Replica:
    return chats.ready(deployment, fake)


@pytest.fixture
def chat(team: Team, deployment: Deployment, replica: Replica) -> Conversation:
    return chats.conversation(team, deployment)


def ask(chat: Conversation, user: User, text: str, after: Generation | None = None) -> Generation:
    """Send after `after`'s answer and wait for the end."""
    parent = after.turn if after else None
    turn = generation.send(chat, text, f"c{chat.turns.count()}", user, parent, [after] if after else ())
    return chats.answer(turn.generations.get().pk)


# What is kept


def test_it_keeps_text_usage_times_and_request(chat: Conversation, user: User, replica: Replica) -> None:
    row = ask(chat, user, "[[reason=3]] [[tokens=30]] [[delay=4]]")
    assert (row.state, row.text, row.finish_reason) == ("complete", words(30), "stop")
    assert row.reasoning == "thought0 thought1 thought2 "
    assert row.usage == {"prompt_tokens": 3, "completion_tokens": 33}
    assert row.replica == replica
    assert row.request["stream_options"] == {"include_usage": True}
    assert row.request["messages"] == [{"role": "user", "content": "[[reason=3]] [[tokens=30]] [[delay=4]]"}]
    times = row.timings
    assert 0 < times["ttft"] < times["first_answer"] < times["e2e"]
    assert times["chunks"] == 33
    assert times["queue"] >= 0
    assert row.ended_at and row.lease_expires_at is None
    shown = figures(row)
    assert shown.tokens == 33
    assert shown.tpot == pytest.approx((times["e2e"] - times["ttft"]) / 32)
    assert shown.busy_s and shown.busy_s * 1000 >= times["e2e"] * 0.9
    deployment = Deployment.objects.get()
    assert deployment.last_used_at


def test_it_sends_only_what_was_set(chat: Conversation, user: User) -> None:
    Conversation.objects.update(parameters={"temperature": 0, "max_tokens": 3}, system_prompt="Be brief")
    row = ask(Conversation.objects.get(), user, "[[tokens=9]]")
    assert (row.text, row.finish_reason) == ("word0 word1 word2 ", "length")
    assert set(row.request) == {"model", "messages", "temperature", "max_tokens", "stream", "stream_options"}
    assert row.request["messages"][0] == {"role": "system", "content": "Be brief"}


def test_it_asks_each_column_with_its_own_parameters(
    team: Team, user: User, deployment: Deployment, replica: Replica
) -> None:
    chat = chats.conversation(team, deployment, deployment, parameters={"max_tokens": 2})
    second = chat.columns.last()
    assert second
    second.parameters = {"max_tokens": 4}
    second.save()
    turn = generation.send(chat, "[[tokens=9]]", "c", user)
    rows = [chats.answer(row.pk) for row in turn.generations.all()]
    assert [row.usage["completion_tokens"] for row in rows] == [2, 4]


def test_a_conversation_goes_on_along_the_chosen_answers(chat: Conversation, user: User) -> None:
    one = ask(chat, user, "[[text=first]]")
    other = generation.regenerate(one.turn, one.column, user)
    other = chats.answer(other.pk)
    two = ask(chat, user, "[[text=second]]", after=other)
    edited = ask(chat, user, "[[text=edited]]", after=one)
    assert [message["content"] for message in messages(two)] == ["[[text=first]]", "first", "[[text=second]]"]
    assert two.previous == other
    assert edited.previous == one
    assert two.turn.parent == edited.turn.parent == one.turn
    assert Generation.objects.count() == 4


def test_turns_that_failed_are_not_told_to_the_model(chat: Conversation, user: User) -> None:
    bad = ask(chat, user, "[[error=500]]")
    good = ask(chat, user, "[[tokens=1]]", after=bad)
    assert [message["content"] for message in messages(good)] == ["[[tokens=1]]"]


def test_the_same_message_sent_twice_is_one(chat: Conversation, user: User) -> None:
    turns = {generation.send(chat, "[[tokens=1]]", "same", user).pk for _ in range(3)}
    assert len(turns) == 1
    assert Generation.objects.count() == 1


def test_answers_hold_nothing_that_a_store_refuses(chat: Conversation, user: User) -> None:
    row = ask(chat, user, "[[text=<script>alert(1)</script> 😀 \\u0000 end]]")
    assert row.text == "<script>alert(1)</script> 😀 \\u0000 end"


# Waiting and stopping


def test_a_loading_model_answers_when_it_is_ready(
    team: Team, user: User, deployment: Deployment, fake: RunningFake
) -> None:
    chat = chats.conversation(team, deployment)
    pk = generation.send(chat, "[[tokens=2]]", "c", user).generations.get().pk
    chats.until("a process claims it", lambda: Generation.objects.get(pk=pk).owner)
    assert Generation.objects.get(pk=pk).state == "pending"
    chats.ready(deployment, fake)
    row = chats.answer(pk)
    assert row.text == words(2)
    assert row.timings["queue"] > row.timings["ttft"]


def test_a_waiting_answer_can_be_stopped(team: Team, user: User, deployment: Deployment) -> None:
    chat = chats.conversation(team, deployment)
    pk = generation.send(chat, "Hi", "c", user).generations.get().pk
    chats.until("a process claims it", lambda: Generation.objects.get(pk=pk).owner)
    async_to_sync(generation.stop)(pk)
    assert chats.answer(pk).state == "stopped"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problem": "It needs 2 GB more."}, "It needs 2 GB more."),
        ({"desired": "stopped"}, "was stopped"),
        ({"desired": "deleted"}, "deleted"),
    ],
)
def test_waiting_ends_when_the_model_will_not_come(
    team: Team, user: User, deployment: Deployment, change: dict[str, str], says: str
) -> None:
    chat = chats.conversation(team, deployment)
    pk = generation.send(chat, "Hi", "c", user).generations.get().pk
    Deployment.objects.update(**change)
    row = chats.answer(pk)
    assert (row.state, row.error_code) == ("failed", "unreachable")
    assert says in row.error


def test_stop_keeps_what_came_and_counts_it(chat: Conversation, user: User, fake: RunningFake) -> None:
    pk = generation.send(chat, "[[tokens=5000]] [[delay=5]]", "c", user).generations.get().pk
    chats.until("some text", lambda: Generation.objects.get(pk=pk).text)
    async_to_sync(generation.stop)(pk)
    row = chats.answer(pk)
    fake.wait_idle()
    assert row.state == "stopped"
    assert words(5000).startswith(row.text)
    assert row.usage == {"completion_tokens": len(row.text.split()), "approximate": True}
    shown = figures(row)
    assert shown.approximate_tokens and not shown.comparable


def test_stop_on_what_nobody_took_or_what_ended_is_harmless(chat: Conversation, user: User) -> None:
    row = ask(chat, user, "[[tokens=1]]")
    async_to_sync(generation.stop)(row.pk)
    assert chats.answer(row.pk).state == "complete"
    idle = Generation.objects.create(turn=row.turn, column=row.column, state="pending")
    assert leases.ask_to_stop(idle.pk)
    assert chats.answer(idle.pk).state == "stopped"


# Failing


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[[die=3]] [[delay=5]]", "died_midway", "broke off"),
        ("[[cut=3]] [[delay=5]]", "died_midway", "broke off"),
        ("[[error=500]]", "refused", "500"),
        ("[[malformed]]", "malformed", "not JSON"),
        ("[[html]]", "malformed", "not with a stream"),
        ("word " * 300, "context_exceeded", "maximum context length is 200"),
    ],
)
def test_a_failure_says_what_happened_and_keeps_what_came(
    chat: Conversation, user: User, text: str, code: str, says: str
) -> None:
    row = ask(chat, user, text)
    assert (row.state, row.error_code) == ("failed", code)
    assert says in row.error
    assert words(3).startswith(row.text.strip())
    if "=3" in text:
        assert row.text == "word0 word1 word2 "
    assert row.turn.text.strip() == text.strip()


def test_an_engine_that_does_not_listen_is_named(
    chat: Conversation, user: User, replica: Replica, fake: RunningFake
) -> None:
    fake.process.kill()
    fake.process.wait()
    row = ask(chat, user, "Hi")
    assert (row.state, row.error_code) == ("failed", "unreachable")


def test_parameters_out_of_range_never_reach_the_engine(
    chat: Conversation, user: User, fake: RunningFake
) -> None:
    Conversation.objects.update(parameters={"max_tokens": -1})
    row = ask(Conversation.objects.get(), user, "Hi")
    assert (row.state, row.error_code) == ("failed", "bad_request")
    assert "max_tokens" in row.error
    assert fake.metric("requests_total") == 0


# Refusing


@pytest.mark.parametrize("text", ["", "  \n ", "x" * 1_048_576, "a\x00b"])
def test_it_refuses_messages_no_model_takes(chat: Conversation, user: User, text: str) -> None:
    with pytest.raises(generation.SendRefused) as caught:
        generation.send(chat, text, "c", user)
    assert str(caught.value).endswith(".")
    assert not Generation.objects.exists()


def test_it_refuses_what_does_not_run(team: Team, user: User) -> None:
    stopped = chats.deployment(team, desired="stopped")
    for chat in (chats.conversation(team), chats.conversation(team, stopped)):
        with pytest.raises(generation.SendRefused):
            generation.send(chat, "Hi", "c", user)
    stopped.problem = "No room."
    stopped.save()
    with pytest.raises(generation.SendRefused, match="No room"):
        generation.send(chat, "Hi", "c", user)


def test_it_refuses_places_of_other_conversations(
    team: Team, chat: Conversation, user: User, deployment: Deployment
) -> None:
    row = ask(chat, user, "[[tokens=1]]")
    other = chats.conversation(team, deployment)
    with pytest.raises(generation.SendRefused):
        generation.send(other, "Hi", "c", user, row.turn)
    with pytest.raises(generation.SendRefused):
        generation.send(chat, "Hi", "d", user, None, [row])
    live = Generation.objects.create(turn=row.turn, column=row.column, owner="x", state="streaming")
    with pytest.raises(generation.SendRefused, match="still being written"):
        generation.send(chat, "Hi", "e", user, row.turn, [live])
    with pytest.raises(generation.SendRefused, match="still being written"):
        generation.regenerate(row.turn, row.column, user)


def test_viewers_and_strangers_do_not_ask(chat: Conversation, stranger: User, team: Team) -> None:
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    for person in (viewer, stranger):
        with pytest.raises(PermissionDenied):
            generation.send(chat, "Hi", "c", person)
    assert not Generation.objects.exists()


# Leases


def left(chat: Conversation, **fields: Any) -> Generation:
    """An answer whose process is gone."""
    turn = chat.turns.create(text="Hi", client_id=f"c{chat.turns.count()}")
    return Generation.objects.create(turn=turn, column=chat.columns.get(), **fields)


def test_the_sweep_marks_only_what_its_owner_left(chat: Conversation) -> None:
    lease = {"owner": "gone", "text": "so far"}
    past = leases.Now() - leases.timedelta(seconds=1)
    future = leases.Now() + leases.timedelta(seconds=60)
    dead = left(chat, state="streaming", lease_expires_at=past, **lease)
    alive = left(chat, state="streaming", lease_expires_at=future, **lease)
    done = left(chat, state="complete", lease_expires_at=past, **lease)
    generation.sweep()
    states = [Generation.objects.get(pk=row.pk).state for row in (dead, alive, done)]
    assert states == ["interrupted", "streaming", "complete"]
    dead.refresh_from_db()
    assert (dead.text, dead.error_code) == ("so far", "interrupted")
    assert generation.sweep() == 0


def test_an_answer_has_one_owner(chat: Conversation) -> None:
    row = left(chat, state="pending", owner="another", text="theirs")
    assert leases.claim(row.pk) is None
    assert leases.renew([row.pk]) == {}
    leases.checkpoint([(row.pk, "mine", "")])
    assert not leases.finish(row.pk, "complete", text="mine")
    row.refresh_from_db()
    assert (row.state, row.text) == ("pending", "theirs")


def test_an_owner_takes_back_what_the_sweep_took_while_the_database_was_away(chat: Conversation) -> None:
    row = left(chat, state="interrupted", owner=leases.BOOT_ID, error="x", replica=Replica.objects.get())
    assert leases.renew([row.pk]) == {row.pk: False}
    row.refresh_from_db()
    assert (row.state, row.error) == ("streaming", "")
    Generation.objects.filter(pk=row.pk).update(stop_requested_at=leases.Now())
    assert leases.renew([row.pk]) == {row.pk: True}


# What was really asked


def test_the_effective_request_tells_what_was_sent(chat: Conversation, user: User) -> None:
    row = ask(chat, user, "[[tokens=1]]")

    async def look() -> dict[str, Any]:
        try:
            return await effects.look(row)
        finally:
            await engine_client.close()

    found = async_to_sync(look)()
    assert found["body"] == row.request
    assert (found["ignored"], found["rendered"], found["by"]) == ([], None, None)
