"""JSON schemas that people write to score by: the keywords of 2020-12 but those in MISSING. Pure.

Own code: the checkers there are bound no `pattern` in time. `format` is a note, as the standard has it.
"""

from typing import Any

from playground import schemas, score_json
from playground.schemas import BadRequest
from playground.score_fit import SHAPES

SCHEMA_CHARS = 100_000
MISSING = (
    "$anchor",
    "$dynamicRef",
    "$recursiveRef",
    "additionalItems",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
)
# What each keyword's own value must be, where a wrong one would break the check.
_BOUNDS = frozenset(
    f"{end}{what}" for end in ("min", "max") for what in ("Items", "Length", "Properties", "Contains")
)
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_ONES = frozenset({"items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"})


def read_schema(text: str) -> Any:
    """A schema that was typed. BadRequest says what is wrong with it, or what is not checked here."""
    if len(text) > SCHEMA_CHARS:
        raise BadRequest(f"The schema has more than {SCHEMA_CHARS:,} characters.", "schema", "invalid_schema")
    try:
        schema = score_json.read(text)
    except score_json.NotJson as problem:
        raise BadRequest(f"The schema is not JSON: {problem}", "schema", "invalid_schema") from problem
    schemas.check(schema, "The schema")
    _check(schema)
    return schema


def _check(node: Any) -> None:
    """Raise BadRequest for a keyword that is not checked here, or whose value means nothing."""
    if isinstance(node, bool):
        return
    if not isinstance(node, dict):
        raise _bad("holds something that is no schema where one belongs")
    for name, value in node.items():
        if name in MISSING or (name == "items" and isinstance(value, list)):
            raise _bad(f"uses {name}{' as a list' if name == 'items' else ''}, which is not checked here")
        if why := _wrong(name, value):
            raise _bad(f"has a {name} that is no {why}")
        for inner in _inner(name, value):
            _check(inner)


def _wrong(name: str, value: Any) -> str:
    """What a keyword's value should be and is not; else ''."""
    if name in _BOUNDS:
        return "" if type(value) is int and value >= 0 else "count"
    if name in _NUMBERS:
        fine = type(value) in (int, float) and (name != "multipleOf" or value > 0)
        return "" if fine else "number that means something"
    if name == "type":
        names = value if isinstance(value, list) else [value]
        return "" if names and all(isinstance(one, str) and one in SHAPES for one in names) else "type"
    if name in ("required", "enum") or name in _LISTS:
        fine = isinstance(value, list) and (name != "required" or all(isinstance(one, str) for one in value))
        return "" if fine else "list"
    if name in _MAPS or name == "dependentRequired":
        return "" if isinstance(value, dict) else "object"
    return "" if name not in ("pattern", "$ref") or isinstance(value, str) else "string"


def _inner(name: str, value: Any) -> list[Any]:
    """The schemas in a keyword's value."""
    if name in _ONES:
        return [value]
    if name in _LISTS:
        return list(value)
    return list(value.values()) if name in _MAPS else []


def _bad(why: str) -> BadRequest:
    return BadRequest(f"The schema {why}.", "schema", "invalid_schema")
