"""Signing in, one's own account and invitations, through HTTP. A browser's part: e2e/test_signin.py."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialLogin
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from playground import accounts, instance, seen, signing_in, teams
from playground.instance import Running
from playground.models import AuditEntry, Membership, Team, User
from tests import passkeys, totp

PASSWORD = "a calm harbour at dusk"
OTHER = "ninety small lanterns"


@pytest.fixture(autouse=True)
def fresh_counts(db: None) -> Iterator[None]:
    """Attempts of other tests do not count."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def person(user: User) -> User:
    user.set_password(PASSWORD)
    user.save()
    return user


def sign_in(client: Client, name: str = "ada", password: str = PASSWORD, **given: str) -> Any:
    return client.post(reverse("sign-in"), {"login": name, "password": password} | given)


def who(client: Client) -> int | None:
    pk = client.session.get("_auth_user_id")
    return int(pk) if pk else None


def text(answer: HttpResponse) -> str:
    return answer.content.decode()


def with_app(client: Client) -> str:
    """Set up an authenticator app; its secret."""
    page = text(client.get(reverse("mfa_activate_totp")))
    found = re.search(r'id="totp-secret"[^>]*>([A-Z2-7]+)<', page)
    assert found
    answer = client.post(reverse("mfa_activate_totp"), {"code": totp.code(found[1])})
    assert answer.headers["Location"] == reverse("mfa_view_recovery_codes")
    return found[1]


# A password


def test_it_signs_in_with_a_password_and_leads_where_the_person_was_going(
    client: Client, person: User
) -> None:
    page = client.get(reverse("models"), follow=True)
    assert 'name="next" value="/models/"' in text(page)
    answer = sign_in(client, next="/models/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/models/")
    assert who(client) == person.pk
    entry = AuditEntry.objects.get(action="sign in")
    assert (entry.user, entry.detail["how"]) == (person, "password")
    assert UserSession.objects.get(user=person).ip == "127.0.0.1"


def test_it_leads_to_no_other_site(client: Client, person: User) -> None:
    assert sign_in(client, next="https://evil.example/").headers["Location"] == "/"


@pytest.mark.parametrize(
    ("name", "known"), [("ada", True), ("nobody", False), ("a calm harbour at dusk", False), ("", None)]
)
def test_it_refuses_and_remembers_it_without_what_may_be_a_password(
    client: Client, person: User, name: str, known: bool | None
) -> None:
    answer = sign_in(client, name, "wrong one entirely")
    assert answer.status_code == 200 and who(client) is None
    assert "do not belong together" in text(answer) or name == ""
    entries = AuditEntry.objects.filter(action="refused sign in")
    if known is None:
        assert not entries
        return
    entry = entries.get()
    assert entry.object == (f"user:{person.pk}" if known else "user:unknown")
    told = json.dumps([entry.name, entry.who, entry.detail])
    assert "wrong one" not in told and PASSWORD not in told


def test_it_refuses_a_closed_account(client: Client, person: User) -> None:
    User.objects.filter(pk=person.pk).update(is_active=False)
    sign_in(client)
    assert who(client) is None


def test_it_keeps_the_name_typed_when_the_password_is_wrong(client: Client, person: User) -> None:
    assert 'value="ada"' in text(sign_in(client, password="wrong one entirely"))


def test_it_stops_trying_after_five_wrong_passwords(client: Client, person: User) -> None:
    for _ in range(5):
        sign_in(client, password="wrong one entirely")
    assert "Too many" in text(sign_in(client)) and who(client) is None
    assert AuditEntry.objects.filter(action="refused sign in").count() == 5


def test_nobody_registers(client: Client, db: None) -> None:
    for address in ("/accounts/signup/", "/sign-in/new/", "/account/signup/"):
        assert client.post(address, {"username": "eve", "password1": PASSWORD}).status_code == 404
    assert not User.objects.filter(username="eve").exists()


# The account


def test_a_first_password_needs_none_before_it_and_another_does(client: Client, user: User) -> None:
    client.get(reverse("sign-in-link", args=[teams.make_login_link(user)]))
    address = reverse("account-password")
    assert "Present password" not in text(client.get(address))
    assert client.post(address, {"new": PASSWORD}).headers["Location"] == reverse("account")
    client.post(reverse("sign-out"))
    sign_in(client)
    refused = client.post(address, {"old": "wrong one entirely", "new": OTHER})
    assert refused.status_code == 400 and "not your password" in text(refused)
    assert client.post(address, {"old": PASSWORD, "new": OTHER}).status_code == 302
    user.refresh_from_db()
    assert user.check_password(OTHER) and who(client) == user.pk


