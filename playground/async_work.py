"""A job's work that is a coroutine: it asks engines, and hangs up on them when the job is to end."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from playground import engine_client
from playground.work import Interrupted, Work

LOOK_S = 0.25


def run[Result](work: Work, asked: Coroutine[Any, Any, Result]) -> Result:
    """What it returns. Raises Cancelled or Interrupted, once what it awaited has been cancelled.

    Inside, rows are reached through `orm` only; `await orm(work.progress, …)` too.
    """
    return asyncio.run(_attended(work, asked))


async def _attended[Result](work: Work, asked: Coroutine[Any, Any, Result]) -> Result:
    task, watcher = asyncio.create_task(asked), asyncio.create_task(_watch(work))
    told: list[int] = []
    try:
        with _signals(task, told):
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in (task, watcher):
            one.cancel()
        await asyncio.wait({task, watcher})
        await engine_client.close()
    why = None if watcher.cancelled() else watcher.exception()
    if told:
        raise Interrupted
    if task.cancelled() and why:
        raise why
    return task.result()


async def _watch(work: Work) -> None:
    """Raise what the work is to end with."""
    while True:
        await asyncio.to_thread(work.wait, LOOK_S)


@contextmanager
def _signals(task: asyncio.Task[Any], told: list[int]) -> Iterator[None]:
    """Those a job runner is ended by cancel the task: raised amid the loop's own work, they would be lost."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    own = (number for number, handler in before.items() if callable(handler))
    here = threading.current_thread() is threading.main_thread()
    ours = [number for number in own if here and before[number] is not signal.default_int_handler]

    def tell(number: int) -> None:
        told.append(number)
        task.cancel()

    for number in ours:
        loop.add_signal_handler(number, tell, number)
    try:
        yield
    finally:
        for number in ours:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
