"""Extra arguments: what an administrator may add to an engine's command, from that engine's own list.

An argument is on the list when it is neither an option nor dangerous: none takes a path, an address, code or
free text. What is kept is the list of arguments itself, which the command gets at its end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from playground.engines.base import Engine, Taken

MOST = 20
LARGEST = 10**12


class ExtraRefused(Exception):
    """An argument that may not be added; the text says why."""


def parse(adapter: Engine, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """["--flag", "value", …] of (flag, value) pairs; pairs without a flag are left out."""
    line: list[str] = []
    seen: set[str] = set()
    for flag, value in pairs:
        if not flag and not value:
            continue
        if flag in seen:
            raise ExtraRefused(f"{flag} is there twice.")
        seen.add(flag)
        line += _argument(adapter, flag, value)
    if len(seen) > MOST:
        raise ExtraRefused(f"At most {MOST} extra arguments.")
    return line


def pairs(adapter: Engine, line: Iterable[str]) -> list[tuple[str, str]]:
    """The (flag, value) pairs of a kept list of arguments."""
    found: list[tuple[str, str]] = []
    for part in line:
        if found and found[-1][1] == "" and adapter.extra_flags.get(found[-1][0]) is not None:
            found[-1] = (found[-1][0], part)
        else:
            found.append((part, ""))
    return found


def words(taken: Taken) -> str:
    """What a flag takes, for people."""
    if taken is None:
        return "a switch: no value"
    if isinstance(taken, tuple):
        return " or ".join(taken)
    return "a whole number" if taken is int else "a number"


def _argument(adapter: Engine, flag: str, value: str) -> list[str]:
    if flag not in adapter.extra_flags:
        raise ExtraRefused(_why_not(adapter, flag))
    taken = adapter.extra_flags[flag]
    if taken is None:
        if value:
            raise ExtraRefused(f"{flag} is {words(taken)}.")
        return [flag]
    if isinstance(taken, tuple):
        if value not in taken:
            raise ExtraRefused(f"{flag} takes {words(taken)}.")
        return [flag, value]
    return [flag, _number(flag, taken, value)]


def _number(flag: str, taken: type[int] | type[float], value: str) -> str:
    try:
        number = taken(value)
    except ValueError as problem:
        raise ExtraRefused(f"{flag} takes {words(taken)}.") from problem
    if not 0 <= number <= LARGEST:
        raise ExtraRefused(f"{flag} takes {words(taken)} from 0 to {LARGEST:,}.")
    return str(number)


def _why_not(adapter: Engine, flag: str) -> str:
    """Why that one may not be added: it is an option, or on no list."""
    titles: Mapping[str, Any] = {
        str(extra["flag"]): field.title
        for field in adapter.Options.model_fields.values()
        if isinstance(extra := field.json_schema_extra, dict) and extra.get("flag")
    }
    if flag in titles:
        return f"{flag} is an option here: set {titles[flag]}."
    return f"{flag[:60]!r} is not on the list of arguments that may be added to {adapter.title}."