@pytest.mark.parametrize("new", ["short", "1234567890", "password123", "ada"])
def test_it_refuses_a_password_that_is_easily_guessed(client: Client, user: User, new: str) -> None:
    client.get(reverse("sign-in-link", args=[teams.make_login_link(user)]))
    answer = client.post(reverse("account-password"), {"new": new})
    assert answer.status_code == 400 and 'id="new-error"' in text(answer)
    user.refresh_from_db()
    assert not user.has_usable_password()


def test_whoever_comes_by_a_link_sets_a_new_password_without_the_old(client: Client, person: User) -> None:
    client.get(reverse("sign-in-link", args=[teams.make_login_link(person)]))
    assert client.post(reverse("account-password"), {"new": OTHER}).status_code == 302
    person.refresh_from_db()
    assert person.check_password(OTHER)


def test_a_new_password_ends_the_other_sessions(person: User) -> None:
    here, there = Client(), Client()
    sign_in(here)
    sign_in(there)
    here.post(reverse("account-password"), {"old": PASSWORD, "new": OTHER})
    assert here.get(reverse("account")).status_code == 200
    assert there.get(reverse("account")).status_code == 302


def test_the_profile_keeps_an_address_and_refuses_what_is_none(client: Client, person: User) -> None:
    client.force_login(person)
    answer = client.post(reverse("account"), {"email": "ada at home"})
    assert answer.status_code == 400 and 'value="ada at home"' in text(answer)
    assert client.post(reverse("account"), {"email": "ada@example.com"}).status_code == 302
    entry = AuditEntry.objects.get(action="change profile")
    assert (entry.before, entry.after) == ({"email": ""}, {"email": "ada@example.com"})


# The second factor


def test_an_app_is_asked_for_after_the_password(client: Client, person: User) -> None:
    sign_in(client)
    secret = with_app(client)
    kept = Authenticator.objects.get(user=person, type="totp").data["secret"]
    assert secret not in kept, "the app's secret lies open in the database"
    client.post(reverse("sign-out"))
    assert sign_in(client).headers["Location"] == reverse("mfa_authenticate")
    assert who(client) is None and client.get(reverse("models")).status_code == 302
    wrong = client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert "does not hold" in text(wrong) and who(client) is None
    assert AuditEntry.objects.get(action="refused sign in").detail["how"] == "authenticator app"
    cache.clear()
    Authenticator.objects.filter(user=person, type="totp").update(last_used_at=None)
    answer = client.post(reverse("mfa_authenticate"), {"code": totp.code(secret)})
    assert answer.status_code == 302 and who(client) == person.pk
    how = AuditEntry.objects.filter(action="sign in").latest("pk").detail["how"]
    assert how == "password, authenticator app"


def test_a_recovery_code_lets_in_once(client: Client, person: User) -> None:
    sign_in(client)
    with_app(client)
    one = text(client.get(reverse("mfa_download_recovery_codes"))).split()[0]
    for lets_in in (True, False):
        client.post(reverse("sign-out"))
        sign_in(client)
        client.post(reverse("mfa_authenticate"), {"code": one})
        assert (who(client) == person.pk) is lets_in


def test_it_asks_again_before_what_protects_the_account_is_changed(client: Client, person: User) -> None:
    client.force_login(person)
    asked = client.get(reverse("mfa_activate_totp"))
    assert asked.headers["Location"].startswith(reverse("account_reauthenticate"))
    client.post(asked.headers["Location"], {"password": "wrong one entirely"})
    assert client.get(reverse("mfa_activate_totp")).status_code == 302
    answer = client.post(asked.headers["Location"], {"password": PASSWORD})
    assert answer.headers["Location"] == reverse("mfa_activate_totp")
    assert client.get(reverse("mfa_activate_totp")).status_code == 200


