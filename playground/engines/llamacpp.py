"""llama.cpp: GGUF files, on a CPU or a GPU.

Served by xllamacpp through a launcher, or by a llama-server on the PATH.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from .base import (
    LAUNCHERS,
    SAMPLING,
    Ask,
    Engine,
    EngineOptions,
    Estimate,
    Hardware,
    LocalModel,
    Quirks,
    Reason,
    ReasonCode,
    Rendered,
    Requirements,
    Verdict,
    option,
)
from .estimates import GIB, MIB, context_that_fits, kv_bytes_per_token, weights_bytes

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
# What the process holds before any model, measured: Python, the library, buffers of the HTTP server.
RESIDENT = 120 * MIB
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


class LlamaCpp(Engine):
    """GGUF on any hardware; small, quick to start."""

    name = "llama.cpp"
    title = "llama.cpp"
    kinds = ("gguf",)
    Options = LlamaCppOptions
    versions: ClassVar[Mapping[str, str]] = {"cpu": "2026.10.11549", "cuda": "2026.10.11549"}
    quirks = Quirks(
        ignored=frozenset({"parallel_tool_calls", "service_tier", "store", "user", "metadata"}),
        running_metric="llamacpp:requests_processing",
        progress_metrics=(
            "llamacpp:prompt_tokens_total",
            "llamacpp:tokens_predicted_total",
            "llamacpp:n_decode_total",
        ),
        continuous_usage={"timings_per_token": True},
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/completions"),
                ("POST", "/v1/embeddings"),
                ("POST", "/tokenize"),
                ("POST", "/detokenize"),
            }
        ),
    )

    async def render(self, ask: Ask, body: Mapping[str, Any]) -> Rendered | None:
        """Its template's text, that text's tokens as a request makes them, and its slots' defaults."""
        asked = {name: body[name] for name in ("messages", "tools", "chat_template_kwargs") if name in body}
        prompt = str((await ask("POST", "/apply-template", asked))["prompt"])
        tokens = await ask(
            "POST", "/tokenize", {"content": prompt, "add_special": True, "parse_special": True}
        )
        props = await ask("GET", "/props", None)
        params = props.get("default_generation_settings", {}).get("params", {})
        # It tells its 32-bit floats with all their digits: 0.800000011920929.
        numbers = {name: params[name] for name in SAMPLING if isinstance(params.get(name), int | float)}
        sampling = {name: round(number, 6) for name, number in numbers.items()}
        return Rendered(prompt, tuple(tokens["tokens"]), sampling)

    def requirements(self, build: str, version: str) -> Requirements:
        return Requirements(python=("3.13", "3.12", "3.11", "3.10"), packages=(f"xllamacpp=={version}",))

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "gguf":
            return Verdict(False, "llama.cpp loads GGUF files only.")
        if model.task == "embedding":
            return Verdict(True, kind="gguf")
        return Verdict(True, kind="gguf")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        given = LlamaCppOptions.model_validate(options.model_dump())
        per_token = self._kv_per_token(model, given)
        context = given.context or model.context_length
        vocabulary = int(model.facts.get("vocab_size") or 0)
        # One micro-batch of logits in float32, and activations of the same order.
        buffers = (given.micro_batch or BATCH) * vocabulary * 4
        unknown = [] if per_token else ["the shape of the attention"]
        unknown += [] if context else ["the context length"]
        weights = weights_bytes(model)
        return Estimate(
            weights=weights,
            kv_cache=int(per_token * context) if per_token and context else None,
            overhead=RESIDENT + buffers,
            unknown=(*unknown, *([] if weights else ["the size of the weights"])),
        )

    def _kv_per_token(self, model: LocalModel, given: LlamaCppOptions) -> float | None:
        return kv_bytes_per_token(model.facts, given.cache_type_k or "f16", given.cache_type_v or "f16")

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        given = LlamaCppOptions.model_validate(options.model_dump())
        line = self._program(environment, given)
        line += [
            "--model",
            str(model.path),
            "--alias",
            served_name,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        line += ["--metrics", "--no-ui"]
        if given.kv_unified is None:
            line.append("--kv-unified")
        if given.cache_ram_mib is None:
            line += ["--cache-ram", str(CACHE_RAM_MIB)]
        if given.threads is None and not hardware.gpus:
            line += ["--threads", str(hardware.cores)]
        if model.task == "embedding":
            line.append("--embeddings")
        return line + given.arguments()

    def _program(self, environment: Path, given: LlamaCppOptions) -> list[str]:
        if given.program == "llama-server":
            return [shutil.which("llama-server") or "llama-server"]
        return [str(environment / "bin" / "python"), "-u", str(LAUNCHERS / "llamacpp.py")]

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        cache = {"LLAMA_CACHE": str(home / "cache" / "llama.cpp"), "HF_HUB_OFFLINE": "1"}
        return cache | ({"LLAMA_API_KEY": key} if key else {})

    def progress(self, line: str) -> str | None:
        if "load_model: loading model" in line:
            return "loading weights"
        if "load_model: initializing, n_slots" in line:
            return "weights loaded"
        if "init: listening on" in line:
            return "warming"
        return None

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        if found := re.search(r"buffer for kv cache", text):
            return Reason(ReasonCode.OUT_OF_MEMORY, _kv_cache_advice(text))
        if found := re.search(r"failed to allocate \S*\s?buffer of size (\d+)", text):
            needed = int(found.group(1)) / GIB
            return Reason(
                ReasonCode.OUT_OF_MEMORY,
                f"It could not get {needed:.1f} GiB of memory at once: lower the context or take a "
                "smaller model.",
            )
        if found := re.search(r"cannot open shared object file|libcuda\.so|no CUDA-capable device", text):
            return Reason(
                ReasonCode.DRIVER_MISSING, "The GPU driver or one of its libraries is missing on this node."
            )
        if re.search(r"couldn't bind HTTP server socket", text):
            return Reason(ReasonCode.PORT_TAKEN, "Another program took the port first.")
        if found := re.search(r"error: (unrecognized arguments?:.*|argument .*|invalid argument:.*)", text):
            return Reason(
                ReasonCode.UNKNOWN_OPTION, f"llama.cpp does not take this option: {found.group(1)[:200]}"
            )
        if found := re.search(r"unknown model architecture: '([^']+)'", text):
            return Reason(
                ReasonCode.BAD_WEIGHTS,
                f"This version of llama.cpp does not know the architecture {found.group(1)}: take a newer "
                "version.",
            )
        if "error loading model" in text or "gguf_init_from" in text:
            return Reason(ReasonCode.BAD_WEIGHTS, _weights_advice(text))
        return None


def _kv_cache_advice(text: str) -> str:
    """What to lower, worked out from the bytes llama.cpp asked for and the context it asked them for."""
    asked = re.search(r"failed to allocate \S* ?buffer of size (\d+)", text)
    context = re.search(r"n_ctx_seq \((\d+)\)", text)
    if not asked:
        return "The KV cache does not fit in memory: lower the context."
    gib = int(asked.group(1)) / GIB
    if not context:
        return f"The KV cache needs {gib:.1f} GiB, which is not free: lower the context."
    # Half of what was asked is a step that people can take without knowing what is free.
    half = context_that_fits(int(asked.group(1)) / 2, int(asked.group(1)) / int(context.group(1)))
    return (
        f"The KV cache for a context of {int(context.group(1)):,} needs {gib:.1f} GiB, which is not free: "
        f"lower the context, to {half:,} for half of it."
    )


def _weights_advice(text: str) -> str:
    found = re.search(r"gguf_init_from_\w+: (.*)|error loading model: (.*)", text)
    detail = (found.group(1) or found.group(2)) if found else ""
    return f"The GGUF file cannot be loaded ({detail[:200]}): fetch or copy it again."
