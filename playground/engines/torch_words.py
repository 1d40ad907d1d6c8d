"""What engines built on torch have in common: where their caches lie, and how they tell of failures."""

import re
from pathlib import Path

from .base import Reason, ReasonCode
from .estimates import GIB


def caches(home: Path) -> dict[str, str]:
    """Variables that keep their libraries off the network, and what those keep below `home`."""
    cache = home / "cache"
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(cache / "huggingface"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torchinductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }


def out_of_memory(text: str, gpu: str, cpu: str) -> Reason | None:
    """Torch got no memory. `gpu`, `cpu`: what to do about it there, as the end of a sentence."""
    if found := re.search(r"CUDA out of memory\. Tried to allocate ([\d.]+ \w+)", text):
        return Reason(ReasonCode.OUT_OF_MEMORY, f"The GPU had no {found[1]} left: {gpu}.")
    if found := re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", text):
        gib = f"{int(found[1]) / GIB:.1f} GiB"
        return Reason(ReasonCode.OUT_OF_MEMORY, f"It could not get {gib} of memory: {cpu}.")
    return None


def failure(text: str, who: str, driver: str = "") -> Reason | None:
    """A port, a gate, a driver, broken weights. `driver`: one more pattern by which `who` misses its own."""
    no_driver = "Found no NVIDIA driver|driver .*too old" + (f"|{driver}" if driver else "")
    for code, pattern, words in [
        (
            ReasonCode.PORT_TAKEN,
            r"(?i:address already in use)|Errno 98",
            "Another program took the port first.",
        ),
        (
            ReasonCode.GATED,
            r"is a gated repo|GatedRepoError",
            "The model is gated: ask its owner for access, then fetch it again.",
        ),
        (
            ReasonCode.DRIVER_MISSING,
            no_driver,
            f"The GPU driver is missing on this node, or too old for {who}.",
        ),
        (
            ReasonCode.BAD_WEIGHTS,
            r"SafetensorError|Error while deserializing header",
            "The safetensors files are broken: fetch or copy them again.",
        ),
    ]:
        if re.search(pattern, text):
            return Reason(code, words)
    return None
