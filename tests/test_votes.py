"""Blind mode over HTTP: who sees what, in which order, which votes count, and what they add up to."""

import re
from collections.abc import Iterator
from itertools import count

import pytest
from django.db import IntegrityError
from django.test import Client
from django.urls import reverse

from endpoints import promotion
from playground import catalogue, statistics, tally, votes
from playground.models import (
    Column,
    Configuration,
    Conversation,
    Deployment,
    EngineEnvironment,
    Generation,
    Image,
    Membership,
    Replica,
    Team,
    Turn,
    User,
    Vote,
)
from tests import chats

HTMX = {"HX-Request": "true"}
numbers: Iterator[int] = count(1)


@pytest.fixture
def configurations(team: Team) -> list[Configuration]:
    """Four that differ by an option."""
    model = catalogue.demo(team)
    environment = EngineEnvironment.objects.create(
        engine="llama.cpp", version="2026.10", digest="e" * 64, packages="", python="3.13"
    )
    return [
        Configuration.objects.create(
            digest=f"{at}abc" * 16,
            canonical="{}",
            model=model,
            format=model.formats.get(kind="gguf"),
            format_digest="f" * 64,
            environment=environment,
            engine="llama.cpp",
            options={"context": 1024 * at},
        )
        for at in range(1, 5)
    ]


@pytest.fixture
def chat(team: Team, user: User, configurations: list[Configuration]) -> Conversation:
    """A blind conversation with two columns."""
    return compared(team, user, configurations[:2])


def compared(team: Team, user: User, over: list[Configuration], **more: object) -> Conversation:
    rows = [chats.deployment(team, f"dep-{at}", configuration=one) for at, one in enumerate(over)]
    return chats.conversation(team, *rows, created_by=user, **{"blind": True, **more})


def asked(chat: Conversation, text: str = "", state: str = "complete", blind: bool = True) -> Turn:
    """A message that every column answered."""
    at = next(numbers)
    turn = chat.turns.create(text=text or f"prompt {at}", client_id=f"c{at}", inputs={"blind": blind})
    for column in chat.columns.select_related("deployment"):
        configuration = column.deployment.configuration if column.deployment else None
        Generation.objects.create(
            turn=turn, column=column, state=state, text=f"by {column.pk}", configuration=configuration
        )
    return turn


def member(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team, role=role)
    return person


def signed_in(person: User) -> Client:
    client = Client(headers=HTMX)
    client.force_login(person)
    return client


def letter(turn: Turn, user: User, place: int) -> str:
    """The letter under which `user` sees the answer of the column at `place`."""
    columns = list(turn.conversation.columns.all())
    return votes.letters(turn, user, [column.pk for column in columns])[columns[place].pk]


def vote(turn: Turn, user: User, place: int | None, otherwise: str = "tie") -> Vote:
    return votes.cast(turn, user, otherwise if place is None else letter(turn, user, place))


# Order and hiding


def test_each_message_has_an_order_of_its_own_that_stays(chat: Conversation, user: User) -> None:
    columns = [column.pk for column in chat.columns.all()]
    turns = [asked(chat) for _ in range(40)]
    orders = [votes.order(turn, user, columns) for turn in turns]
    assert orders == [votes.order(Turn.objects.get(pk=turn.pk), user, reversed(columns)) for turn in turns]
    assert {tuple(order) for order in orders} == {tuple(columns), tuple(columns[::-1])}


def test_two_people_see_orders_that_do_not_tell_each_other(chat: Conversation, user: User) -> None:
    other = member(chat.team, "bob")
    columns = [column.pk for column in chat.columns.all()]
    turns = [asked(chat) for _ in range(40)]
    same = sum(votes.order(turn, user, columns) == votes.order(turn, other, columns) for turn in turns)
    assert 5 < same < 35


def test_names_hide_until_this_person_voted(chat: Conversation, user: User) -> None:
    other = member(chat.team, "bob")
    turn, seen = asked(chat), asked(chat, blind=False)
    assert votes.hidden_of(chat, [turn, seen], user) == {turn.pk}
    vote(turn, user, 0)
    assert not votes.hidden(chat, turn, user)
    assert votes.hidden(chat, turn, other)


