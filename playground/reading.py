"""Reads a file of inputs row by row: OpenAI batch lines, prompts, or a table with a template. Pure.

A line that cannot be used is a Problem with its number, and reading goes on; what makes the whole file
useless is a Refusal. Knows nothing of teams, pages or the database.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playground import filling, parquet, policy, pooling, tables
from playground.filling import Template, TemplateRefused
from playground.lines import MAX_LINES, UTF_16_32, BadLine, Lines, TooManyLines
from playground.tables import NoTable

OPENAI, PROMPTS, TABLE = "openai", "prompts", "table"
MAX_ROWS = 50_000
MAX_SIZE = 200_000_000
# What a template makes of a file may be larger than the file.
MAX_SENT = 2 * MAX_SIZE
MAX_ROW = 8 << 20
MAX_ID = 512
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
URLS = (CHAT, COMPLETIONS, EMBEDDINGS)
# How rows are asked is the site's own business: timed streams, by the column's model.
OURS = ("model", "stream", "stream_options")
LOOKED_AT = 20
# Names of columns, the likeliest first.
EXPECTED = ("expected", "answer", "output", "label", "target", "completion", "ideal")
PROMPT = ("prompt", "question", "input", "text", "message", "instruction")
BINARY = {
    b"PK\x03\x04": "a ZIP archive or a workbook (.zip, .xlsx)",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\xd0\xcf\x11\xe0": "an old workbook (.xls)",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a SQLite database",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


class Refusal(Exception):
    """The file as a whole is not taken; the text says why. `line` where known; `status` for HTTP."""

    def __init__(self, why: str, line: int | None = None, status: int = 422) -> None:
        super().__init__(why)
        self.line, self.status = line, status


@dataclass(frozen=True)
class Row:
    line: int
    custom_id: str
    url: str
    body: dict[str, Any]
    """What is sent, without a model: {"messages": […], "max_tokens": …}."""
    cells: dict[str, str] = field(default_factory=dict)
    expected: str | None = None
    size: int = 0
    """Bytes of body and cells as JSON."""


@dataclass(frozen=True)
class Problem:
    line: int
    why: str


@dataclass(frozen=True)
class Shape:
    """How a file is to be read. `expected`, `identity`: a table's columns of right answers and custom_ids."""

    kind: str
    template: Template = ()
    expected: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Looked:
    """What a file is, from its beginning."""

    form: str
    """"jsonl", "csv" or "parquet"."""
    kind: str
    columns: tuple[str, ...] = ()

    def suggested(self) -> Shape:
        """A shape to begin with: which columns look like the prompt, the right answer, the custom_id."""
        if self.kind != TABLE:
            return Shape(self.kind)
        expected = _named(self.columns, EXPECTED)
        identity = _named(self.columns, ["custom_id", "id"])
        others = [name for name in self.columns if name not in (expected, identity)] or list(self.columns)
        system = _named(others, ["system", "system_prompt"])
        prompt = _named(others, PROMPT) or others[0]
        said = [{"role": "user", "content": f"{{{{{prompt}}}}}"}]
        first = [{"role": "system", "content": f"{{{{{system}}}}}"}] if system and system != prompt else []
        return Shape(TABLE, [*first, *said], expected, identity)


def _named(columns: Sequence[str], wanted: Sequence[str]) -> str:
    by_name = {name.lower().replace(" ", "_"): name for name in reversed(columns)}
    return next((by_name[name] for name in wanted if name in by_name), "")


# What it is


def look(path: Path, name: str = "", kind: str | None = None) -> Looked:
    """What the file at `path` is, from its beginning and its `name`. Refusal where it is nothing."""
    size = path.stat().st_size
    if size == 0:
        raise Refusal("The file is empty.", 1)
    if size > MAX_SIZE:
        raise Refusal(
            f"The file has {size / 1e6:,.1f} MB; {MAX_SIZE // 1_000_000} MB are the most.", status=413
        )
    with path.open("rb") as file:
        head = file.read(16)
    _refuse_binary(head)
    try:
        if kind in (OPENAI, PROMPTS):
            return _json_lines(head, kind)
        if head.startswith(parquet.MAGIC):
            return Looked("parquet", TABLE, _parquet_columns(path))
        if name.lower().endswith((".csv", ".tsv")):
            return Looked("csv", TABLE, tables.columns(path, name))
        return _of_text(path, name)
    except NoTable as problem:
        raise Refusal(str(problem), problem.line) from problem
    except TooManyLines as problem:
        raise Refusal(str(problem), MAX_LINES) from problem


