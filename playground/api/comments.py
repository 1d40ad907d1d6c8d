"""Comments on answers: reading them, adding one, changing and deleting one's own."""

from datetime import datetime
from typing import Any

from django.http import Http404
from ninja import Query, Schema
from pydantic import Field

from playground import comments
from playground.api.answers import Given
from playground.api.caller import Request, Window, fetch, paged
from playground.api.conversations import rows as conversations
from playground.api.routes import Routes
from playground.api.shapes import Page, person
from playground.models import Comment, Generation

router = Routes(tags=["conversations"])
REFUSED: dict[type[Exception], int] = {comments.CommentRefused: 422}


class CommentGiven(Given):
    """Plain text."""

    text: str = Field(min_length=1, max_length=comments.LONGEST)


class CommentShown(Schema):
    """What somebody says about an answer."""

    id: int
    answer: int
    text: str
    created_by: str | None
    created_at: datetime
    edited_at: datetime | None

    @staticmethod
    def resolve_answer(row: Comment) -> int:
        return row.generation_id

    @staticmethod
    def resolve_created_by(row: Comment) -> str | None:
        return person(row.user)


@router.reads("/answers/{pk}/comments", Page[CommentShown], of=Generation)
def listing(request: Request, pk: int, window: Query[Window]) -> Any:
    """What people say about an answer. Of a blind one nothing before one's own vote."""
    return paged(_answer(request, pk).comments.select_related("user"), window)


@router.writes("POST", "/answers/{pk}/comments", CommentShown, needs="chat", of=Generation, status=201)
def add(request: Request, pk: int, given: CommentGiven) -> Any:
    """Say something about an answer. The whole team reads it."""
    return comments.add(_answer(request, pk), request.auth.user, given.text)


@router.writes("PATCH", "/comments/{pk}", CommentShown, needs="chat", of=Comment)
def change(request: Request, pk: int, given: CommentGiven) -> Any:
    """Another text for one's own."""
    row = _comment(request, pk)
    comments.change(row, request.auth.user, given.text)
    return row


@router.writes("DELETE", "/comments/{pk}", None, needs="chat", of=Comment)
def delete(request: Request, pk: int) -> Any:
    """One's own; anybody's for administrators of the team."""
    comments.delete(_comment(request, pk), request.auth.user)


def _answer(request: Request, pk: int) -> Generation:
    row = Generation.objects.defer("vectors").select_related("turn", "column").filter(pk=pk).first()
    if row is None:
        raise Http404("no such answer")
    row.turn.conversation = fetch(request, conversations(), row.turn.conversation_id)
    if comments.hidden(row, request.auth.user):
        raise Http404("a blind answer is not told apart before the vote")
    return row


def _comment(request: Request, pk: int) -> Comment:
    row = Comment.objects.select_related("user").filter(pk=pk).first()
    if row is None:
        raise Http404("no such comment")
    row.generation = _answer(request, row.generation_id)
    return row
