"""What a person may ask of an engine: typed options, judged before anything is stored. No shell sees them."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from playground import catalogue, drafts, engines, extra
from playground.engines.base import Engine
from playground.models import Model, Team

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


def judge(
    team: Team, model: Model, engine: str, given: dict[str, Any], version: str | None, name: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The clean options, and a sentence for each field that is wrong."""
    try:
        adapter = engines.get(engine)
    except engines.UnknownEngine as problem:
        return {}, {"engine": str(problem)}
    fields: dict[str, str] = {}
    clean: dict[str, Any] = {}
    if model.team_id != team.pk:
        fields["model"] = "No such model."
    elif model.refused or model.missing:
        fields["model"] = model.refused or f"The files of {model.name} are gone."
    else:
        _, verdict = catalogue.candidate(model, adapter)
        if not verdict.ok:
            fields["engine"] = verdict.why
    try:
        clean = parse(adapter, given)
    except OptionsRefused as problem:
        fields |= problem.fields
    if "model" not in fields:
        fields |= drafts.judge(team, model, adapter, clean)
        fields |= adapter.objections(clean)
    if version and not VERSION.fullmatch(version):
        fields["version"] = "A version looks like 0.32.0."
    if len(name) > 120 or not name.isprintable():
        fields["name"] = "At most 120 characters, without line breaks."
    return clean, fields


def judge_form(model: Model, engine: str, form: int | None) -> dict[str, str]:
    """A sentence where the form asked for is not one that the engine loads."""
    if form is None or engine not in engines.names():
        return {}
    _, verdict = catalogue.choose(model, engines.get(engine), form)
    return {} if verdict.ok else {"form": verdict.why}


def judge_extra(engine: str, pairs: Iterable[tuple[str, str]]) -> tuple[list[str], str]:
    """The arguments to add, and why not where one is not to be added."""
    if engine not in engines.names():
        return [], ""
    try:
        return extra.parse(engines.get(engine), pairs), ""
    except extra.ExtraRefused as problem:
        return [], str(problem)


def judge_numbers(
    least: int, most: int, idle_timeout_s: int | None, gpus: int | None, cores: int | None
) -> dict[str, str]:
    fields = {}
    if not 0 <= least <= most <= 64 or most < 1:
        fields["min_replicas"] = "At least 0, not above the most, and the most between 1 and 64."
    if idle_timeout_s is not None and not 1 <= idle_timeout_s <= 30 * 24 * 3600:
        fields["idle_timeout_s"] = "Between one second and thirty days."
    if gpus is not None and not 1 <= gpus <= 64:
        fields["gpus"] = "Between 1 and 64."
    if cores is not None and not 1 <= cores <= 1024:
        fields["cores"] = "Between 1 and 1024."
    return fields


def _odd(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_odd(item) for item in value)
    return isinstance(value, str) and not _number(value) and bool(_SUSPICIOUS.search(value))


def _number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text))


# What people did, in words; pydantic's own speak of parsing and of inputs.
_WORDS = {
    "greater_than_equal": "at least {ge}.",
    "less_than_equal": "at most {le}.",
    "greater_than": "more than {gt}.",
    "less_than": "less than {lt}.",
    "int_parsing": "a whole number is needed.",
    "int_from_float": "a whole number is needed.",
    "float_parsing": "a number is needed.",
    "bool_parsing": "true or false.",
    "literal_error": "one of {expected}.",
    "enum": "one of {expected}.",
}


def _wrong(error: Any) -> str:
    """One of pydantic's errors as a sentence."""
    if words := _WORDS.get(error["type"]):
        return words.format(**error.get("ctx", {}))
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}."


def _sentences(adapter: Engine, problem: ValidationError) -> dict[str, str]:
    fields = {}
    for error in problem.errors():
        name = ".".join(str(part) for part in error["loc"]) or "options"
        if error["type"] == "extra_forbidden":
            fields[name] = f"{adapter.title} has no option called {name!r} here."
        else:
            fields[name] = f"{name}: {_wrong(error)}"
    return fields
