"""`manage.py token`: an access token for the management API, shown once."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.utils import timezone

from playground import shell, tokens
from playground.models import AccessToken, Team, User


class Command(shell.Verb):
    help = "Make an access token for the management API. It acts as the person it is made for."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="What it is for.")
        parser.add_argument("--user", required=True, help="Whose token: a user name.")
        parser.add_argument("--write", action="store_true", help="It may change things, not only read.")
        parser.add_argument("--team", help="Only in this team: its slug. All of the person's by default.")
        parser.add_argument("--days", type=int, default=90, help="After how many days it ends; 0: never.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise shell.Failed(f"No person is called {options['user']!r}.", shell.MISSING)
        team = _team(options["team"]) if options["team"] else None
        if options["days"] < 0:
            raise shell.Failed("Days are a whole number from 0 on.", shell.REFUSED)
        ends = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        scope = AccessToken.Scope.WRITE if options["write"] else AccessToken.Scope.READ
        try:
            row, secret = tokens.make(user, options["name"], scope, team, ends)
        except tokens.TokenRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED) from refusal
        return {"id": row.pk, "token": secret, "scope": row.scope}

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(value["token"])


def _team(slug: str) -> Team:
    found = Team.objects.filter(slug=slug).first()
    if found is None:
        raise shell.Failed(f"No team is called {slug!r}.", shell.MISSING)
    return found
