"""What a prompt of the library may say, and its messages with the variables filled in. Pure: values alone.

`{{name}}` in any text of any message stands for a variable's value. The value is put in as text and never
looked at again: what looks like a variable in it stays text. `\\{{name}}` is the text `{{name}}`; only
backslashes right before such a name count, two of them for one.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

from playground import policy

__all__ = ["PromptRefused", "Version", "check", "declared", "escape", "filled", "read", "used", "written"]

TYPES = ("text", "number", "boolean", "choice", "json")
ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGES, VARIABLES, CHOICES = 200, 100, 100
CHARACTERS = 400_000
FILLED = 4_000_000
# What a request says beside a prompt, or what a saved answer could not keep to.
NOT_KEPT = frozenset({"input", "messages", "model", "n", "prompt", "store", "stream", "stream_options"})
NAME = re.compile(r"[^\W\d][\w.-]{0,59}")
HOLE = re.compile(r"(?<!\\)(\\*)(\{\{\s*([^\W\d][\w.-]{0,59})\s*\}\})")
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
BRACES = re.compile(r"(?<!\\)\{\{([^{}]{0,100})\}\}")

Messages = list[dict[str, Any]]
Swap = Callable[[str], str]


class PromptRefused(Exception):
    """It cannot be so; the text says why. `name`: the field or variable it is about, or ""."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.name = name


class Version(Protocol):
    """What is read of a PromptVersion."""

    @property
    def messages(self) -> Any: ...

    @property
    def variables(self) -> Any: ...


# Filling


def filled(version: Version, values: Mapping[str, Any]) -> Messages:
    """The messages with each variable's value, or its default, in place. PromptRefused names the variable.

    `values`: by name, as JSON has them; a number or a boolean may come as text. None stands for absent.
    """
    texts = _texts(version.variables, values)
    length = sum(len(texts.get(name, "")) for message in version.messages for name in _names(message)) + sum(
        len(text) for message in version.messages for text in _parts(message)
    )
    if length > FILLED:
        raise PromptRefused(f"Filled in, it has {length:,} characters; {FILLED:,} is the most.")
    return [_swapped(message, lambda name: texts[name]) for message in version.messages]


def _texts(variables: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, str]:
    """Each variable's value as it is put in."""
    known = {variable["name"]: variable for variable in variables}
    for name in values:
        if name not in known:
            raise PromptRefused(f"The prompt has no variable {str(name)[:60]!r}.", str(name)[:60])
    return {name: _text(variable, values.get(name)) for name, variable in known.items()}


def _text(variable: Mapping[str, Any], value: Any) -> str:
    if value is None:
        value = variable.get("default")
    if value is None:
        raise PromptRefused(f"{variable['name']} is missing.", variable["name"])
    return written(variable, value)


def written(variable: Mapping[str, Any], value: Any) -> str:
    """The value as text; PromptRefused where it is not of the variable's type."""
    name, kind = variable["name"], variable["type"]
    if isinstance(value, str) and kind in ("number", "boolean"):
        value = _read(variable, value)
    if kind == "text" and isinstance(value, str):
        return _clean(value, name)
    if kind == "choice" and isinstance(value, str):
        if value in variable.get("choices", ()):
            return value
        raise PromptRefused(f"{name} is one of {', '.join(variable['choices'])[:300]}.", name)
    if kind == "boolean" and isinstance(value, bool):
        return "true" if value else "false"
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) or math.isfinite(value):
            return _dumped(value, name)
    elif kind == "json":
        return _clean(_dumped(value, name), name)
    raise PromptRefused(f"{name} {MUST[kind]}.", name)


MUST = {
    "text": "must be text",
    "number": "must be a number",
    "boolean": "must be true or false",
    "choice": "must be one of its choices, as text",
    "json": "must be JSON",
}


