"""Rows as a team has them after a day's work, for tests of pages. States are set here, not lived through."""

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from playground import catalogue
from playground.engines.base import ReasonCode
from playground.models import (
    Configuration,
    Deployment,
    EngineEnvironment,
    Job,
    Model,
    Node,
    Replica,
    ReplicaEvent,
    Team,
    User,
)

GIB = 1 << 30
LONG = "org-with-a-long-name--Some-Very-Long-Model-Name-7B-Instruct-v0.3-Q4_K_M"
STEPS = [
    ("pending", "queued", 0.0),
    ("preparing", "placed on node-1", 0.1),
    ("assigned", "on node-1 · 2 of 2 cores", 2.4),
    ("starting", "starting", 2.6),
    ("loading", "loading weights", 3.1),
    ("loading", "warming", 3.9),
    ("ready", "ready", 4.4),
]


@dataclass(frozen=True)
class Rows:
    """What `full` made."""

    node: Node
    gpu_node: Node
    model: Model
    refused: Model
    ready: Deployment
    starting: Deployment
    failed: Deployment
    stopped: Deployment
    install: Job


def full(team: Team, user: User, stranger_team: Team | None = None) -> Rows:
    """Two nodes, models, deployments in every kind of state, an install that runs and one that failed."""
    environment = EngineEnvironment.objects.create(
        engine="llama.cpp",
        version="2026.10.11549",
        digest="3f" * 32,
        packages="xllamacpp==2026.10.11549",
        python="3.13",
        size_bytes=61_000_000,
    )
    node, gpu_node = _nodes(environment)
    model, refused = _models(team)
    configuration = _configuration(model, environment)
    ready = _deployment(
        team, user, model, "SmolLM2-135M-Instruct-llama.cpp", configuration, {"context": 4096}
    )
    _replica(ready, node, Replica.State.READY, STEPS, configuration)
    starting = _deployment(team, user, model, "smol-transformers", None, {}, engine="transformers")
    _replica(starting, node, Replica.State.PREPARING, STEPS[:2], None)
    failed = _deployment(team, user, model, LONG, configuration, {"context": 131072})
    why = "The KV cache of 131,072 tokens needs 2.8 GiB, which is not free: lower the context, to 65,536."
    dead = _replica(failed, node, Replica.State.FAILED, [*STEPS[:5], ("failed", why, 9.1)], configuration)
    log = "load_model: loading model\nerror: failed to allocate CPU buffer of size 3019898880"
    Replica.objects.filter(pk=dead.pk).update(
        reason=why, reason_code=ReasonCode.OUT_OF_MEMORY, log_tail=log, ended_at=timezone.now()
    )
    Deployment.objects.filter(pk=failed.pk).update(problem=why, failures=1)
    stopped = _deployment(
        team, user, model, "idle-one", configuration, {}, desired=Deployment.Desired.STOPPED
    )
    _replica(
        stopped,
        node,
        Replica.State.STOPPED,
        [*STEPS, ("stopped", "Stopped since nobody used it.", 700.0)],
        None,
    )
    if stranger_team:
        foreign = Model.objects.create(team=stranger_team, name="secret-model", source="local:secret")
        hidden = _deployment(stranger_team, None, foreign, "secret-deployment", None, {})
        _replica(hidden, gpu_node, Replica.State.READY, STEPS, None, gpus=[{"index": 0, "share": None}])
    return Rows(node, gpu_node, model, refused, ready, starting, failed, stopped, _jobs(team, user, node))


def _nodes(environment: EngineEnvironment) -> tuple[Node, Node]:
    inventory = {
        "cores": 2,
        "memory_bytes": 16 * GIB,
        "memory_available_bytes": 11 * GIB,
        "gpus": [],
        "environments": [environment.digest],
        "formats": [],
    }
    gpu = {"index": 0, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * GIB, "used_bytes": 61 * GIB}
    now = timezone.now()
    node, _ = Node.objects.update_or_create(
        name="node-1", defaults={"heartbeat_at": now, "inventory": inventory}
    )
    away = {
        **inventory,
        "cores": 32,
        "memory_bytes": 512 * GIB,
        "memory_available_bytes": 400 * GIB,
        "gpus": [gpu],
    }
    gpu_node, _ = Node.objects.update_or_create(
        name="gpu-1",
        defaults={"address": "10.0.0.12", "heartbeat_at": now - timedelta(minutes=6), "inventory": away},
    )
    return node, gpu_node


