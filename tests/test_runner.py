"""A replica's life under a real runner with real engine processes; none leaves a process or a lock."""

import asyncio
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from playground import engine_process, processes, runner
from playground.engine_log import EngineLog
from playground.engines import reasons
from playground.engines.base import Hardware, LocalModel, Reason, ReasonCode
from playground.runner import Spec, Superseded, Unreachable, Wish, run
from tests.fake_adapter import Fake

SLOW_S = 20.0
SPEC = Spec(
    replica=7,
    deployment=1,
    engine="fake",
    environment=Path("/nonexistent"),
    model=LocalModel(name="tiny", path=Path("/nonexistent/tiny.gguf"), kind="gguf"),
    options={},
    served_name="tiny",
    hardware=Hardware(cores=1, memory_bytes=1 << 30),
    slots=("cpu-0",),
    gpus=(),
    cores=1,
    home=Path("/nonexistent"),
    node_address="127.0.0.1",
    relay=False,
    relay_key="relay-key",
    engine_key="engine-key",
    task="chat",
    load_timeout_s=SLOW_S,
    frozen_after_s=60,
    grace_s=5,
    drain_s=5,
    heartbeat_s=0.1,
)


class Told:
    """A Reporter that keeps what it is told in memory."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, tuple[Any, ...]]] = []
        self.health: dict[str, Any] = {}
        self.wish = Wish.RUN
        self.raises: type[Exception] | None = None
        self.claimable = True
        self.on_started: Callable[[int], None] = lambda port: None
        self._news = asyncio.Event()

    async def claim(self, runner_pid: int) -> bool:
        return self.claimable

    def __getattr__(self, verb: str) -> Any:
        async def report(*arguments: Any) -> None:
            self._check()
            self.reports.append((verb, arguments))
            if verb == "started":
                self.on_started(arguments[1])
            self._news.set()

        report.__name__ = verb
        return report

    async def beat(self, health: dict[str, Any]) -> Wish:
        self._check()
        self.health = dict(health)
        return self.wish

    def _check(self) -> None:
        if self.raises:
            raise self.raises("as the test wants")

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.reports]

    def last(self, verb: str) -> tuple[Any, ...]:
        return next(arguments for said, arguments in reversed(self.reports) if said == verb)

    async def hear(self, verb: str) -> tuple[Any, ...]:
        """The arguments of that report, once it was made."""
        async with asyncio.timeout(SLOW_S):
            while verb not in self.verbs:
                self._news.clear()
                await self._news.wait()
        return self.last(verb)


class Replica:
    """A runner at work in this process."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.told = spec, Told()
        spec.save()
        self.task: asyncio.Task[int] | None = None

    def start(self) -> "Replica":
        self.task = asyncio.create_task(run(self.spec, self.told))
        return self

    async def ready(self) -> "Replica":
        await self.told.hear("ready")
        return self

    async def done(self) -> int:
        assert self.task is not None
        async with asyncio.timeout(SLOW_S):
            return await self.task

    async def stop(self) -> int:
        self.told.raises, self.told.wish = None, Wish.STOP
        return await self.done()

    async def failed(self) -> tuple[Reason, list[str]]:
        reason, tail = await self.told.hear("failed")
        assert await self.done() == 0
        return reason, tail

    @property
    def engine_pid(self) -> int:
        return int(self.told.last("started")[2])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.told.last('started')[1]}"

    @property
    def relay_url(self) -> str:
        return f"http://127.0.0.1:{self.told.last('started')[3]}"

    def others(self) -> list[psutil.Process]:
        """What the engine started."""
        return [
            one.process
            for one in processes.marked(self.spec.home, self.spec.replica)
            if one.process.pid != self.engine_pid
        ]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of this test's own; afterwards no marked process lives and every lock is free."""
    yield tmp_path
    left = processes.marked(tmp_path)
    held = [path for path in tmp_path.rglob("*.lock") if not _is_free(path)]
    processes.kill_until_gone(lambda: processes.marked(tmp_path), 10)
    assert (left, held) == ([], [])


