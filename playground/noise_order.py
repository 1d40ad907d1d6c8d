"""In which order a noise run asks: interleaved, balanced, drawn from a seed. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ARMS = ("A1", "A2")
RANDOM_DIGITS, PLACE_DIGITS = 8, 6


@dataclass(frozen=True)
class Unit:
    """One prompt in one round, by their places."""

    prompt: int
    round: int


@dataclass(frozen=True)
class Slot:
    """What one column is asked at once, before the next one is: as many units as run at a time."""

    column: int
    arm: str
    units: tuple[Unit, ...]


def slots(columns: int, prompts: int, rounds: int, at_once: int, seed: int) -> Iterator[Slot]:
    """Every column twice with every prompt in every round.

    The columns go forth and back within a block (A B B A), so that a steady drift meets all alike; the next
    block begins where this one ended, and which of a column's two is called A1 changes every two blocks.
    """
    chance = random.Random(seed)
    order: list[int] = []
    for block, units in enumerate(_blocks(prompts, rounds, at_once, chance)):
        order = order[::-1] if block % 2 else chance.sample(range(columns), columns)
        arms = ARMS if block // 2 % 2 == 0 else ARMS[::-1]
        yield from (Slot(column, arms[0], units) for column in order)
        yield from (Slot(column, arms[1], units) for column in reversed(order))


def _blocks(prompts: int, rounds: int, at_once: int, chance: random.Random) -> Iterator[tuple[Unit, ...]]:
    units = [
        Unit(prompt, number) for number in range(rounds) for prompt in chance.sample(range(prompts), prompts)
    ]
    for start in range(0, len(units), at_once):
        yield tuple(units[start : start + at_once])


def salt(seed: int, place: int) -> str:
    """What stands in front of the request at `place` so that no prefix cache knows it.

    Single digits: nearly every tokenizer makes the same number of tokens of any of them.
    """
    drawn = random.Random(f"{seed}:{place}").randrange(10**RANDOM_DIGITS)
    return " ".join(f"{drawn:0{RANDOM_DIGITS}d}{place:0{PLACE_DIGITS}d}") + "\n\n"


def salted(messages: Sequence[dict[str, Any]], salt: str) -> list[dict[str, Any]]:
    """The messages with it in front of the first, whoever says that."""
    first, *rest = messages
    content = first["content"]
    if isinstance(content, list):
        return [{**first, "content": [{"type": "text", "text": salt}, *content]}, *rest]
    return [{**first, "content": salt + (content or "")}, *rest]
