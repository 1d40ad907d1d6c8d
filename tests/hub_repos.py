"""Repositories for the Hub's stand-in: small made-up ones, and the demo model's real weights."""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub_stand_in import HubStandIn

DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_GGUF = "bartowski/SmolLM2-135M-Instruct-GGUF"
# What `add_tiny` makes.
TINY = {
    "tiny-org/tiny-llama": "safetensors with a second copy as pickle, ONNX and Python beside it",
    "tiny-org/tiny-GGUF": "two quantisations, and one in two parts",
    "tiny-org/gated": "as tiny-llama, gated",
    "tiny-org/tiny-lora": "a PEFT adapter for tiny-llama",
    "tiny-org/huge": "weights that no disk here takes",
    "evil/pickle-only": "pytorch_model.bin and nothing else",
    "evil/auto-map": "safetensors, with Python code that its configuration names",
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 2048,
    "vocab_size": 100,
}
CARD = (
    "---\nlicense: mit\n---\n# Tiny\n\nFor tests. <script>alert(1)</script>\n\n![x](https://x.test/a.png)\n"
)
KNOWN = {"pipeline_tag": "text-generation", "library_name": "transformers", "license": "mit"}


@dataclass(frozen=True)
class Zeros:
    """A file of that many zero bytes, made while it is sent."""

    size: int


Content = bytes | Path | Zeros


def add_tiny(hub: "HubStandIn") -> None:
    """Every repository of TINY."""
    tiny = tiny_files()
    others: dict[str, Content] = {
        "pytorch_model.bin": b"\x80\x04x",
        "onnx/model.onnx": b"onnx",
        "convert.py": b"print()",
        "flax_model.msgpack": b"x",
    }
    small = {"safetensors": {"parameters": {"BF16": 64}, "total": 64}}
    hub.add("tiny-org/tiny-llama", tiny | others, downloads=5000, likes=50, **KNOWN, **small)
    hub.add("tiny-org/gated", tiny, gated="manual", downloads=900, likes=9, **KNOWN, **small)
    hub.add("tiny-org/tiny-GGUF", _ggufs(), downloads=400, gguf=_told(64, 2048), **_gguf_known())
    hub.add("tiny-org/tiny-lora", _adapter(), tags=["base_model:adapter:tiny-org/tiny-llama"], **KNOWN)
    much = {"safetensors": {"parameters": {"BF16": 495 << 40}, "total": 495 << 40}}
    hub.add("tiny-org/huge", tiny | {"model.safetensors": Zeros(900 << 40)}, downloads=10, **KNOWN, **much)
    hub.add("evil/pickle-only", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04x"}, **KNOWN)
    mapped = CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    code: dict[str, Content] = {"config.json": json.dumps(mapped).encode(), "modeling_evil.py": b"import os"}
    hub.add("evil/auto-map", tiny | code, **KNOWN, **small)


def tiny_files() -> dict[str, Content]:
    """A small model of safetensors that may be loaded."""
    return {
        "README.md": CARD.encode(),
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": b'{"temperature": 0.7}',
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "model.safetensors": safetensors(),
    }


def _ggufs() -> dict[str, Content]:
    names = ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]
    names += [f"tiny-F16-0000{number}-of-00002.gguf" for number in (1, 2)]
    return {"README.md": CARD.encode()} | {name: gguf() for name in names}


def _gguf_known() -> dict[str, Any]:
    return KNOWN | {"library_name": "gguf"}


def _told(total: int, context: int) -> dict[str, Any]:
    """What the Hub reads out of a GGUF file."""
    return {"total": total, "architecture": "llama", "context_length": context, "chat_template": "{{ m }}"}


def _adapter() -> dict[str, Content]:
    config = {"peft_type": "LORA", "base_model_name_or_path": "tiny-org/tiny-llama", "r": 8}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": safetensors(),
    }


def add_demo(hub: "HubStandIn") -> None:
    """The demo model's real weights, kept by real engines; made first where they are missing."""
    cache = Path(os.environ.get("SLIPWAY_TEST_CACHE", Path.home() / ".cache" / "slipway-tests"))
    folder = cache / "models" / DEMO.partition("/")[2]
    whole = folder / "safetensors"
    if not whole.exists():
        from tests import real_engines

        real_engines.demo("safetensors")
    known = KNOWN | {"license": "apache-2.0", "likes": 300}
    readme = b"---\nlicense: apache-2.0\n---\n# SmolLM2\n\nA small model that answers.\n"
    files: dict[str, Content] = {"README.md": readme}
    files |= {str(file.relative_to(whole)): file for file in sorted(whole.rglob("*")) if file.is_file()}
    count = {"parameters": {"BF16": 134_515_008}, "total": 134_515_008}
    hub.add(DEMO, files, downloads=1_234_567, safetensors=count, **known)
    file = next(folder.glob("*.gguf"))
    hub.add(
        DEMO_GGUF,
        {"README.md": readme, file.name: file},
        downloads=65_432,
        tags=[f"base_model:quantized:{DEMO}"],
        gguf=_told(134_515_008, 8192),
        **known | {"library_name": "gguf"},
    )


def safetensors(tensors: Mapping[str, list[int]] | None = None) -> bytes:
    """A sound safetensors file of zeros in bfloat16."""
    header, at = {}, 0
    for name, shape in (tensors or {"weight": [8, 8]}).items():
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(at)


def gguf() -> bytes:
    """The smallest sound GGUF file: an architecture, no tensors, padded to where they would begin."""
    pair = _text("general.architecture") + struct.pack("<I", 8) + _text("llama")
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair
    return header + bytes(-len(header) % 32)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