def _is_free(path: Path) -> bool:
    lock = processes.take(path)
    if lock is None:
        return False
    os.close(lock)
    return True


@asynccontextmanager
async def replica(home: Path, options: dict[str, Any] | None = None, **fields: Any) -> AsyncIterator[Replica]:
    """A started replica; stopped at the end, however the test went."""
    one = Replica(replace(SPEC, home=home, options=options or {}, **fields)).start()
    try:
        yield one
    finally:
        with suppress(TimeoutError):
            await one.stop()


async def ask(url: str, text: str = "Hi", key: str = "engine-key", **body: Any) -> tuple[int, str]:
    """One chat request: (status, body)."""
    messages = [{"role": "user", "content": text}]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        async with session.post(
            f"{url}/v1/chat/completions", json={"model": "tiny", "messages": messages, **body}
        ) as answer:
            return answer.status, await answer.text()


async def running(base_url: str) -> float:
    """What the engine says it works on."""
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/metrics") as answer:
        return engine_process.metrics_of(await answer.text())["fake:num_requests_running"]


async def is_watched(base_url: str) -> bool:
    """Whether its runner took it for ready: only then are its counters read."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{base_url}/fake/requests") as answer:
            return any("/metrics" in str(one) for one in await answer.json(content_type=None))
    except aiohttp.ClientConnectionError:
        return False


async def until(check: Callable[[], Any]) -> None:
    """Wait until `check()`, or what it returns when awaited, is true."""
    async with asyncio.timeout(SLOW_S):
        while True:
            found = check()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


# Start


async def test_it_reports_each_step_and_serves(home: Path) -> None:
    async with replica(home, {"load_s": 0.4}) as one:
        await one.ready()
        assert (await ask(one.base_url))[0] == 200
        await until(lambda: one.told.health.get("running") == 0)
        assert one.told.health["rss_bytes"] > 0
        (took,) = one.told.last("ready")
        assert took.ready_s >= 0.4 and took.resident_bytes > 1 << 20 and took.gpu_bytes is None
        assert await one.stop() == 0
    notes = [arguments[0] for verb, arguments in one.told.reports if verb == "loading"]
    assert notes[0].startswith("loading weights") and notes[-1] == "warming up"
    assert [v for v in one.told.verbs if v != "loading"] == ["started", "ready", "stopping", "stopped"]
    reason, tail = one.told.last("stopped")
    assert reason.code == ReasonCode.ASKED and any("listening" in line for line in tail)


async def test_the_engine_inherits_no_secret_of_the_site(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canary@h/d")
    monkeypatch.setenv("SOME_TOKEN", "canary")
    async with replica(home) as one:
        await one.ready()
        environment = psutil.Process(one.engine_pid).environ()
        assert "canary" not in str(environment)
        assert environment["FAKE_KEY"] == "engine-key"
        assert environment["SLIPWAY_REPLICA"] == "7" and environment["SLIPWAY_SLOTS"] == "cpu-0"
        assert "engine-key" not in str(psutil.Process(one.engine_pid).cmdline())


async def test_it_is_never_ready_when_only_health_says_so(home: Path) -> None:
    async with replica(home, {"lie_ready": True}, load_timeout_s=6) as one:
        reason, _ = await one.failed()
        assert reason.code == ReasonCode.LOAD_TIMEOUT
        assert "500" in reason.text
        assert "ready" not in one.told.verbs


async def test_a_probe_that_hangs_is_given_up_and_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, made = Fake.probe, []

    async def hangs_once(*arguments: Any) -> None:
        made.append(1)
        if len(made) == 1:
            await asyncio.Event().wait()
        await probe(*arguments)

    monkeypatch.setattr(Fake, "probe", hangs_once)
    monkeypatch.setattr(runner, "PROBE_S", 1.0)
    async with replica(home) as one:
        await one.ready()
        assert len(made) == 2


@pytest.mark.parametrize(
    ("crash", "code"),
    [
        ("oom", ReasonCode.OUT_OF_MEMORY),
        ("context", ReasonCode.CONTEXT_TOO_LONG),
        ("option", ReasonCode.UNKNOWN_OPTION),
        ("driver", ReasonCode.DRIVER_MISSING),
        ("gated", ReasonCode.GATED),
        ("weights", ReasonCode.BAD_WEIGHTS),
        ("bug", ReasonCode.CRASHED),
        ("port", ReasonCode.PORT_TAKEN),
    ],
)
async def test_a_crash_at_load_is_sorted_into_a_reason(home: Path, crash: str, code: ReasonCode) -> None:
    async with replica(home, {"crash_at_load": crash}) as one:
        reason, tail = await one.failed()
        assert reason.code == code
        assert tail
        assert one.told.verbs.count("started") == (3 if crash == "port" else 1)


async def test_a_stranger_on_the_port_makes_it_take_another(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stranger listens after the port was found free, and answers nothing: it never passes for ours."""
    with socket.socket() as stranger, socket.socket() as spare:
        for taken in (stranger, spare):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", 0))
        first, second = stranger.getsockname()[1], spare.getsockname()[1]
        spare.close()
        monkeypatch.setattr(engine_process, "PORTS", (first,))

        def listen(port: int) -> None:
            if port == first:
                stranger.listen()
                monkeypatch.setattr(engine_process, "PORTS", (second,))

        one = Replica(replace(SPEC, home=home, options={"load_s": 0.5}))
        one.told.on_started = listen
        await one.start().ready()
        ports = [arguments[1] for verb, arguments in one.told.reports if verb == "started"]
        assert ports == [first, second]
        assert (await ask(one.base_url))[0] == 200
        await one.stop()


