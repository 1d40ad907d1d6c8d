"""Workers, replicas and models for tests that run the real processes: a worker, runners and fake engines."""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from playground import catalogue, deployments, jobs, processes
from playground.models import Deployment, Model, Replica, Team
from tests.home import HOME

ROOT = Path(__file__).parent.parent
State = Replica.State
# Short times, so that a fault is over in seconds.
QUICK = {
    "SLIPWAY_HEARTBEAT_S": "0.3",
    "SLIPWAY_SWEEP_S": "0.5",
    "SLIPWAY_LOST_AFTER_S": "4",
    "SLIPWAY_FROZEN_AFTER_S": "3",
    "SLIPWAY_GRACE_S": "1",
    "SLIPWAY_DRAIN_S": "2",
    "SLIPWAY_RETRY_S": "0.2,0.5",
    "SLIPWAY_DATABASE_POOL": "4",
}


def gguf() -> bytes:
    """The smallest sound GGUF file: an architecture, no tensors, padded to where they would begin."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pair = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair
    return header + bytes(-len(header) % 32)


def tiny_model(team: Team, home: Path = HOME) -> Model:
    """A model whose file lies in `home`, in the catalogue of this run."""
    for folder in {home, HOME}:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        (folder / "models" / "tiny.gguf").write_bytes(gguf())
    return next(model for model in catalogue.scan(team) if model.name == "tiny")


def until(what: str, check: Callable[[], Any], within_s: float = 20.0) -> Any:
    """The first true answer of `check`; the test fails, saying `what` was waited for, when there is none."""
    deadline = time.monotonic() + within_s
    while True:
        if found := check():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.05)


@dataclass
class Fleet:
    """Worker processes of this test, and what is asked of them. `close` ends all of it."""

    homes: dict[str, Path] = field(default_factory=dict)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def work(
        self,
        name: str = "test-node",
        home: Path = HOME,
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """Start the worker of a node. `prefix` is put before its command: ("ip", "netns", "exec", …)."""
        variables = os.environ | QUICK | {"SLIPWAY_HOME": str(home), "SLIPWAY_NODE": name} | environment
        with (home / f"worker-{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [*prefix, sys.executable, "manage.py", "worker"],
                cwd=ROOT,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.homes[name], self.workers[name], self.environments[name] = home, worker, variables
        return worker

    def manage(self, *arguments: str, node: str = "test-node") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environments[node],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def close(self) -> None:
        """End the workers, their runners and engines; nothing of this test's homes is left."""
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        for home in set(self.homes.values()):
            for runner in runners(home):
                runner.kill()
            until("the runners end", lambda home=home: not runners(home))
            processes.sweep(home)


def runners(home: Path = HOME) -> list[psutil.Process]:
    """Live runners of a home, of replicas and jobs."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if (
                len(line) > 2
                and line[-2] in ("run_replica", "run_job")
                and process.environ().get("SLIPWAY_HOME") == str(home)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def ready(deployment: Deployment, within_s: float = 25.0, other_than: int | None = None) -> Replica:
    """Its replica once it is ready; the test fails with its events when it does not get there."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = deployment.replicas.filter(state=State.READY).exclude(pk=other_than).first()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("not ready: " + story(deployment))


def story(deployment: Deployment) -> str:
    """What happened to its replicas, for a failing test."""
    deployment.refresh_from_db()
    lines = [f"{deployment.desired}, problem {deployment.problem!r}"]
    for replica in deployment.replicas.order_by("pk"):
        steps = " > ".join(f"{event.state}: {event.note}" for event in replica.events.all())
        lines.append(f"replica {replica.pk} {replica.state} {replica.reason!r} [{steps}]")
        log = HOME / "replicas" / str(replica.pk) / "runner.log"
        lines.append(log.read_text()[-2000:] if log.exists() else "no runner.log")
    return "\n".join(lines)


def start(team: Team, model: Model, **options: Any) -> Deployment:
    """Ask for a deployment on the fake engine."""
    return deployments.request(
        team=team, user=None, model=model, engine="fake", options={"tokens": 5, **options}
    )


def engine_processes(replica: Replica, home: Path = HOME) -> list[psutil.Process]:
    return [one.process for one in processes.marked(home, replica.pk)]


def assert_sound(home: Path = HOME) -> None:
    """What holds after every fault: no process without a row, no row without one, one holder a slot."""
    rows = {row.pk: row for row in Replica.objects.filter(state__in=Replica.HOLDING, node__name="test-node")}
    held = {one.replica for one in processes.marked(home)}
    assert held <= set(rows), f"processes without a row: {held - set(rows)}"
    serving = {pk for pk, row in rows.items() if row.state in (State.READY, State.UNHEALTHY)}
    assert serving <= held, f"rows without a process: {serving - held}"
    slots = [slot for row in rows.values() for slot in row.resources.get("slots", [])]
    assert len(slots) == len(set(slots)), f"a slot has two holders: {slots}"
    assert not jobs.due()
