"""What differs between columns' effective requests, in words; and whence each value came. No engine."""

from typing import Any

import pytest

from playground import engines
from playground.effects_compared import prompts, words
from playground.looks import ASKED, FILE, OWN, TOLD, Look, Value, sampled

CONFIG = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 512}


def look(name: str, **more: Any) -> Look:
    given = {"rendered": "Hi", "token_ids": (1, 2)} | more
    return Look(name, **given)


def values(**given: tuple[Any, str]) -> dict[str, Value]:
    return {name: Value(*one) for name, one in given.items()}


def test_the_same_requests_have_nothing_to_tell() -> None:
    assert words([look("vLLM"), look("SGLang")]) == []
    assert words([look("vLLM")]) == words([]) == []


def test_a_default_of_the_model_s_file_is_told_beside_who_did_not_take_it() -> None:
    vllm = look("vLLM", sampled=values(temperature=(0.6, FILE)), reads_file=True)
    llama = look("llama.cpp", sampled=values(temperature=(0.8, OWN)), reads_file=False)
    assert words([vllm, llama]) == [
        "vLLM took temperature 0.6 from generation_config.json; "
        "llama.cpp did not: it took temperature 0.8, the engine's own default."
    ]
    both = [vllm, look("SGLang", sampled=vllm.sampled, reads_file=True), llama]
    assert words(both)[0].startswith("vLLM and SGLang took temperature 0.6")
    several = [vllm, llama, look("Fake", sampled=llama.sampled, reads_file=False)]
    assert "llama.cpp and Fake did not: they took temperature 0.8" in words(several)[0]


def test_what_an_engine_does_not_tell_is_said() -> None:
    told = look("llama.cpp", sampled=values(temperature=(0.8, OWN)), reads_file=False)
    assert words([told, look("SGLang", reads_file=True)]) == [
        "llama.cpp took temperature 0.8, the engine's own default; SGLang does not tell its temperature."
    ]
    three = words([told, look("SGLang"), look("Another")])
    assert three[0].endswith("; SGLang and Another do not tell their temperature.")


def test_parameters_asked_for_are_told_apart_from_defaults() -> None:
    asked = look("vLLM", sampled=values(temperature=(0.2, ASKED)))
    other = look("SGLang", sampled=values(temperature=(0.9, ASKED)))
    assert words([asked, other]) == [
        "vLLM was asked for temperature 0.2; SGLang was asked for temperature 0.9."
    ]
    default = look("SGLang", sampled=values(temperature=(1.0, TOLD)))
    assert words([asked, default]) == [
        "vLLM was asked for temperature 0.2; SGLang took temperature 1 by default."
    ]


def test_a_seed_that_was_not_asked_for_is_none() -> None:
    seeded = look("vLLM", sampled=values(seed=(7, ASKED)))
    assert words([seeded, look("Fake")]) == ["vLLM was asked for seed 7; Fake was asked for no seed."]


def test_what_does_nothing_is_no_difference() -> None:
    neutral = values(top_k=(0, OWN), typical_p=(1.0, OWN), presence_penalty=(0.0, OWN), max_tokens=(-1, OWN))
    assert words([look("llama.cpp", sampled=neutral), look("vLLM", sampled=values(top_k=(-1, OWN)))]) == []
    assert words([look("a", sampled=values(top_k=(0, OWN))), look("b", sampled=values(top_k=(40, OWN)))])


def test_ignored_and_unsent_parameters_are_named_with_who_took_them() -> None:
    body = {"seed": 1, "top_k": 4}
    vllm = look("vLLM", body=body)
    sglang = look("SGLang", body=body, ignored=("seed",))
    reference = look("transformers", body={"seed": 1}, refused=("top_k",))
    assert words([vllm, sglang, reference]) == [
        "SGLang ignored seed; vLLM and transformers took it.",
        "top_k was not sent to transformers, which refuses it; vLLM and SGLang took it.",
    ]


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        ({"token_ids": (7, 1, 2)}, {}, "A put token 7 before the prompt; B did not."),
        ({}, {"token_ids": (7, 1, 2)}, "B put token 7 before the prompt; A did not."),
        (
            {"token_ids": (1, 3)},
            {},
            "The same prompt is other tokens from token 2 on (3 / 2): they tokenise differently.",
        ),
        (
            {"rendered": "Hi you", "token_ids": (1, 9, 4)},
            {"rendered": "Hi me", "token_ids": (1, 8)},
            "Their prompts differ at token 2 (9 / 8): “you” in A, “me” in B.",
        ),
        (
            {"rendered": "Hi you", "token_ids": (1, 2, 4)},
            {"rendered": "Hi", "token_ids": (1, 2)},
            "Their prompts differ at token 3 (4 / its end): “␣you” in A, its end in B.",
        ),
        (
            {"rendered": "x", "token_ids": None},
            {"rendered": "y"},
            "Their prompts differ: “x” in A, “y” in B.",
        ),
        ({"token_ids": None}, {}, "n/a: the tokens of its prompt are not told by A."),
        (
            {"token_ids": None, "rendered": None},
            {"token_ids": None},
            "n/a: the tokens of its prompt are not told by A nor by B.",
        ),
        ({}, {}, ""),
    ],
)
def test_prompts_part_where_their_tokens_do(a: dict[str, Any], b: dict[str, Any], sentence: str) -> None:
    assert prompts(look("A", **a), look("B", **b)) == sentence


