"""Batches: a dataset's version asked of one or several deployments, and what people may do with that.

The only writer of a Batch's state and of BatchColumn. Rows are asked by `slices`, whose claims look at the
batch's state each time: a verb here is one conditional update, and never waits for an engine.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Now

from playground import access, adapters, admission, deployments, events, nudges
from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    DatasetVersion,
    Deployment,
    Generation,
    PromptVersion,
    RowsTaken,
    Team,
    User,
)

State = Batch.State
Item = BatchItem.State
# What a page or a key may say of a column.
COLUMN_KEYS = frozenset({"deployment", "adapter", "parameters", "defaults"})
COLUMNS = 8
# A deployment that people talked to so lately is not stopped under them.
IN_USE_S = 300.0

logger = logging.getLogger(__name__)


class BatchRefused(Exception):
    """A batch may not be begun or changed so; the text says why."""


# Verbs


def begin(
    team: Team,
    user: User | None,
    name: str,
    version: DatasetVersion,
    columns: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    *,
    webhook: str = "",
    window_s: float | None = None,
    scorers: Sequence[Mapping[str, Any]] = (),
    prompt_version: PromptVersion | None = None,
) -> Batch:
    """Ask every row of `version` of each column: {"deployment", "adapter", "parameters", "defaults"}.

    `prompt_version`: the prompt of the library that the rows are filled into, see `prompt_rows`.

    A deployment that is stopped is started, which needs "start". After `window_s` what was not asked expires.
    """
    if user is not None:
        access.require(user, "chat", team)
    _refuse_version(team, version)
    _refuse_columns(team, columns)
    with transaction.atomic():
        _within_quota(team, user, version.row_count * len(columns), RowsTaken.What.BATCH)
        batch = Batch.objects.create(
            team=team,
            created_by=user,
            name=name.strip()[:200] or version.dataset.name,
            version=version,
            parameters=dict(parameters),
            scorers=[dict(scorer) for scorer in scorers],
            webhook=webhook,
            prompt_version=prompt_version,
            started_at=Now(),
            expires_at=None if window_s is None else Now() + timedelta(seconds=window_s),
        )
        made = [_column(batch, position, wanted, user) for position, wanted in enumerate(columns)]
        _makeitems_of(batch, made)
        about, after = f"batch:{batch.pk}", {"rows": version.row_count, "columns": len(columns)}
        access.audit(user, team, "begin batch", about, name=batch.name, after=after)
        announce(batch)
    batch.refresh_from_db()
    return batch


def _within_quota(team: Team, user: User | None, rows: int, what: str) -> None:
    try:
        admission.take_rows(team, user, rows, what)
    except admission.QuotaReached as reached:
        raise BatchRefused(str(reached)) from reached


def pause(batch: Batch, user: User | None) -> None:
    """Ask no more rows; those being answered are finished, then what the batch started is given back."""
    _require(batch, user)
    if not move(batch, [State.RUNNING], State.PAUSED):
        raise BatchRefused(f"It is {batch.get_state_display()}: only what runs can be paused.")
    _record(batch, user, "pause batch", State.RUNNING)


def resume(batch: Batch, user: User | None) -> None:
    """Go on; a deployment that was stopped meanwhile is started."""
    _require(batch, user)
    with transaction.atomic():
        if not move(batch, [State.PAUSED], State.RUNNING):
            raise BatchRefused(f"It is {batch.get_state_display()}: only what is paused can go on.")
        _start_again(batch, user)
        _record(batch, user, "resume batch", State.PAUSED)


def cancel(batch: Batch, user: User | None) -> None:
    """Ask no more rows and hang up on those being answered; what was answered stays. Twice is once."""
    _require(batch, user)
    before = batch.state
    with transaction.atomic():
        if not move(batch, [State.VALIDATING, State.RUNNING, State.PAUSED], State.CANCELLING):
            if batch.state in (State.CANCELLING, State.CANCELLED):
                return
            raise BatchRefused(f"It is {batch.get_state_display()} already.")
        items_of(batch).filter(state=Item.WAITING).update(state=Item.CANCELLED, retry_at=None)
        _record(batch, user, "cancel batch", before)


def retry_failed(batch: Batch, user: User | None) -> int:
    """Ask the failed rows once more: how many those are. Their errors stay in the history."""
    _require(batch, user)
    with transaction.atomic():
        locked = Batch.objects.select_for_update(no_key=True).get(pk=batch.pk)
        if locked.state not in (State.RUNNING, State.PAUSED, State.FINALIZING, State.COMPLETED):
            raise BatchRefused(f"It is {locked.get_state_display()}: its rows are not asked any more.")
        count = _try_again(batch)
        if count:
            _within_quota(batch.team, user, count, RowsTaken.What.AGAIN)
        if count and move(batch, [State.FINALIZING, State.COMPLETED], State.RUNNING, ended_at=None):
            _start_again(batch, user)
        if count:
            about = f"batch:{batch.pk}"
            access.audit(user, batch.team, "retry batch", about, name=batch.name, rows=count)
            announce(batch)
    batch.refresh_from_db()
    return count


def counts(batch: Batch) -> dict[int, dict[str, int]]:
    """{column's key: {state: how many rows}}, every state named."""
    found = {pk: dict.fromkeys(Item.values, 0) for pk in batch.columns.values_list("pk", flat=True)}
    rows = items_of(batch).order_by().values_list("column", "state").annotate(Count("pk"))
    for column, state, count in rows:
        found[column][state] = count
    return found


# Beginning


def _refuse_version(team: Team, version: DatasetVersion) -> None:
    if version.dataset.team_id != team.pk:
        raise BatchRefused("That dataset is another team's.")
    if not version.complete:
        raise BatchRefused("Its rows are still being read: wait until that is done.")
    if not version.row_count:
        raise BatchRefused("It has no rows.")


def _refuse_columns(team: Team, columns: Sequence[Mapping[str, Any]]) -> None:
    if not 0 < len(columns) <= COLUMNS:
        raise BatchRefused(f"Choose who answers: one deployment, or up to {COLUMNS}.")
    for wanted in columns:
        if unknown := set(wanted) - COLUMN_KEYS:
            raise BatchRefused(f"A column has no {', '.join(sorted(unknown))}.")
        row = Deployment.objects.filter(pk=wanted["deployment"].pk, team=team)
        deployment = row.exclude(desired=Deployment.Desired.DELETED).first()
        if deployment is None:
            raise BatchRefused("That deployment was deleted, or is another team's.")
        adapter = wanted.get("adapter") or ""
        if adapter and adapter not in adapters.served(deployment):
            raise BatchRefused(f"{deployment.name} does not serve the adapter {adapter}.")


def _column(batch: Batch, position: int, wanted: Mapping[str, Any], user: User | None) -> BatchColumn:
    parameters = wanted.get("parameters")
    column = BatchColumn.objects.create(
        batch=batch,
        position=position,
        deployment=wanted["deployment"],
        adapter=wanted.get("adapter") or "",
        parameters=None if parameters is None else dict(parameters),
        defaults=dict(wanted.get("defaults") or {}),
    )
    _start(column, batch.team, user)
    return column


def _start(column: BatchColumn, team: Team, user: User | None) -> None:
    """Start its deployment where that is stopped, and remember who did."""
    deployment = Deployment.objects.select_for_update(no_key=True).get(pk=column.deployment_id)
    if deployment.desired != Deployment.Desired.STOPPED:
        return
    if user is not None:
        access.require(user, "start", team)
    try:
        deployments.start(deployment, user)
    except deployments.DeploymentRefused as problem:
        raise BatchRefused(str(problem)) from problem
    BatchColumn.objects.filter(pk=column.pk).update(started_it=True)


def _start_again(batch: Batch, user: User | None) -> None:
    for column in batch.columns.all():
        _start(column, batch.team, user)


def _makeitems_of(batch: Batch, columns: Sequence[BatchColumn]) -> None:
    """An item for each row and column. Asked in the order of their text: what begins alike stands together.

    As `jsonb`, which writes a message's role before its content whichever was typed first, that order is the
    one of the conversations' trees.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO playground_batchitem
                (column_id, row_id, number, place, state, attempt, deaths, claimed_by)
            SELECT c.id, r.id, r.number, r.place, 'waiting', 0, 0, ''
            FROM unnest(%s::bigint[]) AS c(id)
            CROSS JOIN (
                SELECT id, number, row_number() OVER (ORDER BY
                    coalesce(body->'messages', body->'prompt', body->'input', body)::jsonb::text COLLATE "C",
                    number) AS place
                FROM playground_datasetrow WHERE version_id = %s
            ) AS r
            """,
            [[column.pk for column in columns], batch.version_id],
        )