def test_turning_blind_off_shows_all_and_on_again_hides_none_of_it(chat: Conversation, user: User) -> None:
    page, before = signed_in(user), asked(chat)
    address = reverse("conversation-blind", args=[chat.pk])
    shown = page.post(address, {"on": "no"})
    assert 'aria-pressed="false"' in shown.content.decode()
    assert shown.headers["HX-Trigger"] == '{"blind": {"target": "#blind"}}'
    chat.refresh_from_db()
    assert not votes.hidden(chat, before, user)
    page.post(address, {"on": "yes"})
    chat.refresh_from_db()
    before.refresh_from_db()
    assert not votes.hidden(chat, before, user)
    assert "while names showed" in ballot(page, before)
    after = asked(chat)
    page.post(address, {"on": "yes"})
    after.refresh_from_db()
    assert votes.hidden(chat, after, user)


# The ballot


def ballot(page: Client, turn: Turn) -> str:
    return page.get(reverse("turn-vote", args=[turn.pk])).content.decode()


def cast(page: Client, turn: Turn, choice: str, **more: str):
    mark = votes.ballot(Turn.objects.get(pk=turn.pk), User.objects.get(username="ada")).mark
    return page.post(reverse("turn-vote", args=[turn.pk]), {"choice": choice, "mark": mark, **more})


def test_a_ballot_tells_no_names_until_it_is_cast_and_then_all(chat: Conversation, user: User) -> None:
    page, turn = signed_in(user), asked(chat)
    before = ballot(page, turn)
    for row in chat.columns.all():
        assert row.deployment and row.deployment.name not in before
        assert f'"{row.pk}"' not in before
    assert not any(digest in before for digest in ("1abc", "2abc"))
    answer = cast(page, turn, letter(turn, user, 1))
    shown = answer.content.decode()
    assert answer.headers["HX-Trigger"] == f'{{"voted": {{"target": "#ballot-{turn.pk}"}}}}'
    assert f"<strong>{letter(turn, user, 0)}</strong> was dep-0" in shown
    assert f"<strong>{letter(turn, user, 1)}</strong> was dep-1" in shown
    row = Vote.objects.get()
    assert (row.verdict, row.column, row.user) == ("best", chat.columns.all()[1], user)
    assert row.configuration and row.configuration.options == {"context": 2048}
    assert [one["letter"] for one in row.candidates] == ["A", "B"]
    assert [one["column"] for one in row.candidates] == votes.order(
        turn, user, [c.pk for c in chat.columns.all()]
    )


def test_the_ballot_is_a_page_with_its_answers_that_needs_no_script(chat: Conversation, user: User) -> None:
    page, turn = Client(), asked(chat, "What is a slipway?")
    page.force_login(user)
    address = reverse("turn-vote", args=[turn.pk])
    before = page.get(address).content.decode()
    assert "<html" in before
    assert "What is a slipway?" in before
    for row in chat.columns.all():
        assert f"by {row.pk}" in before
        assert row.deployment and row.deployment.name not in before
    after = page.post(address, {"choice": "B", "mark": votes.ballot(turn, user).mark}).content.decode()
    assert "<html" in after
    assert "dep-0" in after
    Generation.objects.filter(pk=turn.generations.all()[0].pk).update(state="streaming")
    other = Client()
    other.force_login(member(chat.team, "bob"))
    waiting = other.get(address).content.decode()
    assert "Waiting for all answers" in waiting
    assert not any(f"by {row.pk}" in waiting for row in chat.columns.all())


@pytest.mark.parametrize("choice", ["tie", "bad"])
def test_a_tie_and_all_bad_have_no_winner(chat: Conversation, user: User, choice: str) -> None:
    cast(signed_in(user), asked(chat), choice)
    row = Vote.objects.get()
    assert (row.verdict, row.column, row.configuration) == (choice, None, None)
    assert not any(one["chosen"] for one in row.candidates)


def test_a_vote_is_final(chat: Conversation, user: User) -> None:
    page, turn = signed_in(user), asked(chat)
    cast(page, turn, "A")
    again = page.post(reverse("turn-vote", args=[turn.pk]), {"choice": "B"})
    assert again.status_code == 422
    assert "the first vote stays" in again.content.decode()
    assert Vote.objects.get().candidates[0]["chosen"]
    with pytest.raises(IntegrityError):
        Vote.objects.create(team=chat.team, turn=turn, user=user, verdict="tie", prompt_digest="x")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("streaming", "Waiting for all answers"),
        ("failed", "not complete"),
        ("stopped", "not complete"),
        ("interrupted", "not complete"),
    ],
)
def test_a_vote_needs_every_answer_whole(chat: Conversation, user: User, state: str, says: str) -> None:
    page, turn = signed_in(user), asked(chat)
    Generation.objects.filter(pk=turn.generations.all()[0].pk).update(state=state)
    assert says in ballot(page, turn)
    assert cast(page, turn, "A").status_code == 422
    assert not Vote.objects.exists()


