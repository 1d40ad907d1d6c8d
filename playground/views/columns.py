"""The columns of a conversation: who answers in them, adding and closing them, their order, own settings."""

from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from playground import access, columns, comparison, conversations, deployments, sampling
from playground.engines.base import Quirks
from playground.models import Column, Conversation
from playground.views.conversations import (
    HTTP_UNPROCESSABLE,
    PAGE,
    anew,
    chosen_deployment,
    headings,
    heads,
    refused,
    writable,
    writes,
)
from playground.views.request import Request


def _column(request: Request, pk: int, *, write: bool = False) -> Column:
    row = Column.objects.select_related("conversation", "deployment").filter(pk=pk, closed=False).first()
    if row is None:
        raise Http404("no such column")
    row.conversation = (
        writable(request, row.conversation_id)
        if write
        else access.fetch(request.user, Conversation.objects.all(), row.conversation_id)
    )
    return row


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def column(request: Request, pk: int) -> HttpResponse:
    """What stands over a column; POST chooses who answers in it."""
    if request.method == "GET":
        return _heading(request, _column(request, pk))
    row = _column(request, pk, write=True)
    try:
        chosen, _, adapter = request.POST.get("deployment", "").partition(":")
        conversations.choose(row, chosen_deployment(request, chosen), adapter)
    except conversations.ConversationRefused as problem:
        return refused(request, "#composer-note", str(problem))
    return anew(request, row.conversation)


@writes
@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Start the stopped deployment of a column."""
    row = _column(request, pk, write=True)
    if row.deployment is None:
        raise Http404("no deployment")
    access.require(request.user, "start", row.conversation.team)
    try:
        deployments.start(row.deployment, request.user)
    except deployments.DeploymentRefused as problem:
        return refused(request, "#composer-note", str(problem))
    return _heading(request, row)


def _heading(request: Request, row: Column) -> HttpResponse:
    there = comparison.shown(row.conversation)
    mine = next(iter(columns.headings(there, only=row.pk)), None)
    if mine is None:
        raise Http404("no such column")
    # The heading tells of the others how many there are.
    context = {"heading": mine, "headings": there, **heads(request, row.conversation)}
    return render(request, f"{PAGE}#heading", context)


@writes
@require_POST
def add(request: Request, pk: int) -> HttpResponse:
    """One more column at the end."""
    conversation = writable(request, pk)
    wanted = request.POST.get("deployment", "")
    try:
        comparison.add(conversation, chosen_deployment(request, wanted) if wanted else None)
    except (comparison.ComparisonRefused, conversations.ConversationRefused) as problem:
        return refused(request, "#composer-note", str(problem))
    return anew(request, conversation)


@writes
@require_POST
def act(request: Request, pk: int, verb: str) -> HttpResponse:
    """Clone a column, close it, or move it to the left or right."""
    row = _column(request, pk, write=True)
    try:
        if verb == "clone":
            comparison.clone(row)
        elif verb == "close":
            comparison.close(row)
        else:
            comparison.move(row, {"left": -1, "right": 1}[verb])
    except comparison.ComparisonRefused as problem:
        return refused(request, "#composer-note", str(problem))
    return anew(request, row.conversation)


@writes
@require_http_methods(["GET", "POST"])
def settings(request: Request, pk: int) -> HttpResponse:
    """A column's own system prompt and parameters: the form, and keeping it; `shared` gives them up."""
    row = _column(request, pk, write=True)
    if request.method == "GET":
        own = row.parameters if row.parameters is not None else row.conversation.parameters
        prompt = row.system_prompt if row.system_prompt is not None else row.conversation.system_prompt
        return render(request, f"{PAGE}#own", _own(row, sampling.fields(own, _unused(row)), prompt, {}))
    if "shared" in request.POST:
        comparison.configure(row, None, None)
        return anew(request, row.conversation)
    return _keep(request, row)


def _keep(request: Request, row: Column) -> HttpResponse:
    prompt = request.POST.get("system_prompt", "")
    errors: dict[str, str] = {}
    try:
        before = row.conversation.parameters if row.parameters is None else row.parameters
        chosen = sampling.over(before, sampling.read(request.POST.dict()))
        comparison.configure(row, prompt, chosen)
        return anew(request, row.conversation)
    except sampling.BadParameters as problem:
        errors = problem.fields
    except conversations.ConversationRefused as problem:
        errors = {"system_prompt": str(problem)}
    context = _own(row, sampling.typed(request.POST.dict(), _unused(row)), prompt, errors)
    response = render(request, f"{PAGE}#own", context, status=HTTP_UNPROCESSABLE)
    response["HX-Retarget"], response["HX-Reswap"] = "#own > .body", "innerHTML"
    return response


def _own(row: Column, fields: list[sampling.Field], prompt: str, errors: dict[str, str]) -> dict[str, Any]:
    return {"column": row, "fields": fields, "prompt": prompt, "errors": errors, "dialog": True}


def _unused(row: Column) -> frozenset[str]:
    quirks = Quirks()
    for heading in headings(row.conversation):
        if heading.column.pk == row.pk:
            quirks = heading.quirks
    return quirks.ignored | quirks.refused
