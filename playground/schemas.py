"""JSON schemas and regular expressions in requests: engines compile them, so their cost is bounded. Pure."""

import re
from dataclasses import dataclass, field
from typing import Any

DEPTH = 60
NODES = 10_000
PATTERN_CHARS = 1000
REPEATS = 1000


class BadRequest(Exception):
    """A request the policy does not allow. `param` names the part of it, `code` is for programs."""

    def __init__(self, message: str, param: str | None, code: str) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


def check(schema: Any, name: str) -> None:
    """Raise BadRequest for a schema too deep, too large once its references are followed, or recursive."""
    if not isinstance(schema, dict | bool):
        raise BadRequest(f"{name} must be a JSON schema.", name, "invalid_type")
    Weighing(schema, name).weigh(schema, 0)


@dataclass
class Weighing:
    """Counts the nodes of one schema with every reference followed."""

    root: Any
    name: str
    following: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def weigh(self, node: Any, depth: int) -> int:
        """Nodes at and below `node`."""
        if depth > DEPTH:
            self._refuse(f"is nested more than {DEPTH} deep")
        total = 1
        if isinstance(node, dict):
            total += self._own(node, depth)
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            if isinstance(value, dict | list):
                total += self.weigh(value, depth + 1)
        if total > NODES:
            self._refuse(f"has more than {NODES} parts")
        return total

    def _own(self, node: dict[str, Any], depth: int) -> int:
        """Check what this node says itself; the nodes its reference adds."""
        if isinstance(node.get("pattern"), str):
            check_pattern(node["pattern"], self.name)
        patterns = node.get("patternProperties")
        for pattern in patterns if isinstance(patterns, dict) else ():
            check_pattern(pattern, self.name)
        self._check_bounds(node)
        reference = node.get("$ref", node.get("$dynamicRef", node.get("$recursiveRef")))
        return self._follow(reference, depth) if isinstance(reference, str) else 0

    def _check_bounds(self, node: dict[str, Any]) -> None:
        """Lengths are unrolled by some engines."""
        for bound in ("minItems", "minLength", "minProperties"):
            if type(node.get(bound)) in (int, float) and node[bound] > 10 * REPEATS:
                self._refuse(f"asks for more than {10 * REPEATS} by {bound}")

    def _follow(self, reference: str, depth: int) -> int:
        if reference in self.following:
            self._refuse("refers to itself")
        if reference not in self.known:
            self.following.append(reference)
            self.known[reference] = self.weigh(self._find(reference), depth + 1)
            self.following.pop()
        return self.known[reference]

    def _find(self, reference: str) -> Any:
        if not reference.startswith("#"):
            self._refuse("refers to another document")
        node = self.root
        for step in filter(None, reference[1:].split("/")):
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
                node = node[int(step)]
            else:
                self._refuse("has a reference that leads nowhere")
        return node

    def _refuse(self, why: str) -> None:
        raise BadRequest(f"{self.name} {why}.", self.name, "invalid_schema")


COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")


def check_pattern(pattern: Any, name: str) -> None:
    """Raise BadRequest for a pattern that is no regular expression, or one that can take exponential time."""
    if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARS:
        raise BadRequest(
            f"{name} takes a pattern of at most {PATTERN_CHARS} characters.", name, "invalid_pattern"
        )
    why = _fault(pattern)
    if why is None and not _compiles(pattern):
        why = "is not a regular expression"
    if why:
        raise BadRequest(f"A pattern in {name} {why}.", name, "invalid_pattern")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _fault(pattern: str) -> str | None:
    """What makes a pattern dear: a repeat of something that repeats, large counts, looking around or back."""
    groups, place, closed = [False], 0, False
    while place < len(pattern):
        symbol = pattern[place]
        width, most = _repeat(pattern, place)
        if most > REPEATS and width > 1:
            return f"repeats more than {REPEATS} times"
        if width:
            if closed and most > 1:
                return "repeats a group that repeats already"
            groups[-1] = groups[-1] or most > 1
            place, closed = place + width, False
            continue
        closed = False
        if symbol == "\\":
            if pattern[place + 1 : place + 2].isdigit() and pattern[place + 1] != "0":
                return "refers back to a group"
            width = 2
        elif symbol == "[":
            width = _class(pattern, place)
        elif symbol == "(":
            if pattern.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?P=", "(?("), place):
                return "looks around"
            groups.append(False)
        elif symbol == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
        place += width or 1
    return None


def _repeat(pattern: str, place: int) -> tuple[int, float]:
    """(characters, most repeats) of the quantifier at `place`; (0, 0) where there is none."""
    symbol = pattern[place]
    if symbol in "*+":
        return 1, REPEATS
    if symbol == "?":
        return 1, 1
    found = COUNT.match(pattern, place)
    if found is None:
        return 0, 0
    least, comma, most = found.groups()
    return len(found.group()), int(most or 0) if most else (
        max(int(least or 0), REPEATS) if comma else int(least or 0)
    )


def _class(pattern: str, place: int) -> int:
    """Characters of the class that opens at `place`."""
    end = place + 2 if pattern[place + 1 : place + 2] == "^" else place + 1
    end += pattern[end : end + 1] == "]"
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - place
