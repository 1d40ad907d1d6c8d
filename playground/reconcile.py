"""Brings what runs to what should run. Decides; every state is written by `deployments`.

A pass holds the deployment's row, so two passes at once take turns and never add two replicas. Resources are
given out under the node's row, so no slot is given twice. Every step is idempotent.
"""

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from playground import (
    adapters,
    admission,
    catalogue,
    configurations,
    deployments,
    drafts,
    engines,
    environments,
    jobs,
    nodes,
    nudges,
    wants,
)
from playground import placement as places
from playground.engines.base import Reason, ReasonCode
from playground.models import (
    Adapter,
    Configuration,
    Deployment,
    EngineEnvironment,
    Job,
    ModelFormat,
    Node,
    Replica,
)

logger = logging.getLogger(__name__)

State = Replica.State
Desired = Deployment.Desired
# Before this, a start that finds no node at all does not call it a problem: a worker may be starting.
NO_NODE_S = 10.0
# Its heartbeat must still be missing this long after it was first seen old.
SUSPECT_S = 5.0
LIVE = (State.PENDING, State.PREPARING, State.ASSIGNED, *deployments.RUNNING)
CHANGED = "The files of the model changed since this configuration was made: start the model anew."
ATTACHED = "The files of an adapter changed since this configuration was made: start the model anew."
WITHDRAWN = "The leave to run this model's own code was withdrawn: an administrator gives it on its page."
REBUILT = "That engine environment cannot be made again here: start the model anew."

_last_pass = time.monotonic()


class _Waits(Exception):
    """A replica cannot go on in this pass."""


def run() -> None:
    """One pass over everything that is due. One deployment's trouble does not keep the others waiting."""
    global _last_pass
    _last_pass = time.monotonic()
    for pk in _due():
        try:
            settle(pk)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("deployment %s could not be settled; the next pass tries again", pk)


def overdue() -> bool:
    """Whether this process made no pass for long: tasks do not arrive, so its node's thread does one."""
    return bool(time.monotonic() - _last_pass > 3 * settings.SWEEP_S)


def settle(pk: int) -> None:
    """Bring one deployment as far as it can go now."""
    with transaction.atomic():
        deployment = (
            Deployment.objects.select_for_update(no_key=True, of=("self",))
            .select_related("model", "team", "configuration__environment", "configuration__format__model")
            .filter(pk=pk)
            .first()
        )
        if deployment is None:
            return
        _find_lost(deployment)
        _end_unwanted(deployment)
        _add_missing(deployment)
        for replica in deployment.replicas.filter(state__in=LIVE).select_related("node").order_by("pk"):
            replica.deployment = deployment
            _advance(replica)
        _succeed(deployment)


def _due() -> list[int]:
    """Deployments that should run, or of which something still does."""
    wanted = Q(desired=Desired.RUNNING) | Q(replicas__state__in=LIVE)
    return list(Deployment.objects.filter(wanted).order_by("pk").distinct().values_list("pk", flat=True))


def _find_lost(deployment: Deployment) -> None:
    """Replicas whose runner has been silent: suspected first, lost when a beat has still not come."""
    silent = deployment.replicas.filter(
        state__in=deployments.RUNNING, heartbeat_at__lt=Now() - timedelta(seconds=settings.LOST_AFTER_S)
    )
    wait = timedelta(seconds=max(SUSPECT_S, 2 * settings.HEARTBEAT_S))
    for replica in silent:
        if replica.suspected_at is None:
            deployments.suspect(replica.pk)
        elif silent.filter(pk=replica.pk, suspected_at__lt=Now() - wait).exists():
            deployments.mark_lost(replica.pk)


def _end_unwanted(deployment: Deployment) -> None:
    """Everything of a stopped deployment, what is over the most, and what has been idle for too long."""
    live = list(deployment.replicas.filter(state__in=LIVE).select_related("node").order_by("pk"))
    for replica in live:
        replica.deployment = deployment
    if deployment.desired != Desired.RUNNING:
        for replica in live:
            deployments.end(replica, deployments.ASKED)
        return
    for replica in live[deployment.max_replicas :]:
        deployments.end(replica, deployments.ASKED)
    if _idle(deployment, live) and deployments.stop_idle(deployment):
        deployment.desired = Desired.STOPPED


