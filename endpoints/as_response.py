"""A chat completion's answer as the Responses API tells it, whole or as its events. Pure: bytes and values.

The other half of `as_chat`. Of log-probabilities nothing is told, and nothing is stored: an answer's id finds
nothing later.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any

from endpoints.streams import Malformed, Stream, events_of, payload_of

# finish_reason → why a response is incomplete.
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What is told again of what was asked, and what stands there where nothing was said.
ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
Item = dict[str, Any]


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


def usage(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An engine's counts of tokens by this API's names; None where it told none."""
    if not told:
        return None
    asked, made = int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)
    before, after = (told.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": before.get("cached_tokens") or 0,
            "cache_write_tokens": before.get("cache_write_tokens") or 0,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": after.get("reasoning_tokens") or 0},
        "total_tokens": asked + made,
    }


# Items of the output


def thought(text: str, status: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}] if status != "in_progress" else []
    return {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": content, "status": status}


def words(text: str, status: str) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    content = [part] if status != "in_progress" else []
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "status": status,
    }


def call(told: Mapping[str, Any], status: str) -> Item:
    function = told.get("function") or {}
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "call_id": told.get("id") or new_id("call"),
        "name": function.get("name") or "",
        "arguments": function.get("arguments") or "",
        "status": status,
    }


def thinking(part: Mapping[str, Any]) -> str:
    """What a message, or a piece of one, says of its reasoning; engines call it by two names."""
    return part.get("reasoning_content") or part.get("reasoning") or ""


