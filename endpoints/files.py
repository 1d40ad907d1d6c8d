"""Files of /v1/files: what a client sends for a batch, and what a batch came to.

The bytes lie in the home of this node, a row says whose they are. A body gathers on the disk as it comes, is
taken apart there, judged, and only then gets its name. Nothing is ever whole in memory.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation, TooManyFilesSent
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Now
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from endpoints import protocol
from endpoints.models import ApiBatch, ApiFile, ApiKey
from endpoints.protocol import Refusal
from playground import admission, disk, reading
from playground.models import Team, User

# What stands around a file in a multipart body.
ENVELOPE = 64 * 1024
LIFE = timedelta(days=30)
EXPIRY = (3600, 2_592_000)
# What a process that died left behind is this old.
LEFT_S = 3600.0
PIECE = 1 << 20


def limit() -> int:
    """Bytes of the largest body that is read."""
    return reading.MAX_SIZE + ENVELOPE


def folder() -> Path:
    return settings.HOME / "files"


def path_of(file: ApiFile) -> Path:
    return folder() / str(file.team_id) / file.token


def incoming() -> Path:
    """A new place for a body on its way."""
    place = folder() / "incoming"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    return place / secrets.token_hex(16)


def brake(wanted: int) -> None:
    """507 where so many bytes more would fill the disk."""
    try:
        disk.brake(folder(), wanted)
    except disk.DiskFull as problem:
        headers = {"x-should-retry": "false"}
        raise Refusal(507, str(problem), "disk_full", headers=headers) from problem


# Sending one


class Sent:
    """What a body held: its fields, and its file, which lies at `path` until it is kept or thrown away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.name = ""
        self.size: int | None = None
        self.digest = hashlib.sha256()


class _Keeping(FileUploadHandler):
    """Writes the body's `file` to the disk as it is read."""

    def __init__(self, sent: Sent, file: BinaryIO) -> None:
        super().__init__()
        self.sent, self.file = sent, file

    def new_file(self, field_name: str, *args: Any, **kwargs: Any) -> None:
        super().new_file(field_name, *args, **kwargs)
        if field_name != "file":
            raise SkipFile
        if self.sent.size is not None:
            raise Refusal(400, "Send one file at a time.", "invalid_request", "file")
        self.sent.name, self.sent.size = self.file_name or "", 0

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self.sent.size is not None
        self.sent.size += len(raw_data)
        if self.sent.size > reading.MAX_SIZE:
            raise too_large()
        self.sent.digest.update(raw_data)
        self.file.write(raw_data)

    def file_complete(self, file_size: int) -> None:
        return None


def take_apart(raw: Path, content_type: str, sent: Sent) -> None:
    """Read a multipart body at `raw`, and judge what it holds. Refuses what is no batch input."""
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(raw.stat().st_size)}
    brake(raw.stat().st_size)
    try:
        with raw.open("rb") as body, sent.path.open("xb") as file:
            sent.path.chmod(0o600)
            parser = MultiPartParser(meta, body, [_Keeping(sent, file)], "utf-8")
            fields, _ = parser.parse()
    except (MultiPartParserError, RequestDataTooBig, TooManyFilesSent, SuspiciousOperation) as problem:
        raise Refusal(
            400, "The body is no multipart form that can be read.", "invalid_multipart"
        ) from problem
    sent.fields = {name: str(fields.get(name)) for name in fields}
    _judge(sent)


def _judge(sent: Sent) -> None:
    if sent.size is None:
        raise Refusal(400, "Send the file as the form's field file.", "missing_required_parameter", "file")
    purpose = sent.fields.get("purpose", "")
    if purpose != ApiFile.Purpose.BATCH:
        raise Refusal(
            400, "The purpose must be batch: files serve nothing else here.", "invalid_purpose", "purpose"
        )
    if sent.size == 0:
        raise Refusal(400, "The file is empty.", "empty_file", "file")
    _judge_bytes(sent.path)


def _judge_bytes(kept: Path) -> None:
    """415 for what is no text; what its lines say is judged when a batch is made of them."""
    with kept.open("rb") as file:
        head = file.read(4096)
    what = next((what for magic, what in reading.BINARY.items() if head.startswith(magic)), "")
    if not what and head.startswith(b"PAR1"):
        what = "a Parquet file"
    if not what and b"\0" in head and not head.startswith(reading.UTF_16_32):
        what = "no text"
    if what:
        raise Refusal(415, f"The file is {what}: send JSONL as it is.", "unsupported_file", "file")


def keep(team: int, key: int, sent: Sent) -> ApiFile:
    """Give what was sent to the team; refused where that goes past its quota."""
    seconds = _expiry(sent.fields)
    with transaction.atomic():
        # One after the other: two files for the last room of the quota.
        Team.objects.select_for_update(no_key=True).get(pk=team)
        assert sent.size is not None
        check_quota(team, sent.size, key)
        kept_for = LIFE if seconds is None else timedelta(seconds=seconds)
        return _settle_down(
            sent.path,
            team_id=team,
            key_id=key,
            name=sent.name[:255],
            purpose=ApiFile.Purpose.BATCH,
            size_bytes=sent.size,
            sha256=sent.digest.hexdigest(),
            expires_at=Now() + kept_for,
        )


