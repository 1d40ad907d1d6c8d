"""The library of prompts: the list, one prompt with its versions, differences, files, trying one."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import OuterRef, Subquery
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import (
    access,
    columns,
    picking,
    prompt_changes,
    prompt_files,
    prompt_texts,
    prompts,
    sharing_rules,
    trying,
)
from playground.models import Deployment, Model, Prompt, PromptVersion
from playground.prompts import PromptRefused
from playground.views.conversations import writes
from playground.views.request import Request, team_of

PAGE = "playground/prompt.html"
LIST = "playground/prompts.html"
PAGE_ROWS = 50
HISTORY = 200
VALUE = "value."
HTTP_UNPROCESSABLE, HTTP_CONFLICT = 422, 409


# The library


@never_cache
@require_GET
def listing(request: Request) -> HttpResponse:
    """The team's prompts, last changed first; ?q= searches, ?tag= narrows, ?page= pages."""
    team = team_of(request)
    query, tag = request.GET.get("q", "").replace("\x00", "")[:200], request.GET.get("tag", "")[:40]
    last = PromptVersion.objects.filter(prompt=OuterRef("pk")).order_by("-number")
    rows = access.listed_to(request.user, prompts.find(team, query, tag.replace("\x00", "")))
    rows = rows.annotate(
        last_note=Subquery(last.values("note")[:1]),
        last_by=Subquery(last.values("created_by__username")[:1]),
        last_at=Subquery(last.values("created_at")[:1]),
    )
    context = {
        "page": Paginator(rows, PAGE_ROWS).get_page(request.GET.get("page")),
        "q": query,
        "tag": tag,
        "tags": prompts.tags_of(team, request.user),
        "may_write": access.can(request.user, "chat", team),
    }
    return render(request, f"{LIST}#list" if request.htmx else LIST, context)


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def take(request: Request) -> HttpResponse:
    """Import a file: a prompt, or a new version of one, or nothing where it says the same."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    why = ""
    if request.method == "POST":
        try:
            row = _taken(request, team)
        except PromptRefused as problem:
            why = str(problem)
        else:
            return redirect("prompt", row.pk)
    context = {"why": why, "most": prompt_files.BYTES}
    return render(
        request, "playground/prompt_import.html", context, status=HTTP_UNPROCESSABLE if why else 200
    )


def _taken(request: Request, team: Any) -> Prompt:
    sent = request.FILES.get("file")
    if sent is None or not sent.name:
        raise PromptRefused("Choose a file.")
    raw = sent.read(prompt_files.BYTES + 1)
    done = prompt_files.keep(team, request.user, prompt_files.read(raw, sent.name))
    row = done.prompt
    words = {
        "made": f"{row.name} was made from {sent.name}.",
        "saved": f"{sent.name} was saved as v{row.head}.",
        "changed": f"{row.name} says the same already; its description and tags were taken over.",
        "same": f"{row.name} says the same already: nothing was changed.",
    }
    messages.success(request, words[done.what])
    return row


# One prompt


def fetched(request: Request, pk: int, *, write: bool = False) -> Prompt:
    return access.fetch(request.user, Prompt.objects.select_related("team"), pk, write=write)


def version_of(prompt: Prompt, number: str) -> PromptVersion:
    """The version of that number; the newest for ""."""
    rows = prompt.versions.select_related("created_by", "prompt__team")
    if not number:
        return rows.order_by("-number")[0]
    if not number.isdecimal() or len(number) > 9:
        raise Http404("no such version")
    found = rows.filter(number=int(number)).first()
    if found is None:
        raise Http404("no such version")
    return found


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    """A prompt; ?v= names a version, else the newest."""
    prompt = fetched(request, pk)
    version = version_of(prompt, request.GET.get("v", ""))
    return _page(request, prompt, version)


def _page(
    request: Request,
    prompt: Prompt,
    version: PromptVersion,
    *,
    texts: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
    status: int = 200,
) -> HttpResponse:
    history = list(prompt.versions.select_related("created_by").defer("messages")[: HISTORY + 1])
    context = {
        **_filled(version, texts or {}),
        "prompt": prompt,
        "history": history[:HISTORY],
        "more": len(history) > HISTORY,
        "newest": version.number == prompt.head,
        "before": version.number - 1,
        "uses": prompts.uses(prompt, request.user),
        "may_write": access.can(request.user, "chat", prompt),
        "may_try": access.can(request.user, "chat", prompt.team),
        "why_not": sharing_rules.held_back(request.user, prompt),
        "choices": columns.choices(prompt.team, Model.Task.CHAT),
        "errors": errors or {},
        "about": typed
        or {"name": prompt.name, "description": prompt.description, "tags": ", ".join(prompt.tags)},
        "parameters": _parameters(version),
        "formats": [("yaml", "YAML"), ("json", "JSON")],
    }
    return render(request, PAGE, context, status=status)


def _parameters(version: PromptVersion) -> list[tuple[str, str, bool]]:
    """(name, value as text, whether it is long), by name."""
    found = []
    for name in sorted(version.parameters):
        value = version.parameters[name]
        long = isinstance(value, dict | list)
        found.append((name, prompt_changes.dumped(value) if long else prompt_changes.brief(value), long))
    return found


@require_POST
def filled(request: Request, pk: int) -> HttpResponse:
    """The messages with the values typed: fields "value.NAME"."""
    prompt = fetched(request, pk)
    version = version_of(prompt, request.POST.get("number", ""))
    return render(request, f"{PAGE}#filled", _filled(version, values_in(request)))


def values_in(request: Request) -> dict[str, str]:
    """What was typed for each variable."""
    return {
        name.removeprefix(VALUE): text.replace("\r\n", "\n")
        for name, text in request.POST.items()
        if name.startswith(VALUE) and isinstance(text, str)
    }


def _filled(version: PromptVersion, texts: dict[str, str]) -> dict[str, Any]:
    """What the variables' form and the messages filled in need."""
    rows, known = picking.variable_rows(version.variables, texts)
    return {
        "version": version,
        "rows": rows,
        "written": [shown_message(message) for message in version.messages],
        "ready": [shown_message(message, known) for message in version.messages],
        "missing": [row["variable"]["name"] for row in rows if row["variable"]["name"] not in known],
        "wrong": [row for row in rows if row["error"]],
    }


