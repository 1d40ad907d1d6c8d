"""How two texts differ, by word or by token, and where two columns' answers part. Pure: no engine is asked.

What both begin and end with is set aside first. What is left between is compared as far as SPAN parts a side,
since the comparison takes longer by the square; the rest is then shown as replaced, and `uncompared` says so.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any, Literal, Protocol

SPAN = 3000
# Characters after the first that differs, in which the word that does is looked for.
AHEAD = 400
SHOWN = 32
# One run of the same text longer than this is folded, all but EDGE characters at both of its ends.
FOLD, EDGE = 2400, 600

Kind = Literal["same", "gone", "new"]
MARKS = str.maketrans({" ": "␣", "\n": "↵\n", "\r": "␍", "\t": "⇥\t", "\xa0": "⍽"})


class Answered(Protocol):
    """What is read of a Generation."""

    text: str
    reasoning: str
    request: Any
    state: Any
    finish_reason: str
    effective: Any


@dataclass(frozen=True)
class Piece:
    """A run of text: in both ("same"), only in the first ("gone") or only in the second ("new")."""

    kind: Kind
    text: str

    @property
    def shown(self) -> str:
        """The text, its white space marked where there is nothing else to see."""
        return self.text if self.kind == "same" or self.text.strip() else self.text.translate(MARKS)

    @property
    def folded(self) -> tuple[str, str, str]:
        """(head, middle, tail) of a long run that is the same; ("", "", "") of any other."""
        if self.kind != "same" or len(self.text) <= FOLD:
            return "", "", ""
        return self.text[:EDGE], self.text[EDGE:-EDGE], self.text[-EDGE:]


@dataclass(frozen=True)
class Difference:
    """Two texts in pieces. `uncompared`: parts at their ends that were too many to compare."""

    pieces: tuple[Piece, ...]
    uncompared: int = 0

    @property
    def left(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.kind != "new"]

    @property
    def right(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.kind != "gone"]

    @property
    def identical(self) -> bool:
        return all(piece.kind == "same" for piece in self.pieces)


@dataclass(frozen=True)
class Parting:
    """Where two texts begin to differ. `character` and `word` count from one; `first` what stands there.

    `first` is "" for a text that ends there. `space`: only the white space after that word differs.
    """

    character: int
    word: int
    first: tuple[str, str]
    space: bool = False


# Words


@cache
def _pattern() -> re.Pattern[str]:
    """A word, a white space run, or any other character, each with the marks that belong to it.

    Han and kana stand one by one, since no space parts their words; flags are two letters; what a zero-width
    joiner binds is one.
    """
    points = [*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)]
    marks = [p for p in points if unicodedata.category(chr(p)).startswith("M")] + [*range(0x1F3FB, 0x1F400)]
    more = f"[{''.join(re.escape(chr(p)) for p in marks)}]"
    alone = "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    flag = "[\U0001f1e6-\U0001f1ff]{2}"
    word = rf"(?:(?!{alone})\w(?:{more}|[\u200c\u200d](?=\w))*)+"
    return re.compile(rf"\s+|{alone}{more}*|{flag}|{word}|.{more}*(?:\u200d\S{more}*)*", re.DOTALL)


def words(text: str) -> list[str]:
    """The parts of `text` a person takes for one each; together they are the text."""
    return _pattern().findall(text)


# Differences


def compare(a: Sequence[str], b: Sequence[str], *, apart: bool = False) -> Difference:
    """How two texts, given as their parts, differ. `apart`: what differs stays cut into its parts."""
    head = _agreeing(a, b)
    tail = _agreeing(a[head:][::-1], b[head:][::-1])
    left, right = list(a[head : len(a) - tail]), list(b[head : len(b) - tail])
    pieces = [("same", a[:head]), *_between(left[:SPAN], right[:SPAN])]
    pieces += [("gone", left[SPAN:]), ("new", right[SPAN:]), ("same", a[len(a) - tail :])]
    beyond = max(len(left), len(right)) - SPAN
    if apart:
        pieces = [
            (kind, [one]) for kind, part in pieces for one in (part if kind != "same" else ["".join(part)])
        ]
    return Difference(_joined(pieces, apart), max(0, beyond))


def _agreeing(a: Sequence[str], b: Sequence[str]) -> int:
    """How many parts both begin with."""
    found = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        found += 1
    return found


def _between(a: list[str], b: list[str]) -> list[tuple[Kind, Sequence[str]]]:
    found: list[tuple[Kind, Sequence[str]]] = []
    for what, a0, a1, b0, b1 in SequenceMatcher(None, a, b).get_opcodes():
        found += [("same", a[a0:a1])] if what == "equal" else [("gone", a[a0:a1]), ("new", b[b0:b1])]
    return found


def _joined(parts: Sequence[tuple[Kind, Sequence[str]]], apart: bool) -> tuple[Piece, ...]:
    """Neighbours of one kind together, empty ones left out."""
    pieces: list[Piece] = []
    for kind, part in parts:
        text = "".join(part)
        if pieces and text and pieces[-1].kind == kind and not (apart and kind != "same"):
            pieces[-1] = Piece(kind, pieces[-1].text + text)
        elif text:
            pieces.append(Piece(kind, text))
    return tuple(pieces)


def parting(a: str, b: str) -> Parting | None:
    """Where two texts begin to differ; None where they do not."""
    at = first_character(a, b)
    if at is None:
        return None
    cut = _before_word(a, at)
    left, right = words(a[cut : at + AHEAD]), words(b[cut : at + AHEAD])
    head = _agreeing(left, right)
    before = sum(not part.isspace() for part in [*words(a[:cut]), *left[:head]])
    first = _next(left, head), _next(right, head)
    if "" in first:
        first = _next(left, head, words_only=True), _next(right, head, words_only=True)
    space = not any(part.strip() for part in first)
    return Parting(at + 1, before if space else before + 1, first, space)


def _before_word(text: str, at: int) -> int:
    """Where the white space before the word at that place begins: what is before is cut the same in both."""
    for cut in range(at - 1, 0, -1):
        if text[cut].isspace() and not text[cut - 1].isspace():
            return cut
    return 0


def _next(parts: Sequence[str], at: int, words_only: bool = False) -> str:
    """The part there, or with `words_only` the next word from there, where there is one; "" at the end."""
    if words_only and (word := next((part for part in parts[at:] if part.strip()), "")):
        return word
    return parts[at] if at < len(parts) else ""


def first_character(a: str, b: str) -> int | None:
    """The place of the first character that differs, from zero; None for the same text."""
    if a == b:
        return None
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


# Answers


def whole(answer: Answered) -> str:
    """All an answer says: what it thought, and then the rest."""
    return f"{answer.reasoning}\n\n{answer.text}" if answer.reasoning else answer.text


def told(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Why two requests cannot be held to the same answer, as a sentence; "" where they asked the same."""
    if not a or not b:
        return "One of them was never asked."
    said_a, said_b = _said(a), _said(b)
    if said_a == said_b:
        return ""
    if said_a[1:] == said_b[1:]:
        return "Their system prompts differ, so no divergence is named."
    if _texts(said_a) == _texts(said_b):
        return "One was told without the pictures, so no divergence is named."
    return "Their histories differ, so no divergence is named, and no winner."


