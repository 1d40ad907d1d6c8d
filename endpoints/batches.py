"""Batches of /v1/batches: begun from a file, read, run by the site's own machinery, and given back as files.

The only writer of ApiBatch. Each step is safe at any time and may be taken again: what a process that died
had begun is found by `settle`, which runs every second.
"""

import hashlib
import logging
import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from endpoints import batch_facts, batch_lines, batch_targets, files, protocol
from endpoints.batch_lines import LineError
from endpoints.models import ApiBatch, ApiFile, ApiKey
from endpoints.protocol import Refusal
from endpoints.table import Key
from playground import access, batch_files, batches, datasets, disk, jobs, nudges, reading, webhooks
from playground.models import Batch, BatchColumn, Dataset, DatasetVersion, Team, User

WINDOW = timedelta(hours=24)
# Where nobody answered a nudge, the next one is sent after this long.
AGAIN = timedelta(seconds=10)
MAX_OPEN = 100
ENDED = {
    Batch.State.COMPLETED: "completed_at",
    Batch.State.CANCELLED: "cancelled_at",
    Batch.State.EXPIRED: "expired_at",
    Batch.State.FAILED: "failed_at",
}

log = logging.getLogger(__name__)


# What a client asks for


def create(key: Key, body: Mapping[str, Any], again: str | None = None) -> ApiBatch:
    """A batch of the lines of a file; its reading begins at once, elsewhere.

    `again`: the hash of the request's Idempotency-Key. Sent twice it is one batch; with another body 422.
    """
    file = _input(key.team, body.get("input_file_id"))
    values = batch_facts.asked(body) | {"input_token": file.token}
    if not key.may_use(values["endpoint"]):
        raise Refusal(403, f"This key may not call {values['endpoint']}.", "route_not_allowed", "endpoint")
    token = f"batch_{secrets.token_hex(12)}"
    if again:
        token = "batch_" + hashlib.sha256(f"{key.id}:{again}".encode()).hexdigest()[:24]
        if known := ApiBatch.objects.filter(team=key.team, token=token).first():
            return _same(known, values)
    if _open().filter(team=key.team).count() >= MAX_OPEN:
        text = f"{MAX_OPEN} batches of the team are open: wait until one has ended."
        raise Refusal(429, text, "too_many_batches", headers={"x-should-retry": "false"})
    with transaction.atomic():
        row, made = ApiBatch.objects.get_or_create(
            token=token,
            defaults={
                "team_id": key.team,
                "key_id": key.id,
                "input_file": file,
                "node": file.node,
                "due_at": Now() + AGAIN,
                "expires_at": Now() + WINDOW,
                **values,
            },
        )
        if made:
            nudges.send("endpoints.batch", row.pk, queue=f"node.{row.node}")
    return find(key.team, row.token) if made else _same(row, values)


def _same(known: ApiBatch, values: Mapping[str, Any]) -> ApiBatch:
    if any(getattr(known, name) != value for name, value in values.items()):
        text = "This Idempotency-Key was used with another request."
        raise Refusal(422, text, "idempotency_key_reused", "Idempotency-Key")
    return find(known.team_id, known.token)


def _input(team: int, token: Any) -> ApiFile:
    if not isinstance(token, str):
        text = "input_file_id names a file of purpose batch."
        raise Refusal(400, text, "missing_required_parameter", "input_file_id")
    try:
        file = files.find(team, token)
    except Refusal as problem:
        raise Refusal(400, "No file of that id is here.", "invalid_input_file", "input_file_id") from problem
    if file.purpose != ApiFile.Purpose.BATCH:
        raise Refusal(400, "That file's purpose is not batch.", "invalid_input_file", "input_file_id")
    return file


def find(team: int, token: str) -> ApiBatch:
    """A team's batch; 404 where it has none of that name."""
    row = _rows().filter(team=team, token=token).first() if protocol.is_name(token) else None
    if row is None:
        raise Refusal(404, "No such Batch object.", "not_found", "batch_id")
    return row


