"""Teams: who is in which, how one gets in and out."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from playground import access, events, members, people, teams
from playground.models import AuditEntry, Dataset, Invitation, Membership, Team, User
from playground.teams import TeamRefused
from tests.test_pages import signed_in

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


def test_a_first_user_who_was_removed_is_not_put_back_by_the_next_start(user: User, team: Team) -> None:
    first = teams.first_user()
    members.remove(first.memberships.get(team=team), user)
    assert teams.first_user() == first
    assert access.role_in(first, team) is None


@pytest.mark.parametrize("lost", ["is_active", "is_staff"])
def test_the_link_of_the_next_start_is_for_an_administrator_it_lets_in(user: User, lost: str) -> None:
    first = teams.first_user()
    act = people.set_active if lost == "is_active" else people.set_staff
    act(first, False, user)
    assert teams.first_user() == user
    assert teams.sign_in_by(teams.make_login_link(teams.first_user())) == user


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


@pytest.fixture
def bob(team: Team) -> Membership:
    person = User.objects.create_user("bob", team=team)
    return Membership.objects.create(user=person, team=team, role=Role.MEMBER)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The people whose sockets are looked at anew."""
    found: list[int] = []
    monkeypatch.setattr(events, "standing", lambda *users: found.extend(users))
    return found


# Members


def test_a_role_is_changed_and_told_with_before_and_after(
    user: User, bob: Membership, told: list[int]
) -> None:
    client = signed_in(user)
    client.post(reverse("member-role", args=[bob.pk]), {"role": "operator"})
    bob.refresh_from_db()
    assert bob.role == Role.OPERATOR and told == [bob.user_id]
    entry = AuditEntry.objects.get(action="change role")
    assert (entry.name, entry.before, entry.after) == ("bob", {"role": "member"}, {"role": "operator"})
    assert client.post(reverse("member-role", args=[bob.pk]), {"role": "king"}).status_code == 302
    bob.refresh_from_db()
    assert bob.role == Role.OPERATOR


def test_who_is_removed_is_out_at_once(user: User, bob: Membership, told: list[int]) -> None:
    mine = teams.make_personal(bob.user)
    client, theirs = signed_in(user), signed_in(bob.user)
    assert "Default" in theirs.get(reverse("team")).content.decode()
    client.post(reverse("member-remove", args=[bob.pk]))
    person = User.objects.get(pk=bob.user_id)
    assert access.teams_of(person) == [mine] and person.team is None
    assert told == [bob.user_id]
    entry = AuditEntry.objects.get(action="remove member")
    assert (entry.user, entry.name, entry.before) == (user, "bob", {"role": "member"})
    assert client.post(reverse("member-remove", args=[bob.pk])).status_code == 404


def test_the_last_administrator_stays_one(user: User, team: Team, bob: Membership) -> None:
    row = user.memberships.get()
    for act in (
        lambda: members.remove(row, user),
        lambda: members.change_role(row, Role.MEMBER, user),
    ):
        with pytest.raises(TeamRefused, match="last administrator"):
            act()
    shown = signed_in(user).post(reverse("team-leave"), follow=True).content.decode()
    assert "last administrator" in shown and access.role_in(user, team) == Role.ADMIN
    members.change_role(bob, Role.ADMIN, user)
    User.objects.filter(pk=bob.user_id).update(is_active=False)
    with pytest.raises(TeamRefused, match="last administrator"):
        members.remove(row, user)
    User.objects.filter(pk=bob.user_id).update(is_active=True)
    members.remove(row, user)
    assert AuditEntry.objects.filter(action="leave team", user=user).exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_administrators_who_leave_at_once_one_stays(user: User, team: Team) -> None:
    other = User.objects.create_user("grace")
    second = Membership.objects.create(user=other, team=team, role=Role.ADMIN)
    rows = [user.memberships.get(), second]

    def leave(row: Membership) -> bool:
        try:
            members.remove(row, row.user)
        except TeamRefused:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(leave, rows)) == [False, True]
    assert Membership.objects.filter(team=team, role=Role.ADMIN).count() == 1


