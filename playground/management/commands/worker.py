"""This node's worker: starts and stops replicas here, and takes its share of the control tasks."""

import os
import sys
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from playground import database, instance


class Command(BaseCommand):
    help = "Run this node's worker. Another machine needs nothing more than this, DATABASE_URL and REDIS_URL."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--node", help="This node's name; kept in its home from then on.")
        parser.add_argument("--address", help="Where the other machines reach this one's relays.")
        # What the worker itself starts, to ask rows of batches.
        parser.add_argument("--batch", action="store_true", help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        _begin_again_as(options["node"], options["address"])
        instance.forget_mark()
        try:
            instance.keep_node_name(settings.HOME, settings.NODE_NAME)
        except instance.OtherNode as refusal:
            raise CommandError(str(refusal)) from None
        database.wait_until_migrated(self.stderr.write)
        from playground import batch_process, worker

        sys.exit(batch_process.run() if options["batch"] else worker.run())


def _begin_again_as(node: str | None, address: str | None) -> None:
    """The two flags are settings, which are read once: set their variables and start over, if they say
    anything new.
    """
    wanted = {
        "SLIPWAY_NODE": node or settings.NODE_NAME,
        "SLIPWAY_NODE_ADDRESS": address or settings.NODE_ADDRESS,
    }
    if (node or address) and any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
