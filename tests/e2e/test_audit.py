"""The audit log, access tokens and the management API's page in a real browser."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground import access, acting, tokens
from playground.models import Model, Team, User
from tests import rows
from tests.e2e.axe import violations

pytestmark = pytest.mark.browser
Opened = Callable[..., Page]
LOOKS = (("light", 1280), ("dark", 1280), ("light", 400), ("dark", 360))
SHOTS = os.environ.get("SLIPWAY_SHOTS")


@pytest.fixture
def log(transactional_db: None, team: Team, user: User, stranger: User) -> Model:
    """A day of acts: by page, API and worker, refused ones, things that are gone."""
    made = rows.full(team, user, access.team_of(stranger))
    with acting.acting("page", "10.20.30.40"):
        change = {"before": {"price_per_hour": None}, "after": {"price_per_hour": "2.49"}}
        access.audit(user, team, "set price", f"node:{made.node.pk}", name=made.node.name, **change)
        name = "an-endpoint-whose-name-is-as-long-as-a-name-may-be-which-is-eighty-characters-ok"
        live = {"before": {"live": 2}, "after": {"release": 3}}
        access.audit(
            user, team, "endpoint promote", "endpoint:9", name=name, **live, note="Fewer wrong tags."
        )
        access.audit(stranger, team, "refused stop", f"deployment:{made.ready.pk}")
    with acting.acting("api", "2001:db8::17", "nightly evaluation"):
        key = {"after": {"scopes": ["endpoints"], "limits": {"requests_minute": 600, "spend_day": 5.0}}}
        access.audit(user, team, "make key", "key:3", name="support desk, production", **key)
        access.audit(user, team, "stop", f"deployment:{made.ready.pk}", name=made.ready.name)
    access.audit(None, team, "import model", "model:99999", name="bygone-7b", landed=["model.gguf"])
    return made.model


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


def test_an_entry_opens_and_is_found_and_taken_away(open_page: Opened, log: Model, user: User) -> None:
    page = open_page(user)
    page.goto("/team/audit/")
    page.get_by_text("set price").last.click()
    expect(page.locator("ins", has_text="2.49")).to_be_visible()
    page.get_by_text("make key").last.click()
    looks_right(page, "audit")
    page.get_by_label("refused only").check()
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.locator(".audit-list > li")).to_have_count(1)
    with page.expect_download() as begun:
        page.get_by_role("link", name="CSV").click()
    lines = Path(begun.value.path()).read_text().splitlines()
    assert len(lines) == 2 and "refused stop" in lines[1]
    page.get_by_label("refused only").uncheck()
    page.get_by_label("Text").fill("no such thing")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    looks_right(page, "audit-nothing")


def test_a_token_is_made_shown_once_and_revoked(open_page: Opened, log: Model, user: User) -> None:
    page = open_page(user)
    page.goto("/account/tokens/")
    looks_right(page, "tokens-empty")
    page.get_by_label("What it is for").fill("nightly evaluation of every model that this team starts")
    page.get_by_label("It may").select_option("write")
    page.get_by_role("button", name="Make token").click()
    secret = page.locator("#secret").inner_text()
    assert tokens.check(secret) is not None
    looks_right(page, "tokens-made")
    page.goto("/account/tokens/")
    expect(page.locator("#secret")).to_have_count(0)
    page.get_by_role("button", name="Revoke nightly evaluation").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()
    assert tokens.check(secret) is None


def test_the_api_is_described_on_a_page(open_page: Opened, log: Model, user: User) -> None:
    page = open_page(user)
    page.goto("/api/")
    options = page.locator("#deployments_start_new").get_by_text("only what is not the engine's default")
    expect(options).not_to_be_visible()
    page.locator("#deployments_start_new summary").click()
    expect(options).to_be_visible()
    looks_right(page, "api")