def _said(request: Mapping[str, Any]) -> list[Any]:
    """The system prompt, or None, and then what was said."""
    messages = request.get("messages") or [{"role": "user", "content": request.get("prompt")}]
    system = [message for message in messages if message.get("role") == "system"]
    return [system or None, *(message for message in messages if message.get("role") != "system")]


def _texts(said: Sequence[Any]) -> list[Any]:
    return [said[0], *(_text(message.get("content")) for message in said[1:])]


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return str(content or "")
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")


def cut_off(answer: Answered) -> bool:
    """Whether an answer ended before the model ended it."""
    return str(answer.state) != "complete" or answer.finish_reason == "length"


def line(a: Answered, b: Answered, names: tuple[str, str] = ("1", "2")) -> str:
    """One line of how two answers differ: "1-2 part at word 14 (“Paris” / “the”)". Texts alone are read."""
    pair = f"{names[0]}\u2013{names[1]}"
    if why := told(a.request, b.request):
        short = {"Their histories": "histories differ", "Their system": "system prompts differ"}
        return f"{pair} {short.get(' '.join(why.split()[:2]), 'not asked the same')}"
    left, right = whole(a), whole(b)
    found = parting(left, right)
    if found is None:
        return f"{pair} identical" if left else f"{pair} both empty"
    short_one, other = (a, names[0]) if len(left) < len(right) else (b, names[1])
    if "" in found.first and cut_off(short_one):
        return f"{pair} the same as far as {other} goes"
    where = "white space after word" if found.space else "word"
    return f"{pair} part at {where} {found.word:,} ({' / '.join(map(named, found.first))})"


def lines(answers: Sequence[Answered], names: Sequence[str] = ()) -> list[str]:
    """`line` of each answer beside the first one of a turn; answers in the columns' order."""
    called = names or [str(place) for place in range(1, len(answers) + 1)]
    return [line(answers[0], other, (called[0], called[at])) for at, other in enumerate(answers[1:], 1)]


def named(part: str) -> str:
    """A part of a text as a sentence shows it: quoted, its outer white space marked; "its end" for none."""
    if not part:
        return "its end"
    inner = part.strip()
    at = part.find(inner) if inner else len(part)
    edges = (part[:at].translate(MARKS), part[at + len(inner) :].translate(MARKS))
    seen = f"{edges[0]}{inner}{edges[1]}".replace("↵\n", "↵").replace("\n", "↵")
    return f"“{seen if len(seen) <= SHOWN else seen[: SHOWN - 1] + '…'}”"
