"""llama.cpp: GGUF files, on a CPU or a GPU.

Served by xllamacpp through a launcher, or by a llama-server on the PATH.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from playground import kinds

from . import llamacpp_memory
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
)
from .estimates import GIB, context_that_fits
from .llamacpp_options import CACHE_RAM_MIB, EXTRA, LlamaCppOptions, objections
from .pieces import Token


class LlamaCpp(Engine):
    """GGUF on any hardware; small, quick to start."""

    name = "llama.cpp"
    title = "llama.cpp"
    kinds = ("gguf",)
    adapter_kinds = ("gguf",)
    Options = LlamaCppOptions
    extra_flags = EXTRA
    context_option = "context"
    weighing_options = ("cache_type_k", "cache_type_v")
    versions: ClassVar[Mapping[str, str]] = {"cpu": "2026.10.11549", "cuda": "2026.10.11549"}
    also: ClassVar[Mapping[str, tuple[str, ...]]] = {"cpu": ("2026.9.11063",)}
    quirks = Quirks(
        ignored=frozenset({"parallel_tool_calls", "service_tier", "store", "user", "metadata"}),
        # It takes them with a text to embed, and answers as if they were not there.
        refused=frozenset(
            {
                "dimensions",
                "max_tokens_per_doc",
                "truncate_prompt_tokens",
                "truncation_side",
                "use_activation",
            }
        ),
        running_metric="llamacpp:requests_processing",
        progress_metrics=(
            "llamacpp:prompt_tokens_total",
            "llamacpp:tokens_predicted_total",
            "llamacpp:n_decode_total",
        ),
        continuous_usage={"timings_per_token": True},
        # An unstreamed answer runs on after its client left, while any request on the server yields anything.
        whole_by_stream=True,
        images=True,
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/completions"),
                ("POST", "/v1/embeddings"),
                ("POST", "/v1/rerank"),
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

    async def pieces(self, ask: Ask, served_name: str, text: str) -> list[Token] | None:
        """A piece that is no whole text comes as its bytes."""
        found = await ask("POST", "/tokenize", {"content": text, "with_pieces": True})
        return [
            (one["id"], bytes(one["piece"]) if isinstance(one["piece"], list) else one["piece"].encode())
            for one in found["tokens"]
        ]

    def requirements(self, build: str, version: str) -> Requirements:
        return Requirements(python=("3.13", "3.12", "3.11", "3.10"), packages=(f"xllamacpp=={version}",))

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "gguf":
            return Verdict(False, "llama.cpp loads GGUF files only.")
        if model.task == "classification":
            return Verdict(False, "llama.cpp has no classification.")
        return Verdict(True, kind="gguf")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        return llamacpp_memory.estimate(model, LlamaCppOptions.model_validate(options.model_dump()), hardware)

    def reported(self, log: list[str]) -> Reported:
        return llamacpp_memory.reported(log)

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
            # Its threads spin at each other's barriers: one that has to share its core stops all of them.
            line += ["--threads", str(max(1, hardware.cores - 1))]
        line += self._task(model, given)
        if given.draft_model and model.draft:
            line += ["--spec-draft-model", str(model.draft.path)]
        for adapter in model.adapters:
            # At scale 0 for every request that does not ask for it.
            line += ["--lora-scaled", f"{adapter.path}:0"]
        return line + given.arguments()

    def selecting(self, place: int, name: str) -> dict[str, Any]:
        """It knows adapters by their places only; its answers carry the model's name."""
        return {"lora": [{"id": place, "scale": 1.0}]}

    def _task(self, model: LocalModel, given: LlamaCppOptions) -> list[str]:
        """What its server needs for anything but text."""
        if model.task in ("embedding", "rerank"):
            whole = [] if given.micro_batch else ["--ubatch-size", str(llamacpp_memory.at_once(model, given))]
            return ["--embeddings" if model.task == "embedding" else "--reranking", *whole]
        projector = kinds.projector(model.path) if model.takes_images else None
        return ["--mmproj", str(projector)] if projector else []

    def _program(self, environment: Path, given: LlamaCppOptions) -> list[str]:
        if given.program == "llama-server":
            return [shutil.which("llama-server") or "llama-server"]
        return [str(environment / "bin" / "python"), "-u", str(LAUNCHERS / "llamacpp.py")]

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        cache = {"LLAMA_CACHE": str(home / "cache" / "llama.cpp"), "HF_HUB_OFFLINE": "1"}
        return cache | ({"LLAMA_API_KEY": key} if key else {})

    def objections(self, options: Mapping[str, Any]) -> dict[str, str]:
        return objections(options)

    def progress(self, line: str) -> str | None:
        if "load_model: loading model" in line:
            return "loading weights"
        if "load_model: initializing, n_slots" in line:
            return "weights loaded"
        if "init: listening on" in line:
            return "warming up"
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
        if re.search(
            r"mismatch between text model .* and mmproj|failed to load (CLIP|multimodal) model", text
        ):
            return Reason(
                ReasonCode.BAD_WEIGHTS,
                "The mmproj file beside it belongs to another model: keep each in a folder of its own.",
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
