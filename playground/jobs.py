"""Long work with progress.

Who asks for it, who runs it, how it is cancelled and what happens when its runner dies.

A Job is a row. `request` makes it (one active row a node and target), a task or the node's sweep spawns
`manage.py run_job <pk>`, and `run` there claims it, renews its lease and calls the noun that knows the work.
Knows nothing about environments or models: KINDS names the functions.
"""

import fcntl
import hashlib
import importlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from playground import events, nudges
from playground.models import Job, Node, Team, User

logger = logging.getLogger(__name__)

# The work of each kind: a function of a Work, returning the job's result.
KINDS = {
    Job.Kind.INSTALL_ENVIRONMENT: "playground.environments:install",
    Job.Kind.REMOVE_ENVIRONMENT: "playground.environments:discard",
    Job.Kind.FETCH_MODEL: "playground.catalogue:fetch",
    Job.Kind.CONVERT_MODEL: "playground.catalogue:convert",
}
ATTEMPTS = 3
PROGRESS_EVERY_S = 0.5
TAIL_LINES = 200
# A queued job is left to the task that was sent for it this long; then the sweep starts it as well.
NUDGED_S = 3.0
KILL_AFTER_S = 5.0
MARK = "SLIPWAY_JOB"


class JobRefused(Exception):
    """This job may not be asked for; the text says why."""


class JobFailed(Exception):
    """The work did not succeed; the text tells a person what to do."""


class Cancelled(Exception):
    """Somebody asked to cancel."""


class Interrupted(Exception):
    """The runner was told to end, or the row was taken from it: the work goes on elsewhere or later."""


# Asking


def request(
    kind: Job.Kind,
    node: Node,
    target: str,
    arguments: Mapping[str, Any],
    team: Team,
    user: User | None = None,
    *,
    nudge: bool = True,
) -> Job:
    """The active job on (node, target), made now unless there is one.

    `nudge` False leaves starting it to the caller.
    """
    while True:
        active = Job.objects.filter(node=node, target=target, state__in=Job.ACTIVE).first()
        if active is not None:
            return active
        try:
            with transaction.atomic():
                job = Job.objects.create(
                    kind=kind, node=node, target=target, arguments=dict(arguments), team=team, created_by=user
                )
        except IntegrityError:
            continue  # Somebody else made it between the two statements.
        announce(job)
        if nudge:
            nudges.send("playground.start_job", job.pk, queue=f"node.{node.name}")
        return job


def failed_since(node: Node, target: str, since: datetime | None) -> Job | None:
    """The newest job on (node, target) when it failed after `since`.

    Asking again at once would fail again.
    """
    newest = Job.objects.filter(node=node, target=target).order_by("-pk").first()
    if newest is None or since is None or newest.state not in (Job.State.FAILED, Job.State.CANCELLED):
        return None
    return newest if newest.ended_at and newest.ended_at >= since else None


def cancel(job: Job, user: User | None) -> bool:
    """Ask for the end of a job; False when it had ended.

    A queued one ends now, a running one within a second.
    """
    queued = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED)
    ended = queued.update(
        state=Job.State.CANCELLED, cancel_requested_at=Now(), ended_at=Now(), error=_cancelled_by(user)
    )
    running = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, cancel_requested_at__isnull=True)
    asked = ended or running.update(cancel_requested_at=Now(), error=_cancelled_by(user))
    announce(job)
    return bool(asked)


def _cancelled_by(user: User | None) -> str:
    return f"Cancelled by {user.get_username()}." if user else "Cancelled."


def announce(job: Job) -> None:
    """Tell browsers that a job changed, and its node with it."""
    events.notify(job.team_id, f"job:{job.pk}", "jobs")
    events.notify(None, f"node:{job.node_id}", "bar")


# The sweep


def due() -> list[Job]:
    """Jobs of this node that nobody runs and somebody should.

    Those whose runner died are queued again first.
    """
    here = Job.objects.filter(node__name=settings.NODE_NAME)
    _requeue_expired(here)
    # A node that is being stopped starts nothing.
    here = here.filter(node__accepting=True)
    stale = Q(created_at__lt=Now() - timedelta(seconds=NUDGED_S)) | Q(attempt__gt=0)
    return list(here.filter(stale, state=Job.State.QUEUED).order_by("pk"))


def _requeue_expired(here: QuerySet[Job]) -> None:
    """What becomes of jobs whose runner is gone: cancelled where that was asked, tried again, or given up."""
    expired = here.filter(state=Job.State.RUNNING, lease_expires_at__lt=Now())
    for job in expired:
        if job.cancel_requested_at:
            after: dict[str, Any] = {"state": Job.State.CANCELLED, "ended_at": Now()}
        elif job.attempt >= ATTEMPTS:
            error = f"Its runner died {ATTEMPTS} times; the log ends where it did."
            after = {"state": Job.State.FAILED, "ended_at": Now(), "error": error}
        else:
            after = {"state": Job.State.QUEUED}
        if expired.filter(pk=job.pk).update(**after, lease_expires_at=None, pid=None) == 1:
            announce(job)


def stop_local(timeout: float = 15.0) -> list[int]:
    """End every job runner of this node in order; their jobs are queued again. Those left after `timeout`."""
    rows = Job.objects.filter(node__name=settings.NODE_NAME, state=Job.State.RUNNING, pid__isnull=False)
    runners = [found for job in rows if (found := _runner(job))]
    for runner in runners:
        runner.terminate()
    _, left = psutil.wait_procs(runners, timeout=timeout)
    return [process.pid for process in left]


