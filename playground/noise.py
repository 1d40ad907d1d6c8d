"""The noise floor: each column asked against itself and against the others, interleaved, as a job.

Owns Measurements of kind "noise": what may be asked for, and the run. What came of it: `noise_report`.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import IntegrityError, transaction

from playground import (
    admission,
    asking,
    async_work,
    deployments,
    jobs,
    measured_use,
    noise_order,
    noise_report,
    nudges,
    subjects,
    widgets,
)
from playground.asking import Taken
from playground.engine_client import EngineError
from playground.models import (
    Column,
    Conversation,
    Job,
    Measurement,
    Replica,
    RowsTaken,
    Sample,
    Turn,
    User,
)
from playground.orm import orm
from playground.work import JobFailed, Work

PROMPTS, ROUNDS, AT_ONCE, TOKENS = 200, 50, 32, 4096
CACHES = ("warm", "cold")
# How often an answer that this process timed late is asked for anew.
AGAIN = 2


class NoiseRefused(Exception):
    """This run may not be asked for; the text says why."""


@dataclass(frozen=True)
class Wanted:
    """What a person chose. `only`: the prompt is that of `turn`, and pairs are rounds.

    `dataset`: what the prompts are of, in words.
    """

    prompts: tuple[str, ...]
    rounds: int = 1
    at_once: int = 1
    cache: str = "warm"
    max_tokens: int = 64
    only: bool = False
    dataset: str = ""

    @property
    def pairs(self) -> int:
        """How many pairs each comparison has at most."""
        return self.rounds if len(self.prompts) == 1 else len(self.prompts)

    def asked(self, columns: int) -> int:
        """How many requests it sends: with those that warm up, without answers asked anew."""
        return columns + self.requests(columns) * (2 if self.cache == "warm" else 1)

    def requests(self, columns: int) -> int:
        """How many timed answers the run takes."""
        return 2 * columns * len(self.prompts) * self.rounds


# Asking for a run


def request(conversation: Conversation, wanted: Wanted, user: User | None, turn: Turn | None) -> Measurement:
    """The run as rows, its job asked for. NoiseRefused where a column cannot be measured now."""
    if conversation.task not in widgets.GENERATES:
        raise NoiseRefused("Only answers that are text, written token by token, are measured here.")
    with transaction.atomic():
        Conversation.objects.select_for_update().get(pk=conversation.pk)
        if active(conversation):
            raise NoiseRefused("A run of this conversation is not over yet: wait for it, or cancel it.")
        columns = asking.columns_of(conversation)
        try:
            chosen = subjects.ready(columns)
        except subjects.NotReady as problem:
            raise NoiseRefused(str(problem)) from problem
        try:
            rows = wanted.asked(len(columns))
            admission.take_rows(conversation.team, user, rows, RowsTaken.What.NOISE)
        except admission.QuotaReached as reached:
            raise NoiseRefused(str(reached)) from reached
        measurement = Measurement.objects.create(
            team=conversation.team,
            created_by=user,
            conversation=conversation,
            turn=turn,
            kind=Measurement.Kind.NOISE,
            settings={
                **asdict(wanted),
                "seed": secrets.randbelow(2**31),
                "columns": [subjects.described(column, chosen[column.pk]) for column in columns],
                "shared": subjects.share_hardware(list(chosen.values())),
            },
        )
        measurement.job = _job(measurement, chosen[columns[0].pk][0], user)
        measurement.save(update_fields=["job"])
    return measurement


def _job(measurement: Measurement, first: Replica, user: User | None) -> Job:
    """The job beside the first column's engine; its node is told once the rows are there."""
    node = first.node
    assert node is not None
    target, arguments = f"measurement:{measurement.pk}", {"measurement": measurement.pk}
    kind, queue = Job.Kind.MEASURE_NOISE, f"node.{node.name}"
    job = jobs.request(kind, node, target, arguments, measurement.team, user, nudge=False)
    transaction.on_commit(lambda: nudges.send("playground.start_job", job.pk, queue=queue))
    return job


def active(conversation: Conversation) -> Measurement | None:
    """The run that is not over."""
    rows = conversation.measurements.filter(kind=Measurement.Kind.NOISE, job__state__in=Job.ACTIVE)
    return rows.select_related("job").first()


def floor_of(conversation: Conversation) -> dict[str, int | None] | None:
    """Who is faster than every other column, outside the noise: {"ttft": pk, "tpot": pk, "e2e": pk}.

    By the newest finished run; a metric without such a column has None. None altogether without a run, or
    where the columns are not any more those that it measured.
    """
    rows = conversation.measurements.filter(kind=Measurement.Kind.NOISE, job__state=Job.State.DONE)
    newest = rows.first()
    if newest is None or not subjects.same(newest.settings["columns"], asking.columns_of(conversation)):
        return None
    keys = [column["pk"] for column in newest.settings["columns"]]
    best = noise_report.best(newest.result, len(keys))
    return {metric: None if place is None else keys[place] for metric, place in best.items()}


# The run


def run(work: Work) -> dict[str, Any]:
    """The job's work: asks, keeps every answer as it comes, says what they allow to be said.

    Begun again after its runner died, it starts anew.
    """
    measurement = (
        Measurement.objects.select_related("conversation")
        .filter(pk=work.job.arguments["measurement"])
        .first()
    )
    if measurement is None:
        raise JobFailed("Its conversation was deleted.")
    measurement.samples.all().delete()
    try:
        asking_all = _Run(measurement, work)
        try:
            async_work.run(work, asking_all.ask_all())
        finally:
            asking_all.keep_taken()
    except IntegrityError as problem:
        raise JobFailed("Its conversation, or a column of it, was deleted while it ran.") from problem
    work.progress("comparing")
    result = noise_report.evaluate(measurement)
    Measurement.objects.filter(pk=measurement.pk).update(result=result)
    return {"answers": sum(column["answers"] for column in result["columns"])}


