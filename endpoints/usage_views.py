"""The team's usage: a page with totals, a chart and a table, and the table as CSV."""

import csv
import io
from typing import Any
from urllib.parse import urlencode

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from endpoints import usage_chart, usage_report
from endpoints.usage_report import GROUPS, PERIODS, SOURCES, Line, Period, PeriodRefused
from playground import cells
from playground.views.request import Request, team_of

PAGE = "endpoints/usage.html"
HTTP_UNPROCESSABLE = 422
COLUMNS = {
    "requests": "requests",
    "errors": "errors",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "completion_tokens": "completion_tokens",
    "gpu_hours": "gpu_h",
    "core_hours": "core_h",
    "cost": "cost",
    "requests_without_price": "unpriced",
    "ttft_p50_ms": "ttft_p50",
    "ttft_p95_ms": "ttft_p95",
}


@never_cache
@require_GET
def page(request: Request) -> HttpResponse:
    """?period= one of PERIODS, or custom with ?from= and ?to=; ?by=, ?source= and ?show= as the form has."""
    wanted = _wanted(request)
    try:
        when = _period(request)
    except PeriodRefused as problem:
        context = wanted | {"errors": {problem.field: str(problem)}}
        return render(request, PAGE, context, status=HTTP_UNPROCESSABLE)
    return render(request, PAGE, wanted | _found(request, when, wanted))


def _wanted(request: Request) -> dict[str, Any]:
    """What the form says, wrong or not."""
    given = request.GET
    by, source, show = given.get("by", ""), given.get("source", ""), given.get("show", "")
    return {
        "period": given.get("period", "7"),
        "typed": {"from": given.get("from", ""), "to": given.get("to", "")},
        "by": by if by in GROUPS else "model",
        "source": source if source in SOURCES else "",
        "show": show if show in usage_chart.FIGURES else "requests",
        "periods": [(name, words) for name, (words, _) in PERIODS.items()] + [("custom", "Custom")],
        "groups": GROUPS.items(),
        "sources": SOURCES.items(),
        "figures": [(name, title) for name, (title, _) in usage_chart.FIGURES.items()],
        "errors": {},
    }


def _period(request: Request) -> Period:
    given = request.GET
    return usage_report.period(given.get("period", "7"), given.get("from", ""), given.get("to", ""))


def _found(request: Request, when: Period, wanted: dict[str, Any]) -> dict[str, Any]:
    team = team_of(request)
    sources = _sources(wanted["source"])
    found = usage_report.report(team, when, wanted["by"], sources)
    totals, lines = found.totals, found.lines
    query = {
        name: request.GET[name] for name in ("period", "from", "to", "source", "by") if name in request.GET
    }
    return {
        "when": when,
        "totals": totals,
        "lines": lines[: usage_report.MOST_ROWS],
        "more": max(0, len(lines) - usage_report.MOST_ROWS),
        "title": GROUPS[wanted["by"]],
        "chart": usage_chart.of(found.steps, when, wanted["show"]),
        "gpu": any(line.gpu_s is not None for line in totals),
        "core": any(line.core_s is not None for line in totals),
        "unpriced": sum(line.unpriced for line in totals),
        "rough": found.rough,
        "held": None if wanted["source"] else _held(request, when, totals),
        "query": urlencode(query),
    }


def _held(request: Request, when: Period, totals: list[Line]) -> dict[str, Any] | None:
    """What replicas that were ready cost, and how much of that was nobody's."""
    held = usage_report.held(team_of(request), when)
    if not held.ready_s:
        return None
    busy = sum(line.cost or 0 for line in totals)
    return {
        "all": held,
        "gpu_h": held.gpu_s / 3600,
        "core_h": held.core_s / 3600,
        "idle": None if held.cost is None else max(0.0, held.cost - busy),
    }


def _sources(name: str) -> tuple[str, ...]:
    return (name,) if name else tuple(SOURCES)


@never_cache
@require_GET
def table(request: Request) -> HttpResponse:
    """The table of the same address as CSV. What is not known is an empty cell."""
    wanted = _wanted(request)
    try:
        when = _period(request)
    except PeriodRefused as problem:
        return HttpResponse(
            f"{problem}\n", status=HTTP_UNPROCESSABLE, content_type="text/plain; charset=utf-8"
        )
    by = wanted["by"]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([by, "source", *COLUMNS])
    for line in usage_report.report(team_of(request), when, by, _sources(wanted["source"])).lines:
        figures = [getattr(line, name) for name in COLUMNS.values()]
        writer.writerow([cells.safe(cell) for cell in (line.label, line.source, *figures)])
    answer = HttpResponse(out.getvalue(), content_type="text/csv; charset=utf-8")
    name = f"usage-by-{by}-{when.first}-{when.last}.csv"
    answer["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    return answer
