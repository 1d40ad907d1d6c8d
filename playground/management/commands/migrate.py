"""`migrate`, one at a time: Django's command under an advisory lock, and secrets under the present key."""

from typing import Any

from django.core.management.commands import migrate

from playground import database, secrets


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with database.lock(database.MIGRATE):
            super().handle(*args, **options)
            if not database.pending():
                secrets.renew()
