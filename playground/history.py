"""What a model is told before it answers: what opens the conversation, and what was said that led here."""

from typing import Any

from playground import opening, pictures
from playground.models import Generation, Turn


def messages(generation: Generation, *, sees: bool = True) -> list[dict[str, Any]]:
    """OpenAI messages of the request behind `generation`. Turns that never got an answer are left out.

    Pictures are named, see `pictures`; a model that does not see is told the text alone. PromptRefused where
    the conversation's prompt of the library lacks a value.
    """
    said = opening.messages(generation.turn.conversation, generation.column.system_prompt)
    for earlier in _before(generation):
        said.append({"role": "user", "content": _content(earlier.turn, sees)})
        said.append({"role": "assistant", "content": earlier.text})
    return [*said, {"role": "user", "content": _content(generation.turn, sees)}]


def _content(turn: Turn, sees: bool) -> str | list[dict[str, Any]]:
    keys = turn.inputs.get("images") if sees else None
    return [{"type": "text", "text": turn.text}, *pictures.parts(keys)] if keys else turn.text


def before(turn: Turn) -> list[Generation]:
    """The answers that those to `turn` went on from, in the order of their columns."""
    continued = Generation.objects.filter(pk__in=turn.generations.values("previous"))
    return list(continued.order_by("column__closed", "column__position", "pk"))


def _before(generation: Generation) -> list[Generation]:
    """The answers whose history `generation` continues, first one first."""
    at: int | None = generation.previous_id
    if at is None:
        return []
    rows = Generation.objects.filter(turn__conversation_id=generation.turn.conversation_id)
    known = {
        row.pk: row
        for row in rows.select_related("turn").only("text", "previous_id", "turn__text", "turn__inputs")
    }
    way: list[Generation] = []
    while at is not None and (row := known.pop(at, None)):
        if row.text:
            way.append(row)
        at = row.previous_id
    return way[::-1]
