"""A model's own code: to be read, and to be allowed by an administrator, at exactly one commit."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from playground import access, own_code
from playground.models import Model
from playground.views.request import Request


def page(request: Request, pk: int) -> HttpResponse:
    """The reason it is refused, each of its code files as text, and the form that allows it."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    return _page(request, model)


@require_POST
def allow(request: Request, pk: int) -> HttpResponse:
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "allow code", model.team)
    try:
        own_code.allow(model, request.user, request.POST.get("pin", ""), request.POST.get("typed", ""))
    except own_code.NotAllowed as refusal:
        return _page(request, model, str(refusal), request.POST.get("typed", ""))
    messages.success(request, f"The code of {model.name} may run.")
    return redirect("model", pk=pk)


@require_POST
def withdraw(request: Request, pk: int) -> HttpResponse:
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "allow code", model.team)
    own_code.withdraw(model, request.user)
    messages.success(request, f"The code of {model.name} may run no more. What runs now goes on.")
    return redirect("model", pk=pk)


def _page(request: Request, model: Model, error: str = "", typed: str = "") -> HttpResponse:
    own = own_code.of(model)
    if own is None:
        raise Http404("this model has no code of its own to judge")
    context = {
        "model": model,
        "own": own,
        "texts": own_code.texts(model, own),
        "may_allow": access.can(request.user, "allow code", model.team),
        "administrators": access.holders("allow code", model.team),
        "error": error,
        "typed": typed,
    }
    return render(request, "playground/own_code.html", context, status=422 if error else 200)
