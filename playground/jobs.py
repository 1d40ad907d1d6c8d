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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psutil
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from playground import access, events, nudges
from playground.models import Job, Node, Team, User
from playground.work import Cancelled, Interrupted, JobFailed, Work, end_leftovers, folder, in_words, lease

__all__ = [
    "Act",
    "Interrupted",
    "JobFailed",
    "JobRefused",
    "Work",
    "alone",
    "announce",
    "cancel",
    "due",
    "failed_since",
    "folder",
    "in_words",
    "request",
    "run",
    "stop_local",
]
logger = logging.getLogger(__name__)

# The work of each kind: a function of a Work, returning the job's result.
KINDS = {
    Job.Kind.INSTALL_ENVIRONMENT: "playground.environments:install",
    Job.Kind.REMOVE_ENVIRONMENT: "playground.environments:discard",
    Job.Kind.FETCH_MODEL: "playground.catalogue:fetch",
    Job.Kind.CONVERT_MODEL: "playground.catalogue:convert",
    Job.Kind.IMPORT_MODEL: "playground.imports:run",
    Job.Kind.DOWNLOAD_MODEL: "playground.downloads:download",
    Job.Kind.REMOVE_MODEL: "playground.removal:discard",
    Job.Kind.FETCH_ADAPTER: "playground.adapters:fetch",
    Job.Kind.ATTACH_ADAPTER: "playground.attaching:attach",
    Job.Kind.QUANTISE_MODEL: "playground.quantise:run",
    Job.Kind.MEASURE_NOISE: "playground.noise:run",
    Job.Kind.MEASURE_LOAD: "playground.load:run",
    Job.Kind.RUN_PLAN: "playground.plan_runs:run",
    Job.Kind.SCORE_BATCH: "playground.scoring:run",
}
# What a job leaves on the disk whose runner died for good, taken away by a function of the job.
LEFTOVERS = {Job.Kind.QUANTISE_MODEL: "playground.quantise:clear"}
# What a job leaves in rows that nobody goes on with, put right by a function of the job, on any node.
AFTERMATHS = {Job.Kind.RUN_PLAN: "playground.plan_runs:tidy"}
ATTEMPTS = 3
# A queued job is left to the task that was sent for it this long; then the sweep starts it as well.
NUDGED_S = 3.0


class JobRefused(Exception):
    """This job may not be asked for; the text says why."""


@dataclass(frozen=True)
class Act:
    """How the audit log tells of a job that is more than one to people: `about` is "kind:key"."""

    action: str
    about: str
    name: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


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
    act: Act | None = None,
) -> Job:
    """The active job on (node, target), made now unless there is one.

    `nudge` False leaves starting it to the caller. `act` stands in the audit log in the place of the job.
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
                if user is not None or act:
                    told = act or Act(job.get_kind_display().lower(), f"job:{job.pk}", target)
                    detail: dict[str, Any] = {"node": node.name, "job": job.pk, **told.detail}
                    access.audit(user, team, told.action, told.about, name=told.name, **detail)
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


def require_cancel(job: Job, user: User) -> None:
    """Whoever may start things may cancel what they wait for; engines are the site's."""
    access.require(user, "install" if "environment" in job.kind else "start", job.team)


def cancel(job: Job, user: User | None) -> bool:
    """Ask for the end of a job; False when it had ended.

    A queued one ends now, a running one within a second.
    """
    queued = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED)
    ended = queued.update(
        state=Job.State.CANCELLED, cancel_requested_at=Now(), ended_at=Now(), error=_cancelled_by(user)
    )
    if ended:
        _put_right(job)
    running = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, cancel_requested_at__isnull=True)
    asked = ended or running.update(cancel_requested_at=Now(), error=_cancelled_by(user))
    if asked:
        change = {"before": {"state": job.state}, "after": {"state": Job.State.CANCELLED.value}}
        access.audit(user, job.team, "cancel job", f"job:{job.pk}", name=job.target, **change)
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
            if after["state"] != Job.State.QUEUED:
                _clear(job)
            announce(job)


def _clear(job: Job) -> None:
    """End and take away what a job left behind that nobody goes on with."""
    end_leftovers(job.pk)
    if place := LEFTOVERS.get(Job.Kind(job.kind)):
        _named(place)(job)
    _put_right(job)


def _put_right(job: Job) -> None:
    if place := AFTERMATHS.get(Job.Kind(job.kind)):
        _named(place)(job)


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
            end_leftovers(pk)
            _settle(job, say)
    return Job.objects.values_list("state", flat=True).get(pk=pk)


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
        lease_expires_at=lease(),
        progress={},
        error="",
    )
    if taken:
        job.refresh_from_db()
        announce(job)
    return taken == 1


def _settle(job: Job, say: Callable[[str], None] | None) -> None:
    """Do the work and write down how it ended."""
    work = Work(job, say)
    try:
        with work:
            result = _named(KINDS[Job.Kind(job.kind)])(work)
    except Cancelled:
        _end(work, Job.State.CANCELLED)
    except Interrupted:
        _give_back(work)
    except KeyboardInterrupt:
        _end(work, Job.State.CANCELLED, error="Ended by Ctrl-C.")
        raise
    except JobFailed as problem:
        told = {"code": problem.code} if problem.code else {}
        _end(work, Job.State.FAILED, error=str(problem), result=told)
    except Exception as problem:
        logger.exception("job %s broke", job.pk)
        _end(work, Job.State.FAILED, error=f"{type(problem).__name__}: {problem}")
    else:
        _end(work, Job.State.DONE, result=result, progress=work.summary())


def _named(place: str) -> Callable[[Any], Any]:
    """The function that "module:name" names, imported at first need."""
    module, _, name = place.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def _end(work: Work, state: Job.State, **values: Any) -> None:
    tail = "\n".join(work.tail)
    if work.row().update(state=state, ended_at=Now(), lease_expires_at=None, log_tail=tail, **values) == 1:
        announce(work.job)
        nudges.send("playground.reconcile")


def _give_back(work: Work) -> None:
    """Queue the job again as if this attempt had not been: it was ended from outside."""
    connections.close_all()  # The signal may have come in the middle of a statement.
    back = work.row().update(
        state=Job.State.QUEUED, pid=None, lease_expires_at=None, attempt=F("attempt") - 1, progress={}
    )
    if back == 1:
        announce(work.job)
