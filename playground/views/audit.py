"""The audit log: finding in it, and as a file."""

from dataclasses import replace
from datetime import date
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from playground import access, audit
from playground.audit import Wish
from playground.models import AuditEntry, Team
from playground.views.request import Request, team_of

SHOWN = 50
EVERY = "*"


@never_cache
def page(request: Request) -> HttpResponse:
    """What was done, newest first. The query narrows it, see `_wish`; ?before= is the next page."""
    wish, wrong = _wish(request)
    rows = audit.find(audit.seen_by(request.user), wish)
    before = request.GET.get("before", "")
    shown = rows.filter(pk__lt=before) if before.isascii() and before.isdigit() and len(before) < 19 else rows
    found = list(shown[: SHOWN + 1])
    listed = found[:SHOWN]
    links = audit.addresses(listed, request.user)
    query = request.GET.copy()
    query.pop("before", None)
    actions, kinds = audit.choices(audit.seen_by(request.user).filter(**_of(wish.team)))
    context = {
        "entries": [(one, audit.changes(one), audit.details(one), links.get(one.pk)) for one in listed],
        "next": listed[-1].pk if len(found) > SHOWN else None,
        "before": before,
        "query": query.urlencode(),
        "typed": request.GET,
        "wrong": wrong,
        "wish": wish,
        "actions": actions,
        "kinds": kinds,
        "vias": audit.VIA,
        "teams": _teams(request),
        "every": EVERY,
    }
    return render(request, "playground/audit.html", context)


async def export(request: Request) -> HttpResponseBase:
    """Everything that the query finds, as a file of ?format=."""
    kind = request.GET.get("format", "csv")
    if kind not in audit.FORMATS:
        raise Http404("no such format")
    rows = await sync_to_async(_found)(request)
    answer = StreamingHttpResponse(audit.stream(rows, kind), content_type=audit.FORMATS[kind])
    day = timezone.now().date().isoformat()
    answer["Content-Disposition"] = f'attachment; filename="audit-{day}.{kind}"'
    answer["X-Content-Type-Options"] = "nosniff"
    return answer


def _found(request: Request) -> QuerySet[AuditEntry]:
    wish, wrong = _wish(request)
    if wrong:
        raise Http404("no such day")
    return audit.find(audit.seen_by(request.user), wish)


def _wish(request: Request) -> tuple[Wish, dict[str, str]]:
    """What is looked for, and a sentence for each day that is none. Refused where it is not theirs."""
    days: dict[str, date | None] = {}
    wrong: dict[str, str] = {}
    for name in ("since", "until"):
        try:
            days[name] = _day(request.GET.get(name, ""))
        except ValueError:
            wrong[name] = "A day like 2026-11-25."
    texts: dict[str, Any] = {name: _text(request, name) for name in ("who", "action", "kind", "via", "text")}
    refused = request.GET.get("refused") == "yes"
    wish = Wish(team=_team(request), refused=refused, **texts)
    return replace(wish, since=days.get("since"), until=days.get("until")), wrong


def _text(request: Request, name: str) -> str:
    return request.GET.get(name, "").replace("\x00", "").strip()[:200]


def _day(text: str) -> date | None:
    """ValueError for what is no day, and for one whose end no calendar has."""
    found = date.fromisoformat(text) if text else None
    if found == date.max:
        raise ValueError("the last day there is")
    return found


def _team(request: Request) -> Team | None:
    """The team asked for, the person's unless another is named; None: every one, for site administrators."""
    asked = request.GET.get("team", "")
    if asked == EVERY:
        access.require_site(request.user, "teams")
        return None
    rows = {team.slug: team for team in _teams(request)}
    if asked and asked not in rows:
        raise Http404("no such team")
    team = rows[asked] if asked else team_of(request)
    if not audit.may_read(request.user, team):
        access.require(request.user, "manage team", team)
    return team


def _teams(request: Request) -> list[Team]:
    """Those to choose from: all of the site for its administrators, else one's own."""
    if request.user.is_staff:
        return list(Team.objects.order_by("name"))
    return [team for team in access.teams_of(request.user) if audit.may_read(request.user, team)]


def _of(team: Team | None) -> dict[str, Any]:
    return {"team": team} if team else {}
