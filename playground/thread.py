"""What a conversation shows: the way from its first turn to the shown answer, and the branches beside it.

A turn continues one answer (its generations' `previous`), so a conversation is a tree of turns and answers by
turns. Editing makes a sibling turn, regenerating a sibling answer; each has its `Point`. Reads rows in a few
queries whatever the length. Knows nothing about requests or pages, and changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from django.db.models import Exists

from playground.models import Column, Conversation, Generation, Turn


@dataclass(frozen=True)
class Point:
    """An answer, or a turn without one: enough to find the whole way to it and on from it."""

    turn: int
    answer: int | None = None

    @property
    def query(self) -> str:
        """As a query string: "turn=4&answer=9"."""
        return f"turn={self.turn}" + (f"&answer={self.answer}" if self.answer else "")


@dataclass(frozen=True)
class Place:
    """Where something stands among its siblings, counted from one, and what lies beside it."""

    index: int
    count: int
    before: Point | None
    after: Point | None


@dataclass(frozen=True)
class ShownAnswer:
    generation: Generation
    place: Place


@dataclass(frozen=True)
class ShownTurn:
    turn: Turn
    place: Place
    answers: tuple[ShownAnswer, ...]
    """One for each column that has answered, by the columns' order."""

    @property
    def lead(self) -> Generation | None:
        return self.answers[0].generation if self.answers else None


@dataclass(frozen=True)
class Shown:
    """The way from the first turn to the shown answer. A message sent now continues its end."""

    turns: tuple[ShownTurn, ...]
    newest: int
    """The newest generation's primary key, shown or not; 0 without one."""

    @property
    def parent(self) -> Turn | None:
        return self.turns[-1].turn if self.turns else None

    @property
    def previous(self) -> list[Generation]:
        """The answers that a message sent now goes on from, one a column."""
        return [answer.generation for answer in self.turns[-1].answers] if self.turns else []

    @property
    def live(self) -> list[Generation]:
        """Answers on the way that still stream."""
        shown = (answer.generation for turn in self.turns for answer in turn.answers)
        return [generation for generation in shown if generation.state in Generation.LIVE]


class Tree:
    """All turns and answers of one conversation, by who continues whom."""

    def __init__(
        self, columns: Sequence[Column], turns: Iterable[Turn], answers: Iterable[Generation]
    ) -> None:
        self.columns = sorted(columns, key=lambda column: column.closed)
        self.turns = {turn.pk: turn for turn in turns}
        self.answers: dict[tuple[int, int], list[Generation]] = defaultdict(list)
        self.of_turn: dict[int, list[Generation]] = defaultdict(list)
        for answer in answers:
            self.answers[answer.turn_id, answer.column_id].append(answer)
            self.of_turn[answer.turn_id].append(answer)
        self.siblings: dict[tuple[int | None, int | None], list[Turn]] = defaultdict(list)
        for turn in self.turns.values():
            self.siblings[turn.parent_id, self.continued(turn)].append(turn)
        self.last = self._last_active()

    def lead(self, turn: Turn) -> list[Generation]:
        """The answers of the first column that has any to `turn`."""
        for column in self.columns:
            if found := self.answers.get((turn.pk, column.pk)):
                return found
        return []

    def continued(self, turn: Turn) -> int | None:
        """The answer of the parent's first column that `turn` goes on from, or stood beside what it does."""
        if turn.parent_id is None:
            return None
        own, before = self.lead(turn), self.lead(self.turns[turn.parent_id])
        return _beside(before, own[0].previous_id, own[0].pk) if own else _first(before)

    def _last_active(self) -> dict[Point, int]:
        """For each turn, and each answer of it, the newest generation in what continues it."""
        last: dict[Point, int] = defaultdict(int)
        for turn in sorted(self.turns.values(), key=lambda turn: turn.pk, reverse=True):
            for answer in self.of_turn[turn.pk]:
                point = Point(turn.pk, answer.pk)
                last[point] = max(last[point], answer.pk)
                last[Point(turn.pk)] = max(last[Point(turn.pk)], last[point])
            if turn.parent_id:
                for point in (Point(turn.parent_id, self.continued(turn)), Point(turn.parent_id)):
                    last[point] = max(last[point], last[Point(turn.pk)])
        return last

    def end(self, start: Point | None) -> Point | None:
        """The newest end of the conversation at or below `start`; of all of it for None."""
        point = start
        while True:
            lead = self.lead(self.turns[point.turn]) if point else []
            if point and lead and point.answer not in {answer.pk for answer in lead}:
                point = max((Point(point.turn, answer.pk) for answer in lead), key=lambda at: self.last[at])
            following = self.siblings.get((point.turn, point.answer) if point else (None, None), [])
            if not following:
                return point
            point = Point(max(following, key=lambda turn: self.last[Point(turn.pk)]).pk)

    def way(self, end: Point | None) -> list[Point]:
        """From the first turn to `end`, each with the answer that the next one continues."""
        points: list[Point] = []
        while end:
            points.append(end)
            turn = self.turns[end.turn]
            end = Point(turn.parent_id, self.continued(turn)) if turn.parent_id else None
        return points[::-1]

    def show(self, start: Point | None) -> Shown:
        way = self.way(self.end(start))
        newest = max((answer.pk for answers in self.of_turn.values() for answer in answers), default=0)
        asked = start.answer if start else None
        return Shown(tuple(self._turn(point, {point.answer, asked}) for point in way), newest)

    def _turn(self, point: Point, wanted: AbstractSet[int | None]) -> ShownTurn:
        turn = self.turns[point.turn]
        siblings = self.siblings[turn.parent_id, self.continued(turn)]
        place = _place([Point(sibling.pk) for sibling in siblings], Point(turn.pk))
        columns = [self.answers.get((turn.pk, column.pk), []) for column in self.columns if not column.closed]
        answers = [found for found in columns if found] or ([lead] if (lead := self.lead(turn)) else [])
        return ShownTurn(turn, place, tuple(_answer(turn, found, wanted) for found in answers))


