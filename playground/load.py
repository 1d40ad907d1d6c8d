"""Load runs: a conversation's columns asked at chosen levels, one column after another, in the background.

A run is a Measurement whose job runs in a process of its own. One thread there only measures; the other
writes what came, shows how far it is, and ends the first when the job is to end.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from django.db import transaction

from playground import (
    admission,
    asking,
    dataset_prompts,
    deployments,
    engines,
    jobs,
    load_form,
    load_report,
    measured_use,
    thread,
)
from playground.answers import Question
from playground.asking import Taken
from playground.engine_client import EngineError
from playground.figures import figures
from playground.load_form import RUN_S, Estimate, LoadRefused, Prompt, Wanted
from playground.load_measuring import Came, Ended, Measuring, Place, Told, in_thread
from playground.models import (
    Column,
    Conversation,
    Generation,
    Job,
    Measurement,
    Node,
    Replica,
    RowsTaken,
    Sample,
    User,
)
from playground.work import JobFailed, Work

LOOK_S = 0.2
USE_S = 5.0
BLIND = "This conversation is blind: figures would tell who answers. Turn that off, then measure."


# Asking for a run


def message(conversation: Conversation) -> str:
    """The last message that the conversation shows; "" where there is none."""
    turn = thread.show(conversation).parent
    return turn.text if turn else ""


def wanted(conversation: Conversation, typed: Mapping[str, str]) -> Wanted:
    """The run that `typed` asks for; a dataset may be one of the conversation's team. LoadRefused."""

    def dataset(key: str) -> tuple[str, tuple[Prompt, ...]]:
        found = dataset_prompts.given(conversation.team, key, load_form.REQUESTS, single=False)
        return found.name, found.prompts

    return load_form.read(typed, message(conversation), dataset)


def expected(conversation: Conversation, wanted: Wanted) -> Estimate | None:
    """How long such a run takes, by earlier answers; None while no column is ready."""
    ready = [column for column in columns(conversation) if replicas_of(column)]
    return _taking(ready, wanted) if ready else None


def _taking(ready: Sequence[Column], wanted: Wanted) -> Estimate:
    return load_form.estimate(wanted, [answer_s(column, wanted.max_tokens) for column in ready])


def request(conversation: Conversation, wanted: Wanted, user: User) -> Measurement:
    """A run over the columns that are ready now, begun. LoadRefused where none is, or a run still goes on."""
    if conversation.blind:
        raise LoadRefused({"": BLIND})
    if conversation.measurements.filter(job__state__in=Job.ACTIVE).exists():
        raise LoadRefused({"": "A run of this conversation is still going: wait for it, or cancel it."})
    ready = [(column, replicas) for column in columns(conversation) if (replicas := replicas_of(column))]
    if not ready:
        raise LoadRefused({"": "None of the columns is ready. Start one, then measure."})
    node = ready[0][1][0].node
    assert node is not None, "a ready replica is on a node"
    taking = _taking([column for column, _ in ready], wanted)
    if taking.too_long:
        raise LoadRefused({"levels": too_long(taking)})
    described = [described_column(column, replicas) for column, replicas in ready]
    with transaction.atomic():
        try:
            admission.take_rows(conversation.team, user, len(ready) * wanted.asked_each, RowsTaken.What.LOAD)
        except admission.QuotaReached as reached:
            raise LoadRefused({"levels": str(reached)}) from reached
        row = Measurement.objects.create(
            team=conversation.team,
            created_by=user,
            conversation=conversation,
            kind=Measurement.Kind.LOAD,
            settings={**wanted.kept(), "columns": described, "node": node.name},
        )
    return _begun(row, node, user)


def _begun(row: Measurement, node: Node, user: User) -> Measurement:
    arguments = {"measurement": row.pk}
    target = f"measurement:{row.pk}"
    row.job = jobs.request(Job.Kind.MEASURE_LOAD, node, target, arguments, row.team, user)
    row.save(update_fields=["job"])
    return row


def columns(conversation: Conversation) -> list[Column]:
    """Those that can be measured: what streams its answers."""
    return asking.columns_of(conversation) if conversation.task in ("chat", "completion") else []


def replicas_of(column: Column) -> list[Replica]:
    """What answers in a column now."""
    return deployments.ready_replicas(column.deployment) if column.deployment else []


