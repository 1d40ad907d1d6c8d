"""Servers of others: naming one, and giving it another key. Administrators only."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from playground import access, external
from playground.models import Model
from playground.views.request import Request, team_of

TYPED = ("name", "url", "model", "key", "task", "context")


@require_GET
def page(request: Request) -> HttpResponse:
    return _page(request, {"task": Model.Task.CHAT}, {})


@require_POST
def add(request: Request) -> HttpResponse:
    """Add it and show its page; else the form again, each wrong field with a sentence, the key left out."""
    team = team_of(request)
    access.require(request.user, "external", team)
    typed: dict[str, Any] = {name: request.POST.get(name, "").strip() for name in TYPED}
    typed["takes_images"] = request.POST.get("takes_images") == "on"
    try:
        row = external.add(team, request.user, typed)
    except external.ExternalRefused as refusal:
        return _page(request, {**typed, "key": ""}, refusal.fields, status=422)
    messages.success(request, f"{row.name} was added. Start it to ask its server.")
    return redirect("model", pk=row.pk)


@require_POST
def key(request: Request, pk: int) -> HttpResponse:
    """Keep another key, or forget it when asked to."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "external", model.team)
    if not model.is_elsewhere:
        raise Http404("this model is on no server of others")
    value = "" if "forget" in request.POST else request.POST.get("key", "").strip()
    if not value and "forget" not in request.POST:
        messages.error(request, "Nothing was entered, so nothing changed.")
        return redirect("model", pk=pk)
    try:
        external.set_key(model, request.user, value)
    except external.ExternalRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("model", pk=pk)
    done = "The key was encrypted and kept." if value else "The key was forgotten."
    messages.success(request, f"{done} What runs keeps the old one until it is restarted.")
    return redirect("model", pk=pk)


def panel(request: Request, model: Model) -> dict[str, Any]:
    """What the panel on the model's page shows."""
    return {
        "server_key": external.kept(model),
        "may_external": access.can(request.user, "external", model.team),
    }


def _page(request: Request, typed: dict[str, Any], errors: dict[str, str], status: int = 200) -> HttpResponse:
    team = team_of(request)
    context = {
        "typed": typed,
        "errors": errors,
        "tasks": [(task.value, task.label) for task in external.TASKS],
        "servers": Model.objects.filter(team=team, source__startswith="external:", missing=False),
        "may_external": access.can(request.user, "external", team),
        "administrators": access.holders("external", team),
        "team": team,
    }
    return render(request, "playground/external.html", context, status=status)
