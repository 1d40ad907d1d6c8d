"""The conversation page in a real browser: a real web process, and a fake engine that is a real process."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, expect

from playground import generation
from playground.models import Conversation, Deployment, Generation, Membership, Team, Turn, User
from tests import chats
from tests.e2e.axe import violations
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HOSTILE = (
    "<script>window.hit = 1</script> <img src=x onerror=alert(1)> "
    "![pixel](http://198.51.100.7/pixel.png) [click](javascript:alert(2)) [data](data:text/html,<b>x</b>)\n\n"
    '<svg onload=alert(3)></svg> <form action="/sign-out/"><button hx-post="/x/">go</button></form>\n\n'
    "<div hx-get='/models/' hx-trigger='load'>x</div> [fine](https://example.org/a?b=1)\n\n"
    "```html\n<script>alert(4)</script>\n```\n"
)


@pytest.fixture
def fake(fake_engine: Callable[..., RunningFake]) -> RunningFake:
    return fake_engine(key="k", tokens=30, token_delay_ms=2)


@pytest.fixture
def served(team: Team, fake: RunningFake) -> Deployment:
    row = chats.deployment(team)
    chats.ready(row, fake)
    return row


@pytest.fixture
def chat(team: Team, served: Deployment) -> Conversation:
    return chats.conversation(team, served)


@pytest.fixture
def context(browser: Browser, server: str, user: User) -> Iterator[BrowserContext]:
    """A browser in which `user` is signed in; the test fails when a page raised an error of its own."""
    context = signed_in(browser, server, user)
    problems: list[str] = []
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context
    context.close()
    assert not problems


def signed_in(browser: Browser, base_url: str, user: User) -> BrowserContext:
    context = browser.new_context(base_url=base_url, viewport={"width": 1200, "height": 800})
    name, _, value = chats.cookie(user).partition("=")
    context.add_cookies([{"name": name, "value": value, "url": base_url}])
    context.set_default_timeout(15_000)
    return context


@pytest.fixture
def page(context: BrowserContext, chat: Conversation) -> Page:
    return opened(context, chat)


def opened(context: BrowserContext, chat: Conversation, query: str = "") -> Page:
    page = context.new_page()
    page.goto(f"/playground/{chat.pk}/{query}")
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    return page


def send(page: Page, text: str) -> Locator:
    """Type and send; the answer it makes."""
    before = page.locator(".turn").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".turn")).to_have_count(before + 1)
    return page.locator(".answer").last


def ends(answer: Locator, state: str = "complete") -> Locator:
    expect(answer).to_have_attribute("data-state", state)
    return answer


def test_an_answer_streams_and_shows_its_figures(page: Page) -> None:
    answer = send(page, "Hello [[tokens=200]] [[delay=5]]")
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(answer.locator(".prose")).to_contain_text("word3")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    ends(answer)
    expect(answer.locator(".prose")).to_have_text(chats.words(200))
    expect(answer.locator(".figures")).to_contain_text(re.compile(r"TTFT \d+ ms"))
    expect(answer.locator(".figures")).to_contain_text("200 tokens")
    expect(answer.locator(".figures")).to_contain_text(re.compile(r"\d+ tok/s"))
    expect(page.locator("#status")).to_have_text(re.compile("tiny finished, 200 tokens"))
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    expect(page.locator("h1")).to_contain_text("Hello [[tokens=200]]")


def test_stop_is_acknowledged_reaches_the_engine_and_keeps_the_part(page: Page, fake: RunningFake) -> None:
    answer = send(page, "[[tokens=5000]] [[delay=5]]")
    expect(answer.locator(".prose")).to_contain_text("word5")
    page.get_by_role("button", name="Stop", exact=True).click()
    ends(answer, "stopped")
    expect(answer).to_contain_text("stopped")
    expect(answer.locator(".prose")).to_contain_text("word5")
    fake.wait_idle()


def test_escape_in_the_composer_stops_and_elsewhere_does_not(page: Page) -> None:
    answer = send(page, "[[tokens=5000]] [[delay=5]]")
    expect(answer.locator(".prose")).to_contain_text("word5")
    page.locator("#thread").focus()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="View code").click()
    page.keyboard.press("Escape")
    expect(answer).to_have_attribute("data-state", re.compile("pending|streaming"))
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.press("Escape")
    ends(answer, "stopped")


def test_a_reload_midway_shows_all_of_it(page: Page) -> None:
    answer = send(page, "[[tokens=300]] [[delay=5]]")
    expect(answer.locator(".prose")).to_contain_text("word20")
    page.reload()
    answer = page.locator(".answer").last
    expect(answer.locator(".prose")).to_contain_text("word25")
    ends(answer)
    expect(answer.locator(".prose")).to_have_text(chats.words(300))


def test_a_second_tab_follows_live(page: Page, context: BrowserContext, chat: Conversation) -> None:
    other = opened(context, chat)
    answer = send(page, "[[tokens=200]] [[delay=5]]")
    followed = other.locator(".answer").last
    expect(followed.locator(".prose")).to_contain_text("word5")
    ends(answer)
    ends(followed)
    expect(followed.locator(".prose")).to_have_text(chats.words(200))
    expect(other.locator(".turn")).to_have_count(1)


def test_a_cut_network_heals_without_loss(page: Page, context: BrowserContext) -> None:
    answer = send(page, "[[tokens=300]] [[delay=8]]")
    expect(answer.locator(".prose")).to_contain_text("word10")
    context.set_offline(True)
    expect(page.locator("html")).to_have_attribute("data-socket", "closed")
    expect(page.locator("#offline")).to_be_visible()
    context.set_offline(False)
    ends(answer)
    expect(answer.locator(".prose")).to_have_text(chats.words(300))
    expect(page.locator("#offline")).to_be_hidden()


def test_a_killed_web_process_leaves_an_honest_mark(browser: Browser, chat: Conversation, user: User) -> None:
    with chats.running_web() as first:
        context = signed_in(browser, f"http://127.0.0.1:{first.port}", user)
        page = opened(context, chat)
        answer = send(page, "[[tokens=5000]] [[delay=5]]")
        expect(answer.locator(".prose")).to_contain_text("word20")
        first.kill()
        with chats.running_web(PORT=str(first.port)):
            chats.until("the sweep finds it", generation.sweep)
            expect(answer).to_have_attribute("data-state", "interrupted", timeout=20_000)
            expect(answer).to_contain_text("Interrupted")
            expect(answer.get_by_role("button", name="Regenerate")).to_be_visible()
        context.close()


def test_editing_makes_a_branch_and_both_stay_reachable(page: Page) -> None:
    ends(send(page, "first [[text=one]]"))
    ends(send(page, "second [[text=two]]"))
    page.locator("[data-edit]").first.click()
    page.get_by_label("Changed text").fill("other [[text=three]]")
    page.get_by_role("button", name="Ask again").click()
    ends(page.locator(".answer").last)
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".prose")).to_have_text("three")
    expect(page.locator(".branch")).to_have_text(re.compile("2/2"))
    page.get_by_role("link", name="Before").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".prose").last).to_have_text("two")
    page.reload()
    expect(page.locator(".prose").last).to_have_text("two")


def test_regenerating_adds_an_answer_and_what_follows_continues_the_shown_one(page: Page) -> None:
    ends(send(page, "first [[text=one]]"))
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".branch")).to_have_text(re.compile("2/2"))
    page.get_by_role("link", name="Before").click()
    expect(page.locator(".branch")).to_have_text(re.compile("1/2"))
    ends(send(page, "second"))
    first, second = Turn.objects.order_by("pk")
    assert second.generations.get().previous == first.generations.order_by("pk").first()
    page.reload()
    expect(page.locator(".branch")).to_have_text(re.compile("1/2"))


def test_hostile_output_stays_inert(page: Page) -> None:
    """Case 21 of the attacks: nothing runs, nothing is fetched, nothing of it becomes part of the page."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    answer = ends(send(page, f"[[delay=5]] [[text={HOSTILE}]]"))
    prose = answer.locator(".prose")
    expect(prose.get_by_role("link", name="fine")).to_have_attribute("rel", re.compile("noopener"))
    expect(prose.locator("pre")).to_contain_text("<script>alert(4)</script>")
    page.reload()
    expect(prose.get_by_role("link", name="fine")).to_be_visible()
    for selector in (
        "script",
        "img",
        "svg",
        "form",
        "iframe",
        "[onerror]",
        "[hx-get]",
        "[hx-post]",
        "[style]",
    ):
        assert prose.locator(selector).count() == 0, selector
    hrefs = prose.locator("a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(hrefs) <= {"http:", "https:", "mailto:"}
    assert page.evaluate("window.hit") is None
    assert all(url.startswith(page.url.split("/playground")[0]) for url in asked)


def test_hostile_depth_does_not_freeze_the_page(page: Page) -> None:
    ends(send(page, f"[[text={'> ' * 500}deep {'* ' * 200}{'[' * 300}]]"))
    expect(page.locator(".answer").last).to_contain_text("deep")


def test_code_and_maths_are_set_when_complete(page: Page) -> None:
    answer = ends(
        send(page, "[[text=It is $x^2$ and from $5 to $10.\n\n```python\ndef f():\n    pass\n```\n]]")
    )
    expect(answer.locator(".katex")).to_have_count(1)
    expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    expect(answer.get_by_role("button", name="Copy code")).to_be_visible()
    answer.get_by_role("button", name="Raw").click()
    expect(answer.locator(".text[data-kind=content]")).to_contain_text("```python")
    expect(answer.locator(".prose")).to_be_hidden()


def test_reasoning_is_shown_apart(page: Page) -> None:
    answer = ends(send(page, "[[reason=20]] [[tokens=20]]"))
    expect(answer.locator(".reasoning summary")).to_contain_text("Reasoning")
    expect(answer.locator(".figures")).to_contain_text("first answer")


def test_nothing_is_sent_before_the_page_listens(
    context: BrowserContext, chat: Conversation, held: Callable[[Page, str], AbstractContextManager[None]]
) -> None:
    page = context.new_page()
    button = page.get_by_role("button", name="Send", exact=True)
    with held(page, "chat.js"):
        page.goto(f"/playground/{chat.pk}/", wait_until="commit")
        page.get_by_label("Message", exact=True).fill("Hello [[tokens=3]]")
        expect(button).to_be_disabled()
    button.click()
    ends(page.locator(".answer").last)
    expect(page.locator("#composer-note")).to_be_hidden()


HELD = """() => {
  const fetched = window.fetch;
  const released = new Promise((resolve) => (window.release = resolve));
  window.fetch = async (...asked) => {
    const answer = await fetched(...asked);
    if (String(asked[0]?.url ?? asked[0]).includes("/send/")) await released;
    return answer;
  };
}"""


def test_an_answer_shows_before_the_server_has_confirmed_the_message(page: Page) -> None:
    page.evaluate(HELD)
    page.get_by_label("Message", exact=True).fill("Hello [[tokens=30]]")
    page.get_by_role("button", name="Send", exact=True).click()
    early = page.locator(".turn[data-preview]")
    expect(early.locator(".said-text")).to_have_text("Hello [[tokens=30]]")
    expect(early.locator(".prose")).to_contain_text("word28")
    page.evaluate("window.release()")
    ends(page.locator(".answer").last)
    expect(page.locator(".answer .prose")).to_contain_text("word29")
    expect(page.locator(".turn")).to_have_count(1)


def test_a_message_that_is_not_taken_leaves_nothing_but_the_text(page: Page) -> None:
    message = page.get_by_label("Message", exact=True)
    message.fill("\x00 is taken by no model")
    page.evaluate("document.querySelector('#message').value = 'a\\u0000b'")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#composer-note")).to_contain_text("NUL")
    expect(page.locator(".turn")).to_have_count(0)
    expect(message).not_to_have_value("")


def test_nothing_typed_is_lost(page: Page, context: BrowserContext) -> None:
    message = page.get_by_label("Message", exact=True)
    message.fill("kept over a reload")
    page.reload()
    expect(message).to_have_value("kept over a reload")
    context.set_offline(True)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#composer-note")).to_contain_text("Not sent")
    expect(message).to_have_value("kept over a reload")
    context.set_offline(False)
    page.get_by_role("button", name="Send", exact=True).click()
    ends(page.locator(".answer").last)
    expect(message).to_have_value("")
    assert Turn.objects.count() == 1


def test_an_empty_and_a_huge_message_are_refused_in_words(page: Page) -> None:
    message = page.get_by_label("Message", exact=True)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#composer-note")).to_have_text("Type a message first.")
    page.evaluate("document.querySelector('#message').value = 'x'.repeat(1048576)")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#composer-note")).to_contain_text("1,048,576 characters")
    assert len(message.input_value()) == 1048576
    assert not Turn.objects.exists()


def test_a_double_click_sends_once_and_stops_nothing(page: Page) -> None:
    page.get_by_label("Message", exact=True).fill("[[tokens=60]] [[delay=5]]")
    page.get_by_role("button", name="Send", exact=True).dblclick()
    answer = page.locator(".answer").last
    ends(answer)
    assert Turn.objects.count() == 1
    assert Generation.objects.count() == 1
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator("#composer-note")).to_be_hidden()