# Who may run


async def test_it_starts_nothing_when_the_claim_is_lost(home: Path) -> None:
    one = Replica(replace(SPEC, home=home))
    one.told.claimable = False
    assert await one.start().done() == 3
    assert one.told.reports == []


async def test_a_second_runner_of_the_same_replica_leaves_at_once(home: Path) -> None:
    async with replica(home) as one:
        await one.ready()
        second = Replica(one.spec)
        assert await second.start().done() == 4
        assert second.told.reports == []
        assert (await ask(one.base_url))[0] == 200


async def test_a_newer_replica_waits_for_the_slot_of_a_living_one(home: Path) -> None:
    async with replica(home) as old:
        await old.ready()
        async with replica(home, replica=8) as new:
            await asyncio.sleep(0.5)
            assert new.told.reports == []
            assert (await ask(old.base_url))[0] == 200
            await old.stop()
            await new.ready()
            assert {one.replica for one in processes.marked(home)} == {8}


async def test_replicas_on_different_slots_run_beside_each_other(home: Path) -> None:
    async with replica(home) as one, replica(home, replica=8, slots=("cpu-1",)) as other:
        await one.ready()
        await other.ready()
        assert {found.replica for found in processes.marked(home)} == {7, 8}
        assert (await ask(one.base_url))[0] == (await ask(other.base_url))[0] == 200


# Faults of a serving engine


async def test_a_killed_engine_is_seen_and_its_children_ended(home: Path) -> None:
    async with replica(home, {"inner": True}) as one:
        await one.ready()
        assert len(one.others()) == 1
        os.kill(one.engine_pid, signal.SIGKILL)
        reason, _ = await one.failed()
        assert reason.code == ReasonCode.CRASHED and "SIGKILL" in reason.text
        assert processes.marked(home) == []


async def test_an_engine_that_dies_midway_says_its_last_words(home: Path) -> None:
    async with replica(home) as one:
        await one.ready()
        with suppress(aiohttp.ClientError):
            await ask(one.base_url, "[[die=2]]")
        reason, tail = await one.failed()
        assert reason.code == ReasonCode.CRASHED
        assert any("told to die" in line for line in tail)


