"""A conversation for others: its link, who may write in it, forks, and two people at the same one."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from playground import access, forks, generation, sharing_rules, teams, thread, votes
from playground.history import messages
from playground.models import (
    AuditEntry,
    Column,
    Conversation,
    Generation,
    Image,
    Membership,
    Team,
    Turn,
    User,
)
from tests import chats
from tests.chats import Page, Web, words
from tests.fakes import RunningFake

HTMX = {"HX-Request": "true"}


@pytest.fixture
def owner(team: Team) -> User:
    return member(team, "olga")


@pytest.fixture
def other(team: Team) -> User:
    return member(team, "bob")


@pytest.fixture
def chat(team: Team, owner: User) -> Conversation:
    rows = [chats.deployment(team, name) for name in ("first", "second")]
    return chats.conversation(team, *rows, created_by=owner, title="Ships", system_prompt="Be brief.")


def member(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team, role=role)
    return person


def signed_in(person: User, **headers: str) -> Client:
    client = Client(headers=HTMX | headers)
    client.force_login(person)
    return client


def said(chat: Conversation, text: str, parent: Turn | None = None, **more: Any) -> Turn:
    """A message, and a complete answer a column that continues its own."""
    turn = chat.turns.create(text=text, client_id=f"c{chat.turns.count()}", parent=parent, **more)
    for column in chat.columns.all():
        before = parent.generations.filter(column=column).last() if parent else None
        Generation.objects.create(
            turn=turn, column=column, previous=before, state="complete", text=f"{column.position} to {text}"
        )
    return turn


# Who may write


def test_the_team_writes_unless_it_may_only_read(
    chat: Conversation, owner: User, other: User, user: User, stranger: User
) -> None:
    viewer = member(chat.team, "vera", Membership.Role.VIEWER)
    people = (owner, user, other, viewer, stranger)
    assert [sharing_rules.may_write(one, chat) for one in people] == [True, True, True, False, False]
    chat.sharing = "view"
    assert [sharing_rules.may_write(one, chat) for one in people] == [True, True, False, False, False]


def test_whoever_may_only_read_is_told_what_to_do(chat: Conversation, other: User) -> None:
    sharing_rules.require_write(other, chat)
    chat.sharing = "view"
    with pytest.raises(access.Refused, match="Fork it to go on by yourself, or ask olga"):
        sharing_rules.require_write(other, chat)
    assert AuditEntry.objects.get(user=other).object == f"conversation:{chat.pk}"


def test_an_owner_who_became_a_viewer_writes_no_more(chat: Conversation, owner: User) -> None:
    owner.memberships.update(role=Membership.Role.VIEWER)
    assert not sharing_rules.may_write(owner, chat)
    with pytest.raises(access.Refused, match="role of member"):
        sharing_rules.require_write(owner, chat)


def test_without_an_owner_administrators_hold_it(chat: Conversation, other: User, user: User) -> None:
    Conversation.objects.filter(pk=chat.pk).update(created_by=None, sharing="view")
    chat.refresh_from_db()
    assert not sharing_rules.may_write(other, chat)
    assert sharing_rules.may_write(user, chat)
    with pytest.raises(access.Refused, match="ask an administrator"):
        sharing_rules.require_write(other, chat)


def test_owner_and_administrators_say_who_writes(
    chat: Conversation, owner: User, user: User, other: User
) -> None:
    address = reverse("conversation-share", args=[chat.pk])
    assert "Kept." in signed_in(owner).post(address, {"sharing": "view"}).content.decode()
    chat.refresh_from_db()
    assert chat.sharing == "view"
    shown = signed_in(other).get(address).content.decode()
    assert 'name="sharing"' not in shown
    assert "its owner and administrators may write" in shown
    assert signed_in(other).post(address, {"sharing": "edit"}).status_code == 403
    assert signed_in(user).post(address, {"sharing": "edit"}).status_code == 200
    chat.refresh_from_db()
    assert chat.sharing == "edit"


def test_a_choice_that_is_none_changes_nothing(chat: Conversation, owner: User) -> None:
    answer = signed_in(owner).post(reverse("conversation-share", args=[chat.pk]), {"sharing": "world"})
    assert answer.status_code == 422
    assert "Choose whether" in answer.content.decode()
    chat.refresh_from_db()
    assert chat.sharing == "edit"


def test_blind_mode_is_switched_by_who_may_write(chat: Conversation, owner: User, other: User) -> None:
    Conversation.objects.filter(pk=chat.pk).update(sharing="view")
    address = reverse("conversation-blind", args=[chat.pk])
    assert signed_in(other).post(address, {"on": "yes"}).status_code == 403
    assert signed_in(owner).post(address, {"on": "yes"}).status_code == 200


# The link


def test_the_link_names_the_branch_that_is_looked_at(chat: Conversation, owner: User) -> None:
    turn = said(chat, "hello")
    page, address = signed_in(owner), reverse("conversation-share", args=[chat.pk])
    plain = f"http://testserver/playground/{chat.pk}/"
    assert f'value="{plain}"' in page.get(address).content.decode()
    shown = page.get(address, {"turn": turn.pk}).content.decode()
    assert f'value="{plain}?turn={turn.pk}"' in shown
    assert f"format=md&amp;turn={turn.pk}" in shown
    pinned = {"HX-Current-URL": f"{plain}?turn={turn.pk}&answer=3"}
    assert f"?turn={turn.pk}&amp;answer=3" in page.get(address, headers=pinned).content.decode()
    odd = page.get(address, {"turn": '"><script>', "answer": "x"}).content.decode()
    assert f'value="{plain}"' in odd


def test_it_is_a_page_of_its_own_without_scripts(chat: Conversation, owner: User) -> None:
    said(chat, "hello")
    client = Client()
    client.force_login(owner)
    shown = client.get(reverse("conversation-share", args=[chat.pk])).content.decode()
    assert "<html" in shown
    assert reverse("conversation-fork", args=[chat.pk]) in shown


def test_a_link_leads_through_sign_in_to_where_it_points(chat: Conversation, other: User) -> None:
    turn = said(chat, "hello")
    link, client = f"/playground/{chat.pk}/?turn={turn.pk}", Client()
    asked = client.get(link)
    assert asked.status_code == 302
    assert client.get(asked.headers["Location"]).status_code == 200
    arrived = client.get(reverse("sign-in-link", args=[teams.make_login_link(other)]))
    assert arrived.headers["Location"] == link
    assert "0 to hello" in client.get(link).content.decode()


def test_a_stranger_finds_nothing_behind_a_link(chat: Conversation, stranger: User) -> None:
    said(chat, "hello")
    page = signed_in(stranger)
    names = ("conversation", "conversation-share", "conversation-export")
    assert {page.get(reverse(name, args=[chat.pk])).status_code for name in names} == {404}
    posts = ("conversation-share", "conversation-fork", "conversation-blind")
    assert {page.post(reverse(name, args=[chat.pk])).status_code for name in posts} == {404}
    assert AuditEntry.objects.filter(user=stranger, action="refused write").count() == len(posts)


def test_a_viewer_looks_shares_the_link_and_forks_nothing(chat: Conversation) -> None:
    said(chat, "hello")
    page = signed_in(member(chat.team, "vera", Membership.Role.VIEWER))
    shown = page.get(reverse("conversation-share", args=[chat.pk])).content.decode()
    assert "Copy" in shown
    assert "Fork" not in shown
    assert page.post(reverse("conversation-fork", args=[chat.pk])).status_code == 403
    assert page.post(reverse("conversation-share", args=[chat.pk]), {"sharing": "view"}).status_code == 403
    assert Conversation.objects.count() == 1


def test_nothing_is_changed_without_a_csrf_token(chat: Conversation, owner: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    for name in ("conversation-share", "conversation-fork", "conversation-blind"):
        assert client.post(reverse(name, args=[chat.pk])).status_code == 403, name


# Forks


def fork(person: User, chat: Conversation, **fields: Any) -> Conversation:
    answer = signed_in(person).post(reverse("conversation-fork", args=[chat.pk]), fields)
    assert answer.status_code == 204, answer.content.decode()
    return Conversation.objects.get(pk=int(answer.headers["HX-Redirect"].split("/")[2]))


def next_messages(chat: Conversation, point: thread.Point | None = None) -> list[list[dict[str, Any]]]:
    """What each column would be told with the next message."""
    shown = thread.show(chat, point)
    turn = Turn.objects.create(conversation=chat, text="next", client_id="next", parent=shown.parent)
    told = []
    for answer in shown.turns[-1].answers:
        row = answer.generation
        told.append(messages(Generation(turn=turn, column=row.column, previous=row)))
    turn.delete()
    return told


def test_a_fork_goes_on_as_the_first_would_have(chat: Conversation, other: User) -> None:
    Column.objects.filter(conversation=chat, position=1).update(
        system_prompt="Rhyme.", parameters={"seed": 1}
    )
    first = said(chat, "one")
    second = said(chat, "two", first)
    said(chat, "three", second)
    made = fork(other, chat)
    assert next_messages(made) == next_messages(chat)
    assert next_messages(made)[1][0] == {"role": "system", "content": "Rhyme."}
    assert (made.title, made.created_by, made.sharing) == ("Ships (fork)", other, "edit")
    assert [column.parameters for column in made.columns.all()] == [None, {"seed": 1}]
    assert not set(made.turns.values_list("pk", flat=True)) & set(chat.turns.values_list("pk", flat=True))


def test_answers_come_along_as_they_were(chat: Conversation, other: User) -> None:
    turn = said(chat, "one")
    old = turn.generations.first()
    assert old
    kept = {
        "usage": {"completion_tokens": 3},
        "timings": {"ttft": 5.0},
        "pace": [[1, 2]],
        "state": "stopped",
        "finish_reason": "stop",
        "request": {"temperature": 1},
        "reasoning": "hmm",
    }
    Generation.objects.filter(pk=old.pk).update(**kept, owner="boot")
    made = fork(other, chat)
    new = made.turns.get().generations.order_by("pk").first()
    assert new
    assert {name: getattr(new, name) for name in kept} == kept
    assert (new.owner, new.lease_expires_at, new.created_at) == ("", None, old.created_at)
    assert made.turns.get().created_at == turn.created_at


def test_a_fork_ends_at_the_message_that_is_named(chat: Conversation, other: User) -> None:
    first = said(chat, "one")
    said(chat, "two", first)
    made = fork(other, chat, upto=first.pk)
    assert [turn.text for turn in made.turns.all()] == ["one"]
    assert fork(other, chat, turn=first.pk).turns.count() == 2


def test_only_the_branch_shown_comes_along(chat: Conversation, other: User) -> None:
    first = said(chat, "one")
    left, right = said(chat, "left", first), said(chat, "right", first)
    assert [turn.text for turn in fork(other, chat).turns.all()] == ["one", "right"]
    assert [turn.text for turn in fork(other, chat, turn=left.pk).turns.all()] == ["one", "left"]
    assert right.conversation_id == chat.pk


def test_histories_through_answers_that_are_not_shown_are_kept(chat: Conversation, other: User) -> None:
    first = said(chat, "one")
    second = said(chat, "two", first)
    for column in chat.columns.all():
        Generation.objects.create(turn=first, column=column, state="complete", text="newer")
    point = thread.Point(second.pk)
    made = fork(other, chat, turn=second.pk)
    assert next_messages(made) == next_messages(chat, point)
    assert next_messages(made)[1][2]["content"] == "1 to one"


def test_the_answer_that_is_looked_at_is_the_one_that_comes_along(chat: Conversation, other: User) -> None:
    turn = said(chat, "one")
    old = turn.generations.get(column__position=0)
    Generation.objects.create(turn=turn, column=old.column, state="complete", text="newer")
    made = fork(other, chat, turn=turn.pk, answer=old.pk)
    assert [one.text for one in made.turns.get().generations.order_by("pk")] == ["0 to one", "1 to one"]


def test_columns_that_go_on_from_one_chosen_answer_still_do(chat: Conversation, other: User) -> None:
    first = said(chat, "one")
    chosen = first.generations.get(column__position=1)
    second = chat.turns.create(text="two", client_id="two", parent=first)
    for column in chat.columns.all():
        Generation.objects.create(turn=second, column=column, previous=chosen, state="complete", text="x")
    made = fork(other, chat)
    assert next_messages(made) == next_messages(chat)
    texts = {one.previous.text for one in made.turns.last().generations.all() if one.previous}  # type: ignore[union-attr]
    assert texts == {"1 to one"}


def test_pictures_are_copied_and_named_anew(chat: Conversation, other: User) -> None:
    row = Image.objects.create(
        conversation=chat, kind="png", width=1, height=1, size_bytes=4, data=b"data", sent=True
    )
    turn = said(chat, "look", inputs={"images": [row.pk]})
    url = {"type": "image_url", "image_url": {"url": f"image:{row.pk}"}}
    text = {"type": "text", "text": f"image:{row.pk}"}
    turn.generations.update(request={"messages": [{"role": "user", "content": [text, url]}]})
    made = fork(other, chat)
    copy = made.images.get()
    assert (bytes(copy.data), copy.sent, copy.pk != row.pk) == (b"data", True, True)
    assert made.turns.get().inputs == {"images": [copy.pk], "blind": False}
    told = made.turns.get().generations.all()[0].request["messages"][0]["content"]
    assert told == [text, {"type": "image_url", "image_url": {"url": f"image:{copy.pk}"}}]
    chat.delete()
    assert bytes(Image.objects.get().data) == b"data"


def test_it_forks_what_it_may_only_read(chat: Conversation, other: User) -> None:
    Conversation.objects.filter(pk=chat.pk).update(sharing="view")
    said(chat, "one")
    assert sharing_rules.may_write(other, fork(other, chat))


def refused(person: User, chat: Conversation, **fields: Any) -> str:
    answer = signed_in(person).post(reverse("conversation-fork", args=[chat.pk]), fields)
    assert answer.status_code == 422
    assert Conversation.objects.count() == 1
    return answer.content.decode()


def test_what_cannot_be_forked_says_why(
    chat: Conversation, other: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing was said here yet" in refused(other, chat)
    turn = said(chat, "one")
    Generation.objects.filter(turn=turn, column__position=1).update(state="streaming")
    assert "still being written" in refused(other, chat)
    Generation.objects.update(state="complete")
    assert "not on the branch shown" in refused(other, chat, upto=10**9)
    said(chat, "two", turn)
    monkeypatch.setattr(forks, "TURNS", 1)
    assert "2 messages; 1 is the most" in refused(other, chat)


def test_a_fork_tells_nobody_who_answered_before_they_voted(chat: Conversation, other: User) -> None:
    Conversation.objects.filter(pk=chat.pk).update(blind=True)
    turn = said(chat, "one", inputs={"blind": True})
    assert "Vote first, or turn blind off" in refused(other, chat)
    turn.conversation.refresh_from_db()
    votes.cast(turn, other, "tie")
    made = fork(other, chat)
    copy = made.turns.get()
    assert made.blind
    assert not votes.hidden(made, copy, other)
    assert votes.ballot(copy, other).state == "closed"


def test_a_long_branch_is_copied_in_few_queries(
    chat: Conversation, other: User, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    turns = Turn.objects.bulk_create(
        [Turn(conversation=chat, text=f"t{at}", client_id=f"c{at}") for at in range(300)]
    )
    column = chat.columns.all()[0]
    answers = Generation.objects.bulk_create(
        [Generation(turn=turn, column=column, state="complete", text="a") for turn in turns]
    )
    for before, turn in pairwise(turns):
        turn.parent = before
    for before_answer, answer in pairwise(answers):
        answer.previous = before_answer
    Turn.objects.bulk_update(turns, ["parent"])
    Generation.objects.bulk_update(answers, ["previous"])
    with django_assert_max_num_queries(60):
        made = forks.fork(chat, other, thread.show(chat))
    assert next_messages(made) == next_messages(chat)
    assert made.turns.count() == 300


# Live for everyone


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with chats.running_web() as running:
        yield running


@pytest.mark.django_db(transaction=True)
def test_who_opened_the_link_sees_the_text_grow(
    web: Web, team: Team, fake_engine: Callable[..., RunningFake]
) -> None:
    sender, reader = member(team, "olga"), member(team, "bob")
    row = chats.deployment(team)
    chats.ready(row, fake_engine())
    chat = chats.conversation(team, row, created_by=sender, sharing="view")
    with web.socket(chats.cookie(reader)) as socket:
        page = Page(socket)
        page.take()
        page.send(type="follow", conversation=chat.pk)
        turn = generation.send(chat, "[[tokens=60]] [[delay=10]]", "c1", sender)
        page.watch(turn.generations.get().pk)
        assert page.until_end() == "complete"
    assert page.text["content"] == words(60)
    lengths = [message["to"] for message in page.seen if message["type"] == "text"]
    assert len(lengths) > 3 and lengths == sorted(lengths)
