"""The WebSocket of a page, spoken to from outside: who gets in, what is answered, what strangers get."""

import json
import socket as sockets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.conf import settings
from websockets.exceptions import ConnectionClosed, InvalidStatus

from playground import events, generation
from playground.models import AuditEntry, Conversation, Generation, Membership, Team, User
from tests import chats
from tests.chats import Page, Web, words
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with chats.running_web() as running:
        yield running


@pytest.fixture
def chat(team: Team, fake_engine: Callable[..., RunningFake]) -> Conversation:
    row = chats.deployment(team)
    chats.ready(row, fake_engine())
    return chats.conversation(team, row)


def ended(chat: Conversation, text: str = "Hello there", reasoning: str = "") -> Generation:
    """An answer that ended, as a row."""
    turn = chat.turns.create(text="Hi", client_id=f"c{chat.turns.count()}")
    return Generation.objects.create(
        turn=turn, column=chat.columns.get(), state="complete", text=text, reasoning=reasoning
    )


def streaming(chat: Conversation, user: User, text: str) -> int:
    pk = generation.send(chat, text, f"c{chat.turns.count()}", user).generations.get().pk
    chats.answer(pk, "streaming")
    return int(pk)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "http://evil.example",
        "https://evil.example",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "x",
    ],
)
def test_it_refuses_foreign_pages_before_the_handshake(web: Web, user: User, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught:
        web.socket(chats.cookie(user), origin)
    assert caught.value.response.status_code == 403


def test_it_refuses_other_paths(web: Web, user: User) -> None:
    with pytest.raises(InvalidStatus) as caught:
        chats.connect(f"ws://127.0.0.1:{web.port}/wss", origin=f"http://127.0.0.1:{web.port}")
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("cookie", ["", "slipway=x", "{name}=nosuchsession"])
def test_it_tells_who_is_not_signed_in(web: Web, team: Team, cookie: str) -> None:
    sent = cookie.format(name=settings.SESSION_COOKIE_NAME)
    with web.socket(sent) as socket, pytest.raises(ConnectionClosed) as caught:
        socket.recv(5)
    assert caught.value.rcvd and caught.value.rcvd.code == 4401


def test_it_says_hello_and_replays_an_ended_answer(web: Web, user: User, chat: Conversation) -> None:
    row = ended(chat, "Hello there", "hmm")
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        assert page.take()["type"] == "hello"
        page.watch(row.pk)
        assert page.until_end() == "complete"
    assert page.text == {"content": "Hello there", "reasoning": "hmm"}


def test_it_sends_only_what_the_page_lacks(web: Web, user: User, chat: Conversation) -> None:
    row = ended(chat, "Hello there")
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket, text={"content": "Hello", "reasoning": ""})
        page.watch(row.pk)
        page.until_end()
    pieces = [message for message in page.seen if message["type"] == "text"]
    assert [(piece["from"], piece["to"], piece["text"]) for piece in pieces] == [(5, 11, " there")]


def test_it_replaces_what_the_page_has_too_much_of(web: Web, user: User, chat: Conversation) -> None:
    row = ended(chat, "Hello")
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket, text={"content": "Hello there, lost", "reasoning": ""})
        page.watch(row.pk)
        page.until_end()
    assert page.text["content"] == "Hello"
    assert [message["type"] for message in page.seen[1:]] == ["snapshot", "end"]


def test_offsets_count_what_the_server_counts(web: Web, user: User, chat: Conversation) -> None:
    row = ended(chat, "😀😀 ok")
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket, text={"content": "😀", "reasoning": ""})
        page.watch(row.pk)
        page.until_end()
    assert page.text["content"] == "😀😀 ok"


def test_a_stranger_can_neither_watch_nor_stop(
    web: Web, user: User, stranger: User, chat: Conversation
) -> None:
    pk = streaming(chat, user, "[[tokens=2000]] [[delay=5]]")
    with web.socket(chats.cookie(stranger)) as socket:
        page = Page(socket)
        page.take()
        page.watch(pk)
        page.send(type="stop", generation=pk)
        page.watch(10**9)
        answers = [page.take() for _ in range(3)]
    assert {answer["message"] for answer in answers} == {"There is no such answer."}
    assert AuditEntry.objects.get(user=stranger).object == f"generation:{pk}"
    row = Generation.objects.get(pk=pk)
    assert (row.state, row.stop_requested_at) == ("streaming", None)
    chats.leases.ask_to_stop(pk)
    chats.answer(pk)


def test_a_viewer_may_watch_but_not_stop(web: Web, user: User, team: Team, chat: Conversation) -> None:
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    pk = streaming(chat, user, "[[tokens=60]] [[delay=5]]")
    with web.socket(chats.cookie(viewer)) as socket:
        page = Page(socket)
        page.send(type="stop", generation=pk)
        page.watch(pk)
        assert page.until_end() == "complete"
    assert any(message["type"] == "error" for message in page.seen)
    assert page.text["content"] == words(60)


