"""The management API for datasets: files larger than a request, in pieces, and rows from conversations."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from playground import arriving
from playground.models import Batch, Column, Conversation, Deployment, Generation, Team, Turn, User
from tests import batch_rows, gateway_site
from tests.test_management_api import BASE, caller, error, send

pytestmark = pytest.mark.django_db
PIECE = 30
ROWS = b"".join(b'{"prompt": "Capital of country %d?"}\n' % number for number in range(4))


@pytest.fixture(autouse=True)
def home(settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arriving, "PIECE", PIECE)
    settings.HOME = tmp_path


@pytest.fixture
def client(user: User) -> Client:
    return caller(user)


@pytest.fixture
def dataset(client: Client) -> str:
    """The address of its versions."""
    made = send(client, "POST", "/datasets", {"name": "Capitals"}).json()
    return f"/datasets/{made['id']}/versions"


def put(client: Client, key: str, offset: int, data: bytes) -> Any:
    address = f"{BASE}/datasets/files/{key}?offset={offset}"
    return client.generic("PUT", address, data, content_type="application/octet-stream")


def test_a_file_comes_in_pieces_and_becomes_a_version(client: Client, dataset: str, stranger: User) -> None:
    given = {"name": "rows.jsonl", "size_bytes": len(ROWS)}
    file = send(client, "POST", "/datasets/files", given).json()["file"]
    assert put(client, file, 0, ROWS[:PIECE]).json()["received_bytes"] == PIECE
    wrong = put(client, file, 0, ROWS[:PIECE])
    assert wrong.status_code == 409 and f"goes on at {PIECE}, not at 0" in error(wrong)["message"]
    assert put(client, file, PIECE, bytes(PIECE + 1)).status_code == 413
    assert put(caller(stranger), file, PIECE, b"x").status_code == 409, "another team's is not there"
    early = send(client, "POST", dataset, {"file": file})
    assert early.status_code == 409 and error(early)["field"] == "file"
    for offset in range(PIECE, len(ROWS), PIECE):
        assert put(client, file, offset, ROWS[offset : offset + PIECE]).status_code == 200
    version = send(client, "POST", dataset, {"file": file})
    assert version.status_code == 201, version.content
    assert (version.json()["row_count"], version.json()["source"]) == (4, "rows.jsonl")
    assert send(client, "POST", dataset, {"file": file}).status_code == 409, "it was read and forgotten"


@pytest.mark.parametrize("given", [{}, {"text": "x", "file": "y", "source": "a.jsonl"}])
def test_a_version_is_of_a_text_or_of_a_file(client: Client, dataset: str, given: dict[str, str]) -> None:
    answer = send(client, "POST", dataset, given)
    assert answer.status_code == 422 and error(answer)["field"] == "text"


def test_what_was_said_becomes_rows(
    client: Client, dataset: str, team: Team, user: User, stranger: User
) -> None:
    row: Deployment = gateway_site.deployment(team)
    talk = Conversation.objects.create(team=team, created_by=user, title="Capitals")
    column = Column.objects.create(conversation=talk, deployment=row)
    turn = Turn.objects.create(conversation=talk, text="France?", client_id="one")
    Generation.objects.create(turn=turn, column=column, state=Generation.State.COMPLETE, text="Paris")
    path = dataset.replace("versions", "conversation")
    made = send(client, "POST", path, {"conversation": talk.pk})
    assert made.status_code == 201 and made.json()["row_count"] == 1, made.content
    (shown,) = client.get(f"{BASE}{dataset}/1/rows").json()["items"]
    assert shown["expected"] == "Paris"
    again = send(client, "POST", path, {"conversation": talk.pk})
    assert again.status_code == 422 and "does not have already" in error(again)["message"]
    theirs = Conversation.objects.create(team=stranger.memberships.get().team, title="theirs")
    assert send(client, "POST", path, {"conversation": theirs.pk}).status_code == 404


def test_how_long_a_batch_would_take_is_told_before_it_begins(client: Client, team: Team) -> None:
    version = batch_rows.version(team, ["One?", "Two?"])
    row = gateway_site.deployment(team)
    given = {"version": version.pk, "columns": [{"deployment": row.pk}]}
    told = send(client, "POST", "/batches/estimate", given)
    assert told.status_code == 200, told.content
    assert (told.json()["rows"], told.json()["seconds"], told.json()["cost"]) == (2, None, None)
    assert told.json()["columns"][0]["deployment"] == row.pk
    assert not Batch.objects.exists()
