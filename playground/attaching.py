"""Attaching adapters to a deployment that runs, and detaching them, where its engine can.

The engine is told on its own node; only when it has done so does the deployment get the configuration that
names what runs now, so that a restart or a release of it loads the same. Knows no engine's name.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from django.db import transaction

from playground import adapters, configurations, drafts, engines, events, jobs
from playground.engines.base import Engine, LocalAdapter, Verdict
from playground.jobs import Act, JobFailed, Work
from playground.models import Adapter, Configuration, Deployment, Job, Replica, User

ATTACH, DETACH = "attach", "detach"
TOLD_WITHIN_S = 120.0
State = Replica.State


class AttachRefused(Exception):
    """It may not be attached or detached while it runs; the text says why."""


@dataclass(frozen=True)
class Choice:
    """An adapter that could be attached now; `verdict` says why not."""

    row: Adapter
    verdict: Verdict


def can(deployment: Deployment) -> Verdict:
    """Whether adapters can be attached to it and detached as it stands."""
    if deployment.released:
        return Verdict(False, "It serves an endpoint, whose configuration stays as it was promoted.")
    if deployment.engine not in engines.names():
        return Verdict(False, f"{deployment.engine} is not here any more.")
    adapter = engines.get(deployment.engine)
    if not adapter.adapter_kinds:
        return adapter.attaches("")
    options = adapter.Options.model_validate(deployment.wanted.get("options", {}))
    verdict = adapter.attaches_running(options)
    if verdict.ok and not _ready(deployment):
        return Verdict(False, "It is not ready: adapters chosen in Edit come with its next start.")
    return verdict


def choices(deployment: Deployment) -> list[Choice]:
    """The model's adapters that it does not serve yet."""
    adapter = engines.get(deployment.engine)
    held = set(adapters.served(deployment))
    offered = adapters.offers(deployment.model, adapter)
    return [Choice(row, verdict) for row, verdict in offered if row.name not in held]


def newest_job(deployment: Deployment) -> Job | None:
    return Job.objects.filter(target=_goal(deployment)).order_by("-pk").first()


def request(deployment: Deployment, row: Adapter, verb: str, user: User | None) -> Job:
    """The job that tells the engine; AttachRefused when it cannot be."""
    verdict = can(deployment)
    if not verdict.ok:
        raise AttachRefused(verdict.why)
    served = adapters.served(deployment)
    if verb == ATTACH:
        _refuse_attaching(deployment, row, served)
    elif row.name not in served:
        raise AttachRefused(f"{row.name} is not attached.")
    replicas = _ready(deployment)
    node = replicas[0].node
    if node is None or len({replica.node_id for replica in replicas}) > 1:
        raise AttachRefused("It runs on several nodes: choose its adapters in Edit.")
    arguments = {"deployment": deployment.pk, "adapter": row.pk, "verb": verb}
    goal, act = _goal(deployment), Act(f"{verb} adapter", f"deployment:{deployment.pk}", row.name)
    job = jobs.request(Job.Kind.ATTACH_ADAPTER, node, goal, arguments, deployment.team, user, act=act)
    if job.arguments != arguments:
        raise AttachRefused("Another adapter of it is being attached or detached: wait for that.")
    events.notify(deployment.team_id, f"deployment:{deployment.pk}")
    return job


def _refuse_attaching(deployment: Deployment, row: Adapter, served: Sequence[str]) -> None:
    choice = next((one for one in choices(deployment) if one.row.pk == row.pk), None)
    if row.name in served:
        raise AttachRefused(f"{row.name} is attached already.")
    if choice is None:
        raise AttachRefused("That adapter is not this model's.")
    if not choice.verdict.ok:
        raise AttachRefused(f"{row.name}: {choice.verdict.why}")
    if text := adapters.outranks(row, deployment.wanted.get("options", {})):
        raise AttachRefused(text)
    if len(served) >= adapters.MOST:
        raise AttachRefused(f"At most {adapters.MOST} adapters.")


def _ready(deployment: Deployment) -> list[Replica]:
    rows = deployment.replicas.filter(state=State.READY, drain_at=None)
    return list(rows.select_related("node").order_by("pk"))


