"""What vLLM takes: worked out before a start, and read from the log of one that got ready.

On a GPU it takes a share of the whole memory and makes what the weights leave its KV cache; on a CPU the
cache is the amount that is named.
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
    context_that_fits,
    draft_bytes,
    kv_cache_bytes,
    kv_cache_tokens,
    kv_dtype,
    missing,
    weights_bytes,
)
from .vllm_options import KV_CACHE_CPU_GIB, VllmOptions

# What its processes hold beside weights and KV cache, by their proportional share of pages: the API server
# 610 MiB, the core 530, a worker 740. Measured on the CPU build 0.32, ready, with a model of 257 MiB.
RESIDENT_CPU = 1900 * MIB
# Activations and CUDA graphs of a GPU's worker; vLLM profiles the true amount when it starts.
RESIDENT_GPU = 2 * GIB
# Its own defaults: the share of a GPU it takes, and the tokens of one step.
SHARE = 0.92
STEP_GPU, STEP_CPU = 8192, 4096
# What it makes of weights while loading; its other names of quantisation say what the files are.
MADE = {
    "fp8",
    "fp8_per_tensor",
    "fp8_per_channel",
    "fp8_per_block",
    "int8_per_channel_weight_only",
    "mxfp8",
    "nvfp4_per_token",
    "experts_int8",
}


def estimate(model: LocalModel, given: VllmOptions, hardware: Hardware) -> Estimate:
    """Bytes over all its GPUs, or of main memory."""
    dtype, on_gpus = _dtype(model, given), bool(hardware.gpus)
    split = (given.tensor_parallel_size or 1) if on_gpus else 1
    copies = (given.data_parallel_size or 1) if on_gpus else 1
    gpus = split * copies * (given.pipeline_parallel_size or 1) if on_gpus else 1
    context = given.max_model_len or model.context_length
    cache = Cache(
        key=_kv_type(model, given, dtype),
        split=split,
        spare=given.max_num_batched_tokens or (STEP_GPU if on_gpus else STEP_CPU),
        slides=given.disable_sliding_window is not True,
        requests=copies,
    )
    draft_weights, draft_cache = draft_bytes(model, context, cache) if given.draft_model else (0, 0)
    # On a CPU that it makes smaller weights is not known: they are counted whole.
    made = given.quantization if on_gpus and given.quantization in MADE else None
    weights = added(weights_bytes(model, dtype, made), draft_weights)
    weights = weights and max(0, weights * copies - _offloaded(given, gpus))
    one = added(kv_cache_bytes(model, context, cache), draft_cache)
    told = Estimate(
        weights=weights,
        kv_cache=one,
        overhead=RESIDENT_GPU * gpus if on_gpus else RESIDENT_CPU,
        unknown=missing(model, context),
        gpus=gpus,
        context=context,
        grows=not on_gpus,
        trouble=_heads(model, split) or _too_long(model, given),
    )
    return _aside(told, model, given, cache, hardware) if one != 0 else told


def _aside(told: Estimate, model: LocalModel, given: VllmOptions, cache: Cache, hw: Hardware) -> Estimate:
    """With what it sets aside for keys and values, and whether one request of full length has room there."""
    if given.kv_cache_gib or not hw.gpus:
        named = int((given.kv_cache_gib or KV_CACHE_CPU_GIB) * GIB) * told.gpus
        each = f"{(told.kv_cache or 0) / told.gpus / GIB:.1f} GiB"
        tokens = kv_cache_tokens(model, named, cache)
        whole = replace(told, kv_cache=named, kv_tokens=tokens)
        if tokens and told.context and fits_itself(given, hw):
            whole = replace(whole, context=min(tokens, told.context))
        return replace(whole, trouble=told.trouble or _short(whole, f"set {each} aside for it"))
    share = given.gpu_memory_utilization or SHARE
    limit = int(sum(gpu.memory_bytes for gpu in hw.gpus[: told.gpus]) * share)
    told = replace(told, limit=limit)
    if told.weights is None:
        return told
    left = max(0, limit - told.weights - told.overhead)
    told = replace(told, kv_tokens=kv_cache_tokens(model, left, cache))
    otherwise = f"take more GPUs, or more than {share * 100:.0f} % of their memory"
    return replace(told, trouble=told.trouble or _short(told, otherwise))


def fits_itself(given: VllmOptions, hardware: Hardware) -> bool:
    """Whether it is told to shorten a context that nobody named to what its cache holds.

    On a CPU, where the cache is an amount of ours and not what the machine has left.
    """
    return given.max_model_len is None and not hardware.gpus


def _short(told: Estimate, otherwise: str) -> str:
    """Why it would not start with that many tokens for its KV cache; empty when one request has room."""
    if told.kv_tokens is None or not told.context or told.kv_tokens >= told.context:
        return ""
    most = context_that_fits(told.kv_tokens, 1)
    if not most:
        return f"Its KV cache would not hold one request: {otherwise}."
    return (
        f"Its KV cache holds {told.kv_tokens:,} tokens, one request is {told.context:,}: "
        f"lower the context to {most:,}, or {otherwise}."
    )


def _heads(model: LocalModel, split: int) -> str:
    """vLLM cuts attention by whole heads."""
    heads = int(model.facts.get("heads") or 0)
    if not heads or heads % split == 0:
        return ""
    able = [str(n) for n in range(1, min(heads, 16) + 1) if heads % n == 0]
    return (
        f"Its {heads} attention heads cannot be shared by {split} GPUs: take {', '.join(able[:-1])} "
        f"or {able[-1]}."
    )


def _too_long(model: LocalModel, given: VllmOptions) -> str:
    """It refuses a context beyond the model's own."""
    own, asked = model.context_length, given.max_model_len
    if not (own and asked and asked > own):
        return ""
    return f"The model was made for a context of {own:,}, which vLLM does not go beyond: lower it to that."


def _offloaded(given: VllmOptions, gpus: int) -> int:
    return int((given.cpu_offload_gb or 0) * GIB) * gpus


def _dtype(model: LocalModel, given: VllmOptions) -> str | None:
    """What it converts weights to; unset, models in 32 bits are cut to 16."""
    if given.dtype and given.dtype != "auto":
        return given.dtype
    return "bfloat16" if "float32" in (model.facts.get("dtype"), model.dtype) else None


def _kv_type(model: LocalModel, given: VllmOptions, dtype: str | None) -> str:
    named = given.kv_cache_dtype
    return named if named and named in KV_BYTES else kv_dtype(model, dtype)


def reported(log: list[str]) -> Reported:
    """By its log; the CPU build does not say how large the loaded weights are."""
    text = "\n".join(log)
    weights = re.search(r"Model loading took ([\d.]+) GiB", text)
    cache = re.search(r"Available KV cache memory: ([\d.]+) GiB|(?:Explicitly|Auto) set \(([\d.]+)/", text)
    tokens = re.search(r"KV cache size: ([\d,]+) tokens", text)
    return Reported(
        weights_bytes=int(float(weights[1]) * GIB) if weights else None,
        kv_cache_bytes=int(float(cache[1] or cache[2]) * GIB) if cache else None,
        kv_cache_tokens=int(tokens[1].replace(",", "")) if tokens else None,
    )
