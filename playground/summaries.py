"""A conversation's columns over all that is shown of it: their sums, which of them is best, charts."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from playground import beside, charts, noise, sums, thread
from playground.models import Conversation, Generation


def places(conversation: Conversation) -> dict[int, int]:
    """Column → where it stands, counted from one."""
    there = conversation.columns.filter(closed=False).values_list("pk", flat=True)
    return {pk: place for place, pk in enumerate(there, 1)}


def of(
    conversation: Conversation, shown: thread.Shown, hidden: Collection[int], there: Mapping[int, int]
) -> dict[str, Any]:
    """What the partial `sums` of columns.html shows, without the turns whose answers are `hidden`.

    `there`: its `places`.
    """
    seen = replace(shown, turns=tuple(turn for turn in shown.turns if turn.turn.pk not in hidden))
    return {
        "sums": sums.of(seen, there),
        "best": _best(conversation, there),
        "charts": charts.of(seen, there),
        "several": len(there) > 1,
    }


def _best(conversation: Conversation, there: Mapping[int, int]) -> dict[str, int | None]:
    """Metric → where the column stands that is faster than every other one, outside the noise floor."""
    found = noise.floor_of(conversation) if len(there) > 1 else None
    return {metric: there.get(column) if column else None for metric, column in (found or {}).items()}


def differences(turn: thread.ShownTurn, there: Mapping[int, int]) -> list[str]:
    """A line for each answer beside the first, once all have ended."""
    answers = [answer.generation for answer in turn.answers if answer.generation.column_id in there]
    if len(answers) < 2 or any(answer.state in Generation.LIVE for answer in answers):
        return []
    return beside.lines(answers, [str(there[answer.column_id]) for answer in answers])