def test_the_links_of_who_was_removed_let_nobody_in(
    user: User, team: Team, bob: Membership, stranger: User
) -> None:
    members.change_role(bob, Role.ADMIN, user)
    _, token = teams.invite(team, Role.ADMIN, bob.user)
    members.remove(bob, user)
    for person in (bob.user, stranger):
        with pytest.raises(TeamRefused):
            teams.accept(token, person)


def test_the_links_of_who_was_shut_out_let_nobody_in(
    user: User, team: Team, bob: Membership, stranger: User
) -> None:
    members.change_role(bob, Role.ADMIN, user)
    row, token = teams.invite(team, Role.ADMIN, bob.user)
    people.set_active(bob.user, False, user)
    with pytest.raises(TeamRefused):
        teams.accept(token, stranger)
    row.refresh_from_db()
    assert row.revoked_at is not None
    # Also when they are let in again: it was withdrawn.
    people.set_active(bob.user, True, user)
    with pytest.raises(TeamRefused):
        teams.invitation(token)


def test_a_link_made_in_the_moment_its_maker_lost_the_role_lets_nobody_in(
    user: User, team: Team, bob: Membership, stranger: User
) -> None:
    # As if the page that made it had looked at the role just before it was lowered.
    _, token = teams.invite(team, Role.ADMIN, bob.user)
    assert access.role_in(bob.user, team) == Role.MEMBER
    with pytest.raises(TeamRefused):
        teams.accept(token, stranger)
    assert access.role_in(stranger, team) is None


def test_limits_of_somebody_removed_meanwhile_are_refused(user: User, bob: Membership) -> None:
    gone = Membership.objects.get(pk=bob.pk)
    members.remove(bob, user)
    with pytest.raises(TeamRefused, match="not in"):
        members.set_quotas(gone, {"replicas": 1}, user)
    assert not AuditEntry.objects.filter(action="set quotas of person").exists()


def test_nobody_leaves_or_is_removed_from_a_personal_team(user: User) -> None:
    own = teams.make_personal(user)
    with pytest.raises(TeamRefused, match="stays"):
        members.remove(own.memberships.get(), user)
    with pytest.raises(TeamRefused, match="stays"):
        members.delete_team(own, user)


def test_a_team_that_owns_something_is_not_deleted(user: User, told: list[int]) -> None:
    made = teams.make("Lab", user)
    data = Dataset.objects.create(team=made, name="kept")
    with pytest.raises(TeamRefused, match="datasets"):
        members.delete_team(made, user)
    data.delete()
    members.delete_team(made, user)
    assert not Team.objects.filter(name="Lab").exists() and told == [user.pk]
    entry = AuditEntry.objects.get(action="delete team")
    assert (entry.name, entry.before) == ("Lab", {"name": "Lab"})


# The page


def test_a_viewer_sees_the_members_and_manages_nothing(user: User, bob: Membership) -> None:
    members.change_role(bob, Role.VIEWER, user)
    client = signed_in(bob.user)
    shown = client.get(reverse("team")).content.decode()
    assert "ada" in shown and "Make a link" not in shown and "Remove" not in shown
    for name, args in (("team-invite", []), ("member-role", [bob.pk]), ("member-remove", [bob.pk])):
        assert client.post(reverse(name, args=args), {"role": "admin"}).status_code == 403
    assert client.get(reverse("member", args=[bob.pk])).status_code == 403


def test_a_link_is_shown_once_and_can_be_withdrawn(user: User, team: Team, stranger: User) -> None:
    client = signed_in(user)
    values = {"role": "viewer", "note": '"><img src=x>', "days": "1"}
    made = client.post(reverse("team-invite"), values).content.decode()
    token = made.split("/join/")[1].split("/")[0]
    assert "no-store" in client.post(reverse("team-invite"), values).headers["Cache-Control"]
    assert "<img" not in made
    later = client.get(reverse("team")).content.decode()
    assert token not in later and "/join/" not in later
    row = Invitation.objects.order_by("pk").first()
    assert row is not None
    client.post(reverse("invitation-revoke", args=[row.pk]))
    with pytest.raises(TeamRefused):
        teams.accept(token, stranger)
    assert signed_in(stranger).post(reverse("invitation-revoke", args=[row.pk])).status_code == 404


