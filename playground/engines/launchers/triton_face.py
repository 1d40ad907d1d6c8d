"""The OpenAI face in front of Triton: HTTP in, Triton's own generate endpoint out. Run by the engine environment's own Python.

Knows messages, text and the OpenAI shapes; the model is behind Triton, which is asked with token ids and tells token ids.
"""

import asyncio
import hmac
import json
import math
import time
import uuid
from contextlib import aclosing

from aiohttp import web
from triton_shapes import ChatShape, CompletionShape
from triton_text import Text

BODY_BYTES = 64 << 20
# What would change an answer and cannot be done is refused; the rest that is not known is ignored.
REFUSED = frozenset(
    {
        "best_of",
        "echo",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "suffix",
    }
)
SERVED, FACTS, COUNT = web.AppKey("served"), web.AppKey("facts"), web.AppKey("count")


class Refused(Exception):
    """The request cannot be answered; the text says why."""

    def __init__(self, text, status=400, param=None, code=None, kind="invalid_request_error"):
        super().__init__(text)
        self.text, self.status, self.param, self.code, self.kind = text, status, param, code, kind

    def body(self):
        fields = {"message": self.text, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": fields}


class Served:
    """What is served: the tokenizer, the names, and the way to Triton."""

    def __init__(self, *, name, key, tokenizer, context, eos, defaults, triton):
        self.name, self.key, self.tokenizer, self.context = name, key, tokenizer, context
        self.eos, self.defaults, self.triton = eos, defaults, triton
        self.made = int(time.time())


class Count:
    """What /metrics tells beside Triton's own."""

    def __init__(self):
        self.open = self.requests = self.prompt = self.tokens = 0


def application(served, gauges):
    """The whole face. `gauges` tells (name, value) of the batches behind Triton."""
    app = web.Application(client_max_size=BODY_BYTES, middlewares=[shaped, keyed])
    app[SERVED], app[FACTS], app[COUNT] = served, gauges, Count()
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/chat/completions/render", render)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/detokenize", detokenize)
    return app


@web.middleware
async def shaped(request, handler):
    """Every error in the one shape."""
    try:
        return await handler(request)
    except Refused as problem:
        headers = {"Retry-After": "1"} if problem.status == 503 else {}
        return web.json_response(problem.body(), status=problem.status, headers=headers)
    except web.HTTPException as problem:
        refused = Refused(problem.reason, problem.status)
        return web.json_response(refused.body(), status=problem.status)


@web.middleware
async def keyed(request, handler):
    key = request.app[SERVED].key
    given = request.headers.get("Authorization", "")
    if key and request.path != "/health" and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        raise Refused("The key is missing or wrong.", 401, code="invalid_api_key", kind="authentication_error")
    return await handler(request)


# What is asked about it


async def health(request):
    ready = await request.app[SERVED].triton.ready()
    return web.json_response({"status": "ok" if ready else "not ready"}, status=200 if ready else 503)


async def models(request):
    served = request.app[SERVED]
    row = {"id": served.name, "object": "model", "created": served.made, "owned_by": "triton"}
    return web.json_response({"object": "list", "data": [row | {"max_model_len": served.context}]})


async def metrics(request):
    """Ours and, where it tells them, Triton's own."""
    count = request.app[COUNT]
    own = [
        ("triton:num_requests_open", "gauge", count.open),
        ("triton:requests_total", "counter", count.requests),
        ("triton:prompt_tokens_total", "counter", count.prompt),
        ("triton:generation_tokens_total", "counter", count.tokens),
        *((name, "gauge", value) for name, value in request.app[FACTS]()),
    ]
    text = "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, kind, value in own)
    text += await request.app[SERVED].triton.metrics()
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})


async def render(request):
    """What the model really reads of a chat, and what it samples by."""
    served = request.app[SERVED]
    body = await read(request)
    prompt, ids = await asyncio.to_thread(templated, served, body)
    params = asked_of(served, body, ids)
    sampling = {name: params[name] for name in ("temperature", "top_p", "top_k", "max_tokens")}
    if params["greedy"]:
        sampling["temperature"] = 0
    return web.json_response({"prompt": prompt, "token_ids": ids, "sampling_params": sampling})


