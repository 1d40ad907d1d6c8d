"""Public pages, for whoever has a link: read only, never cached, found by no search engine."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from playground import links, shared, shared_talk
from playground.links import Gone
from playground.models import Batch, Conversation
from playground.views.conversations import point
from playground.views.widgets import ALONE

PAGES = {kind: f"playground/shared_{kind}.html" for kind in links.MODELS}


def public[**Rest](
    view: Callable[Concatenate[HttpRequest, links.Opened, Rest], HttpResponse],
) -> Callable[..., HttpResponse]:
    """A page of a link: what its token opens, or 404 with a sentence that is the same for every reason."""

    @never_cache
    @require_safe
    @wraps(view)
    def page(request: HttpRequest, token: str, *args: Rest.args, **keys: Rest.kwargs) -> HttpResponse:
        try:
            response = view(request, links.open_by(token), *args, **keys)
        except Gone:
            response = render(request, "playground/shared_gone.html", status=404)
        response["X-Robots-Tag"] = "noindex, nofollow"
        # The address is the key: no other site is told it.
        response["Referrer-Policy"] = "no-referrer"
        return response

    return page


@public
def page(request: HttpRequest, opened: links.Opened) -> HttpResponse:
    if request.method == "GET":
        links.count(opened.link)
    return render(request, PAGES[opened.link.kind], _context(request, opened))


@public
def live(request: HttpRequest, opened: links.Opened) -> HttpResponse:
    """What is shown, alone; 204 where nothing changed since `seen`."""
    seen = request.GET.get("seen", "")
    if isinstance(opened.thing, Conversation) and seen == shared_talk.mark(opened.thing):
        return HttpResponse(status=204)
    context = _context(request, opened)
    if seen == context["seen"]:
        return HttpResponse(status=204)
    return render(request, f"{PAGES[opened.link.kind]}#live", context)


@public
def row(request: HttpRequest, opened: links.Opened, number: int) -> HttpResponse:
    """One row of a batch, whole."""
    if not isinstance(opened.thing, Batch) or (found := shared.batch_line(opened.thing, number)) is None:
        raise Gone
    return render(request, "playground/shared_row.html", found | _link(opened))


@public
def picture(request: HttpRequest, opened: links.Opened, pk: int) -> HttpResponse:
    """A picture of a conversation."""
    if not isinstance(opened.thing, Conversation) or (found := shared_talk.picture(opened.thing, pk)) is None:
        raise Gone
    response = HttpResponse(bytes(found.data), content_type=f"image/{found.kind}")
    response["Content-Security-Policy"] = ALONE
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _context(request: HttpRequest, opened: links.Opened) -> dict[str, Any]:
    thing = opened.thing
    if isinstance(thing, Conversation):
        found = shared_talk.conversation(thing, point(request.GET))
    elif isinstance(thing, Batch):
        found = shared.batch(thing, request.GET.get("after", ""))
    else:
        found = shared.prompt(thing, opened.link.version)
    return found | _link(opened) | {"query": request.GET.get("after", "")[:20]}


def _link(opened: links.Opened) -> dict[str, Any]:
    return {"token": links.token(opened.link), "until": opened.link.expires_at}
