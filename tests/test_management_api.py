"""The management API: a token is no more than its person, what is sent is judged strictly, and what the pages
do can be done by it. That its description holds: tests/test_management_fuzz.py; who may what: test_matrix.py.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from ninja import Schema

from playground import access, teams, tokens
from playground.api.answers import Given
from playground.models import (
    AccessToken,
    AuditEntry,
    Dataset,
    Deployment,
    Membership,
    Model,
    Node,
    Team,
    User,
)
from tests import fleet

pytestmark = pytest.mark.django_db
BASE = "/api/v1"


def caller(user: User, scope: str = "write", team: Team | None = None) -> Client:
    """A script of this person's."""
    _, secret = tokens.make(user, "ci", scope, team)
    return Client(headers={"Authorization": f"Bearer {secret}"})


def send(client: Client, method: str, path: str, body: Any = None, **more: Any) -> Any:
    data = json.dumps(body) if not isinstance(body, bytes) else body
    return client.generic(method, BASE + path, data, content_type="application/json", **more)


def error(answer: Any) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()["error"]
    assert set(told) == {"code", "message", "field", "fields"}
    return told


def colleague(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    person = User.objects.create_user(name, team=team)
    Membership.objects.create(user=person, team=team, role=role)
    return person


@pytest.fixture
def member(team: Team) -> User:
    return colleague(team, "grace")


# Tokens


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer ",
        "Bearer slp-aaaaaaaa-" + "x" * 43,
        "Bearer ' OR 1=1 --",
        "Bearer " + "x" * 60_000,
        "Bearer \u0000",
        "Basic YWRhOmFkYQ==",
        "Bearer sk-slip-aaaaaaaa-" + "x" * 43,
    ],
)
def test_it_asks_for_a_token_it_knows(user: User, header: str) -> None:
    answer = Client(headers={"Authorization": header} if header else {}).get(f"{BASE}/models")
    assert answer.status_code == 401
    assert error(answer)["code"] == "unauthenticated"


def test_it_keeps_no_secret(user: User) -> None:
    row, secret = tokens.make(user, "ci", "read")
    assert secret.startswith(f"slp-{row.prefix}-") and len(secret) == len("slp-12345678-") + 43
    kept = json.dumps(list(AccessToken.objects.values()), default=str)
    assert secret not in kept and secret[13:] not in kept


