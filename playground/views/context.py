"""What every page's frame shows. Worked out only where a template asks: fragments pay for none of it."""

from typing import Any

from django.http import Http404, HttpRequest
from django.utils.functional import SimpleLazyObject

from playground import access, frame
from playground.models import Membership, Team, User


def page(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not isinstance(user, User) or not user.is_authenticated:
        return {}
    team = SimpleLazyObject(lambda: _team(user))
    return {
        "team": team,
        "role": SimpleLazyObject(lambda: _role(user, team)),
        "navigation": SimpleLazyObject(lambda: frame.navigation(request.path)),
        "bar": SimpleLazyObject(lambda: _bar(user)),
    }


def _team(user: User) -> Team | None:
    try:
        return access.team_of(user)
    except Http404:
        return None


def _bar(user: User) -> dict[str, Any]:
    team = _team(user)
    return frame.bar(team) if team else {}


def _role(user: User, team: Any) -> str:
    role = access.role_in(user, team) if team else None
    return Membership.Role(role).label if role else ""
