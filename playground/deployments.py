"""What should run and what does: the only writer of Deployment and Replica state.

Every change of a replica's state is one conditional update whose count is checked; with it go a ReplicaEvent
and, on commit, a notice to browsers. It decides nothing over time (`reconcile` does) and starts no process
(`nodes` does).
"""

import secrets
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from playground import access, adapters, admission, conversations, edits, engines, events, nudges
from playground import extra as extra_arguments
from playground import options as engine_options
from playground.engines.base import Reason, ReasonCode
from playground.models import Configuration, Deployment, Job, Model, Node, Replica, ReplicaEvent, Team, User

State = Replica.State
# What the engine's process goes through while its runner lives.
RUNNING = (State.STARTING, State.LOADING, State.READY, State.UNHEALTHY, State.DRAINING, State.STOPPING)
# Starting again with the same configuration would fail in the same way.
PERMANENT = {
    ReasonCode.OUT_OF_MEMORY,
    ReasonCode.CONTEXT_TOO_LONG,
    ReasonCode.GATED,
    ReasonCode.UNKNOWN_OPTION,
    ReasonCode.DRIVER_MISSING,
    ReasonCode.BAD_WEIGHTS,
    ReasonCode.SERVER_REFUSED,
}
# Not the deployment's doing: started again at once, and not counted.
FORGIVEN = {
    ReasonCode.NODE_LOST,
    ReasonCode.NODE_STOPPING,
    ReasonCode.SUPERSEDED,
    ReasonCode.ASKED,
    ReasonCode.IDLE,
}
ATTEMPTS = 3
STEADY_S = 60.0
ASKED = Reason(ReasonCode.ASKED, "Stopped as asked.")
IDLE = Reason(ReasonCode.IDLE, "Stopped since nobody used it.")

# Each says whether no router would still send to a draining replica; whoever routes adds its own.
DRAIN_CHECKS: list[Callable[[Replica], bool]] = []


class DeploymentRefused(Exception):
    """A deployment may not be made or changed so. `fields`: field → sentence; "" for the whole."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


# What people ask for


def request(
    *,
    team: Team,
    user: User | None,
    model: Model,
    engine: str,
    options: dict[str, Any],
    version: str | None = None,
    name: str = "",
    min_replicas: int = 1,
    max_replicas: int = 1,
    idle_timeout_s: int | None = None,
    released: bool = False,
    configuration: Configuration | None = None,
    gpus: int | None = None,
    share: bool = False,
    cores: int | None = None,
    attached: Collection[Any] = (),
    form: int | None = None,
    extra: Iterable[tuple[str, str]] = (),
    replaces: Deployment | None = None,
    take_over: bool = False,
    once: str = "",
) -> Deployment:
    """A new deployment that should run; DeploymentRefused names every field that is wrong.

    With `configuration` it runs exactly that one. `share` asks for a part of one GPU beside others.
    `attached`: keys of the adapters it serves beside its model; `form`: of the one it loads, of several.
    `extra`: (flag, value) pairs; that the one who asks is an administrator was judged before.
    Once ready it stops the one it `replaces`, takes its name unless it was given one, and with `take_over`
    its conversations. `once` names the form it was asked by: asked twice by it for the same, it is one.
    """
    clean, fields = engine_options.judge(team, model, engine, options, version, name)
    fields |= engine_options.judge_numbers(min_replicas, max_replicas, idle_timeout_s, gpus, cores)
    chosen, why = adapters.judge(model, engine, attached, clean)
    fields |= {"adapters": why} if why else {}
    fields |= engine_options.judge_form(model, engine, form)
    added, why = engine_options.judge_extra(engine, extra)
    fields |= {"extra": why} if why else {}
    if replaces and (replaces.team_id, replaces.model_id) != (team.pk, model.pk):
        fields["place"] = f"{replaces.name} is of another model: start beside it."
    if fields:
        raise DeploymentRefused(fields)
    wanted: dict[str, Any] = {"version": version or None, "options": clean}
    wanted |= {"gpus": gpus, "cores": cores, "share": share, "adapters": chosen, "form": form}
    wanted |= {"extra": added} if added else {}
    wanted |= {"replaces": edits.succession(replaces, take_over=take_over, name=not name)} if replaces else {}
    wanted |= {"once": edits.stamp(once, engine, name, idle_timeout_s, wanted)} if once else {}
    with transaction.atomic():
        if once and (asked := _asked_before(model, user, wanted["once"])):
            return asked
        if replaces:
            _refuse_rivals(replaces)
        row = Deployment.objects.create(
            team=team,
            created_by=user,
            name=name or _free_name(team, f"{model.name}-{engine}"),
            model=model,
            engine=engine,
            wanted=wanted,
            configuration=configuration,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            idle_timeout_s=idle_timeout_s,
            released=released,
            last_used_at=Now(),
        )
        _within_quotas(row, replaces)
        access.audit(
            user, team, "start", f"deployment:{row.pk}", name=row.name, model=model.name, engine=engine
        )
        _announce(row.pk, team.pk)
    row.refresh_from_db()
    return row


def release(configuration: Configuration, *, team: Team, user: User | None, name: str) -> Deployment:
    """A deployment of a release's own, of the very configuration tried; the playground cannot stop it."""
    try:
        attached = adapters.of(configuration)
    except adapters.AdapterRefused as problem:
        raise DeploymentRefused({"adapters": str(problem)}) from problem
    return request(
        team=team,
        user=user,
        model=configuration.model,
        engine=configuration.engine,
        options=configuration.options,
        version=configuration.environment.version,
        name=name,
        released=True,
        configuration=configuration,
        attached=[row.pk for row in attached],
        form=configuration.format_id,
        extra=extra_arguments.pairs(engines.get(configuration.engine), configuration.extra),
    )


