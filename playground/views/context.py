"""What every page's frame shows. Worked out only where a template asks: fragments pay for none of it."""

from typing import Any, cast

from django.http import Http404, HttpRequest
from django.utils.functional import SimpleLazyObject

from playground import access, frame
from playground.models import Membership, Team, User
from playground.views.request import Request, team_of


def page(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not isinstance(user, User) or not user.is_authenticated:
        return {}
    mine = SimpleLazyObject(lambda: access.teams_of(user))
    team: Any = SimpleLazyObject(lambda: of_page(cast(Request, request)))
    return {
        "team": team,
        "my_teams": mine,
        "role": SimpleLazyObject(lambda: _role(user, team)),
        "navigation": SimpleLazyObject(lambda: frame.navigation(request.path)),
        "bar": SimpleLazyObject(lambda: frame.bar(team, user) if team else {}),
    }


def of_page(request: Request) -> Team | None:
    """The team that the page is of; None for somebody in none. Asked once a request."""
    if not hasattr(request, "page_team"):
        try:
            found: Team | None = team_of(request)
        except access.Refused:
            found = next(iter(access.teams_of(request.user)), None)
        except Http404:
            found = None
        request.page_team = found  # type: ignore[attr-defined]
    kept: Team | None = request.page_team  # type: ignore[attr-defined]
    return kept


def _role(user: User, team: Any) -> str:
    role = access.role_in(user, team) if team else None
    return Membership.Role(role).label if role else ""
