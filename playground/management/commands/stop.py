"""`manage.py stop DEPLOYMENT`: stop its engines."""

import time
from argparse import ArgumentParser
from typing import Any

from playground import deployments, shell
from playground.models import Deployment, Replica


class Command(shell.Verb):
    help = "Stop a deployment's engines; `serve` or the browser starts it again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deployment", help="Id or name.")
        parser.add_argument("--wait", action="store_true", help="Return when no process of it is left.")
        parser.add_argument("--timeout", type=float, default=120.0, help="Seconds that --wait waits at most.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        row = shell.deployment(options["deployment"])
        try:
            deployments.stop(row, shell.actor())
        except deployments.DeploymentRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED, refusal.fields) from refusal
        if options["wait"]:
            _wait(row, options["timeout"])
        row.refresh_from_db()
        return shell.facts(row)

    def show(self, value: dict[str, Any]) -> None:
        state = value["state"]
        ended = state == "none" or state in Replica.TERMINAL
        said = state if ended else f"asked to stop, still {state}"
        self.stdout.write(f"deployment {value['id']}  {value['name']}  {said}")


def _wait(row: Deployment, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while row.replicas.exclude(state__in=Replica.TERMINAL).exists():
        if time.monotonic() > deadline:
            raise shell.Failed(f"Still stopping after {timeout:g} s: manage.py deployments", shell.LATE)
        time.sleep(0.2)
