"""Conversations, prompts and batches for others: the link, who may write; a conversation as file and fork."""

from typing import Any
from urllib.parse import urlsplit

from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, export_texts, exports, forks, sharing_rules, thread, votes
from playground.models import Batch, Conversation, Prompt, Shared
from playground.views import links
from playground.views.conversations import writes
from playground.views.request import Request, number

PAGE = "playground/share.html"
HTTP_UNPROCESSABLE, HTTP_CONFLICT = 422, 409
type Thing = Conversation | Prompt | Batch
# What each choice means, by kind.
_OTHERS = "its owner and administrators may write"
_ALONE = "Private: in its owner's lists alone; the team's administrators can open it"
WHO = {
    ("conversation", "edit"): "The team may write",
    ("conversation", "view"): f"The team may read; {_OTHERS}",
    ("conversation", "private"): _ALONE,
    ("prompt", "edit"): "The team may write: save versions, rename, delete",
    ("prompt", "view"): f"The team may read and try it; {_OTHERS}",
    (
        "prompt",
        "private",
    ): f"{_ALONE}; API keys cannot name it",
    ("batch", "edit"): "The team may write: pause, cancel, ask again, score",
    ("batch", "view"): f"The team may read; {_OTHERS}",
    (
        "batch",
        "private",
    ): f"{_ALONE}; its dataset stays the team's",
}


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def share(request: Request, pk: int) -> HttpResponse:
    """The link, who may write (POST ?sharing= says anew), files and forks; ?turn=&answer= is a branch."""
    return _share(request, _conversation(request, pk, write=request.method == "POST"))


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def prompt(request: Request, pk: int) -> HttpResponse:
    """The link of a prompt, and who may write in it."""
    rows = Prompt.objects.select_related("team", "created_by")
    return _share(request, access.fetch(request.user, rows, pk, write=request.method == "POST"))


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def batch(request: Request, pk: int) -> HttpResponse:
    """The link of a batch, and who may pause, cancel and score it."""
    rows = Batch.objects.select_related("team", "created_by")
    return _share(request, access.fetch(request.user, rows, pk, write=request.method == "POST"))


def _share(request: Request, row: Thing) -> HttpResponse:
    if request.method == "GET":
        return _page(request, row)
    try:
        sharing_rules.share(row, request.user, request.POST.get("sharing", ""))
    except sharing_rules.SharingRefused as problem:
        return _page(request, row, str(problem), status=HTTP_UNPROCESSABLE)
    return _page(request, row, kept="Kept.")


@never_cache
@require_GET
def export(request: Request, pk: int) -> HttpResponse:
    """The branch shown as a file of ?format=; ?all=1 for every branch."""
    conversation = _conversation(request, pk)
    kind = request.GET.get("format", "json")
    if kind not in exports.FORMATS:
        raise Http404("no such format")
    branch = None if request.GET.get("all") else thread.show(conversation, _point(request))
    try:
        document = exports.document(conversation, request.user, branch)
    except exports.ExportRefused as problem:
        return _page(request, conversation, str(problem), status=HTTP_CONFLICT)
    text = export_texts.AS[kind](document)
    response = HttpResponse(text, content_type=f"{exports.FORMATS[kind]}; charset=utf-8")
    name = exports.name(conversation, kind)
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@writes
@require_POST
def fork(request: Request, pk: int) -> HttpResponse:
    """The branch of `turn` and `answer` as this person's own conversation; `upto` names its last message."""
    conversation = _conversation(request, pk, write=True)
    last = number(request.POST.get("upto", ""))
    point = _point(request) or (thread.Point(last) if last else None)
    try:
        made = forks.fork(conversation, request.user, thread.show(conversation, point), last)
    except forks.ForkRefused as problem:
        return _page(request, conversation, str(problem), status=HTTP_UNPROCESSABLE)
    if not request.htmx:
        return redirect("conversation", made.pk)
    response = HttpResponse(status=204)
    response["HX-Redirect"] = reverse("conversation", args=[made.pk])
    return response


def _conversation(request: Request, pk: int, *, write: bool = False) -> Conversation:
    rows = Conversation.objects.select_related("team", "created_by")
    return access.fetch(request.user, rows, pk, write=write)


def _point(request: Request) -> thread.Point | None:
    """The branch named by ?turn=&answer=, in a form's fields, or in the address of the page that asks."""
    page = QueryDict(urlsplit(request.htmx.current_url or "").query)
    given = next((one for one in (request.POST, request.GET, page) if one.get("turn")), page)
    turn = number(given.get("turn", ""))
    return None if turn is None else thread.Point(turn, number(given.get("answer", "")))


def _page(request: Request, row: Thing, why: str = "", *, kept: str = "", status: int = 200) -> HttpResponse:
    point = _point(request) if isinstance(row, Conversation) else None
    context = _context(request, row, f"?{point.query}" if point else "")
    if isinstance(row, Conversation):
        context |= _files_and_forks(request, row, point)
    context |= {"why": why, "kept": kept}
    return render(request, f"{PAGE}#dialog" if request.htmx else PAGE, context, status=status)


def _context(request: Request, row: Thing, query: str) -> dict[str, Any]:
    """Its link, who reads and writes, public links: what every kind has."""
    kind = str(row._meta.model_name)
    return {
        **links.context_of(request, row),
        "address": request.build_absolute_uri(reverse(kind, args=[row.pk]) + query),
        "share_url": reverse(f"{kind}-share", args=[row.pk]) + query,
        "query": query,
        "choices": [(value, WHO[kind, value]) for value in Shared.Sharing.values],
        "chosen": WHO[kind, row.sharing],
        "dialog": bool(request.htmx),
    }


def _files_and_forks(request: Request, row: Conversation, point: thread.Point | None) -> dict[str, Any]:
    turns = list(row.turns.only("inputs", "parent"))
    return {
        "conversation": row,
        "point": point,
        "formats": [("json", "JSON"), ("csv", "CSV"), ("md", "Markdown")],
        "may_fork": access.can(request.user, "chat", row.team),
        "said": bool(turns),
        "unseen": len(votes.hidden_of(row, turns, request.user)),
    }
