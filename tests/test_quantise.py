"""Models made smaller: what is offered, asked for and refused, and real ones made and served by llama.cpp."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import httpx2
import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from playground import catalogue, gguf, jobs, landing, mixtures, pairs, quantise, removal, schemes, ways
from playground.models import Conversation, Deployment, Job, Membership, Model, Team, User
from tests import real_engines
from tests.fleet import ROOT, until
from tests.home import HOME

pytestmark = pytest.mark.django_db(transaction=True)
MODELS = HOME / "models"
# The one whose conversion takes long enough to be cut off.
SLOW = "Q3_K_M"


@pytest.fixture
def model(team: Team) -> Iterator[Model]:
    """The demo model with its real GGUF file here, and nothing made from it."""
    real_engines.node()
    real_engines.environment("llama.cpp")
    row, _ = real_engines.demo("gguf")
    before = set(MODELS.iterdir())
    yield row
    for entry in set(MODELS.iterdir()) - before:
        subprocess.run(["rm", "-r", str(entry)], check=True)


def _run(job: Job) -> Job:
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def _nothing_left() -> bool:
    gathering = MODELS / landing.INCOMING
    return not gathering.exists() or not list(gathering.iterdir())


def _post(client: Client, model: Model, method: str, name: str = "") -> Any:
    return client.post(reverse("model-quantise", args=[model.pk]), {"method": method, "name": name})


def _answer(live: real_engines.Running) -> str:
    body = real_engines.body("What is 2 + 2?", max_tokens=24)
    place = f"{live.base_url}/v1/chat/completions"
    answer = httpx2.post(place, json=body, headers=live.headers, timeout=120)
    return str(answer.json()["choices"][0]["message"]["content"])


# Made, shown, served


def test_a_smaller_model_is_made_shown_with_its_parent_and_answers(
    client: Client, user: User, model: Model
) -> None:
    client.force_login(user)
    page = client.get(reverse("model", args=[model.pk])).content.decode()
    assert "Made from Q4_1: what that lost stays lost" in page
    planned = next(way for way in ways.of(model) if way.method == "Q4_K_M").size_bytes
    assert _post(client, model, "Q4_K_M").status_code == 302
    job = Job.objects.get(kind=Job.Kind.QUANTISE_MODEL)
    page = client.get(reverse("model-quantising", args=[model.pk])).content.decode()
    assert "SmolLM2-135M-Instruct-Q4_K_M" in page and f"job:{job.pk}" in page
    assert _run(job).state == Job.State.DONE, job.error + job.log_tail
    made = Model.objects.get(name="SmolLM2-135M-Instruct-Q4_K_M")
    form = made.formats.get()
    assert made.parent == model and made.origin["method"] == "Q4_K_M"
    assert form.digest and form.size_bytes == planned == (MODELS / form.path).stat().st_size
    assert (made.task, made.chat_template) == (model.task, model.chat_template or made.chat_template)
    catalogue.scan(made.team)
    made.refresh_from_db()
    assert made.parent == model and not made.missing, "a look at the folder keeps what it is"
    page = client.get(reverse("model", args=[model.pk])).content.decode()
    assert reverse("model", args=[made.pk]) in page
    page = client.get(reverse("model", args=[made.pk])).content.decode()
    assert "Made from" in page and reverse("model", args=[model.pk]) in page
    told = ("--verbosity", "4")
    with real_engines.running("llama.cpp", catalogue.local(form), {"context": 512}, extra=told) as live:
        assert "4" in _answer(live)
        reported = live.adapter.reported(live.log.read_text(errors="replace").splitlines())
    assert reported.weights_bytes == pytest.approx(planned, rel=0.15)


@pytest.mark.parametrize("method", ["Q8_0", "Q4_0"])
def test_each_type_has_the_size_that_was_told(model: Model, method: str) -> None:
    job = _run(quantise.request(model, method, f"made-{method}", None))
    assert job.state == Job.State.DONE, job.error + job.log_tail
    form = Model.objects.get(pk=job.result["model"]).formats.get()
    way = ways.find(model, method)
    assert way and form.size_bytes == way.size_bytes
    assert form.dtype == method
    header = ways.read_header(MODELS / form.path)
    assert header.values["general.file_type"] == mixtures.MIXTURES[method].number
    assert _nothing_left()


# Published sizes of Llama-2-7B's files in gigabytes, as people made them with llama.cpp's own program.
LLAMA_2_7B = {"Q3_K_M": 3.30, "Q4_0": 3.83, "Q4_K_M": 4.08, "Q5_K_M": 4.78, "Q6_K": 5.53, "Q8_0": 7.16}


@pytest.mark.parametrize("method", LLAMA_2_7B)
def test_the_types_are_those_of_llama_cpp(method: str) -> None:
    wide, narrow, words = 4096, 11008, 32000
    shapes = {"token_embd.weight": (wide, words), "output.weight": (wide, words)}
    for layer in range(32):
        parts = {f"attn_{part}": (wide, wide) for part in ("q", "k", "v", "output")}
        parts |= {"ffn_gate": (wide, narrow), "ffn_up": (wide, narrow), "ffn_down": (narrow, wide)}
        shapes |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
    tensors = tuple(gguf.Tensor(name, shape, "F16") for name, shape in shapes.items())
    values = {"general.architecture": "llama", "llama.block_count": 32}
    header = gguf.Header(values, {}, 0, "F16", tensors=tensors)
    planned = mixtures.plan(header, mixtures.MIXTURES[method])
    assert not mixtures.requantises(header, planned)
    assert (mixtures.size(header, planned) or 0) / 1e9 == pytest.approx(LLAMA_2_7B[method], rel=0.002)


@pytest.mark.parametrize(
    ("facts", "task", "words"),
    [
        ({"quantisation": "awq"}, "chat", "quantised already \\(awq\\)"),
        ({"experts": 8}, "chat", "mixture of experts"),
        ({}, "embedding", "Only models that write text"),
        ({}, "completion", "^$"),
    ],
)
def test_what_llm_compressor_does_not_take_is_told(facts: dict[str, Any], task: str, words: str) -> None:
    assert re.search(words, schemes.why_not(facts, task))


# Cut off


def _start(job: Job) -> "subprocess.Popen[bytes]":
    """Its runner as a process of its own, once weights are being converted."""
    command = [sys.executable, "manage.py", "run_job", str(job.pk)]
    runner = subprocess.Popen(command, cwd=ROOT, env=os.environ, start_new_session=True)
    until("it converts", lambda: Job.objects.get(pk=job.pk).progress.get("step") == "quantising", 60)
    return runner


def test_killed_it_is_tried_again_and_given_up_without_a_trace(model: Model) -> None:
    job = quantise.request(model, SLOW, "cut", None)
    runner = _start(job)
    assert not _nothing_left()
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    mine = Job.objects.filter(pk=job.pk)
    mine.update(lease_expires_at=Now())
    jobs.due()
    assert mine.get().state == Job.State.QUEUED
    assert not (MODELS / "cut").exists(), "nothing half made has a name"
    mine.update(state=Job.State.RUNNING, attempt=jobs.ATTEMPTS, lease_expires_at=Now())
    jobs.due()
    assert mine.get().state == Job.State.FAILED
    assert _nothing_left()
    assert not [one for one in catalogue.scan(model.team) if one.name == "cut"]
    again = _run(quantise.request(model, "Q4_0", "cut", None))
    assert again.state == Job.State.DONE, again.error


def test_cancelled_it_ends_and_leaves_nothing(client: Client, user: User, model: Model) -> None:
    client.force_login(user)
    job = quantise.request(model, SLOW, "", user)
    runner = _start(job)
    place = reverse("model-quantise-cancel", args=[model.pk, job.pk])
    assert client.post(place).status_code == 302
    assert runner.wait(20) is not None
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED and "ada" in job.error
    assert _nothing_left() and not (MODELS / job.arguments["name"]).exists()


def test_weights_that_are_no_numbers_are_told_and_leave_nothing(model: Model) -> None:
    """A file whose header is sound and whose weights are not."""
    whole = MODELS / model.formats.get(kind="gguf").path
    broken = MODELS / "broken.gguf"
    data = bytearray(whole.read_bytes())
    # In Q4_1 two half floats stand before the values of a block; of these scales come no numbers.
    half = len(data) // 2
    data[half : half + 20000] = b"\xff" * 20000
    broken.write_bytes(data)
    row = next(one for one in catalogue.scan(model.team) if one.name == "broken")
    job = _run(quantise.request(row, "Q4_0", "", None))
    assert job.state == Job.State.FAILED and "holds values that are no numbers" in job.error
    assert [one.pk for one in quantise.failed(row)] == [job.pk]
    assert _nothing_left()


# Asked for and refused


def test_a_double_click_makes_one_and_another_name_another(client: Client, user: User, model: Model) -> None:
    client.force_login(user)
    for _ in range(2):
        assert _post(client, model, "Q8_0").status_code == 302
    assert Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL).count() == 1
    assert _post(client, model, "Q8_0", "another").status_code == 302
    assert Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL).count() == 2
    clash = _post(client, model, "Q4_0", "another")
    assert clash.status_code == 422 and "another is on its way already" in clash.content.decode()


def test_what_cannot_be_is_refused_beside_its_field(
    client: Client, user: User, model: Model, settings: Any
) -> None:
    client.force_login(user)
    (MODELS / "taken").mkdir()
    for method, name, words in [
        ("Q8_0", "taken", "taken is taken"),
        ("Q8_0", "../out", "A name has letters"),
        ("Q9_9", "fine", "Q9_9 is no way to quantise it here"),
        ("", "fine", "Nothing is no way"),
        ("W4A16", "fine", "rows of 576 values"),
    ]:
        if method == "W4A16":
            real_engines.demo("safetensors")
        answer = _post(client, model, method, name)
        page = answer.content.decode()
        assert answer.status_code == 422 and words in page, method
        assert f'name="name" value="{name}"' in page, "what was typed stays"
    settings.DISK_FREE = 1.0
    assert "The disk is too full" in _post(client, model, "Q8_0").content.decode()
    settings.DISK_FREE, settings.TEAM_QUOTA_GB = 0.0, 0.1
    assert "own models may take" in _post(client, model, "Q8_0").content.decode()
    assert not Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL).exists()


def test_viewers_and_strangers_make_and_cancel_nothing(
    client: Client, user: User, stranger: User, model: Model
) -> None:
    job = quantise.request(model, "Q8_0", "", user)
    cancel = reverse("model-quantise-cancel", args=[model.pk, job.pk])
    client.force_login(stranger)
    assert _post(client, model, "Q4_0").status_code == 404
    assert client.post(cancel).status_code == 404
    assert client.get(reverse("model-quantising", args=[model.pk])).status_code == 404
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    client.force_login(user)
    assert _post(client, model, "Q4_0").status_code == 403
    assert client.post(cancel).status_code == 403
    page = client.get(reverse("model", args=[model.pk])).content.decode()
    assert "Quantising needs the role of operator" in page
    assert Job.objects.get(kind=Job.Kind.QUANTISE_MODEL).state == Job.State.QUEUED


def test_while_it_is_made_its_parent_stays(model: Model) -> None:
    quantise.request(model, "Q8_0", "child", None)
    kept = [use for use in removal.uses(model) if use.keeps]
    assert [(use.what, use.name) for use in kept] == [("model being made from it", "child")]


def test_another_team_has_names_of_its_own(stranger: User, model: Model) -> None:
    mine = _run(quantise.request(model, "Q4_0", "", None))
    other = stranger.memberships.get().team
    theirs = _run(quantise.request(catalogue.demo(other), "Q4_0", "", stranger))
    assert (mine.state, theirs.state) == (Job.State.DONE, Job.State.DONE), mine.error + theirs.error
    assert theirs.arguments["name"] == "SmolLM2-135M-Instruct-Q4_0-2"
    names = {one.name for one in catalogue.scan(other)}
    assert "SmolLM2-135M-Instruct-Q4_0" not in names, "what a team made is its own"


def test_a_type_that_is_there_already_wants_a_name(model: Model) -> None:
    _run(quantise.request(model, "Q4_0", "", None))
    with pytest.raises(quantise.QuantiseRefused, match="is that already"):
        quantise.request(model, "Q4_0", "", None)


def test_the_shell_makes_one_and_lists_the_ways(model: Model) -> None:
    out = StringIO()
    call_command("quantise", model.name, stdout=out)
    assert "Q4_K_M" in out.getvalue() and "105.5 MB" in out.getvalue()
    call_command("quantise", model.name, "--type", "Q4_0", "--name", "by-shell", stdout=out)
    assert "by-shell  queued" in out.getvalue()
    job = Job.objects.get(kind=Job.Kind.QUANTISE_MODEL)
    assert job.arguments["name"] == "by-shell"


def test_parent_and_child_open_side_by_side(client: Client, user: User, model: Model) -> None:
    child = Model.objects.create(team=model.team, name="child", source="local:child", parent=model)
    client.force_login(user)
    place = reverse("model-compare", args=[child.pk])
    assert client.post(place)["Location"].endswith(f"/models/{child.pk}/#quantise"), "neither runs"
    for row, engine in [(model, "vllm"), (model, "llama.cpp"), (child, "llama.cpp")]:
        Deployment.objects.create(team=row.team, name=f"{row.name} {engine}", model=row, engine=engine)
    assert "Side by side" in client.get(reverse("model", args=[model.pk])).content.decode()
    for _ in range(2):
        assert client.post(place).status_code == 302
    chat = Conversation.objects.get()
    columns = list(chat.columns.select_related("deployment").order_by("position"))
    assert [one.deployment.name for one in columns if one.deployment] == [
        "SmolLM2-135M-Instruct llama.cpp",
        "child llama.cpp",
    ]
    assert pairs.parent(child) and client.get(reverse("conversation", args=[chat.pk])).status_code == 200


@pytest.mark.engines
def test_llm_compressor_makes_one_that_vllm_serves(model: Model) -> None:
    """Adds some 30 s where its environment is kept, else the minutes that installing it takes."""
    real_engines.demo("safetensors")
    kept = real_engines.CACHE / "tools"
    kept.mkdir(exist_ok=True)
    (HOME / "tools").symlink_to(kept)
    job = _run(quantise.request(model, "W8A8", "", None))
    assert job.state == Job.State.DONE, job.error + job.log_tail
    made = Model.objects.get(pk=job.result["model"])
    form = made.formats.get()
    way = ways.find(model, "W8A8")
    assert way and form.size_bytes == pytest.approx(way.size_bytes, rel=0.01)
    assert made.facts["quantisation"], "what its files are quantised by is read"
    assert json.loads((MODELS / form.path / "config.json").read_text())["quantization_config"]
    with real_engines.running("vllm", catalogue.local(form), {"max_model_len": 512}) as live:
        assert _answer(live).strip()
        assert "quantization=compressed-tensors" in live.log.read_text(errors="replace")
