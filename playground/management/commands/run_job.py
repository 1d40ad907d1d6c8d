"""`manage.py run_job <pk>`: the job runner. Spawned detached by a node's worker; ends when the job has."""

import signal
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from playground import jobs


class Command(BaseCommand):
    help = "Run one job on this node (used by the worker)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("pk", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        try:
            self.stdout.write(f"job {options['pk']}: {jobs.run(options['pk'])}")
        except jobs.Interrupted:
            self.stdout.write(f"job {options['pk']}: interrupted before it began")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End in order: the job's programs end, its temporary folder goes, the row is queued again."""
    raise jobs.Interrupted
