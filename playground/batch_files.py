"""A batch as a file: JSONL in OpenAI's shape, CSV, Parquet; rows in the file's order, piece by piece.

Nothing is ever whole in memory, and no connection is held while a slow client reads: each piece is asked for
by key. A batch that still runs gives what it has so far.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from django.db.models import F, Func, IntegerField
from django.utils.text import slugify

from playground import batch_table, scoring
from playground.cells import safe
from playground.figures import figures
from playground.models import Batch, BatchColumn, BatchItem, BatchResult, BatchScore, DatasetRow
from playground.orm import orm

PIECE = 1_000
# Of the rows' requests, as PostgreSQL keeps them (packed).
PIECE_BYTES = 4 << 20
FORMATS = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
# Name in the file → name of the figure: milliseconds, counts, dollars.
FIGURES = {
    "ttft_ms": "ttft",
    "e2e_ms": "e2e",
    "tpot_ms": "tpot",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "completion_tokens": "tokens",
    "busy_cost_usd": "cost",
}
COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
ROW = ("row", "line", "custom_id", "asked", "expected")
OBJECTS = {"/v1/chat/completions": "chat.completion", "/v1/completions": "text_completion"}


def name(batch: Batch, kind: str, column: BatchColumn | None = None) -> str:
    """What the file is called: "triage-12.csv", or of one column "triage-12-2.jsonl"."""
    of = f"-{column.position + 1}" if column else ""
    return f"{slugify(batch.name)[:60].strip('-') or 'batch'}-{batch.pk}{of}.{kind}"


# JSONL


def lines(batch: Batch, column: BatchColumn, which: str = "all") -> Iterator[str]:
    """A line a row that ended, with its line end: the last result of its attempts. `which`: "ok", "failed" or
    "all". Rows still waiting have none; cancelled ones are failures. To be written to a file.
    """
    for rows in _pieces(batch):
        yield from _lines(rows, column, which)


def _lines(rows: Sequence[DatasetRow], column: BatchColumn, which: str) -> Iterator[str]:
    numbers = [row.number for row in rows]
    results = batch_table.last_results([column.pk], numbers, whole=True)
    states = _states([column.pk], numbers)
    for row in rows:
        state = states.get((row.number, column.pk), "")
        found = line(row, column, state, results.get((row.number, column.pk)))
        if found and (which == "all" or (found["error"] is None) == (which == "ok")):
            yield json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n"


def line(
    row: DatasetRow, column: BatchColumn, state: str, result: BatchResult | None
) -> dict[str, Any] | None:
    """One line as OpenAI's batches have it; None of a row that is not answered yet."""
    shape: dict[str, Any] = {"id": f"batch_req_{column.pk}_{row.number}", "custom_id": row.custom_id}
    if state == BatchItem.State.DONE and result and result.ok:
        said = {"status_code": 200, "request_id": f"req_{result.pk}", "body": body(row, column, result)}
        return shape | {"response": said, "error": None}
    if state == BatchItem.State.FAILED and result:
        why = {"code": result.error_code or "failed", "message": result.error}
        return shape | {"response": None, "error": why}
    if state == BatchItem.State.CANCELLED:
        expired = column.batch.state == Batch.State.EXPIRED
        code = "batch_expired" if expired else "batch_cancelled"
        why = {"code": code, "message": "The batch ended before this row was asked."}
        return shape | {"response": None, "error": why}
    return None


def body(row: DatasetRow, column: BatchColumn, result: BatchResult) -> dict[str, Any]:
    """The engine's own answer where it was kept, else the answer in OpenAI's shape."""
    if result.response is not None:
        kept: dict[str, Any] = result.response
        return kept
    kind = OBJECTS.get(row.url, "chat.completion")
    said: dict[str, Any] = {"index": 0, "finish_reason": result.finish_reason or None, "logprobs": None}
    if kind == "text_completion":
        said["text"] = result.text
    else:
        said["message"] = {"role": "assistant", "content": result.text}
        if result.reasoning:
            said["message"]["reasoning_content"] = result.reasoning
    return {
        "id": f"{'cmpl' if kind == 'text_completion' else 'chatcmpl'}-{result.pk}",
        "object": kind,
        "created": int(result.created_at.timestamp()),
        "model": column.deployment.name,
        "choices": [said],
        "usage": _usage(result.usage),
    }


