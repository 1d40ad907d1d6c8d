"""Columns beside each other: what one adds to another's first token, and whether six long ones stay smooth.

First token: by the site's own clock, of one column alone and with five more, in interleaved pairs; the
fake engines wait 500 ms before their first byte. Smooth: six answers of 4,000 tokens at 100 a second in a
real page; tasks over 50 ms as the browser reports them, and its heap after a collection.

    .venv/bin/python -m tests.bench.columns --pairs 7 --tokens 4000
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import Any

import psutil

from tests.bench import site

COLUMNS = 6
WATCH = """() => {
  window.longest = []; window.frames = [];
  const keep = ({duration, startTime}) => longest.push([duration, startTime]);
  const observer = new PerformanceObserver((list) => list.getEntries().forEach(keep));
  observer.observe({type: "longtask", buffered: true});
  let last = performance.now();
  const next = (now) => { frames.push(now - last); last = now; requestAnimationFrame(next) };
  requestAnimationFrame(next);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--delay-ms", type=float, default=10)
    options = parser.parse_args([] if __name__ != "__main__" else None)
    with ExitStack() as stack:
        site.own(stack)
        measure(stack, options)


def measure(stack: ExitStack, options: argparse.Namespace) -> None:
    from playground import teams
    from tests import chats
    from tests.fakes import running_fake

    user, team = teams.first_user(), teams.default_team()
    rows = []
    for number in range(COLUMNS):
        rows.append(chats.deployment(team, f"fake-{number + 1}"))
        chats.ready(rows[-1], stack.enter_context(running_fake(key="k")))
    web = stack.enter_context(chats.running_web())
    context = signed_in(stack, chats.cookie(user), f"http://127.0.0.1:{web.port}")
    first_token(context, chats.conversation(team, rows[0]), chats.conversation(team, *rows), options.pairs)
    smooth(context, chats.conversation(team, *rows), psutil.Process(web.process.pid), options)


def signed_in(stack: ExitStack, cookie: str, base_url: str) -> Any:
    """A browser's context."""
    from playwright.sync_api import sync_playwright

    chromium = stack.enter_context(sync_playwright()).chromium
    browser = chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
    stack.callback(browser.close)
    context = browser.new_context(base_url=base_url, viewport={"width": 1600, "height": 900})
    name, _, value = cookie.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": base_url}])
    return context


def first_token(context: Any, alone: Any, all_six: Any, pairs: int) -> None:
    """The first column's TTFT, by itself and beside the others."""
    from playground.models import Generation
    from tests import chats

    context.request.get(f"/playground/{alone.pk}/")
    token = next(one["value"] for one in context.cookies() if "csrf" in one["name"])

    def ttft(chat: Any, number: int) -> float:
        form = {"text": "[[wait=0.5]] [[tokens=50]] [[delay=5]]", "client_id": f"c{number}"}
        headers = {"X-CSRFToken": token, "HX-Request": "true"}
        answer = context.request.post(f"/playground/{chat.pk}/send/", form=form, headers=headers)
        assert answer.ok, answer.text()
        newest = Generation.objects.filter(turn__conversation=chat).order_by("turn_id", "column__position")
        mine = [row.pk for row in newest if row.turn_id == max(one.turn_id for one in newest)]
        for pk in mine:
            chats.answer(pk, "complete", within_s=60)
        return float(Generation.objects.get(pk=mine[0]).timings["ttft"])

    ttft(alone, 0), ttft(all_six, 0)
    found = []
    for at in range(1, pairs + 1):
        both = (ttft(all_six, at), ttft(alone, at)) if at % 2 else (ttft(alone, at), ttft(all_six, at))[::-1]
        found.append(both[0] / both[1])
    each = [(ratio - 1) / (COLUMNS - 1) * 100 for ratio in found]
    print(
        f"first token beside five others: {statistics.median(each):+.2f} % for each of them "
        f"(from {min(each):+.2f} to {max(each):+.2f}, {pairs} interleaved pairs)"
    )


def smooth(context: Any, chat: Any, web: psutil.Process, options: argparse.Namespace) -> None:
    """Six long answers in a page that is watched."""
    page = context.new_page()
    page.goto(f"/playground/{chat.pk}/")
    page.wait_for_selector("html[data-socket=open]")
    devtools = context.new_cdp_session(page)
    page.evaluate(WATCH)
    page.fill("#message", f"[[tokens={options.tokens}]] [[delay={options.delay_ms:g}]]")
    begun_ms = page.evaluate("() => performance.now()")
    page.click("#composer [type=submit]")
    begun, heaps = time.monotonic(), []
    whole_s = options.tokens * options.delay_ms / 1000
    for part in range(1, 5):
        page.wait_for_timeout(max(0.0, (begun + whole_s * part / 5 - time.monotonic()) * 1000))
        devtools.send("HeapProfiler.collectGarbage")
        heap = devtools.send("Runtime.getHeapUsage")["usedSize"]
        heaps.append(f"{heap / 1e6:.1f} MB page, {web.memory_info().rss / 1e6:.0f} MB web")
        # The collection is ours, not the page's.
        frames = page.evaluate("() => window.frames.splice(0)")
        print(f"  {part * 20} %: {heaps[-1]}; longest frame {max(frames):.0f} ms of {len(frames)}")
    page.locator(".answer[data-state=complete]").nth(COLUMNS - 1).wait_for(timeout=240_000)
    took = time.monotonic() - begun
    long_tasks = page.evaluate("(begun) => window.longest.map(([ms, at]) => [ms, at - begun])", begun_ms)
    print(f"six answers of {options.tokens} tokens in {took:.1f} s (the engines need {whole_s:.0f} s)")
    longest = sorted(long_tasks, reverse=True)[:6]
    listed = ", ".join(f"{ms:.0f} ms at {at / 1000:.1f} s" for ms, at in longest)
    print(f"tasks over 50 ms: {len(long_tasks)}; the longest: {listed or 'none'}")


if __name__ == "__main__":
    main()