def _idle(deployment: Deployment, live: list[Replica]) -> bool:
    """Whether its time-out may be over: all of it is ready and answers nobody. `stop_idle` looks again."""
    if not live or deployment.idle_timeout_s is None or deployment.released:
        return False
    return all(replica.state == State.READY and not replica.health.get("running") for replica in live)


def _succeed(deployment: Deployment) -> None:
    """Once all of it is ready, what it was started in the place of stops."""
    if not deployment.wanted.get("replaces") or deployment.desired != Desired.RUNNING:
        return
    if deployment.replicas.filter(state=State.READY).count() >= max(1, deployment.min_replicas):
        deployments.succeed(deployment)


def _add_missing(deployment: Deployment) -> None:
    """Start what is missing, unless it gave up or backs off."""
    backs_off = deployment.retry_at is not None and deployment.retry_at > timezone.now()
    if deployment.desired != Desired.RUNNING or backs_off:
        return
    missing = deployment.min_replicas - deployment.replicas.filter(state__in=LIVE).count()
    if missing > 0 and not deployment.problem:
        for _ in range(missing):
            deployments.add_replica(deployment)


# One replica's next step


def _advance(replica: Replica) -> None:
    """Take one replica as far as it can go now."""
    if replica.state == State.PENDING:
        _choose(replica)
    if replica.state == State.PREPARING:
        _prepare(replica)
    if replica.state == State.ASSIGNED and _nudge_due(replica):
        assert replica.node is not None
        deployments.nudged(replica)
        nudges.send("playground.start_replica", replica.pk, queue=f"node.{replica.node.name}")


def _choose(replica: Replica) -> None:
    """pending → preparing, on the best node; else the reason goes on the row."""
    row = replica.deployment
    if why := admission.may_place(row):
        deployments.wait_for_room(replica, why, tell=True)
        return
    asked = [(wants.want(row, node), wants.room(row, node)) for node in wants.accepting()]
    wanted = [(want, room) for want, room in asked if want is not None]
    found = places.place(wanted)
    if not isinstance(found, places.NoRoom) and found.build == "cuda" and (why := admission.gpus_spent(row)):
        on_cpu = [(want, room) for want, room in wanted if want.build != "cuda"]
        found = places.place(on_cpu) if on_cpu else places.NoRoom(why)
    if isinstance(found, places.NoRoom):
        fresh = replica.created_at > timezone.now() - timedelta(seconds=NO_NODE_S)
        deployments.wait_for_room(replica, found.reason, tell=bool(asked) or not fresh)
        return
    node = Node.objects.get(pk=found.node)
    if deployments.choose(replica, node, f"placed {found.note}"):
        replica.state, replica.node = State.PREPARING, node


def _prepare(replica: Replica) -> None:
    """preparing → assigned, once its environment and weights are on the node; a failed job fails it."""
    try:
        parts = _ready_parts(replica)
    except _Waits:
        return
    except (jobs.JobRefused, jobs.JobFailed, engines.UnknownEngine, ModelFormat.DoesNotExist) as problem:
        deployments.mark_failed(replica.pk, Reason(ReasonCode.JOB_FAILED, str(problem)), [], final=True)
        return
    _assign(replica, parts)


@dataclass(frozen=True)
class _Parts:
    """What lies on a replica's node: its environment, the form of its weights, and what goes beside them."""

    environment: EngineEnvironment
    form: ModelFormat
    attached: list[Adapter]
    draft: ModelFormat | None