def listed(team: int, *, after: str, limit: int) -> tuple[list[ApiBatch], bool]:
    """A page of the team's batches, the newest first, and whether there are more."""
    rows = _rows().filter(team=team).order_by("-id")
    if after:
        rows = rows.filter(id__lt=find(team, after).pk)
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def cancel(team: int, token: str) -> ApiBatch:
    """Ask nothing more of it; what was answered is given back. Twice is once; 409 once it has ended."""
    with transaction.atomic():
        row = ApiBatch.objects.select_for_update().filter(pk=find(team, token).pk).get()
        if row.due_at is None and row.cancelled_at is None:
            text = f"A batch that is {batch_facts.status(row)} cannot be cancelled."
            raise Refusal(409, text, "batch_ended", "batch_id", {"x-should-retry": "false"})
        if row.batch is None and row.cancelled_at is None:
            _end(row, "cancelled_at", cancelling_at=Now())
        elif row.batch is not None and row.cancelling_at is None:
            _cancel_work(row.batch)
            ApiBatch.objects.filter(pk=row.pk).update(cancelling_at=Now())
    return find(team, token)


def _cancel_work(batch: Batch) -> None:
    try:
        batches.cancel(batch, None)
    except batches.BatchRefused as problem:
        text = "It has ended, and its files are being written."
        raise Refusal(409, text, "batch_ended", "batch_id", {"x-should-retry": "false"}) from problem


def _rows() -> QuerySet[ApiBatch]:
    return ApiBatch.objects.select_related("batch", "output_file", "error_file")


def _open() -> QuerySet[ApiBatch]:
    return ApiBatch.objects.filter(due_at__isnull=False)


# What goes on by itself


def settle() -> None:
    """Send on every batch that is to be read or written now, and end those whose day is over unread."""
    for row in _open().filter(batch=None, expires_at__lt=Now()):
        with transaction.atomic():
            _end(row, "expired_at")
    due = _open().filter(due_at__lte=Now()).filter(Q(batch=None) | ~Q(batch__state__in=Batch.OPEN))
    for row in due:
        if ApiBatch.objects.filter(pk=row.pk, due_at=row.due_at).update(due_at=Now() + AGAIN):
            nudges.send("endpoints.batch", row.pk, queue=f"node.{row.node}")


def advance(pk: int) -> None:
    """Bring one batch as far as it can go now, on the node where its lines lie. One at a time a file."""
    row = _open().select_related("team", "key__created_by", "input_file", "batch").filter(pk=pk).first()
    if row is None:
        return
    with jobs.alone(f"api-file:{row.input_token}") as held:
        if not held:
            return
        row.refresh_from_db(fields=["due_at", "batch"])
        if row.due_at is None:
            return
        if row.batch is None:
            _read(row)
        elif row.batch.state not in Batch.OPEN:
            _write(row, row.batch)


# Reading


def _read(row: ApiBatch) -> None:
    """Judge every line and begin the work; failed where a line is wrong, or where nothing can be asked."""
    if row.input_file is None or not files.path_of(row.input_file).exists():
        _fail(row, [LineError("file_not_found", "Its file is gone.", param="input_file_id")])
        return
    judged = batch_lines.judge(files.path_of(row.input_file), row.endpoint)
    if judged.errors:
        _fail(row, judged.errors)
        return
    try:
        user, key = _maker(row), _key(row)
        target = batch_targets.find(
            row.team, user, key.scopes, judged.model, row.endpoint, names=key.endpoints
        )
        version = _version(row, row.input_file, user)
        _begin(row, judged.model, target, version, user)
    except LineError as error:
        _fail(row, [error])
    except datasets.DatasetRefused as problem:
        _fail(row, [LineError("file_refused", str(problem), problem.line)])
    except batches.BatchRefused as problem:
        _fail(row, [LineError("batch_refused", str(problem))])