async def test_a_killed_inner_process_is_seen_though_health_is_fine(home: Path) -> None:
    async with replica(home, {"inner": True}, frozen_after_s=4) as one:
        await one.ready()
        (inner,) = one.others()
        began = time.monotonic()
        inner.kill()
        reason, _ = await one.failed()
        assert time.monotonic() - began < 15
        assert reason.code == ReasonCode.CRASHED and str(inner.pid) in reason.text
        assert "unhealthy" in one.told.verbs


async def test_a_child_that_is_not_needed_may_end(home: Path) -> None:
    async with replica(home, {"orphan": True}, frozen_after_s=2) as one:
        await one.ready()
        (child,) = one.others()
        child.kill()
        await asyncio.sleep(1)
        assert (await ask(one.base_url))[0] == 200
        assert one.told.verbs[-1] == "ready"


@pytest.mark.parametrize("how", ["api", "process", "inner"])
async def test_a_frozen_engine_is_ended(home: Path, how: str) -> None:
    async with replica(home, {"inner": how == "inner"}, frozen_after_s=1.5) as one:
        await one.ready()
        if how == "api":
            async with aiohttp.ClientSession() as session, session.post(f"{one.base_url}/fake/freeze"):
                pass
        else:
            pid = one.engine_pid if how == "process" else one.others()[0].pid
            os.kill(pid, signal.SIGSTOP)
        reason, _ = await one.failed()
        assert reason.code == ReasonCode.FROZEN
        assert one.told.verbs.index("unhealthy") < one.told.verbs.index("failed")


async def test_a_frozen_engine_may_recover(home: Path) -> None:
    async with replica(home, frozen_after_s=4) as one:
        await one.ready()
        os.kill(one.engine_pid, signal.SIGSTOP)
        await one.told.hear("unhealthy")
        os.kill(one.engine_pid, signal.SIGCONT)
        await one.told.hear("recovered")
        assert (await ask(one.base_url))[0] == 200


async def test_a_long_prefill_is_not_frozen(home: Path) -> None:
    """Deaf for three times the limit: no probe answered, no counter read. Only its CPU time speaks for it."""
    async with replica(home, frozen_after_s=2) as one:
        await one.ready()
        assert (await ask(one.base_url, "[[prefill=6]]"))[0] == 200
        assert one.told.verbs[-1] == "ready"


async def test_a_full_queue_is_not_frozen(home: Path) -> None:
    """Saturated for six times the limit: its probe waits behind all others, only counters speak for it."""
    async with replica(home, {"slots": 2}, frozen_after_s=1.5) as one:
        await one.ready()
        began = time.monotonic()
        async with asyncio.TaskGroup() as crowd:
            asked = [
                crowd.create_task(ask(one.base_url, "[[tokens=100]] [[delay=10]]", stream=True))
                for _ in range(18)
            ]
        assert {task.result()[0] for task in asked} == {200}
        assert time.monotonic() - began > 6 * 1.5
        assert one.told.verbs[-1] == "ready" and "unhealthy" not in one.told.verbs


async def test_an_idle_engine_is_not_frozen(home: Path) -> None:
    async with replica(home, frozen_after_s=0.8) as one:
        await one.ready()
        await asyncio.sleep(2)
        assert one.told.verbs[-1] == "ready"


# Stop


async def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(home: Path) -> None:
    async with replica(home, {"ignore_sigterm": True}, grace_s=0.5) as one:
        await one.ready()
        assert await one.stop() == 0
        assert one.told.last("stopped")[0].code == ReasonCode.ASKED
        assert processes.marked(home) == []


async def test_an_orphan_that_ignores_sigterm_is_killed_too(home: Path) -> None:
    async with replica(home, {"orphan": True}) as one:
        await one.ready()
        (orphan,) = one.others()
        assert os.getsid(orphan.pid) != os.getsid(one.engine_pid)
        assert await one.stop() == 0
        assert processes.marked(home) == []


async def test_a_drain_lets_requests_finish(home: Path) -> None:
    async with replica(home, {"token_delay_ms": 30}, drain_s=SLOW_S) as one:
        await one.ready()
        request = asyncio.create_task(ask(one.base_url, "[[tokens=30]]"))
        await until(lambda: running(one.base_url))
        one.told.wish = Wish.DRAIN
        status, body = await request
        assert status == 200 and "word29" in body
        assert await one.done() == 0


