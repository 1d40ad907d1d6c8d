"""Which answers were timed while others ran on the same hardware: their figures say less. Reads rows only."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import combinations

from playground.figures import figures
from playground.models import Generation, Replica


def shares(one: Replica, other: Replica) -> bool:
    """Whether both take from the same cores or GPUs."""
    if one.node_id != other.node_id:
        return False
    mine, theirs = _gpus(one), _gpus(other)
    return bool(mine & theirs) if mine and theirs else mine == theirs


def timed(answers: Sequence[Generation], places: Mapping[int, int], *, named: bool = True) -> str:
    """A sentence when answers of several columns ran at once on shared hardware; empty when none did.

    `places`: column → where it stands, counted from one. Answers bring their replica and its node, whose name
    strangers are not told (`named`).
    """
    met: set[int] = set()
    nodes: set[str] = set()
    for one, other in combinations(answers, 2):
        if one.replica and other.replica and shares(one.replica, other.replica) and _overlap(one, other):
            met |= {places.get(one.column_id, 0), places.get(other.column_id, 0)}
            nodes.add(one.replica.node.name if one.replica.node else "one node")
    columns = [str(place) for place in sorted(met) if place]
    if len(columns) < 2:
        return ""
    listed = f"{', '.join(columns[:-1])} and {columns[-1]}"
    whose = f"the hardware of {' and '.join(sorted(nodes))}" if named else "hardware"
    return f"Timed together: columns {listed} share {whose}."


def _gpus(replica: Replica) -> set[int]:
    return {gpu["index"] for gpu in replica.resources.get("gpus") or []}


def _overlap(one: Generation, other: Generation) -> bool:
    mine, theirs = _span(one), _span(other)
    return bool(mine and theirs and mine[0] < theirs[1] and theirs[0] < mine[1])


def _span(answer: Generation) -> tuple[datetime, datetime] | None:
    """When the engine worked on it, by its row; None while it does."""
    e2e = figures(answer).e2e
    if answer.ended_at is None or e2e is None:
        return None
    return answer.ended_at - timedelta(milliseconds=e2e), answer.ended_at
