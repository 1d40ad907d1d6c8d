"""The noise floor in a real browser: one click, the run as it goes on, verdicts one can read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.models import Conversation, Job, Team, Turn, User
from tests import chats
from tests.e2e.axe import violations
from tests.e2e.conftest import ROOT
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Where to leave pictures of the pages, for a person to judge: SLIPWAY_SHOTS=/tmp/shots.
SHOTS = os.environ.get("SLIPWAY_SHOTS", "")
LOOKS = (("light", 1200), ("dark", 1200), ("light", 400), ("dark", 360))


@pytest.fixture
def chat(team: Team, fake_engine: Callable[..., RunningFake]) -> Conversation:
    """Two columns alike and a slow one, with a message."""
    rows = []
    names = {"SmolLM2-135M-Instruct-llama.cpp": 3, "SmolLM2-135M-Instruct-vLLM": 3, "SmolLM2-transformers": 9}
    for name, delay in names.items():
        row = chats.deployment(team, name)
        chats.ready(row, fake_engine(key="k", token_delay_ms=delay))
        rows.append(row)
    chat = chats.conversation(team, *rows, title="Capital cities")
    Turn.objects.create(conversation=chat, text="What is the capital of France?", client_id="1")
    return chat


def looks_right(page: Page, name: str) -> None:
    """Nothing axe objects to, and no sideways scroll of the page, in any of LOOKS."""
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / f"{name}-{scheme}-{width}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide at {width}"
        assert violations(page) == []
    page.set_viewport_size({"width": 1200, "height": 800})
    page.emulate_media(color_scheme="light")


def run_job() -> None:
    """The job that was asked for, in a process of its own, as a node's worker starts it."""
    job = Job.objects.get(state=Job.State.QUEUED)
    command = [sys.executable, str(ROOT / "manage.py"), "run_job", str(job.pk)]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 0


def test_one_click_measures_and_no_winner_is_named_inside_the_noise(
    open_page: Callable[..., Page], chat: Conversation, user: User
) -> None:
    page = open_page(user)
    page.goto(f"/playground/{chat.pk}/noise/")
    expect(page.locator("#estimate")).to_contain_text("72 answers, 12 pairs a comparison.")
    looks_right(page, "noise-form")
    page.get_by_label("Tokens an answer, at most").fill("8")
    page.get_by_label("Rounds").fill("4")
    expect(page.locator("#estimate")).to_contain_text("too few for a verdict")
    page.get_by_label("Rounds").fill("200")
    page.get_by_role("button", name="Measure the noise").click()
    expect(page.locator("#id-rounds-error")).to_have_text("A whole number from 1 to 50.")
    expect(page.get_by_label("Tokens an answer, at most")).to_have_value("8")
    page.get_by_label("Rounds").fill("14")
    page.get_by_role("button", name="Measure the noise").click()
    expect(page.locator("#results .state")).to_have_text("queued")
    run_job()
    # Nobody reloads: the page hears of the end.
    pairs = page.locator("#noise-pairs tbody tr")
    expect(pairs).to_have_count(3)
    expect(pairs.nth(0).locator("[data-label=TPOT]")).to_contain_text("the same within the noise")
    expect(pairs.nth(1).locator("[data-label=TPOT]")).to_contain_text("C is")
    expect(pairs.nth(2).locator("[data-label=E2E]")).to_contain_text("% slower (")
    expect(page.locator("#results")).to_contain_text("The smallest difference it could have found")
    expect(page.locator("#noise-texts tbody tr").first).to_contain_text("identical text is identical")
    looks_right(page, "noise-results")


def test_prompts_are_typed_a_run_is_cancelled_and_few_pairs_show_raw_values(
    open_page: Callable[..., Page], chat: Conversation, user: User
) -> None:
    page = open_page(user)
    page.goto(f"/playground/{chat.pk}/noise/")
    page.get_by_label("These prompts").check()
    page.get_by_label("Prompts, one a line").fill("one\ntwo\nthree [[error=500]]")
    expect(page.locator("#estimate")).to_contain_text("18 answers, 3 pairs a comparison")
    page.get_by_role("button", name="Measure the noise").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#results .note")).to_contain_text("Cancelled by ada.")
    page.get_by_label("These prompts").check()
    page.get_by_label("Prompts, one a line").fill("one\ntwo\nthree [[error=500]]")
    page.get_by_role("button", name="Measure the noise").click()
    run_job()
    cell = page.locator("#noise-pairs tbody tr").first.locator("[data-label=TTFT]")
    expect(cell).to_contain_text("n/a: 2 pairs, at least 10 are needed; raw values")
    cell.locator("summary").click()
    expect(cell.locator("li")).to_have_count(2)
    expect(page.locator("#noise-answers tbody tr").first).to_contain_text("2 failed")
    expect(page.get_by_role("heading", name="Runs of this conversation")).to_be_visible()
    looks_right(page, "noise-raw")
