"""The difference of two answers and of their requests, in a real browser with fake engines."""

import re
from collections.abc import Callable

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from playground.models import Generation, Model, Team, Turn, User
from tests import chats
from tests.e2e.axe import violations
from tests.e2e.test_widgets import looks_right
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

TEXT = (
    "The capital of {France|the country} is Paris, which has been its seat of government\n"
    "since the Middle Ages. It lies on the Seine{|, a river of the north,} and has some "
    "{two|two point one} million people."
)
SAID = [
    "The capital of France is Paris, which has been its seat of government\n"
    "since the Middle Ages. It lies on the Seine and has some two million people.",
    "The capital of the country is Paris, which has been its seat of government\n"
    "since the Middle Ages. It lies on the Seine, a river of the north, and has some "
    "two point one million people.",
]


@pytest.fixture
def turn(team: Team, user: User, fake_engine: Callable[..., RunningFake]) -> Turn:
    """A message that two fake engines answered, each in its own way."""
    prompt = f"[[gap=0.12,0.2]][[text={TEXT}]]"
    rows = [chats.deployment(team, name) for name in ("SmolLM2 on one", "SmolLM2 on another")]
    chat = chats.conversation(team, *rows, created_by=user, title="Capital cities")
    row = Turn.objects.create(conversation=chat, text=prompt, client_id="t1", created_by=user)
    for place, (column, deployment) in enumerate(zip(chat.columns.all(), rows, strict=True)):
        replica = chats.ready(deployment, fake_engine(key="k", variant=place, token_delay_ms=0))
        Generation.objects.create(
            turn=row,
            column=column,
            replica=replica,
            state=Generation.State.COMPLETE,
            text=SAID[place],
            finish_reason="stop",
            request={"model": "fake", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
            | ({"seed": 7} if place else {}),
            effective={
                "rendered": f"<s>[INST]{prompt}[/INST]",
                "token_ids": [1, 518, 25580],
                "by": "engine",
                "added": {"top_k": 40} if place else {"top_p": 0.9},
            },
        )
    return row


@pytest.fixture
def page(open_page: Callable[..., Page], user: User) -> Page:
    return open_page(user, width=1200)


def test_two_answers_are_compared_and_the_tie_is_measured(page: Page, turn: Turn) -> None:
    page.goto(reverse("turn-difference", args=[turn.pk]))
    expect(page.locator(".difference-parting")).to_contain_text("They part at word 4, character 16")
    expect(page.locator(".difference-text del").first).to_have_text("France")
    expect(page.locator(".difference-text ins").first).to_have_text("the country")
    looks_right(page, "difference-side")

    page.get_by_text("inline", exact=True).click()
    expect(page.locator(".difference-text.inline")).to_have_count(1)
    page.get_by_text("by token", exact=True).click()
    expect(page.get_by_role("radio", name="by token")).to_be_checked()
    expect(page.get_by_role("radio", name="inline")).to_be_checked()
    looks_right(page, "difference-inline")

    page.get_by_role("button", name="Measure the margin").click()
    verdict = page.locator(".difference-verdict")
    expect(verdict).to_contain_text("A tie in both")
    expect(page.locator(".difference-parting")).to_contain_text("token 4")
    expect(page.locator(".difference-margins tbody tr")).to_have_count(2)
    expect(page.locator(".difference-margins tbody")).to_contain_text("+0.12 nats")
    looks_right(page, "difference-tie")

    within = page.get_by_label("tie within")
    within.fill("0.15")
    within.press("Enter")
    expect(verdict).to_contain_text("No tie")
    within = page.get_by_label("tie within")
    within.fill("wide")
    within.press("Enter")
    expect(page.locator(".difference-choice [role=alert]")).to_contain_text("0 to 20 nats")
    expect(page.get_by_label("tie within")).to_have_value("wide")
    assert violations(page) == []


def test_it_is_worked_from_the_keyboard(page: Page, turn: Turn) -> None:
    page.goto(reverse("turn-difference", args=[turn.pk]))
    page.get_by_role("radio", name="by word").focus()
    with page.expect_response(re.compile("by=token")):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".difference-text[data-by=token]")).to_have_count(2)
    expect(page.get_by_role("radio", name="by token")).to_be_focused()
    page.get_by_role("button", name="Measure the margin").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".difference-verdict")).to_contain_text("A tie in both")


def test_meaning_is_na_until_a_model_embeds(
    page: Page, turn: Turn, team: Team, fake_engine: Callable[..., RunningFake]
) -> None:
    page.goto(reverse("turn-difference", args=[turn.pk]))
    page.get_by_role("button", name="Compare meaning").click()
    expect(page.locator(".difference-asking")).to_contain_text("No embedding model runs")
    model = Model.objects.create(team=team, source="local:minilm", name="MiniLM", task="embedding")
    row = chats.deployment(team, "embeds")
    row.model = model
    row.save()
    chats.ready(row, fake_engine(key="k"))
    page.get_by_role("button", name="Compare meaning").click()
    expect(page.locator(".difference-asking")).to_contain_text(re.compile(r"cosine 0\.\d+ by MiniLM"))
    looks_right(page, "difference-meaning")


def test_requests_stand_beside_each_other_with_words_first(page: Page, turn: Turn) -> None:
    page.goto(reverse("turn-requests", args=[turn.pk]))
    expect(page.locator(".difference-words li")).to_contain_text([re.compile("top_p"), re.compile("top_k")])
    expect(page.locator(".request-column")).to_have_count(2)
    page.get_by_text("Rendered prompt").first.click()
    expect(page.locator(".request-column pre").first).to_contain_text("<s>[INST]")
    looks_right(page, "requests")


def test_it_works_without_scripts(open_page: Callable[..., Page], user: User, turn: Turn) -> None:
    page = open_page(user, java_script_enabled=False)
    page.goto(reverse("turn-difference", args=[turn.pk]))
    page.get_by_role("radio", name="inline").check(force=True)
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".difference-text.inline del").first).to_have_text("France")
    page.get_by_role("button", name="Measure the margin").click()
    expect(page.locator(".difference-verdict")).to_contain_text("A tie in both")
