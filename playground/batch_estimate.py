"""How long a batch would take and what it would cost, by answers that the same deployment gave before.

An estimate says what it was taken from. Where nothing has answered yet there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Avg, Count, FloatField, Max, Min
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from playground.models import BatchColumn, BatchResult, Deployment, Generation

# So many rows must have been answered for a rate to say something.
LEAST = 20
LATELY = 200


@dataclass(frozen=True)
class Estimate:
    """`seconds` is at most so long where `at_most`. `source`: what it was taken from, in words."""

    seconds: float | None = None
    at_most: bool = False
    cost: float | None = None
    source: str = ""


def of(deployment: Deployment, adapter: str, rows: int) -> Estimate:
    """By the newest batch that it answered, else by its answers in conversations."""
    return _by_batch(deployment, adapter, rows) or _by_answers(deployment, adapter, rows) or Estimate()


def whole(parts: Sequence[Estimate]) -> Estimate:
    """Columns are asked side by side: the longest says how long; costs add up. Unknown where one is."""
    seconds = [part.seconds for part in parts if part.seconds is not None]
    costs = [part.cost for part in parts if part.cost is not None]
    return Estimate(
        max(seconds) if parts and len(seconds) == len(parts) else None,
        any(part.at_most for part in parts),
        sum(costs) if parts and len(costs) == len(parts) else None,
    )


def _by_batch(deployment: Deployment, adapter: str, rows: int) -> Estimate | None:
    """The rate of the newest batch whose rows it answered as it is now."""
    asked = BatchColumn.objects.filter(deployment=deployment, adapter=adapter).order_by("-pk")[:5]
    for column in asked:
        answered = BatchResult.objects.filter(
            column=column, ok=True, configuration=deployment.configuration_id
        )
        newest = answered.order_by("-created_at").values("pk")[:LATELY]
        found = BatchResult.objects.filter(pk__in=newest).aggregate(
            n=Count("pk"), first=Min("created_at"), last=Max("created_at"), cost=_mean_cost()
        )
        if found["n"] < LEAST or found["last"] <= found["first"]:
            continue
        each = (found["last"] - found["first"]).total_seconds() / (found["n"] - 1)
        source = (
            f"by the last {found['n']} rows of batch {column.batch_id}, whose texts may be longer or shorter"
        )
        return Estimate(each * rows, cost=_times(found["cost"], rows), source=source)
    return None


def _by_answers(deployment: Deployment, adapter: str, rows: int) -> Estimate | None:
    """The mean of its answers in conversations, as if rows were asked one after another."""
    answered = Generation.objects.filter(
        column__deployment=deployment,
        column__adapter=adapter,
        state=Generation.State.COMPLETE,
        configuration=deployment.configuration_id,
        timings__e2e__isnull=False,
    )
    newest = Generation.objects.filter(pk__in=answered.order_by("-pk").values("pk")[:LATELY])
    e2e = Avg(Cast(KeyTextTransform("e2e", "timings"), FloatField()))
    found = newest.aggregate(n=Count("pk"), e2e=e2e, cost=_mean_cost())
    if not found["n"] or found["e2e"] is None:
        return None
    answers = f"{found['n']} answer{'' if found['n'] == 1 else 's'}"
    source = f"by its last {answers} in conversations; rows asked side by side take less"
    return Estimate(found["e2e"] / 1000 * rows, True, _times(found["cost"], rows), source)


def _mean_cost() -> Avg:
    return Avg(Cast(KeyTextTransform("cost", "timings"), FloatField()))


def _times(cost: float | None, rows: int) -> float | None:
    return None if cost is None else cost * rows