def succeed(deployment: Deployment) -> bool:
    """It is ready, so what it was started in the place of stops, and gives it its name. Once."""
    named = deployment.wanted.get("replaces")
    wanted = {key: value for key, value in deployment.wanted.items() if key != "replaces"}
    with transaction.atomic():
        mine = Deployment.objects.filter(pk=deployment.pk, wanted__replaces=named)
        old = _to_replace(deployment, named) if named else None
        # What that one was still to replace goes with it.
        inherited = old and old.wanted.get("replaces")
        wanted |= {"replaces": inherited} if inherited else {}
        if not named or not mine.update(wanted=wanted):
            return False
        deployment.wanted = wanted
        if old is None:
            return False
        left = {key: value for key, value in old.wanted.items() if key != "replaces"}
        left["replaced_by"] = deployment.pk
        changes = {"name": _free_name(deployment.team, f"{old.name[:100]}-before")} if named["name"] else {}
        Deployment.objects.filter(pk=old.pk).update(
            desired=Deployment.Desired.STOPPED, wanted=left, **changes
        )
        if named["name"]:
            Deployment.objects.filter(pk=deployment.pk).update(name=old.name)
            deployment.name = old.name
        if named["conversations"]:
            conversations.move(old, deployment)
        replaced = Reason(ReasonCode.ASKED, f"{deployment.name} took its place.")
        for replica in old.replicas.exclude(state__in=[*Replica.TERMINAL, State.LOST]).select_related("node"):
            end(replica, replaced)
        access.audit(
            deployment.created_by, deployment.team, "replace", f"deployment:{old.pk}", by=deployment.pk
        )
        _announce(old.pk, old.team_id)
        _announce(deployment.pk, deployment.team_id)
    return True


def start(deployment: Deployment, user: User | None) -> None:
    """It should run; forgets earlier failures. Asking twice changes nothing."""
    _refuse_released(deployment, "start")
    with transaction.atomic():
        _run(deployment, user, "start")


