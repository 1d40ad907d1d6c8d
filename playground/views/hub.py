"""The Hub's side of the catalogue: searching it, one repository before it is added, and adding it."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from playground import access, fitting, glances, hub, hub_models, repositories, secrets
from playground.hub import HubError, Repository, Trouble
from playground.models import Model, Team
from playground.views.request import Request, team_of
from playground.wishes import Looking

SHOWN = 25
STATUS = {
    Trouble.BAD_NAME: 400,
    Trouble.UNKNOWN: 404,
    Trouble.GATED: 403,
    Trouble.LIMITED: 503,
    Trouble.AWAY: 503,
    Trouble.OFF: 503,
    Trouble.FAILED: 502,
}


def search(request: Request) -> HttpResponse:
    """What the Hub finds, as a fragment; asked for while a person types."""
    context = results(Looking.of(request.GET.dict()), team_of(request))
    return render(request, "playground/models.html#hub", context)


def results(looking: Looking, team: Team) -> dict[str, Any]:
    """The Hub's hits with a first verdict each, or why there are none."""
    node = fitting.roomiest()
    try:
        found = hub.search(looking.wish, SHOWN)
    except HubError as problem:
        return {"looking": looking, "trouble": problem, "hub_asked": True}
    rows = [(one, glances.of(one, node)) for one in found]
    if looking.fits:
        rows = [(one, glance) for one, glance in rows if glance.fits]
    context = {"looking": looking, "hits": rows, "had": _had(team), "hub_asked": True, "hub_node": node}
    return context | {"too_large": len(found) - len(rows)}


def _had(team: Team) -> dict[str, int]:
    """Repositories that the team has a model of, each with that model's key."""
    rows = Model.objects.filter(team=team, missing=False, source__startswith="hub:")
    return {row.origin.get("repo", ""): row.pk for row in rows.order_by("pk")}


def page(request: Request, repo: str) -> HttpResponse:
    """One repository that may be added; what stands in the way where it cannot be shown."""
    try:
        repository = hub.repository(*hub.split(f"{repo}@{request.GET.get('revision', '')}"))
    except HubError as problem:
        return _trouble(request, repo, problem)
    return _shown(request, repository)


@require_POST
def add(request: Request) -> HttpResponse:
    """Add the commit that the person saw, with the forms chosen: a branch may have moved on since."""
    team = team_of(request)
    access.require(request.user, "add models", team)
    repo, commit = request.POST.get("repo", ""), request.POST.get("commit", "")
    if not hub.COMMIT.fullmatch(commit):
        text = "A model is added at a commit of 40 hexadecimal digits: branches and tags move."
        return _trouble(request, repo, HubError(Trouble.BAD_NAME, text))
    try:
        repository = hub.repository(*hub.split(f"{repo}@{commit}"))
    except HubError as problem:
        return _trouble(request, repo, problem)
    try:
        model = hub_models.add(repository, request.POST.getlist("form"), team, request.user)
    except hub_models.AddRefused as refusal:
        return _shown(request, repository, error=str(refusal), status=422)
    messages.success(request, f"{model.name} was added at commit {repository.commit[:7]}.")
    return redirect("model", pk=model.pk)


@require_POST
def token(request: Request) -> HttpResponse:
    """Keep the team's token, or forget it when asked to."""
    team = team_of(request)
    access.require(request.user, "tokens", team)
    if "forget" in request.POST:
        secrets.forget(team, secrets.HUB, request.user)
        messages.success(request, "The token was forgotten.")
        return redirect("models")
    try:
        secrets.keep_token(team, request.POST.get("token", "").strip(), request.user)
    except secrets.SecretRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("models")
    messages.success(request, "The token was encrypted and kept.")
    return redirect("models")


def _shown(request: Request, repository: Repository, error: str = "", status: int = 200) -> HttpResponse:
    team = team_of(request)
    judgement = repositories.judge(repository)
    forms = repositories.forms(repository)
    chosen = request.POST.getlist("form") or ([repositories.usual(forms).key] if forms else [])
    context = {
        "repo": repository.repo,
        "repository": repository,
        "told": repository.told,
        "judgement": judgement,
        "forms": [(form, form.key in chosen) for form in forms],
        "left_out": repositories.left_out(repository),
        "kind": repositories.kind(repository),
        "facts": repositories.facts(repository),
        "template": repositories.chat_template(repository),
        "card": repositories.card(repository),
        "offers": [] if judgement.refused else fitting.previews(hub_models.previews(repository)),
        "model": hub_models.added(team, repository),
        "may_add": access.can(request.user, "add models", team),
        "adders": access.holders("add models", team),
        "token": secrets.find(team, secrets.HUB),
        "error": error,
    }
    return render(request, "playground/hub.html", context, status=status)


def _trouble(request: Request, repo: str, problem: HubError) -> HttpResponse:
    context = {"repo": repo, "trouble": problem}
    return render(request, "playground/hub.html", context, status=STATUS[problem.trouble])
