"""Blind mode: who answered is hidden, the order is each person's own, and what they found best is kept.

A message is blind from its sending (`inputs["blind"]`) until blind mode is turned on anew. A person sees who
answered it once they voted, or while blind mode is off; so a vote is final. What votes add up to: `tally`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import BinaryField, F, Func
from django.utils.crypto import constant_time_compare, salted_hmac

from playground import access, authors, conversations, events, opening
from playground.models import Conversation, Generation, Image, Turn, User, Vote

BEST, TIE, BAD = Vote.Verdict.BEST, Vote.Verdict.TIE, Vote.Verdict.BAD
COMPLETE = Generation.State.COMPLETE
ALREADY = "You have voted on this message already, and seen who answered: the first vote stays."


class VoteRefused(Exception):
    """It was not counted; the text says why."""


@dataclass(frozen=True)
class Ballot:
    """What a person may do about one message.

    `state`: "open", "waiting" for answers, "closed" where no vote is possible (`why` says so), "cast".
    """

    turn: Turn
    state: str
    why: str = ""
    answers: tuple[tuple[str, Generation], ...] = ()
    """By letter, in the order shown to this person; none while it waits or is closed."""
    vote: Vote | None = None

    @property
    def mark(self) -> str:
        """Says which answers stood there, and tells nobody which they are."""
        return _keyed(",".join(str(answer.pk) for _, answer in self.answers))[:32]

    @property
    def letters(self) -> list[str]:
        return [letter for letter, _ in self.answers]


# Order and names


def order(turn: Turn, user: User, columns: Iterable[int]) -> list[int]:
    """The keys of these columns as `user` sees their answers to `turn`: shuffled, and always the same."""
    return sorted(columns, key=lambda column: _shuffled(turn, user, column))


def letters(turn: Turn, user: User, columns: Iterable[int]) -> dict[int, str]:
    """A letter a column, from A on, in the order shown."""
    return dict(zip(order(turn, user, columns), ascii_uppercase, strict=False))


def _shuffled(turn: Turn, user: User, column: int) -> str:
    return _keyed(f"{turn.client_id}:{user.pk}:{column}")


def _keyed(text: str) -> str:
    """What nobody works out without the site's secret."""
    return salted_hmac("playground.votes", text, algorithm="sha256").hexdigest()


def hidden(conversation: Conversation, turn: Turn, user: User) -> bool:
    """Whether `user` may not yet see who answered `turn`."""
    return bool(hidden_of(conversation, [turn], user))


def hidden_of(conversation: Conversation, turns: Iterable[Turn], user: User) -> set[int]:
    """Keys of those among `turns` whose answers `user` may not yet see the makers of; one query at most."""
    blind = {turn.pk for turn in turns if turn.inputs.get("blind")} if conversation.blind else set()
    if not blind:
        return blind
    return blind - set(Vote.objects.filter(turn__in=blind, user=user).values_list("turn", flat=True))


def set_blind(conversation: Conversation, on: bool, user: User) -> None:
    """From the next message on. Turned off, all is shown; what was shown is not hidden again."""
    with transaction.atomic():
        changed = Conversation.objects.filter(pk=conversation.pk, blind=not on).update(blind=on)
        if changed and on:
            _mark_seen(conversation)
        if changed:
            conversations.record(conversation, user, "set blind", {"blind": not on}, {"blind": on})
    conversation.blind = on
    conversations.tell(conversation)


def _mark_seen(conversation: Conversation) -> None:
    """What was sent before has been open to anybody."""
    seen = list(conversation.turns.filter(inputs__blind=True))
    for turn in seen:
        turn.inputs = turn.inputs | {"blind": False}
    Turn.objects.bulk_update(seen, ["inputs"], batch_size=500)


# Voting


def ballot(turn: Turn, user: User) -> Ballot:
    """What `user` may do about `turn` now."""
    if vote := turn.votes.filter(user=user).first():
        return Ballot(turn, "cast", answers=_voted(vote), vote=vote)
    if not turn.conversation.blind:
        return Ballot(turn, "closed", "Votes are for blind mode: turn it on, then send a message.")
    if not turn.inputs.get("blind"):
        return Ballot(turn, "closed", "This message was answered while names showed, so it takes no vote.")
    answers = _answers(turn)
    if len(answers) < 2:
        return Ballot(turn, "closed", "A vote needs at least two answers beside each other.")
    named = letters(turn, user, answers)
    return _judged(turn, {named[column]: answers[column] for column in named})


