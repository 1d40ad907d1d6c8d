"""Celery's ways in: each carries a row's id and calls one verb. What a lost one would do, a sweep does."""

from celery import shared_task

from playground import batch_sweep, leases, nodes, reconcile, webhooks
from playground.models import Batch


@shared_task(name="playground.reconcile")
def reconcile_due(deployment: int | None = None) -> None:
    """Bring one deployment, or everything that is due, to what it should be."""
    if deployment is not None:
        reconcile.settle(deployment)
        return
    reconcile.run()
    leases.sweep()
    batch_sweep.settle_all()


@shared_task(name="playground.start_replica")
def start_replica(pk: int) -> None:
    """Start the runner of a replica assigned to this node."""
    nodes.start_replica(pk)


@shared_task(name="playground.look")
def look(pk: int) -> None:
    """Have a replica's runner on this node look at its row now."""
    nodes.look(pk)


@shared_task(name="playground.start_job")
def start_job(pk: int) -> None:
    """Start the runner of a job of this node."""
    nodes.start_job(pk)


@shared_task(name="playground.sweep_node")
def sweep_node() -> None:
    """Make processes and rows on this node the same, now."""
    nodes.sweep()


@shared_task(name="playground.settle_batch")
def settle_batch(pk: int) -> None:
    """Bring one batch as far as it can go now."""
    if (batch := Batch.objects.filter(pk=pk).first()) is not None:
        batch_sweep.settle(batch)


@shared_task(name="playground.webhooks")
def send_webhooks() -> None:
    """Tell the addresses that wait for it that a batch has ended."""
    webhooks.sweep()


@shared_task(name="playground.serve_batches")
def serve_batches() -> None:
    """Have this node's process for batches run."""
    from playground import batch_process

    batch_process.child.ensure()


@shared_task(name="playground.batch_slice")
def batch_slice(column: int) -> None:
    """Ask rows of a column for under a minute."""
    from playground import slices

    slices.run(column)
