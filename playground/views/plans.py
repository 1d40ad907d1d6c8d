"""Columns asked one after another: what would happen, running it, how far it is, the replay afterwards."""

from itertools import pairwise
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import formats
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, asking, engines, paces, plan_progress, plan_requests, plans, runs, votes
from playground.models import Conversation, Generation, Turn
from playground.plan_requests import PlanRefused
from playground.views.conversations import HTTP_UNPROCESSABLE, writable, writes
from playground.views.request import Request

PAGE = "playground/plan.html"
REPLAY = "playground/replay.html"


# The plan


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def page(request: Request, pk: int) -> HttpResponse:
    """What would happen; POST runs it. Asked for with ?part= it answers with that part alone."""
    if request.method == "POST":
        return _run(request, writable(request, pk))
    conversation = access.fetch(request.user, Conversation.objects.select_related("team"), pk)
    part = request.GET.get("part", "")
    if request.htmx and part == "progress":
        return render(request, f"{PAGE}#progress", _progress(request, conversation))
    context = _planned(request, conversation)
    if request.htmx and part == "stages":
        return render(request, f"{PAGE}#stages", context)
    return render(request, PAGE, context | _progress(request, conversation))


def _run(request: Request, conversation: Conversation) -> HttpResponse:
    context = _planned(request, conversation)
    made: plans.Plan = context["plan"]
    try:
        prompts = plan_requests.prompts_of(context["typed"], lines=context["lines"])
        seal = request.POST.get("seal", "")
        plan_requests.request(conversation, request.user, prompts, made, seal, again=context["again"])
    except PlanRefused as problem:
        context |= {"problem": str(problem), **_progress(request, conversation)}
        return render(request, PAGE, context, status=HTTP_UNPROCESSABLE)
    return redirect("plan", conversation.pk)


def _planned(request: Request, conversation: Conversation) -> dict[str, Any]:
    """The plan for what the form holds now."""
    given = request.POST or request.GET
    typed, lines = given.get("text", ""), "lines" in given
    also = [int(key) for key in given.getlist("also") if key.isdecimal() and len(key) <= 18]
    made = plans.plan(conversation, request.user, plan_requests.count(typed, lines=lines), also)
    return {
        "conversation": conversation,
        "plan": made,
        "verdict": plans.fits_together(asking.columns_of(conversation), request.user),
        "typed": typed,
        "lines": lines,
        "running": plan_requests.active(conversation) is not None,
        "again": "again" in given or "again_shown" not in given,
        "may_chat": access.can(request.user, "chat", conversation),
    }


def _progress(request: Request, conversation: Conversation) -> dict[str, Any]:
    row = plan_requests.latest(conversation)
    found = plan_progress.of(row) if row else None
    may = row is not None and plan_requests.may_cancel(row, request.user)
    return {"conversation": conversation, "progress": found, "may_cancel": may}


@writes
@require_POST
def cancel(request: Request, pk: int) -> HttpResponse:
    """End the plan of a conversation: what it started is stopped, what it stopped is started again."""
    conversation = writable(request, pk)
    row = plan_requests.active(conversation)
    if row is None or not runs.cancel(row, request.user):
        messages.info(request, "It had ended already.")
    return redirect("plan", conversation.pk)


# The replay


@never_cache
@require_GET
def replay(request: Request, pk: int) -> HttpResponse:
    """The answers to a message next to each other, at the pace they came; the fragment alone for htmx."""
    turn = Turn.objects.filter(pk=pk).first()
    if turn is None:
        raise Http404("no such message")
    turn.conversation = access.fetch(request.user, Conversation.objects.all(), turn.conversation_id)
    context = {"turn": turn, "conversation": turn.conversation, **_replayed(request, turn)}
    return render(request, f"{REPLAY}#replay" if request.htmx else REPLAY, context)


def _replayed(request: Request, turn: Turn) -> dict[str, Any]:
    """What is shown of them; nothing while who answered is hidden, for the pace would tell."""
    if votes.hidden(turn.conversation, turn, request.user):
        return {"hidden": True}
    rows = turn.generations.defer("vectors").select_related("column__deployment", "replica__node")
    newest = {row.column_id: row for row in rows.order_by("pk") if row.state not in Generation.LIVE}
    shown = sorted(newest.values(), key=lambda row: (row.column.position, row.column_id))
    return {
        "answers": [_answer(row) for row in shown],
        "where": _where(shown),
        "apart": _apart(shown),
    }


def _answer(row: Generation) -> dict[str, Any]:
    deployment = row.column.deployment
    return {
        "generation": row,
        "name": deployment.name if deployment else "The model",
        "engine": engines.get(deployment.engine).title if deployment else "",
        "pace": paces.of(row),
    }


def _where(rows: list[Generation]) -> str:
    """On which nodes and when: "on node-1 on 9 March 2026"."""
    nodes = sorted({row.replica.node.name for row in rows if row.replica and row.replica.node})
    days = dict.fromkeys(formats.date_format(row.created_at, "j F Y") for row in rows)
    return " ".join(f"on {' and '.join(names)}" for names in (nodes, list(days)) if names)


def _apart(rows: list[Generation]) -> bool:
    """Whether no two were written at the same time, as far as their rows tell."""
    spans = sorted((row.created_at, row.ended_at or row.created_at) for row in rows)
    return all(before[1] <= after[0] for before, after in pairwise(spans))
