"""What teams and people may take: a team's limits, each person's, one person's own."""

from typing import Any

from django.db.models import Count
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import access, members, quotas
from playground.api.answers import Given
from playground.api.caller import Request, Where, Window, paged, team_of
from playground.api.people import UseShown, member_of
from playground.api.routes import Routes
from playground.api.shapes import Page
from playground.models import Membership, Team

router = Routes(tags=["people and teams"])


class LimitsGiven(Given):
    """All of them, as they are to be from now on; null or absent: none of its own."""

    replicas: int | None = Field(None, ge=0, le=quotas.MOST)
    gpu_hours_day: float | None = Field(None, ge=0, le=quotas.MOST)
    storage_gb: float | None = Field(None, ge=0, le=quotas.MOST)
    batch_rows_day: int | None = Field(None, ge=0, le=quotas.MOST)

    def kept(self) -> dict[str, float]:
        return self.dict(exclude_none=True)


class LimitsShown(Schema):
    """Null: none of its own."""

    replicas: float | None = None
    gpu_hours_day: float | None = None
    storage_gb: float | None = None
    batch_rows_day: float | None = None


class TeamTakes(Schema):
    """A team as site administrators see it."""

    slug: str
    name: str
    personal: bool
    people: int
    limits: LimitsShown
    use: list[UseShown]


class MemberTakes(Schema):
    """What one person takes in the team, and what they may."""

    limits: LimitsShown = Field(description="Set for them; null: as each person's.")
    use: list[UseShown]


@router.reads("/team/person-limits", LimitsShown)
def of_each(request: Request, where: Query[Where]) -> Any:
    """What each person of the team may take."""
    return team_of(request, where).person_quotas


@router.writes("PUT", "/team/person-limits", LimitsShown, needs="manage team")
def set_of_each(request: Request, where: Query[Where], given: LimitsGiven) -> Any:
    """Say what each person of the team may take."""
    team = team_of(request, where, "manage team")
    members.set_team_quotas(team, "person_quotas", given.kept(), request.auth.user)
    return team.person_quotas


@router.reads("/members/{username}/use", MemberTakes, needs="manage team", of=Membership)
def of_person(request: Request, username: str, where: Query[Where]) -> Any:
    """What one person takes of what they may."""
    team = team_of(request, where, "manage team")
    return _member(member_of(request, team, username))


@router.writes("PUT", "/members/{username}/limits", MemberTakes, needs="manage team", of=Membership)
def set_of_person(request: Request, username: str, where: Query[Where], given: LimitsGiven) -> Any:
    """Say what one person may take, instead of what each may."""
    team = team_of(request, where, "manage team")
    row = member_of(request, team, username)
    members.set_quotas(row, given.kept(), request.auth.user)
    return _member(row)


@router.reads("/site/teams", Page[TeamTakes], needs="teams")
def teams(request: Request, window: Query[Window]) -> Any:
    """Every team with what it takes, newest first. For site administrators."""
    access.require_site(request.auth.user, "teams")
    return paged(_teams(), window, _team)


@router.writes("PUT", "/site/teams/{slug}/limits", TeamTakes, needs="teams", of=Team)
def set_of_team(request: Request, slug: str, given: LimitsGiven) -> Any:
    """Say what a team may take. For site administrators."""
    access.require_site(request.auth.user, "teams")
    team = _teams().filter(slug=slug).first()
    if team is None:
        raise Http404("no such team")
    members.set_team_quotas(team, "quotas", given.kept(), request.auth.user)
    return _team(team)


def _teams() -> Any:
    return Team.objects.annotate(people=Count("memberships"))


def _team(row: Any) -> dict[str, Any]:
    told = {"slug": row.slug, "name": row.name, "personal": row.person_id is not None, "people": row.people}
    return told | {"limits": row.quotas, "use": quotas.use(row)}


def _member(row: Membership) -> dict[str, Any]:
    return {"limits": row.quotas, "use": quotas.use(row.team, row.user)}
