"""What the management API shows of background runs: noise floor, load, one after another.

Times are milliseconds unless their names end in `_s`; columns go by their ids.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ninja import Schema
from pydantic import Field

from playground import load_form, plan_progress
from playground.api.shapes import Row, owned
from playground.models import Measurement

Kind = Measurement.Kind


class MeasuredColumn(Schema):
    """A column as it was when the run was asked for."""

    column: int
    name: str
    engine: str


class RunShown(Row):
    """A background run over a conversation's columns."""

    conversation: int
    kind: str = Field(description="noise, load or plan.")
    job: int | None
    state: str = Field(description="Of its job: queued, running, done, failed, cancelled; ended without one.")
    progress: dict[str, Any] = Field(description='{"step", "done", "total", "unit"}, as far as it is known.')
    error: str
    columns: list[MeasuredColumn] = Field(description="Empty of a plan: its stages name them.")
    started_at: datetime | None
    ended_at: datetime | None


class NoiseColumn(Schema):
    """One column's answers by themselves; times and counts are medians."""

    column: int
    answers: int
    failed: int
    error: str
    lagged: int = Field(description="Timed late by this machine, and left out.")
    approximate: int
    rough: int
    starts: int
    ttft: float | None
    tpot: float | None
    e2e: float | None
    tokens: float | None
    prompt: float | None
    cached: float | None


class SpeedCompared(Schema):
    """One metric of two columns, or of one with itself (`a` is `b`). Under 10 pairs only `raw` shows."""

    metric: str
    a: int
    b: int
    n: int = Field(description="Pairs.")
    raw: list[list[float]]
    ratio: float | None = Field(None, description="b's time over a's, a geometric mean.")
    low: float | None = None
    high: float | None = None
    findable: float | None = Field(None, description="The smallest ratio above 1 that would have been found.")
    found: bool | None = None
    void: bool | None = Field(
        None, description="One of the two differs from itself: nothing is said of both."
    )


class TextsCompared(Schema):
    """How many prompts two columns answered differently, and each differently from itself."""

    a: int
    b: int
    n: int
    rounds: int
    differ: int
    self_a: int
    self_b: int
    found: bool | None


class NoiseFigures(Schema):
    """What a finished noise run allows to be said."""

    columns: list[NoiseColumn]
    speed: list[SpeedCompared]
    texts: list[TextsCompared] | None = Field(description="Null of cold caches: the prompts differ.")
    tests: int = Field(description="How many were decided together, at 1 %.")
    unit: str = Field(description="What a pair is: prompt or round.")


class Spread(Schema):
    """n, median and 95th percentile."""

    n: int
    p50: float | None
    p95: float | None


class LoadLevel(Schema):
    """One level of one column. Throughput and goodput are a second's."""

    column: int
    level: str = Field(description="4: so many at once; 0.5/s: so many a second.")
    offered: int
    completed: int
    failed: int
    unfinished: int
    good: int | None = Field(description="Within every limit; null without limits.")
    counted: int = Field(description="Of the window that throughput is taken over.")
    window_s: float | None
    tokens_s: float | None
    requests_s: float | None
    goodput: float | None
    tail_cut: bool
    ttft: Spread
    tpot: Spread
    e2e: Spread
    tokens_mean: float | None
    tokens_least: int | None
    tokens_most: int | None
    late: int = Field(description="Requests timed while this machine was late.")


class LoadFigures(Schema):
    """What a load run found so far."""

    levels: list[LoadLevel]
    left: dict[str, str] = Field(description="Why a column, by its id, was not measured to the end.")
    limits: dict[str, float | None]


class PlanColumn(Schema):
    """How far a column of a plan is."""

    column: int
    name: str
    state: str = Field(description="waits, now, done, failed or ended.")
    done: int
    stopped: int
    of: int
    why: str


class PlanStage(Schema):
    """What is stopped and started, by name, and who answers then."""

    stops: list[str]
    starts: list[str]
    columns: list[PlanColumn]


class PlanFigures(Schema):
    """How far a plan is."""

    stages: list[PlanStage]
    messages: list[int] = Field(description="Read their answers with the conversation's messages.")
    again: list[str] = Field(description="What was started again at its end.")


class RunWhole(RunShown):
    """With what was asked for and what it found; the figures of the kinds that it is not are null."""

    settings: dict[str, Any]
    noise: NoiseFigures | None = Field(description="Null until it is done.")
    load: LoadFigures | None
    plan: PlanFigures | None


class SampleShown(Schema):
    """One request of a load run. Of a rate TTFT and E2E count from the moment it was to be sent."""

    id: int
    column: int | None
    configuration: str | None
    level: str
    prompt: int = Field(description="Its place among the run's prompts, from 1.")
    scheduled_ms: float | None
    sent_ms: float
    state: str
    ttft: float | None
    tpot: float | None
    e2e: float | None
    usage: dict[str, Any]
    late: bool
    finish_reason: str
    error: str


def run(row: Measurement) -> dict[str, Any]:
    """A RunShown."""
    job = row.job
    columns = [
        {"column": one["pk"], "name": one["name"], "engine": one["engine"]}
        for one in row.settings.get("columns", [])
    ]
    return owned(row) | {
        "conversation": row.conversation_id,
        "kind": row.kind,
        "job": row.job_id,
        "state": job.state if job else "ended",
        "progress": job.progress if job else {},
        "error": job.error if job else "",
        "columns": columns,
        "started_at": job.started_at if job else None,
        "ended_at": job.ended_at if job else None,
    }


def whole(row: Measurement) -> dict[str, Any]:
    """A RunWhole."""
    told = run(row) | {"settings": row.settings, "noise": None, "load": None, "plan": None}
    if row.kind == Kind.NOISE and row.result:
        told["noise"] = noise(row.settings, row.result)
    elif row.kind == Kind.LOAD:
        told["load"] = load(row.settings, row.result)
    elif row.kind == Kind.PLAN and row.settings:
        told["plan"] = plan(row)
    return told


def noise(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """NoiseFigures: places become ids."""
    keys = [one["pk"] for one in settings["columns"]]
    texts = result["text"]
    return {
        "columns": [{"column": key, **one} for key, one in zip(keys, result["columns"], strict=True)],
        "speed": [_placed(one, keys) for one in result["speed"]],
        "texts": None if texts is None else [_placed(one, keys) for one in texts],
        "tests": result["tests"],
        "unit": result["unit"],
    }


def _placed(told: Mapping[str, Any], keys: list[int]) -> dict[str, Any]:
    return {**told, "a": keys[told["a"]], "b": keys[told["b"]]}


def load(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """LoadFigures."""
    levels = [load_form.Level(**one) for one in settings.get("levels", [])]
    rows = [{**one, "level": levels[one["level"]].label} for one in result.get("rows", [])]
    limits = {name: settings.get("limits", {}).get(name) for name in ("ttft", "tpot", "e2e")}
    return {"levels": rows, "left": result.get("left", {}), "limits": limits}


def plan(row: Measurement) -> dict[str, Any]:
    """PlanFigures."""
    found = plan_progress.of(row)
    return {
        "stages": [
            {"stops": stage.stops, "starts": stage.starts, "columns": [_column(one) for one in stage.columns]}
            for stage in found.stages
        ],
        "messages": row.settings["turns"],
        "again": found.again,
    }


def _column(one: plan_progress.ColumnProgress) -> dict[str, Any]:
    names = ("name", "state", "done", "stopped", "of", "why")
    return {"column": one.column.pk, **{name: getattr(one, name) for name in names}}
