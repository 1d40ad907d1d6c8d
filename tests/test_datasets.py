"""Datasets: files of every shape read streamed, told by line, kept as versions; and the attacks on them."""

import asyncio
import csv
import json
import os
import re
import time
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pyarrow import parquet
from pytest_django import Settings

from playground import arriving, cells, datasets, lines, reading
from playground.datasets import DatasetRefused
from playground.models import (
    Batch,
    Conversation,
    Dataset,
    DatasetRow,
    DatasetVersion,
    Generation,
    Membership,
    Team,
    Turn,
    User,
)
from playground.reading import Shape
from tests import batch_rows
from tests.home import HOME

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def written(folder: Path, text: str | bytes, name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def openai_line(custom_id: str = "a", **more: object) -> str:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line | more)


def test_it_keeps_openai_lines_without_their_model(team: Team, user: User, tmp_path: Path) -> None:
    path = written(
        tmp_path, openai_line("a") + "\r\n\n" + openai_line("b", expected=4) + "\r" + openai_line("c")
    )
    version = datasets.add_version(datasets.create(team, user, "Capitals"), user, path, "in.jsonl")
    rows = list(version.rows.order_by("number"))
    assert version.complete and (version.number, version.kind, version.row_count) == (1, "openai", 3)
    assert [(row.number, row.line, row.custom_id) for row in rows] == [(1, 1, "a"), (2, 3, "b"), (3, 4, "c")]
    assert rows[0].body == {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    assert rows[1].expected == "4"


def test_it_fills_a_template_with_a_csvs_cells(team: Team, user: User, tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeffq,answer\n"What is, 1+1?",2\n"{{answer}}\nx",3\nshort\n', "sums.csv")
    template = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Q: {{ q }}"}]
    dataset = datasets.create(team, user, "Sums")
    version = datasets.add_version(dataset, user, path, "sums.csv", None, template, expected="answer")
    first, second = version.rows.order_by("number")
    assert first.body["messages"] == [template[0], {"role": "user", "content": "Q: What is, 1+1?"}]
    assert second.body["messages"][1]["content"] == "Q: {{answer}}\nx"
    assert (second.line, second.expected, second.cells["answer"]) == (3, "3", "3")
    assert version.bad_rows == 1 and version.problems[0]["line"] == 5


def test_it_refuses_a_file_without_one_usable_row(team: Team, user: User, tmp_path: Path) -> None:
    dataset = datasets.create(team, user, "None")
    with pytest.raises(DatasetRefused, match="Line 1"):
        datasets.add_version(dataset, user, written(tmp_path, "{broken\n"), "in.jsonl")
    assert not dataset.versions.exists() and not DatasetRow.objects.exists()


# Attacks on the reader


def read(path: Path) -> tuple[list[reading.Row], list[reading.Problem]]:
    looked = reading.look(path, path.name)
    found = list(reading.read(path, looked, looked.suggested(), path.name))
    rows = [one for one in found if isinstance(one, reading.Row)]
    return rows, [one for one in found if isinstance(one, reading.Problem)]


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"", 1, "empty"),
        (b"\n" * 1000, 1, "empty"),
        ((openai_line() + "\n").encode("utf-16"), 1, "UTF-16"),
        ((openai_line() + "\n").encode("utf-16-le"), 1, "cannot be read"),
        (b"\xff" * 1000, 1, "cannot be read"),
    ],
)
def test_it_refuses_what_is_no_text(tmp_path: Path, content: bytes, line: int, why: str) -> None:
    with pytest.raises(DatasetRefused, match=why) as caught:
        read(written(tmp_path, content))
    assert caught.value.line == line


