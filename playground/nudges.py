"""Sends task nudges on commit. Broker away: a nudge is dropped and logged; a sweep re-sends what is due."""

import logging

from django.db import transaction
from kombu.exceptions import OperationalError

from playground.celery import app

logger = logging.getLogger(__name__)


def send(task: str, *args: int, queue: str = "control") -> None:
    """Send `task` with row ids once the transaction commits. Never raises for a broker that is away."""
    transaction.on_commit(lambda: _send(task, args, queue))


def _send(task: str, args: tuple[int, ...], queue: str) -> None:
    try:
        app.send_task(task, args=args, queue=queue, retry=False, expires=60)
    except OperationalError as problem:
        logger.warning("nudge %s%s not sent: %s", task, args, problem)
