"""The estimate where people meet it: on the Start form, in placement, and put right by what starts took."""

import re
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import advice, bars, engines, fitting, measured, reconcile, shapes, wants
from playground.engines.base import Estimate, ReasonCode, Reported
from playground.models import (
    Configuration,
    Deployment,
    EngineEnvironment,
    Model,
    ModelFormat,
    Node,
    Replica,
    Start,
    Team,
    User,
)
from playground.offers import Offer
from playground.reporter import Took
from tests import fit_configs as of

GIB = 1 << 30
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * GIB, "used_bytes": 1 * GIB}
CPU: dict[str, Any] = {"cores": 8, "memory_bytes": 32 * GIB, "memory_available_bytes": 24 * GIB}


@pytest.fixture
def page(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def node(**inventory: Any) -> Node:
    row, _ = Node.objects.update_or_create(
        name="n-1", defaults={"heartbeat_at": timezone.now(), "inventory": {**CPU, **inventory}}
    )
    return row


def gpu_node(count: int) -> Node:
    return node(gpus=[{**H100, "index": index} for index in range(count)])


def added(team: Team, config: of.Config | None, kind: str = "safetensors", size: int | None = None) -> Model:
    """A model as the Hub's page adds it, its files still there."""
    facts = shapes.from_config(config) if config else {}
    model = Model.objects.create(
        team=team,
        name="m",
        source=f"hub:org/m@{'a' * 40}",
        facts=facts,
        parameters=facts.get("parameters"),
        context_length=shapes.context_length(config) if config else None,
    )
    ModelFormat.objects.create(model=model, kind=kind, path="org/m", size_bytes=size, digest="d" * 64)
    return model


def offer(model: Model, engine: str, on: Node | None, **options: Any) -> Offer:
    return fitting.offer(model, engines.get(engine), options, on)


def advised(model: Model, engine: str, on: Node, **options: Any) -> advice.Advice:
    return advice.of(offer(model, engine, on, **options), options)


def shown(page: Client, model: Model, **typed: Any) -> str:
    """The form's preview as it is after that was typed, as one line of text."""
    html = page.post(reverse("model-form", args=[model.pk]), typed).content.decode()
    preview = html[html.index('id="preview"') : html.index('id="command"')]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", preview))


# In words, on the form


def test_the_form_tells_parts_room_and_the_largest_context(page: Client, team: Team) -> None:
    node()
    model = added(team, of.QWEN_3_8B, "gguf", 5 * GIB)
    text = shown(page, model, engine="llama.cpp")
    for said in (
        "Fits: needs",
        "n-1 has 24.0 GiB free",
        "Weights 5 GiB",
        "KV cache of 40,960 tokens 5.62 GiB",
        "Largest context that fits 40,960 all of it",
        "KV cache type of keys",
    ):
        assert said in text, said
    html = page.post(reverse("model-form", args=[model.pk]), {"engine": "llama.cpp"}).content.decode()
    assert 'role="img" aria-label="Used by others 8 GiB, Weights 5 GiB, KV cache 5.62 GiB' in html


@pytest.mark.parametrize(
    ("engine", "typed", "said"),
    [
        ("vllm", {"max_model_len": "1"}, "at least 16"),
        ("vllm", {"max_model_len": "10000000"}, "made for a context of 40,960"),
        ("vllm", {"tensor_parallel_size": "3"}, "cannot be shared by 3 GPUs: take 1, 2, 4, 8 or 16"),
        ("vllm", {"tensor_parallel_size": "4"}, "it takes 4 GPUs, n-1 has 2"),
        ("vllm", {}, "a KV cache of"),
        ("transformers", {}, "the emptiest GPU of n-1, H100 80GB HBM3, has 79.0 GiB free"),
    ],
)
def test_odd_wishes_get_a_sentence(
    page: Client, team: Team, engine: str, typed: dict[str, str], said: str
) -> None:
    gpu_node(2)
    model = added(team, of.QWEN_3_8B)
    options = {f"option.{name}": value for name, value in typed.items()}
    assert said in shown(page, model, engine=engine, **options)


def test_gpus_that_are_asked_for_and_not_used_or_not_there_are_told(page: Client, team: Team) -> None:
    gpu_node(2)
    model = added(team, of.QWEN_3_8B)
    assert "It would use 1 of the 2 GPUs." in shown(page, model, engine="vllm", gpus="2")
    assert "it takes 8 GPUs, n-1 has 2" in shown(page, model, engine="vllm", gpus="8")


def test_what_is_not_known_is_said_and_never_guessed(page: Client, team: Team) -> None:
    node()
    bare = added(team, None)
    text = shown(page, bare, engine="vllm")
    assert "what it needs is not known before its files are here" in text
    assert "Needs n/a" in text
    # A node without a figure of its memory, and none at all.
    silent = Node.objects.get()
    silent.inventory = {"cores": 8}
    model = added_again(bare, of.QWEN_3_8B)
    told = offer(model, "vllm", silent)
    assert told.fits is None and told.words.endswith("n-1 does not tell its memory.")
    assert bars.of(told) is None
    nowhere = offer(model, "vllm", None)
    assert nowhere.fits is None and "no node reports" in nowhere.words
    assert advice.of(nowhere, {}) == advice.Advice()


def added_again(model: Model, config: of.Config) -> Model:
    model.facts, model.context_length = shapes.from_config(config), shapes.context_length(config)
    model.parameters = model.facts["parameters"]
    model.save()
    return model


# What would fit


def test_the_largest_context_is_the_largest(team: Team) -> None:
    """One step more does not fit: 147,456 bytes a token of what the weights and the rest leave."""
    here = node(memory_available_bytes=9 * GIB)
    model = added(team, of.QWEN_3_8B, "gguf", 5 * GIB)
    found = advised(model, "llama.cpp", here).context
    assert found and found % advice.STEP == 0 and found < 40_960
    assert offer(model, "llama.cpp", here, context=found).fits
    assert offer(model, "llama.cpp", here, context=found + advice.STEP).fits is False
    assert f"a context of {found:,}" in advised(model, "llama.cpp", here).hint
    assert advised(model, "llama.cpp", node(memory_available_bytes=GIB)).context == 0


def test_the_fewest_gpus_are_those_its_heads_divide_by(team: Team) -> None:
    # 131 GiB of weights and 40 GiB for one whole context: two GPUs have no room for it, three no share.
    model = added(team, of.LLAMA_33_70B)
    found = advised(model, "vllm", gpu_node(4))
    assert (found.gpus, found.tensor) == (4, 4)
    assert "4 GPUs" in found.hint
    short = advised(model, "vllm", gpu_node(4), max_model_len=8192)
    assert (short.gpus, short.tensor) == (2, 2)
    assert advised(model, "vllm", gpu_node(1)).gpus == 0
    assert advised(model, "vllm", node(gpus=[])).gpus is None


def test_other_types_are_told_with_what_they_change(team: Team) -> None:
    model = added(team, of.QWEN_3_8B)
    effects = advised(model, "vllm", gpu_node(1)).effects
    fp8 = next(effect for effect in effects if "fp8" in effect.choices and effect.option == "Quantisation")
    # All but embeddings and head halves: (8,190,427,136 - 1,244,659,712) bytes less.
    assert fp8.change == -(8_190_427_136 - 1_244_659_712)
    assert any(effect.option == "KV cache type" and effect.change < 0 for effect in effects)
    # Files that are quantised already are not quantised again.
    model = added_again(model, of.LLAMA_31_8B_AWQ)
    assert {effect.option for effect in advised(model, "vllm", gpu_node(1)).effects} == {"KV cache type"}


# What starts took


def configuration(model: Model, engine: str, **options: Any) -> Configuration:
    environment, _ = EngineEnvironment.objects.get_or_create(
        engine=engine, version=engines.get(engine).versions["cpu"], digest="e" * 64
    )
    form = model.formats.get()
    return Configuration.objects.create(
        digest=f"{len(str(options)):064d}",
        canonical="{}",
        model=model,
        format=form,
        format_digest=form.digest,
        environment=environment,
        engine=engine,
        options=options,
    )


def started(of_: Configuration, on: Node, took: Took) -> Start:
    deployment = Deployment.objects.create(team=of_.model.team, name="d", model=of_.model, engine=of_.engine)
    replica = Replica.objects.create(deployment=deployment, node=on, configuration=of_)
    measured.record(replica.pk, took)
    return Start.objects.get(configuration=of_)


def test_what_the_last_start_took_corrects_what_is_shown(page: Client, team: Team) -> None:
    here = node()
    model = added(team, of.QWEN_3_8B, "gguf", 5 * GIB)
    took = Took(12.5, 11 * GIB, None, Reported(kv_cache_tokens=4096))
    started(configuration(model, "llama.cpp", context=4096), here, took)
    text = shown(page, model, engine="llama.cpp", **{"option.context": "4096"})
    assert "Measured at its last start on n-1" in text and "ready in 12.5 s, holding 11 GiB" in text
    # 11 GiB held, and 512 MiB more for prompts it will keep.
    assert "Needs 11.5 GiB" in text
    assert "Measured" not in shown(page, model, engine="llama.cpp", **{"option.context": "8192"})


def test_every_page_says_the_same_of_an_engine_that_was_measured(page: Client, team: Team) -> None:
    model = added(team, of.QWEN_3_8B, "gguf", 5 * GIB)
    started(configuration(model, "llama.cpp"), node(), Took(12.5, 11 * GIB, None, Reported()))
    alone, among = page.get(f"/models/{model.pk}/").text, page.get("/models/").text
    assert alone.count("needs 11.5 GiB") == 2, "beside the engine, and where its options are"
    assert "needs 11.5 GiB" in among


def test_a_cache_that_is_not_touched_yet_is_added_to_what_was_held() -> None:
    estimate = Estimate(weights=100, kv_cache=1000, overhead=50, grows=True, later=7)
    row = Start(ready_s=1, resident_bytes=180, weights_bytes=110)
    right = measured.corrected(estimate, row)
    assert (right.weights, right.kv_cache, right.overhead, right.total) == (110, 1000, 77, 1187)
    taken = measured.corrected(replace(estimate, grows=False), replace_start(row, resident_bytes=1200))
    assert (taken.overhead, taken.total) == (97, 1207)
    assert measured.corrected(estimate, None) is estimate


def test_a_share_of_memory_that_was_filled_is_not_what_is_needed() -> None:
    estimate = Estimate(weights=100, kv_cache=40, overhead=50, limit=900, kv_tokens=700)
    row = Start(ready_s=1, gpu_bytes=910, weights_bytes=104, kv_cache_bytes=770, kv_cache_tokens=690)
    right = measured.corrected(estimate, row)
    assert (right.kv_cache, right.overhead, right.total, right.takes) == (40, 36, 180, 900)
    assert right.kv_tokens == 690
    # Without the engine's word of its cache the rest cannot be told apart from it.
    assert measured.corrected(estimate, Start(ready_s=1, gpu_bytes=910)).overhead == 50


def replace_start(row: Start, **values: Any) -> Start:
    return Start(ready_s=row.ready_s, weights_bytes=row.weights_bytes, **values)


# Placement


def settled(model: Model, engine: str, **wanted: Any) -> Replica:
    row = Deployment.objects.create(
        team=model.team, name="d", model=model, engine=engine, wanted={"options": {}, **wanted}
    )
    reconcile.settle(row.pk)
    found = row.replicas.order_by("-pk").first()
    assert found is not None
    return found


def test_placement_refuses_with_what_it_needs_and_what_there_is(team: Team) -> None:
    gpu_node(2)
    model = added(team, of.LLAMA_33_70B)
    one = settled(model, "vllm")
    assert (one.state, one.reason_code) == (Replica.State.PENDING, ReasonCode.NO_ROOM)
    assert one.reason.startswith("It needs 1 GPU with 17")
    four = settled(model, "vllm", options={"tensor_parallel_size": 4, "max_model_len": 4096})
    assert four.reason.startswith("It needs 4 GPUs with") and "2 of 2 GPUs free" in four.reason


def test_placement_reserves_every_gpu_and_the_whole_share(team: Team) -> None:
    here = gpu_node(2)
    model = added(team, of.LLAMA_33_70B)
    row = Deployment.objects.create(
        team=team,
        name="d",
        model=model,
        engine="vllm",
        wanted={"options": {"tensor_parallel_size": 2, "max_model_len": 4096}},
    )
    want = wants.want(row, here)
    assert want is not None
    assert (want.gpus, want.memory_bytes) == (2, int(160 * GIB * 0.92))


def test_placement_goes_by_what_the_last_start_took(team: Team) -> None:
    here = node()
    model = added(team, of.QWEN_3_8B, "gguf", 5 * GIB)
    frozen = configuration(model, "llama.cpp", context=4096)
    row = Deployment.objects.create(
        team=team,
        name="d",
        model=model,
        engine="llama.cpp",
        configuration=frozen,
        wanted={"options": frozen.options},
    )
    before = wants.want(row, here)
    started(frozen, here, Took(3.0, 9 * GIB, None, Reported()))
    after = wants.want(row, here)
    assert before and after and after.memory_bytes == 9 * GIB + (512 << 20) != before.memory_bytes
