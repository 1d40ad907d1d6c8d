"""Our figures beside those of outside tools, on the same recorded streams with their arrival times.

Run as `make bench ARGS=agreement`. Each recording is played by a process of its own, and asked at the same
concurrency by a load run of ours, by vLLM's `bench serve` and by guidellm. The last column compares a tool
with ours recomputed by that tool's definition from the moments our client read: what is left is the clients'
own difference. It gates nothing. A tool that cannot be had is "n/a" with the reason.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.bench.outside_tools import PROMPT, ROOT, Asked, Line, Ours, guidellm, vllm
from tests.bench.replayer import MODEL, Recording

LEVELS = ((1, 10), (4, 24))
"""Requests at once, and requests."""
WITHIN = 2.0
DIFFERENCES = """
Where the definitions differ:
  TTFT        ours and guidellm: to the first chunk with content, reasoning or a tool call.
              vLLM: to the first chunk with choices, which is the role chunk where an engine sends one.
  TPOT        ours: (E2E - TTFT) / (n - f), f the tokens of the first chunk where known, else 1.
              vLLM: (E2EL - its TTFT) / (n - 1): from the role chunk to the chunk with the finish reason.
              guidellm calls (last token - first token) / (n - 1) ITL; its TPOT is (last token - start) / n.
  chunk gap   ours: between content chunks, called so because a chunk may hold several tokens.
              vLLM's ITL: between chunks with choices, role and finish chunk included.
  E2E         ours: to the last content chunk. vLLM's E2EL: to the last chunk with choices, the finish chunk.
              guidellm's request latency: to [DONE].
  throughput  ours: tokens of what ended while requests were still sent / (last such end - first start).
              vLLM: all tokens / wall time of the benchmark, ramp and tail included.
              guidellm, from its record of each request: all tokens / (last end - first start), ramp and
              tail included.
  failed      left out of latency by all three; ours and vLLM count them, guidellm lists them as errored.
  goodput     ours and vLLM: requests that meet every limit, a second; ours over the window of its throughput.
"""


# Ours


def ours(port: int, at_once: int, requests: int) -> Ours:
    """What a load run measures with the replayer as its only column. No database: nothing is kept."""
    from playground import load_report
    from playground.answers import Question
    from playground.engine_client import Target
    from playground.load_form import Level, Wanted
    from playground.load_measuring import Came, Measuring, Place, Told
    from playground.models import Column, Replica

    target = Target(f"http://127.0.0.1:{port}", {}, MODEL, "llama.cpp", 0)
    question = Question(target, {"messages": [{"role": "user", "content": PROMPT}]}, {"max_tokens": 48})
    wanted = Wanted((Level(False, at_once),), requests, 48, (PROMPT,), warm_up=at_once)
    told: SimpleQueue[Told] = SimpleQueue()
    with seen_answers() as seen:
        place = Place(Column(), "replayed", [(Replica(pk=0), [question])])
        asyncio.run(Measuring(wanted, [place], told.put).run())
    came: list[Came] = [one for _ in range(told.qsize()) if isinstance(one := told.get(), Came)]
    assert len(came) == requests and all(one.taken.state == "complete" for one in came), came
    counted = [load_report.request(one.taken, None, one.sent_ms) for one in came]
    gaps = [one.taken.figures.chunk_gap for one in came]
    row = load_report.row(counted, load_report.Limits())
    return Ours(row, statistics.median(gap for gap in gaps if gap), [_asked(one) for one in seen[at_once:]])


@contextmanager
def seen_answers() -> Iterator[list[Any]]:
    """Every answer our client reads meanwhile, each with the moments at which its chunks came."""
    from playground import asking
    from playground.answers import Answer
    from playground.engine_client import Frame

    seen: list[Any] = []

    class Seen(Answer):
        def take(self, frame: Frame) -> None:
            self.frames.append((frame.kind, frame.at))
            super().take(frame)

        async def ask(self, *asked: Any) -> None:
            self.frames: list[tuple[str, float]] = []
            seen.append(self)
            await super().ask(*asked)
            self.ended_at = time.monotonic()

    asking.Answer, before = Seen, asking.Answer  # type: ignore[misc]
    try:
        yield seen
    finally:
        asking.Answer = before  # type: ignore[misc]


def _asked(answer: Any) -> Asked:
    """The recorded streams send the reason of the finish in a chunk of its own: a frame is a chunk."""
    choices = [at for kind, at in answer.frames if kind != "usage"]
    content = [at for kind, at in answer.frames if kind == "content"]
    return Asked(answer.sent_at, answer.ended_at, content, choices, answer.usage["completion_tokens"])


@contextmanager
def replaying(place: int) -> Iterator[int]:
    """A process that plays a recording; its port."""
    from tests.fakes import free_port

    port = free_port()
    line = [sys.executable, "-m", "tests.bench.replayer", "serve", str(port), str(place)]
    process = subprocess.Popen(line, cwd=ROOT)
    try:
        _until_it_listens(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    from http.client import HTTPConnection

    until = time.monotonic() + 20
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
            return
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < until, "the replayer does not listen"
            time.sleep(0.05)
        finally:
            connection.close()


def main() -> None:
    """Every recording at every level, with every tool."""
    import django

    from tests import home

    os.environ["DJANGO_SETTINGS_MODULE"] = "playground.settings"
    django.setup()
    worst: list[tuple[float, str]] = []
    try:
        for place, recording in enumerate(Recording.all()):
            sys.stdout.write(f"\n{recording.source}: {recording.tokens} tokens\n")
            with replaying(place) as port:
                for at_once, requests in LEVELS:
                    worst += _level(port, at_once, requests)
    finally:
        shutil.rmtree(home.HOME)
    sys.stdout.write(DIFFERENCES)
    over = [f"{name} {off:+.1f} %" for off, name in worst if abs(off) > WITHIN]
    sys.stdout.write(f"Over {WITHIN:g} %: {'; '.join(over) or 'none'} of {len(worst)} figures.\n")


def _level(port: int, at_once: int, requests: int) -> list[tuple[float, str]]:
    """One level of a recording with every tool; each figure's distance and name."""
    found = []
    for tool in (vllm, guidellm):
        mine = ours(port, at_once, requests)
        with tempfile.TemporaryDirectory() as folder:
            try:
                lines = tool(port, at_once, requests, mine, Path(folder))
            except RuntimeError as problem:
                sys.stdout.write(f"  {tool.__name__}, {at_once} at once: n/a, {problem}\n")
                continue
        _print(tool.__name__, at_once, requests, lines)
        found += [(line.off, f"{tool.__name__} {line.name} at {at_once}") for line in lines]
    return found


def _print(tool: str, at_once: int, requests: int, lines: Sequence[Line]) -> None:
    heading = f"{tool}, {at_once} at once, n = {requests}, medians"
    sys.stdout.write(f"  {heading:44}{'ours':>10}{'by theirs':>11}{'theirs':>10}{'off':>9}\n")
    for line in lines:
        own = "n/a" if line.ours is None else f"{line.ours:.2f}"
        off = f"{line.off:+.2f} %"
        sys.stdout.write(f"    {line.name:42}{own:>10}{line.by_theirs:11.2f}{line.theirs:10.2f}{off:>9}\n")


if __name__ == "__main__":
    main()
