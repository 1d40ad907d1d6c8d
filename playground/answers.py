"""One answer while this process writes it: ask the engine, time what comes, count what came.

Knows no rows: `writing` gives it a Question and keeps what came. Definitions of the times: README, "Figures".
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from playground import engine_client, engines, pictures, policy, pooling, sharing, widgets
from playground.engine_client import EngineError, Frame, Target
from playground.engines.base import PATHS
from playground.feeds import Feed
from playground.lateness import Lateness
from playground.pace import Pace

FLUSH_S = 0.025
FIRST_BYTE_S = 600.0
COUNT_S = 3.0
TOTAL = 10_000_000

log = logging.getLogger(__name__)
lateness = Lateness()


@dataclass(frozen=True)
class Question:
    """What to ask whom. `asked` is what was typed, by the task's parameters: {"messages"}, {"input"}, …

    `parameters` holds only what a person set. `unseen`: there are pictures, and the model cannot see.
    """

    target: Target
    asked: Mapping[str, Any]
    parameters: Mapping[str, Any]
    task: str = "chat"
    labels: tuple[str, ...] = ()
    unseen: bool = False

    @property
    def path(self) -> str:
        return PATHS[self.task]

    @property
    def generates(self) -> bool:
        return self.task in widgets.GENERATES

    def body(self) -> dict[str, Any]:
        """The request, as it is kept: only what was set, and what makes the engine stream and count."""
        if not self.generates:
            return {"model": self.target.served_name, **self.asked}
        quirks = engines.get(self.target.engine).quirks
        chosen = {name: value for name, value in self.parameters.items() if name not in quirks.refused}
        body: dict[str, Any] = {"model": self.target.served_name, **self.asked, **chosen}
        body["stream"] = True
        if "stream_options" not in quirks.ignored:
            body["stream_options"] = {"include_usage": True}
        for name, value in quirks.continuous_usage.items():
            body[name] = {**body.get(name, {}), **value} if isinstance(value, Mapping) else value
        return body

    def ignored(self) -> list[str]:
        """What was set or attached and that this engine does nothing with, or cannot be sent."""
        if not self.generates:
            return []
        quirks = engines.get(self.target.engine).quirks
        found = set(self.parameters) & (quirks.ignored | quirks.refused)
        return sorted(found | ({"images"} if self.unseen else set()))


@dataclass
class Answer:
    """What came of a question so far. `on_flush` is told when there is new text to show."""

    feed: Feed
    on_flush: Callable[[Feed], None]
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    tool_calls: int = 0
    busy_s: float | None = None
    sent_at: float = 0.0
    late: bool = False
    first_at: float | None = None
    first_tokens: int | None = None
    first_content_at: float | None = None
    thought: bool = False
    last_at: float | None = None
    chunks: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    vectors: bytes | None = None
    pace: Pace = field(default_factory=Pace)
    _content: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _flushed_at: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    async def ask(self, question: Question, body: dict[str, Any]) -> None:
        """Bring the engine's answer, streamed or whole. Raises EngineError; cancelled, the engine stops."""
        self.sent_at = lateness.start()
        try:
            with sharing.share(question.target.replica) as share:
                try:
                    await (self._read if question.generates else self._take_whole)(question, body)
                finally:
                    self.late = lateness.late_since(self.sent_at)
                    self.flush()
        finally:
            self.busy_s = share.seconds
            lateness.stop()

    async def _take_whole(self, question: Question, body: dict[str, Any]) -> None:
        """An answer that does not stream: timed to its end, and made into what is shown."""
        found = await engine_client.complete(question.target, question.path, body, first_byte_s=FIRST_BYTE_S)
        self.last_at = time.monotonic()
        usage = found.get("usage")
        self.usage = counted(usage) if isinstance(usage, Mapping) else {}
        try:
            read = widgets.read(question.task, question.asked, found, question.labels)
        except widgets.Malformed as problem:
            raise EngineError("malformed", str(problem)) from problem
        self.result, self.vectors = read

    async def _read(self, question: Question, body: dict[str, Any]) -> None:
        frames = engine_client.stream(question.target, question.path, body, first_byte_s=FIRST_BYTE_S)
        try:
            async for frame in frames:
                self.take(frame)
        finally:
            await frames.aclose()

    def take(self, frame: Frame) -> None:
        if frame.kind in ("content", "reasoning", "tool_call"):
            self._time(frame)
            (self._reasoning if frame.kind == "reasoning" else self._content).append(frame.text)
            self._plan_flush()
        elif frame.kind == "usage":
            self.usage = counted(frame.data)
        elif frame.kind == "finish":
            self.finish_reason = frame.text[:30]

    def _time(self, frame: Frame) -> None:
        if self.first_at is None:
            self.first_at, self.first_tokens = frame.at, frame.tokens
        if frame.kind == "reasoning":
            self.thought = True
        elif self.first_content_at is None:
            self.first_content_at = frame.at
        self.last_at = frame.at
        self.chunks += 1
        self.tool_calls += frame.kind == "tool_call"

    def _plan_flush(self) -> None:
        """The first text at once, then at most every FLUSH_S."""
        if self._timer is not None:
            return
        wait = self._flushed_at + FLUSH_S - time.monotonic()
        if wait <= 0:
            self.flush()
        else:
            self._timer = asyncio.get_running_loop().call_later(wait, self.flush)

    def flush(self) -> None:
        """Give the feed what came."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._content or self._reasoning:
            self.feed.append("".join(self._content), "".join(self._reasoning))
            self._content.clear()
            self._reasoning.clear()
            self._flushed_at = time.monotonic()
            self.pace.reach(self._since(self.last_at), len(self.feed.content) + len(self.feed.reasoning))
            self.on_flush(self.feed)

    def timings(self) -> dict[str, Any]:
        """Milliseconds from the request being written; what never happened is left out."""
        if not self.sent_at:
            return {}
        times = {
            "ttft": self._since(self.first_at),
            "first_answer": self._since(self.first_content_at) if self.thought else None,
            "e2e": self._since(self.last_at),
            "chunks": self.chunks,
            "first_chunk_tokens": self.first_tokens,
            "busy_s": None if self.busy_s is None else round(self.busy_s, 4),
            "lagged": self.late,
        }
        return {name: value for name, value in times.items() if value is not None}

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round((moment - self.sent_at) * 1000, 2)

    async def count(self, target: Target, *, partial: bool) -> dict[str, Any]:
        """The usage; a partial answer's by continuous usage, else counted by the engine and marked."""
        if self.usage.get("completion_tokens"):
            return self.usage
        text = self.feed.reasoning + self.feed.content
        if not partial or not text:
            return self.usage
        tokens = await _tokens(target, text)
        return self.usage if tokens is None else {"completion_tokens": tokens, "approximate": True}


