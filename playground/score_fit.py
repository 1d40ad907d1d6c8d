"""Whether a value fits a JSON schema that `score_schemas` let through, within a number of steps. Pure."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from playground import score_patterns

STEPS = 200_000
SHAPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int, float),
}


class TooDear(Exception):
    """Checking this answer took too many steps."""


def fault(schema: Any, value: Any) -> str | None:
    """The first thing wrong with a value, and where; None where it fits. TooDear, and that of patterns."""
    return _Fit(schema).fault(schema, value, "")


@dataclass
class _Fit:
    root: Any
    steps: int = 0

    def fault(self, node: Any, value: Any, at: str) -> str | None:
        self._step(1)
        if isinstance(node, bool):
            return None if node else f"{at or 'it'} is not allowed"
        for check in (self._itself, self._number, self._string, self._array, self._object, self._several):
            if why := check(node, value, at or "it"):
                return why
        return None

    def fits(self, node: Any, value: Any) -> bool:
        return self.fault(node, value, "") is None

    def _step(self, count: int) -> None:
        self.steps += count
        if self.steps > STEPS:
            raise TooDear("It takes too many steps to check this answer.")

    def _itself(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        """$ref, type, enum, const."""
        if "$ref" in node and (why := self.fault(self._find(node["$ref"]), value, at)):
            return why
        names = node.get("type", [])
        names = [names] if isinstance(names, str) else names
        if names and not any(_is(name, value) for name in names):
            return f"{at} is no {' or '.join(names)}"
        if "enum" in node:
            self._step(len(node["enum"]))
            if _key(value) not in [_key(one) for one in node["enum"]]:
                return f"{at} is none of the values allowed"
        return (
            f"{at} is not the value wanted"
            if "const" in node and _key(node["const"]) != _key(value)
            else None
        )

    def _find(self, reference: str) -> Any:
        """What `schemas.check` found too: it leads somewhere, and not to itself."""
        node = self.root
        for step in filter(None, reference[1:].split("/")):
            step = step.replace("~1", "/").replace("~0", "~")
            node = node[int(step)] if isinstance(node, list) else node[step]
        return node

    def _number(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        if type(value) not in (int, float):
            return None
        bounds: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
            ("minimum", lambda a, b: a >= b, "below"),
            ("maximum", lambda a, b: a <= b, "above"),
            ("exclusiveMinimum", lambda a, b: a > b, "not above"),
            ("exclusiveMaximum", lambda a, b: a < b, "not below"),
        )
        for name, holds, words in bounds:
            if name in node and not holds(value, node[name]):
                return f"{at} is {words} {node[name]}"
        if "multipleOf" in node and Fraction(str(value)) % Fraction(str(node["multipleOf"])):
            return f"{at} is no multiple of {node['multipleOf']}"
        return None

    def _string(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        if not isinstance(value, str):
            return None
        if not node.get("minLength", 0) <= len(value) <= node.get("maxLength", math.inf):
            return f"{at} has {len(value)} characters"
        if "pattern" in node and not score_patterns.found(node["pattern"], value):
            return f"{at} does not match {node['pattern'][:60]}"
        return None

    def _array(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        if not isinstance(value, list):
            return None
        if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", math.inf):
            return f"{at} has {len(value)} items"
        if node.get("uniqueItems") is True:
            self._step(len(value))
            if len({_key(one) for one in value}) < len(value):
                return f"{at} has an item twice"
        first = node.get("prefixItems", [])
        for place, one in enumerate(value):
            inner = first[place] if place < len(first) else node.get("items", True)
            if why := self.fault(inner, one, f"{at}[{place}]"):
                return why
        if "contains" in node:
            held = sum(self.fits(node["contains"], one) for one in value)
            if not node.get("minContains", 1) <= held <= node.get("maxContains", math.inf):
                return f"{at} has {held} items of the kind wanted"
        return None

    def _object(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        if not isinstance(value, dict):
            return None
        if not node.get("minProperties", 0) <= len(value) <= node.get("maxProperties", math.inf):
            return f"{at} has {len(value)} properties"
        wanted = list(node.get("required", []))
        for name, more in node.get("dependentRequired", {}).items():
            wanted += more if name in value else []
        for name in wanted:
            if name not in value:
                return f"{at} lacks {name[:60]}"
        for name, inner in node.get("dependentSchemas", {}).items():
            if name in value and (why := self.fault(inner, value, at)):
                return why
        return next(filter(None, (self._property(node, name, value[name], at) for name in value)), None)

    def _property(self, node: dict[str, Any], name: str, value: Any, at: str) -> str | None:
        place = f"{'' if at == 'it' else at}.{name[:60]}".removeprefix(".")
        if "propertyNames" in node and (why := self.fault(node["propertyNames"], name, "a name in " + at)):
            return why
        own = [node["properties"][name]] if name in node.get("properties", {}) else []
        patterns = node.get("patternProperties", {})
        own += [inner for pattern, inner in patterns.items() if score_patterns.found(pattern, name)]
        if not own and "additionalProperties" in node:
            if node["additionalProperties"] is False:
                return f"{place} is not expected"
            own = [node["additionalProperties"]]
        return next(filter(None, (self.fault(inner, value, place) for inner in own)), None)

    def _several(self, node: dict[str, Any], value: Any, at: str) -> str | None:
        """allOf, anyOf, oneOf, not, if."""
        for inner in node.get("allOf", []):
            if why := self.fault(inner, value, at):
                return why
        if "anyOf" in node and not any(self.fits(inner, value) for inner in node["anyOf"]):
            return f"{at} fits none of anyOf"
        if "oneOf" in node and (held := sum(self.fits(inner, value) for inner in node["oneOf"])) != 1:
            return f"{at} fits {held} of oneOf"
        if "not" in node and self.fits(node["not"], value):
            return f"{at} is what it must not be"
        if "if" in node:
            return self.fault(node.get("then" if self.fits(node["if"], value) else "else", True), value, at)
        return None


def _is(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, SHAPES[name])


def _key(value: Any) -> Any:
    """Equal for values that JSON calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return ("list", tuple(_key(one) for one in value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(one)) for name, one in value.items()))
    return (value is True or value is False, value)
