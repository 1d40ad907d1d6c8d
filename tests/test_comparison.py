"""Columns beside each other: which there are, what each goes on from, what was timed together."""

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import (
    charts,
    columns,
    comparison,
    conversations,
    examples,
    generation,
    leases,
    pace,
    spending,
    sums,
    thread,
    together,
)
from playground.access import Refused
from playground.models import (
    Column,
    Conversation,
    Deployment,
    Generation,
    Membership,
    Node,
    Replica,
    Team,
    Turn,
    User,
)
from playground.templatetags import figures as filters
from tests import chats
from tests.chats import Web
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rows(team: Team) -> list[Deployment]:
    return [chats.deployment(team, name) for name in ("one", "two", "three")]


@pytest.fixture
def chat(team: Team, rows: list[Deployment]) -> Conversation:
    return chats.conversation(team, *rows)


def names(chat: Conversation) -> list[str]:
    return [column.deployment.name if column.deployment else "" for column in comparison.shown(chat)]


def said(chat: Conversation, parent: Turn | None = None, **previous: Any) -> Turn:
    """A turn with a finished answer in every open column, or the given one's continuation in each."""
    turn = Turn.objects.create(
        conversation=chat, parent=parent, text="Hi", client_id=f"c{chat.turns.count()}"
    )
    for column in comparison.shown(chat):
        last = parent.generations.filter(column=column).last() if parent else None
        what = {"previous": previous.get("previous", last), "state": "complete", "text": f"by {column.pk}"}
        Generation.objects.create(turn=turn, column=column, **what)
    return turn


# Which there are


def test_columns_are_added_cloned_moved_and_closed(chat: Conversation, team: Team) -> None:
    first = comparison.shown(chat)[0]
    comparison.configure(first, "Be brief.", {"temperature": 0.5})
    first.refresh_from_db()
    copy = comparison.clone(first)
    assert names(chat) == ["one", "one", "two", "three"]
    assert (copy.system_prompt, copy.parameters) == ("Be brief.", {"temperature": 0.5})
    comparison.move(copy, 2)
    assert names(chat) == ["one", "two", "three", "one"]
    comparison.move(copy, -9)
    comparison.close(first)
    assert names(chat) == ["one", "two", "three"]
    assert [column.position for column in comparison.shown(chat)] == [0, 1, 2]


def test_a_column_that_is_added_takes_what_runs_and_is_in_none(
    chat: Conversation, team: Team, fake_engine: Callable[..., RunningFake]
) -> None:
    idle, ready = chats.deployment(team, "idle", desired="stopped"), chats.deployment(team, "fourth")
    chats.ready(ready, fake_engine(key="k"))
    assert comparison.add(chat).deployment == ready
    assert comparison.add(chat).deployment == ready, "nothing else runs: as the last"
    assert comparison.add(chat, idle).deployment == idle
    with pytest.raises(comparison.ComparisonRefused, match="6 columns are the most"):
        comparison.add(chat)


def test_the_last_column_and_one_that_answers_stay(chat: Conversation) -> None:
    one, two, three = comparison.shown(chat)
    live = said(chat).generations.get(column=three)
    Generation.objects.filter(pk=live.pk).update(state="streaming")
    with pytest.raises(comparison.ComparisonRefused, match="still answering"):
        comparison.close(three)
    comparison.close(two)
    comparison.close(one)
    Generation.objects.filter(pk=live.pk).update(state="complete")
    with pytest.raises(comparison.ComparisonRefused, match="last column stays"):
        comparison.close(three)


def test_what_a_closed_column_answered_stays_where_no_other_did(chat: Conversation) -> None:
    one, two, three = comparison.shown(chat)
    turn = said(chat)
    turn.generations.exclude(column=one).delete()
    later = said(chat, turn)
    comparison.close(one)
    shown = thread.show(chat)
    assert [[a.generation.column_id for a in t.answers] for t in shown.turns] == [
        [one.pk],
        [two.pk, three.pk],
    ]
    assert [t.turn for t in shown.turns] == [turn, later]


