"""llama.cpp's own account of its memory, which it gives where it is made to say more, and the estimate."""

from typing import Any

import pytest

from playground import catalogue, engines
from playground.engines.base import LocalModel
from tests import fits, real_engines


@pytest.fixture
def demo(transactional_db: None) -> LocalModel:
    _, form = real_engines.demo("gguf")
    return catalogue.local(form)


@pytest.mark.parametrize(
    "options",
    [
        {"context": 8192},
        {"context": 2048, "parallel": 2, "kv_unified": False, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    ],
    ids=["shared", "divided and quantised"],
)
def test_llamacpp_takes_what_was_worked_out(demo: LocalModel, options: dict[str, Any]) -> None:
    adapter = engines.get("llama.cpp")
    with real_engines.running("llama.cpp", demo, options, extra=("--verbosity", "4")) as live:
        said = adapter.reported(live.log.read_text(errors="replace").splitlines())
    assert said.weights_bytes and said.kv_cache_bytes and said.kv_cache_tokens == options["context"]
    estimate = adapter.memory(demo, adapter.Options.model_validate(options), fits.CPU)
    fits.assert_agrees(said, estimate)
    assert estimate.kv_cache == pytest.approx(said.kv_cache_bytes, rel=0.01)
