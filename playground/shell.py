"""What the shell's verbs share: who acts, how rows are named and results printed, what exit codes mean.

Exit codes: 0 done; 1 it was tried and failed; 2 wrong usage; 3 no such thing; 4 refused; 5 not done in time;
130 ended by Ctrl-C, which stops the verb and not what it started.
With --json exactly one JSON value goes to standard output, an error included: {"error": "…", "fields": {…}}.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.utils import timezone

from playground import jobs, teams
from playground.models import Deployment, Job, Model, Node, Team, User

FAILED, USAGE, MISSING, REFUSED, LATE = 1, 2, 3, 4, 5
# As shells say of what Ctrl-C ended.
INTERRUPTED = 130
# A job that another process runs is looked at so often.
LOOK_EVERY_S = 0.3


class Failed(CommandError):
    """A verb that did not end well; `code` is the exit code, `fields` what was wrong with which input."""

    def __init__(self, text: str, code: int = FAILED, fields: dict[str, str] | None = None) -> None:
        super().__init__(text, returncode=code)
        self.fields = fields or {}


class Verb(BaseCommand):
    """Base of the shell's verbs: `act` returns the value for --json, `show` prints it for people."""

    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.add_argument("--json", action="store_true", help="Print one JSON value and nothing else.")
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def handle(self, *args: Any, **options: Any) -> None:
        as_json = options.pop("json")
        try:
            value = self.act(quiet=as_json, **options)
        except Failed as problem:
            if not as_json:
                raise
            print_json({"error": str(problem), "fields": problem.fields})
            sys.exit(problem.returncode)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        if as_json:
            print_json(value)
        else:
            self.show(value)

    def act(self, *, quiet: bool, **options: Any) -> Any:
        raise NotImplementedError

    def show(self, value: Any) -> None:
        raise NotImplementedError

    def say(self, quiet: bool) -> Callable[[str], None]:
        """Where progress goes: standard error, to leave standard output to the result; nowhere when quiet."""
        return (lambda text: None) if quiet else (lambda text: self.stderr.write(text))


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def actor() -> User:
    """Who acts from this shell: whoever holds the home's database is its first administrator."""
    return teams.first_user()


def team() -> Team:
    return teams.default_team()


def deployment(name: str) -> Deployment:
    """The deployment of that id or name; Failed when there is none, or when a name fits several."""
    rows: QuerySet[Deployment] = Deployment.objects.filter(team=team()).exclude(
        desired=Deployment.Desired.DELETED
    )
    found = list(rows.filter(pk=int(name)) if name.isascii() and name.isdigit() else rows.filter(name=name))
    if not found:
        raise Failed(f"No deployment is called {name!r}. See: manage.py deployments", MISSING)
    if len(found) > 1:
        raise Failed(
            f"{len(found)} deployments are called {name!r}; use an id: {[row.pk for row in found]}", USAGE
        )
    return found[0]


def model(name: str) -> Model:
    """The catalogue's model of that name, or of that id."""
    rows = Model.objects.filter(team=team(), missing=False)
    found = rows.filter(name=name).first()
    if found is None and name.isascii() and name.isdigit() and len(name) < 10:
        found = rows.filter(pk=int(name)).first()
    if found is None:
        raise Failed(f"No model is called {name!r}. See: manage.py models", MISSING)
    return found


def node() -> Node:
    """This machine's row: a verb may come before any worker."""
    return Node.objects.get_or_create(name=settings.NODE_NAME, defaults={"address": settings.NODE_ADDRESS})[0]


def carry_out(job: Job, say: Callable[[str], None]) -> Job:
    """Run a job here, or follow it where another process has it; Failed with its error."""
    seen = ""
    while jobs.run(job.pk, say) in Job.ACTIVE:
        job.refresh_from_db()
        if (line := jobs.in_words(job.progress)) != seen:
            say(line)
            seen = line
        time.sleep(LOOK_EVERY_S)
    job.refresh_from_db()
    if job.state != Job.State.DONE:
        raise Failed(job.error or f"The job was {job.state}.")
    return job


def facts(row: Deployment) -> dict[str, Any]:
    """A deployment as the shell shows it."""
    replicas = list(row.replicas.order_by("-id")[:1])
    newest = replicas[0] if replicas else None
    return {
        "id": row.pk,
        "name": row.name,
        "model": row.model.name,
        "engine": row.engine,
        "desired": row.desired,
        "state": newest.state if newest else "none",
        "reason": row.problem or (newest.reason if newest else ""),
        "configuration": row.configuration.digest if row.configuration else None,
        "node": newest.node.name if newest and newest.node else None,
        "age_s": round((timezone.now() - row.created_at).total_seconds()),
    }
