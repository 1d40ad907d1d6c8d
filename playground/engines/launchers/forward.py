"""Pass requests on to an OpenAI-compatible server that somebody else runs. Run by the site's own Python.

forward.py --url URL --asks MODEL --served-name NAME --port N [--task T] [--allow NETWORK]... [--parallel N] [--silence S]

It listens once the server answered one real request. Bytes of answers pass untouched as they come; who hangs up here
ends the request there. Only the address named is asked: redirects are not followed, and each address that its name
leads to is judged before it is connected to (addresses.py).

SLIPWAY_UPSTREAM_KEY is what the server asks for, SLIPWAY_ENGINE_KEY what is asked for here.
"""

import argparse
import asyncio
import hmac
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress

import aiohttp
from addresses import Forbidden, judge, networks, parse, resolve
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

KEY, UPSTREAM_KEY = os.environ.pop("SLIPWAY_ENGINE_KEY", ""), os.environ.pop("SLIPWAY_UPSTREAM_KEY", "")
BODY_BYTES, METRICS_BYTES, SAID = 64 << 20, 1 << 20, 300
CONNECT_S, LOOK_S, FIRST_S, SILENCE_S = 10, 10, 120, 600
WAITS_S = (1, 2, 5, 10, 30)
# The least each task can be asked, and where.
FIRST = {
    "chat": ("/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
    "completion": ("/completions", {"prompt": "Hi", "max_tokens": 1}),
    "embedding": ("/embeddings", {"input": "ready"}),
}
WAY = web.AppKey("way")


class Refused(Exception):
    """What the server cannot be asked, or did not answer, as a status and a sentence."""

    def __init__(self, text, status=502, kind="server_error", code=None):
        super().__init__(text)
        self.text, self.status, self.kind, self.code = text, status, kind, code

    def response(self):
        error = {"message": self.text, "type": self.kind, "param": None, "code": self.code}
        return web.json_response({"error": error}, status=self.status)


class Final(Exception):
    """The server will not answer this however often it is asked."""


class Judged(AbstractResolver):
    """Names lead only to addresses that may be asked, at each connection anew."""

    def __init__(self, server, allowed):
        self.server, self.allowed, self.names = server, allowed, ThreadedResolver()

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        found = await self.names.resolve(host, port, family)
        judge(self.server, [one["host"] for one in found], self.allowed)
        return found

    async def close(self):
        await self.names.close()


class Way:
    """The way to the server, and what is counted of it."""

    def __init__(self, given, server, session):
        self.given, self.server, self.session = given, server, session
        self.turns = asyncio.Semaphore(given.parallel) if given.parallel else None
        self.running = self.waiting = self.requests = self.failed = self.heard = 0
        self.other_limit = False  # It wants max_completion_tokens in the place of max_tokens.
        self.tells = False

    @asynccontextmanager
    async def turn(self):
        self.waiting += 1
        try:
            if self.turns:
                await self.turns.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.requests += 1
        try:
            yield
        finally:
            self.running -= 1
            if self.turns:
                self.turns.release()

    @asynccontextmanager
    async def ask(self, path, body):
        """Its answer, whose headers came; Refused where there is none that may be passed on."""
        body = {**body, "model": self.given.asks}
        if self.other_limit and "max_tokens" in body:
            body.setdefault("max_completion_tokens", body.pop("max_tokens"))
        try:
            async with self.session.post(self.server.base + path, json=body, headers=headers(), allow_redirects=False) as answer:
                if 300 <= answer.status < 400:
                    raise Refused("The server sent a redirect; those are not followed.")
                if answer.status in (401, 403):
                    # Its own words may hold part of the key, and the client's own key is not what was refused.
                    raise Refused(f"The server refused its key ({answer.status}): give it a new one.", code="upstream_key")
                yield answer
        except Forbidden as problem:
            raise Refused(str(problem)) from problem
        except aiohttp.ClientConnectorError as problem:
            raise Refused(f"The server cannot be reached: {why_not(problem)}.") from problem
        except TimeoutError as problem:
            raise Refused("The server fell silent.", 504) from problem
        except aiohttp.ClientError as problem:
            raise Refused(f"The server broke off: {type(problem).__name__}.") from problem

    async def first(self):
        """One real request of the task. Final where asking again changes nothing, else Refused."""
        path, body = FIRST[self.given.task]
        async with asyncio.timeout(FIRST_S), self.ask(path, body) as answer:
            status, said = answer.status, (await answer.content.read(METRICS_BYTES)).decode(errors="replace")
        if status == 400 and not self.other_limit and "max_completion_tokens" in said:
            self.other_limit = True
            return await self.first()
        if status == 429 or status >= 500:
            raise Refused(f"it answers {status}: {said[:SAID]}")
        if status != 200:
            raise Final(f"it answers {status} to {self.given.asks}: {said[:SAID]}")
        with suppress(ValueError):
            told = json.loads(said)
            if isinstance(told, dict) and (told.get("choices") or told.get("data")):
                return None
        raise Final(f"it answers without a result: {said[:SAID]}")

    async def look(self):
        """Whether it lives, asked for ever by the cheapest question there is: a completion may cost money."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, Forbidden):
                async with asyncio.timeout(LOOK_S), self.get(self.server.base + "/models") as answer:
                    self.heard += answer.status < 500 and answer.status not in (401, 403)
            await asyncio.sleep(LOOK_S)

    def get(self, url):
        return self.session.get(url, headers=headers(), allow_redirects=False)

    async def own_metrics(self):
        """Prometheus text beside its API, where it has some; empty where not."""
        with suppress(aiohttp.ClientError, TimeoutError, Forbidden):
            async with asyncio.timeout(2), self.get(self.server.base.removesuffix("/v1") + "/metrics") as answer:
                if answer.status == 200 and answer.content_type == "text/plain":
                    return (await answer.content.read(METRICS_BYTES)).decode(errors="replace")
        return ""


def why_not(problem):
    """Why no connection came about, in the system's words."""
    said = getattr(problem, "certificate_error", None) or problem.os_error
    return getattr(said, "strerror", None) or said


def headers():
    """All that the server learns beside the body."""
    plain = {"User-Agent": "slipway", "Accept-Encoding": "identity"}
    return plain | ({"Authorization": f"Bearer {UPSTREAM_KEY}"} if UPSTREAM_KEY else {})


# What is asked here


def application(way):
    app = web.Application(client_max_size=BODY_BYTES, middlewares=[keyed])
    app[WAY] = way
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/models", models)
    for path in ("/chat/completions", "/completions", "/embeddings"):
        app.router.add_post("/v1" + path, forward)
    return app


@web.middleware
async def keyed(request, handler):
    given = request.headers.get("Authorization", "")
    try:
        if KEY and request.path != "/health" and not hmac.compare_digest(given.encode(), f"Bearer {KEY}".encode()):
            raise Refused("The key is missing or wrong.", 401, "authentication_error", "invalid_api_key")
        return await handler(request)
    except Refused as problem:
        request.app[WAY].failed += problem.status >= 500
        return problem.response()


async def health(request):
    return web.json_response({"status": "ok"})


async def models(request):
    row = {"id": request.app[WAY].given.served_name, "object": "model", "created": 0, "owned_by": "external"}
    return web.json_response({"object": "list", "data": [row]})


async def metrics(request):
    way = request.app[WAY]
    own = [
        ("num_requests_running", "gauge", way.running),
        ("num_requests_waiting", "gauge", way.waiting),
        ("requests_total", "counter", way.requests),
        ("failed_total", "counter", way.failed),
        ("heard_total", "counter", way.heard),
    ]
    text = "".join(f"# TYPE external:{name} {kind}\nexternal:{name} {value}\n" for name, kind, value in own)
    text += await way.own_metrics() if way.tells else ""
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})