def _usage(kept: dict[str, Any]) -> dict[str, Any] | None:
    prompt, tokens = kept.get("prompt_tokens"), kept.get("completion_tokens")
    if prompt is None or tokens is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


# Tables


def heading(batch: Batch, columns: Sequence[BatchColumn]) -> list[str]:
    """The names of a table's columns: the row's, then each deployment's."""
    names = list(ROW) + [f"cell.{cell}" for cell in batch.version.columns]
    for place in range(1, len(columns) + 1):
        names += [f"{place}.{title}" for title, _ in _fields(batch)]
    return names


def _fields(batch: Batch) -> list[tuple[str, str]]:
    """What a table says of each column: name, and type as Parquet has it."""
    texts = [(title, "string") for title in ("deployment", "state", "answer", "reasoning", "finish_reason")]
    known = [(title, "int64" if title in COUNTS else "double") for title in FIGURES]
    scores = [(f"score.{at + 1}.{scorer.kind}", "double") for at, scorer in scoring.scorers_of(batch)]
    return [*texts, *known, ("attempt", "int64"), ("error", "string"), *scores]


def types(batch: Batch, columns: Sequence[BatchColumn]) -> list[tuple[str, str]]:
    """Each of `heading` with its type."""
    row = ["int64", "int64", "string", "string", "string"] + ["string"] * len(batch.version.columns)
    return list(
        zip(heading(batch, columns), row + [kind for _, kind in _fields(batch)] * len(columns), strict=True)
    )


def table(batch: Batch, columns: Sequence[BatchColumn], rows: Sequence[DatasetRow]) -> Iterator[list[Any]]:
    """A line of values a row, as `heading` names them; None is missing."""
    numbers, pks = [row.number for row in rows], [column.pk for column in columns]
    results = batch_table.last_results(pks, numbers, whole=True)
    states, scores = _states(pks, numbers), _scores(pks, numbers)
    for row in rows:
        values: list[Any] = [row.number, row.line, row.custom_id, _asked(row), row.expected]
        values += [_text(row.cells.get(cell)) for cell in batch.version.columns]
        for column in columns:
            key = (row.number, column.pk)
            values += [column.deployment.name, states.get(key)]
            values += _answer(results.get(key))
            values += [scores.get((*key, at)) for at, _ in scoring.scorers_of(batch)]
        yield values


def _answer(result: BatchResult | None) -> list[Any]:
    if result is None:
        return [None] * (3 + len(FIGURES) + 2)
    known = figures(result)
    text = result.text
    if not text and result.response is not None:
        text = json.dumps(result.response, ensure_ascii=False)
    said: list[Any] = [text, result.reasoning or None, result.finish_reason or None]
    said = said if result.ok else [None] * 3
    numbers = [getattr(known, figure) if result.ok else None for figure in FIGURES.values()]
    return [*said, *numbers, result.attempt, None if result.ok else result.error]


def _asked(row: DatasetRow) -> str:
    """The request as it stands in the dataset, as JSON: what is sent beside a column's own parameters."""
    return json.dumps(row.body, ensure_ascii=False)


def _text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)


def csv_text(batch: Batch, columns: Sequence[BatchColumn], rows: Iterable[DatasetRow] | None) -> str:
    """CSV of `rows`; the heading where there are none given. Cells are safe, see `cells`."""
    file = io.StringIO()
    writer = csv.writer(file)
    if rows is None:
        writer.writerow([safe(cell) for cell in heading(batch, columns)])
    else:
        writer.writerows([safe(cell) for cell in values] for values in table(batch, columns, list(rows)))
    return file.getvalue()


