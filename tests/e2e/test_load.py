"""A load run from the form to its charts, in a real browser, with a real job and fake engines."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from playground import jobs
from playground.models import Conversation, Measurement, Team, User
from tests import chats
from tests.e2e.axe import violations
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def chat(team: Team, fake_engine: Callable[..., RunningFake]) -> Conversation:
    """Two columns that answer at different speeds."""
    made = []
    for name, delay in (("quick", 4), ("slow", 9)):
        row = chats.deployment(team, name)
        chats.ready(row, fake_engine(key="k", token_delay_ms=delay))
        made.append(row)
    conversation = chats.conversation(team, *made, title="Capitals")
    conversation.turns.create(text="[[tokens=12]] What is the capital of France?", client_id="1")
    return conversation


def test_a_run_goes_from_the_form_to_its_charts(
    open_page: Callable[..., Page], user: User, chat: Conversation
) -> None:
    page = open_page(user)
    page.goto(f"/playground/{chat.pk}/load/")
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    assert violations(page) == []
    page.get_by_label("Levels").fill("1, 2, often")
    page.get_by_label("Seed of the arrivals").fill("7")
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_text("often is no level")).to_be_visible()
    expect(page.get_by_label("Seed of the arrivals")).to_have_value("7")
    page.get_by_label("Levels").fill("1, 2, 4, 30/s")
    page.get_by_label("Requests a level").fill("12")
    page.get_by_label("Tokens an answer").fill("12")
    page.get_by_label("TTFT, ms").fill("500")
    expect(page.locator("#estimate")).to_contain_text("At least")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#results")).to_contain_text("queued")
    run = Measurement.objects.get()
    assert run.job is not None
    jobs.run(run.job.pk)
    # The page heard of it by itself.
    expect(page.locator("#results .state").first).to_have_text("done")
    expect(page.locator("svg.chart")).to_have_count(2)
    expect(page.locator("#run-column-1 tbody th")).to_have_count(4)
    expect(page.locator("#run-column-2")).to_contain_text(re.compile(r"12 of 12"))
    expect(page.locator("svg.chart .level").filter(has_text="30/s")).to_have_count(4)
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Samples as CSV").click()
    assert download.value.path().read_text().count("\n") == 97


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(
    open_page: Callable[..., Page], user: User, chat: Conversation, scheme: str
) -> None:
    from playground import load, load_form

    typed = load_form.DEFAULTS | {"levels": "1, 2, 20/s", "requests": "5", "max_tokens": "12", "ttft": "500"}
    run = load.request(chat, load_form.read(typed, "[[tokens=12]]"), user)
    assert run.job is not None
    jobs.run(run.job.pk)
    page = open_page(user, width=360, color_scheme=scheme)
    page.goto(f"/playground/{chat.pk}/load/")
    expect(page.locator("svg.chart")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(page) == []
