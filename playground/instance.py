"""One `up` per home: the lock that says so, and what an earlier one that was killed left behind."""

import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from playground import servers

# Children of `up`. Engines, runners and the servers are not among them: they outlive it on purpose.
CHILDREN = ("web", "worker", "beat", "batch")


@dataclass(frozen=True)
class Running:
    """The `up` that holds a home: its process id and the site's address."""

    pid: int
    address: str


class AlreadyRunning(Exception):
    """Another `up` holds this home."""

    def __init__(self, running: Running) -> None:
        super().__init__(f"Slipway is running already: {running.address} (process {running.pid})")
        self.running = running


def hold(home: Path, address: str) -> IO[str]:
    """Take the home's lock and say in it who holds it; AlreadyRunning when someone does. Free when the file
    closes.
    """
    file = (home / "up.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = _read(file)
        file.close()
        raise AlreadyRunning(running) from None
    file.truncate(0)
    say_address(file, address)
    return file


def say_address(lock: IO[str], address: str) -> None:
    """Write into the lock that this process holds where its site is; the last line holds."""
    lock.write(json.dumps(asdict(Running(os.getpid(), address))) + "\n")
    lock.flush()


def running(home: Path) -> Running | None:
    """The `up` that holds a home now; None where none does. The lock is left alone: one may be starting."""
    try:
        with (home / "up.lock").open() as file:
            found = _read(file)
    except (FileNotFoundError, IndexError):
        return None
    return found if psutil.pid_exists(found.pid) else None


def _read(lock: IO[str]) -> Running:
    lock.seek(0)
    return Running(**json.loads(lock.read().splitlines()[-1]))


def mark(home: Path, process: str) -> dict[str, str]:
    """What a child's environment carries, so that it can be found after its parent was killed."""
    return {"SLIPWAY_HOME": str(home), "SLIPWAY_PROCESS": process}


def marked(home: Path, names: tuple[str, ...]) -> list[psutil.Process]:
    """Live processes of this home that an `up` started under one of these names."""
    return [process for process, environment in _of(home) if environment.get("SLIPWAY_PROCESS") in names]


def runners(home: Path) -> list[psutil.Process]:
    """Live runners of replicas and jobs of this home."""
    return [process for process, _ in _of(home) if set(process.cmdline()) & {"run_replica", "run_job"}]


def _of(home: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Processes with this home in their environment, and that environment; a zombie has none."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if environment.get("SLIPWAY_HOME") == str(home):
            yield process, environment


def end(processes: list[psutil.Process]) -> None:
    """End all of them at once: SIGTERM, and SIGKILL for those that do not go."""
    if processes:
        with ThreadPoolExecutor(len(processes)) as threads:
            list(threads.map(servers.end, processes))


def forget_mark() -> None:
    """A child's own first act: what it starts in turn must not be taken for it. /proc keeps showing its own
    mark.
    """
    os.environ.pop("SLIPWAY_PROCESS", None)


class OtherNode(Exception):
    """This home belongs to a node of another name."""


def keep_node_name(home: Path, name: str) -> None:
    """Keep the node's name in its home; OtherNode when it has one already, since its replicas' rows carry
    that.
    """
    path = home / "node"
    try:
        with path.open("x") as file:
            file.write(name + "\n")
    except FileExistsError:
        kept = path.read_text().strip()
        if kept != name:
            raise OtherNode(
                f"The home {home} belongs to the node {kept!r}: use another SLIPWAY_HOME for {name!r}."
            ) from None
