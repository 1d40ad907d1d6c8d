"""What placement is asked: what a deployment needs on a node, and what each node has. Reads rows only."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models.functions import Now

from playground import adapters, catalogue, drafts, engines, environments, fitting, measured
from playground import placement as places
from playground.engines.base import Engine, EngineOptions, LocalModel
from playground.models import Deployment, EngineEnvironment, Node, Replica

State = Replica.State


def accepting() -> list[Node]:
    """Nodes that accept replicas and have given a sign of life."""
    fresh = Now() - timedelta(seconds=settings.LOST_AFTER_S)
    return list(Node.objects.filter(accepting=True, heartbeat_at__gt=fresh).order_by("pk"))


def want(deployment: Deployment, node: Node) -> places.Want | None:
    """What a replica of it would need on that node; None where the engine's build there does not do it."""
    adapter = engines.get(deployment.engine)
    build = environments.build_of(node, adapter)
    wanted = deployment.wanted
    options = adapter.Options.model_validate(wanted.get("options", {}))
    if build not in adapter.versions or options.only(build):
        return None
    return places.Want(
        build=build,
        memory_bytes=_memory(deployment, adapter, options, node),
        gpus=max(wanted.get("gpus") or 1, adapter.gpus(options)),
        share=bool(wanted.get("share")),
        cores=wanted.get("cores"),
    )


def _memory(deployment: Deployment, adapter: Engine, options: EngineOptions, node: Node) -> int:
    """Bytes to reserve: by its last start, else as worked out; the known part where not all is known."""
    model = _local_model(deployment)
    if model is None:
        return 0
    offered = fitting.given(adapter, options, node, deployment.wanted.get("gpus"))
    estimate = adapter.memory(model, options, offered)
    start = measured.latest(deployment.configuration) if deployment.configuration else None
    if start:
        estimate = measured.corrected(estimate, start)
    attached = 0 if start else sum(row.size_bytes or 0 for row in adapters.wanted(deployment))
    known = estimate.takes if estimate.takes is not None else estimate.weights
    return attached + (known or 0)


def _local_model(deployment: Deployment) -> LocalModel | None:
    """Its weights, with its draft's."""
    if deployment.configuration:
        model: LocalModel | None = catalogue.local(deployment.configuration.format)
    else:
        form = deployment.wanted.get("form")
        model, _ = catalogue.candidate(deployment.model, engines.get(deployment.engine), form)
    return model and drafts.beside(model, drafts.wanted(deployment))


def room(deployment: Deployment, node: Node) -> places.NodeRoom:
    """What the node has, who holds what of it, and how much of what a replica of it needs lies there."""
    found = node.inventory
    held = Replica.objects.filter(node=node, state__in=Replica.HOLDING).select_related("deployment")
    return places.NodeRoom(
        pk=node.pk,
        name=node.name,
        cores=found.get("cores", 1),
        memory_bytes=found.get("memory_bytes", 0),
        available_bytes=found.get("memory_available_bytes", 0),
        gpus=tuple(
            places.GpuRoom(gpu["index"], gpu["name"], gpu["memory_bytes"]) for gpu in found.get("gpus", [])
        ),
        held=tuple(_held(other, deployment.team_id) for other in held.order_by("pk")),
        has=_has(deployment, found),
    )


def _held(other: Replica, team: int) -> places.Held:
    """What another replica holds; another team's is not named."""
    resources = other.resources
    return places.Held(
        replica=other.pk,
        name=other.deployment.name if other.deployment.team_id == team else "another team",
        build=resources.get("build", "cpu"),
        memory_bytes=resources.get("memory_bytes", 0),
        slots=tuple(resources.get("slots", ())),
        gpus=tuple(gpu["index"] for gpu in resources.get("gpus", ())),
        settled=other.state not in (State.ASSIGNED, State.STARTING, State.LOADING),
    )


def _has(deployment: Deployment, inventory: dict[str, Any]) -> int:
    """How many of its two parts, environment and weights, lie on a node."""
    held_environments, held_formats = inventory.get("environments", []), inventory.get("formats", [])
    engine = EngineEnvironment.objects.filter(engine=deployment.engine, digest__in=held_environments)
    weights = deployment.model.formats.filter(digest__in=held_formats).exclude(digest="")
    return int(engine.exists()) + int(weights.exists())
