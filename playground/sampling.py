"""The sampling parameters a person may set in a conversation. What is not set is left to the engine.

One list makes the form, reads it and shows it again. Ranges are those of `policy`, which has the last word.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from playground import policy


@dataclass(frozen=True)
class Parameter:
    """`kind`: "number", "whole" or "lines" (one string a line)."""

    name: str
    title: str
    kind: str
    hint: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None

    def read(self, text: str) -> Any:
        """The value typed; BadParameters says what it should have been."""
        if self.kind == "lines":
            return [line for line in text.splitlines() if line]
        try:
            return int(text) if self.kind == "whole" else float(text)
        except ValueError as problem:
            what = "a whole number" if self.kind == "whole" else "a number"
            raise BadParameters(
                {self.name: f"{self.title} is {what}, or empty for the engine's default."}
            ) from problem

    def show(self, value: Any) -> str:
        """As typed."""
        if value is None:
            return ""
        return (
            "\n".join(value)
            if self.kind == "lines"
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
        )


PARAMETERS = (
    Parameter("temperature", "Temperature", "number", "0 takes the likeliest token each time", 0, 100, 0.1),
    Parameter("top_p", "Top p", "number", "Least share of probability sampled from", 0, 1, 0.05),
    Parameter("top_k", "Top k", "whole", "Only the k likeliest tokens", -1, 1_000_000, 1),
    Parameter("max_tokens", "Max tokens", "whole", "Longest answer", 1, 1_000_000, 1),
    Parameter("seed", "Seed", "whole", "Same seed, same draw, where the engine can", None, None, 1),
    Parameter("presence_penalty", "Presence penalty", "number", "Against tokens already used", -2, 2, 0.1),
    Parameter("frequency_penalty", "Frequency penalty", "number", "Against tokens often used", -2, 2, 0.1),
    Parameter("stop", "Stop", "lines", "Ends the answer before it; one a line"),
)


class BadParameters(Exception):
    """`fields`: parameter → sentence."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


@dataclass(frozen=True)
class Field:
    """One parameter in the form: what is typed in it, and whether the engine would do nothing with it."""

    parameter: Parameter
    text: str
    ignored: bool


def read(form: Mapping[str, str]) -> dict[str, Any]:
    """What was set; BadParameters names every field that is wrong."""
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for parameter in PARAMETERS:
        text = form.get(parameter.name, "").strip()
        if not text:
            continue
        try:
            value = parameter.read(text)
            policy.check({"prompt": "-", parameter.name: value}, chat=False)
            found[parameter.name] = value
        except BadParameters as problem:
            wrong |= problem.fields
        except policy.BadRequest as problem:
            wrong[parameter.name] = str(problem)
    if wrong:
        raise BadParameters(wrong)
    return found


def over(before: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the form chose, and of `before` what the form does not show: a response format, tools."""
    shown = {parameter.name for parameter in PARAMETERS}
    return {name: value for name, value in before.items() if name not in shown} | dict(chosen)


def fields(parameters: Mapping[str, Any], ignored: Collection[str]) -> list[Field]:
    """The form's fields, in order."""
    return [
        Field(parameter, parameter.show(parameters.get(parameter.name)), parameter.name in ignored)
        for parameter in PARAMETERS
    ]


def typed(form: Mapping[str, str], ignored: Collection[str]) -> list[Field]:
    """The form's fields with what was typed in them, right or wrong."""
    return [
        Field(parameter, form.get(parameter.name, ""), parameter.name in ignored) for parameter in PARAMETERS
    ]


def pairs(text: str) -> dict[str, Any]:
    """The parameters of "temperature=0 max_tokens=200". ValueError in words names what is wrong."""
    given: dict[str, str] = {}
    for part in text.replace(",", " ").split():
        name, is_pair, value = part.partition("=")
        if not is_pair or not value:
            raise ValueError(f"{part[:40]} is not name=value.")
        if name not in PAIRED:
            raise ValueError(f"{name[:40]} is none of {', '.join(PAIRED)}.")
        if name in given:
            raise ValueError(f"{name} is given twice.")
        given[name] = value
    try:
        return read(given)
    except BadParameters as problem:
        raise ValueError(" ".join(problem.fields.values())) from problem


def paired(parameters: Mapping[str, Any]) -> str:
    """As `pairs` reads them, in the form's order."""
    shown = ((name, parameter.show(parameters.get(name))) for name, parameter in _SHOW.items())
    return " ".join(f"{name}={text}" for name, text in shown if text)


# What fits into one word.
_SHOW = {parameter.name: parameter for parameter in PARAMETERS if parameter.kind != "lines"}
PAIRED = tuple(_SHOW)
