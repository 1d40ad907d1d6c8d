"""Machines, engine environments, configurations, what should run and what does."""

import json
from typing import Any

from django.db import models

from .jobs import Job
from .models import Model, ModelFormat
from .teams import TeamOwned


class Node(models.Model):
    """One machine with workers. Its name is kept in its home, not taken from the hostname."""

    name = models.SlugField(max_length=60, unique=True)
    address = models.CharField(max_length=255, default="127.0.0.1", help_text="Where its relays listen.")
    accepting = models.BooleanField(default=True, help_text="False while it stops: placement passes it by.")
    heartbeat_at = models.DateTimeField(null=True)
    price_per_hour = models.DecimalField(max_digits=10, decimal_places=4, null=True)
    # {"cores": 2, "memory_bytes": …, "memory_available_bytes": …, "gpus": [{"index", "uuid", "name",
    #   "memory_bytes", "used_bytes", "driver"}], "environments": [digest, …], "formats": [digest, …], …}
    inventory = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class EngineEnvironment(models.Model):
    """One installed version of an engine: engine, version, the hash of its resolved packages. Immutable."""

    engine = models.CharField(max_length=30)
    version = models.CharField(max_length=40)
    build = models.CharField(max_length=20, default="cpu", help_text="cpu, cuda")
    digest = models.CharField(
        max_length=64, unique=True, help_text="SHA-256 of engine, version, build, packages."
    )
    packages = models.TextField(help_text="The resolved list, one name==version a line, sorted.")
    python = models.CharField(max_length=20, help_text="3.11, 3.13, …")
    size_bytes = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)


class Configuration(models.Model):
    """Immutable: what a person tries in the playground and what production runs is the same row."""

    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of `canonical`.")
    canonical = models.TextField(help_text="Canonical JSON the digest is taken over.")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="configurations")
    format = models.ForeignKey(ModelFormat, on_delete=models.PROTECT, related_name="+")
    format_digest = models.CharField(max_length=64)
    environment = models.ForeignKey(
        EngineEnvironment, on_delete=models.PROTECT, related_name="configurations"
    )
    engine = models.CharField(max_length=30)
    options = models.JSONField(
        default=dict, help_text="Only what was set; everything else is the engine's default."
    )
    adapters = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    @property
    def short(self) -> str:
        """The first twelve hex digits, as shown to people."""
        return self.digest[:12]

    @property
    def facts(self) -> dict[str, Any]:
        """What the digest is taken over."""
        named: dict[str, Any] = json.loads(self.canonical or "{}")
        return named

    @property
    def extra(self) -> list[str]:
        """Arguments that an administrator added to the engine's command."""
        return list(self.facts.get("extra", []))

    @property
    def runs_code(self) -> bool:
        """Whether it runs the model's own code, by an administrator's leave."""
        return self.facts.get("code") is True


class Start(models.Model):
    """What one start of a configuration took, by the engine's own word and the node's. Append only."""

    configuration = models.ForeignKey(Configuration, on_delete=models.CASCADE, related_name="starts")
    node = models.ForeignKey(Node, on_delete=models.SET_NULL, null=True, related_name="+")
    ready_s = models.FloatField(help_text="From the process's start to ready, seconds.")
    resident_bytes = models.BigIntegerField(null=True, help_text="Of its processes, once ready, by pages.")
    gpu_bytes = models.BigIntegerField(null=True)
    weights_bytes = models.BigIntegerField(null=True, help_text="As the engine reports.")
    kv_cache_bytes = models.BigIntegerField(null=True, help_text="As the engine reports.")
    kv_cache_tokens = models.BigIntegerField(null=True, help_text="As the engine reports.")
    created_at = models.DateTimeField(auto_now_add=True)


