"""The request as pages see it: a signed-in person, whether htmx asks for a fragment, and for which team."""

from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

from playground import access
from playground.models import Team, User

# How a page says of which team it was: a field of its forms, a header of what its scripts ask.
FIELD, HEADER = "in_team", "X-Team"


class Request(HttpRequest):
    """Every page but sign-in gets one of these: `site.page` lets nobody else through."""

    user: User
    htmx: HtmxDetails


def said(request: Request) -> str:
    """The key of the team that the page which asks says it was of; empty where it says none."""
    return request.headers.get(HEADER) or (request.POST.get(FIELD, "") if request.method == "POST" else "")


def team_of(request: Request) -> Team:
    """The team of the page that asks, which may be open since before the person went to another; else the
    one they work in now. Refused where they are not in the page's team any more.
    """
    wanted = said(request)
    if not wanted:
        return access.team_of(request.user)
    found = next((team for team in access.teams_of(request.user) if str(team.pk) == wanted), None)
    if found is None:
        raise access.Refused("You are not in the team this page was of any more. Open the page anew.")
    return found


def number(text: str) -> int | None:
    """A row's number as an address or a form has it; None for what is none, however long it is."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