def _models(team: Team) -> tuple[Model, Model]:
    model = catalogue.demo(team)
    model.formats.filter(kind="gguf").update(size_bytes=98_700_000, digest="9c" * 32)
    refused = Model.objects.create(
        team=team,
        name="pickled-model",
        source="wheel:refused",
        refused="It holds pytorch_model.bin, a pickle that can run code. Convert it to safetensors.",
    )
    return model, refused


def _configuration(model: Model, environment: EngineEnvironment) -> Configuration:
    weights = model.formats.get(kind="gguf")
    return Configuration.objects.create(
        digest="7be1" * 16,
        canonical="{}",
        model=model,
        format=weights,
        format_digest=weights.digest,
        environment=environment,
        engine="llama.cpp",
        options={"context": 4096},
    )


def _deployment(
    team: Team,
    user: User | None,
    model: Model,
    name: str,
    configuration: Configuration | None,
    options: dict[str, object],
    *,
    engine: str = "llama.cpp",
    desired: str = Deployment.Desired.RUNNING,
) -> Deployment:
    return Deployment.objects.create(
        team=team,
        created_by=user,
        model=model,
        name=name,
        engine=engine,
        configuration=configuration,
        wanted={"version": None, "options": options, "gpus": None, "cores": None},
        desired=desired,
        last_used_at=timezone.now() - timedelta(minutes=4),
    )


def _replica(
    deployment: Deployment,
    node: Node,
    state: str,
    steps: list[tuple[str, str, float]],
    configuration: Configuration | None,
    gpus: list[dict[str, object]] | None = None,
) -> Replica:
    began = timezone.now() - timedelta(minutes=12)
    replica = Replica.objects.create(
        deployment=deployment,
        node=node,
        state=state,
        configuration=configuration,
        resources={"cores": 2, "memory_bytes": GIB // 2, "gpus": gpus or [], "slots": ["cpu.0"]},
        command=[
            "/srv/environments/3f3f/bin/python",
            "-u",
            "llamacpp.py",
            "--model",
            "model.gguf",
            "--port",
            "41877",
        ],
        health={"running": 1, "waiting": 0, "kv_cache": 0.12, "rss_bytes": 402_000_000, "cpu": 1.7},
    )
    Replica.objects.filter(pk=replica.pk).update(
        created_at=began, ready_at=began + timedelta(seconds=4.4) if state == Replica.State.READY else None
    )
    for name, note, after in steps:
        event = ReplicaEvent.objects.create(replica=replica, state=name, note=note)
        ReplicaEvent.objects.filter(pk=event.pk).update(at=began + timedelta(seconds=after))
    return replica


def _jobs(team: Team, user: User, node: Node) -> Job:
    Job.objects.create(
        team=team,
        kind=Job.Kind.INSTALL_ENVIRONMENT,
        node=node,
        target="environment:vllm==0.32.0+cpu",
        state=Job.State.FAILED,
        error="No package index that uv was told of has torch==2.13.0+cpu: name one that does.",
        log_tail="No solution found when resolving dependencies",
        ended_at=timezone.now() - timedelta(hours=2),
    )
    return Job.objects.create(
        team=team,
        created_by=user,
        kind=Job.Kind.INSTALL_ENVIRONMENT,
        node=node,
        target="environment:transformers==5.24.0+cpu",
        state=Job.State.RUNNING,
        progress={"step": "installing packages", "done": 58, "total": 93, "unit": "packages"},
        started_at=timezone.now() - timedelta(seconds=14),
    )
