"""`prompt` in a request: which version of which prompt it names, and what the request says with it filled in.

A release's own prompt does nothing by itself: it only decides which version is meant by a request that names
the prompt and no version. Texts are read when they are first asked for, and kept: versions never change.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from endpoints import idempotency, protocol, responses, routing, sql
from endpoints.protocol import Refusal
from endpoints.table import Key, Route
from playground.prompt_texts import PromptRefused, filled

KEPT = 128
FIELDS = frozenset({"id", "version", "variables"})


@dataclass(frozen=True, slots=True)
class Version:
    """What a version says."""

    messages: list[dict[str, Any]]
    variables: list[dict[str, Any]]
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says in `prompt`."""

    name: str
    version: int | None
    variables: Mapping[str, Any]


_kept: OrderedDict[tuple[int, int], Version] = OrderedDict()


async def fill(
    key: Key, route: Route, body: Mapping[str, Any], kind: str
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The body with the prompt's messages before its own, the prompt's parameters, and the bytes it adds.

    Refuses with 404 what the team's library does not have, with 400 variables that do not fit.
    """
    asked = _asked(body["prompt"])
    version = await _version(key, route, asked)
    try:
        messages = filled(version, _values(asked, version))
    except PromptRefused as refused:
        known = {variable["name"] for variable in version.variables} | set(asked.variables)
        param = f"prompt.variables.{refused.name}" if refused.name in known else "prompt.variables"
        raise Refusal(400, refused.text, "invalid_prompt_variable", param) from refused
    rest = {name: value for name, value in body.items() if name != "prompt"}
    said, parameters = _joined(rest, messages, version, kind)
    return said, parameters, len(json.dumps(messages, ensure_ascii=False))


def _joined(
    rest: dict[str, Any], messages: list[dict[str, Any]], version: Version, kind: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the body, the parameters) in the words of the API that was asked."""
    if kind == "chat":
        own = [*messages, *(rest.get("messages") or [])]
        if not own:
            raise Refusal(400, "messages must not be empty.", "missing_required_parameter", "messages")
        return rest | {"messages": own}, version.parameters
    given = rest.get("input") or []
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
    own = [*map(responses.item, messages), *items]
    if not own:
        raise Refusal(400, "input must not be empty.", "missing_required_parameter", "input")
    return rest | {"input": own}, version.parameters


def _asked(given: Any) -> Asked:
    """Refuses what is no {"id", "version", "variables"}."""
    if not isinstance(given, dict) or not given.keys() <= FIELDS:
        raise _wrong("prompt must be an object of id, version and variables.", "prompt")
    name, version = given.get("id"), given.get("version")
    if type(name) not in (str, int) or not 0 < len(str(name)) <= 120:
        raise _wrong("prompt.id must be a prompt's id or name.", "prompt.id")
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 10:
        version = int(version)
    if version is not None and (type(version) is not int or version < 1):
        raise _wrong("prompt.version must be the number of a version.", "prompt.version")
    variables = given.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise _wrong("prompt.variables must be an object.", "prompt.variables")
    return Asked(str(name), version, variables or {})


def _wrong(text: str, param: str) -> Refusal:
    return Refusal(400, text, "invalid_value", param)


def _values(asked: Asked, version: Version) -> dict[str, Any]:
    """The variables' values; one may be wrapped, as OpenAI has it, in a part of type input_text."""
    json_ones = {variable["name"] for variable in version.variables if variable["type"] == "json"}
    return {
        name: value if name in json_ones else _unwrapped(name, value)
        for name, value in asked.variables.items()
    }


def _unwrapped(name: str, value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "input_text":
        return value.get("text")
    if isinstance(value, dict) and value.get("type") in ("input_image", "input_file"):
        text = f"{name[:60]} is filled with text: pictures and files are not."
        raise Refusal(400, text, "invalid_prompt_variable", f"prompt.variables.{name[:60]}")
    return value


async def _version(key: Key, route: Route, asked: Asked) -> Version:
    """The version that is asked for: else the one this release was tested with, else the newest."""
    prompt = routing.prompt(key, asked.name)
    if prompt is None:
        text = f"No prompt is called {protocol.plain(asked.name, 80)!r} here."
        raise Refusal(404, text, "prompt_not_found", "prompt")
    tested = route.tested[1] if route.tested and route.tested[0] == prompt.id else prompt.head
    number = asked.version or tested
    found = _kept.get((prompt.id, number)) or await _read(key.team, prompt.id, number)
    if found is None:
        text = f"The prompt {protocol.plain(asked.name, 80)!r} has no version {number}."
        raise Refusal(404, text, "prompt_not_found", "prompt.version")
    _keep((prompt.id, number), found)
    return found


async def _read(team: int, prompt: int, number: int) -> Version | None:
    try:
        async with idempotency.borrow() as connection:
            row = await sql.prompt_version(connection, team, prompt, number)
    except (psycopg.Error, PoolTimeout, OSError) as problem:
        raise protocol.unavailable("Prompts cannot be read right now.", 5, "no_database") from problem
    return Version(*row) if row else None


def _keep(of: tuple[int, int], version: Version) -> None:
    _kept[of] = version
    _kept.move_to_end(of)
    if len(_kept) > KEPT:
        _kept.popitem(last=False)
