"""The management API for models: files in pieces, buckets, secrets, own code, quantising, where files lie.

Who may what: tests/test_matrix.py. That a script gets from files to an endpoint: tests/test_batch_whole.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client

from playground import catalogue, landing, secrets, uploads
from playground.models import AuditEntry, Job, Model, Node, Secret, Team, Upload, User
from tests.hub_repos import CONFIG, gguf, safetensors
from tests.script import digest
from tests.test_management_api import BASE, caller, error, send

pytestmark = pytest.mark.django_db
PIECE = 1000
GGUF = gguf() + bytes(2500)


@pytest.fixture(autouse=True)
def root(settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of this test's own, and pieces of a thousand bytes."""
    monkeypatch.setattr(uploads, "PIECE", PIECE)
    monkeypatch.setattr(uploads, "TAIL", 100)
    settings.HOME, settings.HF_OFFLINE = tmp_path, True
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def node(settings: Any, team: Team) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


@pytest.fixture
def tiny(team: Team, root: Path) -> Model:
    (root / "tiny.gguf").write_bytes(gguf())
    return next(row for row in catalogue.scan(team) if row.name == "tiny")


@pytest.fixture
def client(user: User) -> Client:
    return caller(user)


def begin(client: Client, path: str = "a.gguf", size: int = len(GGUF), **more: Any) -> Any:
    return send(client, "POST", "/uploads", {"name": "mine", "path": path, "size_bytes": size, **more})


def put(client: Client, pk: int, offset: int, data: bytes, sha256: str = "", kind: str = "") -> Any:
    address = f"{BASE}/uploads/{pk}?offset={offset}&sha256={sha256}"
    return client.generic("PUT", address, data, content_type=kind or "application/octet-stream")


def acts(about: str) -> list[str]:
    return list(AuditEntry.objects.filter(object=about).order_by("pk").values_list("action", flat=True))


# Files in pieces


def test_a_file_comes_in_pieces_and_goes_on_after_a_break(client: Client, team: Team) -> None:
    begun = begin(client, sha256=digest(GGUF)).json()
    assert (begun["received_bytes"], begun["tail_bytes"], begun["tail_sha256"]) == (0, 0, "")
    first = put(client, begun["id"], 0, GGUF[:PIECE], digest(GGUF[:PIECE]))
    assert first.status_code == 200 and first.json()["received_bytes"] == PIECE
    again = begin(client).json()
    assert (again["id"], again["received_bytes"], again["tail_bytes"]) == (begun["id"], PIECE, 100)
    assert again["tail_sha256"] == digest(GGUF[PIECE - 100 : PIECE])
    early = send(client, "POST", "/uploads/finish", {"name": "mine"})
    assert early.status_code == 422 and error(early)["message"] == "a.gguf is not whole yet."
    for offset in range(PIECE, len(GGUF), PIECE):
        assert put(client, begun["id"], offset, GGUF[offset : offset + PIECE]).status_code == 200
    (coming,) = client.get(f"{BASE}/uploads").json()
    assert coming["complete"] and coming["received_bytes"] == len(GGUF) and coming["job"] is None
    job = send(client, "POST", "/uploads/finish", {"name": "mine"})
    assert job.status_code == 202, job.content
    assert (job.json()["kind"], job.json()["state"]) == ("import_model", "queued")
    assert (landing.folder(team.pk, "mine") / "a.gguf").read_bytes() == GGUF
    late = put(client, begun["id"], len(GGUF), b"x")
    assert late.status_code == 409 and "being checked" in error(late)["message"]


@pytest.mark.parametrize(
    ("offset", "data", "sha256", "kind", "status", "words"),
    [
        (5, b"x" * 10, "", "", 409, "goes on at byte 0, not at 5"),
        (0, b"x" * 10, "0" * 64, "", 409, "damaged on its way"),
        (0, bytes(PIECE + 1), "", "", 413, "at most 1,000 bytes"),
        (0, b"{}", "", "application/json", 415, "application/octet-stream"),
        (-1, b"x", "", "", 422, "greater than or equal to 0"),
        (0, b"x", "abc", "", 422, "pattern"),
    ],
)
def test_a_piece_that_does_not_fit_is_told_why_and_changes_nothing(
    client: Client, offset: int, data: bytes, sha256: str, kind: str, status: int, words: str
) -> None:
    pk = begin(client).json()["id"]
    answer = put(client, pk, offset, data, sha256, kind)
    assert answer.status_code == status and words in error(answer)["message"], answer.content
    assert client.get(f"{BASE}/uploads/{pk}").json()["received_bytes"] == 0


@pytest.mark.parametrize(
    ("path", "size", "code", "words"),
    [
        ("photo.png", 10, "left_out", "is left out"),
        ("a.gguf", 0, "left_out", "it is empty"),
        ("../a.gguf", 10, "refused", "leads out of"),
        ("model.bin", 10, "left_out", "can run code"),
    ],
)
def test_a_file_that_may_not_come_is_told_why(
    client: Client, path: str, size: int, code: str, words: str
) -> None:
    answer = begin(client, path, size)
    assert answer.status_code == 422 and words in error(answer)["message"]
    assert error(answer)["code"] == code and not Upload.objects.exists()