def _goal(deployment: Deployment) -> str:
    return f"attach:{deployment.pk}"


# The job


def attach(work: Work) -> dict[str, Any]:
    """Job: tell the engine of every replica, then write down the configuration that runs now."""
    given = work.job.arguments
    verb = given["verb"]
    row = Adapter.objects.filter(pk=given["adapter"]).first()
    if row is None:
        raise JobFailed("The adapter was removed.")
    if verb == ATTACH:
        adapters.fetch(work)
        row.refresh_from_db()
    deployment = Deployment.objects.select_related("configuration", "model", "team").get(
        pk=given["deployment"]
    )
    old, replicas = deployment.configuration, _ready(deployment)
    if old is None or not replicas or any(one.node_id != work.job.node_id for one in replicas):
        raise JobFailed("It does not run here any more.")
    work.progress(f"{verb}ing")
    engine, local = engines.get(deployment.engine), adapters.as_local(row)
    told: list[Replica] = []
    try:
        for replica in replicas:
            _tell(engine, replica, local, verb)
            told.append(replica)
        _settle(deployment, old, row, verb, told)
    except JobFailed:
        _undo(work, engine, told, local, verb)
        raise
    return {"deployment": deployment.pk, "adapter": row.pk, "verb": verb}


def _undo(work: Work, engine: Engine, told: Sequence[Replica], local: LocalAdapter, verb: str) -> None:
    """What was told to some is taken back, so that all serve what the configuration names."""
    for replica in told:
        try:
            _tell(engine, replica, local, DETACH if verb == ATTACH else ATTACH)
        except JobFailed as problem:
            work.note(f"replica {replica.pk}: {problem}")


def _tell(engine: Engine, replica: Replica, local: LocalAdapter, verb: str) -> None:
    """One call to the engine on loopback; JobFailed with its own words when it refuses."""
    place = engine.attaching(local) if verb == ATTACH else engine.detaching(local)
    if place is None:
        raise JobFailed(f"{engine.title} does not {verb} adapters while it runs.")
    path, body = place
    try:
        status, text = asyncio.run(_post(f"http://127.0.0.1:{replica.port}{path}", replica.engine_key, body))
    except (aiohttp.ClientError, TimeoutError, OSError) as problem:
        why = str(problem) or type(problem).__name__
        raise JobFailed(f"{engine.title} could not be told: {why}.") from problem
    if status != 200:
        raise JobFailed(f"{engine.title} refused it: {text[:400]}")


async def _post(url: str, key: str, body: dict[str, Any]) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=TOLD_WITHIN_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def _settle(
    deployment: Deployment,
    old: Configuration,
    row: Adapter,
    verb: str,
    told: Sequence[Replica],
) -> None:
    """Deployment and replicas get the configuration of what runs now; JobFailed when something else came."""
    keys = [one.pk for one in told]
    with transaction.atomic():
        locked = Deployment.objects.select_for_update().get(pk=deployment.pk)
        live = locked.replicas.exclude(state__in=Replica.TERMINAL).exclude(state=State.LOST)
        if locked.configuration_id != old.pk or set(live.values_list("pk", flat=True)) != set(keys):
            raise JobFailed("It was started anew meanwhile: try again once it is ready.")
        wanted = [pk for pk in locked.wanted.get("adapters") or [] if pk != row.pk]
        wanted += [row.pk] if verb == ATTACH else []
        locked.wanted = {**locked.wanted, "adapters": wanted}
        new = configurations.freeze(
            old.format,
            old.environment,
            old.engine,
            old.options,
            adapters.frozen(adapters.wanted(locked)),
            extra=old.extra,
            draft=drafts.of(old),
        )
        if live.filter(state=State.READY, configuration=old).update(configuration=new) != len(keys):
            raise JobFailed("It stopped meanwhile.")
        Deployment.objects.filter(pk=locked.pk).update(configuration=new, wanted=locked.wanted)
        events.notify(deployment.team_id, f"deployment:{deployment.pk}", "deployments")
