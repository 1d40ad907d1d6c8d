"""Who may see and do what. Views and tasks fetch rows only through here; a stranger's row is a 404.

What a role may do is in NEEDS, and nowhere else. Rows belong to a team; what belongs to the site (nodes,
engines, teams themselves) is for site administrators, `User.is_staff`. What a team shares in part (`Shared`)
is its owner's and the team's administrators', and the others' as far as its `sharing` says.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from django.core.exceptions import PermissionDenied
from django.db.models import Model as DjangoModel
from django.db.models import Q, QuerySet
from django.http import Http404

from playground import acting
from playground.models import AuditEntry, Membership, Shared, Team, User

# What each role may do, each including the ones before it.
ROLES = [Membership.Role.VIEWER, Membership.Role.MEMBER, Membership.Role.OPERATOR, Membership.Role.ADMIN]
SITE = "site"
EDIT, VIEW, PRIVATE = Shared.Sharing.EDIT, Shared.Sharing.VIEW, Shared.Sharing.PRIVATE
NEEDS: dict[str, str] = {
    "view": Membership.Role.VIEWER,
    "chat": Membership.Role.MEMBER,
    "start": Membership.Role.OPERATOR,
    "stop": Membership.Role.OPERATOR,
    "promote": Membership.Role.OPERATOR,
    "keys": Membership.Role.OPERATOR,
    "add models": Membership.Role.MEMBER,
    "remove models": Membership.Role.OPERATOR,
    "tokens": Membership.Role.ADMIN,
    "external": Membership.Role.ADMIN,
    "manage team": Membership.Role.ADMIN,
    "ask": Membership.Role.VIEWER,
    # What every team's models run on, and what runs there as the site itself. A team's administrator is not
    # enough for those: everybody is one in the team of their own.
    "install": SITE,
    "price": SITE,
    "allow code": SITE,
    "extra arguments": SITE,
    "teams": SITE,
}


class Refused(PermissionDenied):
    """This person may not do that; the text says what is needed."""


class Owned(Protocol):
    """A row of a team's."""

    team: Any


def teams_of(user: User) -> list[Team]:
    """The teams a person belongs to: the one they work in now first, their personal one last."""
    rows = user.memberships.select_related("team").order_by("id")
    order = sorted(
        rows, key=lambda row: (row.team_id != user.team_id, row.team.person_id is not None, row.pk)
    )
    return [row.team for row in order]


def team_of(user: User) -> Team:
    """The team a person works in now; Http404 for one who is in none."""
    found = teams_of(user)
    if not found:
        raise Http404("no team")
    return found[0]


def role_in(user: User, team: Team) -> str | None:
    return user.memberships.filter(team=team).values_list("role", flat=True).first()


def can(user: User, action: str, where: Team | Owned) -> bool:
    """Whether `user` may do `action` (a key of NEEDS) in a team, or with a row of a team.

    The site's actions need a site administrator, who is no member of other teams for that. Of a row that is
    shared in part, its `sharing` is asked too.
    """
    role = role_in(user, _team(where))
    if NEEDS[action] == SITE:
        return role is not None and user.is_staff
    if role is None or _rank(role) < _rank(NEEDS[action]):
        return False
    return not isinstance(where, Shared) or _is_let_in(user, role, action, where)


def _is_let_in(user: User, role: str, action: str, row: Shared) -> bool:
    if row.created_by_id == user.pk or role == Membership.Role.ADMIN:
        return True
    return row.sharing == EDIT or (row.sharing == VIEW and NEEDS[action] == Membership.Role.VIEWER)


def holds(user: User, row: Shared) -> bool:
    """Whether `user` may say what others of the team may do with it: its owner, and administrators."""
    return row.created_by_id == user.pk or role_in(user, row.team) == Membership.Role.ADMIN


def _rank(role: str) -> int:
    return ROLES.index(Membership.Role(role))


