"""What a public link shows of a batch or a prompt: plain values, chosen one by one.

Nothing of the team beyond the object: no addresses, no names of people, nodes, files or deployments, and no
words of an engine's or a machine's own error, which may hold any of them. Conversations: `shared_talk`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from playground import (
    batch_report,
    batch_row,
    batch_table,
    engines,
    score_tables,
    score_words,
    scoring,
)
from playground.models import Batch, BatchColumn, DatasetRow, Prompt, PromptVersion

SPREADS = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E"))


# A batch


def batch(row: Batch, after: str) -> dict[str, Any]:
    """Progress, totals, scores, and one page of rows: those after the number `after`."""
    there = _columns(row)
    parts = batch_report.progress(row, there)
    totals, failed = batch_report.totals(there), batch_report.failed(there)
    found = batch_table.page(row, there, batch_table.Wanted(after=after[:20]))
    named = [_batch_column(place, one) for place, one in enumerate(there, 1)]
    spreads = [(title, [totals[one.pk].spreads.get(name) for one in there]) for name, title in SPREADS]
    return {
        "title": row.name,
        "state": row.get_state_display(),
        "rows": row.version.row_count,
        "parameters": pairs(row.parameters),
        "columns": [
            (name, parts[one.pk], totals[one.pk], failed[one.pk])
            for name, one in zip(named, there, strict=True)
        ],
        "spreads": [(title, list(zip(named, lines, strict=True))) for title, lines in spreads],
        "percentiles": batch_report.PERCENTILES,
        "scores": _scores(row, there),
        "lines": found.lines,
        "names": named,
        "after": found.after,
        "first": not after,
        "live": row.state in Batch.OPEN,
        "seen": mark([row.state, {pk: part.states for pk, part in parts.items()}, after]),
    }


def batch_line(row: Batch, number: int) -> dict[str, Any] | None:
    """One row whole; None where there is none."""
    asked = DatasetRow.objects.filter(version=row.version_id, number=number).first()
    if asked is None:
        return None
    there = _columns(row)
    answers = batch_row.answers(row, there, asked)
    named = [_batch_column(place, one) for place, one in enumerate(there, 1)]
    return {
        "title": row.name,
        "number": number,
        "asked": batch_row.said(asked.body),
        "answers": list(zip(named, answers, strict=True)),
        "before": number - 1,
        "next": number + 1 if number < row.version.row_count else 0,
    }


def _columns(row: Batch) -> list[BatchColumn]:
    return list(row.columns.select_related("deployment__model", "deployment__configuration__environment"))


def _batch_column(place: int, column: BatchColumn) -> dict[str, Any]:
    deployment, configuration = column.deployment, column.deployment.configuration
    return {
        "at": place,
        "engine": engines.get(deployment.engine).title,
        "version": configuration.environment.version if configuration else "",
        "model": deployment.model.name,
        "adapter": column.adapter,
    }


def _scores(row: Batch, there: Sequence[BatchColumn]) -> list[score_words.Shown]:
    live = scoring.scorers_of(row)
    if not live or not there:
        return []
    baseline, others = there[0], there[1:]
    beside = score_tables.pair_sums(baseline, others) if others else {}
    return score_words.shown(live, there, baseline.pk, score_tables.sums(row, there), beside)


# A prompt


def prompt(row: Prompt, number: int | None) -> dict[str, Any]:
    """One version, the newest for None: what it says, its variables and parameters; no other one."""
    version: PromptVersion | None = row.versions.filter(number=number or row.head).first()
    return {
        "title": row.name,
        "description": row.description,
        "number": version.number if version else None,
        "newest": number is None,
        "messages": [message(one) for one in version.messages] if version else [],
        "variables": [_variable(one) for one in version.variables] if version else [],
        "parameters": pairs(version.parameters) if version else [],
        "live": False,
        "seen": mark([row.name, row.description, row.head, number]),
    }


def message(said: Mapping[str, Any]) -> dict[str, str]:
    """Its text; parts, and what stands beside the text, as JSON."""
    content = said.get("content")
    more = {name: value for name, value in said.items() if name not in ("role", "content")}
    text = content if isinstance(content, str) else "" if content is None else _dumped(content)
    return {"role": str(said.get("role", "")), "text": text, "more": _dumped(more) if more else ""}


def _variable(variable: Mapping[str, Any]) -> dict[str, Any]:
    default = variable.get("default")
    shown = default if isinstance(default, str) or default is None else _dumped(default)
    choices = ", ".join(str(one) for one in variable.get("choices") or [])
    return {**variable, "default": shown, "choices": choices}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def pairs(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, ensure_ascii=False)) for name, value in parameters.items()]


def mark(words: Any) -> str:
    """What changes whenever `words` do."""
    return hashlib.sha256(json.dumps(words, default=str, sort_keys=True).encode()).hexdigest()[:16]
