"""The conversation page over HTTP: fragments, who may do what, and what happens to bad input. No browser."""

import pytest
from django.test import Client
from django.urls import reverse

from playground import deployments, generation
from playground.models import (
    Conversation,
    Deployment,
    Generation,
    Job,
    Membership,
    Node,
    Replica,
    ReplicaEvent,
    Team,
    Turn,
    User,
)
from tests import chats
from tests.fakes import RunningFake

HTMX = {"HX-Request": "true"}


@pytest.fixture
def served(team: Team) -> Deployment:
    row = chats.deployment(team)
    chats.ready(row, RunningFake("http://127.0.0.1:9", 9, "k", None))  # type: ignore[arg-type]
    return row


@pytest.fixture
def chat(team: Team, served: Deployment, user: User) -> Conversation:
    return chats.conversation(team, served, created_by=user)


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


@pytest.fixture
def viewer(team: Team) -> Client:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    return signed_in(person)


def signed_in(person: User) -> Client:
    client = Client(headers=HTMX)
    client.force_login(person)
    return client


def send(page: Client, chat: Conversation, text: str = "hello", client_id: str = "c1", **more: object):
    return page.post(reverse("turn-send", args=[chat.pk]), {"text": text, "client_id": client_id} | more)


def said(chat: Conversation, user: User, text: str = "hello", answer: str = "hi") -> Generation:
    """A turn with a complete answer."""
    turn = generation.send(chat, text, f"c{Turn.objects.count()}", user)
    row = turn.generations.get()
    Generation.objects.filter(pk=row.pk).update(state=Generation.State.COMPLETE, text=answer)
    row.refresh_from_db()
    return row


def addresses(chat: Conversation, row: Generation) -> dict[str, list[str]]:
    """Every address of the page, by method."""
    column = chat.columns.get()
    of_chat, of_turn, of_answer = [chat.pk], [row.turn_id], [row.pk]
    return {
        "get": [
            *(
                reverse(name, args=of_chat)
                for name in ("conversation", "conversation-turns", "conversation-code")
            ),
            reverse("column", args=[column.pk]),
            reverse("turn", args=of_turn),
            *(reverse(name, args=of_answer) for name in ("generation", "generation-request")),
        ],
        "post": [
            *(reverse(f"conversation-{name}", args=of_chat) for name in ("rename", "settings", "delete")),
            reverse("turn-send", args=of_chat),
            *(reverse(name, args=[column.pk]) for name in ("column", "column-start")),
            reverse("turn-edit", args=of_turn),
            *(reverse(name, args=of_answer) for name in ("generation-regenerate", "generation-stop")),
        ],
    }


def test_the_whole_page_and_each_fragment_come_on_a_get(page: Client, chat: Conversation, user: User) -> None:
    row = said(chat, user)
    for address in addresses(chat, row)["get"]:
        answer = page.get(address)
        assert answer.status_code == 200, address
    whole = page.get(reverse("conversation", args=[chat.pk])).content.decode()
    assert "hello" in whole
    assert f'data-generation="{row.pk}"' in whole
    assert "/static/chat.js" in whole
    begun = page.get(reverse("playground"), headers={"HX-Request": "false"})
    assert "New conversation" in begun.content.decode() and "tiny" in begun.content.decode()


def test_a_stranger_gets_404_everywhere(chat: Conversation, user: User, stranger: User) -> None:
    row = said(chat, user)
    client = signed_in(stranger)
    for method, found in addresses(chat, row).items():
        for address in found:
            assert getattr(client, method)(address).status_code == 404, (method, address)
    assert Conversation.objects.filter(pk=chat.pk).exists()


def test_a_viewer_reads_and_writes_nothing(viewer: Client, chat: Conversation, user: User) -> None:
    row = said(chat, user)
    assert b"hello" in viewer.get(reverse("conversation", args=[chat.pk])).content
    for address in addresses(chat, row)["post"]:
        answer = viewer.post(address, {"text": "x", "client_id": "v"})
        assert answer.status_code == 403, address
        assert b"needs the role" in answer.content
    assert Turn.objects.count() == 1


def test_nothing_is_written_without_a_csrf_token(chat: Conversation, user: User) -> None:
    row = said(chat, user)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    for address in addresses(chat, row)["post"]:
        assert client.post(address).status_code == 403, address


