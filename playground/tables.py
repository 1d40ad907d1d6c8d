"""Rows of a table, from CSV, Parquet or JSON objects: a line's number, its cells as text or why not. Pure."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playground import cells, parquet
from playground.lines import BadLine, Lines

MAX_COLUMNS = 500
NAME = 120
CELL = 1 << 20
DELIMITERS = ",;\t|"
Found = tuple[int, dict[str, str] | str]

# The whole process's: the longest cell that any CSV here may have.
csv.field_size_limit(CELL)


class NoTable(ValueError):
    """The header is none; the text says why. `line` where there are lines."""

    def __init__(self, why: str, line: int | None) -> None:
        super().__init__(why)
        self.line = line


def checked(names: Sequence[Any], line: int | None) -> tuple[str, ...]:
    """The names of columns; NoTable unless each is text, has no braces, and stands once."""
    columns = tuple(str(name).strip() for name in names)
    if not 0 < len(columns) <= MAX_COLUMNS:
        raise NoTable(f"A table has 1 to {MAX_COLUMNS} columns, this one {len(columns)}.", line)
    for place, name in enumerate(columns, 1):
        if not name:
            raise NoTable(f"Column {place} has no name in the header.", line)
        if len(name) > NAME or set(name) & set("{}\r\n\0"):
            raise NoTable(f"Column {place}'s name is too long, or has braces or line ends in it.", line)
        if name in columns[: place - 1]:
            raise NoTable(f"Two columns are called {name}.", line)
    return columns


def columns(path: Path, name: str = "") -> tuple[str, ...]:
    """The header of a CSV. NoTable where it is none."""
    with Lines(path) as lines:
        header, _ = _header(lines, _delimiter(path, name))
        return checked(header, lines.number)


def rows(path: Path, form: str, columns: Sequence[str], name: str = "") -> Iterator[Found]:
    """Every row of a CSV or Parquet file, which has these `columns`. A Parquet row's line is its number."""
    return _parquet(path) if form == "parquet" else _csv(path, columns, name)


def _csv(path: Path, columns: Sequence[str], name: str) -> Iterator[Found]:
    with Lines(path) as lines:
        _, reader = _header(lines, _delimiter(path, name))
        while True:
            first = lines.number + 1
            try:
                found = next(reader)
            except StopIteration:
                return
            except BadLine as problem:
                yield problem.line, problem.why
            except csv.Error as problem:
                yield first, _in_words(str(problem), first, lines.number)
            else:
                if found:
                    yield first, _matched(found, columns, first, lines.number)


def _matched(found: list[str], columns: Sequence[str], first: int, last: int) -> dict[str, str] | str:
    if len(found) != len(columns):
        count = f"{len(found)} cell{'s' if len(found) > 1 else ''}"
        where = f", down to line {last}," if last > first else ""
        return (
            f"The row{where} has {count}, the header {len(columns)}: a comma or a quote too many or too few?"
        )
    return dict(zip(columns, map(cells.plain, found), strict=True))


def _in_words(problem: str, first: int, last: int) -> str:
    if "unexpected end of data" in problem or "field larger" in problem:
        lost = f", and {last - first:,} lines after it are lost" if last > first else ""
        return f"A quote is not closed{lost}; or a cell has more than a megabyte."
    return f"The row is no CSV: {problem}."


def _header(lines: Lines, delimiter: str) -> tuple[list[str], Iterator[list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                return cells, reader
    except BadLine as problem:
        raise NoTable(problem.why, problem.line) from problem
    except csv.Error as problem:
        raise NoTable(f"The header is no CSV: {problem}.", lines.number) from problem
    raise NoTable("The file has no header.", 1)


def _delimiter(path: Path, name: str) -> str:
    """What parts the header into most columns; a comma where all are alike."""
    if name.lower().endswith(".tsv"):
        return "\t"
    counts = {}
    for delimiter in DELIMITERS:
        try:
            with Lines(path) as lines:
                counts[delimiter] = len(_header(lines, delimiter)[0])
        except NoTable:
            counts[delimiter] = 0
    return max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def _parquet(path: Path) -> Iterator[Found]:
    found = parquet.rows(path)
    number = 0
    try:
        names = checked(json.loads(next(found)), None)
        for line in found:
            number += 1
            data = json.loads(line)
            if data is None:
                yield number, f"The row is longer than {parquet.MOST >> 20} MB."
            else:
                yield number, _cells({str(name).strip(): value for name, value in data.items()}, names)
    except parquet.Unreadable as problem:
        raise NoTable(
            f"The Parquet file cannot be read on from row {number + 1}: {problem}", number + 1
        ) from problem
    finally:
        found.close()


def _cells(data: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str] | str:
    try:
        return of_object(data, columns)
    except ValueError as problem:
        return str(problem)


def of_object(data: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """An object's values as text, by column; what is null is empty. ValueError where its names are others."""
    if missing := [name for name in columns if name not in data]:
        raise ValueError(f"{missing[0]} is missing, which the first row has.")
    if more := [name for name in data if name not in columns]:
        raise ValueError(f"{more[0][:80]} is no column of the first row.")
    return {name: _text(data[name]) for name in columns}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
