"""Serve a safetensors model with Triton. Run by the engine environment's own Python.

serve_triton.py --model FOLDER --served-name NAME --port N [options, see `parse`]

pytriton starts `tritonserver` and binds the model to its Python backend, decoupled: answers stream. What the backend
calls is transformers' continuous batching (triton_batching.py). The OpenAI face stands in front (triton_face.py).

The key comes from SLIPWAY_ENGINE_KEY. Triton's own ports are on loopback and ask for a token nobody else has. It works
in the folder it is started in. SIGTERM and SIGINT end it; so does the end of tritonserver or of the batching.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

os.environ["PYTRITON_NO_TENSORSTORE"] = "1"  # No shared memory that a killed process would leave behind.
KEY = os.environ.pop("SLIPWAY_ENGINE_KEY", "")

import aiohttp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from aiohttp import web  # noqa: E402
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # noqa: E402
from pytriton.model_config.common import QueuePolicy  # noqa: E402
from pytriton.triton import TRITON_ACCESS_HEADER, VALID_TRITON_ENDPOINTS, Triton, TritonConfig, TritonSecurityConfig  # noqa: E402, I001
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
)
from triton_batching import OPEN, Batching  # noqa: E402
from triton_face import Refused, Served, application  # noqa: E402

SHARED_MEMORY = Path("/dev/shm")
SOCKET_PATH = 107  # The longest path of a Unix socket.
WATCH_S = 0.5


def parse():
    parser = argparse.ArgumentParser(prog="triton", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention")
    parser.add_argument("--context", type=int)
    parser.add_argument("--kv-cache-tokens", type=int)
    parser.add_argument("--page-size", type=int, default=32)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--step-tokens", type=int, default=256)
    parser.add_argument("--scheduler", default="fifo")
    parser.add_argument("--prefix-sharing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cuda-graphs", action=argparse.BooleanOptionalAction)
    parser.add_argument("--compile-level", type=int, default=0)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--preferred-batch-size", type=int)
    parser.add_argument("--queue-delay-us", type=int, default=0)
    parser.add_argument("--max-queue-size", type=int, default=0)
    parser.add_argument("--queue-timeout-ms", type=int, default=0)
    parser.add_argument("--response-cache-mib", type=int, default=0)
    parser.add_argument("--http-threads", type=int)
    parser.add_argument("--log-verbose", type=int)
    parser.add_argument("--sampling-defaults", choices=["model", "openai"], default="model")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--seed", type=int)
    return parser.parse_args()


# The model


def load(given):
    more = {"attn_implementation": given.attention} if given.attention else {}
    if given.trust_remote_code:
        more["trust_remote_code"] = True
    tokenizer = AutoTokenizer.from_pretrained(given.model, trust_remote_code=given.trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=given.dtype, **more)
    return tokenizer, model.to(given.device).eval()


def context_of(model, given):
    """Tokens of prompt and answer together."""
    trained = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    context = given.context or trained
    if not context:
        sys.exit("triton: error: the model does not say its context length: set --context")
    if trained and context > trained:
        sys.exit(f"triton: error: context {context} is longer than the {trained} tokens the model was trained with")
    if given.kv_cache_tokens and given.kv_cache_tokens < context:
        text = f"the KV cache of {given.kv_cache_tokens} tokens does not hold one context of {context}"
        sys.exit(f"triton: error: {text}")
    return context


def eos_of(model, tokenizer):
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def defaults_of(model, given):
    """What a request that does not say is sampled by."""
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": given.max_tokens}
    if given.sampling_defaults == "openai":
        return plain
    own = model.generation_config
    if own.do_sample is False:
        return plain | {"temperature": 0}
    named = {name: getattr(own, name, None) for name in ("temperature", "top_p", "top_k")}
    return plain | {name: value for name, value in named.items() if value is not None}


def batchings(model, given, context):
    """One batch manager for each instance: the weights are shared, the KV cache is not."""
    # A processor is only there to be told a value by each request where its default does something.
    config = GenerationConfig(do_sample=True, temperature=0.9, top_p=0.9, top_k=50, eos_token_id=-1)
    tokens = given.kv_cache_tokens or context
    managers = []
    for place in range(given.instances):
        batching = ContinuousBatchingConfig(
            page_size=given.page_size,
            num_blocks=-(-tokens // given.page_size),
            max_batch_tokens=given.step_tokens,
            max_requests_per_batch=given.parallel,
            allow_block_sharing=given.prefix_sharing,
            scheduler_type=given.scheduler,
            use_cuda_graph=given.cuda_graphs,
            default_compile_level=given.compile_level,
            seed=None if given.seed is None else given.seed + place,
            per_request_processors=True,
        )
        manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
        manager.warmup()
        manager.start()
        managers.append(Batching(manager))
    return managers


def tell_memory(model, instances):
    """What it took, for whoever reads the log."""
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    caches = [one.processor.cache for one in instances]
    sizes = sum(cache.cache_tensor.numel() for cache in caches)
    tokens = sum(cache.max_tokens_read for cache in caches)
    print(f"triton: memory weights_bytes={weights} kv_cache_bytes={sizes} kv_cache_tokens={tokens}", flush=True)


# Triton


def free_ports(count):
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def workspace():
    """A new folder for Triton's files and sockets: here, or, where that path is too long for a socket, a temporary one."""
    here = Path("triton").absolute()
    shutil.rmtree(here, ignore_errors=True)
    return here if len(str(here)) < SOCKET_PATH - 60 else Path(tempfile.mkdtemp(prefix="slipway-triton-")) / "w"


