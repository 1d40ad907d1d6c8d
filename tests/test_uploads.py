"""Own models from a browser: pieces that are checked, gone on with after a break, judged before they land."""

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from playground import bodies, catalogue, disk, jobs, landing, uploads
from playground.models import AuditEntry, Job, Membership, Model, Node, Team, Upload, User
from tests.hub_repos import gguf, safetensors, tiny_files
from tests.script import digest

pytestmark = pytest.mark.django_db(transaction=True)
GGUF = gguf() + bytes(3000)
PIECE = 1000


@pytest.fixture(autouse=True)
def root(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty models folder, and pieces of a thousand bytes."""
    monkeypatch.setattr(uploads, "PIECE", PIECE)
    monkeypatch.setattr(uploads, "TAIL", 100)
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def node(settings: Any, team: Team) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


@pytest.fixture
def browser(user: User) -> Client:
    return signed_in(user)


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def begin(browser: Client, path: str, size: int, name: str = "mine", sha256: str = "") -> HttpResponse:
    given = {"name": name, "path": path, "size": size, "sha256": sha256}
    return browser.post(reverse("upload-begin"), given)  # type: ignore[return-value]


def piece(browser: Client, url: str, offset: int | str, data: bytes, sha256: str = "") -> HttpResponse:
    headers = {"X-Offset": str(offset), "X-Sha256": sha256}
    return browser.post(url, data, content_type="application/octet-stream", headers=headers)  # type: ignore[return-value]


def finish(browser: Client, name: str = "mine") -> HttpResponse:
    return browser.post(reverse("upload-finish"), {"name": name})  # type: ignore[return-value]


def send(browser: Client, path: str, data: bytes, name: str = "mine", sha256: str = "") -> None:
    """A whole file, from where it is."""
    told = begin(browser, path, len(data), name, sha256).json()
    received = told["received"]
    while received < len(data):
        part = data[received : received + PIECE]
        received = piece(browser, told["url"], received, part, digest(part)).json()["received"]


def send_all(browser: Client, files: Mapping[str, Any], name: str = "mine") -> None:
    for path, data in files.items():
        send(browser, path, data, name)


def run(answer: HttpResponse) -> Job:
    """The job that an answer names, done."""
    job = Job.objects.get(pk=answer.json()["job"])  # type: ignore[attr-defined]
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def error(answer: HttpResponse) -> str:
    return str(answer.json()["error"])  # type: ignore[attr-defined]


# What comes


@pytest.mark.parametrize(
    ("files", "kind"),
    [({"weights.gguf": GGUF}, "gguf"), (tiny_files(), "safetensors")],
    ids=["gguf", "folder"],
)
def test_a_model_comes_in_pieces_and_lands(
    browser: Client, team: Team, user: User, root: Path, files: Mapping[str, Any], kind: str
) -> None:
    send_all(browser, files)
    assert not [path for path in root.iterdir() if not path.name.startswith(".")], "nobody finds half a model"
    job = run(finish(browser))
    assert job.state == Job.State.DONE, job.error
    model = Model.objects.get(pk=job.result["model"])
    form = model.formats.get()
    assert (model.name, model.refused, model.missing, form.kind) == ("mine", "", False, kind)
    assert form.digest == catalogue.digest_known(root / form.path)
    assert {str(path.relative_to(root / "mine")) for path in (root / "mine").rglob("*")} == set(files)
    assert all((root / "mine" / path).read_bytes() == data for path, data in files.items())
    assert not Upload.objects.exists()
    assert AuditEntry.objects.filter(action="import model", object=f"model:{model.pk}", user=user).exists()
    assert landing.usage(team) == form.size_bytes


def test_it_goes_on_where_it_was(browser: Client, root: Path) -> None:
    told = begin(browser, "a.gguf", len(GGUF)).json()
    assert piece(browser, told["url"], 0, GGUF[:PIECE]).json() == {"received": PIECE}
    again = begin(browser, "a.gguf", len(GGUF)).json()
    assert (again["url"], again["received"]) == (told["url"], PIECE)
    assert (again["tail"], again["tail_sha256"]) == (100, digest(GGUF[PIECE - 100 : PIECE]))
    page = browser.get(reverse("own-models")).content.decode()
    assert "incomplete" in page and f'value="{PIECE}"' in page
    send(browser, "a.gguf", GGUF)
    assert run(finish(browser)).state == Job.State.DONE
    assert (root / "mine" / "a.gguf").read_bytes() == GGUF


def test_the_second_of_two_tabs_goes_on_after_the_first(browser: Client) -> None:
    url = begin(browser, "a.gguf", len(GGUF)).json()["url"]
    assert piece(browser, url, 0, GGUF[:PIECE]).status_code == 200
    late = piece(browser, url, 0, GGUF[:PIECE])
    assert (late.status_code, late.json()["received"]) == (409, PIECE)
    assert piece(browser, url, PIECE, GGUF[PIECE : 2 * PIECE]).status_code == 200


def test_many_tabs_at_once_write_each_byte_once(user: User, root: Path) -> None:
    def tab(number: int) -> set[str]:
        try:
            browser = signed_in(user)
            told = begin(browser, "a.gguf", len(GGUF)).json()
            received = told["received"]
            while received < len(GGUF):
                received = piece(browser, told["url"], received, GGUF[received : received + PIECE]).json()[
                    "received"
                ]
            return {told["url"]}
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as tabs:
        assert len(set.union(*tabs.map(tab, range(4)))) == 1, "one row"
    assert run(finish(signed_in(user))).state == Job.State.DONE
    assert (root / "mine" / "a.gguf").read_bytes() == GGUF


# What is refused


ELSEWHERE = [
    *("../a.gguf", "a/../../b.gguf", "/etc/a.gguf", "./a.gguf", "a//b.gguf", "a\\b.gguf", "C:a.gguf", ""),
    *("a\0.gguf", "a\n.gguf", " a.gguf", "a /b.json", "a" * 300 + ".gguf", "é" * 150 + ".gguf"),
    "a/b/c/d.json",
]
OTHER_KINDS = {
    **dict.fromkeys(("model.bin", "model.pt", "a.ckpt", "a.pkl", "a.npz"), "can run code when it is loaded"),
    **dict.fromkeys(("modeling.py", "a.so", "run.sh", "a.llamafile"), "code is not taken"),
    **dict.fromkeys(("model.onnx", "photo.png", ".hidden.json", "a.gguf.exe"), "is left out"),
    "a.gguf ": "leads out of",
}
NO_NAMES = ["", "..", ".hidden", "a/b", "../x", "a..b", "a.gguf", "a" * 81, "x\0y", "é", "-x"]


def test_a_file_whose_name_leads_elsewhere_is_refused(browser: Client) -> None:
    for path in ELSEWHERE:
        assert begin(browser, path, 10).status_code == 422, path
    assert not Upload.objects.exists()


def test_another_kind_of_file_is_refused_with_the_reason(browser: Client) -> None:
    for path, why in OTHER_KINDS.items():
        answer = begin(browser, path, 10)
        assert answer.status_code == 422 and why in error(answer), path
    assert not Upload.objects.exists()


def test_a_name_that_is_no_folders_is_refused_everywhere(browser: Client, root: Path) -> None:
    for name in NO_NAMES:
        assert "A name has letters" in error(begin(browser, "a.gguf", 10, name)), name
        assert "A name has letters" in error(finish(browser, name)), name
        browser.post(reverse("upload-remove"), {"name": name})
    assert list(root.iterdir()) == []


def test_a_name_that_is_taken_is_refused_however_it_is_written(browser: Client, root: Path) -> None:
    (root / "Mine").mkdir()
    assert "is taken" in error(begin(browser, "a.gguf", 10))


def test_a_file_is_no_folder_as_well(browser: Client) -> None:
    assert begin(browser, "a.json", 2).status_code == 200
    assert error(begin(browser, "a.json/b.json", 2)) == "a.json is a file and a folder."


def test_a_size_that_cannot_be_is_refused(browser: Client) -> None:
    for size in ("0", "-1", "1e9", "x", "", "9" * 15, "²"):
        answer = browser.post(reverse("upload-begin"), {"name": "mine", "path": "a.gguf", "size": size})
        assert answer.status_code in (400, 422), size
    assert not Upload.objects.exists()


def test_a_piece_that_does_not_fit_changes_nothing(browser: Client) -> None:
    url = begin(browser, "a.gguf", 500).json()["url"]
    for offset, data, sha256, status in (
        (0, b"", "", 409),
        (0, bytes(PIECE + 1), "", 409),
        (0, bytes(600), "", 409),  # past the file's end
        (0, bytes(10), "0" * 64, 409),  # damaged on its way
        (5, bytes(10), "", 409),
        ("-1", bytes(10), "", 400),
        ("x", bytes(10), "", 400),
    ):
        answer = piece(browser, url, offset, data, sha256)
        assert answer.status_code == status and error(answer), (offset, len(data))
    assert Upload.objects.get().received_bytes == 0


def test_what_is_not_whole_is_not_taken(browser: Client) -> None:
    begin(browser, "a.gguf", 500)
    assert error(finish(browser)) == "a.gguf is not whole yet."
    assert error(finish(browser, "other")) == "No upload is called other."


def test_another_file_of_the_same_name_is_not_mixed_in(browser: Client) -> None:
    begin(browser, "a.gguf", len(GGUF), sha256="1" * 64)
    for size, sha256 in ((len(GGUF) + 1, ""), (len(GGUF), "2" * 64)):
        assert "Another a.gguf was begun" in error(begin(browser, "a.gguf", size, sha256=sha256))


def test_a_wrong_hash_sends_the_file_again_and_no_other(browser: Client, root: Path) -> None:
    files = dict(tiny_files())
    for path, data in files.items():
        send(browser, path, data, sha256="0" * 64 if path == "model.safetensors" else digest(data))
    job = run(finish(browser))
    assert job.error == "model.safetensors is not what its SHA-256 says: send it again."
    assert not (root / "mine").exists()
    incomplete = Upload.objects.filter(received_bytes=0)
    assert [row.path for row in incomplete] == ["model.safetensors"]
    Upload.objects.update(sha256="")
    send(browser, "model.safetensors", files["model.safetensors"])
    assert run(finish(browser)).state == Job.State.DONE


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a.gguf": b"GGML" + bytes(600)}, "no sound GGUF"),
        ({"config.json": b"{}"}, "no .safetensors file"),
        ({"model.safetensors": safetensors()}, "no config.json"),
        (tiny_files() | {"model.safetensors": b"PK\x03\x04" + bytes(60)}, "zip archive"),
        (tiny_files() | {"model.safetensors": b"\x80\x04" + bytes(60)}, "no sound safetensors"),
        (tiny_files() | {"model.safetensors": safetensors()[:-1]}, "cut short"),
        (tiny_files() | {"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'}, "auto_map"),
        (tiny_files() | {"chat_template.jinja": b"{{ ''.__class__ }}"}, "Python's insides"),
        ({"tokenizer.json": b"{}"}, "neither a .gguf file nor"),
    ],
    ids=["gguf", "no weights", "no config", "zip", "pickle", "cut", "code", "template", "nothing"],
)
def test_what_may_not_be_loaded_never_gets_its_name(
    browser: Client, root: Path, files: Mapping[str, Any], why: str
) -> None:
    send_all(browser, files)
    job = run(finish(browser))
    assert job.state == Job.State.FAILED and why in job.error
    assert not (root / "mine").exists() and not Model.objects.filter(missing=False, name="mine").exists()
    page = browser.get(reverse("own-models")).content.decode()
    assert "not added yet" in page and why.replace("'", "&#x27;") in page


def test_whoever_only_reads_and_strangers_send_nothing(
    browser: Client, user: User, stranger: User, root: Path
) -> None:
    url = begin(browser, "a.gguf", 500).json()["url"]
    other = signed_in(stranger)
    assert piece(other, url, 0, b"x" * 10).status_code == 404
    other.post(reverse("upload-remove"), {"name": "mine"})
    assert finish(other).status_code == 422
    assert Upload.objects.get().received_bytes == 0
    Membership.objects.filter(user=user).update(role=Membership.Role.VIEWER)
    assert begin(browser, "b.gguf", 10).status_code == 403
    assert piece(browser, url, 0, b"x" * 10).status_code == 403
    assert finish(browser).status_code == 403
    assert browser.post(reverse("upload-remove"), {"name": "mine"}).status_code == 403


def test_two_teams_may_call_theirs_the_same_until_one_has_landed(
    browser: Client, stranger: User, root: Path
) -> None:
    other = signed_in(stranger)
    send(browser, "a.gguf", GGUF)
    send(other, "a.gguf", gguf())
    first, second = finish(browser), finish(other)
    assert first.json()["job"] != second.json()["job"]  # type: ignore[attr-defined]
    assert run(first).state == Job.State.DONE
    assert "mine is taken" in run(second).error
    assert (root / "mine" / "a.gguf").read_bytes() == GGUF
    catalogue.scan(stranger.memberships.get().team)
    assert Model.objects.filter(name="mine").count() == 1, "what one team brought is not the other's"


# Room


def test_the_teams_quota_is_said_before_a_byte_comes(browser: Client, team: Team, settings: Any) -> None:
    settings.TEAM_QUOTA_GB = 1e-6
    send(browser, "a.gguf", gguf())
    answer = begin(browser, "b.gguf", 1000)
    assert answer.status_code == 422
    assert "may take 0.0 GB together" in error(answer) and "SLIPWAY_TEAM_QUOTA_GB" in error(answer)
    browser.post(reverse("upload-remove"), {"name": "mine"})
    assert begin(browser, "b.gguf", 1000).status_code == 200, "its room came back"


def test_what_an_import_left_counts_until_it_is_removed(team: Team, root: Path) -> None:
    (left := landing.folder(team.pk, "half")).mkdir(parents=True)
    (left / ".a.part").write_bytes(bytes(700))
    assert landing.usage(team) == 700
    landing.clear(team.pk, "half")
    assert landing.usage(team) == 0


def test_a_full_disk_refuses_the_file_and_each_piece(
    browser: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = begin(browser, "a.gguf", 500).json()["url"]
    usage = shutil.disk_usage(settings.HOME)._replace(total=10_000, free=1_200)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    answer = begin(browser, "b.gguf", 500)
    assert answer.status_code == 507 and "The disk is too full" in error(answer)
    assert piece(browser, url, 0, bytes(300)).status_code == 507
    assert piece(browser, url, 0, bytes(200)).status_code == 200, "a tenth stays free"


async def test_a_body_larger_than_a_page_takes_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST", 100)
    taken: list[int] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            taken.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(length: bytes | None, chunks: int) -> int:
        waiting = [{"type": "http.request", "body": bytes(60), "more_body": True}] * chunks
        waiting.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0)

        async def answer(message: Any) -> None:
            sent.append(message)

        headers = [] if length is None else [(b"content-length", length)]
        await bodies.bounded(page, {"type": "http", "headers": headers}, receive, answer)
        return int(sent[0]["status"])

    assert await asyncio.gather(ask(b"101", 0), ask(b"x", 0)) == [413, 413]
    assert not taken, "refused before a byte was read"
    assert await ask(None, 3) == 413
    assert await ask(b"60", 1) == 200


# Breaks


def test_an_attempt_killed_after_the_rename_is_gone_on_with(
    browser: Client, team: Team, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(browser, "a.gguf", GGUF)
    answer = finish(browser)
    monkeypatch.setattr(catalogue, "record", lambda *given: (_ for _ in ()).throw(RuntimeError("killed")))
    assert "killed" in run(answer).error
    other = Team.objects.create(name="Another", slug="another")
    monkeypatch.undo()
    catalogue.scan(other)
    assert not Model.objects.filter(team=other, name="mine").exists(), "whose it is was written first"
    job = run(finish(browser))
    assert job.state == Job.State.DONE, job.error
    assert Model.objects.get(team=team, name="mine").formats.get().digest
    assert not Upload.objects.exists()


def test_removing_it_ends_its_check_and_frees_the_room(browser: Client, team: Team, root: Path) -> None:
    send(browser, "a.gguf", GGUF)
    job = Job.objects.get(pk=finish(browser).json()["job"])  # type: ignore[attr-defined]
    url = reverse("upload-piece", args=[Upload.objects.get().pk])
    assert "being checked" in error(piece(browser, url, 0, b"x"))
    assert "being checked" in error(begin(browser, "b.gguf", 10))
    browser.post(reverse("upload-remove"), {"name": "mine"})
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED
    assert not Upload.objects.exists() and not landing.folder(team.pk, "mine").exists()
    assert piece(browser, url, 0, b"x").status_code == 404


def test_files_on_another_machine_are_asked_for_again(browser: Client, team: Team) -> None:
    send(browser, "a.gguf", GGUF)
    Upload.objects.update(received_bytes=PIECE)
    landing.clear(team.pk, "mine")
    assert "lies on another machine" in error(begin(browser, "a.gguf", len(GGUF)))
    Upload.objects.update(received_bytes=len(GGUF))
    shutil.rmtree(landing.folder(team.pk, "mine"))
    assert "not on this machine" in run(finish(browser)).error


def test_nothing_of_an_earlier_import_gets_mixed_in(browser: Client, team: Team, root: Path) -> None:
    (left := landing.folder(team.pk, "mine")).mkdir(parents=True)
    (left / "model.safetensors").write_bytes(safetensors())
    send(browser, "a.gguf", GGUF)
    assert run(finish(browser)).state == Job.State.DONE
    assert [path.name for path in (root / "mine").iterdir()] == ["a.gguf"]


def test_what_nobody_went_on_with_is_forgotten(browser: Client, team: Team) -> None:
    send(browser, "a.gguf", GGUF)
    Upload.objects.update(updated_at="2020-01-01T00:00:00Z")
    assert uploads.coming(team) == []
    assert not Upload.objects.exists() and not landing.folder(team.pk, "mine").exists()