def _json_lines(head: bytes, kind: str) -> Looked:
    if head.startswith(parquet.MAGIC):
        raise Refusal("The file is Parquet, not JSON lines.", status=415)
    return Looked("jsonl", kind)


def _refuse_binary(head: bytes) -> None:
    for magic, what in BINARY.items():
        if head.startswith(magic):
            raise Refusal(f"The file is {what}: send JSONL, CSV or Parquet as it is.", status=415)
    if head.startswith(UTF_16_32):
        raise Refusal("The file is UTF-16 or UTF-32 text: save it as UTF-8.", 1)


def _of_text(path: Path, name: str) -> Looked:
    """JSON lines by their first good one; else CSV."""
    first: dict[str, Any] | None = None
    seen = ""
    with Lines(path) as lines:
        for _ in range(LOOKED_AT):
            try:
                line = next(lines, "").strip()
                seen = seen or line
                first = first or (policy.loads(line.encode()) if line else None)
            except (BadLine, policy.BadRequest):
                continue
    is_json = first is not None or seen.startswith(("{", "[")) or name.lower().endswith((".jsonl", ".json"))
    if not seen:
        raise Refusal("Its first lines are empty or cannot be read: save the file as UTF-8 text.", 1)
    if not is_json:
        return Looked("csv", TABLE, tables.columns(path, name))
    if first is None or "messages" in first or "prompt" in first:
        return Looked("jsonl", PROMPTS)
    if "body" in first or "custom_id" in first:
        return Looked("jsonl", OPENAI)
    return Looked("jsonl", TABLE, tables.checked(list(first), 1))


def _parquet_columns(path: Path) -> tuple[str, ...]:
    rows = parquet.rows(path)
    try:
        return tables.checked(json.loads(next(rows)), None)
    except parquet.Unreadable as problem:
        raise Refusal(f"The Parquet file cannot be read: {problem}", status=415) from problem
    finally:
        rows.close()


# Its rows


def read(path: Path, looked: Looked, shape: Shape, name: str = "") -> Iterator[Row | Problem]:
    """Every row in the file's order, and a Problem for each line that is none. Refusal past the limits."""
    if shape.kind == TABLE:
        _check_shape(looked, shape)
    seen: dict[str, int] = {}
    sent = 0
    for count, found in enumerate(_patiently(_rows(path, looked, shape, name)), 1):
        if isinstance(found, Row):
            if (before := seen.get(found.custom_id)) is not None:
                found = Problem(
                    found.line, f"custom_id {found.custom_id[:80]!r} stands in line {before} too."
                )
            else:
                seen[found.custom_id] = found.line
        if count > MAX_ROWS:
            raise Refusal(f"The file has more than {MAX_ROWS:,} rows, which are the most.", found.line)
        if isinstance(found, Row):
            sent += found.size
            if sent > MAX_SENT:
                raise Refusal(
                    f"What would be sent comes to more than {MAX_SENT // 1_000_000} MB.", found.line
                )
        yield found


def _patiently(rows: Iterator[Row | Problem]) -> Iterator[Row | Problem]:
    try:
        yield from rows
    except TooManyLines as problem:
        raise Refusal(str(problem), MAX_LINES) from problem
    except NoTable as problem:
        raise Refusal(str(problem), problem.line) from problem


def _check_shape(looked: Looked, shape: Shape) -> None:
    try:
        filling.check(shape.template, looked.columns)
    except TemplateRefused as problem:
        raise Refusal(str(problem)) from problem
    for name in (shape.expected, shape.identity):
        if name and name not in looked.columns:
            raise Refusal(f"{name} is no column of this file.")


def _rows(path: Path, looked: Looked, shape: Shape, name: str) -> Iterator[Row | Problem]:
    if looked.form == "jsonl":
        for number, line in enumerate_lines(path):
            if isinstance(line, BadLine):
                yield Problem(number, line.why)
            elif line.strip():
                yield _of_line(number, line, shape, looked.columns)
        return
    for number, cells in tables.rows(path, looked.form, looked.columns, name):
        yield Problem(number, cells) if isinstance(cells, str) else _of_cells(number, cells, shape)


