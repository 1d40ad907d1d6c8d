"""Serve one GGUF file with xllamacpp. Run by the engine environment's own Python; takes llama-server's flags.

The API key comes from LLAMA_API_KEY, never from the command line. SIGTERM and SIGINT end it cleanly; it ends by itself
when the process that started it ends.
"""

import argparse
import functools
import os
import select
import signal
import sys
import threading

import xllamacpp

SLOTS = 4  # llama-server's own default when the number of slots is not set.


# llama-server's flags that take a number: its type, and where CommonParams keeps it.
NUMBERS = {
    "ctx-size": (int, "n_ctx"),
    "cache-ram": (int, "cache_ram_mib"),
    "cache-reuse": (int, "n_cache_reuse"),
    "ctx-checkpoints": (int, "n_ctx_checkpoints"),
    "slot-prompt-similarity": (float, "slot_prompt_similarity"),
    "batch-size": (int, "n_batch"),
    "ubatch-size": (int, "n_ubatch"),
    "threads-http": (int, "n_threads_http"),
    "n-gpu-layers": (int, "n_gpu_layers"),
    "main-gpu": (int, "main_gpu"),
    "rope-freq-base": (float, "rope_freq_base"),
    "rope-freq-scale": (float, "rope_freq_scale"),
    "yarn-orig-ctx": (int, "yarn_orig_ctx"),
    "yarn-ext-factor": (float, "yarn_ext_factor"),
    "yarn-attn-factor": (float, "yarn_attn_factor"),
    "yarn-beta-slow": (float, "yarn_beta_slow"),
    "yarn-beta-fast": (float, "yarn_beta_fast"),
    "spec-draft-n-max": (int, "speculative.draft.n_max"),
    "spec-draft-n-min": (int, "speculative.draft.n_min"),
    "spec-draft-p-min": (float, "speculative.draft.p_min"),
    "spec-draft-ngl": (int, "speculative.draft.n_gpu_layers"),
    "spec-ngram-simple-size-n": (int, "speculative.ngram_simple.size_n"),
    "spec-ngram-simple-size-m": (int, "speculative.ngram_simple.size_m"),
    "n-predict": (int, "n_predict"),
    "reasoning-budget": (int, "sampling.reasoning_budget_tokens"),
    "seed": (int, "sampling.seed"),
    "temp": (float, "sampling.temp"),
    "top-k": (int, "sampling.top_k"),
    "top-p": (float, "sampling.top_p"),
    "min-p": (float, "sampling.min_p"),
    "repeat-penalty": (float, "sampling.penalty_repeat"),
    "image-min-tokens": (int, "image_min_tokens"),
    "image-max-tokens": (int, "image_max_tokens"),
    "keep": (int, "n_keep"),
    "verbosity": (int, "verbosity"),
}
# Its flags that turn something on, each with a --no- form; CommonParams keeps some of them as their opposite.
SWITCHES = {
    "cache-prompt": ("cache_prompt", False),
    "cont-batching": ("cont_batching", False),
    "context-shift": ("ctx_shift", False),
    "swa-full": ("swa_full", False),
    "warmup": ("warmup", False),
    "check-tensors": ("check_tensors", False),
    "prefill-assistant": ("prefill_assistant", False),
    "repack": ("no_extra_bufts", True),
    "kv-offload": ("no_kv_offload", True),
    "op-offload": ("no_op_offload", True),
    "mmproj-offload": ("mmproj_use_gpu", False),
    "perf": ("no_perf", True),
}


def parse(arguments):
    """llama-server's names for the flags that Slipway uses."""
    parser = argparse.ArgumentParser(prog="llama.cpp", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-ui", action="store_true")
    for name, (kind, _) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind)
    for name in SWITCHES:
        switch(parser, name)
    parser.add_argument("--parallel", type=int)
    switch(parser, "kv-unified")
    parser.add_argument("--cache-type-k")
    parser.add_argument("--cache-type-v")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--threads-batch", type=int)
    parser.add_argument("--flash-attn", choices=["on", "off", "auto"])
    parser.add_argument("--split-mode", choices=["none", "layer", "row", "tensor"])
    parser.add_argument("--load-mode", choices=["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"])
    parser.add_argument("--numa", choices=["distribute", "isolate", "numactl"])
    parser.add_argument("--rope-scaling", choices=["none", "linear", "yarn"])
    parser.add_argument("--spec-type")
    parser.add_argument("--spec-draft-model")
    parser.add_argument("--reasoning", choices=["on", "off", "auto"])
    parser.add_argument("--reasoning-format", choices=["none", "deepseek", "deepseek-legacy", "auto"])
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--reranking", action="store_true")
    parser.add_argument("--lora-scaled", action="append", default=[])
    parser.add_argument("--mmproj")
    parser.add_argument("--pooling", choices=["none", "mean", "cls", "last", "rank"])
    return parser.parse_args(arguments)


def switch(parser, name):
    """A flag and its --no- form; None when neither is given."""
    parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None)


