"""Who is looking at a conversation, a batch or a prompt just now, over every web process.

Nothing is kept: each process tells the others whom it has, at each change and every TELL_S, and what was not
told again is forgotten after KEPT_S. So a process that died, or a Redis that is away, costs the names of
those elsewhere and nothing else. Messages carry keys alone: names are read from the database, and only those
of the place's team.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.db import Error as DatabaseTrouble

from playground import events
from playground.events import Heard, Looking
from playground.leases import BOOT_ID
from playground.models import Batch, Conversation, Prompt, User
from playground.orm import orm

# What can be looked at, by the noun that messages and places ("conversation:5") call it.
PLACES: dict[str, type[Conversation] | type[Batch] | type[Prompt]] = {
    "conversation": Conversation,
    "batch": Batch,
    "prompt": Prompt,
}
TELL_S, KEPT_S = 5.0, 12.0
SHOWN = 12
IN_A_MESSAGE = 200

log = logging.getLogger(__name__)


class Looker(Protocol):
    """A socket whose page shows who else is there."""

    user_id: int

    def present(self, place: str, people: list[dict[str, str]]) -> None:
        """These are there beside oneself: [{"name", "initials"}, …]. Must not block."""


@dataclass
class Room:
    """One place as this process knows it."""

    team: int
    here: set[Looker] = field(default_factory=set)
    elsewhere: dict[str, tuple[frozenset[int], float]] = field(default_factory=dict)
    """By process: who is there, and until when that is believed, on this process's clock."""

    @property
    def own(self) -> list[int]:
        return sorted({looker.user_id for looker in self.here})

    def everybody(self) -> set[int]:
        now = time.monotonic()
        self.elsewhere = {boot: told for boot, told in self.elsewhere.items() if told[1] > now}
        return {user for users, _ in self.elsewhere.values() for user in users} | set(self.own)


class Presence:
    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.places: dict[Looker, str] = {}
        self.shown: dict[str, set[int]] = {}
        self.telling: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def look(self, looker: Looker, place: str, team: int) -> None:
        """From now on `looker` looks at `place`, which is `team`'s, and nowhere else."""
        self.leave(looker)
        self.places[looker] = place
        self.rooms.setdefault(place, Room(team)).here.add(looker)
        self.shown.pop(place, None)
        self._begin(self._changed(place, ask=True))
        if self.telling is None or self.telling.done():
            self.telling = asyncio.create_task(self._tell())

    def leave(self, looker: Looker) -> None:
        place = self.places.pop(looker, None)
        room = self.rooms.get(place) if place else None
        if place is None or room is None:
            return
        room.here.discard(looker)
        if not room.here:
            del self.rooms[place]
            self.shown.pop(place, None)
        self._begin(self._changed(place, ask=False))

    def hear(self, heard: Heard) -> None:
        if not isinstance(heard, Looking) or heard.boot == BOOT_ID:
            return
        for place, users in heard.places.items():
            if (room := self.rooms.get(place)) is None:
                continue
            room.elsewhere[heard.boot] = (frozenset(users), time.monotonic() + KEPT_S)
            self._begin(self._answer(place) if heard.ask else self._show(place))

    async def _answer(self, place: str) -> None:
        await self._publish({place: self._own(place)})
        await self._show(place)

    async def _changed(self, place: str, ask: bool) -> None:
        await self._publish({place: self._own(place)}, ask)
        await self._show(place)

    def _own(self, place: str) -> list[int]:
        room = self.rooms.get(place)
        return room.own if room else []

    async def _publish(self, places: dict[str, list[int]], ask: bool = False) -> None:
        message = {"boot": BOOT_ID, "looking": places, "ask": ask}
        await asyncio.to_thread(events.publish, message)

    async def _tell(self) -> None:
        """While somebody looks somewhere: say so again, and forget whom nobody tells of any more."""
        while self.rooms:
            await asyncio.sleep(TELL_S)
            places = sorted(self.rooms)
            for at in range(0, len(places), IN_A_MESSAGE):
                await self._publish({place: self._own(place) for place in places[at : at + IN_A_MESSAGE]})
            for place in places:
                await self._show(place)

    async def _show(self, place: str) -> None:
        """Tell those who look at `place` here who else does, where that changed."""
        room = self.rooms.get(place)
        if room is None or (now := room.everybody()) == self.shown.get(place):
            return
        self.shown[place] = now
        try:
            names = await orm(_names, now, room.team)
        except DatabaseTrouble as problem:
            log.warning("Who looks at %s could not be told: %s", place, problem)
            self.shown.pop(place, None)
            return
        if self.shown.get(place) is not now:  # it changed meanwhile, and whoever saw that tells
            return
        for looker in list(room.here):
            looker.present(place, [person(name) for user, name in names if user != looker.user_id][:SHOWN])

    def _begin(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def person(name: str) -> dict[str, str]:
    """A name, and the two letters that stand for it."""
    words = name.replace(".", " ").replace("_", " ").replace("-", " ").split() or [name]
    letters = words[0][:2] if len(words) == 1 else words[0][0] + words[-1][0]
    return {"name": name, "initials": letters.upper()}


def _names(users: set[int], team: int) -> list[tuple[int, str]]:
    """Those of the people who belong to the team, with their names, in their order."""
    rows = User.objects.filter(pk__in=users, memberships__team=team, is_active=True)
    return sorted(((one.pk, one.get_full_name() or one.username) for one in rows), key=lambda one: one[1])


presence = Presence()
events.listening.listeners.append(presence.hear)
