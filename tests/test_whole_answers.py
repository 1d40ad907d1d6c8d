"""A whole answer put together from a stream: what each piece becomes, and streams that are none."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.streams import Malformed
from endpoints.whole import Whole

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({**HEAD, "choices": choices, **more}).encode() + b"\n\n"


def delta(index: int = 0, finish: str | None = None, **piece: Any) -> dict[str, Any]:
    return {"index": index, "delta": piece, "finish_reason": finish}


DONE = b"data: [DONE]\n\n"
CHAT = b"".join(
    [
        chunk(delta(role="assistant", content=None)),
        chunk(delta(reasoning_content="Hm")),
        chunk({**delta(content="Par"), "logprobs": {"content": [{"token": "Par"}]}}),
        chunk({**delta(content="is é"), "logprobs": {"content": [{"token": "is é"}]}}),
        chunk(delta(finish="stop")),
        chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, timings={"n": 1}),
        DONE,
    ]
)


def gathered(*pieces: bytes) -> dict[str, Any]:
    whole = Whole()
    for piece in pieces:
        whole.feed(piece)
    assert not whole.failed
    return whole.answer()


@given(st.lists(st.integers(0, len(CHAT)), max_size=12))
def test_a_chat_is_the_same_however_its_bytes_come(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CHAT)]
    assert gathered(*(CHAT[begin:end] for begin, end in pairwise(edges))) == {
        "id": "c1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris é", "reasoning_content": "Hm"},
                "logprobs": {"content": [{"token": "Par"}, {"token": "is é"}]},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "timings": {"n": 1},
    }


def test_calls_of_tools_grow_each_by_itself() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": ""}}
    second = {"index": 1, "id": "b", "type": "function", "function": {"name": "mul", "arguments": "{}"}}
    more = {"index": 0, "function": {"arguments": '{"x":1}'}}
    pieces = [delta(tool_calls=[first]), delta(tool_calls=[second, more]), delta(finish="tool_calls")]
    message = gathered(*map(chunk, pieces), DONE)["choices"][0]["message"]
    assert message["content"] is None
    assert [(call["id"], call["function"]) for call in message["tool_calls"]] == [
        ("a", {"name": "add", "arguments": '{"x":1}'}),
        ("b", {"name": "mul", "arguments": "{}"}),
    ]


def test_a_completion_is_its_text_and_choices_stay_apart() -> None:
    parts = [(1, "b"), (0, "a"), (1, "c")]
    pieces = [chunk({"index": at, "text": text, "finish_reason": None}) for at, text in parts]
    assert [choice["text"] for choice in gathered(*pieces, DONE)["choices"]] == ["a", "bc"]


def test_an_answer_without_a_word_is_empty_text() -> None:
    assert gathered(chunk(delta(finish="stop")), DONE)["choices"][0]["message"]["content"] == ""


def test_an_engine_that_fails_midway_leaves_no_answer() -> None:
    whole = Whole()
    whole.feed(chunk(delta(content="Par")) + b'data: {"error": {"message": "out of slots"}}\n\n')
    assert whole.failed


@pytest.mark.parametrize(
    "broken",
    [
        CHAT[: -len(DONE)],
        DONE,
        b"data: {nonsense\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": {}}\n\n',
        b'data: {"choices": [3]}\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 9}]}}]}\n\n',
        b"x" * 2_000_000,
    ],
    ids=["no end", "no choice", "no JSON", "a list", "choices", "choice", "call", "endless"],
)
def test_what_is_no_stream_of_an_answer_is_refused(broken: bytes) -> None:
    with pytest.raises(Malformed):
        gathered(broken)
