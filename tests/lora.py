"""LoRA adapters of the demo model for tests: random weights, large enough that every answer changes.

The same weights as a PEFT folder and as a GGUF file, written byte by byte, without any engine's library.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYERS, HIDDEN, HEADS, KV = 30, 576, 9, 192
RANK, ALPHA = 8, 16
SPREAD = 0.08
# Target in PEFT's words, in GGUF's, and how many values it gives.
TARGETS = [("self_attn.q_proj", "attn_q", HIDDEN), ("self_attn.v_proj", "attn_v", KV)]

Matrix = NDArray[np.float32]


def peft(folder: Path, *, seed: int = 7, hidden: int = HIDDEN, **changes: Any) -> Path:
    """A folder as PEFT saves it; `changes` go into its configuration."""
    folder.mkdir(parents=True)
    config = {
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "bias": "none",
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    tensors: dict[str, Matrix] = {}
    for layer, target, _, down, up in _pairs(seed, hidden):
        stem = f"base_model.model.model.layers.{layer}.{target}"
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def gguf(file: Path, *, seed: int = 7, architecture: str = "llama") -> Path:
    """The same as a GGUF file, as llama.cpp's own converter names it."""
    tensors: dict[str, Matrix] = {}
    for layer, _, target, down, up in _pairs(seed, HIDDEN):
        up = _permuted(up) if target == "attn_q" else up
        stem = f"blk.{layer}.{target}.weight"
        tensors |= {f"{stem}.lora_a": down, f"{stem}.lora_b": up}
    values = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.base_model.0.name": "SmolLM2 135M Instruct",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = b"".join(_text(key) + struct.pack("<I", 8) + _text(value) for key, value in values.items())
    pairs += _text("adapter.lora.alpha") + struct.pack("<If", 6, ALPHA)
    infos, data = b"", bytearray()
    for name, rows in tensors.items():
        infos += _text(name) + struct.pack("<IQQIQ", 2, rows.shape[1], rows.shape[0], 0, len(data))
        data += rows.tobytes()
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values) + 1) + pairs + infos
    file.write_bytes(head + bytes(-len(head) % 32) + data)
    return file


def safetensors(file: Path, tensors: dict[str, Matrix]) -> None:
    """Tensors in float32."""
    header, data = {}, bytearray()
    for name, rows in tensors.items():
        begin = len(data)
        data += rows.tobytes()
        header[name] = {"dtype": "F32", "shape": list(rows.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def zeros(*shape: int) -> Matrix:
    return np.zeros(shape, np.float32)


def _pairs(seed: int, hidden: int) -> Iterator[tuple[int, str, str, Matrix, Matrix]]:
    """Each target's two matrices: `hidden` values down to the rank, and up to what the target gives."""
    chance = np.random.default_rng(seed)
    for layer in range(LAYERS):
        for target, short, out in TARGETS:
            down, up = (chance.normal(0, SPREAD, size) for size in ((RANK, hidden), (out, RANK)))
            yield layer, target, short, down.astype(np.float32), up.astype(np.float32)


def _permuted(rows: Matrix) -> Matrix:
    """The order in which llama.cpp keeps the rows of queries: halves of a head in turn."""
    heads = rows.reshape(HEADS, 2, -1, rows.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
