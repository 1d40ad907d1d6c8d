"""The arithmetic of memory estimates that adapters share.

Bytes over all GPUs together; knows the shape of models (`playground.shapes` says what is in `facts`), not of
engines. An adapter's `memory` is written with:

    weights_bytes(model, dtype="float16")              as converted while loading
    weights_bytes(model, quantisation="fp8")           as quantised while loading: embeddings and head stay
    cache = Cache(key=kv_dtype(model, given.dtype), split=given.tensor_parallel_size or 1, spare=2048)
    draft_bytes(model, 32_768, cache)                  (weights, KV cache) of the model that guesses ahead
    added(one, other)                                  None as soon as one is
    kv_cache_bytes(model, 32_768, cache)               of one request of that many tokens
    kv_cache_bytes(model, 32_768, replace(cache, requests=4))
    kv_cache_tokens(model, free, cache)                the most tokens that fit into so many bytes
    missing(model, context)                            names of what is not known, for Estimate.unknown

Each gives None where something is not known; None is shown as such and never guessed. The largest context and
the number of GPUs are not an adapter's business: `fitting` finds them by asking `memory` again with the
options that `Engine.context_option` and `Engine.split_options` name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .base import LocalModel

MIB = 1 << 20
GIB = 1 << 30

# Bytes of one value in a KV cache. llama.cpp's block types hold 32 values and a scale or two.
KV_BYTES: Mapping[str, float] = {
    "f32": 4,
    "float32": 4,
    "f16": 2,
    "float16": 2,
    "half": 2,
    "bf16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
    "fp4_e2m1": 0.5 + 1 / 16,
    "nvfp4": 0.5 + 1 / 16,
    "fp8_per_token_head": 1 + 4 / 128,
    "int8_per_token_head": 1 + 4 / 128,
    "int4_per_token_head": 0.5 + 4 / 128,
}
DTYPE_BYTES: Mapping[str, float] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
    "int4": 0.5,
}
# Bits of one weight of a linear layer once an engine has quantised it while loading, scales included.
QUANTISED_BITS: Mapping[str, float] = {
    "fp8": 8,
    "fp8_per_tensor": 8,
    "fp8_per_channel": 8,
    "fp8_per_block": 8 + 32 / (128 * 128),
    "fbgemm_fp8": 8,
    "w8a8_fp8": 8,
    "int8": 8,
    "w8a8_int8": 8,
    "int8_per_channel_weight_only": 8,
    "experts_int8": 8,
    "bnb-8bit": 8,
    "bnb-4bit": 4 + 32 / 64,
    "bitsandbytes": 4 + 8 / 64 + 32 / (64 * 256),
    "int4": 4 + 16 / 128,
    "torchao": 4 + 32 / 128,
    "mxfp8": 8 + 8 / 32,
    "mxfp4": 4 + 8 / 32,
    "nvfp4": 4 + 8 / 16,
    "nvfp4_per_token": 4 + 8 / 16,
}
LARGEST_CONTEXT = 10_000_000


@dataclass(frozen=True)
class Cache:
    """How an engine keeps the keys and values of what it has read."""

    key: str = "float16"
    """Type of a key, one of KV_BYTES."""
    value: str = ""
    """Type of a value; empty is as the key."""
    requests: int = 1
    """At once, each of the whole length."""
    split: int = 1
    """GPUs that share each layer. Heads that do not divide are held more than once, MLA's one is by each."""
    spare: int = 0
    """Tokens a sliding layer holds beyond its window: what is read in one step."""
    slides: bool = True
    """False: a sliding layer keeps everything, as where the engine's windows are turned off."""
    latent: bool = True
    """False: MLA is kept as full keys and values of every head."""


def weights_bytes(model: LocalModel, dtype: str | None = None, quantisation: str | None = None) -> int | None:
    """Bytes of weights once loaded.

    By parameters where the engine converts or quantises, else the files' size. `quantisation` that only names
    what the files are already changes nothing.
    """
    stored = model.facts.get("quantisation") or ""
    count = _parameters(model)
    if quantisation in QUANTISED_BITS and not stored and count:
        kept = min(count, kept_parameters(model.facts))
        if quantisation == "experts_int8":
            kept = count - min(count, _experts(model.facts))
        plain = DTYPE_BYTES.get(dtype or "", 2)
        return int((count - kept) * QUANTISED_BITS[quantisation or ""] / 8 + kept * plain)
    if dtype in DTYPE_BYTES and not stored and count and dtype != model.dtype:
        return int(count * DTYPE_BYTES[dtype or ""])
    return model.size_bytes or _stored_bytes(model, count)


def kept_parameters(facts: Mapping[str, Any]) -> int:
    """Parameters that engines leave in 16 bits when they quantise: embeddings and the head."""
    embedding = int(facts.get("vocab_size") or 0) * int(facts.get("hidden_size") or 0)
    return embedding * (1 if facts.get("tied_embeddings") else 2) + int(facts.get("vision_parameters") or 0)


def _experts(facts: Mapping[str, Any]) -> int:
    """Parameters of experts, each of three matrices."""
    layers = int(facts.get("layers") or 0) - int(facts.get("dense_layers") or 0)
    each = int(facts.get("hidden_size") or 0) * int(facts.get("moe_intermediate_size") or 0)
    return layers * int(facts.get("experts") or 0) * 3 * each


def kv_dtype(model: LocalModel, dtype: str | None = None) -> str:
    """The type of keys and values that follows from that of the weights: what was given, else the model's."""
    for name in (dtype, model.facts.get("dtype"), model.dtype):
        if name in ("float32", "float16", "bfloat16"):
            return str(name)
    return "bfloat16"


