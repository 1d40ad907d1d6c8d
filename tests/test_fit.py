"""What models take, worked out from their configurations: a table of real ones, then each engine's own rules.

The bytes in the table are worked out in the comments, from the models' published numbers of weights and sizes
of files, never by the code under test.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from playground import engines, gguf, gguf_shapes, shapes
from playground.engines.base import Gpu, Hardware, LocalModel
from playground.engines.estimates import Cache, kv_cache_bytes, kv_cache_tokens, missing, weights_bytes
from tests import fit_configs as of

GIB = 1 << 30
MIB = 1 << 20
CPU = Hardware(cores=2, memory_bytes=32 * GIB)
H100 = Gpu(0, "H100", 80 * GIB)
ONE = Hardware(cores=16, memory_bytes=256 * GIB, gpus=(H100,))


def gpus(count: int) -> Hardware:
    return replace(ONE, gpus=tuple(replace(H100, index=index) for index in range(count)))


def model(config: of.Config, kind: str = "safetensors", **more: Any) -> LocalModel:
    """As the catalogue has one whose files are not here: by its configuration alone."""
    values: dict[str, Any] = {
        "facts": shapes.from_config(config),
        "context_length": shapes.context_length(config),
    }
    return LocalModel(name="m", path=Path("/models/m"), kind=kind, **values | more)


@dataclass(frozen=True)
class Row:
    """`weights` as published; `cache` of one request of `tokens`, keys and values in 16 bits."""

    config: of.Config
    weights: int
    tokens: int
    cache: int
    within: float = 0.01


TABLE = {
    # Dense, grouped queries. 8,030,261,248 weights x 2 bytes.
    # A token: 32 layers x 8 heads x 128 x 2 (key, value) x 2 bytes = 131,072.
    "Llama-3.1-8B": Row(of.LLAMA_31_8B, 16_060_522_496, 8192, 131_072 * 8192),
    # 1,235,814,400 x 2, the head is the embeddings. 16 x 8 x 64 x 4 = 32,768 a token.
    "Llama-3.2-1B": Row(of.LLAMA_32_1B, 2_471_628_800, 8192, 32_768 * 8192),
    # 70,553,706,496 x 2. 80 x 8 x 128 x 4 = 327,680 a token.
    "Llama-3.3-70B": Row(of.LLAMA_33_70B, 141_107_412_992, 131_072, 327_680 * 131_072),
    # Every head has keys of its own: 32 x 32 x 128 x 4 = 524,288 a token. 6,738,415,616 x 2.
    "Llama-2-7B": Row(of.LLAMA_2_7B, 13_476_831_232, 4096, 524_288 * 4096),
    # 14,659,507,200 x 2. 40 x 10 x 128 x 4 = 204,800 a token.
    "phi-4": Row(of.PHI_4, 29_319_014_400, 16_384, 204_800 * 16_384),
    # 7,615,616,512 x 2. Its window is turned off. 28 x 4 x 128 x 4 = 57,344 a token.
    "Qwen2.5-7B": Row(of.QWEN_25_7B, 15_231_233_024, 32_768, 57_344 * 32_768),
    # 8,190,735,360 x 2. 36 x 8 x 128 x 4 = 147,456 a token.
    "Qwen3-8B": Row(of.QWEN_3_8B, 16_381_470_720, 40_960, 147_456 * 40_960),
    # Heads are wider than the model: 16 x 128 of 1024. 596,049,920 x 2. 28 x 8 x 128 x 4 = 114,688.
    "Qwen3-0.6B": Row(of.QWEN_3_06B, 1_192_099_840, 8192, 114_688 * 8192),
    # One head for keys, though the file names none: 32 x 1 x 64 x 4 = 8,192 a token. 6,921,720,704 x 2.
    "falcon-7b": Row(of.FALCON_7B, 13_843_441_408, 2048, 8192 * 2048),
    # Names of its own: 12 x 12 x 64 x 4 = 36,864 a token. 124,439,808 x 2, positions among them.
    "gpt2": Row(of.GPT_2, 248_879_616, 1024, 36_864 * 1024),
    # Sliding windows. Every layer sees 4,096 tokens: 131,072 x 4096, however long. 7,241,732,096 x 2.
    "Mistral-7B-v0.1": Row(of.MISTRAL_7B, 14_483_464_192, 32_768, 131_072 * 4096),
    # 30 x 2 x 128 x 4 = 30,720 a token, of 4,096. 3,030,371,328 x 2.
    "starcoder2-3b": Row(of.STARCODER_2_3B, 6_060_742_656, 16_384, 30_720 * 4096),
    # Every second layer slides: 21 x 8 x 256 x 4 = 172,032 a token each way; 8192 and 4096 of them.
    # 9,241,705,984 x 2.
    "gemma-2-9b": Row(of.GEMMA_2_9B, 18_483_411_968, 8192, 172_032 * (8192 + 4096)),
    # Three of four slide: 8 layers x 4,096 bytes x 32,768 + 24 x 4,096 x 4,096. 8,028,033,024 x 2.
    "c4ai-command-r7b": Row(of.COMMAND_R7B, 16_056_066_048, 32_768, 4096 * (8 * 32_768 + 24 * 4096)),
    # Vision: a tower of 0.4 B beside 27.0 B, 27,432,406,640 x 2 together. Of 62 layers every sixth sees all:
    # 10 x 8,192 bytes x 32,768 + 52 x 8,192 x 1,024.
    "gemma-3-27b-it": Row(of.GEMMA_3_27B, 54_864_813_280, 32_768, 8192 * (10 * 32_768 + 52 * 1024)),
    # Vision: 8,292,166,656 x 2; its tower has a gate more than we count. The text is Qwen2.5's.
    "Qwen2.5-VL-7B": Row(of.QWEN_25_VL_7B, 16_584_333_312, 8192, 57_344 * 8192, 0.03),
    # Mixtures: all experts lie in memory. 46,702,792,704 x 2. Attention as Mistral's, without a window.
    "Mixtral-8x7B": Row(of.MIXTRAL_8X7B, 93_405_585_408, 32_768, 131_072 * 32_768),
    # 30,532,122,624 x 2. 48 x 4 x 128 x 4 = 98,304 a token.
    "Qwen3-30B-A3B": Row(of.QWEN_3_30B_A3B, 61_064_245_248, 40_960, 98_304 * 40_960),
    # 108,641,793,536 x 2 with its tower. 12 layers see all, 36 chunks of 8,192: 4,096 bytes a token each.
    "Llama-4-Scout": Row(of.LLAMA_4_SCOUT, 217_283_587_072, 32_768, 4096 * (12 * 32_768 + 36 * 8192)),
    # Latent attention: (512 + 64) x 2 bytes a layer, whatever the heads: 27 x 1,152 = 31,104 a token.
    # 15,706,484,224 x 2.
    "DeepSeek-V2-Lite": Row(of.DEEPSEEK_V2_LITE, 31_412_968_448, 32_768, 31_104 * 32_768),
    # 61 x 1,152 = 70,272 a token. 671,026,419,200 weights in 8 bits, embeddings and head (1,853,358,080) in
    # 16: 672,879,777,280; the draft layer that lies beside them in its files is not loaded.
    "DeepSeek-V3": Row(of.DEEPSEEK_V3, 672_879_777_280, 163_840, 70_272 * 163_840),
    # Files quantised, by the sizes of the files. MXFP4 experts: 13,761,264,768 bytes.
    # 12 layers see all, 12 see 128: 8 x 64 x 4 = 2,048 bytes a token each.
    "gpt-oss-20b": Row(of.GPT_OSS_20B, 13_761_264_768, 131_072, 2048 * 12 * (131_072 + 128)),
    # 65,248,815,744 bytes; 18 and 18 layers.
    "gpt-oss-120b": Row(of.GPT_OSS_120B, 65_248_815_744, 131_072, 2048 * 18 * (131_072 + 128)),
    # 5.73 GB: 6.98 G weights in 4 bits and 20 for each 128 of them, 1.05 G of embeddings and head in 16.
    "Llama-3.1-8B-AWQ": Row(of.LLAMA_31_8B_AWQ, 5_730_000_000, 8192, 131_072 * 8192),
    # 5.58 GB: 6.53 G in 4 bits, 1.09 G in 16.
    "Qwen2.5-7B-GPTQ-Int4": Row(of.QWEN_25_7B_GPTQ, 5_580_000_000, 8192, 57_344 * 8192),
    # 9.08 GB: 6.98 G in 8 bits, 1.05 G in 16.
    "Llama-3.1-8B-FP8": Row(of.LLAMA_31_8B_FP8, 9_080_000_000, 8192, 131_072 * 8192),
    # 5.70 GB: NF4 whose scales are quantised too; we count them plain.
    "Llama-3.1-8B-bnb-4bit": Row(of.LLAMA_31_8B_BNB, 5_700_000_000, 8192, 131_072 * 8192, 0.03),
    # Encoders keep nothing of what they read. 22,713,216 x 4 bytes.
    "all-MiniLM-L6-v2": Row(of.MINILM_L6, 90_852_864, 512, 0),
    # 567,754,752 x 4.
    "bge-m3": Row(of.BGE_M3, 2_271_019_008, 8192, 0),
    # A language model that embeds keeps what it reads: 114,688 a token. 595,776,512 x 2.
    "Qwen3-Embedding-0.6B": Row(of.QWEN_3_EMBEDDING, 1_191_553_024, 32_768, 114_688 * 32_768),
    # Hybrids: 12 of 48 layers have keys: 12 x 2 x 256 x 4 = 24,576 a token; the other 36 a state each of
    # 32 x 128 x 128 x 4 bytes and 3 x (2 x 16 x 128 + 32 x 128) x 2 of its window. 79,674,391,296 x 2.
    "Qwen3-Next-80B-A3B": Row(
        of.QWEN_3_NEXT_80B, 159_348_782_592, 262_144, 24_576 * 262_144 + 36 * (2_097_152 + 49_152)
    ),
    # No keys at all: 64 layers x (8,192 x 16 x 4 + 4 x 8,192 x 2), at any length. 7,272,665,088 x 2.
    "falcon-mamba-7b": Row(of.FALCON_MAMBA_7B, 14_545_330_176, 100_000, 64 * (524_288 + 65_536)),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_real_models_take_what_they_are_known_to_take(row: Row) -> None:
    one = model(row.config)
    assert weights_bytes(one) == pytest.approx(row.weights, rel=row.within)
    assert kv_cache_bytes(one, row.tokens) == row.cache
    assert missing(one, row.tokens) == ()


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_as_many_tokens_fit_as_the_bytes_were_reckoned_for(row: Row) -> None:
    """The inverse: exact where every token counts; where a window or a state is full, at least as many."""
    held = kv_cache_tokens(model(row.config), row.cache)
    assert held is not None and held >= row.tokens
    facts = shapes.from_config(row.config)
    if row.cache and not facts.get("sliding_layers") and not facts.get("state_bytes"):
        assert held == row.tokens


def test_what_a_configuration_does_not_say_is_named() -> None:
    bare = LocalModel(name="m", path=Path("/m"), kind="safetensors")
    assert missing(bare, None) == (
        "the size of the weights",
        "the shape of the attention",
        "the context length",
    )
    for name in ("llama.cpp", "transformers", "vllm"):
        adapter = engines.get(name)
        assert adapter.memory(bare, adapter.Options(), ONE).total is None


def header(architecture: str, **values: Any) -> gguf.Header:
    """A GGUF header of these values; __ stands for the dots in llama.cpp's names."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    return gguf.Header({"general.architecture": architecture, **named}, {}, 0, "Q4_K")


