"""The text of answers being written, as this process knows it, and who follows it here.

An answer has one writer: the process that runs it, which holds the whole text. Every other process that has
followers keeps a copy, fed by `replay` from Redis and PostgreSQL. Followers are told only that there is more;
each takes what it lacks when it can, so a slow one holds up nobody and costs no memory.
"""

from dataclasses import dataclass, field
from typing import Protocol

from playground.models import Generation
from playground.orm import orm

KINDS = ("content", "reasoning")


class Follower(Protocol):
    """Whoever shows answers: a socket."""

    def begun(self, feed: "Feed") -> None:
        """An answer of a conversation it follows is being written in this process. Must not block."""

    def more(self, generation: int) -> None:
        """There is more of this answer than was taken, or it ended. Must not block."""


@dataclass(eq=False)
class Feed:
    """One answer. Offsets are lengths in Python's units; `state` is set once it ended."""

    generation: int
    # What the page that sent the message called it: there it is shown before it has a row.
    client: str = ""
    column: int = 0
    content: str = ""
    reasoning: str = ""
    state: str = ""
    owned: bool = False
    # Where this process has read the answer's Redis Stream to; used where it is not the owner.
    read_to: str = "0"
    followers: set[Follower] = field(default_factory=set)

    def text(self, kind: str) -> str:
        return self.content if kind == "content" else self.reasoning

    def append(self, content: str, reasoning: str) -> None:
        self.content += content
        self.reasoning += reasoning
        self.announce()

    def replace(self, content: str, reasoning: str) -> None:
        """Take over a text from PostgreSQL."""
        self.content, self.reasoning = content, reasoning
        self.announce()

    def end(self, state: str) -> None:
        self.state = state
        self.announce()

    def announce(self) -> None:
        for follower in self.followers:
            follower.more(self.generation)


class Feeds:
    """Every answer this process writes or follows."""

    def __init__(self) -> None:
        self.known: dict[int, Feed] = {}
        self.rooms: dict[int, set[Follower]] = {}

    def enter(self, conversation: int, follower: Follower) -> None:
        """Hear of each answer of `conversation` that this process begins to write."""
        self.rooms.setdefault(conversation, set()).add(follower)

    def exit(self, conversation: int, follower: Follower) -> None:
        room = self.rooms.get(conversation, set())
        room.discard(follower)
        if not room:
            self.rooms.pop(conversation, None)

    def own(
        self, generation: int, conversation: int, client: str = "", column: int = 0, *, announced: bool = True
    ) -> Feed:
        """Become the writer of an answer; who followed a copy of it here goes on with the original.

        Not `announced`, it is told to nobody before they ask: where who answers is hidden.
        """
        feed = self.known.setdefault(generation, Feed(generation))
        feed.owned, feed.client, feed.column = True, client, column
        for follower in self.rooms.get(conversation, ()) if announced else ():
            follower.begun(feed)
        return feed

    def close(self, feed: Feed, state: str) -> None:
        """The answer ended and PostgreSQL holds it whole."""
        self.known.pop(feed.generation, None)
        feed.end(state)

    async def follow(self, generation: int, follower: Follower) -> Feed | None:
        """The feed of an answer, followed; an ended one is made from its row. None: no such answer."""
        feed = self.known.get(generation)
        if feed is None:
            row = await orm(_row, generation)
            if row is None:
                return None
            feed = self.known.get(generation) or self._copy(generation, *row)
        feed.followers.add(follower)
        return feed

    def _copy(self, generation: int, content: str, reasoning: str, state: str) -> Feed:
        feed = Feed(generation, content=content, reasoning=reasoning)
        if state in Generation.LIVE:
            self.known[generation] = feed
        else:
            feed.state = state
        return feed

    def leave(self, feed: Feed, follower: Follower) -> None:
        """Stop following; a copy that nobody follows is forgotten."""
        feed.followers.discard(follower)
        if not feed.followers and not feed.owned and self.known.get(feed.generation) is feed:
            del self.known[feed.generation]

    def copies(self) -> list[Feed]:
        return [feed for feed in self.known.values() if not feed.owned]


def _row(generation: int) -> tuple[str, str, str] | None:
    return Generation.objects.filter(pk=generation).values_list("text", "reasoning", "state").first()


feeds = Feeds()
