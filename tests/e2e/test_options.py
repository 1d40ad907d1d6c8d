"""The Start form in a real browser: finding options, counting and taking back, another engine, an edit."""

from collections.abc import Callable
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from playground import engines, forms
from playground.models import Deployment, Node, Team, User
from tests import rows
from tests.e2e.axe import violations
from tests.rows import Rows

pytestmark = pytest.mark.browser


@pytest.fixture
def full(transactional_db: None, team: Team, user: User) -> Rows:
    return rows.full(team, user)


def form_of(full: Rows, **query: Any) -> str:
    named = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{reverse('model', args=[full.model.pk])}?{named}"


def test_an_option_is_found_set_counted_and_taken_back(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(form_of(full, engine="vllm"))
    box, speed = page.get_by_label("Find an option"), page.locator("#group-speed")
    shown = page.locator("#options .field[data-option]:visible")
    expect(speed).not_to_have_attribute("open", "")
    box.fill("cuda graph")
    fields = [field for group in forms.groups(engines.get("vllm").Options, {}) for field in group.fields]
    said = [f"{field.title} {field.flag} {field.hint}".lower() for field in fields]
    found = sum("cuda" in words and "graph" in words for words in said)
    expect(page.locator("#found-options")).to_have_text(f"{found} of {len(fields)} options")
    expect(shown).to_have_count(found)
    assert 0 < found < len(fields)
    box.press("Enter")
    eager = page.get_by_label("Eager", exact=False).first
    expect(eager).to_be_focused()
    expect(page).to_have_url(page.url)
    eager.select_option("false")
    expect(page.locator("#command")).to_contain_text("--no-enforce-eager")
    expect(speed.locator("[data-set]")).to_have_text("1 set")
    box.press("Escape")
    expect(box).to_have_value("")
    expect(speed).not_to_have_attribute("open", "")
    expect(page.locator("#command")).to_contain_text("--no-enforce-eager")
    box.fill("no such thing")
    expect(page.get_by_text("No option is called that.")).to_be_visible()
    box.fill("")
    speed.locator("summary").click()
    speed.get_by_role("button", name="Reset Speed").click()
    expect(eager).to_have_value("")
    expect(page.locator("#command")).not_to_contain_text("--no-enforce-eager")
    speed.get_by_role("button", name="Undo").click()
    expect(eager).to_have_value("false")
    page.get_by_role("button", name="Reset all").click()
    expect(eager).to_have_value("")
    expect(speed.locator("[data-set]")).to_be_hidden()


def test_another_engine_keeps_what_means_the_same(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(form_of(full, engine="llama.cpp"))
    page.locator("#id-name").fill("kept")
    page.locator("#id-option-context").fill("2048")
    page.locator("#group-parallelism summary").click()
    page.locator("#id-option-parallel").fill("8")
    page.get_by_label("vLLM").check()
    expect(page.locator("#id-option-max_model_len")).to_have_value("2048")
    expect(page.locator("#id-option-max_num_seqs")).to_have_value("8")
    expect(page.locator("#id-name")).to_have_value("kept")
    gpus = page.locator("#id-option-tensor_parallel_size")
    expect(gpus).to_be_disabled()
    expect(page.locator("#id-option-tensor_parallel_size-hint")).to_contain_text("Needs a GPU")
    expect(page.get_by_label("Another version")).to_be_hidden()
    page.get_by_label("Version", exact=True).select_option("other")
    page.get_by_label("Another version").fill("0.31.0")
    expect(page.locator("#command")).to_contain_text("vllm-0.31.0")
    assert violations(page) == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_an_edit_shows_what_changes_and_starts_in_its_place(
    open_page: Callable[..., Page], full: Rows, user: User, width: int, scheme: str
) -> None:
    Node.objects.filter(pk=full.node.pk).update(heartbeat_at=timezone.now())
    page = open_page(user, width=width, color_scheme=scheme)
    page.goto(reverse("deployment", args=[full.ready.pk]))
    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_text("Nothing yet: it would run as")).to_be_visible()
    expect(page.get_by_label("Conversations go on")).to_be_hidden()
    page.locator("#id-option-context").fill("8192")
    row = page.locator("#changes tbody tr")
    expect(row).to_have_text("Context40968192")
    page.get_by_label("In its place").check()
    page.get_by_label("Conversations go on").check()
    assert violations(page) == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    page.locator("#id-option-context").fill("5")
    expect(page.locator("#preview")).to_contain_text("at least 256")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#id-option-context-error")).to_contain_text("at least 256")
    expect(page.get_by_label("In its place")).to_be_checked()
    expect(page.get_by_label("Conversations go on")).to_be_checked()
    page.locator("#id-option-context").fill("8192")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("Once it is ready it takes the place of")).to_be_visible()
    new = Deployment.objects.order_by("-pk")[0]
    assert new.wanted["options"] == {"context": 8192}
    assert new.wanted["replaces"]["deployment"] == full.ready.pk
    assert new.wanted["replaces"]["conversations"] is True
    Deployment.objects.filter(pk=new.pk).update(name="taken over")
    page.locator(f"#status-{new.pk}").dispatch_event("notice")
    expect(page.get_by_role("heading", level=1)).to_have_text("taken over")
    page.goto(reverse("deployment", args=[full.ready.pk]))
    expect(page.get_by_text("takes its place once it is ready")).to_be_visible()
    assert violations(page) == []
