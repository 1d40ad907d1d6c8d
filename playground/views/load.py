"""Load runs of a conversation: the form, the run as it goes on, what it found, its samples as CSV."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import (
    access,
    dataset_prompts,
    load,
    load_form,
    load_report,
    load_results,
    runs,
    sharing_rules,
    standing,
)
from playground.cells import safe
from playground.load_form import DEFAULTS, LoadRefused
from playground.models import Conversation, Job, Measurement
from playground.views.request import Request

PAGE = "playground/load.html"
EARLIER = 20
LIMITS = ("ttft", "tpot", "e2e")
HEADINGS = (
    "column",
    "configuration",
    "loop",
    "level",
    "number",
    "prompt",
    "scheduled_ms",
    "sent_ms",
    "state",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "late",
    "finish_reason",
    "error",
)


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    """The form and the run asked for by ?run=, else the newest."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    run = _run(conversation, request.GET.get("run", ""))
    return render(request, PAGE, _context(request, conversation, run))


@never_cache
@require_GET
def live(request: Request, pk: int) -> HttpResponse:
    """The run alone, asked for as it goes on."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    run = _run(conversation, request.GET.get("run", ""))
    return render(request, f"{PAGE}#live", _shown(request, conversation, run))


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Begin a run, or show the form again with a sentence beside each field that is wrong."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk, write=True)
    sharing_rules.require_write(request.user, conversation)
    typed = _typed(request)
    try:
        typed = load_form.loaded(typed, _file(request))
        run = load.request(conversation, load.wanted(conversation, typed), request.user)
    except LoadRefused as refusal:
        more = {"typed": typed, "errors": refusal.fields}
        context = _context(request, conversation, _run(conversation, "")) | more
        return render(request, PAGE, context | _estimate(conversation, typed), status=422)
    return redirect(reverse("load", args=[pk]) + f"?run={run.pk}#results")


@require_POST
def estimate(request: Request, pk: int) -> HttpResponse:
    """How long the run would take as far as the form is filled in. Changes nothing."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    return render(request, f"{PAGE}#estimate", _estimate(conversation, _typed(request)))


@require_POST
def cancel(request: Request, pk: int, run: int) -> HttpResponse:
    """End a run; what it found so far stays."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk, write=True)
    row = get_object_or_404(_runs(conversation), pk=run)
    if not runs.cancel(row, request.user):
        messages.info(request, "It had ended already.")
    return redirect(reverse("load", args=[pk]) + f"?run={run}#results")


@require_GET
def samples(request: Request, pk: int, run: int) -> HttpResponse:
    """Every request of a run as CSV."""
    conversation = access.fetch(request.user, Conversation.objects.filter(blind=False), pk)
    row = get_object_or_404(_runs(conversation), pk=run)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(HEADINGS)
    writer.writerows(_cells(row))
    answer = HttpResponse(file.getvalue(), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="load-run-{row.pk}.csv"'
    return answer


def _cells(row: Measurement) -> Iterator[list[Any]]:
    """A line a sample; TTFT and E2E of an open loop from the scheduled moment, as in the tables."""
    names = {one["pk"]: one["name"] for one in row.settings.get("columns", [])}
    for number, one in enumerate(row.samples.select_related("configuration").iterator(), 1):
        found = load_report.request(load.taken(one), one.scheduled_ms, one.sent_ms or 0.0)
        line: list[Any] = [names.get(one.column_id, ""), one.configuration and one.configuration.digest[:12]]
        line += [one.arm, one.level, number, one.prompt + 1, one.scheduled_ms, one.sent_ms, one.state]
        line += [found.ttft, found.tpot, found.e2e]
        line += [one.usage.get(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
        line += [int(found.late), one.finish_reason, one.error]
        yield [safe(cell) for cell in line]


# What the page shows


def _runs(conversation: Conversation) -> Any:
    return runs.of(conversation, Measurement.Kind.LOAD)


def _run(conversation: Conversation, wanted: str) -> Measurement | None:
    """The run asked for, 404 where it is none of this conversation's; the newest where none is."""
    rows = _runs(conversation)
    if not wanted:
        newest: Measurement | None = rows.first()
        return newest
    if not wanted.isdecimal() or len(wanted) > 18:
        raise Http404("no such run")
    found: Measurement = get_object_or_404(rows, pk=wanted)
    return found


def _context(request: Request, conversation: Conversation, run: Measurement | None) -> dict[str, Any]:
    typed = DEFAULTS | {"source": "message" if (message := load.message(conversation)) else "prompts"}
    return {
        **_shown(request, conversation, run),
        **_estimate(conversation, typed),
        "message": message,
        "measured": [(column, load.replicas_of(column)) for column in load.columns(conversation)],
        "typed": typed,
        "errors": {},
        "runs": _runs(conversation)[:EARLIER],
        "datasets": dataset_prompts.choices(conversation.team),
        "most": {"requests": load_form.REQUESTS, "levels": load_form.LEVELS},
    }


def _shown(request: Request, conversation: Conversation, run: Measurement | None) -> dict[str, Any]:
    """A run, and what the person may do with it."""
    job = run.job if run else None
    going = job is not None and job.state in Job.ACTIVE
    shown: dict[str, Any] = {"results": load_results.of(run.settings, run.result) if run else None}
    if run and not going and any(name in request.GET for name in LIMITS):
        shown |= _under(run, {name: request.GET.get(name, "").strip() for name in LIMITS})
    return {
        **shown,
        "conversation": conversation,
        "run": run,
        "job": job,
        "going": going,
        "line": standing.job_line(job) if job and going else None,
        "may_write": sharing_rules.may_write(request.user, conversation),
    }


def _under(run: Measurement, typed: dict[str, str]) -> dict[str, Any]:
    """The run by other limits than it was begun with, or what is wrong with them."""
    try:
        limits = load_form.read_limits(typed)
    except LoadRefused as refusal:
        return {"limits_typed": typed, "limits_errors": refusal.fields}
    found = load_results.of({**run.settings, "limits": limits}, load.under(run, limits))
    return {"limits_typed": typed, "results": found}


def _estimate(conversation: Conversation, typed: dict[str, str]) -> dict[str, Any]:
    """How long a run takes, or nothing while the form does not make one."""
    try:
        taking = load.expected(conversation, load.wanted(conversation, DEFAULTS | typed))
    except LoadRefused:
        return {"taking": None, "conversation": conversation}
    return {
        "taking": taking,
        "taking_too_long": load.too_long(taking) if taking and taking.too_long else "",
        "conversation": conversation,
    }


def _typed(request: Request) -> dict[str, str]:
    typed = {name: request.POST.get(name, "").strip() for name in DEFAULTS}
    return typed | {"prompts": request.POST.get("prompts", "").replace("\r\n", "\n")}


def _file(request: Request) -> bytes | None:
    """The file chosen, as far as it may be long; LoadRefused beyond."""
    file = request.FILES.get("file")
    if file is None or not file.size:
        return None
    if file.size > load_form.BYTES:
        raise LoadRefused({"prompts": f"The file may have at most {load_form.BYTES >> 20} MiB."})
    content: bytes = file.read()
    return content
