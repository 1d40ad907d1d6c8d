"""The production side in a real browser: list, one endpoint, Promote…, keys, roll back."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2 as httpx
import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from endpoints.models import ApiKey, Endpoint, Release
from playground.models import Membership, Team, User
from tests import endpoint_rows, rows
from tests.e2e.axe import violations
from tests.endpoint_rows import Endpoints
from tests.rows import Rows

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]


@dataclass(frozen=True)
class Filled:
    rows: Rows
    endpoints: Endpoints

    def addresses(self) -> list[str]:
        made = self.endpoints
        return [
            reverse("endpoints:list"),
            reverse("endpoints:keys"),
            *(
                reverse("endpoints:detail", args=[row.name])
                for row in (made.triage, made.starting, made.silent, made.offline)
            ),
            *(reverse("endpoints:promote", args=[row.pk]) for row in (self.rows.ready, self.rows.failed)),
        ]


@pytest.fixture
def filled(transactional_db: None, team: Team, user: User) -> Filled:
    full = rows.full(team, user)
    return Filled(full, endpoint_rows.full(full, team, user))


def detail(filled: Filled) -> str:
    return reverse("endpoints:detail", args=[filled.endpoints.triage.name])


def confirm(page: Page, verb: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=verb).click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(open_page: Opener, filled: Filled, user: User, scheme: str) -> None:
    page = open_page(user, color_scheme=scheme)
    for address in filled.addresses():
        page.goto(address)
        assert violations(page) == [], address


def test_axe_finds_nothing_for_a_viewer_of_an_empty_team(
    open_page: Opener, transactional_db: None, team: Team
) -> None:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    page = open_page(person)
    for name in ("endpoints:list", "endpoints:keys"):
        page.goto(reverse(name))
        assert violations(page) == [], name
        expect(page.get_by_text("role of operator")).to_be_visible()
        expect(page.locator("main").get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 400, 820])
def test_no_page_scrolls_sideways(open_page: Opener, filled: Filled, user: User, width: int) -> None:
    page = open_page(user, width=width)
    for address in filled.addresses():
        page.goto(address)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{address} is {wide} px too wide"


def test_no_page_logs_an_error_or_breaks_its_policy(open_page: Opener, filled: Filled, user: User) -> None:
    page, complaints = open_page(user), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    for address in filled.addresses():
        page.goto(address, wait_until="networkidle")
    assert [line for line in complaints if "WebSocket" not in line] == []


def test_an_empty_list_says_what_to_do_next(
    open_page: Opener, transactional_db: None, team: Team, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:list"))
    page.get_by_role("link", name="Choose what to promote").click()
    expect(page).to_have_url(re.compile(reverse("running") + "$"))


def test_the_list_says_how_each_endpoint_stands(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:list"))
    for row, state in (
        (filled.endpoints.triage, "live"),
        (filled.endpoints.starting, "starting"),
        (filled.endpoints.silent, "no replica ready"),
        (filled.endpoints.offline, "offline"),
    ):
        expect(page.locator(f"#endpoint-{row.pk} .state")).to_have_text(state)


def test_an_endpoint_shows_its_history_and_code_to_call_it(
    open_page: Opener, filled: Filled, user: User
) -> None:
    page = open_page(user)
    page.goto(detail(filled))
    expect(page.locator("main")).to_contain_text("1 of 1 replica ready")
    failed = page.locator("#release-4")
    expect(failed).to_contain_text("12 answers")
    expect(failed).to_contain_text(user.get_username())
    expect(failed).to_contain_text("Longer context for long threads.")
    expect(failed).to_contain_text(endpoint_rows.PROBLEM)
    expect(page.locator("#code-bash")).to_contain_text('"model": "support-triage"')
    for title, code in (("Python", "#code-python"), ("JavaScript", "#code-javascript")):
        expect(page.locator(code)).to_be_hidden()
        page.locator("summary", has_text=title).click()
        expect(page.locator(code)).to_contain_text("support-triage")
    expect(page.get_by_role("list").last).to_contain_text("Release 3 went live in place of 2")


def test_rolling_back_asks_first_and_then_moves_the_pointer(
    open_page: Opener, filled: Filled, user: User
) -> None:
    page = open_page(user)
    page.goto(detail(filled))
    page.get_by_role("button", name="Roll back to 2").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert _live(filled) == 3
    page.get_by_role("button", name="Roll back to 2").click()
    expect(page.get_by_role("dialog")).to_contain_text("at once")
    confirm(page, "Roll back")
    expect(page.get_by_text("Release 2 is live again")).to_be_visible()
    expect(page.locator("#release-2 .state")).to_have_text("live")
    expect(page.locator("#release-3 .state")).to_have_text("warm")
    assert _live(filled) == 2


def _live(filled: Filled) -> int:
    live = Endpoint.objects.get(pk=filled.endpoints.triage.pk).live
    assert live is not None
    return live.number


def test_a_release_that_starts_can_be_stopped(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:detail", args=[filled.endpoints.starting.name]))
    expect(page.locator("main .steps")).to_contain_text("loading weights")
    page.locator("main").get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Stopped by ada.").first).to_be_visible()
    assert filled.endpoints.starting.releases.get().state == Release.State.FAILED


def test_another_persons_roll_back_shows_without_a_reload(
    open_page: Opener, filled: Filled, user: User
) -> None:
    watching, acting = open_page(user), open_page(user)
    watching.goto(detail(filled))
    expect(watching.locator("html")).to_have_attribute("data-socket", "open")
    acting.goto(detail(filled))
    acting.get_by_role("button", name="Go back to 2").click()
    confirm(acting, "Roll back")
    expect(watching.locator("#release-2 .state")).to_have_text("live")


def test_promoting_marks_every_wrong_field_and_loses_nothing(
    open_page: Opener, filled: Filled, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:promote", args=[filled.rows.ready.pk]))
    page.get_by_label("Endpoint", exact=True).fill("Bad Name!")
    page.get_by_label("Why").fill("because")
    page.get_by_label("Temperature").fill("hot")
    page.get_by_label("Top p").fill("7")
    page.get_by_role("button", name="Promote").click()
    for label, said, error in (
        ("Endpoint", "Bad Name!", "lower-case"),
        ("Temperature", "hot", "is a number"),
        ("Top p", "7", "top_p"),
    ):
        field = page.get_by_label(label, exact=True)
        expect(field).to_have_value(said)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(error))
    expect(page.get_by_label("Why")).to_have_value("because")
    assert violations(page) == []


def test_promoting_to_a_name_that_is_starting_says_so(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:promote", args=[filled.rows.ready.pk]))
    page.get_by_label("Endpoint", exact=True).fill("summaries")
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("Release 1 of summaries is starting.")).to_be_visible()


def test_only_what_is_ready_can_be_promoted(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:promote", args=[filled.rows.failed.pk]))
    expect(page.get_by_role("heading", name="It is not ready")).to_be_visible()
    expect(page.get_by_role("button", name="Promote")).to_have_count(0)


def test_promoting_begins_a_release_and_shows_its_steps(
    open_page: Opener, filled: Filled, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:promote", args=[filled.rows.ready.pk]))
    page.get_by_label("Endpoint", exact=True).fill("brand-new")
    page.get_by_label("Why").fill("It answers well.")
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_role("heading", name="brand-new")).to_be_visible()
    expect(page.locator("#starting-title")).to_have_text("Release 1 starts")
    expect(page.locator("#release-1")).to_contain_text("It answers well.")


def test_a_key_is_shown_once_works_and_can_be_revoked(
    open_page: Opener, filled: Filled, user: User, server: str
) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:keys"))
    page.get_by_label("What it is for").fill("a test")
    page.get_by_role("button", name="Make key").click()
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch(r"sk-slip-[a-z0-9]{8}-[\w-]{43}", secret)
    assert violations(page) == []
    _until_allowed(server, secret)
    page.goto(reverse("endpoints:keys"))
    expect(page.get_by_text(secret)).to_have_count(0)
    page.get_by_role("button", name="Revoke a test").click()
    expect(page.get_by_role("dialog")).to_contain_text("cannot be undone")
    confirm(page, "Revoke")
    expect(page.get_by_text("a test is revoked")).to_be_visible()
    assert ApiKey.objects.get(name="a test").revoked_at is not None


def _until_allowed(server: str, secret: str) -> None:
    """Every web process knows a key within seconds."""
    end = time.monotonic() + 5
    header = {"authorization": f"Bearer {secret}"}
    while (status := httpx.get(f"{server}/v1/models", headers=header).status_code) != 200:
        assert status == 401 and time.monotonic() < end, status


def test_a_key_without_a_scope_is_refused_in_words(open_page: Opener, filled: Filled, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("endpoints:keys"))
    page.get_by_label("What it is for").fill("nothing at all")
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    page.get_by_role("button", name="Make key").click()
    expect(page.get_by_text("Choose at least one of")).to_be_visible()
    expect(page.get_by_label("What it is for")).to_have_value("nothing at all")
    assert not ApiKey.objects.filter(name="nothing at all").exists()


def test_checkbox_labels_stand_beside_their_boxes(open_page: Opener, filled: Filled, user: User) -> None:
    for width in (360, 1280):
        page = open_page(user, width=width)
        page.goto(reverse("endpoints:keys"))
        for choice in page.locator("label.choice:visible").all():
            box, words = choice.locator("input").bounding_box(), choice.locator("> span").bounding_box()
            assert box and words
            assert words["x"] >= box["x"] + box["width"]
            assert abs(words["y"] - box["y"]) < 8
