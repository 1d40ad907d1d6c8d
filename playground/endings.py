"""What stands under an answer beside its figures: where its time went, and how it ended, as a sentence."""

from dataclasses import dataclass

from playground.figures import figures
from playground.models import Generation

ENDINGS = {
    Generation.State.COMPLETE: "finished",
    Generation.State.STOPPED: "was stopped",
    Generation.State.FAILED: "failed",
    Generation.State.INTERRUPTED: "was interrupted",
}


@dataclass(frozen=True)
class Bar:
    """One part of an answer's time, as a share of all of it: `start` and `width` in percent."""

    name: str
    ms: float
    start: float
    width: float


def bars(answer: Generation) -> list[Bar]:
    """Queue, first token, tokens (or the engine, whole): in order, without what is unknown or took none."""
    known = figures(answer)
    parts = [("queue", known.queue or 0.0)]
    if known.ttft is not None:
        parts.append(("first token", known.ttft))
        if known.e2e is not None:
            parts.append(("tokens", max(known.e2e - known.ttft, 0.0)))
    elif known.e2e is not None:
        parts.append(("engine", known.e2e))
    whole = sum(ms for _, ms in parts)
    found, start = [], 0.0
    for name, ms in parts:
        width = 100 * ms / whole if whole else 0.0
        if width:
            found.append(Bar(name, ms, round(start, 2), round(width, 2)))
        start += width
    return found


def sentence(answer: Generation, name: str) -> str:
    """How it ended, to be spoken: "llama.cpp finished, 212 tokens."; empty while it streams."""
    ending = ENDINGS.get(Generation.State(answer.state))
    if ending is None:
        return ""
    known = figures(answer)
    about = "about " if known.approximate_tokens else ""
    return f"{name} {ending}, {about}{known.tokens} tokens." if known.tokens else f"{name} {ending}."