async def _tokens(target: Target, text: str) -> int | None:
    """Tokens of `text` by the engine's own tokenizer; None where it cannot say now."""
    try:
        async with asyncio.timeout(COUNT_S):
            ask = engine_client.asking(target)
            return await engines.get(target.engine).tokenize(ask, target.served_name, text)
    except (EngineError, TimeoutError) as problem:
        log.info("The tokens of a partial answer stay unknown: %s", problem)
        return None


def counted(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of an engine's usage object that are counts."""
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    found = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": prompt.get("cached_tokens") if isinstance(prompt, Mapping) else None,
        "reasoning_tokens": completion.get("reasoning_tokens") if isinstance(completion, Mapping) else None,
    }
    return {name: value for name, value in found.items() if type(value) is int and 0 <= value <= TOTAL}


def checked(question: Question) -> dict[str, Any]:
    """The body as it is sent, pictures included, within the request policy; EngineError where it is not."""
    body = pictures.inlined(question.body())
    try:
        if question.generates:
            policy.check(body, chat=question.task == "chat")
        else:
            pooling.check(body, question.task)
    except policy.BadRequest as problem:
        raise EngineError("bad_request", problem.message) from problem
    # Which adapter answers is ours to say: the policy refuses it in what people write.
    return {**body, **question.target.selects}