@pytest.mark.parametrize(
    "head", [b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"%PDF-1.7"]
)
def test_it_refuses_archives_whatever_they_are_called(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(DatasetRefused) as caught:
        read(written(tmp_path, head + b"\0" * 100))
    assert caught.value.status == 415


def test_it_tells_each_bad_line_by_its_number_and_reads_on(tmp_path: Path) -> None:
    lines = [
        openai_line("a"),
        "nonsense",
        openai_line("a"),
        json.dumps({"method": "POST", "url": "/v1/chat/completions", "body": {}}),
        openai_line("b", method="GET"),
        openai_line("c", url="/v1/files"),
        openai_line("d", body=[]),
        openai_line("e", body={"messages": [], "n": 0}),
        openai_line(""),
        openai_line("x" * 513),
        "[1]",
        '{"a":' * 2000,
        '{"custom_id": 1, "custom_id": 2}',
        openai_line("f").replace("Hello", "\\u0000"),
        openai_line("g").replace("Hello", "\\ud800"),
        openai_line("h").replace("5}", "NaN}"),
        "\x00",
        openai_line("i").replace("Hello", "H\u00e9").encode("latin-1").decode("latin-1"),
    ]
    rows, problems = read(written(tmp_path, "\n".join(lines)))
    assert [(row.line, row.custom_id) for row in rows] == [(1, "a"), (18, "i")]
    assert [one.line for one in problems] == list(range(2, 18))
    told = {one.line: one.why for one in problems}
    assert "stands in line 1" in told[3] and "custom_id is missing" in told[4]
    assert "NUL" in told[14] and "surrogate" in told[15] and "NUL" in told[17]


def test_it_is_not_held_up_by_a_line_of_two_hundred_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(openai_line("a").encode() + b'\n{"prompt": "')
        for _ in range(190):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n' + openai_line("b").encode())
    tracemalloc.start()
    rows, problems = read(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row.line for row in rows] == [1, 3]
    assert [(one.line, "longer than 8 MB" in one.why) for one in problems] == [(2, True)]
    assert most < 80_000_000


def test_it_refuses_a_file_of_endless_empty_lines_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINES", 10_000)
    path = written(tmp_path, openai_line() + "\n" * 20_000)
    with pytest.raises(DatasetRefused, match="10,000 lines"):
        read(path)


@pytest.mark.parametrize("name", ["many.jsonl", "many.csv"])
def test_it_refuses_the_fifty_thousand_and_first_row(tmp_path: Path, name: str) -> None:
    text = "prompt\n" if name.endswith("csv") else ""
    text += "".join(f'{{"prompt": "{at}"}}\n' if not text else f"{at}\n" for at in range(50_001))
    with pytest.raises(DatasetRefused, match="50,000") as caught:
        read(written(tmp_path, text, name))
    assert caught.value.line == 50_001 + name.endswith("csv")


def test_it_refuses_more_than_two_hundred_megabytes_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(reading.MAX_SIZE + 1)
    with pytest.raises(DatasetRefused) as caught:
        read(path)
    assert caught.value.status == 413


def test_a_template_cannot_make_much_of_little(tmp_path: Path) -> None:
    path = written(tmp_path, "prompt,other\n" + "".join(f"{at},x\n" for at in range(50_000)), "small.csv")
    looked = reading.look(path, path.name)
    shape = Shape(reading.TABLE, [{"role": "user", "content": "a" * 90_000 + "{{prompt}}"}])
    with pytest.raises(DatasetRefused, match="more than 400 MB"):
        for _ in reading.read(path, looked, shape):
            pass


def test_it_tells_ragged_rows_and_open_quotes_of_a_csv(tmp_path: Path) -> None:
    text = 'prompt;answer\r\nh\u00e9;1\r\na;b;c\r\n\r\nshort\r\n"x"y;2\r\nok;2\r\n"open;3\r\nlost;4\r\n'
    rows, problems = read(written(tmp_path, text, "in.csv"))
    assert [(row.line, row.cells) for row in rows] == [
        (2, {"prompt": "h\u00e9", "answer": "1"}),
        (7, {"prompt": "ok", "answer": "2"}),
    ]
    assert [one.line for one in problems] == [3, 5, 6, 8]
    assert "1 lines after it are lost" in problems[-1].why


def test_cells_of_an_exported_csv_are_read_as_they_were(tmp_path: Path) -> None:
    texts = ["=1+1", "+x", "-x", "@x", "\tx", "'=x", "'quoted'", "plain"]
    path = tmp_path / "out.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt"], *([cells.safe(text)] for text in texts)])
    rows, _ = read(path)
    assert [row.cells["prompt"] for row in rows] == texts


