"""Log-probabilities as engines tell them, and what they say of two answers that part: a tie, or none. Pure.

Definitions: README, "Differences". A margin is an engine's own log p(a) - log p(b) in nats, where `a` is the
token with which the first answer goes on where they part, and `b` that of the second.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from playground.differences import first_character, named

TIE_NATS = 0.25
# The most within which two tokens may be called as likely.
WIDEST = 20.0
SHOWN = 5
FRAGMENT = "\ufffd"
# How engines write the token that ends an answer: not at all, or by its name in the vocabulary.
END = re.compile(r"<\|[^|<>]*\|>|</s>|<(?:eos|end_of_turn|\|?end[a-z_]*)>|")

Verdict = Literal["tie", "no tie", "one-sided", "n/a"]


@dataclass(frozen=True)
class Likely:
    """A token that might have stood somewhere, and its log-probability there."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """A token of an answer, and what else was likely there. `logprob` None: the engine does not tell."""

    text: str
    raw: bytes
    logprob: float | None = None
    others: tuple[Likely, ...] = ()

    @property
    def fragment(self) -> bool:
        """Whether it is known only to be part of a character."""
        return FRAGMENT in self.text

    @property
    def ends(self) -> bool:
        """Whether it is one that ends an answer."""
        return END.fullmatch(self.text) is not None

    def same(self, other: "Token") -> bool:
        """Parts of characters that an engine does not name are taken for the same: the texts are compared."""
        return self.raw == other.raw or self.fragment or other.fragment


@dataclass
class Run:
    """An answer with its tokens. `ended`: by the model itself. `why`: why it has no log-probabilities."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    ended: bool = False
    why: str = ""


@dataclass(frozen=True)
class Side:
    """One column at the parting: its token, the likeliest ones, and its margin, or why there is none."""

    token: str
    margin: float | None = None
    why: str = ""
    likely: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Divergence:
    """Where two answers part, by token. `at` counts from one; None: not known, see `why`."""

    verdict: Verdict
    why: str = ""
    at: int | None = None
    sides: tuple[Side, ...] = ()
    within: float = TIE_NATS

    def kept(self) -> dict[str, Any]:
        """As JSON; `known` reads it."""
        return {"why": self.why, "at": self.at, "sides": [asdict(side) for side in self.sides]}


def known(kept: Mapping[str, Any], within: float = TIE_NATS) -> Divergence:
    """What `Divergence.kept` wrote, judged by `within` nats."""
    sides = [Side(**one | {"likely": tuple(map(tuple, one["likely"]))}) for one in kept["sides"]]
    if kept["at"] is None:
        return Divergence("n/a", kept["why"], within=within)
    return verdict(kept["at"], sides, within)


# Reading what engines send


def tokens(logprobs: Any) -> list[Token]:
    """The tokens of a choice's `logprobs`, as a chat answer has them; what has another shape is left out."""
    listed = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    found = []
    for entry in listed if isinstance(listed, list) else []:
        one = _likely(entry)
        if one is None:
            continue
        others = entry.get("top_logprobs")
        likely = [_likely(other) for other in (others if isinstance(others, list) else [])]
        found.append(Token(one.text, one.raw, one.logprob, tuple(other for other in likely if other)))
    return found


def _likely(entry: Any) -> Likely | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return None
    value, raw = entry.get("logprob"), entry.get("bytes")
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return None
    text = entry["token"].encode("utf-8", "replace").decode()
    return Likely(text, _bytes(raw) or text.encode(), float(value))


def _bytes(raw: Any) -> bytes:
    """The bytes that an engine lists; none where it lists something else."""
    listed = raw if isinstance(raw, list) else []
    sound = all(type(byte) is int and 0 <= byte < 256 for byte in listed)
    return bytes(listed) if sound else b""


# Judging


