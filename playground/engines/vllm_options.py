"""vLLM's options, by its names: what a person may set, grouped as people think."""

from collections.abc import Mapping
from typing import Any, Literal

from .base import EngineOptions, Needs, disordered, option, unmet

# The CPU build's own default takes a share of all memory; beside other engines a fixed amount is kinder.
KV_CACHE_CPU_GIB = 1.0
# vLLM has none of its own where a draft model or a method is named.
DRAFT_TOKENS = 3
# Ranks of LoRA adapters that vLLM sets memory aside for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

KvType = Literal[
    "auto",
    "bfloat16",
    "float16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_per_token_head",
    "int8_per_token_head",
    "int4_per_token_head",
    "nvfp4",
]
# The first are made while loading, of weights that are not quantised; the rest name what the files hold.
Quantisation = Literal[
    "fp8",
    "fp8_per_tensor",
    "fp8_per_channel",
    "fp8_per_block",
    "int8_per_channel_weight_only",
    "mxfp8",
    "nvfp4_per_token",
    "experts_int8",
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "compressed-tensors",
    "modelopt",
    "modelopt_fp4",
    "mxfp4",
    "quark",
    "torchao",
    "fbgemm_fp8",
    "fp_quant",
    "gpt_oss_mxfp4",
    "humming",
    "inc",
    "modelopt_mixed",
    "modelopt_mxfp8",
    "moe_wna16",
]
Attention = Literal[
    "FLASH_ATTN",
    "FLASHINFER",
    "TRITON_ATTN",
    "FLEX_ATTENTION",
    "FLASHMLA",
    "FLASHINFER_MLA",
    "FLASH_ATTN_MLA",
    "CUTLASS_MLA",
    "TRITON_MLA",
    "TOKENSPEED_MLA",
    "FLASHMLA_SPARSE",
    "FLASHINFER_MLA_SPARSE",
    "FLASH_ATTN_MLA_SPARSE",
]
Experts = Literal[
    "auto",
    "triton",
    "triton_unfused",
    "batched_triton",
    "cutlass",
    "deep_gemm",
    "deep_gemm_mega_moe",
    "flashinfer_cutlass",
    "flashinfer_cutedsl",
    "flashinfer_trtllm",
    "humming",
    "marlin",
]
ToolParser = Literal[
    "apertus",
    "cohere_command3",
    "cohere_command4",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v41",
    "dots",
    "ernie45",
    "functiongemma",
    "gemma4",
    "gigachat3",
    "glm45",
    "glm47",
    "granite",
    "granite-20b-fc",
    "granite4",
    "hermes",
    "hf",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "inkling",
    "internlm",
    "jamba",
    "k2_horizon",
    "kimi_k2",
    "kimi_k3",
    "lfm2",
    "ling3",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "longcat",
    "mimo",
    "minicpm5",
    "minimax_m2",
    "minimax_m3",
    "mistral",
    "muse_glimmer",
    "olmo3",
    "openai",
    "phi4_mini_json",
    "plamo3",
    "poolside_v1",
    "pythonic",
    "qwen3_coder",
    "qwen3_json",
    "qwen3_xml",
    "seed_oss",
    "step3",
    "step3p5",
    "xlam",
]
ReasoningParser = Literal[
    "cohere_command3",
    "cohere_command4",
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "deepseek_v41",
    "ernie45",
    "gemma4",
    "glm45",
    "glm47",
    "granite",
    "granite_thinking_parser",
    "hf",
    "holo2",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "inkling",
    "k2_horizon",
    "kimi_k2",
    "kimi_k3",
    "ling3",
    "mimo",
    "minicpmv",
    "minimax_m2",
    "minimax_m2_append_think",
    "minimax_m3",
    "mistral",
    "muse_glimmer",
    "nemotron_v3",
    "olmo3",
    "openai_gptoss",
    "plamo3",
    "poolside_v1",
    "qwen3",
    "seed_oss",
    "step3",
    "step3p5",
]

# Methods that guess by another model's weights.
BY_DRAFT = ("draft_model", "eagle", "eagle3", "medusa", "mlp_speculator")
NEEDS = (
    Needs(
        "structured_compact",
        "structured_backend",
        "Only xgrammar and guidance can: choose one.",
        ("xgrammar", "guidance"),
    ),
    Needs(
        "structured_closed",
        "structured_backend",
        "Only guidance can: choose it as the grammar backend.",
        ("guidance",),
    ),
    Needs("prompt_lookup_max", "spec_method", "Only where tokens are guessed by ngram.", ("ngram",)),
    Needs("prompt_lookup_min", "spec_method", "Only where tokens are guessed by ngram.", ("ngram",)),
    Needs("enable_eplb", "enable_expert_parallel", "Only with expert parallel."),
    Needs("tool_strict_level", "tool_call_parser", "Only with a tool parser."),
)


