"""What a request to an engine may contain, for the playground and the gateway alike. Pure: bytes and values.

Checked is what costs or endangers: how much is asked for, what an engine would fetch, load or compile. The
rest passes as it is. `loads` is the only JSON reader for such requests.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from playground import images, schemas
from playground.schemas import BadRequest

__all__ = ["BadRequest", "check", "loads"]

DEPTH = 64
MESSAGES = 10_000
TOKENS = 10_000_000
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
TEMPLATE_ARGUMENTS = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
# What reaches into the server instead of asking for an answer: templates, adapters, slots, other addresses.
REFUSED = frozenset(
    {
        "api_base",
        "api_key",
        "base_url",
        "chat_template",
        "custom_logit_processor",
        "extra_args",
        "extra_body",
        "extra_headers",
        "extra_query",
        "guided_decoding_backend",
        "guided_grammar",
        "grammar",
        "grammar_lazy",
        "grammar_triggers",
        "id_slot",
        "image_data",
        "input_embeds",
        "kv_transfer_params",
        "logits_processors",
        "lora",
        "lora_path",
        "mm_processor_kwargs",
        "multi_modal_data",
        "multimodal_data",
        "n_discard",
        "n_keep",
        "priority",
        "prompt_embeds",
        "prompt_logprobs",
        "request_id",
        "rid",
        "session_params",
        "slot_id",
        "t_max_predict_ms",
        "use_beam_search",
        "vllm_xargs",
    }
)

Check = Callable[[Any, str], None]


def loads(raw: bytes) -> dict[str, Any]:
    """A JSON object, strictly: UTF-8, no BOM, no doubled keys, no NaN, no lone surrogates, 64 levels."""
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise BadRequest("The body starts with a byte order mark.", None, "invalid_json")
    try:
        text = raw.decode()
        data = _decoder.decode(text)
    except (UnicodeDecodeError, RecursionError) as problem:
        why = "is not UTF-8" if isinstance(problem, ValueError) else "is nested too deep"
        raise BadRequest(f"The body {why}.", None, "invalid_json") from problem
    except json.JSONDecodeError as problem:
        raise BadRequest(f"The body is not JSON: {problem}.", None, "invalid_json") from problem
    except ValueError as problem:
        raise BadRequest("The body holds a number that is too long.", None, "invalid_json") from problem
    if not isinstance(data, dict):
        raise BadRequest("The body must be a JSON object.", None, "invalid_json")
    _walk(data, escapes="\\ud" in text or "\\uD" in text)
    return data


def _walk(data: dict[str, Any], escapes: bool) -> None:
    """Level by level: refuse more than DEPTH of them, and, where escapes could make them, lone surrogates."""
    level: list[Any] = [data]
    for _ in range(DEPTH):
        if escapes:
            _require_text(level)
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise BadRequest(f"The body is nested more than {DEPTH} deep.", None, "invalid_json")


def _require_text(level: list[Any]) -> None:
    for container in level:
        strings = [text for text in container if isinstance(text, str)]
        if isinstance(container, dict):
            strings += [text for text in container.values() if isinstance(text, str)]
        try:
            "".join(strings).encode()
        except UnicodeEncodeError as problem:
            raise BadRequest("The body holds half a surrogate pair.", None, "invalid_json") from problem


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadRequest(f"{twice[:80]!r} is given twice.", twice[:80], "invalid_json")
    return found


def _constant(name: str) -> Any:
    raise BadRequest(f"{name} is not JSON.", None, "invalid_json")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadRequest(f"The number {digits[:20]} is too large.", None, "invalid_json")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def check(body: Mapping[str, Any], *, chat: bool) -> None:
    """Raise BadRequest, naming the parameter, for the first thing the policy does not allow."""
    checks = CHAT if chat else COMPLETION
    for name, value in body.items():
        if name in REFUSED:
            raise BadRequest(f"{name} is not accepted here.", name, "unsupported_parameter")
        if value is not None and (rule := checks.get(name)):
            rule(value, name)
    if chat:
        _require(body.get("messages"), "messages")
    else:
        _require(body.get("prompt"), "prompt")


def _require(value: Any, name: str) -> None:
    if value is None or value == [] or value == "":
        raise BadRequest(f"{name} must not be empty.", name, "missing_required_parameter")


def _integer(low: int, high: int) -> Check:
    def rule(value: Any, name: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise BadRequest(f"{name} must be a whole number from {low} to {high}.", name, "invalid_value")

    return rule


def _number(low: float, high: float) -> Check:
    def rule(value: Any, name: str) -> None:
        if type(value) not in (int, float) or not low <= value <= high:
            raise BadRequest(f"{name} must be a number from {low:g} to {high:g}.", name, "invalid_value")

    return rule


def _boolean(value: Any, name: str) -> None:
    if type(value) is not bool:
        raise BadRequest(f"{name} must be true or false.", name, "invalid_type")


def _string(most: int) -> Check:
    def rule(value: Any, name: str) -> None:
        if not isinstance(value, str) or len(value) > most:
            raise BadRequest(f"{name} must be a string of at most {most} characters.", name, "invalid_value")

    return rule


def _integers(most: int) -> Check:
    def rule(value: Any, name: str) -> None:
        fits = isinstance(value, list) and len(value) <= most
        if not fits or any(type(item) is not int or not 0 <= item < 2**31 for item in value):
            raise BadRequest(f"{name} must be a list of at most {most} token ids.", name, "invalid_value")

    return rule


def _stop(value: Any, name: str) -> None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 16:
        raise BadRequest(f"{name} must be a string or at most 16 of them.", name, "invalid_value")
    if any(not isinstance(stop, str) or not 0 < len(stop) <= 1000 for stop in stops):
        raise BadRequest(f"{name} takes strings of 1 to 1000 characters.", name, "invalid_value")


def _words(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) > 1000:
        raise BadRequest(f"{name} must be a list of at most 1000 strings.", name, "invalid_value")
    if any(not isinstance(word, str) or len(word) > 1000 for word in value):
        raise BadRequest(f"{name} takes strings of at most 1000 characters.", name, "invalid_value")


def _logit_bias(value: Any, name: str) -> None:
    if not isinstance(value, dict) or len(value) > 1024:
        raise BadRequest(f"{name} must be an object of at most 1024 entries.", name, "invalid_value")
    rule = _number(-100, 100)
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 11):
            raise BadRequest(f"{name} takes token ids as keys.", name, "invalid_value")
        rule(bias, f"{name}.{token}")


def _stream_options(value: Any, name: str) -> None:
    known = {"include_usage", "include_obfuscation", "continuous_usage_stats"}
    if not isinstance(value, dict) or not value.keys() <= known:
        raise BadRequest(f"{name} takes {', '.join(sorted(known))}.", name, "invalid_value")
    for key, item in value.items():
        _boolean(item, f"{name}.{key}")


def _template_arguments(value: Any, name: str) -> None:
    if not isinstance(value, dict) or not value.keys() <= TEMPLATE_ARGUMENTS:
        allowed = ", ".join(sorted(TEMPLATE_ARGUMENTS))
        raise BadRequest(f"{name} takes only {allowed}.", name, "unsupported_parameter")
    for key, item in value.items():
        if not isinstance(item, bool | str) or len(str(item)) > 20:
            raise BadRequest(f"{name}.{key} must be true, false or a word.", name, "invalid_value")


def _response_format(value: Any, name: str) -> None:
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        raise BadRequest(f"{name}.type must be text, json_object or json_schema.", name, "invalid_value")
    inner = value.get("json_schema")
    if inner is not None and not isinstance(inner, dict):
        raise BadRequest(f"{name}.json_schema must be an object.", f"{name}.json_schema", "invalid_type")
    for holder, where in ((value, name), (inner or {}, f"{name}.json_schema")):
        if holder.get("schema") is not None:
            schemas.check(holder["schema"], f"{where}.schema")
    if value["type"] == "json_schema" and not any(h.get("schema") for h in (value, inner or {})):
        raise BadRequest(f"{name} names no schema.", name, "missing_required_parameter")


def _schema(value: Any, name: str) -> None:
    """A schema as an object, or as a string of JSON, which some engines take."""
    try:
        schema = loads(value.encode(errors="replace")) if isinstance(value, str) else value
    except BadRequest as problem:
        raise BadRequest(f"{name}: {problem.message}", name, "invalid_schema") from problem
    schemas.check(schema, name)


def _structured(value: Any, name: str) -> None:
    rules = {"json": _schema, "regex": schemas.check_pattern, "choice": _words, "json_object": _boolean}
    if not isinstance(value, dict) or not value.keys() <= rules.keys():
        raise BadRequest(f"{name} takes {', '.join(rules)}.", name, "unsupported_parameter")
    for key, item in value.items():
        if item is not None:
            rules[key](item, f"{name}.{key}")


def _tools(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) > 128:
        raise BadRequest(f"{name} must be a list of at most 128 tools.", name, "invalid_value")
    for place, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise BadRequest(f"{name}[{place}].function is missing.", f"{name}[{place}]", "invalid_value")
        _string(200)(function.get("name"), f"{name}[{place}].function.name")
        if function.get("parameters") is not None:
            schemas.check(function["parameters"], f"{name}[{place}].function.parameters")


def _prompt(value: Any, name: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or len(value) > TOKENS:
        raise BadRequest(f"{name} must be a string, strings or token ids.", name, "invalid_type")
    if all(isinstance(item, str) for item in value) and len(value) <= 64:
        return
    lists = value if all(isinstance(item, list) for item in value) and len(value) <= 64 else [value]
    for tokens in lists:
        _integers(TOKENS)(tokens, name)


def _messages(value: Any, name: str) -> None:
    if not isinstance(value, list) or len(value) > MESSAGES:
        raise BadRequest(f"{name} must be a list of at most {MESSAGES} messages.", name, "invalid_type")
    for place, message in enumerate(value):
        where = f"{name}[{place}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRequest(
                f"{where}.role must be one of {', '.join(sorted(ROLES))}.", where, "invalid_value"
            )
        _content(message.get("content"), message, f"{where}.content")


def _content(value: Any, message: dict[str, Any], name: str) -> None:
    if isinstance(value, str):
        return
    if value is None and message["role"] == "assistant":
        return
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a string or a list of parts.", name, "invalid_type")
    for place, part in enumerate(value):
        _part(part, f"{name}[{place}]")


def _part(part: Any, name: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal", "input_text", "output_text"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise BadRequest(f"{name} holds no text.", name, "invalid_value")
    elif kind == "image_url":
        image = part.get("image_url")
        images.check(image.get("url") if isinstance(image, dict) else image, f"{name}.image_url")
    elif kind == "input_audio":
        audio = part.get("input_audio")
        if not isinstance(audio, dict) or not isinstance(audio.get("data"), str) or ":" in audio["data"]:
            raise BadRequest(f"{name}.input_audio.data must be base64.", name, "invalid_value")
    else:
        raise BadRequest(
            f"{name}.type must be text, image_url or input_audio.", name, "unsupported_parameter"
        )


_tokens = _integer(1, TOKENS)
COMMON: dict[str, Check] = {
    "allowed_token_ids": _integers(100_000),
    "bad_words": _words,
    "chat_template_kwargs": _template_arguments,
    "frequency_penalty": _number(-2, 2),
    "guided_choice": _words,
    "guided_json": _schema,
    "guided_regex": schemas.check_pattern,
    "ignore_eos": _boolean,
    "json_schema": _schema,
    "logit_bias": _logit_bias,
    "max_completion_tokens": _tokens,
    "max_tokens": _tokens,
    "min_p": _number(0, 1),
    "min_tokens": _integer(0, TOKENS),
    "n": _integer(1, 16),
    "n_cmpl": _integer(1, 16),
    "n_predict": _tokens,
    "n_probs": _integer(0, 20),
    "presence_penalty": _number(-2, 2),
    "regex": schemas.check_pattern,
    "repetition_penalty": _number(0.01, 10),
    "repeat_penalty": _number(0.01, 10),
    "response_format": _response_format,
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": _stop,
    "stop_token_ids": _integers(1000),
    "stream": _boolean,
    "stream_options": _stream_options,
    "structured_outputs": _structured,
    "temperature": _number(0, 2),
    "tools": _tools,
    "top_k": _integer(-1, 10_000_000),
    "top_p": _number(0, 1),
    "truncate_prompt_tokens": _tokens,
    "user": _string(512),
}
CHAT = COMMON | {"messages": _messages, "logprobs": _boolean, "top_logprobs": _integer(0, 20)}
COMPLETION = COMMON | {
    "best_of": _integer(1, 16),
    "echo": _boolean,
    "logprobs": _integer(0, 20),
    "prompt": _prompt,
    "suffix": _string(100_000),
}
