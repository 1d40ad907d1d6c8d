"""`manage.py rollback ENDPOINT`: the previous release is live again."""

from argparse import ArgumentParser
from typing import Any

from endpoints import promotion
from endpoints.models import Endpoint
from playground import shell

from .promote import release_facts


class Command(shell.Verb):
    help = "Move an endpoint back to its previous release, or to a given one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("endpoint")
        parser.add_argument("--to", type=int, default=None, metavar="N", help="Release number.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        endpoint = Endpoint.objects.filter(team=shell.team(), name=options["endpoint"]).first()
        if endpoint is None:
            raise shell.Failed(f"No endpoint is called {options['endpoint']!r}.", shell.MISSING)
        to = None
        if options["to"] is not None:
            to = endpoint.releases.filter(number=options["to"]).first()
            if to is None:
                raise shell.Failed(f"{endpoint.name} has no release {options['to']}.", shell.MISSING)
        try:
            return release_facts(promotion.rollback(endpoint, shell.actor(), to))
        except promotion.PromotionRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED) from refusal

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(f"endpoint {value['endpoint']}  release {value['release']}  {value['state']}")