class _Run:
    """One run while its answers come."""

    def __init__(self, measurement: Measurement, work: Work) -> None:
        self.measurement, self.work = measurement, work
        chosen = measurement.settings
        self.wanted = Wanted(**{name: chosen[name] for name in Wanted.__dataclass_fields__})
        self.seed: int = chosen["seed"]
        self.columns = [_column(measurement.conversation, one) for one in chosen["columns"]]
        self.total = self.wanted.requests(len(self.columns))
        self.done = self.place = 0
        self.taken: list[tuple[Replica, Taken]] = []
        self.begun = time.monotonic()

    async def ask_all(self) -> None:
        """Slot after slot: one column at a time, as many requests at once as were chosen."""
        for column in range(len(self.columns)):
            await orm(self.work.progress, "warming up")
            await self._ask(column, noise_order.Unit(0, 0), self.wanted.max_tokens)
        wanted = self.wanted
        order = noise_order.slots(
            len(self.columns), len(wanted.prompts), wanted.rounds, wanted.at_once, self.seed
        )
        self.begun = time.monotonic()
        for slot in order:
            await self._take(slot)

    async def _take(self, slot: noise_order.Slot) -> None:
        """The answers of one slot, kept. One that was timed late is asked anew; several at once are not."""
        for attempt in range(1 + AGAIN):
            samples = await self._answers(slot)
            late = any(one.timings.get("lagged") and not one.error for one in samples)
            again = late and self.wanted.at_once == 1 and attempt < AGAIN
            await orm(self._keep, samples, slot.column, 0 if again else len(samples))
            if not again:
                return

    async def _answers(self, slot: noise_order.Slot) -> list[Sample]:
        """For warm caches each prompt goes ahead, untimed."""
        if self.wanted.cache == "warm":
            await self._at_once(slot, 1)
        taken = await self._at_once(slot, self.wanted.max_tokens)
        return [
            self._sample(slot, unit, replica, one)
            for unit, (replica, one) in zip(slot.units, taken, strict=True)
        ]

    async def _at_once(self, slot: noise_order.Slot, tokens: int) -> list[tuple[Replica, Taken]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(slot.column, unit, tokens)) for unit in slot.units]
        return [task.result() for task in tasks]

    async def _ask(self, place: int, unit: noise_order.Unit, tokens: int) -> tuple[Replica, Taken]:
        column, replicas = self.columns[place]
        replica = replicas[(unit.prompt + unit.round) % len(replicas)]
        messages = asking.prompt_of(column, self.wanted.prompts[unit.prompt])
        if self.measurement.conversation.task == "completion":
            messages = messages[-1:]  # What it goes on with is all that it is given.
        if self.wanted.cache == "cold":
            messages = noise_order.salted(messages, noise_order.salt(self.seed, self.place))
            self.place += 1
        try:
            question = await orm(asking.question, column, replica, messages, _limited(column, tokens))
        except EngineError as problem:
            return replica, Taken("failed", time.monotonic(), error=problem.text)
        taken = await asking.ask(question)
        self.taken.append((replica, taken))
        return replica, taken

    def _sample(
        self, slot: noise_order.Slot, unit: noise_order.Unit, replica: Replica, taken: Taken
    ) -> Sample:
        column, _ = self.columns[slot.column]
        return Sample(
            measurement=self.measurement,
            column=column,
            configuration_id=replica.configuration_id,
            replica=replica,
            arm=slot.arm,
            round=unit.round,
            prompt=unit.prompt,
            sent_ms=round((taken.sent_at - self.begun) * 1000, 2),
            state=taken.state,
            # Both in one: a model that thinks past the limit has said nothing else.
            text=taken.reasoning + taken.text,
            error=taken.error,
            finish_reason=taken.finish_reason,
            usage=dict(taken.usage),
            timings=dict(taken.timings),
        )

    def keep_taken(self) -> None:
        """Record as usage what was asked since."""
        taken, self.taken = self.taken, []
        measured_use.keep(self.measurement, taken)

    def _keep(self, samples: Sequence[Sample], place: int, done: int) -> None:
        Sample.objects.bulk_create(samples)
        self.keep_taken()
        self.done += done
        column, _ = self.columns[place]
        if column.deployment:
            deployments.touch(column.deployment)
        self.work.progress("asking", self.done, self.total, "answers")


def _column(conversation: Conversation, told: Mapping[str, Any]) -> tuple[Column, list[Replica]]:
    """A column and its replicas as they were when the run was asked for; JobFailed where they are gone."""
    column = next((one for one in asking.columns_of(conversation) if one.pk == told["pk"]), None)
    rows = Replica.objects.filter(pk__in=told["replicas"], state=Replica.State.READY)
    replicas = list(rows.select_related("node", "deployment", "configuration").order_by("pk"))
    if column is None or column.deployment is None or subjects.described(column, replicas) != told:
        raise JobFailed(
            f"{told['name']} was changed, stopped or closed before the run began: ask for a new one."
        )
    return column, replicas


def _limited(column: Column, tokens: int) -> dict[str, Any]:
    """The column's parameters, at most so many tokens long."""
    kept = {k: v for k, v in asking.parameters_of(column).items() if k != "max_completion_tokens"}
    return {**kept, "max_tokens": tokens}