def test_a_token_ends(user: User) -> None:
    soon = timezone.now() + timedelta(hours=1)
    row, secret = tokens.make(user, "ci", "read", expires_at=soon)
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    assert client.get(f"{BASE}/me").status_code == 200
    AccessToken.objects.filter(pk=row.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get(f"{BASE}/me").status_code == 401


def test_a_revoked_token_is_refused_at_once(user: User) -> None:
    row, secret = tokens.make(user, "ci", "read")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    assert client.get(f"{BASE}/me").status_code == 200
    assert tokens.revoke(row, user) and not tokens.revoke(row, user)
    assert client.get(f"{BASE}/me").status_code == 401


def test_a_token_of_somebody_who_was_deactivated_is_refused(user: User) -> None:
    client = caller(user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert client.get(f"{BASE}/me").status_code == 401


def test_a_token_is_never_more_than_its_person(member: User, team: Team) -> None:
    client = caller(member)
    answer = send(client, "POST", "/keys", {"name": "mine"})
    assert answer.status_code == 403
    assert "operator" in error(answer)["message"]
    kept = AuditEntry.objects.get(action="refused keys")
    assert (kept.who, kept.via, kept.detail["token"]) == ("grace", "api", "ci")


def test_a_token_loses_what_its_person_loses(member: User, team: Team) -> None:
    client = caller(member)
    assert send(client, "POST", "/datasets", {"name": "one"}).status_code == 201
    member.memberships.update(role=Membership.Role.VIEWER)
    assert send(client, "POST", "/datasets", {"name": "two"}).status_code == 403
    member.memberships.all().delete()
    assert client.get(f"{BASE}/datasets").status_code == 404


def test_a_reading_token_changes_nothing(user: User) -> None:
    client = caller(user, "read")
    assert client.get(f"{BASE}/datasets").status_code == 200
    answer = send(client, "POST", "/datasets", {"name": "one"})
    assert answer.status_code == 403 and error(answer)["code"] == "read_only"
    assert not Dataset.objects.exists()


def test_a_token_of_one_team_reaches_no_other(user: User, team: Team) -> None:
    other = teams.make("Second", user)
    theirs = Dataset.objects.create(team=other, name="theirs")
    client = caller(user, team=team)
    assert client.get(f"{BASE}/datasets/{theirs.pk}").status_code == 404
    assert client.get(f"{BASE}/datasets", {"team": other.slug}).status_code == 404
    assert [row["slug"] for row in client.get(f"{BASE}/teams").json()] == [team.slug]
    assert caller(user).get(f"{BASE}/datasets", {"team": other.slug}).json()["items"][0]["name"] == "theirs"


def test_another_teams_row_is_not_there_and_the_try_is_kept(stranger: User, team: Team) -> None:
    row = Dataset.objects.create(team=team, name="ours")
    answer = send(caller(stranger), "DELETE", f"/datasets/{row.pk}")
    assert answer.status_code == 404 and "ours" not in answer.content.decode()
    assert AuditEntry.objects.filter(action="refused write", object=f"dataset:{row.pk}").exists()


def test_a_token_writes_down_its_use_once_a_minute(user: User) -> None:
    row, secret = tokens.make(user, "ci", "read")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    client.get(f"{BASE}/me")
    first = AccessToken.objects.get(pk=row.pk).last_used_at
    client.get(f"{BASE}/me")
    assert first is not None and AccessToken.objects.get(pk=row.pk).last_used_at == first


def test_somebody_signed_in_needs_the_csrf_token_to_change_things(user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    assert client.get(f"{BASE}/me").json()["token"] is None
    answer = send(client, "POST", "/datasets", {"name": "one"})
    assert answer.status_code == 403 and not Dataset.objects.exists()
    client.get("/account/tokens/")
    token = next(cookie.value for name, cookie in client.cookies.items() if "csrf" in name)
    assert (
        send(client, "POST", "/datasets", {"name": "one"}, headers={"X-CSRFToken": token}).status_code == 201
    )


# What is sent


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (b'{"name": "a", "name": "b"}', 400, "bad_request"),
        (b'{"name": NaN}', 400, "bad_request"),
        (b'{"name": "\\ud800"}', 400, "bad_request"),
        (b'{"name": "a\\u0000b"}', 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b"", 422, "invalid"),
        (b'{"name": "a", "nome": "b"}', 422, "invalid"),
        (b'{"name": 5}', 422, "invalid"),
        (b'{"name": "' + b"x" * 5_000_000 + b'"}', 413, "too_large"),
    ],
)
def test_it_refuses_what_is_not_as_described(user: User, body: bytes, status: int, code: str) -> None:
    answer = send(caller(user), "POST", "/datasets", body)
    assert (answer.status_code, error(answer)["code"]) == (status, code)
    assert not Dataset.objects.exists()


def test_it_takes_json_alone(user: User) -> None:
    answer = caller(user).post(f"{BASE}/datasets", {"name": "one"})
    assert answer.status_code == 415 and error(answer)["code"] == "bad_type"


def test_it_names_the_field_at_fault(user: User) -> None:
    told = error(send(caller(user), "POST", "/datasets", {"name": "a", "nome": "b"}))
    assert told["field"] == "nome" and told["fields"].keys() == {"nome"}


@pytest.mark.parametrize(
    "path", ["/nothing", "/models/1/nothing", "/models/x%2Fy", "/..%2fmodels", "/models/%00"]
)
def test_what_is_no_operation_answers_as_the_api(user: User, path: str) -> None:
    answer = caller(user).get(BASE + path)
    assert answer.status_code in (400, 404, 422)
    assert error(answer)["message"]


def test_lists_come_in_pages(user: User, team: Team) -> None:
    for number in range(7):
        Dataset.objects.create(team=team, name=f"number {number}")
    client, names, after = caller(user), [], ""
    for _ in range(3):
        page = client.get(f"{BASE}/datasets", {"limit": 3} | ({"after": after} if after else {})).json()
        names += [row["name"] for row in page["items"]]
        after = page["next"]
    assert names == [f"number {number}" for number in range(6, -1, -1)] and after is None
    assert client.get(f"{BASE}/datasets", {"limit": 101}).status_code == 422


def test_its_description_and_its_page(user: User) -> None:
    told = Client().get(f"{BASE}/openapi.json").json()
    assert told["openapi"].startswith("3.") and len(told["paths"]) > 60
    assert all("x-needs" in one for path in told["paths"].values() for one in path.values())
    client = Client()
    assert client.get("/api/").status_code == 302
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    shown = client.get("/api/").content.decode()
    assert "/api/v1/deployments/{pk}/restart" in shown and '<script src="http' not in shown


def test_no_two_things_are_described_by_one_name() -> None:
    """Ninja keeps one description a name: a second class of that name would take the first one's place."""
    made = [one for base in (Schema, Given) for one in below(base) if "api" in one.__module__]
    names = Counter(one.__name__ for one in set(made))
    assert [name for name, count in names.items() if count > 1] == []


def below(kind: type[Any]) -> Iterator[type[Any]]:
    """Its subclasses, and theirs."""
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


# What it does


@pytest.fixture
def model(team: Team) -> Model:
    return fleet.tiny_model(team)


def test_a_model_is_started_changed_and_stopped(user: User, model: Model) -> None:
    client = caller(user)
    answer = send(client, "POST", "/deployments", {"model": model.pk, "engine": "fake", "once": "a"})
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["state"], made["desired"], made["engine"]) == ("queued", "running", "fake")
    again = send(client, "POST", "/deployments", {"model": model.pk, "engine": "fake", "once": "a"})
    assert again.json()["id"] == made["id"]
    changed = send(client, "PATCH", f"/deployments/{made['id']}", {"idle_timeout_s": 600})
    assert changed.json()["idle_timeout_s"] == 600
    stopped = send(client, "POST", f"/deployments/{made['id']}/stop")
    assert stopped.json()["desired"] == "stopped"
    assert send(client, "DELETE", f"/deployments/{made['id']}").status_code == 204
    assert client.get(f"{BASE}/deployments/{made['id']}").status_code == 404
    acts = AuditEntry.objects.filter(object=f"deployment:{made['id']}").order_by("pk")
    assert [row.action for row in acts] == ["start", "set idle time-out", "stop", "delete"]
    assert {row.via for row in acts} == {"api"}