# Streams


async def stream(batch: Batch, columns: Sequence[BatchColumn], kind: str) -> AsyncIterator[bytes]:
    """The whole file in pieces. JSONL is of the first column alone."""
    if kind == "parquet":
        async for piece in _parquet(batch, columns):
            yield piece
        return
    if kind == "csv":
        # The mark by which spreadsheets know UTF-8.
        yield b"\xef\xbb\xbf" + csv_text(batch, columns, None).encode()
    after = 0
    while rows := await orm(_piece, batch, after):
        after = rows[-1].number
        if kind == "csv":
            text = await orm(csv_text, batch, columns, rows)
        else:
            text = await orm(lambda rows: "".join(_lines(rows, columns[0], "all")), rows)
        yield text.encode()


async def _parquet(batch: Batch, columns: Sequence[BatchColumn]) -> AsyncIterator[bytes]:
    """A row group a piece, handed on at once. Written in threads: this loop may be timing answers."""
    writer = await orm(_Parquet, batch, columns)
    after = 0
    while rows := await orm(_piece, batch, after):
        after = rows[-1].number
        yield await orm(writer.write, rows)
    yield await orm(writer.close)


KINDS = {"string": "string", "int64": "int64", "double": "float64"}


class _Parquet:
    """A Parquet file as it is written, a row group at a time."""

    def __init__(self, batch: Batch, columns: Sequence[BatchColumn]) -> None:
        # 40 MB that a process without such a download does without.
        import pyarrow
        import pyarrow.parquet

        named = [(title, getattr(pyarrow, KINDS[kind])()) for title, kind in types(batch, columns)]
        self._arrow, self._schema = pyarrow, pyarrow.schema(named)
        self._of, self._sink = (batch, columns), _Sink()
        self._writer = pyarrow.parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def write(self, rows: Sequence[DatasetRow]) -> bytes:
        """What these rows add to the file."""
        values = zip(*table(*self._of, rows), strict=True)
        pairs = zip(values, self._schema, strict=True)
        arrays = [self._arrow.array(column, field.type) for column, field in pairs]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.taken()

    def close(self) -> bytes:
        """The file's end."""
        self._writer.close()
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """A file that is read as it is written."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written

    def write(self, piece: Any) -> int:
        self.kept.append(bytes(piece))
        self.written += len(self.kept[-1])
        return len(self.kept[-1])

    def taken(self) -> bytes:
        kept, self.kept = self.kept, []
        return b"".join(kept)


# Rows


def _pieces(batch: Batch) -> Iterator[list[DatasetRow]]:
    after = 0
    while rows := _piece(batch, after):
        yield rows
        after = rows[-1].number


def _piece(batch: Batch, after: int) -> list[DatasetRow]:
    """The next rows: PIECE of them, fewer where they are large."""
    rows = DatasetRow.objects.filter(version=batch.version_id, number__gt=after).order_by("number")
    size = Func(F("body"), function="pg_column_size", output_field=IntegerField())
    total, last = 0, after
    for number, taken in rows.annotate(size=size).values_list("number", "size")[:PIECE]:
        total += taken
        if last > after and total > PIECE_BYTES:
            break
        last = number
    return list(rows.filter(number__lte=last))


def _states(columns: Sequence[int], numbers: Sequence[int]) -> dict[tuple[int, int], str]:
    rows = BatchItem.objects.filter(column__in=columns, number__in=numbers)
    return {(number, pk): state for number, pk, state in rows.values_list("number", "column", "state")}


def _scores(columns: Sequence[int], numbers: Sequence[int]) -> dict[tuple[int, int, int], float | None]:
    rows = BatchScore.objects.filter(column__in=columns, number__in=numbers)
    found = rows.values_list("number", "column", "scorer", "value")
    return {(number, pk, scorer): value for number, pk, scorer, value in found}
