"""The WebSocket of a page: answers as they are written, notices, and Stop. Who may hear and do what is asked
anew with each message, and every few seconds for those who only listen.

A socket keeps offsets, not queues: its own task sends what it lacks when the last frame has left, so that a
slow one gets fewer, longer frames and holds up nobody.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.db import Error as DatabaseTrouble
from django.http.cookie import parse_cookie

from playground import access, generation, sharing_rules
from playground.feeds import KINDS, Feed, feeds
from playground.leases import BOOT_ID
from playground.models import Conversation, Membership, User
from playground.orm import orm
from playground.presence import PLACES, presence
from playground.sockets import RESTART, SIGNED_OUT, report, sockets

PATH = "/ws/"
MESSAGE_BYTES = 4096
WATCHES = 64
TOPICS = 1000
# Messages at once, and a second in the long run.
BURST, RATE = 200, 20
POLICY = 1008
# What each kind of message needs: a key of access.NEEDS. To stop watching needs nothing.
NEEDS = {"follow": "view", "watch": "view", "look": "view", "stop": "chat"}
KINDS_OF_MESSAGE = (*NEEDS, "unwatch")

log = logging.getLogger(__name__)


class Malformed(Exception):
    """A message that is none of the protocol's; the text says what is wrong."""


@dataclass
class Watch:
    """What one socket has of one answer."""

    feed: Feed
    offsets: dict[str, int]

    def frames(self) -> list[dict[str, Any]]:
        """What it lacks; it counts as sent from here on. The last one is the end, when the answer ended."""
        pk, found = self.feed.generation, []
        for kind in reversed(KINDS):
            text, sent = self.feed.text(kind), self.offsets[kind]
            to = len(text)
            if sent > to:
                found.append({"type": "snapshot", "generation": pk, "kind": kind, "to": to, "text": text})
            elif sent < to:
                frame = {"type": "text", "generation": pk, "kind": kind, "from": sent, "to": to}
                found.append(frame | {"text": text[sent:]})
            self.offsets[kind] = to
        if self.feed.state:
            found.append({"type": "end", "generation": pk, "state": self.feed.state})
        return found


