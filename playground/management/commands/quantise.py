"""`manage.py quantise MODEL --type Q4_K_M`: make a smaller model of one."""

import time
from argparse import ArgumentParser
from typing import Any

from playground import catalogue, jobs, landing, quantise, shell, ways
from playground.models import Job, Model

LOOK_EVERY_S = 0.3


class Command(shell.Verb):
    help = "Make a smaller model of one: a new model, its weights of another type."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", help="A name from `manage.py models`.")
        parser.add_argument("--type", dest="method", default="", help="Q4_K_M, W8A8, … Without it: a list.")
        parser.add_argument("--name", default="", help="Default: the model's and the type.")
        parser.add_argument("--wait", action="store_true", help="Return when it is made, or has failed.")
        parser.add_argument("--timeout", type=float, default=3600.0, help="Seconds to wait at most.")

    def act(self, *, quiet: bool, **options: Any) -> Any:
        catalogue.scan(shell.team())
        model = shell.model(options["model"])
        if not options["method"]:
            return [_way(way) for way in ways.of(model)]
        try:
            job = quantise.request(model, options["method"], options["name"], shell.actor())
        except quantise.QuantiseRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED, refusal.fields) from refusal
        except landing.LandingRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED) from refusal
        if options["wait"]:
            _follow(job, options["timeout"], self.say(quiet))
        return _facts(job)

    def show(self, value: Any) -> None:
        if isinstance(value, dict):
            size = f"{value['size_bytes'] / 1e6:,.1f} MB" if value["size_bytes"] else ""
            self.stdout.write(f"{value['name']}  {value['state']}  {size}".rstrip())
            return
        for row in value:
            size = f"{row['size_bytes'] / 1e6:,.1f} MB" if row["size_bytes"] else "n/a"
            self.stdout.write(f"{row['type']:<12} {size:>12}  {row['refused'] or row['words']}")


def _way(way: ways.Way) -> dict[str, Any]:
    return {
        "type": way.method,
        "tool": way.tool,
        "size_bytes": way.size_bytes,
        "words": way.words,
        "refused": way.why_not,
    }


def _follow(job: Job, timeout: float, say: Any) -> None:
    """Until it is over, telling each step; Failed with its error, or when it takes longer."""
    deadline, seen = time.monotonic() + timeout, ""
    while time.monotonic() < deadline:
        job.refresh_from_db()
        if job.state == Job.State.DONE:
            return
        if job.state not in Job.ACTIVE:
            raise shell.Failed(job.error or f"The job was {job.state}.")
        if (line := jobs.in_words(job.progress)) != seen:
            say(line)
            seen = line
        time.sleep(LOOK_EVERY_S)
    raise shell.Failed(f"Not made after {timeout:g} s; it goes on: see the model's page.", shell.LATE)


def _facts(job: Job) -> dict[str, Any]:
    made = Model.objects.filter(pk=job.result.get("model")).first()
    form = made.formats.first() if made else None
    return {
        "job": job.pk,
        "state": job.state,
        "type": job.arguments["method"],
        "name": made.name if made else job.arguments["name"],
        "model": made.pk if made else None,
        "size_bytes": form.size_bytes if form else None,
        "digest": form.digest if form else None,
    }
