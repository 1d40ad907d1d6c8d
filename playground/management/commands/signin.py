"""`signin`: a new one-time link."""

from argparse import ArgumentParser
from typing import Any

from playground import supervisor, teams
from playground.models import User
from playground.shell import MISSING, Failed, Verb


class Command(Verb):
    help = "Print a link that signs a person in once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", help="A user name; the first administrator by default.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, str]:
        user = teams.first_user() if options["user"] is None else _person(options["user"])
        return {"user": user.get_username(), "link": supervisor.sign_in_link(user)}

    def show(self, value: dict[str, str]) -> None:
        self.stdout.write(value["link"])


def _person(name: str) -> User:
    found = User.objects.filter(username=name, is_active=True).first()
    if found is None:
        raise Failed(f"No person is called {name!r}.", MISSING)
    return found
