"""`manage.py serve MODEL --engine NAME`: start a model on an engine."""

import time
from argparse import ArgumentParser
from typing import Any

from playground import catalogue, deployments, engines, shell
from playground.models import Deployment, Replica


class Command(shell.Verb):
    help = "Start a model on an engine and print the deployment."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """With a --version of its own in place of Django's."""
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", help="A name from `manage.py models`.")
        parser.add_argument("--engine", required=True, help=", ".join(engines.names()))
        parser.add_argument(
            "--option", action="append", default=[], metavar="KEY=VALUE", help="One engine option."
        )
        parser.add_argument(
            "--extra",
            action="append",
            default=[],
            metavar="FLAG[=VALUE]",
            help="One argument of the engine's list of allowed ones: --extra=--flag=value.",
        )
        parser.add_argument(
            "--version",
            "--engine-version",
            dest="engine_version",
            default=None,
            help="The engine's. Default: the version this Slipway names.",
        )
        parser.add_argument(
            "--instead-of",
            default="",
            metavar="DEPLOYMENT",
            help="Once ready, stop that one and take its name.",
        )
        parser.add_argument("--name", default="", help="Default: model and engine.")
        parser.add_argument("--wait", action="store_true", help="Return when it is ready, or has failed.")
        parser.add_argument("--timeout", type=float, default=900.0, help="Seconds that --wait waits at most.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        catalogue.scan(shell.team())
        row = _request(options)
        if options["wait"]:
            row = wait(row, options["timeout"], self.say(quiet))
        return shell.facts(row)

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(f"deployment {value['id']}  {value['name']}  {value['state']}")


def _request(options: dict[str, Any]) -> Deployment:
    try:
        return deployments.request(
            team=shell.team(),
            user=shell.actor(),
            model=shell.model(options["model"]),
            engine=options["engine"],
            options=_pairs(options["option"]),
            version=options["engine_version"],
            name=options["name"],
            extra=_extra(options["extra"]),
            replaces=shell.deployment(options["instead_of"]) if options["instead_of"] else None,
        )
    except deployments.DeploymentRefused as refusal:
        raise shell.Failed(str(refusal), shell.REFUSED, refusal.fields) from refusal


def _pairs(entries: list[str]) -> dict[str, str]:
    """["a=1", "b=x"] as a dictionary; the engine's own types turn the texts into numbers."""
    pairs = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise shell.Failed(f"--option {entry!r}: write KEY=VALUE", shell.USAGE)
        pairs[key] = value
    return pairs


def _extra(entries: list[str]) -> list[tuple[str, str]]:
    """["--flag=1", "--switch"] as pairs."""
    parts = [entry.partition("=") for entry in entries]
    return [(flag, value) for flag, _, value in parts]


def wait(row: Deployment, timeout: float, say: Any) -> Deployment:
    """Follow a start until a replica is ready, printing each step; Failed with the reason, or when late."""
    deadline, seen = time.monotonic() + timeout, ""
    while time.monotonic() < deadline:
        row.refresh_from_db()
        newest = row.replicas.order_by("-id").first()
        step = " ".join(part for part in _step(newest)) if newest else "queued"
        if step != seen:
            say(step)
            seen = step
        if newest and newest.state == Replica.State.READY:
            return row
        if row.problem:
            raise shell.Failed(row.problem, shell.FAILED)
        time.sleep(0.2)
    raise shell.Failed(f"Not ready after {timeout:g} s; it goes on: manage.py deployments", shell.LATE)


def _step(replica: Replica) -> tuple[str, str]:
    newest = replica.events.order_by("-id").first()
    return (replica.state, newest.note if newest else "")
