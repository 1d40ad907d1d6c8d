"""What a job's function works with: progress, programs that end with the job, a log, a way to be stopped.

Knows the job's row and renews its lease; what the work is, and when it runs, is for others.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.models import QuerySet
from django.db.models.functions import Now

from playground import events
from playground.models import Job

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
TAIL_LINES = 200
KILL_AFTER_S = 5.0
MARK = "SLIPWAY_JOB"


class JobFailed(Exception):
    """The work did not succeed; the text tells a person what to do.

    `code`: the reason's, where whoever waits for the job should not just try again.
    """

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class Cancelled(Exception):
    """Somebody asked to cancel."""


class Interrupted(Exception):
    """The runner was told to end, or the row was taken from it: the work goes on elsewhere or later."""


def folder(pk: int) -> Path:
    """Where a job's log lies."""
    home: Path = settings.HOME
    return home / "jobs" / str(pk)


def lease() -> Any:
    """When a lease taken now ends, by the database's clock."""
    return Now() + timedelta(seconds=settings.LEASE_S)


class Work:
    """What a job's function works with.

    Progress, subprocesses that end with the job, a log, a way to be stopped.

    Used as a context manager by `run`; a thread renews the lease and watches for a cancel meanwhile.
    """

    def __init__(self, job: Job, say: Callable[[str], None] | None = None) -> None:
        self.job = job
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._say = say
        self._stop: Exception | None = None
        self._stopped = threading.Event()
        self._progress: dict[str, Any] = {}
        self._written_at = 0.0
        self._step_at = time.monotonic()
        self._watcher = threading.Thread(target=self._watch, name=f"job-{job.pk}", daemon=True)

    def __enter__(self) -> Self:
        folder(self.job.pk).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = (folder(self.job.pk) / "job.log").open("a", errors="replace")
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._watcher.join()
        if problem is not None:
            end_leftovers(self.job.pk)
        self._log.close()

    def row(self) -> QuerySet[Job]:
        """The job as long as it is this attempt's: every write goes through it."""
        return Job.objects.filter(
            pk=self.job.pk, state=Job.State.RUNNING, attempt=self.job.attempt, pid=os.getpid()
        )

    # What the job's function calls

    def progress(
        self,
        step: str,
        done: int | None = None,
        total: int | None = None,
        unit: str = "",
        rate: float | None = None,
    ) -> None:
        """Where the work stands: a step in words, how far in it, and how much of it a second.

        Writes at most two rows a second.
        """
        self.check()
        new = step != self._progress.get("step")
        past = self._finish_step() if new else self._progress.get("past", [])
        self._progress = {"step": step, "done": done, "total": total, "unit": unit, "past": past}
        self._progress |= {"rate": round(rate)} if rate else {}
        if not new and time.monotonic() - self._written_at < PROGRESS_EVERY_S:
            return
        self._written_at = time.monotonic()
        self._write_progress()
        if self._say:
            self._say(in_words(self._progress))

    def summary(self) -> dict[str, Any]:
        """The steps done, each with its time; what a finished job keeps of its progress."""
        return {"step": "done", "done": None, "total": None, "unit": "", "past": self._finish_step()}

    def note(self, line: str) -> None:
        """Add a line to the job's log."""
        self.tail.append(line)
        self._log.write(line + "\n")
        self._log.flush()

    def check(self) -> None:
        """Raise Cancelled or Interrupted when the work is to end."""
        if self._stop is not None:
            raise self._stop

    def wait(self, seconds: float) -> None:
        """Wait, at most until the work is to end."""
        self._stopped.wait(seconds)
        self.check()

    def call(
        self,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        folder: Path | None = None,
    ) -> list[str]:
        """Run a program that ends with the job; its lines of output.

        JobFailed with the last ones when it fails.
        """
        self.check()
        self.note("$ " + " ".join(command))
        lines: list[str] = []
        process = subprocess.Popen(
            command,
            cwd=folder or settings.HOME,
            env={
                **os.environ,
                **(environment or {}),
                MARK: str(self.job.pk),
                "SLIPWAY_HOME": str(settings.HOME),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line.rstrip())
                self.note(line.rstrip())
                if on_line and self._stop is None:
                    on_line(line.rstrip())
        code = process.wait()
        if self._stop is not None:
            end_leftovers(self.job.pk)  # What it began may still write where the caller clears up.
        self.check()
        if code:
            raise JobFailed(_last_words(command, code, lines))
        return lines

    # Being stopped

    def _abort(self, why: Exception) -> None:
        """Have the work end: its programs are ended by the watcher, its next `check` raises."""
        self._stop = why
        self._stopped.set()

    def _watch(self) -> None:
        """Renew the lease and look for a cancel, several times a lease.

        A database that is away is waited for.
        """
        while not self._stopped.wait(min(1.0, settings.LEASE_S / 4)):
            try:
                if self.row().update(lease_expires_at=lease()) == 0:
                    self._abort(Interrupted())
                elif self.row().filter(cancel_requested_at__isnull=False).exists():
                    self._abort(Cancelled())
            except DatabaseError as problem:
                logger.warning("job %s cannot renew its lease: %s", self.job.pk, problem)
            finally:
                connections.close_all()
        if self._stop is not None:
            end_leftovers(self.job.pk)

    def _finish_step(self) -> list[dict[str, Any]]:
        past: list[dict[str, Any]] = list(self._progress.get("past", []))
        now = time.monotonic()
        if self._progress:
            past.append({"step": self._progress["step"], "s": round(now - self._step_at, 1)})
        self._step_at = now
        return past

    def _write_progress(self) -> None:
        try:
            self.row().update(progress=self._progress)
            events.notify(self.job.team_id, f"job:{self.job.pk}")
        except DatabaseError as problem:
            logger.warning("job %s cannot write its progress: %s", self.job.pk, problem)


def in_words(progress: Mapping[str, Any]) -> str:
    """A job's progress as a line: "downloading, 1.2 of 1.9 GB, 52 MB/s, 14 s left"."""
    step, done, total, unit, rate = (progress.get(key) for key in ("step", "done", "total", "unit", "rate"))
    if done is None:
        return str(step or "queued")
    if unit != "bytes":
        amounts = f"{done}" + (f" of {total}" if total else "") + (f" {unit}" if unit else "")
        return f"{step}, {amounts}"
    parts = [str(step), _amounts(done, total)]
    if rate:
        parts.append(f"{_bytes(rate)}/s")
        parts += [f"{_seconds((total - done) / rate)} left"] if total else []
    return ", ".join(parts)


def _amounts(done: float, total: float | None) -> str:
    """Both in the unit of the larger: "0.2 of 1.9 GB"."""
    if not total:
        return _bytes(done)
    size, unit = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    return f"{done / size:.1f} of {total / size:.1f} {unit}"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _seconds(left: float) -> str:
    """Time left, as exact as such a guess can be."""
    if left < 90:
        return f"{left:.0f} s"
    return f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"


def _last_words(command: list[str], code: int, lines: list[str]) -> str:
    """What a failed program said last, short enough for a page."""
    said = [line.strip() for line in lines if line.strip()][-6:]
    return f"{Path(command[0]).name} ended with {code}: " + (" ".join(said)[-1200:] or "it said nothing")


def _marked(pk: int) -> list[psutil.Process]:
    """Live processes of this home that carry the job's mark."""
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            variables = process.environ()
            ours = variables.get(MARK) == str(pk) and variables.get("SLIPWAY_HOME") == str(settings.HOME)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_leftovers(pk: int) -> None:
    """End every program a job started: asked first, killed after a grace period, children of children too."""
    processes = _marked(pk)
    for process in processes:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=KILL_AFTER_S)
    stubborn = _marked(pk)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=KILL_AFTER_S)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
