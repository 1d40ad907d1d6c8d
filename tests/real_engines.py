"""Real engines for tests.

The row of each, environments and the demo model kept between runs, and a process of one that is ready.

Installing and converting are real the first time; SLIPWAY_TEST_CACHE (default ~/.cache/slipway-tests) keeps
what they made, and later runs link it into their own home.
"""

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from django.conf import settings

from playground import catalogue, engine_process, engines, environments, jobs, teams
from playground.engines.base import Engine, Hardware, LocalModel, NotReady
from playground.models import EngineEnvironment, Job, Model, ModelFormat, Node

CACHE = Path(os.environ.get("SLIPWAY_TEST_CACHE", Path.home() / ".cache" / "slipway-tests"))
HARDWARE = Hardware(cores=2, memory_bytes=8 << 30)


@dataclass(frozen=True)
class Row:
    """What the tests of every engine need to know of one, beside what its adapter says."""

    tokens: str
    """Its counter of tokens made."""
    context: int
    """What it refuses prompts beyond, started with `options`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of a start with the demo model."""
    renders: str = "engine"
    """Who tells what the template made of the messages."""
    counts_stopped: bool = True
    """Tells how many tokens it made of an answer that is stopped."""
    large: bool = False
    """Its environment is borrowed from an earlier run where there was one."""
    light: bool = False
    """Also in `make test`."""

    def marks(self) -> list[pytest.MarkDecorator]:
        """Those that select its tests."""
        heavy = [] if self.light else [pytest.mark.engines]
        return [*heavy, pytest.mark.slow]


ROWS = {
    "llama.cpp": Row("llamacpp:tokens_predicted_total", 2048, {"context": 2048}, light=True),
    "sglang": Row("sglang:realtime_tokens_total", 2048, {"context_length": 2048, "threads": 1}, large=True),
    "transformers": Row(
        "transformers:generation_tokens_total", 8192, renders="tokenizer", counts_stopped=False, large=True
    ),
    "triton": Row("triton:generation_tokens_total", 2048, {"context": 2048}),
    "vllm": Row(
        "vllm:generation_tokens_total",
        2048,
        {"max_model_len": 2048, "kv_cache_gib": 0.25, "runtime_lora": True, "max_lora_rank": "8"},
        large=True,
    ),
}
"""One row for each engine that runs here: the tests of every engine go by it, in this order."""


def each(argument: str, **more: Any) -> pytest.MarkDecorator:
    """Parametrises a test by the engines of ROWS."""
    params = [pytest.param(name, marks=row.marks(), id=name) for name, row in ROWS.items()]
    return pytest.mark.parametrize(argument, params, **more)


def node() -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


def environment(engine: str, version: str | None = None) -> EngineEnvironment:
    """The engine's environment in this home: from the cache, else installed now and kept there."""
    borrow_environments()
    found = environments.ensure(node(), engine, version)
    if isinstance(found, EngineEnvironment):
        return found
    _carry_out(found)
    made = environments.ensure(node(), engine, version)
    assert isinstance(made, EngineEnvironment)
    _keep(environments.path(made), CACHE / "environments")
    return made


def demo(kind: str) -> tuple[Model, ModelFormat]:
    """The demo model with that form ready in this home.

    From the cache, else fetched or made now and kept there.
    """
    model = catalogue.demo(teams.default_team())
    form = model.formats.get(kind=kind)
    here, kept = settings.HOME / "models" / form.path, CACHE / "models" / form.path
    if kept.exists() and not here.exists():
        _copy(kept, here)
    if kind == "safetensors":
        environment("transformers")
        demo("gguf")
    found = catalogue.ensure(node(), model, kind)
    if isinstance(found, Job):
        _carry_out(found)
        found = catalogue.ensure(node(), model, kind)
    assert isinstance(found, ModelFormat)
    if not kept.exists():
        _copy(here, kept)
    return model, found


