"""One replica from claim to end: takes its locks, starts the engine, watches and stops it. No Django in it.

Order of a life: runner lock, claim, slot locks, older replicas' remains killed, engine started, probed,
ready, watched, drained, ended, verified, reported. Whoever cannot be reached with a report is told later.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from playground import gpu_memory, processes, slots
from playground.engine_log import EngineLog
from playground.engine_process import EngineFailed, EngineProcess
from playground.engines.base import NotReady, Reason, ReasonCode
from playground.processes import Listener
from playground.relay import Relay
from playground.reporter import Courier, Reporter, Superseded, Took, Unreachable, Wish
from playground.spec import Spec
from playground.vitals import Vitals

__all__ = ["Reporter", "Spec", "Superseded", "Unreachable", "Wish", "run"]

log = logging.getLogger(__name__)

# Exit codes.
DONE, LOST_RACE, ALREADY_RUNS, NOBODY_THERE = 0, 3, 4, 75

RUNNER_LOCK_S = 2.0
CLAIM_S = 30.0
PORT_TRIES = 3
LOOK_S = 0.1
REFUSED_AT_ONCE_S = 0.5
PROBE_S = 120.0
LOG_S = 1.0
FLUSH_S = 60.0

ASKED = Reason(ReasonCode.ASKED, "Stopped as asked.")
NODE_STOPPING = Reason(ReasonCode.NODE_STOPPING, "Its node was stopped.")
SUPERSEDED = Reason(ReasonCode.SUPERSEDED, "Another replica took over while this one could not be reached.")


async def run(spec: Spec, reporter: Reporter) -> int:
    """The whole life of a replica; answers the exit code. Must run in the main thread of its process.

    SIGTERM stops it (the node is stopping); SIGUSR1 makes it look at the wish at once.
    """
    lock = await _take_runner_lock(spec)
    if lock is None:
        log.warning("another runner of replica %d lives", spec.replica)
        return ALREADY_RUNS
    try:
        return await Life(spec, reporter).live()
    finally:
        os.close(lock)


async def _take_runner_lock(spec: Spec) -> int | None:
    """A sweep that only looks holds this lock for a moment; hence the second tries."""
    loop = asyncio.get_running_loop()
    until = loop.time() + RUNNER_LOCK_S
    while (lock := processes.take(processes.runner_lock(spec.home, spec.replica))) is None:
        if loop.time() > until:
            return None
        await asyncio.sleep(0.05)
    return lock


@dataclass(frozen=True)
class Ending:
    """Why a life is ended from outside, and whether requests under way may finish first."""

    reason: Reason
    drain: bool = False


class PortTaken(Exception):
    """Somebody else has the port; another one is tried."""


class Life:
    """One run of one replica."""

    def __init__(self, spec: Spec, reporter: Reporter) -> None:
        self.spec, self.reporter = spec, reporter
        self.courier = Courier(reporter, spec.heartbeat_s, self._superseded)
        self.log = EngineLog(spec.folder, (spec.engine_key, spec.relay_key, spec.server_key))
        self.relay = Relay(spec, self.log)
        self.engine: EngineProcess | None = None
        self.vitals: Vitals | None = None
        self._slots: list[int] = []
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._hurry, self._look_now = asyncio.Event(), asyncio.Event()
        self._relay_port: int | None = None
        self._said = ""

    async def live(self) -> int:
        self._listen_to_signals()
        claimed = await self._claim()
        if claimed is not True:
            return LOST_RACE if claimed is False else NOBODY_THERE
        asides = [_aside(self.courier.carry()), _aside(self._beat()), _aside(self._mind_log())]
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                verb, reason = await self._until_end(session)
                reason = await self._clean_up(reason)
            self.courier.post(verb, reason, self.log.tail())
            await self.courier.flush(FLUSH_S)
        finally:
            await _cancel(*asides)
        return DONE

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, Ending(NODE_STOPPING))
        loop.add_signal_handler(signal.SIGUSR1, self._look_now.set)

    async def _claim(self) -> bool | None:
        """Whether this replica is ours to start; None when nobody could be asked. Nothing runs yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_S):
                while not self._ending.done():
                    try:
                        return await self.reporter.claim(os.getpid())
                    except Superseded:
                        return False
                    except Unreachable as error:
                        log.warning("cannot claim yet: %s", error)
                    await asyncio.sleep(min(self.spec.heartbeat_s, 1.0))
        return None

    # What ends a life from outside.

    def _end(self, ending: Ending) -> None:
        """The first to call it names the reason; a second call without drain cuts a drain short."""
        if not ending.drain:
            self._hurry.set()
        if not self._ending.done():
            self._ending.set_result(ending)

    def _superseded(self) -> None:
        self._end(Ending(SUPERSEDED))

    async def _beat(self) -> None:
        """Say that it lives and do what is wished, for ever."""
        while True:
            self._look_now.clear()
            wish = await self.courier.beat(self.vitals.health if self.vitals else {})
            if wish in (Wish.STOP, Wish.DRAIN):
                self._end(Ending(ASKED, drain=wish == Wish.DRAIN))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.spec.heartbeat_s):
                    await self._look_now.wait()

    async def _mind_log(self) -> None:
        while True:
            await asyncio.sleep(LOG_S)
            self.log.bound()

    async def _until_end(self, session: aiohttp.ClientSession) -> tuple[str, Reason]:
        """Work until it fails or is ended; the last report's verb and reason. The engine may still run."""
        work = asyncio.create_task(self._work(session))
        try:
            await asyncio.wait((work, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if self._ending.done():
                ending = self._ending.result()
                if ending.drain and self.vitals:
                    await self._drain(work)
                self.courier.post("stopping")
                return "stopped", ending.reason
            return "failed", _reason_of(work)
        finally:
            await _cancel(work)

    async def _drain(self, work: asyncio.Task[None]) -> None:
        """Wait until nothing runs in it, it ends, somebody hurries, or the time is up."""
        idle, hurry = asyncio.create_task(self._wait_idle()), asyncio.create_task(self._hurry.wait())
        await asyncio.wait(
            (idle, hurry, work), timeout=self.spec.drain_s, return_when=asyncio.FIRST_COMPLETED
        )
        await _cancel(idle, hurry)

    async def _wait_idle(self) -> None:
        assert self.engine is not None
        while await self.engine.running() != 0:  # noqa: ASYNC110 (an engine is asked, it does not tell)
            await asyncio.sleep(LOOK_S)

    # Start and watch.

    async def _work(self, session: aiohttp.ClientSession) -> None:
        """From the locks to the engine's end. Only returns by raising EngineFailed, or a defect."""
        await self._take_slots()
        if self.spec.relay:
            await self._start_relay()
        engine = await self._start(session)
        self.vitals = Vitals(engine, lambda why: self.courier.post("unhealthy", why), self._recovered)
        self.courier.post("ready", await self._measure(engine))
        await _first(self._exit(engine), self.vitals.watch())

    async def _measure(self, engine: EngineProcess) -> Took:
        """What this start took; the GPUs' memory only where they are its own."""
        ready_s = asyncio.get_running_loop().time() - engine.spawned_at
        resident = await asyncio.to_thread(processes.shared_memory_bytes, engine.family())
        whole = self.spec.gpus and not any("." in slot for slot in self.spec.slots)
        gpu = await gpu_memory.used_bytes(self.spec.gpus) if whole else None
        return Took(round(ready_s, 2), resident, gpu, engine.adapter.reported(self.log.lines()))

    def _recovered(self) -> None:
        self.courier.post("recovered")

    async def _take_slots(self) -> None:
        self._slots = await slots.take(self.spec)
        await slots.clear(self.spec)

    async def _start_relay(self) -> None:
        try:
            self._relay_port = await self.relay.start()
        except OSError as error:
            text = (
                f"Its relay cannot listen on {self.spec.node_address}: {error}. Check SLIPWAY_NODE_ADDRESS."
            )
            raise EngineFailed(Reason(ReasonCode.CRASHED, text)) from error

    async def _start(self, session: aiohttp.ClientSession) -> EngineProcess:
        """A ready engine, on whichever port is free."""
        for _ in range(PORT_TRIES):
            self.engine = engine = EngineProcess(self.spec, session, self.log, self._slots)
            self.relay.base_url = engine.base_url
            await engine.spawn()
            self._said = ""
            self.courier.post("started", engine.command, engine.port, engine.pid, self._relay_port)
            try:
                await _first(self._load(engine), self._exit(engine))
                return engine
            except PortTaken:
                log.warning("port %d is taken, trying another", engine.port)
                await engine.end(0)
        raise EngineFailed(
            Reason(ReasonCode.PORT_TAKEN, f"{PORT_TRIES} ports in a row were taken by other programs.")
        )

    async def _exit(self, engine: EngineProcess) -> None:
        """Raise why the engine ended, once it does."""
        await engine.wait()
        reason = engine.explain(serving=self.vitals is not None)
        if reason.code == ReasonCode.PORT_TAKEN and self.vitals is None:
            raise PortTaken
        raise EngineFailed(reason)

    async def _load(self, engine: EngineProcess) -> None:
        """Return when it is ready: its own listener, and one real request answered."""
        loop = asyncio.get_running_loop()
        until, trouble = loop.time() + self.spec.load_timeout_s, ""
        while (left := until - loop.time()) > 0:
            self._report_progress(engine)
            match engine.listener():
                case Listener.STRANGER:
                    raise PortTaken
                case Listener.OURS:
                    try:
                        await self._warm_up(engine, left)
                        return
                    except (NotReady, aiohttp.ClientError, TimeoutError) as error:
                        # That the end cut the last request short says nothing of the engine.
                        unanswered = "a request of one token is not answered"
                        trouble = str(error) or (unanswered if left > PROBE_S else trouble or unanswered)
            await asyncio.sleep(LOOK_S)
        text = f"Not ready after {self.spec.load_timeout_s:.0f} s: {trouble or 'it does not listen'}."
        raise EngineFailed(Reason(ReasonCode.LOAD_TIMEOUT, text))

    async def _warm_up(self, engine: EngineProcess, timeout_s: float) -> None:
        """Have it answer one request. Some listen before they load, and refuse at once."""
        probe = asyncio.create_task(engine.probe(min(PROBE_S, timeout_s)))
        try:
            done, _ = await asyncio.wait((probe,), timeout=REFUSED_AT_ONCE_S)
            if not done:
                self._say("warming up")
            await probe
        finally:
            await _cancel(probe)
        self._say("warming up")

    def _report_progress(self, engine: EngineProcess) -> None:
        """Tell what new log lines say of the load."""
        for line in self.log.new_lines():
            self._say(engine.adapter.progress(line) or self._said or "loading")

    def _say(self, note: str) -> None:
        if note != self._said:
            self._said = note
            self.courier.post("loading", note)

    # The end.

    async def _clean_up(self, reason: Reason) -> Reason:
        """Leave no process, no memory and no lock; the reason tells what could not be had."""
        await self.relay.close()
        frozen = reason.code == ReasonCode.FROZEN
        left = await self.engine.end(0 if frozen else self.spec.grace_s) if self.engine else []
        if self.engine:
            await gpu_memory.settle(self.spec.gpus)
        processes.release(self._slots)
        self._slots = []
        return Reason(reason.code, f"{reason.text} {slots.undead(left)}") if left else reason


def _reason_of(work: asyncio.Task[None]) -> Reason:
    """Why work ended by itself. A defect of ours is written down whole and told in short."""
    error = work.exception()
    if isinstance(error, EngineFailed):
        return error.reason
    log.error("the runner met a defect", exc_info=error)
    return Reason(ReasonCode.CRASHED, f"The runner met a defect ({type(error).__name__}); see runner.log.")


async def _first(*ways: Any) -> None:
    """Run coroutines until the first ends; cancel the others; raise what it raised."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(*[task for task in tasks if not task.done()])
    for task in done:
        task.result()


def _aside(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start work beside the engine. A defect in it is written down and does not end the engine."""
    task = asyncio.create_task(work)
    task.add_done_callback(_write_down_defect)
    return task


def _write_down_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception():
        log.error("the runner met a defect", exc_info=task.exception())


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them and wait. What one raised first is either taken elsewhere or overtaken by the end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