def test_what_cannot_be_started_says_why_by_field(user: User, model: Model) -> None:
    body = {"model": model.pk, "engine": "fake", "options": {"--trust-remote-code": True}}
    answer = send(caller(user), "POST", "/deployments", body)
    assert answer.status_code == 422 and "--trust-remote-code" in error(answer)["fields"]
    assert not Deployment.objects.exists()


def test_extra_arguments_are_for_site_administrators(user: User, model: Model) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=False)
    body = {"model": model.pk, "engine": "fake", "extra": [["--host", "0.0.0.0"]]}
    assert send(caller(user), "POST", "/deployments", body).status_code == 403


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def test_a_prompt_is_saved_on_what_one_began_from(user: User, member: User) -> None:
    client, other = caller(user), caller(member)
    made = send(client, "POST", "/prompts", {"name": "triage", **said("Sort {{mail}}.")}).json()
    path = f"/prompts/{made['id']}"
    first = send(
        client, "POST", f"{path}/versions", {"base": 1, "note": "kinder", **said("Please sort {{mail}}.")}
    )
    assert first.status_code == 201 and first.json()["number"] == 2
    late = send(other, "POST", f"{path}/versions", {"base": 1, **said("Sort {{mail}} now.")})
    assert late.status_code == 409 and "ada" in error(late)["message"]
    filled = send(client, "POST", f"{path}/versions/2/fill", {"variables": {"mail": "this"}}).json()
    assert filled["messages"][0]["content"] == "Please sort this."
    missing = send(client, "POST", f"{path}/versions/2/fill", {})
    assert missing.status_code == 422 and error(missing)["field"] == "mail"


def test_a_prompt_goes_to_a_file_and_comes_back(user: User) -> None:
    client = caller(user)
    made = send(client, "POST", "/prompts", {"name": "triage", **said("Sort {{mail}}.")}).json()
    file = client.get(f"{BASE}/prompts/{made['id']}/file").json()
    assert file["name"] == "triage.yaml"
    assert send(client, "POST", "/prompts/import", file).json()["what"] == "same"
    file["text"] = file["text"].replace("Sort", "Please sort")
    assert send(client, "POST", "/prompts/import", file).json()["what"] == "saved"


def test_a_key_is_made_narrowed_rotated_and_revoked(user: User) -> None:
    client = caller(user)
    made = send(client, "POST", "/keys", {"name": "desk", "limits": {"requests_minute": 60}}).json()
    assert made["secret"].startswith("sk-slip-") and made["limits"] == {"requests_minute": 60}
    narrowed = send(client, "PATCH", f"/keys/{made['id']}", {"routes": ["/v1/embeddings"]}).json()
    assert narrowed["routes"] == ["/v1/embeddings"] and "secret" not in narrowed
    fresh = send(client, "POST", f"/keys/{made['id']}/rotate", {"hours": 1}).json()
    assert fresh["secret"] != made["secret"] and fresh["routes"] == ["/v1/embeddings"]
    assert send(client, "DELETE", f"/keys/{fresh['id']}").status_code == 204
    shown = client.get(f"{BASE}/keys").content.decode()
    assert made["secret"] not in shown and fresh["secret"] not in shown


