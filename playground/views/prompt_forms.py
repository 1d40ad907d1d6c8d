"""Writing a prompt: the form of a new one and of the next version, what two wrote at once, the preview."""

from dataclasses import replace
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from playground import access, prompt_changes, prompt_form, prompt_texts, prompts, thread, trying
from playground.models import Conversation, Prompt
from playground.prompt_form import Message, Typed
from playground.prompts import Conflict, PromptRefused, Said
from playground.views.conversations import writes
from playground.views.prompts import fetched, shown_message, version_of
from playground.views.request import Request, team_of

PAGE = "playground/prompt_edit.html"
HTTP_UNPROCESSABLE, HTTP_CONFLICT = 422, 409


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def new(request: Request) -> HttpResponse:
    """A prompt to be; ?conversation= brings what was said there."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    if request.method == "GET":
        said = _conversation(request)
        form = prompt_form.begun(said or Said([]))
        form.name = request.GET.get("name", "")[: prompts.NAME]
        return _form(request, form, None, team=team, brought=said is not None)
    form = _typed(request)
    row = prompt_form.create(form, team, request.user) if not form.errors else None
    if row is None:
        return _form(request, form, None, team=team, status=HTTP_UNPROCESSABLE)
    messages.success(request, f"{row.name} was saved as v1.")
    return redirect(reverse("prompt", args=[row.pk]) + "?saved=new")


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def save(request: Request, pk: int) -> HttpResponse:
    """The next version of a prompt, from the newest, that of ?v=, or what ?conversation= made of one."""
    prompt = fetched(request, pk, write=request.method == "POST")
    access.require(request.user, "chat", prompt)
    if request.method == "GET":
        return _begun(request, prompt)
    form = _typed(request)
    if request.POST.get("action") == "merge":
        return _merged(request, prompt, form)
    try:
        fresh = prompt_form.save(form, prompt, request.user) if not form.errors else None
    except Conflict as problem:
        return _conflict(request, prompt, form, problem)
    if fresh is None:
        return _form(request, form, prompt, status=HTTP_UNPROCESSABLE)
    messages.success(request, f"Saved as v{fresh.number}.")
    return redirect(reverse("prompt", args=[prompt.pk]) + "?saved=1")


def _begun(request: Request, prompt: Prompt) -> HttpResponse:
    """The form with the newest version in it, or with another's text, to be saved after the newest."""
    brought = _conversation(request)
    version = version_of(prompt, request.GET.get("v", ""))
    base = version.number if brought or not request.GET.get("v") else prompt.head
    said = brought or prompts.said(version)
    return _form(request, prompt_form.begun(said, prompt, base), prompt, brought=brought is not None)


def _conversation(request: Request) -> Said | None:
    """What the conversation of ?conversation= says, on the branch of ?turn=."""
    pk = request.GET.get("conversation", "")
    if not pk.isdecimal() or len(pk) > 18:
        return None
    row = access.fetch(request.user, Conversation.objects.all(), pk)
    turn = request.GET.get("turn", "")
    point = thread.Point(int(turn)) if turn.isdecimal() and len(turn) <= 18 else None
    return trying.said(row, thread.show(row, point))


@require_POST
def form(request: Request) -> HttpResponse:
    """What is typed, looked at: its variables and the messages filled in; `whole` is the form again."""
    access.require(request.user, "chat", team_of(request))
    typed = _typed(request)
    pk = request.POST.get("prompt", "")
    prompt = fetched(request, int(pk)) if pk.isdecimal() and len(pk) <= 18 else None
    before = [row.name for row in typed.variables]
    typed.detect()
    if request.POST.get("whole"):
        _act(typed, request.POST.get("whole", ""))
        typed.detect()
        return _form(request, typed, prompt, part="#form", recalled=request.POST["whole"] == "recall")
    names = [row.name for row in typed.variables]
    return _form(request, typed, prompt, part="#looked" if names == before else "#detected")


