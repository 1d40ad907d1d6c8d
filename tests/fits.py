"""Whether what an engine says it took is what was worked out before it started."""

import re

import pytest

from playground import catalogue, engines
from playground.engines.base import Estimate, Hardware, Reported
from playground.models import Configuration, Start

GIB = 1 << 30
WITHIN = 0.15
CPU = Hardware(cores=2, memory_bytes=16 << 30)


def worked_out(configuration: Configuration) -> Estimate:
    """The estimate of a configuration on a CPU."""
    adapter = engines.get(configuration.engine)
    options = adapter.Options.model_validate(configuration.options)
    return adapter.memory(catalogue.local(configuration.format), options, CPU)


def assert_agrees(said: Reported | Start, estimate: Estimate) -> None:
    """Each figure that the engine told, one at least, is within 15 % of the estimate's."""
    told = {
        "weights": (said.weights_bytes, estimate.weights),
        "KV cache": (said.kv_cache_bytes, estimate.kv_cache),
        "tokens": (said.kv_cache_tokens, estimate.kv_tokens),
    }
    known = {name: both for name, both in told.items() if both[0] is not None}
    print({name: f"said {both[0]:,}, worked out {both[1]:,}" for name, both in known.items() if both[1]})
    assert known, "it tells nothing of itself"
    for name, (engine, ours) in known.items():
        assert ours == pytest.approx(engine, rel=WITHIN), name


def checkpoint(log: str) -> int | None:
    """Bytes of the files it loaded, where an engine tells no more of its weights than that."""
    found = re.search(r"Checkpoint size: ([\d.]+) GiB", log)
    return int(float(found[1]) * GIB) if found else None
