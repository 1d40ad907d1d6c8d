"""`manage.py webhook_secret`: what messages to the team's own servers are signed with."""

from argparse import ArgumentParser
from typing import Any

from playground import secrets, shell, webhooks


class Command(shell.Verb):
    help = "Print the secret that webhooks are signed with, or make a new one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--renew", action="store_true", help="Make a new one; the old one ends now.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        team = shell.team()
        try:
            renewed = options["renew"]
            value = webhooks.renew_secret(team, shell.actor()) if renewed else webhooks.secret(team)
        except secrets.Unreadable as problem:
            raise shell.Failed(str(problem), shell.REFUSED) from problem
        return {"secret": value}

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(value["secret"])
