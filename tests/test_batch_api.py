"""Files and batches of the API, as the official client meets them: strict, against a real web process."""

import io
import json
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from django.conf import settings
from django.utils import timezone
from openai import OpenAI

from endpoints import batches as api_batches
from endpoints import files, keys
from endpoints.models import ApiBatch, ApiFile, ApiKey
from playground import batch_files, batch_sweep, datasets
from playground.models import Batch, BatchItem, BatchResult, Membership, Team, User
from tests.fakes import RunningFake
from tests.gateway_site import Site, deployment, endpoint, replica, running_site

pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), SLIPWAY_WEBHOOK_NETWORKS="127.0.0.0/8") as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, user: User, fake_engine: Engines) -> Site:
    """The site with the endpoint `words` in front of one fake engine, and a key."""
    shutil.rmtree(files.folder(), ignore_errors=True)
    engine = fake_engine(key="engine-secret", tokens=3)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind, temperature=0.25)
    replica(behind, engine)
    served.key(team, user)
    served.engine = engine
    return served


@pytest.fixture
def client(site: Site) -> OpenAI:
    return site.client()


@pytest.fixture
def other(site: Site, stranger: User) -> OpenAI:
    """The client of another team."""
    _, secret = keys.make(Team.objects.get(slug="other"), stranger, "theirs", tuple(keys.SCOPES))
    site.until(lambda: site.get("/v1/models", authorization=f"Bearer {secret}").status_code == 200)
    return site.client(secret)


def line(custom_id: str | None = "a", text: str = "hello", **body: Any) -> dict[str, Any]:
    asked = {"model": "words", "messages": [{"role": "user", "content": text}], **body}
    named = {} if custom_id is None else {"custom_id": custom_id}
    return {**named, "method": "POST", "url": "/v1/chat/completions", "body": asked}


def jsonl(*lines: Any) -> bytes:
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def upload(client: OpenAI, data: bytes, name: str = "rows.jsonl", **more: Any) -> Any:
    return client.files.create(file=(name, data), purpose="batch", **more)


def begin(client: OpenAI, data: bytes, **more: Any) -> Any:
    """A batch of these bytes."""
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return client.batches.create(input_file_id=upload(client, data).id, **wanted)


def advance(token: str) -> ApiBatch:
    """What the worker does when it is nudged."""
    row = ApiBatch.objects.get(token=token)
    api_batches.advance(row.pk)
    row.refresh_from_db()
    return row


def failed(client: OpenAI, data: bytes, **more: Any) -> list[tuple[str, int | None]]:
    """Code and line of each error of a batch that cannot begin."""
    batch = begin(client, data, **more)
    assert batch.status == "validating"
    advance(batch.id)
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "failed" and batch.failed_at and batch.errors and batch.errors.data
    assert batch.request_counts and batch.request_counts.total == 0
    return [(error.code or "", error.line) for error in batch.errors.data]


# Files


def test_a_file_is_kept_listed_read_and_deleted(client: OpenAI) -> None:
    data = jsonl(line("a"), line("b", "Grüße 👋"))
    made = upload(client, data, "my rows.jsonl")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(data),
        "my rows.jsonl",
        "batch",
        "processed",
    )
    assert made.expires_at == pytest.approx(made.created_at + 30 * 24 * 3600, abs=5)
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == data
    assert client.files.list().data == [made]
    path = files.path_of(ApiFile.objects.get())
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == data
    assert client.files.delete(made.id).deleted
    assert not path.exists() and client.files.list().data == []
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.content(made.id)
    assert gone.value.code == "not_found"


def test_files_come_in_pages(site: Site, client: OpenAI) -> None:
    made = [upload(client, jsonl(line(str(n)))).id for n in range(5)]
    assert [one.id for one in client.files.list(limit=2)] == made[::-1]
    assert [one.id for one in client.files.list(limit=2, order="asc")] == made
    assert client.files.list(purpose="batch_output").data == []
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            client.files.list(**wrong)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-nothing")
    assert client.files.list(purpose="a\0b").data == []
    for noun in ("files", "batches"):
        assert site.get(f"/v1/{noun}?after=a%00b").status_code == 404
        assert site.get(f"/v1/{noun}?limit=%C3%A9").status_code == 400
        assert site.get(f"/v1/{noun}?" + "a=1&" * 100).status_code == 400