def test_an_answer_asked_again_counts_in_place_of_the_one_that_failed(chat: Conversation, user: User) -> None:
    turn = asked(chat)
    failed = turn.generations.all()[0]
    Generation.objects.filter(pk=failed.pk).update(state="failed")
    again = Generation.objects.create(turn=turn, column=failed.column, state="complete", text="now")
    assert {one["generation"] for one in vote(turn, user, 0).candidates} >= {again.pk}


def test_a_closed_column_stands_for_no_vote(chat: Conversation, user: User) -> None:
    turn = asked(chat)
    Column.objects.filter(pk=chat.columns.all()[0].pk).update(closed=True)
    assert "at least two answers" in ballot(signed_in(user), turn)


def test_votes_are_for_blind_mode_and_blind_messages(chat: Conversation, user: User) -> None:
    page, turn = signed_in(user), asked(chat, blind=False)
    assert "while names showed" in cast(page, turn, "A").content.decode()
    blind = asked(chat)
    Conversation.objects.filter(pk=chat.pk).update(blind=False)
    assert "turn it on" in cast(page, blind, "A").content.decode()
    assert not Vote.objects.exists()


@pytest.mark.parametrize("choice", ["", "C", "a", "best", "1", "A\x00"])
def test_a_choice_that_is_none_is_refused(chat: Conversation, user: User, choice: str) -> None:
    answer = cast(signed_in(user), asked(chat), choice)
    assert answer.status_code == 422
    assert "Choose an answer, a tie, or all bad" in answer.content.decode()


def test_a_ballot_of_other_answers_is_refused(chat: Conversation, user: User) -> None:
    page, turn = signed_in(user), asked(chat)
    mark = votes.ballot(turn, user).mark
    Generation.objects.create(turn=turn, column=chat.columns.all()[0], state="complete", text="other")
    answer = page.post(reverse("turn-vote", args=[turn.pk]), {"choice": "A", "mark": mark})
    assert "Other answers stand here by now" in answer.content.decode()
    assert not Vote.objects.exists()


def test_everybody_of_the_team_votes_for_themselves(chat: Conversation, user: User) -> None:
    turn, other = asked(chat), member(chat.team, "bob")
    vote(turn, user, 0)
    vote(turn, other, 1)
    assert Vote.objects.count() == 2


def test_where_the_team_only_reads_it_still_votes(chat: Conversation) -> None:
    Conversation.objects.filter(pk=chat.pk).update(sharing="view")
    assert vote(asked(chat), member(chat.team, "bob"), 0)


def test_a_viewer_looks_and_does_not_vote(chat: Conversation) -> None:
    viewer, turn = member(chat.team, "vera", Membership.Role.VIEWER), asked(chat)
    page = signed_in(viewer)
    assert "role of member" in ballot(page, turn)
    assert page.post(reverse("turn-vote", args=[turn.pk]), {"choice": "A"}).status_code == 403
    assert page.post(reverse("conversation-blind", args=[chat.pk]), {"on": "no"}).status_code == 403
    assert page.get(reverse("votes")).status_code == 200
    chat.refresh_from_db()
    assert chat.blind and not Vote.objects.exists()


def test_a_stranger_sees_no_ballot_and_no_tally(chat: Conversation, user: User, stranger: User) -> None:
    turn = asked(chat)
    vote(turn, user, 0)
    page = signed_in(stranger)
    assert page.get(reverse("turn-vote", args=[turn.pk])).status_code == 404
    assert page.post(reverse("turn-vote", args=[turn.pk]), {"choice": "A"}).status_code == 404
    assert page.post(reverse("conversation-blind", args=[chat.pk])).status_code == 404
    assert page.get(reverse("turn-vote", args=[10**12])).status_code == 404
    assert "No votes yet" in page.get(reverse("votes")).content.decode()