def stop(deployment: Deployment, user: User | None) -> None:
    """It should not run; its replicas are drained and stopped."""
    _refuse_released(deployment, "stop")
    _renounce(deployment)
    _wish(deployment, user, "stop", desired=Deployment.Desired.STOPPED)


def restart(deployment: Deployment, user: User | None) -> None:
    """Replace its replicas: the old ones are drained and stopped, then new ones start."""
    _refuse_released(deployment, "restart")
    with transaction.atomic():
        _run(deployment, user, "restart")
        for replica in deployment.replicas.exclude(state__in=[*Replica.TERMINAL, State.LOST]):
            end(replica, Reason(ReasonCode.ASKED, "Restarted as asked."))


def delete(deployment: Deployment, user: User | None) -> None:
    """It goes from every list and its replicas stop; the row stays for what refers to it."""
    _refuse_released(deployment, "delete")
    _renounce(deployment)
    _wish(deployment, user, "delete", desired=Deployment.Desired.DELETED)


def set_idle_timeout(deployment: Deployment, seconds: int | None, user: User | None) -> None:
    """After how long without use it stops; None is never."""
    _refuse_released(deployment, "an idle time-out")
    if fields := engine_options.judge_numbers(1, 1, seconds, None, None):
        raise DeploymentRefused(fields)
    change = {
        "before": {"idle_timeout_s": deployment.idle_timeout_s},
        "after": {"idle_timeout_s": seconds},
    }
    Deployment.objects.filter(pk=deployment.pk).update(idle_timeout_s=seconds, last_used_at=Now())
    about = f"deployment:{deployment.pk}"
    access.audit(user, deployment.team, "set idle time-out", about, name=deployment.name, **change)
    _announce(deployment.pk, deployment.team_id)


def retire(deployment: Deployment, user: User | None) -> None:
    """A release gives its deployment up: it stops and belongs to the playground again."""
    Deployment.objects.filter(pk=deployment.pk, released=True).update(released=False)
    _wish(deployment, user, "retire", desired=Deployment.Desired.STOPPED)


def hand_over(source: Deployment, target: Deployment) -> bool:
    """Give a ready replica of `source` to `target` of the same configuration, where no second one fits.

    One conditional update moves it; `target`'s waiting replicas end, and `source` is stopped.
    """
    with transaction.atomic():
        replica = Replica.objects.filter(deployment=source, state=State.READY).first()
        if replica is None or target.configuration_id is None or source.released:
            return False
        moved = Replica.objects.filter(
            pk=replica.pk, deployment=source, state=State.READY, configuration=target.configuration_id
        ).update(deployment=target)
        if not moved:
            return False
        superseded = Reason(ReasonCode.SUPERSEDED, f"{target.name} took over a running replica.")
        for waiting in target.replicas.filter(state__in=[State.PENDING, State.PREPARING, State.ASSIGNED]):
            end(waiting, superseded)
        Deployment.objects.filter(pk=source.pk).update(desired=Deployment.Desired.STOPPED)
        Deployment.objects.filter(pk=target.pk).update(problem="", failures=0)
        _record(replica.pk, State.READY, f"handed over to {target.name}")
        _announce(source.pk, source.team_id)
    return True


def touch(deployment: Deployment) -> None:
    """It was used now. Written at most once a second."""
    recent = Q(last_used_at__isnull=True) | Q(last_used_at__lt=Now() - timedelta(seconds=1))
    Deployment.objects.filter(recent, pk=deployment.pk).update(last_used_at=Now())


def ready_replicas(deployment: Deployment) -> list[Replica]:
    """Those that serve now, oldest first, each with its node."""
    rows = deployment.replicas.filter(state=State.READY)
    return list(rows.select_related("node", "deployment").order_by("pk"))


def free(replica: Replica, user: User | None) -> bool:
    """A person says that nothing of a lost replica runs any more, so its place is free."""
    deployment = replica.deployment
    before = {"state": replica.state}
    about = f"replica:{replica.pk}"
    access.audit(user, deployment.team, "free", about, name=deployment.name, before=before)
    return mark_freed(replica.pk)