@contextmanager
def alone() -> Iterator[None]:
    """One process of tests at a time makes what several need and the cache keeps."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _carry_out(job: Job) -> None:
    state = jobs.run(job.pk)
    job.refresh_from_db()
    assert state == Job.State.DONE, f"{job.error}\n{job.log_tail}"


def borrow_environments(*only: str) -> None:
    """Link what the cache holds into this home, of all engines or `only` these; the others' links go.

    Environments are the same wherever they lie.
    """
    root = settings.HOME / "environments"
    root.mkdir(parents=True, exist_ok=True)
    for kept in (CACHE / "environments").glob(f"*/{environments.MARKER}"):
        here = root / kept.parent.name
        wanted = not only or json.loads(kept.read_text())["engine"] in only
        if wanted and not here.exists():
            here.symlink_to(kept.parent)
        elif not wanted and here.is_symlink():
            here.unlink()


def keep_environments() -> None:
    """Move what was installed into this home to the cache, for the next run."""
    for marker in (settings.HOME / "environments").glob(f"[!.]*/{environments.MARKER}"):
        if not marker.parent.is_symlink():
            _keep(marker.parent, CACHE / "environments")


def _keep(made: Path, folder: Path) -> None:
    """Move what was made into the cache, and link it from where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{secrets.token_hex(4)}"
    shutil.move(made, fresh)
    try:
        fresh.rename(folder / made.name)
    except OSError:
        shutil.rmtree(fresh)  # Another run kept the same one first.
    made.symlink_to(folder / made.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder so that it is never seen half made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{secrets.token_hex(4)}")
    if source.is_dir():
        shutil.copytree(source, fresh)
    else:
        shutil.copy2(source, fresh)
    try:
        fresh.rename(target)
    except OSError:
        shutil.rmtree(fresh)  # Another run was first.


@dataclass
class Running:
    """A real engine's process that answers its adapter's probe."""

    adapter: Engine
    base_url: str
    key: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_s: float

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def metrics(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """Prometheus values by name, labels summed."""
        async with session.get(self.base_url + "/metrics", headers=self.headers) as answer:
            values: dict[str, float] = {}
            for line in (await answer.text()).splitlines():
                if line and not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    name = name.partition("{")[0]
                    values[name] = values.get(name, 0) + float(value)
            return values

    async def running(self, session: aiohttp.ClientSession) -> float:
        return (await self.metrics(session))[self.adapter.quirks.running_metric]


@contextmanager
def running(
    engine: str,
    model: LocalModel,
    options: dict[str, Any],
    *,
    extra: Sequence[str] = (),
    within_s: float = 600,
) -> Iterator[Running]:
    """Start the engine as its adapter says; ended by its group, and checked to leave no process."""
    adapter = engines.get(engine)
    typed, key = adapter.Options.model_validate(options), secrets.token_hex(16)
    port = engine_process.free_port()
    folder = environments.path(environment(engine))
    command = adapter.line(folder, model, typed, port, "demo", HARDWARE, extra=extra)
    log = settings.HOME / f"{engine}-{port}.log"
    place = settings.HOME / f"{engine}-{port}"
    place.mkdir()
    mark = {"SLIPWAY_TEST_ENGINE": str(port), "SPT_NOENV": "1"}
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | adapter.environment(typed, key, settings.HOME) | mark,
            cwd=place,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    live = Running(adapter, f"http://127.0.0.1:{port}", key, process, log, 0)
    try:
        asyncio.run(_until_ready(live, model.task, began + within_s))
        live.ready_s = time.monotonic() - began
        yield live
    finally:
        _end(process)


async def _until_ready(live: Running, task: str, deadline: float) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                await live.adapter.probe(session, live.base_url, live.key, "demo", task)
                return
            except (aiohttp.ClientError, NotReady) as problem:
                text = live.log.read_text(errors="replace")[-4000:]
                assert live.process.poll() is None, f"it ended with {live.process.returncode}:\n{text}"
                assert time.monotonic() < deadline, f"not ready: {problem}\n{text}"
                await asyncio.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL of the whole session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def body(text: str, **more: Any) -> dict[str, Any]:
    """A chat request for the engine started by `running`."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


async def events(answer: aiohttp.ClientResponse) -> list[Any]:
    """The events of a stream: each the decoded JSON, or "[DONE]"."""
    found: list[Any] = []
    async for line in answer.content:
        data = line.decode().strip().removeprefix("data: ")
        if data:
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
