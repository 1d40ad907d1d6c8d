"""What is due of open batches: expired claims, windows that are over, ends, and nudges that got lost.

Decides; what changes is written by `batches`. Every step is safe at any time and from several processes.
"""

import logging
from collections.abc import Callable

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from playground import batches, deployments, nudges, scoring
from playground.models import Batch, BatchColumn, BatchItem, Deployment, Replica

State = Batch.State
Item = BatchItem.State

WINDOW_OVER = "Its window was over before every row was asked."

# Each is asked, once no row is left to ask, whether its own work on the batch is done too.
FINISHERS: list[Callable[[Batch], bool]] = []

logger = logging.getLogger(__name__)


def settle_all() -> None:
    """Bring every open batch as far as it can go now. One's trouble does not keep the others waiting."""
    for batch in Batch.objects.filter(state__in=Batch.OPEN).order_by("pk"):
        try:
            settle(batch)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("batch %s could not be settled; the next pass tries again", batch.pk)


def settle(batch: Batch) -> None:
    """Bring one batch as far as it can go now."""
    _free_expired(batch)
    _expire(batch)
    _end(batch)
    if batch.state == State.RUNNING:
        for column in batch.columns.select_related("batch", "deployment"):
            _send(column)
    elif batch.state == State.PAUSED and not batches.items_of(batch).filter(state=Item.CLAIMED).exists():
        batches.release(batch)


def _free_expired(batch: Batch) -> None:
    """Claims whose process is gone: asked again, or cancelled with their batch."""
    expired = batches.items_of(batch).filter(state=Item.CLAIMED, lease_expires_at__lt=Now())
    goes_on = batch.state in (State.RUNNING, State.PAUSED)
    to = Item.WAITING if goes_on else Item.CANCELLED
    if expired.update(state=to, claimed_by="", lease_expires_at=None):
        batches.tell(batch)


def _expire(batch: Batch) -> None:
    """Its window is over: what was answered stays, the rest is not asked any more."""
    if not Batch.objects.filter(pk=batch.pk, expires_at__lt=Now()).exists():
        return
    with transaction.atomic():
        going = [State.RUNNING, State.PAUSED]
        if batches.move(batch, going, State.CANCELLING, problem=WINDOW_OVER):
            batches.items_of(batch).filter(state=Item.WAITING).update(state=Item.CANCELLED, retry_at=None)


def _end(batch: Batch) -> None:
    """The last steps, once no row waits or is being answered."""
    with transaction.atomic():
        if _rests(batch):
            batches.move(batch, [State.RUNNING], State.FINALIZING)
            _close(batch, State.CANCELLING, State.EXPIRED if _expired(batch) else State.CANCELLED)
    if batch.state == State.FINALIZING and all([finish(batch) for finish in FINISHERS]):
        with transaction.atomic():
            if _rests(batch):
                _close(batch, State.FINALIZING, State.COMPLETED)


def _close(batch: Batch, state: str, ended: str) -> None:
    """It has ended, and with it what it held: in one transaction, since nobody looks at it again."""
    if batches.move(batch, [state], ended, ended_at=Now()):
        batches.release(batch)
        scoring.after(batch)


def _expired(batch: Batch) -> bool:
    return batch.problem == WINDOW_OVER


def _rests(batch: Batch) -> bool:
    """Whether nothing is left to ask. Holds the batch's row, as whoever asks rows once more does."""
    batch.refresh_from_db(from_queryset=Batch.objects.select_for_update(no_key=True))
    return not batches.items_of(batch).filter(state__in=[Item.WAITING, Item.CLAIMED]).exists()


def _send(column: BatchColumn) -> None:
    """Nudge the nodes where its deployment answers, where a row is due."""
    if not column.items.filter(state__in=[Item.WAITING, Item.CLAIMED]).exists():
        return
    deployments.touch(column.deployment)
    due = column.items.filter(Q(retry_at=None) | Q(retry_at__lt=Now()), state=Item.WAITING)
    if not due.exists():
        return
    ready = deployments.ready_replicas(column.deployment)
    batches.say(column, "" if ready else why_it_waits(column.deployment))
    for node in sorted({replica.node.name for replica in ready if replica.node}):
        nudges.send("playground.serve_batches", queue=f"node.{node}")
        nudges.send("playground.batch_slice", column.pk, queue=f"batch.{node}")


def why_it_waits(deployment: Deployment) -> str:
    """Why nothing answers there, in words."""
    if deployment.desired == Deployment.Desired.DELETED:
        return f"{deployment.name} was deleted: cancel the batch, or begin one with another."
    if deployment.desired != Deployment.Desired.RUNNING:
        return f"{deployment.name} is stopped: start it, and the batch goes on."
    if deployment.problem:
        return f"{deployment.name} does not run: {deployment.problem}"
    return f"{deployment.name} is starting."


def has_work(node: str) -> bool:
    """Whether a running batch has rows to ask of something that answers on `node`."""
    here = Replica.objects.filter(node__name=node, state=Replica.State.READY).values("deployment")
    columns = BatchColumn.objects.filter(batch__state=State.RUNNING, deployment__in=here)
    return columns.filter(items__state__in=[Item.WAITING, Item.CLAIMED]).exists()


def release_claims(prefix: str) -> int:
    """Free what processes of that name had claimed: their successor knows that they are gone."""
    held = BatchItem.objects.filter(state=Item.CLAIMED, claimed_by__startswith=prefix)
    ending = [State.CANCELLING, State.CANCELLED, State.EXPIRED]
    closed = held.filter(column__batch__state__in=ending)
    freed = closed.update(state=Item.CANCELLED, claimed_by="", lease_expires_at=None)
    return freed + held.update(state=Item.WAITING, claimed_by="", lease_expires_at=None)