def test_another_teams_upload_is_not_there(client: Client, stranger: User) -> None:
    pk, other = begin(client).json()["id"], caller(stranger)
    assert put(other, pk, 0, b"x").status_code == 404
    assert other.get(f"{BASE}/uploads/{pk}").status_code == 404
    assert send(other, "POST", "/uploads/remove", {"name": "mine"}).status_code == 422
    assert Upload.objects.get().received_bytes == 0


def test_what_came_is_thrown_away(client: Client, team: Team) -> None:
    pk = begin(client).json()["id"]
    put(client, pk, 0, GGUF[:10])
    assert send(client, "POST", "/uploads/remove", {"name": "mine"}).status_code == 204
    assert not Upload.objects.exists() and not landing.folder(team.pk, "mine").exists()
    assert acts("upload:mine") == ["remove upload"]


# Buckets


def test_a_bucket_is_imported_and_given_up(client: Client, team: Team) -> None:
    wrong = send(client, "POST", "/imports", {"address": "https://example.org/model"})
    assert wrong.status_code == 422 and error(wrong)["field"] == "address"
    job = send(client, "POST", "/imports", {"address": "s3://models/tiny", "name": "tiny"})
    assert job.status_code == 202 and job.json()["target"] == landing.target(team.pk, "tiny")
    assert [one["id"] for one in client.get(f"{BASE}/imports").json()] == [job.json()["id"]]
    path = f"/imports/{job.json()['id']}"
    assert send(client, "DELETE", path).status_code == 204
    assert Job.objects.get().state == Job.State.CANCELLED
    Job.objects.update(state=Job.State.FAILED, ended_at=Now())
    (left := landing.folder(team.pk, "tiny")).mkdir(parents=True)
    assert len(client.get(f"{BASE}/imports").json()) == 1
    assert send(client, "DELETE", path).status_code == 204
    assert not left.exists() and client.get(f"{BASE}/imports").json() == []
    assert acts(f"job:{job.json()['id']}") == ["import model", "cancel job", "discard import"]


# What is kept and never told


@pytest.mark.parametrize(
    ("path", "given", "secret", "wrong"),
    [
        ("/hub/token", {"token": "hf_abcdefghijklmnop"}, "abcdefghijklmnop", {"token": "sk-1"}),
        (
            "/buckets/credentials",
            {"key": "AKIA0123456789", "secret": "very secret letters"},
            "very secret letters",
            {"key": "AKIA", "secret": "x", "region": "Mars!"},
        ),
    ],
)
def test_a_teams_secret_is_kept_never_told_and_forgotten(
    client: Client, team: Team, path: str, given: dict[str, str], secret: str, wrong: dict[str, str]
) -> None:
    assert client.get(BASE + path).json()["kept"] is False
    assert send(client, "PUT", path, wrong).status_code == 422
    answer = send(client, "PUT", path, given)
    assert answer.status_code == 200 and answer.json()["kept"] and answer.json()["created_by"] == "ada"
    shown = client.get(BASE + path)
    assert shown.json()["hint"] and not any(secret in one.content.decode() for one in (answer, shown))
    assert secret in secrets.reveal(team, Secret.objects.get().name)
    assert send(client, "DELETE", path).status_code == 204
    assert not Secret.objects.exists() and client.get(BASE + path).json()["kept"] is False
    acted = AuditEntry.objects.filter(object__startswith="secret:").order_by("pk")
    assert [row.action for row in acted] == ["keep secret", "forget secret"]
    assert secret not in json.dumps(list(AuditEntry.objects.values()), default=str)


def test_a_servers_key_is_for_models_of_other_servers(client: Client, team: Team, tiny: Model) -> None:
    refused = send(client, "PUT", f"/models/{tiny.pk}/server-key", {"key": "sk-0123456789abcdef"})
    assert refused.status_code == 409 and "no server of others" in error(refused)["message"]
    far = Model.objects.create(team=team, name="far", source="external:far", origin={"url": "x"})
    path = f"/models/{far.pk}/server-key"
    kept = send(client, "PUT", path, {"key": "sk-0123456789abcdef"})
    assert kept.json()["hint"] == "cdef" and "0123" not in kept.content.decode()
    assert send(client, "PUT", path, {"key": " "}).status_code == 422
    assert client.get(BASE + path).json()["kept"] is True, "nothing was entered, so nothing changed"
    assert send(client, "DELETE", path).status_code == 204
    assert client.get(BASE + path).json()["kept"] is False


# A model's own code


@pytest.fixture
def coded(team: Team, root: Path) -> Model:
    """A folder whose configuration names Python of its own."""
    folder = root / "coded"
    folder.mkdir()
    mapped = CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps(mapped))
    (folder / "modeling_own.py").write_text("import torch\n")
    (folder / "model.safetensors").write_bytes(safetensors())
    return next(row for row in catalogue.scan(team) if row.name == "coded")


