"""Signing in with a browser: password and code, passkey (Chromium's virtual authenticator), a real provider.

Passkeys are made for names, so the pages are opened at localhost.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect

from playground import teams
from playground.models import Membership, Team, User
from tests import oidc_provider, totp
from tests.e2e.axe import violations
from tests.e2e.conftest import web

pytestmark = pytest.mark.browser

PASSWORD = "a calm harbour at dusk"
Open = Callable[..., Page]


@pytest.fixture(autouse=True)
def fresh_counts(transactional_db: None) -> Iterator[None]:
    """Attempts of other tests do not count."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def person(user: User) -> User:
    user.set_password(PASSWORD)
    user.save()
    return user


@pytest.fixture
def door(server: str, browser: Browser) -> Iterator[Open]:
    """Open a page at localhost, signed out: `page = door("/join/…/", width=400)`."""
    made = []

    def opened(address: str = "/sign-in/", *, at: str = server, width: int = 1280, **wanted: str) -> Page:
        context = browser.new_context(
            base_url=at.replace("127.0.0.1", "localhost"),
            viewport={"width": width, "height": 860},
            reduced_motion="reduce",
            **wanted,  # type: ignore[arg-type]
        )
        made.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(address)
        return page

    yield opened
    for context in made:
        context.close()


def with_authenticator(page: Page) -> None:
    """A phone that makes passkeys at once, and whose owner always agrees."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    session.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def sign_in(page: Page) -> None:
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to Slipway")).to_be_visible()


def test_a_passkey_is_made_and_signs_in_by_itself(door: Open, person: User) -> None:
    page = door()
    with_authenticator(page)
    sign_in(page)
    page.get_by_role("link", name="ada").click()
    page.get_by_role("link", name="Add a passkey").click()
    page.get_by_label("What you call it").fill("Phone")
    page.get_by_role("button", name="Make the passkey").click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_role("row", name="Phone")).to_contain_text("by itself")
    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_role("link", name="ada").wait_for()
    sign_out(page)
    sign_in(page)
    expect(page.get_by_role("heading", name="One more step")).to_be_visible()
    page.get_by_role("button", name="Use a passkey").click()
    page.get_by_role("link", name="ada").wait_for()
    assert Authenticator.objects.get(user=person, type="webauthn").last_used_at is not None


def test_a_code_is_asked_for_once_an_app_is_set_up(door: Open, person: User) -> None:
    page = door()
    sign_in(page)
    page.get_by_role("link", name="ada").click()
    page.get_by_role("link", name="Set up").click()
    secret = page.locator("#totp-secret").inner_text()
    assert page.locator("img.qr").evaluate("image => image.naturalWidth") > 0
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Ask for codes").click()
    expect(page.get_by_text("This code does not hold")).to_be_visible()
    assert page.locator("#totp-secret").inner_text() == secret
    page.get_by_label("Code").fill(totp.code(secret))
    page.get_by_role("button", name="Ask for codes").click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    sign_out(page)
    cache.clear()  # A code holds once: the one just given may still be shown.
    sign_in(page)
    page.get_by_label("Code of your app").fill(totp.code(secret))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="ada").wait_for()


def test_a_session_ended_elsewhere_is_signed_out_at_once(door: Open, person: User) -> None:
    here, there = door(), door()
    for page in (here, there):
        sign_in(page)
        page.locator("html[data-socket=open]").wait_for()
    here.goto(reverse("sessions"))
    here.get_by_role("button", name="End the session").click()
    here.get_by_role("button", name="End it").click()
    # The page says so, or a fragment that it asks for meanwhile leads it to the door.
    out = there.get_by_text("You are signed out.").filter(visible=True)
    door_again = there.get_by_role("heading", name="Sign in to Slipway")
    expect(out.or_(door_again)).to_be_visible(timeout=5_000)
    expect(here.get_by_text("this one")).to_be_visible()
    expect(here.get_by_role("button", name="End the session")).to_have_count(0)


def test_somebody_invited_makes_an_account_with_a_passkey(door: Open, user: User, team: Team) -> None:
    _, token = teams.invite(team, "member", user)
    page = door(reverse("invitation", args=[token]))
    with_authenticator(page)
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="With a passkey instead").click()
    expect(page.get_by_text("Somebody has this name already")).to_be_visible()
    page.get_by_label("Your name").fill("grace")
    page.get_by_role("button", name="With a passkey instead").click()
    page.get_by_role("link", name="grace").wait_for()
    grace = User.objects.get(username="grace")
    assert not grace.has_usable_password()
    assert Membership.objects.get(user=grace, team=team).role == "member"
    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_role("link", name="grace").wait_for()


# By a provider


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


@pytest.fixture
def at_provider(home: Path, port: int, tmp_path: Path, django_db_setup: None) -> Iterator[str]:
    """A site whose people may come by a provider, which runs in a process of its own."""
    entry = {
        "id": "harbour",
        "name": "Harbour",
        "server_url": f"http://127.0.0.1:{port}",
        "client_id": oidc_provider.CLIENT,
        "secret": oidc_provider.SECRET,
    }
    with web(home, SLIPWAY_OIDC=json.dumps([entry])) as address:
        site = address.replace("127.0.0.1", "localhost")
        callback = f"{site}/sign-in/by/harbour/back/"
        line = [sys.executable, oidc_provider.__file__, str(port), str(tmp_path), callback]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield site
        finally:
            process.terminate()
            process.wait(timeout=20)


def by_provider(page: Page, verb: str) -> None:
    page.get_by_role("button", name=f"{verb} Harbour").click()
    page.get_by_label("Username").fill(oidc_provider.NAME)
    page.get_by_label("Password").fill(oidc_provider.PASSWORD)
    page.get_by_role("button", name="Sign In").click()
    page.get_by_role("button", name="Authorize").click()


def test_a_provider_vouches_for_who_was_invited(door: Open, at_provider: str, user: User, team: Team) -> None:
    stranger = door(at=at_provider)
    by_provider(stranger, "Sign in with")
    expect(stranger.get_by_role("heading", name="You have no account here")).to_be_visible()
    assert User.objects.count() == 1
    _, token = teams.invite(team, "member", user)
    page = door(reverse("invitation", args=[token]), at=at_provider)
    by_provider(page, "Join with")
    page.get_by_role("link", name="hopper").wait_for()
    hopper = User.objects.get(username="hopper")
    assert Membership.objects.get(user=hopper, team=team).role == "member"
    sign_out(page)
    page.get_by_role("button", name="Sign in with Harbour").click()
    page.get_by_role("button", name="Authorize").click()
    page.get_by_role("link", name="hopper").wait_for()
    assert User.objects.count() == 2


# How it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_too_wide(door: Open, person: User, team: Team, scheme: str) -> None:
    _, token = teams.invite(team, "member", person)
    page = door(color_scheme=scheme, width=360)
    names = ["account", "account-password", "sessions", "mfa_activate_totp", "mfa_add_webauthn"]
    outside = [reverse("invitation", args=[token]), "/join/spent/", "/sign-in/"]
    for address in [*outside, *(reverse(name) for name in names)]:
        page.goto(address)
        if address == "/sign-in/":
            assert violations(page) == [], address
            sign_in(page)
            page.locator(".frame").wait_for()
            continue
        assert violations(page) == [], address
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{address} is {wide} px too wide"
