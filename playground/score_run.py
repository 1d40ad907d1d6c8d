"""One run that scores a batch: group by group, asking the models that embed and judge. See `scoring`."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from playground import asking, deployments, engine_client, events, score_judge, scorers, scoring, widgets
from playground.answers import Question
from playground.engine_client import EngineError, Target
from playground.engines.base import PATHS
from playground.kinds import CHAT, EMBEDDING
from playground.models import Batch, BatchColumn, Deployment
from playground.orm import orm
from playground.scorers import Score, Scorer
from playground.scoring import Row
from playground.work import JobFailed, Work

# Rows that are scored and kept together. Few where each asks an engine, so that little is lost with a run.
GROUPS = {"judge": 32, "similarity": 64}
GROUP = 500
AT_ONCE = 8
PAIRS = 16
EMBED_S = 60.0
TELL_S = 1.0
# How many answers an expression or schema may take too long on, before no more are tried.
DEAR = 20


class Run:
    """What one run knows while it goes on."""

    def __init__(self, batch: Batch, work: Work) -> None:
        self.batch, self.work = batch, work
        self.done = self.total = self.dear = self.broken = 0
        self.told_at = 0.0

    async def score_all(self) -> int:
        """How many scores were written. Scorers that are added meanwhile are seen to as well."""
        seen: set[int] = set()
        while new := [one for one in await orm(self._scorers) if one[0] not in seen]:
            for place, scorer in new:
                await self._score(place, scorer)
                seen.add(place)
        return self.done

    def _scorers(self) -> list[tuple[int, Scorer]]:
        self.batch.refresh_from_db(fields=["scorers"])
        return scoring.scorers_of(self.batch)

    async def _score(self, place: int, scorer: Scorer) -> None:
        columns = await orm(lambda: list(self.batch.columns.all()))
        for column in columns:
            self.total += await orm(scoring.count_due, column, place)
        for column in columns:
            self.dear = 0
            await self._score_column(place, scorer, column)

    async def _score_column(self, place: int, scorer: Scorer, column: BatchColumn) -> None:
        last = -1
        size = GROUPS.get(scorer.kind, GROUP)
        while rows := await orm(scoring.group, column, place, scorer, last, size):
            await orm(self.work.progress, scorer.title, self.done, self.total, "scores")
            scores = {row.number: score for row in rows if (score := scoring.known(scorer, row))}
            asked = [row for row in rows if row.number not in scores]
            scores |= await self._scores(scorer, asked)
            await orm(self._keep, column, place, scores)
            last = rows[-1].number

    def _keep(self, column: BatchColumn, place: int, scores: dict[int, Score]) -> None:
        scoring.keep(column, place, scores)
        self.done += len(scores)
        if time.monotonic() - self.told_at > TELL_S:
            self.told_at = time.monotonic()
            events.notify(self.batch.team_id, f"batch:{self.batch.pk}")

    async def _scores(self, scorer: Scorer, rows: Sequence[Row]) -> dict[int, Score]:
        if not scorer.task:
            return await asyncio.to_thread(self._of_texts, scorer, rows)
        if not rows:
            return {}
        targets = await orm(self._targets, scorer)
        ask = self._judged if scorer.kind == "judge" else self._embedded
        scores = await ask(scorer, rows, targets)
        self._require_some(scorer, scores)
        return scores

    def _of_texts(self, scorer: Scorer, rows: Sequence[Row]) -> dict[int, Score]:
        return {row.number: self._of_text(scorer, row) for row in rows}

    def _of_text(self, scorer: Scorer, row: Row) -> Score:
        if self.dear >= DEAR:
            return Score(None, f"It took too long on {DEAR} answers of this column: no more were tried.")
        self.work.check()
        score = scorers.score(scorer, row.answer, row.wanted or "")
        self.dear += score.dear
        return score

    # Asking engines

    def _targets(self, scorer: Scorer) -> list[Target]:
        """Where the scorer's deployment serves now; JobFailed where nowhere."""
        rows = Deployment.objects.filter(team=self.batch.team_id)
        row = rows.filter(pk=scorer.deployment).first() if scorer.deployment is not None else None
        ready = deployments.ready_replicas(row) if row else []
        try:
            targets = [engine_client.target(replica) for replica in ready]
        except EngineError as problem:
            raise JobFailed(f"{scorer.served} cannot be reached: {problem}") from problem
        if row is None or not targets:
            raise JobFailed(f"{scorer.served} does not run: start it, then score the rest.", "not_ready")
        deployments.touch(row)
        return targets

    def _require_some(self, scorer: Scorer, scores: Mapping[int, Score]) -> None:
        """A model that scored nothing twice running is not asked about the rest."""
        self.broken = 0 if any(score.value is not None for score in scores.values()) else self.broken + 1
        if self.broken > 1:
            why = next(score.why for score in scores.values())
            raise JobFailed(f"{scorer.served} scored none of the last rows: {why}")

    async def _judged(
        self, scorer: Scorer, rows: Sequence[Row], targets: Sequence[Target]
    ) -> dict[int, Score]:
        room = asyncio.Semaphore(AT_ONCE)

        async def judge(row: Row, target: Target) -> Score:
            async with room:
                return await judged(scorer, row, target)

        async with asyncio.TaskGroup() as group:
            tasks = {
                row.number: group.create_task(judge(row, targets[at % len(targets)]))
                for at, row in enumerate(rows)
            }
        return {number: task.result() for number, task in tasks.items()}

    async def _embedded(
        self, scorer: Scorer, rows: Sequence[Row], targets: Sequence[Target]
    ) -> dict[int, Score]:
        scores = {row.number: score for row in rows if (score := _empty(row))}
        rest = [row for row in rows if row.number not in scores]
        for at in range(0, len(rest), PAIRS):
            target = targets[at // PAIRS % len(targets)]
            scores |= await embedded(scorer, rest[at : at + PAIRS], target)
        return scores


async def judged(scorer: Scorer, row: Row, target: Target) -> Score:
    """What the judge says of one answer, with its own words as the reason."""
    prompt = score_judge.filled(scorer.prompt, row.question, row.wanted, row.answer)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    sampling = {"temperature": 0, "max_tokens": scorer.max_tokens}
    taken = await asking.ask(Question(target, asked, sampling, CHAT))
    if taken.error:
        return Score(None, f"{scorer.served} did not answer: {taken.error}")
    if taken.finish_reason == "length":
        return Score(None, f"The judge was cut off at {scorer.max_tokens} tokens.")
    try:
        return Score(score_judge.read(taken.text), taken.text.strip())
    except score_judge.Unreadable as problem:
        return Score(None, str(problem))


def _empty(row: Row) -> Score | None:
    if not (row.wanted or "").strip():
        return Score(None, "The expected answer is empty: it has no meaning to compare.")
    return None if row.answer.strip() else Score(0.0, "The answer is empty.")


async def embedded(scorer: Scorer, rows: Sequence[Row], target: Target) -> dict[int, Score]:
    """Scores by the cosine of answer and right answer. What fails together is asked row by row."""
    texts = [row.answer for row in rows] + [row.wanted or "" for row in rows]
    body = {"model": target.served_name, "input": texts}
    try:
        found = await engine_client.complete(target, PATHS[EMBEDDING], body, first_byte_s=EMBED_S)
        result, _ = widgets.read(EMBEDDING, body, found)
    except (EngineError, widgets.Malformed) as problem:
        if len(rows) == 1:
            return {rows[0].number: Score(None, f"{scorer.served} did not embed it: {problem}")}
        scores: dict[int, Score] = {}
        for row in rows:
            scores |= await embedded(scorer, [row], target)
        return scores
    table = result["similarity"]
    return {row.number: _near(scorer, table[at][len(rows) + at]) for at, row in enumerate(rows)}


def _near(scorer: Scorer, cosine: float | None) -> Score:
    """Opposite meanings are no worse than unrelated ones: below 0 is 0."""
    if cosine is None:
        return Score(None, "One of the vectors has no direction.")
    if scorer.least is None:
        return Score(max(0.0, cosine))
    return Score(float(cosine >= scorer.least), f"The cosine is {cosine:.3f}.")