async def tokenize(request):
    served = request.app[SERVED]
    body = await read(request)
    text = body.get("prompt", body.get("content", ""))
    if not isinstance(text, str):
        raise Refused("`prompt` must be a text.", param="prompt")
    special = body.get("add_special_tokens", True) is not False
    ids = await asyncio.to_thread(served.tokenizer.encode, text, add_special_tokens=special)
    return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": served.context})


async def detokenize(request):
    served = request.app[SERVED]
    body = await read(request)
    ids = token_ids(served, body.get("tokens"), "tokens")
    return web.json_response({"prompt": await asyncio.to_thread(served.tokenizer.decode, ids)})


# Answers


async def chat(request):
    served = request.app[SERVED]
    body = await read(request)
    check(served, body)
    _, ids = await asyncio.to_thread(templated, served, body)
    return await answer(request, body, [ids], ChatShape(served, body))


async def completions(request):
    served = request.app[SERVED]
    body = await read(request)
    check(served, body)
    prompts = await asyncio.to_thread(prompts_of, served, body.get("prompt"))
    return await answer(request, body, prompts, CompletionShape(served, body))


async def read(request):
    try:
        body = await request.json()
    except ValueError as problem:
        raise Refused("The body is no JSON.") from problem
    if not isinstance(body, dict):
        raise Refused("The body must be an object.")
    return body


def check(served, body):
    if named := sorted(REFUSED & body.keys()):
        raise Refused(f"Triton does not do {named[0]} here.", param=named[0])
    if body.get("model", served.name) != served.name:
        text = f"There is no model {str(body['model'])[:100]!r} here: ask for {served.name!r}."
        raise Refused(text, 404, "model", "model_not_found")


def templated(served, body):
    """(text, token ids) of the messages by the model's own template."""
    tokenizer, messages = served.tokenizer, body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refused("`messages` must be a list of messages, and not empty.", param="messages")
    if not tokenizer.chat_template:
        raise Refused("The model has no chat template: ask /v1/completions.", param="messages")
    more = body.get("chat_template_kwargs") or {}
    given = {"tools": body.get("tools") or None, "add_generation_prompt": True, "tokenize": False}
    try:
        text = tokenizer.apply_chat_template([plain(one) for one in messages], **{**more, **given})
    except Refused:
        raise
    except Exception as problem:  # The template is a program of the model's author: it raises what it likes.
        raise Refused(f"The model's chat template refuses this: {str(problem)[:300]}", param="messages") from problem
    return text, tokenizer.encode(text, add_special_tokens=False)