def test_an_engine_that_dies_midway_says_so(page: Page) -> None:
    answer = ends(send(page, "[[tokens=100]] [[cut=10]]"), "failed")
    expect(answer.locator(".note")).to_be_visible()
    expect(answer.locator(".prose")).to_contain_text("word5")
    expect(answer.get_by_role("button", name="Regenerate")).to_be_visible()


def test_a_stopped_model_starts_on_send_and_the_text_is_kept(context: BrowserContext, team: Team) -> None:
    row = chats.deployment(team, "asleep", desired=Deployment.Desired.STOPPED)
    page = opened(context, chats.conversation(team, row))
    send(page, "good morning")
    row.refresh_from_db()
    assert row.desired == Deployment.Desired.RUNNING
    expect(page.locator(".answer").last).to_have_attribute("aria-busy", "true")


def test_parameters_are_kept_and_wrong_ones_named(page: Page, chat: Conversation) -> None:
    page.get_by_text("Parameters", exact=False).first.click()
    page.get_by_label("Temperature").fill("hot")
    expect(page.locator("#error-temperature")).to_contain_text("a number")
    page.get_by_label("Temperature").fill("0.5")
    expect(page.locator(".settings-count")).to_have_text("1 set")
    expect(page.locator("#error-temperature")).to_have_text("")
    chat.refresh_from_db()
    assert chat.parameters == {"temperature": 0.5}
    answer = ends(send(page, "hi"))
    answer.get_by_role("button", name="request").click()
    expect(answer.locator(".request")).to_contain_text('"temperature": 0.5')


