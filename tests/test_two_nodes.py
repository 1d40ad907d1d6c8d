"""Two nodes with homes of their own and one database, in network namespaces where the rights allow.

This process is a third node without a worker, as web on a machine of its own is: it reaches both by relays.
"""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from openai import OpenAI
from pytest_django import DjangoDbBlocker

from endpoints import keys
from playground import deployments, engine_client, processes
from playground.models import Deployment, Model, Node, Replica, Team
from tests import fleet
from tests.fakes import free_port
from tests.fleet import Fleet, ready, start, until
from tests.home import HOME

pytestmark = pytest.mark.slow
BODY = {"messages": [{"role": "user", "content": "[[echo]] over there"}], "stream": True}


@dataclass(frozen=True)
class Machine:
    """What stands in for a machine: the start of its commands, and the address others reach it by."""

    prefix: tuple[str, ...]
    address: str


def ip(*arguments: str) -> bool:
    """Whether `ip` did it."""
    try:
        return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def namespace(name: str, number: int) -> Machine | None:
    """A network namespace with an address and a cable to here; None where that is not allowed."""
    net, outside, inside = f"10.213.{number}", f"sw{name[-6:]}o", f"sw{name[-6:]}i"
    inner = ("netns", "exec", name, "ip")
    made = (
        ip("netns", "add", name)
        and ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        and ip("addr", "add", f"{net}.1/24", "dev", outside)
        and ip("link", "set", outside, "up")
        and ip(*inner, "addr", "add", f"{net}.2/24", "dev", inside)
        and ip(*inner, "link", "set", inside, "up")
        and ip(*inner, "link", "set", "lo", "up")
    )
    return Machine(("ip", "netns", "exec", name), f"{net}.2") if made else None


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, Machine]]:
    """Two of them. Removed afterwards; a namespace takes both ends of its cable with it."""
    names = {f"node-{letter}": f"slipway-{letter}{secrets.token_hex(2)}" for letter in "ab"}
    numbers = dict(zip(names, (secrets.randbelow(120), 120 + secrets.randbelow(120)), strict=True))
    made = {node: namespace(name, numbers[node]) for node, name in names.items()}
    found = {node: machine for node, machine in made.items() if machine is not None}
    if len(found) < len(names):
        found = {node: Machine((), f"127.0.0.{number}") for number, node in enumerate(names, 2)}
    yield found
    for name in names.values():
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def workers(
    machines: dict[str, Machine],
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """A worker on each machine."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        workers = Fleet()
        for name, machine in machines.items():
            workers.work(
                name,
                tmp_path_factory.mktemp(name),
                machine.prefix,
                SLIPWAY_NODE_ADDRESS=machine.address,
                SLIPWAY_PRIVATE_NETWORK="1",
                DATABASE_URL=settings.DATABASE_URL,
                REDIS_URL=settings.REDIS_URL,
            )
        yield workers
        for row in Deployment.objects.exclude(desired="deleted"):
            deployments.delete(row, None)
        live = Replica.objects.exclude(state__in=Replica.TERMINAL)
        until("everything stops", lambda: not live.exists())
        workers.close()
        for home in workers.homes.values():
            assert not processes.marked(home)
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture(scope="module")
def replicas(workers: Fleet) -> dict[str, Replica]:
    """A ready replica of one model on each node, placed while the other node accepted nothing."""
    team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
    for home in workers.homes.values():
        model = fleet.tiny_model(team, home)
    nodes = Node.objects.filter(accepting=True, heartbeat_at__isnull=False)
    until("both nodes live", lambda: nodes.count() == 2)
    return {name: _placed(name, model, workers.homes[name]) for name in workers.workers}


@pytest.fixture(scope="module")
def web(workers: Fleet) -> Iterator[str]:
    """The address of a web process on this node."""
    port = free_port()
    log = (HOME / "web.log").open("ab")
    command = [sys.executable, "manage.py", "web"]
    process = subprocess.Popen(
        command, cwd=fleet.ROOT, env=os.environ | {"PORT": str(port)}, stdout=log, stderr=log
    )
    until("web listens", lambda: _listens(port), 40)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)
    log.close()


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _placed(name: str, model: Model, home: Path) -> Replica:
    Node.objects.exclude(name=name).update(accepting=False)
    replica = ready(start(model.team, model), within_s=40)
    Node.objects.update(accepting=True)
    assert replica.node is not None and replica.node.name == name
    assert fleet.engine_processes(replica, home), "its engine runs in its node's home"
    return Replica.objects.select_related("node", "deployment").get(pk=replica.pk)


async def _answer(target: engine_client.Target) -> str:
    body = BODY | {"model": target.served_name}
    try:
        frames = engine_client.stream(target, "/v1/chat/completions", body, first_byte_s=10)
        return "".join([frame.text async for frame in frames if frame.kind == "content"])
    finally:
        await engine_client.close()


async def _status(method: str, url: str, headers: dict[str, str], body: dict[str, Any] | None = None) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, json=body) as answer,
    ):
        return answer.status


def test_replicas_run_on_both_nodes(replicas: dict[str, Replica], workers: Fleet) -> None:
    assert set(replicas) == {"node-a", "node-b"}
    pids = {name: row.engine_pid for name, row in replicas.items()}
    assert len(set(pids.values())) == 2
    first, second = replicas.values()
    assert first.configuration_id == second.configuration_id, (
        "the same weights are one configuration anywhere"
    )


def test_chat_reaches_both_through_their_relays(
    replicas: dict[str, Replica], machines: dict[str, Machine]
) -> None:
    for name, replica in replicas.items():
        target = engine_client.target(replica)
        assert target.base_url == f"http://{machines[name].address}:{replica.relay_port}"
        assert "over there" in async_to_sync(_answer)(target)


def test_the_gateway_of_a_third_node_serves_from_both(replicas: dict[str, Replica], web: str) -> None:
    team = Team.objects.get(slug="default")
    _, secret = keys.make(team, None, "two nodes", ["playground"])
    with OpenAI(base_url=f"{web}/v1", api_key=secret, max_retries=0) as client:
        for replica in replicas.values():
            name = f"deployment/{replica.deployment_id}"
            until(
                "its route is known", lambda name=name: name in [model.id for model in client.models.list()]
            )
            stream = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "[[echo]] over there"}], stream=True
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            assert "over there" in text


def test_a_relay_refuses_who_has_no_key_or_anothers(replicas: dict[str, Replica]) -> None:
    first, second = (engine_client.target(row) for row in replicas.values())
    url = f"{first.base_url}/v1/chat/completions"
    body = BODY | {"model": first.served_name}
    for headers in ({}, {"Authorization": "Bearer nonsense"}, dict(second.headers)):
        assert async_to_sync(_status)("POST", url, headers, body) == 401


def test_a_relay_passes_nothing_but_the_api(replicas: dict[str, Replica]) -> None:
    target = engine_client.target(next(iter(replicas.values())))
    for path in ("/pause", "/fake/freeze", "/v1/../fake/freeze", "//v1/models"):
        assert async_to_sync(_status)("POST", target.base_url + path, dict(target.headers)) in (403, 404, 405)


def test_engines_stay_on_loopback_of_their_node(
    replicas: dict[str, Replica], machines: dict[str, Machine]
) -> None:
    for name, replica in replicas.items():
        with pytest.raises(aiohttp.ClientConnectionError):
            url = f"http://{machines[name].address}:{replica.port}/v1/models"
            async_to_sync(_status)("GET", url, {"Authorization": f"Bearer {replica.engine_key}"})


def test_stopping_one_node_leaves_the_other(replicas: dict[str, Replica], workers: Fleet) -> None:
    first, second = replicas.values()
    done = workers.manage("node", "stop", "--json", node="node-a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not fleet.runners(workers.homes["node-a"])
    moved = ready(first.deployment, other_than=first.pk, within_s=40)
    assert moved.node is not None and moved.node.name == "node-b", "what ran there is placed on the other"
    second.refresh_from_db()
    assert second.state == "ready"
    assert (workers.homes["node-b"] / "replicas" / str(moved.pk)).is_dir()
