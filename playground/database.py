"""Migrations and advisory locks: who may change the schema, and who waits until it has been changed.

Only `up` and `manage.py migrate` migrate, one at a time; every other process waits here before it serves.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, connections
from django.db.migrations.executor import MigrationExecutor

logger = logging.getLogger(__name__)
# Keys of PostgreSQL's advisory locks; every node of one database agrees on them.
MIGRATE = 7_541_001
BEAT = 7_541_002
WAIT_S = 0.2
TELL_AFTER_S = 5.0


@contextmanager
def lock(key: int) -> Iterator[psycopg.Connection]:
    """Hold an advisory lock, once it is free, on a connection of its own: the lock ends with that."""
    with psycopg.connect(settings.DATABASE_URL, autocommit=True, connect_timeout=5) as held:
        held.execute("SELECT pg_advisory_lock(%s)", [key])
        yield held


def pending() -> int:
    """How many migrations the database lacks."""
    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def migrate() -> int:
    """Bring the schema up to date; returns how many migrations it lacked. The command holds the lock."""
    try:
        count = pending()
        if count or settings.SECRET_KEY_FALLBACKS:
            call_command("migrate", interactive=False, verbosity=0)
        return count
    finally:
        connections.close_all()


def wait_until_migrated(say: Callable[[str], None] = logger.info) -> None:
    """Return once the schema is this code's; says what it waits for when that takes long."""
    tell_at: float | None = time.monotonic() + TELL_AFTER_S
    while why := _not_yet():
        if tell_at and time.monotonic() > tell_at:
            say(f"Waiting: {why}.")
            tell_at = None
        # A migration announces nothing: its end can only be asked for.
        time.sleep(WAIT_S)


def _not_yet() -> str:
    """Why this process cannot work yet; empty when it can."""
    try:
        count = pending()
    except OperationalError as error:
        return f"PostgreSQL does not answer ({str(error).strip().splitlines()[0]})"
    finally:
        connections.close_all()
    return (
        f"the database lacks {count} migrations; `make up` or `manage.py migrate` applies them"
        if count
        else ""
    )
