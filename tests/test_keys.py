"""Keys: made once, shown once, refused when they should be."""

import html
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey
from playground import webhooks
from playground.models import AuditEntry, Membership, Team, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_it_keeps_only_the_hash(team: Team, user: User) -> None:
    key, secret = keys.make(team, user, "ci", ["endpoints"])
    assert secret.startswith(f"sk-slip-{key.prefix}-")
    assert len(secret.removeprefix(f"sk-slip-{key.prefix}-")) == 43
    stored = ApiKey.objects.filter(pk=key.pk).values().get()
    assert not any(secret.rpartition("-")[2] in str(value) for value in stored.values())
    assert stored["secret_hash"] == keys.digest(secret)


@pytest.mark.parametrize(
    ("name", "scopes", "field"),
    [
        ("", ["endpoints"], "name"),
        ("x" * 81, ["endpoints"], "name"),
        ("ci", [], "scopes"),
        ("ci", ["root"], "scopes"),
    ],
)
def test_it_refuses_a_bad_key(team: Team, user: User, name: str, scopes: list[str], field: str) -> None:
    with pytest.raises(keys.KeyRefused) as refusal:
        keys.make(team, user, name, scopes)
    assert refusal.value.field == field
    assert not ApiKey.objects.exists()


def test_it_refuses_an_expiry_in_the_past(team: Team, user: User) -> None:
    with pytest.raises(keys.KeyRefused) as refusal:
        keys.make(team, user, "ci", ["endpoints"], timezone.now() - timedelta(seconds=1))
    assert refusal.value.field == "expires"


def test_it_revokes_once(team: Team, user: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    assert keys.revoke(key, user)
    assert not keys.revoke(key, user)
    assert AuditEntry.objects.filter(action="revoke key", object=f"key:{key.pk}").count() == 1


def test_the_page_shows_a_secret_once(browser: Client) -> None:
    page = browser.post("/endpoints/keys/", {"name": "ci", "scopes": ["endpoints"]})
    secret = page.context["secret"]
    assert page.status_code == 200
    assert secret in page.content.decode()
    assert "no-store" in page.headers["cache-control"]
    again = browser.get("/endpoints/keys/").content.decode()
    assert secret not in again
    assert "ci" in again


def test_the_page_keeps_what_was_typed_beside_the_error(browser: Client) -> None:
    page = browser.post("/endpoints/keys/", {"name": "nightly evaluation", "expires": "30"})
    text = page.content.decode()
    assert page.status_code == 422
    assert "nightly evaluation" in text
    assert "Choose at least one" in text
    assert not ApiKey.objects.exists()


def test_a_member_sees_keys_and_cannot_make_one(browser: Client, user: User) -> None:
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    assert "New key" not in browser.get("/endpoints/keys/").content.decode()
    assert browser.post("/endpoints/keys/", {"name": "ci", "scopes": ["endpoints"]}).status_code == 403
    assert not ApiKey.objects.exists()


def test_a_stranger_cannot_revoke(team: Team, user: User, stranger: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    client = Client()
    client.force_login(stranger)
    assert client.post(f"/endpoints/keys/{key.pk}/revoke/").status_code == 404
    assert ApiKey.objects.get(pk=key.pk).revoked_at is None
    assert AuditEntry.objects.filter(action="refused write", object=f"apikey:{key.pk}").exists()


def test_the_webhook_secret_is_shown_once_to_who_made_it(browser: Client, team: Team, user: User) -> None:
    assert "There is none yet" in browser.get("/endpoints/keys/").content.decode()
    page = browser.post("/endpoints/keys/webhooks/")
    assert page.status_code == 200 and "no-store" in page["Cache-Control"]
    secret = webhooks.secret(team)
    assert secret in html.unescape(page.content.decode())
    again = html.unescape(browser.get("/endpoints/keys/").content.decode())
    assert secret not in again and secret[-4:] in again
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    assert browser.post("/endpoints/keys/webhooks/").status_code == 403
    assert browser.get("/endpoints/keys/webhooks/").status_code == 405
    assert webhooks.secret(team) == secret
