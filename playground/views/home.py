"""The first page: a start without a question while nothing runs, an overview once something does."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from playground import access, catalogue, conversations, deployments, frame, standing
from playground.models import Conversation, Deployment, EngineEnvironment, Team, User
from playground.views.request import Request, team_of

EXAMPLE = "What is the capital of France? Answer in one sentence."
DEMO_ENGINE = "llama.cpp"
SHOWN = 6


def page(request: Request) -> HttpResponse:
    part = "#overview" if request.htmx else ""
    return render(request, f"playground/home.html{part}", _context(request))


@require_POST
def start_demo(request: Request) -> HttpResponse:
    """Start the demo model and open a conversation with it; what was typed waits in its composer."""
    team = team_of(request)
    access.require(request.user, "start", team)
    try:
        deployment = _demo_deployment(team, request.user)
    except deployments.DeploymentRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("home")
    conversation = conversations.begin(team, request.user, deployment)
    text = request.POST.get("message", "")[:2000]
    return redirect(f"{reverse('conversation', args=[conversation.pk])}?{urlencode({'text': text})}")


def _demo_deployment(team: Team, user: User) -> Deployment:
    """The demo model with default options: the deployment there is, started again, or a new one."""
    model = catalogue.demo(team)
    earlier = Deployment.objects.filter(
        team=team, model=model, engine=DEMO_ENGINE, released=False, wanted__options={}
    )
    row = earlier.exclude(desired=Deployment.Desired.DELETED).order_by("-pk").first()
    if row is None:
        return deployments.request(team=team, user=user, model=model, engine=DEMO_ENGINE, options={})
    deployments.start(row, user)
    return row


def _installed() -> bool:
    """Whether some machine that reports holds the demo's engine."""
    held = [digest for node in frame.live_nodes() for digest in node.inventory.get("environments") or []]
    return EngineEnvironment.objects.filter(engine=DEMO_ENGINE, digest__in=held).exists()


def _context(request: Request) -> dict[str, Any]:
    team = team_of(request)
    found = standing.all_of(access.visible(request.user, Deployment.objects.filter(team=team)))
    running = [row for row in found if row.alive or row.word in ("queued", "failed")]
    talks = access.visible(request.user, Conversation.objects.filter(team=team)).exclude(turns=None)
    sections = [section for section in (make(team) for make in frame.SECTIONS) if section]
    return {
        "demo": None if any(row.alive or row.word == "queued" for row in running) else catalogue.demo(team),
        "example": EXAMPLE,
        "installed": _installed(),
        "running": running[:SHOWN],
        "conversations": talks.order_by("-updated_at")[:SHOWN],
        "needs": frame.needs(team),
        "sections": sections,
        "may_start": access.can(request.user, "start", team),
        "operators": access.holders("start", team),
    }
