"""Teams in a real browser: joining by link, switching by keyboard, asking an operator, being removed."""

from collections.abc import Callable

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from playground import deployments, start_wishes, teams
from playground.models import Deployment, Membership, Model, StartWish, Team, User
from tests import chats, fleet, rows
from tests.e2e.axe import violations
from tests.rows import Rows

pytestmark = pytest.mark.browser
Opened = Callable[..., Page]
Role = Membership.Role
# How often the page's socket closed from now on: it comes again by itself.
CLOSINGS = """window.closings = 0; document.documentElement.addEventListener(
    "socket", ({ detail }) => detail !== "open" && (window.closings += 1))"""


@pytest.fixture
def full(transactional_db: None, team: Team, user: User, stranger: User) -> Rows:
    """A team with people, limits, invitations and wishes; a site administrator who is in three teams."""
    made = rows.full(team, user, stranger.memberships.get().team)
    User.objects.filter(pk=user.pk).update(is_staff=True)
    for person in (user, stranger):
        teams.make_personal(person)
    teams.make("Research and evaluation of long context models", user)
    team.quotas, team.person_quotas = {"replicas": 4, "batch_rows_day": 100_000}, {"replicas": 2}
    team.save()
    teams.invite(team, Role.VIEWER, user, note="for Grace", days=1)
    vera = add(team, "vera", Role.VIEWER)
    start_wishes.ask_for_deployment(vera, made.stopped, "to compare it with ours before the demonstration")
    start_wishes.ask_for_model(vera, made.model, {})
    start_wishes.decline(StartWish.objects.get(model=made.model), user, "The GPU is taken until tomorrow.")
    return made


def add(team: Team, name: str, role: str) -> User:
    person = User.objects.create_user(name, team=team)
    Membership.objects.create(user=person, team=team, role=role)
    return person


def addresses(full: Rows, team: Team) -> list[str]:
    member = team.memberships.get(user__username="vera")
    return [
        reverse("team"),
        reverse("member", args=[member.pk]),
        reverse("teams"),
        reverse("team-limits", args=[team.pk]),
        reverse("wishes"),
        reverse("deployment", args=[full.stopped.pk]),
    ]


# Tables whose rows lie over what comes below them.
SPILLING = """
[...document.querySelectorAll("table")].filter((one) => one.scrollHeight > one.clientHeight + 1).length"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    open_page: Opened, full: Rows, team: Team, user: User, scheme: str, width: int
) -> None:
    vera = User.objects.get(username="vera")
    for person, shown in (
        (user, addresses(full, team)),
        (vera, [reverse("team"), reverse("wishes"), reverse("model", args=[full.model.pk])]),
    ):
        page = open_page(person, color_scheme=scheme, width=width)
        for address in shown:
            page.goto(address)
            assert violations(page) == [], address
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
            assert page.evaluate(SPILLING) == 0, address


def test_a_team_is_switched_by_keyboard(open_page: Opened, full: Rows, team: Team, user: User) -> None:
    page = open_page(user)
    page.goto(reverse("deployment", args=[full.stopped.pk]))
    menu = page.locator(".switcher summary")
    expect(menu).to_contain_text(team.name)
    menu.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=team.name, exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**" + reverse("running"))
    expect(page.locator(".switcher summary")).to_contain_text("Research")
    page.goto(reverse("deployment", args=[full.stopped.pk]))
    expect(page.get_by_text(f"This belongs to {team.name}")).to_be_visible()
    page.get_by_role("button", name=f"Work in {team.name}").click()
    page.wait_for_url("**" + reverse("deployment", args=[full.stopped.pk]))
    expect(page.locator(".switcher summary")).to_contain_text(team.name)


def test_an_invitation_is_copied_and_brings_somebody_in(
    open_page: Opened, transactional_db: None, team: Team, user: User, stranger: User
) -> None:
    page = open_page(user, permissions=["clipboard-read", "clipboard-write"])
    page.goto(reverse("team"))
    page.get_by_label("Role", exact=True).select_option("viewer")
    page.get_by_label("For whom").fill("Mallory")
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("#link").inner_text()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == link
    theirs = open_page(stranger)
    theirs.goto(link)
    theirs.get_by_role("button", name="Join").click()
    expect(theirs.locator(".switcher summary")).to_contain_text(team.name)
    page.goto(reverse("team"))
    expect(page.get_by_label("Role of mallory", exact=True)).to_be_visible()
    expect(page.locator("#link")).to_have_count(0)


def test_a_viewer_asks_and_an_operator_starts_it_both_live(
    open_page: Opened, transactional_db: None, team: Team, user: User
) -> None:
    model: Model = fleet.tiny_model(team)
    row: Deployment = deployments.request(team=team, user=user, model=model, engine="fake", options={})
    deployments.stop(row, user)
    vera = add(team, "vera", Role.VIEWER)
    operator, viewer = open_page(user), open_page(vera)
    operator.goto(reverse("wishes"))
    expect(operator.locator("html")).to_have_attribute("data-socket", "open")
    viewer.goto(reverse("deployment", args=[row.pk]))
    viewer.get_by_label("What it is for").fill("the demo")
    viewer.get_by_role("button", name="Ask an operator").click()
    expect(viewer.locator("#my-wishes-title")).to_be_visible()
    expect(viewer.locator("html")).to_have_attribute("data-socket", "open")
    expect(operator.get_by_text("asks to start")).to_be_visible()
    expect(operator.locator(".bar .needs")).to_contain_text("1 need")
    # What is being typed stays while the list is drawn anew.
    answer = operator.get_by_label(f"Why {row.name} is not started")
    answer.fill("Perhaps")
    start_wishes.ask_for_model(vera, model, {})
    expect(operator.get_by_text("asks to start")).to_have_count(2)
    expect(answer).to_have_value("Perhaps")
    operator.get_by_role("button", name=f"Start {row.name}", exact=True).click()
    operator.wait_for_url("**" + reverse("deployment", args=[row.pk]))
    expect(viewer.locator(".state[data-state=done]")).to_be_visible()


def test_the_open_page_of_who_is_removed_hears_nothing_any_more(
    open_page: Opened, transactional_db: None, team: Team, user: User
) -> None:
    bob = add(team, "bob", Role.MEMBER)
    page, theirs = open_page(user), open_page(bob)
    theirs.goto(reverse("running"))
    expect(theirs.locator("html")).to_have_attribute("data-socket", "open")
    theirs.evaluate(CLOSINGS)
    page.goto(reverse("team"))
    page.get_by_role("button", name="Remove bob").click()
    page.locator("#confirm").get_by_role("button", name="Remove").click()
    chats.until("they are out", lambda: not Membership.objects.filter(user=bob).exists(), 15)
    chats.until("the socket closes", lambda: theirs.evaluate("window.closings"), 5)
    expect(page.get_by_text("bob is not in Default any more.")).to_be_visible()
    theirs.goto(reverse("running"))
    expect(theirs.get_by_text("Nothing is here")).to_be_visible()