def forget_killed():
    """Remove shared memory of launchers that were killed: its name begins with the number of their process."""
    for left in SHARED_MEMORY.glob("pytrtion*-*"):
        found = re.match(r"pytrtion(\d+)-", left.name)
        if found and not Path("/proc", found[1]).exists():
            with suppress(OSError):  # Another user's, or another start was first.
                left.unlink()


def server(given, token):
    http, metrics = free_ports(2)
    config = TritonConfig(
        allow_http=True,
        http_address="127.0.0.1",
        http_port=http,
        http_thread_count=given.http_threads,
        allow_grpc=False,
        allow_metrics=True,
        metrics_address="127.0.0.1",
        metrics_port=metrics,
        exit_timeout_secs=1,
        log_verbose=given.log_verbose,
        cache_config=[f"local,size={given.response_cache_mib << 20}"] if given.response_cache_mib else None,
    )
    security = TritonSecurityConfig(token, sorted(VALID_TRITON_ENDPOINTS - {"health"}))
    return Triton(config=config, workspace=workspace(), security_config=security), http, metrics


def bind(triton, given, name, instances):
    policy = QueuePolicy(
        default_timeout_microseconds=given.queue_timeout_ms * 1000, max_queue_size=given.max_queue_size
    )
    batcher = DynamicBatcher(
        max_queue_delay_microseconds=given.queue_delay_us,
        preferred_batch_size=[given.preferred_batch_size] if given.preferred_batch_size else None,
        default_queue_policy=policy if given.max_queue_size or given.queue_timeout_ms else None,
    )
    tensors = {
        "inputs": [Tensor(name="request", dtype=bytes, shape=(1,))],
        "outputs": [Tensor(name="answer", dtype=bytes, shape=(1,))],
    }
    shared = {"max_batch_size": given.max_batch_size, "batcher": batcher}
    triton.bind(name, [one.answer for one in instances], config=ModelConfig(decoupled=True, **shared), **tensors)
    if given.response_cache_mib:
        config = ModelConfig(response_cache=True, **shared)
        triton.bind(f"{name}.cached", [one.whole for one in instances], config=config, **tensors)


