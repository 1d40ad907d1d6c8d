"""Judges whether an engine that was ready still lives. Frozen: every sign of life is missing, not just one.

Signs of life: its progress counters rise, its processes or GPUs work, a request of one token is answered. A
long prefill works; a full queue progresses; an idle engine answers. Knows nothing about Django.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from playground import hardware, processes
from playground.engine_process import METRICS_S, EngineFailed, EngineProcess
from playground.engines.base import NotReady, Reason, ReasonCode
from playground.processes import Marked

TICK_S = (0.1, 2.0)
BUSY_CORES = 0.1
INNER_PROBE_S = 8.0
GPU_EVERY_S = 30.0


class Vitals:
    """Watches one ready engine. `health` is the latest reading, for people and for the autoscaler."""

    def __init__(
        self, engine: EngineProcess, unhealthy: Callable[[str], None], recovered: Callable[[], None]
    ) -> None:
        self.health: dict[str, Any] = {}
        self._engine, self._unhealthy, self._recovered = engine, unhealthy, recovered
        self._limit_s = engine.spec.frozen_after_s
        self._tick_s = min(max(self._limit_s / 20, TICK_S[0]), TICK_S[1])
        self._now = asyncio.get_running_loop().time
        self._last_sign = self._last_look = self._now()
        self._progress: dict[str, float] = {}
        self._cpu: dict[tuple[int, float], float] = {}
        self._probe: asyncio.Task[None] | None = None
        self._refusal = ""
        self._ill = False
        self._gpu_read_at = float("-inf")
        self._inner = {one.identity for one in engine.family()}

    async def watch(self) -> None:
        """Never returns; raises EngineFailed when the engine is dead inside or frozen."""
        try:
            while True:
                await asyncio.sleep(self._tick_s)
                await self._look()
        finally:
            if self._probe:
                self._probe.cancel()

    async def _look(self) -> None:
        family = self._engine.family()
        metrics = await self._metrics()
        since = self._now() - self._last_look
        self._last_look += since
        if since > 3 * self._tick_s + 10:
            self._last_sign += (
                since  # this process was not run itself: nothing was seen, nothing is concluded
            )
        progressed, cores = self._progressed(metrics), self._cores(family, since)
        self._note(family, metrics, cores)
        self._engine.count_memory_kills(family)
        gpu_busy = await self._gpu_busy()
        if progressed or cores > BUSY_CORES or gpu_busy or self._answered():
            self._lives()
        await self._mind_inner(family, progressed)
        self._judge()

    async def _metrics(self) -> dict[str, float] | None:
        """Its counters. A deaf engine must not hold up the look at its other signs."""
        return await self._engine.metrics(min(METRICS_S, self._limit_s / 6))

    def _progressed(self, metrics: dict[str, float] | None) -> bool:
        if metrics is None:
            return False
        now = {name: metrics.get(name, 0.0) for name in self._engine.adapter.quirks.progress_metrics}
        changed = bool(self._progress) and now != self._progress
        self._progress = now
        return changed

    def _cores(self, family: list[Marked], since: float) -> float:
        """Cores' worth of work since the last look."""
        now = processes.cpu_seconds(one.process for one in family)
        spent = sum(seconds - self._cpu.get(who, seconds) for who, seconds in now.items())
        self._cpu = now
        return spent / max(since, 0.001)

    def _note(self, family: list[Marked], metrics: dict[str, float] | None, cores: float) -> None:
        quirks, read = self._engine.adapter.quirks, metrics or {}
        self.health |= {
            "running": read.get(quirks.running_metric),
            "waiting": read.get(quirks.waiting_metric),
            "kv_cache": read.get(quirks.kv_cache_metric),
            "rss_bytes": processes.memory_bytes(one.process for one in family),
            "cpu": round(cores, 2),
        }

    async def _gpu_busy(self) -> bool:
        """Whether our GPUs compute. A share's load cannot be told from its neighbour's: it gives no sign."""
        spec, suspect = self._engine.spec, self._quiet_s() > self._limit_s / 4
        if not spec.gpus or not (suspect or self._now() - self._gpu_read_at > GPU_EVERY_S):
            return False
        self._gpu_read_at = self._now()
        ours = [gpu for gpu in await asyncio.to_thread(hardware.gpus) if gpu["index"] in spec.gpus]
        self.health["gpu_bytes"] = sum(gpu["used_bytes"] for gpu in ours)
        whole = not any("." in slot for slot in spec.slots)
        return whole and any(gpu["busy_percent"] > 0 for gpu in ours)

    def _quiet_s(self) -> float:
        return self._now() - self._last_sign

    def _lives(self) -> None:
        self._last_sign = self._now()
        if self._ill:
            self._ill = False
            self._recovered()

    def _answered(self) -> bool:
        """Whether the outstanding probe came back well; a refusal is kept for the reason."""
        if self._probe is None or not self._probe.done():
            return False
        probe, self._probe = self._probe, None
        try:
            probe.result()
        except (NotReady, aiohttp.ClientError, TimeoutError) as error:
            self._refusal = str(error) or type(error).__name__
            return False
        self._refusal = ""
        return True

    def _judge(self) -> None:
        """No sign for a quarter of the limit: ask it something; for half: it is ill; for all: frozen."""
        quiet = self._quiet_s()
        if quiet > self._limit_s:
            raise EngineFailed(self._reason())
        if quiet > self._limit_s / 4 and self._probe is None:
            self._probe = asyncio.create_task(self._engine.probe(self._limit_s))
        if not self._ill and (quiet > self._limit_s / 2 or (self._refusal and quiet > self._limit_s / 4)):
            self._ill = True
            self._unhealthy(self._refusal or f"No sign of life for {quiet:.0f} s.")

    def _reason(self) -> Reason:
        if self._refusal:
            return Reason(ReasonCode.CRASHED, f"Every request to it fails: {self._refusal}")
        text = f"For {self._limit_s:.0f} s it neither answered, nor progressed, nor computed."
        return Reason(ReasonCode.FROZEN, text)

    async def _mind_inner(self, family: list[Marked], progressed: bool) -> None:
        """A process that was there when it got ready is gone: harmless if a request is still answered."""
        gone = self._inner - {one.identity for one in family}
        if not gone or progressed:
            return
        try:
            await self._engine.probe(min(INNER_PROBE_S, self._limit_s))
        except (NotReady, aiohttp.ClientError, TimeoutError) as error:
            if self._progressed(await self._metrics()):
                return
            said = str(error) or "no answer"
            pids = ", ".join(str(pid) for pid, _ in sorted(gone))
            text = f"A process of the engine died (pid {pids}) and it no longer serves: {said}."
            self._unhealthy(text)
            raise EngineFailed(Reason(ReasonCode.CRASHED, text)) from error
        self._inner -= gone
        self._lives()
