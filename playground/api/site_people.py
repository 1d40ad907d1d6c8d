"""Leaving a team, and the people of the whole site, for its administrators."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema

from playground import access, members, people
from playground.api.answers import Given
from playground.api.caller import Request, Where, Window, paged, team_of
from playground.api.routes import Routes
from playground.api.shapes import Page
from playground.models import Membership, User

router = Routes(tags=["people and teams"])


class PersonShown(Schema):
    """Somebody with an account."""

    id: int
    username: str
    name: str
    email: str
    administers_site: bool
    active: bool
    teams: list[str]
    joined_at: datetime

    @staticmethod
    def resolve_name(row: User) -> str:
        return row.get_full_name()

    @staticmethod
    def resolve_administers_site(row: User) -> bool:
        return row.is_staff

    @staticmethod
    def resolve_active(row: User) -> bool:
        return row.is_active

    @staticmethod
    def resolve_teams(row: User) -> list[str]:
        return [one.team.slug for one in row.memberships.all()]

    @staticmethod
    def resolve_joined_at(row: User) -> datetime:
        return row.date_joined


class PersonChange(Given):
    """What is absent stays."""

    administers_site: bool | None = None
    active: bool | None = None


@router.writes("POST", "/team/leave", None, needs="view")
def leave(request: Request, where: Query[Where]) -> Any:
    """Be in it no more. Its last administrator stays."""
    team = team_of(request, where)
    row = Membership.objects.select_related("user", "team").get(user=request.auth.user, team=team)
    members.remove(row, request.auth.user)


@router.reads("/site/people", Page[PersonShown], needs="teams")
def listing(request: Request, window: Query[Window]) -> Any:
    """Everybody, newest first. For site administrators."""
    access.require_site(request.auth.user, "teams")
    return paged(_rows(), window)


@router.writes("PATCH", "/site/people/{username}", PersonShown, needs="teams", of=User)
def change(request: Request, username: str, given: PersonChange) -> Any:
    """Make a site administrator of somebody, shut them out, or take that back. For site administrators."""
    access.require_site(request.auth.user, "teams")
    row = User.objects.filter(username=username).first()
    if row is None:
        raise Http404("nobody has that name")
    if given.administers_site is not None:
        people.set_staff(row, given.administers_site, request.auth.user)
    if given.active is not None:
        people.set_active(row, given.active, request.auth.user)
    return _rows().get(pk=row.pk)


def _rows() -> QuerySet[User]:
    return User.objects.prefetch_related("memberships__team")
