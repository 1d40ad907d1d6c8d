"""Who may see and do what. Views and tasks fetch rows only through here; a stranger's row is a 404."""

from django.core.exceptions import PermissionDenied
from django.db.models import Model as DjangoModel
from django.db.models import QuerySet
from django.http import Http404

from playground.models import AuditEntry, Membership, Team, User

# What each role may do, each including the ones before it.
ROLES = [Membership.Role.VIEWER, Membership.Role.MEMBER, Membership.Role.OPERATOR, Membership.Role.ADMIN]
NEEDS = {
    "view": Membership.Role.VIEWER,
    "chat": Membership.Role.MEMBER,
    "start": Membership.Role.OPERATOR,
    "stop": Membership.Role.OPERATOR,
    "promote": Membership.Role.OPERATOR,
    "install": Membership.Role.ADMIN,
    "keys": Membership.Role.OPERATOR,
    "add models": Membership.Role.MEMBER,
    "remove models": Membership.Role.OPERATOR,
    "tokens": Membership.Role.ADMIN,
    "allow code": Membership.Role.ADMIN,
    "external": Membership.Role.ADMIN,
    "extra arguments": Membership.Role.ADMIN,
}


class Refused(PermissionDenied):
    """This person may not do that; the text says what is needed."""


def team_of(user: User) -> Team:
    """The team a person works in now."""
    membership = user.memberships.select_related("team").order_by("id").first()
    if membership is None:
        raise Http404("no team")
    return membership.team


def role_in(user: User, team: Team) -> str | None:
    return user.memberships.filter(team=team).values_list("role", flat=True).first()


def can(user: User, action: str, team: Team) -> bool:
    """Whether `user` may do `action` (a key of NEEDS) in `team`."""
    role = role_in(user, team)
    return role is not None and ROLES.index(Membership.Role(role)) >= ROLES.index(NEEDS[action])


def holders(action: str, team: Team) -> list[User]:
    """The people of `team` who may do `action`: whom to ask."""
    roles = ROLES[ROLES.index(NEEDS[action]) :]
    people = User.objects.filter(memberships__team=team, memberships__role__in=roles, is_active=True)
    return list(people.order_by("username"))


def require(user: User, action: str, team: Team) -> None:
    """Raise Refused, and keep an audit row, unless `user` may do `action` in `team`."""
    if not can(user, action, team):
        audit(user, team, f"refused {action}", f"team:{team.pk}")
        raise Refused(
            f"This needs the role of {Membership.Role(NEEDS[action]).label.lower()} in {team.name}."
        )


def visible[Row: DjangoModel](user: User, rows: QuerySet[Row]) -> QuerySet[Row]:
    """The rows of `rows` (any TeamOwned) that `user`'s teams own."""
    return rows.filter(team__memberships__user=user)


def fetch[Row: DjangoModel](user: User, rows: QuerySet[Row], pk: int | str, *, write: bool = False) -> Row:
    """One visible row, or Http404. A refused write leaves an audit row: someone tried another's object."""
    row = visible(user, rows).filter(pk=pk).first()
    if row is None:
        if write:
            audit(user, None, "refused write", f"{rows.model._meta.model_name}:{pk}")
        raise Http404(f"no such {rows.model._meta.verbose_name}")
    return row


def audit(user: User | None, team: Team | None, action: str, object: str, **detail: object) -> None:
    AuditEntry.objects.create(user=user, team=team, action=action[:60], object=object[:120], detail=detail)
