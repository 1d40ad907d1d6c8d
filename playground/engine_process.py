"""One engine process and all it started: spawn, port, metrics, probe, end. Knows nothing about Django."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil

from playground import engines, processes
from playground.engine_log import EngineLog
from playground.engines import reasons
from playground.engines.base import Reason
from playground.processes import Listener, Marked
from playground.spec import Spec

SPAWN = Path(__file__).with_name("spawn.py")
# Below the kernel's range for outgoing connections: a port found free stays free while an engine loads.
PORTS = range(18000, 32000)
METRICS_S = 3.0
KILL_S = 15.0
LINGER_S = 1.0
# What an engine must never inherit: the site's own settings and anybody's secrets.
OWN_PREFIXES = ("SLIPWAY_", "DJANGO_", "PG", "CELERY_")
OWN_NAMES = {"DATABASE_URL", "REDIS_URL", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PORT"}
SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY")


def free_port() -> int:
    """A loopback port nobody listens on."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                attempt.bind(("127.0.0.1", port))
                return port
    raise OSError("no free port")


def metrics_of(text: str) -> dict[str, float]:
    """Prometheus text as name → value, summed over labels."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        rest = line.rpartition("}")[2] if "}" in line else line[len(name) :]
        with suppress(ValueError, IndexError):
            values[name] = values.get(name, 0.0) + float(rest.split()[0])
    return values


class EngineFailed(Exception):
    """The engine cannot go on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class EngineProcess:
    """The engine of one replica. It inherits `locks`: a slot stays held as long as it lives."""

    def __init__(
        self, spec: Spec, session: aiohttp.ClientSession, log: EngineLog, locks: Iterable[int]
    ) -> None:
        self.spec, self.log = spec, log
        self.adapter = engines.get(spec.engine)
        self.options = self.adapter.Options.model_validate(spec.options)
        self.port = free_port()
        self.command = self.adapter.line(
            spec.environment,
            spec.model,
            self.options,
            self.port,
            spec.served_name,
            spec.hardware,
            extra=spec.extra,
        )
        self._session, self._locks = session, tuple(locks)
        self._process: asyncio.subprocess.Process | None = None
        self._memory_kills = reasons.memory_kills()
        self.spawned_at = 0.0
        """By the loop's clock."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def spawn(self) -> None:
        """Start it. Its output goes to the log file: a pipe that fills or breaks would stop it."""
        self.log.begin()
        self.spawned_at = asyncio.get_running_loop().time()
        with self.log.path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(SPAWN), str(os.getpid()), *self.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self.spec.folder,
                pass_fds=self._locks,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """The machine's variables without ours, the adapter's, and the mark."""
        spec = self.spec
        kept = {name: value for name, value in os.environ.items() if _may_inherit(name)}
        # Threads that spin while they wait for each other make an engine tens of times slower on a busy CPU.
        kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        kept |= {"OMP_NUM_THREADS": str(spec.cores), "PYTHONUNBUFFERED": "1"}
        if spec.gpus:
            kept |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus))}
        kept |= self.adapter.environment(self.options, spec.engine_key, spec.home)
        kept |= {"SLIPWAY_UPSTREAM_KEY": spec.server_key} if spec.server_key else {}
        return kept | processes.mark(spec.home, spec.replica, spec.slots)

    async def wait(self) -> int:
        """Its exit code, once it ends."""
        assert self._process is not None
        return await self._process.wait()

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process else None

    def family(self) -> list[Marked]:
        """It and everything it started that still lives."""
        return processes.marked(self.spec.home, self.spec.replica)

    def listener(self) -> Listener:
        return processes.listener(self.port, self.family)

    async def probe(self, within_s: float) -> None:
        """One real request. Raises NotReady, aiohttp.ClientError or TimeoutError."""
        async with asyncio.timeout(within_s):
            await self.adapter.probe(
                self._session, self.base_url, self.spec.engine_key, self.spec.served_name, self.spec.task
            )

    async def metrics(self, within_s: float = METRICS_S) -> dict[str, float] | None:
        """Its counters; None when it has none or does not answer now."""
        headers = {"Authorization": f"Bearer {self.spec.engine_key}"} if self.spec.engine_key else {}
        try:
            async with asyncio.timeout(within_s):
                async with self._session.get(self.base_url + "/metrics", headers=headers) as answer:
                    return metrics_of(await answer.text()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def running(self) -> float | None:
        """Requests it works on now; None when it does not say."""
        read = await self.metrics()
        return None if read is None else read.get(self.adapter.quirks.running_metric)

    def count_memory_kills(self, family: list[Marked]) -> None:
        """While it lives: the kernel's kills up to now were of others and say nothing of its own end."""
        if any(one.process.pid == self.pid for one in family):
            self._memory_kills = reasons.memory_kills()

    def explain(self, *, serving: bool) -> Reason:
        """Why it ended, from its last words.

        Where the kernel does not say whom it killed, a SIGKILL is put down to memory only while loading.
        """
        now = reasons.memory_kills()
        unknown = now is None or self._memory_kills is None
        ran_out = (False if serving else None) if unknown else now != self._memory_kills
        return reasons.explain(self.adapter, self.log.tail(), self.exit_code, ran_out)

    async def end(self, grace_s: float) -> list[Marked]:
        """SIGTERM to the group, the grace period, SIGKILL to all. Returns what would not die."""
        if self._process is not None:
            self._signal_group(signal.SIGTERM)
            await self._gone(grace_s)
            self._signal_group(signal.SIGKILL)
        left = await asyncio.to_thread(processes.kill_marked, self.spec.home, self.spec.replica, KILL_S)
        if self._process is not None and not left:
            await self._process.wait()
        return left

    async def _gone(self, grace_s: float) -> None:
        """Wait for its end up to `grace_s`, then a moment more for the children it takes down with it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.wait()
        if self.exit_code is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._family_gone()

    async def _family_gone(self) -> None:
        while self.family():  # noqa: ASYNC110 (nothing tells when somebody else's child ends)
            await asyncio.sleep(0.05)

    def _signal_group(self, number: int) -> None:
        """To its group, while its leader is known to be ours: a group id is a pid, and pids are reused."""
        if any(one.process.pid == self.pid for one in self.family()):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def cpu_seconds(self) -> dict[tuple[int, float], float]:
        return processes.cpu_seconds(self._psutil())

    def memory_bytes(self) -> int:
        return processes.memory_bytes(self._psutil())

    def _psutil(self) -> list[psutil.Process]:
        return [one.process for one in self.family()]


def _may_inherit(name: str) -> bool:
    return not (
        name in OWN_NAMES
        or name.startswith(OWN_PREFIXES)
        or any(word in name.upper() for word in SECRET_WORDS)
    )