class Way:
    """The way from the face to Triton: its generate endpoint, with JSON texts in the tensors."""

    def __init__(self, session, http, metrics, token, name, *, cached):
        self.session, self.base = session, f"http://127.0.0.1:{http}/v2"
        self.metrics_url, self.headers = f"http://127.0.0.1:{metrics}/metrics", {TRITON_ACCESS_HEADER: token}
        self.name, self.cached = name, cached

    async def ready(self):
        with suppress(aiohttp.ClientError):
            async with self.session.get(f"{self.base}/health/ready") as answer:
                return answer.status == 200
        return False

    async def metrics(self):
        with suppress(aiohttp.ClientError):
            async with self.session.get(self.metrics_url) as answer:
                return await answer.text() if answer.status == 200 else ""
        return ""

    async def ask(self, given, *, streamed):
        """Parts of the answer, {"ids": [...], "end": ...}. Left early, the request is aborted."""
        ended = False
        try:
            if self.cached and given["greedy"] and not streamed:
                part = await self.whole(given)
                ended = True
                yield part
                return
            async for part in self.parts(given):
                ended = part["end"] is not None
                yield part
        finally:
            if not ended:
                OPEN.abort(given["id"])

    def post(self, model, action, given):
        """The id is a parameter, so that equal requests have equal inputs: Triton's cache knows them by these."""
        asked = {name: value for name, value in given.items() if name != "id"}
        body = {"request": json.dumps(asked, sort_keys=True), "answer_id": given["id"]}
        return self.session.post(f"{self.base}/models/{model}/{action}", json=body, headers=self.headers)

    async def whole(self, given):
        async with self.post(f"{self.name}.cached", "generate", given) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise refusal(answer.status, text)
            return json.loads(json.loads(text)["answer"])

    async def parts(self, given):
        async with self.post(self.name, "generate_stream", given) as answer:
            if answer.status != 200:
                raise refusal(answer.status, await answer.text())
            async for line in answer.content:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise refusal(500, event["error"])
                    if event.get("answer"):
                        yield json.loads(event["answer"])


def refusal(status, text):
    """What Triton says of a request it does not take."""
    if "maximum queue size" in text or "Request timeout expired" in text:
        return Refused("Its queue is full: try again in a moment.", 503, code="queue_full", kind="server_error")
    print(f"triton: refused with {status}: {text[:300]}", flush=True)
    return Refused("Triton refused this request.", 500, kind="server_error")


# The process


async def serve(given):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tokenizer, model = await asyncio.to_thread(load, given)
    context = context_of(model, given)
    print("triton: weights loaded", flush=True)
    instances = await asyncio.to_thread(batchings, model, given, context)
    tell_memory(model, instances)
    token, name = secrets.token_urlsafe(24), re.sub(r"[^A-Za-z0-9._-]", "-", given.served_name)
    triton, http, metrics = server(given, token)
    bind(triton, given, name, instances)
    print("triton: starting tritonserver", flush=True)
    await asyncio.to_thread(triton.run)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)) as session:
        way = Way(session, http, metrics, token, name, cached=bool(given.response_cache_mib))
        served = Served(
            name=given.served_name,
            key=KEY,
            tokenizer=tokenizer,
            context=context,
            eos=eos_of(model, tokenizer),
            defaults=defaults_of(model, given),
            triton=way,
        )
        runner = web.AppRunner(
            application(served, lambda: gauges(instances)), handler_cancellation=True, access_log=None, shutdown_timeout=1
        )
        await runner.setup()
        await web.TCPSite(runner, given.host, given.port).start()
        print(f"triton: listening on {given.host}:{given.port}", flush=True)
        code = await until_end(ended, triton, instances)
        print("triton: ending", flush=True)
        await runner.cleanup()
    for one in instances:
        one.manager.stop(block=False, hard_stop=True)
    await asyncio.to_thread(triton.stop)
    return code


def gauges(instances):
    """Of the batches behind Triton."""
    yield "triton:num_requests_running", sum(one.running() for one in instances)
    yield "triton:num_requests_waiting", sum(one.waiting() for one in instances)
    yield "triton:kv_cache_usage_perc", sum(one.used() for one in instances) / len(instances)


async def until_end(ended, triton, instances):
    """0 when it was asked to end; 1 when a part of it died, which nothing else tells of."""
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), WATCH_S)
        if not triton.is_alive() or not all(one.works() for one in instances):
            dead = "tritonserver" if not triton.is_alive() else "batching"
            print(f"triton: error: {dead} ended by itself", flush=True)
            return 1
    return 0


def main():
    given = parse()
    if given.threads:
        torch.set_num_threads(given.threads)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    forget_killed()
    code = asyncio.run(serve(given))
    # Threads of pytriton and transformers may still wait for what comes no more.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