async def test_a_stop_cuts_a_drain_short(home: Path) -> None:
    async with replica(home, drain_s=60) as one:
        await one.ready()
        request = asyncio.create_task(ask(one.base_url, "[[hang]]"))
        await until(lambda: running(one.base_url))
        one.told.wish = Wish.DRAIN
        await asyncio.sleep(0.3)
        assert not one.task.done()
        assert await one.stop() == 0
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_it_can_be_stopped_while_it_loads(home: Path) -> None:
    async with replica(home, {"load_s": 60}) as one:
        await one.told.hear("started")
        assert await one.stop() == 0
        assert "ready" not in one.told.verbs


# Nobody to report to


async def test_it_serves_on_while_nobody_can_be_reached_and_tells_in_order_later(home: Path) -> None:
    async with replica(home, {"load_s": 0.5}) as one:
        await one.told.hear("started")
        one.told.raises = Unreachable
        await until(lambda: is_watched(one.base_url))
        assert (await ask(one.base_url))[0] == 200
        assert "ready" not in one.told.verbs
        os.kill(one.engine_pid, signal.SIGKILL)
        await asyncio.sleep(0.5)
        one.told.raises = None
        await one.failed()
        assert [v for v in one.told.verbs if v != "loading"] == ["started", "ready", "failed"]


async def test_a_defect_of_the_reporter_does_not_end_the_engine(home: Path) -> None:
    async with replica(home) as one:
        await one.ready()
        one.told.raises = ValueError
        await asyncio.sleep(0.5)
        assert (await ask(one.base_url))[0] == 200


async def test_a_superseded_replica_ends_its_engine(home: Path) -> None:
    async with replica(home) as one:
        await one.ready()
        one.told.raises = Superseded
        assert await one.done() == 0
        assert processes.marked(home) == []


# A runner in a process of its own


def start_runner(spec: Spec) -> subprocess.Popen[bytes]:
    path = spec.save()
    return subprocess.Popen([sys.executable, "-m", "tests.run_runner", str(path)], start_new_session=True)


def reports(spec: Spec) -> list[list[Any]]:
    path = spec.folder / "reports"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def has(spec: Spec, verb: str) -> bool:
    return verb in [said for said, _ in reports(spec)]


async def test_a_killed_runner_takes_its_engine_along_and_the_sweep_ends_the_rest(home: Path) -> None:
    spec = replace(SPEC, home=home, options={"inner": True, "orphan": True})
    runner = start_runner(spec)
    await until(lambda: has(spec, "ready"))
    assert processes.runner_alive(home, 7)
    assert processes.sweep(home) == []
    engine = psutil.Process(next(arguments[2] for verb, arguments in reports(spec) if verb == "started"))
    runner.kill()
    runner.wait()
    await until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE)
    assert len(processes.marked(home)) == 2
    assert processes.sweep(home) == [7]
    assert processes.marked(home) == []


async def test_the_next_replica_on_the_slot_ends_what_a_killed_runner_left(home: Path) -> None:
    spec = replace(SPEC, home=home, options={"inner": True, "orphan": True})
    runner = start_runner(spec)
    await until(lambda: has(spec, "ready"))
    runner.kill()
    runner.wait()
    async with replica(home, replica=8) as new:
        await new.ready()
        assert {one.replica for one in processes.marked(home)} == {8}


async def test_sigterm_stops_the_runner_and_its_engine(home: Path) -> None:
    spec = replace(SPEC, home=home, options={"orphan": True})
    runner = start_runner(spec)
    await until(lambda: has(spec, "ready"))
    runner.terminate()
    assert await asyncio.to_thread(runner.wait, SLOW_S) == 0
    verb, arguments = reports(spec)[-1]
    assert (verb, arguments[0]) == ("stopped", "node_stopping")
    assert processes.marked(home) == []


