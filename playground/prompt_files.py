"""Prompts as files, YAML or JSON, one a file: written so that they read well in git, and read warily.

A file says what the newest version says, or, with `versions`, what every one did. Who saved what when is told
only there: a file of the newest changes only when the prompt does.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from django.db import transaction
from django.utils.text import slugify

from playground import access, policy, prompts
from playground.models import Prompt, PromptVersion, Team, User
from playground.prompts import PromptRefused, Said

FORMATS = {"yaml": "application/yaml", "json": "application/json"}
BYTES = 2_000_000
NODES, DEPTH = 50_000, 64
VERSIONS = 1000
# Several lines that begin and end with what is seen, and hold nothing a block cannot.
PLAIN = re.compile(
    "[!-~\xa1-\u2027\u202a-\ud7ff]"
    "[\t\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*(?<![ \t])"
)
OTHER_ENDS = frozenset("\x85\u2028\u2029")
HEAD = ("name", "description", "tags", "note")
SAYS = ("messages", "variables", "parameters")
TOLD = ("number", "restores", "saved_by", "saved_at", "note")


@dataclass(frozen=True)
class Imported:
    """What came of a file. `what`: "made", "saved" (a new version), "changed" (its tags), "same"."""

    prompt: Prompt
    what: str


# Writing


def document(prompt: Prompt, versions: Sequence[PromptVersion], *, every: bool) -> dict[str, Any]:
    """What a file says. `versions`: newest first, as they are kept; only the first is told unless `every`."""
    found: dict[str, Any] = {"name": prompt.name}
    if prompt.description:
        found["description"] = prompt.description
    if prompt.tags:
        found["tags"] = list(prompt.tags)
    if not every:
        if versions[0].note:
            found["note"] = versions[0].note
        return found | _says(versions[0])
    found["versions"] = [_told(version) | _says(version) for version in reversed(versions)]
    return found


def _told(version: PromptVersion) -> dict[str, Any]:
    told = {
        "number": version.number,
        "restores": version.restores,
        "saved_by": version.created_by.get_username() if version.created_by else None,
        "saved_at": version.created_at.isoformat(),
        "note": version.note,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _says(version: PromptVersion) -> dict[str, Any]:
    found: dict[str, Any] = {"messages": [_ordered(one, ("role", "content")) for one in version.messages]}
    if version.variables:
        names = ("name", "type", "default", "description", "choices")
        found["variables"] = [
            {key: value for key, value in _ordered(one, names).items() if value not in (None, "")}
            for one in version.variables
        ]
    if version.parameters:
        found["parameters"] = version.parameters
    return found


def _ordered(given: Mapping[str, Any], first: Iterable[str]) -> dict[str, Any]:
    """The named keys first: forms write them in another order than files."""
    return {name: given[name] for name in [*first, *given] if name in given}


def write(told: Mapping[str, Any], kind: str) -> str:
    if kind == "json":
        return json.dumps(told, ensure_ascii=False, indent=2) + "\n"
    return yaml.dump(
        dict(told), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=False
    )


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, one line each; lists indented under their name."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def analyze_scalar(self, scalar: str) -> Any:
        """Tabs and spaces at lines' ends are let into blocks as well: PyYAML would write one long line."""
        found = super().analyze_scalar(scalar)
        if "\n" in scalar and PLAIN.fullmatch(scalar):
            found.allow_block = True
        return found

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Other ends of lines than YAML keeps apart are written as escapes, which only stand between quotes."""
    style = '"' if OTHER_ENDS & set(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def filename(prompt: Prompt, kind: str) -> str:
    return f"{slugify(prompt.name, allow_unicode=True)[:100] or f'prompt-{prompt.pk}'}.{kind}"


# Reading


def read(raw: bytes, name: str) -> dict[str, Any]:
    """What a file says, its shape checked; PromptRefused for anything that is no prompt."""
    if len(raw) > BYTES:
        raise PromptRefused(f"The file has {len(raw):,} bytes; {BYTES:,} is the most.", "file")
    told = _json(raw) if name.lower().endswith(".json") else _yaml(raw)
    if not isinstance(told, dict):
        raise PromptRefused(
            "The file holds no prompt: it must be a mapping with a name and messages.", "file"
        )
    known = {*HEAD, "versions", *SAYS}
    if odd := sorted(str(key) for key in told.keys() - known):
        raise PromptRefused(f"The file has {odd[0][:60]!r}, which no prompt has.", "file")
    if ("versions" in told) == ("messages" in told):
        raise PromptRefused("The file must have either messages or versions.", "file")
    _texts(told, ("name", "description", "note"))
    tags = told.get("tags") or []
    if not isinstance(tags, list) or any(not isinstance(tag, str) for tag in tags):
        raise PromptRefused("The tags must be a list of texts.", "file")
    if "versions" in told:
        _versions(told["versions"])
    return told


def _texts(told: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(told.get(name) or "", str):
            raise PromptRefused(f"The {name} must be text.", "file")


def _versions(given: Any) -> None:
    if not isinstance(given, list) or not 0 < len(given) <= VERSIONS:
        raise PromptRefused(f"The versions must be a list of 1 to {VERSIONS}.", "file")
    for one in given:
        if not isinstance(one, dict) or "messages" not in one:
            raise PromptRefused("Each version must be a mapping with messages.", "file")
        if odd := sorted(str(key) for key in one.keys() - {*TOLD, *SAYS}):
            raise PromptRefused(f"A version has {odd[0][:60]!r}, which no version has.", "file")
        _texts(one, ("note",))


def _json(raw: bytes) -> Any:
    try:
        return policy.loads(raw)
    except policy.BadRequest as problem:
        raise PromptRefused(str(problem).replace("The body", "The file"), "file") from problem


def _yaml(raw: bytes) -> Any:
    try:
        loader = _Loader(raw.decode())
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (UnicodeDecodeError, yaml.reader.ReaderError) as problem:
        raise PromptRefused("The file is not text in UTF-8.", "file") from problem
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f" (line {mark.line + 1})" if mark else ""
        what = ", ".join(part for part in (problem.context, problem.problem) if part)
        raise PromptRefused(f"The file is not YAML: {what}{where}.", "file") from problem
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as problem:
        raise PromptRefused("The file is not YAML that a prompt can be read from.", "file") from problem


class _Loader(yaml.SafeLoader):
    """Plain values alone: no aliases, which can stand for billions; no doubled keys; not deep; not many.

    Dates stay text.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=event.start_mark)
        self.nodes += 1
        self.depth += 1
        if self.depth > DEPTH or self.nodes > NODES:
            what = f"nested more than {DEPTH} deep" if self.depth > DEPTH else f"more than {NODES:,} values"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="names must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value[:60]!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Keeping


