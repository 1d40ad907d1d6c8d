"""The job that carries out a plan: stage by stage it makes room, starts, asks, and puts back what it stopped.

All it did is kept in the Measurement's `result` before it is done, so that a job taken up again goes on, and
one that ends early leaves nothing running that it started. Answers are written by the web processes.
"""

import time
from dataclasses import dataclass
from typing import Any

from playground import access, asking, conversations, deployments, leases
from playground.engines.base import ReasonCode
from playground.models import Column, Deployment, Generation, Job, Measurement, Replica, Turn
from playground.work import Interrupted, JobFailed, Work

LOOK_S = 0.5
# A node tells of memory that became free with its next heartbeats: until then no room is no reason.
ROOM_S = 30.0

State = Generation.State


def run(work: Work) -> dict[str, Any]:
    """Job: carry the plan out. However it ends, what it started is stopped and what it stopped is back."""
    plan = _Run(work, _measurement(work.job))
    try:
        return plan.go()
    except Interrupted:
        raise
    except BaseException:
        tidy(work.job)
        raise


def tidy(job: Job) -> None:
    """Stop what the plan asks and started, start again what it stopped. Wishes alone: waits for nothing."""
    row = _measurement(job)
    turns = row.settings.get("turns", [])
    for pk in Generation.objects.filter(turn__in=turns, state__in=Generation.LIVE).values_list(
        "pk", flat=True
    ):
        leases.ask_to_stop(pk)
    for deployment in _rows(row.result.get("started", [])):
        if deployment.desired == Deployment.Desired.RUNNING and not deployment.released:
            deployments.stop(deployment, job.created_by)
    if row.settings.get("again"):
        _start_again(row, job)
    conversations.tell(row.conversation)


def _start_again(row: Measurement, job: Job) -> list[str]:
    """Names of what is started again; what a person did with it meanwhile stays as they wished."""
    begun = []
    for deployment in _rows(row.result.get("stopped", [])):
        if deployment.desired == Deployment.Desired.STOPPED and not deployment.released:
            deployments.start(deployment, job.created_by)
            begun.append(deployment.name)
    return begun


def _measurement(job: Job) -> Measurement:
    rows = Measurement.objects.select_related("conversation", "team")
    return rows.get(pk=job.arguments["measurement"])


def _rows(keys: list[int]) -> list[Deployment]:
    rows = Deployment.objects.filter(pk__in=keys).exclude(desired=Deployment.Desired.DELETED)
    return list(rows.select_related("team"))