def test_a_file_lives_as_long_as_was_asked(client: OpenAI) -> None:
    made = upload(client, jsonl(line()), expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at == pytest.approx(made.created_at + 3600, abs=5)
    with pytest.raises(openai.BadRequestError):
        upload(client, jsonl(line()), expires_after={"anchor": "created_at", "seconds": 5})
    ApiFile.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    files.tidy(lambda: timezone.now().timestamp() + 2 * files.LEFT_S)
    assert not ApiFile.objects.exists()
    assert not [one for one in files.folder().glob("*/*") if one.is_file()]


def test_strangers_get_404(client: OpenAI, other: OpenAI) -> None:
    made = upload(client, jsonl(line()))
    batch = begin(client, jsonl(line()))
    for refused in (
        lambda: other.files.retrieve(made.id),
        lambda: other.files.content(made.id),
        lambda: other.files.delete(made.id),
        lambda: other.files.list(after=made.id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.list(after=batch.id),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    assert other.files.list().data == [] and other.batches.list().data == []
    with pytest.raises(openai.BadRequestError) as theirs:
        other.batches.create(input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert theirs.value.code == "invalid_input_file"
    assert client.files.content(made.id).content


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/files/file-x", "/v1/batches/batch_x"])
def test_nobody_gets_anything_without_a_key(site: Site, path: str) -> None:
    assert site.get(path, authorization="Bearer sk-slip-aaaaaaaa-nothing").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/files"),
        ("DELETE", "/v1/files"),
        ("PATCH", "/v1/files/file-1"),
        ("POST", "/v1/files/file-1/content"),
        ("GET", "/v1/files/file-1/cancel"),
        ("GET", "/v1/files/"),
        ("GET", "/v1/files/..%2fbatches"),
        ("GET", "/v1/files/file-1/content/"),
        ("DELETE", "/v1/batches/batch_1"),
        ("GET", "/v1/batches/batch_1/cancel"),
        ("GET", "/v1/batches/batch_1/output"),
    ],
)
def test_other_routes_are_404(site: Site, method: str, path: str) -> None:
    answer = site.raw(method, path)
    assert answer.status == 404 and json.loads(answer.read())["error"]["code"] == "unknown_url"


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("rows.jsonl", jsonl(line()))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        archive(),
        b"\x1f\x8b\x08" + bytes(30),
        b"\x28\xb5\x2f\xfd" + bytes(30),
        b"PAR1" + bytes(30),
        b"%PDF-1.7\n" + bytes(30),
        b"MZ\x90\0" + bytes(30),
    ],
    ids=["zip", "gzip", "zstd", "parquet", "pdf", "program"],
)
def test_what_is_no_text_is_415_whatever_it_is_called(client: OpenAI, data: bytes) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        upload(client, data)
    assert refused.value.status_code == 415
    assert refused.value.code == "unsupported_file"
    nothing_is_left()


def nothing_is_left() -> None:
    assert not ApiFile.objects.exists()
    assert not [one for one in files.folder().glob("*/*") if one.is_file()]


def test_an_upload_that_is_none_is_refused(site: Site) -> None:
    headers = {"authorization": f"Bearer {site.secret}"}

    def post(**wanted: Any) -> tuple[int, str]:
        wanted["headers"] = headers | wanted.get("headers", {})
        answer = httpx.post(f"{site.url}/v1/files", timeout=20, **wanted)
        return answer.status_code, answer.json()["error"]["code"]

    file = {"file": ("rows.jsonl", jsonl(line()))}
    assert post(json={}) == (415, "unsupported_media_type")
    assert post(files=file, headers={"content-encoding": "gzip"}) == (415, "unsupported_encoding")
    assert post(files=file) == (400, "invalid_purpose")
    assert post(files=file, data={"purpose": "fine-tune"}) == (400, "invalid_purpose")
    assert post(files={"other": b"x"}, data={"purpose": "batch"}) == (400, "missing_required_parameter")
    assert post(files={"file": ("rows.jsonl", b"")}, data={"purpose": "batch"}) == (400, "empty_file")
    two = [("file", ("a.jsonl", b"{}")), ("file", ("b.jsonl", b"{}"))]
    assert post(files=two, data={"purpose": "batch"}) == (400, "invalid_request")
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert post(content=b"nonsense", headers=form)[0] == 400
    assert post(content=b"nonsense", headers={"content-type": "multipart/form-data"}) == (
        400,
        "invalid_multipart",
    )
    nothing_is_left()


def test_a_file_name_is_no_path(client: OpenAI) -> None:
    made = upload(client, jsonl(line()), "../../etc/passwd")
    assert made.filename == "passwd"
    assert files.path_of(ApiFile.objects.get()).parent.parent == settings.HOME / "files"


def test_a_body_over_the_limit_is_413_before_it_is_read(site: Site) -> None:
    form = {"content-type": "multipart/form-data; boundary=x", "content-length": str(300_000_000)}
    answer = site.raw("POST", "/v1/files", form)
    assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "file_too_large"


