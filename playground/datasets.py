"""Datasets: a team's named inputs, each version of which is read from a file once and never changed.

Reads streamed and writes in pieces, so that no file is ever whole in memory. Knows nothing of pages, nor of
who asks for the rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Max, QuerySet, Sum
from django.db.models.functions import Now

from playground import access, admission, disk, events, quotas, reading
from playground.models import Batch, Dataset, DatasetRow, DatasetVersion, Team, User
from playground.models.fields import written
from playground.reading import Looked, Problem, Refusal, Row, Shape

# The file as a whole, or the name, is not taken. `line` where known; `status` is the HTTP one.
DatasetRefused = Refusal

TABLE = DatasetRow._meta.db_table
COLUMNS = "version_id, number, line, custom_id, url, body, cells, expected"
PROBLEMS = 100
ROWS_AT_ONCE = 500
BYTES_AT_ONCE = 4 << 20
HEAD = 5
# A version that is not whole after this long is one whose process died.
FORGOTTEN = timedelta(hours=1)
Made = Iterable[Row | Problem]


@dataclass
class Preview:
    """What a file would become: its first rows as they are sent, and every line that is none."""

    looked: Looked
    shape: Shape
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """The first hundred; `bad_rows` counts all."""
    bad_rows: int = 0
    row_count: int = 0
    sent_bytes: int = 0

    def add(self, found: Row | Problem) -> None:
        if isinstance(found, Problem):
            self.bad_rows += 1
            if len(self.problems) < PROBLEMS:
                self.problems.append(found)
            return
        self.row_count += 1
        self.sent_bytes += found.size
        if len(self.rows) < HEAD:
            self.rows.append(found)


# Names


def create(team: Team, user: User | None, name: str) -> Dataset:
    """A dataset without versions. DatasetRefused where the name is none or taken."""
    name = " ".join(name.split())
    if not 0 < len(name) <= 120 or not name.isprintable():
        raise DatasetRefused("Give the dataset a name of 1 to 120 characters.")
    try:
        with transaction.atomic():
            row = Dataset.objects.create(team=team, created_by=user, name=name)
            access.audit(user, team, "create dataset", f"dataset:{row.pk}", name=name)
    except IntegrityError as problem:
        raise DatasetRefused(
            f"The team has a dataset called {name} already: choose another name."
        ) from problem
    events.notify(team.pk, "datasets")
    return row


def remove(dataset: Dataset, user: User) -> None:
    """Delete it with all its versions. DatasetRefused while a batch stands on one."""
    with transaction.atomic():
        Dataset.objects.select_for_update().get(pk=dataset.pk)
        if using := _batches(Batch.objects.filter(version__dataset=dataset), user):
            raise DatasetRefused(f"It is what {_listed(using)} ran on: delete those first.")
        before = {"name": dataset.name, "versions": dataset.versions.count()}
        about = f"dataset:{dataset.pk}"
        access.audit(user, dataset.team, "delete dataset", about, name=dataset.name, before=before)
        _delete_versions(dataset.versions.all())
        dataset.delete()
    events.notify(dataset.team_id, "datasets")


def remove_version(version: DatasetVersion, user: User) -> None:
    """Delete one version. DatasetRefused while a batch stands on it."""
    dataset = version.dataset
    with transaction.atomic():
        Dataset.objects.select_for_update().get(pk=dataset.pk)
        if using := _batches(version.batches.all(), user):
            raise DatasetRefused(f"It is what {_listed(using)} ran on: delete those first.")
        about = f"dataset:{dataset.pk}"
        before = {"number": version.number, "source": version.source, "rows": version.row_count}
        name = dataset.name
        access.audit(user, dataset.team, "delete dataset version", about, name=name, before=before)
        _delete_versions(DatasetVersion.objects.filter(pk=version.pk))
    events.notify(dataset.team_id, "datasets", f"dataset:{dataset.pk}")


def _batches(rows: QuerySet[Batch], user: User) -> list[str]:
    """What the first of them are called, to somebody who does not see the private ones of others."""
    return [row.name if access.can(user, "view", row) else "a private batch" for row in rows[:4]]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and others" if len(names) > 3 else shown


def _delete_versions(versions: Any) -> None:
    """Rows in one statement: fifty thousand of them are not fetched first."""
    DatasetRow.objects.filter(version__in=versions.values("pk"))._raw_delete("default")
    versions.delete()


# Versions


def preview(
    path: Path, source: str = "", kind: str | None = None, shape: Shape | None = None, *, whole: bool = True
) -> Preview:
    """What the file at `path` would become; only its first rows where not `whole`. DatasetRefused."""
    looked = reading.look(path, source, kind)
    found = Preview(looked, shape or looked.suggested())
    rows = reading.read(path, looked, found.shape, source)
    for one in rows if whole else islice(rows, HEAD):
        found.add(one)
    return found


def add_version(
    dataset: Dataset,
    user: User | None,
    path: Path,
    source: str,
    kind: str | None = None,
    template: Sequence[dict[str, Any]] | None = None,
    *,
    expected: str = "",
    identity: str = "",
    skip_bad: bool = True,
) -> DatasetVersion:
    """Read the file at `path`, called `source`, into a new version. `kind` None: what it looks like.

    `template` is for tables, with the columns of the right answer and of the custom_id; None: as suggested.
    Lines that cannot be used are left out and told in `problems`; without `skip_bad` the first refuses all.
    """
    looked = reading.look(path, source, kind)
    shape = looked.suggested()
    if template is not None and looked.kind == reading.TABLE:
        shape = Shape(reading.TABLE, template, expected, identity)
    size, sha256 = path.stat().st_size, _digest(path)
    version = begin(
        dataset, user, looked.kind, source, size=size, columns=looked.columns, template=shape.template
    )
    rows = reading.read(path, looked, shape, source)
    return fill(version, rows, sha256=sha256, skip_bad=skip_bad)


def begin(
    dataset: Dataset,
    user: User | None,
    kind: str,
    source: str,
    *,
    size: int,
    columns: Sequence[str] = (),
    template: Sequence[Any] = (),
) -> DatasetVersion:
    """An empty version with the next number. DatasetRefused where `size` bytes go past the team's quota."""
    forget_unfinished(dataset)
    with transaction.atomic():
        # One after the other: two that begin at once, or the last room of the quota.
        Team.objects.select_for_update(no_key=True).get(pk=dataset.team_id)
        check_room(dataset.team, size, user)
        last = dataset.versions.aggregate(last=Max("number"))["last"] or 0
        return DatasetVersion.objects.create(
            dataset=dataset,
            number=last + 1,
            kind=kind,
            source=source[-255:],
            columns=list(columns),
            template=[dict(message) for message in template],
            size_bytes=size,
            created_by=user,
        )


