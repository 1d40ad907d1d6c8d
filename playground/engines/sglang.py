"""SGLang: many requests at once, and prompts that begin alike computed once.

The same program on GPU nodes and, an older version of it, on CPUs.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import aiohttp

from . import sglang_memory
from .base import (
    LAUNCHERS,
    Ask,
    Engine,
    EngineOptions,
    Estimate,
    Hardware,
    LocalAdapter,
    LocalModel,
    NotReady,
    Quirks,
    Reason,
    ReasonCode,
    Rendered,
    Reported,
    Requirements,
    Taken,
    Verdict,
    chosen,
)
from .pieces import Token, spelled
from .sglang_extra import FLAGS
from .sglang_options import DRAFT_STEPS, DRAFT_TOKENS, DRAFT_TOPK, RANK, SglangOptions
from .torch_words import caches, failure, out_of_memory

# What a CPU has no use for, or cannot load: kernels for NVIDIA's GPUs, and readers of sound built for CUDA.
CUDA_ONLY = (
    "cuda-python",
    "flash-attn-4",
    "flashinfer-cubin",
    "flashinfer-python",
    "nvidia-cutlass-dsl",
    "nvidia-mathdx",
    "quack-kernels",
    "sgl-deep-gemm",
    "sglang-kernel",
    "tilelang",
    "tokenspeed-mla",
    "torch-memory-saver",
    "torchaudio",
    "torchcodec",
)
NEVER = 'python_version < "3"'


class Sglang(Engine):
    """Many requests at once; what prompts begin with is kept."""

    name = "sglang"
    title = "SGLang"
    kinds = ("safetensors",)
    adapter_kinds = ("safetensors",)
    Options = SglangOptions
    context_option = "context_length"
    split_options = ("tp_size", "pp_size", "dp_size")
    weighing_options = ("quantization", "kv_cache_dtype")
    versions: ClassVar[Mapping[str, str]] = {"cpu": "0.5.15.post1", "cuda": "0.5.23"}
    extra_flags: ClassVar[Mapping[str, Taken]] = FLAGS
    quirks = Quirks(
        ignored=frozenset(
            {
                "audio",
                "function_call",
                "functions",
                "metadata",
                "modalities",
                "prediction",
                "seed",
                "service_tier",
                "store",
                "user",
                "verbosity",
                "web_search_options",
            }
        ),
        # It sees that nobody waits for a whole answer at its 50th token, and may then not forget the request.
        whole_by_stream=True,
        running_metric="sglang:requests_now",
        waiting_metric="sglang:num_queue_reqs",
        kv_cache_metric="sglang:token_usage",
        progress_metrics=("sglang:realtime_tokens_total", "sglang:num_requests_total"),
        continuous_usage={"stream_options": {"continuous_usage_stats": True}},
        images=True,
        # Without its /v1/responses, which names its tokens as a chat completion does: no client of that API
        # reads them.
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/completions"),
                ("POST", "/v1/embeddings"),
                ("POST", "/v1/messages"),
                ("POST", "/tokenize"),
                ("POST", "/detokenize"),
            }
        ),
    )

    async def render(self, ask: Ask, body: Mapping[str, Any]) -> Rendered | None:
        """Token ids as a chat request makes them. It does not tell by what it samples."""
        asked = {name: body[name] for name in ("messages", "tools", "chat_template_kwargs") if name in body}
        found = await ask("POST", "/tokenize", {"model": body["model"], **asked})
        ids = tuple(found["tokens"])
        text = await ask(
            "POST",
            "/detokenize",
            {"model": body["model"], "tokens": list(ids), "skip_special_tokens": False},
        )
        return Rendered(text.get("text"), ids)

    async def pieces(self, ask: Ask, served_name: str, text: str) -> list[Token] | None:
        """Each token is named by what it reads as alone: a part of a character is not told."""
        asked = {"model": served_name, "prompt": text, "add_special_tokens": False}
        ids = (await ask("POST", "/tokenize", asked))["tokens"]
        alone = {"model": served_name, "tokens": [[token] for token in ids], "skip_special_tokens": False}
        told = spelled((await ask("POST", "/detokenize", alone))["text"], text) if ids else []
        return None if told is None else list(zip(ids, told, strict=True))

    def model_defaults(
        self, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        if options.get("sampling_defaults") == "openai":
            return None
        return chosen(config, "repetition_penalty", "temperature", "top_k", "top_p", "min_p")

    def requirements(self, build: str, version: str) -> Requirements:
        if build == "cpu":
            # Its own pin of torch has no CPU build for every Python; the launcher asks for none of the rest.
            torch = ("torch==2.13.0", "torchvision==0.28.0")
            left_out = tuple(f"{name} ; {NEVER}" for name in CUDA_ONLY)
            return Requirements(
                python=("3.11", "3.12", "3.13", "3.10"),
                packages=(f"sglang=={version}",),
                overrides=torch + left_out,
            )
        return Requirements(python=("3.12", "3.11", "3.13", "3.10"), packages=(f"sglang=={version}",))

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "safetensors":
            return Verdict(False, "SGLang loads folders of safetensors.")
        if model.task in ("rerank", "classification"):
            return Verdict(False, f"SGLang serves chat, completion and embedding here; no {model.task}.")
        pooling = model.facts.get("pooling", "cls")
        if model.task == "embedding" and pooling not in ("cls", "last"):
            return Verdict(
                False,
                "SGLang makes a vector of one token of a text; this model's are made of all of them "
                f"({pooling}), and would be others.",
            )
        return Verdict(True, kind="safetensors")

    def gpus(self, options: EngineOptions) -> int:
        """Copies whose attention shares the tensor group's GPUs take no others."""
        given = SglangOptions.model_validate(options.model_dump())
        return sglang_memory.gpus(given)

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        return sglang_memory.estimate(model, SglangOptions.model_validate(options.model_dump()), hardware)

    def reported(self, log: list[str]) -> Reported:
        return sglang_memory.reported(log)

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        given = SglangOptions.model_validate(options.model_dump())
        line = [str(environment / "bin" / "python"), "-u", str(LAUNCHERS / "serve_sglang.py")]
        line += ["--model-path", str(model.path), "--served-model-name", served_name]
        line += ["--host", "127.0.0.1", "--port", str(port), "--enable-metrics", "--sleep-on-idle"]
        line += ["--uvicorn-access-log-exclude-prefixes", "/metrics", "/health"]
        if not hardware.gpus:
            line += ["--device", "cpu"]
            if given.grammar_backend is None:
                # llguidance ends at the tokenizers of models that embed, which no grammar holds.
                line += ["--grammar-backend", "none" if model.task == "embedding" else "llguidance"]
            if given.max_total_tokens is None:
                line += ["--max-total-tokens", str(sglang_memory.tokens_on_cpu(model, given))]
        if model.task == "embedding":
            line.append("--is-embedding")
        if model.trusts_code:
            line.append("--trust-remote-code")
        if given.images_per_prompt:
            line += ["--limit-mm-data-per-request", json.dumps({"image": given.images_per_prompt})]
        return line + _adapters(model, given, hardware) + _draft(model, given) + given.arguments()

    def selecting(self, place: int, name: str) -> dict[str, Any]:
        """It goes by what follows the colon; a name alone is the plain model's, whatever it is."""
        return {"model": f"base:{name}"}

    def attaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.path)}

    def detaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/unload_lora_adapter", {"lora_name": adapter.name}

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        given = SglangOptions.model_validate(options.model_dump())
        cache = home / "cache"
        variables = caches(home) | {
            "SGLANG_CACHE_DIR": str(cache / "sglang"),
            "FLASHINFER_WORKSPACE_BASE": str(cache / "flashinfer"),
            # /health tells whether it is warm, without a request of its own each time.
            "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
        }
        if given.threads:
            variables["OMP_NUM_THREADS"] = str(given.threads)
        return variables | ({"SLIPWAY_ENGINE_KEY": key} if key else {})

    async def probe(
        self, session: aiohttp.ClientSession, base_url: str, key: str, served_name: str, task: str
    ) -> None:
        """It listens before it asks itself something to get warm, and is not ready until that is over."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with session.get(base_url + "/health", headers=headers) as answer:
            if answer.status != 200:
                raise NotReady(f"/health answered {answer.status}")
        await super().probe(session, base_url, key, served_name, task)

    def progress(self, line: str) -> str | None:
        if found := re.search(
            r"checkpoint shards: +(\d+)% Completed|loading shards: +(\d+)% Completed", line
        ):
            return f"loading weights {found[1] or found[2]} %"
        for sign, words in [
            ("Load weight begin", "loading weights"),
            ("Load weight end", "weights loaded"),
            ("KV Cache is allocated", "making the KV cache"),
            ("Capture cuda graph begin", "capturing CUDA graphs"),
            ("Capture CUDA graph begin", "capturing CUDA graphs"),
            ("Uvicorn running on", "warming up"),
        ]:
            if sign in line:
                return words
        return None

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        return _explain_memory(text) or _explain_rest(text)


def _adapters(model: LocalModel, given: SglangOptions, hardware: Hardware) -> list[str]:
    """What it starts with, and room for the largest rank of them. On a CPU one implementation runs."""
    if not model.adapters and not given.runtime_lora:
        return []
    line = ["--enable-lora"]
    if not hardware.gpus:
        line += ["--lora-backend", "torch_native"]
    if model.adapters:
        line += ["--lora-paths", *(f"{adapter.name}={adapter.path}" for adapter in model.adapters)]
    if given.runtime_lora:
        line += ["--lora-target-modules", "all"]
    if given.max_lora_rank is None:
        line += ["--max-lora-rank", str(max([RANK, *(one.rank or RANK for one in model.adapters)]))]
    return line


def _draft(model: LocalModel, given: SglangOptions) -> list[str]:
    """The model that guesses ahead; without numbers SGLang would go by a table of models it knows."""
    if not (given.draft_model and model.draft):
        return []
    line = ["--speculative-draft-model-path", str(model.draft.path)]
    if given.speculative_algorithm is None:
        line += ["--speculative-algorithm", "STANDALONE"]
    for name, value in [
        ("speculative_num_steps", DRAFT_STEPS),
        ("speculative_eagle_topk", DRAFT_TOPK),
        ("speculative_num_draft_tokens", DRAFT_TOKENS),
    ]:
        if getattr(given, name) is None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line


def _explain_memory(text: str) -> Reason | None:
    if found := re.search(
        r"context_length \((\d+)\) is greater than the derived context_length \((\d+)\)", text
    ):
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"The model was made for a context of {int(found[2]):,}, not {int(found[1]):,}: lower it.",
        )
    if re.search(r"Not enough memory\. Please try to increase --mem-fraction-static", text):
        return Reason(
            ReasonCode.OUT_OF_MEMORY,
            "The weights leave no memory for the KV cache: raise the share of GPU memory or take more GPUs.",
        )
    gpu = "lower the share of GPU memory, take fewer parallel requests, or more GPUs"
    return out_of_memory(text, gpu, "lower the tokens of the KV cache, or take a smaller model")


def _explain_rest(text: str) -> Reason | None:
    if found := re.search(r"sglang serve: error: (.*)", text):
        return Reason(
            ReasonCode.UNKNOWN_OPTION, f"This version of SGLang does not take an option: {found[1][:200]}"
        )
    if reason := failure(text, "this SGLang", r"libcuda\.so|No CUDA GPUs are available"):
        return reason
    if found := re.search(r"Model architectures? \[?'?([\w', ]+?)'?\]? (?:are|is) not supported", text):
        return Reason(ReasonCode.BAD_WEIGHTS, f"SGLang does not serve the architecture {found[1]}.")
    # It then kills itself as well, which would look as if somebody else had. Whose kill -9 was, others know.
    if re.search(r"Received sigquit from a child process|crashed with exit code (?!-9\b)", text):
        said = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE)
        more = f": {said[-1][:300]}" if said else "; the log's last lines tell of it."
        return Reason(ReasonCode.CRASHED, f"One of its processes failed{more}")
    return None
