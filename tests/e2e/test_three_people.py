"""Three people in three browsers: two at one prompt, one who watches a comparison by link, one removed."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from playground import leases, links, members, prompts
from playground.models import Conversation, Deployment, Generation, Membership, Prompt, ShareLink, Team, User
from tests import batch_rows, chats
from tests.e2e.axe import violations
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SOCKET_CLOSES_WITHIN_S = 5


@pytest.fixture
def bob(team: Team) -> User:
    person = User.objects.create_user(username="bob", first_name="Bob", last_name="Ross")
    Membership.objects.create(user=person, team=team)
    return person


@pytest.fixture
def chat(team: Team, user: User, fake_engine: Callable[..., RunningFake]) -> Conversation:
    rows = [chats.deployment(team, name) for name in ("one", "two")]
    for row in rows:
        chats.ready(row, fake_engine(key="k"))
    return chats.conversation(team, *rows, created_by=user, title="Ships")


@pytest.fixture
def stops() -> Iterator[None]:
    """What still streams at the end is stopped, so that nothing writes into a database that is flushed."""
    yield
    for row in Generation.objects.filter(state__in=Generation.LIVE):
        leases.ask_to_stop(row.pk)
        chats.answer(row.pk)


def live(page: Page, address: str) -> Page:
    page.goto(address)
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    return page


def test_two_write_one_prompt_at_once_and_no_word_is_lost(
    open_page: Callable[..., Page], user: User, bob: User
) -> None:
    ada, his = open_page(user), open_page(bob)
    ada.goto("/prompts/new/")
    ada.get_by_role("textbox", name="Name", exact=True).fill("triage")
    ada.get_by_label("Text of message 1").fill(
        "You sort tickets.\n\nTicket: {{ticket}}\n\nAnswer in one word."
    )
    ada.get_by_role("button", name="Save", exact=True).click()
    ada.wait_for_url(re.compile(r"/prompts/\d+/$"))
    prompt = Prompt.objects.get()

    for page in (ada, his):
        page.goto(f"/prompts/{prompt.pk}/edit/")
    words = ada.get_by_label("Text of message 1")
    words.fill(words.input_value().replace("You sort tickets.", "You sort tickets of a shipyard."))
    theirs = his.get_by_label("Text of message 1")
    theirs.fill(theirs.input_value().replace("one word", "one word: urgent or later"))
    his.get_by_label("What changed, and why").fill("names the two answers")
    ada.get_by_role("button", name="Save as v2").click()
    ada.wait_for_url(re.compile(r"/prompts/\d+/$"))

    his.get_by_role("button", name="Save as v2").click()
    expect(his.get_by_role("heading", name="ada saved v2 while you wrote")).to_be_visible()
    expect(his.get_by_label("Text of message 1")).to_have_value(re.compile("one word: urgent or later"))
    expect(his.get_by_label("What changed, and why")).to_have_value("names the two answers")
    his.get_by_role("button", name="Put both together").click()
    expect(his.get_by_label("Text of message 1")).to_have_value(
        "You sort tickets of a shipyard.\n\nTicket: {{ticket}}\n\nAnswer in one word: urgent or later."
    )
    his.get_by_role("button", name="Save as v3").click()
    his.wait_for_url(re.compile(r"/prompts/\d+/$"))
    said = [version.messages[0]["content"] for version in prompt.versions.order_by("number")]
    assert "shipyard" not in said[0] and "shipyard" in said[1]
    assert "shipyard" in said[2] and "urgent or later" in said[2]


def test_what_becomes_private_leaves_the_others_pages(
    open_page: Callable[..., Page], team: Team, user: User, bob: User
) -> None:
    said = prompts.Said([{"role": "user", "content": "Sort {{ticket}}"}])
    prompt = prompts.create(team, user, "triage", said)
    ada, his, looking = open_page(user), open_page(bob), open_page(bob)
    live(his, "/prompts/")
    live(looking, f"/prompts/{prompt.pk}/")
    _closings(looking)
    ada.goto(f"/prompts/{prompt.pk}/")
    ada.get_by_role("link", name="Share").click()
    ada.get_by_label("The team may read and try it").check()
    ada.get_by_role("button", name="Save", exact=True).click()
    expect(ada.get_by_text("Kept.")).to_be_visible()
    looking.reload()
    expect(looking.get_by_text("This prompt is shared to be read.")).to_be_visible()
    expect(looking.get_by_role("link", name="Edit")).to_have_count(0)
    live(looking, f"/prompts/{prompt.pk}/")
    expect(looking.locator(".present")).to_be_hidden()
    _closings(looking)

    ada.get_by_label("Private:").check()
    ada.get_by_role("button", name="Save", exact=True).click()
    expect(ada.get_by_text("It is private: the link opens for its owner")).to_be_visible()
    assert violations(ada) == []
    expect(his.get_by_role("link", name=prompt.name)).to_have_count(0)
    chats.until("the socket closes", lambda: looking.evaluate("window.closings"), SOCKET_CLOSES_WITHIN_S)
    assert looking.goto(f"/prompts/{prompt.pk}/").status == 404  # type: ignore[union-attr]
    ada.goto("/prompts/")
    expect(ada.get_by_role("row", name=prompt.name).get_by_text("private")).to_be_visible()


def test_who_may_not_start_asks_from_the_column_and_from_the_batch(
    open_page: Callable[..., Page], team: Team, user: User, bob: User
) -> None:
    batch_rows.version(team, ["Which?"])
    stopped = chats.deployment(team, "asleep", desired=Deployment.Desired.STOPPED)
    chat = chats.conversation(team, stopped, created_by=bob, title="Once it runs")
    ada = live(open_page(user), "/running/wishes/")
    his = live(open_page(bob), f"/playground/{chat.pk}/")
    his.get_by_role("button", name="Ask an operator to start asleep").click()
    expect(his.locator(".column-head")).to_contain_text("ada may start it")
    assert violations(his) == []
    expect(ada.get_by_text("bob asks to start")).to_be_visible()
    ada.get_by_placeholder("Why not").fill("The machine is full")
    ada.get_by_role("button", name="Decline").click()
    expect(his.locator(".column-head")).to_contain_text("ada declined: The machine is full")

    his.goto("/batches/new/")
    his.get_by_label("Name", exact=True).fill("mine")
    his.get_by_role("button", name="Ask an operator to start asleep").click()
    expect(his.locator(".ask")).to_contain_text("ada may start it")
    expect(his.get_by_label("Name", exact=True)).to_have_value("mine")
    assert violations(his) == []


def test_a_viewer_watches_a_comparison_by_link_and_a_removed_member_no_more(
    open_page: Callable[..., Page], user: User, bob: User, chat: Conversation, stops: None
) -> None:
    ada, his, viewer = open_page(user), open_page(bob), open_page(None)
    live(ada, f"/playground/{chat.pk}/")
    ada.get_by_role("button", name="More").click()
    ada.get_by_role("button", name="Share, download, fork…").click()
    ada.get_by_label("Holds for").select_option("1")
    ada.get_by_role("button", name="Make a public link").click()
    address = ada.get_by_role("textbox", name="Public link 1").input_value()
    assert address.endswith(f"/shared/{links.token(ShareLink.objects.get())}/")
    assert violations(ada) == []
    ada.get_by_role("dialog").get_by_role("button", name="Close").click()

    viewer.goto(address)
    expect(viewer.get_by_role("heading", name="Ships")).to_be_visible()
    live(his, f"/playground/{chat.pk}/")
    expect(ada.locator(".present li")).to_have_attribute("title", "Bob Ross")
    expect(his.locator(".present li")).to_have_text(re.compile("AD"))

    ada.locator("#message").fill("[[tokens=4000]] [[delay=15]] Which ship?")
    ada.locator("#message").press("Control+Enter")
    for at in (1, 2):
        for page in (his, viewer):
            expect(page.locator(f".answer[data-place='{at}']")).to_contain_text("word5 ")
    assert all(row.state == "streaming" for row in Generation.objects.all())
    assert violations(viewer) == []

    _closings(his)
    members.remove(Membership.objects.get(user=bob, team=chat.team), user)
    chats.until("the socket closes", lambda: his.evaluate("window.closings"), SOCKET_CLOSES_WITHIN_S)
    stuck, watched = _length(his), _length(viewer)
    chats.until("the viewer sees more", lambda: _length(viewer) > watched + 200)
    assert _length(his) == stuck
    assert his.goto(f"/playground/{chat.pk}/").status == 404  # type: ignore[union-attr]
    expect(ada.locator(".present")).to_be_hidden()

    links.revoke(ShareLink.objects.get(), user)
    expect(viewer.locator("#shared-gone")).to_be_visible()
    expect(viewer.locator(".answer")).to_have_count(0)


def _closings(page: Page) -> None:
    """Count from now on how often the page's socket closes: it comes again by itself."""
    page.evaluate("""window.closings = 0; document.documentElement.addEventListener(
        "socket", ({ detail }) => detail !== "open" && (window.closings += 1))""")


