"""A request of the Responses API as a chat completion, for engines that serve only those. Pure.

What a chat completion cannot say is refused by its name; nothing is left out that would change the answer.
"""

from collections.abc import Callable, Mapping
from typing import Any

from endpoints.protocol import Refusal
from playground import policy
from playground.engines.base import PATHS, Quirks

CHAT = PATHS["chat"]
ROUTE = ("POST", "/v1/responses")
# What both APIs call alike.
SAME = frozenset(policy.COMMON) - {
    *("max_tokens", "max_completion_tokens", "n", "n_cmpl", "stream_options", "tools")
}
# Words about the request or the account: they change no answer. `store` is false whatever is said.
SAID = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "store", "stream_options"}
)
# Where only the usual value can be kept.
USUAL: Mapping[str, tuple[str, ...]] = {"service_tier": ("auto", "default"), "truncation": ("disabled",)}
ROLES = {"developer": "system"}


def needed(kind: str, quirks: Quirks) -> bool:
    """Whether an engine is asked for a response by its chat completions."""
    return kind == "responses" and ROUTE not in quirks.routes and ("POST", CHAT) in quirks.routes


def body(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion's body. Refuses with 400 what it cannot say."""
    said: dict[str, Any] = {"model": asked["model"], "messages": _messages(asked)}
    for name, value in asked.items():
        if value is None or name in ("model", "input", "instructions", "prompt") or name in SAID:
            continue
        if name in SAME or name == "parallel_tool_calls":
            said[name] = value
        elif name in WORDS:
            said |= WORDS[name](value)
        elif value not in ([], {}, False, "", *USUAL.get(name, ())):
            raise _cannot(name)
    if not said.get("tools"):
        # Some engines refuse words about tools where there are none.
        said = {name: value for name, value in said.items() if name not in TOOLS}
    return said


TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def _cannot(name: str) -> Refusal:
    text = f"This model's engine answers by chat completions, which cannot say {name}."
    return Refusal(400, text, "unsupported_parameter", name)


# Parameters


def _length(value: Any) -> dict[str, Any]:
    return {"max_tokens": value}


def _text(value: Mapping[str, Any]) -> dict[str, Any]:
    for name, inner in value.items():
        if name != "format" and not (name == "verbosity" and inner in (None, "medium")):
            raise _cannot(f"text.{name}")
    form = value.get("format") or {"type": "text"}
    if form["type"] == "text":
        return {}
    inner = {name: one for name, one in form.items() if name != "type" and one is not None}
    return {"response_format": {"type": form["type"]} | ({"json_schema": inner} if inner else {})}


def _tools(value: list[Mapping[str, Any]]) -> dict[str, Any]:
    functions = (
        {name: one for name, one in tool.items() if name != "type" and one is not None} for tool in value
    )
    return {"tools": [{"type": "function", "function": function} for function in functions]}


def _choice(value: Any) -> dict[str, Any]:
    if value in ("auto", "none", "required"):
        return {"tool_choice": value}
    if isinstance(value, Mapping) and value.get("type") == "function":
        return {"tool_choice": {"type": "function", "function": {"name": value.get("name")}}}
    raise _cannot("tool_choice")


def _reasoning(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Refusal(400, "reasoning must be an object.", "invalid_type", "reasoning")
    for name, inner in value.items():
        if name != "effort" and inner is not None:
            raise _cannot(f"reasoning.{name}")
    return {} if value.get("effort") is None else {"reasoning_effort": value["effort"]}


WORDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "max_output_tokens": _length,
    "reasoning": _reasoning,
    "text": _text,
    "tool_choice": _choice,
    "tools": _tools,
}


# Messages


def _messages(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Instructions, then each item. Calls of tools belong to the assistant's message before them."""
    given = asked.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    found: list[dict[str, Any]] = []
    if asked.get("instructions"):
        found.append({"role": "system", "content": asked["instructions"]})
    for place, item in enumerate(items):
        ITEMS[item.get("type", "message")](item, found, f"input[{place}]")
    return found


def _message(item: Mapping[str, Any], found: list[dict[str, Any]], where: str) -> None:
    role = ROLES.get(item["role"], item["role"])
    content = _content(item["content"], f"{where}.content")
    if role == "assistant" and found and found[-1]["content"] is None:
        found[-1]["content"] = content
    else:
        found.append({"role": role, "content": content})


def _assistant(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of the assistant that what comes now is a part of."""
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    return found[-1]


def _call(item: Mapping[str, Any], found: list[dict[str, Any]], where: str) -> None:
    for name in ("call_id", "name", "arguments"):
        if not isinstance(item.get(name), str):
            raise Refusal(400, f"{where}.{name} must be a string.", "invalid_type", f"{where}.{name}")
    function = {"name": item["name"], "arguments": item["arguments"]}
    calls = _assistant(found).setdefault("tool_calls", [])
    calls.append({"id": item["call_id"], "type": "function", "function": function})


def _output(item: Mapping[str, Any], found: list[dict[str, Any]], where: str) -> None:
    if not isinstance(item.get("call_id"), str):
        raise Refusal(400, f"{where}.call_id must be a string.", "invalid_type", f"{where}.call_id")
    content = _content(item.get("output") or "", f"{where}.output")
    found.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})


def _thought(item: Mapping[str, Any], found: list[dict[str, Any]], where: str) -> None:
    """What it thought before: told to the template as engines tell it themselves."""
    if item.get("encrypted_content"):
        raise _cannot(f"{where}.encrypted_content")
    parts = item.get("content") or item.get("summary") or []
    text = parts if isinstance(parts, str) else "".join(part.get("text", "") for part in parts)
    found.append({"role": "assistant", "content": None, "reasoning_content": text})


ITEMS: Mapping[str, Callable[[Mapping[str, Any], list[dict[str, Any]], str], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _thought,
}


def _content(value: Any, where: str) -> str | list[dict[str, Any]]:
    """One text as a string, for engines' templates that know nothing else."""
    if isinstance(value, str):
        return value
    parts = [_part(part, f"{where}[{place}]") for place, part in enumerate(value)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part["type"] == "input_image":
        if part.get("detail") not in (None, "auto", "low", "high"):
            raise _cannot(f"{where}.detail")
        image = {"url": part.get("image_url")}
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": image | detail}
    return {"type": "text", "text": part["refusal" if part["type"] == "refusal" else "text"]}