def test_every_change_of_what_protects_the_account_is_kept(
    client: Client, person: User, django_capture_on_commit_callbacks: Any
) -> None:
    sign_in(client)
    with django_capture_on_commit_callbacks(execute=True):
        with_app(client)
        client.post(reverse("mfa_generate_recovery_codes"))
    data = {"name": "Phone", "credential": passkeys.credential()}
    key = Authenticator.objects.create(user=person, type="webauthn", data=data)
    client.post(reverse("mfa_edit_webauthn", args=[key.pk]), {"name": "Desk"})
    assert Authenticator.objects.get(pk=key.pk).data["name"] == "Desk"
    client.post(reverse("mfa_remove_webauthn", args=[key.pk]))
    client.post(reverse("mfa_deactivate_totp"))
    client.post(reverse("account-password"), {"old": PASSWORD, "new": OTHER})
    acts = AuditEntry.objects.filter(user=person).exclude(action="sign in").order_by("pk")
    assert [row.action for row in acts] == [
        "add authenticator app",
        "add recovery codes",
        "renew recovery codes",
        "rename passkey",
        "remove passkey",
        "remove authenticator app",
        "remove recovery codes",
        "change password",
        "end session",
    ]


def test_another_persons_passkey_is_not_there(client: Client, person: User, stranger: User) -> None:
    sign_in(client)
    data = {"name": "x", "credential": passkeys.credential()}
    key = Authenticator.objects.create(user=stranger, type="webauthn", data=data)
    assert client.post(reverse("mfa_remove_webauthn", args=[key.pk])).status_code == 404
    assert client.get(reverse("mfa_edit_webauthn", args=[key.pk])).status_code == 404
    assert Authenticator.objects.filter(pk=key.pk).exists()


def test_the_last_way_in_is_not_taken_away(client: Client, user: User) -> None:
    client.get(reverse("sign-in-link", args=[teams.make_login_link(user)]))
    data = {"name": "Phone", "credential": passkeys.credential()}
    key = Authenticator.objects.create(user=user, type="webauthn", data=data)
    row = SocialAccount.objects.create(user=user, provider="gone", uid="1")
    client.post(reverse("mfa_remove_webauthn", args=[key.pk]))
    assert not Authenticator.objects.filter(pk=key.pk).exists()
    client.post(reverse("provider-remove", args=[row.pk]))
    assert SocialAccount.objects.filter(pk=row.pk).exists()
    client.post(reverse("account-password"), {"new": PASSWORD})
    client.post(reverse("provider-remove", args=[row.pk]))
    assert not SocialAccount.objects.filter(pk=row.pk).exists()
    assert AuditEntry.objects.get(action="disconnect provider").detail == {"provider": "gone"}


# Sessions


