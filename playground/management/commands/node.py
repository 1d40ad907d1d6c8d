"""`node stop | status`: this machine as a node."""

from argparse import ArgumentParser
from typing import Any

from playground import jobs, nodes
from playground.models import Replica
from playground.shell import LATE, Failed, Verb


class Command(Verb):
    help = "Stop this node's engines, or say what runs on it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["stop", "status"])
        parser.add_argument(
            "--timeout", type=float, default=nodes.STOP_TIMEOUT_S, help="Seconds that stop may take."
        )

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        if options["action"] == "stop":
            left = nodes.stop_local(options["timeout"])
            if left or jobs.stop_local():
                raise Failed(f"Not everything ended within {options['timeout']:g} s: replicas {left}.", LATE)
        return _status()

    def show(self, value: dict[str, Any]) -> None:
        accepts = (
            "accepts replicas" if value["accepting"] else "accepts nothing until its worker starts again"
        )
        self.stdout.write(
            f"{value['name']} at {value['address']}: {accepts}, {len(value['replicas'])} replicas"
        )
        for replica in value["replicas"]:
            self.stdout.write(f"  {replica['id']}  {replica['state']}  {replica['deployment']}")


def _status() -> dict[str, Any]:
    node = nodes.local_node()
    node.refresh_from_db()
    rows = Replica.objects.filter(node=node).exclude(state__in=Replica.TERMINAL).select_related("deployment")
    return {
        "name": node.name,
        "address": node.address,
        "accepting": node.accepting,
        "heartbeat_at": node.heartbeat_at,
        "replicas": [{"id": row.pk, "state": row.state, "deployment": row.deployment.name} for row in rows],
    }
