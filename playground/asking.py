"""A column asked outside its conversation, timed as its answers are: for runs that measure.

Knows no pages and keeps no rows; what came is for the caller to keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground import leases, opening
from playground.answers import Answer, Question, checked
from playground.engine_client import EngineError
from playground.feeds import Feed
from playground.figures import Figures, figures
from playground.models import Column, Conversation, Generation, Replica
from playground.prompt_texts import PromptRefused


@dataclass(frozen=True)
class Taken:
    """One answer, or why there is none: as a Generation. `sent_at`: seconds on the monotonic clock."""

    state: str
    sent_at: float
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    error: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> Figures:
        return figures(self)


def parameters_of(column: Column) -> dict[str, Any]:
    """What the column's answers are sampled by: its own parameters, else the conversation's."""
    own: dict[str, Any] | None = column.parameters
    shared: dict[str, Any] = column.conversation.parameters
    return shared if own is None else own


def system_prompt_of(column: Column) -> str:
    """The column's own system prompt, else the conversation's."""
    shared: str = column.conversation.system_prompt
    return shared if column.system_prompt is None else column.system_prompt


def prompt_of(column: Column, text: str) -> list[dict[str, Any]]:
    """The messages that ask `text` anew, without what was said before."""
    try:
        first = opening.messages(column.conversation, column.system_prompt)
    except PromptRefused as problem:
        raise EngineError("bad_request", f"The prompt cannot be filled in: {problem}") from problem
    return [*first, {"role": "user", "content": text}]


def question(
    column: Column,
    replica: Replica,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any] | None = None,
) -> Question:
    """What to ask `replica` for `column`, with its own parameters unless others are given.

    EngineError where it cannot be reached.
    """
    asked: dict[str, Any] = {"messages": list(messages)}
    if column.conversation.task == "completion":
        asked = {"prompt": str(messages[-1]["content"])}
    chosen = parameters_of(column) if parameters is None else parameters
    return Question(leases.target_of(column, replica), asked, chosen, column.conversation.task)


async def ask(asked: Question, more: Mapping[str, Any] | None = None) -> Taken:
    """The whole answer, read as it streams and timed by this process. `more` goes into the body as it is.

    Cancelled, the engine stops. Never raises EngineError: what went wrong is in `error`.
    """
    answer = Answer(Feed(0), lambda _: None)
    state, error = str(Generation.State.COMPLETE), ""
    try:
        await answer.ask(asked, {**checked(asked), **(more or {})})
    except EngineError as problem:
        state, error = str(Generation.State.FAILED), problem.text
    return Taken(
        state,
        answer.sent_at,
        answer.feed.content,
        answer.feed.reasoning,
        answer.finish_reason,
        error,
        answer.usage,
        answer.timings(),
    )


def columns_of(conversation: Conversation) -> list[Column]:
    """Its open columns in order, each with its conversation and deployment at hand."""
    rows = conversation.columns.filter(closed=False).select_related(
        "conversation__prompt_version", "deployment__model", "deployment__configuration__environment"
    )
    return list(rows)