def free_lost(deployment: Deployment, user: User | None) -> None:
    """The same of every lost replica of it."""
    for replica in deployment.replicas.filter(state=State.LOST).select_related("deployment__team"):
        free(replica, user)


# What reconcile decides


def add_replica(deployment: Deployment) -> Replica:
    """One more start attempt. The caller holds the deployment's row, so that two passes never add two."""
    replica = Replica.objects.create(deployment=deployment, configuration=deployment.configuration)
    _record(replica.pk, State.PENDING, "queued")
    return replica


def choose(replica: Replica, node: Node, note: str) -> bool:
    """pending → preparing on `node`; nothing of it is held yet."""
    moved = _move(replica.pk, [State.PENDING], State.PREPARING, note, node=node, reason_code="", reason="")
    if moved:
        solve(replica.deployment)
    return moved


def unchoose(replica: Replica, why: str) -> bool:
    """preparing → pending: the node lost its room, or went away, meanwhile."""
    return _move(replica.pk, [State.PREPARING], State.PENDING, why, node=None)


def assign(replica: Replica, configuration: Configuration, resources: dict[str, Any], note: str) -> bool:
    """preparing → assigned, with what it holds. The caller holds the node's row: no slot is given twice."""
    with transaction.atomic():
        Deployment.objects.filter(pk=replica.deployment_id, configuration__isnull=True).update(
            configuration=configuration
        )
        return _move(
            replica.pk,
            [State.PREPARING],
            State.ASSIGNED,
            note,
            configuration=configuration,
            resources=resources,
            served_name=configuration.model.name,
            engine_key=secrets.token_urlsafe(32),
            relay_key=secrets.token_urlsafe(32),
        )


def nudged(replica: Replica) -> None:
    Replica.objects.filter(pk=replica.pk).update(nudged_at=Now())


def wait_for_jobs(replica: Replica, waiting: list[Job]) -> None:
    """It waits for these jobs; browsers show their progress."""
    if set(replica.waits_for.values_list("pk", flat=True)) != {job.pk for job in waiting}:
        replica.waits_for.set(waiting)
        steps = ", ".join(job.get_kind_display().lower() for job in waiting)
        _record(replica.pk, State.PREPARING, f"waits for: {steps}")


def wait_for_room(replica: Replica, why: str, *, tell: bool) -> None:
    """Nothing fits: the reason goes on the row once; with `tell` it is a problem a person is told of."""
    code = ReasonCode.NO_ROOM if tell else ""
    changed = Replica.objects.filter(pk=replica.pk, state=State.PENDING).exclude(reason=why, reason_code=code)
    if changed.update(reason_code=code, reason=why):
        _record(replica.pk, State.PENDING, why)
    if tell:
        Deployment.objects.filter(pk=replica.deployment_id).exclude(problem=why).update(problem=why)


def solve(deployment: Deployment) -> None:
    """The problem is over."""
    Deployment.objects.filter(pk=deployment.pk).exclude(problem="").update(problem="")


def end(replica: Replica, reason: Reason) -> bool:
    """Stop it in the way its state asks: at once where nothing runs, else through draining and its runner."""
    why = {"reason_code": reason.code, "reason": reason.text}
    if _move(
        replica.pk,
        [State.PENDING, State.PREPARING, State.ASSIGNED],
        State.STOPPED,
        reason.text,
        ended_at=Now(),
        **why,
    ):
        return True
    moved = _move(
        replica.pk, [State.READY, State.UNHEALTHY], State.DRAINING, reason.text, drain_at=Now(), **why
    )
    moved = moved or _move(replica.pk, [State.STARTING, State.LOADING], State.STOPPING, reason.text, **why)
    if moved and replica.node:
        nudges.send("playground.look", replica.pk, queue=f"node.{replica.node.name}")
    return moved


