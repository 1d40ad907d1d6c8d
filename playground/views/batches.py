"""Batches: the list, one batch with its table as it fills, a row side by side, the verbs, files."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import (
    access,
    batch_chart,
    batch_files,
    batch_report,
    batch_row,
    batch_table,
    batches,
    sampling,
    sharing_rules,
)
from playground.batch_table import Wanted
from playground.models import Batch, BatchColumn, DatasetRow, WebhookDelivery
from playground.views.request import Request, number

PAGE, ROW, LIST = "playground/batch.html", "playground/batch_row.html", "playground/batches.html"
LISTED = 25
HTTP_CONFLICT = 409
State = Batch.State
# Beyond so many results progress and report are worked out less often: they count them all.
MANY = 50_000
SPREADS = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E"))


@never_cache
@require_GET
def listing(request: Request) -> HttpResponse:
    """The team's batches, newest first; ?before= is the next page."""
    rows = access.listed_to(request.user, Batch.objects.all()).order_by("-pk")
    before = request.GET.get("before", "")
    if (below := number(before)) is not None:
        rows = rows.filter(pk__lt=below)
    found = list(rows.select_related("version__dataset", "created_by")[: LISTED + 1])
    shown = found[:LISTED]
    context = {
        "rows": [(batch, *_glance(batch)) for batch in shown],
        "next": shown[-1].pk if len(found) > LISTED else None,
        "before": before,
    }
    return render(request, f"{LIST}#rows" if request.htmx else LIST, context)


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    """One batch. The query says which rows, see `_wanted`."""
    batch, columns = _batch(request, pk)
    context = _table(request, batch, columns) | _live(request, batch, columns)
    return render(request, PAGE, context | {"figure": _figure(request), "columns": columns})


@never_cache
@require_GET
def live(request: Request, pk: int) -> HttpResponse:
    """Progress and verbs alone."""
    batch, columns = _batch(request, pk)
    return render(request, f"{PAGE}#live", _live(request, batch, columns))


@never_cache
@require_GET
def rows(request: Request, pk: int) -> HttpResponse:
    """The table alone, as it fills."""
    batch, columns = _batch(request, pk)
    return render(request, f"{PAGE}#rows", _table(request, batch, columns))


@never_cache
@require_GET
def report(request: Request, pk: int) -> HttpResponse:
    """Totals, percentiles and the histogram of ?figure=."""
    batch, columns = _batch(request, pk)
    figure = _figure(request)
    totals, failed = batch_report.totals(columns), batch_report.failed(columns)
    charts = batch_chart.of(batch_report.histogram(columns, figure), figure)
    found = [totals[column.pk] for column in columns]
    placed = {column.pk: (place, column) for place, column in enumerate(columns, 1)}
    context = {
        "batch": batch,
        "totals": [(column, totals[column.pk], failed[column.pk]) for column in columns],
        "spreads": [
            (title, [(column, totals[column.pk].spreads.get(name)) for column in columns])
            for name, title in SPREADS
        ],
        "charts": [(*placed[chart.column], chart) for chart in charts],
        "figure": figure,
        "figures": list(batch_chart.TITLES.items()),
        "percentiles": batch_report.PERCENTILES,
        "any": any(one.n for one in found),
        "late": sum(one.late for one in found),
        "failed_all": sum(failed.values()),
        "every": "15s" if sum(one.n for one in found) > MANY else "3s",
    }
    return render(request, f"{PAGE}#report", context)


@never_cache
@require_GET
def row(request: Request, pk: int, number: int) -> HttpResponse:
    """One row with every column's whole answer, its figures, scores and earlier attempts."""
    batch, columns = _batch(request, pk)
    if not 0 < number <= batch.version.row_count:
        raise Http404("no such row")
    asked = DatasetRow.objects.filter(version=batch.version_id, number=number).first()
    if asked is None:
        raise Http404("no such row")
    answers = batch_row.answers(batch, columns, asked)
    context = {
        "batch": batch,
        "row": asked,
        "asked": batch_row.said(asked.body),
        "answers": answers,
        "writing": any(answer.claimed for answer in answers),
        "live": batch.state in Batch.OPEN,
        "before": number - 1,
        "after": number + 1 if number < batch.version.row_count else 0,
    }
    return render(request, f"{ROW}#row" if request.htmx else ROW, context)