def kv_cache_bytes(model: LocalModel, tokens: int | None, cache: Cache = Cache()) -> int | None:
    """What requests of `tokens` take; 0 for a model that keeps nothing of what it read."""
    found = _rates(model.facts, cache)
    if found is None or tokens is None:
        return None if not model.facts.get("encoder_only") else 0
    full, sliding, window, fixed = found
    one = full * tokens + sliding * min(tokens, window) + fixed
    return int(one * cache.requests)


def kv_cache_tokens(model: LocalModel, available: float, cache: Cache = Cache()) -> int | None:
    """The most tokens of one request that fit into `available` bytes; LARGEST_CONTEXT where nothing grows."""
    found = _rates(model.facts, cache)
    if found is None:
        return None
    full, sliding, window, fixed = found
    left = available / cache.requests - fixed
    if left < 0:
        return 0
    if not full + sliding:
        return LARGEST_CONTEXT
    short = left / (full + sliding)
    if short < window:
        return int(short)
    return min(LARGEST_CONTEXT, int((left - sliding * window) / full)) if full else LARGEST_CONTEXT


def draft_bytes(model: LocalModel, tokens: int | None, cache: Cache) -> tuple[int | None, int | None]:
    """(weights, keys and values) of the model that guesses ahead; nothing where there is none."""
    if model.draft is None:
        return 0, 0
    return weights_bytes(model.draft), kv_cache_bytes(model.draft, tokens, cache)


def added(*parts: int | None) -> int | None:
    """Their sum; None as soon as one is not known."""
    return None if None in parts else sum(part for part in parts if part is not None)


def missing(model: LocalModel, context: int | None) -> tuple[str, ...]:
    """What of a model is not known that an estimate needs, in words."""
    if model.facts.get("encoder_only"):
        return () if weights_bytes(model) else ("the size of the weights",)
    names = [] if weights_bytes(model) else ["the size of the weights"]
    names += [] if _rates(model.facts, Cache()) else ["the shape of the attention"]
    return (*names, *([] if context else ["the context length"]))


def kv_bytes_per_token(facts: Mapping[str, Any], key: str = "f16", value: str = "") -> float | None:
    """Bytes one more token takes while no window is full. None if unknown."""
    found = _rates(facts, Cache(key=key, value=value))
    return found[0] + found[1] if found else None


def context_that_fits(free_bytes: float, per_token: float) -> int:
    """The largest context, in tokens rounded down to 256, whose KV cache takes at most `free_bytes`."""
    return max(0, int(free_bytes / per_token) // 256 * 256)


def _rates(facts: Mapping[str, Any], cache: Cache) -> tuple[float, float, int, int] | None:
    """(bytes a token of layers that see everything, of layers that slide, tokens those hold, bytes of state).

    None where the shape is not known.
    """
    if facts.get("encoder_only"):
        return 0, 0, 0, 0
    layers = facts.get("attention_layers", facts.get("layers"))
    state = int(facts.get("state_bytes") or 0)
    if layers == 0:
        return 0, 0, 0, state
    per_layer = _layer_bytes(facts, cache)
    if not layers or per_layer is None:
        return None
    layers -= facts.get("shared_kv_layers") or 0
    window = facts.get("sliding_window")
    slide = min(layers, facts.get("sliding_layers") or 0) if window and cache.slides else 0
    wide = _layer_bytes(_full_shape(facts), cache) or per_layer
    return (layers - slide) * wide, slide * per_layer, (window or 0) + cache.spare, state


def _full_shape(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The shape of the layers that see everything, where it is not that of those that slide."""
    if not facts.get("full_head_dim"):
        return facts
    return {
        **facts,
        "head_dim": facts["full_head_dim"],
        "v_head_dim": facts["full_head_dim"],
        "kv_heads": facts.get("full_kv_heads") or facts.get("kv_heads"),
    }


def _layer_bytes(facts: Mapping[str, Any], cache: Cache) -> float | None:
    """Bytes of one token in one layer, over all GPUs."""
    key, value = KV_BYTES[cache.key], KV_BYTES[cache.value or cache.key]
    rank, rope = facts.get("kv_lora_rank"), facts.get("qk_rope_head_dim") or 0
    if rank and cache.latent:
        # An indexer's keys (DeepSeek 3.2) are kept beside it in fp8, with a scale of 4 bytes for each 128.
        return cache.split * ((rank + rope) * key + (facts.get("index_head_dim") or 0) * 132 / 128)
    heads, size = facts.get("kv_heads"), facts.get("head_dim")
    if not (heads and size):
        return None
    held = cache.split * -(-heads // cache.split)
    return float(held * (size * key + (facts.get("v_head_dim") or size) * value))


def _parameters(model: LocalModel) -> int | None:
    """By the model's files; those of packed weights say nothing of their number, its shape does."""
    worked_out = model.facts.get("parameters")
    return worked_out if model.facts.get("quantisation") and worked_out else model.parameters or worked_out


def _stored_bytes(model: LocalModel, count: int | None) -> int | None:
    """Bytes of weights as they are stored, by their number and type."""
    if not count:
        return None
    plain = DTYPE_BYTES.get(model.facts.get("dtype") or model.dtype, 2)
    bits = model.facts.get("quant_bits")
    if not bits or not model.facts.get("quantisation"):
        return int(count * plain)
    kept = min(count, model.facts.get("quant_kept", kept_parameters(model.facts)))
    return int((count - kept) * (model.facts.get("weight_bits") or bits) / 8 + kept * min(plain, 2))
