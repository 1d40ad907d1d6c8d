"""Keys: made once, shown once, refused when they should be."""

import html
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey, Usage
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


# Near the year 10,000 are moments that PostgreSQL keeps and Python cannot read: a list with one is an error.
@pytest.mark.parametrize(
    "end", ["9999-12-31T23:59:59-10:00", "9999-12-31T23:59:59+00:00", "2100-01-02T00:00:00Z"]
)
def test_it_refuses_an_end_past_all_calendars(team: Team, user: User, browser: Client, end: str) -> None:
    ends = datetime.fromisoformat(end)
    with pytest.raises(keys.KeyRefused, match="before the year 2100"):
        keys.make(team, user, "ci", ["endpoints"], ends)
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    form = {"name": "ci", "scopes": ["endpoints"], "expires": f"{ends:%Y-%m-%d}"}
    refused = browser.post(f"/endpoints/keys/{key.pk}/", form)
    assert refused.status_code == 422 and "before the year 2100" in refused.content.decode()
    assert browser.get("/endpoints/keys/").status_code == 200


def test_a_key_of_many_years_is_replaced_by_one_that_ends_in_time(team: Team, user: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"], keys.LATEST)
    long_ago = timezone.now() - timedelta(days=900)
    ApiKey.objects.filter(pk=key.pk).update(created_at=long_ago)
    fresh, _ = keys.rotate(key, user, timedelta(hours=1))
    assert fresh.expires_at == keys.LATEST


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


def change(key: ApiKey, user: User, **new: Any) -> ApiKey:
    now: dict[str, Any] = {
        name: getattr(key, name) for name in ("name", "scopes", "endpoints", "routes", "limits", "expires_at")
    }
    return keys.change(key, user, **now | new)


def test_what_a_key_may_is_changed_and_remembered(team: Team, user: User) -> None:
    key, secret = keys.make(team, user, "ci", ["endpoints"])
    change(key, user, endpoints=["words"], routes=["/v1/responses"], limits={"spend_day": 5, "concurrent": 3})
    stored = ApiKey.objects.get(pk=key.pk)
    assert (stored.endpoints, stored.routes) == (["words"], ["/v1/responses"])
    assert stored.limits == {"spend_day": 5.0, "concurrent": 3}
    assert stored.secret_hash == keys.digest(secret)
    entry = AuditEntry.objects.get(action="change key")
    assert entry.before == {"endpoints": [], "routes": [], "limits": {}}
    assert entry.after is not None and entry.after["limits"] == {"concurrent": 3, "spend_day": 5.0}
    change(key, user)
    assert AuditEntry.objects.filter(action="change key").count() == 1


@pytest.mark.parametrize(
    ("new", "field"),
    [
        ({"name": " "}, "name"),
        ({"scopes": []}, "scopes"),
        ({"routes": ["/v1/pause"]}, "routes"),
        ({"endpoints": ["a" * 121]}, "endpoints"),
        ({"limits": {"requests_hour": 3}}, "limits"),
        ({"limits": {"requests_minute": 0}}, "requests_minute"),
        ({"limits": {"requests_minute": 1.5}}, "requests_minute"),
        ({"limits": {"tokens_day": -1}}, "tokens_day"),
        ({"limits": {"tokens_day": True}}, "tokens_day"),
        ({"limits": {"spend_day": float("nan")}}, "spend_day"),
        ({"limits": {"spend_day": float("inf")}}, "spend_day"),
        ({"limits": {"spend_day": 0.0000001}}, "spend_day"),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "expires"),
    ],
)
def test_it_refuses_a_bad_change(team: Team, user: User, new: dict[str, Any], field: str) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    before = ApiKey.objects.filter(pk=key.pk).values().get()
    with pytest.raises(keys.KeyRefused) as refusal:
        change(key, user, **new)
    assert refusal.value.field == field
    assert ApiKey.objects.filter(pk=key.pk).values().get() == before


def test_a_new_secret_replaces_the_old_which_works_for_as_long_as_was_chosen(team: Team, user: User) -> None:
    key, secret = keys.make(team, user, "ci", ["endpoints"], endpoints=["words"], limits={"requests_day": 9})
    fresh, other = keys.rotate(key, user, timedelta(hours=2))
    key.refresh_from_db()
    assert other != secret and fresh.replaces == key
    assert (fresh.endpoints, fresh.limits, fresh.expires_at) == (["words"], {"requests_day": 9}, None)
    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(hours=2)) < timedelta(minutes=1)
    newest, _ = keys.rotate(fresh, user, timedelta(0))
    assert {fresh.family, newest.family} == {key.pk}
    change(newest, user, limits={"requests_day": 4})
    assert set(ApiKey.objects.values_list("limits__requests_day", flat=True)) == {4}