def test_a_message_comes_back_with_its_empty_answer(page: Client, chat: Conversation) -> None:
    answer = send(page, chat, "what is <b>it</b>?")
    text = answer.content.decode()
    turn = Turn.objects.get()
    assert answer.status_code == 200
    assert f'id="turn-{turn.pk}"' in text
    assert 'data-state="pending"' in text
    assert "what is &lt;b&gt;it&lt;/b&gt;?" in text
    assert f'name="parent" value="{turn.pk}"' in text
    assert f'name="previous" value="{turn.generations.get().pk}"' in text
    assert 'hx-target="#title"' in text


def test_the_same_client_id_is_one_message(page: Client, chat: Conversation) -> None:
    first, second = send(page, chat), send(page, chat)
    assert first.status_code == second.status_code == 200
    assert Turn.objects.count() == Generation.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "why"), [("", "Type a message"), ("  \n", "Type a message"), ("x" * 1_048_576, "characters")]
)
def test_a_message_that_cannot_go_says_why_at_the_composer(
    page: Client, chat: Conversation, text: str, why: str
) -> None:
    answer = send(page, chat, text)
    assert answer.status_code == 422
    assert answer.headers["HX-Retarget"] == "#composer-note"
    assert why in answer.content.decode()
    assert not Turn.objects.exists()


def test_a_model_that_does_not_run_is_named(page: Client, chat: Conversation, served: Deployment) -> None:
    Replica.objects.all().delete()
    Deployment.objects.update(problem="Needs 2.1 GB more.")
    answer = send(page, chat)
    assert answer.status_code == 422
    assert b"Needs 2.1 GB more." in answer.content
    whole = page.get(reverse("conversation", args=[chat.pk])).content.decode()
    assert 'data-state="failed"' in whole


def test_a_message_cannot_continue_another_conversation(
    page: Client, chat: Conversation, served: Deployment, team: Team, user: User
) -> None:
    other = said(chats.conversation(team, served), user)
    answer = send(page, chat, parent=str(other.turn_id), previous=str(other.pk))
    assert answer.status_code == 200
    assert Turn.objects.get(conversation=chat).parent is None


def test_editing_and_regenerating_keep_every_branch(page: Client, chat: Conversation, user: User) -> None:
    first = said(chat, user, "one")
    edited = page.post(reverse("turn-edit", args=[first.turn_id]), {"text": "two", "client_id": "e"})
    assert edited.status_code == 200
    assert b"2/2" in edited.content
    Generation.objects.update(state=Generation.State.COMPLETE)
    again = page.post(reverse("generation-regenerate", args=[first.pk]))
    assert again.status_code == 200
    assert Generation.objects.filter(turn=first.turn).count() == 2
    old = page.get(reverse("conversation", args=[chat.pk]), {"turn": first.turn_id, "answer": first.pk})
    assert f'data-generation="{first.pk}"' in old.content.decode()


def test_a_branch_that_is_not_of_it_shows_the_newest(page: Client, chat: Conversation, user: User) -> None:
    row = said(chat, user)
    for query in ({"turn": "99999"}, {"turn": "x"}, {"turn": str(row.turn_id), "answer": "77777"}):
        assert b"hello" in page.get(reverse("conversation", args=[chat.pk]), query).content


def test_a_page_that_has_everything_gets_nothing(page: Client, chat: Conversation, user: User) -> None:
    row = said(chat, user)
    address = reverse("conversation-turns", args=[chat.pk])
    assert page.get(address, {"seen": row.pk}).status_code == 204
    assert page.get(address, {"seen": row.pk - 1}).status_code == 200


def test_settings_are_kept_whole_or_not_at_all(page: Client, chat: Conversation) -> None:
    address = reverse("conversation-settings", args=[chat.pk])
    good = {"system_prompt": "Be brief.", "temperature": "0.5", "max_tokens": "20", "stop": "END\n\nSTOP"}
    assert page.post(address, good).status_code == 200
    chat.refresh_from_db()
    assert chat.system_prompt == "Be brief."
    assert chat.parameters == {"temperature": 0.5, "max_tokens": 20, "stop": ["END", "STOP"]}
    for name, value in (("temperature", "hot"), ("max_tokens", "1.5"), ("top_p", "7"), ("seed", "1e400")):
        answer = page.post(address, good | {name: value})
        assert answer.status_code == 422, name
        assert f"#error-{name}" in answer.content.decode()
    chat.refresh_from_db()
    assert chat.parameters["temperature"] == 0.5