class VllmOptions(EngineOptions):
    """vLLM's options, by its names."""

    # Context

    max_model_len: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with, on a CPU as much of "
        "it as the KV cache holds.",
        "Context",
        "--max-model-len",
        ge=16,
        le=10_000_000,
    )
    disable_sliding_window: bool | None = option(
        "Without sliding window",
        "Every layer sees the whole context, which is cut to the window's size. Unset: off.",
        "Context",
        "--disable-sliding-window",
        "--no-disable-sliding-window",
    )

    # Memory

    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = option(
        "Data type", "Of weights and activations. Unset: as the model says.", "Memory", "--dtype"
    )
    kv_cache_dtype: KvType | None = option(
        "KV cache type",
        "fp8 holds twice the context. Unset: the model's data type.",
        "Memory",
        "--kv-cache-dtype",
    )
    gpu_memory_utilization: float | None = option(
        "Share of GPU memory",
        "What vLLM may take of a GPU's memory, weights included. Unset: 0.92.",
        "Memory",
        "--gpu-memory-utilization",
        build="cuda",
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
    block_size: int | None = option(
        "Block size",
        "Tokens a block of the KV cache. Unset: chosen by vLLM for the attention in use.",
        "Memory",
        "--block-size",
        ge=1,
        le=8192,
    )
    cpu_offload_gb: float | None = option(
        "Offload weights to RAM",
        "GiB of weights a GPU keeps in the node's RAM; slower. Unset: 0.",
        "Memory",
        "--cpu-offload-gb",
        build="cuda",
        ge=0,
        le=4096,
    )
    kv_offloading_size: float | None = option(
        "Offload KV cache to RAM",
        "GiB of the node's RAM for blocks that leave the GPU. Unset: none.",
        "Memory",
        "--kv-offloading-size",
        build="cuda",
        gt=0,
        le=4096,
    )
    mamba_cache_dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = option(
        "State type of Mamba layers",
        "Of models that have such layers. Unset: as the model says.",
        "Memory",
        "--mamba-cache-dtype",
    )
    load_format: (
        Literal["auto", "safetensors", "fastsafetensors", "runai_streamer", "mistral", "dummy"] | None
    ) = option(
        "Loading of weights",
        "runai_streamer reads many files at once; dummy fills in random weights, to time a start. "
        "Unset: auto.",
        "Memory",
        "--load-format",
    )
    safetensors_load_strategy: Literal["lazy", "eager", "prefetch"] | None = option(
        "Reading of files",
        "eager and prefetch read whole files first: faster from a network disk. Unset: lazy on a local disk.",
        "Memory",
        "--safetensors-load-strategy",
    )

    # Parallelism

    max_num_seqs: int | None = option(
        "Parallel requests",
        "Requests answered at once; more wait in a queue. Unset: chosen by vLLM.",
        "Parallelism",
        "--max-num-seqs",
        ge=1,
        le=4096,
    )
    max_num_queued_reqs: int | None = option(
        "Queue length",
        "Requests running and waiting together; more are refused with 503. Unset: no limit.",
        "Parallelism",
        "--max-num-queued-reqs",
        ge=1,
        le=1_000_000,
    )
    tensor_parallel_size: int | None = option(
        "Tensor parallel",
        "GPUs that share each layer. Unset: 1.",
        "Parallelism",
        "--tensor-parallel-size",
        build="cuda",
        ge=1,
        le=64,
    )
    pipeline_parallel_size: int | None = option(
        "Pipeline parallel",
        "GPUs that hold different layers. Unset: 1.",
        "Parallelism",
        "--pipeline-parallel-size",
        build="cuda",
        ge=1,
        le=64,
    )
    data_parallel_size: int | None = option(
        "Data parallel",
        "Copies that share the requests, each on GPUs of its own. Unset: 1.",
        "Parallelism",
        "--data-parallel-size",
        build="cuda",
        ge=1,
        le=64,
    )
    decode_context_parallel_size: int | None = option(
        "Context parallel",
        "GPUs of one tensor group that share the KV cache of one request. Unset: 1.",
        "Parallelism",
        "--decode-context-parallel-size",
        build="cuda",
        ge=1,
        le=64,
    )
    enable_expert_parallel: bool | None = option(
        "Expert parallel",
        "Experts of a mixture are spread whole over GPUs in place of being cut. Unset: off.",
        "Parallelism",
        "--enable-expert-parallel",
        "--no-enable-expert-parallel",
        build="cuda",
    )
    enable_eplb: bool | None = option(
        "Balance experts",
        "Moves busy experts between GPUs while it serves. Unset: off.",
        "Parallelism",
        "--enable-eplb",
        "--no-enable-eplb",
        build="cuda",
    )
    disable_custom_all_reduce: bool | None = option(
        "Plain all-reduce",
        "NCCL's in place of vLLM's own, for GPUs that do not reach each other's memory. Unset: off.",
        "Parallelism",
        "--disable-custom-all-reduce",
        "--no-disable-custom-all-reduce",
        build="cuda",
    )
    threads: int | None = option(
        "Threads",
        "CPU threads of a worker. Unset: the cores the replica was given.",
        "Parallelism",
        ge=1,
        le=1024,
    )

    # Quantisation

    quantization: Quantisation | None = option(
        "Quantisation",
        "Of the weights: fp8…, int8…, mxfp8, nvfp4_per_token and experts_int8 while loading, the others as "
        "the files are. Unset: as the model's files say.",
        "Quantisation",
        "--quantization",
    )

    # Speed

    enforce_eager: bool | None = option(
        "Eager",
        "Without compilation and CUDA graphs: starts in a third of the time, answers slower. Unset: on "
        "for a CPU, off for a GPU.",
        "Speed",
        "--enforce-eager",
        "--no-enforce-eager",
    )
    optimization_level: Literal["0", "1", "2", "3"] | None = option(
        "Optimisation",
        "0 starts soonest, 3 answers fastest; eager is below all of them. Unset: 2.",
        "Speed",
        "--optimization-level",
    )
    performance_mode: Literal["balanced", "interactivity", "throughput"] | None = option(
        "Aim",
        "Few requests answered soon, or many together. Unset: balanced.",
        "Speed",
        "--performance-mode",
    )
    enable_prefix_caching: bool | None = option(
        "Reuse prompts",
        "Keeps the work on a prompt's beginning for other requests. Unset: on, where the model can.",
        "Speed",
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
    )
    enable_chunked_prefill: bool | None = option(
        "Chunked prefill",
        "Reads long prompts in pieces between other requests' tokens. Unset: on, where the model can.",
        "Speed",
        "--enable-chunked-prefill",
        "--no-enable-chunked-prefill",
    )
    max_num_batched_tokens: int | None = option(
        "Tokens a step",
        "At most so many in one step of the model. Unset: chosen by vLLM for the hardware.",
        "Speed",
        "--max-num-batched-tokens",
        ge=16,
        le=1_048_576,
    )
    long_prefill_token_threshold: int | None = option(
        "Long prompt",
        "From so many tokens on a prompt is read in smaller pieces while others wait; 0 is never. Unset: 0.",
        "Speed",
        "--long-prefill-token-threshold",
        ge=0,
        le=1_048_576,
    )
    scheduling_policy: Literal["fcfs", "priority"] | None = option(
        "Order of requests",
        "First come first served, or by the priority that requests name. Unset: fcfs.",
        "Speed",
        "--scheduling-policy",
    )
    async_scheduling: bool | None = option(
        "Schedule ahead",
        "Plans the next step while one runs. Unset: on, where it can.",
        "Speed",
        "--async-scheduling",
        "--no-async-scheduling",
    )
    stream_interval: int | None = option(
        "Tokens a chunk",
        "A stream sends so many at once; more makes less work and a choppier answer. Unset: 1.",
        "Speed",
        "--stream-interval",
        ge=1,
        le=1000,
    )
    max_cudagraph_capture_size: int | None = option(
        "Largest CUDA graph",
        "Requests in one captured step; 0 captures none. Unset: chosen by vLLM.",
        "Speed",
        "--max-cudagraph-capture-size",
        build="cuda",
        ge=0,
        le=8192,
    )
    attention_backend: Attention | None = option(
        "Attention",
        "Implementation of attention; not every one runs every model. Unset: chosen by vLLM.",
        "Speed",
        "--attention-backend",
        build="cuda",
    )
    moe_backend: Experts | None = option(
        "Experts",
        "Implementation of a mixture's experts. Unset: auto.",
        "Speed",
        "--moe-backend",
        build="cuda",
    )
    model_impl: Literal["auto", "vllm", "transformers"] | None = option(
        "Model code",
        "vLLM's own, or transformers' run by vLLM, for architectures that vLLM has not. Unset: auto.",
        "Speed",
        "--model-impl",
    )

    # Speculative decoding

    spec_method: (
        Literal["ngram", "draft_model", "eagle", "eagle3", "medusa", "mlp_speculator", "mtp"] | None
    ) = option(
        "Guess tokens by",
        "ngram repeats what the prompt holds, mtp uses the model's own layers; the others need a draft "
        "model. Unset: draft_model where one is chosen, else off.",
        "Speculative decoding",
        "--speculative-config.method",
    )
    draft_model: int | None = option(
        "Draft model",
        "A smaller model of the same vocabulary that guesses ahead. Unset: none.",
        "Speculative decoding",
        model=True,
        ge=1,
        le=2**31 - 1,
    )
    spec_tokens: int | None = option(
        "Draft tokens",
        f"Tokens guessed at once. Unset: {DRAFT_TOKENS}.",
        "Speculative decoding",
        "--speculative-config.num_speculative_tokens",
        ge=1,
        le=64,
    )
    prompt_lookup_max: int | None = option(
        "Longest n-gram",
        "Tokens that must repeat for a guess by ngram. Unset: 5.",
        "Speculative decoding",
        "--speculative-config.prompt_lookup_max",
        ge=1,
        le=64,
    )
    prompt_lookup_min: int | None = option(
        "Shortest n-gram",
        "Unset: as the longest.",
        "Speculative decoding",
        "--speculative-config.prompt_lookup_min",
        ge=1,
        le=64,
    )

    # LoRA

    runtime_lora: bool | None = option(
        "Attach while it runs",
        "Adapters may be added without a restart. Unset: off.",
        "LoRA",
    )
    max_loras: int | None = option(
        "Adapters at once", "In one step of the model. Unset: 1.", "LoRA", "--max-loras", ge=1, le=256
    )
    max_lora_rank: Literal["1", "8", "16", "32", "64", "128", "256", "320", "512"] | None = option(
        "Largest rank", "Of the adapters it takes. Unset: 16.", "LoRA", "--max-lora-rank"
    )
    max_cpu_loras: int | None = option(
        "Adapters in RAM",
        "Kept there when not in use; not below those at once. Unset: as those at once.",
        "LoRA",
        "--max-cpu-loras",
        ge=1,
        le=4096,
    )
    lora_dtype: Literal["auto", "bfloat16", "float16"] | None = option(
        "Type of adapters", "Unset: as the model's.", "LoRA", "--lora-dtype"
    )
    fully_sharded_loras: bool | None = option(
        "Split adapters",
        "Over all GPUs of a tensor group, in place of half of the work. Unset: off.",
        "LoRA",
        "--fully-sharded-loras",
        "--no-fully-sharded-loras",
        build="cuda",
    )

    # Output

    reasoning_parser: ReasoningParser | None = option(
        "Reasoning parser",
        "Sets thoughts apart from the answer. Unset: none.",
        "Tools and reasoning",
        "--reasoning-parser",
    )
    tool_call_parser: ToolParser | None = option(
        "Tool parser",
        "Lets the model call tools when it wants to. Unset: none.",
        "Tools and reasoning",
        "--tool-call-parser",
    )
    tool_strict_level: Literal["auto", "function", "parameter"] | None = option(
        "Strictness of tool calls",
        "Holds every call to its form, or to its parameters' types too. Unset: auto, as each tool asks.",
        "Tools and reasoning",
        "--tool-strict-level",
    )
    exclude_tools_when_tool_choice_none: bool | None = option(
        "Hide unwanted tools",
        "A request whose tool_choice is none shows the model no tools. Unset: off.",
        "Tools and reasoning",
        "--exclude-tools-when-tool-choice-none",
        "--no-exclude-tools-when-tool-choice-none",
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
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"] | None = (
        option(
            "Log-probabilities of",
            "What the model gave, or what sampling made of it. Unset: raw_logprobs.",
            "Output",
            "--logprobs-mode",
        )
    )
    enable_prompt_tokens_details: bool | None = option(
        "Tell cached tokens",
        "Usage says how many tokens of a prompt were reused. Unset: off.",
        "Output",
        "--enable-prompt-tokens-details",
        "--no-enable-prompt-tokens-details",
    )
    chat_template_content_format: Literal["auto", "string", "openai"] | None = option(
        "Form of messages",
        "How the chat template gets a message of several parts. Unset: auto.",
        "Output",
        "--chat-template-content-format",
    )
    seed: int | None = option("Seed", "Of random numbers. Unset: 0.", "Output", "--seed", ge=0, le=2**31)

    # Structured output

    structured_backend: Literal["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"] | None = (
        option(
            "Grammar backend",
            "What holds answers to a JSON schema or grammar. Unset: auto, by each request.",
            "Structured output",
            "--structured-outputs-config.backend",
        )
    )
    structured_compact: bool | None = option(
        "Compact JSON",
        "No spaces between a JSON answer's parts. Unset: off.",
        "Structured output",
        "--structured-outputs-config.disable_any_whitespace=true",
        "--structured-outputs-config.disable_any_whitespace=false",
    )
    structured_closed: bool | None = option(
        "Only named properties",
        "guidance adds no property that the schema does not name. Unset: off.",
        "Structured output",
        "--structured-outputs-config.disable_additional_properties=true",
        "--structured-outputs-config.disable_additional_properties=false",
    )
    structured_reasoning: bool | None = option(
        "Thoughts, too",
        "The schema holds for reasoning as well. Unset: off.",
        "Structured output",
        "--structured-outputs-config.enable_in_reasoning=true",
        "--structured-outputs-config.enable_in_reasoning=false",
    )

    # Images

    images_per_prompt: int | None = option(
        "Images a request",
        "0 refuses them and saves their memory. Unset: 999.",
        "Images",
        "--limit-mm-per-prompt.image",
        ge=0,
        le=999,
    )
    videos_per_prompt: int | None = option(
        "Videos a request",
        "0 refuses them and saves their memory. Unset: 999.",
        "Images",
        "--limit-mm-per-prompt.video",
        ge=0,
        le=999,
    )
    audios_per_prompt: int | None = option(
        "Sounds a request",
        "0 refuses them and saves their memory. Unset: 999.",
        "Images",
        "--limit-mm-per-prompt.audio",
        ge=0,
        le=999,
    )
    language_model_only: bool | None = option(
        "Text only",
        "Serves the language model of a model that could see. Unset: off.",
        "Images",
        "--language-model-only",
        "--no-language-model-only",
    )
    mm_processor_cache_gb: float | None = option(
        "Cache of images",
        "GiB of RAM for images made ready before; 0 is none. Unset: 4.",
        "Images",
        "--mm-processor-cache-gb",
        ge=0,
        le=1024,
    )
    mm_encoder_tp_mode: Literal["weights", "data"] | None = option(
        "Split of the image encoder",
        "Over GPUs by its weights, or by the images. Unset: weights.",
        "Images",
        "--mm-encoder-tp-mode",
        build="cuda",
    )
    skip_mm_profiling: bool | None = option(
        "Do not measure images",
        "Starts sooner; images may then run out of memory. Unset: off.",
        "Images",
        "--skip-mm-profiling",
        "--no-skip-mm-profiling",
    )

    # Embeddings

    runner: Literal["auto", "generate", "pooling"] | None = option(
        "Used as", "A model that writes, or one that gives vectors. Unset: auto.", "Embeddings", "--runner"
    )
    convert: Literal["auto", "none", "embed", "classify"] | None = option(
        "Turned into",
        "Makes vectors or classes of a model that writes. Unset: auto.",
        "Embeddings",
        "--convert",
    )
    pooling: Literal["CLS", "LAST", "MEAN"] | None = option(
        "Pooling",
        "How one vector is made of all tokens'. Unset: as the model says.",
        "Embeddings",
        "--pooler-config.pooling_type",
    )
    normalize: bool | None = option(
        "Normalise",
        "Vectors of length one; scores between 0 and 1. Unset: on, for most models.",
        "Embeddings",
        "--pooler-config.use_activation=true",
        "--pooler-config.use_activation=false",
    )
    dimensions: int | None = option(
        "Dimensions",
        "Vectors cut to so many, where the model was trained for it. Unset: all.",
        "Embeddings",
        "--pooler-config.dimensions",
        ge=1,
        le=65_536,
    )
    chunked_embeddings: bool | None = option(
        "Long texts in pieces",
        "A text beyond the context is embedded in parts, whose mean counts. Unset: off.",
        "Embeddings",
        "--pooler-config.enable_chunked_processing=true",
        "--pooler-config.enable_chunked_processing=false",
    )


def objections(options: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each option that means nothing beside the others, or that vLLM would refuse there."""
    found = unmet(options, NEEDS)
    method, draft = options.get("spec_method"), options.get("draft_model")
    if method in BY_DRAFT and not draft:
        found["spec_method"] = f"{method} needs a draft model: choose one below."
    if draft and method and method not in BY_DRAFT:
        found["draft_model"] = f"{method} guesses without one: leave it out."
    if options.get("spec_tokens") and not (method or draft):
        found["spec_tokens"] = "Only where tokens are guessed: choose a method or a draft model."
    return found | disordered(
        options,
        [
            ("prompt_lookup_min", "prompt_lookup_max", "Not longer than the longest."),
            ("max_loras", "max_cpu_loras", "Not more than are kept in RAM."),
        ],
    )