def test_headings_say_what_sets_columns_apart(team: Team, chat: Conversation) -> None:
    for column, delay in zip(comparison.shown(chat), (1.0, 5.0, 5.0), strict=True):
        assert column.deployment
        column.deployment.wanted = {"options": {"token_delay_ms": delay}}
        column.deployment.save()
    found = columns.headings(comparison.shown(chat))
    assert [heading.at for heading in found] == [1, 2, 3]
    assert all(len(heading.differs) == 1 and "5.0" in heading.differs[0] for heading in found[1:])
    assert all(not one.differs for one in columns.headings(comparison.shown(chat)[1:])), (
        "alike: nothing to say"
    )


# What each goes on from


def test_each_column_goes_on_from_its_own_answer_or_all_from_one(chat: Conversation) -> None:
    one, two, _ = comparison.shown(chat)
    turn = said(chat)
    own = {row.column_id: row for row in turn.generations.all()}
    everything = list(own.values())
    assert generation._continued(two, turn, everything) == own[two.pk]
    fresh = comparison.clone(two)
    assert generation._continued(fresh, turn, everything) == everything[0], (
        "new: from the first that stands there"
    )
    fresh.conversation.together = True
    assert generation._continued(fresh, turn, [own[two.pk]]) == own[two.pk]
    one.conversation.together = True
    assert generation._continued(one, turn, [own[two.pk]]) == own[two.pk]


def test_a_turn_that_goes_on_from_another_column_is_shown(chat: Conversation) -> None:
    two = comparison.shown(chat)[1]
    turn = said(chat)
    later = said(chat, turn, previous=turn.generations.get(column=two))
    last = said(chat, later)
    assert [one.turn for one in thread.show(chat).turns] == [turn, later, last]
    again = Generation.objects.create(turn=turn, column=two, state="complete", text="again")
    shown = thread.show(chat, thread.Point(turn.pk, again.pk))
    assert [one.turn for one in shown.turns] == [turn, later, last], (
        "another answer in a column hides no turn"
    )
    assert again in [answer.generation for answer in shown.turns[0].answers]


# Timed


@pytest.fixture
def web() -> Iterator[Web]:
    with chats.running_web() as web:
        yield web


def test_timed_alone_one_begins_when_the_one_before_has_ended(
    web: Web, user: User, chat: Conversation, rows: list[Deployment], fake_engine: Callable[..., RunningFake]
) -> None:
    for row in rows:
        chats.ready(row, fake_engine(key="k"))
    turn = generation.send(chat, "[[tokens=20]] [[delay=2]]", "c", user)
    for row in turn.generations.all():
        chats.answer(row.pk, "complete")
    made = [chats.answer(row.pk, "complete") for row in generation.time_alone(turn, user)]
    spans = [together._span(row) for row in made]
    assert all(before and after and before[1] <= after[0] for before, after in itertools.pairwise(spans))
    shown = thread.show(chat).turns[0]
    assert [answer.generation.pk for answer in shown.answers] == [row.pk for row in made]


def test_what_waits_for_another_is_neither_taken_nor_forgotten(chat: Conversation, user: User) -> None:
    turn = said(chat)
    first, second, _ = turn.generations.order_by("pk")
    Generation.objects.filter(pk=first.pk).update(state="streaming", owner="x", lease_expires_at=later(60))
    Generation.objects.filter(pk=second.pk).update(
        state="pending", owner="", after=first, created_at=later(-600)
    )
    assert leases.unclaimed() == []
    assert leases.sweep() == 0
    Generation.objects.filter(pk=first.pk).update(state="complete", ended_at=timezone.now())
    assert leases.unclaimed() == [second.pk]
    assert leases.sweep() == 0, "it is due since a moment only"
    Generation.objects.filter(pk=first.pk).update(ended_at=later(-600))
    assert leases.sweep() == 1


def later(seconds: float) -> Any:
    return timezone.now() + timedelta(seconds=seconds)