def test_all_of_it_by_keyboard(page: Page) -> None:
    message = page.get_by_label("Message", exact=True)
    expect(message).to_be_focused()
    page.keyboard.type("[[text=one]]")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    ends(page.locator(".answer").last)
    expect(message).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Changed text")).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".branch")).to_have_text(re.compile("2/2"))


def test_a_conversation_is_renamed_found_and_deleted(page: Page) -> None:
    ends(send(page, "needle [[text=one]]"))
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("Capitals")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Capitals")
    page.get_by_label("Search conversations").fill("needle")
    expect(page.locator(".conversations-rows")).to_contain_text("Capitals")
    page.get_by_label("Search conversations").fill("haystack")
    expect(page.locator(".conversations-rows")).to_contain_text("Nothing holds")
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm [value=yes]").click()
    expect(page).to_have_url(re.compile("/playground/$"))
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_axe_violation_and_no_sideways_scroll(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    ends(
        send(
            page,
            "[[reason=5]] [[text=# Title\n\n- a\n- b\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\nx = 1\n```\n]]",
        )
    )
    ends(send(page, "long " * 60 + "[[cut=3]]"), "failed")
    page.get_by_text("Parameters", exact=False).first.click()
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 640})
    assert violations(page) == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_in_viewport()


def test_a_key_that_an_input_method_is_composing_with_does_nothing(page: Page) -> None:
    message = page.get_by_label("Message", exact=True)
    message.fill("変換 [[tokens=5000]] [[delay=5]]")
    enter = {"key": "Enter", "ctrlKey": True, "bubbles": True, "cancelable": True}
    message.dispatch_event("keydown", enter | {"isComposing": True})
    expect(page.locator("#composer")).not_to_have_attribute("aria-busy", "true")
    assert not Turn.objects.exists()
    message.dispatch_event("keydown", enter)
    answer = page.locator(".answer").last
    expect(answer.locator(".prose")).to_contain_text("word5")
    escape = {"key": "Escape", "bubbles": True, "cancelable": True}
    message.dispatch_event("keydown", escape | {"isComposing": True})
    assert answer.get_attribute("data-stopping") is None
    message.dispatch_event("keydown", escape)
    ends(answer, "stopped")


