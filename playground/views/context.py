"""What every page's frame shows. Worked out only where a template asks: fragments pay for none of it."""

from typing import Any, cast

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from playground import access, frame
from playground.models import Membership, Team, User
from playground.views.request import Request, said


def page(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not isinstance(user, User) or not user.is_authenticated:
        return {}
    mine = SimpleLazyObject(lambda: teams_of(cast(Request, request)))
    team: Any = SimpleLazyObject(lambda: of_page(cast(Request, request)))
    return {
        "team": team,
        "my_teams": mine,
        "role": SimpleLazyObject(lambda: _role(user, team)),
        "navigation": SimpleLazyObject(lambda: frame.navigation(request.path)),
        "bar": SimpleLazyObject(lambda: frame.bar(team, user) if team else {}),
    }


def of_page(request: Request) -> Team | None:
    """The team that the page is of, else the one its person works in; None for somebody in none."""
    mine, wanted = teams_of(request), said(request)
    return next((team for team in mine if str(team.pk) == wanted), next(iter(mine), None))


def teams_of(request: Request) -> list[Team]:
    """The person's teams, the one they work in first: asked once a request."""
    if not hasattr(request, "page_teams"):
        request.page_teams = access.teams_of(request.user)  # type: ignore[attr-defined]
    found: list[Team] = request.page_teams  # type: ignore[attr-defined]
    return found


def _role(user: User, team: Any) -> str:
    role = access.role_in(user, team) if team else None
    return Membership.Role(role).label if role else ""
