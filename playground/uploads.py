"""Files that come from a browser in pieces: begun, gone on with after a break, checked, removed.

A row says how much of a file is here; the bytes lie in the hidden folder of `landing`, on the disk of the web
process that got them. The job that ends it checks the whole and gives the model its name.
"""

import fcntl
import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from playground import access, disk, jobs, landing, safety
from playground.jobs import JobFailed, Work
from playground.models import Job, Team, Upload, User

# What a browser sends at once, and what it sends again to show that it goes on with the same file.
PIECE = 8 << 20
TAIL = 1 << 20
MAX_SIZE = 1 << 42
MAX_FILES = 500
MAX_NAMES = 20
FORGOTTEN = timedelta(days=14)


class UploadRefused(Exception):
    """This file or piece may not come; the text says why. `received`: how far it is, where that helps."""

    def __init__(self, why: str, received: int | None = None) -> None:
        super().__init__(why)
        self.received = received


@dataclass(frozen=True)
class Coming:
    """One model on its way, for the page."""

    name: str
    files: list[Upload]
    job: Job | None

    @property
    def received(self) -> int:
        return sum(row.received_bytes for row in self.files)

    @property
    def size(self) -> int:
        return sum(row.size_bytes for row in self.files)

    @property
    def is_complete(self) -> bool:
        return self.received == self.size

    @property
    def is_active(self) -> bool:
        return self.job is not None and self.job.state in Job.ACTIVE

    @property
    def trouble(self) -> str:
        """Why its last check failed."""
        return self.job.error if self.job and self.job.state == Job.State.FAILED else ""


def begin(team: Team, user: User, name: str, path: str, size: int, sha256: str = "") -> Upload:
    """The row of one file, new or as far as it is. UploadRefused, LandingRefused or DiskFull with why not."""
    landing.check_name(name)
    landing.check_path(path)
    if size == 0:
        raise landing.NotNeeded(f"{path} is left out: it is empty.")
    if not 0 < size <= MAX_SIZE:
        raise UploadRefused(f"{path} has an impossible size.")
    landing.node()
    with transaction.atomic():
        # One after the other: two tabs that begin the same file, or the last room of the quota.
        Team.objects.select_for_update(no_key=True).get(pk=team.pk)
        known = Upload.objects.filter(team=team, name=name, path=path).first()
        if known:
            return _go_on(known, size, sha256)
        _check_others(team, name, path)
        landing.check_room(team, size, user)
        return Upload.objects.create(
            team=team, created_by=user, name=name, path=path, size_bytes=size, sha256=sha256
        )


def write(upload: Upload, offset: int, piece: bytes, sha256: str = "") -> int:
    """Add a piece where the file ends; the bytes received then. UploadRefused when it does not fit there."""
    if landing.active(upload.team, upload.name):
        raise UploadRefused(f"{upload.name} is being checked already.", upload.received_bytes)
    if not piece or len(piece) > PIECE or offset + len(piece) > upload.size_bytes:
        raise UploadRefused(
            "The piece is empty, too large, or goes past the file's end.", upload.received_bytes
        )
    if sha256 and hashlib.sha256(piece).hexdigest() != sha256:
        raise UploadRefused("The piece was damaged on its way.", upload.received_bytes)
    with _part(upload).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not Upload.objects.filter(pk=upload.pk).exists():
            _part(upload).unlink(missing_ok=True)
            raise UploadRefused("It was removed meanwhile.")
        upload.refresh_from_db()
        if offset != upload.received_bytes:
            goes_on = upload.received_bytes
            raise UploadRefused(f"The file goes on at byte {goes_on}, not at {offset}.", goes_on)
        _refuse_elsewhere(file.fileno(), upload)
        disk.brake(_part(upload), len(piece))
        file.seek(offset)
        file.write(piece)
        file.flush()
        received = offset + len(piece)
        Upload.objects.filter(pk=upload.pk, received_bytes=offset).update(
            received_bytes=received,
            finished_at=Now() if received == upload.size_bytes else None,
            updated_at=Now(),
        )
    return received


def tail(upload: Upload) -> tuple[int, str]:
    """The last bytes received: how many, and their SHA-256. Whoever goes on must have the same."""
    amount = min(TAIL, upload.received_bytes)
    if not amount:
        return 0, ""
    with _part(upload).open("rb") as file:
        _refuse_elsewhere(file.fileno(), upload)
        file.seek(upload.received_bytes - amount)
        return amount, hashlib.sha256(file.read(amount)).hexdigest()


