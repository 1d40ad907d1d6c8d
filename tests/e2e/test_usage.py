"""Usage and an endpoint's requests in a browser: figures, chart, what is kept, and what becomes of it."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from endpoints import usage_store
from endpoints.models import Endpoint, Usage
from playground.models import Conversation, Dataset, Team, User
from tests import endpoint_rows, rows, usage_rows
from tests.e2e.axe import violations
from tests.endpoint_rows import Endpoints
from tests.rows import Rows

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]
LONG = "A request whose text is long " * 20


@dataclass(frozen=True)
class Filled:
    rows: Rows
    endpoints: Endpoints
    kept: int
    """The pk of a request that is kept."""

    def addresses(self) -> list[str]:
        name = self.endpoints.triage.name
        usage = reverse("usage")
        return [
            *(f"{usage}?by={by}" for by in ("model", "key", "person")),
            f"{usage}?by=day&show=cost&source=api",
            f"{usage}?period=custom&from=&to=2026-01-01",
            reverse("endpoints:requests", args=[name]),
            reverse("endpoints:request", args=[name, self.kept]),
        ]


@pytest.fixture
def filled(transactional_db: None, team: Team, user: User) -> Filled:
    full = rows.full(team, user)
    made = endpoint_rows.full(full, team, user)
    Endpoint.objects.filter(pk=made.triage.pk).update(log_share=0.5)
    other = usage_rows.key(team, User.objects.create_user(username="grace"), "nightly evaluation")
    usage_rows.requests(team, full.ready, made.key, 900)
    usage_rows.requests(team, full.ready, other, 400)
    for _ in range(3):
        usage_rows.answer(full.ready, user)
    usage_rows.batch(full.ready, user, 40)
    usage_rows.measured(full.ready, user, 60)
    asked = {"messages": [{"role": "user", "content": f"Sort this ticket. {LONG}"}], "temperature": 0.2}
    answer = {"choices": [{"message": {"role": "assistant", "content": "billing"}, "finish_reason": "stop"}]}
    new = [
        usage_rows.request(team, n, key=made.key.pk, deployment=full.ready.pk, request=asked, answer=answer)
        for n in range(2)
    ]
    usage_store.keep(new)
    return Filled(full, made, Usage.objects.get(request_id="row-1").pk)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(open_page: Opener, filled: Filled, user: User, scheme: str) -> None:
    page = open_page(user, color_scheme=scheme)
    for address in filled.addresses():
        page.goto(address)
        assert violations(page) == [], address


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_no_page_scrolls_sideways(open_page: Opener, filled: Filled, user: User, width: int) -> None:
    page = open_page(user, width=width)
    for address in filled.addresses():
        page.goto(address)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{address} is {wide} px too wide"


def test_usage_is_found_grouped_and_taken_away_as_csv(
    open_page: Opener, filled: Filled, user: User, tmp_path: Path
) -> None:
    page = open_page(user)
    page.goto("/")
    page.get_by_role("link", name="Usage", exact=True).click()
    page.get_by_label("Grouped by").select_option("Key")
    page.get_by_label("From where").select_option("API")
    page.get_by_role("button", name="Show", exact=True).click()
    table = page.get_by_role("region", name="By key")
    line = table.get_by_role("row", name=re.compile("nightly evaluation"))
    expect(line).to_contain_text("400")
    page.get_by_text("The same numbers as a table").click()
    cells = page.get_by_role("region", name="Requests by day").locator("tbody td:last-child")
    assert sum(int(text) for text in cells.all_inner_texts() if text.isdigit()) == 1302
    with page.expect_download() as found:
        page.get_by_role("link", name="Table as CSV").click()
    found.value.save_as(tmp_path / "usage.csv")
    taken = list(csv.DictReader((tmp_path / "usage.csv").open()))
    assert {row["requests"] for row in taken} == {"400", "902"}


def test_a_wrong_day_is_told_at_its_field_and_nothing_is_lost(
    open_page: Opener, filled: Filled, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("usage"))
    expect(page.get_by_label("From", exact=True)).to_be_hidden()
    page.get_by_label("Time").select_option("Custom")
    page.get_by_label("From", exact=True).fill("2026-03-02")
    page.get_by_label("To", exact=True).fill("2026-03-01")
    page.get_by_label("Grouped by").select_option("Person")
    page.get_by_role("button", name="Show", exact=True).click()
    field = page.get_by_label("To", exact=True)
    expect(field).to_have_accessible_description("The last day is before the first.")
    expect(page.get_by_label("From", exact=True)).to_have_value("2026-03-02")
    expect(page.get_by_label("Grouped by")).to_have_value("person")


def test_a_kept_request_opens_in_the_playground(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:detail", args=[filled.endpoints.triage.name]))
    page.get_by_role("link", name="Requests").click()
    page.locator(f"#request-{filled.kept} a").click()
    expect(page.get_by_label("The answer's text")).to_have_text("billing")
    page.get_by_role("button", name="Open in playground").click()
    page.wait_for_url(re.compile(r"/playground/\d+/"))
    expect(page.get_by_text("Sort this ticket.")).to_be_visible()
    expect(page.get_by_role("paragraph").filter(has_text="billing")).to_be_visible()
    assert Conversation.objects.get(title__startswith="support-triage").parameters == {"temperature": 0.2}


def test_ticked_requests_become_rows_of_a_dataset(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:requests", args=[filled.endpoints.triage.name]))
    page.get_by_role("button", name="Add to dataset").click()
    expect(page.get_by_role("alert")).to_contain_text("Choose at least one")
    for box in page.get_by_role("checkbox", name=re.compile("Choose request")).all():
        box.check()
    page.get_by_label("Name of a new one").fill("tickets")
    page.get_by_role("button", name="Add to dataset").click()
    expect(page.get_by_role("heading", name="tickets")).to_be_visible()
    assert [row.row_count for row in Dataset.objects.get(name="tickets").versions.all()] == [2]


def test_keeping_what_is_said_is_turned_on_and_off(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:requests", args=[filled.endpoints.triage.name]))
    page.get_by_label("Share of requests, %").fill("150")
    page.get_by_role("button", name="Keep that").click()
    field = page.get_by_label("Share of requests, %")
    expect(field).to_have_value("150")
    expect(field).to_have_accessible_description(re.compile("from 0 to 100"))
    field.fill("0")
    page.get_by_role("button", name="Keep that").click()
    expect(page.get_by_text("Nothing more that is asked")).to_be_visible()
    assert Endpoint.objects.get(pk=filled.endpoints.triage.pk).log_share == 0
