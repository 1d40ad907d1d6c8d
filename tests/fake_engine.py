"""An engine without a model: a real process that speaks OpenAI HTTP and fails on demand. Needs no package.

It streams real chunks with real delays, counts what runs in /metrics, stops work when its client hangs up,
and asks for the bearer key in FAKE_KEY. Options steer the process; directives in the last user message
steer one request:

    [[tokens=400]] length          [[delay=5]] ms a token       [[wait=0.5]] s before the first byte
    [[crash]] process dies before the first byte
    [[die=10]] process dies        [[cut=10]] connection cut    [[hang]] never answers
    [[prefill=2]] s of CPU, deaf   [[error=500]] that status    [[malformed]] broken JSON
    [[html]] a web page            [[redirect]] a 302           [[endless]] one line without end
    [[role_only]] no content       [[reason=20]] reasoning      [[tool]] a tool call
    [[linger=0.3]] s from the last event of a stream to its end
    [[no_done]] no [DONE]          [[crlf]] CRLF and comments   [[usage_on_content]]
    [[echo]] answers the message   [[text=…]] answers exactly … (last directive; may span lines)
    [[images]] says which pictures came with the message
    [[gap=0.2]] nats from what it says to what another variant would, when log-probabilities are asked; also
    "0.2,3", one a variant; [[gap=none]]: others are not told      [[mute]] no log-probabilities
    [[drift]] another answer once log-probabilities are asked

In [[text=…]] an engine with --variant N says the N-th of {one|another}, from 0; a word is then a token.

Embeddings count words by their hash, ranks the words shared with the query, classes follow the number of
words. In their texts, beside error, wait and hang: [[short]] leaves the last text out, [[nan]] sends what is
no number, [[long]] says what llama.cpp says of a text that it cannot take at once.

Beside the API: POST /fake/freeze and /fake/thaw; GET /fake/requests lists every request that reached it.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import suppress

DIRECTIVE = re.compile(r"\[\[(\w+)(?:=([^\]]*))?\]\]")
TEXT = re.compile(r"\[\[text=(.*)\]\]", re.DOTALL)
REASONS = {
    200: "OK",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    500: "Internal Server Error",
}
CRASHES = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.",
    "port": "OSError: [Errno 98] error while attempting to bind on address: address already in use",
    "option": "fake_engine.py: error: unrecognized arguments: --frobnicate",
    "driver": "RuntimeError: Found no NVIDIA driver on your system.",
    "context": "ValueError: To serve one request with the max seq len (131072), 8 GiB KV cache is needed",
    "gated": "huggingface_hub.errors.GatedRepoError: 401 Client Error. Access to model x/y is restricted.",
    "weights": "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    "bug": "AssertionError: something nobody foresaw",
}
INNER = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\nimport time\ntime.sleep(86400)"
ORPHAN = (
    "import signal, time\n"
    "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
    "time.sleep(86400)"
)


class Cut(Exception):
    """Close the connection without an end."""


class Request:
    """One HTTP request, read whole."""

    def __init__(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> None:
        self.method, self.path, self.headers, self.raw = method, path.partition("?")[0], headers, raw
        try:
            self.body = json.loads(raw or b"{}")
        except ValueError:
            self.body = None

    @property
    def prompt(self) -> str:
        """The last user message, or the completion prompt."""
        if self.path == "/v1/responses" and isinstance(self.body.get("input"), list):
            users = [item for item in self.body["input"] if item.get("role") == "user"]
            return text_of(users[-1].get("content")) if users else ""
        if "messages" not in self.body:
            names = ("prompt", "input", "documents", "text_2")
            given = next((self.body[name] for name in names if self.body.get(name)), "")
            return " ".join(map(str, given)) if isinstance(given, list) else str(given)
        users = [message for message in self.body["messages"] if message.get("role") == "user"]
        return text_of(users[-1].get("content")) if users else ""

    @property
    def words(self) -> list[str]:
        """Everything the model would read, one word a token."""
        given = self.body.get("input")
        messages = self.body.get("messages") or (given if self.path == "/v1/responses" else None)
        messages = None if isinstance(messages, str) else messages
        texts = [text_of(m.get("content")) for m in messages] if messages else [self.prompt]
        return " ".join(texts).split()


def pictures(messages: list[dict[str, object]]) -> list[str]:
    """Kind and bytes of each picture of the last user message: "png of 33 bytes"."""
    content = [message["content"] for message in messages if message.get("role") == "user"][-1]
    urls = (
        [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if isinstance(content, list)
        else []
    )
    pairs = [url.removeprefix("data:image/").split(";base64,") for url in urls]
    return [f"{kind} of {len(base64.b64decode(data))} bytes" for kind, data in pairs]


def text_of(content: object) -> str:
    """The text of a message's content, a string or a list of parts."""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content or "")


