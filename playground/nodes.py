"""This machine as a node: its row, its runners, and the sweep that keeps rows and processes the same.

The node owns its process tree: what happens to a process here is decided by locks and pids on this machine,
and only then written to a row, through `deployments`.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from playground import access, catalogue, deployments, environments, events, jobs, processes
from playground import hardware as machine
from playground.engines.base import Gpu, Hardware, Reason, ReasonCode
from playground.models import Job, Node, Replica, Team, User

logger = logging.getLogger(__name__)

GPUS_EVERY_S = 15.0
STOP_TIMEOUT_S = 60.0
# An assigned replica without a runner: its task is sent again after the first, given up after the second.
NUDGE_AGAIN_S = 5.0
NO_RUNNER_S = 60.0
DIED = Reason(ReasonCode.RUNNER_DIED, "The process that watches the engine died; its engine was stopped.")
NEVER_RAN = Reason(
    ReasonCode.RUNNER_DIED, "The process that watches the engine did not start; see runner.log."
)
STOPPING = Reason(ReasonCode.NODE_STOPPING, "Its node was stopped.")


class NodeRefused(Exception):
    """This machine may not work as a node like this; the text says why."""


# The row


def local_node() -> Node:
    """This machine's row, made at first need, with its present address."""
    _refuse_open_relay()
    node, _ = Node.objects.get_or_create(name=settings.NODE_NAME, defaults={"address": settings.NODE_ADDRESS})
    if node.address != settings.NODE_ADDRESS:
        Node.objects.filter(pk=node.pk).update(address=settings.NODE_ADDRESS)
        node.address = settings.NODE_ADDRESS
    return node


def relays() -> bool:
    """Whether other machines reach this one: replicas then listen on its address through a relay."""
    return bool(settings.NODE_ADDRESS != "127.0.0.1")


def hardware(node: Node) -> Hardware:
    """What the node offers an engine, as its last heartbeat said."""
    found = node.inventory
    gpus = tuple(Gpu(gpu["index"], gpu["name"], gpu["memory_bytes"]) for gpu in found.get("gpus", []))
    return Hardware(found.get("cores", 1), found.get("memory_bytes", 0), gpus)


def inventory() -> dict[str, Any]:
    """What this machine has and holds now; the shape is in `Node.inventory`."""
    total, available = machine.memory()
    return {
        "cores": machine.cores(),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "gpus": _gpus(),
        "environments": environments.on_disk(),
        "formats": catalogue.on_disk(),
        "python": {"version": sys.version.split()[0]},
    }


def heartbeat() -> None:
    """This node lives, and holds this."""
    found = inventory()
    Node.objects.filter(pk=local_node().pk).update(heartbeat_at=Now(), inventory=found)


def accept() -> None:
    """Replicas may be placed here (again); a worker's first act."""
    node = local_node()
    heartbeat()
    Node.objects.filter(pk=node.pk).update(accepting=True)
    events.notify(None, f"node:{node.pk}", "nodes")


def set_price(node: Node, per_hour: Decimal | None, user: User, team: Team) -> None:
    """What an hour of it costs, in whatever currency the team reckons; None is unknown."""
    before = None if node.price_per_hour is None else str(node.price_per_hour)
    after = None if per_hour is None else str(per_hour)
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(price_per_hour=per_hour)
        change = {"before": {"price_per_hour": before}, "after": {"price_per_hour": after}}
        access.audit(user, team, "set price", f"node:{node.pk}", name=node.name, **change)
    events.notify(None, f"node:{node.pk}", "nodes")


# Runners


# When this process last started the runner of a replica.
_spawned: dict[int, float] = {}


def start_assigned() -> None:
    """Start every replica assigned to this node, without waiting for tasks that do not arrive."""
    here = Replica.objects.filter(node__name=settings.NODE_NAME, state=Replica.State.ASSIGNED)
    for pk in here.values_list("pk", flat=True):
        if time.monotonic() - _spawned.get(pk, -NUDGE_AGAIN_S) >= NUDGE_AGAIN_S:
            start_replica(pk)


def start_replica(pk: int) -> bool:
    """Start the runner of a replica assigned to this node, detached. Its claim decides races."""
    replica = Replica.objects.filter(
        pk=pk, state=Replica.State.ASSIGNED, node__name=settings.NODE_NAME, node__accepting=True
    ).first()
    if replica is None:
        return False
    deployments.nudged(replica)
    _spawned[pk] = time.monotonic()
    spawn("run_replica", pk, replica_folder(pk) / "runner.log")
    return True


# What this process started and that still lives, by what it runs.
_children: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
_spawning = threading.Lock()


def spawn(command: str, pk: int, log: Path) -> None:
    """`manage.py <command> <pk>` in a session of its own, its output in `log`: it outlives this process.

    One at a time: where a busy machine is slow to start one, asking again only made it slower.
    """
    with _spawning:
        if (command, pk) not in _children:
            child = _children[command, pk] = _popen(command, pk, log)
            threading.Thread(target=_reap, args=(command, pk, child), daemon=True).start()


def _reap(command: str, pk: int, child: subprocess.Popen[bytes]) -> None:
    child.wait()
    with _spawning:
        del _children[command, pk]


def _popen(command: str, pk: int, log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), command, str(pk)],
            cwd=settings.BASE_DIR,
            env=os.environ | {"SLIPWAY_HOME": str(settings.HOME), "SLIPWAY_NODE": settings.NODE_NAME},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def look(pk: int) -> bool:
    """Tell a replica's runner here to look at its row now, not at its next heartbeat."""
    runner = _runner(pk)
    if runner is not None:
        processes.kill([runner], signal.SIGUSR1)
    return runner is not None