async def export(request: Request, pk: int) -> HttpResponseBase:
    """The whole batch as a file of ?format=; JSONL is of one ?column=, the first unless named."""
    batch, columns = await sync_to_async(_batch)(request, pk)
    kind = request.GET.get("format", "jsonl")
    if kind not in batch_files.FORMATS:
        raise Http404("no such format")
    of = None
    if kind == "jsonl":
        wanted = number(request.GET.get("column", ""))
        of = _column(columns, columns[0].pk if wanted is None else wanted)
        columns = [of]
    answer = StreamingHttpResponse(
        batch_files.stream(batch, columns, kind), content_type=batch_files.FORMATS[kind]
    )
    name = batch_files.name(batch, kind, of)
    answer["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    answer["X-Content-Type-Options"] = "nosniff"
    return answer


@never_cache
@require_GET
def ended(request: Request) -> HttpResponse:
    """This person's batches that ended after ?since=, to tell of them on whichever page is open."""
    since = parse_datetime(request.GET.get("since", "").replace(" ", "+"))
    if since is None or timezone.is_naive(since):
        raise Http404("no such moment")
    own = access.visible_to(request.user, Batch.objects.filter(created_by=request.user, ended_at__gt=since))
    context = {"ended": list(own.order_by("ended_at")[:5]), "since": timezone.now().isoformat()}
    return render(request, f"{LIST}#ended", context)


# Verbs


@require_POST
def pause(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, batches.pause, "It pauses: rows that are being answered are finished.")


@require_POST
def resume(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, batches.resume, "It goes on.")


@require_POST
def cancel(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, batches.cancel, "It is cancelled. What was answered stays.")


@require_POST
def retry(request: Request, pk: int) -> HttpResponse:
    def again(batch: Batch, user: Any) -> None:
        count = batches.retry_failed(batch, user)
        messages.info(request, f"{count:,} row{'' if count == 1 else 's'} asked again.")

    return _act(request, pk, again, "")


def _act(request: Request, pk: int, verb: Callable[[Batch, Any], Any], done: str) -> HttpResponse:
    rows = Batch.objects.select_related("version", "team")
    batch = access.fetch(request.user, rows, pk, write=True)
    access.require(request.user, "chat", batch)
    try:
        verb(batch, request.user)
    except batches.BatchRefused as refusal:
        messages.error(request, str(refusal))
    else:
        if done:
            messages.info(request, done)
    return redirect("batch", pk)


# What the pages show


def _batch(request: Request, pk: int) -> tuple[Batch, list[BatchColumn]]:
    rows = Batch.objects.select_related(
        "version__dataset", "team", "created_by", "prompt_version__prompt__team"
    )
    batch = access.fetch(request.user, rows, pk)
    return batch, list(batch.columns.select_related("deployment__model"))


def _glance(batch: Batch) -> tuple[list[BatchColumn], batch_report.Progress]:
    """Who answers, and how far all of it is."""
    columns = list(batch.columns.select_related("deployment"))
    return columns, batch_report.whole(list(batch_report.progress(batch, columns).values()))


def _live(request: Request, batch: Batch, columns: list[BatchColumn]) -> dict[str, Any]:
    parts = batch_report.progress(batch, columns)
    return {
        "batch": batch,
        "progress": [(column, parts[column.pk]) for column in columns],
        "whole": batch_report.whole(list(parts.values())),
        "going": batch.state in Batch.OPEN,
        "live_every": "5s" if batch.version.row_count * len(columns) > MANY else "1s",
        "may": access.can(request.user, "chat", batch),
        "why_not": sharing_rules.held_back(request.user, batch),
        "prompt_seen": batch.prompt_version is not None
        and access.can(request.user, "view", batch.prompt_version.prompt),
        "told": WebhookDelivery.objects.filter(subject=f"batch:{batch.pk}").first()
        if batch.webhook
        else None,
        "own": {
            column.pk: sampling.paired(column.parameters)
            for column in columns
            if column.parameters is not None
        },
        "parameters": [
            (name, json.dumps(value, ensure_ascii=False)) for name, value in batch.parameters.items()
        ],
    }


def _table(request: Request, batch: Batch, columns: list[BatchColumn]) -> dict[str, Any]:
    wanted = _wanted(request, columns)
    query = {name: request.GET[name] for name in ("show", "by", "after", "from") if request.GET.get(name)}
    base = {name: value for name, value in query.items() if name not in ("after", "from")}
    found = batch_table.page(batch, columns, wanted)
    return {
        "batch": batch,
        "columns": columns,
        "found": found,
        "wanted": wanted,
        "by": request.GET.get("by", ""),
        "shows": _shows(batch, columns),
        "orders": _orders(columns),
        "query": urlencode(query),
        "first": urlencode(base),
        "next": urlencode(base | {"after": found.after}) if found.after else "",
    }


def _wanted(request: Request, columns: list[BatchColumn]) -> Wanted:
    """?show= one of FILTERS; ?by= "ttft:12", "-e2e:13": in order of a figure as a column has it."""
    show, by = request.GET.get("show", "all"), request.GET.get("by", "")
    figure, _, of = by.removeprefix("-").partition(":")
    column = number(of)
    after, start = request.GET.get("after", "")[:60], number(request.GET.get("from", ""))
    if not after and start is not None and start > 1:
        after = str(start - 1)
    if show in batch_table.FILTERS[1:]:
        return Wanted(filter=show, after=after)
    if figure not in batch_table.FIGURES or column is None or column not in {one.pk for one in columns}:
        return Wanted(after=after)
    return Wanted(figure=figure, column=column, descending=by.startswith("-"), after=after)


def _shows(batch: Batch, columns: list[BatchColumn]) -> list[tuple[str, str]]:
    """The filters that can show something here."""
    shows = [("all", "All rows"), ("failed", "Failed")]
    if len(columns) > 1:
        shows.append(("differs", "Answers differ"))
    if len(columns) > 1 and batch_table.titles_of(batch):
        shows.append(("regressions", "Regressions"))
    return shows


def _orders(columns: list[BatchColumn]) -> list[tuple[str, str]]:
    """ "" is the file's order."""
    orders = [("", "in the file's order")]
    for place, column in enumerate(columns, 1):
        of = f" of column {place}" if len(columns) > 1 else ""
        orders += [
            (f"-ttft:{column.pk}", f"slowest TTFT{of} first"),
            (f"ttft:{column.pk}", f"fastest TTFT{of} first"),
            (f"-e2e:{column.pk}", f"slowest E2E{of} first"),
            (f"e2e:{column.pk}", f"fastest E2E{of} first"),
            (f"-tokens:{column.pk}", f"most tokens{of} first"),
            (f"tokens:{column.pk}", f"fewest tokens{of} first"),
        ]
    return orders


def _figure(request: Request) -> str:
    asked = request.GET.get("figure", "")
    return asked if asked in batch_chart.TITLES else "e2e"


def _column(columns: list[BatchColumn], pk: int) -> BatchColumn:
    for column in columns:
        if column.pk == pk:
            return column
    raise Http404("no such column")
