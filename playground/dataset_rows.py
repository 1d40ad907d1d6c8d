"""A dataset's rows as people see them, what is sent and long texts cut; and as OpenAI lines. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHOWN = 4_000


@dataclass(frozen=True)
class Said:
    role: str
    text: str
    hidden: int
    """Characters left out of the page."""


@dataclass(frozen=True)
class Glimpse:
    """One row for a page. `more`: what is sent beside the messages, as JSON."""

    number: int
    line: int
    custom_id: str
    url: str
    said: tuple[Said, ...]
    more: str
    expected: str | None


def glimpse(row: Any, number: int) -> Glimpse:
    """Of a reading.Row or a DatasetRow."""
    body = dict(row.body)
    messages = body.pop("messages", None)
    said = tuple(_said(message) for message in messages or ())
    more = json.dumps(body, ensure_ascii=False) if body else ""
    more = more if len(more) <= SHOWN else f"{more[:SHOWN]}…"
    expected = row.expected
    if expected is not None and len(expected) > SHOWN:
        expected = f"{expected[:SHOWN]}…"
    return Glimpse(number, row.line, row.custom_id, row.url, said, more, expected)


def _said(message: Mapping[str, Any]) -> Said:
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    rest = {name: value for name, value in message.items() if name not in ("role", "content")}
    if rest:
        text = f"{text}\n{json.dumps(rest, ensure_ascii=False)}"
    return Said(str(message.get("role")), text[:SHOWN], max(0, len(text) - SHOWN))


def openai_line(row: Any) -> str:
    """A DatasetRow as a line of OpenAI's batch files; it reads back as the same row."""
    line = {"custom_id": row.custom_id, "method": "POST", "url": row.url, "body": row.body}
    if row.expected is not None:
        line["expected"] = row.expected
    return json.dumps(line, ensure_ascii=False) + "\n"
