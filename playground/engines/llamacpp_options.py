"""llama-server's options, by its names: what a person may set, grouped as people think."""

from collections.abc import Mapping
from typing import Any, Literal

from .base import EngineOptions, Needs, Taken, disordered, option, unmet

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
BATCH = 512
# llama-server's default for idle prompts kept in memory, and this adapter's, which must fit beside other
# engines.
CACHE_RAM_MIB = 512

# What an administrator may add: numbers and switches of llama-server.
EXTRA: Mapping[str, Taken] = {
    "--yarn-orig-ctx": int,
    "--yarn-ext-factor": float,
    "--yarn-attn-factor": float,
    "--yarn-beta-slow": float,
    "--yarn-beta-fast": float,
    "--keep": int,
    "--temp": float,
    "--top-k": int,
    "--top-p": float,
    "--min-p": float,
    "--repeat-penalty": float,
    "--spec-ngram-simple-size-m": int,
    "--no-op-offload": None,
    "--no-perf": None,
    "--verbosity": int,
}

BY_DRAFT = ("draft-simple", "draft-eagle3")
NEEDS = (
    Needs("ngram_size", "spec_type", "Only where tokens are guessed by ngram-simple.", ("ngram-simple",)),
    *(
        Needs(name, "draft_model", "Only with a draft model.")
        for name in ("draft_min", "draft_p_min", "draft_gpu_layers")
    ),
)


