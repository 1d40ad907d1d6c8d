"""What a public link shows of a conversation: plain values, chosen one by one. Addresses walk its branches.

Nothing of the team beyond it: no names of people, nodes, files or deployments, no addresses, and no words of
an engine's or a machine's own error, which may hold any of them. Who answered a blind message stays hidden,
whoever has voted, and so do its figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import Length

from playground import (
    asking,
    columns,
    comparison,
    endings,
    opening,
    pictures,
    results,
    shared,
    summaries,
    thread,
    together,
    votes,
    widgets,
)
from playground.figures import figures
from playground.models import Column, Conversation, Generation, Image, User
from playground.prompt_texts import PromptRefused

# Whoever has the link: nobody, who never voted.
NOBODY = User(pk=0)

ENDS = {
    Generation.State.FAILED: "The engine gave no answer.",
    Generation.State.INTERRUPTED: "It was interrupted. What had come is kept.",
}


def conversation(row: Conversation, point: thread.Point | None = None) -> dict[str, Any]:
    """A branch, the newest for None: columns with what they were asked, messages, answers, figures, sums."""
    open_columns = comparison.shown(row)
    places = {column.pk: place for place, column in enumerate(open_columns, 1)}
    shown = thread.show(row, point)
    known = pictures.of_turns(turn.turn for turn in shown.turns)
    hidden = votes.hidden_of(row, (turn.turn for turn in shown.turns), NOBODY)
    summed = summaries.of(row, shown, hidden, places)
    return {
        "title": row.title,
        "task": row.task,
        "generates": row.task in widgets.GENERATES,
        "columns": [_column(one) for one in columns.headings(open_columns)],
        "turns": [_turn(turn, places, known, turn.turn.pk in hidden) for turn in shown.turns],
        **summed,
        # None of answers that are hidden: there is nothing to add up.
        "summed": summed["several"] and any(one.answers or one.left_out for one in summed["sums"].values()),
        "point": point.query if point else "",
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
    # Which column is best is a run's word.
    runs = row.measurements.aggregate(Max("pk"), Max("job__ended_at"))
    words = [
        *said,
        runs,
        list(columns_),
        row.parameters,
        list(row.columns.values_list("parameters", flat=True)),
    ]
    return shared.mark(words)


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
        "parameters": shared.pairs(asking.parameters_of(heading.column)),
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
    words = [shared.message(one) for one in found]
    return [one | {"role": "System prompt" if one["role"] in opening.LEADS else one["role"]} for one in words]


def _turn(
    turn: thread.ShownTurn, places: Mapping[int, int], known: Mapping[int, Image], hidden: bool
) -> dict[str, Any]:
    images = [known[key] for key in turn.turn.inputs.get("images", []) if key in known]
    answers = [one.generation for one in turn.answers]
    several = len(places) > 1
    beside = len(answers) > 1 and not hidden
    return {
        "place": turn.place,
        "text": turn.turn.text,
        "query": turn.turn.inputs.get("query", ""),
        "images": [{"pk": one.pk, "width": one.width, "height": one.height} for one in images],
        "hidden": hidden,
        "waits": hidden and any(one.state in Generation.LIVE for one in answers),
        "answers": _veiled(turn, answers)
        if hidden
        else [_answer(one, places, several=several) for one in turn.answers],
        "differences": summaries.differences(turn, places) if beside else [],
        "beside": together.timed(answers, places, named=False) if beside else "",
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


def _answer(answer: thread.ShownAnswer, places: Mapping[int, int], *, several: bool) -> dict[str, Any]:
    row = answer.generation
    live = row.state in Generation.LIVE
    timed = row.timings.get("e2e") is not None and not live
    return {
        "place": answer.place,
        "several": several,
        "at": places.get(row.column_id, 1),
        "gone": row.column_id not in places,
        "state": row.state,
        "live": live,
        "text": row.text,
        "reasoning": row.reasoning,
        "end": _end(row),
        "figures": figures(row) if timed else None,
        "bars": endings.bars(row) if timed else [],
        "ignored": row.effective.get("ignored") or [],
        "widget": None if live else results.shown(row),
    }


def _end(row: Generation) -> str:
    """How it ended where that is not plain, in words of ours alone."""
    if row.state == Generation.State.STOPPED:
        return "Stopped."
    if row.state == Generation.State.COMPLETE and row.finish_reason == "length":
        return "Cut off: it reached its longest length."
    return ENDS.get(Generation.State(row.state), "")