def test_a_team_has_a_quota_and_a_full_disk_refuses(site: Site, tmp_path: Path, team: Team) -> None:
    with running_site(tmp_path, SLIPWAY_API_FILES_GB="0.000001", SLIPWAY_DISK_FREE="0.1") as small:
        small.secret = site.secret
        small.until(lambda: small.get("/v1/models").status_code == 200)
        upload(small.client(), jsonl(line()))
        with pytest.raises(openai.APIStatusError) as refused:
            upload(small.client(), jsonl(*(line(str(n)) for n in range(20))))
        assert refused.value.status_code == 413 and refused.value.code == "files_quota_exceeded"
    assert ApiFile.objects.count() == 1
    with running_site(tmp_path, SLIPWAY_DISK_FREE="1") as full:
        full.secret = site.secret
        full.until(lambda: full.get("/v1/models").status_code == 200)
        with pytest.raises(openai.APIStatusError) as refused:
            upload(full.client(retries=2), jsonl(line()))
        assert refused.value.status_code == 507 and refused.value.code == "disk_full"
    assert ApiFile.objects.count() == 1


# What a batch is made of


def test_wrong_lines_are_told_by_number(client: OpenAI) -> None:
    data = jsonl(
        line("a"),
        b"not json",
        line("a"),
        line(None),
        line("b", model="others"),
        {**line("c"), "url": "/v1/embeddings"},
        {**line("d"), "method": "GET"},
        {**line("e"), "body": "text"},
        line("f", max_tokens=-1),
        line("g", stream=True),
        b"",
        line("h", "\ud800"),
        b'{"custom_id": "\xff"}',
        line("ok"),
        line("i", prompt={"id": "support-triage"}),
    )
    assert failed(client, data) == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
        ("missing_required_parameter", 4),
        ("mismatched_model", 5),
        ("mismatched_url", 6),
        ("invalid_method", 7),
        ("invalid_body", 8),
        ("invalid_value", 9),
        ("unsupported_parameter", 10),
        ("invalid_json_line", 12),
        ("invalid_line", 13),
        ("unsupported_parameter", 15),
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\n\n  \n", ("empty_file", None)),
        (jsonl(line()).decode().encode("utf-16"), ("invalid_encoding", 1)),
        (b'{"custom_id": "' + b"x" * (9 << 20) + b'"}\n' + jsonl(line()), ("invalid_line", 1)),
        (b"[1]\n", ("invalid_json_line", 1)),
        (jsonl(line("a", model="nothing")), ("model_not_found", 1)),
        (jsonl(line("a", model="deployment/999999")), ("model_not_found", 1)),
        (jsonl(line("a", model="deployment/x")), ("model_not_found", 1)),
        (jsonl(line("a", model="words:no-adapter")), ("model_not_found", 1)),
    ],
    ids=["blank", "utf-16", "long line", "array", "no model", "no deployment", "no number", "no adapter"],
)
def test_a_file_that_cannot_run_fails_its_batch(
    client: OpenAI, data: bytes, error: tuple[str, int | None]
) -> None:
    assert failed(client, data) == [error]


def test_a_model_that_has_no_vectors_fails_its_batch(client: OpenAI) -> None:
    one = {**line("a"), "url": "/v1/embeddings", "body": {"model": "words", "input": "hello"}}
    assert failed(client, jsonl(one), endpoint="/v1/embeddings") == [("unsupported_route", 1)]


def test_a_batch_has_at_most_so_many_lines(client: OpenAI) -> None:
    short = line("X", "x")
    text = json.dumps(short).replace('"X"', '"%d"')
    data = "".join(text % n + "\n" for n in range(50_001)).encode()
    assert failed(client, data) == [("too_many_lines", 50_001)]


def test_only_a_hundred_errors_are_told(client: OpenAI) -> None:
    assert len(failed(client, b"x\n" * 1000)) == 100


def test_a_key_without_the_scope_runs_nothing(site: Site, team: Team, user: User) -> None:
    _, secret = keys.make(team, user, "narrow", ["playground"])
    site.until(lambda: site.get("/v1/models", authorization=f"Bearer {secret}").status_code == 200)
    assert failed(site.client(secret), jsonl(line())) == [("missing_scope", 1)]


def test_a_revoked_key_runs_nothing(site: Site, client: OpenAI) -> None:
    batch = begin(client, jsonl(line()))
    keys.revoke(ApiKey.objects.get(), None)
    row = advance(batch.id)
    assert row.failed_at and row.errors[0]["code"] == "key_revoked"