@dataclass
class _Run:
    """One attempt at a plan."""

    work: Work
    row: Measurement

    def go(self) -> dict[str, Any]:
        self._require_leave()
        began = time.monotonic()
        columns = {column.pk: column for column in asking.columns_of(self.row.conversation)}
        turns = list(Turn.objects.filter(pk__in=self.row.settings["turns"]).order_by("pk"))
        for deployment in _rows(self.row.settings.get("waits", [])):
            self._stop(deployment)
        for number, stage in enumerate(self.row.settings["stages"]):
            mine = [columns[key] for key in stage["columns"] if key in columns]
            if any(self._due(column, turn) for column in mine for turn in turns):
                self._stage(number, stage, mine, turns)
        begun = self._put_back()
        return {"answers": len(columns) * len(turns), "again": begun, "s": round(time.monotonic() - began, 1)}

    def _require_leave(self) -> None:
        user, team = self.work.job.created_by, self.row.team
        touches = any(stage["starts"] or stage["stops"] for stage in self.row.settings["stages"])
        if user is None or not access.can(user, "start" if touches else "chat", team):
            raise JobFailed("Whoever asked for this plan may not start and stop models here any more.")

    def _stage(self, number: int, stage: dict[str, Any], columns: list[Column], turns: list[Turn]) -> None:
        self._keep(stage=number)
        stops = _rows(stage["stops"])
        for deployment in stops:
            self._stop(deployment)
        self._until_gone(stops)
        needed = {column.deployment_id: column.deployment for column in columns}
        for needs in needed.values():
            if needs:
                self._start(needs)
        for column in columns:
            for place, turn in enumerate(turns, 1):
                name = column.deployment.name if column.deployment else "a column"
                self.work.progress(f"{name} answers", place, len(turns), "prompts")
                self._ask(column, turn)

    # Deployments

    def _stop(self, row: Deployment) -> None:
        """Stop it, and remember that it ran; refused for what serves an endpoint by now."""
        holds = row.replicas.filter(state__in=Replica.HOLDING).exists()
        if row.desired != Deployment.Desired.RUNNING:
            return
        if row.released:
            raise JobFailed(f"{row.name} serves an endpoint by now: it was not stopped, the plan ends here.")
        if holds and row.pk not in self._kept("started"):
            self._keep(stopped=sorted({*self._kept("stopped"), row.pk}))
        self.work.note(f"stop {row.name}")
        deployments.stop(row, self.work.job.created_by)

    def _until_gone(self, rows: list[Deployment]) -> None:
        """Wait until nothing of them holds its place any more."""
        held = Replica.objects.filter(deployment__in=rows, state__in=Replica.HOLDING)
        held = held.exclude(state=Replica.State.LOST)
        while names := sorted(set(held.values_list("deployment__name", flat=True))):
            self.work.progress(f"stopping {', '.join(names)}")
            self.work.wait(LOOK_S)

    def _start(self, row: Deployment) -> None:
        """Start it unless it runs, and wait until it is ready or will not be: its answers then say why."""
        row.refresh_from_db()
        if deployments.ready_replicas(row):
            return
        if row.desired != Deployment.Desired.RUNNING or row.problem:
            if row.released:
                return
            if row.pk not in self._kept("stopped"):
                self._keep(started=sorted({*self._kept("started"), row.pk}))
            self.work.note(f"start {row.name}")
            deployments.start(row, self.work.job.created_by)
        self._until_settled(row)

    def _until_settled(self, row: Deployment) -> None:
        without_room = 0.0
        while True:
            self.work.progress(f"starting {row.name}")
            row.refresh_from_db()
            if deployments.ready_replicas(row) or row.desired != Deployment.Desired.RUNNING:
                return
            if row.problem and (not _waits_for_room(row) or without_room > ROOM_S):
                return
            without_room = without_room + LOOK_S if row.problem else 0.0
            self.work.wait(LOOK_S)

    def _put_back(self) -> list[str]:
        """Stop what was started, then start again what ran before, unless that is not wanted."""
        started = [row for row in _rows(self._kept("started")) if not row.released]
        for deployment in started:
            self._stop(deployment)
        self._until_gone(started)
        return _start_again(self.row, self.work.job) if self.row.settings.get("again") else []

    # Answers

    def _due(self, column: Column, turn: Turn) -> bool:
        """Whether the column has no answer to it yet that ended by itself or by a person."""
        last = self._last(column, turn)
        return last is None or last.state in (*Generation.LIVE, State.INTERRUPTED)

    def _last(self, column: Column, turn: Turn) -> Generation | None:
        return turn.generations.filter(column=column).order_by("-pk").first()

    def _ask(self, column: Column, turn: Turn) -> None:
        """Have it answered, and wait for the answer's end. One under way is waited for."""
        if not self._due(column, turn):
            return
        last = self._last(column, turn)
        if last is None or last.state not in Generation.LIVE:
            last = leases.make(turn, column, self._previous(column, turn))
            conversations.tell(self.row.conversation)
        while Generation.objects.filter(pk=last.pk, state__in=Generation.LIVE).exists():
            self.work.wait(LOOK_S)
        self.work.note(f"answer {last.pk} of column {column.pk} to message {turn.pk} ended")

    def _previous(self, column: Column, turn: Turn) -> Generation | None:
        """Its own answer to the message before. The first message goes on from what stood there then."""
        if turn.parent is None:
            return None
        before = turn.parent.generations.order_by("-pk")
        own = before.filter(column=column).first()
        if turn.pk != self.row.settings["turns"][0]:
            return own
        stands = list(before.filter(pk__in=self.row.settings.get("stands", [])).order_by("pk"))
        mine = next((one for one in stands if one.column_id == column.pk), None)
        if mine is None and self.row.conversation.together and stands:
            return stands[0]
        return mine or own or next(iter(stands), None) or before.first()

    # What it did

    def _kept(self, name: str) -> list[int]:
        return list(self.row.result.get(name, []))

    def _keep(self, **values: Any) -> None:
        self.row.result = {**self.row.result, **values}
        Measurement.objects.filter(pk=self.row.pk).update(result=self.row.result)


def _waits_for_room(row: Deployment) -> bool:
    newest = row.replicas.order_by("-pk").first()
    waits = newest is not None and newest.state == Replica.State.PENDING
    return waits and newest is not None and newest.reason_code == ReasonCode.NO_ROOM