def _ready_parts(replica: Replica) -> _Parts:
    """Everything it needs, on its node. _Waits while jobs make it so, or one failed."""
    deployment, node = replica.deployment, replica.node
    assert node is not None
    frozen = deployment.configuration
    since, team, user = replica.created_at, deployment.team, deployment.created_by
    environment = environments.ensure(
        node,
        deployment.engine,
        deployment.wanted.get("version"),
        exactly=frozen.environment if frozen else None,
        since=since,
        team=team,
        user=user,
    )
    form = frozen.format if frozen else _form(deployment)
    model_format = catalogue.ensure(
        node, deployment.model, form.kind, form=form, since=since, team=team, user=user
    )
    attached = [
        adapters.ensure(node, row, since=since, team=team, user=user) for row in adapters.wanted(deployment)
    ]
    guess = drafts.wanted(deployment)
    draft = guess and catalogue.ensure(
        node, guess.model, guess.kind, form=guess, since=since, team=team, user=user
    )
    waiting = [part for part in (environment, model_format, draft, *attached) if isinstance(part, Job)]
    if waiting:
        _wait_for(replica, waiting)
    assert isinstance(environment, EngineEnvironment) and isinstance(model_format, ModelFormat)
    assert not isinstance(draft, Job)
    here = [row for row in attached if isinstance(row, Adapter)]
    return _Parts(environment, model_format, here, draft)


def _form(deployment: Deployment) -> ModelFormat:
    """The form of the weights its engine would load: the one asked for, or the first it can."""
    adapter, wanted = engines.get(deployment.engine), deployment.wanted.get("form")
    form, verdict = catalogue.choose(deployment.model, adapter, wanted)
    if form is None or not verdict.ok:
        raise jobs.JobRefused(verdict.why)
    return form


def _wait_for(replica: Replica, waiting: list[Job]) -> None:
    """Remember the jobs it waits for. One that failed or was cancelled ends this attempt."""
    ended = next((job for job in waiting if job.state not in Job.ACTIVE), None)
    if ended is None:
        deployments.wait_for_jobs(replica, waiting)
    else:
        text = f"{ended.get_kind_display()} did not succeed: {ended.error or ended.get_state_display()}"
        tail = ended.log_tail.splitlines()
        cancelled = ended.state == Job.State.CANCELLED
        code = ReasonCode(ended.result.get("code") or ReasonCode.JOB_FAILED)
        deployments.mark_failed(replica.pk, Reason(code, text), tail, final=cancelled)
    raise _Waits


def _assign(replica: Replica, parts: _Parts) -> None:
    """Give it its slot, under the node's row. No room any more: it looks for another node."""
    deployment = replica.deployment
    frozen = deployment.configuration
    named = adapters.frozen(parts.attached)
    if frozen and (text := _other_than(frozen, parts, named)):
        deployments.mark_failed(replica.pk, Reason(ReasonCode.BAD_WEIGHTS, text), [], final=True)
        return
    assert replica.node is not None
    node = Node.objects.select_for_update(no_key=True).get(pk=replica.node.pk)
    want = wants.want(deployment, node)
    found = places.fit(want, wants.room(deployment, node)) if want and node.accepting else None
    if found is None:
        deployments.unchoose(replica, f"{node.name} has no room any more")
        return
    wanted = deployment.wanted
    configuration = frozen or configurations.freeze(
        parts.form,
        parts.environment,
        deployment.engine,
        wanted.get("options", {}),
        named,
        extra=wanted.get("extra") or (),
        draft=parts.draft,
    )
    if deployments.assign(replica, configuration, found.resources, f"assigned {found.note}"):
        deployment.configuration = configuration
        replica.state, replica.node, replica.nudged_at = State.ASSIGNED, node, None


def _other_than(frozen: Configuration, parts: _Parts, named: list[dict[str, Any]]) -> str:
    """Why the parts that lie there are not the configuration's; empty when they are."""
    guess = frozen.facts.get("draft", {}).get("digest")
    if parts.form.digest != frozen.format_digest or (parts.draft and parts.draft.digest) != guess:
        return CHANGED
    if named != frozen.adapters:
        return ATTACHED
    if frozen.runs_code and not parts.form.model.code_allowed_at:
        return WITHDRAWN
    return "" if parts.environment.pk == frozen.environment_id else REBUILT


def _nudge_due(replica: Replica) -> bool:
    again = timezone.now() - timedelta(seconds=nodes.NUDGE_AGAIN_S)
    return replica.nudged_at is None or replica.nudged_at < again