def test_only_a_key_that_works_is_replaced_and_only_once(team: Team, user: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    with pytest.raises(keys.KeyRefused):
        keys.rotate(key, user, timedelta(days=31))
    keys.rotate(key, user, timedelta(hours=2))
    with pytest.raises(keys.KeyRefused, match="replaced already"):
        keys.rotate(key, user, timedelta(hours=2))
    gone, _ = keys.make(team, user, "gone", ["endpoints"])
    keys.revoke(gone, user)
    with pytest.raises(keys.KeyRefused, match="revoked"):
        keys.rotate(gone, user, timedelta(hours=2))
    with pytest.raises(keys.KeyRefused, match="revoked"):
        change(gone, user, name="back")


LIMITED = {"name": "ci", "scopes": ["endpoints"], "requests_minute": "1,200", "spend_day": "$2.50"}


def test_the_page_makes_a_key_with_limits_and_shows_what_is_used(browser: Client, team: Team) -> None:
    form = LIMITED | {"requests_day": "50", "routes": ["/v1/responses"], "endpoints": ["words"]}
    assert browser.post("/endpoints/keys/", form).status_code == 200
    key = ApiKey.objects.get()
    assert key.limits == {"requests_minute": 1200, "requests_day": 50, "spend_day": 2.5}
    now = timezone.now()
    row = {"team": team, "key": key, "endpoint": "words", "route": "/v1/x", "status": 200, "e2e_ms": 1.0}
    Usage.objects.create(request_id="a", at=now, cost=0.25, **row)
    Usage.objects.create(request_id="b", at=now - timedelta(days=1), cost=1, **row)
    for page in ("/endpoints/keys/", f"/endpoints/keys/{key.pk}/"):
        text = browser.get(page).content.decode()
        assert "/1,200" in text and "1/50" in text
        assert "$0.25/$2.50" in text
    assert "only words" in browser.get("/endpoints/keys/").content.decode()


def test_the_page_says_what_is_wrong_with_a_limit_beside_it(browser: Client) -> None:
    page = browser.post("/endpoints/keys/", LIMITED | {"tokens_day": "many"})
    text = page.content.decode()
    assert page.status_code == 422 and not ApiKey.objects.exists()
    assert "Tokens a day: a whole number from 1." in text
    assert 'value="many"' in text and 'value="1,200"' in text


def test_the_page_changes_a_key_and_keeps_what_was_typed(browser: Client, team: Team, user: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"], timezone.now() + timedelta(days=30))
    ends = key.expires_at
    assert ends is not None
    form = LIMITED | {"expires": ends.date().isoformat()}
    assert browser.post(f"/endpoints/keys/{key.pk}/", form).status_code == 302
    key.refresh_from_db()
    assert (key.limits["requests_minute"], key.expires_at) == (1200, ends)
    wrong = browser.post(f"/endpoints/keys/{key.pk}/", form | {"expires": "soon", "name": "renamed"})
    assert wrong.status_code == 422
    assert "A day like" in wrong.content.decode() and 'value="renamed"' in wrong.content.decode()
    assert browser.post(f"/endpoints/keys/{key.pk}/", form | {"expires": ""}).status_code == 302
    assert ApiKey.objects.get().expires_at is None


def test_the_page_replaces_a_secret_and_shows_the_new_one_once(
    browser: Client, team: Team, user: User
) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    refused = browser.post(f"/endpoints/keys/{key.pk}/rotate/", {"overlap": "5"})
    assert refused.status_code == 422 and ApiKey.objects.count() == 1
    page = browser.post(f"/endpoints/keys/{key.pk}/rotate/", {"overlap": "24"})
    assert page.status_code == 200 and "no-store" in page["Cache-Control"]
    assert page.context["secret"] in page.content.decode()
    assert "works until" in page.content.decode()
    again = browser.get("/endpoints/keys/").content.decode()
    assert page.context["secret"] not in again
    assert f'replaced by <span class="mono">{page.context["made"].prefix}' in again


def test_a_member_changes_and_replaces_nothing(browser: Client, team: Team, user: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    assert "Save" not in browser.get(f"/endpoints/keys/{key.pk}/").content.decode()
    assert browser.post(f"/endpoints/keys/{key.pk}/", LIMITED).status_code == 403
    assert browser.post(f"/endpoints/keys/{key.pk}/rotate/", {"overlap": "24"}).status_code == 403
    assert ApiKey.objects.get().limits == {}


def test_a_stranger_s_key_is_not_there(team: Team, user: User, stranger: User) -> None:
    key, _ = keys.make(team, user, "ci", ["endpoints"])
    client = Client()
    client.force_login(stranger)
    assert client.get(f"/endpoints/keys/{key.pk}/").status_code == 404
    assert client.post(f"/endpoints/keys/{key.pk}/", LIMITED).status_code == 404
    assert client.post(f"/endpoints/keys/{key.pk}/rotate/", {"overlap": "24"}).status_code == 404
    assert ApiKey.objects.count() == 1
