"""Adds what was asked in conversations to a dataset, as a version of its own. Knows nothing of pages."""

from collections.abc import Iterable, Iterator

from playground import datasets, history, pictures, policy, reading, thread
from playground.datasets import DatasetRefused
from playground.models import Conversation, Dataset, DatasetVersion, Generation, Model, User
from playground.reading import Problem, Row
from playground.thread import Point

URLS = {
    Model.Task.CHAT: reading.CHAT,
    Model.Task.COMPLETION: reading.COMPLETIONS,
    Model.Task.EMBEDDING: reading.EMBEDDINGS,
}


def latest(dataset: Dataset) -> DatasetVersion | None:
    """The newest whole version."""
    return dataset.versions.filter(complete=True).order_by("-number").first()


def add_conversation(
    dataset: Dataset,
    user: User,
    conversation: Conversation,
    start: Point | None = None,
    *,
    answers: bool = False,
) -> DatasetVersion:
    """The rows of the newest version and, after them, one for each message shown from `start` on.

    Each is asked with what was said before it. `answers`: the first column's count as the right ones. What is
    in it already is not added twice. DatasetRefused where nothing is added.
    """
    return add(dataset, user, _rows(conversation, start, answers), conversation.title, "answered message")


def add(
    dataset: Dataset, user: User, rows: Iterable[Row | Problem], source: str, noun: str
) -> DatasetVersion:
    """The rows of the newest version and, after them, those of `rows` that it does not have already.

    `source` is what they came from, `noun` what one of them is. DatasetRefused where nothing is added.
    """
    before = latest(dataset)
    known = set(before.rows.values_list("custom_id", flat=True)) if before else set()
    made = [one for one in rows if not _in(one, known)]
    if not any(isinstance(one, Row) for one in made):
        why = next((f"{one.why}" for one in made if isinstance(one, Problem)), "")
        raise DatasetRefused(why or f"It has no {noun} that the dataset does not have already.")
    size = (before.size_bytes if before else 0) + sum(one.size for one in made if isinstance(one, Row))
    had = before.row_count if before else 0
    if had + len(made) > reading.MAX_ROWS:
        raise DatasetRefused(f"A dataset has at most {reading.MAX_ROWS:,} rows.")
    kind, columns = DatasetVersion.Kind.CONVERSATIONS, before.columns if before else []
    version = datasets.begin(dataset, user, kind, source, size=size, columns=columns)
    if before:
        datasets.copy_rows(before, version)
    return datasets.fill(version, made, after=had)


def _in(one: Row | Problem, known: set[str]) -> bool:
    return isinstance(one, Row) and one.custom_id in known


def _rows(conversation: Conversation, start: Point | None, answers: bool) -> Iterator[Row | Problem]:
    url = URLS.get(Model.Task(conversation.task))
    if url is None:
        raise DatasetRefused("Only chats, completions and embeddings become rows of a dataset.")
    for place, turn in enumerate(thread.show(conversation, start).turns, 1):
        if not turn.lead:
            continue
        body = _body(turn.lead, url)
        expected = (turn.lead.text or None) if answers and url != reading.EMBEDDINGS else None
        identity = f"conversation-{conversation.pk}-message-{turn.turn.pk}"
        try:
            yield reading.checked(Row(place, identity, url, body, {}, expected))
        except (policy.BadRequest, ValueError) as problem:
            yield Problem(place, str(problem))


def _body(answer: Generation, url: str) -> dict[str, object]:
    """What its message asks, pictures included: the dataset outlives the conversation."""
    if url == reading.COMPLETIONS:
        return {"prompt": answer.turn.text}
    if url == reading.EMBEDDINGS:
        return {"input": answer.turn.text}
    return dict(pictures.inlined({"messages": history.messages(answer)}))
