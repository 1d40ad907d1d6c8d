"""Scores of a batch in a real browser: a scorer added, its results as they come, the rows that got worse."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.models import Batch, Job, Team, User
from tests import chats, scored
from tests.e2e.axe import violations
from tests.e2e.conftest import ROOT
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Where to leave pictures of the pages, for a person to judge: SLIPWAY_SHOTS=/tmp/shots.
SHOTS = os.environ.get("SLIPWAY_SHOTS", "")
LOOKS = (("light", 1200), ("dark", 1200), ("light", 400), ("dark", 360))
CAPITALS = [
    "Paris",
    "Rome",
    "Oslo",
    "Bern",
    "Lima",
    "Cairo",
    "Hanoi",
    "Quito",
    "Sofia",
    "Riga",
    "Minsk",
    "Doha",
]


@pytest.fixture
def batch(team: Team, fake_engine: Callable[..., RunningFake]) -> Batch:
    """Capitals in two columns: the second says them in whole sentences, is twice wrong and fails once."""
    scored.worker()
    sentences: list[scored.Said] = [f"I think that the capital is {name}, but do check." for name in CAPITALS]
    sentences[1] = "Milan, where the fashion is."
    sentences[4] = "I do not know that one."
    sentences[7] = ValueError("The engine broke off in the middle of the answer.")
    made = scored.batch(team, CAPITALS, list(CAPITALS), sentences)
    for column, name in zip(
        made.columns.all(), ("SmolLM2-135M-Instruct-llama.cpp", "SmolLM2-vLLM"), strict=True
    ):
        column.deployment.name = name
        column.deployment.save()
    chats.ready(made.columns.all()[0].deployment, fake_engine(key="k"))
    return made


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


def test_a_scorer_is_added_and_what_got_worse_is_shown_first(
    open_page: Callable[..., Page], batch: Batch, user: User
) -> None:
    page = open_page(user)
    page.goto(f"/batches/{batch.pk}/scores/")
    expect(page.locator("#scores")).to_contain_text("Nothing scores these rows yet.")
    expect(page.get_by_label("Ignore case")).to_be_visible()
    expect(page.get_by_label("Text, expression or number")).to_be_hidden()
    # What cannot be is told beside its field, and what was typed stays.
    page.get_by_label("Score by").select_option("regex")
    expect(page.get_by_label("Ignore punctuation")).to_be_hidden()
    page.get_by_label("Right answer", exact=True).select_option("fixed")
    page.get_by_label("Text, expression or number").fill("(a+)+$")
    page.get_by_role("button", name="Add and score").click()
    expect(page.locator("#id-fixed-error")).to_contain_text("repeats a group that repeats already")
    expect(page.get_by_label("Text, expression or number")).to_have_value("(a+)+$")
    page.get_by_label("Score by").select_option("contains")
    page.get_by_label("Right answer", exact=True).select_option("expected")
    page.get_by_label("Whole words").check()
    page.get_by_role("button", name="Add and score").click()
    expect(page.locator("#scores")).to_contain_text("queued")
    run_job()
    # Nobody reloads: the page hears of the end.
    table = page.locator(".scores-table tbody tr")
    expect(table.nth(0)).to_contain_text("100.0 %")
    expect(table.nth(1)).to_contain_text("75.0 %")
    expect(table.nth(1)).to_contain_text("not told apart")
    worse = page.locator(".regressions li")
    expect(worse).to_have_count(3)
    expect(worse.nth(2)).to_contain_text("The row failed: The engine broke off")
    page.get_by_label("Score by").select_option("exact")
    page.get_by_role("button", name="Add and score").click()
    run_job()
    expect(page.locator(".scores-table").nth(1)).to_contain_text("worse by 100.0 points")
    looks_right(page, "scores")
    page.get_by_role("link", name="12 worse").click()
    expect(page.get_by_role("heading", name="Exact match")).to_be_visible()
    expect(page.locator(".score-rows > li")).to_have_count(12)
    looks_right(page, "score-rows")
    page.get_by_label("Show").select_option("better")
    expect(page.locator(".score-rows")).to_contain_text("No row is better than in the baseline.")


def test_a_judge_is_shown_with_its_prompt(open_page: Callable[..., Page], batch: Batch, user: User) -> None:
    page = open_page(user)
    page.goto(f"/batches/{batch.pk}/scores/")
    page.get_by_label("Score by").select_option("judge")
    expect(page.get_by_label("Prompt", exact=True)).to_contain_text("Score: N")
    looks_right(page, "judge-form")
    page.get_by_label("Prompt", exact=True).fill(
        "[[text=Close enough, I say.\nScore: 9]] {{question}} {{answer}}"
    )
    page.get_by_role("button", name="Add and score").click()
    run_job()
    expect(page.locator(".scores-table tbody tr").nth(0)).to_contain_text("0.900")
    expect(page.locator("#scores")).to_contain_text("judges its own answers in column 1")
    page.get_by_role("link", name="SmolLM2-vLLM").click()
    first = page.locator(".score-rows > li").first
    expect(first).to_contain_text("failed: The engine broke off")
    page.locator("summary", has_text="Prompt as the judge was sent it").first.click()
    expect(page.locator("details pre").first).to_contain_text("Score: 9]] Question")
    looks_right(page, "judged")
    page.goto(f"/batches/{batch.pk}/scores/")
    page.get_by_role("button", name="Take away Judge model").click()
    page.locator("#confirm").get_by_role("button", name="Take away").click()
    expect(page.locator("#scores")).to_contain_text("Nothing scores these rows yet.")
