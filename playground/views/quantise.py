"""Quantising a model from its page: the ways, what is being made, what was made, both side by side."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from playground import access, jobs, pairs, quantise
from playground.models import Job, Model
from playground.views import lineage, models
from playground.views.request import Request


def live(request: Request, pk: int) -> HttpResponse:
    """What is being made and what was made, asked for as the jobs go on."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    context = {"model": model, **lineage.live(request, model)}
    return render(request, "playground/quantise.html#live", context)


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Ask for a new model, or show the page again with a sentence beside the field that is wrong."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "start", model.team)
    typed = {key: request.POST.get(key, "").strip() for key in ("method", "name")}
    try:
        quantise.request(model, typed["method"], typed["name"], request.user)
    except quantise.QuantiseRefused as refusal:
        return models.shown(request, model, 422, quantise_typed=typed, quantise_errors=refusal.fields)
    return redirect(reverse("model", args=[model.pk]) + "#quantise")


@require_POST
def cancel(request: Request, pk: int, job: int) -> HttpResponse:
    """End the making of one; nothing of it stays."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "start", model.team)
    rows = Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL, arguments__model=model.pk)
    if not jobs.cancel(get_object_or_404(rows, pk=job), request.user):
        messages.info(request, "It had ended already.")
    return redirect(reverse("model", args=[model.pk]) + "#quantise")


@require_POST
def compare(request: Request, pk: int) -> HttpResponse:
    """Open a model beside its parent, where one of each runs."""
    model = access.fetch(request.user, Model.objects.select_related("parent"), pk, write=True)
    access.require(request.user, "chat", model.team)
    both = pairs.sides(model.parent, model) if model.parent else None
    if both is None:
        messages.error(request, "One of the two does not run any more: start it, then compare.")
        return redirect(reverse("model", args=[model.pk]) + "#quantise")
    return redirect("conversation", pairs.compare(request.user, *both).pk)
