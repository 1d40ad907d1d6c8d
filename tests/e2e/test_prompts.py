"""The library of prompts in a real browser: kept through a reload, two at once, tried and saved back."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground import prompts
from playground.models import Conversation, Membership, Prompt, Team, User
from playground.prompts import Said
from tests import chats
from tests.e2e.axe import violations
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LOOKS = [("light", 1280), ("dark", 1280), ("light", 400)]
# A folder to look at the pages in, while they are worked on.
SHOTS = os.environ.get("SHOTS", "")
TRIAGE = [
    {"role": "system", "content": "You sort tickets of {{product}}.\nAnswer with one word."},
    {"role": "user", "content": "Broken"},
    {"role": "assistant", "content": "bug"},
    {"role": "user", "content": "{{ticket}}"},
]


@pytest.fixture
def bob(team: Team) -> User:
    person = User.objects.create_user(username="bob")
    Membership.objects.create(user=person, team=team)
    return person


@pytest.fixture
def prompt(team: Team, user: User) -> Prompt:
    variables = [{"name": "product", "type": "choice", "choices": ["ships", "boats"], "description": "whose"}]
    what = Said(TRIAGE, variables, {"temperature": 0.2, "max_tokens": 24})
    return prompts.create(team, user, "triage", what, tags=["support"], description="Sorts.", note="begun")


def looks_right(page: Page, name: str) -> None:
    """Nothing axe objects to, and no sideways scroll of the page, in any of LOOKS."""
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 860})
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / f"{name}-{scheme}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 860})
    page.emulate_media(color_scheme="light")


def settled(page: Page) -> None:
    """What is typed has been kept in the browser."""
    page.wait_for_function("Object.keys(localStorage).some((key) => key.startsWith('slipway:draft:prompt:'))")


def test_what_is_typed_before_the_page_listens_is_looked_at(
    open_page: Callable[..., Page], user: User, held: Callable[[Page, str], AbstractContextManager[None]]
) -> None:
    page = open_page(user)
    with held(page, "prompts.js"):
        page.goto("/prompts/new/", wait_until="commit")
        page.get_by_label("Text of message 1").fill("You sort tickets of {{product}}.")
    expect(page.locator("#variables legend")).to_have_text("product")


def test_a_prompt_is_written_with_its_variables_and_survives_a_reload(
    open_page: Callable[..., Page], user: User
) -> None:
    page = open_page(user)
    page.goto("/prompts/")
    looks_right(page, "empty")
    page.get_by_role("link", name="New prompt").first.click()
    page.get_by_role("textbox", name="Name", exact=True).fill("triage")
    page.get_by_label("Text of message 1").fill("You sort tickets of {{product}}.")
    expect(page.locator("#variables legend")).to_have_text("product")
    page.get_by_label("Value to look at it with").fill("ships")
    expect(page.locator("#looked mark")).to_have_text("ships")
    page.get_by_role("button", name="+ Message").click()
    page.get_by_label("Text of message 3").fill("And a third")
    page.get_by_label("Type").select_option("choice")
    page.get_by_label("Choices, one a line").fill("ships\nboats")
    settled(page)
    looks_right(page, "new")
    page.wait_for_timeout(300)  # the draft is kept a fifth of a second after the last key

    page.reload()
    expect(page.locator("#recalled")).to_be_visible()
    expect(page.get_by_label("Text of message 3")).to_have_value("And a third")
    expect(page.get_by_label("Choices, one a line")).to_have_value("ships\nboats")
    page.get_by_role("button", name="Message 3 up").click()
    expect(page.get_by_label("Text of message 2")).to_have_value("And a third")
    page.get_by_text("Sampling, response format, tools").click()
    page.get_by_label("Temperature").fill("warm")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Temperature is a number")).to_be_visible()
    expect(page.get_by_label("Text of message 2")).to_have_value("And a third")
    looks_right(page, "refused")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("What changed, and why").fill("begun")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(re.compile(r"/prompts/\d+/$"))
    made = Prompt.objects.get().versions.get()
    assert [one["content"] for one in made.messages] == ["You sort tickets of {{product}}.", "And a third"]
    assert made.variables[0]["choices"] == ["ships", "boats"]
    assert made.parameters == {"temperature": 0.3}
    page.goto("/prompts/new/")
    expect(page.get_by_label("Text of message 1")).to_have_value("")  # what was saved is no draft any more


def test_two_who_edit_at_once_lose_no_word(
    open_page: Callable[..., Page], prompt: Prompt, user: User, bob: User
) -> None:
    ada, his = open_page(user), open_page(bob)
    for page in (ada, his):
        page.goto(f"/prompts/{prompt.pk}/edit/")
    ada.get_by_label("Text of message 1").fill(
        "You carefully sort tickets of {{product}}.\nAnswer with one word."
    )
    ada.get_by_label("What changed, and why").fill("careful")
    ada.get_by_role("button", name="Save as v2").click()
    ada.wait_for_url(re.compile(r"/prompts/\d+/$"))

    his.get_by_label("Text of message 1").fill(
        "You sort tickets of {{product}}.\nAnswer with one word in English."
    )
    his.get_by_label("Text of message 3").fill("a bug")
    his.get_by_label("What changed, and why").fill("English")
    his.get_by_role("button", name="Save as v2").click()
    expect(his.get_by_role("heading", name="ada saved v2 while you wrote")).to_be_visible()
    expect(his.get_by_text("“careful”")).to_be_visible()
    expect(his.locator(".prompt-conflict ins").first).to_contain_text("carefully")
    expect(his.get_by_label("Text of message 3")).to_have_value("a bug")
    looks_right(his, "conflict")
    his.wait_for_timeout(300)
    his.goto(f"/prompts/{prompt.pk}/edit/")  # left and come back to: still there
    expect(his.get_by_label("Text of message 3")).to_have_value("a bug")
    his.get_by_role("button", name="Save as v2").click()
    his.get_by_role("button", name="Put both together").click()
    expect(his.get_by_label("Text of message 1")).to_have_value(
        "You carefully sort tickets of {{product}}.\nAnswer with one word in English."
    )
    looks_right(his, "merged")
    his.get_by_role("button", name="Save as v3").click()
    his.wait_for_url(re.compile(r"/prompts/\d+/$"))
    newest = prompt.versions.get(number=3)
    assert newest.messages[0]["content"].startswith("You carefully")
    assert newest.messages[0]["content"].endswith("in English.")
    assert newest.messages[2]["content"] == "a bug"
    assert (newest.note, newest.created_by) == ("English", bob)
    assert prompt.versions.get(number=2).created_by == user

    ada.goto(f"/prompts/{prompt.pk}/difference/?a=2&b=3")
    expect(ada.locator("ins").first).to_be_visible()
    looks_right(ada, "difference")


def test_a_prompt_is_tried_its_variables_changed_and_saved_back(
    open_page: Callable[..., Page],
    prompt: Prompt,
    user: User,
    team: Team,
    fake_engine: Callable[..., RunningFake],
) -> None:
    chats.ready(chats.deployment(team, "one"), fake_engine(key="k"))
    page = open_page(user)
    page.goto("/prompts/")
    looks_right(page, "list")
    page.get_by_role("link", name="triage").click()
    page.get_by_label("product").select_option("ships")
    expect(page.locator("#filled mark").first).to_have_text("ships")
    page.get_by_label("ticket").fill("[[tokens=5]] It sank")
    expect(page.locator("#filled mark").last).to_have_text("[[tokens=5]] It sank")
    looks_right(page, "prompt")
    page.get_by_role("button", name="Try", exact=True).click()
    page.wait_for_url(re.compile(r"/playground/\d+/$"))
    expect(page.locator("#prompt-summary")).to_contain_text("Prompt: triage v1")
    message = page.get_by_role("textbox", name="Message", exact=True)
    expect(message).to_have_value("[[tokens=5]] It sank")
    page.locator("#prompt-summary").click()
    page.locator("#prompt-values").get_by_label("ticket").fill("[[tokens=6]] It floats")
    expect(message).to_have_value("[[tokens=6]] It floats")
    page.locator("#prompt-values").get_by_label("product").select_option("boats")
    expect(page.locator("#prompt-summary")).to_contain_text("boats")
    looks_right(page, "picker")
    page.locator("#prompt-summary").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer[data-state=complete]")).to_be_visible()
    chat = Conversation.objects.get()
    request = chat.turns.get().generations.get().request
    assert [one["content"] for one in request["messages"]] == [
        "You sort tickets of boats.\nAnswer with one word.",
        "Broken",
        "bug",
        "[[tokens=6]] It floats",
    ]
    assert request["temperature"] == 0.2

    page.get_by_text("System prompt", exact=True).first.click()
    page.get_by_label("System prompt").fill("You sort tickets of {{product}} by {{what}}.")
    expect(page.locator("#settings-note")).to_contain_text("Kept")
    page.reload()
    page.locator("#prompt-summary").click()
    expect(page.get_by_text("Still without a value: what.")).to_be_visible()
    page.get_by_role("link", name="Save as v2…").click()
    expect(page.get_by_label("Text of message 1")).to_have_value(
        "You sort tickets of {{product}} by {{what}}."
    )
    page.get_by_role("button", name="Save as v2").click()
    page.wait_for_url(re.compile(r"/prompts/\d+/$"))
    assert prompt.versions.get(number=2).messages[1:] == TRIAGE[1:]
