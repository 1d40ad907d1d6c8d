"""Blind votes, the tally and sharing in a real browser: a real web process and fake engines."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from playground import generation, votes
from playground.models import Conversation, Generation, Membership, Team, Turn, User, Vote
from tests import chats
from tests.e2e.axe import violations
from tests.e2e.test_chat import signed_in
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def chat(team: Team, user: User, fake_engine: Callable[..., RunningFake]) -> Conversation:
    rows = [chats.deployment(team, name) for name in ("one", "two")]
    for row in rows:
        chats.ready(row, fake_engine(key="k", tokens=30))
    return chats.conversation(team, *rows, created_by=user, title="Ships", blind=True)


@pytest.fixture
def context(browser: Browser, server: str, user: User) -> Iterator[BrowserContext]:
    context = signed_in(browser, server, user)
    problems: list[str] = []
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context
    context.close()
    assert not problems


def asked(chat: Conversation, user: User, text: str) -> Turn:
    return generation.send(chat, text, f"c{chat.turns.count()}", user, inputs={"blind": True})


def opened(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    return page


def test_a_ballot_opens_when_all_answered_is_cast_by_keyboard_and_tells_who(
    context: BrowserContext, chat: Conversation, user: User
) -> None:
    turn = asked(chat, user, "[[tokens=150]] [[delay=20]] Which?")
    page = opened(context, f"/playground/turns/{turn.pk}/vote/")
    expect(page.locator(".ballot")).to_have_text(re.compile("Waiting for all answers"))
    assert "word0" not in page.content()
    best = page.get_by_role("button", name="B", exact=True)
    expect(best).to_be_visible()
    expect(page.locator(".ballot-text").first).to_have_text(chats.words(150))
    assert not re.search(r"\b(one|two)\b", page.locator("main").inner_html())
    assert violations(page) == []
    best.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".ballot-cast")).to_have_text(
        re.compile(r"You found\s+B\s+best.*A was (one|two)", re.DOTALL)
    )
    assert violations(page) == []
    row = Vote.objects.get()
    assert [one["chosen"] for one in row.candidates] == [False, True]
    assert row.column_id == votes.order(turn, user, [c.pk for c in chat.columns.all()])[1]


def test_the_tally_grows_while_one_looks(context: BrowserContext, chat: Conversation, user: User) -> None:
    page = opened(context, "/votes/")
    expect(page.get_by_role("heading", name="No votes yet")).to_be_visible()
    for place in range(10):
        turn = chat.turns.create(text=f"p{place}", client_id=f"c{place}", inputs={"blind": True})
        for column in chat.columns.all():
            Generation.objects.create(turn=turn, column=column, state="complete", text="x")
        columns = votes.order(turn, user, [column.pk for column in chat.columns.all()])
        votes.cast(turn, user, "AB"[columns.index(chat.columns.all()[0].pk)])
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("100 %")
    expect(first).to_contain_text("72 % to 100 %")
    assert violations(page) == []


def test_who_may_write_is_kept_and_a_fork_opens(
    context: BrowserContext, browser: Browser, server: str, team: Team, chat: Conversation, user: User
) -> None:
    Conversation.objects.filter(pk=chat.pk).update(blind=False)
    turn = asked(chat, user, "Hello [[tokens=5]]")
    for row in turn.generations.all():
        chats.answer(row.pk)
    page = opened(context, f"/playground/{chat.pk}/share/")
    own = page.get_by_role("textbox", name="Link", exact=True)
    assert own.input_value() == f"{server}/playground/{chat.pk}/"
    page.get_by_label("The team may read").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Kept.")).to_be_visible()
    assert Conversation.objects.get(pk=chat.pk).sharing == "view"
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV", exact=True).click()
    assert download.value.suggested_filename == f"ships-{chat.pk}.csv"

    reader = User.objects.create_user(username="bob")
    Membership.objects.create(user=reader, team=team)
    other = signed_in(browser, server, reader)
    page = opened(other, f"/playground/{chat.pk}/share/")
    expect(page.get_by_text("its owner and administrators may write")).to_be_visible()
    page.get_by_role("button", name="Fork").click()
    expect(page.locator("h1")).to_contain_text("Ships (fork)")
    expect(page.locator(".answer .prose").first).to_have_text(chats.words(5))
    other.close()


def test_who_opened_the_link_sees_answers_grow_while_another_sent(
    context: BrowserContext, browser: Browser, server: str, team: Team, chat: Conversation, user: User
) -> None:
    Conversation.objects.filter(pk=chat.pk).update(blind=False, sharing="view")
    reader = User.objects.create_user(username="bob")
    Membership.objects.create(user=reader, team=team)
    shared = opened(context, f"/playground/{chat.pk}/share/")
    link = shared.get_by_role("textbox", name="Link", exact=True).input_value()
    other = signed_in(browser, server, reader)
    theirs = opened(other, link)
    mine = opened(context, f"/playground/{chat.pk}/")
    mine.get_by_label("Message", exact=True).fill("[[tokens=150]] [[delay=15]]")
    mine.get_by_role("button", name="Send", exact=True).click()
    for page in (theirs, mine):
        expect(page.locator(".answer[aria-busy=true] .prose").last).to_contain_text("word3")
    for page in (theirs, mine):
        expect(page.locator(".answer[data-state=complete] .prose")).to_have_text([chats.words(150)] * 2)
    other.close()
