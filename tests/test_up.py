"""`manage.py up` as people run it: a real supervisor with real children, each test in a home of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from playground import instance, servers

ROOT = Path(__file__).parent.parent
NOBODY = 65534
WAIT_S = 60.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(true: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.05)


class Site:
    """One home and port, and the `up` that runs there."""

    def __init__(self, user: int | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="slipway-up-"))
        self.port = free_port()
        self.user = user
        if user is not None:
            os.chown(self.home, user, user)
        self.output = self.home.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        left_out = ("DATABASE_URL", "REDIS_URL", "SLIPWAY_NODE")
        return {name: value for name, value in os.environ.items() if name not in left_out} | {
            "SLIPWAY_HOME": str(self.home),
            "PORT": str(self.port),
            "SLIPWAY_DEMO": "0",
        }

    def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def up(self) -> "Site":
        """Start it and wait until it prints its link."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        wait_for(lambda: "/sign-in/" in self.printed() or self.process.poll() is not None, "link")
        assert self.process.poll() is None, self.printed()
        return self

    def printed(self) -> str:
        return self.output.read_text()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    def processes(self) -> list[psutil.Process]:
        """Everything of this home that lives, the supervisor too."""
        return [process for process, _ in instance._of(self.home)]

    def child(self, name: str) -> psutil.Process:
        (found,) = instance.marked(self.home, (name,))
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def clear(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        instance.end(self.processes())
        where = servers.addresses(self.home)
        if where.postgres_data.parent != self.home:
            shutil.rmtree(where.postgres_data.parent, ignore_errors=True)
        shutil.rmtree(where.sockets, ignore_errors=True)
        shutil.rmtree(self.home)
        self.output.unlink(missing_ok=True)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.clear()


@pytest.fixture
def other() -> Iterator[Site]:
    made = Site()
    yield made
    made.clear()


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()
    wait_for(lambda: all(servers.gone(process) for process in processes), "end of the killed")


def test_it_serves_says_where_it_runs_and_stops_without_a_process_left(site: Site) -> None:
    site.up()
    assert site.get("/healthz") == (200, '{"web": "ok"}')
    status, body = site.get("/readyz")
    assert (status, set(json.loads(body).values())) == (200, {"ok"})
    assert site.get("/sign-in/")[0] == 200

    second = site.command("up")
    assert second.returncode == 0
    # Passkeys need a name; the site answers at both things that it means.
    at = f"http://localhost:{site.port}"
    assert f"{at}/sign-in/" in site.printed()
    assert f"running already: {at} (process {site.process.pid})" in second.stdout
    assert json.loads(site.command("signin", "--json").stdout)["link"].startswith(f"{at}/sign-in/")
    assert site.get("/healthz", Host=f"localhost:{site.port}")[0] == 200
    with socket.create_connection(("::1", site.port), timeout=10) as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n".encode())
        assert client.recv(200).startswith(b"HTTP/1.1 200")

    assert site.stop() == 0
    assert site.processes() == []
    assert "Stopping" in site.printed()


def test_ctrl_c_stops_it_like_sigterm(site: Site) -> None:
    site.up()
    assert site.stop(signal.SIGINT) == 0
    assert site.processes() == []


def test_readyz_says_what_is_missing_while_healthz_stays_well(site: Site) -> None:
    site.up()
    kill([process for process in site.processes() if process.name() == "valkey-server"])
    status, body = site.get("/readyz")
    # The supervisor may have started it again already.
    assert status == 200 or (status == 503 and json.loads(body)["redis"] == "does not answer")
    assert site.get("/healthz")[0] == 200
    wait_for(lambda: "Valkey had ended; it was started again" in site.printed(), "restart of Valkey")
    wait_for(lambda: site.get("/readyz")[0] == 200, "readiness")


def test_a_killed_child_is_started_again_and_no_connection_is_refused_meanwhile(site: Site) -> None:
    site.up()
    web, worker = site.child("web"), site.child("worker")
    kill([web, worker])
    # The supervisor holds the listening socket: this waits in its queue until the new process takes it.
    assert site.get("/healthz")[0] == 200
    wait_for(lambda: len(instance.marked(site.home, ("web", "worker"))) == 2, "restart")
    assert site.child("web").pid != web.pid and site.child("worker").pid != worker.pid
    assert "web ended with SIGKILL" in site.printed()


def test_after_kill_9_of_the_supervisor_the_next_one_takes_over(site: Site) -> None:
    site.up()
    # The fourth, which asks rows of batches, begins with the first batch.
    left = {name: site.child(name) for name in ("web", "worker", "beat")}
    postgres = site.child("postgres") if len(instance.marked(site.home, ("postgres",))) == 1 else None
    site.process.kill()
    site.process.wait()
    site.up()
    assert all(servers.gone(process) for process in left.values())
    assert postgres is None or not servers.gone(postgres)
    assert "ended 3 processes of a run that was killed" in site.printed()
    assert "ran already" in site.printed()
    assert site.get("/readyz")[0] == 200
    assert site.stop() == 0 and site.processes() == []


def test_stopped_while_it_recovers_it_leaves_nothing_of_the_killed_run(site: Site) -> None:
    site.up()
    site.process.kill()
    site.process.wait()
    with site.output.open("wb") as output:
        site.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"], cwd=ROOT, env=site.environment, stdout=output, stderr=output
        )
    wait_for(lambda: "Slipway" in site.printed(), "first line")
    assert site.stop() == 0
    assert site.processes() == []
    assert not servers.postgres_runs(site.home) and not servers.valkey_runs(site.home)