def shown_message(message: dict[str, Any], texts: dict[str, str] | None = None) -> dict[str, Any]:
    """A message for the template: its role, its text in pieces, whatever else it has as JSON."""
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    if isinstance(content, list):
        more |= {"content": [part for part in content if not isinstance(part.get("text"), str)]}
        more = {name: value for name, value in more.items() if value != []}
    return {
        "role": message["role"],
        "pieces": prompt_texts.shown(message, texts),
        "more": prompt_changes.dumped(more) if more else "",
    }


@never_cache
@require_GET
def difference(request: Request, pk: int) -> HttpResponse:
    """Two versions side by side: ?a= and ?b=, else the newest and the one before."""
    prompt = fetched(request, pk)
    a = version_of(prompt, request.GET.get("a") or str(max(1, prompt.head - 1)))
    b = version_of(prompt, request.GET.get("b", ""))
    parts = prompt_changes.compare(prompts.said(a), prompts.said(b))
    context = {
        "prompt": prompt,
        "a": a,
        "b": b,
        "parts": parts,
        "identical": prompt_changes.identical(parts),
        "numbers": list(prompt.versions.values_list("number", flat=True)),
    }
    return render(request, "playground/prompt_diff.html", context)


@require_GET
def export(request: Request, pk: int) -> HttpResponse:
    """The newest version, that of ?v=, or with ?all=1 every one, as a file of ?format=."""
    prompt = fetched(request, pk)
    kind = request.GET.get("format", "yaml")
    if kind not in prompt_files.FORMATS:
        raise Http404("no such format")
    every = bool(request.GET.get("all"))
    if every:
        versions = list(prompt.versions.select_related("created_by"))
    else:
        versions = [version_of(prompt, request.GET.get("v", ""))]
    text = prompt_files.write(prompt_files.document(prompt, versions, every=every), kind)
    response = HttpResponse(text, content_type=f"{prompt_files.FORMATS[kind]}; charset=utf-8")
    name = prompt_files.filename(prompt, kind)
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    return response


