"""`manage.py models`: what the catalogue knows."""

from typing import Any

from playground import catalogue, engines, shell
from playground.models import Model


class Command(shell.Verb):
    help = "List the models: the demo model and what lies in SLIPWAY_HOME/models."

    def act(self, *, quiet: bool, **options: Any) -> list[dict[str, Any]]:
        return [_facts(model) for model in catalogue.scan(shell.team())]

    def show(self, value: list[dict[str, Any]]) -> None:
        for row in value:
            size = f"{row['parameters'] / 1e6:,.0f} M" if row["parameters"] else "n/a"
            self.stdout.write(f"{row['name']:<40} {row['task']:<11} {size:>10}  {', '.join(row['engines'])}")
            if row["refused"]:
                self.stdout.write(f"    refused: {row['refused']}")


def _facts(model: Model) -> dict[str, Any]:
    able = [adapter.name for adapter in engines.all() if catalogue.candidate(model, adapter)[1].ok]
    return {
        "id": model.pk,
        "name": model.name,
        "source": model.source,
        "task": model.task,
        "architecture": model.architecture,
        "licence": model.licence,
        "parameters": model.parameters,
        "context_length": model.context_length,
        "forms": [
            {
                "kind": form.kind,
                "dtype": form.dtype,
                "size_bytes": form.size_bytes,
                "digest": form.digest or None,
            }
            for form in model.formats.order_by("pk")
        ],
        "engines": able,
        "refused": model.refused,
    }