async def test_sigusr1_makes_it_look_at_the_wish_at_once(home: Path) -> None:
    async with replica(home, heartbeat_s=60) as one:
        await one.ready()
        one.told.wish = Wish.STOP
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await one.done() == 0


# Log


def test_the_log_stays_bounded_while_the_engine_writes_on(tmp_path: Path) -> None:
    log = EngineLog(tmp_path, limit=20_000)
    writes = "import sys\nfor i in range(5000): print('line', i)\nsys.stdin.read()\nprint('last words')"
    with log.path.open("ab") as output:
        writer = subprocess.Popen(
            [sys.executable, "-I", "-u", "-c", writes], stdin=subprocess.PIPE, stdout=output
        )
    began = time.monotonic()
    while log.path.stat().st_size < 30_000:
        assert time.monotonic() - began < SLOW_S
        time.sleep(0.01)
    log.bound()
    writer.communicate()
    assert log.path.stat().st_size <= 20_000
    assert log.path.read_bytes().count(b"\0") == 0
    assert log.tail()[-1] == "last words"
    assert len(log.tail()) == 200


def test_keys_are_hidden_in_the_log(tmp_path: Path) -> None:
    log = EngineLog(tmp_path, ["canary-key"])
    log.path.write_text("started with canary-key in hand\n")
    assert log.tail() == ["started with ********** in hand"]
    assert b"canary" not in log.read(0, 1000)


# Reasons


@pytest.mark.parametrize(
    ("memory_ran_out", "code"),
    [(True, ReasonCode.OUT_OF_MEMORY), (None, ReasonCode.OUT_OF_MEMORY), (False, ReasonCode.CRASHED)],
)
def test_a_sigkill_is_put_down_to_memory_unless_the_kernel_denies_it(
    memory_ran_out: bool | None, code: ReasonCode
) -> None:
    warning = "pinned memory pool will not be available: CUDA driver version is insufficient"
    assert reasons.explain(Fake(), [warning], -9, memory_ran_out).code == code


def test_a_module_that_is_missed_in_passing_is_no_reason() -> None:
    line = "Ignore import error when loading models.midashenglm: No module named 'torchaudio'"
    assert reasons.explain(Fake(), [line], 1, False).code == ReasonCode.CRASHED
    line = "ModuleNotFoundError: No module named 'torchaudio'"
    assert reasons.explain(Fake(), [line], 1, False).code == ReasonCode.UNKNOWN_OPTION


def test_a_reason_quotes_the_log_without_its_prefix() -> None:
    line = "(EngineCore pid=12) ERROR 11-25 01:02:03 [core.py:7] torch.OutOfMemoryError: out of memory"
    reason = reasons.explain(Fake(), ["INFO started", line], 1, False)
    assert reason.code == ReasonCode.OUT_OF_MEMORY
    assert reason.text.endswith("It said: torch.OutOfMemoryError: out of memory")


# Relay


@asynccontextmanager
async def relayed(
    home: Path, key: str = "relay-key", **options: Any
) -> AsyncIterator[tuple[Replica, aiohttp.ClientSession]]:
    """A ready replica with a relay, and a session on it."""
    async with replica(home, options, relay=True) as one:
        await one.ready()
        async with aiohttp.ClientSession(
            one.relay_url, headers={"Authorization": f"Bearer {key}"}
        ) as session:
            yield one, session


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


async def test_the_relay_passes_answers_streamed_and_whole(home: Path) -> None:
    async with relayed(home) as (_, session):
        async with session.post("/v1/chat/completions", json=chat("[[tokens=3]]")) as answer:
            assert answer.status == 200
            assert (await answer.json())["choices"][0]["message"]["content"] == "word0 word1 word2"
        async with session.post(
            "/v1/chat/completions", json=chat("[[tokens=50]][[delay=20]]", stream=True)
        ) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            pieces = [piece async for piece in answer.content.iter_any()]
        assert len(pieces) > 20
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("key", ["", "wrong", "relay-key-and-more", "engine-key"])
async def test_the_relay_refuses_without_its_key(home: Path, key: str) -> None:
    async with relayed(home, key) as (_, session):
        async with session.post("/v1/chat/completions", json=chat("Hi")) as answer:
            assert answer.status == 401
        async with session.get("/log") as answer:
            assert answer.status == 401


