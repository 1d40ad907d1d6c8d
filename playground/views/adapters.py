"""LoRA adapters of a model: adding one from the folder, taking one away."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from playground import access, adapters, hub, hub_adapters, jobs, landing
from playground.models import Adapter, Job, Model, User
from playground.views import extras, models
from playground.views.request import Request


@require_POST
def add(request: Request, pk: int) -> HttpResponse:
    """Take an adapter for this model, or show the page again with why not beside what was typed."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "add models", model.team)
    typed = {key: request.POST.get(key, "").strip() for key in ("path", "name", "repo", "hub_name")}
    try:
        row = _added(model, typed, request.user)
    except (adapters.AdapterRefused, landing.LandingRefused) as problem:
        error = "hub_error" if typed["repo"] else "adapter_error"
        return models.shown(request, model, 422, adapter_typed=typed, **{error: str(problem)})
    words = "comes, and can be attached once it is here" if row.files else "can be attached now"
    messages.success(request, f"{row.name} {words}.")
    return _back(row)


def _added(model: Model, typed: Mapping[str, str], user: User) -> Adapter:
    """From the Hub, and on its way at once; or from the folder."""
    if not typed["repo"]:
        where = typed["path"]
        return adapters.add(model, where, typed["name"] or adapters.Found(where).name, user)
    node = landing.node()
    row = hub_adapters.add(model, typed["repo"], typed["hub_name"], user)
    adapters.ensure(node, row, team=model.team, user=user)
    return row


def live(request: Request, pk: int) -> HttpResponse:
    """The list alone, asked for as adapters come."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    context = {"model": model, **extras.adapters_panel(request, model)}
    return render(request, "playground/adapters.html#held", context)


def on_the_hub(request: Request, pk: int) -> HttpResponse:
    """What the Hub has for this model, as a fragment."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    try:
        context: dict[str, Any] = {"found": list(hub_adapters.found(model))}
    except hub.HubError as problem:
        context = {"trouble": problem}
    return render(request, "playground/hub_adapters.html", context)


@require_POST
def fetch(request: Request, pk: int) -> HttpResponse:
    """Bring one of the Hub here, once more after it did not come."""
    row = _own(request, pk, "add models")
    found = adapters.ensure(landing.node(), row, team=row.team, user=request.user)
    if not isinstance(found, Job):
        messages.info(request, f"{row.name} is here already.")
    return _back(row)


@require_POST
def cancel(request: Request, pk: int) -> HttpResponse:
    """End the fetching of one; what came is kept for the next time."""
    row = _own(request, pk, "add models")
    job = adapters.newest_job(row)
    if job is None or not jobs.cancel(job, request.user):
        messages.info(request, "It had ended already.")
    return _back(row)


def _own(request: Request, pk: int, action: str) -> Adapter:
    rows = Adapter.objects.select_related("model", "team")
    row = access.fetch(request.user, rows, pk, write=True)
    access.require(request.user, action, row.team)
    return row


def _back(row: Adapter) -> HttpResponse:
    return redirect(reverse("model", args=[row.model_id]) + "#adapters")


@require_POST
def remove(request: Request, pk: int) -> HttpResponse:
    """Forget an adapter; files of the folder stay where they are."""
    row = _own(request, pk, "remove models")
    try:
        adapters.remove(row, request.user)
    except adapters.AdapterRefused as problem:
        return models.shown(request, row.model, 422, removal_error=f"{row.name} stays. {problem}")
    stays = "" if row.files else " Its files stay in the models folder."
    messages.success(request, f"{row.name} is gone from the list.{stays}")
    return _back(row)
