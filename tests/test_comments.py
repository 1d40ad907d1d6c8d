"""Comments on answers: who reads, writes, changes and deletes them, and where else they show."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from playground import comments, events, export_texts, exports, links, votes
from playground.models import AuditEntry, Comment, Conversation, Generation, Membership, Team, Turn, User
from tests import chats

pytestmark = pytest.mark.django_db


@pytest.fixture
def chat(team: Team, user: User) -> Conversation:
    rows = [chats.deployment(team, name) for name in ("first", "second")]
    return chats.conversation(team, *rows, created_by=user, title="Ships")


@pytest.fixture
def answer(chat: Conversation) -> Generation:
    return said(chat).generations.earliest("pk")


def said(chat: Conversation, **inputs: Any) -> Turn:
    turn = chat.turns.create(text="Which?", client_id=f"c{chat.turns.count()}", inputs=inputs)
    for column in chat.columns.all():
        Generation.objects.create(
            turn=turn, column=column, state="complete", text=f"Answer {column.position}"
        )
    return turn


def member(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team, role=role)
    return person


def client(person: User) -> Client:
    made = Client(headers={"HX-Request": "true"})
    made.force_login(person)
    return made


def post(person: User, route: str, pk: int, text: str = "") -> Any:
    return client(person).post(reverse(route, args=[pk]), {"text": text})


def page(person: User, route: str, pk: int, query: str = "") -> str:
    response = client(person).get(reverse(route, args=[pk]) + query)
    assert response.status_code == 200
    return str(response.content.decode())


def test_many_comments_ask_the_database_no_more_than_a_few(
    answer: Generation, team: Team, user: User
) -> None:
    bob = member(team, "bob")
    asked = []
    for _ in range(2):
        Comment.objects.bulk_create(Comment(generation=answer, user=bob, text="Hm.") for _ in range(10))
        with CaptureQueriesContext(connection) as queries:
            assert page(user, "comments", answer.pk, "?list=1").count("Hm.") == Comment.objects.count()
        asked.append(len(queries))
    assert asked[0] == asked[1]


def test_members_write_and_the_team_reads(answer: Generation, team: Team) -> None:
    bob, vera = member(team, "bob"), member(team, "vera", Membership.Role.VIEWER)
    made = post(bob, "comments", answer.pk, "  Wrong year.\r\nIt was 1805.\0 ")
    assert made.status_code == 200 and "Wrong year." in made.content.decode()
    assert Comment.objects.get().text == "Wrong year.\nIt was 1805."
    shown = page(vera, "comments", answer.pk)
    assert "Wrong year." in shown and "<form" not in shown and "role here is to read" in shown
    assert "Edit this comment" not in shown and "Delete this comment" not in shown


def test_those_who_may_only_read_the_conversation_comment(chat: Conversation, answer: Generation) -> None:
    Conversation.objects.filter(pk=chat.pk).update(sharing="view")
    assert post(member(chat.team, "bob"), "comments", answer.pk, "Good.").status_code == 200


def test_a_viewer_and_a_stranger_write_nothing(answer: Generation, team: Team, stranger: User) -> None:
    vera = member(team, "vera", Membership.Role.VIEWER)
    assert post(vera, "comments", answer.pk, "x").status_code == 403
    assert post(stranger, "comments", answer.pk, "x").status_code == 404
    assert client(stranger).get(reverse("comments", args=[answer.pk])).status_code == 404
    assert not Comment.objects.exists()
    assert set(AuditEntry.objects.values_list("user", "action")) == {
        (vera.pk, "refused chat"),
        (stranger.pk, "refused write"),
    }


def test_one_changes_and_deletes_ones_own(answer: Generation, team: Team) -> None:
    bob = member(team, "bob")
    row = comments.add(answer, bob, "First")
    assert "First" in page(bob, "comment", row.pk)
    changed = post(bob, "comment", row.pk, "Second")
    assert "Second" in changed.content.decode() and "edited" in changed.content.decode()
    assert "Second" in page(bob, "comment", row.pk, "?cancel=1")
    gone = post(bob, "comment-delete", row.pk)
    assert "No comment yet." in gone.content.decode() and not Comment.objects.exists()
    told = list(AuditEntry.objects.order_by("pk").values_list("action", "before", "after"))
    assert told == [
        ("comment", None, {"text": "First"}),
        ("edit comment", {"text": "First"}, {"text": "Second"}),
        ("delete comment", {"text": "Second"}, None),
    ]


def test_others_do_not_and_administrators_delete(answer: Generation, team: Team, user: User) -> None:
    row = comments.add(answer, member(team, "bob"), "Mine")
    eve = member(team, "eve")
    assert post(eve, "comment", row.pk, "Hers").status_code == 403
    assert post(eve, "comment-delete", row.pk).status_code == 403
    assert post(user, "comment", row.pk, "The administrator's").status_code == 403
    row.refresh_from_db()
    assert row.text == "Mine"
    assert post(user, "comment-delete", row.pk).status_code == 200
    assert not Comment.objects.exists()


def test_who_became_a_viewer_changes_nothing_any_more(answer: Generation, team: Team) -> None:
    bob = member(team, "bob")
    row = comments.add(answer, bob, "Mine")
    bob.memberships.update(role=Membership.Role.VIEWER)
    assert post(bob, "comment", row.pk, "New").status_code == 403
    assert post(bob, "comment-delete", row.pk).status_code == 403


@pytest.mark.parametrize(
    ("text", "why"), [(" \n\0", "Write something first."), ("x" * 4001, "4,000 is the most")]
)
def test_what_is_wrong_is_told_and_what_was_typed_stays(
    answer: Generation, user: User, text: str, why: str
) -> None:
    made = post(user, "comments", answer.pk, text)
    assert made.status_code == 422 and why in made.content.decode()
    assert text.strip("\0 \n") in made.content.decode()
    row = comments.add(answer, user, "Right")
    changed = post(user, "comment", row.pk, text)
    assert changed.status_code == 422 and why in changed.content.decode()
    row.refresh_from_db()
    assert row.text == "Right"


def test_texts_are_inert(answer: Generation, user: User) -> None:
    hostile = '<script>x()</script><a href="javascript:y()" hx-get="/z">[k](http://evil.example/)</a>'
    comments.add(answer, user, hostile)
    shown = page(user, "comments", answer.pk)
    assert "&lt;script&gt;x()&lt;/script&gt;" in shown
    assert "<script>" not in shown and "<a " not in shown and 'hx-get="/z"' not in shown


def test_counts_tell_what_changed(chat: Conversation, answer: Generation, user: User) -> None:
    def counts() -> Any:
        return client(user).get(reverse("conversation-comments", args=[chat.pk])).json()

    assert counts() == {}
    row = comments.add(answer, user, "One")
    first = counts()[str(answer.pk)]
    comments.change(row, user, "Two")
    second = counts()[str(answer.pk)]
    assert (first["n"], second["n"]) == (1, 1) and first["mark"] != second["mark"]
    assert f'data-mark="{second["mark"]}"' in page(user, "comments", answer.pk, "?list=1")


def test_the_team_is_told_at_once(
    answer: Generation, user: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "publish", told.append)
    with django_capture_on_commit_callbacks(execute=True):
        row = comments.add(answer, user, "One")
        comments.change(row, user, "Two")
        comments.delete(row, user)
    topics = [f"comments:{answer.turn.conversation_id}"]
    assert told == [{"team": answer.turn.conversation.team_id, "topics": topics}] * 3


def test_comments_do_not_tell_who_gave_a_blind_answer(chat: Conversation, user: User) -> None:
    votes.set_blind(chat, True, user)
    turn = said(chat, blind=True)
    answer = turn.generations.earliest("pk")
    bob = member(chat.team, "bob")
    comments.add(answer, bob, "vLLM again")
    assert client(user).get(reverse("comments", args=[answer.pk])).status_code == 404
    assert client(user).get(reverse("conversation-comments", args=[chat.pk])).json() == {}
    votes.cast(turn, user, "tie", votes.ballot(turn, user).mark)
    assert "vLLM again" in page(user, "comments", answer.pk)


def test_they_are_in_files_and_in_no_public_link(chat: Conversation, answer: Generation, user: User) -> None:
    row = comments.add(answer, user, "Wrong ```year")
    comments.change(row, user, "Wrong ```year\n# not a heading")
    document = exports.document(chat, user, None)
    found = document["turns"][0]["answers"][0]["comments"]
    assert [(one["by"], one["text"]) for one in found] == [("ada", "Wrong ```year\n# not a heading")]
    assert found[0]["edited_at"]
    assert "Wrong" in export_texts.as_json(document)
    markdown = export_texts.as_markdown(document)
    assert "Comment by ada, edited:\n\n````\nWrong ```year\n# not a heading\n````" in markdown
    until = links.read_end("1", "")
    public = Client().get(reverse("shared", args=[links.token(links.make(chat, user, until))]))
    assert "Answer 0" in public.content.decode() and "Wrong" not in public.content.decode()


def test_a_comment_outlives_who_wrote_it(answer: Generation, team: Team, user: User) -> None:
    bob = member(team, "bob")
    comments.add(answer, bob, "Kept")
    bob.delete()
    assert "Somebody who left" in page(user, "comments", answer.pk)


def test_an_answer_takes_so_many(answer: Generation, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "MOST", 1)
    comments.add(answer, user, "One")
    assert "at most 1 comments" in post(user, "comments", answer.pk, "Two").content.decode()