@pytest.mark.parametrize(
    "header", ["a,a", "a,,b", "{{a}},b", ",".join(f"c{at}" for at in range(501)), "x" * 200, '"open']
)
def test_it_refuses_a_header_that_names_no_columns(tmp_path: Path, header: str) -> None:
    with pytest.raises(DatasetRefused) as caught:
        read(written(tmp_path, f"{header}\n1,2\n", "in.csv"))
    assert caught.value.line


def test_it_reads_parquet_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    table = {"prompt": ["hi", "ho", None], "answer": [1, 2, 3], "tags": [["a"], [], None]}
    parquet.write_table(pyarrow.table(table), path)
    rows, problems = read(path)
    assert [(row.line, row.expected, row.cells["tags"]) for row in rows] == [
        (1, "1", '["a"]'),
        (2, "2", "[]"),
    ]
    assert [one.line for one in problems] == [3]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetRefused) as caught:
        read(path)
    assert caught.value.status == 415


def test_a_parquet_file_that_unfolds_past_all_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    same = pyarrow.DictionaryArray.from_arrays([0] * 200, ["a" * 20_000_000])
    parquet.write_table(pyarrow.table({"prompt": same}), path, store_schema=False)
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DatasetRefused, match=r"memory|ended with"):
        read(path)


# Names, versions, room


def test_versions_count_up_and_stay_as_they_are(team: Team, user: User, tmp_path: Path) -> None:
    dataset = datasets.create(team, user, "  My   data ")
    assert dataset.name == "My data"
    for text in ("one", "two"):
        path = written(tmp_path, json.dumps({"prompt": text}))
        datasets.add_version(dataset, user, path, "in.jsonl")
    bodies = [version.rows.get().body["messages"][0]["content"] for version in dataset.versions.all()]
    assert bodies == ["two", "one"] and [one.number for one in dataset.versions.all()] == [2, 1]
    with pytest.raises(DatasetRefused, match="already"):
        datasets.create(team, user, "My data")
    with pytest.raises(DatasetRefused, match="name"):
        datasets.create(team, user, " ")


def test_a_strict_caller_gets_the_first_bad_line(team: Team, user: User, tmp_path: Path) -> None:
    path = written(tmp_path, openai_line("a") + "\nno\n")
    dataset = datasets.create(team, user, "Strict")
    with pytest.raises(DatasetRefused) as caught:
        datasets.add_version(dataset, user, path, "in.jsonl", "openai", skip_bad=False)
    assert caught.value.line == 2 and not dataset.versions.exists() and not DatasetRow.objects.exists()


def test_the_teams_quota_and_the_disk_stop_what_is_too_much(
    team: Team, user: User, tmp_path: Path, settings: Settings
) -> None:
    dataset = datasets.create(team, user, "Full")
    path = written(tmp_path, openai_line() + " " * 2000)
    settings.DATASETS_QUOTA_GB = 3e-6
    datasets.add_version(dataset, user, path, "in.jsonl")
    with pytest.raises(DatasetRefused, match="SLIPWAY_DATASETS_QUOTA_GB") as caught:
        datasets.add_version(dataset, user, path, "in.jsonl")
    assert caught.value.status == 507
    settings.DATASETS_QUOTA_GB, settings.DISK_FREE = 1, 2.0
    with pytest.raises(DatasetRefused, match="disk is too full"):
        datasets.add_version(dataset, user, path, "in.jsonl")
    with pytest.raises(DatasetRefused, match="disk is too full"):
        arriving.begin(team, "a.jsonl", 10)


def test_what_a_dead_process_left_is_removed(team: Team, user: User, tmp_path: Path) -> None:
    dataset = datasets.create(team, user, "Left")
    dead = datasets.begin(dataset, user, "prompts", "x", size=1)
    DatasetRow.objects.create(version=dead, number=1, line=1, custom_id="a", body={})
    DatasetVersion.objects.filter(pk=dead.pk).update(created_at=timezone.now() - timedelta(hours=2))
    version = datasets.add_version(dataset, user, written(tmp_path, openai_line()), "in.jsonl")
    assert list(dataset.versions.all()) == [version] and DatasetRow.objects.count() == 1