class Live(AsyncWebsocketConsumer):
    """One socket. Uses no channel layer: what it sends comes from this process's feeds and subscription."""

    channel_layer_alias = "none"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.session_key, self.session_hash = "", ""
        self.user_id = 0
        self.teams: frozenset[int] = frozenset()
        self.watches: dict[int, Watch] = {}
        self.conversation = 0
        self.due: set[int] = set()
        self.beginning: list[Feed] = []
        self.topics: dict[str, None] = {}
        self.there: dict[str, list[dict[str, str]]] = {}
        self.left = False
        self.wake = asyncio.Event()
        self.writing: asyncio.Task[None] | None = None
        self.allowance, self.allowed_at = float(BURST), time.monotonic()

    # The connection

    async def connect(self) -> None:
        """Accept our own pages of people who are signed in."""
        headers = self.scope["headers"]
        if not same_origin(headers):
            await self.close()
            return
        self.session_key = _session_key(headers)
        user = await orm(_person, self.session_key)
        await self.accept()
        if user is None:
            await self.close(SIGNED_OUT)
            return
        self.user_id, self.session_hash = user.pk, user.get_session_auth_hash()
        self.teams = await orm(_teams, user.pk)
        await self._send({"type": "hello", "boot": BOOT_ID})
        self.writing = asyncio.create_task(self._write())
        self.writing.add_done_callback(report)
        sockets.add(self)

    async def disconnect(self, code: int) -> None:
        sockets.discard(self)
        self.leave()

    def leave(self) -> None:
        """Send nothing more, and hear nothing more."""
        self.left = True
        presence.leave(self)
        feeds.exit(self.conversation, self)
        for watch in self.watches.values():
            feeds.leave(watch.feed, self)
        self.watches.clear()
        if self.writing:
            self.writing.cancel()

    @property
    def places(self) -> frozenset[str]:
        """What it hears of beside notices."""
        followed = f"conversation:{self.conversation}" if self.conversation else None
        watched = (f"generation:{pk}" for pk in self.watches)
        return frozenset(filter(None, [followed, presence.places.get(self), *watched]))

    # From the page

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.left:
            return
        if not self._allowed():
            await self.close(POLICY, "too many messages")
            return
        try:
            kind, noun, pk, message = _read(text_data)
            await self._obey(kind, noun, pk, message)
        except Malformed as problem:
            await self._send({"type": "error", "message": str(problem)})
        except DatabaseTrouble as problem:
            log.warning("A socket's message was not answered: %s", problem)
            await self._send({"type": "error", "message": "The database is away. Try again in a moment."})

    async def _obey(self, kind: str, noun: str, pk: int, message: dict[str, Any]) -> None:
        if kind == "unwatch":
            self._unwatch(pk)
            return
        user = await orm(_person, self.session_key)
        if user is None:
            await self.close(SIGNED_OUT)
            return
        refusal, team = await orm(_judge, user, kind, noun, pk)
        if self.left:
            return
        if refusal:
            await self._send({"type": "error", noun: pk, "message": refusal})
        elif kind == "look":
            presence.look(self, f"{noun}:{pk}", team)
        elif kind == "follow":
            self._follow(pk)
        elif kind == "watch":
            await self._watch(pk, {name: _offset(message, name) for name in KINDS})
        else:
            await generation.stop(pk)
            await self._send({"type": "stopping", "generation": pk})

    def _follow(self, conversation: int) -> None:
        """Send each answer of one conversation from its first word, before the page can ask for it."""
        feeds.exit(self.conversation, self)
        self.conversation = conversation
        feeds.enter(conversation, self)

    def begun(self, feed: Feed) -> None:
        """Watch from the start; where there are too many watches the page asks, and is told so."""
        if feed.generation not in self.watches and len(self.watches) < WATCHES:
            feed.followers.add(self)
            self.watches[feed.generation] = Watch(feed, dict.fromkeys(KINDS, 0))
            self.beginning.append(feed)
            self.wake.set()

    async def _watch(self, pk: int, offsets: dict[str, int]) -> None:
        self._unwatch(pk)
        if len(self.watches) >= WATCHES:
            raise Malformed(f"At most {WATCHES} answers can be watched.")
        feed = await feeds.follow(pk, self)
        if feed is None:
            raise Malformed("There is no such answer.")
        self.watches[pk] = Watch(feed, offsets)
        self.more(pk)
        if not feed.owned and not feed.state:
            await generation.followed()

    def _unwatch(self, pk: int) -> None:
        if watch := self.watches.pop(pk, None):
            feeds.leave(watch.feed, self)

    def _allowed(self) -> bool:
        """A bucket of BURST messages that fills by RATE a second."""
        now = time.monotonic()
        self.allowance = min(BURST, self.allowance + (now - self.allowed_at) * RATE) - 1
        self.allowed_at = now
        return self.allowance >= 0

    # To the page

    def present(self, place: str, people: list[dict[str, str]]) -> None:
        self.there[place] = people
        self.wake.set()

    def more(self, generation: int) -> None:
        self.due.add(generation)
        self.wake.set()

    def notice(self, topic: str) -> None:
        """A row changed. A page that takes none for long is sent away, and looks anew when it returns."""
        if len(self.topics) >= TOPICS:
            sockets.dismiss(self, RESTART)
            return
        self.topics[topic] = None
        self.wake.set()

    async def _write(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            beginning, self.beginning = self.beginning, []
            for feed in beginning:
                begin = {"type": "begin", "generation": feed.generation, "client": feed.client}
                await self._send(begin | {"column": feed.column})
            there, self.there = self.there, {}
            for place, people in there.items():
                await self._send({"type": "present", "place": place, "people": people})
            topics, self.topics = self.topics, {}
            for topic in topics:
                await self._send({"type": "notice", "topic": topic})
            due, self.due = self.due, set()
            for pk in due:
                if watch := self.watches.get(pk):
                    await self._bring(pk, watch)

    async def _bring(self, pk: int, watch: Watch) -> None:
        frames = watch.frames()
        if watch.feed.state:
            self._unwatch(pk)
        for frame in frames:
            await self._send(frame)

    async def _send(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(message, ensure_ascii=False, separators=(",", ":")))


def same_origin(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the page that opens the socket comes from the host it is opened to."""
    origins = [value for name, value in headers if name == b"origin"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(origins) != 1 or len(hosts) != 1:
        return False
    try:
        origin = urlsplit(origins[0].decode("ascii"))
    except ValueError:
        return False
    return origin.scheme in ("http", "https") and origin.netloc.lower() == hosts[0].decode("latin-1").lower()


def _session_key(headers: list[tuple[bytes, bytes]]) -> str:
    cookies = "; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
    return parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME, "")


def _read(text: str | None) -> tuple[str, str, int, dict[str, Any]]:
    """(type, what it is about and that one's primary key, the message)."""
    if text is None or len(text) > MESSAGE_BYTES:
        raise Malformed(f"Send JSON of at most {MESSAGE_BYTES} bytes.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Malformed("Send JSON.") from problem
    kind = message.get("type") if isinstance(message, dict) else None
    if kind not in KINDS_OF_MESSAGE:
        raise Malformed(f"type must be one of {', '.join(KINDS_OF_MESSAGE)}.")
    noun = _noun(kind, message)
    pk = message.get(noun)
    if type(pk) is not int or not 0 < pk < 2**63:
        raise Malformed(f"{noun} must be a whole number.")
    return kind, noun, pk, message


def _noun(kind: str, message: dict[str, Any]) -> str:
    """What this message is about."""
    if kind == "look":
        return next((noun for noun in PLACES if noun in message), "conversation")
    return "conversation" if kind == "follow" else "generation"


def _offset(message: dict[str, Any], name: str) -> int:
    value = message.get(name, 0)
    if type(value) is not int or value < 0:
        raise Malformed(f"{name} must be a whole number from 0.")
    return value


def _person(session_key: str) -> User | None:
    """Who is signed in by this session now."""
    if not session_key:
        return None
    user: Any = get_user(SimpleNamespace(session=SessionStore(session_key)))  # type: ignore[arg-type]
    return user if user.is_authenticated else None


def _judge(user: User, kind: str, noun: str, pk: int) -> tuple[str, int]:
    """Why `user` may not do that with this object, empty when they may; and whose team's it is."""
    model = PLACES.get(noun, Conversation)
    which = {"turns__generations": pk} if noun == "generation" else {"pk": pk}
    rows: Any = model._default_manager.select_related("team").filter(**which)
    row = access.visible_to(user, rows).first()
    if row is None:
        if kind == "stop":
            access.audit(user, None, "refused write", f"generation:{pk}")
        return f"There is no such {'answer' if noun == 'generation' else noun}.", 0
    if not access.can(user, NEEDS[kind], row.team):
        access.audit(user, row.team, f"refused {NEEDS[kind]}", f"{noun}:{pk}")
        return "Your role here is to look on only.", row.team_id
    if kind == "stop" and not access.can(user, "chat", row):
        access.audit(user, row.team, "refused write", f"{noun}:{pk}")
        return sharing_rules.why_not(row), row.team_id
    return "", row.team_id


def _teams(user: int) -> frozenset[int]:
    return frozenset(Membership.objects.filter(user=user).values_list("team_id", flat=True))


_live = Live.as_asgi()


async def websocket_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Every WebSocket of the site."""
    if scope["path"] == PATH:
        await _live(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close"})
