"""Columns that do not fit together, in a real browser: the plan, its progress, the replay of the answers."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from playground import deployments
from playground.models import Conversation, Deployment, Generation, Node, Replica, Team, Turn, User
from tests import chats, fleet
from tests.e2e.axe import violations
from tests.fleet import Fleet, until

STOPPED = Deployment.Desired.STOPPED
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def worker(team: Team) -> Iterator[None]:
    workers = Fleet()
    try:
        workers.work()
        until("the node tells its memory", Node.objects.filter(inventory__memory_bytes__gt=0).first)
        yield
        for row in Deployment.objects.all():
            deployments.delete(row, None)
        until("everything stops", lambda: not Replica.objects.exclude(state__in=Replica.TERMINAL).exists())
    finally:
        workers.close()


@pytest.fixture
def chat(worker: None, team: Team, user: User) -> Conversation:
    """Two columns, each of more than half of the machine; the first one's runs."""
    model = fleet.tiny_model(team)
    half = int(Node.objects.get().inventory["memory_bytes"] * 0.55) >> 20
    wanted = {"version": None, "options": {"memory_mib": half, "token_delay_ms": 20}}
    rows = [
        Deployment.objects.create(
            team=team,
            created_by=user,
            model=model,
            engine="fake",
            name=name,
            wanted=wanted,
            desired="stopped",
        )
        for name in ("first", "second")
    ]
    deployments.start(rows[0], user)
    fleet.ready(rows[0])
    return chats.conversation(team, *rows, created_by=user)


def test_a_plan_is_shown_run_followed_and_replayed(
    open_page: Callable[..., Page], chat: Conversation, user: User
) -> None:
    page, complaints = open_page(user), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.goto(f"/playground/{chat.pk}/plan/?text=**one**+[[echo]]")
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    expect(page.locator("#plan")).to_contain_text(re.compile("first and second need .* GiB together"))
    expect(page.locator("#stages .plan-stage")).to_have_count(2)
    expect(page.locator("#stages .plan-stage").last).to_contain_text(
        re.compile(r"Stop\s+first.*Start\s+second", re.DOTALL)
    )
    page.get_by_label("Message", exact=True).fill("**one** [[echo]]\ntwo [[tokens=60]]")
    page.get_by_label("One prompt a line").check()
    assert violations(page) == []
    page.get_by_role("button", name="Run it").click()
    progress = page.locator("#progress")
    expect(progress).to_contain_text("Under way")
    expect(progress.locator(".plan-column").first).to_contain_text("2 of 2 answered", timeout=60_000)
    expect(progress.locator(".plan-column").last).to_contain_text("2 of 2 answered", timeout=60_000)
    expect(progress).to_contain_text("Started again: first.", timeout=30_000)
    assert violations(page) == []
    progress.get_by_role("link", name="Replay side by side").last.click()
    replay = page.locator(".replay")
    expect(replay).to_contain_text("made one after another on test-node")
    expect(replay).to_contain_text("not at the same time")
    # Motion is not wanted here: all is there at once, and played when asked for.
    expect(replay).to_have_attribute("data-state", "whole")
    for column in (0, 1):
        expect(replay.locator(".prose").nth(column)).to_have_text(chats.words(60))
    page.get_by_role("button", name="Play again").click()
    expect(replay).to_have_attribute("data-state", "playing")
    expect(replay.locator(".prose").last).to_contain_text("word3")
    expect(replay.locator(".prose").last).not_to_contain_text("word59")
    page.get_by_role("button", name="Pause").click()
    paused = replay.locator(".prose").last.inner_text()
    expect(replay).to_have_attribute("data-state", "paused")
    replay.locator("[data-speed='4']").click()
    assert replay.locator(".prose").last.inner_text() == paused
    page.get_by_role("button", name="Play", exact=True).click()
    expect(replay).to_have_attribute("data-state", "whole")
    expect(replay.locator(".prose").last).to_have_text(chats.words(60))
    page.get_by_role("button", name="Play again").click()
    page.get_by_role("button", name="Skip to the end").click()
    expect(replay.locator(".prose").first).to_have_text(chats.words(60))
    assert violations(page) == []
    assert [line for line in complaints if "WebSocket" not in line] == []


@pytest.fixture
def told(team: Team) -> Turn:
    """A message with two answers: one with its pace, one without; both hostile, with wide characters."""
    chat = chats.conversation(team, chats.deployment(team, "a"), chats.deployment(team, "b"))
    turn = Turn.objects.create(conversation=chat, text="Why?", client_id="x")
    for place, column in enumerate(chat.columns.all()):
        text = "🌊🌊 calm **waves** <img src=x onerror=window.hit=1> end"
        Generation.objects.create(
            turn=turn,
            column=column,
            state="complete",
            text=text,
            timings={"ttft": 200, "e2e": 4000, "chunks": 5},
            pace=[[200, 7], [3000, 17], [4000, len(text)]] if place == 0 else [],
        )
    return turn


def test_a_replay_begins_by_itself_keeps_its_pace_and_is_skipped(
    open_page: Callable[..., Page], told: Turn, user: User
) -> None:
    page = open_page(user)
    page.emulate_media(reduced_motion="no-preference")
    page.goto(f"/playground/turns/{told.pk}/replay/")
    replay = page.locator(".replay")
    first, second = replay.locator(".prose").first, replay.locator(".prose").last
    expect(first).to_contain_text("🌊🌊 cal")
    expect(replay).to_have_attribute("data-state", "playing")
    expect(second).to_contain_text("waves")
    assert "waves" not in first.inner_text(), "a recorded pace has steps, an even one has none"
    page.get_by_role("button", name="Skip to the end").click()
    for shown in (first, second):
        expect(shown).to_have_text("🌊🌊 calm waves <img src=x onerror=window.hit=1> end")
        expect(shown.locator("strong")).to_have_text("waves")
    expect(replay.locator(".badge")).to_have_text("evenly paced")
    assert page.evaluate("window.hit") is None
    assert violations(page) == []


def test_without_a_script_the_answers_are_there(
    browser: Browser, server: str, told: Turn, user: User
) -> None:
    context = browser.new_context(base_url=server, java_script_enabled=False)
    name, _, value = chats.cookie(user).partition("=")
    context.add_cookies([{"name": name, "value": value, "url": server}])
    page = context.new_page()
    page.goto(f"/playground/turns/{told.pk}/replay/")
    expect(page.locator(".replay .text").last).to_contain_text("**waves**")
    expect(page.locator(".replay-controls")).to_be_hidden()
    context.close()
