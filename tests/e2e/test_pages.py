"""The pages in a real browser: nothing axe objects to, no sideways scroll, all by keyboard, light to load."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from django.urls import reverse
from playwright.sync_api import Page, Response, expect

from playground.models import Deployment, Membership, Team, User
from tests import rows
from tests.e2e.axe import violations
from tests.e2e.conftest import VIOLATIONS, hear
from tests.rows import Rows

pytestmark = pytest.mark.browser


@pytest.fixture
def full(transactional_db: None, team: Team, user: User, stranger: User) -> Rows:
    return rows.full(team, user, stranger.memberships.get().team)


def addresses(full: Rows) -> list[str]:
    return [
        *(reverse(name) for name in ("home", "models", "running", "nodes")),
        reverse("model", args=[full.model.pk]),
        reverse("model", args=[full.refused.pk]),
        *(reverse("deployment", args=[row.pk]) for row in (full.ready, full.starting, full.failed)),
        "/nothing/here/",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    open_page: Callable[..., Page], full: Rows, user: User, scheme: str
) -> None:
    page = open_page(user, color_scheme=scheme)
    for address in addresses(full):
        page.goto(address)
        assert violations(page) == [], address
    page.goto(reverse("running"))
    page.keyboard.press("Control+k")
    page.locator("#found [role=option]").first.wait_for()
    assert violations(page) == []


def test_axe_finds_nothing_at_the_door(open_page: Callable[..., Page], transactional_db: None) -> None:
    page = open_page(None)
    for address in ("/sign-in/", "/sign-in/spent"):
        page.goto(address)
        assert violations(page) == [], address


def test_axe_finds_nothing_for_a_viewer_of_an_empty_team(
    open_page: Callable[..., Page], transactional_db: None, team: Team
) -> None:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    page = open_page(person)
    for name in ("home", "models", "running", "nodes"):
        page.goto(reverse(name))
        assert violations(page) == [], name


@pytest.mark.parametrize("width", [360, 400, 820])
def test_no_page_scrolls_sideways(open_page: Callable[..., Page], full: Rows, user: User, width: int) -> None:
    page = open_page(user, width=width)
    for address in addresses(full):
        page.goto(address)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{address} is {wide} px too wide"


def test_no_page_logs_an_error_or_breaks_its_policy(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page, complaints = open_page(user), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    for address in addresses(full)[:-1]:
        page.goto(address, wait_until="networkidle")
    assert [line for line in complaints if "WebSocket" not in line] == []


def test_the_first_page_is_light(open_page: Callable[..., Page], full: Rows, user: User) -> None:
    page, answers = open_page(user), []
    page.goto("about:blank")
    page.on("response", lambda answer: answers.append(answer))
    page.goto("/", wait_until="networkidle")
    size = sum(_bytes(answer) for answer in answers)
    assert len(answers) <= 40, [answer.url for answer in answers]
    assert size <= 600_000
    assert {urlsplit(answer.url).netloc for answer in answers} == {urlsplit(page.url).netloc}


def _bytes(answer: Response) -> int:
    sizes = answer.request.sizes()
    return sizes["responseBodySize"] + sizes["responseHeadersSize"]


def test_every_action_is_reached_by_tab(open_page: Callable[..., Page], full: Rows, user: User) -> None:
    page = open_page(user)
    for address in (reverse("deployment", args=[full.ready.pk]), reverse("nodes"), reverse("running")):
        page.goto(address)
        wanted = page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
                .filter((one) => one.checkVisibility() && !one.disabled && one.type !== "hidden").length"""
        )
        seen = set()
        for _ in range(wanted + 20):
            page.keyboard.press("Tab")
            seen.add(page.evaluate(_MARK))
        missed = page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
                .filter((one) => one.checkVisibility() && !one.disabled && one.type !== "hidden")
                .filter((one) => !one.dataset.seen).map((one) => one.outerHTML.slice(0, 120))"""
        )
        assert missed == [], address


_MARK = """() => {
  const now = document.activeElement;
  if (now !== document.body) now.dataset.seen = "yes";
  return now.outerHTML.slice(0, 80);
}"""


def test_the_skip_link_is_first_and_leads_to_the_page(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("running"))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_the_finder_works_by_keyboard_alone(open_page: Callable[..., Page], full: Rows, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("running"))
    page.keyboard.press("Control+k")
    page.keyboard.type("smol-tr")
    option = page.locator("#found [role=option]", has_text="smol-transformers")
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page).to_have_url(
        f"{page.url.split('/running')[0]}{reverse('deployment', args=[full.starting.pk])}"
    )
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.locator("#finder")).to_be_hidden()


def test_deleting_asks_first_and_stopping_does_what_it_says(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("deployment", args=[full.ready.pk]))
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert Deployment.objects.get(pk=full.ready.pk).desired == Deployment.Desired.RUNNING
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("was deleted")).to_be_visible()
    assert Deployment.objects.get(pk=full.ready.pk).desired == Deployment.Desired.DELETED


def test_the_estimate_and_command_follow_the_form(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("model", args=[full.model.pk]))
    command = page.locator("#command")
    expect(command).not_to_contain_text("--ctx-size")
    page.get_by_label("Context", exact=False).first.fill("1024")
    expect(command).to_contain_text("--ctx-size 1024")
    expect(page.locator("#verdict")).to_contain_text("Fits: needs")
    page.get_by_label("Context", exact=False).first.fill("10000000")
    expect(page.locator("#verdict")).to_contain_text("Does not fit: needs")
    expect(page.locator("#verdict")).to_contain_text("It would fit with a context of 8,192")
    expect(page.get_by_role("img", name="KV cache 215 GiB")).to_be_visible()
    page.locator("#effects summary").click()
    expect(page.locator("#effects")).to_contain_text("q8_0")
    page.get_by_label("Context", exact=False).first.fill("1")
    expect(page.locator("#preview .note")).to_contain_text("context")


def test_a_wrong_option_is_marked_and_nothing_typed_is_lost(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("model", args=[full.model.pk]))
    page.locator("#start").get_by_label("Name").fill("my name")
    field = page.locator("#id-option-context")
    field.fill("1")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#id-option-context-error")).to_be_visible()
    expect(field).to_have_value("1")
    expect(page.locator("#start").get_by_label("Name")).to_have_value("my name")


def test_the_chosen_rows_are_stopped_after_asking(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user)
    page.goto(reverse("running"))
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_disabled()
    page.get_by_label(f"Choose {full.ready.name}", exact=True).check()
    stop.click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("1 deployment stops")).to_be_visible()
    assert Deployment.objects.get(pk=full.ready.pk).desired == Deployment.Desired.STOPPED


def test_a_cut_connection_is_said_and_heals(open_page: Callable[..., Page], full: Rows, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("running"))
    expect(page.locator("html")).to_have_attribute("data-socket", "open")
    page.context.set_offline(True)
    expect(page.locator("#offline")).to_be_visible()
    page.context.set_offline(False)
    expect(page.locator("#offline")).to_be_hidden()


def test_the_menu_opens_as_a_drawer_on_a_phone(
    open_page: Callable[..., Page], full: Rows, user: User
) -> None:
    page = open_page(user, width=360)
    page.goto(reverse("running"))
    expect(page.get_by_role("link", name="Nodes", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    assert violations(page) == []
    page.get_by_role("link", name="Nodes", exact=True).click()
    expect(page.get_by_role("heading", name="Nodes", level=1)).to_be_visible()


def test_a_page_that_breaks_its_policy_is_reported(
    open_page: Callable[..., Page], transactional_db: None
) -> None:
    page = open_page(None)
    page.goto("/sign-in/")
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: '1'}))")
    hear(page)
    assert [line.split()[0] for line in VIOLATIONS] == ["style-src-attr", "script-src-elem"]
    VIOLATIONS.clear()