@dataclass
class Told:
    """One response: what it was asked with, and what it is known as."""

    asked: Mapping[str, Any]
    """The client's own request."""
    id: str = field(default_factory=lambda: new_id("resp"))
    created: float = field(default_factory=lambda: float(int(time())))

    def object(
        self, model: str, status: str, output: list[Item], why: str | None, counts: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The response's object at some moment."""
        echoed = {name: self.asked.get(name) or usual for name, usual in ECHOED.items()}
        for name in ("temperature", "top_p", "parallel_tool_calls"):
            if self.asked.get(name) is not None:
                echoed[name] = self.asked[name]
        echoed["tools"] = [{"parameters": None, "strict": None, **tool} for tool in echoed["tools"]]
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "model": model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": counts,
            **echoed,
        }

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The response of a chat completion in one piece. Raises Malformed where it holds no message."""
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
            raise Malformed("a chat completion without a message")
        why = INCOMPLETE.get(str(choice.get("finish_reason")))
        status = "incomplete" if why else "completed"
        text, calls = message.get("content") or message.get("refusal"), message.get("tool_calls") or []
        output = [thought(thinking(message), "completed")] if thinking(message) else []
        if text or not (calls or output):
            output.append(words(str(text or ""), status))
        output += [call(one, "completed") for one in calls]
        return self.object(str(answer.get("model")), status, output, why, usage(answer.get("usage")))


@dataclass(slots=True)
class Events(Stream):
    """A streamed chat completion's passage as the events of a response. `usage` stays the engine's own."""

    told: Told = field(default_factory=lambda: Told({}))
    _inner: Stream = field(init=False)
    _number: int = 0
    _model: str = ""
    _finish: str = ""
    _output: list[Item] = field(default_factory=list)
    _open: Item | None = None
    _calls: dict[int, Item] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inner = Stream(self.quirks, usage_asked=False)

    def feed(self, data: bytes) -> bytes:
        """The events that what was read so far makes; an unfinished chunk is held back."""
        return self._passed(self._inner.feed(data))

    def end(self) -> bytes:
        return self._passed(self._inner.end())

    def _passed(self, data: bytes) -> bytes:
        inner = self._inner
        made = b"".join(self._event(payload_of(event)) for event in events_of(data)) if data else b""
        self.content_seen, self.failed, self.usage = inner.content_seen, inner.failed, inner.usage
        return made

    @property
    def end_reached(self) -> bool:
        return self._inner.end_reached

    def _event(self, payload: bytes) -> bytes:
        if not payload or self.done:
            return b""
        if payload == b"[DONE]":
            try:
                return self._completed()
            except (AttributeError, TypeError, ValueError) as error:
                raise Malformed("counts of another shape") from error
        try:
            chunk = json.loads(payload)
        except ValueError as error:
            raise Malformed("a chunk that is no JSON") from error
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise Malformed("a chunk that is no object with choices")
        self._model = self._model or str(chunk.get("model") or "")
        begun = self._begun() if not self._number else b""
        try:
            return begun + b"".join(map(self._choice, choices[:1]))
        except (AttributeError, TypeError) as error:
            raise Malformed("a piece of another shape") from error

    def _say(self, kind: str, **told: Any) -> bytes:
        said = {"type": kind, "sequence_number": self._number, **told}
        self._number += 1
        # In ASCII: a piece may be half of a character.
        return f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode()

    def _begun(self) -> bytes:
        kinds = ("response.created", "response.in_progress")
        now = self.told.object(self._model, "in_progress", [], None, None)
        return b"".join(self._say(kind, response=now) for kind in kinds)

    def _choice(self, choice: Mapping[str, Any]) -> bytes:
        delta = choice.get("delta") or {}
        self._finish = str(choice.get("finish_reason") or self._finish)
        made = b""
        if text := thinking(delta):
            made += self._grow("reasoning", text)
        if said := delta.get("content") or delta.get("refusal"):
            made += self._grow("message", said)
        for piece in delta.get("tool_calls") or []:
            made += self._call(piece)
        return made

    # Texts: one item is open at a time

    def _grow(self, kind: str, text: str) -> bytes:
        made = b""
        if self._open is None or self._open["type"] != kind:
            made = self._close("completed") + self._add(kind)
        assert self._open is not None
        self._open["content"][0]["text"] += text
        if kind == "message":
            return made + self._at(self._open, "response.output_text.delta", delta=text, logprobs=[])
        return made + self._at(self._open, "response.reasoning_text.delta", delta=text)

    def _add(self, kind: str) -> bytes:
        item = (words if kind == "message" else thought)("", "completed")
        part = item["content"][0]
        begun = item | {"content": [], "status": "in_progress"}
        self._open = item
        self._output.append(item)
        made = self._say("response.output_item.added", output_index=len(self._output) - 1, item=begun)
        return made + self._at(item, "response.content_part.added", part=dict(part))

    def _at(self, item: Item, kind: str, **told: Any) -> bytes:
        place = self._output.index(item)
        return self._say(kind, item_id=item["id"], output_index=place, content_index=0, **told)

    def _close(self, status: str) -> bytes:
        """The end of the text that is open, if one is."""
        item, self._open = self._open, None
        if item is None:
            return b""
        item["status"], part = status, item["content"][0]
        if item["type"] == "message":
            made = self._at(item, "response.output_text.done", text=part["text"], logprobs=[])
        else:
            made = self._at(item, "response.reasoning_text.done", text=part["text"])
        return made + self._at(item, "response.content_part.done", part=part) + self._item_done(item)

    def _item_done(self, item: Item) -> bytes:
        place = self._output.index(item)
        return self._say("response.output_item.done", output_index=place, item=item)

    # Calls of tools: each by its index, open until the end

    def _call(self, piece: Mapping[str, Any]) -> bytes:
        at, function = piece.get("index") or 0, piece.get("function") or {}
        made, item = b"", self._calls.get(at)
        if item is None:
            made = self._close("completed")
            begun = {"id": piece.get("id"), "function": {"name": function.get("name")}}
            item = self._calls[at] = call(begun, "in_progress")
            self._output.append(item)
            place = len(self._output) - 1
            made += self._say("response.output_item.added", output_index=place, item=dict(item))
        text = function.get("arguments") or ""
        item["arguments"] += text
        place = self._output.index(item)
        said = {"item_id": item["id"], "output_index": place, "delta": text}
        return made + (self._say("response.function_call_arguments.delta", **said) if text else b"")

    def _called(self, item: Item) -> bytes:
        item["status"] = "completed"
        place = self._output.index(item)
        said = {"item_id": item["id"], "output_index": place, "arguments": item["arguments"]}
        done = self._say("response.function_call_arguments.done", name=item["name"], **said)
        return done + self._item_done(item)

    def _completed(self) -> bytes:
        why = INCOMPLETE.get(self._finish)
        status = "incomplete" if why else "completed"
        made = self._begun() if not self._number else b""
        if not self._output:
            made += self._add("message")
        made += self._close(status) + b"".join(map(self._called, self._calls.values()))
        self.done = True
        now = self.told.object(self._model, status, self._output, why, usage(self._inner.usage))
        return made + self._say(f"response.{status}", response=now)
