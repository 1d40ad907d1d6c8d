"""The process of a node that asks rows of batches: a second Celery worker, for the queue `batch.<node>`.

The node's worker starts it when there is something to ask. It ends when there has been nothing for a while,
and with its parent, however that ends. So rows never delay a stop, and an idle site pays nothing for them.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.signals import worker_shutting_down
from django.conf import settings
from django.db import connections

from playground import batch_sweep, instance, nodes, slices
from playground.celery import app

THREADS = 16
IDLE_S = 120.0
LOOK_S = 1.0
# How long it may take to hang up and to record what came.
END_S = 8.0
# One that ended at once is not begun again at once.
AGAIN_S = 2.0

logger = logging.getLogger(__name__)


class Child:
    """The worker's side: one such process, begun at need."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._begun_at = float("-inf")
        self._over = False

    def ensure(self) -> None:
        """Begin it unless it runs."""
        with self._lock:
            runs = self.process is not None and self.process.poll() is None
            if runs or self._over or time.monotonic() < self._begun_at + AGAIN_S:
                return
            self._begun_at = time.monotonic()
            self.process = _popen()
            threading.Thread(target=self._watch, args=[self.process], daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """One that was killed is begun again at once: rows wait for it."""
        if process.wait() != 0:
            time.sleep(max(0.0, self._begun_at + AGAIN_S - time.monotonic()))
            self.ensure()

    def end(self) -> None:
        """End it, for good; returns when it is gone."""
        with self._lock:
            self._over = True
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(END_S + 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


child = Child()


def _popen() -> subprocess.Popen[bytes]:
    """It reads from a pipe that nobody writes to: when that ends, its parent is gone."""
    home, name = settings.HOME, settings.NODE_NAME
    return subprocess.Popen(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), "worker", "--batch"],
        cwd=settings.BASE_DIR,
        env=os.environ | instance.mark(home, "batch") | {"SLIPWAY_NODE": name},
        stdin=subprocess.PIPE,
    )


def run() -> int:
    """Ask rows until SIGTERM, the parent's end, or nothing to do; returns the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _only_one():
        freed = batch_sweep.release_claims(f"{nodes.local_node().pk}.")
        if freed:
            logger.info("%d rows that an earlier process held are asked again", freed)
        serving = slices.serve()

        def stop(**_: Any) -> None:
            serving.stop()

        worker_shutting_down.connect(stop, weak=False)
        threading.Thread(target=_end_when_idle, args=[serving], daemon=True).start()
        batch_sweep.settle_all()
        connections.close_all()
        worker = _worker()
        worker.start()
        serving.stop()
        serving.join(END_S)
        return int(worker.exitcode or 0)


def _worker() -> Any:
    return app.Worker(
        hostname=f"batch@{settings.NODE_NAME}",
        queues=[f"batch.{settings.NODE_NAME}"],
        pool="threads",
        concurrency=THREADS,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )


@contextmanager
def _only_one() -> Iterator[None]:
    """Wait until an earlier process of this home is gone: what it claimed is then nobody's."""
    with (settings.HOME / "batch.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_with_parent() -> None:
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    os._exit(1)


def _end_when_idle(serving: slices.Serving) -> None:
    while serving.idle_s() < IDLE_S:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
