"""Background runs over a conversation's columns: the noise floor, load, one after another."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from django.db.models import QuerySet
from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import load, load_form, load_report, noise, noise_form, thread
from playground import runs as measured
from playground.api import run_shapes
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, Window, cut, fetch, paged
from playground.api.conversations import writable
from playground.api.routes import Routes
from playground.api.run_shapes import LoadFigures, RunShown, RunWhole, SampleShown
from playground.api.shapes import Page
from playground.asking import columns_of
from playground.models import Conversation, Measurement, Sample, Turn

router = Routes(tags=["measured runs"])
Kind = Measurement.Kind
Text = Annotated[str, Field(max_length=noise_form.CHARACTERS, pattern=r"\S")]
VERSION = "A dataset version's id: its rows are the prompts."


class NoiseWanted(Given):
    """Prompts, or a dataset's, or neither: the last message that the conversation shows."""

    prompts: list[Text] = Field([], max_length=noise.PROMPTS)
    version: int | None = Field(None, ge=1, le=BIGGEST, description=VERSION)
    rounds: int | None = Field(
        None, ge=1, le=noise.ROUNDS, description="Absent: 1, or 12 of a single prompt."
    )
    at_once: int = Field(1, ge=1, le=noise.AT_ONCE)
    cache: Literal["warm", "cold"] = "warm"
    max_tokens: int = Field(64, ge=1, le=noise.TOKENS)

    def typed(self) -> noise_form.Typed:
        what = "list" if self.prompts else "dataset" if self.version else "only"
        prompts = "\n".join(noise_form.line(one) for one in self.prompts)
        rounds = "" if self.rounds is None else str(self.rounds)
        numbers = (rounds, str(self.at_once), self.cache, str(self.max_tokens))
        return noise_form.Typed(what, prompts, str(self.version or ""), *numbers)


class Limits(Given):
    """What a good request keeps, in milliseconds; null: no limit."""

    ttft: float | None = Field(None, gt=0, le=load_form.LIMIT_MS)
    tpot: float | None = Field(None, gt=0, le=load_form.LIMIT_MS)
    e2e: float | None = Field(None, gt=0, le=load_form.LIMIT_MS)


class LoadWanted(Given):
    """Prompts, or a dataset's, or neither: the last message that the conversation shows."""

    levels: list[str] = Field(
        min_length=1, max_length=load_form.LEVELS, description="4: so many at once. 0.5/s: so many a second."
    )
    requests: int = Field(20, ge=1, le=load_form.REQUESTS, description="Of each level.")
    seconds: float | None = Field(
        None, gt=0, le=load_form.RUN_S, description="How long a level sends at most."
    )
    max_tokens: int = Field(64, ge=1, le=load_form.TOKENS)
    warm_up: int = Field(2, ge=0, le=load_form.WARM_UP)
    seed: int = Field(1, ge=0, le=2**31 - 1)
    fixed: bool = Field(True, description="Answers of exactly that length, where the engine can.")
    limits: Limits | None = None
    prompts: list[str | list[dict[str, Any]]] = Field(
        [], max_length=load_form.REQUESTS, description="Texts, or lists of messages."
    )
    version: int | None = Field(None, ge=1, le=BIGGEST, description=VERSION)

    def typed(self) -> dict[str, str]:
        """As the form has it, which judges both."""
        numbers = self.dict(include={"requests", "max_tokens", "warm_up", "seed"})
        limits = {name: _exact(getattr(self.limits, name, None)) for name in Limits.model_fields}
        lines = [json.dumps({_kind(one): one}, ensure_ascii=False) for one in self.prompts]
        source = "prompts" if self.prompts else "dataset" if self.version else "message"
        told = {name: str(value) for name, value in numbers.items()} | limits
        told |= {"levels": ", ".join(self.levels), "seconds": _exact(self.seconds), "source": source}
        told |= {"prompts": "\n".join(lines), "dataset": str(self.version or "")}
        return load_form.DEFAULTS | told | {"fixed": "on" if self.fixed else ""}


class NoiseEstimate(Schema):
    """What a run takes."""

    requests: int
    pairs: int
    seconds: float | None = Field(description="By earlier answers; null: nothing to go by.")


class LoadEstimate(Schema):
    """Seconds that a run takes at least, and at most if the engine answers one after another."""

    least: float | None
    most: float | None
    too_long: bool


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _kind(prompt: str | list[dict[str, Any]]) -> str:
    return "prompt" if isinstance(prompt, str) else "messages"


@router.reads("/conversations/{pk}/runs", Page[RunShown], of=Conversation)
def listing(
    request: Request, pk: int, window: Query[Window], kind: Literal["noise", "load", "plan"] | None = None
) -> Any:
    """Its runs without their figures, newest first."""
    row = fetch(request, _conversations(), pk)
    return paged(measured.of(row, kind), window, run_shapes.run)


@router.reads("/runs/{pk}", RunWhole, of=Measurement)
def read(request: Request, pk: int) -> Any:
    """One run: how far it is, what was asked for, its figures."""
    return run_shapes.whole(_run(request, pk))


@router.writes("POST", "/runs/{pk}/cancel", RunWhole, needs="chat", of=Measurement)
def cancel(request: Request, pk: int) -> Any:
    """End it. What a load run found stays; from a part of a noise run nothing is concluded."""
    row = _run(request, pk, "chat")
    if not measured.cancel(row, request.auth.user):
        raise Problem(409, "conflict", "It had ended already.")
    return run_shapes.whole(_run(request, pk))


