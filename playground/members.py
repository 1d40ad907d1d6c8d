"""Who is in a team and as what: roles, leaving, being removed, what each may take.

A team keeps an administrator: the verbs hold its row, so that the last two cannot leave at once. Whoever's
standing changed, their sockets are looked at anew. That whoever asks may do it was judged before.
"""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.utils import timezone

from playground import access, events, quotas
from playground.models import Invitation, Membership, Team, User
from playground.teams import TeamRefused

Role = Membership.Role


def of(team: Team) -> list[Membership]:
    """Everybody in a team, administrators first."""
    rows = team.memberships.select_related("user", "team")
    return sorted(rows, key=lambda row: (-access.ROLES.index(Role(row.role)), row.user.username.lower()))


def change_role(row: Membership, role: str, by: User) -> None:
    """TeamRefused when nobody would be left as administrator."""
    if role not in Role.values:
        raise TeamRefused("Choose a role.", "role")
    _refuse_personal(row.team)
    with transaction.atomic():
        before = _held(row)
        if before == role:
            return
        _refuse_last(row, before)
        Membership.objects.filter(pk=row.pk).update(role=role)
        if before == Role.ADMIN:
            withdraw_invitations(_made_by(row))
        _told(row, "change role", by, before={"role": before}, after={"role": role})


def remove(row: Membership, by: User) -> None:
    """The person is out: nothing of the team opens for them any more. What they made stays the team's."""
    _refuse_personal(row.team)
    with transaction.atomic():
        before = _held(row)
        _refuse_last(row, before)
        withdraw_invitations(_made_by(row))
        User.objects.filter(pk=row.user_id, team=row.team).update(team=None)
        Membership.objects.filter(pk=row.pk).delete()
        verb = "leave team" if by.pk == row.user_id else "remove member"
        _told(row, verb, by, before={"role": before})


def set_quotas(row: Membership, wanted: Mapping[str, Any], by: User) -> None:
    """What this person may take in this team, instead of what each may; TeamRefused for one who is out."""
    with transaction.atomic():
        _held(row)
        row.refresh_from_db(fields=["quotas"])
        before, row.quotas = row.quotas, dict(wanted)
        row.save(update_fields=["quotas"])
        _told(row, "set quotas of person", by, before=before, after=row.quotas)


def set_team_quotas(team: Team, field: str, wanted: Mapping[str, Any], by: User) -> None:
    """`field`: "quotas", of all together, or "person_quotas", of each."""
    before = getattr(team, field)
    setattr(team, field, dict(wanted))
    with transaction.atomic():
        team.save(update_fields=[field])
        change = {"before": {field: before}, "after": {field: dict(wanted)}}
        access.audit(by, team, "set quotas", f"team:{team.pk}", name=team.name, **change)
        quotas.announce(team)


def delete_team(team: Team, by: User) -> None:
    """An empty team goes, with its invitations; TeamRefused while anything is the team's."""
    _refuse_personal(team)
    if team.slug == "default":
        raise TeamRefused("This team is the site's own: it stays.")
    people = list(team.memberships.values_list("user", flat=True))
    key, name = team.pk, team.name
    try:
        with transaction.atomic():
            access.audit(by, None, "delete team", f"team:{key}", name=name, before={"name": name})
            team.delete()
            events.standing(*people)
    except ProtectedError as problem:
        kinds = {str(row._meta.verbose_name_plural) for row in problem.protected_objects}
        raise TeamRefused(f"Remove what is the team's first: {', '.join(sorted(kinds))}.") from problem


def _held(row: Membership) -> str:
    """The row's role as it is now, the team's row held; TeamRefused for one who is out already."""
    Team.objects.select_for_update(no_key=True).get(pk=row.team_id)
    role = Membership.objects.filter(pk=row.pk).values_list("role", flat=True).first()
    if role is None:
        raise TeamRefused(f"{row.user.get_username()} is not in {row.team.name} any more.")
    return role


def _refuse_last(row: Membership, role: str) -> None:
    """Somebody must be left who may let others in. Whoever cannot sign in is nobody here."""
    others = row.team.memberships.filter(role=Role.ADMIN, user__is_active=True).exclude(pk=row.pk)
    if role == Role.ADMIN and not others.exists():
        raise TeamRefused(
            f"{row.user.get_username()} is the last administrator of {row.team.name}: make another one first."
        )


def _refuse_personal(team: Team) -> None:
    if team.person_id is not None:
        raise TeamRefused("A personal team stays its person's.")


def _made_by(row: Membership) -> QuerySet[Invitation]:
    return Invitation.objects.filter(team=row.team, created_by=row.user)


def withdraw_invitations(made: QuerySet[Invitation]) -> None:
    """Nobody comes back by a link they made while they could."""
    made.filter(used_at=None, revoked_at=None).update(revoked_at=timezone.now())


def _told(row: Membership, verb: str, by: User, **change: Any) -> None:
    access.audit(by, row.team, verb, f"user:{row.user_id}", name=row.user.get_username(), **change)
    events.standing(row.user_id)
    events.notify(row.team_id, "team")
