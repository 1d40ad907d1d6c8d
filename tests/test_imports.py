"""Models from a bucket: fetched by s3fs from a real server, judged before weights come, gone on with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from s3fs import S3FileSystem

from playground import catalogue, disk, imports, jobs, landing, secrets
from playground.jobs import Work
from playground.models import Job, Membership, Model, Node, Secret, Team, Upload, User
from playground.work import Cancelled
from tests.bucket_stand_in import KEY, SECRET, BucketStandIn
from tests.bucket_stand_in import bucket as bucket
from tests.hub_repos import gguf, safetensors, tiny_files

pytestmark = pytest.mark.django_db(transaction=True)
WEIGHTS = "llama/model.safetensors"
PIECE = 4096


@pytest.fixture(autouse=True)
def root(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty models folder, pieces of 4 kB, and credentials of this machine that nobody may use."""
    monkeypatch.setattr(imports, "PIECE", PIECE)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    settings.DOWNLOAD_RETRY_S = []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
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
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def llama(bucket: BucketStandIn, team: Team, user: User) -> BucketStandIn:
    """A model of safetensors with a pickle and a picture beside it, and a neighbour of nearly its name."""
    files = tiny_files() | {"model.safetensors": safetensors({"weight": [64, 100]})}
    others = {"pytorch_model.bin": b"\x80\x04x", "photo.png": b"\x89PNG", "empty.json": b"", "onnx/": b""}
    for name, content in (files | others).items():
        assert isinstance(content, bytes)
        bucket.put(f"llama/{name}", content)
    bucket.put("llama-2/evil.py", b"x")
    imports.keep_credentials(team, user, imports.Credentials(KEY, SECRET, bucket.url))
    return bucket


def ask(browser: Client, address: str, name: str = "") -> Job:
    """The job of an import that was asked for on the page."""
    answer = browser.post(reverse("import-bucket"), {"address": address, "name": name})
    assert answer.status_code == 302, answer.content.decode()
    return Job.objects.latest("pk")


def run(job: Job) -> Job:
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def done(browser: Client, address: str, name: str = "") -> Model:
    job = run(ask(browser, address, name))
    assert job.state == Job.State.DONE, job.error
    return Model.objects.get(pk=job.result["model"])


# What comes


def test_a_folder_comes_with_what_a_model_needs_and_no_more(
    browser: Client, llama: BucketStandIn, root: Path, team: Team
) -> None:
    model = done(browser, llama.address("llama/"))
    assert (model.name, model.refused, model.missing) == ("llama", "", False)
    assert model.origin["landed"] == {"how": "s3", "address": "s3://models/llama"}
    assert {path.name for path in (root / "llama").rglob("*")} == set(tiny_files())
    assert (root / WEIGHTS).read_bytes() == llama.objects[WEIGHTS]
    assert model.formats.get().digest == catalogue.digest_known(root / "llama")
    assert len(llama.read(WEIGHTS)) == 4, "in pieces"
    assert not llama.read("llama/pytorch_model.bin")
    assert "llama is here" in browser.get(reverse("own-models")).content.decode()
    assert landing.usage(team) == len(llama.objects[WEIGHTS])


def test_one_gguf_comes_by_its_own_address(browser: Client, llama: BucketStandIn, root: Path) -> None:
    llama.put("ggufs/tiny.gguf", gguf())
    assert done(browser, llama.address("ggufs/tiny.gguf")).name == "tiny"
    assert (root / "tiny" / "tiny.gguf").read_bytes() == gguf()


def test_a_public_bucket_opens_without_credentials(browser: Client, llama: BucketStandIn, user: User) -> None:
    imports.keep_credentials(user.memberships.get().team, user, imports.Credentials("x", "y", llama.url))
    assert "refused the team's credentials" in run(ask(browser, llama.address("llama"))).error
    llama.public = True
    assert done(browser, llama.address("llama")).refused == ""


