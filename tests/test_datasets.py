"""Datasets: files of every shape read streamed, told by line, kept as versions; and the attacks on them."""

import json
from pathlib import Path

import pytest

from playground import datasets
from playground.datasets import DatasetRefused
from playground.models import DatasetRow, Team, User

pytestmark = pytest.mark.django_db


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