def test_what_else_is_not_the_same_is_listed() -> None:
    facts = {"model": "SmolLM2", "weights": "GGUF Q4_1", "version": "llama.cpp 1", "adapter": "none"}
    other = facts | {"weights": "safetensors BF16", "version": "vLLM 2", "adapter": "polite"}
    assert words([look("llama.cpp", facts=facts), look("vLLM", facts=other)]) == [
        "Weights: GGUF Q4_1 in llama.cpp; safetensors BF16 in vLLM.",
        "Adapter: none in llama.cpp; polite in vLLM.",
    ]
    older = facts | {"version": "llama.cpp 0"}
    assert words([look("A", facts=facts), look("B", facts=older | {"option threads": "2"})]) == [
        "Version: llama.cpp 1 in A; llama.cpp 0 in B.",
        "Option threads: unset in A; 2 in B.",
    ]


# Whence


@pytest.mark.parametrize(
    ("engine", "options", "taken"),
    [
        ("vllm", {}, {"temperature": 0.6, "top_p": 0.9, "max_tokens": 512}),
        ("vllm", {"generation_config": "vllm"}, None),
        ("sglang", {}, {"temperature": 0.6, "top_p": 0.9}),
        ("sglang", {"sampling_defaults": "openai"}, None),
        ("triton", {}, {"temperature": 0.6, "top_p": 0.9}),
        ("triton", {"sampling_defaults": "openai"}, None),
        ("transformers", {}, {"temperature": 0.6, "top_p": 0.9}),
        ("llama.cpp", {}, None),
        ("external", {}, None),
    ],
)
def test_each_engine_takes_its_own_part_of_the_model_s_file(
    engine: str, options: dict[str, Any], taken: dict[str, Any] | None
) -> None:
    assert engines.get(engine).model_defaults(CONFIG, options) == taken


def test_without_sampling_in_the_file_transformers_and_triton_take_the_likeliest() -> None:
    assert engines.get("transformers").model_defaults({}, {}) == {"temperature": 0}
    assert engines.get("triton").model_defaults({"do_sample": False}, {}) == {"temperature": 0}


def test_a_value_s_source_is_told_as_far_as_it_is_known() -> None:
    asked = Look("x", body={"temperature": 0.1, "seed": 3, "max_completion_tokens": 5}, ignored=("seed",))
    found = sampled(asked, {"top_p": 0.9, "top_k": 40}, {"top_p": 0.9, "min_p": 0.1}, True)
    assert found == values(
        temperature=(0.1, ASKED),
        max_tokens=(5, ASKED),
        top_p=(0.9, FILE),
        top_k=(40, OWN),
        min_p=(0.1, FILE),
    )
    assert sampled(Look("x"), {"top_p": 0.9}, None, True) == values(top_p=(0.9, TOLD))
    assert sampled(Look("x"), {"top_p": 0.9}, None, False) == values(top_p=(0.9, OWN))
    assert sampled(Look("x"), {"repeat_penalty": 1.1}, None, None) == values(repetition_penalty=(1.1, TOLD))


def test_log_probabilities_are_not_taken_from_whom_they_are_not_the_model_s_own() -> None:
    assert engines.get("llama.cpp").tells_logprobs({}).ok
    assert engines.get("vllm").tells_logprobs({}).ok
    assert not engines.get("vllm").tells_logprobs({"logprobs_mode": "processed_logprobs"}).ok
    assert engines.get("transformers").tells_logprobs({}).why == "transformers gives no log-probabilities."
    assert not engines.get("triton").tells_logprobs({}).ok