def held(node: Node, row: Deployment, *gpus: int) -> Replica:
    resources = {"cores": 1, "gpus": [{"index": index} for index in gpus]}
    return Replica.objects.create(deployment=row, node=node, state="ready", resources=resources)


def test_it_tells_which_columns_were_timed_together(chat: Conversation, rows: list[Deployment]) -> None:
    node = Node.objects.create(name="gpu-1")
    replicas = [held(node, rows[0], 0), held(node, rows[1], 0, 1), held(node, rows[2], 2)]
    answers = list(said(chat).generations.order_by("pk"))
    now = timezone.now()
    for answer, replica in zip(answers, replicas, strict=True):
        answer.replica, answer.ended_at, answer.timings = replica, now, {"e2e": 500.0}
    places = {answer.column_id: place for place, answer in enumerate(answers, 1)}
    assert together.timed(answers, places) == "Timed together: columns 1 and 2 share the hardware of gpu-1."
    answers[1].ended_at = now + timedelta(seconds=2)
    assert together.timed(answers, places) == "", "one after the other"
    assert not together.shares(held(Node.objects.create(name="gpu-2"), rows[0], 0), replicas[0])
    assert together.shares(held(node, rows[0]), held(node, rows[1])), "both on its cores"


# Figures


def test_an_answer_costs_its_part_of_the_machine(rows: list[Deployment]) -> None:
    inventory = {"cores": 8, "gpus": [{"index": i} for i in range(4)]}
    node = Node.objects.create(name="gpu-1", price_per_hour=Decimal("7.2"), inventory=inventory)
    assert spending.of(held(node, rows[0], 0, 1), 10.0) == {"gpu_s": 20.0, "cost": 0.01}
    assert spending.of(held(node, rows[0]), 8.0) == {"cost": 0.002}, "one of eight cores"
    node.price_per_hour = None
    assert spending.of(held(node, rows[0], 0), 2.0) == {"gpu_s": 2.0}
    assert spending.of(held(node, rows[0]), 2.0) == {}
    assert spending.of(held(node, rows[0], 0), None) == {}


def test_sums_are_medians_of_speeds_and_totals_of_what_was_made(chat: Conversation) -> None:
    column = comparison.shown(chat)[0]
    parent = None
    for number, (ttft, tokens) in enumerate(((10.0, 11), (30.0, 21), (20.0, 11)), 1):
        parent = said(chat, parent)
        row = parent.generations.get(column=column)
        row.timings = {"ttft": ttft, "e2e": ttft + 10.0 * (tokens - 1), "chunks": tokens, "queue": 1.0}
        row.usage = {"completion_tokens": tokens}
        row.timings |= {"cost": 0.5} if number < 3 else {}
        row.save()
    lagged = said(chat, parent).generations.get(column=column)
    lagged.timings, lagged.usage = {"ttft": 9000.0, "lagged": True}, {"completion_tokens": 7}
    lagged.save()
    places = {one.pk: place for place, one in enumerate(comparison.shown(chat), 1)}
    shown = thread.show(chat)
    found = sums.of(shown, places)[1]
    assert (found.answers, found.late, found.left_out) == (4, 1, 0)
    assert (found.ttft, found.tpot, found.tokens, found.queue) == (20.0, 10.0, 50, 3.0)
    assert found.e2e == 110.0 + 230.0 + 120.0
    assert found.tokens_per_s == 100.0
    assert found.cost is None, "one answer has none: a sum of some would mislead"
    drawn = {chart.title: chart for chart in charts.of(shown, places)}
    line = drawn["Time to first token (ms)"].lines[0]
    assert [dot.turn for dot in line.dots] == [1, 2, 3, 4]
    assert line.dots[3].y == charts.TOP, "the largest is on top"
    assert "column 1 9,000.0 ms" in drawn["Time to first token (ms)"].words


