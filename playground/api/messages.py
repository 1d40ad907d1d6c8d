"""Messages of a conversation: another wording, another asking, how answers differ; the whole as a file."""

import uuid
from typing import Any, Literal

from asgiref.sync import async_to_sync
from ninja import Query, Schema
from pydantic import Field

from playground import (
    beside,
    export_texts,
    exports,
    generation,
    history,
    margins,
    thread,
    votes,
)
from playground.api.answers import Given, Problem
from playground.api.caller import BIGGEST, Request, fetch
from playground.api.conversations import message_shown, turn_of
from playground.api.conversations import rows as conversations
from playground.api.prompts import FileShown
from playground.api.routes import Routes
from playground.api.shapes import MessageShown
from playground.beside import Beside
from playground.models import Conversation, Model, Turn

router = Routes(tags=["conversations"])
REFUSED: dict[type[Exception], int] = {exports.ExportRefused: 409}
UNSEEN = "Vote on this message first: figures would tell who answered."


class Edited(Given):
    """What to say instead."""

    text: str = Field(max_length=generation.CHARACTERS)
    query: str | None = Field(None, max_length=generation.CHARACTERS, description="Of a rerank.")
    once: str = Field("", max_length=generation.CLIENT_ID, description="Sent twice with the same, it is one.")


class Two(Schema):
    """Which columns' answers, by id; absent: the first ones."""

    a: int | None = Field(None, ge=1, le=BIGGEST)
    b: int | None = Field(None, ge=1, le=BIGGEST)


class Differing(Two):
    """And how they are compared."""

    by: Literal["word", "token"] = Field("word", description="token asks the engines for theirs.")
    within: float = Field(margins.TIE_NATS, ge=0, le=margins.WIDEST, description="Nats; as likely is a tie.")


class PieceShown(Schema):
    """A run of text: in both (same), only in a's answer (gone), only in b's (new)."""

    kind: str
    text: str


class PartingShown(Schema):
    """Where two texts begin to differ, counted from 1, and what stands there in each."""

    character: int
    word: int
    first: list[str]


class SideOfParting(Schema):
    """One column where the answers part: its token, and by how much the engine preferred it."""

    token: str
    margin: float | None = Field(description="Its log-probability above the other's, in nats.")
    why: str


class DivergenceShown(Schema):
    """What was measured where the answers part."""

    verdict: str = Field(description="tie, no tie, one-sided or n/a.")
    why: str
    at: int | None = Field(description="The token, from 1.")
    sides: list[SideOfParting]


class DifferenceShown(Schema):
    """How two answers to one message differ."""

    a: int
    b: int
    by: str = Field(description="word or token; `note` says why not by token.")
    same: bool
    why: str = Field(description="Why their texts name no parting.")
    note: str
    pieces: list[PieceShown]
    uncompared: int = Field(description="Parts at their ends that were too many to compare.")
    parting: PartingShown | None
    divergence: DivergenceShown | None = Field(
        description="Null until it is measured: POST the same address."
    )


@router.reads("/conversations/{pk}/export", FileShown, of=Conversation)
def export(
    request: Request, pk: int, format: Literal["json", "csv", "md"] = "json", every: bool = False
) -> Any:
    """The branch that the conversation shows as a file, or with `every` all branches."""
    row = fetch(request, conversations(), pk)
    document = exports.document(row, request.auth.user, None if every else thread.show(row))
    return {"name": exports.name(row, format), "text": export_texts.AS[format](document)}


@router.writes("POST", "/messages/{pk}/edit", MessageShown, needs="chat", of=Turn, status=201)
def edit(request: Request, pk: int, given: Edited) -> Any:
    """Say something else instead, beside what was said; both stay."""
    row, user = turn_of(request, pk, write=True), request.auth.user
    reranks = row.conversation.task == Model.Task.RERANK and given.query is not None
    inputs = row.inputs | ({"query": given.query} if reranks else {})
    once = given.once or uuid.uuid4().hex
    made = generation.send(row.conversation, given.text, once, user, row.parent, history.before(row), inputs)
    return message_shown(made.pk, user)


@router.writes("POST", "/messages/{pk}/alone", MessageShown, needs="chat", of=Turn, status=201)
def alone(request: Request, pk: int) -> Any:
    """Another answer in every column, one column after the other: figures that share no hardware."""
    row, user = turn_of(request, pk, write=True), request.auth.user
    if votes.hidden(row.conversation, row, user):
        raise Problem(409, "refused", UNSEEN)
    generation.time_alone(row, user)
    return message_shown(row.pk, user)


@router.reads("/messages/{pk}/difference", DifferenceShown, of=Turn)
def difference(request: Request, pk: int, asked: Query[Differing]) -> Any:
    """How two of a message's answers differ."""
    return _difference(_pair(request, turn_of(request, pk), asked), asked)


@router.writes("POST", "/messages/{pk}/difference", DifferenceShown, needs="chat", of=Turn)
def measure(request: Request, pk: int, asked: Query[Differing]) -> Any:
    """Ask both engines again for the log-probabilities where two answers part; kept with them."""
    pair = _pair(request, turn_of(request, pk, write=True), asked)
    async_to_sync(beside.measured)(*pair)
    return _difference(pair, asked)


def _pair(request: Request, row: Turn, asked: Two) -> tuple[Beside, Beside]:
    if votes.hidden(row.conversation, row, request.auth.user):
        raise Problem(409, "refused", UNSEEN)
    found = beside.pair(beside.answers(row), asked.a, asked.b)
    if found is None or any(one.live for one in found):
        raise Problem(409, "refused", "There are not two whole answers to this message.")
    return found


def _difference(pair: tuple[Beside, Beside], asked: Differing) -> dict[str, Any]:
    found = async_to_sync(beside.compared)(*pair, asked.by, asked.within)
    return {
        "a": found.a.column,
        "b": found.b.column,
        "by": found.by,
        "same": found.difference.identical,
        "why": found.why,
        "note": found.note,
        "pieces": found.difference.pieces,
        "uncompared": found.difference.uncompared,
        "parting": found.parting,
        "divergence": found.divergence,
    }
