"""The shape of a model, read from its config.json, for estimates of memory.

`gguf_shapes` reads the same from a GGUF header.

Facts are a flat mapping of whole numbers, fractions and short words, so that a row can keep them:

    layers, heads, kv_heads, head_dim, hidden_size, intermediate_size, vocab_size, tied_embeddings (1 or 0)
    v_head_dim                        where values are not as wide as keys
    sliding_window, sliding_layers    tokens that so many of the layers see at most
    full_head_dim, full_kv_heads      of the other layers, where theirs are another size
    shared_kv_layers                  layers that read the keys and values of an earlier one
    kv_lora_rank, q_lora_rank, qk_rope_head_dim, qk_nope_head_dim, index_head_dim      latent attention (MLA)
    attention_layers, state_layers, state_bytes
                                      hybrids: layers with keys and values, the others, bytes in those
    experts, experts_active, experts_shared, moe_intermediate_size, dense_layers       mixtures of experts
    encoder_only, vision_parameters
    quantisation, quant_bits, quant_group, weight_bits, quant_kept     what the files are quantised by
    dtype, parameters

Only what is known is there. Nothing a file says is believed beyond its being a sound number.
"""

from collections.abc import Mapping
from typing import Any

from playground import parameters
from playground.parameters import first

Facts = dict[str, int | float | str]
Config = Mapping[str, Any]

# Where configurations of models that take more than text keep the language model.
NESTED = ("text_config", "language_config", "llm_config", "thinker_config")
ENCODERS = {
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "new",
    "nomic_bert",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
}
# What transformers supplies where a configuration leaves it out.
DEFAULTS: Mapping[str, Config] = {
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
    "falcon": {"tie_word_embeddings": True},
    "gpt2": {"tie_word_embeddings": True, "vocab_size": 50_257},
    "gpt_bigcode": {"tie_word_embeddings": True},
    "starcoder2": {"tie_word_embeddings": True},
    "qwen3_next": {"full_attention_interval": 4},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
}
STATEFUL = {"mamba", "mamba2", "linear_attention", "recurrent", "conv", "M"}
ATTENTIVE = {"attention", "full_attention", "sliding_attention", "chunked_attention", "hybrid", "*"}


