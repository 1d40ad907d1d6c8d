"""Which type each tensor of a GGUF file gets when a model is quantised: llama.cpp's mixtures by its names.

The rules are llama.cpp's own (`llama-quant.cpp`), for the methods offered here. Knows nothing about rows,
disks or how weights are converted.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from playground import gguf
from playground.gguf import Header, Tensor

# Matrices that lose too much, or gain nothing.
_KEPT = re.compile(
    r".*_norm\.weight|.*ffn_gate_inp.*\.weight|position_embd\.weight|token_types\.weight|.*attn_rel_b\.weight"
    r"|.*ssm_conv1d\.weight|.*shortconv\.conv\.weight|.*altup.*|.*laurel.*|per_layer_model_proj\.weight"
    r"|.*time_mix_(first|w0|w1|w2|v0|v1|v2|a0|a1|a2|g1|g2|decay_w1|decay_w2|lerp_fused)\.weight"
)
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
# What stands in where a row is not a whole number of a type's blocks.
_FALLBACK = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_LAST_RESORT = "F16"


@dataclass(frozen=True)
class Mixture:
    """One way to quantise. `number` is what llama.cpp writes into the file for it."""

    name: str
    words: str
    base: str
    number: int


MIXTURES: Mapping[str, Mixture] = {
    one.name: one
    for one in (
        Mixture("Q8_0", "Eight bits: next to no loss.", "Q8_0", 7),
        Mixture("Q6_K", "Six bits and a half: hardly any loss.", "Q6_K", 18),
        Mixture("Q5_K_M", "Five bits and a half: little loss.", "Q5_K", 17),
        Mixture("Q4_K_M", "Under five bits: the usual choice.", "Q4_K", 15),
        Mixture("Q4_0", "Four bits and a half: simple and fast on CPUs.", "Q4_0", 2),
        Mixture("Q3_K_M", "Under four bits: loses much in small models.", "Q3_K", 12),
    )
}


def plan(header: Header, mixture: Mixture) -> dict[str, str]:
    """Tensor → its new type, for those that change."""
    shape = _Shape.of(header)
    wanted = {one.name: _type(one, mixture, shape) for one in header.tensors if _may(one)}
    return {
        one.name: wanted[one.name] for one in header.tensors if wanted.get(one.name, one.dtype) != one.dtype
    }


def size(header: Header, planned: Mapping[str, str]) -> int | None:
    """Bytes of the file that comes of it; None where a type's size is not known."""
    alignment = header.values.get("general.alignment", 32)
    total = header.data_at
    for one in header.tensors:
        amount = gguf.type_bytes(planned.get(one.name, one.dtype), one.values)
        if amount is None:
            return None
        total += -(-amount // alignment) * alignment
    return total


def requantises(header: Header, planned: Mapping[str, str]) -> bool:
    """Whether weights that are quantised already are quantised once more: what was lost stays lost."""
    plain = {"F32", "F16", "BF16"}
    return any(one.dtype not in plain for one in header.tensors if one.name in planned)


@dataclass(frozen=True)
class _Shape:
    """What the rules ask of a model as a whole."""

    layers: int
    experts: int
    is_tied: bool
    is_70b: bool

    @classmethod
    def of(cls, header: Header) -> "_Shape":
        layers = header.of("block_count")
        count = layers if isinstance(layers, int) else 0
        names = {one.name for one in header.tensors}
        is_70b = header.values.get("general.architecture") == "llama" and count == 80
        return cls(count, header.of("expert_count") or 0, "output.weight" not in names, is_70b)

    def more(self, layer: int) -> bool:
        """The layers that mixtures give more bits: the first and last eighth, and every third between."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


def _may(one: Tensor) -> bool:
    return one.name.endswith("weight") and len(one.shape) >= 2 and not _KEPT.fullmatch(one.name)


def _type(one: Tensor, mixture: Mixture, shape: _Shape) -> str:
    chosen = _chosen(one, mixture, shape)
    for other in (chosen, _FALLBACK.get(chosen, chosen), _LAST_RESORT):
        if one.shape[0] % gguf.block_of(other) == 0:
            return other
    return _LAST_RESORT


def _chosen(one: Tensor, mixture: Mixture, shape: _Shape) -> str:
    """The type by the rules, whether or not its rows fit its blocks."""
    if one.name == "output.weight" or (shape.is_tied and one.name == "token_embd.weight"):
        fits = one.shape[0] % gguf.block_of(mixture.base) == 0
        return "Q6_K" if mixture.base != "Q8_0" and fits else "Q8_0"
    found = _LAYER.fullmatch(one.name)
    if found is None:
        return mixture.base
    layer, part = int(found[1]), found[2]
    return next((kind for kind in _special(part, layer, mixture.name, shape) if kind), mixture.base)


def _special(part: str, layer: int, name: str, shape: _Shape) -> Iterator[str | None]:
    """Exceptions by a tensor's part of its layer; the first that applies."""
    if shape.experts == 8 and part in ("attn_v", "attn_k"):
        yield "Q8_0"
    if rule := _RULES.get(part.removesuffix("_exps").removesuffix("_shexp")):
        yield rule(layer, name, shape)


def _attention_values(layer: int, name: str, shape: _Shape) -> str | None:
    if name in ("Q4_K_M", "Q5_K_M") and shape.more(layer):
        return "Q6_K"
    if name == "Q3_K_M":
        return "Q5_K" if layer < 2 or shape.is_70b else "Q4_K"
    return "Q5_K" if name == "Q4_K_M" and shape.is_70b else None


def _attention_output(layer: int, name: str, shape: _Shape) -> str | None:
    if shape.experts == 8:
        return "Q5_K" if name in ("Q3_K_M", "Q4_K_M") else None
    return "Q4_K" if name == "Q3_K_M" else None


def _attention_joined(layer: int, name: str, shape: _Shape) -> str | None:
    return {"Q3_K_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(name)


def _down(layer: int, name: str, shape: _Shape) -> str | None:
    if name in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if shape.more(layer) else None
    if name == "Q3_K_M":
        return "Q5_K" if layer < shape.layers // 16 else "Q4_K"
    return None


_RULES: Mapping[str, Callable[[int, str, _Shape], str | None]] = {
    "attn_v": _attention_values,
    "attn_output": _attention_output,
    "attn_qkv": _attention_joined,
    "ffn_down": _down,
}