def finish(team: Team, user: User, name: str) -> Job:
    """Ask for the checks and the rename. UploadRefused while a file is not whole."""
    if not landing.has_landed(team, name):
        landing.check_name(name)
    rows = Upload.objects.filter(team=team, name=name)
    if not rows:
        raise UploadRefused(f"No upload is called {name}.")
    if part := rows.exclude(received_bytes=F("size_bytes")).first():
        raise UploadRefused(f"{part.path} is not whole yet.")
    target = landing.target(team.pk, name)
    return jobs.request(Job.Kind.IMPORT_MODEL, landing.node(), target, {"upload": name}, team, user)


def remove(team: Team, user: User, name: str) -> int:
    """Stop it and throw away what is here; how many files that were."""
    if not landing.NAME.fullmatch(name):
        return 0
    if job := landing.active(team, name):
        jobs.cancel(job, user)
    gone, _ = Upload.objects.filter(team=team, name=name).delete()
    if gone:
        landing.clear(team.pk, name)
        access.audit(user, team, "remove upload", f"upload:{name}")
    return gone


def coming(team: Team) -> list[Coming]:
    """What is on its way, oldest first; what nobody went on with for two weeks is removed."""
    rows = Upload.objects.filter(team=team)
    fresh = rows.filter(updated_at__gte=Now() - FORGOTTEN).values("name")
    for name in set(rows.exclude(name__in=fresh).values_list("name", flat=True)):
        rows.filter(name=name).delete()
        landing.clear(team.pk, name)
    found: dict[str, list[Upload]] = {}
    for row in rows.order_by("pk"):
        found.setdefault(row.name, []).append(row)
    return [Coming(name, files, _newest_job(team, name)) for name, files in found.items()]


def settle(work: Work, team: Team, name: str) -> dict[str, Any]:
    """Job: check the hashes that were given, and land the model."""
    rows = list(Upload.objects.filter(team=team, name=name).order_by("pk"))
    if not landing.has_landed(team, name):
        _check_files(work, landing.folder(team.pk, name), rows)
    model = landing.land(work, team, name, {"how": "upload"})
    Upload.objects.filter(team=team, name=name).delete()
    return {"model": model.pk}


def _check_files(work: Work, gathered: Path, rows: list[Upload]) -> None:
    if not rows or any(not (gathered / row.path).is_file() for row in rows):
        raise JobFailed("Its files are not on this machine: remove the upload and begin again.")
    for row in rows:
        if row.sha256 and _digest(work, gathered / row.path) != row.sha256:
            Upload.objects.filter(pk=row.pk).update(received_bytes=0, finished_at=None)
            raise JobFailed(f"{row.path} is not what its SHA-256 says: send it again.")


def _go_on(known: Upload, size: int, sha256: str) -> Upload:
    if known.size_bytes != size or (sha256 and known.sha256 and sha256 != known.sha256):
        raise UploadRefused(
            f"Another {known.path} was begun for {known.name}: remove that upload first, or choose another "
            "name."
        )
    return known


def _check_others(team: Team, name: str, path: str) -> None:
    """UploadRefused where another file, upload or import stands against a new file."""
    if landing.active(team, name):
        raise UploadRefused(f"{name} is being checked or imported already.")
    names = dict.fromkeys(Upload.objects.filter(team=team).values_list("name", flat=True))
    if name not in names and len(names) >= MAX_NAMES:
        raise UploadRefused(f"{MAX_NAMES} uploads wait already: go on with one, or remove one.")
    if name not in names:
        landing.clear(team.pk, name)  # What an import of that name left when it failed.
    paths = list(Upload.objects.filter(team=team, name=name).values_list("path", flat=True))
    if len(paths) >= MAX_FILES:
        raise UploadRefused(f"A model has at most {MAX_FILES} files.")
    if both := safety.folders_too([*paths, path]):
        raise UploadRefused(f"{both[0]} is a file and a folder.")


def _part(upload: Upload) -> Path:
    """Where its bytes lie; made at first need."""
    path = landing.folder(upload.team_id, upload.name) / upload.path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    return path


def _refuse_elsewhere(descriptor: int, upload: Upload) -> None:
    if os.fstat(descriptor).st_size < upload.received_bytes:
        raise UploadRefused(
            "Its first part lies on another machine of this site: send it to the same address as before, or "
            "remove the upload and begin again."
        )


def _newest_job(team: Team, name: str) -> Job | None:
    return Job.objects.filter(team=team, target=landing.target(team.pk, name)).order_by("-pk").first()


def _digest(work: Work, path: Path) -> str:
    whole, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(PIECE):
            whole.update(block)
            work.progress(f"checking {path.name}", file.tell(), size, "bytes")
    return whole.hexdigest()
