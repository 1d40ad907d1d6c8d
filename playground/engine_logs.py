"""An engine's log as people read it: the file on this node, else by the relay, else the lines on the row."""

from pathlib import Path

import aiohttp
from django.conf import settings

from playground import engine_client
from playground.models import Replica

TAIL_BYTES = 64 * 1024
TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=2)


async def tail(replica: Replica) -> str:
    """The last lines. `replica` comes with its node; keys in the text are hidden."""
    here = replica.node is not None and replica.node.name == settings.NODE_NAME
    text = _from_file(replica) if here else await _from_relay(replica)
    return _hide(replica, text or replica.log_tail)


def _from_file(replica: Replica) -> str:
    home: Path = settings.HOME
    path = home / "replicas" / str(replica.pk) / "engine.log"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        return _whole_lines(file.read(), cut=size > TAIL_BYTES)


async def _from_relay(replica: Replica) -> str:
    """What the runner's relay says; nothing when it ended or cannot be reached."""
    if replica.state in Replica.TERMINAL or not replica.relay_port:
        return ""
    target = engine_client.target(replica)
    try:
        async with engine_client.session().get(
            f"{target.base_url}/log", headers=dict(target.headers), timeout=TIMEOUT
        ) as answer:
            raw = await answer.read() if answer.status == 200 else b""
    except (aiohttp.ClientError, TimeoutError):
        return ""
    return _whole_lines(raw[-TAIL_BYTES:], cut=len(raw) > TAIL_BYTES)


def _whole_lines(raw: bytes, *, cut: bool) -> str:
    text = raw.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.partition("\n")[2] if cut else text


def _hide(replica: Replica, text: str) -> str:
    for secret in (replica.engine_key, replica.relay_key):
        if secret:
            text = text.replace(secret, "…")
    return text
