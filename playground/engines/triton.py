"""Triton: NVIDIA's inference server, with the model in its Python backend.

`nvidia-pytriton` brings the server; the launcher binds the model to it and speaks OpenAI HTTP in front of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

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
    Reported,
    Requirements,
    Verdict,
    chosen,
)
from .estimates import MIB, Cache, kv_cache_bytes, kv_dtype, missing, weights_bytes
from .torch_words import caches, failure, out_of_memory
from .triton_options import TritonOptions

# What its processes hold beside weights and KV cache: the launcher (Python, torch, transformers),
# tritonserver, and a stub process for each instance.
RESIDENT = 800 * MIB
STUB = 60 * MIB
PAGE = 32
STEP_CPU, STEP_GPU = 256, 2048
FRONTEND = Path("/opt/tritonserver/python/openai")


class Triton(Engine):
    """Many requests at once, through the scheduler of a general inference server."""

    name = "triton"
    title = "Triton"
    kinds = ("safetensors",)
    Options = TritonOptions
    context_option = "context"
    versions: ClassVar[Mapping[str, str]] = {"cpu": "0.7.0", "cuda": "0.7.0"}
    quirks = Quirks(
        ignored=frozenset(
            {
                "audio",
                "frequency_penalty",
                "function_call",
                "functions",
                "logit_bias",
                "logprobs",
                "metadata",
                "modalities",
                "parallel_tool_calls",
                "prediction",
                "presence_penalty",
                "reasoning_effort",
                "response_format",
                "seed",
                "service_tier",
                "store",
                "tool_choice",
                "top_logprobs",
                "user",
                "verbosity",
                "web_search_options",
            }
        ),
        refused=frozenset(
            {
                "best_of",
                "echo",
                "guided_choice",
                "guided_grammar",
                "guided_json",
                "guided_regex",
                "min_p",
                "min_tokens",
                "repetition_penalty",
                "suffix",
            }
        ),
        running_metric="triton:num_requests_running",
        waiting_metric="triton:num_requests_waiting",
        kv_cache_metric="triton:kv_cache_usage_perc",
        progress_metrics=("triton:generation_tokens_total", "triton:requests_total"),
        continuous_usage={"stream_options": {"continuous_usage_stats": True}},
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/chat/completions/render"),
                ("POST", "/v1/completions"),
                ("POST", "/tokenize"),
                ("POST", "/detokenize"),
            }
        ),
    )

    async def render(self, ask: Ask, body: Mapping[str, Any]) -> Rendered | None:
        """The template's text and its tokens, and what it samples by, the model's own defaults included."""
        found = await ask("POST", "/v1/chat/completions/render", body)
        params = found.get("sampling_params") or {}
        sampling = {name: params[name] for name in SAMPLING if params.get(name) is not None}
        return Rendered(found["prompt"], tuple(found["token_ids"]), sampling)

    def model_defaults(
        self, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        if options.get("sampling_defaults") == "openai":
            return None
        return (
            {"temperature": 0}
            if config.get("do_sample") is False
            else chosen(config, "temperature", "top_p", "top_k")
        )

    def requirements(self, build: str, version: str) -> Requirements:
        # numpy 1, which pytriton wants, has no builds for later Pythons. The launcher uses what transformers
        # calls continuous batching, which changes from one version to the next: it is pinned.
        packages = (f"nvidia-pytriton=={version}", "transformers==5.24.0", "torch", "aiohttp", "psutil")
        return Requirements(python=("3.11", "3.12", "3.10"), packages=packages, system_python=True)

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "safetensors":
            return Verdict(False, "Triton loads folders of safetensors here.")
        if model.task not in ("chat", "completion"):
            return Verdict(False, "Triton serves language models here: chat and completion.")
        return Verdict(True, kind="safetensors")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        given = TritonOptions.model_validate(options.model_dump())
        context = given.context or model.context_length
        instances, page = given.instances or 1, given.page_size or PAGE
        tokens = given.kv_cache_tokens or context
        # Whole pages, and two more that padding is written to.
        held = (-(-tokens // page) + 2) * page if tokens else None
        dtype = kv_dtype(model, given.dtype)
        cache = Cache(key=dtype, requests=instances, slides=False, latent=False)
        return Estimate(
            weights=weights_bytes(model, given.dtype),
            kv_cache=kv_cache_bytes(model, held, cache),
            overhead=self._overhead(model, given, hardware, held or 0),
            unknown=missing(model, context),
            context=context,
            kv_tokens=-(-tokens // page) * page * instances if tokens else None,
        )

    def _overhead(self, model: LocalModel, given: TritonOptions, hardware: Hardware, held: int) -> int:
        """The processes, the logits of requests computed together, and a step's mask of all it may read."""
        instances = given.instances or 1
        step = given.step_tokens or (STEP_GPU if hardware.gpus else STEP_CPU)
        # Logits in 32 bits, sorted twice by the sampling, with their places.
        logits = (given.parallel or 8) * int(model.facts.get("vocab_size") or 0) * 4 * 6
        mask = step * (held + step) * 2
        cache = (given.response_cache_mib or 0) * MIB
        return RESIDENT + cache + instances * (STUB + logits + mask)

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        given = TritonOptions.model_validate(options.model_dump())
        line = self._program(environment, given)
        line += ["--served-name", served_name, "--model", str(model.path)]
        line += ["--host", "127.0.0.1", "--port", str(port)]
        if given.program == "openai-frontend":
            longest = given.max_tokens or given.context or model.context_length
            named = {"context": given.context, "dtype": given.dtype, "log-verbose": given.log_verbose}
            named |= {"max-tokens": longest}
            for name, value in named.items():
                line += [f"--{name}", str(value)] if value is not None else []
            return [*line, "--trust-remote-code"] if model.trusts_code else line
        line += ["--device", "cuda" if hardware.gpus else "cpu"]
        if not hardware.gpus:
            line += ["--threads", str(given.threads or hardware.cores)]
        elif given.threads:
            line += ["--threads", str(given.threads)]
        if given.step_tokens is None:
            line += ["--step-tokens", str(STEP_GPU if hardware.gpus else STEP_CPU)]
        if model.trusts_code:
            line.append("--trust-remote-code")
        return line + given.arguments()

    def _program(self, environment: Path, given: TritonOptions) -> list[str]:
        if given.program == "openai-frontend":
            # The container's own Python holds tritonserver's bindings; our environment does not.
            return ["/usr/bin/python3", "-u", str(LAUNCHERS / "triton_frontend.py")]
        return [str(environment / "bin" / "python"), "-u", str(LAUNCHERS / "serve_triton.py")]

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        variables = caches(home) | {"PYTRITON_HOME": str(home / "cache" / "pytriton")}
        return variables | ({"SLIPWAY_ENGINE_KEY": key} if key else {})

    def progress(self, line: str) -> str | None:
        if found := re.search(r"Loading weights: +(\d+)%", line):
            return f"loading weights {found[1]} %"
        for sign, words in [
            ("triton: weights loaded", "weights loaded"),
            ("triton: starting tritonserver", "starting tritonserver"),
            ("triton: listening on", "warming up"),
        ]:
            if sign in line:
                return words
        return None

    def reported(self, log: list[str]) -> Reported:
        for line in reversed(log):
            if "triton: memory " in line:
                told = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}
                return Reported(**told)
        return Reported()

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        return _explain_memory(text) or _explain_rest(text)


