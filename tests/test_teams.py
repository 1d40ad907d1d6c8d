"""Teams: who is in which, how one gets in and out."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from playground import access, teams
from playground.models import AuditEntry, Invitation, Membership, Team, User

pytestmark = pytest.mark.django_db
Role = Membership.Role


def test_everybody_gets_one_team_of_their_own(user: User) -> None:
    own = teams.make_personal(user)
    assert teams.make_personal(user) == own
    assert own.person == user and access.role_in(user, own) == Role.ADMIN


def test_the_first_user_is_a_site_administrator() -> None:
    first = teams.first_user()
    assert first.is_staff and first.personal_team
    assert access.role_in(first, teams.default_team()) == Role.ADMIN
    assert access.team_of(first) == teams.default_team()


def test_an_invitation_brings_one_person_in_once(user: User, team: Team, stranger: User) -> None:
    row, token = teams.invite(team, Role.OPERATOR, user, note="for Mallory", days=3)
    assert token not in row.token_hash
    assert teams.accept(token, stranger) == team
    assert access.role_in(stranger, team) == Role.OPERATOR
    assert access.team_of(stranger) == team
    entry = AuditEntry.objects.get(action="join team")
    assert (entry.user, entry.team, entry.after) == (
        stranger,
        team,
        {"role": "operator", "invitation": row.pk},
    )
    other = User.objects.create_user("eve")
    with pytest.raises(teams.TeamRefused, match="used"):
        teams.accept(token, other)
    assert access.role_in(other, team) is None


def test_a_withdrawn_an_old_and_an_unknown_invitation_bring_nobody_in(
    user: User, team: Team, stranger: User
) -> None:
    withdrawn, first = teams.invite(team, Role.MEMBER, user)
    assert teams.revoke(withdrawn, user) and not teams.revoke(withdrawn, user)
    old, second = teams.invite(team, Role.MEMBER, user)
    Invitation.objects.filter(pk=old.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for token in (first, second, "x" * 43, "é\0"):
        with pytest.raises(teams.TeamRefused):
            teams.accept(token, stranger)
    assert access.role_in(stranger, team) is None


def test_who_is_in_keeps_the_invitation_for_another(user: User, team: Team, stranger: User) -> None:
    _, token = teams.invite(team, Role.VIEWER, user)
    with pytest.raises(teams.TeamRefused, match="already"):
        teams.accept(token, user)
    assert access.role_in(user, team) == Role.ADMIN
    assert teams.accept(token, stranger) == team


@pytest.mark.django_db(transaction=True)
def test_of_two_people_with_one_link_one_gets_in(user: User, team: Team) -> None:
    _, token = teams.invite(team, Role.MEMBER, user)
    people = [User.objects.create_user(f"p{number}") for number in range(4)]

    def accept(person: User) -> bool:
        try:
            teams.accept(token, person)
        except teams.TeamRefused:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(accept, people)) == [False, False, False, True]
    assert Membership.objects.filter(team=team).count() == 2


@pytest.mark.parametrize(
    ("role", "days", "field"), [("king", 7, "role"), ("member", 0, "days"), ("member", 31, "days")]
)
def test_a_wrong_invitation_names_the_field(user: User, team: Team, role: str, days: int, field: str) -> None:
    with pytest.raises(teams.TeamRefused) as refused:
        teams.invite(team, role, user, days=days)
    assert refused.value.field == field


def test_nobody_is_invited_into_a_personal_team(user: User) -> None:
    with pytest.raises(teams.TeamRefused, match="personal"):
        teams.invite(teams.make_personal(user), Role.MEMBER, user)


def test_one_switches_only_to_a_team_one_is_in(user: User, stranger: User) -> None:
    own = teams.make_personal(user)
    teams.switch(user, own)
    assert access.team_of(User.objects.get(pk=user.pk)) == own
    with pytest.raises(teams.TeamRefused):
        teams.switch(user, access.team_of(stranger))
