"""Columns beside each other in a real browser: sent to all, stopped all, added, closed, shown alone."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from playground import comparison
from playground.models import Conversation, Deployment, Generation, Team, User
from tests import chats
from tests.e2e.axe import violations
from tests.e2e.test_chat import opened, signed_in
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FIGURES = re.compile(r"TTFT \d+ ms[\s\S]*40 tokens[\s\S]*TPOT[\s\S]*stop")


@pytest.fixture
def fakes(fake_engine: Callable[..., RunningFake]) -> list[RunningFake]:
    return [fake_engine(key="k", tokens=30, token_delay_ms=2) for _ in range(3)]


@pytest.fixture
def rows(team: Team, fakes: list[RunningFake]) -> list[Deployment]:
    rows = [chats.deployment(team, name) for name in ("one", "two", "three")]
    for row, fake in zip(rows, fakes, strict=True):
        chats.ready(row, fake)
    return rows


@pytest.fixture
def chat(team: Team, rows: list[Deployment]) -> Conversation:
    return chats.conversation(team, *rows[:2])


@pytest.fixture
def context(browser: Browser, server: str, user: User) -> Iterator[BrowserContext]:
    context = signed_in(browser, server, user)
    problems: list[str] = []
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context
    context.close()
    assert not problems


@pytest.fixture
def page(context: BrowserContext, chat: Conversation) -> Page:
    return opened(context, chat)


def ask(page: Page, text: str, columns: int) -> None:
    """Send, and wait until every column has answered."""
    turns = page.locator(".turn").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    last = page.locator(".turn:not([data-preview])").nth(turns)
    expect(last.locator(".answer[data-state=complete]")).to_have_count(columns)


def test_one_message_is_answered_in_every_column(page: Page, chat: Conversation) -> None:
    ask(page, "Hello [[tokens=40]] [[delay=3]]", 2)
    for place in ("1", "2"):
        answer = page.locator(f".answer[data-place='{place}']")
        expect(answer.locator(".prose")).to_have_text(chats.words(40))
        expect(answer.locator(".figures")).to_contain_text(FIGURES)
    foot = page.locator(".turn-foot")
    expect(foot).to_contain_text(re.compile("Timed together: columns 1 and 2 share the hardware of"))
    expect(page.locator(".sum")).to_have_count(2)
    expect(page.locator(".sum").first).to_contain_text(re.compile("tokens ?40"))
    assert violations(page) == []

    foot.get_by_role("button", name="Time alone").click()
    expect(page.locator(".answer .branch").first).to_contain_text("2/2")
    expect(page.locator(".answer[data-state=complete]")).to_have_count(2)
    expect(page.locator(".turn-foot")).not_to_contain_text("Timed together")


def test_what_comes_is_shown_in_its_column_from_the_first_word(page: Page) -> None:
    page.get_by_label("Message", exact=True).fill("[[tokens=400]] [[delay=5]]")
    page.get_by_role("button", name="Send", exact=True).click()
    for place in ("1", "2"):
        expect(page.locator(f".answer[data-place='{place}'] .prose")).to_contain_text("word5")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".answer[data-state=stopped]")).to_have_count(2)


def test_columns_come_and_go_and_the_others_stay(page: Page, chat: Conversation) -> None:
    ask(page, "Hello", 2)
    page.get_by_role("button", name="+ Column").click()
    expect(page.locator(".column-head")).to_have_count(3)
    expect(page.locator(".column-head").last.get_by_label("Change model")).to_have_value(
        str(comparison.shown(chat)[2].deployment_id)
    )
    ask(page, "And now?", 3)
    page.get_by_role("button", name="Close column 1").click()
    expect(page.locator(".column-head")).to_have_count(2)
    expect(page.locator(".turn").last.locator(".answer")).to_have_count(2)
    page.get_by_role("button", name="Move column 2 to the left").click()
    expect(page.locator(".column-head").first).to_have_attribute("data-name", "three")
    page.reload()
    expect(page.locator(".column-head")).to_have_count(2)
    # The newcomer went on from what stood there, and nothing that was answered is lost.
    assert Generation.objects.count() == 5


def test_one_column_alone_and_tabs_where_there_is_no_room(page: Page) -> None:
    ask(page, "Hello", 2)
    page.get_by_role("button", name="Focus column 2").click()
    expect(page.locator(".answer[data-place='1']")).to_be_hidden()
    expect(page.locator(".answer[data-place='2']")).to_be_visible()
    page.get_by_role("button", name="Focus column 2").click()
    expect(page.locator(".answer[data-place='1']")).to_be_visible()
    page.set_viewport_size({"width": 400, "height": 800})
    expect(page.locator(".answer[data-place='2']")).to_be_hidden()
    page.get_by_role("button", name=re.compile("^2 ")).click()
    expect(page.locator(".answer[data-place='2']")).to_be_visible()
    expect(page.locator(".answer[data-place='1']")).to_be_hidden()
    assert violations(page) == []


def test_settings_of_its_own(page: Page, chat: Conversation) -> None:
    page.get_by_role("button", name="Settings of column 2").click()
    dialog = page.locator("#own")
    dialog.get_by_label("Temperature").fill("hot")
    dialog.get_by_role("button", name="Keep for this column").click()
    expect(dialog).to_contain_text("a number")
    expect(dialog.get_by_label("Temperature")).to_have_value("hot")
    dialog.get_by_label("Temperature").fill("0.25")
    dialog.get_by_role("button", name="Keep for this column").click()
    expect(dialog).to_be_hidden()
    expect(page.locator(".column-head").nth(1)).to_contain_text("own settings")
    ask(page, "Hello", 2)
    asked = {row.column.position: row.request for row in Generation.objects.select_related("column")}
    assert asked[1]["temperature"] == 0.25 and "temperature" not in asked[0]


def test_all_go_on_from_one_chosen_answer(page: Page, chat: Conversation) -> None:
    two = comparison.shown(chat)[1]
    ask(page, "Hello", 2)
    page.get_by_label("Go on from").select_option(str(two.pk))
    ask(page, "And now?", 2)
    first, second = chat.turns.order_by("pk")
    chosen = first.generations.get(column=two)
    assert {row.previous for row in second.generations.all()} == {chosen}
    expect(page.locator(".turn")).to_have_count(2)
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)


def test_a_teammate_sees_columns_change(context: BrowserContext, page: Page, chat: Conversation) -> None:
    other = opened(context, chat)
    page.get_by_role("button", name="Clone column 1").click()
    expect(page.locator(".column-head")).to_have_count(3)
    expect(other.locator(".column-head")).to_have_count(3)


def test_a_blind_comparison_shows_who_answered_after_the_vote(page: Page, chat: Conversation) -> None:
    page.get_by_role("button", name="Blind", exact=True).click()
    expect(page.get_by_role("button", name="Blind", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Message", exact=True).fill("[[tokens=60]] [[delay=10]]")
    page.get_by_role("button", name="Send", exact=True).click()
    turn = page.locator(".turn").last
    expect(turn.locator(".veiled .answer")).to_have_count(2, timeout=20_000)
    hidden = turn.inner_html()
    for told in ("TTFT", "data-column", "data-generation", "data-url", "tok/s"):
        assert told not in hidden, told
    assert violations(page) == []
    turn.get_by_role("button", name="A", exact=True).click()
    expect(turn.locator(".answer[data-generation]")).to_have_count(2)
    expect(turn.locator(".figures").first).to_contain_text("TTFT")
    expect(page.locator(".sum").first).to_contain_text("tokens")


def test_differences_and_requests_open_under_a_turn(page: Page) -> None:
    ask(page, "Hello [[tokens=12]]", 2)
    foot = page.locator(".turn-foot")
    expect(foot).to_contain_text("1\u20132 identical")
    foot.get_by_role("button", name=re.compile("^difference")).click()
    expect(foot.locator(".turn-panel")).to_contain_text("word11")
    requests = foot.get_by_role("button", name=re.compile("^requests"))
    requests.click()
    expect(requests).to_have_attribute("aria-expanded", "true")
    expect(foot.get_by_role("button", name=re.compile("^difference"))).to_have_attribute(
        "aria-expanded", "false"
    )
    expect(foot.locator(".turn-panel")).not_to_contain_text("word11")
    assert violations(page) == []
    requests.click()
    expect(foot.locator(".turn-panel")).to_be_hidden()
