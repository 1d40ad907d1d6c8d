"""transformers: the reference implementation of most models, served by its own `transformers serve`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from .base import (
    LAUNCHERS,
    Engine,
    EngineOptions,
    Estimate,
    Hardware,
    LocalModel,
    Quirks,
    Reason,
    ReasonCode,
    Reported,
    Requirements,
    Verdict,
    chosen,
    unmet,
)
from .estimates import (
    GIB,
    MIB,
    Cache,
    kv_cache_bytes,
    kv_cache_tokens,
    kv_dtype,
    missing,
    weights_bytes,
)
from .torch_words import caches, failure, out_of_memory
from .transformers_options import EXTRA, NEEDS, TransformersOptions

# What the process holds beside weights: Python, torch, transformers, the server. Measured 450 MiB with 5.24
# on a CPU after short answers (710 with a model of 257); long prompts add to it while they are read.
RESIDENT = 500 * MIB
# A CUDA context, and activations of a prompt.
RESIDENT_GPU = GIB
# Tokens a block of the KV cache of continuous batching, and the share of free memory that it takes.
PAGE = 256
SHARE_GPU, SHARE_CPU = 0.9, 0.6


class Transformers(Engine):
    """The reference: every architecture, one request after another unless batching is on."""

    name = "transformers"
    title = "transformers"
    kinds = ("safetensors",)
    Options = TransformersOptions
    extra_flags = EXTRA
    weighing_options = ("dtype", "quantization")
    versions: ClassVar[Mapping[str, str]] = {"cpu": "5.24.0", "cuda": "5.24.0"}
    quirks = Quirks(
        ignored=frozenset(
            {
                "audio",
                "best_of",
                "echo",
                "function_call",
                "functions",
                "logprobs",
                "metadata",
                "modalities",
                "n",
                "parallel_tool_calls",
                "prediction",
                "presence_penalty",
                "reasoning_effort",
                "response_format",
                "service_tier",
                "store",
                "stream_options",
                "tool_choice",
                "top_logprobs",
                "user",
                "web_search_options",
            }
        ),
        refused=frozenset(
            {"top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "guided_json"}
        ),
        sends_done=False,
        usage_chunk=False,
        usage_on_content=True,
        running_metric="transformers:num_requests_running",
        progress_metrics=("transformers:generation_tokens_total", "transformers:requests_total"),
    )

    def model_defaults(
        self, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """It takes the likeliest token unless that file, or a temperature asked for, has it sample."""
        if not config.get("do_sample"):
            return {"temperature": 0, **chosen(config, "repetition_penalty")}
        return chosen(config, "temperature", "top_p", "top_k", "min_p", "repetition_penalty")

    def requirements(self, build: str, version: str) -> Requirements:
        # accelerate and gguf are for the job that makes safetensors of a GGUF file.
        packages = [f"transformers[serving]=={version}", "torch", "accelerate", "gguf"]
        if build == "cuda":
            packages.append("bitsandbytes")
        return Requirements(python=("3.11", "3.12", "3.13", "3.10"), packages=tuple(packages))

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "safetensors":
            return Verdict(False, "transformers loads folders of safetensors.")
        if model.task not in ("chat", "completion"):
            return Verdict(False, f"transformers serve generates text; it has no {model.task}.")
        return Verdict(True, kind="safetensors")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        given = TransformersOptions.model_validate(options.model_dump())
        context = model.context_length
        # Latent attention is kept as the full keys and values of every head.
        cache = Cache(key=kv_dtype(model, given.dtype), latent=False)
        whole = Estimate(
            weights=weights_bytes(model, given.dtype, given.quantization),
            # It grows with an answer; the most that one request can take is its whole context.
            kv_cache=kv_cache_bytes(model, context, cache),
            overhead=RESIDENT_GPU if hardware.gpus else RESIDENT,
            unknown=missing(model, context),
            context=context,
            kv_tokens=context,
            grows=True,
        )
        return _batched(whole, model, given, hardware) if given.continuous_batching else whole

    def reported(self, log: list[str]) -> Reported:
        found = re.search(r"transformers: memory weights_bytes=(\d+)", "\n".join(log))
        return Reported(weights_bytes=int(found[1])) if found else Reported()

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        given = TransformersOptions.model_validate(options.model_dump())
        line = [str(environment / "bin" / "python"), "-u", str(LAUNCHERS / "serve_transformers.py")]
        line += ["--served-name", served_name, "--model", str(model.path)]
        line += ["--host", "127.0.0.1", "--port", str(port), "--device", "cuda" if hardware.gpus else "cpu"]
        if not hardware.gpus:
            line += ["--threads", str(given.threads or hardware.cores)]
        if model.trusts_code:
            line.append("--trust-remote-code")
        return line + given.arguments()

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        return caches(home) | ({"SLIPWAY_ENGINE_KEY": key} if key else {})

    def objections(self, options: Mapping[str, Any]) -> dict[str, str]:
        return unmet(options, NEEDS)

    def progress(self, line: str) -> str | None:
        if found := re.search(r"Loading weights: +(\d+)%", line):
            return f"loading weights {found[1]} %"
        if "Started server process" in line:
            return "weights loaded"
        if "Uvicorn running on" in line:
            return "warming up"
        return None

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        gpu = "take a smaller data type, quantise, or a smaller model"
        if reason := out_of_memory(text, gpu, "take a smaller model or data type"):
            return reason
        if found := re.search(r"No such option:? '?(-[\w-]+)|Invalid value for '?(--[\w-]+)", text):
            named = found[1] or found[2]
            return Reason(
                ReasonCode.UNKNOWN_OPTION, f"This version of transformers does not take {named} so."
            )
        if found := re.search(r"model type `?'?([\w.-]+)`?'? but Transformers does not recognize", text):
            return Reason(
                ReasonCode.BAD_WEIGHTS,
                f"This version of transformers does not know models of type {found[1]}: take a newer "
                "version.",
            )
        return failure(text, "torch", r"libcuda\.so")


def _batched(whole: Estimate, model: LocalModel, given: TransformersOptions, hardware: Hardware) -> Estimate:
    """With continuous batching: a cache in pages, of so many blocks, else of a share of what is free."""
    cache = Cache(key=kv_dtype(model, given.dtype), latent=False, slides=False)
    page = given.cb_block_size or PAGE
    if given.cb_num_blocks:
        tokens = given.cb_num_blocks * page
        return replace(whole, kv_cache=kv_cache_bytes(model, tokens, cache), kv_tokens=tokens, grows=False)
    memory = hardware.gpus[0].memory_bytes if hardware.gpus else hardware.memory_bytes
    share = given.cb_max_memory_percent or (SHARE_GPU if hardware.gpus else SHARE_CPU)
    if whole.weights is None:
        return whole
    left = max(0, memory - whole.weights - whole.overhead)
    limit = whole.weights + whole.overhead + int(left * share)
    held = kv_cache_tokens(model, left * share, cache)
    return replace(whole, kv_tokens=held, limit=limit, grows=False)
