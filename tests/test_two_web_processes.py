"""Two web processes, one answer: stopped, cut, flushed, killed or restarted, it is whole or marked."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import redis
from django.conf import settings

from playground import generation, servers
from playground.models import Conversation, Generation, Team, User
from tests import chats
from tests.chats import Page, Web, words
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fake(fake_engine: Callable[..., RunningFake]) -> RunningFake:
    return fake_engine(key="k")


@pytest.fixture
def chat(team: Team, fake: RunningFake) -> Conversation:
    row = chats.deployment(team)
    chats.ready(row, fake)
    return chats.conversation(team, row)


@pytest.fixture
def webs() -> Iterator[list[Web]]:
    with chats.running_webs(2) as both:
        yield both


def send(chat: Conversation, user: User, text: str) -> int:
    """Send; the answer is written by whichever web process takes it first."""
    turn = generation.send(chat, text, f"c{Generation.objects.count()}", user)
    pk: int = turn.generations.get().pk
    chats.answer(pk, *Generation.State.values[1:])
    return pk


def boot(web: Web, user: User) -> str:
    with web.socket(chats.cookie(user)) as socket:
        return str(Page(socket).take()["boot"])


def other_than_owner(pk: int, webs: list[Web], user: User) -> tuple[Web, Web]:
    """(the process that writes the answer, the other one)."""
    first, second = webs
    owner = Generation.objects.get(pk=pk).owner
    return (first, second) if boot(first, user) == owner else (second, first)


def test_stop_on_one_reaches_the_answer_of_the_other(
    chat: Conversation, user: User, fake: RunningFake, webs: list[Web]
) -> None:
    pk = send(chat, user, "[[tokens=5000]] [[delay=5]]")
    _, other = other_than_owner(pk, webs, user)
    with other.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.watch(pk)
        page.until(lambda: "word20 " in page.text["content"])
        page.send(type="stop", generation=pk)
        assert page.until_end(5) == "stopped"
        assert {"type": "stopping", "generation": pk} in page.seen
    fake.wait_idle()
    row = chats.answer(pk)
    assert row.state == "stopped"
    assert page.text["content"] == row.text
    assert words(5000).startswith(row.text)
    assert row.usage["approximate"]


def test_a_second_tab_and_a_reload_midway_show_the_same_answer(
    chat: Conversation, user: User, webs: list[Web]
) -> None:
    first, second = webs
    cookie = chats.cookie(user)
    pk = send(chat, user, "[[reason=20]] [[tokens=500]] [[delay=5]]")
    with first.socket(cookie) as cut:
        before = Page(cut)
        before.watch(pk)
        before.until(lambda: "word10 " in before.text["content"])
    with first.socket(cookie) as one, second.socket(cookie) as two:
        kept, fresh = Page(one, text=dict(before.text)), Page(two)
        for page in (kept, fresh):
            page.watch(pk)
        assert [page.until_end() for page in (kept, fresh)] == ["complete", "complete"]
    with second.socket(cookie) as late:
        after = Page(late)
        after.watch(pk)
        assert after.until_end() == "complete"
    for page in (kept, fresh, after):
        assert page.text["content"] == words(500)
        assert page.text["reasoning"] == "".join(f"thought{i} " for i in range(20))


def test_redis_flushed_midway_costs_nothing(chat: Conversation, user: User, webs: list[Web]) -> None:
    server = redis.Redis.from_url(settings.REDIS_URL)
    pk = send(chat, user, "[[tokens=500]] [[delay=5]]")
    _, other = other_than_owner(pk, webs, user)
    with other.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.watch(pk)
        for _ in range(2):
            reached = len(page.text["content"])
            page.until(lambda reached=reached: len(page.text["content"]) > reached + 50)
            server.flushall()
        assert page.until_end() == "complete"
    assert page.text["content"] == words(500)
    assert chats.answer(pk).usage["completion_tokens"] == 500
    assert 0 < server.ttl(f"gen:{pk}") <= 3600


def test_redis_gone_midway_costs_nothing_but_speed(
    chat: Conversation, user: User, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("redis")
    servers.start_valkey(home)
    with chats.running_webs(2, REDIS_URL=servers.addresses(home).redis_url) as webs:
        pk = send(chat, user, "[[tokens=800]] [[delay=5]]")
        owner, other = other_than_owner(pk, webs, user)
        with owner.socket(chats.cookie(user)) as near, other.socket(chats.cookie(user)) as far:
            pages = [Page(near), Page(far)]
            for page in pages:
                page.watch(pk)
                page.until(lambda page=page: page.text["content"])
            servers.stop_valkey(home)
            assert Generation.objects.get(pk=pk).state == "streaming"
            assert [page.until_end() for page in pages] == ["complete", "complete"]
            assert [page.text["content"] for page in pages] == [words(800)] * 2
            stuck = send(chat, user, "[[tokens=5000]] [[delay=5]]")
            pages[1].send(type="stop", generation=stuck)
            assert chats.answer(stuck).state == "stopped"
    shutil.rmtree(servers.addresses(home).sockets)


def test_a_killed_web_process_leaves_its_answer_interrupted_with_what_came(
    chat: Conversation, user: User, fake: RunningFake, webs: list[Web]
) -> None:
    pk = send(chat, user, "[[tokens=5000]] [[delay=5]]")
    owner, other = other_than_owner(pk, webs, user)
    with other.socket(chats.cookie(user)) as socket:
        page = Page(socket)
        page.watch(pk)
        page.until(lambda: "word10 " in page.text["content"])
        chats.until("the owner keeps a checkpoint", lambda: Generation.objects.get(pk=pk).text)
        owner.kill()
        fake.wait_idle()
        assert chats.until("the sweep finds it", generation.sweep, 10) == 1
        row = chats.answer(pk)
        assert (row.state, row.error_code) == ("interrupted", "interrupted")
        assert row.text and words(5000).startswith(row.text)
        assert page.until_end() == "interrupted"
        assert page.text["content"] == row.text
    assert Generation.objects.count() == 1


def test_a_restarted_web_process_marks_what_it_could_not_finish(
    chat: Conversation, user: User, fake: RunningFake
) -> None:
    with chats.running_web() as web:
        short = send(chat, user, "[[tokens=100]] [[delay=5]]")
        long = send(chat, user, "[[tokens=5000]] [[delay=5]]")
        with web.socket(chats.cookie(user)) as socket:
            page = Page(socket)
            page.watch(long)
            page.until(lambda: "word5 " in page.text["content"])
            web.stop()
        assert chats.answer(short).text == words(100)
        row = chats.answer(long)
        assert (row.state, row.lease_expires_at) == ("interrupted", None)
        assert row.text.startswith(page.text["content"])
        fake.wait_idle()
    with chats.running_web() as again, again.socket(chats.cookie(user)) as socket:
        page = Page(socket, text=page.text)
        page.watch(long)
        assert page.until_end() == "interrupted"
        assert page.text["content"] == row.text


def test_an_answer_nobody_took_is_taken_by_the_next_web_process(chat: Conversation, user: User) -> None:
    pk = generation.send(chat, "[[tokens=3]]", "c", user).generations.get().pk
    assert Generation.objects.get(pk=pk).state == "pending"
    with chats.running_web():
        assert chats.answer(pk).text == words(3)


def test_answers_sent_at_once_are_each_written_once(
    chat: Conversation, user: User, fake: RunningFake, webs: list[Web]
) -> None:
    turns = [generation.send(chat, f"[[tokens=20]] [[delay=2]] {i}", f"c{i}", user) for i in range(10)]
    rows = [chats.answer(turn.generations.get().pk) for turn in turns]
    assert {row.text for row in rows} == {words(20)}
    assert {row.state for row in rows} == {"complete"}
    assert fake.metric("requests_total") == 10
