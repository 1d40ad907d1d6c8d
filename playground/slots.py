"""The right to use a node's cores and GPUs: one lock a slot, and nobody of an older replica left on it."""

import asyncio

from playground import gpu_memory, processes
from playground.engine_process import EngineFailed
from playground.engines.base import Reason, ReasonCode
from playground.processes import Marked
from playground.spec import Spec

WAIT_S = 60.0
LOOK_S = 0.1
KILL_S = 30.0


async def take(spec: Spec) -> list[int]:
    """Lock every slot of a replica. A holder whose runner is dead is ended; one that lives is waited for."""
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_S
    while (taken := processes.take_slots(spec.home, spec.slots)) is None:
        if loop.time() > until:
            text = f"{', '.join(spec.slots)}: still held by another replica."
            raise EngineFailed(Reason(ReasonCode.NO_ROOM, text))
        await asyncio.to_thread(processes.sweep, spec.home)
        await asyncio.sleep(LOOK_S)
    return taken


async def clear(spec: Spec) -> None:
    """End what older replicas left on our slots, which no runner of theirs minds now; wait for the memory."""
    mine = frozenset(spec.slots)

    def older() -> list[Marked]:
        return [one for one in processes.marked(spec.home) if one.replica < spec.replica and one.slots & mine]

    left = await asyncio.to_thread(processes.kill_until_gone, older, KILL_S)
    if left:
        raise EngineFailed(Reason(ReasonCode.NO_ROOM, undead(left)))
    await gpu_memory.settle(spec.gpus)


def undead(left: list[Marked]) -> str:
    """What a person can do about processes that SIGKILL does not end."""
    pids = ", ".join(f"{one.process.pid} of replica {one.replica}" for one in left)
    return f"These processes cannot be killed: {pids}. The driver may hang: restart the node."
