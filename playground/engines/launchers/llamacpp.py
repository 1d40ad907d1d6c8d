"""Serve one GGUF file with xllamacpp. Run by the engine environment's own Python; takes llama-server's flags.

The API key comes from LLAMA_API_KEY, never from the command line. SIGTERM and SIGINT end it cleanly; it ends by itself
when the process that started it ends.
"""

import argparse
import os
import select
import signal
import sys
import threading

import xllamacpp

SLOTS = 4  # llama-server's own default when the number of slots is not set.


def parse(arguments):
    """llama-server's names for the flags that Slipway uses."""
    parser = argparse.ArgumentParser(prog="llama.cpp", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-ui", action="store_true")
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--parallel", type=int)
    switch(parser, "kv-unified")
    parser.add_argument("--cache-type-k")
    parser.add_argument("--cache-type-v")
    parser.add_argument("--cache-ram", type=int)
    switch(parser, "cache-prompt")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--ubatch-size", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--threads-batch", type=int)
    parser.add_argument("--flash-attn", choices=["on", "off", "auto"])
    parser.add_argument("--n-gpu-layers", type=int)
    parser.add_argument("--split-mode", choices=["none", "layer", "row"])
    parser.add_argument("--main-gpu", type=int)
    parser.add_argument("--load-mode", choices=["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"])
    parser.add_argument("--numa", choices=["distribute", "isolate", "numactl"])
    parser.add_argument("--rope-freq-base", type=float)
    parser.add_argument("--rope-scaling", choices=["none", "linear", "yarn"])
    switch(parser, "context-shift")
    switch(parser, "warmup")
    parser.add_argument("--check-tensors", action="store_true")
    parser.add_argument("--reasoning-format", choices=["none", "deepseek", "auto"])
    parser.add_argument("--n-predict", type=int)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--reranking", action="store_true")
    parser.add_argument("--mmproj")
    parser.add_argument("--pooling", choices=["none", "mean", "cls", "last", "rank"])
    return parser.parse_args(arguments)


def switch(parser, name):
    """A flag and its --no- form; None when neither is given."""
    parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None)


def member(enum, prefix, name):
    """The member of an xllamacpp enumeration: llama_flash_attn_type, LLAMA_FLASH_ATTN_TYPE_, "on" and so on."""
    return getattr(enum, prefix + name.upper().replace("+", "_"))


def server_params(given):
    """CommonParams with what was given; the rest stays llama.cpp's default."""
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    if given.mmproj:
        params.mmproj.path = given.mmproj
    params.model_alias = {given.alias}
    params.hostnames = [given.host]
    params.port = given.port
    params.api_keys = [key for key in [os.environ.get("LLAMA_API_KEY", "")] if key]
    params.endpoint_metrics = given.metrics
    params.ui = not given.no_ui
    params.endpoint_slots = False
    params.n_parallel = given.parallel or SLOTS
    params.kv_unified = given.kv_unified if given.kv_unified is not None else given.parallel is None
    for field, value in plain(given).items():
        if value is not None:
            setattr(params, field, value)
    set_threads(params, given)
    set_enums(params, given)
    return params


def plain(given):
    """Values that CommonParams takes as they are."""
    return {
        "n_ctx": given.ctx_size,
        "cache_ram_mib": given.cache_ram,
        "cache_prompt": given.cache_prompt,
        "n_batch": given.batch_size,
        "n_ubatch": given.ubatch_size,
        "n_gpu_layers": given.n_gpu_layers,
        "main_gpu": given.main_gpu,
        "rope_freq_base": given.rope_freq_base,
        "ctx_shift": given.context_shift,
        "warmup": given.warmup,
        "check_tensors": given.check_tensors or None,
        "n_predict": given.n_predict,
        "embedding": given.embeddings or given.reranking or None,
    }


def set_threads(params, given):
    if given.threads:
        params.cpuparams.n_threads = given.threads
    batch = given.threads_batch or given.threads
    if batch:
        params.cpuparams_batch.n_threads = batch


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
