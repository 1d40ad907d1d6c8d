"""SGLang's options, by its names: what a person may set, grouped as people think.

Choices are those that 0.5.15, which runs on a CPU, and 0.5.23, for GPUs, both take.
"""

from typing import Literal

from .base import EngineOptions, option

# A CPU's default would be most of the machine's memory; beside other engines a fixed number is kinder.
KV_TOKENS_CPU = 8192
# SGLang has no defaults of its own for a draft model: steps, candidates of each, tokens checked at once.
DRAFT_STEPS, DRAFT_TOPK, DRAFT_TOKENS = 3, 1, 4
# Ranks of LoRA adapters that it sets memory aside for where none is named.
RANK = 16

KvType = Literal["auto", "bfloat16", "fp8_e4m3", "fp8_e5m2"]
# The first are made while loading, of weights that are not quantised; the rest name what the files hold.
Quantisation = Literal[
    "fp8",
    "mxfp8",
    "w8a8_fp8",
    "w8a8_int8",
    "bitsandbytes",
    "nvfp4_online",
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "moe_wna16",
    "compressed-tensors",
    "auto-round",
    "modelopt",
    "modelopt_fp8",
    "modelopt_fp4",
    "modelopt_mixed",
    "petit_nvfp4",
    "mxfp4",
    "w4afp8",
    "quark",
    "unquant",
]
Attention = Literal[
    "triton",
    "torch_native",
    "flex_attention",
    "flashinfer",
    "fa3",
    "fa4",
    "flashmla",
    "trtllm_mha",
    "trtllm_mla",
    "cutedsl_mla",
    "dsa",
]
MoeRunner = Literal[
    "auto",
    "deep_gemm",
    "triton",
    "triton_kernel",
    "flashinfer_trtllm",
    "flashinfer_cutlass",
    "flashinfer_mxfp4",
    "flashinfer_cutedsl",
    "cutlass",
    "marlin",
]
ToolParser = Literal[
    "auto",
    "apertus2509",
    "cohere_command4",
    "deepseekv3",
    "deepseekv31",
    "deepseekv32",
    "deepseekv4",
    "gemma4",
    "gigachat3",
    "glm45",
    "glm47",
    "gpt-oss",
    "hermes",
    "hunyuan",
    "interns1",
    "kimi_k2",
    "lfm2",
    "llama3",
    "mimo",
    "minicpm5",
    "minimax-m2",
    "mistral",
    "poolside_v1",
    "pythonic",
    "qwen",
    "qwen3_coder",
    "step3",
    "step3p5",
    "trinity",
]
ReasoningParser = Literal[
    "auto",
    "apertus2509",
    "cohere_command4",
    "deepseek-r1",
    "deepseek-v3",
    "deepseek-v4",
    "gemma4",
    "glm45",
    "gpt-oss",
    "hunyuan",
    "interns1",
    "kimi",
    "kimi_k2",
    "mimo",
    "minimax",
    "minimax-append-think",
    "mistral",
    "nemotron_3",
    "poolside_v1",
    "qwen3",
    "qwen3-thinking",
    "step3",
    "step3p5",
]


