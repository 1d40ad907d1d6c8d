"""The arithmetic of memory estimates that adapters share.

Bytes; knows the shape of models, not of engines.
"""

from collections.abc import Mapping
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
    "bf16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5,
}


def kv_bytes_per_token(facts: Mapping[str, Any], key: str = "f16", value: str = "f16") -> float | None:
    """Bytes of KV cache one token takes: layers x kv_heads x head_dim, for keys and for values.

    None if unknown.
    """
    layers, heads, size = facts.get("layers"), facts.get("kv_heads"), facts.get("head_dim")
    if not (layers and heads and size):
        return None
    return float(layers * heads * size * (KV_BYTES[key] + KV_BYTES[value]))


def weights_bytes(model: LocalModel, dtype: str | None = None) -> int | None:
    """Bytes of weights once loaded.

    By parameters and `dtype` when the engine converts, else the files' size.
    """
    if dtype and dtype in DTYPE_BYTES and model.parameters:
        return int(model.parameters * DTYPE_BYTES[dtype])
    return model.size_bytes


def context_that_fits(free_bytes: float, per_token: float) -> int:
    """The largest context, in tokens rounded down to 256, whose KV cache takes at most `free_bytes`."""
    return max(0, int(free_bytes / per_token) // 256 * 256)
