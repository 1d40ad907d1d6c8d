"""Run `transformers serve` with what it lacks. Run by the engine environment's own Python.

serve_transformers.py --served-name NAME --model FOLDER [--threads N] [arguments of `transformers serve`]

- Requests may name the model as they know it: the folder is linked by that name, since the server takes only the name
  it was started with.
- A key, from SLIPWAY_ENGINE_KEY, is asked of every request.
- /metrics tells how many requests are running and how many tokens were made.
- A client that hangs up ends its generation, also where the answer is not streamed.
- A temperature above zero samples, also where the model's own defaults do not.
- A prompt beyond the model's context is refused, and an answer ends where the context does.

It works in the folder it is started in, and leaves nothing elsewhere.
"""

import argparse
import asyncio
import hmac
import os
import sys
import threading
from pathlib import Path

import torch
import uvicorn
from fastapi import HTTPException
from transformers.cli.serving import model_manager as serving_models
from transformers.cli.serving import utils as serving

KEY = os.environ.pop("SLIPWAY_ENGINE_KEY", "")


class Count:
    """What /metrics tells. Written by the inference threads, read by the server's."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running = self.tokens = self.requests = 0

    def begin(self):
        with self.lock:
            self.running += 1
            self.requests += 1

    def end(self):
        with self.lock:
            self.running -= 1

    def token(self, amount=1):
        with self.lock:
            self.tokens += amount

    def text(self):
        batched = sum(scheduler_load(manager) for manager in BATCHERS)
        return (
            "# TYPE transformers:num_requests_running gauge\n"
            f"transformers:num_requests_running {self.running + batched}\n"
            "# TYPE transformers:generation_tokens_total counter\n"
            f"transformers:generation_tokens_total {self.tokens}\n"
            "# TYPE transformers:requests_total counter\n"
            f"transformers:requests_total {self.requests}\n"
        )


COUNT = Count()
BATCHERS = []


def scheduler_load(manager):
    """Requests that a continuous batcher holds, running and waiting."""
    processor = getattr(manager._cb, "batch_processor", None)
    if processor is None:
        return 0
    return len(processor.scheduler.active_requests) + len(processor.scheduler.waiting_requests)


class Abortable:
    """A streamer that keeps nothing: it counts tokens and ends a generation nobody waits for."""

    def __init__(self):
        self.gone = threading.Event()
        self.prompt_seen = False

    def put(self, value):
        if self.gone.is_set():
            raise serving._GenerationCancelled
        if self.prompt_seen:
            COUNT.token()
        self.prompt_seen = True

    def end(self):
        pass


def count_running():
    """Count every call on the inference thread from its submission to its end."""
    submit = serving.InferenceThread.submit

    def counted(self, call, *args, **kwargs):
        def run():
            try:
                return call(*args, **kwargs)
            finally:
                COUNT.end()

        COUNT.begin()
        return submit(self, run)

    serving.InferenceThread.submit = counted


def count_tokens(streamer):
    put = streamer.put

    def counted(self, value):
        before = self.total_tokens
        put(self, value)
        COUNT.token(self.total_tokens - before)

    streamer.put = counted


def abort_unstreamed():
    """Generate a whole answer with a streamer that can be told to stop."""

    async def generate(self, model, processor, inputs, gen_config, request_id):
        streamer = Abortable()
        given = {**inputs, "generation_config": gen_config, "tokenizer": processor, "streamer": streamer}
        if hasattr(model, "has_talker"):
            given["generation_mode"] = "text"
        future = asyncio.wrap_future(self.submit(model.generate, **given))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            sequences = await asyncio.shield(future)
        except asyncio.CancelledError:
            streamer.gone.set()
            raise
        length = inputs["input_ids"].shape[-1]
        made = sequences[0, length:]
        return processor.decode(made, skip_special_tokens=True), length, made

    serving.GenerateManager.generate_non_streaming = generate


def remember_batchers():
    start = serving.CBGenerateManager.init_cb

    def remembered(self, *args, **kwargs):
        if self not in BATCHERS:
            BATCHERS.append(self)
        return start(self, *args, **kwargs)

    serving.CBGenerateManager.init_cb = remembered


def sample_when_asked():
    build = serving.BaseHandler._build_generation_config

    def built(self, body, *args, **kwargs):
        config = build(self, body, *args, **kwargs)
        if body.get("temperature"):
            config.do_sample = True
        return config

    serving.BaseHandler._build_generation_config = built


def keep_to_the_context():
    """The server itself has no limit: beyond what the model was trained for it answers nonsense, slowly."""

    def kept(generate):
        def within(self, model, processor, inputs, gen_config, *args, **kwargs):
            bound(model, inputs["input_ids"], gen_config)
            return generate(self, model, processor, inputs, gen_config, *args, **kwargs)

        return within

    for manager in (serving.GenerateManager, serving.CBGenerateManager):
        manager.generate_streaming = kept(manager.generate_streaming)
        manager.generate_non_streaming = kept(manager.generate_non_streaming)


def bound(model, ids, gen_config):
    """Refuse a prompt that fills the context; else let the answer have what it leaves."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit:
        return
    length = len(ids) if isinstance(ids, list) else ids.shape[-1]
    if length >= limit:
        text = f"This model's maximum context length is {limit} tokens; the prompt has {length}."
        raise HTTPException(status_code=400, detail=text)
    gen_config.max_new_tokens = min(gen_config.max_new_tokens or limit, limit - length)


