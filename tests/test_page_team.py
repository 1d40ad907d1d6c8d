"""A page acts in the team it was shown for, also when its person went to another one in a second tab."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from endpoints.models import Endpoint
from playground import access, teams
from playground.models import AuditEntry, Invitation, Membership, Team, User
from tests.test_pages import signed_in

pytestmark = pytest.mark.django_db
FIELD = re.compile(r'name="in_team" value="(\d+)"')


@pytest.fixture
def other(user: User) -> Team:
    """A second team of ada's, whose administrator she is too."""
    return teams.make("Night shift", user)


@pytest.fixture
def page(user: User, team: Team, other: Team) -> tuple[Client, dict[str, str]]:
    """(a browser, what the forms of a page send that was opened before ada went to the other team)"""
    client = signed_in(user)
    teams.switch(user, team)
    sent = set(FIELD.findall(client.get(reverse("team")).content.decode()))
    assert sent == {str(team.pk)}
    client.post(reverse("team-switch"), {"team": str(other.pk), "in_team": str(team.pk)})
    user.refresh_from_db()
    assert access.team_of(user) == other
    return client, {"in_team": str(team.pk)}


def test_a_form_opened_before_a_switch_acts_in_its_own_team(
    page: tuple[Client, dict[str, str]], team: Team, other: Team
) -> None:
    client, sent = page
    client.post(reverse("team-rename"), {"name": "Day shift", **sent})
    assert client.post(reverse("team-invite"), {"role": "viewer", "days": "7", **sent}).status_code == 201
    team.refresh_from_db()
    other.refresh_from_db()
    assert (team.name, other.name) == ("Day shift", "Night shift")
    assert [row.team for row in Invitation.objects.all()] == [team]


def test_a_refused_form_stays_of_its_own_team(page: tuple[Client, dict[str, str]], team: Team) -> None:
    client, sent = page
    answer = client.post(reverse("team-rename"), {"name": "", **sent})
    assert answer.status_code == 422
    text = answer.content.decode()
    assert set(FIELD.findall(text)) == {str(team.pk)} and f'<strong class="name">{team.name}' in text


def test_of_two_endpoints_of_one_name_the_page_s_own_is_changed(
    page: tuple[Client, dict[str, str]], team: Team, other: Team
) -> None:
    client, sent = page
    for owner in (team, other):
        Endpoint.objects.create(team=owner, name="capitals")
    address = reverse("endpoints:logging", args=["capitals"])
    assert client.post(address, {"share": "50", "days": "7", **sent}).status_code == 302
    kept = {row.team: row.log_share for row in Endpoint.objects.all()}
    assert kept == {team: 0.5, other: 0.0}
    # What scripts ask for says it in a header: also what a page reads anew.
    assert client.post(address, {"share": "20", "days": "7"}, HTTP_X_TEAM=str(team.pk)).status_code == 302
    assert (
        Endpoint.objects.get(team=team).log_share == 0.2 and Endpoint.objects.get(team=other).log_share == 0
    )


@pytest.mark.parametrize("said", ["own", "0", "x", "9" * 40])
def test_a_page_of_a_team_one_is_not_in_changes_nothing_anywhere(
    page: tuple[Client, dict[str, str]], user: User, team: Team, other: Team, said: str
) -> None:
    client, sent = page
    Membership.objects.filter(user=user, team=team).delete()
    sent = sent if said == "own" else {"in_team": said}
    answer = client.post(reverse("team-rename"), {"name": "Taken over", **sent})
    assert answer.status_code == 403 and "Open the page anew" in answer.content.decode()
    assert not Team.objects.filter(name="Taken over").exists()
    assert not AuditEntry.objects.filter(action="rename team").exists()
