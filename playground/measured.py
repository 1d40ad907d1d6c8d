"""What starts of a configuration really took, and estimates put right by it.

A row for each start that got ready, from the engine's own word and the node's. Knows nothing of rooms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from playground.engines.base import Estimate
from playground.models import Configuration, Model, Replica, Start
from playground.reporter import Took

# Starts that are looked through for one of the same arguments.
EARLIER = 8


def record(pk: int, took: Took) -> None:
    """Keep what the replica's start took."""
    row = Replica.objects.select_related("configuration", "node").get(pk=pk)
    if row.configuration is None:
        return
    Start.objects.create(
        configuration=row.configuration,
        node=row.node,
        ready_s=took.ready_s,
        resident_bytes=took.resident_bytes,
        gpu_bytes=took.gpu_bytes,
        weights_bytes=took.said.weights_bytes,
        kv_cache_bytes=took.said.kv_cache_bytes,
        kv_cache_tokens=took.said.kv_cache_tokens,
    )


def latest(configuration: Configuration) -> Start | None:
    """The last start of this very configuration."""
    return Start.objects.filter(configuration=configuration).select_related("node").order_by("-pk").first()


def any_of(model: Model) -> bool:
    """Whether any start of the model is known."""
    return Start.objects.filter(configuration__format__model=model).exists()


def like(
    *,
    engine: str,
    version: str,
    build: str,
    form: int | None,
    options: Mapping[str, Any],
    adapters: int = 0,
    extra: Sequence[str] = (),
) -> Start | None:
    """The last start of the configuration that these wishes would make. `adapters`: how many it serves."""
    rows = Start.objects.filter(
        configuration__engine=engine,
        configuration__environment__version=version,
        configuration__environment__build=build,
        configuration__format=form,
        configuration__options=dict(options),
    )
    recent = rows.select_related("configuration", "node").order_by("-pk")[:EARLIER]
    return next((row for row in recent if _same(row.configuration, adapters, extra)), None)


def _same(given: Configuration, adapters: int, extra: Sequence[str]) -> bool:
    return given.extra == list(extra) and len(given.adapters) == adapters


def corrected(estimate: Estimate, start: Start | None) -> Estimate:
    """The estimate with what a start took in place of what was worked out; parts it does not tell of stay.

    What the engine holds beside weights and keys and values is the rest of what was measured, and what it
    will still take as it serves. One that fills its share of memory with keys and values needs less of them.
    """
    if start is None:
        return estimate
    weights = start.weights_bytes or estimate.weights
    filled = estimate.kv_cache if start.kv_cache_bytes is None else start.kv_cache_bytes
    cache = estimate.kv_cache if estimate.limit else filled
    tokens = start.kv_cache_tokens or estimate.kv_tokens
    known = replace(estimate, weights=weights, kv_cache=cache, kv_tokens=tokens)
    held = start.gpu_bytes or start.resident_bytes
    told_apart = not estimate.limit or start.kv_cache_bytes is not None
    if not held or weights is None or filled is None or not told_apart:
        return known
    rest = held - weights - (0 if estimate.grows else filled)
    return replace(known, overhead=max(0, rest) + estimate.later)