def test_stop_reaches_the_engine_while_the_socket_is_closed(
    context: BrowserContext, chat: Conversation, fake: RunningFake
) -> None:
    page = context.new_page()
    sockets: list[WebSocketRoute] = []
    page.route_web_socket(re.compile("/ws/"), lambda route: _pass_once(route, sockets))
    page.goto(f"/playground/{chat.pk}/")
    answer = send(page, "[[tokens=5000]] [[delay=5]]")
    expect(answer.locator(".prose")).to_contain_text("word5")
    sockets[0].close()
    expect(page.locator("html")).to_have_attribute("data-socket", "closed")
    with page.expect_response(re.compile("/stop/$")) as stopped:
        page.get_by_role("button", name="Stop", exact=True).click()
    assert stopped.value.status == 204
    fake.wait_idle()
    assert chats.answer(Generation.objects.get().pk).state == "stopped"


def _pass_once(route: WebSocketRoute, sockets: list[WebSocketRoute]) -> None:
    """Let the page's first socket through; the ones it opens after that are closed."""
    if sockets:
        route.close()
    else:
        route.connect_to_server()
        sockets.append(route)


def test_shortcuts_can_be_turned_off_and_stay_off(page: Page) -> None:
    message = page.get_by_label("Message", exact=True)
    page.get_by_role("button", name="Turn shortcuts off").click()
    page.reload()
    expect(page.locator(".keys-on")).to_be_hidden()
    message.fill("[[text=one]]")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+k")
    expect(page.locator("#finder")).to_be_hidden()
    assert not Turn.objects.exists()
    page.get_by_role("button", name="Turn shortcuts on").click()
    message.focus()
    page.keyboard.press("Control+Enter")
    ends(page.locator(".answer").last)


def test_whoever_only_reads_sees_answers_set_and_no_composer(
    page: Page, user: User, team: Team, chat: Conversation
) -> None:
    ends(send(page, "[[text=**bold**]]"))
    Membership.objects.filter(user=user, team=team).update(role=Membership.Role.VIEWER)
    page.reload()
    expect(page.locator(".prose strong")).to_have_text("bold")
    expect(page.locator("#composer")).to_be_hidden()
    expect(page.locator(".composer-dock")).to_contain_text("You can read here.")


def test_narrow_bars_leave_the_room_to_the_messages(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 700})
    thread = page.locator("#thread").bounding_box()
    assert thread and thread["y"] < 190
    page.get_by_text("Chats", exact=True).click()
    expect(page.get_by_label("Search conversations")).to_be_in_viewport()