VARIANTS = 4
CHOICE = re.compile(r"\{([^{}]*)\}")


def said(text: str, variant: int) -> list[str]:
    """The words of `text`, each with the white space before it, every {one|another} as the variant has it."""

    def chosen(found: re.Match[str]) -> str:
        ways = found[1].split("|")
        return ways[min(variant, len(ways) - 1)]

    return re.findall(r"\s*\S+|\s+$", CHOICE.sub(chosen, text))


class Wanted:
    """What one request asks of the fake: its directives over the process's options."""

    def __init__(self, request: Request, options: argparse.Namespace) -> None:
        text = TEXT.search(request.prompt)
        self.asks_logprobs = bool(request.body.get("logprobs"))
        rest = request.prompt[: text.start()] if text else request.prompt
        self.found = {name: value or "" for name, value in DIRECTIVE.findall(rest)}
        self.delay = float(self.found.get("delay", options.token_delay_ms)) / 1000
        self.variant = options.variant
        self.content = self._content(rest, text.group(1) if text else None, options)
        self.others = self._others(text.group(1) if text else "")
        if "images" in self.found:
            self.content = [", ".join(pictures(request.body["messages"])) or "none"]
        names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
        limit = next(filter(None, map(request.body.get, names)), None)
        self.finish = "length" if limit and limit < len(self.content) else "stop"
        self.content = self.content[:limit] if limit else self.content
        self.reasoning = [f"thought{i} " for i in range(int(self.found.get("reason", 0)))]
        self.prompt_tokens = len(request.words)

    def _content(self, rest: str, text: str | None, options: argparse.Namespace) -> list[str]:
        if "role_only" in self.found or "tool" in self.found:
            return []
        if text is not None and self.variant is not None:
            return ["Otherwise."] if self._drifts else said(text, self.variant)
        if text is not None:
            return [text[i : i + 5] for i in range(0, len(text), 5)]
        if "echo" in self.found:
            return re.findall(r"\s*\S+\s*", DIRECTIVE.sub("", rest).strip())
        count = int(self.found.get("tokens", options.tokens))
        return [f"word{i}" + (" " if i < count - 1 else "") for i in range(count)]

    @property
    def _drifts(self) -> bool:
        return self.asks_logprobs and "drift" in self.found

    def _others(self, text: str) -> list[list[str]]:
        """For each token, what the other variants say there where all before is the same."""
        if self.variant is None or not text or "drift" in self.found:
            return []
        every = [said(text, variant) for variant in range(VARIANTS)]
        return [
            sorted({one[at] for one in every if at < len(one) and one[:at] == self.content[:at]} - {token})
            for at, token in enumerate(self.content)
        ]

    def logprobs(self, at: int) -> dict[str, object] | None:
        """Of the token at that place: -0.1, and as far below as asked what others say there."""
        if not self.asks_logprobs or "mute" in self.found or at >= len(self.content):
            return None
        gaps = self.found.get("gap", "1").split(",")
        gap = gaps[min(self.variant or 0, len(gaps) - 1)]
        likely = [(self.content[at], -0.1)]
        if gap != "none" and self.others:
            likely += [(other, -0.1 - float(gap)) for other in self.others[at]]
        listed = [{"token": text, "logprob": value, "bytes": list(text.encode())} for text, value in likely]
        return {"content": [listed[0] | {"top_logprobs": listed}]}

    def number(self, name: str) -> int | None:
        return int(self.found[name]) if name in self.found else None

    def usage(self) -> dict[str, int]:
        done = len(self.content) + len(self.reasoning)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": done,
            "total_tokens": self.prompt_tokens + done,
        }


