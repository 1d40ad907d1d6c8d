"""A batch whose rows are answered, for tests of scores. States are set here, not lived through."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.utils import timezone

from playground import jobs, scoring
from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchResult,
    BatchScore,
    Dataset,
    DatasetRow,
    DatasetVersion,
    Job,
    Node,
    Team,
    User,
)
from playground.scorers import Scorer
from tests import chats

# An answer, or the error of a row that failed, or nothing yet.
Said = str | Exception | None


def batch(
    team: Team,
    expected: Sequence[str | None],
    *columns: Sequence[Said],
    cells: Sequence[dict[str, Any]] = (),
    name: str = "capitals",
) -> Batch:
    """Rows with these right answers, and a column for each list of answers."""
    dataset = Dataset.objects.create(team=team, name=name)
    version = DatasetVersion.objects.create(
        dataset=dataset,
        number=1,
        kind="prompts",
        row_count=len(expected),
        columns=sorted({key for row in cells for key in row}),
        complete=True,
    )
    rows = DatasetRow.objects.bulk_create(
        DatasetRow(
            version=version,
            number=number,
            line=number,
            custom_id=f"row-{number}",
            body={"messages": [{"role": "user", "content": f"Question {number}?"}]},
            cells=cells[number - 1] if cells else {},
            expected=right,
        )
        for number, right in enumerate(expected, 1)
    )
    made = Batch.objects.create(team=team, name=name, version=version)
    for position, answers in enumerate(columns):
        deployment = chats.deployment(team, f"{name} {position}")
        column = BatchColumn.objects.create(batch=made, position=position, deployment=deployment)
        for row, said in zip(rows, answers, strict=True):
            BatchItem.objects.create(column=column, row=row, number=row.number, state="waiting")
            answer(column, row.number, said)
    return made


def answer(column: BatchColumn, number: int, said: Said) -> None:
    """One attempt more at a row: what it came to."""
    if said is None:
        return
    item = BatchItem.objects.get(column=column, number=number)
    failed = isinstance(said, Exception)
    item.attempt += 1
    item.state = BatchItem.State.FAILED if failed else BatchItem.State.DONE
    item.save()
    BatchResult.objects.create(
        column=column,
        number=number,
        attempt=item.attempt,
        ok=not failed,
        text="" if failed else str(said),
        error=str(said) if failed else "",
    )


def worker() -> Node:
    """This machine, alive."""
    node, _ = Node.objects.update_or_create(
        name=settings.NODE_NAME, defaults={"heartbeat_at": timezone.now(), "accepting": True}
    )
    return node


def score(batch: Batch, scorer: Scorer, user: User) -> int:
    """Add a scorer and run its job here; its place."""
    worker()
    place = scoring.add(batch, scorer, user)
    job = finished(batch)
    assert job.state == Job.State.DONE, job.error
    return place


def finished(batch: Batch) -> Job:
    """The job that is asked for, run to its end."""
    job = scoring.newest(batch)
    assert job is not None
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def values(batch: Batch, place: int, column: int = 0) -> list[float | None]:
    """A column's scores, by row."""
    found = BatchScore.objects.filter(column=batch.columns.all()[column], scorer=place)
    return list(found.order_by("number").values_list("value", flat=True))


def whys(batch: Batch, place: int, column: int = 0) -> list[str]:
    found = BatchScore.objects.filter(column=batch.columns.all()[column], scorer=place)
    return list(found.order_by("number").values_list("why", flat=True))