def leave(replica: Replica, reason: Reason) -> bool:
    """Its node stops before anything of it ran there: what was not started looks for another node."""
    why = {"reason_code": reason.code, "reason": reason.text}
    ended = _move(replica.pk, [State.ASSIGNED], State.STOPPED, reason.text, ended_at=Now(), **why)
    return ended or unchoose(replica, reason.text)


def stop_idle(deployment: Deployment) -> bool:
    """Its idle time-out is over, unless someone used it meanwhile."""
    assert deployment.idle_timeout_s is not None
    idle = Deployment.objects.filter(
        pk=deployment.pk,
        released=False,
        desired=Deployment.Desired.RUNNING,
        last_used_at__lt=Now() - timedelta(seconds=deployment.idle_timeout_s),
    )
    with transaction.atomic():
        if not idle.update(desired=Deployment.Desired.STOPPED):
            return False
        for replica in deployment.replicas.exclude(state__in=[*Replica.TERMINAL, State.LOST]):
            end(replica, IDLE)
        _announce(deployment.pk, deployment.team_id)
    return True


def suspect(pk: int) -> bool:
    """Its heartbeat is old for the first time. A beat clears this: a database that was away loses nobody."""
    return bool(Replica.objects.filter(pk=pk, suspected_at__isnull=True).update(suspected_at=Now()))


def mark_lost(pk: int) -> bool:
    """No heartbeat: it is replaced; what it held stays reserved until its node, or a person, frees it."""
    reason = "No sign of life from its node; what it held stays reserved until the node is back."
    return _move(pk, RUNNING, State.LOST, reason, reason_code=ReasonCode.NODE_LOST, reason=reason)


def mark_freed(pk: int) -> bool:
    """A lost replica's node, or a person, says that nothing of it runs."""
    return _move(pk, [State.LOST], State.FAILED, "nothing of it runs any more", ended_at=Now())


# What a replica's runner reports. Each answers whether the row was still in a state that allows it.


def claim(pk: int, runner_pid: int) -> bool:
    """assigned → starting: the runner's first act, which one runner wins."""
    return _move(
        pk,
        [State.ASSIGNED],
        State.STARTING,
        "starting",
        runner_pid=runner_pid,
        heartbeat_at=Now(),
        suspected_at=None,
    )


def mark_started(pk: int, command: list[str], port: int, engine_pid: int, relay_port: int | None) -> bool:
    """The engine's process exists."""
    return bool(
        Replica.objects.filter(pk=pk, state__in=RUNNING).update(
            command=command, port=port, engine_pid=engine_pid, relay_port=relay_port, heartbeat_at=Now()
        )
    )


def mark_loading(pk: int, note: str) -> bool:
    """The engine shows life; later notes are kept as steps."""
    return _move(pk, [State.STARTING, State.LOADING], State.LOADING, note or "loading")


def mark_ready(pk: int) -> bool:
    """The probe's real request came back."""
    with transaction.atomic():
        moved = _move(pk, [State.STARTING, State.LOADING], State.READY, "ready", ready_at=Now())
        if moved:
            owner = Deployment.objects.filter(replicas=pk)
            owner.exclude(problem="").update(problem="")
            owner.update(last_used_at=Now())
            for heir in owner.filter(wanted__has_key="replaces"):
                nudges.send("playground.reconcile", heir.pk)
    return moved


def mark_unhealthy(pk: int, why: str) -> bool:
    return _move(pk, [State.READY], State.UNHEALTHY, why, reason=why)


def mark_recovered(pk: int) -> bool:
    return _move(pk, [State.UNHEALTHY], State.READY, "answers again", reason="")


def mark_stopping(pk: int) -> bool:
    return _move(pk, RUNNING, State.STOPPING, "stopping")


