"""The answers of one turn beside each other: which are shown, how they are called, how two of them differ."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from playground import differences, divergence, looks, similarity, tokenised
from playground.differences import Difference, Parting, whole
from playground.looks import Look
from playground.margins import TIE_NATS, Divergence
from playground.models import Generation, Turn
from playground.similarity import Alike

WORD, TOKEN = "word", "token"


@dataclass(frozen=True)
class Beside:
    """One column's answer. `name` is how sentences call it: "vLLM", or "vLLM (column 2)" beside another."""

    place: int
    generation: Generation
    name: str
    label: str

    @property
    def column(self) -> int:
        return int(self.generation.column_id)

    @property
    def live(self) -> bool:
        return self.generation.state in Generation.LIVE


@dataclass(frozen=True)
class Compared:
    """Two answers and how they differ. `why`: why their texts name none; `note`: what was left out."""

    a: Beside
    b: Beside
    by: str
    difference: Difference
    parting: Parting | None = None
    why: str = ""
    note: str = ""
    divergence: Divergence | None = None
    alike: Alike | None = None

    @property
    def parts(self) -> bool:
        """Whether there is a divergence that can be named."""
        return self.parting is not None and not self.why


def answers(turn: Turn, wanted: Collection[int] = ()) -> list[Beside]:
    """The answer of each open column to `turn`: the one among `wanted`, else its newest."""
    rows = (
        turn.generations.filter(column__closed=False)
        .defer("vectors")
        .select_related(
            "column__deployment",
            "configuration__environment",
            "configuration__format",
            "configuration__model",
            "replica__deployment",
        )
    )
    newest: dict[int, Generation] = {}
    for row in rows.order_by("column__position", "column_id", "pk"):
        held = newest.get(row.column_id)
        if held is None or held.pk not in wanted:
            newest[row.column_id] = row
    columns = list(turn.conversation.columns.filter(closed=False).values_list("pk", flat=True))
    places = {pk: place for place, pk in enumerate(columns, 1)}
    found = [_beside(places[row.column_id], row) for row in newest.values() if row.column_id in places]
    return _told_apart(sorted(found, key=lambda one: one.place))


def _beside(place: int, row: Generation) -> Beside:
    title = tokenised.engine_title(row)
    deployment = row.column.deployment
    adapter = f": {row.column.adapter}" if row.column.adapter else ""
    label = f"{place} · {title}" + (f" · {deployment.name}{adapter}" if deployment else "")
    return Beside(place, row, title, label)


def _told_apart(found: list[Beside]) -> list[Beside]:
    titles = Counter(one.name for one in found)
    return [
        replace(one, name=f"{one.name} (column {one.place})") if titles[one.name] > 1 else one
        for one in found
    ]


def pair(found: Sequence[Beside], a: int | None, b: int | None) -> tuple[Beside, Beside] | None:
    """The two of those columns, else the first ones; None where there are not two."""
    if len(found) < 2:
        return None
    by_column = {one.column: one for one in found}
    first = by_column.get(a or 0) or next(one for one in found if one.column != b)
    second = by_column.get(b or 0)
    if second is None or second is first:
        second = next(one for one in found if one is not first)
    return first, second


async def compared(a: Beside, b: Beside, by: str, within: float = TIE_NATS) -> Compared:
    """How two answers differ by words, or by tokens, for which engines are asked to tell theirs."""
    texts = whole(a.generation), whole(b.generation)
    note = ""
    parts = None
    if by == TOKEN:
        parts, note = await _tokens(a, b, texts)
    difference, parting = await asyncio.to_thread(_worked_out, texts, parts)
    return Compared(
        a,
        b,
        TOKEN if parts else WORD,
        difference,
        parting,
        divergence.differ(a.generation, b.generation),
        note,
        divergence.kept(a.generation, b.generation, within),
    )


def _worked_out(
    texts: tuple[str, str], parts: tuple[list[str], list[str]] | None
) -> tuple[Difference, Parting | None]:
    """Long texts take most of a second, which nothing else is to wait for."""
    left, right = parts or (differences.words(texts[0]), differences.words(texts[1]))
    return differences.compare(left, right, apart=parts is not None), differences.parting(*texts)


async def _tokens(
    a: Beside, b: Beside, texts: tuple[str, str]
) -> tuple[tuple[list[str], list[str]] | None, str]:
    """Both texts by token, or why not: tokens unknown, or those of different tokenizers."""
    one, other = await asyncio.gather(
        tokenised.tokenised(a.generation, texts[0]), tokenised.tokenised(b.generation, texts[1])
    )
    if why := one.why or other.why:
        return None, f"n/a by token: {why} Shown by word."
    same = await tokenised.same_tokenizer(a.generation, b.generation, texts[0] or texts[1])
    if not same:
        return None, _other_tokenizers(texts)
    return (one.texts, other.texts), ""


def _other_tokenizers(texts: tuple[str, str]) -> str:
    at = differences.first_character(*texts)
    where = "" if at is None else f" The first character that differs is {at + 1:,}."
    return f"Their tokenizers differ, so they share no tokens to compare.{where} Shown by word."


async def measured(a: Beside, b: Beside) -> None:
    """Ask both engines again for the margins where the answers part; what they say is kept."""
    await divergence.measure(a.generation, b.generation, (a.name, b.name))


async def alike(a: Beside, b: Beside) -> Alike:
    team = a.generation.turn.conversation.team
    return await similarity.alike(team, whole(a.generation), whole(b.generation))


async def seen(found: Sequence[Beside]) -> list[Look]:
    """What each column's engine was really asked."""
    return list(await asyncio.gather(*(looks.seen(one.generation, one.name) for one in found)))


def lines(generations: Sequence[Generation], places: Sequence[str] = ()) -> list[str]:
    """`differences.line` of each answer beside the first, with the verdict where one was measured."""
    called = list(places) or [str(place) for place in range(1, len(generations) + 1)]
    return [
        _line(generations[0], other, (called[0], called[at])) for at, other in enumerate(generations[1:], 1)
    ]


def _line(a: Generation, b: Generation, names: tuple[str, str]) -> str:
    found = None if divergence.differ(a, b) else divergence.kept(a, b)
    if found is None or found.at is None:
        return differences.line(a, b, names)
    tokens = " / ".join(side.token for side in found.sides)
    verdict = {"tie": "a tie in both", "no tie": "no tie"}.get(found.verdict, found.verdict)
    return f"{names[0]}\u2013{names[1]} part at token {found.at} ({tokens}, {verdict})"
