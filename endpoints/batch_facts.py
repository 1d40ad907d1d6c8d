"""What the API says of a batch, and what a client may say of one that is to be. In OpenAI's words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import FloatField, Sum
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from endpoints import files
from endpoints.models import ApiBatch
from endpoints.protocol import Refusal
from playground import batches, reading, webhooks
from playground.models import Batch, BatchColumn, BatchItem

WINDOW = "24h"
# The last moment that has come says what a batch is.
STATES = (
    ("completed_at", "completed"),
    ("failed_at", "failed"),
    ("expired_at", "expired"),
    ("cancelled_at", "cancelled"),
    ("cancelling_at", "cancelling"),
    ("finalizing_at", "finalizing"),
    ("in_progress_at", "in_progress"),
)
KNOWN = {
    *("input_file_id", "endpoint", "completion_window", "metadata"),
    *("output_expires_after", "webhook"),
}
PAIRS, KEY, VALUE = 16, 64, 512


# What a client says


def asked(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an ApiBatch that a request's body sets; 400 names the first that is wrong."""
    if unknown := sorted(body.keys() - KNOWN):
        raise Refusal(400, f"Unknown parameter: {unknown[0][:60]!r}.", "unknown_parameter", unknown[0][:60])
    if body.get("endpoint") not in reading.URLS:
        raise Refusal(400, f"endpoint is one of {', '.join(reading.URLS)}.", "invalid_endpoint", "endpoint")
    if body.get("completion_window") != WINDOW:
        raise Refusal(400, "completion_window is 24h.", "invalid_completion_window", "completion_window")
    return {
        "endpoint": body["endpoint"],
        "metadata": _metadata(body.get("metadata")),
        "output_life_s": _output_life(body.get("output_expires_after")),
        "webhook": _webhook(body.get("webhook")),
    }


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    fits = isinstance(value, dict) and len(value) <= PAIRS
    if not fits or not all(_pair_fits(name, text) for name, text in value.items()):
        text = f"metadata has at most {PAIRS} pairs: names of {KEY} characters, texts of {VALUE}."
        raise Refusal(400, text, "invalid_metadata", "metadata")
    return dict(value)


def _pair_fits(name: str, text: Any) -> bool:
    return 0 < len(name) <= KEY and isinstance(text, str) and len(text) <= VALUE and "\0" not in name + text


def _output_life(value: Any) -> int | None:
    if value is None:
        return None
    given = value if isinstance(value, dict) else {}
    return files.life(given.get("anchor"), given.get("seconds"), "output_expires_after")


def _webhook(value: Any) -> str:
    if value is None:
        return ""
    try:
        return webhooks.check(value if isinstance(value, str) else "")
    except webhooks.WebhookRefused as problem:
        raise Refusal(400, str(problem), "invalid_webhook", "webhook") from problem


# What a client is told


def status(row: ApiBatch) -> str:
    """OpenAI's word for how far it is."""
    found = next((word for moment, word in STATES if getattr(row, moment)), "validating")
    if (
        found == "in_progress"
        and row.batch
        and row.batch.state not in (Batch.State.RUNNING, Batch.State.PAUSED)
    ):
        # Somebody may also have cancelled it on its page; its files are still to be written.
        return "cancelling" if row.batch.state == Batch.State.CANCELLING else "finalizing"
    return found


def facts(row: ApiBatch) -> dict[str, Any]:
    """The OpenAI batch object."""
    moments = {name: _seconds(getattr(row, name)) for name, _ in STATES}
    return {
        "id": row.token,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model or None,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_token,
        "completion_window": WINDOW,
        "status": status(row),
        "output_file_id": row.output_file.token if row.output_file else None,
        "error_file_id": row.error_file.token if row.error_file else None,
        "created_at": _seconds(row.created_at),
        "expires_at": _seconds(row.expires_at),
        **moments,
        "request_counts": row.counts or (counts(row.batch) if row.batch else counted(0, 0, 0)),
        "usage": row.usage,
        "metadata": row.metadata,
    }


def counts(work: Batch) -> dict[str, int]:
    """Rows by what became of them; of a batch that has ended those never asked count as failed."""
    found = next(iter(batches.counts(work).values()), {})
    State = BatchItem.State
    failed = found.get(State.FAILED, 0)
    if work.state not in Batch.OPEN:
        failed += found.get(State.CANCELLED, 0)
    return counted(work.version.row_count, found.get(State.DONE, 0), failed)


def counted(total: int, completed: int, failed: int) -> dict[str, int]:
    return {"total": total, "completed": completed, "failed": failed}


def usage(column: BatchColumn) -> dict[str, Any]:
    """The tokens of all good answers, as engines counted them."""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    sums = {name: Sum(Cast(KeyTextTransform(name, "usage"), FloatField())) for name in names}
    found = column.results.filter(ok=True).aggregate(**sums)
    sent, said, cached, thought = (int(found[name] or 0) for name in names)
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": sent + said,
    }


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
