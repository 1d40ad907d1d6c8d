"""Configurations: the immutable name of what was really loaded. Knows nothing about who runs it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from playground.models import Configuration, EngineEnvironment, ModelFormat


class NotFrozen(Exception):
    """A configuration cannot be named yet: its weights have no digest."""


def canonical(facts: dict[str, Any]) -> str:
    """The one JSON text of `facts`: keys sorted, no spaces, so that equal facts have equal digests.

    Nothing in them has keys whose order an engine sees: an option becomes an argument by its name. What does,
    a response format or tools, is sampling, which a release keeps beside its configuration, in order.
    """
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def freeze(
    model_format: ModelFormat,
    environment: EngineEnvironment,
    engine: str,
    options: dict[str, Any],
    adapters: list[Any],
    *,
    extra: Sequence[str] = (),
    draft: ModelFormat | None = None,
) -> Configuration:
    """The row of exactly this; made at first need. `options` hold only what was set."""
    if not model_format.digest:
        raise NotFrozen(f"{model_format.path} has no digest yet")
    facts: dict[str, Any] = {
        "model": model_format.model.source,
        "format": {"kind": model_format.kind, "digest": model_format.digest},
        "environment": environment.digest,
        "engine": engine,
        "options": options,
        "adapters": adapters,
        "team": model_format.model.team_id,
    }
    if model_format.model.code_allowed_at:
        facts["code"] = True  # Named only where it runs: without it digests are what they were.
    if extra:
        facts["extra"] = list(extra)
    if draft:
        if not draft.digest:
            raise NotFrozen(f"{draft.path} has no digest yet")
        facts["draft"] = {"form": draft.pk, "digest": draft.digest}
    text = canonical(facts)
    row, _ = Configuration.objects.get_or_create(
        digest=digest(text),
        defaults={
            "canonical": text,
            "model": model_format.model,
            "format": model_format,
            "format_digest": model_format.digest,
            "environment": environment,
            "engine": engine,
            "options": options,
            "adapters": adapters,
        },
    )
    return row
