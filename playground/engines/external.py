"""An OpenAI-compatible server that somebody else runs: nothing is loaded here.

What runs on a node is a small forwarder, so that such a server is started, watched, asked, promoted and
stopped like every engine, is reached from one node alone, and only that process holds its key.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

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
    Requirements,
    Verdict,
    option,
)

RESIDENT = 64 << 20
TASKS = ("chat", "completion", "embedding")


class ExternalOptions(EngineOptions):
    """What is passed on, and for how long an answer is waited for."""

    parallel: int | None = option(
        "Parallel requests",
        "Requests the server gets at once; more wait here. Unset: all.",
        "Requests",
        "--parallel",
        ge=1,
        le=10_000,
    )
    silence_s: int | None = option(
        "Silence",
        "Seconds without a byte of an answer after which it is given up. Unset: 600.",
        "Requests",
        "--silence",
        ge=1,
        le=86_400,
    )


class External(Engine):
    """A server that is asked; `LocalModel.facts` are its "url", the "model" there, and allowed "networks"."""

    name = "external"
    title = "External server"
    kinds = ("external",)
    Options = ExternalOptions
    is_elsewhere = True
    versions: ClassVar[Mapping[str, str]] = {"cpu": "1"}
    quirks = Quirks(
        renames_model=True,
        running_metric="external:num_requests_running",
        waiting_metric="external:num_requests_waiting",
        progress_metrics=("external:heard_total", "external:requests_total"),
        images=True,
        routes=frozenset(
            {
                ("POST", "/v1/chat/completions"),
                ("POST", "/v1/completions"),
                ("POST", "/v1/embeddings"),
            }
        ),
    )

    def requirements(self, build: str, version: str) -> Requirements:
        """Nothing: the forwarder runs on the site's own Python."""
        return Requirements(python=(), packages=())

    def supports(self, model: LocalModel) -> Verdict:
        if model.kind != "external":
            return Verdict(False, "External server passes on to servers that are named, and loads nothing.")
        if model.task not in TASKS:
            return Verdict(False, f"External server takes models for {', '.join(TASKS)}.")
        return Verdict(True, kind="external")

    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        return Estimate(weights=0, kv_cache=0, overhead=RESIDENT)

    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        line = [sys.executable, "-u", str(LAUNCHERS / "forward.py"), "--served-name", served_name]
        line += ["--host", "127.0.0.1", "--port", str(port), "--task", model.task]
        line += [f"--url={model.facts['url']}", f"--asks={model.facts['model']}"]
        line += [f"--allow={network}" for network in model.facts.get("networks", ())]
        return line + options.arguments()

    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        return {"SLIPWAY_ENGINE_KEY": key} if key else {}

    def progress(self, line: str) -> str | None:
        if found := re.search(r"external: (waits for the server: .{0,200})", line):
            return found[1]
        if "external: asking" in line:
            return "asking the server"
        return None

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        text = "\n".join(log)
        if found := re.search(r"external: error: (address|server): (.+)", text):
            said = f"The server cannot be used: {found[2][:400]}"
            return Reason(ReasonCode.SERVER_REFUSED, said)
        if re.search(r"address already in use", text, re.IGNORECASE):
            return Reason(ReasonCode.PORT_TAKEN, "Another program took the port first.")
        return None
