"""Forms made from typed options: pydantic fields become groups of inputs, "engine default" the unset state.

Judges nothing: `options.parse` does, and its sentences come back beside the fields.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict
from pydantic import BaseModel, ValidationError

from playground.engines.base import GROUPS

PREFIX = "option."
UNSET = "engine default"
# Why an option of another build is greyed.
OFF = {"cuda": "Needs a GPU; no node here has one.", "cpu": "For nodes without a GPU only."}
# Seconds without use, and how they are called.
IDLE = (
    ("", "never"),
    ("600", "10 min"),
    ("1800", "30 min"),
    ("3600", "1 h"),
    ("14400", "4 h"),
    ("86400", "1 d"),
)


@dataclass(frozen=True)
class Field:
    """One input. `kind`: "choice", "number" or "text"; `value` is what was typed, "" is unset."""

    name: str
    title: str
    hint: str
    flag: str
    kind: str
    value: str = ""
    error: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    least: str = ""
    most: str = ""
    step: str = "any"
    unset: str = UNSET
    off: str = ""
    """Why it means nothing here, in words; empty where it does."""

    @property
    def range(self) -> str:
        """Its limits in words: "256 to 10,000,000"."""
        if self.least and self.most:
            return f"{_grouped(self.least)} to {_grouped(self.most)}"
        return (
            f"At least {_grouped(self.least)}"
            if self.least
            else f"At most {_grouped(self.most)}"
            if self.most
            else ""
        )

    @property
    def id(self) -> str:
        return f"id-{self.name}".replace(".", "-")

    @property
    def input(self) -> str:
        """The input's type. What is no number is shown all the same, where a number's input would hide it."""
        return "text" if self.kind == "number" and not _is_number(self.value) else self.kind

    @property
    def unlisted(self) -> bool:
        """Whether what was typed is none of the choices."""
        return bool(self.value) and self.value not in dict(self.choices)

    @property
    def described(self) -> str:
        """Ids of what is said of it: first what is wrong."""
        parts = [f"{self.id}-error"] if self.error else []
        return " ".join([*parts, f"{self.id}-hint"] if self.hint or self.off or self.range else parts)


@dataclass(frozen=True)
class Group:
    """Inputs that belong together. Open when something in it was set or is wrong."""

    title: str
    fields: tuple[Field, ...]

    @property
    def set(self) -> int:
        return sum(bool(field.value) for field in self.fields)

    @property
    def open(self) -> bool:
        return any(field.value or field.error for field in self.fields)


def groups(
    options: type[BaseModel],
    values: Mapping[str, Any],
    errors: Mapping[str, str] | None = None,
    *,
    build: str = "",
    models: Sequence[tuple[str, str]] = (),
) -> list[Group]:
    """The form of `options`: groups as `base.GROUPS` has them, fields as they were written.

    `values` and `errors` are by field name.

    `build`: of the nodes there are; options of another are marked so. `models`: (number, name) of those that
    an option may name.
    """
    schema = options.model_json_schema()
    found: dict[str, list[Field]] = {}
    for name, entry in schema.get("properties", {}).items():
        shape = _shape(entry, schema.get("$defs", {}))
        if shape.get("model"):
            shape |= {"choices": [*models, *_unlisted(values.get(name), models)]}
        if build and shape.get("build", build) != build:
            shape |= {"greyed": OFF.get(shape["build"], f"Only in the {shape['build']} build.")}
        field = _field(name, shape, values.get(name), (errors or {}).get(name, ""))
        found.setdefault(shape.get("group") or "Options", []).append(field)
    order = [*GROUPS, *found]
    return [Group(title, tuple(found[title])) for title in sorted(found, key=order.index)]


def _unlisted(value: Any, models: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """A model that was chosen and is not offered: it stays until another is chosen."""
    text = text_of(value)
    return [(text, f"model {text}")] if text and text not in dict(models) else []


def idle_choices(current: str) -> list[tuple[str, str]]:
    """After how long without use something stops: the usual choices, and the present one if another."""
    known = list(IDLE)
    return known if current in dict(known) else [*known, (current, f"{current} s")]


def given(options: type[BaseModel], posted: QueryDict) -> dict[str, Any]:
    """What was set of `options` in a posted form: {name: text, or texts for a list}."""
    schema = options.model_json_schema()
    values: dict[str, Any] = {}
    for name, entry in schema.get("properties", {}).items():
        text = posted.get(PREFIX + name, "").strip()
        if not text:
            continue
        is_list = _shape(entry, schema.get("$defs", {})).get("type") == "array"
        values[name] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    return values


def carried(old: type[BaseModel], new: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that survive a change of engine: those of options of the same title that the new one takes.

    What means the same has the same title in every engine; a value that means nothing to the new one is left
    behind. An earlier value for the same option wins.
    """
    titles = {str(field.title): name for name, field in new.model_fields.items() if field.title}
    kept: dict[str, Any] = {}
    for name, value in values.items():
        field = old.model_fields.get(name)
        twin = titles.get(str(field.title)) if field else None
        if twin is not None and (taken := _taken(new, twin, value)) is not None:
            kept.setdefault(twin, taken)
    return kept


def _taken(options: type[BaseModel], name: str, value: Any) -> Any:
    """`value` as that option takes it, be it in another case; None where it takes no such value."""
    spellings = [value, value.upper(), value.lower()] if isinstance(value, str) else [value]
    for spelling in spellings:
        try:
            options.model_validate({name: spelling})
        except ValidationError:
            continue
        return spelling
    return None


def _shape(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A property's schema without the "or null" that every option has, and without references."""
    inner: Mapping[str, Any] = next(
        (part for part in entry.get("anyOf", []) if part.get("type") != "null"), {}
    )
    merged = {**inner, **{key: value for key, value in entry.items() if key != "anyOf"}}
    if reference := merged.pop("$ref", ""):
        merged = {**definitions[reference.rpartition("/")[2]], **merged}
    return merged


def _field(name: str, shape: Mapping[str, Any], value: Any, error: str) -> Field:
    choices = _choices(shape)
    listed = bool(choices) or "choices" in shape
    number = shape.get("type") in ("integer", "number")
    default = shape.get("default")
    return Field(
        name=PREFIX + name,
        title=shape.get("title") or name.replace("_", " ").capitalize(),
        hint=shape.get("description", ""),
        flag=shape.get("flag", ""),
        kind="choice" if listed else "number" if number else "text",
        value=text_of(value),
        error=error,
        choices=choices,
        least="" if listed else text_of(shape.get("minimum")),
        most="" if listed else text_of(shape.get("maximum")),
        off=shape.get("greyed", ""),
        step="1" if shape.get("type") == "integer" else "any",
        unset=UNSET if default is None else f"default: {text_of(default)}",
    )


def _choices(shape: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if "choices" in shape:
        return tuple(shape["choices"])
    if shape.get("type") == "boolean":
        return (("true", "on"), ("false", "off"))
    values = shape.get("enum") or ([shape["const"]] if "const" in shape else [])
    return tuple((text_of(value), text_of(value) or "none") for value in values if text_of(value))


def _is_number(text: str) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False


def _grouped(text: str) -> str:
    """A limit with thousands apart, without the fraction a float's limit has none of."""
    whole = text.removesuffix(".0")
    return f"{int(whole):,}" if whole.lstrip("-").isdigit() else text


def text_of(value: Any) -> str:
    """As an input shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(part) for part in value)
    return (
        f"{value:g}" if isinstance(value, float) and value == int(value) and abs(value) < 1e6 else str(value)
    )