def described_column(column: Column, replicas: list[Replica]) -> dict[str, Any]:
    """What a column was when it was measured, as a run keeps it: rows change, runs do not."""
    deployment = column.deployment
    assert deployment is not None, "a column with replicas has a deployment"
    adapter = engines.get(deployment.engine)
    configuration = deployment.configuration
    return {
        "pk": column.pk,
        "name": f"{deployment.name}: {column.adapter}" if column.adapter else deployment.name,
        "engine": adapter.title,
        "version": configuration.environment.version if configuration else "",
        "replicas": len(replicas),
        "hardware": sorted({name for replica in replicas for name in hardware(replica)}),
        "length": [name for name in ("ignore_eos", "min_tokens") if name in fixing(deployment.engine, 1)],
    }


def hardware(replica: Replica) -> list[str]:
    """What it computes on: "gpu-1, GPU 0", or the processor of its node."""
    node = replica.node.name if replica.node else "n/a"
    gpus = [f"{node}, GPU {gpu['index']}" for gpu in replica.resources.get("gpus", [])]
    return gpus or [f"{node}, processor"]


def fixing(engine: str, tokens: int) -> dict[str, Any]:
    """What makes `engine` answer with exactly `tokens`, beside max_tokens; empty where it cannot."""
    quirks = engines.get(engine).quirks
    wanted = {"ignore_eos": True, "min_tokens": tokens}
    return {
        name: value
        for name, value in wanted.items()
        if name not in quirks.ignored and name not in quirks.refused
    }


def answer_s(column: Column, tokens: int) -> float | None:
    """About how long so many tokens take there, by the column's last whole answer; None without one."""
    rows = column.generations.filter(state=Generation.State.COMPLETE, configuration=_configuration(column))
    last = rows.defer("vectors").order_by("-pk").first()
    found = figures(last) if last else None
    if found is None or found.ttft is None or found.tpot is None:
        return None
    return (found.ttft + found.tpot * (tokens - 1)) / 1000


def _configuration(column: Column) -> Any:
    return column.deployment.configuration if column.deployment else None


def too_long(taking: Estimate) -> str:
    """Why a run that needs so long is not begun."""
    minutes = (taking.least or 0) / 60
    return (
        f"This would take at least {minutes:.0f} min, and a run ends after {RUN_S / 60:.0f}: "
        "take fewer levels, fewer requests or seconds a level, or a higher rate."
    )


def under(run: Measurement, limits: Mapping[str, float | None]) -> dict[str, Any]:
    """What a run found, its goodput by other limits: reckoned from its samples anew."""
    stated = load_report.limits_of(limits)
    requests: dict[tuple[int | None, int], list[load_report.Request]] = defaultdict(list)
    for one in run.samples.iterator():
        found = load_report.request(taken(one), one.scheduled_ms, one.sent_ms or 0.0)
        requests[one.column_id, one.round].append(found)
    rows = []
    for row in run.result.get("rows", []):
        anew = load_report.row(requests[row["column"], row["level"]], stated)
        rows.append({**row, "good": anew["good"], "goodput": anew["goodput"]})
    return {**run.result, "rows": rows}


def taken(one: Sample) -> Taken:
    """A sample as what was taken of the engine."""
    return Taken(one.state, 0.0, usage=one.usage, timings=one.timings)


# The job


def run(work: Work) -> dict[str, Any]:
    """Measure. Taken up again it starts anew: figures of two halves would not be of one run."""
    row = Measurement.objects.select_related("conversation").get(pk=work.job.arguments["measurement"])
    row.samples.all().delete()
    Measurement.objects.filter(pk=row.pk).update(result={})
    wanted = Wanted.of(row.settings)
    places, left = _places(row, wanted)
    keeper = Keeper(row, wanted, {str(pk): why for pk, why in left.items()}, len(places))
    if not places:
        raise JobFailed("No column was ready any more. " + " ".join(left.values()))
    came: SimpleQueue[Told] = SimpleQueue()
    try:
        with in_thread(Measuring(wanted, places, came.put)) as measuring:
            while measuring.is_alive():
                measuring.join(LOOK_S)
                keeper.keep(came)
                keeper.use(places)
                work.progress(*keeper.progress(), unit="requests")
    finally:
        keeper.keep(came)
    return {"requests": keeper.done}


