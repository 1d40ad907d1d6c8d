"""Run SGLang's server with what it lacks. Run by the engine environment's own Python.

serve_sglang.py [arguments of `sglang serve`]

- The key comes from SLIPWAY_ENGINE_KEY: not by an argument, which everybody on the machine sees, and not into
  the log, where SGLang writes all its settings. /metrics asks for it, too.
- /metrics tells how many requests there are now: SGLang's own numbers are those of its last report.
- Of a request for several choices nothing is left when it ends, and all of it ends with its client.
- /tokenize answers for tokenizers that name no length, where SGLang's own answer cannot be written as JSON.
- A CPU is told to be one before SGLang is imported.
- Its sockets and other temporary files lie in the folder it is started in, where the path is short enough.
"""

import functools
import hmac
import itertools
import os
import sys
import tempfile
import uuid
from pathlib import Path

KEY = os.environ.pop("SLIPWAY_ENGINE_KEY", "")
SOCKET_PATH = 107  # The longest path of a Unix socket.
RUNNING = "sglang:requests_now"


def name_device(arguments):
    """By a variable, which SGLang reads when it is imported."""
    if ("--device", "cpu") in itertools.pairwise(arguments):
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
        if "--enable-torch-compile" not in arguments:
            # Or the first answer that keeps a schema waits half a minute for a C++ compiler.
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        pin_nothing()


def pin_nothing():
    """A CPU has no memory to pin, which SGLang asks for where it has LoRA adapters."""
    import torch

    torch.Tensor.pin_memory = lambda self, *_: self
    for name in ("tensor", "empty", "zeros"):
        setattr(torch, name, unpinned(getattr(torch, name)))


def unpinned(make):
    @functools.wraps(make)
    def made(*args, pin_memory=False, **more):
        return make(*args, **more)

    return made


def keep_files_here():
    """Also of the processes SGLang starts, which import this file again."""
    here = Path.cwd() / "tmp"
    if len(str(here)) < SOCKET_PATH - 30:
        here.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(here)
        loads_here(here)


def loads_here(folder):
    """What SGLang would leave in shared memory when it is killed: how busy it is, for routers."""
    try:
        from sglang.srt.managers import load_snapshot
    except ImportError:
        return
    load_snapshot.shm_path_for = lambda name: str(folder / f"loads-{Path(name).name}")


def parse(arguments):
    """SGLang's settings of a command line, without the key."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(arguments)


def hide_key(settings):
    """Let nothing that writes the settings down write the key."""
    kind = type(settings)
    plain = kind.__repr__
    kind.__repr__ = lambda self: plain(self).replace(KEY, "…") if KEY else plain(self)


def keep_choices_together(manager, request):
    """SGLang makes each of several choices a request of its own, whose name says nothing of where it is from.

    It has then no way to abort them, and of what it noted for the first names it never removes all but one.
    """
    note, abort = manager._init_req_state, manager.abort_request

    def noted(self, obj, *more):
        note(self, obj, *more)
        if getattr(obj, "parallel_sample_num", 1) > 1 and isinstance(obj.rid, list):
            for rid in obj.rid[obj.batch_size :]:
                self.rid_to_state.pop(rid, None)

    def aborted(self, rid="", abort_all=False):
        choices = [one for one in self.rid_to_state if rid and one.startswith(f"{rid}.")]
        for one in choices or [rid]:
            abort(self, one, abort_all)

    def renamed(self):
        self.rid = f"{self.rid}.{uuid.uuid4().hex}"
        return self.rid

    manager._init_req_state, manager.abort_request, request.regenerate_rid = noted, aborted, renamed


def add_metrics(http_server):
    """SGLang's own, and the number of requests it holds, also of those whose client left."""

    class Now:
        def collect(self):
            from prometheus_client.core import GaugeMetricFamily

            states = http_server.get_global_state().tokenizer_manager.rid_to_state
            yield GaugeMetricFamily(RUNNING, "Requests waiting and running.", value=len(states))

    def metrics(app):
        # Only now: when it is imported it looks where the numbers of all processes lie.
        from prometheus_client import CollectorRegistry, make_asgi_app, multiprocess

        name_a_length(http_server.get_global_state().tokenizer_manager)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        registry.register(Now())
        told = make_asgi_app(registry=registry)

        async def answer(scope, receive, send):
            if KEY and not knows_key(scope):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            await told(scope, receive, send)

        app.router.add_route("/metrics", Answer(answer), methods=["GET"])

    http_server.add_prometheus_middleware = metrics


class Answer:
    """An ASGI application as a route takes it: a plain function would be called with a request."""

    def __init__(self, application):
        self.application = application

    async def __call__(self, scope, receive, send):
        await self.application(scope, receive, send)


def knows_key(scope):
    given = dict(scope["headers"]).get(b"authorization", b"")
    return hmac.compare_digest(given, f"Bearer {KEY}".encode())


def name_a_length(manager):
    """A tokenizer without one says 10^30, which SGLang cannot write down."""
    tokenizer = manager.tokenizer
    if getattr(tokenizer, "model_max_length", 0) > 2**53:
        tokenizer.model_max_length = manager.context_len


def main():
    settings = parse(sys.argv[1:])
    settings.api_key = KEY or None
    hide_key(settings)
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import TokenizerManager
    from sglang.srt.utils import kill_process_tree

    keep_choices_together(TokenizerManager, GenerateReqInput)
    add_metrics(http_server)
    try:
        http_server.launch_server(settings)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ in ("__main__", "__mp_main__"):
    name_device(sys.argv)
    keep_files_here()
if __name__ == "__main__":
    main()
