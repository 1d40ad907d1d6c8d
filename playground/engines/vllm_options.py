"""vLLM's options, by its names: what a person may set, grouped as people think."""

from typing import Literal

from .base import EngineOptions, option

KvType = Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"]
# The CPU build's own default takes a share of all memory; beside other engines a fixed amount is kinder.
KV_CACHE_CPU_GIB = 1.0


class VllmOptions(EngineOptions):
    """vLLM's options, by its names."""

    max_model_len: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with.",
        "Context",
        "--max-model-len",
        ge=16,
        le=10_000_000,
    )
    max_num_seqs: int | None = option(
        "Parallel requests",
        "Requests answered at once; more wait in a queue. Unset: chosen by vLLM.",
        "Parallelism",
        "--max-num-seqs",
        ge=1,
        le=4096,
    )
    tensor_parallel_size: int | None = option(
        "Tensor parallel",
        "GPUs that share each layer. Unset: 1.",
        "Parallelism",
        "--tensor-parallel-size",
        ge=1,
        le=64,
    )
    pipeline_parallel_size: int | None = option(
        "Pipeline parallel",
        "GPUs that hold different layers. Unset: 1.",
        "Parallelism",
        "--pipeline-parallel-size",
        ge=1,
        le=64,
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = option(
        "Data type", "Of weights and activations. Unset: as the model says.", "Memory", "--dtype"
    )
    quantization: Literal["fp8", "awq", "gptq", "compressed-tensors", "bitsandbytes"] | None = option(
        "Quantisation", "Of the weights. Unset: as the model's files say.", "Memory", "--quantization"
    )
    kv_cache_dtype: KvType | None = option(
        "KV cache type",
        "fp8 holds twice the context. Unset: the model's data type.",
        "Memory",
        "--kv-cache-dtype",
    )
    gpu_memory_utilization: float | None = option(
        "Share of GPU memory",
        "What vLLM may take of a GPU's memory, weights included. Unset: chosen by vLLM.",
        "Memory",
        "--gpu-memory-utilization",
        gt=0,
        le=1,
    )
    kv_cache_gib: float | None = option(
        "KV cache",
        f"GiB set aside for it. Unset: {KV_CACHE_CPU_GIB:g} on a CPU; on a GPU what its share of memory "
        "leaves.",
        "Memory",
        gt=0,
        le=4096,
    )
    cpu_offload_gb: float | None = option(
        "Offload to RAM",
        "GiB of weights a GPU keeps in the node's RAM; slower. Unset: 0.",
        "Memory",
        "--cpu-offload-gb",
        ge=0,
        le=4096,
    )
    enforce_eager: bool | None = option(
        "Eager",
        "Without compilation and CUDA graphs: starts in a third of the time, answers slower. Unset: on "
        "for a CPU, off for a GPU.",
        "Speed",
        "--enforce-eager",
        "--no-enforce-eager",
    )
    enable_prefix_caching: bool | None = option(
        "Reuse prompts",
        "Keeps the work on a prompt's beginning for other requests. Unset: chosen by vLLM.",
        "Speed",
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
    )
    enable_chunked_prefill: bool | None = option(
        "Chunked prefill",
        "Reads long prompts in pieces between other requests' tokens. Unset: chosen by vLLM.",
        "Speed",
        "--enable-chunked-prefill",
        "--no-enable-chunked-prefill",
    )
    max_num_batched_tokens: int | None = option(
        "Tokens a step",
        "At most so many in one step of the model. Unset: chosen by vLLM.",
        "Speed",
        "--max-num-batched-tokens",
        ge=16,
        le=1_048_576,
    )
    threads: int | None = option(
        "Threads",
        "CPU threads of a worker. Unset: the cores the replica was given.",
        "Parallelism",
        ge=1,
        le=1024,
    )
    generation_config: Literal["auto", "vllm"] | None = option(
        "Sampling defaults",
        "auto takes them from the model's files where a request names none; vllm uses the API's own. "
        "Unset: auto.",
        "Output",
        "--generation-config",
    )
    max_logprobs: int | None = option(
        "Most log-probabilities",
        "A request may ask for. Unset: 20.",
        "Output",
        "--max-logprobs",
        ge=0,
        le=1000,
    )
    reasoning_parser: (
        Literal[
            "deepseek_r1", "qwen3", "granite", "glm45", "gemma4", "mistral", "minimax_m2", "openai_gptoss"
        ]
        | None
    ) = option(
        "Reasoning parser",
        "Sets thoughts apart from the answer. Unset: none.",
        "Output",
        "--reasoning-parser",
    )
    tool_call_parser: (
        Literal["hermes", "llama3_json", "mistral", "pythonic", "qwen3_coder", "glm45"] | None
    ) = option(
        "Tool parser",
        "Lets the model call tools when it wants to. Unset: none.",
        "Output",
        "--tool-call-parser",
    )
    seed: int | None = option("Seed", "Of random numbers. Unset: 0.", "Output", "--seed", ge=0, le=2**31)
