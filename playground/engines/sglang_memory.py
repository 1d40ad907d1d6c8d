"""What SGLang takes: worked out before a start, and read from the log of one that got ready.

Its KV cache is a number of tokens over all requests: one that is named, on a CPU one context, on a GPU what
its share of the memory leaves.
"""

import re
from dataclasses import replace

from .base import Estimate, Hardware, LocalModel, Reported
from .estimates import (
    GIB,
    KV_BYTES,
    MIB,
    Cache,
    added,
    draft_bytes,
    kv_cache_bytes,
    kv_cache_tokens,
    kv_dtype,
    missing,
    weights_bytes,
)
from .sglang_options import KV_TOKENS_CPU, SglangOptions

# What its processes hold beside weights and KV cache, by their proportional share of pages: server,
# scheduler and detokenizer, each with Python, torch and transformers. Measured with a model of 257 MiB.
RESIDENT_CPU = 1900 * MIB
# Activations and CUDA graphs of a GPU's worker, which its share of the memory leaves out.
RESIDENT_GPU = 2 * GIB
SHARE = 0.85
STEP_GPU, STEP_CPU = 8192, 2048


def tokens_on_cpu(model: LocalModel, given: SglangOptions) -> int:
    """Tokens of the KV cache where none are named: a context that is, else the model's, within reason."""
    return given.context_length or min(model.context_length or KV_TOKENS_CPU, KV_TOKENS_CPU)


def gpus(given: SglangOptions) -> int:
    """Copies that share the tensor group's GPUs take none of their own."""
    copies = 1 if given.enable_dp_attention else given.dp_size or 1
    return (given.tp_size or 1) * (given.pp_size or 1) * copies


def estimate(model: LocalModel, given: SglangOptions, hardware: Hardware) -> Estimate:
    """Bytes over all its GPUs, or of main memory."""
    on_gpus, dtype = bool(hardware.gpus), _dtype(model, given)
    split = (given.tp_size or 1) if on_gpus else 1
    copies = gpus(given) // split // (given.pp_size or 1) if on_gpus else 1
    count = gpus(given) if on_gpus else 1
    context = given.context_length or model.context_length
    cache = Cache(
        key=_kv_type(model, given, dtype),
        split=split,
        spare=given.chunked_prefill_size or (STEP_GPU if on_gpus else STEP_CPU),
        slides=given.disable_hybrid_swa_memory is not True,
        requests=copies,
    )
    drafts, guesses = draft_bytes(model, context, cache) if given.draft_model and on_gpus else (0, 0)
    weights = added(weights_bytes(model, dtype, given.quantization), drafts)
    weights = weights and max(0, weights * copies - (given.cpu_offload_gb or 0) * GIB * count)
    named = given.max_total_tokens or (None if on_gpus else tokens_on_cpu(model, given))
    one = added(kv_cache_bytes(model, named or context, cache), guesses)
    told = Estimate(
        weights=weights,
        kv_cache=one,
        overhead=RESIDENT_GPU * count if on_gpus else RESIDENT_CPU,
        unknown=missing(model, context),
        gpus=count,
        context=min(context, named) if context and named else context,
        kv_tokens=named,
        trouble=_too_long(model, given),
    )
    return _shared(told, model, given, cache, hardware) if on_gpus and one != 0 else told


def _shared(
    told: Estimate, model: LocalModel, given: SglangOptions, cache: Cache, hardware: Hardware
) -> Estimate:
    """With the share of the GPUs that it takes, and the tokens for which that leaves room."""
    share = given.mem_fraction_static or SHARE
    limit = int(sum(gpu.memory_bytes for gpu in hardware.gpus[: told.gpus]) * share)
    told = replace(told, limit=limit)
    if told.weights is None:
        return told
    room = kv_cache_tokens(model, max(0, limit - told.weights), cache)
    if room is None:
        return told
    held = min(room, given.max_total_tokens or room)
    trouble = "" if held else f"The weights leave no room for its KV cache in {share:.0%} of the GPUs."
    return replace(told, kv_tokens=held, trouble=told.trouble or trouble)


def _too_long(model: LocalModel, given: SglangOptions) -> str:
    own, asked = model.context_length, given.context_length
    if not (own and asked and asked > own):
        return ""
    return f"The model was made for a context of {own:,}, which SGLang does not go beyond: lower it to that."


def _dtype(model: LocalModel, given: SglangOptions) -> str | None:
    """What it converts weights to; unset, models in 32 bits are cut to 16."""
    if given.dtype and given.dtype != "auto":
        return given.dtype
    return "bfloat16" if "float32" in (model.facts.get("dtype"), model.dtype) else None


def _kv_type(model: LocalModel, given: SglangOptions, dtype: str | None) -> str:
    named = given.kv_cache_dtype
    return named if named and named in KV_BYTES else kv_dtype(model, dtype)


def reported(log: list[str]) -> Reported:
    """By its log. It rounds to hundredths of a GiB, and what it calls weights is all that loading took."""
    text = "\n".join(log)
    cache = re.findall(
        r"KV Cache is allocated\..*?#tokens: (\d+), K size: ([\d.]+) GB, V size: ([\d.]+) GB", text
    )
    tokens = int(cache[0][0]) if cache else None
    size = sum(float(key) + float(value) for _, key, value in cache)
    return Reported(kv_cache_bytes=int(size * GIB) if cache else None, kv_cache_tokens=tokens)