def test_a_wrong_invitation_keeps_what_was_typed(user: User) -> None:
    answer = signed_in(user).post(reverse("team-invite"), {"role": "king", "note": "for Bob", "days": "7"})
    assert answer.status_code == 422
    shown = answer.content.decode()
    assert "Choose a role." in shown and 'value="for Bob"' in shown
    assert not Invitation.objects.exists()


def test_a_name_another_team_has_is_refused_at_its_field(user: User, stranger: User) -> None:
    answer = signed_in(user).post(reverse("team-rename"), {"name": " other "})
    assert answer.status_code == 422 and "Another team has this name" in answer.content.decode()
    assert 'value=" other "' in answer.content.decode()
    signed_in(user).post(reverse("team-rename"), {"name": "Research"})
    entry = AuditEntry.objects.get(action="rename team")
    assert (entry.before, entry.after) == ({"name": "Default"}, {"name": "Research"})


# Switching


def test_switching_stays_on_lists_and_leaves_what_is_the_other_teams(user: User, team: Team) -> None:
    own = teams.make_personal(user)
    client = signed_in(user)
    for path, after in (
        (reverse("models"), reverse("models")),
        (reverse("deployment", args=[5]), reverse("running")),
        ("/nowhere/at/all/", "/"),
        ("//evil.example/x", "/"),
        ("https://evil.example/", "/"),
        (reverse("team"), reverse("team")),
    ):
        for one in (own, team):
            answer = client.post(reverse("team-switch"), {"team": one.pk, "next": path})
            assert answer.headers["Location"] == after, path
            assert access.team_of(User.objects.get(pk=user.pk)) == one
    other = Team.objects.create(name="Theirs", slug="theirs")
    for pk in (other.pk, "x", ""):
        client.post(reverse("team-switch"), {"team": pk, "next": "/"})
        assert access.team_of(User.objects.get(pk=user.pk)) == team


def test_another_of_ones_teams_things_open_by_link_and_say_whose_they_are(user: User, team: Team) -> None:
    data = Dataset.objects.create(team=team, name="questions")
    teams.switch(user, teams.make_personal(user))
    client = signed_in(user)
    address = reverse("dataset", args=[data.pk])
    shown = client.get(address).content.decode()
    assert "This belongs to <strong>Default</strong>" in shown
    answer = client.post(reverse("team-switch"), {"team": team.pk, "next": address, "stay": "yes"})
    assert answer.headers["Location"] == address
    assert "This belongs to" not in client.get(address).content.decode()


# The site's administrators


def test_only_site_administrators_make_teams_and_see_all(user: User, stranger: User) -> None:
    client = signed_in(stranger)
    assert client.get(reverse("teams")).status_code == 403
    assert client.post(reverse("team-new"), {"name": "Mine"}).status_code == 403
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = signed_in(User.objects.get(pk=user.pk))
    assert "Other" in client.get(reverse("teams")).content.decode()
    assert client.post(reverse("team-new"), {"name": "default"}).status_code == 422
    client.post(reverse("team-new"), {"name": "Lab"})
    made = Team.objects.get(name="Lab")
    assert access.role_in(user, made) == Role.ADMIN
    assert access.team_of(User.objects.get(pk=user.pk)) == made


def test_who_is_shut_out_is_signed_out(user: User, stranger: User, told: list[int]) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client, theirs = signed_in(User.objects.get(pk=user.pk)), signed_in(stranger)
    client.post(reverse("person-active", args=[stranger.pk]), {"wanted": "no"})
    assert theirs.get("/").status_code == 302 and told == [stranger.pk]
    entry = AuditEntry.objects.get(action="shut out")
    assert (entry.before, entry.after) == ({"is_active": True}, {"is_active": False})
    client.post(reverse("person-active", args=[stranger.pk]), {"wanted": "yes"})
    assert User.objects.get(pk=stranger.pk).is_active


def test_the_last_site_administrator_stays_one(user: User, stranger: User) -> None:
    User.objects.filter(is_staff=True).update(is_staff=False)
    people.set_staff(user, True, user)
    for verb in (people.set_staff, people.set_active):
        with pytest.raises(TeamRefused, match="last site administrator"):
            verb(user, False, user)
    people.set_staff(stranger, True, user)
    people.set_staff(user, False, stranger)
    assert User.objects.get(is_staff=True) == stranger
