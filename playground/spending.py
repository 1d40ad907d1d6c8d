"""What an answer cost: its share of its replica's time, by what the replica holds of a priced machine."""

from decimal import Decimal
from typing import Any

from playground.models import Node, Replica


def of(replica: Replica, busy_s: float | None) -> dict[str, float]:
    """{"cost": dollars} where its node has a price, {"gpu_s": GPU-seconds} where it holds GPUs.

    `busy_s`: seconds of the replica, each split equally among the answers then in flight.
    """
    if busy_s is None or replica.node is None:
        return {}
    gpus = len(replica.resources.get("gpus") or [])
    found = {"gpu_s": round(busy_s * gpus, 4)} if gpus else {}
    price = per_second(replica, replica.node)
    return found if price is None else found | {"cost": round(busy_s * float(price), 9)}


def shared(replica: Replica, busy_s: float | None) -> dict[str, float]:
    """The same, and {"core_s": core-seconds} where it holds cores and no GPUs."""
    found, cores = of(replica, busy_s), replica.resources.get("cores")
    if busy_s is not None and cores and "gpu_s" not in found:
        found["core_s"] = round(busy_s * cores, 4)
    return found


def per_second(replica: Replica, node: Node) -> Decimal | None:
    """Dollars a second of what the replica holds: its part of the node's GPUs, else of its cores."""
    if node.price_per_hour is None:
        return None
    return node.price_per_hour * Decimal(_part(replica.resources, node.inventory)) / 3600


def _part(held: dict[str, Any], whole: dict[str, Any]) -> float:
    gpus, cores = len(held.get("gpus") or []), held.get("cores")
    if gpus:
        return min(1.0, gpus / max(1, len(whole.get("gpus") or [])))
    return min(1.0, cores / whole["cores"]) if cores and whole.get("cores") else 1.0