def _explain_memory(text: str) -> Reason | None:
    if found := re.search(
        r"triton: error: context (\d+) is longer than the (\d+) tokens the model was trained with", text
    ):
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"The model was made for a context of {int(found[2]):,}, not {int(found[1]):,}: lower it.",
        )
    if found := re.search(r"the KV cache of (\d+) tokens does not hold one context of (\d+)", text):
        return Reason(
            ReasonCode.CONTEXT_TOO_LONG,
            f"A KV cache of {int(found[1]):,} tokens does not hold one context of {int(found[2]):,}: "
            "lower the context, or raise the tokens of the KV cache.",
        )
    lower = "lower the context or the tokens of the KV cache"
    return out_of_memory(text, lower, f"{lower}, or take a smaller model")


def _explain_rest(text: str) -> Reason | None:
    if found := re.search(r"triton: error: (unrecognized arguments?:.*|argument .*)", text):
        return Reason(ReasonCode.UNKNOWN_OPTION, f"Triton does not take this option: {found[1][:200]}")
    if "triton: error: no OpenAI front end" in text:
        return Reason(
            ReasonCode.UNKNOWN_OPTION,
            f"This node has no {FRONTEND}: run it from NVIDIA's container, or leave Program unset.",
        )
    if found := re.search(r"libpython3\.(\d+)\.so\S*: cannot open shared object file", text):
        return Reason(
            ReasonCode.CRASHED,
            f"Triton's backend found no libpython3.{found[1]}: install the system's package of that name.",
        )
    if found := re.search(r"triton: error: (tritonserver|batching) ended by itself", text):
        return Reason(
            ReasonCode.CRASHED, f"A part of it, {found[1]}, ended by itself: the log's last lines tell of it."
        )
    if found := re.search(r"model type `?'?([\w.-]+)`?'? but Transformers does not recognize", text):
        return Reason(
            ReasonCode.BAD_WEIGHTS,
            f"transformers, as it comes with Triton here, does not know models of type {found[1]}.",
        )
    return failure(text, "torch")
