"""The team a person works in: its people, invitations and limits; switching to another of theirs."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import Resolver404, resolve, reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from playground import access, frame, members, quotas, teams
from playground.models import Invitation, Membership, Team
from playground.teams import TeamRefused
from playground.views.request import Request, team_of

Role = Membership.Role
DAYS = (1, 7, 30)


@never_cache
def page(request: Request) -> HttpResponse:
    return _shown(request)


def _shown(request: Request, status: int = 200, **more: Any) -> HttpResponse:
    """The page; `more` is what a refused form says and what was typed, or a link just made."""
    team = team_of(request)
    may_manage = access.can(request.user, "manage team", team)
    context = {
        "members": members.of(team),
        "roles": Role.choices,
        "may_manage": may_manage,
        "may_leave": team.person_id is None,
        "invitations": _invitations(team) if may_manage and team.person_id is None else None,
        "days": DAYS,
        "lines": quotas.use(team),
        "own_lines": [line for line in quotas.use(team, request.user) if line.most is not None],
        "person_limits": limits(team.person_quotas),
        "raisers": access.holders("teams", team),
        "typed": {"role": Role.MEMBER, "days": "7"},
        "wrong": {},
    }
    return render(request, "playground/team.html", context | more, status=status)


def limits(kept: dict[str, Any], typed: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
    """(name, title, text) of each limit, as a form shows it."""
    given = {name: f"{value:g}" if value < 10**6 else f"{value:.0f}" for name, value in kept.items()}
    return [(name, title, (typed or given).get(name, "")) for name, title in quotas.TITLES.items()]


def _invitations(team: Team) -> list[tuple[Invitation, str]]:
    """The newest ones, each with how it stands."""
    rows = team.invitations.select_related("created_by", "used_by").order_by("-pk")[:30]
    return [(row, _stands(row)) for row in rows]


def _stands(row: Invitation) -> str:
    if row.used_at:
        return "used"
    if row.revoked_at:
        return "withdrawn"
    return "open" if row.expires_at > timezone.now() else "too old"


@require_POST
def rename(request: Request) -> HttpResponse:
    team = _managed(request)
    try:
        teams.rename(team, request.POST.get("name", ""), request.user)
    except TeamRefused as refusal:
        typed = {"name": request.POST.get("name", "")[:200]}
        return _shown(request, 422, wrong={"name": str(refusal)}, renaming=typed)
    messages.success(request, "The team was renamed.")
    return redirect("team")


@never_cache
@require_POST
def invite(request: Request) -> HttpResponse:
    """Make a link. It is in this answer only."""
    team = _managed(request)
    posted = request.POST
    typed = {name: posted.get(name, "")[:200] for name in ("role", "note", "days")}
    days = int(typed["days"]) if typed["days"].isascii() and typed["days"].isdigit() else 0
    try:
        row, token = teams.invite(team, typed["role"], request.user, typed["note"], days)
    except TeamRefused as refusal:
        return _shown(request, 422, wrong={refusal.field or "invite": str(refusal)}, typed=typed)
    address = request.build_absolute_uri(reverse("invitation", args=[token]))
    return _shown(request, 201, made=row, address=address)


@require_POST
def revoke(request: Request, pk: int) -> HttpResponse:
    row = access.fetch(request.user, Invitation.objects.select_related("team"), pk, write=True)
    access.require(request.user, "manage team", row.team)
    if teams.revoke(row, request.user):
        messages.success(request, "The invitation was withdrawn.")
    else:
        messages.error(request, "It was used or withdrawn before.")
    return redirect("team")


@require_POST
def role(request: Request, pk: int) -> HttpResponse:
    row = _membership(request, pk)
    try:
        members.change_role(row, request.POST.get("role", ""), request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"The role of {row.user.get_username()} was changed.")
    return redirect("team")


@require_POST
def remove(request: Request, pk: int) -> HttpResponse:
    row = _membership(request, pk)
    try:
        members.remove(row, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"{row.user.get_username()} is not in {row.team.name} any more.")
    return redirect("team" if row.user_id != request.user.pk else "home")


@require_POST
def leave(request: Request) -> HttpResponse:
    team = team_of(request)
    row = Membership.objects.select_related("user", "team").get(user=request.user, team=team)
    try:
        members.remove(row, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("team")
    messages.success(request, f"You are not in {team.name} any more.")
    return redirect("home")


@require_POST
def delete(request: Request) -> HttpResponse:
    team = _managed(request)
    try:
        members.delete_team(team, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("team")
    messages.success(request, f"{team.name} was deleted.")
    return redirect("home")


@require_POST
def person_quotas(request: Request) -> HttpResponse:
    """What each person of the team may take."""
    team = _managed(request)
    clean, wrong = quotas.parse(request.POST.dict())
    if wrong:
        typed = limits({}, request.POST.dict())
        return _shown(request, 422, wrong=wrong, person_limits=typed, limits_wrong=True)
    members.set_team_quotas(team, "person_quotas", clean, request.user)
    messages.success(request, "The limits of each person were changed.")
    return redirect("team")


def member(request: Request, pk: int) -> HttpResponse:
    """GET: what one person takes of their limits; POST: set those, instead of what each may."""
    row = _membership(request, pk, write=request.method == "POST")
    context = {"member": row, "person_limits": limits(row.quotas), "each": limits(row.team.person_quotas)}
    context["wrong"] = {}
    status = 200
    if request.method == "POST":
        clean, wrong = quotas.parse(request.POST.dict())
        if not wrong:
            return _set_quotas(request, row, clean)
        context |= {"wrong": wrong, "person_limits": limits({}, request.POST.dict())}
        status = 422
    context["lines"] = quotas.use(row.team, row.user)
    return render(request, "playground/member.html", context, status=status)


def _set_quotas(request: Request, row: Membership, wanted: dict[str, float]) -> HttpResponse:
    try:
        members.set_quotas(row, wanted, request.user)
    except TeamRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("team")
    messages.success(request, f"The limits of {row.user.get_username()} were changed.")
    return redirect("member", pk=row.pk)


def _managed(request: Request) -> Team:
    """The person's team, which they may manage."""
    team = team_of(request)
    access.require(request.user, "manage team", team)
    return team


def _membership(request: Request, pk: int, *, write: bool = True) -> Membership:
    rows = Membership.objects.select_related("user", "team")
    row = access.fetch(request.user, rows, pk, write=write)
    access.require(request.user, "manage team", row.team)
    return row


# Switching


@require_POST
def switch(request: Request) -> HttpResponse:
    """Work in another team from now on, and stay where that makes sense."""
    pk = request.POST.get("team", "")
    found = [team for team in access.teams_of(request.user) if str(team.pk) == pk]
    if not found:
        messages.error(request, "You are not in that team.")
        return redirect("home")
    teams.switch(request.user, found[0])
    return redirect(_after(request, request.POST.get("next", ""), stays=bool(request.POST.get("stay"))))


def _after(request: Request, path: str, *, stays: bool) -> str:
    """The same page where it is about a team; the list above it where it is about one thing; else home."""
    home = reverse("home")
    if not path.startswith("/") or not url_has_allowed_host_and_scheme(path, {request.get_host()}):
        return home
    try:
        found = resolve(path.partition("?")[0])
    except Resolver404:
        return home
    lists = {item.name.rpartition(":")[2] for item in frame.ITEMS}
    if stays or (not found.kwargs and found.url_name in lists):
        return path
    sections = [item["address"] for item in frame.navigation(path) if item["current"]]
    return max(sections, key=len, default=home)
