"""`manage.py key NAME`: make an API key and print it, this once."""

from argparse import ArgumentParser
from typing import Any

from endpoints import keys
from playground import shell


class Command(shell.Verb):
    help = "Make an API key. Its secret is printed now and kept nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="What it is for.")
        parser.add_argument(
            "--scope", action="append", choices=["endpoints", "playground"], help="Default: both."
        )

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        scopes = options["scope"] or ["endpoints", "playground"]
        key, secret = keys.make(shell.team(), shell.actor(), options["name"], scopes)
        return {"name": key.name, "prefix": key.prefix, "scopes": key.scopes, "key": secret}

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(value["key"])