# The same models as llama.cpp has them, and bytes a request of 32,768 tokens keeps.
HEADERS = {
    # 36 x 8 x 128 x 4 a token.
    "Qwen3-8B": (
        {"block_count": 36, "attention__head_count": 32, "attention__head_count_kv": 8}
        | {"attention__key_length": 128, "attention__value_length": 128, "embedding_length": 4096},
        "qwen3",
        147_456 * 32_768,
    ),
    # Which layers slide is left to the program that reads it: every sixth sees all.
    "gemma-3-27b": (
        {"block_count": 62, "attention__head_count": 32, "attention__head_count_kv": 16}
        | {"attention__key_length": 128, "attention__value_length": 128, "attention__sliding_window": 1024},
        "gemma3",
        8192 * (10 * 32_768 + 52 * 1024),
    ),
    # A window in a file whose program does not use it is none.
    "Mistral-7B": (
        {"block_count": 32, "attention__head_count": 32, "attention__head_count_kv": 8}
        | {"embedding_length": 4096, "attention__sliding_window": 4096},
        "llama",
        131_072 * 32_768,
    ),
    # One narrow vector: 27 x (512 + 64) x 2 a token.
    "DeepSeek-V2-Lite": (
        {"block_count": 27, "attention__head_count": 16, "attention__head_count_kv": 1}
        | {"attention__key_length": 576, "attention__value_length": 512, "attention__key_length_mla": 192}
        | {"attention__kv_lora_rank": 512, "rope__dimension_count": 64},
        "deepseek2",
        31_104 * 32_768,
    ),
    # Four of 40 layers have keys, 8 heads of 128; 36 a state in 32 bits: 3 x (3,072 + 2 x 128) + 3,072 x 128.
    "granite-4.0-h": (
        {"block_count": 40, "attention__head_count": 32, "embedding_length": 4096}
        | {"attention__head_count_kv": ([0] * 9 + [8]) * 4}
        | {"ssm__inner_size": 3072, "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__group_count": 1},
        "granitehybrid",
        4 * 8 * 128 * 4 * 32_768 + 36 * 4 * (3 * (3072 + 256) + 3072 * 128),
    ),
}


