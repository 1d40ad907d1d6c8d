"""The engine contract over every adapter, without installing anything; and llama.cpp's own ends."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from pydantic import ValidationError

from playground import catalogue, engines
from playground.engines.base import Engine, Gpu, Hardware, LocalModel, ReasonCode
from tests import real_engines
from tests.real_engines import ROWS, running

CPU = Hardware(cores=2, memory_bytes=8 << 30)
GPU = Hardware(cores=16, memory_bytes=128 << 30, gpus=(Gpu(0, "H100", 80 << 30),))
SHAPE = {"layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "hidden_size": 576, "vocab_size": 49152}
KEY = "canary-key"
every = pytest.mark.parametrize("adapter", [engines.get(name) for name in ROWS], ids=list(ROWS))


def local(adapter: Engine, task: str = "chat", **more: Any) -> LocalModel:
    return LocalModel(
        name="tiny",
        path=Path("/models/tiny"),
        kind=adapter.kinds[0],
        task=task,
        parameters=134_515_008,
        context_length=8192,
        facts=SHAPE,
        draft=LocalModel(name="tinier", path=Path("/models/tinier"), kind=adapter.kinds[0]),
        **{"size_bytes": 98_362_432, **more},
    )


def command(adapter: Engine, hardware: Hardware = CPU, **options: Any) -> list[str]:
    typed = adapter.Options.model_validate(options)
    return adapter.command(Path("/env"), local(adapter), typed, 4711, "tiny", hardware)


@every
def test_every_option_has_what_its_form_needs(adapter: Engine) -> None:
    assert len(adapter.Options.model_fields) >= 12
    for name, field in adapter.Options.model_fields.items():
        assert field.title and field.description, name
        assert isinstance(field.json_schema_extra, dict) and field.json_schema_extra["group"], name
        assert field.default is None, f"{name}: unset is the engine's default"
        assert "Unset:" in field.description or field.description.startswith("Unset"), name


@every
def test_every_number_has_a_range(adapter: Engine) -> None:
    for name, shape in adapter.Options.model_json_schema()["properties"].items():
        for variant in shape["anyOf"]:
            if variant["type"] in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(variant), name
                assert {"maximum", "exclusiveMaximum"} & set(variant), name


@every
@pytest.mark.parametrize("key", ["trust_remote_code", "host", "api_key", "--x", "env", "port"])
def test_it_refuses_options_it_does_not_name(adapter: Engine, key: str) -> None:
    with pytest.raises(ValidationError):
        adapter.Options.model_validate({key: "1"})


@every
def test_no_option_takes_free_text(adapter: Engine) -> None:
    for name, shape in adapter.Options.model_json_schema()["properties"].items():
        for variant in shape["anyOf"]:
            assert variant["type"] != "string" or "enum" in variant or "const" in variant, name


@every
def test_the_command_is_a_list_on_loopback_without_the_key(adapter: Engine) -> None:
    line = command(adapter)
    assert all(isinstance(part, str) for part in line)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert line[line.index("--port") + 1] == "4711"
    assert "/models/tiny" in line
    variables = adapter.environment(adapter.Options(), KEY, Path("/home"))
    assert KEY not in " ".join(line)
    assert KEY in variables.values()
    assert KEY not in adapter.environment(adapter.Options(), "", Path("/home")).values()


@every
def test_caches_lie_below_the_home(adapter: Engine) -> None:
    variables = adapter.environment(adapter.Options(), KEY, Path("/home/slipway"))
    paths = [value for value in variables.values() if value.startswith("/")]
    assert paths and all(path.startswith("/home/slipway/") for path in paths)
    assert variables["HF_HUB_OFFLINE"] == "1"


@every
def test_every_set_option_reaches_the_engine(adapter: Engine) -> None:
    """Each option alone changes the command or the variables; the same options give the same command."""
    plain = command(adapter), adapter.environment(adapter.Options(), "", Path("/h"))
    for name, shape in adapter.Options.model_json_schema()["properties"].items():
        variant = shape["anyOf"][0]
        value = _some_value(variant)
        typed = adapter.Options.model_validate({name: value})
        changed = command(adapter, **{name: value}), adapter.environment(typed, "", Path("/h"))
        assert changed != plain or variant["type"] == "boolean", name
        if variant["type"] == "boolean":
            typed = adapter.Options.model_validate({name: not value})
            other = command(adapter, **{name: not value}), adapter.environment(typed, "", Path("/h"))
            assert changed != other, name


def _some_value(variant: dict[str, Any]) -> Any:
    if "enum" in variant:
        return variant["enum"][-1]
    if "const" in variant:
        return variant["const"]
    if variant["type"] == "boolean":
        return True
    least = variant.get("minimum", variant.get("exclusiveMinimum", 0))
    most = variant.get("maximum", variant.get("exclusiveMaximum"))
    middle = (least + most) / 2
    return int(middle) if variant["type"] == "integer" else middle


@every
def test_it_takes_its_own_forms_and_says_why_not_the_others(adapter: Engine) -> None:
    verdict = adapter.supports(local(adapter))
    assert verdict.ok and verdict.kind == adapter.kinds[0]
    for other in {"gguf", "safetensors"} - set(adapter.kinds):
        refused = adapter.supports(LocalModel(name="x", path=Path("/x"), kind=other))
        assert not refused.ok and adapter.title in refused.why


@every
def test_it_names_versions_it_can_install_for_each_build(adapter: Engine) -> None:
    for build, version in adapter.versions.items():
        wanted = adapter.requirements(build, version)
        assert wanted.python
        assert f"=={version}" in wanted.packages[0]


@every
def test_memory_adds_up(adapter: Engine) -> None:
    estimate = adapter.memory(local(adapter), adapter.Options(), CPU)
    assert estimate.unknown == ()
    assert estimate.weights and estimate.kv_cache
    assert estimate.total == estimate.weights + estimate.kv_cache + estimate.overhead


@every
def test_memory_names_what_it_does_not_know(adapter: Engine) -> None:
    bare = LocalModel(name="x", path=Path("/x"), kind=adapter.kinds[0])
    estimate = adapter.memory(bare, adapter.Options(), GPU)
    assert estimate.total is None
    assert estimate.unknown


def test_llamacpp_counts_the_kv_cache_as_the_engine_does() -> None:
    # 30 layers x 3 heads x 64 x (2 + 2 bytes) = 23,040 a token; llama.cpp asked for 6,912,737,280 for
    # 300,032.
    adapter = engines.get("llama.cpp")
    options = adapter.Options.model_validate({"context": 300_032})
    assert adapter.memory(local(adapter), options, CPU).kv_cache == 6_912_737_280
    quantised = adapter.Options.model_validate(
        {"context": 300_032, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    )
    assert adapter.memory(local(adapter), quantised, CPU).kv_cache == 6_912_737_280 * 34 // 64


def test_vllm_asks_for_the_kv_cache_it_is_told() -> None:
    adapter = engines.get("vllm")
    options = adapter.Options.model_validate({"kv_cache_gib": 0.5})
    assert adapter.memory(local(adapter), options, CPU).kv_cache == 1 << 29
    assert str(1 << 29) in command(adapter, kv_cache_gib=0.5)
    assert "--kv-cache-memory-bytes" not in command(adapter, GPU)
    assert "--enforce-eager" in command(adapter) and "--enforce-eager" not in command(adapter, GPU)
    assert "--no-enforce-eager" in command(adapter, enforce_eager=False)


EXPLAINED = [
    (
        "llama.cpp",
        ReasonCode.OUT_OF_MEMORY,
        "lower the context, to 150,016",
        """W llama_context: n_ctx_seq (300032) > n_ctx_train (8192) -- possible training context overflow
