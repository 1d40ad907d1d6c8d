"""A conversation as a file: JSON with everything, CSV with a line an answer, Markdown to read.

The document is plain values, its figures named as in README, "Figures". Keys never come into it: only rows
of the conversation are read, and requests are kept without headers.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from django.utils import timezone
from django.utils.text import slugify

from playground import asking, authors, comments, engines, figures, opening, pictures, thread, votes
from playground.models import Column, Comment, Conversation, Generation, Image, Turn, User
from playground.prompt_texts import PromptRefused

VERSION = 1
FORMATS = {"json": "application/json", "csv": "text/csv", "md": "text/markdown"}
# Name in the file → name of the figure. Milliseconds, seconds and counts, as the names say.
FIGURES = {
    "engine_ttft_ms": "ttft",
    "time_to_first_answer_token_ms": "first_answer",
    "e2e_ms": "e2e",
    "queue_ms": "queue",
    "n": "tokens",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "tpot_ms": "tpot",
    "tokens_per_s": "tokens_per_s",
    "characters_per_s": "characters_per_s",
    "chunk_gap_ms": "chunk_gap",
    "busy_replica_s": "busy_s",
    "busy_gpu_s": "gpu_s",
    "busy_cost_usd": "cost",
}
FLAGS = {
    "n_approximate": "approximate_tokens",
    "tpot_approximate": "approximate_tpot",
    "timed_late": "lagged",
}


class ExportRefused(Exception):
    """There is no file; the text says why."""


def document(conversation: Conversation, user: User, branch: thread.Shown | None) -> dict[str, Any]:
    """All of it as plain values; `branch` takes the messages and answers shown there alone.

    ExportRefused where it would tell `user` who answered a blind message they have not voted on.
    """
    turns = _of_branch(branch) if branch else _every(conversation)
    _require_seen(conversation, [turn for turn, _ in turns], user)
    columns = _columns(conversation)
    places = {column.pk: place for place, column in enumerate(columns, 1)}
    known = pictures.of_turns(turn for turn, _ in turns)
    said = comments.of_answers(answer.pk for _, answers in turns for answer in answers)
    return {
        "slipway_export": VERSION,
        "exported_at": timezone.now().isoformat(),
        "whole": branch is None,
        "conversation": _conversation(conversation),
        "columns": [_column(column, places[column.pk]) for column in columns],
        "turns": [_turn(turn, answers, places, known, said) for turn, answers in turns],
    }


def name(conversation: Conversation, kind: str) -> str:
    """What the file is called: "capital-cities-12.json"."""
    return f"{slugify(conversation.title)[:60].strip('-') or 'conversation'}-{conversation.pk}.{kind}"


def _require_seen(conversation: Conversation, turns: Sequence[Turn], user: User) -> None:
    unseen = votes.hidden_of(conversation, turns, user)
    if unseen:
        which = "A message" if len(unseen) == 1 else f"{len(unseen)} messages"
        raise ExportRefused(
            f"{which} here still wait{'s' if len(unseen) == 1 else ''} for your blind vote, and a file would "
            "name who answered. Vote first, or turn blind off."
        )


def _of_branch(branch: thread.Shown) -> list[tuple[Turn, list[Generation]]]:
    """The way shown, with the answers shown."""
    shown = [answer.generation.pk for turn in branch.turns for answer in turn.answers]
    rows = Generation.objects.defer("vectors").select_related(*authors.NEEDS).in_bulk(shown)
    return [
        (turn.turn, [rows[one.generation.pk] for one in turn.answers if one.generation.pk in rows])
        for turn in branch.turns
    ]


def _every(conversation: Conversation) -> list[tuple[Turn, list[Generation]]]:
    """Each message with all answers it ever had, in the order they were sent."""
    rows = Generation.objects.filter(turn__conversation=conversation).defer("vectors")
    rows = rows.select_related(*authors.NEEDS)
    answers: dict[int, list[Generation]] = defaultdict(list)
    for row in rows.order_by("column__position", "column", "pk"):
        answers[row.turn_id].append(row)
    return [(turn, answers[turn.pk]) for turn in conversation.turns.order_by("pk")]


def _columns(conversation: Conversation) -> list[Column]:
    rows = conversation.columns.select_related(
        "conversation", "deployment__model", "deployment__configuration__environment"
    )
    return sorted(rows, key=lambda column: (column.closed, column.position, column.pk))


def _conversation(row: Conversation) -> dict[str, Any]:
    return {
        "id": row.pk,
        "title": row.title,
        "task": row.task,
        "by": _person(row),
        "at": row.created_at.isoformat(),
        "system_prompt": row.system_prompt,
        "parameters": row.parameters,
        "together": row.together,
        "blind": row.blind,
        **_prompt(row),
    }


def _prompt(row: Conversation) -> dict[str, Any]:
    """The prompt of the library it opens with, whose variables the system prompt has in it."""
    version = row.prompt_version
    if version is None:
        return {}
    told = {"name": version.prompt.name, "version": version.number, "values": row.prompt_values}
    return {"prompt": told, "opening": _opening(row)}


def _opening(row: Conversation) -> list[dict[str, Any]] | None:
    """What goes before the first message, filled in; None where a value is missing."""
    try:
        return opening.messages(row)
    except PromptRefused:
        return None


def _column(column: Column, place: int) -> dict[str, Any]:
    """What answers there now; what answered then stands with each answer."""
    deployment = column.deployment
    configuration = deployment.configuration if deployment else None
    return {
        "column": place,
        "closed": column.closed,
        "deployment": deployment.name if deployment else None,
        "model": deployment.model.name if deployment else None,
        "engine": deployment.engine if deployment else None,
        "version": configuration.environment.version if configuration else None,
        "configuration": configuration.digest if configuration else None,
        "adapter": column.adapter or None,
        "parameters": asking.parameters_of(column),
        "system_prompt": asking.system_prompt_of(column),
    }


def _turn(
    turn: Turn,
    answers: Iterable[Generation],
    places: dict[int, int],
    known: dict[int, Image],
    said: dict[int, list[Comment]],
) -> dict[str, Any]:
    images = [known[key] for key in turn.inputs.get("images", []) if key in known]
    return {
        "id": turn.pk,
        "after": turn.parent_id,
        "by": _person(turn),
        "at": turn.created_at.isoformat(),
        "text": turn.text,
        "query": turn.inputs.get("query"),
        "pictures": [
            {"id": one.pk, "kind": one.kind, "width": one.width, "height": one.height} for one in images
        ],
        "blind": bool(turn.inputs.get("blind")),
        "answers": [
            _answer(answer, places) | {"comments": [_comment(one) for one in said.get(answer.pk, [])]}
            for answer in answers
        ],
    }


def _answer(row: Generation, places: dict[int, int]) -> dict[str, Any]:
    author, known = authors.of(row), figures.figures(row)
    configuration = author.configuration
    return {
        "id": row.pk,
        "column": places.get(row.column_id),
        "continues": row.previous_id,
        "state": row.state,
        "finish_reason": row.finish_reason or None,
        "error": row.error or None,
        "model": configuration.model.name if configuration else None,
        "engine": author.engine or None,
        "version": configuration.environment.version if configuration else None,
        "configuration": configuration.digest if configuration else None,
        "deployment": author.deployment or None,
        "adapter": author.adapter or None,
        "parameters": {key: value for key, value in row.request.items() if key not in NOT_PARAMETERS},
        "request": row.request,
        "text": row.text,
        "reasoning": row.reasoning,
        "result": row.result or None,
        "usage": row.usage,
        "timings": row.timings,
        "figures": {title: getattr(known, name) for title, name in (FIGURES | FLAGS).items()},
    }


def _comment(row: Comment) -> dict[str, Any]:
    return {
        "by": row.user.get_username() if row.user else None,
        "at": row.created_at.isoformat(),
        "edited_at": row.edited_at.isoformat() if row.edited_at else None,
        "text": row.text,
    }


NOT_PARAMETERS = {"model", "messages", "prompt", "input", "query", "documents", "stream", "stream_options"}


def engine(answer: dict[str, Any]) -> str:
    """In words: "vLLM 0.32.0"; empty where it is not known."""
    if not answer["engine"]:
        return ""
    return f"{engines.get(answer['engine']).title} {answer['version'] or ''}".strip()


def _person(row: Conversation | Turn) -> str | None:
    return row.created_by.get_username() if row.created_by else None
