"""What a person may ask of an engine: typed options, judged before anything is stored. No shell sees them."""

import re
from typing import Any

from pydantic import ValidationError

from playground.engines.base import Engine

VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,39}")
# An option becomes one argument of a list; one that looks like another flag or command is a mistake or worse.
_SUSPICIOUS = re.compile(r"[\x00-\x1f\x7f;]|^-")


class OptionsRefused(Exception):
    """Options the engine does not take; `fields` has a sentence for each."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


def parse(adapter: Engine, given: dict[str, Any]) -> dict[str, Any]:
    """Only what was set, in the adapter's own types; OptionsRefused names every field that is wrong."""
    suspicious = {
        key: f"{key}: {value!r} is not allowed here." for key, value in given.items() if _odd(value)
    }
    if suspicious:
        raise OptionsRefused(suspicious)
    try:
        parsed = adapter.Options.model_validate(given)
    except ValidationError as problem:
        raise OptionsRefused(_sentences(adapter, problem)) from problem
    return parsed.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def _odd(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_odd(item) for item in value)
    return isinstance(value, str) and not _number(value) and bool(_SUSPICIOUS.search(value))


def _number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text))


def _sentences(adapter: Engine, problem: ValidationError) -> dict[str, str]:
    fields = {}
    for error in problem.errors():
        name = ".".join(str(part) for part in error["loc"]) or "options"
        if error["type"] == "extra_forbidden":
            fields[name] = f"{adapter.title} has no option called {name!r} here."
        else:
            fields[name] = f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}."
    return fields