def mark_stopped(pk: int, reason: Reason, log_tail: list[str]) -> bool:
    """No process of it is left, as asked. The first reason given for the stop stays."""
    with transaction.atomic():
        kept = Replica.objects.filter(pk=pk).exclude(reason_code="").exists()
        why = {} if kept else {"reason_code": reason.code, "reason": reason.text}
        moved = _move(
            pk,
            [*RUNNING, State.LOST],
            State.STOPPED,
            reason.text,
            log_tail="\n".join(log_tail),
            ended_at=Now(),
            **why,
        )
        if moved:
            nudges.send("playground.reconcile")
    return moved


def mark_failed(pk: int, reason: Reason, log_tail: list[str], *, final: bool = False) -> bool:
    """No process of it is left, and nobody asked for that. `final`: starting again needs a person."""
    with transaction.atomic():
        moved = _move(
            pk,
            [state for state in State if state not in Replica.TERMINAL],
            State.FAILED,
            reason.text,
            reason_code=reason.code,
            reason=reason.text,
            log_tail="\n".join(log_tail),
            ended_at=Now(),
        )
        if moved:
            _count_failure(pk, reason, final=final)
            nudges.send("playground.reconcile")
    return moved


def beat(pk: int, health: dict[str, Any]) -> Replica | None:
    """A runner's sign of life; the row as it is now, or None when it was taken over."""
    alive = Replica.objects.filter(pk=pk, state__in=RUNNING)
    if not alive.update(heartbeat_at=Now(), suspected_at=None, health=health):
        return None
    return alive.select_related("deployment").first()


def drained(replica: Replica) -> bool:
    """Whether a draining replica may stop: no router would still choose it, or they took too long."""
    overdue = replica.drain_at is not None and replica.drain_at < timezone.now() - timedelta(
        seconds=settings.DRAIN_S
    )
    return overdue or all(check(replica) for check in DRAIN_CHECKS)


# Parts


def _asked_before(model: Model, user: User | None, stamp: str) -> Deployment | None:
    """What the same form already made. Holds the model's row: two presses come one after the other."""
    Model.objects.select_for_update(no_key=True).get(pk=model.pk)
    return Deployment.objects.filter(model=model, created_by=user, wanted__once=stamp).first()


def _refuse_rivals(old: Deployment) -> None:
    """Only one at a time is to take a deployment's place. Holds its row."""
    row = Deployment.objects.select_for_update(no_key=True).get(pk=old.pk)
    if row.released or row.desired == Deployment.Desired.DELETED:
        raise DeploymentRefused({"place": f"{row.name} serves an endpoint or was deleted: start beside it."})
    rival = edits.heirs(row).first()
    if rival:
        words = f"{rival.name} is to take the place of {row.name} already: stop it first, or start beside."
        raise DeploymentRefused({"place": words})


def _to_replace(heir: Deployment, named: dict[str, Any]) -> Deployment | None:
    """The row, held, of the one it takes the place of; None where a later one is to, or nobody may."""
    rows = Deployment.objects.filter(pk=named["deployment"], team=heir.team_id, released=False)
    old = rows.exclude(desired=Deployment.Desired.DELETED).select_for_update(no_key=True).first()
    later = Deployment.objects.filter(wanted__replaces__deployment=named["deployment"], pk__gt=heir.pk)
    return None if old is None or later.exclude(desired=Deployment.Desired.DELETED).exists() else old


def _renounce(deployment: Deployment) -> None:
    """Whoever stops it does not want it to take another's place later."""
    if not deployment.wanted.get("replaces"):
        return
    wanted = {key: value for key, value in deployment.wanted.items() if key != "replaces"}
    Deployment.objects.filter(pk=deployment.pk, wanted=deployment.wanted).update(wanted=wanted)


def _free_name(team: Team, name: str) -> str:
    """`name`, or the first of name-2, name-3, … that no deployment of the team has."""
    taken = set(
        Deployment.objects.filter(team=team, name__startswith=name[:110])
        .exclude(desired=Deployment.Desired.DELETED)
        .values_list("name", flat=True)
    )
    number, free_name = 1, name[:110]
    while free_name in taken:
        number += 1
        free_name = f"{name[:110]}-{number}"
    return free_name


