"""Triton's options: its scheduler's and its server's, and those of the batching behind its Python backend."""

from typing import Literal

from .base import EngineOptions, option


class TritonOptions(EngineOptions):
    """Names as in Triton's model configuration, where it has them."""

    context: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with.",
        "Context",
        "--context",
        ge=64,
        le=10_000_000,
    )
    kv_cache_tokens: int | None = option(
        "Tokens of the KV cache",
        "All requests of an instance share them; at least one context. Unset: one context.",
        "Memory",
        "--kv-cache-tokens",
        ge=64,
        le=100_000_000,
    )
    page_size: int | None = option(
        "Page size",
        "Tokens of the KV cache that are given out at once. Unset: 32.",
        "Memory",
        "--page-size",
        ge=4,
        le=4096,
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = option(
        "Data type", "Of the weights once loaded. Unset: as they are stored.", "Memory", "--dtype"
    )
    prefix_sharing: bool | None = option(
        "Share prefixes",
        "Keeps the work on a prompt's beginning for other requests. Unset: on.",
        "Memory",
        "--prefix-sharing",
        "--no-prefix-sharing",
    )
    response_cache_mib: int | None = option(
        "Response cache",
        "MiB for whole answers of requests that leave nothing to chance: an equal one is answered from it. "
        "Streamed answers are not kept. Unset: none.",
        "Memory",
        "--response-cache-mib",
        ge=1,
        le=1_048_576,
    )
    parallel: int | None = option(
        "Parallel requests",
        "Requests computed together in one instance; more wait. Unset: 8.",
        "Parallelism",
        "--parallel",
        ge=1,
        le=1024,
    )
    instances: int | None = option(
        "Instances",
        "Triton's instances of the model: each computes by itself and has a KV cache of its own; "
        "the weights are shared. Unset: 1.",
        "Parallelism",
        "--instances",
        ge=1,
        le=64,
    )
    threads: int | None = option(
        "Threads",
        "CPU threads for computing. Unset: the cores the replica was given.",
        "Parallelism",
        ge=1,
        le=1024,
    )
    http_threads: int | None = option(
        "HTTP threads", "Of Triton's own server. Unset: 8.", "Parallelism", "--http-threads", ge=1, le=256
    )
    max_batch_size: int | None = option(
        "Largest batch",
        "Requests that Triton's dynamic batcher hands over at once. Unset: 8.",
        "Batching",
        "--max-batch-size",
        ge=1,
        le=1024,
    )
    preferred_batch_size: int | None = option(
        "Preferred batch",
        "Batches of this size, or a multiple, go without delay. Unset: the largest.",
        "Batching",
        "--preferred-batch-size",
        ge=1,
        le=1024,
    )
    queue_delay_us: int | None = option(
        "Queue delay",
        "Microseconds that a request may wait for others to go with it. Unset: 0.",
        "Batching",
        "--queue-delay-us",
        ge=0,
        le=10_000_000,
    )
    max_queue_size: int | None = option(
        "Longest queue",
        "Requests that wait in Triton; more are refused. Unset: without end.",
        "Batching",
        "--max-queue-size",
        ge=1,
        le=1_000_000,
    )
    queue_timeout_ms: int | None = option(
        "Queue timeout",
        "Milliseconds after which a request that still waits in Triton is refused. Unset: never.",
        "Batching",
        "--queue-timeout-ms",
        ge=1,
        le=3_600_000,
    )
    scheduler: Literal["fifo", "prefill_first"] | None = option(
        "Order",
        "Whether answers that are being written go before new prompts (fifo) or after. Unset: fifo.",
        "Batching",
        "--scheduler",
    )
    step_tokens: int | None = option(
        "Tokens a step",
        "Of all prompts and answers computed at once; larger reads prompts faster and takes more memory. "
        "Unset: 256 on a CPU, 2048 on a GPU.",
        "Speed",
        "--step-tokens",
        ge=16,
        le=65_536,
    )
    attention: Literal["sdpa", "paged|eager", "flash_attention_2"] | None = option(
        "Attention", "Unset: the fastest that the model has.", "Speed", "--attention"
    )
    compile_level: int | None = option(
        "Compilation level",
        "By torch.compile; higher is slower to start and faster after. Unset: 0, not at all.",
        "Speed",
        "--compile-level",
        ge=0,
        le=3,
    )
    cuda_graphs: bool | None = option(
        "CUDA graphs",
        "Unset: chosen by transformers.",
        "Speed",
        "--cuda-graphs",
        "--no-cuda-graphs",
        build="cuda",
    )
    sampling_defaults: Literal["model", "openai"] | None = option(
        "Sampling where a request says nothing",
        "As the model's own generation_config.json says, or temperature 1 as OpenAI does. Unset: model.",
        "Output",
        "--sampling-defaults",
    )
    max_tokens: int | None = option(
        "Longest answer",
        "Where a request says nothing. Unset: up to the context.",
        "Output",
        "--max-tokens",
        ge=1,
        le=10_000_000,
    )
    seed: int | None = option(
        "Seed",
        "Of the random numbers of all requests together; one request's own is not heeded. Unset: random.",
        "Output",
        "--seed",
        ge=0,
        le=2**31,
    )
    log_verbose: int | None = option(
        "Triton's log", "How much tritonserver tells. Unset: 0.", "Program", "--log-verbose", ge=0, le=4
    )
    program: Literal["openai-frontend"] | None = option(
        "Program",
        "openai-frontend runs NVIDIA's, with its vLLM backend, on nodes made from its container "
        "(/opt/tritonserver/python/openai). Of the options it takes the context, the longest answer, the "
        "data type and Triton's log. Unset: pytriton.",
        "Program",
    )