async def test_the_relay_passes_only_listed_routes(home: Path) -> None:
    async with relayed(home) as (one, session):
        for method, path in [
            ("POST", "/fake/freeze"),
            ("POST", "/pause"),
            ("GET", "/v1/chat/completions"),
            ("POST", "/v1/../fake/freeze"),
            ("POST", "//v1/chat/completions"),
            ("POST", "/v1%2fchat/completions"),
        ]:
            raw = await _raw(
                one.relay_url, f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer relay-key\r\n"
            )
            assert b" 404 " in raw.split(b"\r\n")[0], path
        async with session.get(f"{one.base_url}/fake/requests") as answer:
            assert {seen["path"] for seen in await answer.json()} <= {
                "/v1/chat/completions",
                "/metrics",
                "/fake/requests",
            }


async def _raw(url: str, head: str) -> bytes:
    """What a request, sent byte for byte, is answered."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), SLOW_S)
    finally:
        writer.close()


async def test_a_hang_up_at_the_relay_stops_the_engines_work(home: Path) -> None:
    async with relayed(home) as (one, session):
        for text in ("[[tokens=2000]][[delay=10]]", "[[hang]]"):
            request = asyncio.create_task(_read(session, chat(text, stream=True)))
            await until(lambda: running(one.base_url))
            request.cancel()
            began = time.monotonic()
            await until(lambda: _idle(one.base_url))
            assert time.monotonic() - began < 3


async def _read(session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
    async with session.post("/v1/chat/completions", json=body) as answer:
        return await answer.read()


async def _idle(base_url: str) -> bool:
    return await running(base_url) == 0


async def test_a_stream_the_engine_broke_never_looks_whole_at_the_relay(home: Path) -> None:
    async with relayed(home) as (_, session):
        with pytest.raises(aiohttp.ClientError):
            await _read(session, chat("[[cut=3]][[delay=20]]", stream=True))


async def test_the_relay_does_not_follow_redirects(home: Path) -> None:
    async with relayed(home) as (_, session):
        async with session.post(
            "/v1/chat/completions", json=chat("[[redirect]]"), allow_redirects=False
        ) as answer:
            assert answer.status == 302


async def test_the_relay_serves_the_log_in_pieces(home: Path) -> None:
    async with relayed(home) as (_, session):
        async with session.get("/log") as answer:
            text, offset = await answer.text(), answer.headers["X-Next-Offset"]
        assert "listening on" in text and int(offset) == len(text.encode())
        async with session.get("/log", params={"offset": offset}) as answer:
            assert (await answer.text(), answer.headers["X-Next-Offset"]) == ("", offset)
        async with session.get("/log", params={"offset": "-1"}) as answer:
            assert answer.status == 400


async def test_the_relay_speaks_tls_where_files_are_given(home: Path, tmp_path: Path) -> None:
    certificate, key = certify("127.0.0.1", tmp_path)
    async with replica(home, relay=True, tls_cert=str(certificate), tls_key=str(key)) as one:
        await one.ready()
        url = one.relay_url.replace("http", "https")
        trust = ssl.create_default_context(cafile=str(certificate))
        headers = {"Authorization": "Bearer relay-key"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            async with session.post("/v1/chat/completions", json=chat("Hi"), ssl=trust) as answer:
                assert answer.status == 200


def certify(host: str, folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for an address, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return folder / "cert.pem", folder / "key.pem"


# Spec


def test_a_spec_survives_its_file_which_only_its_owner_reads(tmp_path: Path) -> None:
    spec = replace(SPEC, home=tmp_path, options={"tokens": 3}, gpus=(0, 1), tls_cert="/c")
    path = spec.save()
    assert Spec.from_json(path.read_text()) == spec
    assert path.stat().st_mode & 0o077 == 0
