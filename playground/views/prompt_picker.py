"""Which prompt of the library opens a conversation, and what its variables are given there."""

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from playground import access, opening, picking, prompt_texts, trying
from playground.models import Conversation, Prompt
from playground.prompts import PromptRefused
from playground.views.conversations import headings, settings_of, writable, writes
from playground.views.prompts import values_in, version_of
from playground.views.request import Request

PAGE = "playground/prompt_picker.html"
HTTP_UNPROCESSABLE = 422


@writes
@never_cache
@require_http_methods(["GET", "POST"])
def picker(request: Request, pk: int) -> HttpResponse:
    """The prompt of a conversation; POST `act`: use (a prompt's newest, or `number`), give values, leave."""
    if request.method == "GET":
        row = access.fetch(request.user, Conversation.objects.all(), pk)
        found = picking.picker(request.user, row)
        return render(request, f"{PAGE}#picker", {"conversation": row, "picker": found, "open": True})
    row = writable(request, pk)
    texts, act, why = values_in(request), request.POST.get("act", ""), ""
    try:
        _act(request, row, act, texts)
    except PromptRefused as problem:
        why = str(problem)
    found = picking.picker(request.user, row, texts if why else None)
    context = {"conversation": row, "picker": found, "open": True, "why": why}
    if act == "give":
        return render(request, f"{PAGE}#given", context, status=HTTP_UNPROCESSABLE if why else 200)
    if why:
        return render(request, f"{PAGE}#picker", context, status=HTTP_UNPROCESSABLE)
    return render(request, f"{PAGE}#replaced", context | settings_of(row, headings(row), {}))


def _act(request: Request, row: Conversation, act: str, texts: dict[str, str]) -> None:
    if act == "leave":
        opening.leave(row, request.user)
    elif act == "give" and row.prompt_version is not None:
        trying.give(row, prompt_texts.read(opening.variables(row, row.prompt_version), texts), request.user)
    elif act == "use":
        wanted = request.POST.get("prompt", "")
        if not wanted.isdecimal() or len(wanted) > 18:
            raise PromptRefused("Choose a prompt.")
        prompt = access.fetch(request.user, Prompt.objects.filter(team=row.team), wanted)
        version = version_of(prompt, request.POST.get("number", ""))
        names = {variable["name"] for variable in version.variables}
        kept = {name: value for name, value in row.prompt_values.items() if name in names}
        trying.use(row, version, kept, request.user)
    else:
        raise Http404("no such act")
