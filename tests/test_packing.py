"""Which deployments run at the same time, and in what stages the others can."""

from playground import packing
from playground.packing import Packed, Part
from playground.placement import GIB, GpuRoom, Held, NodeRoom, NoRoom, Want


def room(*held: Held, memory: float = 8, gpus: int = 0) -> NodeRoom:
    cards = tuple(GpuRoom(index, "H100", 80 * GIB) for index in range(gpus))
    size = int(memory * GIB)
    return NodeRoom(1, "one", 4, size, size, cards, held)


def part(key: int, memory: float, *held: int, **values: object) -> Part:
    wants = {1: (Want("cpu", int(memory * GIB)), 0)}
    return Part(key, f"p{key}", wants, held, **values)  # type: ignore[arg-type]


def on_gpus(key: int, gpus: int) -> Part:
    return Part(key, f"p{key}", {1: (Want("cuda", 10 * GIB, gpus), 0)})


def holds(replica: int, memory: float) -> Held:
    return Held(replica, f"r{replica}", "cpu", int(memory * GIB), (f"cpu.{replica}",))


def told(packed: Packed) -> list[tuple[list[int], list[int], list[int]]]:
    """(stopped, started, asked) of each stage, by key."""
    return [
        (
            [one.key for one in stage.stops],
            [start.part.key for start in stage.starts],
            [one.key for one in stage.parts],
        )
        for stage in packed.stages
    ]


def test_what_fits_together_is_one_stage_without_a_stop() -> None:
    parts = [part(1, 3), part(2, 3)]
    assert packing.together(parts, [room()]) == []
    assert told(packing.stages(parts, [room()])) == [([], [1, 2], [1, 2])]


def test_what_runs_stays_and_the_rest_starts_beside_it() -> None:
    parts = [part(1, 3), part(2, 5, 7)]
    assert told(packing.stages(parts, [room(holds(7, 5))])) == [([], [1], [1, 2])]


def test_what_does_not_fit_waits_for_the_end_of_another() -> None:
    parts = [part(1, 5), part(2, 5, 7), part(3, 5)]
    rooms = [room(holds(7, 5))]
    ((missing, why), *_) = packing.together(parts, rooms)
    assert missing.key == 1 and "needs 5.0 GiB" in why.reason
    assert told(packing.stages(parts, rooms)) == [([], [], [2]), ([2], [1], [1]), ([1], [3], [3])]


def test_each_is_started_once_and_a_stage_takes_all_that_fit() -> None:
    parts = [part(1, 6), part(2, 4), part(3, 4), part(4, 6)]
    found = told(packing.stages(parts, [room()]))
    assert found == [([], [1], [1]), ([1], [2, 3], [2, 3]), ([3, 2], [4], [4])]
    started = [key for _, starts, _ in found for key in starts]
    assert sorted(started) == [1, 2, 3, 4]


def test_no_more_is_stopped_than_has_to_be() -> None:
    parts = [part(1, 1, 7), part(2, 6, 8), part(3, 6)]
    found = told(packing.stages(parts, [room(holds(7, 1), holds(8, 6))]))
    assert found == [([], [], [1, 2]), ([2], [3], [3])]


def test_what_may_not_be_stopped_never_is_and_the_rest_says_who_holds_the_room() -> None:
    parts = [part(1, 5, 7, stoppable=False), part(2, 5)]
    packed = packing.stages(parts, [room(holds(7, 5))])
    assert told(packed) == [([], [], [1])]
    ((left, why),) = packed.left_out
    assert left.key == 2 and isinstance(why, NoRoom) and "Held by: r7 (5.0 GiB)" in why.reason


def test_others_are_stopped_only_when_nothing_else_makes_room() -> None:
    other = part(9, 2, 5)
    rooms = [room(holds(5, 2), holds(7, 5))]
    parts = [part(1, 5, 7), part(2, 6), part(3, 7)]
    found = told(packing.stages(parts, rooms, [other]))
    assert found == [([], [], [1]), ([1], [2], [2]), ([2, 9], [3], [3])]


def test_what_fits_nowhere_is_left_out_and_stops_nothing() -> None:
    packed = packing.stages([part(1, 5, 7), part(2, 9)], [room(holds(7, 5))])
    assert told(packed) == [([], [], [1])]
    assert [left.key for left, _ in packed.left_out] == [2]


def test_whole_gpus_are_given_in_turn() -> None:
    parts = [on_gpus(1, 1), on_gpus(2, 1), on_gpus(3, 2)]
    assert told(packing.stages(parts, [room(gpus=2)])) == [([], [1, 2], [1, 2]), ([2, 1], [3], [3])]


def test_every_replica_of_one_needs_its_place() -> None:
    parts = [part(1, 3, count=2), part(2, 3)]
    assert told(packing.stages(parts, [room()])) == [([], [1], [1]), ([1], [2], [2])]


def test_memory_that_shows_in_use_is_free_once_its_holder_stops() -> None:
    busy = NodeRoom(1, "one", 4, 8 * GIB, 1 * GIB, (), (holds(7, 5),))
    assert packing.without([busy], [part(1, 5, 7)])[0].free_bytes == 6 * GIB


def test_without_a_node_nothing_fits() -> None:
    packed = packing.stages([part(1, 1)], [])
    assert not packed.stages
    assert "No node accepts replicas" in packed.left_out[0][1].reason
