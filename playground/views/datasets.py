"""Datasets: the list, one with its versions and rows, the form that makes them, files in pieces."""

from collections.abc import AsyncIterator

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.db.models import Count, Max, OuterRef, Q, Subquery
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from playground import access, arriving, collecting, dataset_form, dataset_rows, datasets, thread
from playground.arriving import Arriving
from playground.dataset_form import Typed
from playground.datasets import DatasetRefused
from playground.models import Conversation, Dataset, DatasetRow, DatasetVersion, Team
from playground.orm import orm
from playground.views import conversations
from playground.views.request import Request, team_of

PAGE_ROWS = 50
SHOWN_ROWS = 20
AT_ONCE = 200


@never_cache
@require_GET
def listing(request: Request) -> HttpResponse:
    """The team's datasets by name; ?q= narrows, ?page= pages."""
    team = team_of(request)
    query = request.GET.get("q", "").strip()[:100]
    whole = DatasetVersion.objects.filter(dataset=OuterRef("pk"), complete=True).order_by("-number")
    rows = access.visible_to(request.user, Dataset.objects.filter(team=team, name__icontains=query))
    rows = rows.annotate(
        newest=Subquery(whole.values("number")[:1]),
        row_count=Subquery(whole.values("row_count")[:1]),
        made_from=Subquery(whole.values("kind")[:1]),
        changed=Max("versions__created_at"),
        version_count=Count("versions", filter=Q(versions__complete=True)),
    ).order_by("name")
    kinds = dict(DatasetVersion.Kind.choices)
    page = Paginator(rows, PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "kinds": kinds,
        "q": query,
        "may_add": access.can(request.user, "chat", team),
        "used": datasets.usage(team),
        "most": datasets.most(team),
    }
    part = "playground/datasets.html#list" if request.htmx else "playground/datasets.html"
    return render(request, part, context)


# Making one


@never_cache
@require_http_methods(["GET", "POST"])
def new(request: Request) -> HttpResponse:
    """The form for a dataset, or a version of ?dataset=. POST checks; `action` keep or skip saves as well."""
    team = team_of(request)
    dataset = _named(request, team)
    if request.method == "GET":
        return _form(request, dataset_form.begin(dataset, team))
    access.require(request.user, "chat", team)
    form = dataset_form.typed(team, request.POST.dict(), _file(request, team), dataset)
    if request.htmx:
        dataset_form.check(form, whole=False)
        return _form(request, form, part="#preview")
    action = request.POST.get("action")
    if action not in ("keep", "skip"):
        dataset_form.check(form)
        return _form(request, form)
    version = dataset_form.keep(form, request.user, skip_bad=action == "skip")
    if version is None:
        return _form(request, form)
    messages.success(request, f"{version.row_count:,} rows were saved as version {version.number}.")
    return redirect("dataset", version.dataset_id)


def _named(request: Request, team: Team) -> Dataset | None:
    """The dataset that gets a version: ?dataset=; `of` in the form, whose own `dataset` scripts read."""
    pk = request.POST.get("of") or request.GET.get("dataset") or ""
    if not pk:
        return None
    if not pk.isdecimal() or len(pk) > 18:
        raise Http404("no such dataset")
    return access.fetch(request.user, Dataset.objects.filter(team=team), pk, write=request.method == "POST")


def _file(request: Request, team: Team) -> Arriving | None:
    """What came in pieces before, or small enough with the form itself."""
    sent = request.FILES.get("upload")
    if sent is None or sent.size is None:
        return arriving.find(team, request.POST.get("file", ""))
    try:
        file = arriving.begin(team, sent.name or "", sent.size)
        at = 0
        for piece in sent.chunks(arriving.PIECE):
            at = arriving.write(file, at, piece)
    except DatasetRefused as problem:
        messages.error(request, str(problem))
        return None
    return file


def _form(request: Request, form: Typed, part: str = "") -> HttpResponse:
    preview = form.preview
    context = {
        "form": form,
        "typed": form.values,
        "errors": form.errors,
        "preview": preview,
        "glimpses": [dataset_rows.glimpse(row, place) for place, row in enumerate(preview.rows, 1)]
        if preview
        else [],
        "may_add": access.can(request.user, "chat", form.team),
        "adders": access.holders("chat", form.team),
        "piece": arriving.PIECE,
    }
    # A fragment that says what is wrong has to be shown as any other: htmx swaps it by its status.
    return render(request, f"playground/dataset_new.html{part}", context, status=200 if part else form.status)


@require_POST
def begin(request: Request) -> HttpResponse:
    """Room for a file that comes in pieces, asked for by static/datasets.js."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    size = request.POST.get("size", "")
    if not (size.isascii() and size.isdigit() and len(size) < 16):
        return JsonResponse({"error": "The size is a number."}, status=400)
    try:
        file = arriving.begin(team, request.POST.get("name", ""), int(size))
    except DatasetRefused as problem:
        return JsonResponse({"error": str(problem)}, status=problem.status)
    return JsonResponse({"file": file.key, "url": reverse("dataset-piece", args=[file.key])})


@require_POST
def piece(request: Request, key: str) -> HttpResponse:
    """One piece of a file, as the body; where it belongs stands in X-Offset."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    file = arriving.find(team, key)
    if file is None:
        return JsonResponse({"error": "The file is not here any more: choose it again."}, status=404)
    offset = request.headers.get("X-Offset", "")
    if not (offset.isascii() and offset.isdigit() and len(offset) < 16):
        return JsonResponse({"error": "X-Offset says where the piece belongs."}, status=400)
    try:
        received = arriving.write(file, int(offset), request.read(arriving.PIECE + 1))
    except DatasetRefused as problem:
        return JsonResponse({"error": str(problem), "received": file.received}, status=problem.status)
    return JsonResponse({"received": received})