def test_after_kill_9_of_everything_it_comes_back_with_its_rows(site: Site) -> None:
    site.up()
    link = site.command("signin", "--json")
    assert json.loads(link.stdout)["user"] == "admin"
    kill(site.processes())
    site.process.wait()
    site.up()
    assert "up to date" in site.printed()
    token = json.loads(link.stdout)["link"].rpartition(f":{site.port}")[2]
    assert site.get(token)[0] == 200


def test_two_copies_run_beside_each_other(site: Site, other: Site) -> None:
    site.up()
    other.up()
    assert site.get("/readyz")[0] == other.get("/readyz")[0] == 200
    assert site.stop() == 0
    assert other.get("/readyz")[0] == 200


def test_a_taken_port_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.port)):
        refused = site.command("up")
    assert refused.returncode != 0
    assert f"Port {site.port} on 127.0.0.1 cannot be used" in refused.stderr
    assert site.processes() == []


def test_where_another_answers_at_localhost_it_prints_the_address_that_is_its_own(site: Site) -> None:
    with socket.create_server(("::1", site.port), family=socket.AF_INET6):
        site.up()
        assert f"http://127.0.0.1:{site.port}/sign-in/" in site.printed()
        assert "localhost" not in site.printed()


def test_a_public_bind_without_tls_is_refused_with_the_reason(site: Site) -> None:
    refused = site.command("up", SLIPWAY_BIND="0.0.0.0")
    assert refused.returncode != 0
    assert "SLIPWAY_BIND: 0.0.0.0 is reachable from outside" in refused.stderr
    assert "SLIPWAY_TLS_CERT" in refused.stderr


def test_a_home_keeps_one_node_name(site: Site) -> None:
    (site.home / "node").write_text("gpu-1\n")
    refused = site.command("worker", "--node", "gpu-2")
    assert refused.returncode != 0
    assert "belongs to the node 'gpu-1'" in refused.stderr


def test_a_worker_that_others_reach_without_tls_is_refused(site: Site) -> None:
    refused = site.command("worker", "--node", "gpu-2", "--address", "10.1.2.3")
    assert refused.returncode != 0
    assert "SLIPWAY_NODE_ADDRESS: relays on 10.1.2.3 would speak plain HTTP" in refused.stderr


@pytest.mark.parametrize(
    "headers",
    ["Host: a/health?\r\n", "Host: 127.0.0.1\r\nHost: other\r\n", "", "Host: evil.example\r\n"],
)
def test_a_request_for_another_host_is_refused(site_once: Site, headers: str) -> None:
    assert raw(site_once, f"GET /v1/models HTTP/1.1\r\n{headers}\r\n").startswith(b"HTTP/1.1 400")
    assert raw(site_once, f"GET / HTTP/1.1\r\n{headers}\r\n").startswith(b"HTTP/1.1 400")


def test_ten_thousand_headers_are_refused(site_once: Site) -> None:
    many = "".join(f"X-{number}: 1\r\n" for number in range(10_000))
    answer = raw(site_once, f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n{many}\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert site_once.get("/healthz")[0] == 200


def test_forwarded_headers_say_nothing(site_once: Site) -> None:
    status, body = site_once.get(
        "/sign-in/", **{"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    )
    assert status == 200
    assert "evil.example" not in body


@pytest.fixture(scope="module")
def site_once() -> Iterator[Site]:
    """A running site that several tests only ask."""
    made = Site().up()
    yield made
    made.clear()


def raw(site: Site, request: str) -> bytes:
    """The first bytes of the answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as client:
        try:
            client.sendall(request.encode())
        except (BrokenPipeError, ConnectionResetError):
            pass
        return client.recv(200)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it runs as another user")
def test_a_plain_user_runs_it_too() -> None:
    site = Site(user=NOBODY)
    try:
        site.up()
        assert site.get("/readyz")[0] == 200
        assert {process.uids().real for process in site.processes()} == {NOBODY}
        assert site.stop() == 0
        assert site.processes() == []
    finally:
        site.clear()