def _settle_down(kept: Path, **values: Any) -> ApiFile:
    """The row, and the bytes in their place. Where the transaction fails `tidy` finds them."""
    row = ApiFile(token=f"file-{secrets.token_hex(12)}", node=settings.NODE_NAME, **values)
    path = path_of(row)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.rename(path)
    row.save()
    row.refresh_from_db()
    return row


def _expiry(fields: Mapping[str, str]) -> int | None:
    """expires_after[seconds], where it was sent."""
    anchor, text = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and text is None:
        return None
    whole = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return life(anchor, int(text or 0) if whole else None, "expires_after")


def life(anchor: Any, seconds: Any, param: str) -> int:
    """How long a file is kept, as OpenAI says it; 400 where it is none of that."""
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if anchor != "created_at" or not whole or not EXPIRY[0] <= seconds <= EXPIRY[1]:
        wanted = f"{param} has the anchor created_at and {EXPIRY[0]:,} to {EXPIRY[1]:,} seconds."
        raise Refusal(400, wanted, f"invalid_{param}", param)
    return int(seconds)


def check_quota(team: int, wanted: int, key: int) -> None:
    """413 where so many bytes more are too many for the team, or for whoever made the key."""
    maker = User.objects.filter(pk__in=ApiKey.objects.filter(pk=key).values("created_by")).first()
    try:
        admission.check_storage(Team.objects.get(pk=team), maker, "files", wanted)
    except admission.QuotaReached as reached:
        raise Refusal(413, str(reached), "files_quota_exceeded", "file") from reached


def usage(team: Team, person: User | None = None) -> int:
    """Bytes of all files of a team, or of those that came with one person's keys."""
    rows = _living(team.pk)
    held = rows.filter(key__created_by=person) if person else rows
    return held.aggregate(total=Sum("size_bytes"))["total"] or 0


def too_large() -> Refusal:
    text = f"A file has at most {reading.MAX_SIZE // 1_000_000} MB."
    return Refusal(413, text, "file_too_large", "file")


# What a batch came to


@dataclass(frozen=True)
class Written:
    """Bytes on the disk that have no row yet."""

    path: Path
    size: int
    sha256: str


def write(chunks: Iterable[bytes]) -> Written:
    """Write them down, not yet under a name. DiskFull where that would fill the disk."""
    path = incoming().with_suffix(".part")
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            for chunk in chunks:
                disk.brake(path, len(chunk))
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Written(path, size, digest.hexdigest())


def render(batch: ApiBatch, name: str, written: Written) -> ApiFile | None:
    """What a batch came to as a file of its team, for a transaction; None where there is nothing."""
    if not written.size:
        written.path.unlink(missing_ok=True)
        return None
    life = batch.output_life_s
    return _settle_down(
        written.path,
        team_id=batch.team_id,
        key_id=batch.key_id,
        name=name,
        purpose=ApiFile.Purpose.BATCH_OUTPUT,
        size_bytes=written.size,
        sha256=written.sha256,
        expires_at=None if life is None else Now() + timedelta(seconds=life),
    )


# Finding and removing


def _living(team: int) -> QuerySet[ApiFile]:
    return ApiFile.objects.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), team=team)


def find(team: int, token: str) -> ApiFile:
    """A team's file; 404 where it has none of that name."""
    row = _living(team).filter(token=token).first() if protocol.is_name(token) else None
    if row is None:
        raise Refusal(404, "No such File object.", "not_found", "file_id")
    return row


def listed(team: int, *, after: str, limit: int, order: str, purpose: str) -> tuple[list[ApiFile], bool]:
    """A page of the team's files, and whether there are more."""
    rows = _living(team).order_by("id" if order == "asc" else "-id")
    if purpose:
        rows = rows.filter(purpose=purpose) if purpose in ApiFile.Purpose.values else rows.none()
    if after:
        edge = find(team, after).pk
        rows = rows.filter(id__gt=edge) if order == "asc" else rows.filter(id__lt=edge)
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def remove(team: int, token: str) -> ApiFile:
    """Forget a file; refused while a batch still reads its lines."""
    row = find(team, token)
    reading_it = ApiBatch.objects.filter(input_file=row, batch=None, due_at__isnull=False)
    if reading_it.exists():
        text = "A batch is reading this file: wait, or cancel it."
        raise Refusal(409, text, "file_in_use", "file_id", {"x-should-retry": "false"})
    ApiFile.objects.filter(pk=row.pk).delete()
    path_of(row).unlink(missing_ok=True)
    return row


def opened(file: ApiFile) -> BinaryIO:
    """Its bytes; refused where they lie on another machine of this site."""
    try:
        return path_of(file).open("rb")
    except FileNotFoundError as problem:
        text = f"The file lies on {file.node}: ask the site at that machine's address."
        raise Refusal(409, text, "file_elsewhere", headers={"x-should-retry": "false"}) from problem


def tidy(now: Callable[[], float] = time.time) -> None:
    """Remove rows whose time is over, and bytes of this node that no row names any more."""
    ApiFile.objects.filter(expires_at__lt=Now()).delete()
    for path in folder().glob("*/*"):
        with suppress(FileNotFoundError):
            if now() - path.stat().st_mtime < LEFT_S:
                continue
            if not ApiFile.objects.filter(token=path.name).exists():
                path.unlink()


def facts(row: ApiFile) -> dict[str, Any]:
    """The OpenAI file object."""
    return {
        "id": row.token,
        "object": "file",
        "bytes": row.size_bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()) if row.expires_at else None,
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }
