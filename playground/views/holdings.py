"""Where a model lies: bringing it to a node, following that, cancelling it, removing the model."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST
from django_htmx.http import trigger_client_event

from playground import access, catalogue, holdings, jobs, removal
from playground.models import Job, Model, Node
from playground.templatetags.figures import bytes_
from playground.views import external
from playground.views.request import Request


def panel(request: Request, model: Model) -> dict[str, Any]:
    """What the panel on the model's page shows."""
    uses = removal.uses(model)
    return {
        "holdings": [] if model.is_elsewhere else holdings.of(model),
        "uses": uses,
        "kept_by": [use for use in uses if use.keeps],
        "holders": removal.holders(model),
        "may_fetch": access.can(request.user, "add models", model.team),
        "may_remove": access.can(request.user, "remove models", model.team),
        "removers": access.holders("remove models", model.team),
        "removing": Job.objects.filter(target=f"model:{model.pk}", state__in=Job.ACTIVE).exists(),
        **external.panel(request, model),
    }


def files(request: Request, pk: int) -> HttpResponse:
    """The panel alone, asked for as its jobs go on."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    context = {"model": model, **panel(request, model)}
    answer = render(request, "playground/files.html", context)
    if not any(place.line for holding in context["holdings"] for place in holding.places):
        # The Start form may know more now.
        trigger_client_event(answer, "landed")
    return answer


@require_POST
def fetch(request: Request, pk: int, form: int) -> HttpResponse:
    """Bring one form to a node now, without starting anything."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "add models", model.team)
    row = get_object_or_404(model.formats.all(), pk=form)
    node = get_object_or_404(Node, name=request.POST.get("node", ""))
    if model.refused or model.missing:
        messages.error(request, model.refused or f"{model.name} is not in the catalogue any more.")
    else:
        found = catalogue.ensure(node, model, row.kind, form=row, team=model.team, user=request.user)
        if not isinstance(found, Job):
            messages.info(request, f"It is on {node.name} already.")
    return redirect("model", pk=model.pk)


@require_POST
def cancel(request: Request, pk: int, job: int) -> HttpResponse:
    """End a download; what came is kept for the next one."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "add models", model.team)
    row = get_object_or_404(holdings.jobs_of(model), pk=job)
    if not jobs.cancel(row, request.user):
        messages.info(request, "It had ended already.")
    return redirect("model", pk=model.pk)


@require_POST
def remove(request: Request, pk: int) -> HttpResponse:
    """Take the model out of the catalogue and its files from every node, unless something keeps it."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "remove models", model.team)
    freed = sum(held.size_bytes for held in removal.holders(model))
    try:
        removal.request(model, request.user)
    except removal.RemoveRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("model", pk=pk)
    back = f" {bytes_(freed)} come free." if freed else ""
    messages.success(request, f"{model.name} is being removed.{back}")
    return redirect("models")
