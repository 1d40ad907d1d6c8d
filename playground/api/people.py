"""Who one is, one's teams, who is in them, and who may come."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import access, audit, members, quotas, teams, tokens
from playground.api.answers import Given, Problem
from playground.api.caller import SAFE, Request, Where, Window, paged, team_of
from playground.api.routes import Routes
from playground.api.shapes import Page, person
from playground.declared import SELF
from playground.models import AccessToken, AuditEntry, Invitation, Membership, Team

router = Routes(tags=["people and teams"])


class TeamShown(Schema):
    """A team and what the caller is in it."""

    slug: str
    name: str
    personal: bool
    role: str


class Me(Schema):
    """Who calls."""

    username: str
    name: str
    email: str
    administers_site: bool
    token: str | None = Field(description="The token's name; null when signed in.")
    scope: str
    teams: list[TeamShown]


class MemberShown(Schema):
    """Somebody in a team."""

    id: int
    username: str
    name: str
    role: str
    joined_at: datetime

    @staticmethod
    def resolve_username(row: Membership) -> str:
        return row.user.get_username()

    @staticmethod
    def resolve_name(row: Membership) -> str:
        return row.user.get_full_name()


class Name(Given):
    """What it is called."""

    name: str = Field(max_length=80)


class UseShown(Schema):
    """One limit and what is used of it."""

    name: str
    used: float
    most: float | None = Field(description="Null: no limit.")


class Role(Given):
    """viewer, member, operator or admin."""

    role: str = Field(max_length=16)


class InvitationShown(Schema):
    """Who may come."""

    id: int
    role: str
    note: str
    created_by: str | None
    created_at: datetime
    expires_at: datetime
    used_by: str | None
    used_at: datetime | None
    revoked_at: datetime | None

    @staticmethod
    def resolve_created_by(row: Invitation) -> str | None:
        return person(row.created_by)

    @staticmethod
    def resolve_used_by(row: Invitation) -> str | None:
        return person(row.used_by)


class InvitationGiven(Given):
    """Whom to invite as what."""

    role: str = Field(Membership.Role.MEMBER.value, max_length=16)
    note: str = Field("", max_length=120, description="For whom it is.")
    days: int = Field(7, ge=1, le=teams.DAYS_AT_MOST)


class Invited(InvitationShown):
    """With its link's token, which is told this once."""

    token: str = Field(description="The link is /join/<token>/.")


class TokenShown(Schema):
    """One of the caller's tokens; its secret is kept nowhere."""

    id: int
    name: str
    prefix: str
    scope: str
    team: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @staticmethod
    def resolve_team(row: AccessToken) -> str | None:
        return row.team.slug if row.team else None


class EntryShown(Schema):
    """One act, refused ones included."""

    id: int
    at: datetime
    who: str
    team: str
    action: str
    object: str
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    detail: dict[str, Any]
    address: str | None
    via: str

    @staticmethod
    def resolve_team(row: AuditEntry) -> str:
        return row.team_name


@router.reads("/me", Me, needs=SELF)
def me(request: Request) -> Any:
    """Who calls, and their teams."""
    user, token = request.auth.user, request.auth.token
    return {
        "username": user.get_username(),
        "name": user.get_full_name(),
        "email": user.email,
        "administers_site": user.is_staff,
        "token": token.name if token else None,
        "scope": token.scope if token else "write",
        "teams": [_team(row) for row in _memberships(request)],
    }


@router.reads("/teams", list[TeamShown], needs=SELF)
def teams_list(request: Request) -> Any:
    """The caller's teams."""
    return [_team(row) for row in _memberships(request)]


@router.writes("POST", "/teams", TeamShown, needs="teams", status=201)
def team_make(request: Request, given: Name) -> Any:
    """A new team, whose maker is its first administrator. For site administrators."""
    access.require_site(request.auth.user, "teams")
    made = teams.make(given.name, request.auth.user)
    return _team(made.memberships.select_related("team").get(user=request.auth.user))


@router.writes("PATCH", "/team", TeamShown, needs="manage team")
def team_rename(request: Request, where: Query[Where], given: Name) -> Any:
    """Another name for the team. Its slug stays."""
    team = team_of(request, where, "manage team")
    teams.rename(team, given.name, request.auth.user)
    return _team(team.memberships.select_related("team").get(user=request.auth.user))


@router.writes("DELETE", "/team", None, needs="manage team")
def team_delete(request: Request, where: Query[Where]) -> Any:
    """Delete a team that nothing belongs to any more."""
    members.delete_team(team_of(request, where, "manage team"), request.auth.user)