def _try_again(batch: Batch) -> int:
    """failed → waiting, under the next attempt's number."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE playground_batchitem i
            SET state = 'waiting', attempt = i.attempt + 1, deaths = 0, retry_at = NULL, claimed_by = ''
            FROM playground_batchcolumn c
            WHERE c.id = i.column_id AND c.batch_id = %s AND i.state = 'failed'
            """,
            [batch.pk],
        )
        return int(cursor.rowcount)


# Giving back


def release(batch: Batch) -> None:
    """Stop what the batch started, unless others use it: another batch then stops it, or nobody does."""
    for column in batch.columns.filter(started_it=True).select_related("deployment__team"):
        if not BatchColumn.objects.filter(pk=column.pk, started_it=True).update(started_it=False):
            continue
        other = _other(column)
        if other is not None:
            BatchColumn.objects.filter(pk=other.pk).update(started_it=True)
        elif not _in_use(column.deployment):
            _stop(column.deployment)


def _other(column: BatchColumn) -> BatchColumn | None:
    """A column of another open batch that is asked of the same deployment."""
    others = BatchColumn.objects.filter(
        deployment=column.deployment, batch__state__in=[State.RUNNING, State.FINALIZING]
    )
    return others.exclude(batch=column.batch_id).first()


def _in_use(deployment: Deployment) -> bool:
    """Whether people talked to it lately."""
    since = Now() - timedelta(seconds=IN_USE_S)
    answers = Generation.objects.filter(column__deployment=deployment)
    return answers.filter(Q(state__in=Generation.LIVE) | Q(created_at__gt=since)).exists()