def test_consent_is_to_the_code_that_was_read(client: Client, coded: Model, root: Path) -> None:
    path = f"/models/{coded.pk}/code"
    read = client.get(BASE + path).json()
    assert read["files"] == [{"path": "modeling_own.py", "text": "import torch\n", "problem": ""}]
    assert read["allowed_by"] is None and "is code" in read["why"]
    short = send(client, "POST", f"{path}/allow", {"pin": read["pin"][:12]})
    assert short.status_code == 409
    (root / "coded" / "modeling_own.py").write_text("import os\n")
    late = send(client, "POST", f"{path}/allow", {"pin": read["pin"]})
    assert late.status_code == 409 and "changed since you looked" in error(late)["message"]
    pin = client.get(BASE + path).json()["pin"]
    allowed = send(client, "POST", f"{path}/allow", {"pin": pin})
    assert allowed.status_code == 200 and allowed.json()["allowed_by"] == "ada"
    assert client.get(f"{BASE}/models/{coded.pk}").json()["refused"] == ""
    assert send(client, "POST", f"{path}/withdraw").json()["allowed_by"] is None
    assert client.get(f"{BASE}/models/{coded.pk}").json()["refused"] == read["why"]
    assert acts(f"model:{coded.pk}") == ["allow code", "withdraw code"]


def test_a_model_without_code_has_none_to_allow(client: Client, tiny: Model) -> None:
    path = f"/models/{tiny.pk}/code"
    assert client.get(BASE + path).json() == {
        **{"pin": None, "why": "", "allowed_by": None, "allowed_at": None},
        "files": [],
    }
    assert send(client, "POST", f"{path}/allow", {"pin": "x"}).status_code == 409


# Smaller models, and where files lie


def test_what_cannot_be_quantised_says_why_by_field(client: Client, tiny: Model) -> None:
    told = client.get(f"{BASE}/models/{tiny.pk}/quantise").json()
    assert {one["method"] for one in told["ways"]} >= {"Q4_K_M", "Q8_0"} and told["parent"] is None
    answer = send(client, "POST", f"/models/{tiny.pk}/quantise", {"method": "Q9"})
    assert answer.status_code == 422 and error(answer)["field"] == "method"
    answer = send(client, "POST", f"/models/{tiny.pk}/compare")
    assert answer.status_code == 409 and "start them first" in error(answer)["message"]


def test_a_download_is_ended_and_another_models_is_not(client: Client, tiny: Model, node: Node) -> None:
    form = tiny.formats.get()
    kind, target = Job.Kind.DOWNLOAD_MODEL, f"format:{form.pk}"
    job = Job.objects.create(team=tiny.team, kind=kind, node=node, target=target)
    (held,) = client.get(f"{BASE}/models/{tiny.pk}/files").json()
    assert (held["form"], held["can_come"]) == (form.pk, False)
    other = Model.objects.create(team=tiny.team, name="other", source="local:other")
    assert send(client, "POST", f"/models/{other.pk}/files/{job.pk}/cancel").status_code == 404
    ended = send(client, "POST", f"/models/{tiny.pk}/files/{job.pk}/cancel")
    assert ended.status_code == 200 and ended.json()["state"] == "cancelled"


def test_what_a_start_would_take_is_told_and_nothing_started(client: Client, tiny: Model) -> None:
    offers = {one["engine"]: one for one in client.get(f"{BASE}/models/{tiny.pk}/offers").json()}
    assert offers["fake"]["can"] and offers["vllm"]["can"] is False and offers["vllm"]["words"]
    given = {"engine": "fake", "options": {"tokens": 3, "nonsense": 1}}
    told = send(client, "POST", f"/models/{tiny.pk}/estimate", given).json()
    assert "nonsense" in told["problems"] and told["options"] == {}
    told = send(client, "POST", f"/models/{tiny.pk}/estimate", {"engine": "fake", "options": {"tokens": 3}})
    assert told.status_code == 200 and told.json()["problems"] == {}, told.content
    assert "PORT" in " ".join(told.json()["command"]) and told.json()["measured"] is False
    assert not tiny.deployments.exists()
    unknown = send(client, "POST", f"/models/{tiny.pk}/estimate", {"engine": "nothing"})
    assert unknown.status_code == 422


def test_extra_arguments_are_estimated_for_site_administrators(
    client: Client, user: User, tiny: Model
) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=False)
    given = {"engine": "fake", "extra": [["--host", "0.0.0.0"]]}
    assert send(client, "POST", f"/models/{tiny.pk}/estimate", given).status_code == 403


def test_a_webhook_secret_is_told_once(client: Client) -> None:
    first = send(client, "POST", "/webhook-secret").json()["secret"]
    second = send(client, "POST", "/webhook-secret").json()["secret"]
    assert first != second and len(second) > 20
    assert second not in json.dumps(list(AuditEntry.objects.values()), default=str)