# One


@never_cache
@require_GET
def dataset(request: Request, pk: int) -> HttpResponse:
    """One dataset: its versions, and the rows of one of them. ?version=, ?q=, ?page=."""
    row = access.fetch(request.user, Dataset.objects.select_related("team", "created_by"), pk)
    versions = list(
        row.versions.filter(complete=True)
        .select_related("created_by")
        .annotate(used=Count("batches"))
        .order_by("-number")
    )
    wanted = request.GET.get("version", "")
    shown = next((one for one in versions if str(one.number) == wanted), versions[0] if versions else None)
    query = request.GET.get("q", "").strip()[:200]
    page = _rows(shown, query, request.GET.get("page")) if shown else None
    context = {
        "dataset": row,
        "versions": versions,
        "version": shown,
        "q": query,
        "page": page,
        "glimpses": [dataset_rows.glimpse(one, one.number) for one in page] if page else [],
        "may_write": access.can(request.user, "chat", row.team),
    }
    part = "playground/dataset.html#whole" if request.htmx else "playground/dataset.html"
    return render(request, part, context)


def _rows(version: DatasetVersion, query: str, page: str | None) -> Page[DatasetRow]:
    """A page of its rows, those whose custom_id, right answer or request holds `query`."""
    rows = version.rows.order_by("number")
    if query:
        held = Q(custom_id__icontains=query) | Q(expected__icontains=query) | Q(body__icontains=query)
        rows = rows.filter(held)
    return Paginator(rows, SHOWN_ROWS).get_page(page)


@require_GET
def download(request: Request, pk: int, number: int) -> StreamingHttpResponse:
    """One version as OpenAI's batch lines, streamed."""
    row = access.fetch(request.user, Dataset.objects.all(), pk)
    version = row.versions.filter(complete=True, number=number).first()
    if version is None:
        raise Http404("no such version")
    response = StreamingHttpResponse(_lines(version), content_type="application/jsonl; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="dataset-{pk}-v{number}.jsonl"'
    return response


async def _lines(version: DatasetVersion) -> AsyncIterator[str]:
    """A few hundred rows at a time: an iterator that is not asynchronous would be read whole first."""
    after = 0
    while rows := await orm(_next, version, after):
        yield "".join(map(dataset_rows.openai_line, rows))
        after = rows[-1].number


def _next(version: DatasetVersion, after: int) -> list[DatasetRow]:
    return list(version.rows.filter(number__gt=after).order_by("number")[:AT_ONCE])


@require_POST
def delete(request: Request, pk: int) -> HttpResponse:
    """Delete it, or one version of it: `version`, a number."""
    row = access.fetch(request.user, Dataset.objects.select_related("team"), pk, write=True)
    access.require(request.user, "chat", row.team)
    number = request.POST.get("version", "")
    try:
        if not number:
            datasets.remove(row, request.user)
            messages.success(request, f"{row.name} was deleted.")
            return redirect("datasets")
        version = (
            row.versions.filter(number=number).first() if number.isdecimal() and len(number) < 9 else None
        )
        if version is None:
            raise Http404("no such version")
        datasets.remove_version(version, request.user)
        messages.success(request, f"Version {number} of {row.name} was deleted.")
    except DatasetRefused as problem:
        messages.error(request, str(problem))
    return redirect("dataset", pk)


# From a conversation


@never_cache
@require_http_methods(["GET", "POST"])
def from_conversation(request: Request, pk: int) -> HttpResponse:
    """Add the messages that a conversation shows to a dataset: `dataset`, or a new one called `name`."""
    rows = Conversation.objects.select_related("team")
    conversation = access.fetch(request.user, rows, pk, write=request.method == "POST")
    team, point = conversation.team, conversations.point(request.GET)
    typed = {"dataset": "", "name": conversation.title[:120], "answers": True}
    error = ""
    if request.method == "POST":
        access.require(request.user, "chat", team)
        typed = {name: request.POST.get(name, "").strip() for name in ("dataset", "name")}
        typed |= {"answers": "answers" in request.POST}
        try:
            return _added(request, conversation, point, typed)
        except DatasetRefused as problem:
            error = str(problem)
    shown = thread.show(conversation, point)
    context = {
        "conversation": conversation,
        "query": request.GET.urlencode(),
        "turns": [turn.turn.text for turn in shown.turns if turn.lead],
        "datasets": access.visible_to(request.user, Dataset.objects.filter(team=team)).order_by("name")[:500],
        "typed": typed,
        "error": error,
        "may_add": access.can(request.user, "chat", team),
    }
    return render(request, "playground/dataset_add.html", context, status=422 if error else 200)


def _added(
    request: Request, conversation: Conversation, point: thread.Point | None, typed: dict[str, object]
) -> HttpResponse:
    own = typed["dataset"]
    if own:
        if not str(own).isdecimal() or len(str(own)) > 18:
            raise Http404("no such dataset")
        held = Dataset.objects.filter(team=conversation.team)
        target = access.fetch(request.user, held, str(own), write=True)
    else:
        target = datasets.create(conversation.team, request.user, str(typed["name"]))
    try:
        version = collecting.add_conversation(
            target, request.user, conversation, point, answers=bool(typed["answers"])
        )
    except DatasetRefused:
        if not own:
            target.delete()
        raise
    messages.success(
        request, f"{target.name} has {version.row_count:,} rows now, as version {version.number}."
    )
    return redirect("dataset", target.pk)
