"""Versions of datasets for tests that ask them: rows made here, as an upload makes them."""

from collections.abc import Sequence
from typing import Any

from playground.models import Dataset, DatasetRow, DatasetVersion, Team


def version(team: Team, bodies: Sequence[str | dict[str, Any]], name: str = "questions") -> DatasetVersion:
    """A complete version with a row for each: a prompt, or a whole body."""
    dataset, _ = Dataset.objects.get_or_create(team=team, name=name)
    made = DatasetVersion.objects.create(
        dataset=dataset,
        number=dataset.versions.count() + 1,
        kind=DatasetVersion.Kind.PROMPTS,
        row_count=len(bodies),
        complete=True,
    )
    rows = [
        DatasetRow(version=made, number=at, line=at, custom_id=f"row-{at}", body=_body(one))
        for at, one in enumerate(bodies, 1)
    ]
    DatasetRow.objects.bulk_create(rows, batch_size=2000)
    return made


def _body(one: str | dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": one}]} if isinstance(one, str) else one
