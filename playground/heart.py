"""A worker's own thread: this node's heartbeat and sweep, so that a vanished Redis only delays."""

import logging
import threading
import time

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections

from playground import batch_sweep, nodes, reconcile

logger = logging.getLogger(__name__)


def beat(stopping: threading.Event) -> None:
    """Heartbeat each HEARTBEAT_S and sweep each SWEEP_S until `stopping` is set."""
    sweep_at = time.monotonic()
    while True:
        due = time.monotonic() >= sweep_at
        if due:
            sweep_at = time.monotonic() + settings.SWEEP_S
        _once(due)
        if stopping.wait(settings.HEARTBEAT_S):
            return


def _once(due: bool) -> None:
    try:
        nodes.heartbeat()
        if due:
            nodes.sweep()
        if reconcile.overdue():
            reconcile.run()
            nodes.start_assigned()
            batch_sweep.settle_all()
    except (DatabaseError, InterfaceError) as problem:
        logger.warning("the node waits for the database: %s", str(problem).strip())
    except Exception:
        logger.exception("the node's sweep failed; it will be done again")
    finally:
        connections.close_all()
