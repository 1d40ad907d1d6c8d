"""LoRA adapters of the demo model for tests: random weights, large enough that every answer changes.

The same weights as a PEFT folder and as a GGUF file, written byte by byte: no library of any engine is needed.
"""

import json
import random
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LAYERS, HIDDEN, HEADS, KV = 30, 576, 9, 192
RANK, ALPHA = 8, 16
SPREAD = 0.08
# Target in PEFT's words, in GGUF's, and how many values it gives.
TARGETS = [("self_attn.q_proj", "attn_q", HIDDEN), ("self_attn.v_proj", "attn_v", KV)]

Rows = list[array[float]]


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
    tensors: dict[str, Rows] = {}
    for layer, target, _, down, up in _pairs(seed, hidden):
        stem = f"base_model.model.model.layers.{layer}.{target}"
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def gguf(file: Path, *, seed: int = 7, architecture: str = "llama") -> Path:
    """The same as a GGUF file, as llama.cpp's own converter names it."""
    tensors: dict[str, Rows] = {}
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
    infos, data = b"", b""
    for name, rows in tensors.items():
        infos += _text(name) + struct.pack("<IQQIQ", 2, len(rows[0]), len(rows), 0, len(data))
        data += _bytes(rows)
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values) + 1) + pairs + infos
    file.write_bytes(head + bytes(-len(head) % 32) + data)
    return file


def safetensors(file: Path, tensors: dict[str, Rows]) -> None:
    """Tensors of two dimensions in float32."""
    header, data = {}, b""
    for name, rows in tensors.items():
        raw = _bytes(rows)
        header[name] = {
            "dtype": "F32",
            "shape": [len(rows), len(rows[0])],
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _pairs(seed: int, hidden: int) -> Iterator[tuple[int, str, str, Rows, Rows]]:
    """Each target's two matrices: `hidden` values down to the rank, and up to what the target gives."""
    chance = random.Random(seed)
    for layer in range(LAYERS):
        for target, short, out in TARGETS:
            yield layer, target, short, _matrix(chance, RANK, hidden), _matrix(chance, out, RANK)


def _matrix(chance: random.Random, rows: int, columns: int) -> Rows:
    return [array("f", (chance.gauss(0, SPREAD) for _ in range(columns))) for _ in range(rows)]


def _permuted(rows: Rows) -> Rows:
    """The order in which llama.cpp keeps the rows of queries: halves of a head in turn."""
    size = len(rows) // HEADS
    half = size // 2
    return [
        rows[head * size + part * half + i] for head in range(HEADS) for i in range(half) for part in (0, 1)
    ]


def _bytes(rows: Rows) -> bytes:
    return b"".join(row.tobytes() for row in rows)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