def _dumped(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise PromptRefused(f"{name} must be JSON.", name) from problem


def _clean(text: str, name: str) -> str:
    if "\x00" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise PromptRefused(f"{name} holds a character that is none.", name)
    return text


def read(
    variables: Sequence[Mapping[str, Any]], typed: Mapping[str, str], *, blank: bool = False
) -> dict[str, Any]:
    """Values as a form or a table's cells have them, each made what its variable takes.

    Empty is absent; with `blank` it is a text like any other where the variable takes text.
    """
    found: dict[str, Any] = {}
    for variable in variables:
        text = typed.get(variable["name"])
        if text or (text is not None and blank and variable["type"] == "text"):
            found[variable["name"]] = _read(variable, text)
    return found


def _read(variable: Mapping[str, Any], text: str) -> Any:
    name, kind = variable["name"], variable["type"]
    if kind in ("text", "choice"):
        return text
    try:
        found = policy.loads(b'{"value":' + text.encode(errors="surrogatepass") + b"}")
    except policy.BadRequest as problem:
        raise PromptRefused(f"{name} {MUST[kind]}.", name) from problem
    fits = {"boolean": bool, "number": int | float, "json": object}[kind]
    value = found["value"]
    if len(found) > 1 or not isinstance(value, fits) or (kind == "number" and isinstance(value, bool)):
        raise PromptRefused(f"{name} {MUST[kind]}.", name)
    return value


# Texts


def used(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The variables that messages name, each once, in order."""
    return list(dict.fromkeys(name for message in messages for name in _names(message)))


def oddities(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands in {{ }} and is no variable's name, so that it stays as it is: perhaps a slip."""
    found = (odd for message in messages for text in _parts(message) for odd in BRACES.findall(text))
    return list(dict.fromkeys(odd for odd in found if not NAME.fullmatch(odd.strip())))


def escape(text: str) -> str:
    """`text` so written that `filled` gives it back as it is."""
    return HOLE.sub(lambda hole: f"{hole[1]}{hole[1]}\\{hole[2]}", text)


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """(text, variable's name or "") in order: what is shown of a message, its variables marked."""
    at = 0
    for hole in HOLE.finditer(text):
        if len(hole[1]) % 2 == 0:
            yield text[at : hole.start(2)], ""
            yield hole[2], hole[3]
            at = hole.end()
    yield text[at:], ""


def shown(message: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> list[tuple[str, str, bool]]:
    """A message's text in pieces: (text, variable's name or "", whether it has a value).

    With `texts`, values by name, as it will be sent; without, as it is written.
    """
    found: list[tuple[str, str, bool]] = []
    for text, name in pieces("\n\n".join(_parts(message))):
        if name:
            known = texts is not None and name in texts
            found.append((texts[name] if texts and known else text, name, known))
        elif text:
            found.append((text if texts is None else _put(text, lambda name: name), "", True))
    return found


def texts(variables: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, str]:
    """What is put in for each variable that has a value or a default; PromptRefused for a wrong one."""
    given = {variable["name"]: values.get(variable["name"]) for variable in variables}
    known = [
        variable
        for variable in variables
        if given[variable["name"]] is not None or variable.get("default") is not None
    ]
    return {variable["name"]: _text(variable, given[variable["name"]]) for variable in known}


def _parts(message: Mapping[str, Any]) -> Iterator[str]:
    """Every text of a message."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if _is_text(part))


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def _names(message: Mapping[str, Any]) -> Iterator[str]:
    for text in _parts(message):
        yield from (hole[3] for hole in HOLE.finditer(text) if len(hole[1]) % 2 == 0)


def _swapped(message: Mapping[str, Any], swap: Swap) -> dict[str, Any]:
    """The message with each name in it swapped for its text."""
    fresh: dict[str, Any] = deepcopy(dict(message))
    content = fresh.get("content")
    if isinstance(content, str):
        fresh["content"] = _put(content, swap)
    elif isinstance(content, list):
        for part in content:
            if _is_text(part):
                part["text"] = _put(part["text"], swap)
    return fresh


def _put(text: str, swap: Swap) -> str:
    def one(hole: re.Match[str]) -> str:
        slashes = "\\" * (len(hole[1]) // 2)
        return slashes + (hole[2] if len(hole[1]) % 2 else swap(hole[3]))

    return HOLE.sub(one, text)


# What may be kept


def declared(messages: Any, variables: Any) -> list[dict[str, Any]]:
    """The variables as they are kept: those given, then one of type text for each other name in use."""
    given = [_variable(entry, place) for place, entry in enumerate(_list(variables, "variables", VARIABLES))]
    names = [variable["name"] for variable in given]
    for name in names:
        if names.count(name) > 1:
            raise PromptRefused(f"The variable {name} is there twice.", name)
    fresh = [{"name": name, "type": "text"} for name in used(messages) if name not in names]
    if len(given) + len(fresh) > VARIABLES:
        raise PromptRefused(f"A prompt has at most {VARIABLES} variables.", "variables")
    return given + [_variable(entry, 0) for entry in fresh]


def _variable(entry: Any, place: int) -> dict[str, Any]:
    """{"name", "type", "default", "description"} and, of a choice, "choices"; in this order."""
    if not isinstance(entry, Mapping):
        raise PromptRefused(f"Variable {place + 1} must be an object with a name and a type.", "variables")
    name, kind = entry.get("name"), entry.get("type") or "text"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PromptRefused(
            f"{str(name)[:60]!r} is no variable's name: at most 60 letters, digits and _.-, a letter first.",
            "variables",
        )
    if kind not in TYPES:
        raise PromptRefused(f"{name} has a type of {', '.join(TYPES)}.", name)
    if odd := sorted(map(str, entry.keys() - {"name", "type", "default", "description", "choices"})):
        raise PromptRefused(f"{name} has {odd[0][:60]!r}, which no variable has.", name)
    description = entry.get("description") or ""
    if not isinstance(description, str) or len(description) > 500:
        raise PromptRefused(f"The description of {name} is text of at most 500 characters.", name)
    found = {"name": name, "type": kind, "default": None, "description": description}
    if kind == "choice":
        found["choices"] = _choices(entry.get("choices"), name)
    if (default := entry.get("default")) is not None:
        written(found, default)
        found["default"] = _read(found, default) if isinstance(default, str) and kind != "json" else default
    return found


def _choices(given: Any, name: str) -> list[str]:
    fits = isinstance(given, list) and 0 < len(given) <= CHOICES
    if not fits or any(not isinstance(one, str) or not 0 < len(one) <= 1000 for one in given):
        raise PromptRefused(f"{name} needs 1 to {CHOICES} choices, each of 1 to 1000 characters.", name)
    return list(dict.fromkeys(_clean(one, name) for one in given))


def check(messages: Any, parameters: Any) -> None:
    """PromptRefused for messages or parameters that `policy` would refuse, or that cannot be kept."""
    for message in _list(messages, "messages", MESSAGES):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise PromptRefused(f"A message has a role of {', '.join(ROLES)}.", "messages")
    if not isinstance(parameters, Mapping):
        raise PromptRefused("The parameters must be an object.", "parameters")
    if odd := sorted(NOT_KEPT & parameters.keys()):
        raise PromptRefused(f"A prompt does not keep {odd[0]}.", odd[0])
    try:
        raw = json.dumps({"messages": messages, **parameters}, allow_nan=False)
        body = policy.loads(raw.encode())
        policy.check(body, chat=True)
    except policy.BadRequest as problem:
        raise PromptRefused(problem.message, problem.param or "messages") from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise PromptRefused(
            "It holds what JSON cannot: a date, a number that is none.", "messages"
        ) from problem
    if NUL.search(raw):
        raise PromptRefused("It holds a character that is none.", "messages")
    if len(raw) > CHARACTERS:
        raise PromptRefused(
            f"It has {len(raw):,} characters as JSON; {CHARACTERS:,} is the most.", "messages"
        )


def _list(given: Any, name: str, most: int) -> list[Any]:
    if not isinstance(given, list) or len(given) > most:
        raise PromptRefused(f"The {name} must be a list of at most {most}.", name)
    return given
