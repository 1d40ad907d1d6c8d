"""What llama.cpp takes: worked out before a start, and read from the log of one that got ready.

Everything is taken at the start: the weights as the file holds them, keys and values of the whole context,
buffers for one micro-batch. Only the prompts it keeps in RAM come later.
"""

import re

from .base import Estimate, Hardware, LocalModel, Reported
from .estimates import MIB, Cache, added, draft_bytes, kv_cache_bytes, missing, weights_bytes
from .llamacpp_options import BATCH, CACHE_RAM_MIB, LlamaCppOptions

# What the process holds before any model, measured: Python, the library, buffers of the HTTP server.
RESIDENT = 120 * MIB
# A CUDA context and its kernels, on each GPU.
RESIDENT_GPU = 500 * MIB
SLOTS = 4
# llama.cpp's own batch, beyond which a micro-batch means nothing.
WHOLE_TEXT = 2048


def estimate(model: LocalModel, given: LlamaCppOptions, hardware: Hardware) -> Estimate:
    """Bytes of the GPUs it is given, else of main memory."""
    gpus = len(hardware.gpus)
    slots, micro = given.parallel or SLOTS, at_once(model, given)
    asked = given.context or model.context_length
    context = -(-asked // 256) * 256 if asked else None
    shared = given.kv_unified is not False
    cache = Cache(
        key=given.cache_type_k or "f16",
        value=given.cache_type_v or "f16",
        requests=1 if shared else slots,
        # One cache for all requests holds the window of each.
        spare=micro + (int(model.facts.get("sliding_window") or 0) * (slots - 1) if shared else 0),
        slides=given.swa_full is not True,
    )
    each = context and (context if shared else context // slots)
    kept = kv_cache_bytes(model, each, cache)
    if kept and shared:
        kept += int(model.facts.get("state_bytes") or 0) * (slots - 1)
    draft_weights, draft_cache = draft_bytes(model, each, cache) if given.draft_model else (0, 0)
    weights = weights_bytes(model)
    if gpus:
        weights = weights and int(weights * _share_on_gpus(model, given))
        kept = kept if given.kv_offload is not False else 0
    later = 0 if gpus or model.task not in ("chat", "completion") else _prompts(given)
    return Estimate(
        weights=added(weights, draft_weights),
        kv_cache=added(kept, draft_cache),
        overhead=(RESIDENT_GPU * gpus or RESIDENT) + _buffers(model, given, each or 0, slots) + later,
        unknown=missing(model, context),
        gpus=max(1, gpus),
        context=each,
        kv_tokens=context if kept else None,
        later=later,
    )


def at_once(model: LocalModel, given: LlamaCppOptions) -> int:
    """Tokens of one micro-batch. A text to embed or rank goes through whole, or not at all."""
    if given.micro_batch or model.task not in ("embedding", "rerank"):
        return given.micro_batch or BATCH
    return max(BATCH, min(given.context or model.context_length or BATCH, given.batch or WHOLE_TEXT))


def _share_on_gpus(model: LocalModel, given: LlamaCppOptions) -> float:
    """Of the weights; the layers that are asked for, of all and the head."""
    layers = int(model.facts.get("layers") or 0)
    return 1.0 if given.gpu_layers is None or not layers else min(1.0, given.gpu_layers / (layers + 1))


def _prompts(given: LlamaCppOptions) -> int:
    return (CACHE_RAM_MIB if given.cache_ram_mib is None else given.cache_ram_mib) * MIB


def _buffers(model: LocalModel, given: LlamaCppOptions, context: int, slots: int) -> int:
    """Of one micro-batch: activations in 32 bits, the mask of all it may see; and the logits of each request.

    Fitted to what llama.cpp says of contexts of 1,024 to 65,536 tokens; in tests/test_fit.py.
    """
    facts = model.facts
    hidden, inner, vocabulary, heads = (
        int(facts.get(name) or 0) for name in ("hidden_size", "intermediate_size", "vocab_size", "heads")
    )
    token = 4 * (4 * max(inner, hidden) + 2 * hidden) + 2 * context
    if given.flash_attention == "off":
        token += 4 * context * heads
    return at_once(model, given) * token + 2 * slots * vocabulary * 4


def reported(log: list[str]) -> Reported:
    """By its log, which tells bytes only where it is made to say more (`--verbosity 4`)."""
    text = "\n".join(log)
    weights = re.findall(r"model buffer size = +([\d.]+) MiB", text)
    cache = re.findall(r"(?:KV|RS) buffer size = +([\d.]+) MiB", text)
    slots = re.search(r"n_slots = (\d+), n_ctx_slot = (\d+), kv_unified = '(\w+)'", text)
    tokens = int(slots[2]) * (1 if slots[3] == "true" else int(slots[1])) if slots else None
    return Reported(weights_bytes=_mib(weights), kv_cache_bytes=_mib(cache), kv_cache_tokens=tokens)


def _mib(told: list[str]) -> int | None:
    return int(sum(map(float, told)) * MIB) if told else None
