"""The clock that sends the periodic tasks. Only one beats for each database; others wait for their turn."""

from typing import Any

from django.core.management.base import BaseCommand

from playground import beat, database, instance


class Command(BaseCommand):
    help = "Send the periodic tasks: reconcile, settle."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        instance.forget_mark()
        database.wait_until_migrated(self.stderr.write)
        beat.run()