@pytest.mark.parametrize(("values", "architecture", "cache"), HEADERS.values(), ids=HEADERS.keys())
def test_a_gguf_header_tells_the_same(values: dict[str, Any], architecture: str, cache: int) -> None:
    facts = gguf_shapes.of_header(header(architecture, **values))
    one = LocalModel(name="m", path=Path("/m"), kind="gguf", size_bytes=1, facts=facts)
    assert kv_cache_bytes(one, 32_768) == cache


# The engines' own rules


def memory(engine: str, one: LocalModel, hardware: Hardware, **options: Any) -> Any:
    adapter = engines.get(engine)
    return adapter.memory(one, adapter.Options.model_validate(options), hardware)


def test_the_type_of_the_cache_changes_what_it_takes() -> None:
    llama, context = model(of.LLAMA_31_8B, "gguf", size_bytes=4_920_000_000), 32_768
    # q8_0 holds 32 values in 34 bytes, q4_0 in 18.
    assert memory("llama.cpp", llama, CPU, context=context).kv_cache == 131_072 * context
    q8 = memory("llama.cpp", llama, CPU, context=context, cache_type_k="q8_0", cache_type_v="q8_0")
    assert q8.kv_cache == 131_072 * context * 34 // 64
    mixed = memory("llama.cpp", llama, CPU, context=context, cache_type_v="q4_0")
    assert mixed.kv_cache == 65_536 * context + 65_536 * context * 18 // 64
    qwen = model(of.QWEN_3_8B)
    fp8 = memory("vllm", qwen, ONE, max_model_len=8192, kv_cache_dtype="fp8")
    assert fp8.kv_cache == memory("vllm", qwen, ONE, max_model_len=8192).kv_cache // 2


