"""Public links of a conversation, a batch or a prompt: shown, made and taken back by who may share it."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from playground import access, links, sharing_rules
from playground.models import Batch, Conversation, Prompt, ShareLink
from playground.views.conversations import writes
from playground.views.request import Request

PAGE = "playground/links.html"
HTTP_UNPROCESSABLE = 422


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def of_conversation(request: Request, pk: int) -> HttpResponse:
    return _of(request, Conversation, pk)


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def of_batch(request: Request, pk: int) -> HttpResponse:
    return _of(request, Batch, pk)


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def of_prompt(request: Request, pk: int) -> HttpResponse:
    return _of(request, Prompt, pk)


@writes
@require_POST
def revoke(request: Request, pk: int) -> HttpResponse:
    link = access.fetch(request.user, ShareLink.objects.select_related("team"), pk, write=True)
    rows: Any = links.MODELS[link.kind]._default_manager.select_related("team", "created_by")
    thing = access.fetch(request.user, rows, link.object_id, write=True)
    links.revoke(link, request.user)
    if not request.htmx:
        return redirect(f"{link.kind}-share", link.object_id)
    return _answer(request, thing, kept="Taken back: it opens nothing any more.")


def _of(request: Request, model: Any, pk: int) -> HttpResponse:
    """The links that hold and the form; POST makes one."""
    rows = model._default_manager.select_related("team", "created_by")
    thing = access.fetch(request.user, rows, pk, write=request.method == "POST")
    if request.method == "GET":
        return _answer(request, thing)
    access.require(request.user, "chat", thing.team)
    typed = {name: request.POST.get(name, "") for name in ("days", "day", "version")}
    try:
        until = links.read_end(typed["days"], typed["day"].strip()[:20])
        links.make(thing, request.user, until, _version(typed["version"]))
    except links.LinkRefused as problem:
        errors = {problem.field or "form": str(problem)}
        return _answer(request, thing, typed=typed, errors=errors, status=HTTP_UNPROCESSABLE)
    if not request.htmx:
        return redirect(f"{links.kind_of(thing)}-share", thing.pk)
    return _answer(request, thing, kept="Made: copy it now or later.")


def _version(text: str) -> int | None:
    """A prompt's version by its number; None for the newest."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise links.LinkRefused("There is no such version.", "version")
    return int(text)


def _answer(
    request: Request,
    thing: links.Thing,
    *,
    typed: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
    kept: str = "",
    status: int = 200,
) -> HttpResponse:
    context = context_of(request, thing) | {"errors": errors or {}, "kept": kept}
    if typed:
        context["typed"] = typed
    template = f"{PAGE}#links" if request.htmx else PAGE
    return render(request, template, context, status=status)


def context_of(request: Request, thing: links.Thing) -> dict[str, Any]:
    """What the partial `links` of links.html needs."""
    kind, held = links.kind_of(thing), links.of(thing)
    may_share = sharing_rules.may_share(request.user, thing)
    return {
        "thing": thing,
        "thing_title": links.title(thing),
        "kind": kind,
        "links_url": reverse(f"{kind}-links", args=[thing.pk]),
        "back_url": reverse(kind, args=[thing.pk]),
        "may_share": may_share,
        "held": [(link, _address(request, link)) for link in held] if may_share else [],
        "holding": len(held),
        "days": links.DAYS,
        "typed": {"days": "7", "day": "", "version": ""},
        "errors": {},
        "versions": list(thing.versions.values_list("number", flat=True)[:100])
        if isinstance(thing, Prompt)
        else [],
    }


def _address(request: Request, link: ShareLink) -> str:
    return request.build_absolute_uri(reverse("shared", args=[links.token(link)]))
