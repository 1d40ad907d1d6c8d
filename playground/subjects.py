"""The columns that a measured run asks: which are ready, how they are kept with it, what they share."""

from collections.abc import Mapping, Sequence
from typing import Any

from playground import asking, deployments, opening
from playground.engine_client import EngineError
from playground.models import Column, Deployment, Replica


class NotReady(Exception):
    """A column cannot be asked now; the text says which and why."""


def ready(columns: Sequence[Column]) -> dict[int, list[Replica]]:
    """Each column's ready replicas, by its key; NotReady names every column without one."""
    found, wrong = {}, []
    for place, column in enumerate(columns):
        try:
            found[column.pk] = _replicas(column, letter(place))
        except NotReady as problem:
            wrong.append(str(problem))
    if wrong or not columns:
        raise NotReady(" ".join(wrong) or "This conversation has no column.")
    return found


def standing(columns: Sequence[Column]) -> list[tuple[str, Column, str]]:
    """Each column with its letter, and why it cannot be asked now; empty where it can."""
    found = []
    for place, column in enumerate(columns):
        why = ""
        try:
            _replicas(column, letter(place))
        except NotReady as problem:
            why = str(problem)
        found.append((letter(place), column, why))
    return found


def _replicas(column: Column, name: str) -> list[Replica]:
    deployment = column.deployment
    if deployment is None or deployment.desired == Deployment.Desired.DELETED:
        raise NotReady(f"Column {name} has no model: choose one.")
    found = deployments.ready_replicas(deployment)
    if found:
        try:
            asking.question(column, found[0], asking.prompt_of(column, "?"))
        except EngineError as problem:
            raise NotReady(problem.text) from problem
        return found
    if deployment.desired != Deployment.Desired.RUNNING:
        raise NotReady(f"{deployment.name} is stopped: start it first.")
    raise NotReady(f"{deployment.name} is not ready: {deployment.problem or 'it is still starting.'}")


def letter(place: int) -> str:
    """How a column is called in results: A, B, …"""
    return chr(ord("A") + place)


def described(column: Column, replicas: Sequence[Replica]) -> dict[str, Any]:
    """What is kept of a column, so that results stay true when it changes: see `same`."""
    deployment = column.deployment
    assert deployment is not None
    return {
        "pk": column.pk,
        "name": deployment.name + (f": {column.adapter}" if column.adapter else ""),
        "deployment": deployment.pk,
        "adapter": column.adapter,
        "engine": deployment.engine,
        "configurations": sorted({replica.configuration_id or 0 for replica in replicas}),
        "replicas": [replica.pk for replica in replicas],
        "parameters": asking.parameters_of(column),
        "system_prompt": asking.system_prompt_of(column),
        **opening.beside(column.conversation),
    }


def share_hardware(columns: Sequence[Sequence[Replica]]) -> bool:
    """Whether two columns are answered by the same GPUs, or by the cores of one machine."""
    places = [set().union(*(_hardware(replica) for replica in replicas)) for replicas in columns]
    return any(one & other for at, one in enumerate(places) for other in places[:at])


def _hardware(replica: Replica) -> set[tuple[int | None, Any]]:
    gpus = replica.resources.get("gpus") or []
    return {(replica.node_id, gpu.get("index")) for gpu in gpus} or {(replica.node_id, "cores")}


def same(told: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> bool:
    """Whether the columns would be asked now as they were then, of the same configurations."""
    try:
        chosen = ready(columns)
    except NotReady:
        return False
    now = [described(column, chosen[column.pk]) for column in columns]
    return [_lasting(one) for one in now] == [_lasting(one) for one in told]


def _lasting(described: Mapping[str, Any]) -> dict[str, Any]:
    """Without which starts those were."""
    return {name: value for name, value in described.items() if name not in ("name", "replicas")}