def test_a_dataset_is_not_deleted_under_a_batch(team: Team, user: User, tmp_path: Path) -> None:
    version = batch_rows.version(team, ["Hello"])
    batch = Batch.objects.create(team=team, name="nightly", version=version)
    for remove in (
        lambda: datasets.remove(version.dataset, user),
        lambda: datasets.remove_version(version, user),
    ):
        with pytest.raises(DatasetRefused, match="nightly"):
            remove()
    batch.delete()
    datasets.remove(version.dataset, user)
    assert not DatasetRow.objects.exists() and not Dataset.objects.exists()


# Files on their way


def test_a_file_comes_in_pieces_and_only_where_it_ends(team: Team) -> None:
    file = arriving.begin(team, "../../etc/pass\nwd.jsonl", 6)
    assert file.name == "passwd.jsonl" and file.path.is_relative_to(HOME / "datasets" / str(team.pk))
    assert arriving.write(file, 0, b"abc") == 3
    for offset, piece in [(0, b"abc"), (4, b"d"), (3, b"defg"), (3, b"")]:
        with pytest.raises(DatasetRefused):
            arriving.write(file, offset, piece)
    assert not file.is_whole
    arriving.write(file, 3, b"def")
    found = arriving.find(team, file.key)
    assert found and found.is_whole and found.path.read_bytes() == b"abcdef"
    arriving.remove(found)
    assert arriving.find(team, file.key) is None and arriving.find(team, "../..") is None


def test_files_that_wait_count_against_the_quota_and_are_forgotten(team: Team, settings: Settings) -> None:
    settings.DATASETS_QUOTA_GB = 1e-6
    file = arriving.begin(team, "a.jsonl", 600)
    with pytest.raises(DatasetRefused, match="QUOTA"):
        arriving.begin(team, "b.jsonl", 600)
    old = time.time() - 2 * arriving.KEPT_S
    for one in (file.path, file.path.parent):
        os.utime(one, (old, old))
    assert arriving.begin(team, "b.jsonl", 600).path.exists() and not file.path.exists()


# Pages


async def whole(response: Any) -> bytes:
    return b"".join([part async for part in response.streaming_content])


def upload(client: Client, text: str, file: str = "in.csv", **typed: str) -> HttpResponse:
    sent = SimpleUploadedFile(file, text.encode())
    return client.post(reverse("dataset-new"), {"upload": sent, **typed})


def key_in(response: HttpResponse) -> str:
    return re.findall(r'name="file" value="([^"]+)"', response.content.decode())[0]


TWO_BAD = "question,answer\n1+1?,2\nbroken\n2+2?,4\nalso,broken,row\n"
MENDED = "question,answer\n1+1?,2\n2+2?,4\n3+3?,6\n"


def test_bad_lines_are_told_before_anything_is_kept_and_what_was_typed_stays(page: Client) -> None:
    response = upload(page, TWO_BAD, "sums.csv")
    text = response.content.decode()
    assert "2 lines cannot be used" in text and "Save 2 rows without the 2 bad lines" in text
    assert "{{question}}" in text and "1+1?" in text and not Dataset.objects.exists()
    typed = {"name": "Sums", "prompt": "Work out {{question}}", "system": "Be short.", "expected": "answer"}
    mended = upload(page, MENDED, "sums.csv", **typed, identity="", action="check").content.decode()
    assert "cannot be used" not in mended and "Work out 1+1?" in mended
    for value in ("Work out {{question}}", "Be short.", 'value="Sums"'):
        assert value in mended


def test_one_may_go_on_without_the_bad_lines(page: Client, team: Team) -> None:
    key = key_in(upload(page, TWO_BAD))
    form = {"file": key, "name": "Sums", "prompt": "{{question}}", "expected": "answer", "identity": ""}
    refused = page.post(reverse("dataset-new"), {**form, "action": "keep"})
    assert refused.status_code == 422 and not Dataset.objects.exists()
    assert page.post(reverse("dataset-new"), {**form, "action": "skip"}).status_code == 302
    version = DatasetVersion.objects.get(dataset__name="Sums", dataset__team=team)
    assert (version.row_count, version.bad_rows, [one["line"] for one in version.problems]) == (2, 2, [3, 5])
    assert [row.expected for row in version.rows.order_by("number")] == ["2", "4"]
    assert arriving.find(team, key) is None