# Noise


@router.writes("POST", "/conversations/{pk}/noise", RunWhole, needs="chat", of=Conversation, status=201)
def noise_start(request: Request, pk: int, given: NoiseWanted) -> Any:
    """Ask each column against itself and the others. Read the run until it is done."""
    row = fetch(request, _conversations(), pk, "chat")
    wanted = _noise(row, given)
    made = noise.request(row, wanted, request.auth.user, _turn(row) if wanted.only else None)
    return run_shapes.whole(_run(request, made.pk))


@router.writes("POST", "/conversations/{pk}/noise/estimate", NoiseEstimate, needs="view", of=Conversation)
def noise_estimate(request: Request, pk: int, given: NoiseWanted) -> Any:
    """What such a run takes. Changes nothing."""
    row = fetch(request, _conversations(), pk)
    return noise_form.shown(_noise(row, given), columns_of(row))


def _noise(row: Conversation, given: NoiseWanted) -> noise.Wanted:
    _require_one_source(given)
    turn = _turn(row)
    try:
        return noise_form.read(given.typed(), None, turn.text.strip() if turn else "", row.team)
    except noise_form.BadForm as problem:
        raise noise_form.BadForm(_named(problem.fields)) from problem


# Load


@router.writes("POST", "/conversations/{pk}/load", RunWhole, needs="chat", of=Conversation, status=201)
def load_start(request: Request, pk: int, given: LoadWanted) -> Any:
    """Ask the ready columns, one after another, at each level. Read the run as it goes on."""
    row = writable(request, pk)
    made = load.request(row, _load(row, given), request.auth.user)
    return run_shapes.whole(_run(request, made.pk))


@router.writes("POST", "/conversations/{pk}/load/estimate", LoadEstimate, needs="view", of=Conversation)
def load_estimate(request: Request, pk: int, given: LoadWanted) -> Any:
    """How long such a run takes, by earlier answers. Changes nothing."""
    row = fetch(request, _conversations(), pk)
    return load.expected(row, _load(row, given)) or load_form.Estimate(None, None)


@router.reads("/runs/{pk}/goodput", LoadFigures, of=Measurement)
def goodput(request: Request, pk: int, limits: Query[Limits]) -> Any:
    """A load run's figures by other limits than it was begun with, from its requests."""
    row = _of_load(_run(request, pk))
    stated = limits.dict()
    return run_shapes.load({**row.settings, "limits": stated}, load.under(row, stated))


@router.reads("/runs/{pk}/samples", Page[SampleShown], of=Measurement)
def samples(request: Request, pk: int, window: Query[Window]) -> Any:
    """Every request of a load run in the order they came; `after` is a request's id."""
    row = _of_load(_run(request, pk))
    if row.conversation.blind:
        raise Http404("the conversation is blind, and figures would tell who answers")
    found = row.samples.select_related("configuration").order_by("pk")
    found = found.filter(pk__gt=window.after) if window.after else found
    return cut(list(found[: window.limit + 1]), window, _sample)


def _of_load(row: Measurement) -> Measurement:
    if row.kind != Kind.LOAD:
        raise Http404("no such load run")
    return row


def _sample(one: Sample) -> dict[str, Any]:
    found = load_report.request(load.taken(one), one.scheduled_ms, one.sent_ms or 0.0)
    level = load_form.Level(one.arm == "open", one.level or 0.0)
    names = ("id", "scheduled_ms", "state", "usage", "finish_reason", "error")
    return {name: getattr(one, name) for name in names} | {
        "column": one.column_id,
        "configuration": one.configuration.digest if one.configuration else None,
        "level": level.label,
        "prompt": one.prompt + 1,
        "sent_ms": found.sent_ms,
        "ttft": found.ttft,
        "tpot": found.tpot,
        "e2e": found.e2e,
        "late": found.late,
    }


def _load(row: Conversation, given: LoadWanted) -> load_form.Wanted:
    _require_one_source(given)
    try:
        return load.wanted(row, given.typed())
    except load_form.LoadRefused as problem:
        raise load_form.LoadRefused(_named(problem.fields)) from problem


# Both


def _require_one_source(given: NoiseWanted | LoadWanted) -> None:
    if given.prompts and given.version is not None:
        raise Problem(422, "invalid", "Give prompts or a dataset's version, not both.", "version")


def _named(fields: dict[str, str]) -> dict[str, str]:
    """By the names that the operation has for what the form calls otherwise."""
    names = {"what": "prompts", "source": "prompts", "dataset": "version"}
    return {names.get(name, name): text for name, text in fields.items()}


def _turn(row: Conversation) -> Turn | None:
    """The last message that the conversation shows."""
    return thread.show(row).parent


def _conversations() -> QuerySet[Conversation]:
    return Conversation.objects.select_related("team", "created_by")


def _run(request: Request, pk: int, needs: str = "view") -> Measurement:
    """One of the caller's, whose conversation they see."""
    rows = Measurement.objects.select_related("team", "created_by", "job")
    row = fetch(request, rows, pk, needs)
    row.conversation = fetch(request, _conversations(), row.conversation_id)
    return row


def refused(problem: load_form.LoadRefused) -> int:
    """Of what is wrong in the input, or in how things stand."""
    return 422 if any(problem.fields) else 409


REFUSED: dict[type[Exception], int | Callable[[Any], int]] = {
    noise_form.BadForm: 422,
    noise.NoiseRefused: 409,
    load_form.LoadRefused: refused,
}
