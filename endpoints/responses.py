"""The Responses API: what a request may contain, and what is said in its own words. Pure: bytes and values.

It passes to engines that serve it. Nothing is stored between requests, so that what one key asked never
reaches another: a request holds its whole conversation.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from endpoints.streams import Malformed, Stream, events_of, payload_of
from playground import images, policy, schemas
from playground.policy import BadRequest

ROLES = frozenset({"system", "developer", "user", "assistant"})
ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})
TEXTS = frozenset({"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"})
# Reaches into what a server keeps, or runs on without its client.
REFUSED = frozenset({"background", "conversation", "previous_response_id"})
ENDS = frozenset({"response.completed", "response.incomplete"})
_LAST = re.compile(rb'"(?:response\.(?:completed|incomplete|failed)|error)"|\[DONE\]')

Check = Callable[[Any, str], None]


def check(body: Mapping[str, Any]) -> None:
    """Raise BadRequest, naming the parameter, for the first thing the policy does not allow."""
    for name, value in body.items():
        if name in policy.REFUSED or (name in REFUSED and value):
            raise BadRequest(f"{name} is not accepted here.", name, "unsupported_parameter")
        if value is not None and (rule := CHECKS.get(name)):
            rule(value, name)
    if body.get("input") in (None, "", []):
        raise BadRequest("input must not be empty.", "input", "missing_required_parameter")


def _input(value: Any, name: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or len(value) > policy.MESSAGES:
        raise BadRequest(f"{name} must be a string or a list of items.", name, "invalid_type")
    for place, item in enumerate(value):
        _item(item, f"{name}[{place}]")


def _item(item: Any, name: str) -> None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind not in ITEMS:
        raise BadRequest(f"{name}.type must be one of {', '.join(sorted(ITEMS))}.", name, "invalid_value")
    if kind == "message" and item.get("role") not in ROLES:
        raise BadRequest(f"{name}.role must be one of {', '.join(sorted(ROLES))}.", name, "invalid_value")
    for key in ("content", "output", "summary"):
        if item.get(key) is not None:
            _content(item[key], f"{name}.{key}")
    if kind == "message" and item.get("content") is None:
        raise BadRequest(f"{name}.content is missing.", name, "missing_required_parameter")


def _content(value: Any, name: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a string or a list of parts.", name, "invalid_type")
    for place, part in enumerate(value):
        _part(part, f"{name}[{place}]")


def _part(part: Any, name: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXTS:
        if not isinstance(part.get("refusal" if kind == "refusal" else "text"), str):
            raise BadRequest(f"{name} holds no text.", name, "invalid_value")
    elif kind == "input_image" and not part.get("file_id"):
        images.check(part.get("image_url"), f"{name}.image_url")
    else:
        raise BadRequest(f"{name}.type must be input_text or input_image.", name, "unsupported_parameter")


def _tools(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) > 128:
        raise BadRequest(f"{name} must be a list of at most 128 tools.", name, "invalid_value")
    for place, tool in enumerate(value):
        where = f"{name}[{place}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise BadRequest(f"{where}.type must be function.", where, "unsupported_parameter")
        if not isinstance(tool.get("name"), str) or not 0 < len(tool["name"]) <= 200:
            raise BadRequest(f"{where}.name is missing.", where, "invalid_value")
        if tool.get("parameters") is not None:
            schemas.check(tool["parameters"], f"{where}.parameters")


def _text(value: Any, name: str) -> None:
    form = value.get("format") if isinstance(value, dict) else None
    if not isinstance(value, dict) or (form is not None and not isinstance(form, dict)):
        raise BadRequest(f"{name} must be an object with a format.", name, "invalid_type")
    if form is None:
        return
    if form.get("type") not in ("text", "json_object", "json_schema"):
        raise BadRequest(
            f"{name}.format.type must be text, json_object or json_schema.", name, "invalid_value"
        )
    if form.get("schema") is not None:
        schemas.check(form["schema"], f"{name}.format.schema")
    elif form["type"] == "json_schema":
        raise BadRequest(f"{name}.format names no schema.", name, "missing_required_parameter")


def _string(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string.", name, "invalid_type")


CHECKS: dict[str, Check] = {
    **{name: rule for name, rule in policy.COMMON.items() if name != "tools"},
    "input": _input,
    "instructions": _string,
    "max_output_tokens": policy.COMMON["max_tokens"],
    "text": _text,
    "tools": _tools,
}


# In its own words


def item(message: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's message as an item of `input`."""
    content = message.get("content")
    if isinstance(content, list):
        content = [_as_part(part, message["role"]) for part in content]
    if message["role"] == "tool":
        return {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": content}
    return {"type": "message", "role": message["role"], "content": content or ""}


def _as_part(part: Mapping[str, Any], role: str) -> dict[str, Any]:
    if part.get("type") == "image_url":
        image = part["image_url"]
        url = image.get("url") if isinstance(image, Mapping) else image
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text", "")}


def parameters(of_chat: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's parameters as this API calls them."""
    found = dict(of_chat)
    for name in ("max_tokens", "max_completion_tokens"):
        if (most := found.pop(name, None)) is not None:
            found["max_output_tokens"] = most
    if (form := found.pop("response_format", None)) is not None:
        inner = form.get("json_schema") or {}
        found["text"] = {"format": {"type": form["type"], **inner}}
    if (tools := found.get("tools")) is not None:
        found["tools"] = [{"type": "function", **tool["function"]} for tool in tools]
    for name in ("stream", "stream_options", "n"):
        found.pop(name, None)
    return found


@dataclass(slots=True)
class Events(Stream):
    """A streamed response's passage: it ends with an event that holds the whole of it, and no [DONE]."""

    def feed(self, data: bytes) -> bytes:
        """The whole events of what was read so far; an unfinished one is held back."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n"):
            data = self._hold(data)
        if not self.content_seen and b'.delta"' in data:
            self.content_seen = True
        if _LAST.search(data):
            return b"".join(self._last_of(event) for event in events_of(data))
        return data

    def _last_of(self, event: bytes) -> bytes:
        """One event as it goes on; empty when it is left out."""
        payload = payload_of(event)
        if self.done or self.failed or payload == b"[DONE]":
            return b""
        if not _LAST.search(payload):
            return event
        try:
            said = json.loads(payload)
        except ValueError as error:
            raise Malformed("an event that is no JSON") from error
        if not isinstance(said, dict):
            raise Malformed("an event that is no object")
        if said.get("type") in ("response.failed", "error") or "type" not in said:
            self.failed = True
            return b""
        if said["type"] in ENDS:
            response = said.get("response")
            usage = response.get("usage") if isinstance(response, dict) else None
            self.usage, self.done = usage if isinstance(usage, dict) else None, True
        return event

    @property
    def end_reached(self) -> bool:
        return False
