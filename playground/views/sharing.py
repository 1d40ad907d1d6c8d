"""A conversation for others: its link and who may write, as a file, as a fork."""

from typing import Any
from urllib.parse import urlsplit

from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, export_texts, exports, forks, sharing_rules, thread, votes
from playground.models import Conversation
from playground.views import links
from playground.views.conversations import writes
from playground.views.request import Request

PAGE = "playground/share.html"
HTTP_UNPROCESSABLE, HTTP_CONFLICT = 422, 409
TEXTS = {"json": export_texts.as_json, "csv": export_texts.as_csv, "md": export_texts.as_markdown}


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def share(request: Request, pk: int) -> HttpResponse:
    """The link, who may write (POST ?sharing= says anew), files and forks; ?turn=&answer= is a branch."""
    conversation = _conversation(request, pk, write=request.method == "POST")
    if request.method == "GET":
        return _page(request, conversation)
    try:
        sharing_rules.share(conversation, request.user, request.POST.get("sharing", ""))
    except sharing_rules.SharingRefused as problem:
        return _page(request, conversation, str(problem), status=HTTP_UNPROCESSABLE)
    return _page(request, conversation, kept="Kept.")


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
    response = HttpResponse(TEXTS[kind](document), content_type=f"{exports.FORMATS[kind]}; charset=utf-8")
    name = exports.name(conversation, kind)
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@writes
@require_POST
def fork(request: Request, pk: int) -> HttpResponse:
    """The branch of `turn` and `answer` as this person's own conversation; `upto` names its last message."""
    conversation = _conversation(request, pk, write=True)
    upto = request.POST.get("upto", "")
    last = int(upto) if _key(upto) else None
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
    turn, answer = given.get("turn", ""), given.get("answer", "")
    if not _key(turn):
        return None
    return thread.Point(int(turn), int(answer) if _key(answer) else None)


def _key(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _page(
    request: Request, conversation: Conversation, why: str = "", *, kept: str = "", status: int = 200
) -> HttpResponse:
    context = _context(request, conversation) | {"why": why, "kept": kept}
    return render(request, f"{PAGE}#dialog" if request.htmx else PAGE, context, status=status)


def _context(request: Request, conversation: Conversation) -> dict[str, Any]:
    point = _point(request)
    query = f"?{point.query}" if point else ""
    turns = list(conversation.turns.only("inputs", "parent"))
    return {
        **links.context_of(request, conversation),
        "conversation": conversation,
        "address": request.build_absolute_uri(reverse("conversation", args=[conversation.pk]) + query),
        "point": point,
        "query": query,
        "choices": Conversation.Sharing.choices,
        "formats": [("json", "JSON"), ("csv", "CSV"), ("md", "Markdown")],
        "dialog": bool(request.htmx),
        "may_share": sharing_rules.may_share(request.user, conversation),
        "may_fork": access.can(request.user, "chat", conversation.team),
        "said": bool(turns),
        "unseen": len(votes.hidden_of(conversation, turns, request.user)),
    }