def test_a_column_takes_only_the_teams_deployments(
    page: Client, chat: Conversation, stranger: User, team: Team
) -> None:
    address = reverse("column", args=[chat.columns.get().pk])
    theirs = chats.deployment(stranger.memberships.get().team, "theirs")
    assert page.post(address, {"deployment": theirs.pk}).status_code == 404
    ours = chats.deployment(team, "second")
    assert page.post(address, {"deployment": ours.pk}).status_code == 200
    assert chat.columns.get().deployment == ours


def test_a_stopped_model_is_started_by_who_may(page: Client, viewer: Client, team: Team) -> None:
    row = chats.deployment(team, "asleep", desired=Deployment.Desired.STOPPED)
    chat = chats.conversation(team, row)
    address = reverse("column-start", args=[chat.columns.get().pk])
    assert viewer.post(address).status_code == 403
    assert b'data-state="loading"' in page.post(address).content
    row.refresh_from_db()
    assert row.desired == Deployment.Desired.RUNNING


def test_a_start_shows_how_far_its_download_is(page: Client, team: Team) -> None:
    row = chats.deployment(team, "coming")
    node = Node.objects.create(name="far")
    replica = Replica.objects.create(deployment=row, node=node, state=Replica.State.PREPARING)
    ReplicaEvent.objects.create(replica=replica, state=Replica.State.PREPARING)
    job = Job.objects.create(
        kind=Job.Kind.INSTALL_ENVIRONMENT,
        node=node,
        team=team,
        target="environment:fake==1",
        state=Job.State.RUNNING,
        progress={"step": "downloading", "done": 31, "total": 50, "unit": "files"},
    )
    column = chats.conversation(team, row).columns.get()
    shown = page.get(reverse("column", args=[column.pk])).content.decode()
    assert 'value="62"' in shown
    assert f'data-topic="deployment:{row.pk} job:{job.pk}"' in shown


def test_a_message_sent_beside_another_shows_its_place(page: Client, chat: Conversation) -> None:
    """Two tabs answer the same end: the second message is a branch, and says so at once."""
    address = reverse("turn-send", args=[chat.pk])
    first = page.post(address, {"text": "one", "client_id": "a"}).content.decode()
    assert "1/2" not in first
    assert 'aria-label="2 of 2"' in page.post(address, {"text": "two", "client_id": "b"}).content.decode()


def test_code_quotes_what_people_typed(page: Client, chat: Conversation, user: User) -> None:
    said(chat, user, 'it\'s "$HOME" `x`')
    text = page.get(reverse("conversation-code", args=[chat.pk])).content.decode()
    assert f"deployment/{deployments.Deployment.objects.get().pk}" in text
    assert "SLIPWAY_API_KEY" in text
    assert "it\\u0027s" in text


def test_a_new_conversation_reuses_the_empty_one(page: Client, served: Deployment) -> None:
    first = page.get(reverse("conversation-new"), {"deployment": served.pk})
    second = page.get(reverse("conversation-new"), {"deployment": served.pk})
    assert first.headers["Location"] == second.headers["Location"]
    assert Conversation.objects.count() == 1


def test_renaming_needs_a_name_and_search_finds_words(page: Client, chat: Conversation, user: User) -> None:
    said(chat, user, "about needles")
    address = reverse("conversation-rename", args=[chat.pk])
    assert page.post(address, {"title": "  "}).status_code == 422
    assert page.post(address, {"title": "<i>Sewing</i>"}).status_code == 200
    found = page.get(reverse("playground"), {"q": "needles"}).content.decode()
    assert "&lt;i&gt;Sewing&lt;/i&gt;" in found
    assert "Sewing" not in page.get(reverse("playground"), {"q": "nothing-like-it"}).content.decode()


def test_deleting_waits_for_the_end_of_an_answer(page: Client, chat: Conversation) -> None:
    send(page, chat)
    address = reverse("conversation-delete", args=[chat.pk])
    assert page.post(address).status_code == 422
    Generation.objects.update(state=Generation.State.STOPPED)
    assert page.post(address).headers["HX-Redirect"] == reverse("playground")
    assert not Conversation.objects.exists()
