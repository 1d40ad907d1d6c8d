"""JSON compared with the order of its keys: an engine may see it, as in the properties of a schema. Pure."""

from collections.abc import Mapping
from typing import Any


def ordered(value: Any) -> Any:
    """The value so that == tells other orders of keys apart, too: each object as its pairs."""
    if isinstance(value, Mapping):
        return tuple((name, ordered(inner)) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return [ordered(inner) for inner in value]
    return value


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether parameters, messages or variables say the same: names in any order, all below in one."""
    return _named(a) == _named(b)


def like(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`after` with its names where `before` has them, new ones at the end: a form has an order of its own."""
    return {name: after[name] for name in [*before, *after] if name in after}


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: ordered(inner) for name, inner in value.items()}