def test_slow_uploads_of_a_team_take_not_every_seat(site: Site, client: OpenAI, other: OpenAI) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {site.secret}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    )
    slow = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(4)]
    try:
        for one in slow:
            one.sendall(head.encode())
        incoming = files.incoming().parent
        # Else one of ours could take a seat before them.
        site.until(lambda: len([path for path in incoming.iterdir() if not path.suffix]) == len(slow))

        def refused() -> bool:
            try:
                upload(client, jsonl(line()))
            except openai.InternalServerError as busy:
                return busy.code == "too_busy"
            return False

        site.until(refused)
        assert upload(other, jsonl(line())).id
        for one in slow:
            assert b" 408 " in one.recv(4096)
        assert upload(client, jsonl(line())).id
    finally:
        for one in slow:
            one.close()


def test_a_key_starts_only_what_its_maker_may(site: Site, team: Team, user: User) -> None:
    stopped = deployment(team, name="stopped")
    type(stopped).objects.filter(pk=stopped.pk).update(desired="stopped")
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    data = jsonl(line("a", model=f"deployment/{stopped.pk}"))
    assert failed(site.client(), data) == [("model_not_running", 1)]
    Membership.objects.filter(user=user).update(role=Membership.Role.OPERATOR)
    batch = begin(site.client(), data)
    assert advance(batch.id).in_progress_at
    stopped.refresh_from_db()
    assert stopped.desired == "running"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a" * 65: "x"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"extra_body": {"webhook": "ftp://127.0.0.1/"}}, "webhook"),
        ({"extra_body": {"webhook": "http://10.0.0.1/"}}, "webhook"),
        ({"extra_body": {"webhook": "http://169.254.169.254/latest"}}, "webhook"),
        ({"extra_body": {"webhook": "https://user:secret@127.0.0.1/"}}, "webhook"),
        ({"extra_body": {"priority": 1}}, "priority"),
    ],
)
def test_a_batch_asked_wrongly_is_400(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        begin(client, jsonl(line()), **wrong)
    assert refused.value.param == param
    assert not ApiBatch.objects.exists()


def test_a_batch_needs_an_input_file(client: OpenAI) -> None:
    for token in ("file-nothing", "../x", "", "a\0b", "x" * 9000):
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(
                input_file_id=token, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert refused.value.code == "invalid_input_file"


def test_batches_come_in_pages_newest_first(client: OpenAI) -> None:
    made = [begin(client, jsonl(line())).id for _ in range(3)]
    assert [one.id for one in client.batches.list(limit=2)] == made[::-1]
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)


def test_sent_twice_under_a_key_it_is_one_batch(client: OpenAI) -> None:
    file = upload(client, jsonl(line())).id
    wanted: dict[str, Any] = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "extra_headers": {"Idempotency-Key": "once"},
    }
    assert client.batches.create(**wanted) == client.batches.create(**wanted)
    with pytest.raises(openai.UnprocessableEntityError):
        client.batches.create(**wanted, metadata={"other": "x"})
    assert ApiBatch.objects.count() == 1


def test_a_batch_is_cancelled_before_it_is_read(client: OpenAI) -> None:
    batch = begin(client, jsonl(line()))
    with pytest.raises(openai.ConflictError):
        client.files.delete(batch.input_file_id)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelled" and cancelled.cancelled_at and cancelled.cancelling_at
    assert client.batches.cancel(batch.id).status == "cancelled"
    row = advance(batch.id)
    assert row.batch is None
    assert client.files.delete(batch.input_file_id).deleted
    assert client.batches.retrieve(batch.id).input_file_id == batch.input_file_id