def plain(message):
    """A message with its parts, all of them text, put together."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise Refused("This engine reads text only: no pictures or sound.", param="messages")
    return {**message, "content": "".join(str(part.get("text", "")) for part in content)}


def prompts_of(served, prompt):
    """Token ids of each prompt: a text, token ids, or a list of either."""
    if isinstance(prompt, str):
        return [served.tokenizer.encode(prompt)]
    if isinstance(prompt, list) and prompt and all(isinstance(one, int) for one in prompt):
        return [token_ids(served, prompt, "prompt")]
    if isinstance(prompt, list) and prompt and all(isinstance(one, str | list) for one in prompt):
        return [found for one in prompt for found in prompts_of(served, one)]
    raise Refused("`prompt` must be a text, token ids, or a list of either.", param="prompt")


def token_ids(served, ids, param):
    if not isinstance(ids, list) or not all(type(one) is int and 0 <= one < len(served.tokenizer) for one in ids):
        raise Refused(f"`{param}` must be token ids of this model.", param=param)
    return ids


def number(body, name, default, least, most):
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refused(f"`{name}` must be a number from {least} to {most}.", param=name)
    return value


def asked_of(served, body, ids):
    """What Triton is asked for one prompt: what the request says, else what the model or OpenAI takes as a rule."""
    room = served.context - len(ids)
    if room < 1:
        text = f"This model's maximum context length is {served.context} tokens; the prompt has {len(ids)}."
        raise Refused(text, param="messages", code="context_length_exceeded")
    if not ids:
        raise Refused("The prompt is empty.", param="prompt")
    named = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    limit = number(body, named, served.defaults["max_tokens"] or room, 1, math.inf)
    temperature = number(body, "temperature", served.defaults["temperature"], 0, 2)
    top_k = int(number(body, "top_k", served.defaults["top_k"], -1, 1 << 30))
    greedy = temperature == 0 or top_k == 1
    return {
        "ids": ids,
        "max_tokens": min(int(limit), room),
        "eos": [] if body.get("ignore_eos") is True else served.eos,
        # The one token that is likeliest is what a temperature of zero means.
        "temperature": temperature or 1.0,
        "top_p": 1.0 if greedy else number(body, "top_p", served.defaults["top_p"], 0, 1),
        "top_k": 1 if greedy else top_k if top_k > 0 else len(served.tokenizer),
        "greedy": greedy,
    }


def stops_of(body):
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(one, str) and one for one in stops):
        raise Refused("`stop` must be a text or up to 16 of them.", param="stop")
    return stops


async def answer(request, body, prompts, shape):
    """Ask Triton once for each choice of each prompt, and tell what comes in the shape that is wanted."""
    served, count = request.app[SERVED], request.app[COUNT]
    copies, stops = int(number(body, "n", 1, 1, 64)), stops_of(body)
    asked = [asked_of(served, body, ids) for ids in prompts for _ in range(copies)]
    texts = shape.texts = [Text(served.tokenizer, stops) for _ in asked]
    shape.prompt_tokens = sum(len(ids) for ids in prompts)
    count.open += 1
    count.requests += 1
    count.prompt += shape.prompt_tokens
    streamed = body.get("stream") is True
    try:
        async with aclosing(merged(served.triton, asked, texts, count, streamed=streamed)) as parts:
            if streamed:
                return await stream(request, parts, shape)
            async for index, text, end in parts:
                shape.add(index, text, end)
            return web.json_response(shape.whole())
    finally:
        count.open -= 1


async def merged(triton, asked, texts, count, *, streamed):
    """(choice, text, end) of all choices, as they come. Whoever leaves early ends them all."""
    queue, stem = asyncio.Queue(), uuid.uuid4().hex

    async def follow(index):
        try:
            given = {**asked[index], "id": f"{stem}-{index}"}
            async with aclosing(one(triton, given, texts[index], count, streamed)) as parts:
                async for text, end in parts:
                    queue.put_nowait((index, text, end))
        except Exception as problem:
            queue.put_nowait(problem)

    tasks = [asyncio.create_task(follow(index)) for index in range(len(asked))]
    try:
        left = len(tasks)
        while left:
            part = await queue.get()
            if isinstance(part, Exception):
                raise part
            left -= part[2] is not None
            yield part
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def one(triton, given, text, count, streamed):
    """(text, end) of one choice; the last has the end."""
    async with aclosing(triton.ask(given, streamed=streamed)) as parts:
        async for part in parts:
            count.tokens += len(part["ids"])
            said = text.add(part["ids"])
            end = "stop" if text.stopped else part["end"]
            if end in ("failed", "aborted"):
                raise Refused("The engine gave this answer up.", 500, kind="server_error")
            if said or end:
                yield said + (text.rest() if end else ""), end
            if end:
                return
    raise Refused("The engine broke this answer off.", 500, kind="server_error")


async def stream(request, parts, shape):
    """Server-sent events. The status waits for the first part, so that an early refusal still has its own."""
    first = await anext(parts)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    try:
        for event in [*shape.opening(), shape.chunk(*first)]:
            await response.write(event_of(event))
        async for part in parts:
            await response.write(event_of(shape.chunk(*part)))
        if shape.wants_usage:
            await response.write(event_of(shape.usage_chunk()))
    except Refused as problem:
        await response.write(event_of(problem.body()))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def event_of(event):
    return b"data: " + json.dumps(event).encode() + b"\n\n"