def test_a_template_is_tried_as_it_is_typed(page: Client) -> None:
    key = key_in(upload(page, MENDED))
    typed = {"file": key, "prompt": "So: {{question}}", "expected": "", "identity": ""}
    shown = page.post(reverse("dataset-new"), typed, headers={"HX-Request": "true"}).content.decode()
    assert "So: 1+1?" in shown and "<html" not in shown
    typed["prompt"] = "{{nothing}}"
    shown = page.post(reverse("dataset-new"), typed, headers={"HX-Request": "true"}).content.decode()
    assert "{{nothing}} is no column" in shown
    assert page.post(reverse("dataset-new"), {**typed, "action": "keep"}).status_code == 422


@pytest.mark.parametrize(("content", "status"), [("PK\x03\x04zip", 415), ("", 422), ("a,a\n", 422)])
def test_a_file_that_is_none_is_refused_with_its_status(page: Client, content: str, status: int) -> None:
    assert upload(page, content, "in.jsonl" if status == 415 else "in.csv").status_code == status
    assert page.post(reverse("dataset-new"), {"file": "x" * 22, "name": "A"}).status_code == 422


def test_pieces_come_by_http_in_their_order(page: Client, team: Team) -> None:
    raw = MENDED.encode()
    begun = page.post(reverse("dataset-file"), {"name": "a.csv", "size": len(raw)}).json()

    def send(offset: str, piece: bytes) -> HttpResponse:
        kind = "application/octet-stream"
        return page.post(begun["url"], piece, content_type=kind, headers={"X-Offset": offset})

    assert send("0", raw[:9]).json() == {"received": 9}
    again = send("0", raw[:9])
    assert (again.status_code, again.json()["received"]) == (409, 9)
    assert send("-1", b"x").status_code == 400
    assert send("9", raw[9:] + b"x").status_code == 422
    assert send("9", raw[9:]).json() == {"received": len(raw)}
    for size in ("", "-1", "1e9", str(10**12)):
        assert page.post(reverse("dataset-file"), {"name": "a", "size": size}).status_code in (400, 413)
    shown = page.post(reverse("dataset-new"), {"file": begun["file"], "action": "check"}).content.decode()
    assert "Save 3 rows" in shown


def test_a_dataset_shows_its_rows_page_by_page(page: Client, team: Team, user: User, tmp_path: Path) -> None:
    text = "".join(json.dumps({"prompt": f"Question {at}", "expected": f"<{at}>"}) + "\n" for at in range(45))
    dataset = datasets.create(team, user, "Many")
    datasets.add_version(dataset, user, written(tmp_path, text), "in.jsonl")
    address = reverse("dataset", args=[dataset.pk])
    first = page.get(address).content.decode()
    assert "Question 0" in first and "Question 20" not in first and "&lt;0&gt;" in first
    assert "Question 44" in page.get(address, {"page": "3"}).content.decode()
    assert "Question 37" in page.get(address, {"q": "question 37"}).content.decode()
    assert "No row holds" in page.get(address, {"q": "none such"}).content.decode()
    assert "Many" in page.get(reverse("datasets"), {"q": "man"}).content.decode()
    assert "No dataset" in page.get(reverse("datasets"), {"q": "none such"}).content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_version_is_downloaded_as_lines_that_read_back(
    page: Client, team: Team, user: User, tmp_path: Path
) -> None:
    path = written(tmp_path, openai_line("a", expected="yes") + "\n" + openai_line("b"))
    version = datasets.add_version(datasets.create(team, user, "Back"), user, path, "in.jsonl")
    response = page.get(reverse("dataset-download", args=[version.dataset_id, 1]))
    again = written(tmp_path, asyncio.run(whole(response)), "again.jsonl")
    rows, problems = read(again)
    assert [(row.custom_id, row.expected) for row in rows] == [("a", "yes"), ("b", None)] and not problems
    assert rows[0].body == version.rows.get(number=1).body
    assert page.get(reverse("dataset-download", args=[version.dataset_id, 2])).status_code == 404