def test_quantising_while_loading_leaves_embeddings_and_head() -> None:
    # Of 8,190,427,136 weights 2 x 151,936 x 4,096 = 1,244,659,712 stay in 16 bits: the rest is a byte each.
    plain, quantised = (memory("vllm", model(of.QWEN_3_8B), ONE, quantization=q) for q in (None, "fp8"))
    assert plain.weights - quantised.weights == 8_190_427_136 - 1_244_659_712
    # A name that only says what the files are changes nothing.
    awq = model(of.LLAMA_31_8B_AWQ)
    assert memory("vllm", awq, ONE, quantization="awq").weights == memory("vllm", awq, ONE).weights
    four = memory("transformers", model(of.QWEN_3_8B), ONE, quantization="bnb-4bit").weights
    assert four == pytest.approx((8_190_427_136 - 1_244_659_712) * 4.5 / 8 + 1_244_659_712 * 2, rel=0.001)
    # Experts alone: 48 layers x 128 x 3 x 2,048 x 768 of them.
    mixture = model(of.QWEN_3_30B_A3B)
    plain, experts = (memory("vllm", mixture, ONE, quantization=q) for q in (None, "experts_int8"))
    assert plain.weights - experts.weights == 48 * 128 * 3 * 2048 * 768


def test_more_gpus_share_heads_and_hold_those_twice_that_do_not_divide() -> None:
    # 8 heads for keys on 2 GPUs lie once; on 16 each lies twice. A latent vector lies on each.
    for config, split, times in ((of.LLAMA_33_70B, 2, 1), (of.LLAMA_33_70B, 16, 2), (of.DEEPSEEK_V3, 8, 8)):
        one = model(config)
        spread = kv_cache_bytes(one, 4096, Cache(split=split))
        assert spread == times * (kv_cache_bytes(one, 4096) or 0)