def _act(typed: Typed, verb: str) -> None:
    """Add, move or take away a message: "add", "up 2", "down 0", "remove 1"."""
    what, _, place = verb.partition(" ")
    rows = typed.messages
    at = int(place) if place.isdecimal() and len(place) < 5 else -1
    if what == "add" and len(rows) < prompt_form.ROWS:
        last = rows[-1].role if rows else "system"
        rows.append(Message("assistant" if last == "user" else "user"))
    elif what == "remove" and 0 <= at < len(rows):
        rows.pop(at)
    elif what == "up" and 0 < at < len(rows):
        rows[at - 1], rows[at] = rows[at], rows[at - 1]
    elif what == "down" and 0 <= at < len(rows) - 1:
        rows[at], rows[at + 1] = rows[at + 1], rows[at]


def _typed(request: Request) -> Typed:
    """The form as sent; with an error in place of rows where it came incomplete."""
    posted = {name: request.POST.getlist(name) for name in request.POST}
    try:
        return prompt_form.typed(posted)
    except PromptRefused as problem:
        return Typed(errors={"form": str(problem)})


def _conflict(request: Request, prompt: Prompt, form: Typed, problem: Conflict) -> HttpResponse:
    """Both texts with their difference, and what the other changed; what was typed stays in the form."""
    newest = problem.newest
    base = version_of(prompt, str(form.base))
    mine = form.said()
    assert mine is not None  # it was checked before it met the other
    context = {
        "newest": newest,
        "base": base,
        "theirs": _changed(prompts.said(base), prompts.said(newest)),
        "mine": _changed(prompts.said(newest), mine),
    }
    return _form(request, form, prompt, status=HTTP_CONFLICT, conflict=context)


def _changed(a: Said, b: Said) -> list[prompt_changes.Part]:
    return [part for part in prompt_changes.compare(a, b) if part.kind != "same"]


def _merged(request: Request, prompt: Prompt, form: Typed) -> HttpResponse:
    """The form with both people's changes in it, to be looked at and saved after the newest version."""
    mine = form.said()
    if mine is None:
        return _form(request, form, prompt, status=HTTP_UNPROCESSABLE)
    newest, base = version_of(prompt, ""), version_of(prompt, str(form.base))
    merged = prompt_changes.merge(prompts.said(base), mine, prompts.said(newest), f"v{newest.number}")
    fresh = replace(form, base=newest.number, errors={})
    prompt_form.fill(fresh, merged.said)
    return _form(request, fresh, prompt, merged={"newest": newest, "clashes": merged.clashes})


def _form(
    request: Request,
    form: Typed,
    prompt: Prompt | None,
    *,
    part: str = "",
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    context = {
        "form": form,
        "errors": form.errors,
        "prompt": prompt,
        "rows": [_row(form, place, message) for place, message in enumerate(form.messages)],
        "roles": prompt_texts.ROLES,
        "types": prompt_texts.TYPES,
        "variables": [(row, form.errors.get(f"variable {row.name}", "")) for row in form.variables],
        "next": (form.base if form.base else 0) + 1,
        **_looked(form),
        **more,
    }
    return render(request, PAGE + part, context, status=status)


def _row(form: Typed, place: int, message: Message) -> dict[str, Any]:
    error = form.errors.get(f"message {place + 1}", "")
    return {"message": message, "place": place, "error": error, "last": place == len(form.messages) - 1}


def _looked(form: Typed) -> dict[str, Any]:
    """The messages with what is typed to look at them with."""
    texts: dict[str, str] = {}
    wrong: list[str] = []
    for row in form.variables:
        text = row.given or row.default
        variable = {"name": row.name, "type": row.type, "choices": row.choices.splitlines()}
        try:
            values = prompt_texts.read([variable], {row.name: text})
            texts |= prompt_texts.texts([variable], values)
        except PromptRefused as problem:
            wrong.append(str(problem))
    said = [{"role": row.role, "content": row.content} for row in form.messages if row.content]
    return {
        "ready": [shown_message(message, texts) for message in said],
        "wrong": wrong,
        "oddities": prompt_texts.oddities(said),
    }
