"""How two versions of a prompt differ, and two people's changes to one put together. Pure: values alone.

Nothing anybody wrote is dropped: where both changed the same words, both stand, between marks.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from playground import differences, key_order
from playground.differences import Difference, Piece
from playground.prompts import Said

# Pairs of equal words that are looked at to put a text together; where there are more it goes by line.
ALIKE = 4_000_000
OURS, BETWEEN, THEIRS = "<<<<<<< yours", "=======", ">>>>>>> "

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One thing that differs: a message, the variables, the parameters. `title`: what it is."""

    title: str
    difference: Difference

    @property
    def kind(self) -> str:
        """ "same", "new", "gone" or "changed"."""
        kinds = {piece.kind for piece in self.difference.pieces}
        return next(iter(kinds)) if len(kinds) == 1 else "changed" if kinds else "same"


@dataclass(frozen=True)
class Merged:
    """What came of two people's changes. `clashes`: what both changed, in words, still to be looked at."""

    said: Said
    clashes: list[str] = field(default_factory=list)


# Differences


def compare(a: Said, b: Said) -> list[Part]:
    """What was said in `a` beside `b`, part by part; what is the same is there, too."""
    parts = [_part(left, right) for left, right in _pairs(a.messages, b.messages)]
    for title, one, other in (
        ("variables", a.variables, b.variables),
        ("parameters", a.parameters, b.parameters),
    ):
        if one or other:
            parts.append(Part(title, _words(_shown(one), _shown(other))))
    return parts


def identical(parts: Sequence[Part]) -> bool:
    return all(part.kind == "same" for part in parts)


def _pairs(a: Sequence[Message], b: Sequence[Message]) -> list[tuple[Message | None, Message | None]]:
    """Messages that stand for each other; None where one has no counterpart."""
    found: list[tuple[Message | None, Message | None]] = []
    matcher = SequenceMatcher(None, [_key(one) for one in a], [_key(one) for one in b], autojunk=False)
    for _, a0, a1, b0, b1 in matcher.get_opcodes():
        both = min(a1 - a0, b1 - b0)
        found += list(zip(a[a0 : a0 + both], b[b0 : b0 + both], strict=True))
        found += [(one, None) for one in a[a0 + both : a1]]
        found += [(None, one) for one in b[b0 + both : b1]]
    return found


def _part(a: Message | None, b: Message | None) -> Part:
    roles = [str(one["role"]) for one in (a, b) if one is not None]
    title = roles[0] if len(set(roles)) == 1 else " → ".join(roles)
    if a is None or b is None:
        text = "".join(text_of(one) for one in (a, b) if one is not None)
        pieces = (Piece("new" if a is None else "gone", text),) if text else ()
        return Part(title, Difference(pieces))
    return Part(title, _words(text_of(a), text_of(b)))


def _words(a: str, b: str) -> Difference:
    return differences.compare(differences.words(a), differences.words(b))


def text_of(message: Message) -> str:
    """A message as a person reads it: its text, then whatever else it has as JSON."""
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    if not isinstance(content, str) and content is not None:
        more = {"content": content} | more
    text = content if isinstance(content, str) else ""
    return f"{text}\n\n{dumped(more)}".strip("\n") if more else text


def dumped(value: Any) -> str:
    """As forms and differences show it."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def _shown(value: Any) -> str:
    if not value:
        return ""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {json.dumps(value[name], ensure_ascii=False)}" for name in sorted(value))
    return "\n".join(_variable(one) for one in value)


def _variable(one: Mapping[str, Any]) -> str:
    """A variable in a line, its keys in one order."""
    parts = [f"{one['name']}: {one['type']}"]
    for name in ("choices", "default", "description"):
        if one.get(name) not in (None, ""):
            parts.append(f"{name} {json.dumps(one[name], ensure_ascii=False)}")
    return ", ".join(parts)


def _key(message: Message) -> str:
    """What two messages have in common that say the same: see `key_order`."""
    return json.dumps({name: message[name] for name in sorted(message)})


# Putting together


def merge(base: Said, mine: Said, theirs: Said, name: str) -> Merged:
    """Both people's changes to `base`. `name`: what theirs is called, "v8"."""
    clashes: list[str] = []
    messages: list[Message] = []
    for one in _three(base.messages, mine.messages, theirs.messages, _key):
        if isinstance(one, Clash):
            messages += _messages(one, name, clashes)
        else:
            messages += one
    variables = _by_name(
        {one["name"]: one for one in base.variables},
        {one["name"]: one for one in mine.variables},
        {one["name"]: one for one in theirs.variables},
        name,
        "variable",
        clashes,
    )
    parameters = _by_name(base.parameters, mine.parameters, theirs.parameters, name, "parameter", clashes)
    return Merged(Said(messages, list(variables.values()), parameters), clashes)


@dataclass(frozen=True)
class Clash:
    """A run that both changed, each in another way."""

    base: Sequence[Any]
    mine: Sequence[Any]
    theirs: Sequence[Any]


def _three(
    base: Sequence[Any], mine: Sequence[Any], theirs: Sequence[Any], key: Any = lambda one: one
) -> list[Any]:
    """The runs of both sequences put together: a list each, or a Clash."""
    found: list[Any] = []
    at = (0, 0, 0)
    keys = [[key(one) for one in side] for side in (base, mine, theirs)]
    for start, length in [*_agreed(*keys), ((len(base), len(mine), len(theirs)), 0)]:
        sides = [side[a:b] for side, a, b in zip((base, mine, theirs), at, start, strict=True)]
        known = [side[a:b] for side, a, b in zip(keys, at, start, strict=True)]
        if known[1] == known[2] or known[0] == known[2]:
            found.append(list(sides[1]))
        elif known[0] == known[1]:
            found.append(list(sides[2]))
        else:
            found.append(Clash(*sides))
        found.append(list(base[start[0] : start[0] + length]))
        at = (start[0] + length, start[1] + length, start[2] + length)
    return found


