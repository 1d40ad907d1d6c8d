"""API keys in a real browser: made with limits, changed, replaced while the old secret works on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from endpoints import keys
from endpoints.models import ApiKey, Usage
from playground.models import Team, User
from tests import endpoint_rows, rows
from tests.e2e.axe import violations

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]
LIMITS = {"requests_minute": 600, "tokens_day": 2_000_000, "spend_day": 2.5, "concurrent": 20}


@pytest.fixture
def key(transactional_db: None, team: Team, user: User) -> ApiKey:
    """Limited and in use, among others in every state."""
    endpoint_rows.full(rows.full(team, user), team, user)
    names = ["support-triage", endpoint_rows.LONG, "summaries"]
    made, _ = keys.make(
        *(team, user, "checkout assistant of the web shop", ["endpoints"]),
        endpoints=names,
        routes=["/v1/responses", "/v1/chat/completions"],
        limits=LIMITS,
    )
    row: dict[str, Any] = {"team": team, "key": made, "endpoint": names[0], "route": "/v1/x", "status": 200}
    Usage.objects.bulk_create(
        Usage(request_id=f"r{at}", at=timezone.now(), e2e_ms=1, cost=0.01, prompt_tokens=9000, **row)
        for at in range(120)
    )
    return made


def shot(page: Page, name: str) -> None:
    """A picture of the whole page, where somebody asked for them."""
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def test_a_key_is_made_with_limits_and_an_error_stands_beside_its_field(
    open_page: Opener, key: ApiKey, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:keys"))
    page.get_by_label("What it is for").fill("nightly")
    page.get_by_text("Limits", exact=True).click()
    page.get_by_role("textbox", name="Tokens a day").fill("many")
    page.get_by_role("button", name="Make key").click()
    field = page.get_by_role("textbox", name="Tokens a day")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_value("many")
    expect(page.get_by_text("Tokens a day: a whole number from 1.")).to_be_visible()
    expect(page.get_by_label("What it is for")).to_have_value("nightly")
    shot(page, "error")
    assert violations(page) == []
    field.fill("10,000")
    page.get_by_text("Only some endpoints or routes").click()
    page.get_by_label("/v1/responses").check()
    page.get_by_role("button", name="Make key").click()
    expect(page.locator("#secret")).to_contain_text("sk-slip-")
    made = ApiKey.objects.get(name="nightly")
    assert (made.limits, made.routes) == ({"tokens_day": 10_000}, ["/v1/responses"])


def test_a_key_is_changed_and_replaced(open_page: Opener, key: ApiKey, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:keys"))
    page.get_by_role("link", name="checkout assistant").click()
    page.get_by_role("textbox", name="Requests a minute").fill("900")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("is changed")).to_be_visible()
    expect(page.locator("main")).to_contain_text("/900")
    page.get_by_label("The old one ends").select_option("in 7 days")
    page.get_by_role("button", name="Make the new secret").click()
    expect(page.locator("#secret")).to_contain_text("sk-slip-")
    expect(page.get_by_text("works until")).to_be_visible()
    shot(page, "rotated")
    assert violations(page) == []
    fresh = ApiKey.objects.get(replaces=key)
    expect(page.locator("main")).to_contain_text(f"replaced by {fresh.prefix}")
    page.get_by_role("button", name=f"Revoke {key.name}, {key.prefix}").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("refused everywhere within seconds")).to_be_visible()
    assert keys.living(ApiKey.objects.filter(name=key.name)).get() == fresh


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 360)]
)
def test_the_pages_of_keys_fit_and_axe_finds_nothing(
    open_page: Opener, key: ApiKey, user: User, scheme: str, width: int
) -> None:
    page = open_page(user, color_scheme=scheme, width=width)
    for name, address in (
        ("keys", reverse("endpoints:keys")),
        ("key", reverse("endpoints:key", args=[key.pk])),
    ):
        page.goto(address)
        assert violations(page) == [], address
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        shot(page, f"{name}-{scheme}-{width}")
