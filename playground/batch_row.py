"""One row of a batch, whole: what was asked, and what every column made of it in each attempt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playground import batch_live, batch_table
from playground.figures import Figures, figures
from playground.models import Batch, BatchColumn, BatchItem, BatchResult, BatchScore, DatasetRow

SHOWN = 20_000


@dataclass(frozen=True)
class Said:
    """A message of a request, as it is shown."""

    role: str
    text: str


@dataclass(frozen=True)
class RowAnswer:
    """A column's answer to one row: the last result, those before it, scores with their scorer's words."""

    column: BatchColumn
    item: BatchItem | None
    result: BatchResult | None
    earlier: list[BatchResult]
    scores: list[tuple[str, BatchScore]]
    # {"content", "reasoning"} so far, of a row that is being answered now.
    writing: dict[str, str] | None = None

    @property
    def claimed(self) -> bool:
        """It is being answered now."""
        return self.item is not None and self.item.state == BatchItem.State.CLAIMED

    @property
    def figures(self) -> Figures | None:
        return figures(self.result) if self.result and self.result.ok else None

    @property
    def response(self) -> str:
        """The engine's own answer where there is no text, as JSON cut to what a page can show."""
        kept = self.result.response if self.result else None
        return "" if kept is None else json.dumps(kept, ensure_ascii=False, indent=1)[:SHOWN]


def answers(batch: Batch, columns: Sequence[BatchColumn], row: DatasetRow) -> list[RowAnswer]:
    """What every column made of a row, whole."""
    pks = [column.pk for column in columns]
    items = {item.column_id: item for item in BatchItem.objects.filter(column__in=pks, number=row.number)}
    results: dict[int, list[BatchResult]] = {pk: [] for pk in pks}
    rows = BatchResult.objects.filter(column__in=pks, number=row.number).order_by("-attempt")
    for result in rows.select_related("replica__node", "configuration"):
        results[result.column_id].append(result)
    scores, titles = batch_table.scores_of(pks, [row.number]), dict(batch_table.titles_of(batch))
    return [
        RowAnswer(
            column,
            items.get(column.pk),
            results[column.pk][0] if results[column.pk] else None,
            results[column.pk][1:],
            [
                (titles[at], score)
                for at, score in scores.get((row.number, column.pk), {}).items()
                if at in titles
            ],
            _writing(items.get(column.pk)),
        )
        for column in columns
    ]


def _writing(item: BatchItem | None) -> dict[str, str] | None:
    """What its engine has written so far; asking for it says that somebody watches."""
    if item is None or item.state != BatchItem.State.CLAIMED:
        return None
    return batch_live.watch(item.column_id, item.number)


def said(body: dict[str, Any]) -> list[Said]:
    """A request's messages; of other tasks what is asked."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return [Said("asked", _whole_text(body.get(name))) for name in batch_table.ASKED if body.get(name)]
    return [
        Said(str(one.get("role") or ""), _whole_text(one.get("content")))
        for one in messages
        if isinstance(one, dict)
    ]


def _whole_text(content: Any) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "\n".join(str(part.get("text") or f"[{part.get('type', 'part')}]") for part in content)
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
