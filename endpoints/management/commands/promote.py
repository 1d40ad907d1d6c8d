"""`manage.py promote DEPLOYMENT --endpoint NAME`: launch the configuration that was tried."""

import time
from argparse import ArgumentParser
from typing import Any

from endpoints import promotion, tested
from endpoints.models import Release
from playground import shell


class Command(shell.Verb):
    help = "Promote a ready deployment's configuration to an endpoint and wait until it is live."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deployment", help="Id or name.")
        parser.add_argument("--endpoint", required=True, metavar="NAME", help="New or existing.")
        parser.add_argument(
            "--prompt", default="", metavar="NAME[@N]", help="The prompt it was tested with; N: its version."
        )
        parser.add_argument("--note", default="", help="Why.")
        parser.add_argument("--in-place", action="store_true", help="Hand the running replica over.")
        parser.add_argument("--no-wait", action="store_true", help="Return while the release still starts.")
        parser.add_argument("--timeout", type=float, default=900.0, help="Seconds to wait at most.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        row = shell.deployment(options["deployment"])
        try:
            release = promotion.promote(
                row,
                endpoint=options["endpoint"],
                user=shell.actor(),
                note=options["note"],
                in_place=options["in_place"],
                prompt=tested.find(row.team, options["prompt"]),
            )
        except promotion.PromotionRefused as refusal:
            raise shell.Failed(str(refusal), shell.REFUSED) from refusal
        if not options["no_wait"]:
            _wait(release, options["timeout"], self.say(quiet))
        return release_facts(release)

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write(f"endpoint {value['endpoint']}  release {value['release']}  {value['state']}")


def release_facts(release: Release) -> dict[str, Any]:
    """A release as the shell shows it."""
    return {
        "endpoint": release.endpoint.name,
        "release": release.number,
        "state": release.state,
        "configuration": release.configuration.digest,
        "deployment": release.deployment_id,
        "prompt": str(release.prompt_version) if release.prompt_version else None,
        "problem": release.problem,
    }


def _wait(release: Release, timeout: float, say: Any) -> None:
    deadline, seen = time.monotonic() + timeout, ""
    while release.state == Release.State.STARTING:
        if time.monotonic() > deadline:
            raise shell.Failed(f"Not live after {timeout:g} s; it goes on by itself.", shell.LATE)
        if release.state != seen:
            say(f"release {release.number} {release.state}")
            seen = release.state
        time.sleep(0.2)
        release.refresh_from_db()
    if release.state == Release.State.FAILED:
        raise shell.Failed(release.problem or "The release failed.", shell.FAILED)
