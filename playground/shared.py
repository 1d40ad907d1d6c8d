"""What a public link shows of a conversation, a batch or a prompt: plain values, chosen one by one.

Nothing of the team beyond the object: no keys, no addresses, no names of people, nodes, files or deployments,
no costs, and no words of an engine's or a machine's own error, which may hold any of them. Who answered a
blind message stays hidden, whoever has voted.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import Length

from playground import (
    asking,
    batch_report,
    batch_row,
    batch_table,
    columns,
    comparison,
    engines,
    opening,
    pictures,
    results,
    score_tables,
    score_words,
    scoring,
    thread,
    votes,
    widgets,
)
from playground.figures import figures
from playground.models import (
    Batch,
    BatchColumn,
    Column,
    Conversation,
    DatasetRow,
    Generation,
    Image,
    Prompt,
    PromptVersion,
    User,
)
from playground.prompt_texts import PromptRefused

# Whoever has the link: nobody, who never voted.
NOBODY = User(pk=0)

ENDS = {
    Generation.State.FAILED: "The engine gave no answer.",
    Generation.State.INTERRUPTED: "It was interrupted. What had come is kept.",
}
SPREADS = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E"))


# A conversation


def conversation(row: Conversation) -> dict[str, Any]:
    """Its newest branch: columns with what they were asked with, messages, answers and their figures."""
    open_columns = comparison.shown(row)
    places = {column.pk: place for place, column in enumerate(open_columns, 1)}
    shown = thread.show(row)
    known = pictures.of_turns(turn.turn for turn in shown.turns)
    hidden = votes.hidden_of(row, (turn.turn for turn in shown.turns), NOBODY)
    return {
        "title": row.title,
        "task": row.task,
        "generates": row.task in widgets.GENERATES,
        "columns": [_column(one) for one in columns.headings(open_columns)],
        "turns": [_turn(turn, places, known, turn.turn.pk in hidden) for turn in shown.turns],
        "live": bool(shown.live),
        "seen": mark(row),
    }


def mark(row: Conversation) -> str:
    """What changes whenever what is shown does; a few counts, whatever the conversation's length."""
    live = Q(state__in=Generation.LIVE)
    answers = Generation.objects.filter(turn__conversation=row).aggregate(
        newest=Max("pk"),
        ended=Max("ended_at"),
        live=Count("pk", filter=live),
        letters=Sum(Length("text") + Length("reasoning"), filter=live),
    )
    columns_ = row.columns.values_list("pk", "closed", "position", "deployment", "adapter", "system_prompt")
    opened = [row.prompt_version_id, row.prompt_values]
    said = [row.title, row.system_prompt, opened, row.blind, row.turns.aggregate(Max("pk")), answers]
    words = [*said, list(columns_), row.parameters, list(row.columns.values_list("parameters", flat=True))]
    return _mark(words)


def picture(row: Conversation, pk: int) -> Image | None:
    """A picture that was sent with one of its messages."""
    return row.images.filter(pk=pk, sent=True).first()


def _column(heading: columns.Heading) -> dict[str, Any]:
    model = heading.deployment.model if heading.deployment else None
    return {
        "at": heading.at,
        "engine": heading.engine,
        "version": heading.version,
        "model": model.name if model else "",
        "adapter": heading.column.adapter,
        "dtype": heading.dtype,
        "differs": [word for word in heading.differs if "/" not in word and "\\" not in word],
        "opening": _opening(heading.column),
        "parameters": _pairs(asking.parameters_of(heading.column)),
    }


def _opening(column: Column) -> list[dict[str, str]]:
    """What goes before the first message: the system prompt, and messages of the prompt it began with.

    Filled in; where a variable has no value that fits, the system prompt as it is written.
    """
    system = asking.system_prompt_of(column)
    try:
        found = opening.messages(column.conversation, system)
    except PromptRefused:
        found = [{"role": "system", "content": system}] if system else []
    words = [_message(one) for one in found]
    return [one | {"role": "System prompt" if one["role"] in opening.LEADS else one["role"]} for one in words]


def _pairs(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, ensure_ascii=False)) for name, value in parameters.items()]


def _turn(
    turn: thread.ShownTurn, places: Mapping[int, int], known: Mapping[int, Image], hidden: bool
) -> dict[str, Any]:
    images = [known[key] for key in turn.turn.inputs.get("images", []) if key in known]
    answers = [one.generation for one in turn.answers]
    return {
        "text": turn.turn.text,
        "query": turn.turn.inputs.get("query", ""),
        "images": [{"pk": one.pk, "width": one.width, "height": one.height} for one in images],
        "hidden": hidden,
        "waits": hidden and any(one.state in Generation.LIVE for one in answers),
        "answers": _veiled(turn, answers) if hidden else [_answer(one, places) for one in answers],
    }


def _veiled(turn: thread.ShownTurn, answers: Sequence[Generation]) -> list[dict[str, Any]]:
    """By letter, in an order that tells nothing; none before all are there, for who is first would tell."""
    if any(one.state in Generation.LIVE for one in answers):
        return []
    by_column = {one.column_id: one for one in answers}
    letters = votes.letters(turn.turn, NOBODY, by_column)
    return [
        {"letter": letter, "at": place, "text": by_column[column].text, "end": _end(by_column[column])}
        for place, (column, letter) in enumerate(letters.items(), 1)
    ]


