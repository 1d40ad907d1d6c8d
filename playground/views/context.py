"""What every page's frame shows. Worked out only where a template asks: fragments pay for none of it."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from playground import access, frame
from playground.models import Membership, User


def page(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not isinstance(user, User) or not user.is_authenticated:
        return {}
    mine = SimpleLazyObject(lambda: access.teams_of(user))
    team: Any = SimpleLazyObject(lambda: mine[0] if mine else None)
    return {
        "team": team,
        "my_teams": mine,
        "role": SimpleLazyObject(lambda: _role(user, team)),
        "navigation": SimpleLazyObject(lambda: frame.navigation(request.path)),
        "bar": SimpleLazyObject(lambda: frame.bar(team, user) if team else {}),
    }


def _role(user: User, team: Any) -> str:
    role = access.role_in(user, team) if team else None
    return Membership.Role(role).label if role else ""
