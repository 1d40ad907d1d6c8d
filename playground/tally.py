"""What votes add up to: who won against whom, how often, and how sure that is. Definitions: README.

In each figure a person's votes on one prompt count once, the last of them. Ties and "all bad" stand apart;
shares and intervals are over decided votes only, and there are none below LEAST.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from playground import engines, statistics
from playground.models import Configuration, Team, Vote

LEAST = 10
CONFIDENCE = 0.95


@dataclass
class Score:
    """One side's votes."""

    won: int = 0
    lost: int = 0
    ties: int = 0
    bad: int = 0

    @property
    def decided(self) -> int:
        return self.won + self.lost

    @property
    def votes(self) -> int:
        return self.decided + self.ties + self.bad

    @property
    def share(self) -> float | None:
        """Of the decided ones, how many it won; None under LEAST."""
        return self.won / self.decided if self.decided >= LEAST else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's, at CONFIDENCE, in 0…1; None under LEAST."""
        if self.decided < LEAST:
            return None
        return statistics.wilson(self.won, self.decided, CONFIDENCE)

    @property
    def bar(self) -> tuple[float, float] | None:
        """Where the interval begins and how long it is, in hundredths, for drawing."""
        if self.interval is None:
            return None
        low, high = self.interval
        return round(100 * low, 2), round(100 * (high - low), 2)


@dataclass(frozen=True)
class Side:
    """What votes are for: a configuration, and the adapter of it that answered."""

    key: str
    name: str
    adapter: str = ""
    configuration: Configuration | None = None
    """None where it was never known, or is gone."""

    @property
    def engine(self) -> str:
        if self.configuration is None:
            return ""
        return f"{engines.get(self.configuration.engine).title} {self.configuration.environment.version}"

    @property
    def options(self) -> str:
        """What was set, in words."""
        if self.configuration is None:
            return ""
        chosen = [f"{name} {_word(value)}" for name, value in self.configuration.options.items()]
        return ", ".join(chosen) or "engine defaults"


def _word(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Tally:
    """All of a team's votes. `pairs`: those who stood against each other; the score is the first one's."""

    sides: list[tuple[Side, Score]]
    pairs: list[tuple[Side, Side, Score]]
    votes: int


def of_team(team: Team) -> Tally:
    """The most decided first, and of a pair the one that won more often."""
    votes = list(Vote.objects.filter(team=team).order_by("created_at", "pk"))
    sides = _sides(votes)
    alone, against = _scores(votes, _key)
    rows = [(sides[key], score) for key, score in alone.items()]
    pairs = [_winner_first(sides[one], sides[other], score) for (one, other), score in against.items()]
    return Tally(
        sorted(rows, key=lambda row: _rank(row[1])),
        sorted(pairs, key=lambda pair: _rank(pair[2])),
        len(votes),
    )


def _rank(score: Score) -> tuple[int, float, int]:
    return -score.decided, -(score.share or 0), -score.votes


def _winner_first(one: Side, other: Side, score: Score) -> tuple[Side, Side, Score]:
    if score.won >= score.lost:
        return one, other, score
    return other, one, Score(score.lost, score.won, score.ties, score.bad)


def evidence(configuration: Configuration, team: Team) -> dict[str, Any]:
    """{"votes", "decided", "won", "ties", "bad", "share", "low", "high"}; the last three None under LEAST.

    Of all its adapters together: what is promoted serves them all.
    """
    held = Vote.objects.filter(team=team, candidates__contains=[{"digest": configuration.digest}])
    scores, _ = _scores(held.order_by("created_at", "pk"), _base)
    score = scores.get(configuration.digest, Score())
    low, high = score.interval or (None, None)
    counted = {"votes": score.votes, "decided": score.decided, "won": score.won}
    return counted | {"ties": score.ties, "bad": score.bad, "share": score.share, "low": low, "high": high}


# Counting

Candidate = Mapping[str, Any]
Key = Callable[[Candidate], str]
Counted = dict[tuple[int, str], Vote]


def _base(candidate: Candidate) -> str:
    return str(candidate["digest"] or f"name:{candidate['name']}")


def _key(candidate: Candidate) -> str:
    return f"{_base(candidate)}:{candidate['adapter']}"


def _scores(votes: Iterable[Vote], key: Key) -> tuple[dict[str, Score], dict[tuple[str, str], Score]]:
    """By side, and by pair of sides. `votes` come oldest first, so that the last of a prompt stands."""
    alone: dict[str, Counted] = defaultdict(dict)
    against: dict[tuple[str, str], Counted] = defaultdict(dict)
    for vote in votes:
        found = sorted({key(candidate) for candidate in vote.candidates})
        # Where one stood against itself nobody can win.
        if len(found) < 2:
            continue
        asked = vote.user_id, vote.prompt_digest
        for one in found:
            alone[one][asked] = vote
        for pair in combinations(found, 2):
            against[pair][asked] = vote
    of_pairs = {(one, other): _score(held, key, one, other) for (one, other), held in against.items()}
    return {one: _score(held, key, one) for one, held in alone.items()}, of_pairs


def _score(counted: Counted, key: Key, one: str, other: str = "") -> Score:
    """Of `one`, against `other` alone where it is named: what a third one won says nothing between them."""
    score = Score()
    for vote in counted.values():
        winner = next((key(candidate) for candidate in vote.candidates if candidate["chosen"]), "")
        if vote.verdict == Vote.Verdict.TIE:
            score.ties += 1
        elif vote.verdict == Vote.Verdict.BAD:
            score.bad += 1
        elif winner == one:
            score.won += 1
        elif not other or winner == other:
            score.lost += 1
    return score


def _sides(votes: Iterable[Vote]) -> dict[str, Side]:
    """Who stood in them, by key, named as when they last did."""
    found = {_key(candidate): candidate for vote in votes for candidate in vote.candidates}
    rows = Configuration.objects.filter(digest__in={candidate["digest"] for candidate in found.values()})
    known = {row.digest: row for row in rows.select_related("model", "environment")}
    return {
        key: Side(key, candidate["name"], candidate["adapter"], known.get(candidate["digest"]))
        for key, candidate in found.items()
    }