def _runner(job: Job) -> psutil.Process | None:
    """The process that runs this job on this machine; None when it is gone or its pid is another's now."""
    try:
        process = psutil.Process(job.pid)
        return process if process.cmdline()[-2:] == ["run_job", str(job.pk)] else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


# Running


def run(pk: int, say: Callable[[str], None] | None = None) -> str:
    """Run a job here unless somebody else does; returns its state afterwards. `say` hears each step."""
    job = Job.objects.select_related("node", "team").get(pk=pk)
    with alone(job.target) as held:
        if held and _claim(job):
            _end_leftovers(pk)
            _settle(job, say)
    return Job.objects.values_list("state", flat=True).get(pk=pk)


def folder(pk: int) -> Path:
    """Where a job's log lies."""
    home: Path = settings.HOME
    return home / "jobs" / str(pk)


@contextmanager
def alone(target: str) -> Iterator[bool]:
    """The lock on a target of this node: True while it is held here, False when somebody else holds it."""
    path = settings.HOME / "locks" / f"job-{hashlib.sha256(target.encode()).hexdigest()[:16]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _claim(job: Job) -> bool:
    """Take a queued job; False when it was taken, cancelled or ended meanwhile."""
    here = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED)
    taken = here.update(
        state=Job.State.RUNNING,
        attempt=F("attempt") + 1,
        pid=os.getpid(),
        started_at=Now(),
        lease_expires_at=_lease(),
        progress={},
        error="",
    )
    if taken:
        job.refresh_from_db()
        announce(job)
    return taken == 1


def _lease() -> Any:
    return Now() + timedelta(seconds=settings.LEASE_S)


def _settle(job: Job, say: Callable[[str], None] | None) -> None:
    """Do the work and write down how it ended."""
    module, _, name = KINDS[Job.Kind(job.kind)].partition(":")
    work = Work(job, say)
    try:
        with work:
            result = getattr(importlib.import_module(module), name)(work)
    except Cancelled:
        _end(work, Job.State.CANCELLED)
    except Interrupted:
        _give_back(work)
    except KeyboardInterrupt:
        _end(work, Job.State.CANCELLED, error="Ended by Ctrl-C.")
        raise
    except JobFailed as problem:
        _end(work, Job.State.FAILED, error=str(problem))
    except Exception as problem:
        logger.exception("job %s broke", job.pk)
        _end(work, Job.State.FAILED, error=f"{type(problem).__name__}: {problem}")
    else:
        _end(work, Job.State.DONE, result=result, progress=work.summary())


def _end(work: "Work", state: Job.State, **values: Any) -> None:
    tail = "\n".join(work.tail)
    if work.row().update(state=state, ended_at=Now(), lease_expires_at=None, log_tail=tail, **values) == 1:
        announce(work.job)
        nudges.send("playground.reconcile")


def _give_back(work: "Work") -> None:
    """Queue the job again as if this attempt had not been: it was ended from outside."""
    connections.close_all()  # The signal may have come in the middle of a statement.
    back = work.row().update(
        state=Job.State.QUEUED, pid=None, lease_expires_at=None, attempt=F("attempt") - 1, progress={}
    )
    if back == 1:
        announce(work.job)


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
            _end_leftovers(self.job.pk)
        self._log.close()

    def row(self) -> QuerySet[Job]:
        """The job as long as it is this attempt's: every write goes through it."""
        return Job.objects.filter(
            pk=self.job.pk, state=Job.State.RUNNING, attempt=self.job.attempt, pid=os.getpid()
        )

    # What the job's function calls

    def progress(self, step: str, done: int | None = None, total: int | None = None, unit: str = "") -> None:
        """Where the work stands: a step in words, and how far in it. Writes at most two rows a second."""
        self.check()
        new = step != self._progress.get("step")
        past = self._finish_step() if new else self._progress.get("past", [])
        self._progress = {"step": step, "done": done, "total": total, "unit": unit, "past": past}
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
                if self.row().update(lease_expires_at=_lease()) == 0:
                    self._abort(Interrupted())
                elif self.row().filter(cancel_requested_at__isnull=False).exists():
                    self._abort(Cancelled())
            except DatabaseError as problem:
                logger.warning("job %s cannot renew its lease: %s", self.job.pk, problem)
            finally:
                connections.close_all()
        if self._stop is not None:
            _end_leftovers(self.job.pk)

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
    """ "downloading torch, 12 of 93 packages": a job's progress as a line."""
    step, done, total, unit = (progress.get(key) for key in ("step", "done", "total", "unit"))
    if done is None:
        return str(step or "queued")
    if unit == "bytes":
        amounts = f"{done / 1e6:.1f}" + (f" of {total / 1e6:.1f} MB" if total else " MB")
    else:
        amounts = f"{done}" + (f" of {total}" if total else "") + (f" {unit}" if unit else "")
    return f"{step}, {amounts}"


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


def _end_leftovers(pk: int) -> None:
    """End every program a job started: asked first, killed after a grace period, children of children too."""
    processes = _marked(pk)
    for process in processes:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=KILL_AFTER_S)
    for process in _marked(pk):
        _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
