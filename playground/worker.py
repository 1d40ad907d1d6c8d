"""The worker process: Celery for this node's queue and `control`, and a thread that is the node's heart.

Tasks here are short and claim rows, so a threads pool is enough. Rows of batches are asked by a process of
its own, begun when there are some (`batch_process`): an idle one would cost 80 MB.
"""

import threading

from django.conf import settings

from playground import batch_process, heart, nodes
from playground.celery import app

THREADS = 4


def run() -> int:
    """Work until SIGTERM or SIGINT; returns the exit code. Engines are never touched by its end."""
    nodes.accept()
    stopping = threading.Event()
    beating = threading.Thread(target=heart.beat, args=[stopping], name="heart")
    beating.start()
    worker = app.Worker(
        hostname=f"worker@{settings.NODE_NAME}",
        queues=[f"node.{settings.NODE_NAME}", "control"],
        pool="threads",
        concurrency=THREADS,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        stopping.set()
        batch_process.child.end()
        beating.join()
    return int(worker.exitcode or 0)