def _stop(deployment: Deployment) -> None:
    try:
        deployments.stop(deployment, None)
    except deployments.DeploymentRefused as problem:
        logger.info("a batch's deployment goes on: %s", problem)


# Small things


def say(column: BatchColumn, problem: str) -> None:
    """Why its rows wait; empty when they do not."""
    if BatchColumn.objects.filter(pk=column.pk).exclude(problem=problem).update(problem=problem):
        events.notify(column.batch.team_id, f"batch:{column.batch_id}")


def keep_concurrency(column: int, concurrency: int) -> None:
    """How many at once were enough: where the next slice begins."""
    BatchColumn.objects.filter(pk=column).exclude(concurrency=concurrency).update(concurrency=concurrency)


def _record(batch: Batch, user: User | None, act: str, before: str) -> None:
    """Keep in the audit log that its state was changed; `batch` has the new one."""
    change = {"before": {"state": str(before)}, "after": {"state": batch.state}}
    access.audit(user, batch.team, act, f"batch:{batch.pk}", name=batch.name, **change)


def _require(batch: Batch, user: User | None) -> None:
    if user is not None:
        access.require(user, "chat", batch)


def items_of(batch: Batch) -> QuerySet[BatchItem]:
    """Its rows in every column."""
    return BatchItem.objects.filter(column__batch=batch)


def move(batch: Batch, states: Sequence[str], to: str, **fields: Any) -> bool:
    """The conditional update every change of state goes through; `batch` has the row's state afterwards."""
    with transaction.atomic():
        moved = Batch.objects.filter(pk=batch.pk, state__in=states).update(state=to, **fields)
        batch.refresh_from_db()
        if moved:
            announce(batch)
    return bool(moved)


def announce(batch: Batch) -> None:
    """Tell browsers, and have the batch settled now."""
    tell(batch)
    nudges.send("playground.settle_batch", batch.pk)


def tell(batch: Batch) -> None:
    """Tell browsers that it changed."""
    events.notify(batch.team_id, f"batch:{batch.pk}", "batches")