def member(enum, prefix, name):
    """The member of an xllamacpp enumeration: llama_flash_attn_type, LLAMA_FLASH_ATTN_TYPE_, "on" and so on."""
    return getattr(enum, prefix + name.upper().replace("+", "_").replace("-", "_"))


def server_params(given):
    """CommonParams with what was given; the rest stays llama.cpp's default."""
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    if given.mmproj:
        params.mmproj.path = given.mmproj
    params.model_alias = {given.alias}
    listen_on(params, given.host)
    params.port = given.port
    params.api_keys = [key for key in [os.environ.get("LLAMA_API_KEY", "")] if key]
    params.endpoint_metrics = given.metrics
    params.ui = not given.no_ui
    params.endpoint_slots = False
    params.n_parallel = given.parallel or SLOTS
    params.kv_unified = given.kv_unified if given.kv_unified is not None else given.parallel is None
    params.embedding = given.embeddings or given.reranking
    set_plain(params, given)
    set_threads(params, given)
    set_enums(params, given)
    set_adapters(params, given)
    set_speculation(params, given)
    return params


def listen_on(params, host):
    """One address; versions before 2026.10 take no more."""
    if hasattr(params, "hostnames"):
        params.hostnames = [host]
    else:
        params.hostname = host


def set_plain(params, given):
    """Numbers and switches, each where CommonParams keeps it."""
    for name, (_, place) in NUMBERS.items():
        put(params, place, getattr(given, name.replace("-", "_")))
    for name, (place, opposite) in SWITCHES.items():
        value = getattr(given, name.replace("-", "_"))
        put(params, place, value if value is None else value != opposite)


def put(params, place, value):
    """Set "speculative.draft.n_max" and the like; None leaves llama.cpp's default."""
    if value is not None:
        *outer, field = place.split(".")
        setattr(functools.reduce(getattr, outer, params), field, value)


def set_adapters(params, given):
    """Each `FILE:SCALE`. At scale 0 an adapter waits for requests that name it."""
    adapters = [one.rpartition(":") for one in given.lora_scaled]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in adapters]


def set_threads(params, given):
    if given.threads:
        params.cpuparams.n_threads = given.threads
    batch = given.threads_batch or given.threads
    if batch:
        params.cpuparams_batch.n_threads = batch


def set_speculation(params, given):
    """What guesses ahead: a draft model, which speaks for itself, or the text so far."""
    if given.spec_draft_model:
        params.speculative.draft.mparams.path = given.spec_draft_model
    kind = given.spec_type or ("draft-simple" if given.spec_draft_model else None)
    if kind:
        kinds = xllamacpp.common_speculative_type
        params.speculative.types = [member(kinds, "COMMON_SPECULATIVE_TYPE_", kind)]


def set_enums(params, given):
    """Values that are members of an enumeration."""
    x = xllamacpp
    flash = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}.get(given.flash_attn)
    load = {"dio": "DIRECT_IO"}.get(given.load_mode, given.load_mode)
    for field, enum, prefix, name in [
        ("cache_type_k", x.ggml_type, "GGML_TYPE_", given.cache_type_k),
        ("cache_type_v", x.ggml_type, "GGML_TYPE_", given.cache_type_v),
        ("flash_attn_type", x.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_", flash),
        ("split_mode", x.llama_split_mode, "LLAMA_SPLIT_MODE_", given.split_mode),
        ("load_mode", x.llama_load_mode, "LLAMA_LOAD_MODE_", load),
        ("numa", x.ggml_numa_strategy, "GGML_NUMA_STRATEGY_", given.numa),
        ("rope_scaling_type", x.llama_rope_scaling_type, "LLAMA_ROPE_SCALING_TYPE_", given.rope_scaling),
        ("reasoning_format", x.common_reasoning_format, "COMMON_REASONING_FORMAT_", given.reasoning_format),
        ("pooling_type", x.llama_pooling_type, "LLAMA_POOLING_TYPE_", "rank" if given.reranking else given.pooling),
    ]:
        if name:
            setattr(params, field, member(enum, prefix, name))
    put(params, "enable_reasoning", {"on": 1, "off": 0, "auto": -1}.get(given.reasoning))


def end_with_parent(ended):
    """Set `ended` when the process that started this one is gone."""
    try:
        parent = os.pidfd_open(os.getppid())
    except ProcessLookupError:
        ended.set()
        return
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.poll()
    print("the process that started this one ended", file=sys.stderr, flush=True)
    ended.set()
    # A server still loading does not look at `ended`.
    threading.Timer(3, os._exit, [1]).start()


def main():
    given = parse(sys.argv[1:])
    ended = threading.Event()
    threading.Thread(target=end_with_parent, args=[ended], daemon=True).start()
    # Until the server stands there is nothing to end in order, and its constructor holds the main thread.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(server_params(given))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    print(f"serving on {server.listening_address}", file=sys.stderr, flush=True)
    ended.wait()
    print("ending", file=sys.stderr, flush=True)
    del server


if __name__ == "__main__":
    main()
