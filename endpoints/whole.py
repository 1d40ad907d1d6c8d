"""A whole answer, put together from a stream.

For engines that notice a client that left only while they stream: asked for a stream, they stop at once.
Knows nothing about connections.
"""

import json
from typing import Any

from endpoints.streams import EVENT_LIMIT, Malformed, events_of, payload_of

OBJECTS = {"chat.completion.chunk": "chat.completion"}
# Parts of a choice that come in pieces, and mean their sum.
GROWING = (str, list)


class Whole:
    """One answer as its events come. `failed` once the engine said that it cannot go on."""

    def __init__(self) -> None:
        self.failed = False
        self.done = False
        self._held = b""
        self._answer: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def feed(self, data: bytes) -> None:
        """Take in what was read. Raises Malformed where it is no stream of events."""
        found = events_of(self._held + data)
        self._held = (self._held + data)[sum(map(len, found)) :]
        if len(self._held) > EVENT_LIMIT:
            raise Malformed("an event without end")
        for event in found:
            self._take(payload_of(event))

    def _take(self, payload: bytes) -> None:
        if not payload or payload == b"[DONE]":
            self.done = self.done or bool(payload)
            return
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise Malformed("a chunk that is no JSON") from error
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices", []), list):
            raise Malformed("a chunk that is no object with choices")
        if chunk.get("error") and not chunk.get("choices"):
            self.failed = True
            return
        for part in chunk.pop("choices", []):
            self._add(part)
        self._answer |= {name: value for name, value in chunk.items() if value is not None}

    def _add(self, part: Any) -> None:
        """One choice's piece: a chat's `delta` becomes its `message`, a completion's `text` grows."""
        if not isinstance(part, dict) or not isinstance(part.get("index", 0), int):
            raise Malformed("a choice that is none")
        index = part.get("index", 0)
        choice = self._choices.setdefault(index, {"index": index, "finish_reason": None})
        if isinstance(delta := part.get("delta"), dict):
            _grow(choice.setdefault("message", {"role": "assistant", "content": None}), delta)
        if isinstance(text := part.get("text"), str):
            choice["text"] = choice.get("text", "") + text
        if isinstance(logprobs := part.get("logprobs"), dict):
            _grow(choice.setdefault("logprobs", {}), logprobs)
        if part.get("finish_reason") is not None:
            choice["finish_reason"] = part["finish_reason"]

    def answer(self) -> dict[str, Any]:
        """The answer as the API gives it in one piece. Raises Malformed where the stream broke off."""
        answer = self.so_far()
        if not self.done or answer is None:
            raise Malformed("a stream without end")
        return answer

    def so_far(self) -> dict[str, Any] | None:
        """The same of what came until now; None where nothing did."""
        if not self._choices:
            return None
        name = self._answer.get("object")
        choices = [_settled(self._choices[index]) for index in sorted(self._choices)]
        return {**self._answer, "object": OBJECTS.get(str(name), name), "choices": choices}


def _grow(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add `piece` to `whole`: texts and lists to what is there, calls of tools each to its own."""
    for name, value in piece.items():
        if name == "tool_calls" and isinstance(value, list):
            _grow_calls(whole.setdefault(name, []), value)
        elif name != "role" and isinstance(value, GROWING) and isinstance(whole.get(name), type(value)):
            whole[name] += value
        elif value is not None:
            whole[name] = value


def _grow_calls(calls: list[dict[str, Any]], pieces: list[Any]) -> None:
    for piece in pieces:
        if not isinstance(piece, dict) or not 0 <= (at := piece.get("index", 0)) <= len(calls):
            raise Malformed("a call that is none")
        if at == len(calls):
            calls.append({"function": {"name": "", "arguments": ""}})
        function = piece.get("function")
        if isinstance(function, dict):
            _grow(calls[at]["function"], function)
        calls[at] |= {name: piece[name] for name in ("id", "type") if piece.get(name)}


def _settled(choice: dict[str, Any]) -> dict[str, Any]:
    """A message without text has the empty one, unless it calls tools."""
    message = choice.get("message")
    if message is not None and message["content"] is None and not message.get("tool_calls"):
        message["content"] = ""
    return {"logprobs": None, **choice}