def test_without_a_session_or_a_token_nothing_is_shown_or_changed(chat: Conversation, user: User) -> None:
    turn = asked(chat)
    addresses = [reverse("turn-vote", args=[turn.pk]), reverse("votes")]
    assert [Client().get(address).status_code for address in addresses] == [302, 302]
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    assert strict.post(addresses[0], {"choice": "A"}).status_code == 403
    assert signed_in(user).get(reverse("conversation-blind", args=[chat.pk])).status_code == 405


# What was asked


def test_the_same_prompt_is_known_again_anywhere(chat: Conversation, team: Team, user: User) -> None:
    first, second = asked(chat, "What is a slipway?"), asked(chat, " What is a slipway?\n")
    assert votes.prompt_digest(first) == votes.prompt_digest(second)
    Turn.objects.filter(pk=second.pk).update(parent=first)
    assert votes.prompt_digest(first) != votes.prompt_digest(Turn.objects.get(pk=second.pk))
    elsewhere = asked(chats.conversation(team), "What is a slipway?")
    assert votes.prompt_digest(elsewhere) == votes.prompt_digest(first)
    elsewhere.conversation.system_prompt = "Answer in French."
    assert votes.prompt_digest(elsewhere) != votes.prompt_digest(first)


def test_a_picture_is_known_by_its_bytes(chat: Conversation) -> None:
    def shown(data: bytes) -> str:
        row = Image.objects.create(
            conversation=chat, kind="png", width=1, height=1, size_bytes=len(data), data=data
        )
        turn = asked(chat, "Look")
        turn.inputs = {"images": [row.pk]}
        turn.save()
        return votes.prompt_digest(turn)

    assert shown(b"one") == shown(b"one")
    assert shown(b"one") != shown(b"two")


# The tally


def scores(team: Team) -> dict[str, tally.Score]:
    return {side.name: score for side, score in tally.of_team(team).sides}


def test_nothing_is_shown_under_ten_decided_votes(chat: Conversation, user: User) -> None:
    for _ in range(9):
        vote(asked(chat), user, 0)
    for _ in range(5):
        vote(asked(chat), user, None)
    shown = signed_in(user).get(reverse("votes")).content.decode()
    assert shown.count("9 decided so far; at least 10 are needed") == 3
    assert "%" not in shown.partition("<table")[2]
    vote(asked(chat), user, 0)
    shown = signed_in(user).get(reverse("votes")).content.decode()
    assert "so far" not in shown
    assert "100 %" in shown


def test_shares_and_intervals_are_over_decided_votes(chat: Conversation, user: User) -> None:
    for place in [0] * 9 + [1] * 5 + [None] * 2:
        vote(asked(chat), user, place)
    vote(asked(chat), user, None, "bad")
    found = scores(chat.team)["dep-0"]
    assert (found.won, found.lost, found.ties, found.bad) == (9, 5, 2, 1)
    assert found.share == pytest.approx(9 / 14)
    # Wilson at 95 %: (9 + 1.92073) / (14 + 3.84146) ± …
    assert found.interval == pytest.approx((0.3876, 0.8366), abs=5e-4)
    shown = signed_in(user).get(reverse("votes")).content.decode()
    for words in ("64 %", "39 % to 84 %", "36 %", "context 1024", "llama.cpp 2026.10", "1abc1abc1abc"):
        assert words in shown, words


def test_a_vote_among_several_counts_for_the_chosen_against_each_other(
    team: Team, user: User, configurations: list[Configuration]
) -> None:
    chat = compared(team, user, configurations[:3])
    for _ in range(10):
        vote(asked(chat), user, 2)
    vote(asked(chat), user, 1)
    pairs = {(one.name, other.name): score for one, other, score in tally.of_team(team).pairs}
    assert {names: (score.won, score.lost) for names, score in pairs.items()} == {
        ("dep-2", "dep-0"): (10, 0),
        ("dep-2", "dep-1"): (10, 1),
        ("dep-1", "dep-0"): (1, 0),
    }
    assert {name: (score.won, score.lost) for name, score in scores(team).items()} == {
        "dep-2": (10, 1),
        "dep-1": (1, 10),
        "dep-0": (0, 11),
    }


def test_one_vote_a_person_and_prompt_counts_and_it_is_the_last(chat: Conversation, user: User) -> None:
    other = member(chat.team, "bob")
    for place in (0, 0, 1):
        vote(asked(chat, "Always the same"), user, place)
    vote(asked(chat, "Always the same"), other, 0)
    vote(asked(chat, "Something else"), user, 0)
    found = scores(chat.team)
    assert (found["dep-0"].won, found["dep-0"].lost) == (2, 1)
    assert tally.of_team(chat.team).votes == 5


