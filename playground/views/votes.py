"""Blind votes: a message's ballot, blind mode on and off, and the team's tally."""

import json

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, sharing_rules, tally, votes
from playground.models import Conversation, Turn
from playground.views.conversations import writes
from playground.views.request import Request, team_of

PAGE = "playground/votes.html"
BALLOT = "playground/ballot.html"
HTTP_UNPROCESSABLE = 422


@never_cache
@require_GET
def page(request: Request) -> HttpResponse:
    """Every configuration of the team that was voted on, and how each pair did."""
    context = {"tally": tally.of_team(team_of(request)), "least": tally.LEAST}
    return render(request, f"{PAGE}#tally" if request.htmx else PAGE, context)


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def turn(request: Request, pk: int) -> HttpResponse:
    """A message's ballot, as a page with its answers; POST votes: `choice` is "A", "tie" or "bad"."""
    row = _turn(request, pk, write=request.method == "POST")
    why = ""
    if request.method == "POST":
        try:
            votes.cast(row, request.user, request.POST.get("choice", ""), request.POST.get("mark", ""))
        except votes.VoteRefused as problem:
            why = str(problem)
    response = _ballot(request, row, why)
    if request.method == "POST" and not why:
        response["HX-Trigger"] = json.dumps({"voted": {"target": f"#ballot-{row.pk}"}})
    return response


def _turn(request: Request, pk: int, *, write: bool) -> Turn:
    row = Turn.objects.filter(pk=pk).first()
    if row is None:
        raise Http404("no such message")
    rows = Conversation.objects.select_related("team")
    row.conversation = access.fetch(request.user, rows, row.conversation_id, write=write)
    return row


def _ballot(request: Request, row: Turn, why: str) -> HttpResponse:
    may_vote = access.can(request.user, "chat", row.conversation.team)
    context = {"ballot": votes.ballot(row, request.user), "why": why, "may_vote": may_vote}
    part = "#whole" if "whole" in request.GET else "#ballot"
    page = f"{BALLOT}{part}" if request.htmx else BALLOT
    return render(request, page, context, status=HTTP_UNPROCESSABLE if why else 200)


@writes
@require_POST
def blind(request: Request, pk: int) -> HttpResponse:
    """Turn blind mode on (?on=yes) or off."""
    conversation = access.fetch(request.user, Conversation.objects.select_related("team"), pk, write=True)
    sharing_rules.require_write(request.user, conversation)
    votes.set_blind(conversation, request.POST.get("on") == "yes", request.user)
    if not request.htmx:
        return redirect("conversation", conversation.pk)
    response = render(request, f"{BALLOT}#blind", {"conversation": conversation, "may_write": True})
    response["HX-Trigger"] = json.dumps({"blind": {"target": "#blind"}})
    return response