def _length(page: Page) -> int:
    return len(page.locator(".answer").first.inner_text())


def test_people_comment_on_an_answer_and_see_it_at_once(
    open_page: Callable[..., Page], user: User, bob: User, chat: Conversation
) -> None:
    turn = chat.turns.create(text="Which?", client_id="c0")
    for column in chat.columns.all():
        Generation.objects.create(turn=turn, column=column, state="complete", text=f"Ship {column.position}")
    ada, his = (live(open_page(person), f"/playground/{chat.pk}/") for person in (user, bob))
    for page in (ada, his):
        page.locator("[data-comments]").first.click()
        expect(page.get_by_text("No comment yet.")).to_be_visible()
    his.get_by_label("Comment on this answer").fill("Half a thought")
    ada.get_by_label("Comment on this answer").fill("<b>Wrong</b> year")
    ada.get_by_role("button", name="Comment", exact=True).click()
    expect(his.locator(".comment-text")).to_have_text("<b>Wrong</b> year")
    expect(his.locator("[data-comments]").first).to_have_text(re.compile(r"comments 1"))
    expect(his.get_by_label("Comment on this answer")).to_have_value("Half a thought")
    expect(ada.get_by_label("Comment on this answer")).to_have_value("")
    assert violations(ada) == []

    ada.get_by_role("button", name="Edit this comment").click()
    ada.get_by_label("Changed comment").fill("Wrong year: 1805")
    ada.get_by_role("button", name="Save", exact=True).click()
    expect(his.locator(".comment-text")).to_have_text("Wrong year: 1805")
    his.get_by_role("button", name="Comment", exact=True).click()
    expect(ada.locator(".comment-text")).to_have_count(2)
    ada.get_by_role("button", name="Delete this comment").first.click()
    ada.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(ada.locator(".comment-text")).to_have_text(["Half a thought"])
    expect(his.locator(".comment-text")).to_have_text(["Half a thought"])


def test_the_pages_of_a_link_need_no_script(
    browser: Browser, server: str, user: User, chat: Conversation
) -> None:
    turn = chat.turns.create(text="Which?", client_id="c0")
    for column in chat.columns.all():
        Generation.objects.create(
            turn=turn, column=column, state="complete", text=f"*Ship* {column.position}"
        )
    token = links.token(links.make(chat, user, links.read_end("1", "")))
    context = browser.new_context(base_url=server, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/shared/{token}/")
    expect(page.locator(".answer .text").first).to_have_text("*Ship* 0")
    context.close()
