"""The form a prompt is written in: what was typed, made into what a version says, errors by field.

Knows the form's fields and nothing of requests: what was typed comes as lists by name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground import policy, prompt_texts, prompts, sampling
from playground.models import Prompt, PromptVersion, Team, User
from playground.prompt_changes import dumped
from playground.prompts import PromptRefused, Said

CHARACTERS = prompt_texts.CHARACTERS
ROWS = prompt_texts.MESSAGES
JSON = {"response_format": "The response format", "tools": "The tools", "other": "Other parameters"}
SAMPLED = frozenset(parameter.name for parameter in sampling.PARAMETERS)

Lists = Mapping[str, Sequence[str]]


@dataclass
class Message:
    """One message as typed. `more`: its other fields as JSON, content of parts among them."""

    role: str = "user"
    content: str = ""
    more: str = ""

    @property
    def rows(self) -> int:
        return min(24, max(2, self.content.count("\n") + len(self.content) // 90 + 1))


@dataclass
class Variable:
    """One variable as typed. `given`: a value to look at the prompt with. `used`: a message names it."""

    name: str
    type: str = "text"
    default: str = ""
    choices: str = ""
    description: str = ""
    given: str = ""
    used: bool = True


@dataclass
class Typed:
    """The form. `base`: the number of the version it was begun from, 0 for a new prompt."""

    base: int = 0
    name: str = ""
    description: str = ""
    tags: str = ""
    note: str = ""
    messages: list[Message] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    # Where the messages that are said stand in the form: rows left empty are none.
    _places: list[int] = field(default_factory=list)

    @property
    def fields(self) -> list[sampling.Field]:
        return sampling.typed(self.parameters, ())

    @property
    def tag_list(self) -> list[str]:
        return [tag for tag in (part.strip() for part in self.tags.split(",")) if tag]

    @property
    def set(self) -> int:
        return sum(bool(text.strip()) for text in self.parameters.values())

    def said(self) -> Said | None:
        """What a version would say, checked; None where `errors` tells why not."""
        self.errors = {}
        messages = [self._message(place, row) for place, row in enumerate(self.messages, 1)]
        self._places = [place for place, message in enumerate(messages, 1) if message]
        parameters = self._parameters()
        variables = self._variables([one for one in messages if one])
        if self.errors:
            return None
        try:
            return Said([one for one in messages if one], variables, parameters).checked()
        except PromptRefused as problem:
            self.refuse(problem)
            return None

    def refuse(self, problem: PromptRefused) -> None:
        place = problem.name.partition("[")[2].partition("]")[0]
        first = problem.name.partition(".")[0].partition("[")[0]
        if first == "messages" and place.isdecimal():
            self.errors[f"message {self._places[int(place)]}"] = problem.text
        elif first in SAMPLED or first in JSON or first in ("name", "note", "tags", "description"):
            self.errors[first] = problem.text
        elif any(row.name == problem.name for row in self.variables):
            self.errors[f"variable {problem.name}"] = problem.text
        else:
            self.errors["messages" if first == "messages" else "other" if first else "form"] = problem.text

    def _message(self, place: int, row: Message) -> dict[str, Any] | None:
        """None for a row left empty."""
        if not row.content.strip() and not row.more.strip():
            return None
        more: dict[str, Any] = {}
        try:
            more = policy.loads(row.more.encode(errors="surrogatepass")) if row.more.strip() else {}
        except policy.BadRequest as problem:
            self.errors[f"message {place}"] = f"Its other fields: {problem.message}"
        content = row.content if row.content or "tool_calls" not in more else None
        if "content" in more and row.content.strip():
            self.errors[f"message {place}"] = (
                "It has a text and, among its other fields, a content: one is too many."
            )
        return {"content": content} | more | {"role": row.role}

    def _parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            found = sampling.read(self.parameters)
        except sampling.BadParameters as problem:
            self.errors |= problem.fields
        for name, title in JSON.items():
            text = self.parameters.get(name, "").strip()
            if not text:
                continue
            try:
                value = policy.loads(f'{{"value": {text}\n}}'.encode(errors="surrogatepass"))
            except policy.BadRequest as problem:
                self.errors[name] = f"{title} must be JSON: {problem.message}"
                continue
            if value.keys() != {"value"}:
                self.errors[name] = f"{title} must be one JSON value."
            elif name != "other":
                found[name] = value["value"]
            elif isinstance(value["value"], dict):
                found |= {key: item for key, item in value["value"].items() if key not in found}
            else:
                self.errors[name] = f"{title} must be a JSON object."
        return found

    def _variables(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those named anywhere, and those with anything set: a name no message has, left as it was, goes."""
        names = prompt_texts.used(messages)
        found = []
        for row in self.variables:
            row.used = row.name in names
            if not row.used and not (row.default or row.choices or row.description):
                continue
            try:
                found.append(self._variable(row))
            except PromptRefused as problem:
                self.errors[f"variable {row.name}"] = problem.text
        return found

    def _variable(self, row: Variable) -> dict[str, Any]:
        made: dict[str, Any] = {"name": row.name, "type": row.type, "description": row.description}
        if row.type == "choice":
            made["choices"] = [line.strip() for line in row.choices.splitlines() if line.strip()]
        if row.default:
            made["default"] = prompt_texts.read([made], {row.name: row.default})[row.name]
        return prompt_texts.declared([], [made])[0]

    def detect(self, values: Mapping[str, str] | None = None) -> None:
        """A row for each name that messages have come to use; rows not named and with nothing set go."""
        names = prompt_texts.used([{"content": row.content} for row in self.messages])
        for message in self.messages:
            try:
                names += prompt_texts.used(
                    [policy.loads(message.more.encode())] if message.more.strip() else []
                )
            except (policy.BadRequest, UnicodeEncodeError):
                continue
        for row in self.variables:
            row.used = row.name in names
        self.variables = [
            row for row in self.variables if row.used or row.default or row.choices or row.description
        ]
        known = {row.name for row in self.variables}
        self.variables += [Variable(name) for name in dict.fromkeys(names) if name not in known]
        for row in self.variables:
            row.given = (values or {}).get(row.name, row.given)