def start_job(pk: int) -> bool:
    """Start the runner of a queued job of this node, detached. Its claim decides races."""
    here = Job.objects.filter(
        pk=pk, state=Job.State.QUEUED, node__name=settings.NODE_NAME, node__accepting=True
    )
    if not here.exists():
        return False
    spawn("run_job", pk, jobs.folder(pk) / "runner.log")
    return True


def stop_local(timeout: float = STOP_TIMEOUT_S) -> list[int]:
    """`node stop`: nothing new is placed here, every runner stops its engine. Returns what is left.

    Desired state stays as it is: what ran starts again once the node accepts.
    """
    node = local_node()
    Node.objects.filter(pk=node.pk).update(accepting=False)
    until, told = time.monotonic() + timeout, set[psutil.Process]()
    while True:
        runners = _end_here(node, told)
        psutil.wait_procs(runners, timeout=max(0.0, min(1.0, until - time.monotonic())))
        sweep()
        left = _left(node)
        if not left or time.monotonic() >= until:
            break
    events.notify(None, f"node:{node.pk}", "nodes")
    return left


def _end_here(node: Node, told: set[psutil.Process]) -> list[psutil.Process]:
    """Ask every runner here to end, each once; what was not started leaves. Returns runners that live."""
    runners = []
    for replica in Replica.objects.filter(node=node).exclude(state__in=Replica.TERMINAL):
        if runner := _runner(replica.pk):
            runners.append(runner)
        else:
            deployments.leave(replica, STOPPING)
    for runner in set(runners) - told:
        processes.kill([runner], signal.SIGTERM)
        told.add(runner)
    return runners


def replica_folder(pk: int) -> Path:
    home: Path = settings.HOME
    return home / "replicas" / str(pk)


def runner_alive(pk: int) -> bool:
    """Whether a replica's runner lives on this machine."""
    return processes.runner_alive(settings.HOME, pk)


# The sweep


# What other applications do on their own node each SWEEP_S, beside this one.
SWEEPS: list[Callable[[], object]] = []


def sweep() -> None:
    """Make processes and rows on this node the same. Safe at any time and from several processes."""
    processes.sweep(settings.HOME, runner_alive)
    for replica in Replica.objects.filter(node__name=settings.NODE_NAME, state__in=Replica.HOLDING):
        if not runner_alive(replica.pk):
            _settle(replica.pk)
    _start_due()
    for job in jobs.due():
        start_job(job.pk)
    for own in SWEEPS:
        own()


def _settle(pk: int) -> None:
    """Write down that a replica's runner is gone. Read again, since it may just have ended in order."""
    state = Replica.objects.values_list("state", flat=True).get(pk=pk)
    if state == Replica.State.LOST:
        deployments.mark_freed(pk)
    elif state in deployments.RUNNING:
        deployments.mark_failed(pk, DIED, _tail(replica_folder(pk) / "engine.log"))


def _start_due() -> None:
    """Assigned replicas whose task got lost on its way, or whose runner ended before it claimed."""
    here = Replica.objects.filter(node__name=settings.NODE_NAME, state=Replica.State.ASSIGNED)
    for replica in here.filter(nudged_at__lt=Now() - timedelta(seconds=NUDGE_AGAIN_S)):
        if replica.events.filter(state=replica.state, at__lt=Now() - timedelta(seconds=NO_RUNNER_S)).exists():
            deployments.mark_failed(replica.pk, NEVER_RAN, _tail(replica_folder(replica.pk) / "runner.log"))
        elif not runner_alive(replica.pk):
            start_replica(replica.pk)


def _left(node: Node) -> list[int]:
    rows = Replica.objects.filter(node=node).exclude(state__in=Replica.TERMINAL)
    return [
        pk
        for pk in rows.values_list("pk", flat=True)
        if runner_alive(pk) or processes.marked(settings.HOME, pk)
    ]


def _runner(pk: int) -> psutil.Process | None:
    """The process that runs a replica on this machine; None when it is gone or its pid is another's now."""
    pid = Replica.objects.values_list("runner_pid", flat=True).get(pk=pk)
    if pid is None or not runner_alive(pk):
        return None
    try:
        runner = psutil.Process(pid)
        return runner if runner.cmdline()[-2:] == ["run_replica", str(pk)] else None
    except psutil.NoSuchProcess:
        return None


def _tail(path: Path, lines: int = 200) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []


_seen_gpus: tuple[float, list[dict[str, Any]]] = (-GPUS_EVERY_S, [])


def _gpus() -> list[dict[str, Any]]:
    """The GPUs as read at most GPUS_EVERY_S ago."""
    global _seen_gpus
    if time.monotonic() - _seen_gpus[0] >= GPUS_EVERY_S:
        _seen_gpus = (time.monotonic(), machine.gpus())
    return _seen_gpus[1]


def _refuse_open_relay() -> None:
    address = settings.NODE_ADDRESS
    private = (
        settings.PRIVATE_NETWORK or address.startswith("127.") or (settings.TLS_CERT and settings.TLS_KEY)
    )
    if not private:
        raise NodeRefused(
            f"Relays on {address} would speak plain HTTP to other machines: set SLIPWAY_TLS_CERT "
            "and SLIPWAY_TLS_KEY, or SLIPWAY_PRIVATE_NETWORK=1 where that network is yours alone."
        )