def _refuse_released(deployment: Deployment, verb: str) -> None:
    if Deployment.objects.filter(pk=deployment.pk, released=True).exists():
        raise DeploymentRefused(
            {"": f"{deployment.name} serves an endpoint: {verb} is refused here; use the endpoint's page."}
        )


def _run(deployment: Deployment, user: User | None, verb: str) -> None:
    """It should run. What did not, and now would, is held to the quotas."""
    runs = Deployment.objects.filter(pk=deployment.pk, desired=Deployment.Desired.RUNNING, problem="")
    ran = runs.exists()
    _wish(deployment, user, verb, desired=Deployment.Desired.RUNNING)
    if not ran:
        _within_quotas(deployment)


def _within_quotas(deployment: Deployment, replaced: Deployment | None = None) -> None:
    try:
        admission.check_replicas(deployment, replaced.pk if replaced else None)
        admission.check_gpus(deployment)
    except admission.QuotaReached as reached:
        raise DeploymentRefused({"": str(reached)}) from reached


def _wish(deployment: Deployment, user: User | None, verb: str, *, desired: str) -> None:
    """Set what should be, forget earlier failures, tell everyone and nudge."""
    with transaction.atomic():
        changed = (
            Deployment.objects.filter(pk=deployment.pk)
            .exclude(desired=Deployment.Desired.DELETED)
            .update(desired=desired, failures=0, retry_at=None, problem="", last_used_at=Now())
        )
        if not changed:
            raise DeploymentRefused({"": f"{deployment.name} was deleted."})
        change = {"before": {"desired": deployment.desired}, "after": {"desired": str(desired)}}
        about = f"deployment:{deployment.pk}"
        access.audit(user, deployment.team, verb, about, name=deployment.name, **change)
        _announce(deployment.pk, deployment.team_id)
    deployment.refresh_from_db()


def _count_failure(pk: int, reason: Reason, *, final: bool) -> None:
    """Back off; give up after a reason that would come again, or ATTEMPTS starts in a row never ready."""
    if reason.code in FORGIVEN:
        return
    replica = Replica.objects.select_related("deployment").get(pk=pk)
    deployment = Deployment.objects.select_for_update(no_key=True).get(pk=replica.deployment_id)
    steady = replica.ready_at is not None and replica.ready_at < timezone.now() - timedelta(seconds=STEADY_S)
    failures = 1 if steady else deployment.failures + 1
    never_ready = replica.ready_at is None
    gives_up = final or (never_ready and (reason.code in PERMANENT or failures >= ATTEMPTS))
    wait = settings.RETRY_S[min(failures, len(settings.RETRY_S)) - 1]
    Deployment.objects.filter(pk=deployment.pk).update(
        failures=failures,
        retry_at=Now() + timedelta(seconds=wait),
        problem=reason.text if gives_up else deployment.problem,
    )


def _move(pk: int, states: Collection[str], to: str, note: str, **fields: Any) -> bool:
    """The conditional update every change of state goes through, with its event and notice."""
    with transaction.atomic():
        if not Replica.objects.filter(pk=pk, state__in=states).update(state=to, **fields):
            return False
        _record(pk, to, note)
    return True


def _record(pk: int, state: str, note: str) -> None:
    ReplicaEvent.objects.create(replica_id=pk, state=state, note=note)
    deployment, team = Replica.objects.values_list("deployment_id", "deployment__team_id").get(pk=pk)
    events.notify(team, f"deployment:{deployment}", "deployments", "bar")


def _announce(deployment: int, team: int) -> None:
    """Tell browsers, and nudge the control plane."""
    events.notify(team, f"deployment:{deployment}", "deployments", "bar")
    nudges.send("playground.reconcile", deployment)