class Deployment(TeamOwned):
    """Desired state: this configuration runs.

    `wanted` is what a person asked for. `configuration` stays null until environment and weights exist: its
    digest is taken over what will really be loaded; it is then set once, by conditional update.
    """

    class Desired(models.TextChoices):
        RUNNING = "running", "running"
        STOPPED = "stopped", "stopped"
        DELETED = "deleted", "deleted"

    name = models.CharField(max_length=120)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="deployments")
    engine = models.CharField(max_length=30)
    # {"version": "0.32.0" | null, "options": {...}, "gpus": 1 | null, "share": false, "cores": 2 | null,
    #   "adapters": [pk, …], "extra": ["--flag", "value", …]}; "extra" only from administrators.
    wanted = models.JSONField(default=dict)
    configuration = models.ForeignKey(
        Configuration, on_delete=models.PROTECT, null=True, related_name="deployments"
    )
    desired = models.CharField(max_length=16, choices=Desired.choices, default=Desired.RUNNING)
    min_replicas = models.PositiveSmallIntegerField(default=1)
    max_replicas = models.PositiveSmallIntegerField(default=1)
    idle_timeout_s = models.PositiveIntegerField(null=True, help_text="Null: never stopped for being idle.")
    last_used_at = models.DateTimeField(null=True)
    # True once a release owns it: the playground's stop, idle time-out and delete refuse it.
    released = models.BooleanField(default=False)
    # Start attempts that failed in a row; back-off and giving up are read from these two.
    failures = models.PositiveSmallIntegerField(default=0)
    retry_at = models.DateTimeField(null=True)
    problem = models.TextField(blank=True, help_text="Why it does not run, in words a person can act on.")


class Replica(models.Model):
    """One start attempt of a deployment on one node. A restart makes a new row, whose key fences the old."""

    class State(models.TextChoices):
        PENDING = "pending", "pending"
        PREPARING = "preparing", "preparing"
        ASSIGNED = "assigned", "assigned"
        STARTING = "starting", "starting"
        LOADING = "loading", "loading"
        READY = "ready", "ready"
        UNHEALTHY = "unhealthy", "unhealthy"
        DRAINING = "draining", "draining"
        STOPPING = "stopping", "stopping"
        STOPPED = "stopped", "stopped"
        FAILED = "failed", "failed"
        LOST = "lost", "lost"

    TERMINAL = (State.STOPPED, State.FAILED)
    # States in which a runner (or a lost one) may hold the node's resources.
    HOLDING = (
        State.ASSIGNED,
        State.STARTING,
        State.LOADING,
        State.READY,
        State.UNHEALTHY,
        State.DRAINING,
        State.STOPPING,
        State.LOST,
    )

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="replicas")
    node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True, related_name="replicas")
    configuration = models.ForeignKey(
        Configuration, on_delete=models.PROTECT, null=True, related_name="replicas"
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    # One of `playground.engines.base.ReasonCode`, and the sentence shown to people.
    reason_code = models.CharField(max_length=40, blank=True)
    reason = models.TextField(blank=True)
    # {"cores": 1, "memory_bytes": …, "gpus": [{"index": 0, "share": 0}], "slots": ["cpu.0"], "build": "cpu"}
    resources = models.JSONField(default=dict)
    command = models.JSONField(default=list)
    served_name = models.CharField(max_length=300, blank=True)
    port = models.PositiveIntegerField(null=True, help_text="Engine's loopback port on its node.")
    engine_key = models.CharField(
        max_length=64, blank=True, help_text="Bearer the engine asks for, where it can."
    )
    relay_port = models.PositiveIntegerField(null=True)
    relay_key = models.CharField(max_length=64, blank=True)
    runner_pid = models.IntegerField(null=True)
    engine_pid = models.IntegerField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    suspected_at = models.DateTimeField(
        null=True, help_text="When its heartbeat was first seen old; a beat clears it."
    )
    waits_for = models.ManyToManyField(Job, related_name="+", help_text="Jobs it waits for while preparing.")
    # Latest reading: {"running": 1, "waiting": 0, "kv_cache": 0.1, "rss_bytes": …, "gpu_bytes": …, "cpu": 1}
    health = models.JSONField(default=dict)
    nudged_at = models.DateTimeField(null=True, help_text="When its task was last sent; the sweep re-sends.")
    drain_at = models.DateTimeField(null=True)
    log_tail = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)


class ReplicaEvent(models.Model):
    """One named step in a replica's life, with its time. Append only."""

    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=16)
    note = models.TextField(blank=True)

    class Meta:
        ordering = ["at", "id"]
