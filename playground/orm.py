"""The ORM outside a request: one way in, on threads of its own, each connection given back at once.

Outside Django's request context every `a*` call would share one thread, and a thread would keep its
connection for ever.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from django.db import connections

# Well under the process's budget of connections (settings.DATABASE_POOL), which pages use too.
THREADS = 4
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="orm")


async def orm[**Arguments, Result](
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Run a synchronous function that uses the ORM. Cancelling the wait does not undo what the call does."""

    def work() -> Result:
        try:
            return call(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.get_running_loop().run_in_executor(_threads, copy_context().run, work)