def judge(
    runs: tuple[Run, Run], answers: tuple[str, str], names: tuple[str, str], within: float = TIE_NATS
) -> Divergence:
    """What two second runs say of where `answers` part. n/a where a run went another way than its answer."""
    at = first_character(*answers)
    if at is None:
        return Divergence("n/a", "The answers are identical.", within=within)
    for run, answer, name in zip(runs, answers, names, strict=True):
        if not _reproduces(run, answer, at):
            return Divergence("n/a", f"A second run of {name} did not reproduce its answer.", within=within)
    place = _parting(runs)
    if place is None:
        return Divergence("n/a", "The second runs did not part where the answers do.", within=within)
    pair = tuple(run.tokens[place] if place < len(run.tokens) else None for run in runs)
    sides = tuple(_side(one, pair, run.why, name) for one, run, name in zip(pair, runs, names, strict=True))
    return verdict(place + 1, sides, within)


def _reproduces(run: Run, answer: str, at: int) -> bool:
    """Whether a run says what its answer says, the first differing character included."""
    if at >= len(answer):
        return run.text == answer and run.ended
    return run.text[: at + 1] == answer[: at + 1]


def _parting(runs: tuple[Run, Run]) -> int | None:
    """The place of the first token that differs; a run that ended goes on with nothing."""
    for place, (a, b) in enumerate(zip_longest(runs[0].tokens, runs[1].tokens)):
        if a is None or b is None:
            short = runs[0] if a is None else runs[1]
            return place if short.ended else None
        if not a.same(b):
            return place
    return None


def _side(own: Token | None, pair: tuple[Token | None, ...], why: str, name: str) -> Side:
    """One engine's view of the two tokens at the parting."""
    token = named(_seen(own))
    if why or own is None or own.logprob is None:
        return Side(token, None, why or f"{name} does not tell how likely its end was.")
    listed = tuple(
        (named("" if END.fullmatch(one.text) else one.text), round(one.logprob, 4))
        for one in _ranked(own)[:SHOWN]
    )
    values = [_logprob(own, one) for one in pair]
    missing = next((one for one, value in zip(pair, values, strict=True) if value is None), None)
    if None in values:
        return Side(token, None, _outside(own, missing, name), listed)
    first, second = (value for value in values if value is not None)
    return Side(token, round(first - second, 4), "", listed)


def _seen(token: Token | None) -> str:
    return "" if token is None or token.ends else token.text


def _ranked(own: Token) -> list[Likely]:
    listed = {one.raw: one for one in own.others}
    if own.logprob is not None:
        listed.setdefault(own.raw, Likely(own.text, own.raw, own.logprob))
    return sorted(listed.values(), key=lambda one: -one.logprob)


def _logprob(own: Token, wanted: Token | None) -> float | None:
    """What the engine gives `wanted` there; None where it does not say, or it might be one of several."""
    if wanted is not None and wanted.fragment:
        return None
    ranked = _ranked(own)
    named_so = [] if wanted is None else [one.logprob for one in ranked if one.raw == wanted.raw]
    if not named_so and (wanted is None or wanted.ends):
        named_so = [one.logprob for one in ranked if END.fullmatch(one.text)]
    return named_so[0] if len(named_so) == 1 else None


def _outside(own: Token, wanted: Token | None, name: str) -> str:
    if wanted is not None and wanted.fragment:
        return "One of the tokens is a part of a character, which is not told apart from others."
    if not own.others:
        return f"{name} told no other likely tokens."
    lowest = min(one.logprob for one in own.others)
    apart = "" if own.logprob is None else f", so over {max(0.0, own.logprob - lowest):.2f} nats below"
    return f"{named(_seen(wanted))} is not among the {len(own.others)} likeliest tokens of {name}{apart}."


def verdict(at: int, sides: Sequence[Side], within: float) -> Divergence:
    """What two margins make: a tie only if neither is more than `within` nats."""
    margins = [side.margin for side in sides if side.margin is not None]
    if not margins:
        why = " ".join(dict.fromkeys(side.why for side in sides))
        return Divergence("n/a", why, at, tuple(sides), within)
    if len(margins) < len(sides):
        why = next(side.why for side in sides if side.margin is None)
        return Divergence("one-sided", why, at, tuple(sides), within)
    tie = all(abs(margin) <= within for margin in margins)
    return Divergence("tie" if tie else "no tie", "", at, tuple(sides), within)
