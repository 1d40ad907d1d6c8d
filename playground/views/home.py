"""The first page: a start without a question while nothing runs, an overview once something does."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from playground import access, catalogue, deployments, examples, frame, standing, start_wishes
from playground.models import Conversation, Deployment, EngineEnvironment, Team, User
from playground.views.request import Request, team_of

SHOWN = 6


def page(request: Request) -> HttpResponse:
    part = "#overview" if request.htmx else ""
    return render(request, f"playground/home.html{part}", _context(request))


@require_POST
def start_demo(request: Request) -> HttpResponse:
    """Start the demo model and open a conversation with it; what was typed waits in its composer."""
    return _begun(request, examples.chat)


@require_POST
def start_comparison(request: Request) -> HttpResponse:
    """Start the demo model twice, with other settings, and open a conversation with both."""
    return _begun(request, examples.compare)


def _begun(request: Request, begin: Callable[[Team, User], Conversation]) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "start", team)
    try:
        conversation = begin(team, request.user)
    except deployments.DeploymentRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("home")
    text = request.POST.get("message", "")[:2000]
    return redirect(f"{reverse('conversation', args=[conversation.pk])}?{urlencode({'text': text})}")


def _installed() -> bool:
    """Whether some machine that reports holds the demo's engine."""
    held = [digest for node in frame.live_nodes() for digest in node.inventory.get("environments") or []]
    return EngineEnvironment.objects.filter(engine=examples.ENGINE, digest__in=held).exists()


def _context(request: Request) -> dict[str, Any]:
    team = team_of(request)
    found = standing.all_of(access.visible_to(request.user, Deployment.objects.filter(team=team)))
    running = [row for row in found if row.alive or row.word in ("queued", "failed")]
    talks = access.listed_to(request.user, Conversation.objects.filter(team=team)).exclude(turns=None)
    sections = [section for section in (make(team) for make in frame.SECTIONS) if section]
    return {
        "demo": None if any(row.alive or row.word == "queued" for row in running) else catalogue.demo(team),
        "example": examples.MESSAGE,
        "longer": examples.LONGER,
        "installed": _installed(),
        "compares": not talks.filter(title=examples.TITLE).exists(),
        "running": running[:SHOWN],
        "conversations": talks.order_by("-updated_at")[:SHOWN],
        "needs": [need for need in frame.needs(team, request.user) if need.address != reverse("wishes")],
        "sections": sections,
        "may_start": access.can(request.user, "start", team),
        "operators": access.holders("start", team),
        "where": team,
        **start_wishes.panel(request.user, team),
    }
