"""Which node a replica gets, and why it gets none."""

from playground.placement import GIB, GpuRoom, Held, NodeRoom, NoRoom, Placement, Want, fit, place


def node(name: str = "one", *, memory: float = 8, held: tuple[Held, ...] = (), **values: int) -> NodeRoom:
    size = int(memory * GIB)
    given = {"pk": 1, "cores": 2, "available_bytes": size} | values
    return NodeRoom(name=name, memory_bytes=size, held=held, **given)


def gpu_node(*, gpus: int = 2, held: tuple[Held, ...] = ()) -> NodeRoom:
    cards = tuple(GpuRoom(index, "H100", 80 * GIB) for index in range(gpus))
    return NodeRoom(2, "gpu-1", 16, 128 * GIB, 128 * GIB, cards, held)


def on_cpu(replica: int, memory: float, *, settled: bool = True) -> Held:
    return Held(replica, f"model-{replica}", "cpu", int(memory * GIB), (f"cpu.{replica}",), settled=settled)


def placed(found: Placement | NoRoom | None) -> Placement:
    assert isinstance(found, Placement), found
    return found


def test_small_engines_share_the_cores_of_a_small_machine() -> None:
    first = placed(fit(Want("cpu", GIB), node()))
    second = placed(fit(Want("cpu", GIB), node(held=(on_cpu(0, 1),))))
    assert (first.slots, second.slots) == (("cpu.0",), ("cpu.1",))
    assert (first.cores, second.cores) == (2, 2)
    assert "shared with 1 more" in second.note


def test_the_first_free_number_is_taken_again() -> None:
    assert placed(fit(Want("cpu", GIB), node(held=(on_cpu(1, 1),)))).slots == ("cpu.0",)


def test_memory_is_the_hard_limit() -> None:
    assert fit(Want("cpu", 6 * GIB), node(held=(on_cpu(0, 3),))) is None
    assert fit(Want("cpu", 5 * GIB), node(held=(on_cpu(0, 3),))) is not None


def test_what_other_programs_use_counts() -> None:
    assert fit(Want("cpu", 4 * GIB), node(available_bytes=3 * GIB)) is None


def test_memory_promised_to_a_start_under_way_is_not_given_twice() -> None:
    busy = node(available_bytes=5 * GIB, held=(on_cpu(0, 3, settled=False),))
    assert fit(Want("cpu", 3 * GIB), busy) is None
    settled = node(available_bytes=5 * GIB, held=(on_cpu(0, 3),))
    assert fit(Want("cpu", 3 * GIB), settled) is not None


def test_unknown_memory_is_said_and_counts_as_nothing() -> None:
    found = placed(fit(Want("cpu", 0), node()))
    assert found.memory_bytes == 0
    assert "memory it needs: unknown" in found.note


def test_no_room_says_what_is_needed_what_there_is_and_who_holds_it() -> None:
    found = place(
        [
            (Want("cpu", 7 * GIB), node(held=(on_cpu(0, 3),))),
            (Want("cpu", 7 * GIB), node("two", memory=4, pk=2)),
        ]
    )
    assert isinstance(found, NoRoom)
    assert "needs 7.0 GiB" in found.reason
    assert "one, has 5.0 GiB free of 8.0 GiB" in found.reason
    assert "model-0 (3.0 GiB)" in found.reason


def test_too_many_cores_are_refused_in_words() -> None:
    found = place([(Want("cpu", GIB, cores=4), node())])
    assert isinstance(found, NoRoom)
    assert "needs 4 cores" in found.reason and "has 2 cores" in found.reason


def test_without_nodes_it_says_so() -> None:
    found = place([])
    assert isinstance(found, NoRoom)
    assert "start a worker" in found.reason


def test_a_node_that_holds_the_weights_is_preferred_to_a_larger_one() -> None:
    near, far = node("near", has=2), node("far", memory=64, pk=2)
    assert placed(place([(Want("cpu", GIB), far), (Want("cpu", GIB), near)])).node == near.pk


def test_a_whole_gpu_and_a_share_of_it_exclude_each_other_by_their_locks() -> None:
    whole = placed(fit(Want("cuda", 70 * GIB), gpu_node(gpus=1)))
    share = placed(fit(Want("cuda", 10 * GIB, share=True), gpu_node(gpus=1)))
    assert set(share.slots) < set(whole.slots)
    holder = Held(7, "big", "cuda", 70 * GIB, whole.slots, (0,))
    assert fit(Want("cuda", 5 * GIB, share=True), gpu_node(gpus=1, held=(holder,))) is None
    sharer = Held(7, "small", "cuda", 10 * GIB, share.slots, (0,))
    assert fit(Want("cuda", 5 * GIB), gpu_node(gpus=1, held=(sharer,))) is None


def test_two_small_engines_share_a_gpu_while_their_memory_fits() -> None:
    holder = Held(7, "small", "cuda", 30 * GIB, ("gpu-0.0",), (0,))
    found = placed(fit(Want("cuda", 30 * GIB, share=True), gpu_node(held=(holder,))))
    assert found.gpus == ((0, 1),), "the fuller card is filled first"
    assert placed(fit(Want("cuda", 60 * GIB, share=True), gpu_node(held=(holder,)))).gpus == ((1, 0),)


def test_several_gpus_are_taken_together_or_not_at_all() -> None:
    assert placed(fit(Want("cuda", 100 * GIB, gpus=2), gpu_node())).gpus == ((0, None), (1, None))
    holder = Held(7, "big", "cuda", 70 * GIB, tuple(f"gpu-0.{n}" for n in range(4)), (0,))
    found = place([(Want("cuda", 100 * GIB, gpus=2), gpu_node(held=(holder,)))])
    assert isinstance(found, NoRoom)
    assert "1 of 2 GPUs free" in found.reason and "big (70.0 GiB)" in found.reason


def test_the_row_keeps_what_was_given() -> None:
    assert placed(fit(Want("cuda", GIB, share=True), gpu_node(gpus=1))).resources == {
        "build": "cuda",
        "cores": 8,
        "memory_bytes": GIB,
        "gpus": [{"index": 0, "share": 0}],
        "slots": ["gpu-0.0"],
    }