def test_it_deletes_a_version_and_then_the_dataset(
    page: Client, team: Team, user: User, tmp_path: Path
) -> None:
    dataset = datasets.create(team, user, "Gone")
    for _ in range(2):
        datasets.add_version(dataset, user, written(tmp_path, openai_line()), "in.jsonl")
    address = reverse("dataset-delete", args=[dataset.pk])
    page.post(address, {"version": "1"})
    assert [one.number for one in dataset.versions.all()] == [2]
    assert page.post(address, {"version": "9"}).status_code == 404
    page.post(address)
    assert not Dataset.objects.exists()


def test_viewers_and_strangers_change_nothing(team: Team, user: User, stranger: User, tmp_path: Path) -> None:
    dataset = datasets.create(team, user, "Ours")
    datasets.add_version(dataset, user, written(tmp_path, openai_line()), "in.jsonl")
    file = arriving.begin(team, "a.jsonl", 3)
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    routes = [
        (reverse("dataset-new"), {"file": file.key, "action": "keep"}),
        (reverse("dataset-new"), {"of": str(dataset.pk), "file": file.key, "action": "keep"}),
        (reverse("dataset-file"), {"name": "a", "size": "1"}),
        (reverse("dataset-piece", args=[file.key]), {"a": "b"}),
        (reverse("dataset-delete", args=[dataset.pk]), {}),
    ]
    for person in (viewer, stranger):
        client = signed_in(person)
        for address, typed in routes:
            answer = client.post(address, typed)
            own = person == stranger and address in (reverse("dataset-new"), reverse("dataset-file"))
            expected = (404, 422, 200) if own else (403, 404)
            assert answer.status_code in expected, address
    assert Dataset.objects.count() == 1 and file.received == 0
    assert signed_in(viewer).get(reverse("dataset", args=[dataset.pk])).status_code == 200
    for name, args in (("dataset", [dataset.pk]), ("dataset-download", [dataset.pk, 1])):
        assert signed_in(stranger).get(reverse(name, args=args)).status_code == 404


# From conversations


@pytest.fixture
def talk(team: Team, user: User) -> Conversation:
    """Two messages, each answered."""
    talk = Conversation.objects.create(
        team=team, created_by=user, title="Capitals", system_prompt="Be short."
    )
    column = talk.columns.create()
    first = Turn.objects.create(conversation=talk, text="France?", client_id="1")
    answer = Generation.objects.create(turn=first, column=column, state="complete", text="Paris")
    second = Turn.objects.create(conversation=talk, text="Spain?", client_id="2", parent=first)
    Generation.objects.create(turn=second, column=column, state="complete", text="Madrid", previous=answer)
    return talk


def test_a_conversations_messages_become_rows_with_what_was_said_before(
    page: Client, talk: Conversation, team: Team, user: User, tmp_path: Path
) -> None:
    address = reverse("dataset-add", args=[talk.pk])
    assert "2 messages with an answer" in page.get(address).content.decode()
    assert page.post(address, {"name": "Capitals", "answers": "on"}).status_code == 302
    dataset = Dataset.objects.get()
    version = dataset.versions.get()
    first, second = version.rows.order_by("number")
    assert [message["content"] for message in second.body["messages"]] == [
        "Be short.",
        "France?",
        "Paris",
        "Spain?",
    ]
    assert (first.expected, second.expected, version.kind) == ("Paris", "Madrid", "conversations")
    again = page.post(address, {"dataset": dataset.pk, "name": "x"})
    assert again.status_code == 422 and "already" in again.content.decode()
    datasets.add_version(dataset, user, written(tmp_path, openai_line()), "in.jsonl")
    page.post(address, {"dataset": dataset.pk})
    third = dataset.versions.get(number=3)
    assert [row.number for row in third.rows.order_by("number")] == [1, 2, 3] and third.row_count == 3
    assert third.rows.get(number=2).expected is None


def test_a_refused_conversation_leaves_no_new_dataset(
    page: Client, talk: Conversation, stranger: User
) -> None:
    address = reverse("dataset-add", args=[talk.pk])
    Conversation.objects.filter(pk=talk.pk).update(task="rerank")
    assert page.post(address, {"name": "None"}).status_code == 422
    assert not Dataset.objects.exists()
    assert signed_in(stranger).post(address, {"name": "Theirs"}).status_code == 404
