"""How far a plan is, stage by stage, from its rows. Reads only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from playground import standing
from playground.models import Column, Deployment, Generation, Job, Measurement, Turn

State = Generation.State


@dataclass(frozen=True)
class ColumnProgress:
    """`state`: waits, now, done, failed, ended. `why`: what it failed by."""

    column: Column
    state: str
    done: int
    stopped: int
    of: int
    why: str = ""

    @property
    def name(self) -> str:
        return self.column.deployment.name if self.column.deployment else "no model"


@dataclass(frozen=True)
class StageProgress:
    stops: tuple[str, ...]
    starts: tuple[str, ...]
    columns: tuple[ColumnProgress, ...]


@dataclass(frozen=True)
class Progress:
    row: Measurement
    stages: tuple[StageProgress, ...]
    turns: tuple[tuple[Turn, bool], ...]
    """Each message, and whether every column asked has an answer to it: something to replay."""
    line: Mapping[str, Any] | None
    again: tuple[str, ...]

    @property
    def live(self) -> bool:
        return self.row.job is not None and self.row.job.state in Job.ACTIVE

    @property
    def failed(self) -> bool:
        return any(one.state == "failed" for stage in self.stages for one in stage.columns)

    @property
    def state(self) -> str:
        return str(self.row.job.state) if self.row.job else "ended"


def of(row: Measurement) -> Progress:
    """The plan's progress as its rows stand."""
    given = row.settings
    open_ones = Column.objects.filter(conversation=row.conversation_id, closed=False)
    columns = open_ones.select_related("deployment").in_bulk()
    names = _names(given)
    answers = _newest(given["turns"])
    stages = tuple(
        _stage(row, stage, number, columns, names, answers) for number, stage in enumerate(given["stages"])
    )
    asked = [key for stage in given["stages"] for key in stage["columns"] if key in columns]
    turns = Turn.objects.filter(pk__in=given["turns"]).order_by("pk")
    whole = tuple(
        (turn, all((turn.pk, key) in answers and answers[turn.pk, key].ended_at for key in asked))
        for turn in turns
    )
    line = standing.job_line(row.job) if row.job else None
    return Progress(row, stages, whole, line, tuple(row.job.result.get("again", []) if row.job else []))


def _names(given: Mapping[str, Any]) -> dict[int, str]:
    keys = {key for stage in given["stages"] for key in [*stage["stops"], *stage["starts"]]}
    return dict(Deployment.objects.filter(pk__in=keys).values_list("pk", "name"))


def _newest(turns: Iterable[int]) -> dict[tuple[int, int], Generation]:
    """The last answer of each column to each message."""
    rows = Generation.objects.filter(turn__in=list(turns)).defer("text", "reasoning", "vectors")
    return {(row.turn_id, row.column_id): row for row in rows.order_by("pk")}


def _stage(
    row: Measurement,
    stage: Mapping[str, Any],
    number: int,
    columns: Mapping[int, Column],
    names: Mapping[int, str],
    answers: Mapping[tuple[int, int], Generation],
) -> StageProgress:
    live = row.job is not None and row.job.state in Job.ACTIVE
    now = live and number == row.result.get("stage", -1)
    mine = [columns[key] for key in stage["columns"] if key in columns]
    return StageProgress(
        tuple(names[key] for key in stage["stops"] if key in names),
        tuple(names[key] for key in stage["starts"] if key in names),
        tuple(_column(column, row.settings["turns"], answers, live=live, now=now) for column in mine),
    )


def _column(
    column: Column,
    turns: Iterable[int],
    answers: Mapping[tuple[int, int], Generation],
    *,
    live: bool,
    now: bool,
) -> ColumnProgress:
    asked = list(turns)
    mine = [answers[turn, column.pk] for turn in asked if (turn, column.pk) in answers]
    ended = [one for one in mine if one.state not in Generation.LIVE]
    done = sum(one.state == State.COMPLETE for one in ended)
    stopped = sum(one.state == State.STOPPED for one in ended)
    failed = next((one for one in ended if one.state in (State.FAILED, State.INTERRUPTED)), None)
    if failed:
        state = "failed"
    elif len(ended) == len(asked):
        state = "done" if done == len(asked) else "ended"
    elif now:
        state = "now"
    else:
        state = "waits" if live else "ended"
    return ColumnProgress(column, state, done, stopped, len(asked), failed.error if failed else "")
