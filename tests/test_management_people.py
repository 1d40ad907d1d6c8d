"""The management API for people: leaving, deleting a team, who administers the site, who is shut out."""

import pytest
from django.test import Client

from playground import access, teams
from playground.models import AuditEntry, Dataset, Team, User
from tests.test_management_api import BASE, caller, colleague, error, send

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(user: User) -> Client:
    return caller(user)


@pytest.fixture
def grace(team: Team) -> User:
    return colleague(team, "grace")


def test_one_leaves_a_team_but_not_as_its_last_administrator(client: Client, grace: User, team: Team) -> None:
    assert send(caller(grace), "POST", "/team/leave").status_code == 204
    assert access.role_in(grace, team) is None
    last = send(client, "POST", "/team/leave")
    assert last.status_code == 422 and "last administrator" in error(last)["message"]
    assert AuditEntry.objects.get(action="leave team").who == "grace"


def test_a_team_is_deleted_once_nothing_is_its(client: Client, user: User) -> None:
    second = teams.make("Second", user)
    held = Dataset.objects.create(team=second, name="held")
    path = f"/team?team={second.slug}"
    assert send(client, "DELETE", path).status_code == 422
    held.delete()
    assert send(client, "DELETE", path).status_code == 204
    assert not Team.objects.filter(pk=second.pk).exists()
    assert AuditEntry.objects.filter(action="delete team").exists()


def test_somebody_is_made_a_site_administrator_and_shut_out(client: Client, grace: User) -> None:
    script = caller(grace)
    assert script.get(f"{BASE}/site/people").status_code == 403
    path = "/site/people/grace"
    assert send(script, "PATCH", path, {"administers_site": True}).status_code == 403
    made = send(client, "PATCH", path, {"administers_site": True})
    assert made.json()["administers_site"] is True and made.json()["teams"] == ["default"]
    shown = script.get(f"{BASE}/site/people").json()["items"]
    assert [one["username"] for one in shown] == ["grace", "ada"]
    assert send(client, "PATCH", path, {"active": False}).json()["active"] is False
    assert script.get(f"{BASE}/me").status_code == 401, "its token opens nothing any more"
    assert send(client, "PATCH", "/site/people/nobody", {"active": True}).status_code == 404
    last = send(client, "PATCH", "/site/people/ada", {"active": False})
    assert last.status_code == 422