def _beside(answers: list[Generation], continued: int | None, asked: int) -> int | None:
    """Of a column's `answers`: the one that is `continued`, else the newest of before `asked` was."""
    if any(answer.pk == continued for answer in answers):
        return continued
    before = [answer.pk for answer in answers if answer.pk < asked]
    return before[-1] if before and continued else _first(answers)


def _first(answers: list[Generation]) -> int | None:
    return answers[0].pk if answers else None


def _answer(turn: Turn, answers: list[Generation], wanted: AbstractSet[int | None]) -> ShownAnswer:
    """The wanted one of a column's answers, else its newest."""
    shown = next((answer for answer in answers if answer.pk in wanted), answers[-1])
    points = [Point(turn.pk, answer.pk) for answer in answers]
    return ShownAnswer(shown, _place(points, Point(turn.pk, shown.pk)))


def _place(points: list[Point], here: Point) -> Place:
    at = points.index(here)
    before = points[at - 1] if at else None
    after = points[at + 1] if at + 1 < len(points) else None
    return Place(at + 1, len(points), before, after)


def show(conversation: Conversation, start: Point | None = None) -> Shown:
    """What `conversation` shows from `start` on: its newest end for None, or where `start` is not of it."""
    columns = list(conversation.columns.all())
    turns = conversation.turns.order_by("id")
    answers = (
        Generation.objects.filter(turn__conversation=conversation)
        .defer("vectors")
        .select_related(
            "column__deployment",
            "configuration__environment",
            "configuration__model",
            "turn",
            "replica__node",
        )
    )
    tree = Tree(columns, turns, answers.order_by("id"))
    if start and (start.turn not in tree.turns or not _answers(tree, start)):
        start = None
    return tree.show(start)


def _answers(tree: Tree, start: Point) -> bool:
    """Whether the answer that `start` names, if any, is one to its turn."""
    return start.answer is None or any(answer.pk == start.answer for answer in tree.of_turn[start.turn])


def alone(turn: Turn) -> Shown | None:
    """What a turn without siblings shows by itself, when each column answered once; else None.

    For a message just sent: its cost does not grow with the conversation.
    """
    beside = Turn.objects.filter(conversation_id=turn.conversation_id, parent_id=turn.parent_id)
    rows = turn.generations.filter(~Exists(beside.exclude(pk=turn.pk))).select_related("column__deployment")
    answers = list(rows.order_by("column__position", "pk"))
    if not answers or len({answer.column_id for answer in answers}) < len(answers):
        return None
    shown = tuple(_answer(turn, [answer], set()) for answer in answers)
    place = _place([Point(turn.pk)], Point(turn.pk))
    newest = max((answer.pk for answer in answers), default=0)
    return Shown((ShownTurn(turn, place, shown),), newest)
