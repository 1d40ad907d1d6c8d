"""The beat process: Celery beat with the static schedule of the settings, kept in memory, behind an advisory
lock.
"""

import logging
import os
import select
import signal
import threading

import psycopg
from django.conf import settings

from playground import database
from playground.celery import app

logger = logging.getLogger(__name__)


def run() -> None:
    """Wait until no other beat runs, then send the periodic tasks until SIGTERM or SIGINT."""
    with database.lock(database.BEAT) as held:
        threading.Thread(target=_end_with, args=[held], daemon=True).start()
        logger.info("beat: %s", ", ".join(settings.CELERY_BEAT_SCHEDULE))
        app.Beat(scheduler="celery.beat:Scheduler", loglevel="INFO", quiet=True).run()


def _end_with(held: psycopg.Connection) -> None:
    """The lock is lost with its connection, and another beat may have it then: end this one."""
    # Nothing is ever asked on this connection, so it becomes readable only when it breaks.
    select.select([held.fileno()], [], [])
    logger.warning("beat ends: its connection to PostgreSQL, and with it the lock, is gone")
    os.kill(os.getpid(), signal.SIGTERM)