def keep(team: Team, user: User, told: Mapping[str, Any]) -> Imported:
    """Make the prompt, or a new version where the file says something else, or nothing where it does not."""
    name = prompts.named(told.get("name") or "")
    row = Prompt.objects.filter(team=team, name=name).first()
    if row is None:
        return Imported(_make(team, user, name, told), "made")
    if not access.can(user, "view", row):
        raise PromptRefused(f"There is a prompt called {name} already.", "name")
    last = told["versions"][-1] if "versions" in told else told
    what = _said(last)
    newest = row.versions.get(number=row.head)
    saved = not prompts.same(what, newest)
    description = prompts.described(told.get("description") or "")
    tags = prompts.tagged(told.get("tags") or [])
    changed = [description, tags] != [row.description, row.tags]
    with transaction.atomic():
        if saved:
            _save(row, user, what, last.get("note") or "")
        if changed:
            prompts.change(row, user, name=name, description=description, tags=tags)
    return Imported(row, "saved" if saved else "changed" if changed else "same")


def _save(row: Prompt, user: User, what: Said, note: str) -> None:
    try:
        prompts.save(row, user, what, base=row.head, note=note)
    except prompts.Conflict as problem:
        raise PromptRefused(f"{problem} Import the file again.", "file") from problem


def _make(team: Team, user: User, name: str, told: Mapping[str, Any]) -> Prompt:
    versions = told.get("versions", [told])
    first, *later = [(_said(one), one.get("note") or "") for one in versions]
    with transaction.atomic():
        row = prompts.create(
            team,
            user,
            name,
            first[0],
            description=told.get("description") or "",
            tags=told.get("tags") or [],
            note=first[1],
        )
        for what, note in later:
            if not prompts.same(what, row.versions.get(number=row.head)):
                _save(row, user, what, note)
    return row


def _said(told: Mapping[str, Any]) -> Said:
    return Said(told["messages"], told.get("variables") or [], told.get("parameters") or {}).checked()
