"""Start everything of this home and keep it running; `make up` calls it."""

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from playground import supervisor
from playground.instance import AlreadyRunning
from playground.servers import ServerFailed


class Command(BaseCommand):
    help = "Start everything of this home, and stop it in order at Ctrl-C or SIGTERM."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            asyncio.run(supervisor.run())
        except AlreadyRunning as running:
            self.stdout.write(f"{running}\nA new sign-in link: .venv/bin/python manage.py signin")
        except (supervisor.CannotStart, ServerFailed) as failure:
            raise CommandError(str(failure)) from None