def test_the_machines_own_credentials_are_never_used(bucket: BucketStandIn) -> None:
    source = imports._connect(imports.Credentials("", "", bucket.url))
    with pytest.raises(PermissionError):
        imports._listing(source, "models", "llama")
    assert bucket.seen


# What goes wrong


def test_a_cut_connection_is_tried_again_from_where_it_was(
    browser: Client, llama: BucketStandIn, root: Path, settings: Any
) -> None:
    settings.DOWNLOAD_RETRY_S = [0.0]
    llama.cut(WEIGHTS)
    job = run(ask(browser, llama.address("llama")))
    assert job.state == Job.State.DONE and "The connection broke." in job.log_tail
    assert [one.partition("-")[0] for one in llama.read(WEIGHTS)[:3]] == ["bytes=0", "bytes=0", "bytes=4096"]
    assert (root / WEIGHTS).read_bytes() == llama.objects[WEIGHTS]


def test_one_that_stays_cut_fails_in_words_and_can_be_tried_again(
    browser: Client, llama: BucketStandIn, root: Path
) -> None:
    llama.cut(WEIGHTS)
    assert "Try again: it goes on" in run(ask(browser, llama.address("llama"))).error
    assert not (root / "llama").exists()
    page = browser.get(reverse("own-models")).content.decode()
    assert "Try again: llama" in page and "The store broke off" in page
    assert done(browser, llama.address("llama")).refused == ""


