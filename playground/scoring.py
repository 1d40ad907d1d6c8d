"""Scoring a batch's rows: its scorers, and the job that scores what is answered.

Owns Batch.scorers and BatchScore. What scores mean together: `score_report`. A row's success is final, and a
scorer never changes: a score that was given stays, and a run goes on where the last one stopped.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet

from playground import access, async_work, deployments, events, frame, jobs, score_judge, scorers, widgets
from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchResult,
    BatchScore,
    Deployment,
    Job,
    Node,
    Team,
    User,
)
from playground.scorers import BadScorer, Score, Scorer
from playground.work import JobFailed, Work

MOST = 8
WHY = 2000
# How the reason of a row begins that counts as wrong because it failed.
FAILED = "The row failed"
log = logging.getLogger(__name__)


class ScoringRefused(Exception):
    """This may not be scored so; the text says why."""


# Scorers


def scorers_of(batch: Batch) -> list[tuple[int, Scorer]]:
    """(place, scorer) of those that were not taken away."""
    found = [(place, scorers.made(kept)) for place, kept in enumerate(batch.scorers)]
    return [(place, scorer) for place, scorer in found if not scorer.removed]


def add(batch: Batch, scorer: Scorer, user: User) -> int:
    """Score the batch by one more scorer; its place. BadScorer names settings."""
    access.require(user, "chat", batch)
    scorers.check(scorer)
    _require_text(batch)
    scorer = _with_engine(batch.team, scorer)
    _require_cell(batch, scorer)
    with transaction.atomic():
        held = Batch.objects.select_for_update(no_key=True).get(pk=batch.pk)
        if len(scorers_of(held)) >= MOST:
            raise ScoringRefused(f"A batch has at most {MOST} scorers: take one away first.")
        held.scorers.append(scorer.kept())
        held.save(update_fields=["scorers"])
        about, after = f"batch:{batch.pk}", {"kind": scorer.kind, "title": scorer.title}
        access.audit(user, batch.team, "add scorer", about, name=batch.name, after=after)
        begin(held, user)
    events.notify(batch.team_id, f"batch:{batch.pk}")
    batch.scorers = held.scorers
    return len(held.scorers) - 1


def remove(batch: Batch, place: int, user: User) -> bool:
    """Take a scorer and its scores away; False where there is none. The others keep their places."""
    access.require(user, "chat", batch)
    with transaction.atomic():
        held = Batch.objects.select_for_update(no_key=True).get(pk=batch.pk)
        if place not in [at for at, _ in scorers_of(held)]:
            return False
        before = {"place": place, "kind": held.scorers[place].get("kind", "")}
        held.scorers[place]["removed"] = True
        held.save(update_fields=["scorers"])
        BatchScore.objects.filter(column__batch=batch, scorer=place).delete()
        about = f"batch:{batch.pk}"
        access.audit(user, batch.team, "remove scorer", about, name=batch.name, before=before)
    events.notify(batch.team_id, f"batch:{batch.pk}")
    batch.scorers = held.scorers
    return True


def _require_text(batch: Batch) -> None:
    for column in batch.columns.select_related("deployment__model"):
        if column.deployment.model.task not in widgets.GENERATES:
            raise ScoringRefused(f"{column.deployment.name} answers no text: only text is scored.")


def _require_cell(batch: Batch, scorer: Scorer) -> None:
    if scorer.against == "cell" and scorer.cell not in batch.version.columns:
        raise BadScorer({"cell": "The dataset has no such column."})


def _with_engine(team: Team, scorer: Scorer) -> Scorer:
    """The scorer with the name of the deployment it asks; refused unless that runs."""
    if not scorer.task:
        return replace(scorer, deployment=None)
    found = next((one for one in engines(team, scorer.task) if one.pk == scorer.deployment), None)
    if found is None:
        raise BadScorer({"deployment": "It does not run: start it first."})
    return replace(scorer, served=found.name)


def engines(team: Team, task: str) -> list[Deployment]:
    """Deployments of a task that run now, newest first: those that can embed, or judge."""
    rows = Deployment.objects.filter(team=team, model__task=task, desired=Deployment.Desired.RUNNING)
    return [row for row in rows.select_related("model").order_by("-pk") if deployments.ready_replicas(row)]


# Asking for a run


def begin(batch: Batch, user: User | None) -> Job:
    """The run that scores what has no score yet: the one under way, else a new one."""
    target, arguments = _target(batch), {"batch": batch.pk}
    return jobs.request(Job.Kind.SCORE_BATCH, _node(), target, arguments, batch.team, user)


def after(batch: Batch) -> None:
    """A batch ended, or rows of it were answered anew: score what has no score, where it has scorers."""
    if scorers_of(batch):
        try:
            begin(batch, None)
        except ScoringRefused as problem:
            log.warning("batch %s is not scored: %s", batch.pk, problem)


def newest(batch: Batch) -> Job | None:
    """The run under way, else the last one."""
    return Job.objects.filter(target=_target(batch)).order_by("-pk").first()


def _target(batch: Batch) -> str:
    return f"batch-scores:{batch.pk}"


def _node() -> Node:
    """Where the job runs: this machine, else any that works."""
    live = [node for node in frame.live_nodes() if node.accepting]
    if not live:
        raise ScoringRefused("No worker runs: start one, then try again.")
    return next((node for node in live if node.name == settings.NODE_NAME), live[0])


def run(work: Work) -> dict[str, Any]:
    """The job's work. Scores are kept as they come; those of a broken run stay."""
    from playground import score_run

    batch = Batch.objects.select_related("team", "version").filter(pk=work.job.arguments["batch"]).first()
    if batch is None:
        raise JobFailed("The batch was deleted.")
    try:
        scored = async_work.run(work, score_run.Run(batch, work).score_all())
    except IntegrityError as problem:
        raise JobFailed("The batch was deleted while its rows were scored.") from problem
    finally:
        events.notify(batch.team_id, f"batch:{batch.pk}")
    return {"scores": scored}