def _agreed(base: list[Any], mine: list[Any], theirs: list[Any]) -> list[tuple[tuple[int, int, int], int]]:
    """Runs of `base` that stand in both others: where in each, and how long."""
    in_mine = SequenceMatcher(None, base, mine, autojunk=False).get_matching_blocks()
    in_theirs = SequenceMatcher(None, base, theirs, autojunk=False).get_matching_blocks()
    found: list[tuple[tuple[int, int, int], int]] = []
    i = j = 0
    while i < len(in_mine) and j < len(in_theirs):
        a, b = in_mine[i], in_theirs[j]
        start, end = max(a.a, b.a), min(a.a + a.size, b.a + b.size)
        if start < end:
            found.append(((start, a.b + start - a.a, b.b + start - b.a), end - start))
        if a.a + a.size < b.a + b.size:
            i += 1
        else:
            j += 1
    return found


def _messages(clash: Clash, name: str, clashes: list[str]) -> list[Message]:
    """Messages both changed: put together by word where they stand for each other, else all of them."""
    if len(clash.base) == len(clash.mine) == len(clash.theirs):
        return [
            one
            for trio in zip(clash.base, clash.mine, clash.theirs, strict=True)
            for one in _message(*trio, name, clashes)
        ]
    clashes.append(f"Messages were added or removed by both: yours stand first, then those of {name}.")
    known = {_key(one) for one in clash.mine}
    return [*clash.mine, *(one for one in clash.theirs if _key(one) not in known)]


def _message(base: Message, mine: Message, theirs: Message, name: str, clashes: list[str]) -> list[Message]:
    if _key(mine) in (_key(base), _key(theirs)):
        return [theirs]
    if _key(theirs) == _key(base):
        return [mine]
    rest = [{**one, "content": ""} for one in (base, mine, theirs)]
    texts = [one.get("content") for one in (base, mine, theirs)]
    if len({_key(one) for one in rest}) > 1 or not all(isinstance(text, str) for text in texts):
        clashes.append(f"A message of {mine['role']} was changed by both: yours stands first, then {name}'s.")
        return [mine, theirs]
    text, clashed = merge_text(str(texts[0]), str(texts[1]), str(texts[2]), name)
    if clashed:
        clashes.append(f"The same words of a message of {mine['role']} were changed by both: see the marks.")
    return [{**mine, "content": text}]


def merge_text(base: str, mine: str, theirs: str, name: str) -> tuple[str, bool]:
    """Both changes to a text, by word, and whether some clash: then both stand between marks.

    By line where there are too many words, whole where there are too many of the same lines.
    """
    runs = next(
        filter(None, (_runs(cut, (base, mine, theirs)) for cut in (differences.words, _lines, _whole)))
    )
    clashed = any(isinstance(run, Clash) for run in runs)
    return "".join(_marked(run, name) if isinstance(run, Clash) else "".join(run) for run in runs), clashed


def _lines(text: str) -> Sequence[str]:
    return text.splitlines(keepends=True)


def _whole(text: str) -> Sequence[str]:
    return [text]


def _runs(cut: Callable[[str], Sequence[str]], texts: Sequence[str]) -> list[Any] | None:
    """What `_three` makes of the texts cut so; None where that takes too long."""
    sides = [cut(text) for text in texts]
    shortest = min(map(len, sides))
    head = next((at for at in range(shortest) if len({side[at] for side in sides}) > 1), shortest)
    left = shortest - head
    tail = next((at for at in range(left) if len({side[-1 - at] for side in sides}) > 1), left)
    base, mine, theirs = (list(side[head : len(side) - tail]) for side in sides)
    if max(_alike(base, mine), _alike(base, theirs)) > ALIKE:
        return None
    return [list(sides[0][:head]), *_three(base, mine, theirs), list(sides[0][len(sides[0]) - tail :])]


def _alike(a: Sequence[str], b: Sequence[str]) -> int:
    """How many pairs of equal parts there are, each of which is looked at more than once."""
    there = Counter(b)
    return sum(count * there[part] for part, count in Counter(a).items())


def _marked(clash: Clash, name: str) -> str:
    mine, theirs = "".join(clash.mine), "".join(clash.theirs)
    return f"\n{OURS}\n{mine}\n{BETWEEN}\n{theirs}\n{THEIRS}{name}\n"


def _by_name(
    base: Mapping[str, Any],
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    name: str,
    what: str,
    clashes: list[str],
) -> dict[str, Any]:
    """Values by name: whoever changed one has it; where both did, mine stays and it is told."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys([*mine, *theirs]):
        was, own, other = base.get(key), mine.get(key), theirs.get(key)
        value = other if _same(own, was) else own
        if not (_same(own, was) or _same(other, was) or _same(other, own)):
            clashes.append(f"The {what} {key} was changed by both: yours is kept, {name} has {brief(other)}.")
            value = own if own is not None else other
        if value is not None:
            found[key] = value
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return key_order.same(a, b)
    return bool(key_order.ordered(a) == key_order.ordered(b))


def brief(value: Any) -> str:
    """A value in a line."""
    text = "removed it" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"