def test_permission_is_asked_at_each_message(web: Web, user: User, chat: Conversation) -> None:
    row = ended(chat)
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.watch(row.pk)
        page.until_end()
        user.memberships.all().delete()
        page.watch(row.pk)
        assert page.take()["message"] == "There is no such answer."
        chats.SessionStore.get_model_class().objects.all().delete()
        page.watch(row.pk)
        with pytest.raises(ConnectionClosed):
            page.take()
    assert socket.close_code == 4401


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "[" * 2000,
        '{"type": "eval", "generation": 1}',
        '{"type": "watch"}',
        '{"type": "watch", "generation": "1"}',
        '{"type": "watch", "generation": true}',
        '{"type": "watch", "generation": -1}',
        '{"type": "watch", "generation": 1e99}',
        '{"type": "watch", "generation": 99999999999999999999}',
        "x" * 5000,
        b"bytes",
    ],
)
def test_it_answers_nonsense_in_words_and_lives(web: Web, user: User, message: str | bytes) -> None:
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.take()
        for _ in range(2):
            socket.send(message)
            assert page.take()["type"] == "error"


def test_a_flood_of_messages_is_cut_off(web: Web, user: User) -> None:
    with web.socket(chats.cookie(user)) as socket, pytest.raises(ConnectionClosed):
        for _ in range(2000):
            socket.send('{"type": "unwatch", "generation": 1}')
        while True:
            socket.recv(5)
    assert socket.close_code == 1008


def test_notices_reach_the_team_and_nobody_else(web: Web, user: User, stranger: User, team: Team) -> None:
    with web.socket(chats.cookie(user)) as ours, web.socket(chats.cookie(stranger)) as theirs:
        mine, other = Page(ours), Page(theirs)
        for page in (mine, other):
            page.take()
        events.notify(team.pk, "deployment:5", "bar")
        events.notify(None, "nodes")
        assert [mine.take()["topic"] for _ in range(3)] == ["deployment:5", "bar", "nodes"]
        assert other.take()["topic"] == "nodes"


@pytest.mark.parametrize(
    "raw", [b"\x80\x04junk", b"{}", b'{"team": "1", "topics": "all"}', b'{"stop": "1"}', b"[1]"]
)
def test_forged_notices_are_dropped_and_sockets_live(web: Web, user: User, team: Team, raw: bytes) -> None:
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.take()
        redis.Redis.from_url(settings.REDIS_URL).publish(events.CHANNEL, raw)
        events.notify(team.pk, "bar")
        assert page.take() == {"type": "notice", "topic": "bar"}


def test_a_forged_stop_stops_nothing(web: Web, user: User, chat: Conversation) -> None:
    pk = streaming(chat, user, "[[tokens=100]] [[delay=5]]")
    events.publish({"stop": pk})
    assert chats.answer(pk).state == "complete"


def test_an_idle_socket_lives(web: Web, user: User, team: Team) -> None:
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.take()
        with pytest.raises(TimeoutError):
            page.take(12)
        events.notify(team.pk, "bar")
        assert page.take()["topic"] == "bar"


def test_a_slow_socket_holds_up_nobody(web: Web, user: User, chat: Conversation) -> None:
    """One page that never reads, beside one that does: the answer and the other page are not late."""
    slow = raw_socket(web, chats.cookie(user))
    pk = streaming(chat, user, f"[[delay=0]] [[text={'x' * 200_000}]]")
    slow.sendall(frame({"type": "watch", "generation": pk}))
    with web.socket(chats.cookie(user), max_size=None) as socket:
        page = Page(socket)
        page.watch(pk)
        before = time.monotonic()
        assert page.until_end(30) == "complete"
        assert time.monotonic() - before < 20
        assert page.text["content"] == "x" * 200_000
    slow.close()


def raw_socket(web: Web, cookie: str) -> sockets.socket:
    """A WebSocket whose end reads nothing after the handshake, with the smallest buffer."""
    plain = sockets.socket()
    plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 1024)
    plain.connect(("127.0.0.1", web.port))
    host = f"127.0.0.1:{web.port}"
    lines = ["GET /ws/ HTTP/1.1", f"Host: {host}", f"Origin: http://{host}", f"Cookie: {cookie}"]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    plain.sendall("\r\n".join(lines).encode())
    assert plain.recv(12) == b"HTTP/1.1 101"
    return plain


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame; the mask is zero."""
    raw = json.dumps(message).encode()
    return bytes([0x81, 0x80 | len(raw)]) + bytes(4) + raw


def test_whoever_follows_a_conversation_gets_its_answers_unasked(
    web: Web, user: User, chat: Conversation
) -> None:
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.send(type="follow", conversation=chat.pk)
        pk = generation.send(chat, "[[tokens=20]]", "c0", user).generations.get().pk
        assert page.until_end() == "complete"
    assert page.text["content"] == words(20)
    begun = [message for message in page.seen if message["type"] == "begin"]
    assert [(one["generation"], one["client"]) for one in begun] == [(pk, "c0")]
    assert begun[0]["column"] == chat.columns.get().pk


def test_a_stranger_follows_nothing(web: Web, user: User, stranger: User, chat: Conversation) -> None:
    with web.socket(chats.cookie(stranger)) as socket:
        page = Page(socket)
        page.send(type="follow", conversation=chat.pk)
        page.until(lambda: page.seen and page.seen[-1]["type"] == "error")
        assert page.seen[-1] == {
            "type": "error",
            "conversation": chat.pk,
            "message": "There is no such conversation.",
        }
        pk = generation.send(chat, "[[tokens=20]]", "c0", user).generations.get().pk
        chats.answer(pk, "complete")
        page.send(type="watch", generation=pk)
        page.until(lambda: page.seen[-1].get("message") == "There is no such answer.")
    assert not any(message["type"] in ("begin", "text") for message in page.seen)
