"""The JSON of an answer, read strictly. Pure."""

import json
import math
from typing import Any

DEPTH = 100


class NotJson(Exception):
    """An answer that is no JSON; the text says why not."""


def read(text: str, *, fenced: bool = False) -> Any:
    """The JSON of a text, strictly; `fenced`: it may stand in one code block and nothing around it."""
    body = text.strip().removeprefix("\ufeff")
    if fenced and body.startswith("```") and body.endswith("```") and "\n" in body:
        body = body.partition("\n")[2][:-3]
    try:
        data = json.loads(body, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except json.JSONDecodeError as problem:
        raise NotJson(f"{problem.msg} at character {problem.pos + 1}.") from problem
    except RecursionError as problem:
        raise NotJson("it is nested too deep.") from problem
    except ValueError as problem:
        raise NotJson(f"{problem}.") from problem
    if _depth(data) > DEPTH:
        raise NotJson(f"it is nested more than {DEPTH} deep.")
    return data


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _depth(data: Any) -> int:
    level, depth = [data], 0
    while level and depth <= DEPTH:
        inner = [
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        ]
        level, depth = [value for values in inner for value in values], depth + 1
    return depth
