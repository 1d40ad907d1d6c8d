"""How answers to one message differ, and how the requests of its columns do: fragments, and whole pages."""

from typing import Any

from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import access, beside, effects_compared, sharing_rules, votes
from playground.beside import TOKEN, WORD, Beside, Compared
from playground.differences import SPAN, named
from playground.margins import TIE_NATS, WIDEST
from playground.models import Conversation, Turn
from playground.similarity import Alike
from playground.views.conversations import writable, writes
from playground.views.request import FIELD, Request

PAGE = "playground/differences.html"


@never_cache
@require_GET
def difference(request: Request, pk: int) -> HttpResponse:
    """Two of a message's answers beside each other: ?a=&b= columns, ?by=, ?view=, ?within= nats, ?answer=."""
    return _difference(request, _turn(request, pk), request.GET)


@writes
@require_POST
def margin(request: Request, pk: int) -> HttpResponse:
    """Ask both engines again for the log-probabilities where two answers part."""
    turn = _turn(request, pk, write=True)
    if (found := _pair(request, turn, request.POST)) and not any(one.live for one in found):
        async_to_sync(beside.measured)(*found)
    if request.htmx:
        return _difference(request, turn, request.POST)
    return redirect(f"{reverse('turn-difference', args=[turn.pk])}?{_query(request.POST)}")


@writes
@require_POST
def similarity(request: Request, pk: int) -> HttpResponse:
    """How alike two answers are in meaning, by an embedding model that runs."""
    turn = _turn(request, pk, write=True)
    found = _pair(request, turn, request.POST)
    alike = async_to_sync(beside.alike)(*found) if found else None
    return _difference(request, turn, request.POST, alike)


@never_cache
@require_GET
def requests(request: Request, pk: int) -> HttpResponse:
    """The effective requests of a message's columns, and what differs between them in words."""
    turn = _turn(request, pk)
    context: dict[str, Any] = {"turn": turn, "what": "requests"}
    if votes.hidden(turn.conversation, turn, request.user):
        context["hidden"] = True
    else:
        found = [one for one in beside.answers(turn, _wanted(request.GET)) if one.generation.request]
        looks = async_to_sync(beside.seen)(found)
        context |= {"looks": list(zip(found, looks, strict=True)), "words": effects_compared.words(looks)}
    return render(request, f"{PAGE}#requests" if request.htmx else PAGE, context)


def _turn(request: Request, pk: int, *, write: bool = False) -> Turn:
    row = Turn.objects.filter(pk=pk).first()
    if row is None:
        raise Http404("no such message")
    if write:
        row.conversation = writable(request, row.conversation_id)
    else:
        conversations = Conversation.objects.select_related("team")
        row.conversation = access.fetch(request.user, conversations, row.conversation_id)
    return row


def _difference(request: Request, turn: Turn, query: QueryDict, alike: Alike | None = None) -> HttpResponse:
    found = beside.answers(turn, _wanted(query))
    chosen = _pair(request, turn, query, found)
    by, view = query.get("by", ""), query.get("view", "")
    within, wrong = _within(query.get("within", ""))
    context: dict[str, Any] = {
        "turn": turn,
        "what": "difference",
        "found": found,
        "hidden": votes.hidden(turn.conversation, turn, request.user),
        "by": TOKEN if by == TOKEN else WORD,
        "view": "inline" if view == "inline" else "side",
        "within": query.get("within") or f"{TIE_NATS:g}",
        "wrong": wrong,
        "alike": alike,
        "may_chat": sharing_rules.may_write(request.user, turn.conversation),
    }
    if chosen and not context["hidden"] and not any(one.live for one in chosen):
        context |= _shown(async_to_sync(beside.compared)(*chosen, context["by"], within))
    context["pair"] = chosen
    return render(request, f"{PAGE}#difference" if request.htmx else PAGE, context)


def _shown(compared: Compared) -> dict[str, Any]:
    """Two answers' difference, with its parts named as the page shows them."""
    sides = compared.divergence.sides if compared.divergence else ()
    names = (compared.a.name, compared.b.name)
    return {
        "compared": compared,
        "firsts": [named(part) for part in compared.parting.first] if compared.parting else [],
        "sides": list(zip(names, sides, strict=False)),
        "span": SPAN,
    }


def _pair(
    request: Request, turn: Turn, query: QueryDict, found: list[Beside] | None = None
) -> tuple[Beside, Beside] | None:
    """The two answers asked for; None where there are not two, or who gave them is not to be seen yet."""
    if votes.hidden(turn.conversation, turn, request.user):
        return None
    shown = beside.answers(turn, _wanted(query)) if found is None else found
    return beside.pair(shown, _key(query.get("a", "")), _key(query.get("b", "")))


def _wanted(query: QueryDict) -> set[int]:
    return {key for text in query.getlist("answer") if (key := _key(text))}


def _key(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def _within(text: str) -> tuple[float, str]:
    """Nats within which two tokens are as likely, and what is wrong with what was typed."""
    if not text.strip():
        return TIE_NATS, ""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1.0
    if 0 <= value <= WIDEST:
        return value, ""
    return TIE_NATS, f"A tie takes 0 to {WIDEST:g} nats; {TIE_NATS:g} is used."


def _query(form: QueryDict) -> str:
    kept = form.copy()
    for name in ("csrfmiddlewaretoken", FIELD):
        kept.pop(name, None)
    return kept.urlencode()