def test_the_same_prompt_with_other_rivals_leaves_the_first_pair_its_vote(
    team: Team, user: User, configurations: list[Configuration]
) -> None:
    first, second = compared(team, user, configurations[:2]), compared(team, user, configurations[2:])
    vote(asked(first, "Same"), user, 0)
    vote(asked(second, "Same"), user, 0)
    assert len(tally.of_team(team).pairs) == 2


def test_a_configuration_against_itself_says_nothing(
    team: Team, user: User, configurations: list[Configuration]
) -> None:
    chat = compared(team, user, [configurations[0]] * 2)
    vote(asked(chat), user, 0)
    assert tally.of_team(team).sides == []


def test_an_adapter_and_its_model_are_two_sides_and_one_evidence(
    team: Team, user: User, configurations: list[Configuration]
) -> None:
    one = configurations[0]
    one.adapters = [{"name": "polite", "digest": "a" * 64}]
    one.save()
    turn = asked(compared(team, user, [one, one]))
    polite = {"lora": [{"id": 0, "scale": 1.0}]}
    turn.generations.filter(column__position=1).update(request=polite)
    vote(turn, user, 1)
    assert {side.adapter: score.won for side, score in tally.of_team(team).sides} == {"polite": 1, "": 0}
    assert tally.evidence(one, team)["votes"] == 0


def test_hostile_names_in_the_tally_are_inert(chat: Conversation, user: User) -> None:
    for row in chat.columns.select_related("deployment"):
        assert row.deployment
        row.deployment.configuration = None
        row.deployment.name = f"<img src=x onerror=alert({row.pk})>"
        row.deployment.save()
    vote(asked(chat), user, 0)
    assert "<img" not in signed_in(user).get(reverse("votes")).content.decode()


# Evidence


def test_votes_are_evidence_that_outlives_its_conversation(
    chat: Conversation, user: User, configurations: list[Configuration]
) -> None:
    for place in [0] * 9 + [1] * 5 + [None] * 3:
        vote(asked(chat), user, place)
    low, high = statistics.wilson(9, 14)
    wanted = {"votes": 17, "decided": 14, "won": 9, "ties": 3, "bad": 0, "share": 9 / 14, "low": low}
    assert tally.evidence(configurations[0], chat.team) == wanted | {"high": high}
    chat.delete()
    assert tally.evidence(configurations[0], chat.team) == wanted | {"high": high}


def test_few_votes_are_counted_and_no_more(
    chat: Conversation, user: User, configurations: list[Configuration], stranger: User
) -> None:
    for _ in range(4):
        vote(asked(chat), user, 0)
    found = tally.evidence(configurations[0], chat.team)
    assert (found["decided"], found["share"], found["low"], found["high"]) == (4, None, None, None)
    other = stranger.memberships.get().team
    assert tally.evidence(configurations[0], other)["votes"] == 0
    assert tally.evidence(configurations[3], chat.team)["votes"] == 0


def test_a_promotion_shows_and_keeps_the_votes(chat: Conversation, user: User) -> None:
    page, tested = signed_in(user), Deployment.objects.get(name="dep-0")
    Replica.objects.create(deployment=tested, configuration=tested.configuration, state="ready", port=1)
    promote = reverse("endpoints:promote", args=[tested.pk])
    assert "No blind votes on it" in page.get(promote).content.decode()
    for place in [0] * 7 + [None]:
        vote(asked(chat), user, place)
    assert "Votes: 7 decided of 8." in page.get(promote).content.decode()
    for place in [0] * 2 + [1] * 5 + [None] * 2:
        vote(asked(chat), user, place)
    assert shown_votes(page.get(promote)) == "Votes: 14 decided of 17; won 64 % (39 % to 84 %)."
    promotion.promote(tested, endpoint="ships", user=user)
    chat.delete()
    detail = page.get(reverse("endpoints:detail", args=["ships"]))
    assert shown_votes(detail) == "Votes: 14 decided of 17; won 64 % (39 % to 84 %)."


def shown_votes(answer) -> str:
    text = re.sub("<[^>]*>", "", answer.content.decode())
    found = re.search(r"Votes: [^.]*\.", text)
    return found.group() if found else text
