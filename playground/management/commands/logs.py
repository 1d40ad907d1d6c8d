"""`manage.py logs DEPLOYMENT`: what its engine wrote."""

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings

from playground import shell
from playground.models import Replica


class Command(shell.Verb):
    help = (
        "Print an engine's log: the newest replica's, from this node's file, else the lines kept on its row."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deployment", help="Id or name.")
        parser.add_argument("--lines", type=int, default=200, help="Newest lines, at most.")
        parser.add_argument("--follow", action="store_true", help="Go on printing until the replica ends.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        replica = shell.deployment(options["deployment"]).replicas.order_by("-id").first()
        if replica is None:
            raise shell.Failed("It was never started.", shell.MISSING)
        lines = _lines(replica)[-options["lines"] :]
        if options["follow"] and not quiet:
            self._follow(replica)
            lines = []
        return {"replica": replica.pk, "state": replica.state, "lines": lines}

    def show(self, value: dict[str, Any]) -> None:
        for line in value["lines"]:
            self.stdout.write(line)

    def _follow(self, replica: Replica) -> None:
        """Print the file as it grows; one cut at its size limit is read from its start."""
        position = 0
        while True:
            ended = replica.state in Replica.TERMINAL
            if _file(replica).exists():
                with _file(replica).open(errors="replace") as file:
                    if position > _file(replica).stat().st_size:
                        position = 0
                    file.seek(position)
                    self.stdout.write(file.read(), ending="")
                    position = file.tell()
            self.stdout.flush()
            if ended:
                return
            time.sleep(0.5)
            replica.refresh_from_db()


def _file(replica: Replica) -> Path:
    home: Path = settings.HOME
    return home / "replicas" / str(replica.pk) / "engine.log"


def _lines(replica: Replica) -> list[str]:
    if _file(replica).exists():
        return _file(replica).read_text(errors="replace").splitlines()
    return replica.log_tail.splitlines()
