"""For site administrators: every team with what it takes, and every person."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from playground import members, people, quotas, teams
from playground.models import Team, User
from playground.teams import TeamRefused
from playground.views.request import Request
from playground.views.teams import limits


def page(request: Request) -> HttpResponse:
    return _shown(request)


def _shown(request: Request, status: int = 200, **more: Any) -> HttpResponse:
    rows = Team.objects.order_by("person", "name").prefetch_related("memberships")
    found = User.objects.order_by("username").prefetch_related("memberships__team")
    context = {
        "teams": [(team, quotas.use(team)) for team in rows if team.person_id is None],
        "personal": [(team, quotas.use(team)) for team in rows if team.person_id is not None],
        "titles": quotas.TITLES,
        "people": found,
        "wrong": {},
    }
    return render(request, "playground/teams.html", context | more, status=status)


@require_POST
def make(request: Request) -> HttpResponse:
    """A new team, whose maker is its first administrator and works in it now."""
    name = request.POST.get("name", "")
    try:
        team = teams.make(name, request.user)
    except TeamRefused as refusal:
        return _shown(request, 422, wrong={"name": str(refusal)}, typed={"name": name[:200]})
    teams.switch(request.user, team)
    messages.success(request, f"{team.name} is made. Invite its people.")
    return redirect("team")


def one(request: Request, pk: int) -> HttpResponse:
    """GET: a team's name, use and limits; POST: change them."""
    team = get_object_or_404(Team, pk=pk)
    context: dict[str, Any] = {"one": team, "limits": limits(team.quotas), "name": team.name, "wrong": {}}
    status = 200
    if request.method == "POST":
        clean, wrong = quotas.parse(request.POST.dict())
        name = request.POST.get("name", "")
        if not wrong:
            try:
                teams.rename(team, name, request.user)
            except TeamRefused as refusal:
                wrong["name"] = str(refusal)
        if not wrong:
            members.set_team_quotas(team, "quotas", clean, request.user)
            messages.success(request, f"{team.name} was changed.")
            return redirect("teams")
        context |= {"wrong": wrong, "limits": limits({}, request.POST.dict()), "name": name[:200]}
        status = 422
    lines = quotas.use(team)
    return render(request, "playground/team_limits.html", context | {"lines": lines}, status=status)


@require_POST
def staff(request: Request, pk: int) -> HttpResponse:
    """Make a person a site administrator, or not one any more."""
    person, wanted = get_object_or_404(User, pk=pk), request.POST.get("wanted") == "yes"
    try:
        people.set_staff(person, wanted, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
    else:
        words = "is a site administrator now" if wanted else "is no site administrator any more"
        messages.success(request, f"{person.get_username()} {words}.")
    return redirect("teams")


@require_POST
def active(request: Request, pk: int) -> HttpResponse:
    """Shut a person out, or let them in again."""
    person, wanted = get_object_or_404(User, pk=pk), request.POST.get("wanted") == "yes"
    try:
        people.set_active(person, wanted, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
    else:
        words = "may sign in again" if wanted else "cannot sign in any more"
        messages.success(request, f"{person.get_username()} {words}.")
    return redirect("teams")
