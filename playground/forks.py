"""A conversation's shown branch as a new one of somebody's own, which goes on as the first would have."""

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import Model as DjangoModel

from playground import access, conversations, pictures, thread, votes
from playground.models import Column, Conversation, Generation, Image, Turn, User

TURNS = 2000
SUFFIX = " (fork)"
BATCH = 200
UNSEEN = (
    "A message here still waits for your blind vote, and a fork would show who answered. Vote first, or turn "
    "blind off."
)


class ForkRefused(Exception):
    """Nothing was made; the text says why."""


def fork(
    conversation: Conversation, user: User, branch: thread.Shown, upto: int | None = None
) -> Conversation:
    """A new conversation of `user` with what `branch` shows, up to and with the message `upto`."""
    access.require(user, "chat", conversation.team)
    turns = _until([shown.turn for shown in branch.turns], upto)
    answers = _answers(branch, turns)
    _require_still(turns, answers)
    if votes.hidden_of(conversation, turns, user):
        raise ForkRefused(UNSEEN)
    with transaction.atomic():
        made = _conversation(conversation, user)
        columns = _copied(conversation.columns.all(), conversation=made)
        images = _images(turns, made)
        said = _turns(turns, made, images)
        _answered(answers, columns, said, images)
        conversations.record(made, user, "fork conversation", None, {"from": conversation.pk})
        conversations.tell(made)
    return made


def _until(turns: list[Turn], upto: int | None) -> list[Turn]:
    if upto is None:
        return turns
    for place, turn in enumerate(turns, 1):
        if turn.pk == upto:
            return turns[:place]
    raise ForkRefused("That message is not on the branch shown. Reload the page.")


def _answers(branch: thread.Shown, turns: list[Turn]) -> list[Generation]:
    """Those shown, and those that their histories lead through; oldest first."""
    on_way = {turn.pk for turn in turns}
    rows = Generation.objects.filter(turn__in=on_way)
    before = dict(rows.values_list("pk", "previous"))
    wanted: set[int] = set()
    for shown in branch.turns:
        for answer in shown.answers:
            at: int | None = answer.generation.pk
            while at in before and at not in wanted:
                wanted.add(at)
                at = before[at]
    return list(rows.filter(pk__in=wanted).order_by("pk"))


def _require_still(turns: list[Turn], answers: list[Generation]) -> None:
    if not turns:
        raise ForkRefused("Nothing was said here yet: begin a new conversation.")
    if len(turns) > TURNS:
        raise ForkRefused(f"The branch has {len(turns):,} messages; {TURNS:,} is the most that is copied.")
    if any(answer.state in Generation.LIVE for answer in answers):
        raise ForkRefused("An answer is still being written. Wait for it, or stop it first.")


# Copies


def _conversation(row: Conversation, user: User) -> Conversation:
    return Conversation.objects.create(
        team=row.team,
        created_by=user,
        task=row.task,
        title=row.title[: 200 - len(SUFFIX)] + SUFFIX,
        system_prompt=row.system_prompt,
        prompt_version_id=row.prompt_version_id,
        prompt_values=row.prompt_values,
        parameters=row.parameters,
        together=row.together,
        blind=row.blind,
        sharing=access.kept_private(row),
    )


def _values(row: DjangoModel, but: Iterable[str] = ()) -> dict[str, Any]:
    """What a row holds, by column, without its key."""
    left = {"id", *but}
    return {f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields if f.attname not in left}


def _copied(columns: Iterable[Column], conversation: Conversation) -> dict[int, Column]:
    """By the key of the first."""
    rows = list(columns)
    new = [Column(**_values(row) | {"conversation_id": conversation.pk}) for row in rows]
    return {row.pk: made for row, made in zip(rows, Column.objects.bulk_create(new), strict=True)}


def _images(turns: list[Turn], conversation: Conversation) -> dict[int, int]:
    """Old key → new key. One at a time: their bytes are not held together."""
    made: dict[int, int] = {}
    for key in pictures.of_turns(turns):
        row = Image.objects.get(pk=key)
        made[key] = Image.objects.create(**_values(row) | {"conversation_id": conversation.pk}).pk
    return made


def _turns(turns: list[Turn], conversation: Conversation, images: dict[int, int]) -> dict[int, Turn]:
    """By the key of the first; each after the copy of the one before."""
    new = []
    for turn in turns:
        values = _values(turn) | {"conversation_id": conversation.pk, "parent_id": None}
        shown = [images[key] for key in turn.inputs.get("images", []) if key in images]
        # Who forks has seen who answered, so that no vote on the copy would be blind.
        values["inputs"] = turn.inputs | {"blind": False}
        if "images" in turn.inputs:
            values["inputs"]["images"] = shown
        new.append(Turn(**values))
    made = Turn.objects.bulk_create(new, batch_size=BATCH)
    for before, row, old in zip([None, *made], made, turns, strict=False):
        row.parent, row.created_at = before, old.created_at
    Turn.objects.bulk_update(made, ["parent", "created_at"], batch_size=BATCH)
    return {old.pk: row for old, row in zip(turns, made, strict=True)}


def _answered(
    answers: list[Generation], columns: dict[int, Column], turns: dict[int, Turn], images: dict[int, int]
) -> None:
    """Copies in the same order, each continuing the copy of what it continued."""
    new = []
    for row in answers:
        values = _values(
            row, but=("previous_id", "after_id", "owner", "lease_expires_at", "stop_requested_at")
        )
        values |= {"turn_id": turns[row.turn_id].pk, "column_id": columns[row.column_id].pk}
        new.append(Generation(**values | {"request": _renamed(row.request, images)}))
    made = Generation.objects.bulk_create(new, batch_size=BATCH)
    by_old = {old.pk: row for old, row in zip(answers, made, strict=True)}
    for old in answers:
        row = by_old[old.pk]
        row.previous, row.created_at = by_old.get(old.previous_id or 0), old.created_at
    Generation.objects.bulk_update(made, ["previous", "created_at"], batch_size=BATCH)


def _renamed(value: Any, images: dict[int, int]) -> Any:
    """A kept request with the new names of its pictures."""
    if isinstance(value, list):
        return [_renamed(one, images) for one in value]
    if not isinstance(value, dict):
        return value
    names = {f"{pictures.PREFIX}{old}": f"{pictures.PREFIX}{new}" for old, new in images.items()}
    if isinstance(value.get("url"), str):
        return value | {"url": names.get(value["url"], value["url"])}
    return {key: _renamed(one, images) for key, one in value.items()}
