"""Celery's ways into the production side: nudges, with the truth in PostgreSQL."""

from celery import shared_task

from endpoints import batches, promotion, usage_store


@shared_task(name="endpoints.settle", ignore_result=True)
def settle() -> None:
    """Bring starting releases and the API's batches as far as they can go."""
    promotion.settle()
    batches.settle()


@shared_task(name="endpoints.batch", ignore_result=True)
def advance_batch(pk: int) -> None:
    """Read the lines of a batch that lie on this node, or write what it came to."""
    batches.advance(pk)


@shared_task(name="endpoints.forget_usage", ignore_result=True)
def forget_usage() -> None:
    """Delete usage and logged requests whose time is over."""
    usage_store.forget()