class LlamaCppOptions(EngineOptions):
    """llama-server's options, by its names."""

    # Context

    context: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with.",
        "Context",
        "--ctx-size",
        ge=256,
        le=10_000_000,
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
    rope_freq_scale: float | None = option(
        "RoPE frequency scale",
        "0.5 stretches the trained context to twice its length. Unset: the model's own.",
        "Context",
        "--rope-freq-scale",
        gt=0,
        le=1,
    )

    # Memory

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
    swa_full: bool | None = option(
        "Full cache of windows",
        "Layers with a sliding window keep the whole context, so that any prompt can be reused. Unset: off.",
        "Memory",
        "--swa-full",
    )
    ctx_checkpoints: int | None = option(
        "Checkpoints",
        "States kept a request to go back to, for models with windows or recurrent layers. Unset: 32.",
        "Memory",
        "--ctx-checkpoints",
        ge=0,
        le=1024,
    )
    load_mode: Literal["none", "mmap", "mlock", "mmap+mlock", "dio"] | None = option(
        "Loading of weights",
        "mmap shares pages between processes; mlock keeps them from being swapped out. Unset: automatic.",
        "Memory",
        "--load-mode",
    )
    repack: bool | None = option(
        "Repack weights",
        "In the order this CPU computes fastest with; takes time and memory at the start. Unset: on.",
        "Memory",
        "--repack",
        "--no-repack",
    )
    gpu_layers: int | None = option(
        "Layers on the GPU",
        "The rest stays on the CPU; 0 keeps all there. Unset: as many as fit.",
        "Memory",
        "--n-gpu-layers",
        build="cuda",
        ge=0,
        le=10_000,
    )
    kv_offload: bool | None = option(
        "KV cache on the GPU",
        "Off keeps it in the node's RAM. Unset: on.",
        "Memory",
        "--kv-offload",
        "--no-kv-offload",
        build="cuda",
    )

    # Parallelism

    parallel: int | None = option(
        "Parallel requests",
        "Requests answered at once; more wait in a queue. Unset: 4.",
        "Parallelism",
        "--parallel",
        ge=1,
        le=256,
    )
    continuous_batching: bool | None = option(
        "Continuous batching",
        "Answers several requests together; off, one after another. Unset: on.",
        "Parallelism",
        "--cont-batching",
        "--no-cont-batching",
    )
    slot_prompt_similarity: float | None = option(
        "Likeness of prompts",
        "Share of a prompt that must match what a slot holds for the request to go there. Unset: 0.1.",
        "Parallelism",
        "--slot-prompt-similarity",
        ge=0,
        le=1,
    )
    split_mode: Literal["none", "layer", "row", "tensor"] | None = option(
        "Split over GPUs",
        "By layers, by rows of tensors, by whole tensors, or not at all. Unset: layer.",
        "Parallelism",
        "--split-mode",
        build="cuda",
    )
    main_gpu: int | None = option(
        "First GPU",
        "Of those it was given; it holds what is not split. Unset: 0.",
        "Parallelism",
        "--main-gpu",
        build="cuda",
        ge=0,
        le=63,
    )
    threads: int | None = option(
        "Threads",
        "CPU threads for generation. Unset: the cores the replica was given, less one of several.",
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
    threads_http: int | None = option(
        "Threads for connections",
        "Of its HTTP server. Unset: chosen by llama.cpp.",
        "Parallelism",
        "--threads-http",
        ge=1,
        le=1024,
    )
    numa: Literal["distribute", "isolate", "numactl"] | None = option(
        "NUMA", "How threads spread over NUMA nodes. Unset: not considered.", "Parallelism", "--numa"
    )

    # Speed

    batch: int | None = option(
        "Tokens a step",
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
    cache_reuse: int | None = option(
        "Reuse pieces",
        "Pieces of so many tokens are reused where they moved within a prompt; 0 is never. Unset: 0.",
        "Speed",
        "--cache-reuse",
        ge=0,
        le=65_536,
    )
    warmup: bool | None = option(
        "Warm up", "One empty run before it is ready. Unset: on.", "Speed", "--warmup", "--no-warmup"
    )

    # Speculative decoding

    spec_type: (
        Literal[
            "ngram-simple",
            "ngram-map-k",
            "ngram-map-k4v",
            "ngram-mod",
            "ngram-cache",
            "draft-simple",
            "draft-eagle3",
            "draft-mtp",
        ]
        | None
    ) = option(
        "Guess tokens by",
        "ngram… repeats what the text holds, draft-mtp uses the model's own layers; the other draft… need a "
        "draft model. Unset: draft-simple where one is chosen, else off.",
        "Speculative decoding",
        "--spec-type",
    )
    draft_model: int | None = option(
        "Draft model",
        "A smaller model of the same vocabulary that guesses ahead. Unset: none.",
        "Speculative decoding",
        model=True,
        ge=1,
        le=2**31 - 1,
    )
    draft_max: int | None = option(
        "Draft tokens",
        "Most that a draft model guesses at once. Unset: 3.",
        "Speculative decoding",
        "--spec-draft-n-max",
        ge=1,
        le=64,
    )
    draft_min: int | None = option(
        "Fewest draft tokens",
        "Shorter guesses of a draft model are not tried. Unset: 0.",
        "Speculative decoding",
        "--spec-draft-n-min",
        ge=0,
        le=64,
    )
    draft_p_min: float | None = option(
        "Sureness of a draft",
        "The draft model stops guessing below this probability. Unset: 0.",
        "Speculative decoding",
        "--spec-draft-p-min",
        ge=0,
        le=1,
    )
    draft_gpu_layers: int | None = option(
        "Draft layers on the GPU",
        "The rest of the draft model stays on the CPU. Unset: as many as fit.",
        "Speculative decoding",
        "--spec-draft-ngl",
        build="cuda",
        ge=0,
        le=10_000,
    )
    ngram_size: int | None = option(
        "Longest n-gram",
        "Tokens that must repeat for a guess by ngram-simple. Unset: 12.",
        "Speculative decoding",
        "--spec-ngram-simple-size-n",
        ge=1,
        le=1024,
    )

    # Output

    max_tokens: int | None = option(
        "Longest answer",
        "Tokens after which any answer ends. Unset: up to the context.",
        "Output",
        "--n-predict",
        ge=1,
        le=10_000_000,
    )
    reasoning: Literal["on", "off", "auto"] | None = option(
        "Reasoning",
        "For models whose template can turn it on. Unset: auto, as the template says.",
        "Tools and reasoning",
        "--reasoning",
    )
    reasoning_format: Literal["none", "deepseek", "deepseek-legacy", "auto"] | None = option(
        "Form of reasoning",
        "Whether thoughts come apart from the answer; none leaves them in it. Unset: deepseek (apart).",
        "Tools and reasoning",
        "--reasoning-format",
    )
    reasoning_budget: int | None = option(
        "Longest reasoning",
        "Tokens after which thoughts end and the answer begins; 0 has none. Unset: no limit.",
        "Tools and reasoning",
        "--reasoning-budget",
        ge=0,
        le=10_000_000,
    )
    prefill: bool | None = option(
        "Continue an answer",
        "A request that ends with the assistant's message gets its continuation. Unset: on.",
        "Output",
        "--prefill-assistant",
        "--no-prefill-assistant",
    )
    seed: int | None = option(
        "Seed",
        "Of random numbers where a request names none. Unset: random.",
        "Output",
        "--seed",
        ge=0,
        le=2**31,
    )

    # Images

    image_min_tokens: int | None = option(
        "Fewest tokens an image", "Unset: as the model says.", "Images", "--image-min-tokens", ge=1, le=65_536
    )
    image_max_tokens: int | None = option(
        "Most tokens an image", "Unset: as the model says.", "Images", "--image-max-tokens", ge=1, le=65_536
    )
    mmproj_offload: bool | None = option(
        "Image encoder on the GPU",
        "Off keeps it on the CPU. Unset: on.",
        "Images",
        "--mmproj-offload",
        "--no-mmproj-offload",
        build="cuda",
    )

    # Embeddings

    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = option(
        "Pooling",
        "How one vector is made of all tokens'; rank gives scores. Unset: as the model says.",
        "Embeddings",
        "--pooling",
    )

    # Safety and program

    check_tensors: bool | None = option(
        "Check tensors",
        "Looks for broken values while loading; slower. Unset: off.",
        "Memory",
        "--check-tensors",
    )
    program: Literal["llama-server"] | None = option(
        "Program",
        "llama-server runs the one on the node's PATH in place of the installed xllamacpp. Unset: xllamacpp.",
        "Program",
    )


def objections(options: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each option that means nothing beside the others, or that is refused there."""
    found = unmet(options, NEEDS)
    if options.get("spec_type") in BY_DRAFT and not options.get("draft_model"):
        found["spec_type"] = f"{options['spec_type']} needs a draft model: choose one below."
    if options.get("flash_attention") == "off" and options.get("cache_type_v", "f16") not in (
        "f16",
        "f32",
        "bf16",
    ):
        found["cache_type_v"] = "Quantised values need flash attention, which is off."
    return found | disordered(
        options,
        [
            ("draft_min", "draft_max", "Not more than the most."),
            ("micro_batch", "batch", "Not more than the tokens of a step."),
            ("image_min_tokens", "image_max_tokens", "Not more than the most."),
        ],
    )