E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 6912737280
E ggml_backend_buft_alloc_buffer_n_default: failed to allocate CPU buffer of size 6912737280
E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache""",
    ),
    (
        "llama.cpp",
        ReasonCode.BAD_WEIGHTS,
        "failed to read key-value pairs",
        """E gguf_init_from_reader: failed to read key-value pairs
E llama_model_load: error loading model: llama_model_loader: failed to load model from /tmp/cut.gguf""",
    ),
    (
        "llama.cpp",
        ReasonCode.PORT_TAKEN,
        "port",
        "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18183",
    ),
    (
        "llama.cpp",
        ReasonCode.UNKNOWN_OPTION,
        "--nope",
        "llama.cpp: error: unrecognized arguments: --nope 3",
    ),
    (
        "llama.cpp",
        ReasonCode.BAD_WEIGHTS,
        "architecture newthing",
        "E llama_model_load: error loading model: unknown model architecture: 'newthing'",
    ),
    (
        "vllm",
        ReasonCode.CONTEXT_TOO_LONG,
        "lower the context to 5,440",
        "ValueError: To serve at least one request with the models's max seq len (8192), (0.18 GiB KV "
        "cache is needed, "
        "which is larger than the available KV cache memory (0.12 GiB). Based on the available memory, "
        "the estimated "
        "maximum model length is 5440. Try increasing `gpu_memory_utilization` or decreasing "
        "`max_model_len`.",
    ),
    (
        "vllm",
        ReasonCode.CONTEXT_TOO_LONG,
        "shorter context than 100,000",
        "Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json).",
    ),
    (
        "vllm",
        ReasonCode.UNKNOWN_OPTION,
        "unrecognized arguments: --nope",
        "api_server.py: error: unrecognized arguments: --nope",
    ),
    (
        "vllm",
        ReasonCode.OUT_OF_MEMORY,
        "100.0 GiB",
        "ValueError: Available memory on node 0 (6.9/23.5 GiB) on kv cache allocation is less than "
        "requested memory "
        "for kv (100.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU "
        "memory used by "
        "other processes.",
    ),
    (
        "vllm",
        ReasonCode.OUT_OF_MEMORY,
        "no 2.00 GiB left",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 79.1 GiB",
    ),
    (
        "vllm",
        ReasonCode.DRIVER_MISSING,
        "driver",
        "ImportError: libcuda.so.1: cannot open shared object file",
    ),
    (
        "vllm",
        ReasonCode.BAD_WEIGHTS,
        "vision_tower.embeddings, which this vLLM's LlavaForConditionalGeneration does not",
        "(Worker pid=7) ERROR 11-25 10:46:58 [multiproc_executor.py:953] ValueError: There is no module or "
        "parameter named 'vision_tower.embeddings' in LlavaForConditionalGeneration. The available "
        "parameters are: {}\n"
        "(EngineCore pid=5) ERROR 11-25 10:47:02 [core.py:1510] Exception: WorkerProc initialization failed "
        "due to an exception in a background process. See stack trace for root cause.\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ),
    ("vllm", ReasonCode.PORT_TAKEN, "port", "OSError: [Errno 98] Address already in use"),
    (
        "sglang",
        ReasonCode.CONTEXT_TOO_LONG,
        "8,192, not 100,000",
        "ValueError: Warning: User-specified context_length (100000) is greater than the derived "
        "context_length (8192). This may lead to incorrect model outputs or CUDA errors.",
    ),
    (
        "sglang",
        ReasonCode.UNKNOWN_OPTION,
        "unrecognized arguments: --nope",
        "sglang serve: error: unrecognized arguments: --nope",
    ),
    (
        "sglang",
        ReasonCode.BAD_WEIGHTS,
        "broken",
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header\n"
        "[2026-11-25 09:34:25] Received sigquit from a child process. It usually means the child failed.",
    ),
    (
        "sglang",
        ReasonCode.CRASHED,
        "failed: KeyError: 'model.norm'",
        "KeyError: 'model.norm'\n[2026-11-25 09:34:25] Received sigquit from a child process. It usually "
        "means the child failed.",
    ),
    (
        "sglang",
        ReasonCode.CRASHED,
        "One of its processes failed",
        "Subprocess scheduler_0 (pid=16533) crashed with exit code 1. Triggering SIGQUIT for cleanup...",
    ),
    (
        "sglang",
        ReasonCode.OUT_OF_MEMORY,
        "share of GPU memory",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.1",
    ),
    (
        "sglang",
        ReasonCode.DRIVER_MISSING,
        "driver",
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
    ),
    (
        "transformers",
        ReasonCode.OUT_OF_MEMORY,
        "3.00 GiB",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total "
        "capacity of 79 GiB",
    ),
    (
        "transformers",
        ReasonCode.PORT_TAKEN,
        "port",
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address "
        "already in use",
    ),
    ("transformers", ReasonCode.UNKNOWN_OPTION, "--nope", "Error: No such option '--nope'."),
    (
        "transformers",
        ReasonCode.BAD_WEIGHTS,
        "broken",
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    ),
]


@pytest.mark.parametrize(("name", "code", "words", "log"), EXPLAINED)
def test_it_says_what_to_do_about_a_failed_start(name: str, code: ReasonCode, words: str, log: str) -> None:
    reason = engines.get(name).explain(log.splitlines(), 1)
    assert reason is not None
    assert reason.code == code
    assert words in reason.text


@every
def test_it_leaves_an_unknown_failure_to_the_common_rules(adapter: Engine) -> None:
    assert adapter.explain(["something else"], 1) is None


# llama.cpp alone: what only a process of its own can show


@pytest.fixture
def gguf(transactional_db: None) -> LocalModel:
    _, form = real_engines.demo("gguf")
    return catalogue.local(form)


def test_llamacpp_ends_cleanly_on_sigterm(gguf: LocalModel) -> None:
    with running("llama.cpp", gguf, {"context": 512}) as live:
        assert live.ready_s < 20
        live.process.terminate()
        assert live.process.wait(timeout=5) == 0
    assert "ending" in live.log.read_text()


def test_llamacpp_explains_its_own_words_about_a_broken_file(gguf: LocalModel, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with gguf.path.open("rb") as source:
        cut.write_bytes(source.read(1_000_000))
    broken = LocalModel(name="cut", path=cut, kind="gguf")
    with pytest.raises(AssertionError, match="it ended with 1"):
        with running("llama.cpp", broken, {}):
            pass
    newest = max(settings.HOME.glob("llama.cpp-*.log"), key=lambda file: file.stat().st_mtime)
    reason = engines.get("llama.cpp").explain(newest.read_text().splitlines(), 1)
    assert reason is not None and reason.code == ReasonCode.BAD_WEIGHTS


@pytest.mark.skipif(shutil.which("llama-server") is None, reason="no llama-server on the PATH")
def test_llamacpp_runs_the_llama_server_on_the_path(gguf: LocalModel) -> None:
    with running("llama.cpp", gguf, {"context": 512, "program": "llama-server"}) as live:
        assert live.process.poll() is None