def _answer(row: Generation, places: Mapping[int, int]) -> dict[str, Any]:
    live = row.state in Generation.LIVE
    return {
        "at": places.get(row.column_id, 1),
        "gone": row.column_id not in places,
        "state": row.state,
        "live": live,
        "text": row.text,
        "reasoning": row.reasoning,
        "end": _end(row),
        "figures": figures(row) if row.timings.get("e2e") is not None and not live else None,
        "widget": None if live else results.shown(row),
    }


def _end(row: Generation) -> str:
    """How it ended where that is not plain, in words of ours alone."""
    if row.state == Generation.State.STOPPED:
        return "Stopped."
    if row.state == Generation.State.COMPLETE and row.finish_reason == "length":
        return "Cut off: it reached its longest length."
    return ENDS.get(Generation.State(row.state), "")


# A batch


def batch(row: Batch, after: str) -> dict[str, Any]:
    """Progress, totals, scores, and one page of rows: those after the number `after`."""
    there = _columns(row)
    parts = batch_report.progress(row, there)
    totals, failed = batch_report.totals(there), batch_report.failed(there)
    found = batch_table.page(row, there, batch_table.Wanted(after=after[:20]))
    named = [_batch_column(place, one) for place, one in enumerate(there, 1)]
    spreads = [(title, [totals[one.pk].spreads.get(name) for one in there]) for name, title in SPREADS]
    return {
        "title": row.name,
        "state": row.get_state_display(),
        "rows": row.version.row_count,
        "parameters": _pairs(row.parameters),
        "columns": [
            (name, parts[one.pk], totals[one.pk], failed[one.pk])
            for name, one in zip(named, there, strict=True)
        ],
        "spreads": [(title, list(zip(named, lines, strict=True))) for title, lines in spreads],
        "percentiles": batch_report.PERCENTILES,
        "scores": _scores(row, there),
        "lines": found.lines,
        "names": named,
        "after": found.after,
        "first": not after,
        "live": row.state in Batch.OPEN,
        "seen": _mark([row.state, {pk: part.states for pk, part in parts.items()}, after]),
    }


def batch_line(row: Batch, number: int) -> dict[str, Any] | None:
    """One row whole; None where there is none."""
    asked = DatasetRow.objects.filter(version=row.version_id, number=number).first()
    if asked is None:
        return None
    there = _columns(row)
    answers = batch_row.answers(row, there, asked)
    named = [_batch_column(place, one) for place, one in enumerate(there, 1)]
    return {
        "title": row.name,
        "number": number,
        "asked": batch_row.said(asked.body),
        "answers": list(zip(named, answers, strict=True)),
        "before": number - 1,
        "next": number + 1 if number < row.version.row_count else 0,
    }


def _columns(row: Batch) -> list[BatchColumn]:
    return list(row.columns.select_related("deployment__model", "deployment__configuration__environment"))


def _batch_column(place: int, column: BatchColumn) -> dict[str, Any]:
    deployment, configuration = column.deployment, column.deployment.configuration
    return {
        "at": place,
        "engine": engines.get(deployment.engine).title,
        "version": configuration.environment.version if configuration else "",
        "model": deployment.model.name,
        "adapter": column.adapter,
    }


def _scores(row: Batch, there: Sequence[BatchColumn]) -> list[score_words.Shown]:
    live = scoring.scorers_of(row)
    if not live or not there:
        return []
    baseline, others = there[0], there[1:]
    pairs = score_tables.pair_sums(baseline, others) if others else {}
    return score_words.shown(live, there, baseline.pk, score_tables.sums(row, there), pairs)


# A prompt


def prompt(row: Prompt, number: int | None) -> dict[str, Any]:
    """One version, the newest for None: what it says, its variables and parameters; no other one."""
    version: PromptVersion | None = row.versions.filter(number=number or row.head).first()
    return {
        "title": row.name,
        "description": row.description,
        "number": version.number if version else None,
        "newest": number is None,
        "messages": [_message(one) for one in version.messages] if version else [],
        "variables": [_variable(one) for one in version.variables] if version else [],
        "parameters": _pairs(version.parameters) if version else [],
        "live": False,
        "seen": _mark([row.name, row.description, row.head, number]),
    }


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    """Its text; parts, and what stands beside the text, as JSON."""
    content = message.get("content")
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    text = content if isinstance(content, str) else "" if content is None else _dumped(content)
    return {"role": str(message.get("role", "")), "text": text, "more": _dumped(more) if more else ""}


def _variable(variable: Mapping[str, Any]) -> dict[str, Any]:
    default = variable.get("default")
    shown = default if isinstance(default, str) or default is None else _dumped(default)
    choices = ", ".join(str(one) for one in variable.get("choices") or [])
    return {**variable, "default": shown, "choices": choices}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _mark(words: Any) -> str:
    return hashlib.sha256(json.dumps(words, default=str, sort_keys=True).encode()).hexdigest()[:16]
