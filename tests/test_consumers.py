"""The WebSocket of a page, spoken to from outside: who gets in, what is answered, what strangers get."""

import json
import socket as sockets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from django.conf import settings
from websockets.exceptions import ConnectionClosed, InvalidStatus

from playground import events, generation
from playground import sockets as sockets_of_ours
from playground.models import AuditEntry, Conversation, Generation, Membership, Prompt, Team, User
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
    "raw",
    [
        b"\x80\x04junk",
        b"{}",
        b'{"team": "1", "topics": "all"}',
        b'{"stop": "1"}',
        b"[1]",
        b'{"users": ["1"]}',
        b'{"looking": [1], "boot": "x"}',
        b'{"looking": {"conversation:1": ["1"]}, "boot": "x"}',
        b'{"looking": {}, "boot": 1}',
    ],
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


# Who may not listen any more


@pytest.fixture(scope="module")
def deaf_web() -> Iterator[Web]:
    """A web process whose Redis is away."""
    with chats.running_web(SLIPWAY_REDIS_URL="redis://127.0.0.1:1/0") as running:
        yield running


def remove(user: User) -> None:
    user.memberships.all().delete()


def revoke(user: User) -> None:
    chats.SessionStore.get_model_class().objects.all().delete()


def deactivate(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def change_password(user: User) -> None:
    user.set_password("another-one-1")
    user.save(update_fields=["password"])


def make_private(user: User) -> None:
    """What they look at becomes its owner's alone; they stay in its team."""
    Conversation.objects.update(sharing=Conversation.Sharing.PRIVATE)


def closed_within(page: Page, seconds: float) -> int:
    """The code that the socket was closed with by then; the test fails where it stays open."""
    deadline = time.monotonic() + seconds
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            page.take(max(0.01, deadline - time.monotonic()))
    assert caught.value.rcvd
    return caught.value.rcvd.code


ENDS = [(remove, 1012), (revoke, 4401), (deactivate, 4401), (change_password, 4401), (make_private, 1012)]


@pytest.mark.parametrize(("end", "code"), ENDS)
@pytest.mark.parametrize("redis_up", [True, False])
def test_a_socket_closes_when_its_person_may_not_stay(
    web: Web,
    deaf_web: Web,
    user: User,
    chat: Conversation,
    end: Callable[[User], None],
    code: int,
    redis_up: bool,
) -> None:
    """At once when it is told, within 5 s when nobody tells: and then nothing more comes of an answer."""
    other = User.objects.create_user(username="bob")
    Membership.objects.create(user=other, team=chat.team)
    with (web if redis_up else deaf_web).socket(chats.cookie(other)) as socket:
        page = Page(socket)
        page.take()
        page.watch(streaming(chat, user, "[[tokens=2000]] [[delay=10]]"))
        page.until(lambda: page.text["content"])
        end(other)
        if redis_up:
            events.standing(other.pk)
        assert closed_within(page, 1.5 if redis_up else 5) == code
    for row in Generation.objects.filter(state="streaming"):
        chats.leases.ask_to_stop(row.pk)
        chats.answer(row.pk)


def test_those_who_may_stay_do(web: Web, user: User, team: Team) -> None:
    with web.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.take()
        events.standing(user.pk)
        other = Team.objects.create(name="New", slug="new")
        Membership.objects.create(user=user, team=other)
        events.standing(user.pk)
        time.sleep(0.5)
        events.notify(other.pk, "bar")
        assert page.take()["topic"] == "bar"


def test_a_hundred_sockets_are_checked_by_one_query(
    user: User, team: Team, django_assert_num_queries: Any
) -> None:
    people = [User.objects.create_user(username=f"p{at}") for at in range(20)]
    keys = [chats.cookie(one).partition("=")[2] for one in people for _ in range(5)]
    with django_assert_num_queries(1):
        alive, found = sockets_of_ours.standing(keys, [one.pk for one in people])
    assert (alive, set(found)) == (set(keys), {one.pk for one in people})


# Presence


Looking = Callable[..., Page]


@pytest.fixture
def looking() -> Iterator[Looking]:
    """looking(web, user, conversation=5): the page of one who looks there; closed at the test's end."""
    with ExitStack() as stack:

        def look(web: Web, user: User, **what: int) -> Page:
            page = Page(stack.enter_context(web.socket(chats.cookie(user))))
            page.take()
            page.send(type="look", **what)
            return page

        yield look


def names(page: Page) -> list[str]:
    """Who was last said to be there."""
    told = [message for message in page.seen if message["type"] == "present"]
    return [person["name"] for person in told[-1]["people"]] if told else ["?"]


def test_people_see_who_looks_with_them_over_web_processes(
    web: Web, looking: Looking, user: User, team: Team, chat: Conversation
) -> None:
    bob = User.objects.create_user(username="bob", first_name="Bob", last_name="Ross")
    Membership.objects.create(user=bob, team=team, role=Membership.Role.VIEWER)
    with chats.running_web() as second:
        mine, theirs = looking(web, user, conversation=chat.pk), looking(second, bob, conversation=chat.pk)
        mine.until(lambda: names(mine) == ["Bob Ross"])
        theirs.until(lambda: names(theirs) == ["ada"])
        assert mine.seen[-1]["people"] == [{"name": "Bob Ross", "initials": "BR"}]
        theirs.socket.close()
        mine.until(lambda: names(mine) == [])
        looking(second, bob, conversation=chat.pk)
        mine.until(lambda: names(mine) == ["Bob Ross"])
        second.kill()
        mine.until(lambda: names(mine) == [], 25)


def test_nobody_sees_who_looks_at_what_they_may_not_see(
    web: Web, looking: Looking, user: User, stranger: User, chat: Conversation
) -> None:
    mine = looking(web, user, conversation=chat.pk)
    theirs = looking(web, stranger, conversation=chat.pk)
    theirs.until(lambda: theirs.seen[-1]["type"] == "error")
    assert theirs.seen[-1]["message"] == "There is no such conversation."
    forged = {"boot": "x", "looking": {f"conversation:{chat.pk}": [stranger.pk]}, "ask": False}
    redis.Redis.from_url(settings.REDIS_URL).publish(events.CHANNEL, json.dumps(forged))
    with pytest.raises(TimeoutError):
        mine.until(lambda: names(mine) not in ([], ["?"]), 2)


def test_without_redis_people_of_one_process_see_each_other(
    deaf_web: Web, looking: Looking, user: User, team: Team, chat: Conversation
) -> None:
    bob = User.objects.create_user(username="bob")
    Membership.objects.create(user=bob, team=team)
    mine, theirs = looking(deaf_web, user, conversation=chat.pk), looking(deaf_web, bob, conversation=chat.pk)
    mine.until(lambda: names(mine) == ["bob"])
    theirs.until(lambda: names(theirs) == ["ada"])


def test_batches_and_prompts_are_looked_at_too(web: Web, looking: Looking, user: User, team: Team) -> None:
    prompt = Prompt.objects.create(team=team, name="greeting")
    page = looking(web, user, prompt=prompt.pk)
    page.until(lambda: names(page) == [])
    page.send(type="look", batch=10**9)
    page.until(lambda: page.seen[-1]["type"] == "error")
    assert page.seen[-1]["message"] == "There is no such batch."
