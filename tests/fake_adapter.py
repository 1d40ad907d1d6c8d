"""The adapter of the fake engine: written like a real one, needs no packages, loads anything."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from playground.engines.base import (
    PATHS,
    Ask,
    Engine,
    EngineOptions,
    Estimate,
    Hardware,
    LocalAdapter,
    LocalModel,
    Quirks,
    Requirements,
    Taken,
    Verdict,
)
from playground.engines.pieces import Token

PROGRAM = Path(__file__).with_name("fake_engine.py")
Crash = Literal["oom", "port", "option", "driver", "context", "gated", "weights", "bug", "killed", ""]


class FakeOptions(EngineOptions):
    """Every knob of the fake engine; None leaves its default."""

    tokens: int | None = Field(
        None,
        ge=1,
        le=100_000,
        title="Reply length",
        description="Tokens of an answer that nothing cuts shorter.",
        json_schema_extra={"group": "Speed", "flag": "--tokens"},
    )
    token_delay_ms: float | None = Field(
        None,
        ge=0,
        le=10_000,
        title="Delay a token",
        description="Milliseconds between two tokens.",
        json_schema_extra={"group": "Speed", "flag": "--token-delay-ms"},
    )
    load_s: float | None = Field(
        None,
        ge=0,
        le=600,
        title="Load time",
        description="Seconds until it listens.",
        json_schema_extra={"group": "Speed", "flag": "--load-s"},
    )
    context: int | None = Field(
        None,
        ge=1,
        title="Context length",
        description="Prompts of more tokens are refused.",
        json_schema_extra={"group": "Memory", "flag": "--context"},
    )
    memory_mib: int | None = Field(
        None,
        ge=1,
        title="Memory",
        description="MiB that it says it needs; it takes none of them.",
        json_schema_extra={"group": "Memory", "flag": "--memory-mib"},
    )
    slots: int | None = Field(
        None,
        ge=1,
        title="Parallel requests",
        description="Requests answered at once; more wait.",
        json_schema_extra={"group": "Memory", "flag": "--slots"},
    )
    variant: int | None = Field(
        None,
        ge=0,
        title="Variant",
        description="Which of several ways a text is said in.",
        json_schema_extra={"group": "Speed", "flag": "--variant"},
    )
    runtime_lora: bool | None = Field(
        None,
        title="Attach while it runs",
        description="Adapters may be added without a restart.",
        json_schema_extra={"group": "LoRA", "flag": "--runtime-lora"},
    )
    crash_after_s: float | None = Field(
        None,
        gt=0,
        title="Crash after",
        description="Seconds after it listens until it dies.",
        json_schema_extra={"group": "Faults", "flag": "--crash-after-s"},
    )
    crash_at_load: Crash | None = Field(
        None,
        title="Crash while loading",
        description="What its last words are about.",
        json_schema_extra={"group": "Faults", "flag": "--crash-at-load"},
    )
    ignore_sigterm: bool | None = Field(
        None,
        title="Ignore SIGTERM",
        description="Only SIGKILL ends it.",
        json_schema_extra={"group": "Faults", "flag": "--ignore-sigterm"},
    )
    orphan: bool | None = Field(
        None,
        title="Leave an orphan",
        description="A child in a session of its own that ignores SIGTERM.",
        json_schema_extra={"group": "Faults", "flag": "--orphan"},
    )
    inner: bool | None = Field(
        None,
        title="Inner process",
        description="The work is done by a child that outlives it, as vLLM's EngineCore does.",
        json_schema_extra={"group": "Faults", "flag": "--inner"},
    )
    lie_ready: bool | None = Field(
        None,
        title="Lie about readiness",
        description="/health says ok, completions fail.",
        json_schema_extra={"group": "Faults", "flag": "--lie-ready"},
    )


class Fake(Engine):
    """Words at a steady pace."""

    name = "fake"
    title = "Fake"
    kinds = ("gguf", "safetensors")
    adapter_kinds = ("gguf", "safetensors")
    Options = FakeOptions
    quirks = Quirks(
        running_metric="fake:num_requests_running",
        progress_metrics=("fake:tokens_total",),
        images=True,
        routes=frozenset(
            {("POST", path) for path in [*PATHS.values(), "/v1/responses", "/v1/score", "/tokenize"]}
        ),
    )
    versions: ClassVar[Mapping[str, str]] = {"cpu": "1.0", "cuda": "1.0"}
    also: ClassVar[Mapping[str, tuple[str, ...]]] = {"cpu": ("0.9",), "cuda": ("0.9",)}
    extra_flags: ClassVar[Mapping[str, Taken]] = {
        "--mood": ("calm", "brisk"),
        "--patience": int,
        "--share": float,
        "--quiet": None,
    }

    async def pieces(self, ask: Ask, served_name: str, text: str) -> list[Token] | None:
        found = await ask("POST", "/tokenize", {"content": text, "with_pieces": True})
        return [(one["id"], one["piece"].encode()) for one in found["tokens"]]

    def requirements(self, build: str, version: str) -> Requirements:
        return Requirements(python=(f"{sys.version_info.major}.{sys.version_info.minor}",), packages=())

    def supports(self, model: LocalModel) -> Verdict:
        return Verdict(True, kind=model.kind)

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        assert isinstance(options, FakeOptions)
        weights = (options.memory_mib or 16) << 20
        return Estimate(weights=weights, kv_cache=4 << 20, overhead=16 << 20)

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        line = [sys.executable, "-I", "-S", str(PROGRAM), "--port", str(port)]
        line += ["--served-model-name", served_name, "--model", str(model.path)]
        for adapter in model.adapters:
            line += ["--lora", adapter.name]
        for name, value in options.model_dump(exclude_none=True).items():
            flag = f"--{name.replace('_', '-')}"
            line += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
        return line

    def attaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/load_lora", {"name": adapter.name, "path": str(adapter.path)}

    def detaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        return "/unload_lora", {"name": adapter.name}

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        return {"FAKE_KEY": key}

    def progress(self, line: str) -> str | None:
        found = re.match(r"loading weights \d+ %", line)
        return found.group() if found else None
