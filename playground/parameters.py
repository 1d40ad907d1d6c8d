"""How many weights a model has, worked out from its configuration alone.

For models whose files are not here yet, or are packed so that counting says nothing. Norms and biases are
left out: they are a thousandth. Knows the shape of models, nothing of engines.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Facts = Mapping[str, Any]

# Two matrices and an activation between them; all others have a third, the gate.
UNGATED = {
    "bert",
    "bloom",
    "camembert",
    "distilbert",
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "mpnet",
    "mpt",
    "nemotron",
    "opt",
    "phi",
    "roberta",
    "starcoder2",
    "xlm-roberta",
}


def count(text: Config, facts: Facts) -> int | None:
    """The number of weights; None where the shape is not known."""
    hidden, layers = facts.get("hidden_size"), facts.get("layers")
    if not (hidden and layers and facts.get("vocab_size")):
        return None
    total = embeddings(text, facts) + _attention_total(facts) + _feed_forward_total(text, facts)
    total += int(facts.get("state_layers") or 0) * _mixer(text, facts)
    return total + int(facts.get("vision_parameters") or 0)


def embeddings(text: Config, facts: Facts) -> int:
    """Embeddings and, where it is its own, the head."""
    one = int(facts.get("vocab_size") or 0) * int(facts.get("hidden_size") or 0)
    if facts.get("encoder_only"):
        return one + (first(text, "max_position_embeddings") or 0) * int(facts["hidden_size"])
    return one if facts.get("tied_embeddings") else 2 * one


def kept(text: Config, facts: Facts, *, only_experts: bool) -> int | None:
    """Weights that stay as they are in files that are quantised: embeddings, vision, what is no expert."""
    if not facts.get("hidden_size"):
        return None
    plain = embeddings(text, facts) + int(facts.get("vision_parameters") or 0)
    return plain + _attention_total(facts) if only_experts else plain


def vision(tower: Config) -> int | None:
    """A vision tower's weights: its layers, each of four square matrices and a feed-forward of two."""
    hidden, layers = first(tower, "embed_dim", "hidden_size"), first(tower, "num_hidden_layers", "depth")
    if not (hidden and layers):
        return None
    ratio = tower.get("mlp_ratio")
    wide = int(hidden * ratio) if isinstance(ratio, int | float) and 0 < ratio < 64 else 4 * hidden
    return layers * (4 * hidden * hidden + 2 * hidden * (first(tower, "intermediate_size") or wide))


def state_bytes(text: Config) -> int:
    """What one layer without keys and values holds of a request: its state in 32 bits, its window in 16."""
    if values := first(text, "linear_num_value_heads"):
        keys, key, value = (
            first(text, name) or 0
            for name in ("linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")
        )
        kernel = (first(text, "linear_conv_kernel_dim") or 4) - 1
        return values * key * value * 4 + kernel * (2 * keys * key + values * value) * 2
    if isinstance(linear := text.get("linear_attn_config"), dict):
        heads, size = first(linear, "num_heads") or 0, first(linear, "head_dim") or 0
        kernel = first(linear, "short_conv_kernel_size") or 4
        return heads * size * size * 4 + kernel * 3 * heads * size * 2
    if window := first(text, "conv_L_cache"):
        return window * (first(text, "hidden_size") or 0) * 2
    inner, size = _inner(text), _state(text)
    kernel = first(text, "mamba_d_conv", "conv_kernel") or 4
    groups = first(text, "mamba_n_groups", "n_groups") or 0
    return inner * size * 4 + kernel * (inner + 2 * groups * size) * 2


def _attention_total(facts: Facts) -> int:
    layers = facts.get("attention_layers", facts.get("layers") or 0)
    return int(layers) * _attention(facts)


def _attention(facts: Facts) -> int:
    """One layer's four projections, or MLA's five."""
    hidden, heads, size = (int(facts.get(name) or 0) for name in ("hidden_size", "heads", "head_dim"))
    value = int(facts.get("v_head_dim") or size)
    if rank := facts.get("kv_lora_rank"):
        nope, rope = int(facts.get("qk_nope_head_dim") or 0), int(facts.get("qk_rope_head_dim") or 0)
        low = facts.get("q_lora_rank")
        queries = low * (hidden + heads * size) if low else hidden * heads * size
        return int(queries + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden)
    kv_heads = int(facts.get("kv_heads") or heads)
    return hidden * heads * size + hidden * kv_heads * (size + value) + heads * value * hidden


def _feed_forward_total(text: Config, facts: Facts) -> int:
    layers, hidden = int(facts["layers"]), int(facts["hidden_size"])
    matrices = 2 if text.get("model_type") in UNGATED else 3
    inner = int(facts.get("intermediate_size") or 4 * hidden)
    experts = int(facts.get("experts") or 0)
    if facts.get("attention_layers") == 0 and text.get("state_size"):
        return 0  # Mamba has mixers alone.
    if "hybrid_override_pattern" in text:
        layers, matrices = str(text["hybrid_override_pattern"]).count("-"), 2
    if not experts:
        return layers * matrices * hidden * inner
    dense = int(facts.get("dense_layers") or 0)
    width = int(facts.get("moe_intermediate_size") or inner)
    each = experts + int(facts.get("experts_shared") or 0)
    return dense * 3 * hidden * inner + (layers - dense) * (each * 3 * hidden * width + hidden * experts)


def _mixer(text: Config, facts: Facts) -> int:
    """One layer that keeps a state in place of keys and values."""
    hidden = int(facts["hidden_size"])
    if values := first(text, "linear_num_value_heads"):
        keys = (first(text, "linear_num_key_heads") or 0) * (first(text, "linear_key_head_dim") or 0)
        width = values * (first(text, "linear_value_head_dim") or 0)
        return hidden * (2 * keys + 2 * width + 2 * values) + width * hidden
    if first(text, "conv_L_cache"):
        return 4 * hidden * hidden
    inner, size = _inner(text), _state(text)
    if first(text, "mamba_n_heads", "mamba_num_heads"):
        groups = first(text, "mamba_n_groups", "n_groups") or 1
        return hidden * (2 * inner + 2 * groups * size) + inner * hidden
    rank = first(text, "mamba_dt_rank", "time_step_rank") or hidden // 16
    return hidden * 2 * inner + inner * (rank + 2 * size) + rank * inner + inner * hidden


def _inner(text: Config) -> int:
    """Width of a state-space layer."""
    if heads := first(text, "mamba_num_heads"):
        return heads * (first(text, "mamba_head_dim") or 64)
    given = first(text, "mamba_d_ssm") or (
        first(text, "intermediate_size") if first(text, "state_size") else 0
    )
    expand = first(text, "mamba_expand", "expand") or 2
    return given or expand * (first(text, "hidden_size") or 0)


def _state(text: Config) -> int:
    return first(text, "mamba_d_state", "ssm_state_size", "state_size") or 16


def positive(value: Any) -> int | None:
    """A whole number above zero that a column can hold; anything else a file says is as good as nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def first(given: Config, *names: str) -> int | None:
    """The first of these keys that holds such a number."""
    return next((found for name in names if (found := positive(given.get(name)))), None)