def test_people_are_invited_promoted_and_removed(user: User, member: User, team: Team) -> None:
    client = caller(user)
    invited = send(client, "POST", "/invitations", {"role": "viewer", "note": "Linus"}).json()
    newcomer = User.objects.create_user("linus")
    teams.accept(invited["token"], newcomer)
    changed = send(client, "PATCH", "/members/linus", {"role": "operator"})
    assert changed.json()["role"] == "operator"
    assert send(client, "DELETE", "/members/linus").status_code == 204
    assert access.role_in(newcomer, team) is None
    last = send(client, "DELETE", f"/members/{user.username}")
    assert last.status_code == 422 and "last administrator" in error(last)["message"]


def test_a_dataset_is_read_from_text(user: User) -> None:
    client = caller(user)
    made = send(client, "POST", "/datasets", {"name": "Capitals"}).json()
    lines = '{"prompt": "France?"}\n{"prompt": "Peru?"}\nnonsense\n'
    version = send(client, "POST", f"/datasets/{made['id']}/versions", {"source": "in.jsonl", "text": lines})
    assert version.status_code == 201, version.content
    assert (version.json()["row_count"], version.json()["bad_rows"]) == (2, 1)
    rows = client.get(f"{BASE}/datasets/{made['id']}/versions/1/rows", {"limit": 1}).json()
    assert len(rows["items"]) == 1 and rows["next"] == 1


# The page and the command


def test_the_page_shows_a_token_once(user: User, team: Team) -> None:
    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    form = {"name": "nightly", "scope": "read", "expires": "30", "team": team.slug}
    shown = client.post("/account/tokens/", form).content.decode()
    secret = shown.partition('aria-label="The new token">')[2].partition("<")[0]
    assert tokens.check(secret) is not None
    assert secret not in client.get("/account/tokens/").content.decode()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"name": ""}, "Say what the token is for."),
        ({"scope": "all"}, "Choose whether it may only read."),
        ({"expires": "5"}, "Choose when it ends."),
        ({"team": "other"}, "You are not in that team."),
    ],
)
def test_the_page_says_what_is_wrong_and_keeps_what_was_typed(
    user: User, stranger: User, form: dict[str, str], words: str
) -> None:
    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    answer = client.post(
        "/account/tokens/", {"name": "night", "scope": "read", "expires": "30", "team": ""} | form
    )
    assert answer.status_code == 422
    assert words in answer.content.decode() and not AccessToken.objects.exists()
    assert form.get("name", "night") in answer.content.decode()


def test_a_token_for_one_team_does_nothing_that_concerns_every_team(user: User, team: Team) -> None:
    node = Node.objects.create(name="n1", price_per_hour=None)
    held, whole = caller(user, team=team), caller(user)
    for method, path, body in (
        ("POST", "/teams", {"name": "Lab"}),
        ("PATCH", f"/nodes/{node.pk}", {"price_per_hour": "1"}),
        ("POST", f"/nodes/{node.pk}/environments", {"engine": "llama.cpp"}),
        ("GET", "/site/teams", None),
    ):
        refused = send(held, method, path, body)
        assert refused.status_code == 403 and "for Default alone" in error(refused)["message"], path
    assert AuditEntry.objects.filter(action__startswith="refused", user=user, team=team).count() == 4
    assert not Team.objects.filter(name="Lab").exists()
    assert send(whole, "POST", "/teams", {"name": "Lab"}).status_code == 201


def test_a_token_for_one_team_knows_of_the_others_nothing(user: User, team: Team) -> None:
    held = caller(user, team=team)
    other, _ = tokens.make(user, "everywhere")
    assert [row["team"] for row in held.get(f"{BASE}/tokens").json()] == [team.slug]
    assert send(held, "DELETE", f"/tokens/{other.pk}").status_code == 404
    other.refresh_from_db()
    assert other.revoked_at is None


def test_nobody_revokes_anothers_token(user: User, member: User) -> None:
    row, secret = tokens.make(user, "ci", "read")
    client = Client()
    client.force_login(member, "django.contrib.auth.backends.ModelBackend")
    assert client.post(f"/account/tokens/{row.pk}/revoke/").status_code == 404
    assert send(caller(member), "DELETE", f"/tokens/{row.pk}").status_code == 404
    assert tokens.check(secret) is not None


def test_the_command_makes_one(user: User, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("token", "deploys", user="ada", write=True, days=7)
    found = tokens.check(capsys.readouterr().out.strip().splitlines()[-1])
    assert found is not None and found.user == user and found.scope == "write" and found.expires_at
