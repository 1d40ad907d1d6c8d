"""Asking an operator for a start, and answering."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from playground import access, start_wishes
from playground.deployments import DeploymentRefused
from playground.models import Deployment, Model, StartWish
from playground.start_wishes import WishRefused
from playground.views import models, start_form
from playground.views.request import Request, team_of


def page(request: Request) -> HttpResponse:
    """What was asked of the team's operators, and what became of one's own."""
    return _shown(request)


def _shown(request: Request, status: int = 200, **more: Any) -> HttpResponse:
    context = start_wishes.panel(request.user, team_of(request)) | more
    part = "#panel" if request.htmx else ""
    return render(request, f"playground/wishes.html{part}", context, status=status)


def of_model(request: Request, pk: int) -> HttpResponse:
    """The same of one model, for its page."""
    model = access.fetch(request.user, Model.objects.select_related("team"), pk)
    found = start_wishes.panel(request.user, model.team, model=model)
    return render(request, "playground/wishes.html#panel", {"model": model, **found})


@require_POST
def ask_for_model(request: Request, pk: int) -> HttpResponse:
    """What the Start form would have sent; without an engine whichever is usual."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "ask", model.team)
    try:
        wanted = start_form.wanted(request, model) if request.POST.get("engine") else {}
        start_wishes.ask_for_model(request.user, model, wanted, request.POST.get("wish-text", ""))
    except DeploymentRefused as refusal:
        return models.refused(request, model, refusal.fields)
    except WishRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("model", pk=pk)
    return _asked(request, model, "home" if request.POST.get("from") == "home" else "")


@require_http_methods(["GET", "POST"])
def ask_for_deployment(request: Request, pk: int) -> HttpResponse:
    """POST asks. Where a page shows it in a line (htmx), that line; GET is the line alone."""
    rows = Deployment.objects.select_related("team")
    row = access.fetch(request.user, rows, pk, write=request.method == "POST")
    if request.method == "GET":
        return _line(request, row) if request.htmx else redirect("deployment", pk=pk)
    access.require(request.user, "ask", row.team)
    try:
        start_wishes.ask_for_deployment(request.user, row, request.POST.get("wish-text", ""))
    except WishRefused as refusal:
        if request.htmx:
            return _line(request, row, str(refusal))
        messages.error(request, str(refusal))
        return redirect("deployment", pk=pk)
    return _line(request, row) if request.htmx else _asked(request, row, "")


def _line(request: Request, row: Deployment, why: str = "") -> HttpResponse:
    runs = row.desired == Deployment.Desired.RUNNING and not row.problem
    context = {
        "row": row,
        "wish": start_wishes.by_deployment(request.user, row.team).get(row.pk),
        "operators": access.holders("start", row.team),
        "gone": "It was started." if runs else "",
        "why": "" if runs else why,
    }
    return render(request, "playground/ask.html", context)


def _asked(request: Request, what: Model | Deployment, then: str) -> HttpResponse:
    people = [person.get_username() for person in access.holders("start", what.team)]
    messages.success(request, f"Asked. {', '.join(people)} may start it; the answer comes here.")
    return redirect(then) if then else redirect(what._meta.model_name or "home", pk=what.pk)


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    wish = _fetch(request, pk)
    access.require(request.user, "start", wish.team)
    try:
        row = start_wishes.start(wish, request.user)
    except (WishRefused, DeploymentRefused) as refusal:
        messages.error(request, str(refusal))
        return redirect("wishes")
    messages.success(request, f"{row.name} starts.")
    return redirect("deployment", pk=row.pk)


@require_POST
def decline(request: Request, pk: int) -> HttpResponse:
    wish = _fetch(request, pk)
    access.require(request.user, "start", wish.team)
    words = request.POST.get("answer", "")
    try:
        start_wishes.decline(wish, request.user, words)
    except WishRefused as refusal:
        return _shown(request, 422, wrong={"wish": pk, "text": str(refusal), "typed": words[:500]})
    messages.success(request, "Declined.")
    return redirect("wishes")


@require_POST
def drop(request: Request, pk: int) -> HttpResponse:
    """Take one's own back, or clear its answer."""
    wish = _fetch(request, pk)
    try:
        start_wishes.drop(wish, request.user)
    except WishRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("wishes")


def _fetch(request: Request, pk: int) -> StartWish:
    rows = StartWish.objects.select_related("team", "model", "deployment", "created_by")
    return access.fetch(request.user, rows, pk, write=True)
