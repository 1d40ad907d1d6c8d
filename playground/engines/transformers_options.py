"""`transformers serve`'s options, by its names, and its launcher's own."""

from collections.abc import Mapping
from typing import Literal

from .base import EngineOptions, Needs, Taken, option

# What an administrator may add; everything else of `transformers serve` is an option or Slipway's own.
EXTRA: Mapping[str, Taken] = {"--log-level": ("debug", "info", "error", "critical")}

_BATCHED = (
    "cb_max_memory_percent",
    "cb_block_size",
    "cb_num_blocks",
    "cb_max_batch_tokens",
    "cb_cuda_graphs",
)
NEEDS = [Needs(name, "continuous_batching", "Only with continuous batching.") for name in _BATCHED]


class TransformersOptions(EngineOptions):
    """`transformers serve`'s options, by its names."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = option(
        "Data type", "Of the weights once loaded. Unset: as they are stored.", "Memory", "--dtype"
    )
    quantization: Literal["bnb-4bit", "bnb-8bit"] | None = option(
        "Quantisation",
        "By bitsandbytes while loading; GPUs only. Unset: none.",
        "Quantisation",
        "--quantization",
        build="cuda",
    )
    cb_max_memory_percent: float | None = option(
        "Memory for the KV cache",
        "Share of GPU memory for continuous batching. Unset: chosen by transformers.",
        "Memory",
        "--cb-max-memory-percent",
        gt=0,
        le=1,
    )
    cb_block_size: int | None = option(
        "Block size",
        "Tokens a block of the KV cache, with continuous batching. Unset: chosen by transformers.",
        "Memory",
        "--cb-block-size",
        ge=1,
        le=8192,
    )
    cb_num_blocks: int | None = option(
        "Blocks",
        "Blocks of the KV cache, with continuous batching. Unset: as many as memory allows.",
        "Memory",
        "--cb-num-blocks",
        ge=1,
        le=10_000_000,
    )
    continuous_batching: bool | None = option(
        "Continuous batching",
        "Answers several requests together; off, one after another. Unset: off.",
        "Parallelism",
        "--continuous-batching",
        "--no-continuous-batching",
    )
    cb_max_batch_tokens: int | None = option(
        "Tokens a batch",
        "At most so many in one step of the model, with continuous batching. Unset: chosen by transformers.",
        "Parallelism",
        "--cb-max-batch-tokens",
        ge=1,
        le=10_000_000,
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = option(
        "Attention",
        "Implementation of attention. Unset: the fastest that the model has.",
        "Speed",
        "--attn-implementation",
    )
    compile: bool | None = option(
        "Compile",
        "torch.compile: slower to start, faster after. Unset: off.",
        "Speed",
        "--compile",
        "--no-compile",
    )
    cb_cuda_graphs: bool | None = option(
        "CUDA graphs",
        "With continuous batching. Unset: chosen by transformers.",
        "Speed",
        "--cb-use-cuda-graph",
        "--no-cb-use-cuda-graph",
    )
    threads: int | None = option(
        "Threads", "CPU threads. Unset: the cores the replica was given.", "Parallelism", ge=1, le=1024
    )
    reasoning: Literal["on", "off", "auto"] | None = option(
        "Reasoning",
        "For models whose template can turn it on. Unset: as the template says.",
        "Tools and reasoning",
        "--reasoning",
    )
    seed: int | None = option(
        "Seed",
        "Of random numbers where a request names none. Unset: random.",
        "Output",
        "--default-seed",
        ge=0,
        le=2**31,
    )
