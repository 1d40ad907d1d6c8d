"""Processes of replicas: whose they are, how they end, the locks that say who may run. Nothing about Django.

An engine and all it starts carry SLIPWAY_REPLICA, SLIPWAY_SLOTS and SLIPWAY_HOME in their environment: the
mark. Every signal goes to a process found by its mark and checked by its start time, never to a bare pid. A
zombie is no process.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

REPLICA, SLOTS, HOME = "SLIPWAY_REPLICA", "SLIPWAY_SLOTS", "SLIPWAY_HOME"
LISTEN = "0A"  # the state column of /proc/net/tcp


@dataclass(frozen=True)
class Marked:
    """A living process that belongs to a replica."""

    process: psutil.Process
    replica: int
    slots: frozenset[str]

    @property
    def identity(self) -> tuple[int, float]:
        """Pid and start time: no other process ever has both."""
        return self.process.pid, self.process.create_time()


def mark(home: Path, replica: int, slots: Iterable[str]) -> dict[str, str]:
    """The environment variables by which an engine's processes are known."""
    # SPT_NOENV: engines that set their process title would overwrite the environment that /proc shows.
    return {REPLICA: str(replica), SLOTS: ",".join(slots), HOME: str(home), "SPT_NOENV": "1"}


def marked(home: Path, replica: int | None = None) -> list[Marked]:
    """Living processes of `home`'s replicas, or of one of them. Never this process."""
    found = (_read_mark(pid, home) for pid in psutil.pids() if pid != os.getpid())
    return [one for one in found if one is not None and replica in (None, one.replica)]


def _read_mark(pid: int, home: Path) -> Marked | None:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
        if REPLICA.encode() not in raw:
            return None
        variables = dict(part.partition(b"=")[::2] for part in raw.split(b"\0"))
        if os.fsdecode(variables.get(HOME.encode(), b"")) != str(home):
            return None
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        replica = int(variables[REPLICA.encode()])
        return Marked(process, replica, frozenset(variables.get(SLOTS.encode(), b"").decode().split(",")))
    except (OSError, psutil.Error, ValueError, KeyError):
        return None  # gone meanwhile, another user's, or not our mark


def kill(processes: Iterable[psutil.Process], number: int = signal.SIGKILL) -> None:
    """Signal each; psutil compares start times first, so that a reused pid is left alone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill_marked(home: Path, replica: int, timeout_s: float = 10.0) -> list[Marked]:
    """SIGKILL every process of a replica until none is left; returns those that would not die."""
    return kill_until_gone(lambda: marked(home, replica), timeout_s)


def kill_until_gone(find: Callable[[], list[Marked]], timeout_s: float) -> list[Marked]:
    """SIGKILL what `find` finds until it finds nothing: a process may fork between look and signal.

    One that is giving its memory back shows no mark any more: what was found is waited for by itself.
    """
    until, found = time.monotonic() + timeout_s, dict[tuple[int, float], Marked]()
    while left := _living(found, find()):
        kill(one.process for one in left)
        reap(one.process.pid for one in left)
        if time.monotonic() > until:
            return left
        time.sleep(0.02)
    return []


def _living(found: dict[tuple[int, float], Marked], more: list[Marked]) -> list[Marked]:
    """Add `more` to what was found; those of it that still live."""
    for one in more:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[one.identity] = one
    return [one for one in found.values() if _lives(one.process)]


def _lives(process: psutil.Process) -> bool:
    try:
        dead = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return process.is_running() and process.status() not in dead
    except psutil.NoSuchProcess:
        return False


def reap(pids: Iterable[int]) -> None:
    """Collect dead children that were handed to this process when their parent died."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def sweep(home: Path, alive: Callable[[int], bool] | None = None, timeout_s: float = 10.0) -> list[int]:
    """Kill processes of replicas whose runner is dead, which no engine outlives; returns those replicas.

    `alive` answers whether a replica's runner lives; by default its lock does.
    """
    lives = alive or (lambda replica: runner_alive(home, replica))
    dead = sorted({one.replica for one in marked(home) if not lives(one.replica)})
    for replica in dead:
        kill_marked(home, replica, timeout_s)
    return dead


def runner_lock(home: Path, replica: int) -> Path:
    """Held by a replica's runner as long as it lives, and not inherited by its engine."""
    return home / "replicas" / str(replica) / "runner.lock"


def runner_alive(home: Path, replica: int) -> bool:
    """Whether a runner of this replica runs on this machine."""
    path = runner_lock(home, replica)
    if not path.exists():
        return False
    lock = take(path, shared=True)
    if lock is None:
        return True
    os.close(lock)
    return False


def take(path: Path, *, shared: bool = False) -> int | None:
    """Lock a file without waiting; the descriptor to keep open, or None when someone else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def take_slots(home: Path, slots: Iterable[str]) -> list[int] | None:
    """Lock every slot, in one order for all, or none of them."""
    taken: list[int] = []
    for slot in sorted(slots):
        descriptor = take(home / "locks" / f"{slot}.lock")
        if descriptor is None:
            release(taken)
            return None
        taken.append(descriptor)
    return taken


def release(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Listener(Enum):
    """Who listens on a port."""

    NOBODY = "nobody"
    OURS = "ours"
    STRANGER = "stranger"


def listener(port: int, ours: Callable[[], list[Marked]]) -> Listener:
    """Whose listening TCP socket has `port`. `ours` is only asked when there is one."""
    sockets = set(_listening(port))
    if not sockets:
        return Listener.NOBODY
    held = {inode for one in ours() for inode in _sockets(one.process.pid)}
    return Listener.OURS if sockets <= held else Listener.STRANGER


def _listening(port: int) -> Iterator[str]:
    """Inodes of the listening sockets of a port."""
    ending = f":{port:04X}"
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            column = line.split()
            if column[3] == LISTEN and column[1].endswith(ending):
                yield column[9]


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets a process holds."""
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(descriptor.path)  # noqa: PTH115
                if target.startswith("socket:["):
                    yield target[8:-1]


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[tuple[int, float], float]:
    """User and system time of each process so far, by identity."""
    times: dict[tuple[int, float], float] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            spent = process.cpu_times()
            times[process.pid, process.create_time()] = spent.user + spent.system
    return times


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Resident memory of all of them together; pages they share count more than once."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def shared_memory_bytes(family: Iterable[Marked]) -> int:
    """Resident memory of an engine's processes; pages that several of them share count once.

    A process by itself is charged all its pages: those of a file that others read too stay its need.
    """
    held = [one.process for one in family]
    if len(held) < 2:
        return memory_bytes(held)
    total = 0
    for process in held:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total