def _places(row: Measurement, wanted: Wanted) -> tuple[list[Place], dict[int, str]]:
    """The columns of the run that are still ready, and why others are not."""
    found, left = [], {}
    by_pk = {column.pk: column for column in columns(row.conversation)}
    for one in row.settings["columns"]:
        column = by_pk.get(one["pk"])
        replicas = replicas_of(column) if column else []
        if column is None or not replicas:
            left[one["pk"]] = f"{one['name']} was not ready when its turn came."
            continue
        try:
            questions = [(replica, _questions(column, replica, wanted)) for replica in replicas]
            found.append(Place(column, one["name"], questions))
        except EngineError as problem:
            left[one["pk"]] = problem.text
    return found, left


def _questions(column: Column, replica: Replica, wanted: Wanted) -> list[Question]:
    """Each prompt for `column`, with the length of its answer."""
    parameters = asking.parameters_of(column) | {"max_tokens": wanted.max_tokens}
    parameters.pop("max_completion_tokens", None)
    if wanted.fixed:
        parameters |= fixing(replica.deployment.engine, wanted.max_tokens)
    return [
        asking.question(column, replica, _messages(column, prompt), parameters) for prompt in wanted.prompts
    ]


def _messages(column: Column, prompt: Prompt) -> list[dict[str, Any]]:
    return asking.prompt_of(column, prompt) if isinstance(prompt, str) else prompt


class Keeper:
    """Writes what came, in groups, and the figures of each level as it ends."""

    def __init__(self, row: Measurement, wanted: Wanted, left: dict[str, str], places: int) -> None:
        self.row, self.wanted = row, wanted
        self.limits = load_report.limits_of(wanted.limits)
        self.result: dict[str, Any] = {"rows": [], "left": left}
        self.requests: list[load_report.Request] = []
        self.done = 0
        self.total = places * wanted.timed_each
        self.step = "warming up"
        self.used_at = -USE_S

    def keep(self, came: "SimpleQueue[Told]") -> None:
        """Take in all that came since."""
        samples, asked, changed = [], [], False
        while True:
            try:
                told = came.get_nowait()
            except Empty:
                break
            if not isinstance(told, Ended):
                asked.append((told.replica, told.taken))
            if isinstance(told, Came):
                samples.append(self._sample(told))
            elif isinstance(told, Ended):
                self._end(told)
                changed = True
        if samples:
            Sample.objects.bulk_create(samples)
        measured_use.keep(self.row, asked)
        if changed:
            Measurement.objects.filter(pk=self.row.pk).update(result=self.result)

    def _sample(self, told: Came) -> Sample:
        level, taken = self.wanted.levels[told.level], told.taken
        self.requests.append(load_report.request(taken, told.scheduled_ms, told.sent_ms))
        self.done += 1
        self.step = f"{told.place.name[:80]}, {level.words}"
        return Sample(
            measurement=self.row,
            column=told.place.column,
            configuration_id=told.replica.configuration_id,
            replica=told.replica,
            arm="open" if level.open else "closed",
            level=level.value,
            round=told.level,
            prompt=told.prompt,
            scheduled_ms=told.scheduled_ms,
            sent_ms=told.sent_ms,
            state=taken.state,
            error=taken.error,
            finish_reason=taken.finish_reason,
            usage=dict(taken.usage),
            timings=dict(taken.timings),
        )

    def _end(self, told: Ended) -> None:
        level = self.wanted.levels[told.level]
        self.result["rows"].append(
            {
                "column": told.place.column.pk,
                "level": told.level,
                "open": level.open,
                "value": level.value,
                **load_report.row(self.requests, self.limits),
            }
        )
        self.requests = []
        if told.why:
            self.result["left"][str(told.place.column.pk)] = told.why

    def use(self, places: list[Place]) -> None:
        """None of the columns idles, not even one whose turn is still to come."""
        if time.monotonic() < self.used_at + USE_S:
            return
        self.used_at = time.monotonic()
        for place in places:
            if place.column.deployment:
                deployments.touch(place.column.deployment)

    def progress(self) -> tuple[str, int, int]:
        return self.step, self.done, max(self.total, self.done)