def fill(
    version: DatasetVersion, made: Made, *, sha256: str = "", skip_bad: bool = True, after: int = 0
) -> DatasetVersion:
    """Write what was made into the version, behind `after` rows, and complete it. Failed, all of it goes."""
    try:
        told = _write(version, made, skip_bad, after)
        if not told.row_count:
            first = told.problems[0] if told.problems else None
            why = f"No row of it can be used. Line {first.line}: {first.why}" if first else "It has no rows."
            raise DatasetRefused(why, first.line if first else None)
    except BaseException:
        _delete_versions(DatasetVersion.objects.filter(pk=version.pk))
        raise
    version.row_count, version.bad_rows = after + told.row_count, told.bad_rows
    version.problems = [{"line": one.line, "why": one.why} for one in told.problems]
    version.size_bytes = max(version.size_bytes, told.sent_bytes)
    version.sha256, version.complete = sha256, True
    version.save()
    team = version.dataset.team
    facts = {"number": version.number, "source": version.source, "rows": version.row_count}
    about, name = f"dataset:{version.dataset_id}", version.dataset.name
    access.audit(version.created_by, team, "add dataset version", about, name=name, after=facts)
    events.notify(team.pk, "datasets", f"dataset:{version.dataset_id}")
    return version


def _write(version: DatasetVersion, made: Made, skip_bad: bool, after: int) -> Preview:
    told = Preview(Looked("", version.kind), Shape(version.kind))
    for piece in _pieces(made):
        rows: list[tuple[int, Row]] = []
        for one in piece:
            told.add(one)
            if isinstance(one, Row):
                rows.append((after + told.row_count, one))
            elif not skip_bad:
                raise DatasetRefused(one.why, one.line)
        _copy(rows, version)
    return told


def _pieces(made: Made) -> Iterator[list[Row | Problem]]:
    """A few hundred at a time, fewer where they are large."""
    piece: list[Row | Problem] = []
    size = 0
    for one in made:
        piece.append(one)
        size += one.size if isinstance(one, Row) else 0
        if len(piece) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield piece
            piece, size = [], 0
    yield piece


def _copy(rows: list[tuple[int, Row]], version: DatasetVersion) -> None:
    """Write numbered rows by COPY: tens of thousands come at once."""
    with connection.cursor() as cursor, cursor.cursor.copy(f"COPY {TABLE} ({COLUMNS}) FROM STDIN") as copy:
        for number, row in rows:
            body, cells = written(row.body), written(row.cells)
            copy.write_row((version.pk, number, row.line, row.custom_id, row.url, body, cells, row.expected))


def forget_unfinished(dataset: Dataset) -> None:
    """Remove versions of the dataset that a process began and died over."""
    dead = dataset.versions.filter(complete=False, created_at__lt=Now() - FORGOTTEN)
    if dead.exists():
        _delete_versions(dead)


def copy_rows(source: DatasetVersion, target: DatasetVersion) -> int:
    """Put every row of one version into another, by one statement; how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} ({COLUMNS}) SELECT %s, {COLUMNS.partition(', ')[2]} FROM {TABLE}"
            " WHERE version_id = %s",
            [target.pk, source.pk],
        )
        return cursor.rowcount


# Room


def usage(team: Team, person: User | None = None) -> int:
    """Bytes of the team's datasets, or one person's: of each version its file's, or its rows' where more."""
    rows = DatasetVersion.objects.filter(dataset__team=team)
    held = (rows.filter(created_by=person) if person else rows).aggregate(total=Sum("size_bytes"))
    return held["total"] or 0


def most(team: Team) -> int:
    """Bytes that the team's datasets may take together."""
    return quotas.storage_most(team, "datasets")


def check_room(team: Team, wanted: int, user: User | None = None) -> None:
    """DatasetRefused when `wanted` more bytes go past the team's quota, or `user`'s, or the disk's."""
    try:
        admission.check_storage(team, user, "datasets", wanted)
    except admission.QuotaReached as reached:
        raise DatasetRefused(str(reached), status=507) from reached
    try:
        disk.brake(settings.HOME, wanted)
    except disk.DiskFull as problem:
        raise DatasetRefused(str(problem), status=507) from problem


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
