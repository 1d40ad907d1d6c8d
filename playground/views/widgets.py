"""What belongs to one widget of a conversation: pictures attached to a chat, and the numbers of a vector."""

from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import access, pictures, widgets
from playground.models import Conversation, Generation, Image
from playground.views import conversations
from playground.views.request import Request

# A picture is shown as what it is and nothing else, whatever it holds.
ALONE = "default-src 'none'; sandbox"


@conversations.writes
@require_POST
def attach(request: Request, pk: int) -> HttpResponse:
    """Keep the pictures of the form for this person's next message; the first that is refused says why."""
    conversation = conversations.writable(request, pk)
    for file in request.FILES.getlist("file"):
        try:
            pictures.add(conversation, file.name or "", file.read(pictures.BYTES + 1), request.user)
        except pictures.PictureRefused as problem:
            return _attached(request, conversation, str(problem))
    return _attached(request, conversation)


@conversations.writes
@require_POST
def discard(request: Request, pk: int) -> HttpResponse:
    row = _image(request, pk, write=True)
    if row.created_by_id != request.user.pk:
        raise Http404("no such picture")
    pictures.discard(row)
    return _attached(request, row.conversation)


@require_GET
def image(request: Request, pk: int) -> HttpResponse:
    """A picture's bytes, to the team of its conversation."""
    row = _image(request, pk)
    response = HttpResponse(bytes(row.data), content_type=f"image/{row.kind}")
    response["Content-Security-Policy"] = ALONE
    response["X-Content-Type-Options"] = "nosniff"
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


@never_cache
@require_GET
def vector(request: Request, pk: int, place: int) -> HttpResponse:
    """All numbers of one vector of an answer."""
    row = Generation.objects.filter(pk=pk).only("result", "vectors", "turn__conversation").first()
    if row is None:
        raise Http404("no such answer")
    access.fetch(request.user, Conversation.objects.all(), row.turn.conversation_id)
    if row.vectors is None or place >= len(row.result.get("norms", [])):
        raise Http404("no such vector")
    return JsonResponse(widgets.vector(bytes(row.vectors), row.result["dimension"], place), safe=False)


def _image(request: Request, pk: int, *, write: bool = False) -> Image:
    row = Image.objects.filter(pk=pk).first()
    if row is None:
        raise Http404("no such picture")
    if write:
        row.conversation = conversations.writable(request, row.conversation_id)
    else:
        row.conversation = access.fetch(request.user, Conversation.objects.all(), row.conversation_id)
    return row


def _attached(request: Request, conversation: Conversation, why: str = "") -> HttpResponse:
    """What waits at the composer now, and why something was not taken."""
    attached = pictures.waiting(conversation, request.user)
    context = {"attached": attached, "why": why, "swapped": True}
    return render(request, "playground/widgets.html#attached", context, status=422 if why else 200)
