"""Every open socket of this process: tells them what was heard, and sends away who may not listen any more.

Who may stay is asked at once when somebody's standing changed, and every RECHECK_S for all of them together,
so that a lost message leaves nobody in for longer: two queries, however many sockets there are.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from django.db import Error as DatabaseTrouble
from django.db import connection
from django.utils.crypto import constant_time_compare

from playground import events
from playground.events import Heard, Notice, Resumed, Standing
from playground.models import User
from playground.orm import orm
from playground.presence import PLACES

RECHECK_S = 3.0
SIGNED_OUT, RESTART = 4401, 1012

log = logging.getLogger(__name__)


class Socket(Protocol):
    """One open socket of a person who is signed in."""

    session_key: str
    session_hash: str
    """What the session holds of the person's password: it ends with the password."""
    user_id: int
    teams: frozenset[int]

    @property
    def places(self) -> frozenset[str]:
        """What it hears of beside notices: "conversation:5"."""

    def notice(self, topic: str) -> None:
        """A row changed. Must not block."""

    def leave(self) -> None:
        """Send nothing more from here on. Must not block."""

    async def close(self, code: int) -> None: ...


@dataclass(frozen=True)
class Person:
    """Who is active, as the database has them."""

    teams: frozenset[int]
    hashes: tuple[str, ...]
    """What a session that still holds has of their password."""

    def holds(self, session_hash: str) -> bool:
        return any(constant_time_compare(session_hash, one) for one in self.hashes)


class Sockets:
    def __init__(self) -> None:
        self.open: set[Socket] = set()
        self.checking: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def add(self, socket: Socket) -> None:
        self.open.add(socket)
        if self.checking is None or self.checking.done():
            self.checking = asyncio.create_task(self._check())
            self.checking.add_done_callback(report)

    def discard(self, socket: Socket) -> None:
        self.open.discard(socket)

    def hear(self, heard: Heard) -> None:
        if isinstance(heard, Resumed):
            for socket in list(self.open):
                self.dismiss(socket, RESTART)
        elif isinstance(heard, Standing):
            if asked := [socket for socket in self.open if socket.user_id in heard.users]:
                self._begin(self._recheck(asked))
        elif isinstance(heard, Notice):
            for socket in list(self.open):
                if heard.team is None or heard.team in socket.teams:
                    for topic in heard.topics:
                        socket.notice(topic)

    def dismiss(self, socket: Socket, code: int) -> None:
        """Nothing more is sent to it from now on, however long its other end takes to close."""
        self.open.discard(socket)
        socket.leave()
        self._begin(socket.close(code))

    def _begin(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(report)

    async def _check(self) -> None:
        """While there are sockets: close those whose person signed out, left a team, or was deactivated."""
        while self.open:
            await asyncio.sleep(RECHECK_S)
            await self._recheck(list(self.open))

    async def _recheck(self, asked: list[Socket]) -> None:
        keys, users = [socket.session_key for socket in asked], {socket.user_id for socket in asked}
        places = frozenset().union(*(socket.places for socket in asked))
        try:
            alive, people = await orm(standing, keys, users)
            shut = await orm(private, places, users) if places else set()
        except DatabaseTrouble as problem:
            log.warning("Sockets could not be checked: %s", problem)
            return
        for socket in asked:
            person = people.get(socket.user_id)
            if person is None or socket.session_key not in alive or not person.holds(socket.session_hash):
                self.dismiss(socket, SIGNED_OUT)
            elif not socket.teams <= person.teams or any(
                (socket.user_id, at) in shut for at in socket.places
            ):
                self.dismiss(socket, RESTART)
            else:
                socket.teams = person.teams


def report(task: asyncio.Task[None]) -> None:
    """A socket that closed while something was sent is nothing new; its disconnect follows."""
    if not task.cancelled() and (problem := task.exception()):
        log.info("A socket ended while it was written to: %r", problem)


STANDING = """
SELECT session_key, NULL::bigint, NULL, NULL::bigint[] FROM django_session
WHERE session_key = ANY(%s) AND expire_date > now()
UNION ALL
SELECT NULL, person.id, person.password, array_agg(membership.team_id)
FROM playground_user person LEFT JOIN playground_membership membership ON membership.user_id = person.id
WHERE person.id = ANY(%s) AND person.is_active GROUP BY person.id
"""


def standing(keys: Iterable[str], users: Iterable[int]) -> tuple[set[str], dict[int, Person]]:
    """Those of the sessions that have not ended, and those of the people who are active; one query."""
    alive: set[str] = set()
    people: dict[int, Person] = {}
    with connection.cursor() as cursor:
        cursor.execute(STANDING, [list(keys), list(users)])
        for key, user, password, teams in cursor.fetchall():
            if key is not None:
                alive.add(key)
            else:
                people[user] = Person(frozenset(teams) - {None}, _hashes(password))
    return alive, people


# Where each kind of place says how it is shared: an answer as its conversation.
WHERE_SHARED = {noun: model._meta.db_table for noun, model in PLACES.items()} | {
    "generation": """(
        SELECT generation.id, talk.team_id, talk.sharing, talk.created_by_id
        FROM playground_generation generation
        JOIN playground_turn turn ON turn.id = generation.turn_id
        JOIN playground_conversation talk ON talk.id = turn.conversation_id
    )"""
}
# Who may not look at what is private: everybody of its team but its owner and the administrators.
PRIVATE = """
SELECT membership.user_id, %s || ':' || row.id FROM {table} row
JOIN playground_membership membership ON membership.team_id = row.team_id
WHERE row.sharing = 'private' AND row.id = ANY(%s) AND membership.user_id = ANY(%s)
AND membership.role <> 'admin' AND membership.user_id IS DISTINCT FROM row.created_by_id
"""


def private(places: Iterable[str], users: Iterable[int]) -> set[tuple[int, str]]:
    """(user, place) of those who may not look at a place, because it is private; one query."""
    keys: dict[str, list[int]] = {noun: [] for noun in WHERE_SHARED}
    for place in places:
        noun, _, key = place.partition(":")
        keys[noun].append(int(key))
    asked = [(noun, keys[noun], list(users)) for noun in WHERE_SHARED]
    query = " UNION ALL ".join(PRIVATE.format(table=table) for table in WHERE_SHARED.values())
    with connection.cursor() as cursor:
        cursor.execute(query, [part for one in asked for part in one])
        return set(cursor.fetchall())


def _hashes(password: str) -> tuple[str, ...]:
    """What sessions made with this password hold, by the secret key and by those before it."""
    person = User(password=password)
    return (person.get_session_auth_hash(), *person.get_session_auth_fallback_hash())


sockets = Sockets()
events.listening.listeners.append(sockets.hear)
