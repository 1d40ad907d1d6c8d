"""What runs that measure took, request by request: usage of the team, by whoever asked for the run.

Kept apart from a run's samples, which hold no warm-up and go with their conversation.
"""

from collections.abc import Iterable
from typing import Any

from playground import spending
from playground.asking import Taken
from playground.models import Generation, MeasuredUse, Measurement, Replica


def keep(run: Measurement, asked: Iterable[tuple[Replica, Taken]]) -> None:
    """Record these, each once. Replicas come with their nodes."""
    MeasuredUse.objects.bulk_create(
        MeasuredUse(
            team_id=run.team_id,
            user_id=run.created_by_id,
            kind=run.kind,
            configuration_id=replica.configuration_id,
            failed=taken.state == Generation.State.FAILED,
            ttft_ms=taken.timings.get("ttft"),
            **_tokens(taken),
            busy_s=taken.timings.get("busy_s"),
            **spending.shared(replica, taken.timings.get("busy_s")),
        )
        for replica, taken in asked
    )


def _tokens(taken: Taken) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return {name: taken.usage.get(name) for name in names}
