"""Comments below an answer: how many there are, a panel to read and write them, one's own to change."""

from typing import Any

from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, comments
from playground.models import Comment, Conversation, Generation
from playground.views.conversations import writes
from playground.views.request import Request

PAGE = "playground/comments.html"
HTTP_UNPROCESSABLE = 422


@never_cache
@require_GET
def counts(request: Request, pk: int) -> HttpResponse:
    """{"12": {"n": 2, "mark": "…"}} of a conversation's answers that have any."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    found = comments.counts(conversation, request.user)
    return JsonResponse({str(key): {"n": one.n, "mark": one.mark} for key, one in found.items()})


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def panel(request: Request, pk: int) -> HttpResponse:
    """The comments of one answer with the form; ?list=1 the list alone. POST adds one."""
    generation = _answer(request, pk, write=request.method == "POST")
    if request.method == "GET":
        part = "list" if request.GET.get("list") else "panel"
        return render(request, f"{PAGE}#{part}", _context(request, generation))
    typed = request.POST.get("text", "")
    try:
        comments.add(generation, request.user, typed)
    except comments.CommentRefused as problem:
        context = _context(request, generation) | {"why": str(problem), "typed": typed}
        return render(request, f"{PAGE}#panel", context, status=HTTP_UNPROCESSABLE)
    return render(request, f"{PAGE}#panel", _context(request, generation))


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def comment(request: Request, pk: int) -> HttpResponse:
    """The form of one's own comment, or with ?cancel=1 the comment again; POST changes it."""
    row = _comment(request, pk, write=request.method == "POST")
    if request.method == "GET" and (request.GET.get("cancel") or not _may(request, row).change(row)):
        return _one(request, row)
    if request.method == "GET":
        return render(request, f"{PAGE}#edit", {"comment": row, "typed": row.text})
    typed = request.POST.get("text", "")
    try:
        comments.change(row, request.user, typed)
    except comments.CommentRefused as problem:
        context = {"comment": row, "typed": typed, "why": str(problem)}
        return render(request, f"{PAGE}#edit", context, status=HTTP_UNPROCESSABLE)
    return _one(request, row)


@writes
@require_POST
def delete(request: Request, pk: int) -> HttpResponse:
    row = _comment(request, pk, write=True)
    comments.delete(row, request.user)
    return render(request, f"{PAGE}#list", _context(request, row.generation))


def _answer(request: Request, pk: int, *, write: bool = False) -> Generation:
    """An answer this person sees, with its conversation; Http404 while who gave it is hidden from them."""
    rows = Generation.objects.only("pk", "turn").select_related("turn")
    row = rows.filter(pk=pk).first()
    if row is None:
        raise Http404("no such answer")
    there = Conversation.objects.select_related("team")
    row.turn.conversation = access.fetch(request.user, there, row.turn.conversation_id, write=write)
    if comments.hidden(row, request.user):
        raise Http404("a blind answer not voted on")
    return row


def _comment(request: Request, pk: int, *, write: bool) -> Comment:
    row = Comment.objects.select_related("user").filter(pk=pk).first()
    if row is None:
        raise Http404("no such comment")
    row.generation = _answer(request, row.generation_id, write=write)
    return row


def _one(request: Request, row: Comment) -> HttpResponse:
    return render(request, f"{PAGE}#comment", _shown(row, _may(request, row)))


def _context(request: Request, generation: Generation) -> dict[str, Any]:
    rows = comments.of_answers([generation.pk]).get(generation.pk, [])
    for row in rows:
        row.generation = generation
    may = comments.may(request.user, generation.turn.conversation)
    return {
        "generation": generation,
        "comments": [_shown(row, may) for row in rows],
        "may_chat": may.chat,
        "longest": comments.LONGEST,
        "mark": comments.counted(rows).mark,
    }


def _may(request: Request, row: Comment) -> comments.May:
    return comments.may(request.user, row.generation.turn.conversation)


def _shown(row: Comment, may: comments.May) -> dict[str, Any]:
    return {"comment": row, "may_change": may.change(row), "may_delete": may.delete(row)}
