"""The shape of a model, read from its GGUF header: the facts that `shapes` describes."""

from typing import Any

from playground import gguf
from playground.parameters import positive
from playground.shapes import Facts, known

ENCODERS = {
    "bert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "xlm-roberta",
}
# Every how many layers one sees everything, where a file leaves it to the program that reads it.
PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "llama4": 4, "exaone4": 4}


def of_header(header: gguf.Header) -> Facts:
    """The facts of a GGUF header."""
    heads, hidden = _most(header.of("attention.head_count")), positive(header.of("embedding_length"))
    layers = positive(header.of("block_count"))
    kv = header.of("attention.head_count_kv")
    found = known(
        layers=layers,
        heads=heads,
        kv_heads=_most(kv) or heads,
        head_dim=positive(header.of("attention.key_length"))
        or (hidden // heads if hidden and heads else None),
        v_head_dim=positive(header.of("attention.value_length")),
        hidden_size=hidden,
        intermediate_size=_most(header.of("feed_forward_length")),
        vocab_size=positive(header.of("vocab_size")) or header.lengths.get("tokenizer.ggml.tokens"),
        sliding_window=positive(header.of("attention.sliding_window")),
        experts=positive(header.of("expert_count")),
        experts_active=positive(header.of("expert_used_count")),
        experts_shared=positive(header.of("expert_shared_count")),
        moe_intermediate_size=positive(header.of("expert_feed_forward_length")),
        dense_layers=positive(header.of("leading_dense_block_count")),
    )
    architecture = str(header.values.get("general.architecture", ""))
    if architecture in ENCODERS:
        found["encoder_only"] = 1
    return found | _latent(header) | _hybrid(header, kv, layers or 0) | _sliding(header, architecture, found)


def _latent(header: gguf.Header) -> Facts:
    """Files that llama.cpp reads as latent attention name the full heads beside the narrow ones."""
    if not positive(header.of("attention.key_length_mla")):
        return {}
    rope = positive(header.of("rope.dimension_count"))
    return known(kv_lora_rank=positive(header.of("attention.kv_lora_rank")), qk_rope_head_dim=rope)


def _hybrid(header: gguf.Header, kv: Any, layers: int) -> Facts:
    """Layers without a head for keys keep a state of fixed size."""
    inner, size = positive(header.of("ssm.inner_size")), positive(header.of("ssm.state_size"))
    if not (inner and size):
        return {}
    kernel, groups = header.of("ssm.conv_kernel") or 4, header.of("ssm.group_count") or 0
    step = positive(header.of("full_attention_interval"))
    attentive = sum(map(bool, kv)) if isinstance(kv, list) else layers // step if step else 0
    one = ((kernel - 1) * (inner + 2 * groups * size) + inner * size) * 4
    return {
        "attention_layers": attentive,
        "state_layers": layers - attentive,
        "state_bytes": (layers - attentive) * one,
    }


def _sliding(header: gguf.Header, architecture: str, found: Facts) -> Facts:
    if not found.get("sliding_window"):
        return {}
    layers = int(found.get("layers", 0))
    given = header.of("attention.sliding_window_pattern")
    if isinstance(given, list):
        return {"sliding_layers": sum(map(bool, given))}
    step = positive(given) or PATTERNS.get(architecture)
    return {"sliding_layers": layers - layers // step} if step else {}


def _most(value: Any) -> int | None:
    """A number, or the largest where a file gives one for each layer."""
    if isinstance(value, list):
        return max((one for one in map(positive, value) if one), default=None)
    return positive(value)
