"""What a plan is worked out from: the deployments of columns, the nodes, who may stop what. Reads rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from playground import engines, packing, wants
from playground.models import Column, Deployment, Node, Replica, User
from playground.placement import NodeRoom, NoRoom, Placement
from playground.room import gib


@dataclass(frozen=True)
class Ground:
    """The deployments of columns and the nodes as they are now."""

    rows: dict[int, Deployment]
    parts: list[packing.Part]
    part_of: dict[int, packing.Part]
    rooms: list[NodeRoom]
    nodes: dict[int, Node]

    @classmethod
    def of(cls, columns: Iterable[Column], user: User | None) -> "Ground":
        rows: dict[int, Deployment] = {}
        for column in columns:
            row = column.deployment
            if row and row.desired != Deployment.Desired.DELETED:
                rows.setdefault(row.pk, row)
        nodes = {node.pk: node for node in wants.accepting()}
        parts = [_part(row, nodes.values(), user) for row in rows.values()]
        kept = [part for part in parts if part.runs or not rows[part.key].released]
        rooms = [wants.room(next(iter(rows.values())), node) for node in nodes.values()] if rows else []
        leaving = [part for part in (_leaving(row) for row in rows.values()) if part]
        return cls(
            {part.key: rows[part.key] for part in kept},
            kept,
            {part.key: part for part in kept},
            packing.without(rooms, leaving),
            nodes,
        )

    def beside(self, others: Sequence[Deployment], user: User) -> "Ground":
        """With others that may be stopped."""
        extra = {row.pk: _part(row, self.nodes.values(), user) for row in others}
        rows = {row.pk: row for row in others}
        return replace(self, part_of=self.part_of | extra, rows=self.rows | rows)

    def waits(self, row: Deployment) -> bool:
        """Whether it is to run and waits for room, and the plan may hold it back."""
        part = self.part_of[row.pk]
        return not part.runs and part.stoppable and row.desired == Deployment.Desired.RUNNING

    def where(self, placements: Iterable[Placement]) -> str:
        return ", ".join(dict.fromkeys(self.nodes[one.node].name for one in placements))

    def held(self, stage: packing.Stage) -> list[tuple[Node, dict[str, Any]]]:
        """What those of a stage hold, and where; `dict` as `Replica.resources`."""
        placed = [one for start in stage.starts for one in start.placements]
        found = [(self.nodes[one.node], one.resources) for one in placed]
        running = [pk for part in stage.parts for pk in part.held]
        rows = Replica.objects.filter(pk__in=running).select_related("node")
        return found + [(row.node, row.resources) for row in rows if row.node]

    def left_out(
        self, found: Iterable[tuple[packing.Part, NoRoom]], columns: Iterable[Column]
    ) -> list[tuple[Column, str]]:
        why = {part.key: " ".join([no_room.reason, *self.kept()]) for part, no_room in found}
        mine = [column for column in columns if column.deployment_id in why]
        return [(column, why[column.deployment_id or 0]) for column in mine]

    def kept(self) -> list[str]:
        """Why those that run and hold room are not stopped, where the plan may not."""
        rows = [self.rows[part.key] for part in self.parts if part.runs and not part.stoppable]
        return [_kept(row) for row in rows]

    def short(self, no_room: NoRoom) -> str:
        """What the columns need together and what there is; empty where that is not what it fails by."""
        free = packing.without(self.rooms, self.parts)
        if not free:
            return no_room.reason
        node = max(free, key=lambda room: (len(room.gpus), room.memory_bytes))
        needs = [part.wants[node.pk][0] for part in self.parts if node.pk in part.wants]
        names = _and(_titles([self.rows[part.key] for part in self.parts]))
        gpus = sum(want.gpus for want in needs if want.build == "cuda" and not want.share)
        if gpus > len(node.gpus):
            return f"{names} need {gpus} GPUs together; node {node.name} has {len(node.gpus)}."
        memory = sum(want.memory_bytes for want in needs if want.build == "cpu")
        if memory > node.free_bytes:
            has = gib(node.free_bytes)
            return f"{names} need {gib(memory)} together; node {node.name} has {has} free for them."
        return ""


def _part(row: Deployment, nodes: Iterable[Node], user: User | None) -> packing.Part:
    needs = {}
    for node in nodes:
        if want := wants.want(row, node):
            needs[node.pk] = (want, wants.room(row, node).has)
    held = _holding(row) if row.desired == Deployment.Desired.RUNNING else ()
    return packing.Part(
        row.pk, row.name, needs, held, max(1, row.min_replicas), stoppable=may_stop(row, user)
    )


def _leaving(row: Deployment) -> packing.Part | None:
    """What it holds although it is to stop: free soon."""
    held = () if row.desired == Deployment.Desired.RUNNING else _holding(row)
    return packing.Part(row.pk, row.name, {}, held) if held else None


def _holding(row: Deployment) -> tuple[int, ...]:
    rows = row.replicas.filter(state__in=Replica.HOLDING).exclude(state=Replica.State.LOST)
    return tuple(rows.order_by("pk").values_list("pk", flat=True))


def may_stop(row: Deployment, user: User | None) -> bool:
    """Whether a plan of `user` may stop it: never what serves an endpoint or what somebody else started."""
    return not row.released and row.created_by_id in (None, user.pk if user else None)


def _kept(row: Deployment) -> str:
    if row.released:
        return f"{row.name} serves an endpoint: a plan never stops it."
    whose = row.created_by.get_username() if row.created_by else "somebody"
    return f"{row.name} was started by {whose}: ask {whose} to run this, or to stop it first."


def _titles(rows: Sequence[Deployment]) -> list[str]:
    """Engines by their names where those tell them apart, else the deployments."""
    titles = [engines.get(row.engine).title for row in rows]
    return titles if len(set(titles)) == len(titles) else [row.name for row in rows]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