def test_one_ends_a_session_elsewhere(person: User) -> None:
    here, there = Client(), Client(HTTP_USER_AGENT="Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
    sign_in(here)
    sign_in(there)
    key = there.session.session_key
    page = text(here.get(reverse("sessions")))
    assert "Firefox 140 on Linux" in page and "this one" in page
    row = UserSession.objects.get(session_key=key)
    here.post(reverse("session-end"), {"session": str(row.pk)})
    assert not Session.objects.filter(session_key=key).exists()
    assert there.get(reverse("models")).status_code == 302
    assert here.get(reverse("models")).status_code == 200
    assert AuditEntry.objects.get(action="end session").detail["browser"].endswith("Firefox/140.0")


def test_a_session_says_when_it_was_last_seen_and_is_written_once_a_minute(
    person: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Client(), Client()
    sign_in(here)
    sign_in(there)
    row = UserSession.objects.get(session_key=there.session.session_key)
    hours_ago = timezone.now() - timedelta(hours=3)
    UserSession.objects.filter(pk=row.pk).update(last_seen_at=hours_ago, ip="10.9.8.7")
    assert f'datetime="{hours_ago.isoformat()}' in text(here.get(reverse("sessions")))

    assert there.get(reverse("models")).status_code == 200
    row.refresh_from_db()
    first = row.last_seen_at
    assert first > hours_ago + timedelta(hours=2) and row.ip == "127.0.0.1"
    with CaptureQueriesContext(connection) as asked:
        there.get(reverse("models"))
    assert not [one for one in asked.captured_queries if "usersession" in one["sql"]]

    # When the minute is over it is written again.
    monkeypatch.setattr(seen, "EVERY_S", 0.0)
    there.get(reverse("models"))
    row.refresh_from_db()
    assert row.last_seen_at > first


def test_one_ends_all_others(person: User) -> None:
    here, there = Client(), Client()
    sign_in(here)
    sign_in(there)
    here.post(reverse("session-end"), {"others": "yes"})
    assert there.get(reverse("models")).status_code == 302
    assert here.get(reverse("models")).status_code == 200


@pytest.mark.parametrize("named", ["", "0", "-1", "x", "9" * 30])
def test_a_session_that_is_none_is_404(client: Client, person: User, named: str) -> None:
    sign_in(client)
    assert client.post(reverse("session-end"), {"session": named}).status_code == 404


def test_anothers_session_is_404(client: Client, person: User, stranger: User) -> None:
    there = Client()
    there.get(reverse("sign-in-link", args=[teams.make_login_link(stranger)]))
    sign_in(client)
    row = UserSession.objects.get(user=stranger)
    assert client.post(reverse("session-end"), {"session": str(row.pk)}).status_code == 404
    assert there.get(reverse("models")).status_code == 200


# Invitations


@pytest.fixture
def invited(user: User, team: Team) -> str:
    """Where an invitation to become an operator leads."""
    _, token = teams.invite(team, "operator", user, note="Grace")
    return reverse("invitation", args=[token])


def test_somebody_new_makes_an_account_and_is_in(client: Client, team: Team, invited: str) -> None:
    page = text(client.get(invited))
    assert "Join Default" in page and "as operator" in page
    answer = client.post(invited, {"username": "grace", "password": PASSWORD})
    assert answer.headers["Location"] == "/"
    grace = User.objects.get(username="grace")
    assert who(client) == grace.pk and not grace.is_staff
    assert Membership.objects.get(user=grace, team=team).role == "operator"
    assert grace.personal_team.pk != team.pk
    assert client.get("/").status_code == 200
    assert Client().get(invited).status_code == 410
    assert client.get(invited).headers["Location"] == "/"


def test_whoever_has_an_account_joins_with_it(
    client: Client, team: Team, stranger: User, invited: str
) -> None:
    client.force_login(stranger)
    assert "Join as mallory" in text(client.get(invited))
    assert client.post(invited).headers["Location"] == "/"
    assert Membership.objects.get(user=stranger, team=team).role == "operator"
    assert User.objects.count() == 2


@pytest.mark.parametrize(
    ("username", "password", "field"),
    [
        ("", PASSWORD, "username"),
        ("a b", PASSWORD, "username"),
        ("ADA", PASSWORD, "username"),
        ("x" * 151, PASSWORD, "username"),
        ("nul\x00", PASSWORD, "username"),
        ("grace", "short", "password"),
        ("grace", "", "password"),
    ],
)
def test_an_account_that_cannot_be_is_refused_and_the_invitation_stays(
    client: Client, invited: str, username: str, password: str, field: str
) -> None:
    answer = client.post(invited, {"username": username, "password": password})
    assert answer.status_code == 400 and f'id="{field}-error"' in text(answer)
    assert User.objects.count() == 1 and who(client) is None
    assert client.get(invited).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_who_choose_one_name_at_once_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    together, wrong_name = Barrier(2), accounts._wrong_name

    def looked_at_together(username: str) -> dict[str, str]:
        found = wrong_name(username)
        with suppress(BrokenBarrierError):
            together.wait(1)
        return found

    def make(name: str) -> str:
        try:
            return accounts.make(name, PASSWORD).username
        except accounts.AccountRefused as refusal:
            return refusal.wrong["username"]
        finally:
            connection.close()

    monkeypatch.setattr(accounts, "_wrong_name", looked_at_together)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(make, ["grace", "Grace"]))
    assert User.objects.filter(username__iexact="grace").count() == 1
    assert sum("already" in one for one in made) == 1


@pytest.mark.parametrize("token", ["x", "x" * 400, "%00"])
def test_an_invitation_that_is_none_says_so(client: Client, db: None, token: str) -> None:
    assert client.get(f"/join/{token}/").status_code == 410
    assert client.post(f"/join/{token}/", {"username": "eve", "password": PASSWORD}).status_code == 410
    assert client.post(f"/join/{token}/passkey/", {"username": "eve"}).status_code == 410
    assert not User.objects.filter(username="eve").exists()


def test_a_withdrawn_invitation_makes_no_account(client: Client, invited: str) -> None:
    from playground.models import Invitation

    client.get(invited)
    Invitation.objects.update(revoked_at="2020-01-01T00:00:00Z")
    assert client.post(invited, {"username": "eve", "password": PASSWORD}).status_code == 410
    assert not User.objects.filter(username="eve").exists()


def passkeys_said(client: Client, **given: Any) -> str:
    """What the account page says of passkeys at this address."""
    found = re.search(r'data-passkeys="elsewhere">(.*?)</div>', text(client.get("/account/", **given)), re.S)
    return found[1] if found else ""


def test_where_passkeys_cannot_work_the_account_leads_to_where_they_do(
    client: Client, person: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client)
    named, numbers = Running(1, "http://localhost:8123"), Running(1, "http://127.0.0.1:8123")
    monkeypatch.setattr(instance, "running", lambda home: named)
    assert 'href="http://localhost:8123/account/"' in passkeys_said(client, HTTP_HOST="127.0.0.1:8123")
    assert 'href="http://localhost/account/"' in passkeys_said(client, HTTP_HOST="[::1]")
    assert passkeys_said(client, HTTP_HOST="localhost:8123") == ""

    # Where somebody else answers at localhost, `up` does not say that name, and no link leads there.
    monkeypatch.setattr(instance, "running", lambda home: numbers)
    said = passkeys_said(client, HTTP_HOST="127.0.0.1:8123")
    assert "do not work here" in said and "href" not in said


def test_over_tls_the_account_leads_to_the_site_s_name(client: Client, person: User) -> None:
    with override_settings(ALLOWED_HOSTS=["10.1.2.3", ".wild.example", "slipway.example"]):
        client.post("/sign-in/", {"login": "ada", "password": PASSWORD}, HTTP_HOST="10.1.2.3")
        said = passkeys_said(client, HTTP_HOST="10.1.2.3:8443", secure=True)
    assert 'href="https://slipway.example:8443/account/"' in said


@pytest.mark.parametrize("credential", ["{}", "[]", "null", "x", '{"id": 5}', '{"response": {}}'])
def test_a_passkey_that_is_none_makes_no_account(client: Client, invited: str, credential: str) -> None:
    given = {"username": "eve"}
    assert client.post(invited + "passkey/", given, HTTP_HOST="localhost").status_code == 200
    answer = client.post(invited, given | {"credential": credential}, HTTP_HOST="localhost")
    assert answer.status_code == 400 and not User.objects.filter(username="eve").exists()


def test_a_passkey_is_made_for_a_free_name_alone(client: Client, invited: str) -> None:
    answer = client.post(invited + "passkey/", {"username": "ada"}, HTTP_HOST="localhost")
    assert answer.status_code == 400 and "already" in answer.json()["wrong"]["username"]


@pytest.mark.parametrize("credential", ["{}", "[]", "null", "x", '{"response": {"userHandle": 5}}'])
def test_a_passkey_that_is_none_signs_nobody_in(client: Client, db: None, credential: str) -> None:
    answer = client.post(reverse("mfa_login_webauthn"), {"credential": credential})
    assert answer.status_code == 302 and who(client) is None
    assert AuditEntry.objects.get(action="refused sign in").detail["how"] == "passkey"


def vouched(client: Client, name: str) -> User | None:
    """The account of somebody new whom a provider vouches for in this browser; None where there is none."""
    request = RequestFactory().get("/")
    request.session, request.user = client.session, AnonymousUser()
    login = SocialLogin(user=User(username=name), account=SocialAccount(provider="corp", uid=name))
    adapter = signing_in.ProviderAdapter(request)
    try:
        if not adapter.is_open_for_signup(request, login):
            return None
        made: User = adapter.save_user(request, login)
    except ImmediateHttpResponse as elsewhere:
        assert elsewhere.response["Location"].startswith("/join/")
        return None
    return made


def test_an_invitation_lets_one_person_in_by_a_provider_too(
    team: Team, invited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_in, "_newcomers", lambda login: {})
    browsers = [Client() for _ in range(3)]
    for browser in browsers:
        assert browser.get(invited).status_code == 200
    hopper = vouched(browsers[0], "hopper")
    assert hopper is not None
    assert Membership.objects.get(user=hopper, team=team).role == "operator"
    assert vouched(browsers[1], "eve") is None
    # As if the invitation had been open a moment before.
    monkeypatch.setattr(signing_in, "_invited", lambda request: True)
    assert vouched(browsers[2], "eve") is None
    assert not User.objects.filter(username="eve").exists()
    # The provider leads back to the invitation: whoever took it goes on, anybody else reads that it is used.
    browsers[0].force_login(hopper)
    assert browsers[0].get(invited).headers["Location"] == "/"
    assert browsers[1].get(invited).status_code == 410


def test_a_team_of_a_provider_s_settings_that_is_none_is_told(user: User) -> None:
    accounts.welcome(user, {"team": "nowhere"})
    entry = AuditEntry.objects.get(action="refused join team")
    assert (entry.object, entry.name, entry.user) == (f"user:{user.pk}", "nowhere", user)
    accounts.welcome(user, {})
    assert AuditEntry.objects.filter(action="refused join team").count() == 1