def _key(row: ApiBatch) -> ApiKey:
    if row.key is None or row.key.revoked_at:
        raise LineError("key_revoked", "The key that made this batch was revoked.")
    return row.key


def _maker(row: ApiBatch) -> User | None:
    """Whoever made the key, as long as the team has them: what they may do, a batch of theirs may."""
    user = row.key.created_by if row.key else None
    return user if user and user.is_active and access.can(user, "chat", row.team) else None


def _version(row: ApiBatch, file: ApiFile, user: User | None) -> DatasetVersion:
    """The file's rows; read once, however many batches are made of it."""
    dataset = _dataset(row.team, user, file)
    known = dataset.versions.filter(complete=True, sha256=file.sha256).first()
    if known:
        return known
    dataset.versions.filter(complete=False).delete()  # A process died over it: nobody else is at it.
    path = files.path_of(file)
    return datasets.add_version(dataset, user, path, file.name, reading.OPENAI, skip_bad=False)


def _dataset(team: Team, user: User | None, file: ApiFile) -> Dataset:
    shown = "".join(letter for letter in file.name if letter.isprintable()).strip()[:80]
    name = " ".join(f"{shown} {file.token}".split())
    return Dataset.objects.filter(team=team, name=name).first() or datasets.create(team, user, name)


def _begin(
    row: ApiBatch, model: str, target: batch_targets.Found, version: DatasetVersion, user: User | None
) -> None:
    """Its work, unless it was cancelled meanwhile."""
    column = {"deployment": target.deployment, "adapter": target.adapter, "defaults": target.defaults}
    with transaction.atomic():
        mine = ApiBatch.objects.select_for_update().get(pk=row.pk)
        if mine.due_at is None:
            return
        left = (mine.expires_at - mine.created_at).total_seconds()
        name = f"{version.source or 'API batch'} → {model}"
        work = batches.begin(row.team, user, name, version, [column], {}, window_s=left)
        ApiBatch.objects.filter(pk=row.pk).update(
            batch=work, model=model, release=target.release, in_progress_at=Now(), due_at=Now()
        )


def _fail(row: ApiBatch, errors: Iterable[LineError]) -> None:
    with transaction.atomic():
        _end(row, "failed_at", errors=[error.facts() for error in errors])


# Writing what it came to


def _write(row: ApiBatch, work: Batch) -> None:
    """Its two files, in the input's order, and the end."""
    ApiBatch.objects.filter(pk=row.pk, finalizing_at=None).update(finalizing_at=Now())
    column = work.columns.select_related("deployment").get()
    column.batch = work
    try:
        good, bad = _lines(work, column, "ok"), _lines(work, column, "failed")
    except disk.DiskFull as problem:
        log.warning("batch %s cannot be written: %s", row.token, problem)
        return
    counts, usage = batch_facts.counts(work), batch_facts.usage(column)
    with transaction.atomic():
        output = files.render(row, f"{row.token}_output.jsonl", good)
        error = files.render(row, f"{row.token}_error.jsonl", bad)
        values: dict[str, Any] = {
            "output_file": output,
            "error_file": error,
            "counts": counts,
            "usage": usage,
        }
        if work.state == Batch.State.FAILED:
            values["errors"] = [LineError("batch_failed", work.problem or "The batch failed.").facts()]
        _end(row, ENDED[Batch.State(work.state)], **values)


def _lines(work: Batch, column: BatchColumn, which: str) -> files.Written:
    return files.write(line.encode() for line in batch_files.lines(work, column, which))


def _end(row: ApiBatch, moment: str, **values: Any) -> bool:
    """The last change of a batch, once; whoever wanted to hear of it is told."""
    ended = _open().filter(pk=row.pk).update(due_at=None, **{moment: Now()}, **values)
    if ended and row.webhook:
        event = f"batch.{moment.removesuffix('_at')}"
        webhooks.announce(row.team_id, f"api:{row.token}", row.webhook, event, row.token)
    return bool(ended)
