"""llama-server's options, by its names: what a person may set, grouped as people think."""

from typing import Literal

from .base import EngineOptions, option

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
BATCH = 512
# llama-server's default for idle prompts kept in memory, and this adapter's, which must fit beside other
# engines.
CACHE_RAM_MIB = 512


class LlamaCppOptions(EngineOptions):
    """llama-server's options, by its names."""

    context: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with.",
        "Context",
        "--ctx-size",
        ge=256,
        le=10_000_000,
    )
    parallel: int | None = option(
        "Parallel requests",
        "Requests answered at once; more wait in a queue. Unset: 4.",
        "Parallelism",
        "--parallel",
        ge=1,
        le=256,
    )
    kv_unified: bool | None = option(
        "Share the context",
        "All requests draw on one context. Off: it is divided evenly between the parallel requests. "
        "Unset: on.",
        "Context",
        "--kv-unified",
        "--no-kv-unified",
    )
    context_shift: bool | None = option(
        "Shift a full context",
        "Drops the oldest tokens of an endless answer instead of ending it. Unset: off.",
        "Context",
        "--context-shift",
        "--no-context-shift",
    )
    rope_scaling: Literal["none", "linear", "yarn"] | None = option(
        "RoPE scaling",
        "How positions beyond the trained context are scaled. Unset: as the model says.",
        "Context",
        "--rope-scaling",
    )
    rope_freq_base: float | None = option(
        "RoPE base frequency", "Unset: the model's own.", "Context", "--rope-freq-base", gt=0, le=1e9
    )
    cache_type_k: CacheType | None = option(
        "KV cache type of keys", "Fewer bits hold more context. Unset: f16.", "Memory", "--cache-type-k"
    )
    cache_type_v: CacheType | None = option(
        "KV cache type of values",
        "Quantised values need flash attention. Unset: f16.",
        "Memory",
        "--cache-type-v",
    )
    cache_ram_mib: int | None = option(
        "Prompt cache in RAM",
        f"MiB for prompts of earlier requests; 0 turns it off. Unset: {CACHE_RAM_MIB}.",
        "Memory",
        "--cache-ram",
        ge=0,
        le=1_048_576,
    )
    load_mode: Literal["none", "mmap", "mlock", "mmap+mlock", "dio"] | None = option(
        "Loading of weights",
        "mmap shares pages between processes; mlock keeps them from being swapped out. Unset: automatic.",
        "Memory",
        "--load-mode",
    )
    gpu_layers: int | None = option(
        "Layers on the GPU",
        "The rest stays on the CPU; 0 keeps all there. Unset: as many as fit.",
        "Memory",
        "--n-gpu-layers",
        ge=0,
        le=10_000,
    )
    split_mode: Literal["none", "layer", "row"] | None = option(
        "Split over GPUs",
        "By layers, by rows of tensors, or not at all. Unset: layer.",
        "Parallelism",
        "--split-mode",
    )
    threads: int | None = option(
        "Threads",
        "CPU threads for generation. Unset: the cores the replica was given.",
        "Parallelism",
        "--threads",
        ge=1,
        le=1024,
    )
    threads_batch: int | None = option(
        "Threads for prompts",
        "CPU threads for reading prompts. Unset: as for generation.",
        "Parallelism",
        "--threads-batch",
        ge=1,
        le=1024,
    )
    numa: Literal["distribute", "isolate", "numactl"] | None = option(
        "NUMA", "How threads spread over NUMA nodes. Unset: not considered.", "Parallelism", "--numa"
    )
    batch: int | None = option(
        "Batch",
        "Tokens handed to the model at once when reading prompts. Unset: 2048.",
        "Speed",
        "--batch-size",
        ge=1,
        le=65_536,
    )
    micro_batch: int | None = option(
        "Micro-batch",
        f"Tokens computed at once; larger reads prompts faster and takes more memory. Unset: {BATCH}.",
        "Speed",
        "--ubatch-size",
        ge=1,
        le=65_536,
    )
    flash_attention: Literal["on", "off", "auto"] | None = option(
        "Flash attention", "Unset: automatic.", "Speed", "--flash-attn"
    )
    prompt_cache: bool | None = option(
        "Reuse prompts",
        "Keeps the work on a prompt's beginning for the next request. Unset: on.",
        "Speed",
        "--cache-prompt",
        "--no-cache-prompt",
    )
    warmup: bool | None = option(
        "Warm up", "One empty run before it is ready. Unset: on.", "Speed", "--warmup", "--no-warmup"
    )
    max_tokens: int | None = option(
        "Longest answer",
        "Tokens after which any answer ends. Unset: up to the context.",
        "Output",
        "--n-predict",
        ge=1,
        le=10_000_000,
    )
    reasoning_format: Literal["none", "deepseek", "auto"] | None = option(
        "Reasoning",
        "Whether thoughts come apart from the answer; none leaves them in it. Unset: deepseek (apart).",
        "Output",
        "--reasoning-format",
    )
    check_tensors: bool | None = option(
        "Check tensors",
        "Looks for broken values while loading; slower. Unset: off.",
        "Safety",
        "--check-tensors",
    )
    program: Literal["llama-server"] | None = option(
        "Program",
        "llama-server runs the one on the node's PATH in place of the installed xllamacpp. Unset: xllamacpp.",
        "Program",
    )