def holders(action: str, team: Team) -> list[User]:
    """The people of `team` who may do `action`: whom to ask. For what is the site's, its administrators."""
    if NEEDS[action] == SITE:
        return list(User.objects.filter(is_staff=True, is_active=True).order_by("username"))
    roles = ROLES[_rank(NEEDS[action]) :]
    people = User.objects.filter(memberships__team=team, memberships__role__in=roles, is_active=True)
    return list(people.order_by("username"))


def _team(where: Team | Owned) -> Team:
    found = where if isinstance(where, Team) else where.team
    assert isinstance(found, Team)
    return found


def require(user: User, action: str, where: Team | Owned) -> None:
    """Raise Refused, and keep an audit row, unless `user` may do `action` there: see `can`."""
    if can(user, action, where):
        return
    team = _team(where)
    if isinstance(where, Shared) and can(user, action, team):
        audit(user, team, f"refused {action}", f"{where._meta.model_name}:{where.pk}")
        raise Refused(reading_only(where))
    audit(user, team, f"refused {action}", f"team:{team.pk}")
    raise Refused(_needed(action, team))


def kept_private(row: Shared) -> str:
    """The sharing of what somebody makes of `row` for themselves: of something private it is private, too."""
    return PRIVATE if row.sharing == PRIVATE else EDIT


def reading_only(row: Shared) -> str:
    """What a person who may only read there is told."""
    owner = row.created_by.get_username() if row.created_by else "an administrator"
    return f"This {row._meta.verbose_name} is shared to be read. Ask {owner} to let the team write."


def require_site(user: User, action: str) -> None:
    """The same for what no team owns: raise Refused unless `user` is a site administrator."""
    if not user.is_staff:
        audit(user, None, f"refused {action}", "site")
        raise Refused(_SITE_ONLY)


_SITE_ONLY = "This is for the site's administrators: it concerns every team."


def _needed(action: str, team: Team) -> str:
    if NEEDS[action] == SITE:
        return _SITE_ONLY
    return f"This needs the role of {Membership.Role(NEEDS[action]).label.lower()} in {team.name}."


def visible_to[Row: DjangoModel](user: User, rows: QuerySet[Row]) -> QuerySet[Row]:
    """The rows of `rows` (any TeamOwned) that `user`'s teams own; of those, no private ones of others."""
    mine = Q(team__memberships__user=user)
    if not issubclass(rows.model, Shared):
        return rows.filter(mine)
    held = Q(created_by=user) | Q(team__memberships__role=Membership.Role.ADMIN)
    return rows.filter(mine, ~Q(sharing=PRIVATE) | held)


def listed_to[Row: Shared](user: User, rows: QuerySet[Row]) -> QuerySet[Row]:
    """Those that pages list: what is private to others an administrator opens by its address alone."""
    own = Q(created_by=user) | Q(created_by=None)
    return visible_to(user, rows).filter(~Q(sharing=PRIVATE) | own)


def fetch[Row: DjangoModel](user: User, rows: QuerySet[Row], pk: int | str, *, write: bool = False) -> Row:
    """One visible row, or Http404. A refused write leaves an audit row: someone tried another's object."""
    row = visible_to(user, rows).filter(pk=pk).first()
    if row is None:
        if write:
            audit(user, None, "refused write", f"{rows.model._meta.model_name}:{pk}")
        raise Http404(f"no such {rows.model._meta.verbose_name}")
    return row


def audit(
    user: User | None,
    team: Team | None,
    action: str,
    object: str,
    *,
    name: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    **detail: Any,
) -> None:
    """Remember an act for ever: `object` is "kind:key", `name` what people call it.

    `before` and `after` hold the fields that changed, of a change; secrets never. From where it came is
    `acting.now`'s.
    """
    here = acting.now()
    if user and here.who:
        detail = {"token": here.who} | detail
    AuditEntry.objects.create(
        user=user,
        team=team,
        action=action[:60],
        object=object[:120],
        who=user.get_username() if user else here.who[:150],
        team_name=team.name if team else "",
        name=name[:200],
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
        address=here.address or None,
        via=here.via,
        detail=detail,
    )
