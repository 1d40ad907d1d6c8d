"""What people say about an answer: written by who may chat, read by the whole team, nobody else's to change.

One's own are edited and deleted; administrators of the team delete anybody's. Texts are plain, and shown so.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from django.utils import timezone

from playground import access, events, votes
from playground.models import Comment, Conversation, Generation, Membership, User

LONGEST = 4000
MOST = 500


class CommentRefused(Exception):
    """Nothing was kept; the text says why."""


@dataclass(frozen=True)
class Count:
    """How many an answer has, and what changes whenever one of them does."""

    n: int
    mark: str


def add(generation: Generation, user: User, text: str) -> Comment:
    conversation = generation.turn.conversation
    access.require(user, "chat", conversation.team)
    if generation.comments.count() >= MOST:
        raise CommentRefused(f"An answer takes at most {MOST} comments.")
    comment = Comment.objects.create(generation=generation, user=user, text=_checked(text))
    _audit(comment, user, "comment", after=comment.text)
    _tell(conversation)
    return comment


def change(comment: Comment, user: User, text: str) -> None:
    """Another text for one's own."""
    conversation = comment.generation.turn.conversation
    access.require(user, "chat", conversation.team)
    if comment.user_id != user.pk:
        access.audit(user, conversation.team, "refused write", f"comment:{comment.pk}")
        raise access.Refused("A comment is for who wrote it to change.")
    before, comment.text = comment.text, _checked(text)
    if before == comment.text:
        return
    Comment.objects.filter(pk=comment.pk).update(text=comment.text, edited_at=timezone.now())
    comment.refresh_from_db(fields=["edited_at"])
    _audit(comment, user, "edit comment", before=before, after=comment.text)
    _tell(conversation)


def delete(comment: Comment, user: User) -> None:
    conversation = comment.generation.turn.conversation
    access.require(user, "chat", conversation.team)
    if not may(user, conversation).delete(comment):
        access.audit(user, conversation.team, "refused write", f"comment:{comment.pk}")
        raise access.Refused("A comment is for who wrote it and the team's administrators to delete.")
    _audit(comment, user, "delete comment", before=comment.text)
    comment.delete()
    _tell(conversation)


@dataclass(frozen=True)
class May:
    """What `user` may do with comments of one conversation: asked once, however many there are."""

    user: User
    chat: bool
    administrate: bool

    def change(self, comment: Comment) -> bool:
        return self.chat and comment.user_id == self.user.pk

    def delete(self, comment: Comment) -> bool:
        return self.change(comment) or self.administrate


def may(user: User, conversation: Conversation) -> May:
    administrate = access.role_in(user, conversation.team) == Membership.Role.ADMIN
    return May(user, access.can(user, "chat", conversation.team), administrate)


def hidden(generation: Generation, user: User) -> bool:
    """Whether they would tell `user` who gave a blind answer they have not voted on."""
    return votes.hidden(generation.turn.conversation, generation.turn, user)


def counts(conversation: Conversation, user: User) -> dict[int, Count]:
    """By answer, of those that have comments and are not hidden from `user`."""
    rows = Comment.objects.filter(generation__turn__conversation=conversation)
    turns = conversation.turns.filter(inputs__blind=True)
    rows = rows.exclude(generation__turn__in=votes.hidden_of(conversation, turns, user))
    there: dict[int, list[Comment]] = {}
    for row in rows.only("pk", "generation", "edited_at").order_by("pk"):
        there.setdefault(row.generation_id, []).append(row)
    return {answer: counted(found) for answer, found in there.items()}


def counted(rows: Iterable[Comment]) -> Count:
    """Of one answer's."""
    stamps = [f"{row.pk}.{row.edited_at.timestamp() if row.edited_at else 0:.3f}" for row in rows]
    return Count(len(stamps), hashlib.sha256(" ".join(stamps).encode()).hexdigest()[:12])


def of_answers(answers: Iterable[int]) -> dict[int, list[Comment]]:
    """By answer, in the order they were written; one query."""
    found: dict[int, list[Comment]] = {}
    rows = Comment.objects.filter(generation__in=answers).select_related("user").order_by("pk")
    for comment in rows:
        found.setdefault(comment.generation_id, []).append(comment)
    return found


def _checked(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\0", "").strip()
    if not text:
        raise CommentRefused("Write something first.")
    if len(text) > LONGEST:
        raise CommentRefused(f"It has {len(text):,} characters; {LONGEST:,} is the most.")
    return text


def _audit(
    comment: Comment, user: User, action: str, before: str | None = None, after: str | None = None
) -> None:
    conversation = comment.generation.turn.conversation
    access.audit(
        user,
        conversation.team,
        action,
        f"comment:{comment.pk}",
        name=conversation.title,
        before=None if before is None else {"text": before},
        after=None if after is None else {"text": after},
        generation=comment.generation_id,
    )


def _tell(conversation: Conversation) -> None:
    events.notify(conversation.team_id, f"comments:{conversation.pk}")
