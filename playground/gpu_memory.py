"""Waits until the driver has given back the GPU memory of processes that ended: it does so a while later."""

import asyncio
import logging
from collections.abc import Sequence

from playground import hardware

log = logging.getLogger(__name__)

FALLING_BYTES = 64 << 20
PAUSE_S = 0.3


async def settle(gpus: Sequence[int], within_s: float = 30.0) -> None:
    """Return when the used memory of these GPUs no longer falls; at once without GPUs."""
    if not gpus:
        return
    loop = asyncio.get_running_loop()
    until, before = loop.time() + within_s, await used_bytes(gpus)
    while loop.time() < until:
        await asyncio.sleep(PAUSE_S)
        now = await used_bytes(gpus)
        if before - now < FALLING_BYTES:
            return
        before = now
    log.warning("the memory of GPUs %s still falls after %.0f s", list(gpus), within_s)


async def used_bytes(gpus: Sequence[int]) -> int:
    """Bytes in use on these GPUs together, by whomever."""
    found = await asyncio.to_thread(hardware.gpus)
    return sum(gpu["used_bytes"] for gpu in found if gpu["index"] in gpus)
