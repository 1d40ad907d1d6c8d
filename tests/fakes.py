"""Fake engines for tests that need one to talk to but no runner around it."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from playground.engines.base import Hardware, LocalModel
from tests.fake_adapter import Fake, FakeOptions

MODEL = LocalModel(name="tiny", path=Path("/nonexistent/tiny.gguf"), kind="gguf")
HARDWARE = Hardware(cores=1, memory_bytes=1 << 30)


@dataclass(frozen=True)
class RunningFake:
    """One fake engine that listens. Send `Authorization: Bearer <key>` when `key` is not empty."""

    base_url: str
    port: int
    key: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def metric(self, name: str) -> float:
        """A value of its /metrics: metric("num_requests_running")."""
        return float(dict(line.split() for line in self._get("/metrics").splitlines())[f"fake:{name}"])

    def wait_idle(self, timeout_s: float = 5.0) -> None:
        """Return once nothing runs in it; fail the test when that takes too long."""
        until = time.monotonic() + timeout_s
        while self.metric("num_requests_running"):
            assert time.monotonic() < until, "the fake engine still works"
            time.sleep(0.01)

    def requests(self) -> list[dict[str, Any]]:
        """The last requests that reached it: method, path, body."""
        found: list[dict[str, Any]] = json.loads(self._get("/fake/requests"))
        return found

    def asked(self) -> tuple[str, dict[str, Any]]:
        """The last question that came: its path and body."""
        last = [one for one in self.requests() if one["path"].startswith("/v1/")][-1]
        return last["path"], last["body"]

    def _get(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        try:
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running_fake(*, key: str = "", served_name: str = "fake", **options: object) -> Iterator[RunningFake]:
    """A fake engine with `options` (fields of FakeOptions), ready; ended by its pid."""
    adapter, typed, port = Fake(), FakeOptions.model_validate(options), free_port()
    command = adapter.command(Path(), MODEL, typed, port, served_name, HARDWARE)
    process = subprocess.Popen(command, env=os.environ | adapter.environment(typed, key, Path()))
    fake = RunningFake(f"http://127.0.0.1:{port}", port, key, process)
    try:
        _wait_ready(fake)
        yield fake
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def _wait_ready(fake: RunningFake) -> None:
    until = time.monotonic() + 20
    while True:
        assert fake.process.poll() is None, f"the fake engine ended with {fake.process.returncode}"
        try:
            fake._get("/health")
            return
        except ConnectionRefusedError:
            assert time.monotonic() < until, "the fake engine does not listen"
            time.sleep(0.01)


@pytest.fixture
def fake_engine() -> Iterator[Callable[..., RunningFake]]:
    """Start fake engines in a test: `fake = fake_engine(tokens=5, key="k")`. All end with the test."""
    with ExitStack() as stack:
        yield lambda **wanted: stack.enter_context(running_fake(**wanted))