async def forward(request):
    """The request with the server's own model name; the answer's bytes as they come."""
    way = request.app[WAY]
    try:
        body = await request.json()
    except ValueError as problem:
        raise Refused("The body is no JSON.", 400, "invalid_request_error") from problem
    if not isinstance(body, dict):
        raise Refused("The body must be an object.", 400, "invalid_request_error")
    response = None
    try:
        async with way.turn(), way.ask(request.path.removeprefix("/v1"), body) as answer:
            kept = {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
    except Refused:
        if response is None:
            raise
        way.failed += 1
        request.transport.abort()  # Half an answer ends as a broken one, never as a whole one.
        return response
    await response.write_eof()
    return response


# The process


def arguments():
    parser = argparse.ArgumentParser(prog="external", allow_abbrev=False)
    parser.add_argument("--url", required=True)
    parser.add_argument("--asks", required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--task", choices=sorted(FIRST), default="chat")
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--silence", type=int, default=SILENCE_S)
    return parser.parse_args()


def connect(given):
    """The way to the server, whose address was judged."""
    server, allowed = parse(given.url), networks(given.allow)
    # A name in the form of an address is connected to as it is, past every resolver.
    judge(server, resolve(server), allowed)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=given.silence)
    connector = aiohttp.TCPConnector(resolver=Judged(server, allowed), limit=0)
    options = {"auto_decompress": False, "cookie_jar": aiohttp.DummyCookieJar(), "trust_env": False}
    return Way(given, server, aiohttp.ClientSession(connector=connector, timeout=timeout, **options))


async def until_it_answers(way, ended):
    """Ask until it answers or this is ended; Final where it never will."""
    tries = 0
    while not ended.is_set():
        try:
            await way.first()
            return
        except TimeoutError:
            why = f"it did not answer within {FIRST_S} s"
        except Refused as problem:
            if problem.code == "upstream_key":
                raise Final(problem.text) from problem
            why = problem.text
        wait = WAITS_S[min(tries, len(WAITS_S) - 1)]
        tries += 1
        print(f"external: waits for the server: {why}", flush=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), wait)


async def serve(given):
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        way = connect(given)
    except Forbidden as problem:
        print(f"external: error: address: {problem}", flush=True)
        return 1
    async with way.session:
        print(f"external: asking {way.server.base} for one token", flush=True)
        try:
            await until_it_answers(way, ended)
        except Final as problem:
            print(f"external: error: server: {problem}", flush=True)
            return 1
        way.tells = bool(await way.own_metrics())
        await listen(given, way, ended)
    print("external: ending", flush=True)
    return 0


async def listen(given, way, ended):
    """Serve until it is ended."""
    runner = web.AppRunner(application(way), handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    look = asyncio.create_task(way.look())
    try:
        if not ended.is_set():
            await web.TCPSite(runner, given.host, given.port).start()
            print(f"external: listening on {given.host}:{given.port}", flush=True)
            await ended.wait()
    finally:
        look.cancel()
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(arguments())))
