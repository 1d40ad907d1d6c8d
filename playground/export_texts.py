"""An exported conversation as text: JSON, CSV, Markdown. Pure: takes the document of `exports`."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from playground.exports import FIGURES, FLAGS, engine

Document = Mapping[str, Any]
MISSING = "n/a"
# What spreadsheets take for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
OF_TURN = ("message_id", "after", "by", "at", "message")
OF_ANSWER = (
    "column",
    "model",
    "engine",
    "version",
    "configuration",
    "adapter",
    "state",
    "finish_reason",
    "error",
    "text",
    "reasoning",
)


def as_json(document: Document) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# CSV


def as_csv(document: Document) -> str:
    """A line an answer, with its message and its figures; a message without answers has a line of its own."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*OF_TURN, *OF_ANSWER, *FIGURES, *FLAGS])
    for turn in document["turns"]:
        asked = [turn["id"], turn["after"], turn["by"], turn["at"], turn["text"]]
        for answer in turn["answers"] or [None]:
            writer.writerow([cell(value) for value in [*asked, *_line(answer)]])
    return out.getvalue()


def _line(answer: Mapping[str, Any] | None) -> list[Any]:
    if answer is None:
        return [None] * (len(OF_ANSWER) + len(FIGURES) + len(FLAGS))
    own = [answer[name] for name in OF_ANSWER]
    return own + [_figure(answer["figures"][name]) for name in (*FIGURES, *FLAGS)]


def _figure(value: Any) -> Any:
    return MISSING if value is None else value


def cell(value: Any) -> Any:
    """A value that no spreadsheet runs: text that looks like a formula begins with '."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


# Markdown


def as_markdown(document: Document) -> str:
    said = [_message(turn, place, document) for place, turn in enumerate(document["turns"], 1)]
    return "\n\n".join([_head(document), *said]) + "\n"


def _head(document: Document) -> str:
    conversation = document["conversation"]
    parts = [f"# {plain(conversation['title'])}"]
    if conversation["system_prompt"]:
        parts.append(f"System prompt:\n\n{fenced(conversation['system_prompt'])}")
    if told := conversation.get("prompt"):
        values = f": {_pairs(told['values'])}" if told["values"] else ""
        parts.append(f"Prompt: {plain(told['name'])} v{told['version']}{values}")
    if conversation["parameters"]:
        parts.append(f"Parameters: {_pairs(conversation['parameters'])}")
    own = [_own(column) for column in document["columns"] if not column["closed"] or document["whole"]]
    return "\n\n".join([*parts, "\n".join(own)])


def _own(column: Mapping[str, Any]) -> str:
    """A column, and what it was asked with now."""
    name = plain(column["deployment"] or "no model")
    asked = _pairs(column["parameters"]) or "engine defaults"
    return f"- Column {column['column']}: {name}{' (closed)' if column['closed'] else ''}, {asked}"


def _message(turn: Mapping[str, Any], place: int, document: Document) -> str:
    after = f", after message {turn['after']}" if document["whole"] and turn["after"] else ""
    which = f" (message {turn['id']}{after})" if document["whole"] else ""
    parts = [f"## {place}. {plain(turn['by'] or 'Somebody')}{which}", fenced(turn["text"])]
    if turn["query"]:
        parts.append(f"Query:\n\n{fenced(turn['query'])}")
    if turn["pictures"]:
        parts.append(f"With {len(turn['pictures'])} picture{'s' if len(turn['pictures']) > 1 else ''}.")
    return "\n\n".join([*parts, *(_answered(answer) for answer in turn["answers"])])


def _answered(answer: Mapping[str, Any]) -> str:
    who = " · ".join(part for part in (answer["model"] or answer["deployment"], engine(dict(answer))) if part)
    adapter = f" · adapter {answer['adapter']}" if answer["adapter"] else ""
    column = f"Column {answer['column']}: " if answer["column"] else ""
    parts = [f"### {column}{plain(who + adapter)}"]
    if answer["state"] != "complete":
        parts.append(plain(f"{answer['state']}: {answer['error']}" if answer["error"] else answer["state"]))
    if answer["reasoning"]:
        parts.append(f"Reasoning:\n\n{fenced(answer['reasoning'])}")
    if answer["text"]:
        parts.append(fenced(answer["text"]))
    if answer["result"]:
        parts.append(fenced(json.dumps(answer["result"], indent=2, ensure_ascii=False), "json"))
    parts.append(_figures(answer))
    parts += [_comment(one) for one in answer["comments"]]
    return "\n\n".join(parts)


def _comment(comment: Mapping[str, Any]) -> str:
    edited = ", edited" if comment["edited_at"] else ""
    return f"Comment by {plain(comment['by'] or 'somebody who left')}{edited}:\n\n{fenced(comment['text'])}"


def _figures(answer: Mapping[str, Any]) -> str:
    found = answer["figures"]
    tokens, rate = found["n_approximate"], found["tpot_approximate"]
    return ", ".join(
        [
            f"engine TTFT {_measured(found['engine_ttft_ms'], 'ms')}",
            _measured(found["tokens_per_s"], "tok/s", rate),
            _measured(found["n"], "tokens", tokens),
            f"E2E {_measured(found['e2e_ms'], 'ms')}",
        ]
    )


def _measured(value: float | None, unit: str, approximate: bool = False) -> str:
    if value is None:
        return f"{MISSING} {unit}" if unit != "ms" else MISSING
    number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
    return f"{'≈ ' if approximate else ''}{number} {unit}"


def _pairs(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{plain(key)} {plain(json.dumps(value))}" for key, value in parameters.items())


def fenced(text: str, language: str = "") -> str:
    """A code block that nothing in `text` ends early."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", " ".join(text.split()))


AS: dict[str, Callable[[Document], str]] = {"json": as_json, "csv": as_csv, "md": as_markdown}
