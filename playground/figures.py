"""The figures under an answer, from its row. Pure. Definitions: README, "Figures". None is shown as "n/a"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Answered(Protocol):
    """What is read of a Generation."""

    @property
    def timings(self) -> Any: ...

    @property
    def usage(self) -> Any: ...

    @property
    def text(self) -> Any: ...

    @property
    def reasoning(self) -> Any: ...


@dataclass(frozen=True)
class Figures:
    """Times in milliseconds. `approximate_*` say that a number is shown with "≈"."""

    ttft: float | None = None
    first_answer: float | None = None
    e2e: float | None = None
    queue: float | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    tpot: float | None = None
    tokens_per_s: float | None = None
    characters_per_s: float | None = None
    chunks: int | None = None
    chunk_gap: float | None = None
    busy_s: float | None = None
    """Share of its replica's time: each second split equally among the answers in flight there."""
    cost: float | None = None
    """Dollars of that share, where its machine has a price."""
    gpu_s: float | None = None
    """That share times the GPUs it holds."""
    approximate_tokens: bool = False
    approximate_tpot: bool = False
    lagged: bool = False
    """The process that timed it was late by over 5 ms at some moment."""

    @property
    def comparable(self) -> bool:
        """Whether aggregates may take it in."""
        return not self.approximate_tokens and not self.lagged


def figures(generation: Answered) -> Figures:
    """All figures of one answer; whatever cannot be known stays None."""
    timings, usage = _mapping(generation.timings), _mapping(generation.usage)
    ttft, e2e = _number(timings, "ttft"), _number(timings, "e2e")
    chunks, tokens = _count(timings, "chunks"), _count(usage, "completion_tokens")
    first_tokens = _count(timings, "first_chunk_tokens")
    approximate = bool(usage.get("approximate"))
    spread = (
        e2e - ttft if e2e is not None and ttft is not None and (chunks or 0) >= 2 and e2e > ttft else None
    )
    tpot = _tpot(spread, tokens, first_tokens)
    characters = len(generation.text) + len(generation.reasoning)
    return Figures(
        ttft=ttft,
        first_answer=_number(timings, "first_answer"),
        e2e=e2e,
        queue=_number(timings, "queue"),
        tokens=tokens,
        prompt_tokens=_count(usage, "prompt_tokens"),
        cached_tokens=_count(usage, "cached_tokens"),
        reasoning_tokens=_count(usage, "reasoning_tokens"),
        tpot=tpot,
        tokens_per_s=1000 / tpot if tpot else None,
        characters_per_s=characters / e2e * 1000 if e2e and characters else None,
        chunks=chunks,
        chunk_gap=spread / (chunks - 1) if spread is not None and chunks else None,
        busy_s=_number(timings, "busy_s"),
        cost=_number(timings, "cost"),
        gpu_s=_number(timings, "gpu_s"),
        approximate_tokens=approximate,
        approximate_tpot=tpot is not None and (approximate or tokens != chunks),
        lagged=bool(timings.get("lagged")),
    )


def _tpot(spread: float | None, tokens: int | None, first_tokens: int | None) -> float | None:
    """Milliseconds a token after the first chunk, which held `first_tokens` (taken as one where unknown)."""
    if spread is None or tokens is None or tokens < 2:
        return None
    after = tokens - (first_tokens or 1)
    return spread / after if after > 0 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return float(value)


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if type(value) is int and value >= 0 else None
