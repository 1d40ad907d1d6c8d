"""The figures under an answer: the definitions, and when there is none."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.figures import Figures, figures


def shown(timings: object, usage: object, text: str = "", reasoning: str = "") -> Figures:
    return figures(SimpleNamespace(timings=timings, usage=usage, text=text, reasoning=reasoning))


TIMES = {"ttft": 100.0, "e2e": 1100.0, "chunks": 11, "queue": 5.0}


def test_tpot_counts_tokens_after_the_first() -> None:
    found = shown(TIMES, {"completion_tokens": 11})
    assert (found.tpot, found.tokens_per_s, found.approximate_tpot) == (100.0, 10.0, False)
    assert found.chunk_gap == 100.0


def test_tpot_leaves_out_the_whole_first_chunk_where_its_tokens_are_known() -> None:
    assert shown(TIMES | {"first_chunk_tokens": 3}, {"completion_tokens": 13}).tpot == 100.0


def test_chunks_of_several_tokens_make_it_approximate() -> None:
    found = shown(TIMES | {"chunks": 5}, {"completion_tokens": 11})
    assert found.tpot == 100.0 and found.approximate_tpot


@pytest.mark.parametrize(
    ("timings", "usage"),
    [
        (TIMES, {}),
        (TIMES, {"completion_tokens": 1}),
        (TIMES | {"chunks": 1}, {"completion_tokens": 11}),
        (TIMES | {"e2e": 100.0}, {"completion_tokens": 11}),
        (TIMES | {"first_chunk_tokens": 11}, {"completion_tokens": 11}),
        ({}, {"completion_tokens": 11}),
        (None, None),
        ({"ttft": "1", "e2e": True, "chunks": -1}, {"completion_tokens": "11"}),
    ],
)
def test_tpot_is_not_made_up(timings: object, usage: object) -> None:
    found = shown(timings, usage)
    assert (found.tpot, found.tokens_per_s, found.approximate_tpot) == (None, None, False)


def test_characters_a_second_count_reasoning_too() -> None:
    assert shown({"e2e": 2000.0}, {}, "abcd", "ef").characters_per_s == 3.0


def test_counted_and_lagged_answers_stay_out_of_aggregates() -> None:
    assert shown(TIMES, {"completion_tokens": 11}).comparable
    assert not shown(TIMES, {"completion_tokens": 11, "approximate": True}).comparable
    assert not shown(TIMES | {"lagged": True}, {"completion_tokens": 11}).comparable


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)
NAMES = st.sampled_from(["ttft", "e2e", "chunks", "first_chunk_tokens", "completion_tokens", "lagged"])


@given(st.dictionaries(NAMES, JSON), st.dictionaries(NAMES, JSON))
def test_any_row_has_figures(timings: dict[str, object], usage: dict[str, object]) -> None:
    found = shown(timings, usage)
    assert found.tpot is None or found.tpot > 0