@router.reads("/team/use", list[UseShown])
def team_use(request: Request, where: Query[Where]) -> Any:
    """What the team takes of what it may: replicas, GPU-hours and batch rows today, storage."""
    return quotas.use(team_of(request, where))


@router.reads("/members", list[MemberShown])
def members_list(request: Request, where: Query[Where]) -> Any:
    """Who is in the team."""
    return members.of(team_of(request, where))


@router.writes("PATCH", "/members/{username}", MemberShown, needs="manage team", of=Membership)
def member_change(request: Request, username: str, where: Query[Where], given: Role) -> Any:
    """Another role."""
    team = team_of(request, where, "manage team")
    row = member_of(request, team, username)
    members.change_role(row, given.role, request.auth.user)
    return member_of(request, team, username)


@router.writes("DELETE", "/members/{username}", None, needs="manage team", of=Membership)
def member_remove(request: Request, username: str, where: Query[Where]) -> Any:
    """Out of the team; what they made stays."""
    team = team_of(request, where, "manage team")
    members.remove(member_of(request, team, username), request.auth.user)


@router.reads("/invitations", Page[InvitationShown], needs="manage team")
def invitations(request: Request, window: Query[Window]) -> Any:
    """Those of the team, open ones and others."""
    team = team_of(request, window, "manage team")
    return paged(team.invitations.select_related("created_by", "used_by"), window)


@router.writes("POST", "/invitations", Invited, needs="manage team", status=201)
def invite(request: Request, where: Query[Where], given: InvitationGiven) -> Any:
    """A link that lets one person in, once."""
    team = team_of(request, where, "manage team")
    row, token = teams.invite(team, given.role, request.auth.user, given.note, given.days)
    row.token = token  # type: ignore[attr-defined]
    return row


@router.writes("DELETE", "/invitations/{pk}", None, needs="manage team", of=Invitation)
def invitation_revoke(request: Request, pk: int, where: Query[Where]) -> Any:
    """Nobody joins by it any more."""
    team = team_of(request, where, "manage team")
    row = team.invitations.select_related("team").filter(pk=pk).first()
    if row is None:
        access.audit(request.auth.user, None, "refused write", f"invitation:{pk}")
        raise Http404("no such invitation")
    if not teams.revoke(row, request.auth.user):
        raise Problem(409, "conflict", "It is used, revoked, or past its end already.")


@router.reads("/tokens", list[TokenShown], needs=SELF)
def tokens_list(request: Request) -> Any:
    """The caller's tokens. They are made on their page, so that one cannot make another."""
    return list(_tokens(request))


@router.writes("DELETE", "/tokens/{pk}", None, needs=SELF, of=AccessToken)
def token_revoke(request: Request, pk: int) -> Any:
    """Refuse one of the caller's tokens from now on, this one included."""
    row = _tokens(request).filter(pk=pk).first()
    if row is None:
        access.audit(request.auth.user, None, "refused write", f"token:{pk}")
        raise Http404("no such token")
    tokens.revoke(row, request.auth.user)


@router.reads("/audit", Page[EntryShown], needs="manage team")
def audit_log(request: Request, window: Query[Window], text: str = "", refused: bool = False) -> Any:
    """What was done in the team, by whom and from where; refused acts, too."""
    team = team_of(request, window, "manage team")
    wish = audit.Wish(text=text, refused=refused, team=team)
    return paged(audit.find(audit.seen_by(request.auth.user), wish), window)


def _tokens(request: Request) -> QuerySet[AccessToken]:
    """The caller's; by a token for one team, those for that team."""
    return request.auth.within(tokens.of(request.auth.user))


def _memberships(request: Request) -> list[Membership]:
    caller = request.auth
    rows = caller.user.memberships.select_related("team").order_by("pk")
    held = caller.token.team_id if caller.token else None
    return [row for row in rows if held in (None, row.team_id)]


def _team(row: Membership) -> dict[str, Any]:
    team: Team = row.team
    personal = team.person_id is not None
    return {"slug": team.slug, "name": team.name, "personal": personal, "role": row.role}


def member_of(request: Request, team: Team, username: str) -> Membership:
    """The team's member of that name. A write to one who is not there leaves an audit row."""
    row = team.memberships.select_related("user", "team").filter(user__username=username).first()
    if row is None:
        if request.method not in SAFE:
            access.audit(request.auth.user, None, "refused write", f"member:{username}")
        raise Http404("nobody of that name is in the team")
    return row
