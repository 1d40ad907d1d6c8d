"""The registry. Adding an engine is one file here, one line below, and one row in tests/real_engines.py."""

import importlib
import os
from functools import cache

from .base import Engine

ENGINES = {
    "external": "playground.engines.external:External",
    "llama.cpp": "playground.engines.llamacpp:LlamaCpp",
    "sglang": "playground.engines.sglang:Sglang",
    "transformers": "playground.engines.transformers:Transformers",
    "triton": "playground.engines.triton:Triton",
    "vllm": "playground.engines.vllm:Vllm",
}


class UnknownEngine(Exception):
    """No engine of that name; the text lists those there are."""


def _known() -> dict[str, str]:
    """The registry and what SLIPWAY_EXTRA_ENGINES adds ("name=module:Class,…"), which tests set."""
    extra = os.environ.get("SLIPWAY_EXTRA_ENGINES", "")
    return ENGINES | dict(entry.split("=", 1) for entry in extra.split(",") if entry)


@cache
def get(name: str) -> Engine:
    """The adapter of that name."""
    known = _known()
    if name not in known:
        raise UnknownEngine(f"No engine is called {name!r}. There are: {', '.join(known)}.")
    module, _, attribute = known[name].partition(":")
    adapter: Engine = getattr(importlib.import_module(module), attribute)()
    return adapter


def all() -> list[Engine]:
    return [get(name) for name in _known()]


def names() -> list[str]:
    return list(_known())