def test_a_failed_batch_cannot_be_cancelled(client: OpenAI) -> None:
    batch = begin(client, b"x\n")
    advance(batch.id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_batch_whose_file_is_gone_fails(client: OpenAI) -> None:
    batch = begin(client, jsonl(line()))
    files.path_of(ApiFile.objects.get()).unlink()
    advance(batch.id)
    errors = client.batches.retrieve(batch.id).errors
    assert errors and errors.data and errors.data[0].code == "file_not_found"


def test_a_batch_that_nobody_reads_in_time_expires(client: OpenAI) -> None:
    batch = begin(client, jsonl(line()))
    ApiBatch.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    api_batches.settle()
    assert client.batches.retrieve(batch.id).status == "expired"


def test_a_file_is_read_once_for_several_batches(client: OpenAI) -> None:
    file = upload(client, jsonl(line("a"), line("b")))
    wanted: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    first, second = (advance(client.batches.create(**wanted).id) for _ in range(2))
    assert first.batch and second.batch and first.batch != second.batch
    assert first.batch.version_id == second.batch.version_id
    column = first.batch.columns.get()
    assert column.defaults == {"temperature": 0.25}
    assert first.release and column.deployment == first.release.deployment
    got = client.batches.retrieve(first.token)
    assert got.status == "in_progress" and got.model == "words" and got.in_progress_at
    assert got.request_counts and got.request_counts.total == 2


# What it comes to


def answer(row: ApiBatch, number: int, text: str) -> None:
    """What a slice writes down of a row that was answered."""
    assert row.batch
    column = row.batch.columns.get()
    BatchResult.objects.create(
        column=column,
        number=number,
        attempt=0,
        ok=True,
        text=text,
        finish_reason="stop",
        usage={"prompt_tokens": 4, "completion_tokens": 2},
    )
    column.items.filter(number=number).update(state=BatchItem.State.DONE)


def test_a_batch_whose_day_is_over_gives_what_it_has(client: OpenAI) -> None:
    row = advance(begin(client, jsonl(line("a"), line("b"), line("c"))).id)
    assert row.batch
    answer(row, 2, "two")
    Batch.objects.filter(pk=row.batch.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    batch_sweep.settle(Batch.objects.get(pk=row.batch.pk))
    advance(row.token)
    batch = client.batches.retrieve(row.token)
    assert batch.status == "expired" and batch.expired_at and batch.output_file_id and batch.error_file_id
    counts = batch.request_counts
    assert counts and (counts.total, counts.completed, counts.failed) == (3, 1, 2)
    assert batch.usage and (batch.usage.input_tokens, batch.usage.total_tokens) == (4, 6)
    (good,) = client.files.content(batch.output_file_id).text.splitlines()
    assert json.loads(good)["custom_id"] == "b"
    bad = [json.loads(one) for one in client.files.content(batch.error_file_id).text.splitlines()]
    assert [(one["custom_id"], one["error"]["code"]) for one in bad] == [
        ("a", "batch_expired"),
        ("c", "batch_expired"),
    ]


def test_a_batch_without_failures_has_no_error_file(client: OpenAI) -> None:
    wanted = {"output_expires_after": {"anchor": "created_at", "seconds": 7200}}
    row = advance(begin(client, jsonl(line("a")), **wanted).id)
    answer(row, 1, "one")
    batch_sweep.settle(Batch.objects.get(pk=row.batch_id))
    advance(row.token)
    batch = client.batches.retrieve(row.token)
    assert batch.status == "completed" and batch.error_file_id is None and batch.output_file_id
    output = client.files.retrieve(batch.output_file_id)
    assert output.expires_at == pytest.approx(output.created_at + 7200, abs=5)
    with pytest.raises(openai.BadRequestError):
        client.batches.create(
            input_file_id=output.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert client.files.delete(output.id).deleted
    assert client.batches.retrieve(row.token).output_file_id is None


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "place",
    [
        (datasets, "begin"),
        (datasets, "_write"),
        (api_batches, "_begin"),
        (api_batches.batches, "begin"),
        (batch_files, "line"),
        (files, "render"),
        (files, "_settle_down"),
        (api_batches.batch_facts, "usage"),
    ],
    ids=lambda place: place[1],
)
def test_whoever_is_killed_over_a_batch_leaves_it_whole(
    client: OpenAI, place: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = begin(client, jsonl(line("a"), line("b"))).id

    def once(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(*place, once)
        try:
            advance(token)
        except Killed:
            pass
    row = advance(token)
    assert row.batch and row.batch.version.row_count == 2
    assert row.batch.version.dataset.versions.count() == 1 and Batch.objects.count() == 1
    for number in (1, 2):
        answer(row, number, str(number))
    batch_sweep.settle(Batch.objects.get(pk=row.batch_id))
    with monkeypatch.context() as killing:
        killing.setattr(*place, once)
        try:
            advance(token)
        except Killed:
            pass
    advance(token)
    batch = client.batches.retrieve(token)
    assert batch.status == "completed" and batch.output_file_id
    assert ApiFile.objects.filter(purpose="batch_output").count() == 1
    lines = [json.loads(one) for one in client.files.content(batch.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in lines] == ["a", "b"]


def test_what_is_due_is_sent_again(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(api_batches.nudges, "send", lambda task, pk, queue: sent.append(pk))
    token = begin(client, jsonl(line("a"))).id
    api_batches.settle()
    assert sent == []
    ApiBatch.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    api_batches.settle()
    api_batches.settle()
    assert sent == [ApiBatch.objects.get(token=token).pk]