def from_config(config: Config) -> Facts:
    """The facts of a config.json."""
    outer, text = config, text_config(config)
    heads, hidden = first(text, "num_attention_heads", "n_head", "n_heads"), _hidden(text)
    layers = first(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
    found = known(
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(text) or heads,
        head_dim=first(text, "head_dim", "kv_channels", "d_kv")
        or (hidden // heads if hidden and heads else None),
        hidden_size=hidden,
        intermediate_size=first(
            text, "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner"
        ),
        vocab_size=first(text, "vocab_size", "padded_vocab_size"),
        dtype=_word(text, "dtype", "torch_dtype") or _word(outer, "dtype", "torch_dtype"),
    )
    if str(text.get("model_type")) in ENCODERS and not text.get("is_decoder"):
        found["encoder_only"] = 1
    found["tied_embeddings"] = int(text.get("tie_word_embeddings", outer.get("tie_word_embeddings")) is True)
    found |= _latent(text) | _experts(text, layers or 0) | _layer_kinds(text, layers or 0)
    found |= _sliding(text, found) | _wide(text)
    found |= _vision(outer)
    return found | _counted(outer, text, found)


def context_length(config: Config) -> int | None:
    """Tokens the model was made for."""
    return first(
        text_config(config), "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"
    )


def text_config(config: Config) -> Config:
    """The language model's part of a configuration, with what the whole says of it and known defaults."""
    for name in NESTED:
        if isinstance(nested := config.get(name), dict):
            inner = text_config(nested)
            own = {key: value for key, value in config.items() if key not in NESTED}
            own.pop("model_type", None)
            # A tower's settings stand in the outer part of few models, the language model's win.
            return {**DEFAULTS.get(str(inner.get("model_type")), {}), **own, **inner}
    return {**DEFAULTS.get(str(config.get("model_type")), {}), **config}


def _kv_heads(text: Config) -> int | None:
    if text.get("model_type") == "falcon" and not text.get("new_decoder_architecture"):
        return 1 if text.get("multi_query", True) else None
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return first(text, "multi_query_group_num") or 1
    return first(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv")


def _hidden(text: Config) -> int | None:
    return first(text, "hidden_size", "n_embd", "d_model", "dim")


def _latent(text: Config) -> Facts:
    """Multi-head latent attention: one narrow vector a token in place of keys and values."""
    if not first(text, "kv_lora_rank"):
        return {}
    nope, rope = first(text, "qk_nope_head_dim"), first(text, "qk_rope_head_dim")
    return known(
        kv_lora_rank=first(text, "kv_lora_rank"),
        q_lora_rank=first(text, "q_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        head_dim=nope + rope if nope and rope else None,
        v_head_dim=first(text, "v_head_dim"),
        kv_heads=first(text, "num_attention_heads"),
        index_head_dim=first(text, "index_head_dim"),
    )


def _experts(text: Config, layers: int) -> Facts:
    experts = first(text, "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
    if not experts or experts < 2:
        return {}
    width = first(text, "moe_intermediate_size") or first(text, "intermediate_size")
    shared_width = first(text, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    shared = first(text, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if shared_width and width:
        shared = max(1, round(shared_width / width))
    elif str(text.get("model_type")).startswith("llama4"):
        shared = 1
    return known(
        experts=experts,
        experts_active=first(
            text, "num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_k"
        ),
        experts_shared=shared,
        moe_intermediate_size=width,
        dense_layers=_dense_layers(text, layers),
    )


def _dense_layers(text: Config, layers: int) -> int | None:
    """Layers without experts."""
    if leading := first(text, "first_k_dense_replace"):
        return leading
    if isinstance(only := text.get("mlp_only_layers"), list) and only:
        return len(only)
    step = first(text, "interleave_moe_layer_step", "expert_layer_period", "decoder_sparse_step") or 1
    return layers - layers // step if step > 1 else None


def _layer_kinds(text: Config, layers: int) -> Facts:
    """Hybrids: how many layers keep keys and values, and what a request takes in the others."""
    kinds = _kinds(text, layers)
    stateful = sum(kind in STATEFUL for kind in kinds)
    both = str(text.get("model_type")) == "falcon_h1"
    if not stateful and not both:
        return {}
    attentive = layers if both else sum(kind in ATTENTIVE for kind in kinds)
    state = (layers if both else stateful) * parameters.state_bytes(text)
    return {"attention_layers": attentive, "state_layers": layers if both else stateful, "state_bytes": state}


def _kinds(text: Config, layers: int) -> list[str]:
    """The kind of each layer, where a configuration tells them apart."""
    for name in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        if isinstance(listed := text.get(name), list | str) and listed:
            return [str(kind) for kind in listed]
    if str(text.get("model_type")) in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * layers
    if isinstance(linear := text.get("linear_attn_config"), dict):
        full = linear.get("full_attn_layers")
        count = len(full) if isinstance(full, list) else 0
        return ["attention"] * count + ["linear_attention"] * (layers - count)
    if isinstance(indices := text.get("attn_layer_indices"), list):
        return ["attention" if at in indices else "mamba" for at in range(layers)]
    if period := first(text, "attn_layer_period"):
        offset = text.get("attn_layer_offset") or 0
        return ["attention" if at % period == offset else "mamba" for at in range(layers)]
    if (step := first(text, "full_attention_interval")) and text.get("linear_num_value_heads"):
        return ["linear_attention" if (at + 1) % step else "full_attention" for at in range(layers)]
    return []


def _sliding(text: Config, found: Facts) -> Facts:
    """How many layers see a window only, and how wide it is."""
    window = first(text, "sliding_window", "attention_chunk_size")
    layers = int(found.get("layers", 0))
    if not window or text.get("use_sliding_window") is False or found.get("kv_lora_rank"):
        return {}
    kinds = _kinds(text, layers)
    kind = str(text.get("model_type"))
    if kinds:
        slide = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    elif pattern := first(text, "sliding_window_pattern", "_sliding_window_pattern"):
        slide = layers - layers // pattern
    elif kind in ("gemma2", "gpt_oss"):
        slide = -(-layers // 2)
    elif kind.startswith("llama4"):
        listed = text.get("no_rope_layers")
        slide = sum(map(bool, listed)) if isinstance(listed, list) and listed else layers - layers // 4
    elif text.get("use_sliding_window"):
        slide = max(0, layers - (first(text, "max_window_layers") or 0))
    else:
        slide = layers
    return {"sliding_window": window, "sliding_layers": slide} if slide else {}


def _wide(text: Config) -> Facts:
    """Gemma 3n and 4: other heads where everything is seen, and layers without keys of their own."""
    return known(
        full_head_dim=first(text, "global_head_dim"),
        full_kv_heads=first(text, "num_global_key_value_heads"),
        shared_kv_layers=first(text, "num_kv_shared_layers"),
    )


def _vision(config: Config) -> Facts:
    tower = config.get("vision_config")
    return known(vision_parameters=parameters.vision(tower)) if isinstance(tower, dict) else {}


def _counted(outer: Config, text: Config, found: Facts) -> Facts:
    """The number of weights as the shape gives it, and how they are quantised."""
    count = parameters.count(text, found)
    return known(parameters=count) | _quantised(
        outer.get("quantization_config") or text.get("quantization_config"), text, found
    )


def _quantised(given: Any, text: Config, found: Facts) -> Facts:
    if not isinstance(given, dict):
        return {}
    method = str(given.get("quant_method") or "")[:40].lower()
    bits, group = first(given, "bits", "w_bit"), first(given, "group_size", "q_group_size")
    if method == "bitsandbytes":
        bits, group = (4, 64) if given.get("load_in_4bit") or given.get("_load_in_4bit") else (8, None)
    elif method == "mxfp4":
        bits, group = 4, 32
    elif "fp8" in method:
        bits = 8
    elif method in ("compressed-tensors", "modelopt", "quark"):
        bits, group = _grouped(given)
    if not method or not bits:
        return {}
    kept = parameters.kept(text, found, only_experts=method == "mxfp4")
    scale = (
        8
        if method == "mxfp4"
        else 16
        if group and group < 32
        else 16 + (bits if method in ("awq", "gptq") else 0)
    )
    effective = bits + (scale / group if group and bits < 8 else 0)
    return known(
        quantisation=method, quant_bits=bits, quant_group=group, weight_bits=effective, quant_kept=kept
    )


def _grouped(given: Config) -> tuple[int | None, int | None]:
    """Bits and group of the first group's weights, as compressed-tensors writes them."""
    groups = given.get("config_groups")
    for entry in groups.values() if isinstance(groups, dict) else ():
        weights = entry.get("weights") if isinstance(entry, dict) else None
        if isinstance(weights, dict):
            return first(weights, "num_bits"), first(weights, "group_size")
    inner = given.get("quantization")
    algorithm = str((inner if isinstance(inner, dict) else given).get("quant_algo", ""))
    return (4, 16) if "FP4" in algorithm else (8, None) if "8" in algorithm else (None, None)


# Parts


def _word(given: Config, *names: str) -> str | None:
    found = next((given[name] for name in names if isinstance(given.get(name), str)), None)
    return str(found).removeprefix("torch.")[:20] if found else None


def known(**facts: int | float | str | None) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
