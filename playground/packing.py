"""Which of several deployments can run at the same time, and in what stages the rest can. Pure.

Given what each would need on each node and what the nodes have, as placement is. Those that run now stay as
long as there is room; what does not fit beside them waits for a stage in which something was stopped. Each is
started once: all that is asked of it is asked in its stage.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from playground.placement import Held, NodeRoom, NoRoom, Placement, Want, place


@dataclass(frozen=True)
class Part:
    """A deployment. `wants`: what a replica needs by node, and how much of that lies there."""

    key: int
    name: str
    wants: Mapping[int, tuple[Want, int]]
    held: tuple[int, ...] = ()
    """Its replicas that hold a place now; empty where it does not run."""
    count: int = 1
    """How many replicas it starts."""
    stoppable: bool = True

    @property
    def runs(self) -> bool:
        return bool(self.held)


@dataclass(frozen=True)
class Start:
    part: Part
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Stage:
    """What is stopped to make room, then started. `parts`: the ones asked here, in order."""

    stops: tuple[Part, ...]
    starts: tuple[Start, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Packed:
    stages: tuple[Stage, ...]
    left_out: tuple[tuple[Part, NoRoom], ...]
    """What has no room even when all that may be stopped is, and why."""


def put(part: Part, rooms: Sequence[NodeRoom]) -> tuple[tuple[Placement, ...], list[NodeRoom]] | NoRoom:
    """Where all its replicas would go, and the nodes with them there."""
    now, found = list(rooms), []
    for number in range(part.count):
        asked = [
            (want, replace(room, has=has))
            for room in now
            for want, has in [part.wants.get(room.pk, (None, 0))]
            if want is not None
        ]
        placement = place(asked)
        if isinstance(placement, NoRoom):
            return placement
        found.append(placement)
        now = [_with(room, part, placement, number) if room.pk == placement.node else room for room in now]
    return tuple(found), now


def together(parts: Sequence[Part], rooms: Sequence[NodeRoom]) -> list[tuple[Part, NoRoom]]:
    """Those of `parts` that find no room beside what runs and the ones before them; empty where all fit."""
    missing, now = [], list(rooms)
    for part in parts:
        if part.runs:
            continue
        found = put(part, now)
        if isinstance(found, NoRoom):
            missing.append((part, found))
        else:
            now = found[1]
    return missing


def without(rooms: Iterable[NodeRoom], parts: Iterable[Part]) -> list[NodeRoom]:
    """The nodes once these have stopped: what they hold is free, and shows as free."""
    gone = {key for part in parts for key in _replicas(part)}
    return [_freed(room, gone) for room in rooms]


def stages(parts: Sequence[Part], rooms: Sequence[NodeRoom], also: Sequence[Part] = ()) -> Packed:
    """All of `parts`, one stage after another, with the fewest stops. `also`: others that may be stopped."""
    now, live = list(rooms), [*also, *(part for part in parts if part.runs)]
    first, rest, now = _beside([part for part in parts if not part.runs], now)
    live += [start.part for start in first]
    asked = [part for part in parts if part.runs or any(part.key == start.part.key for start in first)]
    found = [Stage((), tuple(first), tuple(asked))] if asked else []
    left_out: list[tuple[Part, NoRoom]] = []
    while rest:
        made = _room_for(rest[0], now, live)
        if isinstance(made, NoRoom):
            left_out.append((rest.pop(0), made))
            continue
        starts, rest, now = _beside(rest, without(now, made))
        live = [part for part in live if part not in made] + [start.part for start in starts]
        found.append(Stage(tuple(made), tuple(starts), tuple(start.part for start in starts)))
    return Packed(tuple(found), tuple(left_out))


def _beside(parts: Sequence[Part], rooms: list[NodeRoom]) -> tuple[list[Start], list[Part], list[NodeRoom]]:
    """Those that fit beside what runs, in turn; the rest; the nodes with them there."""
    starts, rest = [], []
    for part in parts:
        found = put(part, rooms)
        if isinstance(found, NoRoom):
            rest.append(part)
        else:
            starts.append(Start(part, found[0]))
            rooms = found[1]
    return starts, rest, rooms


def _room_for(part: Part, rooms: list[NodeRoom], live: Sequence[Part]) -> list[Part] | NoRoom:
    """The fewest of `live` whose end makes room for it, the ones started last first."""
    chosen: list[Part] = []
    why = put(part, rooms)
    for one in [one for one in reversed(live) if one.stoppable]:
        if not isinstance(why, NoRoom):
            break
        chosen.append(one)
        why = put(part, without(rooms, chosen))
    if isinstance(why, NoRoom):
        return why
    for one in list(chosen):
        fewer = [other for other in chosen if other is not one]
        if not isinstance(put(part, without(rooms, fewer)), NoRoom):
            chosen = fewer
    return chosen


def _replicas(part: Part) -> tuple[int, ...]:
    """Keys under which a node holds it: its replicas', or stand-ins below zero for those to come."""
    return part.held or tuple(-(part.key * 100 + number) - 1 for number in range(part.count))


def _with(room: NodeRoom, part: Part, placement: Placement, number: int) -> NodeRoom:
    held = Held(
        replica=_replicas(part)[number],
        name=part.name,
        build=placement.build,
        memory_bytes=placement.memory_bytes,
        slots=placement.slots,
        gpus=tuple(index for index, _ in placement.gpus),
        settled=False,
    )
    return replace(room, held=(*room.held, held))


def _freed(room: NodeRoom, gone: set[int]) -> NodeRoom:
    shown = sum(
        held.memory_bytes
        for held in room.held
        if held.replica in gone and held.settled and held.build == "cpu"
    )
    kept = tuple(held for held in room.held if held.replica not in gone)
    available = min(room.memory_bytes, room.available_bytes + shown)
    return replace(room, held=kept, available_bytes=available)
