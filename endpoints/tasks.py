"""Celery's way into the production side: a nudge, with the truth in PostgreSQL."""

from celery import shared_task

from endpoints import promotion


@shared_task(name="endpoints.settle", ignore_result=True)
def settle() -> None:
    """Bring starting releases as far as they can go."""
    promotion.settle()
