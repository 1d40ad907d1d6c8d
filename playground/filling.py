"""Prompt templates: messages with {{column}} in them, filled with a row's cells. Pure.

A cell is put in as it is: what looks like a template in it stays text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
MESSAGES = 20
CHARACTERS = 100_000
HOLE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")

Template = Sequence[Mapping[str, Any]]


class TemplateRefused(Exception):
    """This is no template for these columns; the text says why."""


def check(template: Template, columns: Sequence[str]) -> None:
    """TemplateRefused unless every message has a known role and text, and every {{name}} is a column."""
    if not isinstance(template, list | tuple) or not 0 < len(template) <= MESSAGES:
        raise TemplateRefused(f"A template has 1 to {MESSAGES} messages.")
    for message in template:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise TemplateRefused("A message is of the system, the user or the assistant.")
        if not isinstance(content, str) or not content.strip():
            raise TemplateRefused(f"The {role} message of the template is empty.")
        for name in HOLE.findall(content):
            if name not in columns:
                known = ", ".join(columns[:20])
                raise TemplateRefused(f"{{{{{name}}}}} is no column. The columns are: {known}.")
    if sum(len(message["content"]) for message in template) > CHARACTERS:
        raise TemplateRefused(f"A template has at most {CHARACTERS:,} characters.")
    if not used(template):
        raise TemplateRefused(
            "The template names no column, so every row would be asked the same: put {{"
            + (columns[0] if columns else "column")
            + "}} where its text belongs."
        )


def used(template: Template) -> list[str]:
    """The columns it names, each once."""
    return list(dict.fromkeys(name for message in template for name in HOLE.findall(message["content"])))


def size(template: Template, cells: Mapping[str, str]) -> int:
    """How many characters a filled template has at least, without filling it."""
    return sum(
        len(message["content"]) + sum(len(cells[name]) for name in HOLE.findall(message["content"]))
        for message in template
    )


def fill(template: Template, cells: Mapping[str, str]) -> list[dict[str, str]]:
    """The messages of one row."""
    return [
        {
            "role": message["role"],
            "content": HOLE.sub(lambda hole: cells[hole.group(1)], message["content"]),
        }
        for message in template
    ]
