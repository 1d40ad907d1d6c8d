"""The chat page and its fragments. Each view fetches through `access`, calls one verb, shows what came of it.

Fragments are partials of the one template, so a page that is loaded whole and one that grew look the same. A
refusal is shown where the person looks, and what was typed stays: the answer is 422 and goes to the note at
the composer or form.
"""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate

from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse, HttpResponseForbidden, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import (
    access,
    asking,
    columns,
    comparison,
    conversations,
    endings,
    generation,
    history,
    opening,
    picking,
    pictures,
    plans,
    results,
    sampling,
    sharing_rules,
    snippets,
    start_wishes,
    summaries,
    thread,
    together,
    votes,
    widgets,
)
from playground.figures import figures
from playground.models import Column, Conversation, Deployment, Generation, Image, Model, Team, Turn
from playground.prompt_texts import PromptRefused
from playground.views.request import Request, team_of

PAGE = "playground/conversation.html"
LISTED = 60
HTTP_UNPROCESSABLE = 422


def writes[**Rest](view: Callable[Concatenate[Request, Rest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Turn a refusal of the person's role into 403 with the sentence, as every fragment shows it."""

    @wraps(view)
    def guarded(request: Request, *args: Rest.args, **kwargs: Rest.kwargs) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except access.Refused as problem:
            page = render(request, f"{PAGE}#refused", {"reason": str(problem)})
            return HttpResponseForbidden(page.content)

    return guarded


# The page


@never_cache
@require_GET
def index(request: Request) -> HttpResponse:
    """The list of conversations; only its rows when searched as one types."""
    context = _list(request, None)
    if request.htmx:
        return render(request, f"{PAGE}#rows", context)
    context |= {"choices": _choices(request)}
    return render(request, "playground/conversations.html", context)


@writes
@require_http_methods(["GET", "POST"])
def new(request: Request) -> HttpResponse:
    """Begin a conversation with ?deployment=; an unused one of this person is taken first."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    wanted = (request.POST or request.GET).get("deployment", "")
    deployment = chosen_deployment(request, wanted) if wanted else _likeliest(request)
    row = conversations.begin(team, request.user, deployment)
    return redirect("conversation", row.pk)


def chosen_deployment(request: Request, pk: str) -> Deployment:
    if not pk.isdecimal() or len(pk) > 18:
        raise Http404("no such deployment")
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED)
    return access.fetch(request.user, rows.select_related("model"), pk)


def _likeliest(request: Request) -> Deployment | None:
    """What a new conversation speaks to before anybody chose: what is ready, else what starts."""
    return next((one.deployment for one in _choices(request) if one.state in ("ready", "loading")), None)


def _choices(request: Request) -> list[columns.Choice]:
    """Every deployment of the team, by task: chats first."""
    return [choice for task in Model.Task for choice in columns.choices(team_of(request), task)]


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    context = _conversation(request, conversation, point(request.GET)) | _list(request, conversation)
    return render(request, PAGE, context)


@never_cache
@require_GET
def turns(request: Request, pk: int) -> HttpResponse:
    """The messages alone; 204 when the page, which names the newest answer it has `seen`, has them all."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    shown = thread.show(conversation, point(request.GET))
    found = headings(conversation)
    if request.GET.get("shape", _shape(found)) != _shape(found):
        return anew(request, conversation, shown, found)
    if request.GET.get("seen") == str(shown.newest):
        return HttpResponse(status=204)
    return _turns(request, conversation, shown)


def _shape(there: list[columns.Heading]) -> str:
    """Which columns there are, in order, and which have settings of their own."""
    return "-".join(f"{one.column.pk}{'o' if one.own else ''}" for one in there)


def anew(
    request: Request,
    conversation: Conversation,
    shown: thread.Shown | None = None,
    found: list[columns.Heading] | None = None,
) -> HttpResponse:
    """The columns and every message anew."""
    shown = shown or thread.show(conversation, point(request.GET))
    found = found or headings(conversation)
    context = _said(request, conversation, shown) | heads(request, conversation)
    context |= summaries.of(conversation, shown, context["hidden"], context["places"])
    response = render(request, f"{PAGE}#anew", context | {"headings": found, "shape": _shape(found)})
    response["HX-Retarget"] = "#column-heads"
    return response


def point(query: QueryDict) -> thread.Point | None:
    """The branch asked for by ?turn=&answer=; None for the newest."""
    turn, answer = (query.get(name, "") for name in ("turn", "answer"))
    if not turn.isdecimal() or len(turn) > 18:
        return None
    return thread.Point(int(turn), int(answer) if answer.isdecimal() and len(answer) <= 18 else None)


def _conversation(request: Request, conversation: Conversation, point: thread.Point | None) -> dict[str, Any]:
    """What the page and most fragments need."""
    shown = thread.show(conversation, point)
    found = headings(conversation)
    said = _said(request, conversation, shown)
    picker = picking.picker(request.user, conversation)
    return {
        **said,
        **summaries.of(conversation, shown, said["hidden"], said["places"]),
        "headings": found,
        **heads(request, conversation),
        "words": widgets.WORDS[conversation.task],
        "query": shown.parent.inputs.get("query", "") if shown.parent else "",
        **composer_images(request, conversation, found),
        "longest": generation.CHARACTERS,
        "shape": _shape(found),
        "crowded": plans.fits_together(asking.columns_of(conversation), request.user).why
        if len(found) > 1
        else "",
        "typed": request.GET.get("text", "")[:2000] or (picker.get("asked", "") if not shown.turns else ""),
        "picker": picker,
        **settings_of(conversation, found, {}),
    }


def composer_images(
    request: Request, conversation: Conversation, headings: list[columns.Heading]
) -> dict[str, Any]:
    """Whether pictures can go with a message, and those that wait at the composer."""
    sees = any(heading.sees for heading in headings)
    attached = pictures.waiting(conversation, request.user) if conversation.task == "chat" else []
    return {"sees": sees, "attached": attached, "most": pictures.BYTES, "conversation": conversation}


def _said(
    request: Request, conversation: Conversation, shown: thread.Shown, *, only: int | None = None
) -> dict[str, Any]:
    """The messages with their answers, or the `only` one, and what a message sent now goes on from."""
    known = pictures.of_turns(turn.turn for turn in shown.turns)
    places = summaries.places(conversation)
    hidden = votes.hidden_of(conversation, (turn.turn for turn in shown.turns), request.user)
    turns = [
        _hidden(request, turn, known) if turn.turn.pk in hidden else _turn(turn, known, places)
        for turn in shown.turns
        if only in (None, turn.turn.pk)
    ]
    last_hidden = bool(shown.parent and shown.parent.pk in hidden)
    return {
        "conversation": conversation,
        "shown": shown,
        "places": places,
        "count": len(places),
        "hidden": hidden,
        "turns": turns,
        # Keys alone, in an order that tells nothing, where who answered is hidden.
        "previous": sorted(shown.previous, key=lambda one: one.pk) if last_hidden else shown.previous,
        "last_hidden": last_hidden,
        "generates": conversation.task in widgets.GENERATES,
        "several": len(places) > 1,
    }


def _hidden(request: Request, turn: thread.ShownTurn, known: dict[int, Image]) -> dict[str, Any]:
    """A turn whose answers do not show who gave them, nor anything that tells it."""
    answers = {answer.generation.column_id: answer.generation for answer in turn.answers}
    letters = votes.letters(turn.turn, request.user, answers)
    ended = not any(answer.state in Generation.LIVE for answer in answers.values())
    return {
        "shown": turn,
        "turn": turn.turn,
        "images": _images(turn, known),
        "answers": [],
        "hidden": True,
        "veiled": [(letter, answers[column]) for column, letter in letters.items()] if ended else [],
        "waits": not ended,
        "ballot": votes.ballot(turn.turn, request.user),
        "may_vote": access.can(request.user, "chat", turn.turn.conversation.team),
    }


def _images(turn: thread.ShownTurn, known: dict[int, Image]) -> list[Image]:
    return [known[key] for key in turn.turn.inputs.get("images", []) if key in known]


def _turn(turn: thread.ShownTurn, known: dict[int, Image], places: dict[int, int]) -> dict[str, Any]:
    several = len(turn.answers) > 1
    return {
        "shown": turn,
        "turn": turn.turn,
        "images": _images(turn, known),
        "answers": [_answer(answer, places) for answer in turn.answers],
        "several": several,
        "differences": summaries.differences(turn, places) if several else [],
        "beside": together.timed([one.generation for one in turn.answers], places) if several else "",
    }


def _answer(answer: thread.ShownAnswer, places: dict[int, int]) -> dict[str, Any]:
    at = places.get(answer.generation.column_id)
    return {**_generation(answer.generation), "place": answer.place, "at": at or 1, "gone": at is None}


def _generation(row: Generation) -> dict[str, Any]:
    name = row.column.deployment.name if row.column.deployment else "The model"
    return {
        "generation": row,
        "live": row.state in Generation.LIVE,
        "figures": figures(row),
        "bars": endings.bars(row),
        "sentence": endings.sentence(row, name),
        "ignored": row.effective.get("ignored") or [],
        "widget": results.shown(row),
    }


def headings(conversation: Conversation) -> list[columns.Heading]:
    return columns.headings(comparison.shown(conversation))


def heads(request: Request, conversation: Conversation) -> dict[str, Any]:
    """What all headings need beside what they say."""
    return {
        "conversation": conversation,
        "choices": columns.choices(conversation.team, conversation.task),
        "may_chat": sharing_rules.may_write(request.user, conversation),
        "why_not": sharing_rules.held_back(request.user, conversation),
        **asking_of(request, conversation.team),
        "most": comparison.MOST,
        "generates": conversation.task in widgets.GENERATES,
    }


def asking_of(request: Request, team: Team) -> dict[str, Any]:
    """Whether this person may start what is stopped, else whom they may ask, and what they asked already."""
    if access.can(request.user, "start", team):
        return {"may_start": True}
    wishes = start_wishes.by_deployment(request.user, team)
    return {"may_start": False, "wishes": wishes, "operators": access.holders("start", team)}


def settings_of(
    conversation: Conversation, there: list[columns.Heading], errors: dict[str, str]
) -> dict[str, Any]:
    ignored: set[str] = set()
    for heading in there:
        ignored |= heading.quirks.ignored | heading.quirks.refused
    fields = sampling.fields(conversation.parameters, ignored)
    return {
        "conversation": conversation,
        "fields": fields,
        "errors": errors,
        "set": len(conversation.parameters),
    }


def _list(request: Request, current: Conversation | None) -> dict[str, Any]:
    query = request.GET.get("q", "")
    rows = list(access.listed_to(request.user, conversations.find(team_of(request), query))[: LISTED + 1])
    return {"query": query, "rows": rows[:LISTED], "more": len(rows) > LISTED, "current": current}


def _turns(request: Request, conversation: Conversation, shown: thread.Shown) -> HttpResponse:
    """Every message anew, with where the composer goes on from."""
    may_chat = sharing_rules.may_write(request.user, conversation)
    context = _said(request, conversation, shown) | {"may_chat": may_chat}
    context |= summaries.of(conversation, shown, context["hidden"], context["places"])
    return render(request, f"{PAGE}#replaced", context)


def refused(request: Request, where: str, why: str, status: int = HTTP_UNPROCESSABLE) -> HttpResponse:
    """A sentence for the element `where`; nothing else on the page changes."""
    response = render(request, f"{PAGE}#why", {"why": why}, status=status)
    response["HX-Retarget"] = where
    response["HX-Reswap"] = "innerHTML"
    return response


# Keeping conversations


def writable(request: Request, pk: int) -> Conversation:
    """A conversation this person may write in; Http404 for a stranger's, Refused for a viewer."""
    conversation = access.fetch(request.user, Conversation.objects.select_related("team"), pk, write=True)
    sharing_rules.require_write(request.user, conversation)
    return conversation


@writes
@require_http_methods(["GET", "POST"])
def rename(request: Request, pk: int) -> HttpResponse:
    conversation = writable(request, pk)
    if request.method == "GET":
        part = "title" if "cancel" in request.GET else "rename"
        return render(request, f"{PAGE}#{part}", {"conversation": conversation, "may_chat": True})
    try:
        conversations.rename(conversation, request.POST.get("title", ""), request.user)
    except conversations.ConversationRefused as problem:
        return refused(request, "#rename-note", str(problem))
    return render(request, f"{PAGE}#renamed", {"conversation": conversation, "may_chat": True})


@writes
@require_POST
def delete(request: Request, pk: int) -> HttpResponse:
    try:
        conversations.delete(writable(request, pk), request.user)
    except conversations.ConversationRefused as problem:
        return refused(request, "#composer-note", str(problem))
    response = HttpResponse(status=204 if request.htmx else 302)
    response["HX-Redirect" if request.htmx else "Location"] = reverse("playground")
    return response


@writes
@require_POST
def settings(request: Request, pk: int) -> HttpResponse:
    """Keep the system prompt and the parameters; wrong ones are named by field and nothing is kept."""
    conversation = writable(request, pk)
    errors: dict[str, str] = {}
    try:
        parameters = sampling.over(conversation.parameters, sampling.read(request.POST.dict()))
        conversations.configure(conversation, request.POST.get("system_prompt", ""), parameters, request.user)
    except sampling.BadParameters as problem:
        errors = problem.fields
    except conversations.ConversationRefused as problem:
        errors = {"system_prompt": str(problem)}
    status = HTTP_UNPROCESSABLE if errors else 200
    return render(
        request, f"{PAGE}#kept", settings_of(conversation, headings(conversation), errors), status=status
    )


@require_GET
def code(request: Request, pk: int) -> HttpResponse:
    """The conversation's next request as curl, Python and JavaScript."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    shown = thread.show(conversation, point(request.GET))
    column = _chosen(conversation, request.GET)
    deployment = f"deployment/{column.deployment_id}" if column and column.deployment_id else "deployment/ID"
    deployment += f":{column.adapter}" if column and column.adapter else ""
    found = snippets.snippets(
        request.build_absolute_uri("/v1"),
        deployment,
        conversation.task,
        _asked(conversation, shown),
        asking.parameters_of(column) if column else conversation.parameters,
    )
    return render(request, f"{PAGE}#code", {"snippets": found, "conversation": conversation})


def _chosen(conversation: Conversation, query: QueryDict) -> Column | None:
    """The open column asked for by ?column=, else the first."""
    there = comparison.shown(conversation)
    asked = (one for one in there if str(one.pk) == query.get("column"))
    return next(asked, there[0] if there else None)


def _asked(conversation: Conversation, shown: thread.Shown) -> dict[str, Any]:
    """What the last message of the shown branch asks; empty where nothing was."""
    if conversation.task == Model.Task.CHAT:
        return {"messages": _messages(conversation, shown)}
    last = shown.parent
    return widgets.asked(conversation.task, last.text, last.inputs) if last else {}


def _messages(conversation: Conversation, shown: thread.Shown) -> list[dict[str, Any]]:
    """What was said up to the last message of the shown branch; a greeting where nothing was."""
    try:
        messages = opening.messages(conversation)
    except PromptRefused:  # A value is missing: shown as it is written.
        system = {"role": "system", "content": conversation.system_prompt}
        messages = [system] if conversation.system_prompt else []
    for turn in shown.turns:
        messages.append({"role": "user", "content": pictures.sketched(turn.turn)})
        if turn is not shown.turns[-1] and turn.lead:
            messages.append({"role": "assistant", "content": turn.lead.text})
    return messages if shown.turns else [*messages, {"role": "user", "content": "Hello"}]


# Messages


@writes
@require_POST
def send(request: Request, pk: int) -> HttpResponse:
    """Add a message after what the page shows, and start its answers. The same client_id is one message."""
    # `generation.send` asks for the role, as for everybody who sends: asking here, too, would cost a query.
    rows = Conversation.objects.select_related("team")
    conversation = access.fetch(request.user, rows, pk, write=True)
    called = conversation.title
    parent, previous = _continued(conversation, request.POST)
    conversations.go_on_from(conversation, one=bool(request.POST.get("from")))
    try:
        turn = generation.send(
            conversation,
            request.POST.get("text", ""),
            request.POST.get("client_id", ""),
            request.user,
            parent,
            previous,
            _inputs(request, conversation),
        )
    except generation.SendRefused as problem:
        return refused(request, "#composer-note", str(problem))
    shown = thread.alone(turn) or thread.show(conversation, thread.Point(turn.pk))
    context = _said(request, conversation, shown, only=turn.pk)
    context |= {"may_chat": True, "named": conversation.title != called}
    return render(request, f"{PAGE}#sent", context)


def _inputs(request: Request, conversation: Conversation) -> dict[str, Any]:
    """What goes with a message's text: a rerank's query, or the pictures that the composer names."""
    if conversation.task == Model.Task.RERANK:
        return {"query": _query(request)}
    keys = pictures.chosen(conversation, request.POST.getlist("image"), request.user)
    return {"images": keys} if keys else {}


def _query(request: Request) -> str:
    return request.POST.get("query", "").replace("\r\n", "\n").replace("\x00", "")


def _continued(conversation: Conversation, form: QueryDict) -> tuple[Turn | None, list[Generation]]:
    """The turn and the answers a message continues, of this conversation only, by the columns' order."""
    turn = conversation.turns.filter(pk__in=_keys(form.getlist("parent"))).first()
    if turn is None:
        return None, []
    answers = turn.generations.order_by("column__closed", "column__position", "pk")
    given = list(answers.filter(pk__in=_keys(form.getlist("previous"))))
    return turn, [one for one in given if str(one.column_id) == form.get("from")] or given


def _keys(given: list[str]) -> list[int]:
    """Those of the given texts that may be a row's key."""
    return [int(one) for one in given[:64] if one.isdecimal() and len(one) <= 18]


def _own_turn(request: Request, pk: int, *, write: bool = False) -> Turn:
    row = Turn.objects.filter(pk=pk).first()
    if row is None:
        raise Http404("no such message")
    fetch = (
        writable if write else lambda request, pk: access.fetch(request.user, Conversation.objects.all(), pk)
    )
    row.conversation = fetch(request, row.conversation_id)
    return row


@require_GET
def turn(request: Request, pk: int) -> HttpResponse:
    """One message as it stands, for whoever gave up editing it."""
    row = _own_turn(request, pk)
    shown = thread.show(row.conversation, thread.Point(row.pk))
    found = next((one for one in shown.turns if one.turn.pk == row.pk), None)
    if found is None:
        raise Http404("no such message")
    may_chat = sharing_rules.may_write(request.user, row.conversation)
    context = {"turn": row, "shown": found, "may_chat": may_chat, "conversation_pk": row.conversation_id}
    context["images"] = list(pictures.of_turns([row]).values())
    return render(request, f"{PAGE}#said", context)


@writes
@require_http_methods(["GET", "POST"])
def edit(request: Request, pk: int) -> HttpResponse:
    """A message's text to change; POST sends it as a sibling, and the one before stays reachable."""
    row = _own_turn(request, pk, write=True)
    if request.method == "GET":
        return render(request, f"{PAGE}#edit", {"turn": row})
    try:
        sibling = generation.send(
            row.conversation,
            request.POST.get("text", ""),
            request.POST.get("client_id", ""),
            request.user,
            row.parent,
            history.before(row),
            row.inputs | ({"query": _query(request)} if row.conversation.task == Model.Task.RERANK else {}),
        )
    except generation.SendRefused as problem:
        return refused(request, f"#edit-note-{row.pk}", str(problem))
    return _turns(request, row.conversation, thread.show(row.conversation, thread.Point(sibling.pk)))


# Answers


def _own_generation(request: Request, pk: int, *, write: bool = False) -> Generation:
    row = (
        Generation.objects.filter(pk=pk)
        .defer("vectors")
        .select_related("column__deployment", "turn", "configuration")
        .first()
    )
    if row is None:
        raise Http404("no such answer")
    row.turn.conversation = _own_turn(request, row.turn_id, write=write).conversation
    if not write and votes.hidden(row.turn.conversation, row.turn, request.user):
        raise Http404("a blind answer is not told apart before the vote")
    return row


@never_cache
@require_GET
def whole(request: Request, pk: int) -> HttpResponse:
    """One message with its answers, anew: those of a blind one show once all have ended or one has voted."""
    row = _own_turn(request, pk)
    shown = thread.show(row.conversation, thread.Point(row.pk))
    context = _said(request, row.conversation, shown, only=row.pk) | heads(request, row.conversation)
    one = next(iter(context["turns"]), None)
    if one is None:
        raise Http404("no such message")
    return render(request, f"{PAGE}#one", context | {"one": one})


@writes
@require_POST
def stop_all(request: Request, pk: int) -> HttpResponse:
    """Stop every answer to a message."""
    row = _own_turn(request, pk, write=True)
    for live in row.generations.filter(state__in=Generation.LIVE):
        async_to_sync(generation.stop)(live.pk)
    return HttpResponse(status=204)


@never_cache
@require_GET
def answer(request: Request, pk: int) -> HttpResponse:
    """One answer as it stands."""
    row = _own_generation(request, pk)
    conversation = row.turn.conversation
    shown = thread.show(conversation, thread.Point(row.turn_id, row.pk))
    context = _said(request, conversation, shown, only=row.turn_id) | heads(request, conversation)
    context |= summaries.of(conversation, shown, context["hidden"], context["places"])
    one = next(iter(context["turns"]), None)
    answers = one["answers"] if one else []
    found = next((answer for answer in answers if answer["generation"].pk == row.pk), None)
    if one is None or found is None:
        raise Http404("no such answer")
    context |= {"answer": found, "one": one, "several": context["several"] and one["several"]}
    context["conversation_pk"] = conversation.pk
    return render(request, f"{PAGE}#settled", context)


@writes
@require_POST
def regenerate(request: Request, pk: int) -> HttpResponse:
    """Another answer to the same message in the same column; this one stays reachable."""
    row = _own_generation(request, pk, write=True)
    try:
        fresh = generation.regenerate(row.turn, row.column, request.user)
    except generation.SendRefused as problem:
        return refused(request, "#composer-note", str(problem))
    conversation = row.turn.conversation
    return _turns(request, conversation, thread.show(conversation, thread.Point(row.turn_id, fresh.pk)))


@writes
@require_POST
def alone(request: Request, pk: int) -> HttpResponse:
    """Another answer in every column to the same message, one column after the other."""
    row = _own_turn(request, pk, write=True)
    if votes.hidden(row.conversation, row, request.user):
        return refused(
            request, "#composer-note", "Vote on this message first: figures would tell who answered."
        )
    try:
        generation.time_alone(row, request.user)
    except generation.SendRefused as problem:
        return refused(request, "#composer-note", str(problem))
    return _turns(request, row.conversation, thread.show(row.conversation, thread.Point(row.pk)))


@writes
@require_POST
def stop(request: Request, pk: int) -> HttpResponse:
    """Stop an answer, for a page whose socket is closed."""
    row = _own_generation(request, pk, write=True)
    async_to_sync(generation.stop)(row.pk)
    return HttpResponse(status=204)


@require_GET
def effective(request: Request, pk: int) -> HttpResponse:
    """What the engine was really asked, and what it and the model made of it."""
    row = _own_generation(request, pk)
    found = async_to_sync(generation.effective)(row)
    body = json.dumps(found.pop("body"), indent=2, ensure_ascii=False)
    context = {**found, "generation": row, "body": body}
    return render(request, f"{PAGE}#request", context)
