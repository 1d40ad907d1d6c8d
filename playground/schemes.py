"""How a folder of safetensors may be quantised by llm-compressor without data, and how large it gets.

Pure: reads headers of weights. Schemes that are calibrated by data are not offered here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground import weights

# What stays as it is: no linear layer, or one that loses too much.
_KEPT = re.compile(r"(embed|wte|wpe|lm_head|norm|rotary|mlp\.gate\.|router)", re.IGNORECASE)
_SCALE_BYTES = 2
_PLAIN = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Scheme:
    """One way to quantise. `group`: how many values share a scale; 0 where a row does."""

    name: str
    words: str
    bits: int
    group: int = 0


SCHEMES: Mapping[str, Scheme] = {
    one.name: one
    for one in (
        Scheme("FP8_DYNAMIC", "Eight-bit floats: next to no loss; fast on GPUs since Ada and Hopper.", 8),
        Scheme("W8A8", "Eight-bit integers, activations too: fast on older GPUs and on CPUs.", 8),
        Scheme("W4A16", "Four bits, rounded without calibration: the smallest, and loses most.", 4, 128),
    )
}


def size(folder: Path, dtype: str, scheme: Scheme) -> int | None:
    """Bytes of the weights that come of it; None where the type of today's weights has no plain width."""
    width = _PLAIN.get(dtype)
    if width is None:
        return None
    total = 0
    for file in weights.files(folder):
        if file.suffix == ".safetensors":
            total += file.stat().st_size
            total -= sum(_saved(shape, width, scheme) for shape in linear(file))
    return total


def linear(file: Path) -> list[tuple[int, int]]:
    """The matrices in a file that are quantised: (rows, values in each)."""
    shapes = weights.shapes(file)
    return [
        (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not _KEPT.search(name)
    ]


def why_not(facts: Mapping[str, Any], task: str) -> str:
    """Why a model of that shape is not quantised so; empty when it is."""
    if facts.get("quantisation"):
        return f"Its weights are quantised already ({facts['quantisation']}): take what it was made from."
    if facts.get("experts"):
        return "It is a mixture of experts; only dense models are quantised here."
    if task not in ("chat", "completion"):
        return "Only models that write text are quantised here."
    return ""


def misfit(folder: Path, scheme: Scheme) -> str:
    """Why these weights are not divided so; empty when they are."""
    if not scheme.group:
        return ""
    files = (file for file in weights.files(folder) if file.suffix == ".safetensors")
    odd = sorted({length for file in files for _, length in linear(file) if length % scheme.group})
    if not odd:
        return ""
    return f"It divides rows by {scheme.group}, and this model has rows of {odd[0]:,} values."


def _saved(shape: tuple[int, int], width: int, scheme: Scheme) -> int:
    rows, length = shape
    scales = rows * (math.ceil(length / scheme.group) if scheme.group else 1)
    return rows * length * width - rows * length * scheme.bits // 8 - scales * _SCALE_BYTES
