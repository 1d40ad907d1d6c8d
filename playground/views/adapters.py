"""LoRA adapters of a model: adding one from the folder, taking one away."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from playground import access, adapters
from playground.models import Adapter, Model
from playground.views import models
from playground.views.request import Request


@require_POST
def add(request: Request, pk: int) -> HttpResponse:
    """Take an adapter for this model, or show the page again with why not beside what was typed."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "add models", model.team)
    where, name = (request.POST.get(key, "").strip() for key in ("path", "name"))
    try:
        row = adapters.add(model, where, name or adapters.Found(where).name, request.user)
    except adapters.AdapterRefused as problem:
        typed = {"path": where, "name": name}
        return models.shown(request, model, 422, adapter_error=str(problem), adapter_typed=typed)
    messages.success(request, f"{row.name} can be attached to {model.name} now.")
    return redirect(reverse("model", args=[model.pk]) + "#adapters")


@require_POST
def remove(request: Request, pk: int) -> HttpResponse:
    """Forget an adapter; its files stay where they are."""
    row = access.fetch(request.user, Adapter.objects.select_related("model", "team"), pk, write=True)
    access.require(request.user, "remove models", row.team)
    try:
        adapters.remove(row, request.user)
    except adapters.AdapterRefused as problem:
        return models.shown(request, row.model, 422, adapter_error=f"{row.name} stays. {problem}")
    messages.success(request, f"{row.name} is gone from the list. Its files stay in the models folder.")
    return redirect(reverse("model", args=[row.model_id]) + "#adapters")
