"""What programs do from beginning to end: batches of the API and of the shell, a model from its files to an
endpoint. Real web process, worker, beat and engines.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
from django.core.management import call_command
from django.db import connections
from openai import OpenAI
from pytest_django import DjangoDbBlocker

from endpoints import promotion
from endpoints.models import Endpoint
from playground import tokens, webhooks
from playground.models import Batch, Deployment, Membership, Team, User, WebhookDelivery
from tests import fleet
from tests.fleet import Fleet, until
from tests.gateway_site import ROOT, Site, running_site
from tests.hub_repos import tiny_files
from tests.script import PIECE, Script, digest
from tests.test_batch_api import begin, jsonl, line, upload

pytestmark = pytest.mark.slow
LOCAL = {"SLIPWAY_WEBHOOK_NETWORKS": "127.0.0.0/8", "SLIPWAY_WEBHOOK_RETRY_S": "0.3,0.3,0.3"}


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Everything that `up` starts, but for the servers; the endpoint `words` on an engine of its own."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        user = User.objects.create_user(username="ada", is_superuser=True)
        Membership.objects.create(user=user, team=team, role=Membership.Role.ADMIN)
        workers = Fleet()
        workers.work(**LOCAL)
        beat = subprocess.Popen([sys.executable, "manage.py", "beat"], cwd=ROOT, env=os.environ | LOCAL)
        try:
            row = fleet.start(team, fleet.tiny_model(team), tokens=5, token_delay_ms=2)
            fleet.ready(row)
            row.refresh_from_db()
            promotion.promote(row, endpoint="words", user=user, in_place=True, sampling={"temperature": 0.25})
            until("words is live", lambda: Endpoint.objects.exclude(live=None).exists())
            with running_site(tmp_path_factory.mktemp("site"), **LOCAL) as served:
                served.key(team, user)
                served.until(lambda: served.get("/v1/models/words").status_code == 200)
                yield served
        finally:
            beat.terminate()
            beat.wait()
            workers.close()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


@pytest.fixture
def client(site: Site) -> OpenAI:
    return site.client()


def ended(client: OpenAI, token: str, within_s: float = 40.0) -> Any:
    """Poll as a client does."""

    def look() -> Any:
        batch = client.batches.retrieve(token)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    return until(f"batch {token} ends", look, within_s)


def lines(client: OpenAI, token: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in client.files.content(token).text.splitlines()]


def test_a_batch_runs_from_upload_to_output(client: OpenAI) -> None:
    data = jsonl(
        *(line(f"row {n}", f"[[text=answer {n}]]") for n in range(40)),
        line("bad", "[[error=400]]"),
        line("warm", "[[text=warm]]", temperature=0.9, max_tokens=7),
    )
    batch = begin(client, data, metadata={"for": "tests"})
    assert batch.status == "validating" and batch.metadata == {"for": "tests"}
    batch = ended(client, batch.id)
    assert batch.status == "completed" and batch.completed_at >= batch.finalizing_at >= batch.in_progress_at
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (42, 41, 1)
    assert batch.usage.output_tokens > 0 and batch.model == "words"
    answers = lines(client, batch.output_file_id)
    ids = [f"row {n}" for n in range(40)] + ["warm"]
    assert [one["custom_id"] for one in answers] == ids
    assert len({one["id"] for one in answers}) == 41
    first = answers[0]["response"]
    assert first["status_code"] == 200 and first["request_id"] and answers[0]["error"] is None
    said = openai.types.chat.ChatCompletion.model_validate(first["body"], strict=True)
    assert said.choices[0].message.content == "answer 0" and said.usage
    (wrong,) = lines(client, batch.error_file_id)
    assert wrong["custom_id"] == "bad" and wrong["response"] is None and wrong["error"]["message"]
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.bytes == len(
        client.files.content(batch.output_file_id).content
    )
    assert output.filename == f"{batch.id}_output.jsonl"
    assert client.batches.list().data[0] == batch


def test_a_batch_of_completions_runs(client: OpenAI) -> None:
    asked = {"model": "words", "prompt": "[[text=and so on]]"}
    one = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": asked}
    batch = ended(client, begin(client, jsonl(one), endpoint="/v1/completions").id)
    (found,) = lines(client, batch.output_file_id)
    said = openai.types.Completion.model_validate(found["response"]["body"], strict=True)
    assert said.choices[0].text == "and so on"


def test_two_batches_of_a_file_give_the_same_output(client: OpenAI) -> None:
    file = upload(client, jsonl(*(line(str(n), f"[[text={n} again]]") for n in range(20))))
    wanted: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    made = [client.batches.create(**wanted).id for _ in range(2)]
    outputs = [lines(client, ended(client, one).output_file_id) for one in made]
    texts = [[(one["custom_id"], one["response"]["body"]["choices"]) for one in output] for output in outputs]
    assert texts[0] == texts[1] and len(texts[0]) == 20


def test_a_batch_is_cancelled_and_gives_what_it_has(client: OpenAI) -> None:
    slow = [line(f"slow {n}", "[[tokens=400]] [[delay=20]]") for n in range(60)]
    batch = begin(client, jsonl(line("quick", "[[text=quick]]"), *slow))

    def one_is_done() -> bool:
        counts = client.batches.retrieve(batch.id).request_counts
        return bool(counts and counts.completed)

    until("one is answered", one_is_done)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    assert batch.status == "cancelled" and batch.cancelling_at <= batch.cancelled_at
    counts = batch.request_counts
    assert counts.total == 61 and counts.completed + counts.failed == 61
    good, bad = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert sorted(one["custom_id"] for one in [*good, *bad]) == sorted(
        ["quick", *(one["custom_id"] for one in slow)]
    )
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled"}


def test_a_batch_holds_on_to_its_release(site: Site, client: OpenAI) -> None:
    team = Team.objects.get(slug="default")
    user = User.objects.get(username="ada")
    batch = begin(client, jsonl(line("quick"), line("endless", "[[hang]]")))

    def one_is_done() -> bool:
        counts = client.batches.retrieve(batch.id).request_counts
        return bool(counts and counts.completed)

    until("it runs", one_is_done)
    before = Endpoint.objects.get(name="words").live
    assert before is not None
    newer = fleet.start(team, fleet.tiny_model(team), tokens=5, variant=1)
    fleet.ready(newer)
    newer.refresh_from_db()
    promotion.promote(newer, endpoint="words", user=user, in_place=True)
    until("the newer is live", lambda: Endpoint.objects.get(name="words").live_id != before.pk)
    third = fleet.start(team, fleet.tiny_model(team), tokens=5, variant=1)
    fleet.ready(third)
    third.refresh_from_db()
    promotion.promote(third, endpoint="words", user=user, in_place=True)
    before.refresh_from_db()
    until("the first has retired", lambda: type(before).objects.get(pk=before.pk).state == "retired")
    assert Deployment.objects.get(pk=before.deployment_id).desired == "running"
    client.batches.cancel(batch.id)
    assert ended(client, batch.id).request_counts.completed == 1
    until(
        "what it held on to stops",
        lambda: Deployment.objects.get(pk=before.deployment_id).desired == "stopped",
    )


# Webhooks


class Listener:
    """A server that takes messages; the first `refusals` are answered with 500."""

    def __init__(self, refusals: int = 0) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.refusals, outer = refusals, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.heard.append((dict(self.headers), body))
                refused = len(outer.heard) <= outer.refusals
                self.send_response(500 if refused else 204)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/done?of=batches"


def test_a_webhook_is_sent_until_it_is_taken_and_the_client_verifies_it(client: OpenAI) -> None:
    listener = Listener(refusals=2)
    batch = begin(client, jsonl(line("a", "[[text=a]]")), extra_body={"webhook": listener.url})
    ended(client, batch.id)
    until("it is told", lambda: len(listener.heard) == 3)
    team = Team.objects.get(slug="default")
    headers, body = listener.heard[-1]
    event = client.webhooks.unwrap(body, headers, secret=webhooks.secret(team))
    assert event.type == "batch.completed" and event.data.id == batch.id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers, secret=webhooks.secret(team))
    assert len({one["webhook-id"] for one, _ in listener.heard}) == 1

    def taken() -> bool:
        row = WebhookDelivery.objects.get(subject=f"api:{batch.id}")
        return row.delivered_at is not None and row.due_at is None

    until("it is written down", taken)
    listener.server.shutdown()


def test_a_failed_batch_is_told_too_and_a_deaf_address_is_given_up(client: OpenAI) -> None:
    listener = Listener(refusals=99)
    batch = begin(client, b"x\n", extra_body={"webhook": listener.url})
    assert ended(client, batch.id).status == "failed"

    def given_up() -> bool:
        row = WebhookDelivery.objects.filter(subject=f"api:{batch.id}").first()
        return row is not None and row.due_at is None

    until("it is given up", given_up)
    row = WebhookDelivery.objects.get(subject=f"api:{batch.id}")
    assert row.delivered_at is None and row.attempts == 4 and "It answered 500" in row.problem
    assert json.loads(listener.heard[0][1])["type"] == "batch.failed"
    listener.server.shutdown()


# The shell


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "manage.py", "batch", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def engine(site: Site) -> Deployment:
    """A deployment that people may start and stop."""
    team = Team.objects.get(slug="default")
    row = Deployment.objects.filter(name="shell").first()
    if row is None:
        row = fleet.start(team, fleet.tiny_model(team), tokens=5)
        Deployment.objects.filter(pk=row.pk).update(name="shell")
    fleet.ready(row)
    return row


def test_the_shell_runs_a_file(engine: Deployment, tmp_path: Path) -> None:
    rows = tmp_path / "questions.csv"
    rows.write_text("id,question\n" + "".join(f"q{n},[[text=answer {n}]]\n" for n in range(30)))
    for kind in ("jsonl", "csv", "parquet"):
        output = tmp_path / f"answers.{kind}"
        wanted = ["--deployment", "shell", "--output", str(output), "--prompt", "{{question}}"]
        done = run(str(rows), *wanted)
        assert "30 of 30" in done.stderr and "completed" in done.stdout
        assert output.stat().st_size and not list(tmp_path.glob(".answers*"))
    answers = [json.loads(one) for one in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [one["response"]["body"]["choices"][0]["message"]["content"] for one in answers] == [
        f"answer {n}" for n in range(30)
    ]


def test_the_shell_names_bad_lines_and_failed_rows(engine: Deployment, tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_bytes(jsonl({"prompt": "[[text=a]]"}, b"nonsense", {"prompt": "[[error=400]]"}))
    wanted = [str(rows), "--deployment", "shell", "--output", str(output)]
    done = run(*wanted, code=4)
    assert "Line 2" in done.stderr and not output.exists()
    done = run(*wanted, "--skip-bad", code=1)
    assert "Line 2 is left out" in done.stderr and "1 failed" in done.stdout
    assert len(output.read_text().splitlines()) == 2
    value = json.loads(run(*wanted, "--skip-bad", "--json", code=1).stdout)
    assert (value["state"], value["done"], value["failed"]) == ("completed", 1, 1)
    assert run(str(rows), "--deployment", "shell", "--output", "x.txt", code=2)
    assert run("nowhere.jsonl", "--deployment", "shell", "--output", str(output), code=3)
    assert run(str(rows), "--deployment", "nothing", "--output", str(output), code=3)
    assert run("--follow", "999999", "--output", str(output), code=3)


def test_a_script_brings_a_model_from_its_files_to_an_endpoint(site: Site) -> None:
    script = Script(site, tokens.make(User.objects.get(username="ada"), "ci", "write")[1])
    files = {path: bytes(data) for path, data in tiny_files().items() if isinstance(data, bytes)}
    weights = files["model.safetensors"]
    given = {"name": "scripted", "path": "model.safetensors", "size_bytes": len(weights)}
    pk = script.ask("POST", "/uploads", given)["id"]
    assert script.put(pk, 0, weights[:PIECE]).status_code == 200
    damaged = script.put(pk, PIECE, b"x" * PIECE, sha256=digest(weights[PIECE : 2 * PIECE]))
    assert damaged.status_code == 409 and "damaged on its way" in damaged.text
    script.break_off(pk, PIECE, weights[PIECE : 2 * PIECE])
    assert script.ask("GET", f"/uploads/{pk}")["received_bytes"] == PIECE, "a broken piece is no piece"
    model = script.model("scripted", files)
    deployment = script.started(model)
    assert script.said(deployment, "[[text=Paris]]") == "Paris"
    wanted = {"deployment": deployment, "endpoint": "scripted", "in_place": True}
    release = script.ask("POST", "/endpoints", wanted, 201)
    assert script.until("/endpoints/scripted", lambda row: row["live"])["live"] == release["number"]
    secret = script.ask("POST", "/keys", {"name": "ci", "endpoints": ["scripted"]}, 201)["secret"]
    question: Any = {"model": "scripted", "messages": [{"role": "user", "content": "[[text=Lima]]"}]}
    site.until(lambda: site.get("/v1/models/scripted").status_code == 200)
    answer = site.client(secret).chat.completions.create(**question)
    assert answer.choices[0].message.content == "Lima"
    assert script.ask("POST", "/endpoints/scripted/offline")["live"] is None


def read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError as ended:
            raise AssertionError(f"{text!r} was never shown: {shown}") from ended
    return shown


def test_ctrl_c_leaves_the_batch_running(engine: Deployment, tmp_path: Path) -> None:
    rows, output = tmp_path / "slow.jsonl", tmp_path / "out.jsonl"
    rows.write_bytes(jsonl(*({"prompt": f"[[tokens=300]] [[delay=20]] {n}"} for n in range(40))))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "batch", str(rows), "--deployment", "shell", "--output", str(output)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = read_until(ours, "of 40")
    assert "\r[" in shown
    process.send_signal(signal.SIGINT)
    shown = read_until(ours, "--cancel")
    assert process.wait(20) == 130
    os.close(ours)
    batch = Batch.objects.get(version__dataset__name="slow.jsonl")
    assert batch.state == Batch.State.RUNNING and f"--follow {batch.pk}" in shown
    run("--cancel", str(batch.pk))
    done = run("--follow", str(batch.pk), "--output", str(output), code=1)
    assert "cancelled" in done.stderr
    assert len(output.read_text().splitlines()) == 40