def _judged(turn: Turn, answers: Mapping[str, Generation]) -> Ballot:
    if any(answer.state in Generation.LIVE for answer in answers.values()):
        return Ballot(turn, "waiting")
    broken = [letter for letter, answer in answers.items() if answer.state != COMPLETE]
    if broken:
        which = f"Answer {broken[0]} is" if len(broken) == 1 else f"Answers {', '.join(broken)} are"
        return Ballot(
            turn, "closed", f"{which} not complete, and votes are between whole answers: ask again."
        )
    return Ballot(turn, "open", answers=tuple(answers.items()))


def _voted(vote: Vote) -> tuple[tuple[str, Generation], ...]:
    """The answers it was about; those that are gone left out."""
    of = {one["generation"]: one["letter"] for one in vote.candidates}
    rows = Generation.objects.defer("vectors").in_bulk(of)
    return tuple((letter, rows[pk]) for pk, letter in of.items() if pk in rows)


def _answers(turn: Turn) -> dict[int, Generation]:
    """The newest answer of each open column, by the column's key."""
    rows = turn.generations.filter(column__closed=False).select_related(*authors.NEEDS)
    return {row.column_id: row for row in rows.defer("vectors").order_by("pk")}


def cast(turn: Turn, user: User, choice: str, mark: str | None = None) -> Vote:
    """Keep what `user` found: the letter of the best answer, "tie" or "bad" for all. It cannot be changed.

    `mark`: that of the ballot they saw; refused where other answers stand there by now.
    """
    access.require(user, "chat", turn.conversation.team)
    asked = ballot(turn, user)
    _require_open(asked, mark)
    chosen = dict(asked.answers).get(choice)
    if chosen is None and choice not in (TIE, BAD):
        raise VoteRefused("Choose an answer, a tie, or all bad.")
    vote = Vote(team=turn.conversation.team, turn=turn, user=user, verdict=BEST if chosen else choice)
    vote.prompt_digest = prompt_digest(turn)
    vote.candidates = [_candidate(letter, answer, answer is chosen) for letter, answer in asked.answers]
    if chosen:
        vote.column, vote.configuration = chosen.column, chosen.configuration
    try:
        with transaction.atomic():
            vote.save(force_insert=True)
    except IntegrityError as problem:
        raise VoteRefused(ALREADY) from problem
    events.notify(vote.team_id, "votes")
    return vote


def _require_open(asked: Ballot, mark: str | None) -> None:
    if asked.state == "cast":
        raise VoteRefused(ALREADY)
    if asked.state == "waiting":
        raise VoteRefused("An answer is still being written. Vote when all are complete.")
    if asked.state != "open":
        raise VoteRefused(asked.why)
    if mark is not None and not constant_time_compare(mark, asked.mark):
        raise VoteRefused("Other answers stand here by now. Look at them, then vote.")


def _candidate(letter: str, answer: Generation, chosen: bool) -> dict[str, Any]:
    author = authors.of(answer)
    return {
        "letter": letter,
        "column": answer.column_id,
        "generation": answer.pk,
        "configuration": author.configuration.pk if author.configuration else None,
        "digest": author.configuration.digest if author.configuration else "",
        "name": author.deployment or "a deployment that is gone",
        "adapter": author.adapter,
        "chosen": chosen,
    }


# What was asked


def prompt_digest(turn: Turn) -> str:
    """SHA-256 of all that people had asked up to `turn`: system prompt, messages, pictures by their bytes."""
    way = _way(turn)
    keys = {key for one in way for key in one.inputs.get("images", [])}
    digest = Func(F("data"), function="sha256", output_field=BinaryField())
    rows = Image.objects.filter(pk__in=keys).annotate(digest=digest).values_list("pk", "digest")
    known = {pk: bytes(found).hex() for pk, found in rows}
    asked = {
        "task": turn.conversation.task,
        "system": turn.conversation.system_prompt,
        "said": [_said(one, known) for one in way],
        **opening.beside(turn.conversation),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _said(turn: Turn, pictures: Mapping[int, str]) -> dict[str, Any]:
    shown = [pictures.get(key, "") for key in turn.inputs.get("images", [])]
    return {"text": turn.text.strip(), "query": turn.inputs.get("query", ""), "images": shown}


def _way(turn: Turn) -> list[Turn]:
    """The messages from the first one to `turn`."""
    known = {row.pk: row for row in turn.conversation.turns.only("parent", "text", "inputs")}
    way: list[Turn] = []
    at: int | None = turn.pk
    while at is not None and (row := known.pop(at, None)):
        way.append(row)
        at = row.parent_id
    return way[::-1]