class Front:
    """ASGI in front of the server: the key, /metrics, and a request that ends when its client does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not self.is_allowed(scope):
            await answer(send, 401, b'{"error": {"message": "wrong key", "type": "authentication_error"}}')
        elif scope["path"] == "/metrics":
            await answer(send, 200, COUNT.text().encode(), b"text/plain; version=0.0.4")
        else:
            await self.until_gone(scope, receive, send)

    def is_allowed(self, scope):
        if not KEY or scope["path"] == "/health":
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + KEY.encode())

    async def until_gone(self, scope, receive, send):
        """Pass messages on; cancel the request's task when its client is gone."""
        messages = asyncio.Queue()
        task = asyncio.create_task(self.app(scope, messages.get, send))

        async def watch():
            while True:
                message = await receive()
                await messages.put(message)
                if message["type"] == "http.disconnect":
                    task.cancel()
                    return

        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait([task])
        finally:
            watcher.cancel()
        if not task.cancelled() and task.exception():
            raise task.exception()


async def answer(send, status, body, kind=b"application/json"):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})


def tell_memory():
    """What the weights take, once loaded, for whoever reads the log."""
    load = serving_models.ModelManager._load_model

    def told(self, *args, **kwargs):
        model = load(self, *args, **kwargs)
        print(f"transformers: memory weights_bytes={model.get_memory_footprint()}", flush=True)
        return model

    serving_models.ModelManager._load_model = told


def put_in_front():
    """uvicorn is given the server's application as its first argument."""
    configure = uvicorn.Config.__init__

    def configured(self, app, *args, **kwargs):
        configure(self, Front(app), *args, **kwargs)

    uvicorn.Config.__init__ = configured


def link(name, folder):
    """Make `name`, slashes included, a link to the model, in the folder the process works in."""
    base = Path("served").absolute()
    place = base / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(folder)
    os.chdir(base)


def parse(arguments):
    """What the launcher itself is told, and the arguments of `transformers serve`."""
    parser = argparse.ArgumentParser(prog="transformers", allow_abbrev=False)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int)
    return parser.parse_known_args(arguments)


def main():
    given, rest = parse(sys.argv[1:])
    link(given.served_name, given.model)
    if given.threads:
        torch.set_num_threads(given.threads)
    count_running()
    count_tokens(serving.DirectStreamer)
    count_tokens(serving.CBStreamer)
    abort_unstreamed()
    remember_batchers()
    sample_when_asked()
    keep_to_the_context()
    tell_memory()
    put_in_front()
    sys.argv = ["transformers", "serve", given.served_name, *rest]
    from transformers.cli.transformers import main as run

    run()


if __name__ == "__main__":
    main()
