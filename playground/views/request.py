"""The request as pages see it: a signed-in person, and whether htmx asks for a fragment."""

from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

from playground import access
from playground.models import Team, User


class Request(HttpRequest):
    """Every page but sign-in gets one of these: `site.page` lets nobody else through."""

    user: User
    htmx: HtmxDetails


def team_of(request: Request) -> Team:
    """The team the person works in now."""
    return access.team_of(request.user)
