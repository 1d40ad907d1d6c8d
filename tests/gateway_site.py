"""A real web process and what it routes to, for tests: rows, fake engines, a uvicorn of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import httpx2 as httpx
from openai import OpenAI

from endpoints import keys
from endpoints.models import Endpoint, Release
from playground import configurations
from playground.models import (
    Configuration,
    Deployment,
    EngineEnvironment,
    Model,
    ModelFormat,
    Node,
    Replica,
    Team,
    User,
)
from tests.fakes import RunningFake, free_port

ROOT = Path(__file__).parent.parent
# Short times, so that a test of a time-out takes no minute.
TIMES = {
    "SLIPWAY_BODY_TIMEOUT_S": "1.2",
    "SLIPWAY_KEEP_ALIVE_S": "0.4",
    "SLIPWAY_HOLD_S": "3",
    "SLIPWAY_STALL_S": "2",
}


def configuration(team: Team, task: str = "chat", **options: Any) -> Configuration:
    """A frozen configuration of the fake engine with these options, and a model for that task."""
    name = "tiny" if task == "chat" else f"tiny-{task}"
    model, _ = Model.objects.get_or_create(team=team, name=name, source=f"local:{name}", task=task)
    form, _ = ModelFormat.objects.get_or_create(
        model=model, kind="gguf", path=f"{name}.gguf", defaults={"digest": "f" * 64}
    )
    environment, _ = EngineEnvironment.objects.get_or_create(
        digest="e" * 64, defaults={"engine": "fake", "version": "1.0", "packages": "", "python": "3.13"}
    )
    return configurations.freeze(form, environment, "fake", options, [])


def deployment(team: Team, *, released: bool = False, name: str = "tiny-fake", **options: Any) -> Deployment:
    """A deployment that should run; nothing of it does yet."""
    frozen = configuration(team, **options)
    return Deployment.objects.create(
        team=team, name=name, model=frozen.model, engine="fake", configuration=frozen, released=released
    )


def replica(of: Deployment, engine: RunningFake) -> Replica:
    """A ready replica that is this running fake engine."""
    node, _ = Node.objects.get_or_create(name=os.environ["SLIPWAY_NODE"])
    return Replica.objects.create(
        deployment=of,
        node=node,
        configuration=of.configuration,
        state=Replica.State.READY,
        served_name="fake",
        port=engine.port,
        engine_key=engine.key,
    )


def endpoint(team: Team, name: str, behind: Deployment, **sampling: Any) -> Endpoint:
    """A live endpoint in front of a deployment."""
    row, _ = Endpoint.objects.get_or_create(team=team, name=name)
    assert behind.configuration is not None
    release = Release.objects.create(
        endpoint=row,
        number=row.releases.count() + 1,
        configuration=behind.configuration,
        deployment=behind,
        sampling=sampling,
        state=Release.State.LIVE,
    )
    Endpoint.objects.filter(pk=row.pk).update(live=release)
    row.refresh_from_db()
    return row


@dataclass
class Site:
    """One web process that serves."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    secret: str = ""
    engine: RunningFake | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def key(self, team: Team, user: User | None = None, scopes: tuple[str, ...] = tuple(keys.SCOPES)) -> str:
        _, self.secret = keys.make(team, user, "test", scopes)
        self.until(lambda: self.get("/v1/models").status_code == 200)
        return self.secret

    def client(self, secret: str = "", retries: int = 0) -> OpenAI:
        """The official client, in its strict mode."""
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=secret or self.secret,
            max_retries=retries,
            timeout=20,
            _strict_response_validation=True,
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        found = headers or {"authorization": f"Bearer {self.secret}"}
        return httpx.get(self.url + path, headers=found, timeout=10)

    def post(self, path: str = "/v1/chat/completions", **wanted: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secret}", "content-type": "application/json"}
        wanted["headers"] = headers | wanted.get("headers", {})
        return httpx.post(self.url + path, timeout=20, **wanted)

    def raw(self, method: str, target: str, headers: dict[str, str] | None = None) -> HTTPResponse:
        """A request whose target is sent exactly as written."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in ({"authorization": f"Bearer {self.secret}"} | (headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Return once it holds; fail the test when that takes too long."""
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, (
                f"never came true; the site's log ends:\n{self.log.read_text()[-3000:]}"
            )
            time.sleep(0.02)


def ask(text: str = "hello", model: str = "words", **more: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@contextmanager
def running_site(folder: Path, **environment: str) -> Iterator[Site]:
    """`playground.asgi` as it is served; ended by its pid."""
    port, log = free_port(), folder / "site.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "web"],
            cwd=ROOT,
            env=os.environ | TIMES | {"PORT": str(port)} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    site = Site(port, process, log)
    try:
        site.until(lambda: _answers(site), 90)
        yield site
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(site: Site) -> bool:
    assert site.process.poll() is None, site.log.read_text()[-3000:]
    try:
        return httpx.get(site.url + "/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
