"""Scores of a batch: the results, the form of one more scorer, the rows that got worse."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import (
    access,
    jobs,
    score_form,
    score_judge,
    score_tables,
    score_words,
    scorers,
    scoring,
    standing,
)
from playground.models import Batch, BatchColumn, DatasetRow, Job
from playground.scorers import BadScorer
from playground.scoring import ScoringRefused
from playground.views.request import Request

PAGE, ROWS = "playground/scores.html", "playground/score.html"
FIRST = 5
SHOWN = 25
TITLES = {"worse": "Worse", "better": "Better", "low": "Not wholly right", "null": "Not scored", "all": "All"}


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    """Results and the form. ?baseline= is the column that the others are compared with."""
    batch = _batch(request, pk)
    return render(request, PAGE, _results(request, batch) | _form(batch, None, {}))


@never_cache
@require_GET
def live(request: Request, pk: int) -> HttpResponse:
    """The results alone."""
    return render(request, f"{PAGE}#results", _results(request, _batch(request, pk)))


@require_POST
def add(request: Request, pk: int) -> HttpResponse:
    """One more scorer, or the form again with a sentence beside each field that is wrong."""
    batch = _batch(request, pk, write=True)
    access.require(request.user, "chat", batch)
    typed = score_form.typed(request.POST.dict())
    try:
        scoring.add(batch, score_form.read(typed), request.user)
    except (BadScorer, ScoringRefused) as refusal:
        places = score_form.FIELDS.get(str(typed["kind"]), {})
        wrong = refusal.fields if isinstance(refusal, BadScorer) else {"": str(refusal)}
        errors = {places.get(name, name): why for name, why in wrong.items()}
        return render(request, PAGE, _results(request, batch) | _form(batch, typed, errors), status=422)
    return redirect(reverse("batch-scores", args=[pk]) + "#scores")


@require_POST
def remove(request: Request, pk: int, place: int) -> HttpResponse:
    """Take a scorer away, and its scores."""
    batch = _batch(request, pk, write=True)
    if not scoring.remove(batch, place, request.user):
        messages.info(request, "It was taken away already.")
    return redirect(reverse("batch-scores", args=[pk]) + "#scores")


@require_POST
def run(request: Request, pk: int) -> HttpResponse:
    """Score what has no score."""
    batch = _batch(request, pk, write=True)
    access.require(request.user, "chat", batch)
    try:
        scoring.begin(batch, request.user)
    except ScoringRefused as refusal:
        messages.error(request, str(refusal))
    return redirect(reverse("batch-scores", args=[pk]) + "#scores")


@require_POST
def cancel(request: Request, pk: int) -> HttpResponse:
    """End the run; scores that were given stay."""
    batch = _batch(request, pk, write=True)
    access.require(request.user, "chat", batch)
    job = scoring.newest(batch)
    if job is None or not jobs.cancel(job, request.user):
        messages.info(request, "It had ended already.")
    return redirect(reverse("batch-scores", args=[pk]) + "#scores")


@never_cache
@require_GET
def score(request: Request, pk: int, place: int) -> HttpResponse:
    """Rows of one scorer: ?show= which (see score_tables.WHICH), ?column=, ?baseline=, ?page= from 1."""
    batch = _batch(request, pk)
    found = dict(scoring.scorers_of(batch))
    if place not in found:
        raise Http404("no such scorer")
    columns = _columns(batch)
    baseline = _chosen(columns, request.GET.get("baseline", ""), columns[0])
    others = [one for one in columns if one.pk != baseline.pk]
    column = _chosen(columns, request.GET.get("column", ""), others[0] if others else baseline)
    same = column.pk == baseline.pk
    shows = [which for which in score_tables.WHICH if not (same and which in ("worse", "better"))]
    show = request.GET.get("show", "")
    show = show if show in shows else shows[0]
    number = _number(request.GET.get("page", ""))
    counts = {which: score_tables.count(place, column, baseline, which) for which in shows}
    offset = (number - 1) * SHOWN
    rows = score_tables.compared(place, found[place], column, baseline, show, offset, SHOWN)
    context = {
        "batch": batch,
        "place": place,
        "scorer": found[place],
        "says": score_words.says(found[place]),
        "columns": columns,
        "column": column,
        "baseline": baseline,
        "same": same,
        "show": show,
        "shows": [(which, TITLES[which], counts[which]) for which in shows],
        "rows": rows,
        "page": number,
        "more": counts[show] > offset + len(rows),
        "first": offset + 1,
        "last": offset + len(rows),
        "count": counts[show],
    }
    return render(request, ROWS, context)


# What the pages show


def _batch(request: Request, pk: int, *, write: bool = False) -> Batch:
    rows = Batch.objects.select_related("team", "version__dataset")
    return access.fetch(request.user, rows, pk, write=write)


def _columns(batch: Batch) -> list[BatchColumn]:
    rows = list(batch.columns.select_related("deployment", "batch"))
    if not rows:
        raise Http404("the batch has no columns")
    return rows


def _chosen(columns: list[BatchColumn], wanted: str, usual: BatchColumn) -> BatchColumn:
    return next((column for column in columns if str(column.pk) == wanted), usual)


def _number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 7 else 1


def _results(request: Request, batch: Batch) -> dict[str, Any]:
    columns = _columns(batch)
    baseline = _chosen(columns, request.GET.get("baseline", ""), columns[0])
    others = [column for column in columns if column.pk != baseline.pk]
    live = scoring.scorers_of(batch)
    sums = score_tables.sums(batch, columns)
    pairs = score_tables.pair_sums(baseline, others) if others else {}
    job = scoring.newest(batch)
    going = job is not None and job.state in Job.ACTIVE
    left = sum(one.left for one in sums.values())
    return {
        "batch": batch,
        "columns": columns,
        "baseline": baseline,
        "several": bool(others),
        "shown": [
            (one, _regressions(one, others, baseline))
            for one in score_words.shown(live, columns, baseline.pk, sums, pairs)
        ],
        "left": left,
        "unscored": sum(one.null for one in sums.values()),
        "job": job,
        "going": going,
        "line": standing.job_line(job) if job and going else None,
        "may": access.can(request.user, "chat", batch),
        "most": scoring.MOST,
        "full": len(live) >= scoring.MOST,
    }


def _regressions(
    shown: score_words.Shown, others: list[BatchColumn], baseline: BatchColumn
) -> list[tuple[score_words.Line, list[score_tables.Compared]]]:
    """A column's line and its worst rows, of those that lost any."""
    lost = {line.column.pk: line for line in shown.lines if line.versus and line.versus.pairs.losses}
    return [
        (
            lost[column.pk],
            score_tables.compared(shown.place, shown.scorer, column, baseline, "worse", 0, FIRST),
        )
        for column in others
        if column.pk in lost
    ]


def _form(batch: Batch, typed: dict[str, str | bool] | None, errors: dict[str, str]) -> dict[str, Any]:
    """The form as it stands, and what it offers."""
    told = DatasetRow.objects.filter(version=batch.version_id, expected__isnull=False).exists()
    cells = [str(name) for name in batch.version.columns]
    usual = "expected" if told else "cell" if cells else "fixed"
    return {
        "form": typed or score_form.typed(None, usual),
        "errors": errors,
        "kinds": list(scorers.KINDS.items()),
        "cells": cells,
        "told": told,
        "embedders": scoring.engines(batch.team, "embedding"),
        "judges": scoring.engines(batch.team, "chat"),
        "judge_fields": score_judge.FIELDS,
    }