def test_vllm_takes_its_share_and_tells_what_does_not_go() -> None:
    # 0.92 x 80 GiB, less 16.38 GB of weights and 2 GiB, holds 147,456 bytes a token.
    fits = memory("vllm", model(of.QWEN_3_8B), ONE)
    assert not fits.trouble and fits.limit == int(80 * GIB * 0.92)
    assert fits.kv_tokens == (fits.limit - fits.weights - fits.overhead) // 147_456
    assert fits.at_once == fits.kv_tokens // 40_960 == 10
    # 141 GB of weights are more than one GPU, or the share of two, has for a whole context of 131,072.
    huge = model(of.LLAMA_33_70B)
    assert "would not hold one request" in memory("vllm", huge, ONE).trouble
    assert memory("vllm", huge, gpus(4), tensor_parallel_size=4).trouble == ""
    short = memory("vllm", huge, gpus(2), tensor_parallel_size=2)
    assert "lower the context to 3" in short.trouble
    assert (
        "cannot be shared by 3 GPUs: take 1, 2, 4, 8 or 16"
        in memory("vllm", huge, gpus(3), tensor_parallel_size=3).trouble
    )
    assert (
        "made for a context of 40,960"
        in memory("vllm", model(of.QWEN_3_8B), ONE, max_model_len=10_000_000).trouble
    )
    # Two copies of everything.
    twice = memory("vllm", model(of.QWEN_3_8B), gpus(2), data_parallel_size=2)
    assert (twice.weights, twice.kv_cache, twice.gpus) == (2 * fits.weights, 2 * fits.kv_cache, 2)


def test_vllm_on_a_cpu_sets_aside_what_is_named_and_one_request_must_fit() -> None:
    # 1 GiB / 147,456 bytes a token. A context that nobody named is cut to that, a named one is not.
    small = memory("vllm", model(of.QWEN_3_8B), CPU)
    assert (small.kv_cache, small.kv_tokens, small.context, small.trouble) == (GIB, 7281, 7281, "")
    small = memory("vllm", model(of.QWEN_3_8B), CPU, max_model_len=40_960)
    assert small.trouble.endswith("lower the context to 7,168, or set 5.6 GiB aside for it.")
    assert not memory("vllm", model(of.QWEN_3_8B), CPU, kv_cache_gib=6).trouble
    # What embeds and keeps nothing sets nothing aside; 32-bit weights are cut to 16.
    bert = memory("vllm", model(of.MINILM_L6), CPU)
    assert (bert.kv_cache, bert.trouble) == (0, "")
    assert bert.weights == pytest.approx(22_713_216 * 2, rel=0.01)


def test_llamacpp_keeps_the_windows_of_all_its_requests_and_a_state_for_each() -> None:
    # gemma-3-27b: 10 layers of 32,768; 52 of 4 windows and a micro-batch. 16 heads x 128 x 4 bytes.
    gemma = model(of.GEMMA_3_27B, "gguf", size_bytes=17_000_000_000)
    windows = memory("llama.cpp", gemma, CPU, context=32_768).kv_cache
    assert windows == 8192 * (10 * 32_768 + 52 * (4 * 1024 + 512))
    whole = memory("llama.cpp", gemma, CPU, context=32_768, swa_full=True).kv_cache
    assert whole == 8192 * 62 * 32_768
    # The context is divided where it is not shared: the same bytes, a quarter for each.
    llama = model(of.LLAMA_31_8B, "gguf", size_bytes=4_920_000_000)
    divided = memory("llama.cpp", llama, CPU, context=8192, kv_unified=False)
    assert (divided.kv_cache, divided.context, divided.kv_tokens) == (131_072 * 8192, 2048, 8192)
    mamba = model(of.FALCON_MAMBA_7B, "gguf", size_bytes=4_000_000_000, context_length=4096)
    assert memory("llama.cpp", mamba, CPU, parallel=2).kv_cache == 2 * 64 * (524_288 + 65_536)


