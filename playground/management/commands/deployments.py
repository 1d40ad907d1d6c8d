"""`manage.py deployments`: what should run and what does."""

from typing import Any

from playground import shell
from playground.models import Deployment


class Command(shell.Verb):
    help = "List deployments."

    def act(self, *, quiet: bool, **options: Any) -> list[dict[str, Any]]:
        rows = Deployment.objects.filter(team=shell.team()).exclude(desired=Deployment.Desired.DELETED)
        return [shell.facts(row) for row in rows.select_related("model", "configuration").order_by("id")]

    def show(self, value: list[dict[str, Any]]) -> None:
        if not value:
            self.stdout.write("None yet. Start one: manage.py serve MODEL --engine llama.cpp --wait")
        for row in value:
            self.stdout.write(
                f"{row['id']:>4}  {row['state']:<10} {row['engine']:<13} {row['model']:<28} {row['name']}"
                + (f"\n      {row['reason']}" if row["reason"] else "")
            )
