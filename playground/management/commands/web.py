"""One web process. Several may run, on any machine that reaches PostgreSQL and Redis."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from playground import database, instance, web


class Command(BaseCommand):
    help = "Serve pages, WebSockets and /v1 on SLIPWAY_BIND and PORT."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        told = "Serve on these inherited listening sockets instead."
        parser.add_argument("--fd", type=int, nargs="+", default=[], help=told)

    def handle(self, *args: Any, **options: Any) -> None:
        instance.forget_mark()
        database.wait_until_migrated(self.stderr.write)
        web.serve(options["fd"])