def test_the_pace_stays_small_and_ends_at_the_end() -> None:
    kept = pace.Pace()
    for at in range(1, 10_001):
        kept.reach(at * 10.0, at * 4)
    assert len(kept.points) <= pace.MOST
    assert kept.points[-1] == (100_000.0, 40_000)
    assert kept.points[0] == (10.0, 4)
    times, lengths = zip(*kept.points, strict=True)
    assert list(times) == sorted(times) and list(lengths) == sorted(lengths)
    gaps = [after - before for before, after in itertools.pairwise(times)][:-1]
    assert max(gaps) <= 2 * min(gaps), "thinned out evenly"


def test_every_figure_shown_is_what_its_definition_says(
    web: Web,
    client: Client,
    user: User,
    chat: Conversation,
    rows: list[Deployment],
    fake_engine: Callable[..., RunningFake],
) -> None:
    """Known delays: 400 ms to the first byte, 20 ms a token, 21 tokens a chunk each."""
    node, _ = Node.objects.get_or_create(name=settings.NODE_NAME)
    Node.objects.filter(pk=node.pk).update(price_per_hour=Decimal("3.6"), inventory={"cores": 1})
    for column in comparison.shown(chat)[1:]:
        comparison.close(column)
    replica = chats.ready(rows[0], fake_engine(key="k"))
    Replica.objects.filter(pk=replica.pk).update(resources={"cores": 1})
    asked = "[[wait=0.4]] [[tokens=21]] [[delay=20]]"
    row = chats.answer(generation.send(chat, asked, "c", user).generations.get().pk, "complete")
    kept = row.timings
    # The engine cannot have been quicker than it was told to be.
    assert kept["ttft"] >= 400 and kept["e2e"] - kept["ttft"] >= 20 * 20
    assert row.text == chats.words(21) and row.usage["completion_tokens"] == 21
    tpot = (kept["e2e"] - kept["ttft"]) / 20
    client.force_login(user)
    page = client.get(reverse("generation", args=[row.pk])).content.decode()
    shown = [" ".join(part.split()) for part in re.findall(r"<span[^>]*>([^<]*)</span>", page)]
    assert f"TTFT {filters.ms(kept['ttft'])}" in shown
    assert filters.rate(1000 / tpot) in shown
    assert "21 tokens" in shown
    assert filters.ms(kept["e2e"]) in shown
    assert filters.dollars(kept["busy_s"] * 3.6 / 3600) in shown
    assert kept["busy_s"] * 1000 >= kept["e2e"] - 1, "alone on its replica: all of its time"
    assert row.pace[-1][1] == len(row.text) and row.pace[0][0] == round(kept["ttft"], 1)


# Over HTTP


def test_the_page_adds_and_closes_columns(client: Client, user: User, chat: Conversation) -> None:
    client.force_login(user)
    page = client.get(reverse("conversation", args=[chat.pk])).content.decode()
    assert page.count('class="column-head"') == 3
    answer = client.post(reverse("column-add", args=[chat.pk]))
    assert answer.status_code == 200
    assert answer.content.decode().count('class="column-head"') == 4
    column = comparison.shown(chat)[0]
    assert client.post(reverse("column-close", args=[column.pk])).status_code == 200
    assert client.get(reverse("column", args=[column.pk])).status_code == 404
    assert names(chat) == ["two", "three", "three"]


def test_own_settings_are_kept_given_up_and_refused_with_what_was_typed(
    client: Client, user: User, chat: Conversation
) -> None:
    client.force_login(user)
    column = comparison.shown(chat)[1]
    url = reverse("column-settings", args=[column.pk])
    wrong = client.post(url, {"temperature": "hot", "max_tokens": "8", "system_prompt": "Be kind."})
    assert wrong.status_code == 422
    page = wrong.content.decode()
    assert "Temperature is a number" in page and 'value="hot"' in page and "Be kind." in page
    client.post(url, {"temperature": "0.5", "system_prompt": "Be kind."})
    column.refresh_from_db()
    assert (column.parameters, column.system_prompt) == ({"temperature": 0.5}, "Be kind.")
    client.post(url, {"shared": "1", "temperature": "9"})
    column.refresh_from_db()
    assert (column.parameters, column.system_prompt) == (None, None)


