"""How many requests at once are enough, for engines as pure functions of time."""

import pytest

from playground.knee import MOST, Knee


def run(knee: Knee, slots: int, row_s: float = 0.2, seconds: float = 60.0) -> None:
    """Let `knee` ask an engine that works on `slots` rows at once, in a queue, for so long."""
    now, free, flying = 0.0, [0.0] * slots, list[tuple[float, float]]()
    while now < seconds:
        while len(flying) < knee.limit:
            place = min(range(slots), key=free.__getitem__)
            free[place] = max(now, free[place]) + row_s
            flying.append((free[place], now))
        now, begun = min(flying)
        flying.remove((now, begun))
        knee.note(1.0, now - begun, busy=True)


@pytest.mark.parametrize("slots", [1, 4, 16, 64])
def test_it_fills_an_engine_and_makes_no_long_queue(slots: int) -> None:
    knee = Knee()
    run(knee, slots)
    assert slots <= knee.limit <= slots * 2 + 2


def test_it_goes_down_where_fewer_do_as_well() -> None:
    knee = Knee(limit=64)
    run(knee, 4, seconds=400)
    assert 4 <= knee.limit <= 24


def test_it_takes_no_more_than_the_most() -> None:
    knee = Knee()
    run(knee, 1000, seconds=20)
    assert knee.limit == MOST


def test_a_refusal_halves_it_and_it_stays_above_none() -> None:
    knee = Knee(limit=3)
    for _ in range(5):
        knee.overloaded()
    assert knee.limit == 1 and not knee.rising


def test_what_was_not_at_the_limit_says_nothing() -> None:
    knee = Knee()
    for _ in range(1000):
        knee.note(1.0, 0.1, busy=False)
    assert knee.limit == 4


def test_fewer_that_were_never_reached_are_not_as_good() -> None:
    """Rows come too slowly for either limit: what looks quick is only that few were asked at once."""
    knee = Knee(limit=40, rising=False)
    seen = set()
    for _ in range(20_000):
        seen.add(knee.limit)
        knee.note(1.0, knee.limit / 1000, busy=True, at_once=knee.limit if knee.limit >= 40 else 10)
    assert min(seen) >= 30 and knee.limit >= 40
