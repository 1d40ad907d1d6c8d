"""A few rows of a dataset asked before a batch begins, to say how long all of it takes. Keeps nothing."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from playground import asking, batch_asking, deployments, leases, prompt_rows, spending
from playground.asking import Taken
from playground.batch_claims import Row
from playground.batch_estimate import Estimate
from playground.engine_client import EngineError
from playground.models import (
    BatchColumn,
    DatasetRow,
    DatasetVersion,
    Deployment,
    Generation,
    PromptVersion,
    Replica,
)
from playground.orm import orm
from playground.prompt_texts import PromptRefused

ROWS, AT_ONCE, MOST_S = 20, 4, 60.0


@dataclass(frozen=True)
class Trial:
    """`seconds`: from the first request to the last answer, AT_ONCE rows at a time."""

    asked: int
    answered: int
    seconds: float
    cost_each: float | None = None
    why: str = ""

    def of(self, rows: int) -> Estimate:
        """What it says of that many rows; nothing where no row was answered."""
        if not self.answered:
            return Estimate(source=self.why or "no trial row was answered in time")
        failed = self.asked - self.answered
        source = f"by {self.answered} trial rows, {AT_ONCE} at once" + (
            f"; {failed} failed" if failed else ""
        )
        cost = None if self.cost_each is None else self.cost_each * rows
        return Estimate(self.seconds / self.answered * rows, cost=cost, source=source)


@dataclass(frozen=True)
class _Ready:
    replica: Replica
    standing: batch_asking.Standing
    target: Any


async def run(
    version: DatasetVersion,
    deployment: Deployment,
    adapter: str,
    parameters: Mapping[str, Any],
    prompt: PromptVersion | None = None,
) -> Trial:
    """Ask ROWS rows from all over the file, filled into `prompt` where there is one.

    What is not answered after MOST_S is hung up on.
    """
    try:
        ready = await orm(_ready, deployment, adapter, parameters)
    except EngineError as problem:
        return Trial(0, 0, 0.0, why=problem.text)
    if ready is None:
        return Trial(0, 0, 0.0, why="it does not run now: start it to try rows")
    try:
        rows = await orm(_rows, version, prompt)
    except PromptRefused as problem:
        return Trial(0, 0, 0.0, why=str(problem))
    began = time.monotonic()
    taken = await _ask_all(ready, rows)
    seconds = time.monotonic() - began
    good = [one for one in taken if one.state == Generation.State.COMPLETE]
    costs = [spending.of(ready.replica, one.timings.get("busy_s")).get("cost") for one in good]
    known = [cost for cost in costs if cost is not None]
    why = next((one.error for one in taken if one.error), "")
    each = sum(known) / len(known) if known and len(known) == len(good) else None
    return Trial(len(taken), len(good), seconds, each, why)


def _ready(deployment: Deployment, adapter: str, parameters: Mapping[str, Any]) -> _Ready | None:
    """A replica on this node, and how a column of it would be asked."""
    here = [
        one
        for one in deployments.ready_replicas(deployment)
        if one.node and one.node.name == settings.NODE_NAME
    ]
    if not here:
        return None
    target = leases.target_of(BatchColumn(deployment=deployment, adapter=adapter), here[0])
    standing = batch_asking.Standing(0, deployment.team_id, "", deployment.model.task, {}, parameters)
    return _Ready(here[0], standing, target)


def _rows(version: DatasetVersion, prompt: PromptVersion | None) -> list[DatasetRow]:
    """Evenly from all over the file."""
    count = min(ROWS, version.row_count)
    numbers = {1 + at * version.row_count // count for at in range(count)}
    rows = list(DatasetRow.objects.filter(version=version, number__in=numbers).order_by("number"))
    if prompt is not None:
        for row in rows:
            row.body = prompt_rows.body(row.cells, prompt)
    return rows


async def _ask_all(ready: _Ready, rows: Sequence[DatasetRow]) -> list[Taken]:
    """What came of those that ended in time."""
    gate, taken = asyncio.Semaphore(AT_ONCE), list[Taken]()

    async def ask(row: DatasetRow) -> None:
        async with gate:
            taken.append(await _ask(ready, row))

    try:
        async with asyncio.timeout(MOST_S), asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(ask(row))
    except TimeoutError:
        # What ended before then still tells the rate.
        return taken
    return taken


async def _ask(ready: _Ready, row: DatasetRow) -> Taken:
    try:
        asked = batch_asking.question(_as_claimed(row), ready.standing, ready.target)
    except EngineError as problem:
        return Taken(str(Generation.State.FAILED), time.monotonic(), error=problem.text)
    return await asking.ask(asked)


def _as_claimed(row: DatasetRow) -> Row:
    return Row(0, row.number, 0, 0, row.url, row.body)