def test_its_own_system_prompt_is_what_the_model_is_told(
    web: Web, user: User, chat: Conversation, rows: list[Deployment], fake_engine: Callable[..., RunningFake]
) -> None:
    for row in rows[:2]:
        chats.ready(row, fake_engine(key="k"))
    one, two, three = comparison.shown(chat)
    comparison.close(three)
    Conversation.objects.filter(pk=chat.pk).update(system_prompt="Shared.")
    comparison.configure(two, "Own.", None)
    chat.refresh_from_db()
    turn = generation.send(chat, "[[tokens=1]]", "c", user)
    told = {row.column_id: chats.answer(row.pk, "complete").request for row in turn.generations.all()}
    assert told[one.pk]["messages"][0] == {"role": "system", "content": "Shared."}
    assert told[two.pk]["messages"][0] == {"role": "system", "content": "Own."}


def test_strangers_and_viewers_change_no_columns(
    client: Client, stranger: User, chat: Conversation, team: Team
) -> None:
    client.force_login(stranger)
    column = comparison.shown(chat)[0]
    for name, key in (("column-add", chat.pk), ("column-clone", column.pk), ("column-close", column.pk)):
        assert client.post(reverse(name, args=[key])).status_code == 404
    Membership.objects.create(team=team, user=stranger, role="viewer")
    for name, key in (("column-add", chat.pk), ("column-settings", column.pk), ("column-left", column.pk)):
        assert client.post(reverse(name, args=[key])).status_code == 403
    with pytest.raises(Refused):
        generation.time_alone(said(chat), stranger)
    assert Column.objects.count() == 3


def test_a_conversation_that_was_set_up_is_not_taken_for_a_new_one(user: User, team: Team) -> None:
    one, two = chats.deployment(team, "one"), chats.deployment(team, "two")
    first = conversations.begin(team, user, one)
    assert conversations.begin(team, user, two) == first, "nothing was done in it"
    assert names(first) == ["two"]
    comparison.add(first, one)
    second = conversations.begin(team, user, one)
    assert second != first and names(first) == ["two", "one"]
    comparison.configure(comparison.shown(second)[0], "Be brief.", None)
    assert conversations.begin(team, user, one) not in (first, second)


def test_a_newcomer_finds_the_same_weights_beside_themselves(client: Client, user: User, team: Team) -> None:
    client.force_login(user)
    assert "Start the comparison" in client.get(reverse("home")).content.decode()
    answer = client.post(reverse("start-comparison"), {"message": examples.LONGER})
    chat = Conversation.objects.get(title=examples.TITLE)
    assert answer.headers["Location"].startswith(f"{reverse('conversation', args=[chat.pk])}?text=Write")
    rows = [column.deployment for column in comparison.shown(chat)]
    assert [row.wanted["options"] for row in rows if row] == list(examples.SETTINGS)
    assert {row.model_id for row in rows if row} == {rows[0] and rows[0].model_id}
    assert all(row and row.desired == Deployment.Desired.RUNNING for row in rows)
    assert chat.parameters["temperature"] == 0
    heads = columns.headings(comparison.shown(chat))
    assert all("KV cache type" in word for head in heads for word in head.differs) and heads[1].differs
    again = client.post(reverse("start-comparison"), {})
    assert again.headers["Location"].startswith(reverse("conversation", args=[chat.pk])), (
        "the empty one again"
    )
    assert Deployment.objects.count() == 2
    said(chat)
    assert "Start the comparison" not in client.get(reverse("home")).content.decode()


def test_who_may_not_start_is_not_offered_the_example(client: Client, team: Team) -> None:
    person = User.objects.create_user(username="mem")
    Membership.objects.create(user=person, team=team, role="member")
    client.force_login(person)
    assert "Start the comparison" not in client.get(reverse("home")).content.decode()
    assert client.post(reverse("start-comparison")).status_code == 403
    assert not Conversation.objects.exists()
