"""Batches that run: a real worker, its process for batches, runners and fake engines."""

import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker

from playground import batches, deployments, processes
from playground.models import Batch, BatchItem, BatchResult, Deployment, Model, Replica, Team
from tests import fleet
from tests.batch_rows import version
from tests.fleet import Fleet, assert_sound, engine_processes, ready, start, until
from tests.home import HOME

pytestmark = pytest.mark.slow
State = Batch.State
QUICK = {"SLIPWAY_LEASE_S": "2"}


@pytest.fixture(scope="module")
def worker(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """This machine's worker, for the whole module."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        workers = Fleet()
        workers.work(**QUICK)
        yield workers
        workers.close()
        until("the process for batches ends", lambda: not asking())
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def model(worker: Fleet) -> Model:
    team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
    return fleet.tiny_model(team)


@pytest.fixture(scope="module")
def engine(model: Model) -> Deployment:
    """A fast engine that several tests share."""
    deployment = start(model.team, model, tokens=5, token_delay_ms=2)
    ready(deployment)
    return deployment


def asking() -> list[psutil.Process]:
    """The processes that ask rows."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if line[-2:] == ["worker", "--batch"] and process.environ().get("SLIPWAY_HOME") == str(HOME):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def begin(deployment: Deployment, prompts: Sequence[Any], **more: Any) -> Batch:
    rows = version(deployment.team, prompts, name=f"rows-{time.monotonic()}")
    return batches.begin(deployment.team, None, "", rows, [{"deployment": deployment}], {}, **more)


def done(batch: Batch) -> int:
    return BatchItem.objects.filter(column__batch=batch, state__in=["done", "failed"]).count()


def ended(batch: Batch, within_s: float = 30.0) -> dict[str, int]:
    """How its only column's rows stand once it has ended."""

    def check() -> bool:
        batch.refresh_from_db()
        return batch.state not in Batch.OPEN

    until(f"batch {batch.pk} ends", check, within_s)
    (found,) = batches.counts(batch).values()
    return {state: count for state, count in found.items() if count}


def hash_of(batch: Batch) -> str:
    """Of what every row was answered with, in the file's order."""
    rows = BatchResult.objects.filter(column__batch=batch, ok=True).order_by("number")
    said = rows.values_list("number", "text", "finish_reason")
    return hashlib.sha256(repr(list(said)).encode()).hexdigest()


def assert_once(batch: Batch, count: int) -> None:
    """Every row has exactly one good result."""
    good = BatchResult.objects.filter(column__batch=batch, ok=True)
    assert sorted(good.values_list("number", flat=True)) == list(range(1, count + 1))


def test_every_row_is_answered_once_in_time_and_shape(engine: Deployment) -> None:
    batch = begin(engine, [f"[[text=answer {i}]]" for i in range(300)])
    assert ended(batch) == {"done": 300}
    assert_once(batch, 300)
    first = BatchResult.objects.get(column__batch=batch, number=1)
    assert (first.text, first.finish_reason, first.error) == ("answer 0", "stop", "")
    assert 0 < first.timings["ttft"] <= first.timings["e2e"]
    assert first.usage["completion_tokens"] > 0
    assert first.replica and first.configuration_id == first.replica.configuration_id
    assert not BatchItem.objects.filter(column__batch=batch).exclude(claimed_by="").exists()