def begun(said: Said, prompt: Prompt | None = None, base: int = 0) -> Typed:
    """The form with what a version says in it."""
    form = Typed(base=base)
    if prompt is not None:
        form.name, form.description, form.tags = prompt.name, prompt.description, ", ".join(prompt.tags)
    fill(form, said)
    return form


def fill(form: Typed, said: Said) -> None:
    """Put in what is said."""
    form.messages = [_row(message) for message in said.messages] or [Message("system"), Message("user")]
    form.variables = [
        Variable(
            one["name"],
            one["type"],
            shown(one, one.get("default")),
            "\n".join(one.get("choices", ())),
            one.get("description", ""),
        )
        for one in said.variables
    ]
    form.parameters = {
        parameter.name: parameter.show(said.parameters.get(parameter.name))
        for parameter in sampling.PARAMETERS
    }
    other = {name: value for name, value in said.parameters.items() if name not in {*SAMPLED, *JSON}}
    stop = said.parameters.get("stop")
    if isinstance(stop, str):
        form.parameters["stop"] = stop
    for name in ("response_format", "tools"):
        form.parameters[name] = dumped(said.parameters[name]) if name in said.parameters else ""
    form.parameters["other"] = dumped(other) if other else ""
    form.detect()


def shown(variable: Mapping[str, Any], value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return ""
    if variable["type"] == "json":
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _row(message: Mapping[str, Any]) -> Message:
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    if content is not None and not isinstance(content, str):
        return Message(message["role"], "", dumped({"content": content} | more))
    return Message(message["role"], content or "", dumped(more) if more else "")


def typed(posted: Lists) -> Typed:
    """The form as it was sent; PromptRefused for one that no page sends."""
    form = Typed()
    base = _one(posted, "base")
    form.base = int(base) if base.isdecimal() and len(base) < 10 else 0
    form.name, form.description = _one(posted, "name"), _one(posted, "description")
    form.tags, form.note = _one(posted, "tags"), _one(posted, "note")
    form.messages = [Message(*row) for row in _rows(posted, ("role", "content", "more"))]
    names = ("variable", "type", "default", "choices", "about")
    form.variables = [
        Variable(name, kind, default, choices, about)
        for name, kind, default, choices, about in _rows(posted, names)
        if name
    ]
    for row, given in zip(form.variables, posted.get("given", ()), strict=False):
        row.given = given
    form.parameters = {name: _one(posted, name) for name in (*SAMPLED, *JSON)}
    return form


def _one(posted: Lists, name: str) -> str:
    given = posted.get(name) or [""]
    return given[-1].replace("\r\n", "\n")[: CHARACTERS + 1]


def _rows(posted: Lists, names: Sequence[str]) -> list[list[str]]:
    lists = [[text.replace("\r\n", "\n") for text in posted.get(name, ())] for name in names]
    if len({len(one) for one in lists}) > 1 or len(lists[0]) > ROWS:
        raise PromptRefused("The form came incomplete: reload the page. What was typed is kept.")
    return [list(row) for row in zip(*lists, strict=True)]


def create(form: Typed, team: Team, user: User) -> Prompt | None:
    """The prompt; None where `errors` tells why not."""
    what = form.said()
    if what is None:
        return None
    try:
        return prompts.create(
            team, user, form.name, what, description=form.description, tags=form.tag_list, note=form.note
        )
    except PromptRefused as problem:
        form.refuse(problem)
        return None


def save(form: Typed, prompt: Prompt, user: User) -> PromptVersion | None:
    """The next version; None where `errors` tells why not. `prompts.Conflict` where another came first."""
    what = form.said()
    if what is None:
        return None
    try:
        return prompts.save(prompt, user, what, base=form.base, note=form.note)
    except PromptRefused as problem:
        form.refuse(problem)
        return None
