"""How much later an answer is in our page than in a bare page that reads the engine's own stream.

The fake engine streams the same tokens at the same pace to both, in pairs of alternating order. Timed in the
page, from the click to the first and to the whole text being in the document. Prints medians and spreads.

    .venv/bin/python -m tests.bench.page_stream --pairs 7
"""

import argparse
import json
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.bench import site

# A person types before they send: what a page does as it opens is no part of an answer's time.
SETTLE_MS = 500
BARE = """<!doctype html><title>bare</title><button id="go">Send</button><div id="out"></div><script>
document.querySelector("#go").addEventListener("click", async () => {
  const answer = await fetch("/v1/chat/completions", {method: "POST", body: document.body.dataset.body});
  const out = document.querySelector("#out");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      out.append(JSON.parse(line.slice(6)).choices[0]?.delta?.content ?? "");
    }
  }
});
</script>"""
# Looks after every change of the document, so that both pages are timed by the same rule.
TIMER = """([first, last, selector]) => new Promise((resolve) => {
  const begun = performance.now(), found = {};
  const look = () => {
    const text = [...document.querySelectorAll(selector)].at(-1)?.textContent ?? "";
    if (!found.first && text.includes(first)) found.first = performance.now() - begun;
    if (found.first && text.includes(last)) {
      observer.disconnect();
      resolve({...found, whole: performance.now() - begun});
    }
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, {subtree: true, childList: true, characterData: true});
  document.querySelector("#go, #composer [type=submit]").click();
})"""


@contextmanager
def bare_page(engine_port: int, key: str) -> Iterator[str]:
    """A page of its own origin that hands the engine's stream through byte by byte."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(BARE.encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with socket.create_connection(("127.0.0.1", engine_port)) as engine:
                engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                head = (
                    f"POST {self.path} HTTP/1.1\r\nHost: engine\r\nAuthorization: Bearer {key}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
                    "\r\n\r\n"
                )
                engine.sendall(head.encode() + body)
                while chunk := engine.recv(65536):
                    self.connection.sendall(chunk)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--delay-ms", type=float, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        site.own(stack)
        measure(stack, options)


def measure(stack: ExitStack, options: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    from playground import teams
    from playground.models import Generation
    from tests import chats
    from tests.fakes import running_fake

    fake = stack.enter_context(running_fake(key="k"))
    user, team = teams.first_user(), teams.default_team()
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row)
    cookie = chats.cookie(user)
    web = stack.enter_context(chats.running_web())
    bare = stack.enter_context(bare_page(fake.port, fake.key))
    chromium = stack.enter_context(sync_playwright()).chromium
    browser = chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
    stack.callback(browser.close)
    context = browser.new_context()
    name, _, value = cookie.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": f"http://127.0.0.1:{web.port}"}])
    text = f"[[tokens={options.tokens}]] [[delay={options.delay_ms:g}]]"
    first, last = "word", f"word{options.tokens - 1}"

    def ours() -> dict[str, float]:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{web.port}/playground/{chat.pk}/")
        page.wait_for_selector("html[data-socket=open]")
        page.wait_for_timeout(SETTLE_MS)
        page.fill("#message", text)
        timed: dict[str, float] = page.evaluate(TIMER, [first, last, ".answer[aria-busy] .prose"])
        page.wait_for_selector(".answer[data-state=complete]:last-child")
        page.close()
        timings = Generation.objects.get().timings
        chat.turns.all().delete()
        return timed | {"queue": timings.get("queue", 0.0), "ttft": timings.get("ttft", 0.0)}

    def direct() -> dict[str, float]:
        page = context.new_page()
        page.goto(bare)
        body = {"model": "fake", "messages": [{"role": "user", "content": text}], "stream": True}
        page.evaluate("body => { document.body.dataset.body = body }", json.dumps(body))
        page.wait_for_timeout(SETTLE_MS)
        timed: dict[str, float] = page.evaluate(TIMER, [first, last, "#out"])
        page.close()
        return timed

    ours(), direct()
    pairs = [(ours(), direct()) if at % 2 else (direct(), ours())[::-1] for at in range(options.pairs)]
    report(pairs)


def report(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    later = [mine["first"] - bare["first"] for mine, bare in pairs]
    ratio = [mine["whole"] / bare["whole"] for mine, bare in pairs]
    for name, at in (("first token", "first"), ("whole answer", "whole")):
        mine, bare = (statistics.median(pair[which][at] for pair in pairs) for which in (0, 1))
        print(f"{name:13} page {mine:7.0f} ms   bare {bare:7.0f} ms")
    print(
        f"first token later by {statistics.median(later):.0f} ms (from {min(later):.0f} to {max(later):.0f})"
    )
    print(f"whole answer times {statistics.median(ratio):.3f} (from {min(ratio):.3f} to {max(ratio):.3f})")
    queue, ttft = (statistics.median(mine[at] for mine, _ in pairs) for at in ("queue", "ttft"))
    print(
        f"of the page's first token: {queue:.0f} ms until the engine was asked, {ttft:.0f} ms in the engine"
    )
    print(f"{len(pairs)} interleaved pairs")


if __name__ == "__main__":
    main()
