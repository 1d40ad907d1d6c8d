"""The catalogue, one model, and its Start form."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from playground import access, catalogue, deployments, fitting, secrets, start_wishes
from playground.models import Deployment, Model, Team
from playground.views import extras, holdings, hub, lineage, start_form, uploads
from playground.views.request import Request, team_of
from playground.wishes import Looking


def listing(request: Request) -> HttpResponse:
    """Models here, and what the Hub finds once it is asked; the folder is looked at anew each time."""
    team, looking = team_of(request), Looking.of(request.GET.dict())
    context = {"looking": looking, **_here(team, looking)}
    if request.htmx:
        return render(request, "playground/models.html#local", context)
    if request.GET:
        context |= hub.results(looking, team)
    token = secrets.find(team, secrets.HUB)
    context |= {
        "selects": looking.selects(),
        **uploads.panel(request),
        "may_external": access.can(request.user, "external", team),
        "may_token": access.can(request.user, "tokens", team),
        "token": token,
        "hub_address": settings.HF_ENDPOINT,
    }
    return render(request, "playground/models.html", context)


def _here(team: Team, looking: Looking) -> dict[str, Any]:
    """The catalogue's models that are looked for, each with every engine's answer."""
    rows = catalogue.scan(team)
    chosen = [row for row in rows if looking.means(row)]
    shown = [(row, [] if row.refused else fitting.offers(row)) for row in chosen]
    if looking.fits:
        shown = [(row, offers) for row, offers in shown if any(offer.fits for offer in offers)]
    context: dict[str, Any] = {"rows": shown, "all": len(rows)}
    if node := fitting.roomiest():
        context |= {"node": node, "free": fitting.free(node)}
    return context


def page(request: Request, pk: int) -> HttpResponse:
    model = access.fetch(request.user, Model.objects.all(), pk)
    return shown(request, model)


def shown(request: Request, model: Model, status: int = 200, **more: Any) -> HttpResponse:
    """The whole page; `more` is what one of its panels has to say."""
    context = _context(request, model, start_form.initial(request, model)) | _panels(request, model) | more
    return render(request, "playground/model.html", context, status=status)


@require_POST
def form(request: Request, pk: int) -> HttpResponse:
    """The form and its preview again, as far as it is filled in. Changes nothing."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    return render(request, "playground/model.html#start", _context(request, model, request.POST))


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Start a deployment, or show the form again with a sentence beside each field that is wrong."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "start", model.team)
    try:
        deployment = start_form.submit(request, model)
    except deployments.DeploymentRefused as refusal:
        return refused(request, model, refusal.fields)
    return redirect("deployment", pk=deployment.pk)


def refused(request: Request, model: Model, fields: Mapping[str, str]) -> HttpResponse:
    """The page as it was filled in, with a sentence beside each field that is wrong."""
    context = _context(request, model, request.POST, fields) | _panels(request, model)
    return render(request, "playground/model.html", context, status=422)


def _panels(request: Request, model: Model) -> dict[str, Any]:
    """What stands below the form."""
    wishes = start_wishes.panel(request.user, model.team, model=model)
    return holdings.panel(request, model) | lineage.panel(request, model) | wishes


@require_POST
def rescan(request: Request) -> HttpResponse:
    found = catalogue.scan(team_of(request))
    messages.success(request, f"The folder was read: {len(found)} model{'s' * (len(found) != 1)}.")
    return redirect("models")


def _context(
    request: Request, model: Model, values: QueryDict, errors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything the page and its form show for `values`, which may be half filled in."""
    others = model.deployments.filter(team=model.team).exclude(desired=Deployment.Desired.DELETED)
    return {
        "model": model,
        "formats": model.formats.order_by("kind"),
        "deployments": others.order_by("-pk")[:6],
        **extras.adapters_panel(request, model),
        **extras.code_note(request, model),
        **start_form.context(request, model, values, errors),
    }