def enumerate_lines(path: Path) -> Iterator[tuple[int, str | BadLine]]:
    with Lines(path) as lines:
        while True:
            try:
                line = next(lines)
            except StopIteration:
                return
            except BadLine as problem:
                yield lines.number, problem
            else:
                yield lines.number, line


def _of_line(number: int, line: str, shape: Shape, columns: tuple[str, ...]) -> Row | Problem:
    try:
        data = policy.loads(line.strip().encode())
        if shape.kind == OPENAI:
            return checked(_openai(number, data))
        if shape.kind == PROMPTS:
            return checked(_prompt(number, data))
        return _of_cells(number, tables.of_object(data, columns), shape)
    except policy.BadRequest as problem:
        return Problem(number, re.sub(r"^The body\b", "The line", problem.message))
    except ValueError as problem:
        return Problem(number, str(problem))


def _of_cells(number: int, cells: dict[str, str], shape: Shape) -> Row | Problem:
    """A row of a table: its cells in the template."""
    if filling.size(shape.template, cells) > MAX_ROW:
        return Problem(number, f"What would be sent is larger than {MAX_ROW >> 20} MB.")
    if not any(cells[name].strip() for name in filling.used(shape.template)):
        return Problem(
            number, f"{', '.join(filling.used(shape.template))} is empty, so there is nothing to ask."
        )
    body = {"messages": filling.fill(shape.template, cells)}
    expected = (cells[shape.expected] or None) if shape.expected else None
    try:
        identity = (
            _identity(cells[shape.identity].strip() or None, number) if shape.identity else f"line-{number}"
        )
        return checked(Row(number, identity, CHAT, body, cells, expected))
    except policy.BadRequest as problem:
        return Problem(number, problem.message)
    except ValueError as problem:
        return Problem(number, str(problem))


def _openai(number: int, data: Mapping[str, Any]) -> Row:
    if data.get("custom_id") is None:
        raise ValueError("custom_id is missing.")
    identity = _identity(data["custom_id"], number)
    if data.get("method") != "POST":
        raise ValueError('method must be "POST".')
    url, body = data.get("url"), data.get("body")
    if url not in URLS:
        raise ValueError(f"url must be {', '.join(URLS[:-1])} or {URLS[-1]}.")
    if not isinstance(body, dict):
        raise ValueError("body must be an object: the request to send.")
    return Row(number, identity, str(url), _without_ours(body), {}, _text(data.get("expected")))


def _prompt(number: int, data: Mapping[str, Any]) -> Row:
    """{"prompt": "…"} or {"messages": […]}, with custom_id or id, system, expected; the rest are cells."""
    prompt, messages = data.get("prompt"), data.get("messages")
    if messages is None and not (isinstance(prompt, str) and prompt.strip()):
        raise ValueError('The line needs {"prompt": "…"} with text in it, or {"messages": […]}.')
    if messages is None:
        system = data.get("system")
        if system is not None and not isinstance(system, str):
            raise ValueError("system must be text.")
        first = [{"role": "system", "content": system}] if system else []
        messages = [*first, {"role": "user", "content": prompt}]
    identity = _identity(data.get("custom_id", data.get("id")), number)
    known = ("prompt", "messages", "system", "custom_id", "id", "expected", *OURS)
    cells = {name: _text(value) or "" for name, value in data.items() if name not in known}
    return Row(number, identity, CHAT, {"messages": messages}, cells, _text(data.get("expected")))


def _identity(value: Any, number: int) -> str:
    if value is None:
        return f"line-{number}"
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID:
        raise ValueError(f"custom_id must be text of 1 to {MAX_ID} characters.")
    return value


def _text(value: Any) -> str | None:
    """A value of a line as text; what is not text as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _without_ours(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in OURS}


def checked(row: Row) -> Row:
    """The row with its size, within the request policy; BadRequest or ValueError with why not."""
    if row.url == EMBEDDINGS:
        pooling.check(row.body, "embedding")
    else:
        policy.check(row.body, chat=row.url == CHAT)
    written = json.dumps([row.body, row.cells, row.custom_id, row.expected], ensure_ascii=False)
    if "\\u0000" in written and _has_nul([row.body, row.cells, row.custom_id, row.expected]):
        raise ValueError("The line holds a NUL character, which cannot be kept.")
    return replace(row, size=len(written.encode()))


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(name) or _has_nul(inner) for name, inner in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))
