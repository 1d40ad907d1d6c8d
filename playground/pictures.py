"""Pictures attached to messages: checked and kept when they come, told to an engine as data: URLs.

Messages and the requests that are kept name a picture "image:7"; its bytes lie in its row alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction
from django.db.models import Sum

from playground import images
from playground.models import Conversation, Image, Turn, User

BYTES = 4 << 20
MOST = 4
# Each answer is asked with every picture of the conversation.
TOGETHER = 32 << 20
PREFIX = "image:"


class PictureRefused(Exception):
    """It is not kept; the text says why."""


def add(conversation: Conversation, name: str, raw: bytes, user: User) -> Image:
    """Keep a picture for this person's next message there. `name` is what people call the file."""
    name = name[:80] or "The picture"
    try:
        kind, width, height = _measured(raw)
        with transaction.atomic():
            # One at a time, so that two that come together are counted.
            Conversation.objects.select_for_update().get(pk=conversation.pk)
            _require_room(conversation, len(raw), user)
            return Image.objects.create(
                conversation=conversation,
                kind=kind,
                width=width,
                height=height,
                size_bytes=len(raw),
                data=raw,
                created_by=user,
            )
    except ValueError as problem:
        raise PictureRefused(f"{name} was not attached: {problem}.") from problem


def _measured(raw: bytes) -> tuple[str, int, int]:
    if len(raw) > BYTES:
        raise ValueError(f"it has more than {BYTES >> 20} MiB")
    return images.measured(raw)


def _require_room(conversation: Conversation, size: int, user: User) -> None:
    if len(waiting(conversation, user)) >= MOST:
        raise ValueError(f"{MOST} pictures a message is the most")
    held = conversation.images.aggregate(size=Sum("size_bytes"))["size"] or 0
    if held + size > TOGETHER:
        raise ValueError(
            f"this conversation's pictures would have more than {TOGETHER >> 20} MiB; begin another one"
        )


def waiting(conversation: Conversation, user: User) -> list[Image]:
    """What this person attached there and has not sent."""
    return list(conversation.images.filter(created_by=user, sent=False).defer("data"))


def discard(image: Image) -> None:
    """Take a picture away that was not sent; one that was stays with its message."""
    Image.objects.filter(pk=image.pk, sent=False).delete()


def chosen(conversation: Conversation, wanted: Iterable[str], user: User) -> list[int]:
    """Keys of those that wait there and that a form names."""
    keys = {int(key) for key in wanted if key.isascii() and key.isdigit() and len(key) <= 18}
    return [image.pk for image in waiting(conversation, user) if image.pk in keys] if keys else []


def mark_sent(keys: Iterable[int]) -> None:
    Image.objects.filter(pk__in=keys).update(sent=True)


def of_turns(turns: Iterable[Turn]) -> dict[int, Image]:
    """The pictures of these messages by key, without their bytes."""
    keys = {key for turn in turns for key in turn.inputs.get("images", [])}
    return Image.objects.defer("data").in_bulk(keys) if keys else {}


def parts(keys: Iterable[int]) -> list[dict[str, Any]]:
    """Parts of a message's content, by name."""
    return [{"type": "image_url", "image_url": {"url": f"{PREFIX}{key}"}} for key in keys]


def sketched(turn: Turn) -> str | list[dict[str, Any]]:
    """A message's content as code shows it: where its pictures go, without their bytes."""
    count = len(turn.inputs.get("images", []))
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}
    return [{"type": "text", "text": turn.text}, *[part] * count] if count else turn.text


def inlined(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request with the pictures themselves in place of their names."""
    named = {url: url.removeprefix(PREFIX) for url in _urls(body) if url.startswith(PREFIX)}
    if not named:
        return dict(body)
    rows = Image.objects.in_bulk([int(key) for key in named.values()])
    known = {f"{PREFIX}{key}": images.data_url(row.kind, bytes(row.data)) for key, row in rows.items()}
    return {**body, "messages": [_filled(message, known) for message in body["messages"]]}


def _urls(body: Mapping[str, Any]) -> list[str]:
    contents = [message.get("content") for message in body.get("messages", [])]
    return [
        part["image_url"]["url"]
        for content in contents
        if isinstance(content, list)
        for part in content
        if part["type"] == "image_url"
    ]


def _filled(message: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """A message with its pictures; one whose row is gone keeps its name, which the policy refuses."""
    if not isinstance(message["content"], list):
        return dict(message)
    content = [
        {**part, "image_url": {"url": known.get(part["image_url"]["url"], part["image_url"]["url"])}}
        if part["type"] == "image_url"
        else part
        for part in message["content"]
    ]
    return {**message, "content": content}
