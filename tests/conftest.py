"""Fixtures every test may use. The servers themselves are started by the plugin `tests.home`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.management.commands.flush import Command as Flush
from django.db import OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected
from servestatic.middleware import ServeStaticMiddleware
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from playground.models import Membership, Team, User
from tests.fakes import fake_engine as fake_engine
from tests.home import HOME
from tests.hub_stand_in import hub as hub
from tests.real_engines import ROWS

# The longest first, so that two processes that share the files (`-n 2`) end together.
LONGEST = ["test_up", "test_faults", "test_whole_on_engines", "test_two_web_processes", "test_runner"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


class ByEngine(LoadScopeScheduling):
    """A file's tests in one process, but those of an engine in one whichever files they are in.

    pytest-xdist's own groups are no help: it writes them where pytest 9.2 does not look any more, and hands
    every test out by itself.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        case = name.partition("[")[2].removesuffix("]")
        return case if case in ROWS else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """The scheduler of `--dist loadgroup`."""
    return ByEngine(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def django_db_modify_db_settings_xdist_suffix() -> None:
    """No suffix: each process has servers of its own, where web and workers look for the plain name."""


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The SLIPWAY_HOME of this run; subprocesses inherit it, and so the servers' addresses."""
    yield HOME


# As TRUNCATE leaves it, in a tenth of the time: most tables are empty. What a migration's signal would write
# again stays. Writers wait, readers do not; foreign keys are not looked at, since all goes.
EMPTY = """
SET LOCAL session_replication_role = replica;
DO $$
DECLARE
  names text[] := array(
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'
    AND tablename NOT IN ('django_migrations', 'django_content_type', 'auth_permission') ORDER BY 1);
  name text;
BEGIN
  EXECUTE 'LOCK TABLE ' || array_to_string(names, ', ') || ' IN EXCLUSIVE MODE';
  FOREACH name IN ARRAY names LOOP
    EXECUTE 'DELETE FROM ' || name;
  END LOOP;
END $$"""
FROM_ONE = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE schemaname = 'public'"""


def _empty(from_one: bool) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(EMPTY)
        if from_one:
            cursor.execute(FROM_ONE)


@pytest.fixture(scope="session", autouse=True)
def flushing() -> Iterator[None]:
    """A flush waits for writers, in an order of its own: it may meet a web process that writes, too.

    Each then waits for the other, until PostgreSQL ends the flush, which is made again. Nothing but these
    tests locks tables. Keys begin at 1 again after some: Redis then forgets the answers that had them before.
    """

    def handle(command: Flush, **options: Any) -> None:
        from_one = options.get("reset_sequences", True)
        if from_one:
            redis.Redis.from_url(settings.REDIS_URL).flushall()
        for _ in range(5):
            try:
                return _empty(from_one)
            except OperationalError as problem:
                if not isinstance(problem.__cause__, DeadlockDetected):
                    raise
        return _empty(from_one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flush, "handle", handle)
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files_once() -> Iterator[None]:
    """The static files are looked up once a process: each client of a test would otherwise do so anew."""
    find = ServeStaticMiddleware.add_files_from_finders
    found: dict[str, Any] = {}

    def once(middleware: ServeStaticMiddleware) -> None:
        if not found:
            find(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServeStaticMiddleware, "add_files_from_finders", once)
        yield


@pytest.fixture
def team(db: None) -> Team:
    """The default team. Tests that flush the database lose the migrated row, so it is made again."""
    return Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


@pytest.fixture
def user(team: Team) -> User:
    """An administrator of the default team, and of the site."""
    person = User.objects.create_user(username="ada", is_staff=True)
    Membership.objects.create(user=person, team=team, role=Membership.Role.ADMIN)
    return person


@pytest.fixture
def stranger(db: None) -> User:
    """An administrator of another team."""
    person = User.objects.create_user(username="mallory")
    other = Team.objects.create(name="Other", slug="other")
    Membership.objects.create(user=person, team=other, role=Membership.Role.ADMIN)
    return person
