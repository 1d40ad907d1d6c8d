"""How a deployment stands, read from its rows: one word, why, its start as named steps. Changes nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from django.db.models import Prefetch, QuerySet

from playground import jobs
from playground.models import Deployment, Job, Replica, ReplicaEvent

State = Replica.State
# A start's steps in order, as people read them.
NAMES = {
    State.PENDING: "queued",
    State.PREPARING: "preparing",
    State.ASSIGNED: "placed",
    State.STARTING: "starting",
    State.LOADING: "loading",
    State.READY: "ready",
}
MOVING = (
    State.PENDING,
    State.PREPARING,
    State.ASSIGNED,
    State.STARTING,
    State.LOADING,
    State.DRAINING,
    State.STOPPING,
)
# The best of several replicas speaks for the deployment.
ORDER = [
    State.READY,
    State.UNHEALTHY,
    State.LOADING,
    State.STARTING,
    State.ASSIGNED,
    State.PREPARING,
    State.PENDING,
    State.DRAINING,
    State.STOPPING,
    State.LOST,
]
EARLIER_STARTS = 5


@dataclass(frozen=True)
class Step:
    """One step of a start. `mark`: "done", "now", "next", "failed" or "ended"; `seconds` once it is over."""

    name: str
    mark: str
    note: str = ""
    since: datetime | None = None
    seconds: float | None = None
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Standing:
    """A deployment and its replicas in one word, with the replica that word comes from."""

    deployment: Deployment
    word: str
    why: str
    replica: Replica | None
    ready: int
    alive: int

    @property
    def startable(self) -> bool:
        """Whether Start is the next action: nothing runs, and nothing will by itself."""
        return self.alive == 0 and self.word in ("stopped", "failed")


def of(deployment: Deployment) -> Standing:
    """How it stands now. Reads `deployment.replicas`, prefetched or not."""
    replicas = sorted(deployment.replicas.all(), key=lambda replica: -replica.pk)
    alive = [replica for replica in replicas if replica.state not in Replica.TERMINAL]
    ready = sum(replica.state == State.READY for replica in alive)
    if alive:
        best = min(alive, key=lambda replica: ORDER.index(State(replica.state)))
        why = best.reason or deployment.problem
        return Standing(deployment, word(best.state), why, best, ready, len(alive))
    newest = replicas[0] if replicas else None
    return Standing(deployment, *_at_rest(deployment, newest), newest, 0, 0)


def word(state: str) -> str:
    """A replica's state as people read it everywhere: a pending one is queued."""
    return "queued" if state == State.PENDING else str(state)


def _at_rest(deployment: Deployment, newest: Replica | None) -> tuple[str, str]:
    """The word for a deployment of which nothing runs."""
    if deployment.desired != Deployment.Desired.RUNNING:
        return "stopped", newest.reason if newest else ""
    if deployment.problem:
        return "failed", deployment.problem
    if newest and newest.state == State.FAILED:
        return "queued", f"{newest.reason} It is started again."
    return "queued", ""


def all_of(rows: QuerySet[Deployment]) -> list[Standing]:
    """Each of `rows` that was not deleted, newest first; replicas that ended long ago are not read."""
    recent = Replica.objects.select_related("node").order_by("-pk")
    rows = rows.exclude(desired=Deployment.Desired.DELETED).select_related(
        "model", "created_by", "configuration__environment"
    )
    return [of(row) for row in rows.prefetch_related(Prefetch("replicas", recent)).order_by("-pk")]


def steps(replica: Replica) -> list[Step]:
    """The life of one replica until it was ready, or ended, and what is still to come."""
    seen = _joined(replica.events.all())
    done: list[Step] = []
    for event, after in zip(seen, [*seen[1:], None], strict=True):
        done.append(_step(replica, event, after))
    return done + [Step(name, "next") for name in _to_come(replica)]


@dataclass(frozen=True)
class _Beat:
    """An event, or several in a row that differ only in their figures: the first's time, the last's words."""

    state: str
    note: str
    at: datetime

    @property
    def kind(self) -> tuple[str, str]:
        return self.state, re.sub(r"[\d.,% ]+$", "", self.note)


def _joined(events: Iterable[ReplicaEvent]) -> list[_Beat]:
    kept: list[_Beat] = []
    for event in events:
        beat = _Beat(event.state, event.note, event.at)
        if kept and kept[-1].kind == beat.kind:
            kept[-1] = replace(beat, at=kept[-1].at)
        else:
            kept.append(beat)
    return kept


def _step(replica: Replica, event: _Beat, after: _Beat | None) -> Step:
    name, note = _words(event)
    if after is not None:
        return Step(name, "done", note, event.at, (after.at - event.at).total_seconds())
    if event.state == State.READY:
        whole = (event.at - replica.created_at).total_seconds()
        return Step(name, "done", note, event.at, whole)
    if event.state in (State.FAILED, State.LOST):
        return Step(name, "failed", note, event.at)
    if event.state in Replica.TERMINAL:
        return Step(name, "ended", note, event.at)
    return Step(name, "now", note, event.at, None, _jobs(replica) if event.state == State.PREPARING else ())


def _words(event: _Beat) -> tuple[str, str]:
    """A step's name and what is said beside it. What an engine says while loading is a name itself."""
    name = NAMES.get(State(event.state), event.state)
    if event.state == State.LOADING and event.note and len(event.note) <= 24:
        return event.note, ""
    return name, "" if event.note in (name, event.state) else event.note


def _to_come(replica: Replica) -> list[str]:
    """Names of the steps a start has not reached."""
    if replica.state not in NAMES or replica.state == State.READY:
        return []
    names = list(NAMES)
    return [NAMES[state] for state in names[names.index(State(replica.state)) + 1 :]]


def _jobs(replica: Replica) -> tuple[Job, ...]:
    """Jobs a replica in preparation waits for: its engine's install, and its model's weights."""
    deployment = replica.deployment
    formats = [f"format:{pk}" for pk in deployment.model.formats.values_list("pk", flat=True)]
    active = Job.objects.filter(node=replica.node, state__in=Job.ACTIVE).order_by("pk")
    return tuple(
        job
        for job in active
        if job.target in formats or job.target.startswith(f"environment:{deployment.engine}")
    )


def typical_start(deployment: Deployment) -> float | None:
    """Median seconds from queued to ready of the last starts like it; None before the first."""
    same = Replica.objects.filter(ready_at__isnull=False, deployment__team_id=deployment.team_id)
    if deployment.configuration_id:
        same = same.filter(configuration_id=deployment.configuration_id)
    else:
        same = same.filter(deployment__model_id=deployment.model_id, deployment__engine=deployment.engine)
    times = same.order_by("-pk").values_list("created_at", "ready_at")[:EARLIER_STARTS]
    passed: list[timedelta] = [ready - created for created, ready in times if ready]
    return median(time.total_seconds() for time in passed) if passed else None


def job_line(job: Job) -> dict[str, Any]:
    """A job's progress for a bar and a sentence; `value` is 0…100, or None where the end is unknown."""
    done, total = job.progress.get("done"), job.progress.get("total")
    value = round(100 * done / total) if isinstance(done, int | float) and total else None
    return {"job": job, "value": value, "words": jobs.in_words(job.progress)}