# What llama.cpp 2026.10 said of SmolLM2-135M (hidden 576, inner 1536, 9 heads, 49,152 words): its compute and
# output buffers in MiB, for a context, a micro-batch, and flash attention or not.
BUFFERS = [
    ({"context": 1024}, 15.64 + 0.75),
    ({"context": 8192}, 22.64 + 0.75),
    ({"context": 65_536}, 78.64 + 0.75),
    ({"context": 8192, "micro_batch": 1024}, 45.29 + 0.75),
    ({"context": 8192, "flash_attention": "off"}, 167.51 + 0.75),
]


@pytest.mark.parametrize(("options", "said"), BUFFERS)
def test_llamacpp_s_buffers_are_what_it_says(options: dict[str, Any], said: float) -> None:
    facts = {"layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "hidden_size": 576}
    facts |= {"intermediate_size": 1536, "vocab_size": 49_152}
    smol = LocalModel(name="m", path=Path("/m"), kind="gguf", size_bytes=98_362_432, facts=facts)
    told = memory("llama.cpp", smol, CPU, **options)
    assert (told.overhead - told.later - 120 * MIB) / MIB == pytest.approx(said, rel=0.1)


def test_transformers_keeps_full_keys_of_latent_attention_and_grows_as_it_answers() -> None:
    # 27 layers x 16 heads x (192 + 128) x 2 bytes.
    told = memory("transformers", model(of.DEEPSEEK_V2_LITE), ONE)
    assert (told.kv_cache, told.grows) == (27 * 16 * 320 * 2 * 163_840, True)
    blocks = memory(
        "transformers",
        model(of.QWEN_3_8B),
        ONE,
        continuous_batching=True,
        cb_num_blocks=16,
        cb_block_size=256,
    )
    assert (blocks.kv_cache, blocks.kv_tokens, blocks.grows) == (147_456 * 4096, 4096, False)


def test_a_draft_model_is_counted_too() -> None:
    qwen = model(of.QWEN_3_8B, draft=model(of.QWEN_3_06B))
    alone = memory("vllm", replace(qwen, draft=None), ONE, max_model_len=4096)
    both = memory("vllm", qwen, ONE, max_model_len=4096, draft_model=1)
    assert both.weights - alone.weights == weights_bytes(model(of.QWEN_3_06B))
    assert both.kv_cache - alone.kv_cache == 114_688 * 4096


# What engines say of themselves


LOGS = [
    (
        "vllm",
        [
            "INFO gpu_model_runner.py:5150] Model loading took 15.27 GiB memory and 3.2 seconds",
            "INFO gpu_worker.py:760] Available KV cache memory: 54.1 GiB",
            "INFO kv_cache_utils.py:2328] GPU KV cache size: 393,936 tokens, Maximum concurrency …",
        ],
        (int(15.27 * GIB), int(54.1 * GIB), 393_936),
    ),
    (
        "llama.cpp",
        [
            "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB",
            "llama_kv_cache:        CPU KV buffer size =    22.50 MiB",
            "srv    load_model: initializing, n_slots = 4, n_ctx_slot = 1024, kv_unified = 'true'",
        ],
        (int(92.1 * MIB), int(22.5 * MIB), 1024),
    ),
    ("llama.cpp", ["initializing, n_slots = 4, n_ctx_slot = 1024, kv_unified = 'false'"], (None, None, 4096)),
    ("transformers", ["transformers: memory weights_bytes=269030016"], (269_030_016, None, None)),
    (
        "vllm",
        [
            "INFO cpu_worker.py:260] Explicitly set (0.25/21.21) GiB for KV cache on node 0.",
            "INFO kv_cache_utils.py:2327] CPU KV cache size: 11,648 tokens, Maximum concurrency for 1,024 …",
        ],
        (None, GIB // 4, 11_648),
    ),
    ("vllm", ["nothing of it"], (None, None, None)),
]


@pytest.mark.parametrize(("engine", "log", "said"), LOGS)
def test_what_an_engine_says_it_took_is_read_from_its_log(engine: str, log: list[str], said: Any) -> None:
    told = engines.get(engine).reported(log)
    assert (told.weights_bytes, told.kv_cache_bytes, told.kv_cache_tokens) == said
