"""What llama.cpp's launcher, and xllamacpp behind it, make of command lines."""

from enum import Enum
from typing import Any

from common import answer, launcher

PLAIN = (str, int, float, bool, Enum, type(None))


def parse(command: list[str]) -> dict[str, Any]:
    module, arguments = launcher(command)
    return fields(module.server_params(module.parse(arguments)))


def fields(params: Any) -> dict[str, Any]:
    """A structure of the library as plain values, down to the smallest."""
    names = [name for name in dir(params) if not name.startswith("_")]
    return {name: plain(getattr(params, name)) for name in names if not callable(getattr(params, name))}


def plain(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(one) for one in value]
    return fields(value)


answer(parse)