def test_an_attempt_that_stopped_midway_fetches_only_the_rest(
    browser: Client, llama: BucketStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(browser, llama.address("llama"))
    progress = Work.progress

    def stopped(work: Work, step: str, done: int | None = None, *rest: Any, **more: Any) -> None:
        if (done or 0) > 2 * PIECE:
            raise jobs.JobFailed("stopped here")
        progress(work, step, done, *rest, **more)

    monkeypatch.setattr(Work, "progress", stopped)
    assert run(job).error == "stopped here"
    monkeypatch.undo()
    monkeypatch.setattr(imports, "PIECE", PIECE)
    before = llama.read(WEIGHTS)
    done(browser, llama.address("llama"))
    assert before and not set(before) & set(llama.read(WEIGHTS)[len(before) :]), "no range twice"


def test_an_object_that_changed_meanwhile_begins_anew(
    browser: Client, llama: BucketStandIn, root: Path
) -> None:
    llama.cut(WEIGHTS)
    run(ask(browser, llama.address("llama")))
    llama.put(WEIGHTS, safetensors({"weight": [64, 90]}))
    done(browser, llama.address("llama"))
    assert (root / WEIGHTS).read_bytes() == llama.objects[WEIGHTS]


def test_a_wrong_hash_is_thrown_away_before_it_gets_its_name(
    browser: Client, llama: BucketStandIn, root: Path, team: Team
) -> None:
    llama.corrupt(WEIGHTS)
    job = run(ask(browser, llama.address("llama")))
    assert "did not come as the bucket has it" in job.error
    left = landing.folder(team.pk, "llama")
    assert not [path for path in left.rglob("*") if "model.safetensors" in path.name]
    done(browser, llama.address("llama"))


def test_a_tag_that_is_no_hash_is_not_taken_for_one(browser: Client, llama: BucketStandIn) -> None:
    llama.put(WEIGHTS, llama.objects[WEIGHTS], etag="0" * 32)
    assert "did not come" in run(ask(browser, llama.address("llama"))).error
    llama.encrypted = True
    assert done(browser, llama.address("llama")).refused == ""


def test_a_model_with_code_is_refused_before_its_weights_come(browser: Client, llama: BucketStandIn) -> None:
    config = json.loads(llama.objects["llama/config.json"]) | {"auto_map": {"AutoModel": "m.Model"}}
    llama.put("llama/config.json", json.dumps(config).encode())
    assert "auto_map" in run(ask(browser, llama.address("llama"))).error
    assert not llama.read(WEIGHTS)


def test_what_may_not_be_loaded_is_refused(browser: Client, llama: BucketStandIn, root: Path) -> None:
    sound = dict(llama.objects)
    for key, content, why in (
        ("llama/../../evil.json", b"{}", "leads out of"),
        ("llama/a//b.json", b"{}", "leads out of"),
        ("llama/config.json/more.json", b"{}", "a file and a folder"),
        ("llama/modeling.py", b"import os", "code of its own"),
        ("llama/tokenizer_config.json", b"{" * 5000, "no sound JSON"),
        ("llama/chat_template.jinja", b"{{ x.__class__ }}", "Python's insides"),
    ):
        llama.objects = dict(sound)
        llama.put(key, content)
        assert why in run(ask(browser, llama.address("llama"))).error, key
    assert not llama.read(WEIGHTS) and not (root / "llama").exists()


def test_weights_alone_of_another_format_are_refused(browser: Client, llama: BucketStandIn) -> None:
    llama.put("pickled/config.json", b"{}")
    llama.put("pickled/pytorch_model.bin", b"\x80\x04x")
    assert "can run code when it is loaded" in run(ask(browser, llama.address("pickled"))).error
    llama.put("cards/README.md", b"hello")
    assert "no weights as safetensors or GGUF" in run(ask(browser, llama.address("cards"))).error


def test_weights_that_lie_never_get_their_name(browser: Client, llama: BucketStandIn, root: Path) -> None:
    llama.put(WEIGHTS, b"\x80\x04" + bytes(200))
    assert "no sound safetensors" in run(ask(browser, llama.address("llama"))).error
    assert not (root / "llama").exists()


def test_every_trouble_is_said_in_words(
    browser: Client, llama: BucketStandIn, team: Team, user: User
) -> None:
    assert "There is no bucket nobodys" in run(ask(browser, "s3://nobodys/llama")).error
    assert "nothing of that name" in run(ask(browser, llama.address("nowhere"))).error
    llama.fail(503, times=9)
    assert "The store broke off" in run(ask(browser, llama.address("llama"))).error
    llama.failing = []
    imports.keep_credentials(team, user, imports.Credentials(KEY, SECRET, "http://127.0.0.1:9"))
    assert "cannot be reached" in run(ask(browser, llama.address("llama"))).error
    Secret.objects.filter(name=imports.SECRET).update(ciphertext=b"of another key")
    assert "SLIPWAY_SECRET_KEY" in run(ask(browser, llama.address("llama"))).error


def test_a_bucket_of_too_many_objects_is_not_read_to_its_end(
    browser: Client, llama: BucketStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.safety.MAX_FILES", 4)
    assert "more than 4 objects" in run(ask(browser, llama.address("llama"))).error
    assert len(llama.seen) == 2


def test_the_quota_and_the_disk_brake_hold_before_weights_come(
    browser: Client, llama: BucketStandIn, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TEAM_QUOTA_GB = 1e-6
    assert "SLIPWAY_TEAM_QUOTA_GB" in run(ask(browser, llama.address("llama"))).error
    settings.TEAM_QUOTA_GB = 1
    usage = shutil.disk_usage(settings.HOME)._replace(total=100_000, free=15_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    assert "The disk is too full" in run(ask(browser, llama.address("llama"))).error
    assert not llama.read(WEIGHTS)


def test_a_cancel_leaves_nothing(
    browser: Client, llama: BucketStandIn, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(browser, llama.address("llama"))

    def cancelled(work: Work, step: str, done: int | None = None, *rest: Any, **more: Any) -> None:
        if done:
            raise Cancelled

    monkeypatch.setattr(Work, "progress", cancelled)
    assert run(job).state == Job.State.CANCELLED
    assert not landing.folder(team.pk, "llama").exists()


def test_what_a_failed_one_left_is_removed_when_asked(
    browser: Client, llama: BucketStandIn, team: Team
) -> None:
    llama.cut(WEIGHTS)
    job = run(ask(browser, llama.address("llama")))
    assert landing.usage(team) > 0
    browser.post(reverse("import-stop", args=[job.pk]))
    assert landing.usage(team) == 0
    assert "Try again: llama" not in browser.get(reverse("own-models")).content.decode()


# Asking


def test_an_address_that_is_none_is_refused_beside_its_field(browser: Client) -> None:
    for address in (
        *("", "llama", "http://models/llama", "s3://", "s3://Models/x", "s3://a", "s3://models/../x"),
        *("s3://models/a//b", "s3://mod els/x", "s3://models/x\0", "file:///etc", "s3://-models/x"),
    ):
        answer = browser.post(reverse("import-bucket"), {"address": address, "name": "kept"})
        page = answer.content.decode()
        assert answer.status_code == 422 and "An address looks like s3://" in page, address
        assert 'value="kept"' in page
    assert not Job.objects.exists()


def test_a_name_that_is_in_use_is_refused_beside_its_field(
    browser: Client, llama: BucketStandIn, root: Path, team: Team, user: User
) -> None:
    (root / "taken").mkdir()
    Upload.objects.create(team=team, name="coming", path="a.gguf", size_bytes=1)
    ask(browser, llama.address("llama"), "mine")
    for name, why in {
        "taken": "is taken",
        "coming": "An upload is called coming",
        "mine": "imported from elsewhere",
        "../x": "A name has letters",
    }.items():
        answer = browser.post(reverse("import-bucket"), {"address": "s3://models/other", "name": name})
        assert answer.status_code == 422 and why in answer.content.decode(), name
    assert Job.objects.count() == 1


def test_credentials_are_an_administrators_and_kept_encrypted(
    browser: Client, team: Team, user: User, llama: BucketStandIn
) -> None:
    given = {"key": KEY, "secret": SECRET, "endpoint": llama.url, "region": "eu-central-1"}
    assert browser.post(reverse("s3-keep"), given).status_code == 302
    assert imports.credentials(team) == imports.Credentials(KEY, SECRET, llama.url, "eu-central-1")
    row = secrets.find(team, imports.SECRET)
    assert row and SECRET.encode() not in bytes(row.ciphertext)
    page = browser.get(reverse("own-models")).content.decode()
    assert KEY[-4:] in page and SECRET not in page and KEY not in page
    for wrong in ({"secret": ""}, {"endpoint": "file:///etc"}, {"region": "a b"}):
        answer = browser.post(reverse("s3-keep"), given | wrong)
        assert answer.status_code == 422 and SECRET not in answer.content.decode()
    Membership.objects.filter(user=user).update(role=Membership.Role.OPERATOR)
    assert browser.post(reverse("s3-keep"), given).status_code == 403
    assert browser.post(reverse("s3-forget")).status_code == 403
    Membership.objects.filter(user=user).update(role=Membership.Role.ADMIN)
    browser.post(reverse("s3-forget"))
    assert imports.credentials(team) is None


def test_strangers_and_readers_import_and_stop_nothing(
    browser: Client, llama: BucketStandIn, user: User, stranger: User
) -> None:
    job = ask(browser, llama.address("llama"))
    other = Client()
    other.force_login(stranger)
    assert other.post(reverse("import-stop", args=[job.pk])).status_code == 404
    Membership.objects.filter(user=user).update(role=Membership.Role.VIEWER)
    asked = {"address": llama.address("llama"), "name": "second"}
    assert browser.post(reverse("import-bucket"), asked).status_code == 403
    assert browser.post(reverse("import-stop", args=[job.pk])).status_code == 403
    job.refresh_from_db()
    assert job.state == Job.State.QUEUED and Job.objects.count() == 1


def test_the_secret_is_in_no_job_and_no_log(
    browser: Client, llama: BucketStandIn, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    llama.fail(403, times=9)
    job = run(ask(browser, llama.address("llama")))
    log = (settings.HOME / "jobs" / str(job.pk) / "job.log").read_text()
    told = json.dumps([job.arguments, job.progress, job.error, job.log_tail]) + log
    assert SECRET not in told and KEY not in told
    assert SECRET not in caplog.text
