"""Blind mode and votes: which answer is best before one knows whose it is; what votes add up to."""

from datetime import datetime
from typing import Any

from ninja import Query, Schema
from pydantic import Field

from playground import authors, tally, votes
from playground.api.answers import Given
from playground.api.caller import Request, Where, team_of
from playground.api.conversations import rows as conversations
from playground.api.conversations import turn_of, writable
from playground.api.routes import Routes
from playground.api.shapes import ConversationShown
from playground.models import Conversation, Generation, Turn

router = Routes(tags=["votes"])
REFUSED: dict[type[Exception], int] = {votes.VoteRefused: 409}


class Blind(Given):
    """Whether who answers is hidden from the next message on."""

    on: bool


class Choice(Given):
    """What was found."""

    choice: str = Field(max_length=8, description="The letter of the best answer, or tie, or bad for all.")
    mark: str | None = Field(
        None,
        max_length=64,
        description="Of the ballot as it was read: refused where other answers stand now.",
    )


class BallotAnswer(Schema):
    """One answer in the order shown to the caller; whose it is shows once they have voted."""

    letter: str
    text: str
    reasoning: str
    answer: int | None
    column: int | None
    name: str | None


class VoteShown(Schema):
    """One's own vote; it is final."""

    verdict: str = Field(description="best, tie or bad.")
    letter: str | None
    created_at: datetime


class BallotShown(Schema):
    """What the caller may do about one message."""

    message: int
    state: str = Field(description="open, waiting for answers, closed (`why` says so), cast.")
    why: str
    mark: str
    answers: list[BallotAnswer]
    vote: VoteShown | None


class ScoreOfVotes(Schema):
    """Votes of one side; its share of decided ones with Wilson's interval at 95 %, null under ten."""

    won: int
    lost: int
    ties: int
    bad: int
    share: float | None
    low: float | None
    high: float | None


class SideShown(Schema):
    """What was voted on: a configuration and the adapter of it that answered."""

    name: str
    adapter: str
    engine: str
    configuration: str | None = Field(description="Its digest.")


class SideScored(SideShown):
    """With all its votes."""

    score: ScoreOfVotes


class PairScored(Schema):
    """Two that stood against each other; the score is the first one's."""

    one: SideShown
    other: SideShown
    score: ScoreOfVotes


class TallyShown(Schema):
    """All of the team's votes; of a person and a prompt the last one counts."""

    votes: int
    sides: list[SideScored]
    pairs: list[PairScored]


@router.writes("PUT", "/conversations/{pk}/blind", ConversationShown, needs="chat", of=Conversation)
def blind(request: Request, pk: int, given: Blind) -> Any:
    """Hide who answers, from the next message on, or show it again."""
    row = writable(request, pk)
    votes.set_blind(row, given.on, request.auth.user)
    return conversations().get(pk=pk)


@router.reads("/messages/{pk}/ballot", BallotShown, of=Turn)
def ballot(request: Request, pk: int) -> Any:
    """A message's answers by letter, and whether the caller may vote on them."""
    return _ballot(request, turn_of(request, pk))


@router.writes("POST", "/messages/{pk}/vote", BallotShown, needs="chat", of=Turn, status=201)
def vote(request: Request, pk: int, given: Choice) -> Any:
    """Say which is best. It cannot be changed; the answer tells whose they are."""
    row = turn_of(request, pk)
    votes.cast(row, request.auth.user, given.choice, given.mark)
    return _ballot(request, row)


@router.reads("/votes", TallyShown)
def team_votes(request: Request, where: Query[Where]) -> Any:
    """Every configuration of the team that was voted on, and how each pair did."""
    found = tally.of_team(team_of(request, where))
    return {
        "votes": found.votes,
        "sides": [_side(side) | {"score": _score(score)} for side, score in found.sides],
        "pairs": [
            {"one": _side(one), "other": _side(other), "score": _score(score)}
            for one, other, score in found.pairs
        ],
    }


def _ballot(request: Request, row: Turn) -> dict[str, Any]:
    found = votes.ballot(row, request.auth.user)
    names = ("state", "why", "mark")
    told = {name: getattr(found, name) for name in names}
    answers = [_answer(letter, answer, told=found.vote is not None) for letter, answer in found.answers]
    return {"message": row.pk, **told, "answers": answers, "vote": _vote(found)}


def _answer(letter: str, answer: Generation, *, told: bool) -> dict[str, Any]:
    shown = {"letter": letter, "text": answer.text, "reasoning": answer.reasoning}
    hidden: dict[str, Any] = {"answer": None, "column": None, "name": None}
    if not told:
        return shown | hidden
    name = authors.of(answer).deployment
    return shown | {"answer": answer.pk, "column": answer.column_id, "name": name}


def _vote(found: votes.Ballot) -> dict[str, Any] | None:
    vote = found.vote
    if vote is None:
        return None
    letter = next((one["letter"] for one in vote.candidates if one["chosen"]), None)
    return {"verdict": vote.verdict, "letter": letter, "created_at": vote.created_at}


def _side(side: tally.Side) -> dict[str, Any]:
    digest = side.configuration.digest if side.configuration else None
    return {"name": side.name, "adapter": side.adapter, "engine": side.engine, "configuration": digest}


def _score(score: tally.Score) -> dict[str, Any]:
    low, high = score.interval or (None, None)
    counted = {name: getattr(score, name) for name in ("won", "lost", "ties", "bad", "share")}
    return counted | {"low": low, "high": high}