class SglangOptions(EngineOptions):
    """SGLang's options, by its names."""

    # Context

    context_length: int | None = option(
        "Context",
        "Tokens of prompt and answer together. Unset: what the model was trained with.",
        "Context",
        "--context-length",
        ge=16,
        le=10_000_000,
    )
    allow_auto_truncate: bool | None = option(
        "Cut long prompts",
        "A prompt beyond the context loses its end in place of being refused. Unset: off.",
        "Context",
        "--allow-auto-truncate",
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
    mem_fraction_static: float | None = option(
        "Share of GPU memory",
        "What weights and KV cache may take of a GPU's memory. Unset: chosen by SGLang, about 0.85.",
        "Memory",
        "--mem-fraction-static",
        build="cuda",
        gt=0,
        lt=1,
    )
    max_total_tokens: int | None = option(
        "KV cache",
        f"Tokens it holds, over all requests. Unset: on a CPU one context, at most {KV_TOKENS_CPU:,}; on a "
        "GPU what its share of memory leaves.",
        "Memory",
        "--max-total-tokens",
        ge=64,
        le=1_000_000_000,
    )
    page_size: int | None = option(
        "Page size",
        "Tokens a page of the KV cache. Unset: chosen by SGLang for the attention in use.",
        "Memory",
        "--page-size",
        ge=1,
        le=1024,
    )
    swa_full_tokens_ratio: float | None = option(
        "Tokens of sliding layers",
        "For each that layers which see everything hold. Unset: 0.8.",
        "Memory",
        "--swa-full-tokens-ratio",
        gt=0,
        le=1,
    )
    disable_hybrid_swa_memory: bool | None = option(
        "One pool for all layers",
        "Layers that slide keep as much as those that see everything. Unset: off.",
        "Memory",
        "--disable-hybrid-swa-memory",
    )
    radix_eviction_policy: Literal["lru", "lfu", "slru", "priority"] | None = option(
        "Forget first",
        "Which kept prompts give way: lru those not used for long, lfu those used seldom. Unset: lru.",
        "Memory",
        "--radix-eviction-policy",
    )
    enable_hierarchical_cache: bool | None = option(
        "Keep prompts in RAM",
        "What leaves the GPU's KV cache is kept in the node's RAM. Unset: off.",
        "Memory",
        "--enable-hierarchical-cache",
        build="cuda",
    )
    hicache_ratio: float | None = option(
        "RAM for prompts, as a ratio",
        "Of the GPU's KV cache; above 1. Unset: 2.",
        "Memory",
        "--hicache-ratio",
        build="cuda",
        gt=1,
        le=100,
    )
    hicache_size: int | None = option(
        "RAM for prompts",
        "GB for each GPU, in place of the ratio. Unset: by the ratio.",
        "Memory",
        "--hicache-size",
        build="cuda",
        ge=1,
        le=16_384,
    )
    hicache_write_policy: Literal["write_back", "write_through", "write_through_selective"] | None = option(
        "Write to RAM",
        "When a prompt leaves, at once, or at once if it was used before. Unset: write_through.",
        "Memory",
        "--hicache-write-policy",
        build="cuda",
    )
    cpu_offload_gb: int | None = option(
        "Offload weights to RAM",
        "GB of weights a GPU keeps in the node's RAM; slower. Unset: 0.",
        "Memory",
        "--cpu-offload-gb",
        build="cuda",
        ge=0,
        le=4096,
    )
    max_mamba_cache_size: int | None = option(
        "States of Mamba layers",
        "Requests whose state is held, in models that have such layers. Unset: by the share below.",
        "Memory",
        "--max-mamba-cache-size",
        ge=1,
        le=1_000_000,
    )
    mamba_full_memory_ratio: float | None = option(
        "Share of Mamba states",
        "Memory of states for each byte of KV cache. Unset: 0.9.",
        "Memory",
        "--mamba-full-memory-ratio",
        gt=0,
        le=100,
    )
    mamba_ssm_dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        "State type of Mamba layers",
        "Unset: as the model says.",
        "Memory",
        "--mamba-ssm-dtype",
    )
    load_format: Literal["auto", "safetensors", "fastsafetensors", "runai_streamer", "dummy"] | None = option(
        "Loading of weights",
        "fastsafetensors and runai_streamer read many files at once; dummy fills in random weights, to time "
        "a start. Unset: auto.",
        "Memory",
        "--load-format",
    )
    weight_loader_disable_mmap: bool | None = option(
        "Read files whole",
        "In place of mapping them into memory: faster from a network disk. Unset: off.",
        "Memory",
        "--weight-loader-disable-mmap",
    )

    # Parallelism

    max_running_requests: int | None = option(
        "Parallel requests",
        "Requests answered at once; more wait in a queue. Unset: chosen by SGLang.",
        "Parallelism",
        "--max-running-requests",
        ge=1,
        le=4096,
    )
    max_queued_requests: int | None = option(
        "Queue length",
        "Requests waiting; more are refused. Unset: no limit.",
        "Parallelism",
        "--max-queued-requests",
        ge=1,
        le=1_000_000,
    )
    tp_size: int | None = option(
        "Tensor parallel",
        "GPUs that share each layer. Unset: 1.",
        "Parallelism",
        "--tp-size",
        build="cuda",
        ge=1,
        le=64,
    )
    pp_size: int | None = option(
        "Pipeline parallel",
        "GPUs that hold different layers. Unset: 1.",
        "Parallelism",
        "--pp-size",
        build="cuda",
        ge=1,
        le=64,
    )
    dp_size: int | None = option(
        "Data parallel",
        "Copies that share the requests, each on GPUs of its own. Unset: 1.",
        "Parallelism",
        "--dp-size",
        build="cuda",
        ge=1,
        le=64,
    )
    dcp_size: int | None = option(
        "Context parallel",
        "GPUs of one tensor group that share the KV cache of one request. Unset: 1.",
        "Parallelism",
        "--dcp-size",
        build="cuda",
        ge=1,
        le=64,
    )
    ep_size: int | None = option(
        "Expert parallel size",
        "GPUs of one tensor group over which a mixture's experts are spread whole. Unset: 1.",
        "Parallelism",
        "--ep-size",
        build="cuda",
        ge=1,
        le=64,
    )
    enable_dp_attention: bool | None = option(
        "Attention by copies",
        "The copies of data parallel share the tensor group's GPUs: attention is copied, the rest is cut. "
        "Unset: off.",
        "Parallelism",
        "--enable-dp-attention",
        build="cuda",
    )
    enable_dp_lm_head: bool | None = option(
        "Head by copies",
        "With attention by copies: each has its own part of the vocabulary. Unset: off.",
        "Parallelism",
        "--enable-dp-lm-head",
        build="cuda",
    )
    load_balance_method: Literal["auto", "round_robin", "total_requests", "total_tokens"] | None = option(
        "Choose a copy",
        "In turn, or the one with the fewest requests or tokens. Unset: auto.",
        "Parallelism",
        "--load-balance-method",
        build="cuda",
    )
    moe_a2a_backend: Literal["none", "deepep", "mooncake", "nixl", "flashinfer"] | None = option(
        "Exchange between experts",
        "How tokens reach the GPU of their expert. Unset: none, all is reduced over all.",
        "Parallelism",
        "--moe-a2a-backend",
        build="cuda",
    )
    ep_num_redundant_experts: int | None = option(
        "Spare experts",
        "Busy experts kept twice. Unset: 0.",
        "Parallelism",
        "--ep-num-redundant-experts",
        build="cuda",
        ge=0,
        le=1024,
    )
    enable_eplb: bool | None = option(
        "Balance experts",
        "Moves busy experts between GPUs while it serves. Unset: off.",
        "Parallelism",
        "--enable-eplb",
        build="cuda",
    )
    moe_dense_tp_size: int | None = option(
        "Tensor parallel of dense layers",
        "Of a mixture, where cutting them all makes pieces too small. Unset: as tensor parallel.",
        "Parallelism",
        "--moe-dense-tp-size",
        build="cuda",
        ge=1,
        le=64,
    )
    enable_two_batch_overlap: bool | None = option(
        "Two batches at once",
        "One computes while the other is exchanged. Unset: off.",
        "Parallelism",
        "--enable-two-batch-overlap",
        build="cuda",
    )
    disable_custom_all_reduce: bool | None = option(
        "Plain all-reduce",
        "NCCL's in place of SGLang's own, for GPUs that do not reach each other's memory. Unset: off.",
        "Parallelism",
        "--disable-custom-all-reduce",
        build="cuda",
    )
    enable_nccl_nvls: bool | None = option(
        "NVLink SHARP",
        "The switch adds up, where there is one. Unset: off.",
        "Parallelism",
        "--enable-nccl-nvls",
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
        "Of the weights: fp8, mxfp8, w8a8…, bitsandbytes and nvfp4_online while loading, the others as the "
        "files are; unquant undoes them. Unset: as the model's files say.",
        "Quantisation",
        "--quantization",
    )
    enable_fp32_lm_head: bool | None = option(
        "Head in 32 bits",
        "Logits of full precision, also of a quantised model. Unset: off.",
        "Quantisation",
        "--enable-fp32-lm-head",
    )
    fp8_gemm_backend: Literal["auto", "deep_gemm", "flashinfer_trtllm", "cutlass", "triton"] | None = option(
        "FP8 products",
        "Implementation of them. Unset: auto.",
        "Quantisation",
        "--fp8-gemm-backend",
        build="cuda",
    )
    fp4_gemm_backend: Literal["auto", "flashinfer_cudnn", "flashinfer_cutlass", "marlin"] | None = option(
        "FP4 products",
        "Implementation of them. Unset: auto.",
        "Quantisation",
        "--fp4-gemm-backend",
        build="cuda",
    )

    # Speed

    schedule_policy: Literal["fcfs", "lpm", "dfs-weight", "lof", "random"] | None = option(
        "Order of requests",
        "First come first served; lpm those whose beginning is kept; lof those with the longest answers. "
        "Unset: fcfs.",
        "Speed",
        "--schedule-policy",
    )
    schedule_conservativeness: float | None = option(
        "Caution",
        "Above 1 it takes fewer requests at once, and sends fewer back when memory runs short. Unset: 1.",
        "Speed",
        "--schedule-conservativeness",
        ge=0,
        le=100,
    )
    enable_priority_scheduling: bool | None = option(
        "Priorities",
        "Requests may name one; higher goes first. Unset: off.",
        "Speed",
        "--enable-priority-scheduling",
    )
    schedule_low_priority_values_first: bool | None = option(
        "Low priorities first",
        "With priorities: the lower number goes first. Unset: off.",
        "Speed",
        "--schedule-low-priority-values-first",
    )
    chunked_prefill_size: int | None = option(
        "Piece of a prompt",
        "Reads long prompts in pieces of so many tokens; -1 reads them whole. Unset: chosen by SGLang.",
        "Speed",
        "--chunked-prefill-size",
        ge=-1,
        le=1_048_576,
    )
    enable_mixed_chunk: bool | None = option(
        "Mix reading and writing",
        "Pieces of long prompts and other requests' tokens in one step. Unset: off.",
        "Speed",
        "--enable-mixed-chunk",
    )
    max_prefill_tokens: int | None = option(
        "Tokens read at once",
        "Of the prompts of one step; at least one context. Unset: 16,384.",
        "Speed",
        "--max-prefill-tokens",
        ge=16,
        le=10_000_000,
    )
    prefill_max_requests: int | None = option(
        "Prompts read at once",
        "In one step. Unset: no limit.",
        "Speed",
        "--prefill-max-requests",
        ge=1,
        le=4096,
    )
    disable_radix_cache: bool | None = option(
        "Do not reuse prompts",
        "Forgets the work on a prompt's beginning. Unset: off, it is kept for other requests.",
        "Speed",
        "--disable-radix-cache",
    )
    disable_overlap_schedule: bool | None = option(
        "Do not schedule ahead",
        "Plans the next step only when one is done. Unset: off.",
        "Speed",
        "--disable-overlap-schedule",
    )
    num_continuous_decode_steps: int | None = option(
        "Steps without planning",
        "More makes less work and a later first token. Unset: 1.",
        "Speed",
        "--num-continuous-decode-steps",
        ge=1,
        le=100,
    )
    stream_interval: int | None = option(
        "Tokens a chunk",
        "A stream sends so many at once; more makes less work and a choppier answer. Unset: 1.",
        "Speed",
        "--stream-interval",
        ge=1,
        le=1000,
    )
    enable_torch_compile: bool | None = option(
        "Compile",
        "With torch: starts later, answers small batches faster. Unset: off.",
        "Speed",
        "--enable-torch-compile",
    )
    torch_compile_max_bs: int | None = option(
        "Largest compiled step",
        "Requests in one. Unset: 32.",
        "Speed",
        "--torch-compile-max-bs",
        ge=1,
        le=4096,
    )
    disable_decode_cuda_graph: bool | None = option(
        "Without CUDA graphs",
        "Of steps that write: starts sooner, answers slower. Unset: off.",
        "Speed",
        "--disable-decode-cuda-graph",
        build="cuda",
    )
    disable_prefill_cuda_graph: bool | None = option(
        "Read without CUDA graphs",
        "Of steps that read: starts sooner. Unset: off.",
        "Speed",
        "--disable-prefill-cuda-graph",
        build="cuda",
    )
    cuda_graph_max_bs_decode: int | None = option(
        "Largest CUDA graph",
        "Requests in one captured step. Unset: chosen by SGLang.",
        "Speed",
        "--cuda-graph-max-bs-decode",
        build="cuda",
        ge=1,
        le=8192,
    )
    attention_backend: Attention | None = option(
        "Attention",
        "Implementation of attention; not every one runs every model. Unset: chosen by SGLang.",
        "Speed",
        "--attention-backend",
        build="cuda",
    )
    prefill_attention_backend: Attention | None = option(
        "Attention while reading",
        "Unset: as attention.",
        "Speed",
        "--prefill-attention-backend",
        build="cuda",
    )
    decode_attention_backend: Attention | None = option(
        "Attention while writing",
        "Unset: as attention.",
        "Speed",
        "--decode-attention-backend",
        build="cuda",
    )
    sampling_backend: Literal["flashinfer", "pytorch"] | None = option(
        "Sampling", "Implementation of it. Unset: chosen by SGLang.", "Speed", "--sampling-backend"
    )
    moe_runner_backend: MoeRunner | None = option(
        "Experts",
        "Implementation of a mixture's experts. Unset: auto.",
        "Speed",
        "--moe-runner-backend",
        build="cuda",
    )
    model_impl: Literal["auto", "sglang", "transformers"] | None = option(
        "Model code",
        "SGLang's own, or transformers' run by SGLang, for architectures that SGLang has not. Unset: auto.",
        "Speed",
        "--model-impl",
    )
    enable_deterministic_inference: bool | None = option(
        "Same answer every time",
        "Whatever else is answered beside it; slower. Unset: off.",
        "Speed",
        "--enable-deterministic-inference",
        build="cuda",
    )
    skip_server_warmup: bool | None = option(
        "Without warming",
        "Ready sooner; the first answer is slow. Unset: off.",
        "Speed",
        "--skip-server-warmup",
    )

    # Speculative decoding

    speculative_algorithm: Literal["EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM"] | None = option(
        "Guess tokens by",
        "NGRAM repeats what prompts held, NEXTN uses the model's own layers; the others need a draft model: "
        "STANDALONE any smaller one. Unset: STANDALONE where one is chosen, else off.",
        "Speculative decoding",
        "--speculative-algorithm",
        build="cuda",
    )
    draft_model: int | None = option(
        "Draft model",
        "A smaller model of the same vocabulary that guesses ahead. Unset: none.",
        "Speculative decoding",
        build="cuda",
        model=True,
        ge=1,
        le=2**31 - 1,
    )
    speculative_num_steps: int | None = option(
        "Draft steps",
        f"Tokens guessed in a row. Unset: {DRAFT_STEPS} with a draft model.",
        "Speculative decoding",
        "--speculative-num-steps",
        build="cuda",
        ge=1,
        le=64,
    )
    speculative_eagle_topk: int | None = option(
        "Candidates a step",
        f"Guesses kept at each. Unset: {DRAFT_TOPK} with a draft model.",
        "Speculative decoding",
        "--speculative-eagle-topk",
        build="cuda",
        ge=1,
        le=64,
    )
    speculative_num_draft_tokens: int | None = option(
        "Draft tokens",
        f"Checked at once; at least one more than steps. Unset: {DRAFT_TOKENS} with a draft model.",
        "Speculative decoding",
        "--speculative-num-draft-tokens",
        build="cuda",
        ge=1,
        le=256,
    )
    speculative_accept_threshold_single: float | None = option(
        "Take a guess from",
        "Its own probability; below 1 it takes more and answers may differ. Unset: 1.",
        "Speculative decoding",
        "--speculative-accept-threshold-single",
        build="cuda",
        gt=0,
        le=1,
    )
    speculative_accept_threshold_acc: float | None = option(
        "Take a row from",
        "The probability of all its tokens together. Unset: 1.",
        "Speculative decoding",
        "--speculative-accept-threshold-acc",
        build="cuda",
        gt=0,
        le=1,
    )
    speculative_attention_mode: Literal["prefill", "decode"] | None = option(
        "Attention of guesses",
        "As if read, or as if written. Unset: prefill.",
        "Speculative decoding",
        "--speculative-attention-mode",
        build="cuda",
    )
    speculative_ngram_max_trie_depth: int | None = option(
        "Longest n-gram",
        "Tokens remembered in a row, for guesses by NGRAM. Unset: 18.",
        "Speculative decoding",
        "--speculative-ngram-max-trie-depth",
        build="cuda",
        ge=2,
        le=256,
    )
    speculative_ngram_max_bfs_breadth: int | None = option(
        "Widest n-gram",
        "Ways to go on that are followed, for guesses by NGRAM. Unset: 10.",
        "Speculative decoding",
        "--speculative-ngram-max-bfs-breadth",
        build="cuda",
        ge=1,
        le=64,
    )

    # LoRA

    runtime_lora: bool | None = option(
        "Attach while it runs", "Adapters may be added without a restart. Unset: off.", "LoRA"
    )
    max_lora_rank: int | None = option(
        "Largest rank",
        f"Of the adapters it takes. Unset: that of those it starts with, at least {RANK}.",
        "LoRA",
        "--max-lora-rank",
        ge=1,
        le=1024,
    )
    max_loras_per_batch: int | None = option(
        "Adapters at once",
        "In one step of the model, the plain model counted. Unset: 8.",
        "LoRA",
        "--max-loras-per-batch",
        ge=1,
        le=256,
    )
    max_loaded_loras: int | None = option(
        "Adapters in RAM",
        "Kept there when not in use; not below those at once. Unset: no limit.",
        "LoRA",
        "--max-loaded-loras",
        ge=1,
        le=4096,
    )
    lora_eviction_policy: Literal["lru", "fifo"] | None = option(
        "Adapters give way",
        "Those not used for long, or those that came first. Unset: lru.",
        "LoRA",
        "--lora-eviction-policy",
    )
    lora_backend: Literal["csgmv", "triton"] | None = option(
        "Adapter products",
        "Implementation of them. Unset: csgmv.",
        "LoRA",
        "--lora-backend",
        build="cuda",
    )
    max_lora_chunk_size: Literal["16", "32", "64", "128"] | None = option(
        "Tokens an adapter's piece",
        "Larger is faster for long prompts, by csgmv. Unset: 16.",
        "LoRA",
        "--max-lora-chunk-size",
        build="cuda",
    )
    enable_lora_overlap_loading: bool | None = option(
        "Load adapters meanwhile",
        "While others' requests are answered. Unset: off.",
        "LoRA",
        "--enable-lora-overlap-loading",
        build="cuda",
    )

    # Output

    reasoning_parser: ReasoningParser | None = option(
        "Reasoning parser",
        "Sets thoughts apart from the answer; auto goes by the chat template. Unset: none.",
        "Tools and reasoning",
        "--reasoning-parser",
    )
    tool_call_parser: ToolParser | None = option(
        "Tool parser",
        "Lets the model call tools when it wants to; auto goes by the chat template. Unset: none.",
        "Tools and reasoning",
        "--tool-call-parser",
    )
    sampling_defaults: Literal["model", "openai"] | None = option(
        "Sampling defaults",
        "model takes them from the model's files where a request names none; openai uses the API's own. "
        "Unset: model.",
        "Output",
        "--sampling-defaults",
    )
    enable_cache_report: bool | None = option(
        "Tell cached tokens",
        "Usage says how many tokens of a prompt were reused. Unset: off.",
        "Output",
        "--enable-cache-report",
    )
    random_seed: int | None = option(
        "Seed",
        "Of random numbers. Unset: another at each start.",
        "Output",
        "--random-seed",
        ge=0,
        le=2**31 - 1,
    )

    # Structured output

    grammar_backend: Literal["xgrammar", "llguidance", "outlines", "none"] | None = option(
        "Grammar backend",
        "What holds answers to a JSON schema or grammar; xgrammar ends a server on a CPU. Unset: llguidance "
        "on a CPU, xgrammar on a GPU.",
        "Structured output",
        "--grammar-backend",
    )
    constrained_json_disable_any_whitespace: bool | None = option(
        "Compact JSON",
        "No spaces between a JSON answer's parts, by xgrammar and llguidance. Unset: off.",
        "Structured output",
        "--constrained-json-disable-any-whitespace",
    )

    # Images

    images_per_prompt: int | None = option(
        "Images a request", "More are refused. Unset: no limit.", "Images", ge=1, le=999
    )
    enable_multimodal: bool | None = option(
        "With images",
        "Of a model that can see but is served as text unless told. Unset: as SGLang knows the model.",
        "Images",
        "--enable-multimodal",
    )
    disable_fast_image_processor: bool | None = option(
        "Plain image processor",
        "The model's first one, slower and in Python. Unset: off.",
        "Images",
        "--disable-fast-image-processor",
    )
    mm_enable_dp_encoder: bool | None = option(
        "Split images over GPUs",
        "Each GPU's encoder has its own images, in place of a part of each. Unset: off.",
        "Images",
        "--mm-enable-dp-encoder",
        build="cuda",
    )
    mm_attention_backend: Literal["sdpa", "triton_attn", "fa3", "fa4", "flashinfer_cudnn"] | None = option(
        "Attention of images", "Unset: chosen by SGLang.", "Images", "--mm-attention-backend", build="cuda"
    )