# Rows to score


@dataclass(frozen=True)
class Row:
    """One answered row of a column. `error`: why it failed, else None; `wanted`: see Scorer.wanted."""

    number: int
    question: str
    wanted: str | None
    answer: str
    error: str | None


def due(column: BatchColumn, place: int) -> QuerySet[BatchItem]:
    """Answered rows of a column without a score that stays: none yet, null, or wrong because they failed."""
    kept = BatchScore.objects.filter(column=column, scorer=place, number=OuterRef("number"))
    final = kept.filter(value__isnull=False).exclude(why__startswith=FAILED)
    ended = (BatchItem.State.DONE, BatchItem.State.FAILED)
    return BatchItem.objects.filter(~Exists(final), column=column, state__in=ended).order_by("number")


def count_due(column: BatchColumn, place: int) -> int:
    return due(column, place).count()


def group(column: BatchColumn, place: int, scorer: Scorer, after: int, size: int) -> list[Row]:
    """The next of them, by number."""
    items = list(due(column, place).filter(number__gt=after).select_related("row")[:size])
    results = last_results(column, [item.number for item in items])
    return [_row(scorer, item, results.get(item.number)) for item in items]


def last_results(column: BatchColumn, numbers: list[int]) -> dict[int, BatchResult]:
    """The last attempt of each row, by its number."""
    rows = BatchResult.objects.filter(column=column, number__in=numbers)
    return {one.number: one for one in rows.order_by("number", "-attempt").distinct("number")}


def _row(scorer: Scorer, item: BatchItem, result: BatchResult | None) -> Row:
    row = item.row
    done = result is not None and result.ok
    error = None if done else (result.error if result else "") or "without a reason"
    wanted = scorer.wanted(row.expected, row.cells)
    question = score_judge.question_of(row.body) if scorer.kind == "judge" else ""
    return Row(item.number, question, wanted, result.text if result else "", error)


def known(scorer: Scorer, row: Row) -> Score | None:
    """What needs no look at the answer. A row without a right answer is left out in every column alike."""
    if row.wanted is None and scorer.needs_expected:
        return Score(None, "The row does not tell its right answer.")
    return Score(0.0, f"{FAILED}: {row.error}") if row.error is not None else None


def keep(column: BatchColumn, place: int, scores: dict[int, Score]) -> None:
    """Write down scores by row number, over what was there."""
    rows = [
        BatchScore(column=column, number=number, scorer=place, value=score.value, why=score.why[:WHY])
        for number, score in scores.items()
    ]
    BatchScore.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["column", "number", "scorer"],
        update_fields=["value", "why"],
    )