class Fake:
    """The engine: its counters, its children, and how it answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.key = os.environ.get("FAKE_KEY", "")
        self.running = self.tokens = self.made = 0
        self.loras = set(options.lora)
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.seen: list[dict[str, object]] = []
        self.inner: asyncio.subprocess.Process | None = None
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.slots = asyncio.Semaphore(options.slots or 1_000_000)

    async def start(self) -> None:
        """Load, start the children, listen."""
        await self._load()
        self._spawn_orphan()
        await self._spawn_inner()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.options.port, limit=1 << 20)
        print(f"listening on {self.options.port}", flush=True)
        if self.options.crash_after_s:
            asyncio.get_running_loop().call_later(self.options.crash_after_s, self._die, 3)
        await server.serve_forever()

    async def _load(self) -> None:
        for step in range(4):
            print(f"loading weights {step * 25} %", flush=True)
            await asyncio.sleep(self.options.load_s / 4)
        crash = self.options.crash_at_load
        if crash == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if crash:
            print(CRASHES[crash], file=sys.stderr, flush=True)
            raise SystemExit(2 if crash == "option" else 1)

    def _spawn_orphan(self) -> None:
        if self.options.orphan:
            subprocess.Popen([sys.executable, "-I", "-S", "-c", ORPHAN], start_new_session=True)

    async def _spawn_inner(self) -> None:
        if self.options.inner:
            self.inner = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", INNER),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )

    def _die(self, code: int) -> None:
        print("Fatal error: the fake engine was told to die", file=sys.stderr, flush=True)
        os._exit(code)

    async def think(self) -> None:
        """One token's work. The inner process has its part in it: without it, nothing ever comes."""
        await self.thawed.wait()
        if self.inner is None:
            return
        assert self.inner.stdin and self.inner.stdout
        async with self.turn:
            with suppress(ConnectionError):
                self.inner.stdin.write(b"tick\n")
                await self.inner.stdin.drain()
            if not await self.inner.stdout.readline():
                await asyncio.Event().wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_request(reader)) is not None:
                self.seen.append({"method": request.method, "path": request.path, "body": request.body})
                del self.seen[:-200]
                if not await self._answer_or_hang_up(request, reader, writer):
                    break
        except (ConnectionError, Cut, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _answer_or_hang_up(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer; stop the work when the client goes first. True: the connection may carry more."""
        work = asyncio.ensure_future(self._answer(request, writer))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            gone.exception()
            return False
        gone.cancel()
        await asyncio.wait({gone})
        await work
        return request.headers.get("connection", "").lower() != "close"

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        route = (request.method, request.path)
        if route == ("GET", "/health"):
            return send(writer, 200, {"status": "ok"})
        if route == ("GET", "/metrics"):
            return send(writer, 200, self._metrics(), "text/plain; version=0.0.4")
        if request.path.startswith("/fake/"):
            return self._steer(request, writer)
        if self.key and not self._has_key(request):
            return send(writer, 401, error("Unauthorized", "invalid_api_key"))
        if route == ("GET", "/v1/models"):
            model = {
                "id": self.options.served_model_name,
                "object": "model",
                "created": 0,
                "owned_by": "fake",
            }
            return send(writer, 200, {"object": "list", "data": [model]})
        if route == ("POST", "/tokenize"):
            return send(writer, 200, tokenised(request))
        if request.path in ("/load_lora", "/unload_lora") and self.options.runtime_lora:
            return self._attach(request, writer)
        if request.method == "POST" and request.path in SAYING:
            return await self._complete(request, writer)
        if request.method == "POST" and request.path in WHOLE:
            return await self._measure(request, writer)
        return send(writer, 404, error(f"no route {request.path}", "not_found"))

    def _attach(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Adapters are names here; one that is there twice, or not at all, is refused."""
        name, loads = str(request.body["name"]), request.path == "/load_lora"
        if (name in self.loras) == loads:
            return send(writer, 400, error(f"{name} is {'loaded' if loads else 'not loaded'}", "bad_lora"))
        (self.loras.add if loads else self.loras.remove)(name)
        return send(writer, 200, {"loras": sorted(self.loras)})

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode())

    def _steer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == "/fake/requests":
            return send(writer, 200, self.seen)
        if request.path == "/fake/loras":
            return send(writer, 200, sorted(self.loras))
        if request.path == "/fake/freeze":
            self.thawed.clear()
        else:
            self.thawed.set()
        return send(writer, 200, {"frozen": not self.thawed.is_set()})

    def _metrics(self) -> str:
        values = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            "tokens_total": self.tokens,
            "requests_total": self.made,
        }
        return "".join(f"fake:{name} {value}\n" for name, value in values.items())

    async def _complete(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """One completion, counted as running as long as it is worked on."""
        if self.options.lie_ready:
            return send(writer, 500, error("the model is not loaded", "internal_error"))
        if not isinstance(request.body, dict) or not request.words:
            return send(writer, 400, error("messages must not be empty", "invalid_request"))
        if self.options.context and len(request.words) > self.options.context:
            limit, given = self.options.context, len(request.words)
            text = f"This model's maximum context length is {limit} tokens, not {given}."
            return send(writer, 400, error(text, "context_length_exceeded", "messages"))
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.made += 1
        try:
            await self._respond(request, Wanted(request, self.options), writer)
        finally:
            self.running -= 1
            self.slots.release()
        return None

    async def _measure(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Vectors, ranks or classes, whole."""
        if not isinstance(request.body, dict) or not request.words:
            return send(writer, 400, error("input must not be empty", "invalid_request"))
        self.running += 1
        self.made += 1
        wanted = Wanted(request, self.options)
        try:
            if "hang" in wanted.found:
                await asyncio.Event().wait()
            await asyncio.sleep(float(wanted.found.get("wait", 0)))
            await self.think()
            if not await misbehave(wanted, writer):
                send(writer, 200, measured(request, wanted, self.options.served_model_name))
        finally:
            self.running -= 1
        return None

    async def _respond(self, request: Request, wanted: Wanted, writer: asyncio.StreamWriter) -> None:
        if "hang" in wanted.found:
            await asyncio.Event().wait()
        if "crash" in wanted.found:
            self._die(1)
        burn(float(wanted.found.get("prefill", 0)))
        await asyncio.sleep(float(wanted.found.get("wait", 0)))
        await self.think()
        if await misbehave(wanted, writer):
            return
        if request.path == "/v1/responses":
            await self._respond_by_item(request, wanted, writer)
        elif request.body.get("stream"):
            await self._stream(request, wanted, writer)
        else:
            async for _ in self._work(wanted):
                pass
            send(writer, 200, whole(request, wanted, self.options.served_model_name, self.made))

    async def _respond_by_item(self, request: Request, wanted: Wanted, writer: asyncio.StreamWriter) -> None:
        """The Responses API: whole, or as its events."""
        streams, place = bool(request.body.get("stream")), {"item_id": "msg_1", "output_index": 0}
        if streams:
            start_stream(writer)
            emit(writer, event("response.created", 0, response=response(request, self, [], "in_progress")))
        texts: list[str] = []
        async for _, text in self._work(wanted):
            texts.append(text)
            if streams:
                said = {"delta": text, "content_index": 0, "logprobs": [], **place}
                emit(writer, event("response.output_text.delta", len(texts), **said))
                await writer.drain()
        done = response(request, self, texts, "completed") | {"usage": usage_of(wanted)}
        if not streams:
            send(writer, 200, done)
        else:
            emit(writer, event("response.completed", len(texts) + 1, response=done))
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _work(self, wanted: Wanted) -> AsyncIterator[tuple[str, str]]:
        """(kind, text) of each token, at its pace."""
        steps = [("reasoning_content", text) for text in wanted.reasoning] + [
            ("content", t) for t in wanted.content
        ]
        for done, step in enumerate(steps):
            if done == wanted.number("die"):
                self._die(1)
            if done == wanted.number("cut"):
                raise Cut
            await self.think()
            await asyncio.sleep(wanted.delay)
            self.tokens += 1
            yield step

    async def _stream(self, request: Request, wanted: Wanted, writer: asyncio.StreamWriter) -> None:
        start_stream(writer)
        end = "\r\n\r\n" if "crlf" in wanted.found else "\n\n"
        chat = request.path == "/v1/chat/completions"
        frame = Frames(chat, self.options.served_model_name, self.made)
        asked = (request.body.get("stream_options") or {}).get("include_usage")
        if "crlf" in wanted.found:
            emit(writer, f": a comment{end}")
        if chat:
            emit(writer, frame.chunk({"role": "assistant", "content": ""}, end=end))
        if "tool" in wanted.found:
            emit(writer, frame.chunk({"tool_calls": [{"index": 0, **TOOL}]}, end=end))
        sent, last = 0, len(wanted.content) + len(wanted.reasoning)
        async for kind, text in self._work(wanted):
            told = wanted.logprobs(sent - len(wanted.reasoning)) if kind == "content" else None
            sent += 1
            riding = wanted.usage() if "usage_on_content" in wanted.found and sent == last else None
            emit(writer, frame.chunk({kind: text}, usage=riding, logprobs=told, end=end))
            await writer.drain()
        finish = "tool_calls" if "tool" in wanted.found else wanted.finish
        emit(writer, frame.chunk({}, finish=finish, end=end))
        if asked and "usage_on_content" not in wanted.found:
            emit(writer, frame.usage(wanted.usage(), end=end))
        if "no_done" not in wanted.found:
            emit(writer, f"data: [DONE]{end}")
        await writer.drain()
        await asyncio.sleep(float(wanted.found.get("linger", 0)))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


SAYING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})


def event(kind: str, number: int, **data: object) -> str:
    said = {"type": kind, "sequence_number": number, **data}
    return f"event: {kind}\ndata: {json.dumps(said)}\n\n"


def response(request: Request, fake: Fake, texts: list[str], status: str) -> dict[str, object]:
    """A response object of one message."""
    part = {"type": "output_text", "text": "".join(texts), "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [part]}
    return {
        "id": f"resp_{fake.made}",
        "object": "response",
        "created_at": int(time.time()),
        "model": fake.options.served_model_name,
        "status": status,
        "output": [message] if texts else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": request.body.get("tools") or [],
        "store": request.body.get("store"),
    }


def usage_of(wanted: Wanted) -> dict[str, object]:
    told = wanted.usage()
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": told["total_tokens"],
    }


TOOL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}


class Frames:
    """Server-sent events of one answer."""

    def __init__(self, chat: bool, model: str, number: int) -> None:
        self.chat = chat
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def chunk(
        self,
        delta: dict[str, object],
        *,
        finish: str | None = None,
        usage: dict[str, int] | None = None,
        logprobs: dict[str, object] | None = None,
        end: str,
    ) -> str:
        body: dict[str, object] = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **body, "logprobs": logprobs, "finish_reason": finish}
        data = self.head | {"choices": [choice]} | ({"usage": usage} if usage else {})
        return f"data: {json.dumps(data)}{end}"

    def usage(self, usage: dict[str, int], *, end: str) -> str:
        return f"data: {json.dumps(self.head | {'choices': [], 'usage': usage})}{end}"


def whole(request: Request, wanted: Wanted, model: str, number: int) -> dict[str, object]:
    """The answer of a request that did not ask for a stream."""
    chat = request.path == "/v1/chat/completions"
    text = "".join(wanted.content)
    message: dict[str, object] = {"role": "assistant", "content": text}
    if wanted.reasoning:
        message["reasoning_content"] = "".join(wanted.reasoning)
    if "tool" in wanted.found:
        message |= {"content": None, "tool_calls": [TOOL]}
    body = {"message": message} if chat else {"text": text}
    finish = "tool_calls" if "tool" in wanted.found else wanted.finish
    choices = [
        {"index": index, **body, "logprobs": None, "finish_reason": finish}
        for index in range(request.body.get("n") or 1)
    ]
    head = Frames(chat, model, number).head | {"object": "chat.completion" if chat else "text_completion"}
    return head | {"choices": choices, "usage": wanted.usage()}


def tokenised(request: Request) -> dict[str, object]:
    """A token a word, numbered; with_pieces: every word with its white space, numbered by its hash."""
    if not request.body.get("with_pieces"):
        return {"count": len(request.words), "tokens": list(range(len(request.words)))}
    pieces = re.findall(r"\s*\S+|\s+$", request.body["content"])
    numbers = [int.from_bytes(hashlib.sha256(piece.encode()).digest()[:3]) for piece in pieces]
    return {"tokens": [{"id": n, "piece": piece} for n, piece in zip(numbers, pieces, strict=True)]}


def vector(text: str, size: int = 16) -> list[float]:
    """How often words fall into each of `size` places, by their hash; of length one."""
    counts = [0.0] * size
    for word in re.findall(r"\w+", text.lower()):
        counts[hashlib.sha256(word.encode()).digest()[0] % size] += 1.0
    norm = sum(count * count for count in counts) ** 0.5 or 1.0
    return [count / norm for count in counts]


def embedding(request: Request, texts: list[str]) -> list[dict[str, object]]:
    vectors: list[object] = [vector(text) for text in texts]
    if request.body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(array("f", vector(text)).tobytes()).decode() for text in texts]
    return [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)]


def ranks(query: str, texts: list[str]) -> list[dict[str, object]]:
    """Words shared with the query, less one for a text that shares none; best first."""
    wanted = set(re.findall(r"\w+", query.lower()))
    scores = [len(wanted & set(re.findall(r"\w+", text.lower()))) or -1 for text in texts]
    order = sorted(range(len(texts)), key=lambda at: -scores[at])
    return [
        {"index": at, "document": {"text": texts[at]}, "relevance_score": float(scores[at])} for at in order
    ]


def classes(texts: list[str]) -> list[dict[str, object]]:
    """ "long" from five words on, else "short"."""
    found: list[dict[str, object]] = []
    for at, text in enumerate(texts):
        share = 0.9 if len(text.split()) >= 5 else 0.2
        label = "long" if share > 0.5 else "short"
        found.append({"index": at, "label": label, "probs": [share, round(1 - share, 3)], "num_classes": 2})
    return found


WHOLE = frozenset({"/v1/embeddings", "/v1/rerank", "/v1/score", "/classify"})


def measured(request: Request, wanted: Wanted, model: str) -> dict[str, object]:
    """The answer to a request of WHOLE."""
    body = request.body
    given = body.get("input") or body.get("documents") or body.get("text_2")
    texts = [str(text) for text in given] if isinstance(given, list) else [str(given)]
    usage = {"prompt_tokens": wanted.prompt_tokens, "total_tokens": wanted.prompt_tokens}
    head = {"id": "whole-1", "object": "list", "model": model, "usage": usage}
    if request.path == "/v1/rerank":
        rows = ranks(body["query"], texts)
    elif request.path == "/v1/score":
        rows = [{"object": "score", "index": at, "score": 0.5} for at in range(len(texts))]
    else:
        rows = embedding(request, texts) if request.path == "/v1/embeddings" else classes(texts)
    if "short" in wanted.found:
        rows = rows[:-1]
    if "nan" in wanted.found:
        rows[0] |= {"embedding": [float("nan")], "relevance_score": None, "probs": ["x"]}
    return head | {"results" if request.path == "/v1/rerank" else "data": rows}


async def misbehave(wanted: Wanted, writer: asyncio.StreamWriter) -> bool:
    """Answer badly where a directive says so; whether it did."""
    found = wanted.found
    if "error" in found:
        send(writer, int(found["error"] or 500), error("the fake engine was told to fail", "internal_error"))
    elif "long" in found:
        text = "input (1002 tokens) is too large to process. increase the physical batch size"
        send(writer, 500, error(text, "server_error"))
    elif "html" in found:
        send(writer, 200, "<!doctype html><script>alert(1)</script>", "text/html")
    elif "redirect" in found:
        send(writer, 302, "", "text/plain", "Location: http://169.254.169.254/latest/meta-data\r\n")
    elif "malformed" in found:
        start_stream(writer)
        emit(writer, 'data: {"choices": [{"delta": {"content": "a\n\ndata: not json\n\n')
        writer.write(b"0\r\n\r\n")
    elif "endless" in found:
        start_stream(writer)
        emit(writer, "data: ")
        while True:
            emit(writer, "x" * 65536)
            await writer.drain()
    else:
        return False
    await writer.drain()
    return True


def burn(seconds: float) -> None:
    """Busy and deaf, as an engine in a long prefill is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def error(message: str, code: str, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def send(
    writer: asyncio.StreamWriter, status: int, body: object, kind: str = "application/json", headers: str = ""
) -> None:
    raw = (body if isinstance(body, str) else json.dumps(body)).encode()
    reason = REASONS.get(status, "Status")
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n{headers}Content-Length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)


def start_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")


def emit(writer: asyncio.StreamWriter, text: str) -> None:
    raw = text.encode()
    writer.write(b"%x\r\n%b\r\n" % (len(raw), raw))


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    if "chunked" in headers.get("transfer-encoding", ""):
        raw = await read_chunks(reader)
    else:
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, raw)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="fake")
    parser.add_argument("--model", default="")
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--token-delay-ms", type=float, default=2.0)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, help="what placement was told; not taken")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--variant", type=int)
    parser.add_argument("--crash-after-s", type=float, default=0.0)
    parser.add_argument("--crash-at-load", choices=[*CRASHES, "killed", ""], default="")
    parser.add_argument("--lora", action="append", default=[])
    for flag in ("ignore-sigterm", "orphan", "inner", "lie-ready", "runtime-lora"):
        parser.add_argument(f"--{flag}", action="store_true")
    # Without effect: what an administrator may add.
    parser.add_argument("--mood", choices=["calm", "brisk"])
    parser.add_argument("--patience", type=int)
    parser.add_argument("--share", type=float)
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(Fake(options).start())


if __name__ == "__main__":
    main()