# Verbs


@writes
@require_POST
def restore(request: Request, pk: int) -> HttpResponse:
    """A new version that says what `number` said, after `base`."""
    prompt = fetched(request, pk, write=True)
    access.require(request.user, "chat", prompt)
    number, base = (request.POST.get(name, "") for name in ("number", "base"))
    if not (number.isdecimal() and base.isdecimal() and len(number) < 10 and len(base) < 10):
        raise Http404("no such version")
    try:
        fresh = prompts.restore(prompt, request.user, int(number), base=int(base))
    except prompts.Conflict as problem:
        messages.error(request, f"{problem} Look at it, then restore v{number} again if you still want to.")
    except PromptRefused as problem:
        messages.error(request, str(problem))
    else:
        messages.success(request, f"v{number} is back, as v{fresh.number}.")
    return redirect("prompt", prompt.pk)


@writes
@require_POST
def change(request: Request, pk: int) -> HttpResponse:
    """Another name, description, tags."""
    prompt = fetched(request, pk, write=True)
    access.require(request.user, "chat", prompt)
    typed = {name: request.POST.get(name, "") for name in ("name", "description", "tags")}
    try:
        prompts.change(
            prompt,
            request.user,
            name=typed["name"],
            description=typed["description"],
            tags=typed["tags"].split(","),
        )
    except PromptRefused as problem:
        prompt = fetched(request, pk)
        errors = {problem.name or "name": str(problem)}
        version = version_of(prompt, "")
        return _page(request, prompt, version, errors=errors, typed=typed, status=HTTP_UNPROCESSABLE)
    messages.success(request, "Kept.")
    return redirect("prompt", prompt.pk)


@writes
@require_POST
def delete(request: Request, pk: int) -> HttpResponse:
    prompt = fetched(request, pk, write=True)
    access.require(request.user, "chat", prompt)
    try:
        prompts.delete(prompt, request.user)
    except PromptRefused as problem:
        messages.error(request, str(problem))
        return redirect("prompt", prompt.pk)
    messages.success(request, f"{prompt.name} was deleted.")
    return redirect("prompts")


@writes
@require_POST
def begin(request: Request, pk: int) -> HttpResponse:
    """Try: a conversation that opens with version `number`, its variables given the values typed."""
    prompt = fetched(request, pk, write=True)
    access.require(request.user, "chat", prompt.team)
    version = version_of(prompt, request.POST.get("number", ""))
    texts = values_in(request)
    try:
        values = prompt_texts.read(version.variables, texts)
        made = trying.begin(version, request.user, _deployment(request, prompt), values)
    except PromptRefused as problem:
        errors = {"try": str(problem)}
        return _page(request, prompt, version, texts=texts, errors=errors, status=HTTP_UNPROCESSABLE)
    return redirect(reverse("conversation", args=[made.pk]))


def _deployment(request: Request, prompt: Prompt) -> Deployment | None:
    """The one chosen, else what is ready, else what starts."""
    choices = columns.choices(prompt.team, Model.Task.CHAT)
    wanted = request.POST.get("deployment", "")
    if wanted:
        found = next((one.deployment for one in choices if str(one.deployment.pk) == wanted), None)
        if found is None:
            raise Http404("no such deployment")
        return found
    for state in ("ready", "loading"):
        if found := next((one.deployment for one in choices if one.state == state), None):
            return found
    return None
