"""A batch as a file: OpenAI lines, CSV that no spreadsheet runs and that parses back, Parquet; streamed."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pyarrow.parquet
import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from playground import batch_files, cells
from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchScore,
    DatasetRow,
    DatasetVersion,
    Team,
    User,
)
from tests import batch_rows, batch_tables

NASTY = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "'=1",
    "'",
    "''",
    'a "b", c\nd',
    "ünï",
    "",
    "plain",
    "' =1",
]


@pytest.fixture
def made(team: Team) -> tuple[Batch, list[BatchColumn]]:
    """A table of nasty cells, whose columns answer with them."""
    version = batch_rows.version(team, NASTY)
    DatasetVersion.objects.filter(pk=version.pk).update(columns=["question", "=bad"])
    version.refresh_from_db()
    for row, text in zip(version.rows.order_by("number"), NASTY, strict=True):
        DatasetRow.objects.filter(pk=row.pk).update(cells={"question": text, "=bad": 3}, expected=text)
    return batch_tables.batch(team, version)


@async_to_sync
async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def read_csv(raw: bytes) -> list[dict[str, str]]:
    """As a program reads it that knows of the apostrophes."""
    rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
    lines = [[cells.plain(cell) for cell in row] for row in rows]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@given(st.text())
def test_any_text_comes_back_from_a_safe_cell_and_none_is_a_formula(text: str) -> None:
    safe = cells.safe(text)
    assert cells.plain(safe) == text
    assert not safe.startswith(cells.UNSAFE)


def test_numbers_stay_numbers() -> None:
    assert [cells.safe(value) for value in (-5, -0.5, None)] == [-5, -0.5, None]


# JSONL


def test_lines_are_openais_in_the_files_order(made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, (one, two) = made
    batch_tables.answer(one, 3, "Bern", reasoning="Hm.")
    batch_tables.answer(one, 1, "Paris")
    batch_tables.fail(one, 2, "Too long.")
    batch_tables.again(one, 2)
    batch_tables.fail(one, 2, "Still too long.")
    batch_tables.fail(one, 4)
    batch_tables.again(one, 4)
    BatchItem.objects.filter(column=one, number=5).update(state=BatchItem.State.CANCELLED)
    found = [json.loads(line) for line in batch_files.lines(batch, one)]
    assert [line["custom_id"] for line in found] == ["row-1", "row-2", "row-3", "row-5"]
    first = found[0]["response"]
    assert found[0]["error"] is None and first["status_code"] == 200 and first["request_id"]
    body = first["body"]
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Paris"}
    assert body["choices"][0]["finish_reason"] == "stop" and body["object"] == "chat.completion"
    assert body["usage"] == {"prompt_tokens": 12, "completion_tokens": 11, "total_tokens": 23}
    assert found[2]["response"]["body"]["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert found[1]["response"] is None
    assert found[1]["error"] == {"code": "too_long", "message": "Still too long."}
    assert found[3]["error"]["code"] == "batch_cancelled"
    assert len({line["id"] for line in found}) == 4
    good = [json.loads(line)["custom_id"] for line in batch_files.lines(batch, one, "ok")]
    bad = [json.loads(line)["custom_id"] for line in batch_files.lines(batch, one, "failed")]
    assert (good, bad) == (["row-1", "row-3"], ["row-2", "row-5"])
    assert list(batch_files.lines(batch, two)) == []


def test_the_official_client_reads_the_bodies(made: tuple[Batch, list[BatchColumn]]) -> None:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    batch, (one, _) = made
    DatasetRow.objects.filter(version=batch.version, number=2).update(url="/v1/completions")
    batch_tables.answer(one, 1)
    batch_tables.answer(one, 2, "and on")
    chat, text = (json.loads(line)["response"]["body"] for line in batch_files.lines(batch, one))
    assert ChatCompletion.model_validate(chat, strict=True).choices[0].message.content == "Paris"
    assert Completion.model_validate(text, strict=True).choices[0].text == "and on"


def test_an_engines_own_answer_is_kept_as_it_is(made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, (one, _) = made
    own = {"object": "list", "data": [{"embedding": [0.5, 0.25], "index": 0, "object": "embedding"}]}
    batch_tables.answer(one, 1, "", response=own)
    (line,) = batch_files.lines(batch, one)
    assert json.loads(line)["response"]["body"] == own


# Tables


@pytest.mark.django_db(transaction=True)
def test_csv_has_every_row_and_parses_back_cell_by_cell(made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, (one, two) = made
    batch.scorers = [{"kind": "exact"}]
    for number, text in enumerate(NASTY, 1):
        batch_tables.answer(one, number, text)
    batch_tables.fail(two, 1, "=cmd|'/c calc'!A0")
    BatchScore.objects.create(column=one, number=1, scorer=0, value=0.5)
    raw = whole(batch_files.stream(batch, [one, two], "csv"))
    for line in csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")):
        assert not any(cell.startswith(cells.UNSAFE) for cell in line)
    found = read_csv(raw)
    assert [row["cell.question"] for row in found] == NASTY == [row["1.answer"] for row in found]
    assert [row["expected"] for row in found] == NASTY
    assert [row["row"] for row in found] == [str(number) for number in range(1, len(NASTY) + 1)]
    assert found[0]["cell.=bad"] == "3" and found[0]["1.ttft_ms"] == "40.0"
    assert found[0]["2.error"] == "=cmd|'/c calc'!A0" and found[0]["2.state"] == "failed"
    assert found[0]["1.score.1.exact"] == "0.5" and found[1]["1.score.1.exact"] == ""
    assert json.loads(found[0]["asked"])["messages"][0]["content"] == "=1+1"


@pytest.mark.django_db(transaction=True)
def test_parquet_has_the_same_rows_with_types(
    made: tuple[Batch, list[BatchColumn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_files, "PIECE", 5)
    batch, (one, two) = made
    for number, text in enumerate(NASTY, 1):
        batch_tables.answer(one, number, text)
    raw = whole(batch_files.stream(batch, [one, two], "parquet"))
    file = pyarrow.parquet.ParquetFile(io.BytesIO(raw))
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert [row["1.answer"] for row in rows] == NASTY == [row["cell.question"] for row in rows]
    assert rows[0]["1.ttft_ms"] == 40.0 and rows[0]["1.completion_tokens"] == 11 and rows[0]["row"] == 1
    assert rows[0]["2.answer"] is None and rows[0]["2.state"] == "waiting"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_comes_in_pieces_each_asked_for_by_key(
    made: tuple[Batch, list[BatchColumn]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(batch_files, "PIECE", 4)
    batch, (one, _) = made
    for number in range(1, len(NASTY) + 1):
        batch_tables.answer(one, number)
    asked: list[int] = []
    piece = batch_files._piece

    def counted(batch: Batch, after: int) -> Any:
        rows = piece(batch, after)
        asked.append(len(rows))
        return rows

    monkeypatch.setattr(batch_files, "_piece", counted)

    @async_to_sync
    async def first_two() -> list[int]:
        """How many pieces were read when each of the first two came."""
        seen = []
        async for _ in (pieces := batch_files.stream(batch, [one], kind)):
            seen.append(len(asked))
            if len(seen) == 3:
                break
        await pieces.aclose()  # type: ignore[attr-defined]
        return seen

    seen = first_two()
    assert seen in ([1, 2, 3], [0, 1, 2]) and max(asked) == 4


def test_a_piece_of_large_rows_has_few_of_them(
    made: tuple[Batch, list[BatchColumn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, _ = made
    monkeypatch.setattr(batch_files, "PIECE_BYTES", 1)
    numbers = [[row.number for row in rows] for rows in batch_files._pieces(batch)]
    assert numbers == [[number] for number in range(1, len(NASTY) + 1)]


@pytest.mark.django_db(transaction=True)
def test_a_download_is_named_and_never_sniffed(user: User, made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, (_one, two) = made
    batch_tables.answer(two, 1, "Rome")
    page = Client()
    page.force_login(user)
    address = reverse("batch-export", args=[batch.pk])
    answer = page.get(address, {"format": "jsonl", "column": two.pk})
    assert answer.headers["Content-Disposition"] == f'attachment; filename="triage-{batch.pk}-2.jsonl"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"Rome" in whole(answer.streaming_content)  # type: ignore[attr-defined]
    assert whole(page.get(address, {"format": "jsonl"}).streaming_content) == b""  # type: ignore[attr-defined]
    assert page.get(address, {"format": "csv"}).headers["Content-Type"].startswith("text/csv")


@pytest.mark.django_db
def test_a_piece_costs_the_same_few_queries_however_many_rows_it_has(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    batch, (one, two) = made
    rows = list(batch.version.rows.order_by("number"))
    with CaptureQueriesContext(connection) as few:
        batch_files.csv_text(batch, [one, two], rows[:2])
    with CaptureQueriesContext(connection) as more:
        batch_files.csv_text(batch, [one, two], rows)
    assert len(few) == len(more) <= 4
