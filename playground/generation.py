"""Asking models and getting answers: send, regenerate, stop, and what was really asked.

A message makes a Turn and one pending Generation a column; the web process that claims it writes it
(`writing`), and waits while its model loads. The rows' state is `leases`' alone.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction

from playground import (
    conversations,
    deployments,
    effects,
    events,
    leases,
    opening,
    pictures,
    sharing_rules,
    widgets,
)
from playground.history import messages as messages
from playground.leases import BOOT_ID as BOOT_ID
from playground.leases import sweep as sweep
from playground.models import Column, Conversation, Deployment, Generation, Turn, User
from playground.orm import orm
from playground.prompt_texts import PromptRefused
from playground.replay import Reader
from playground.writing import Writer

CHARACTERS = 400_000
CLIENT_ID = 64

log = logging.getLogger(__name__)


class SendRefused(Exception):
    """The message was not sent; the text says why. What was typed stays with the person."""


# Verbs


def send(
    conversation: Conversation,
    text: str,
    client_id: str,
    user: User,
    parent: Turn | None = None,
    previous: Sequence[Generation] = (),
    inputs: dict[str, Any] | None = None,
) -> Turn:
    """Ask every running column. The same `client_id` again is the same message: nothing is sent twice.

    `parent` is the turn it follows (None: the first), `previous` the answers to it that stand there: each
    column goes on from its own, else from the first. `inputs` is what goes with the text: see Turn.
    """
    sharing_rules.require_write(user, conversation)
    inputs = {name: value for name, value in (inputs or {}).items() if name != "blind"}
    try:
        checked = _checked(conversation.task, text, client_id, inputs)
        return _send(conversation, checked, client_id, user, parent, previous, inputs)
    except (SendRefused, IntegrityError):
        if again := conversation.turns.filter(client_id=client_id).first():
            return again
        raise


def regenerate(turn: Turn, column: Column, user: User) -> Generation:
    """Another answer to the same turn; the ones before stay."""
    sharing_rules.require_write(user, turn.conversation)
    if column.conversation_id != turn.conversation_id or column not in _running(turn.conversation):
        raise SendRefused("This column's model does not run. Start it, then ask again.")
    last = turn.generations.filter(column=column).order_by("-pk").first()
    if last is not None and last.state in Generation.LIVE:
        raise SendRefused("This answer is still being written. Stop it first.")
    with transaction.atomic():
        previous = last.previous if last else _continued(column, turn.parent, ())
        generation = _ask(turn, column, previous, _in_flight())
        _show(turn.conversation, turn)
    return generation


async def stop(generation_pk: int) -> None:
    """Ask whoever writes it to stop, from any process. It ends within a moment; the text so far stays."""
    await orm(leases.ask_to_stop, generation_pk)
    if _process:
        _process.writer.look()


async def effective(generation: Generation) -> dict[str, Any]:
    """What was really asked, see `effects.Effective`; the engine is asked for what is not known yet."""
    return await effects.look(generation)


def _send(
    conversation: Conversation,
    text: str,
    client_id: str,
    user: User,
    parent: Turn | None,
    previous: Sequence[Generation],
    inputs: dict[str, Any],
) -> Turn:
    """The new turn with its answers; IntegrityError when the message was sent before."""
    _check_place(conversation, parent, previous)
    columns = _running(conversation)
    if inputs.get("images"):
        _require_sight(columns)
    _require_filled(conversation)
    if conversation.blind and len(columns) > 1:
        inputs = inputs | {"blind": True}
        secrets.SystemRandom().shuffle(columns)  # Keys that rise with the columns would tell whose is whose.
    with transaction.atomic():
        turn = Turn(conversation=conversation, client_id=client_id, parent=parent, text=text)
        turn.created_by, turn.inputs = user, inputs
        turn.save(force_insert=True)
        if inputs.get("images"):
            pictures.mark_sent(inputs["images"])
        in_flight = _in_flight()
        for column in columns:
            _ask(turn, column, _continued(column, parent, previous), in_flight)
        _show(conversation, turn)
    return turn


def _checked(task: str, text: str, client_id: str, inputs: dict[str, Any]) -> str:
    if not text.strip():
        raise SendRefused(widgets.WORDS[task]["empty"])
    if len(text) > CHARACTERS:
        raise SendRefused(
            f"The message has {len(text):,} characters; {CHARACTERS:,} is the most that is sent."
        )
    if "\x00" in text:
        raise SendRefused("The message holds a NUL character, which no model takes.")
    if not 0 < len(client_id) <= CLIENT_ID:
        raise SendRefused("The page sent no id for this message. Reload it and send again.")
    try:
        widgets.check(task, text, inputs)
    except widgets.Unfit as problem:
        raise SendRefused(str(problem)) from problem
    return text.replace("\r\n", "\n")


def _require_sight(columns: list[Column]) -> None:
    """Refuse pictures that none of the running models would see."""
    if not any(column.deployment and leases.sees(column.deployment) for column in columns):
        name = columns[0].deployment.name if columns[0].deployment else "The model"
        raise SendRefused(f"{name} does not read pictures. Take them away, or choose a model that does.")


def _require_filled(conversation: Conversation) -> None:
    """Refuse to ask while a variable of the conversation's prompt has no value."""
    try:
        opening.messages(conversation)
    except PromptRefused as problem:
        raise SendRefused(f"The prompt of this conversation cannot be filled in: {problem}") from problem


def _check_place(conversation: Conversation, parent: Turn | None, previous: Sequence[Generation]) -> None:
    if parent is not None and parent.conversation_id != conversation.pk:
        raise SendRefused("The message before belongs to another conversation.")
    if any(parent is None or one.turn_id != parent.pk for one in previous):
        raise SendRefused("The answer to continue does not belong to the message before.")
    if any(one.state in Generation.LIVE for one in previous):
        raise SendRefused("The answer before is still being written. Wait for it, or stop it first.")


def _running(conversation: Conversation) -> list[Column]:
    """Columns whose model runs or is about to; SendRefused when there is none."""
    columns = list(conversation.columns.filter(closed=False).select_related("deployment"))
    running = [column for column in columns if column.deployment and _serves(column.deployment)]
    if running:
        return running
    stopped = next((column.deployment for column in columns if column.deployment), None)
    if stopped is None:
        raise SendRefused("No model is chosen here. Choose one, then send again.")
    if stopped.problem:
        raise SendRefused(f"{stopped.name} does not run: {stopped.problem}")
    raise SendRefused(f"{stopped.name} does not run. Start it, then send again.")


def _serves(deployment: Deployment) -> bool:
    if deployment.desired != Deployment.Desired.RUNNING:
        return False
    return not deployment.problem or bool(deployments.ready_replicas(deployment))


def _continued(column: Column, parent: Turn | None, previous: Sequence[Generation]) -> Generation | None:
    """The answer whose history `column` continues: its own of those that stand there, else its newest to the
    turn before; where it has none, being new or all going on from one, the first that stands there.
    """
    own = next((one for one in previous if one.column_id == column.pk), None)
    if own is not None or parent is None:
        return own
    if len(previous) == 1 and column.conversation.together:
        return previous[0]
    answered = parent.generations.order_by("-pk")
    newest = answered.filter(column=column).first()
    return newest or next(iter(previous), None) or answered.first()


def time_alone(turn: Turn, user: User) -> list[Generation]:
    """Another answer to the same turn in every running column, each asked once the one before has ended."""
    sharing_rules.require_write(user, turn.conversation)
    if turn.generations.filter(state__in=Generation.LIVE).exists():
        raise SendRefused("An answer here is still being written. Stop it first.")
    made: list[Generation] = []
    with transaction.atomic():
        for column in _running(turn.conversation):
            last = turn.generations.filter(column=column).order_by("-pk").first()
            previous = last.previous if last else _continued(column, turn.parent, ())
            if made:
                made.append(leases.make(turn, column, previous, after=made[-1]))
            else:
                made.append(_ask(turn, column, previous, _in_flight()))
        _show(turn.conversation, turn)
    return made


def _ask(turn: Turn, column: Column, previous: Generation | None, in_flight: Counter[int]) -> Generation:
    """One answer, written here once the transaction commits; without `startup`, elsewhere."""
    writer = _writer()
    if writer is None:
        return leases.make(turn, column, previous)
    generation, begun = leases.make_ours(turn, column, previous, in_flight)
    if begun:
        in_flight[begun.replica.pk] += 1
    transaction.on_commit(partial(writer.run, generation, begun))
    return generation


def _writer() -> Writer | None:
    return _process.writer if _process and not _process.writer.closing else None


def _in_flight() -> Counter[int]:
    writer = _writer()
    return writer.in_flight() if writer else Counter()


def _show(conversation: Conversation, turn: Turn) -> None:
    conversation.save(update_fields=["updated_at"])
    conversations.name_after(conversation, turn.text)
    events.notify(conversation.team_id, f"conversation:{conversation.pk}", "conversations")


# The process


class Process:
    """What a web process runs beside its requests."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.reader = Reader(BOOT_ID)
        self.tasks = [
            self._start(self.writer.publisher.run(), "publish answers"),
            self._start(self.writer.keep_leases(), "keep leases"),
            self._start(self.reader.read(), "read answers"),
            self._start(self.reader.check(), "check answers"),
            self._start(events.listening.run(), "listen"),
        ]

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        return task

    async def close(self) -> None:
        await self.writer.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.reader.close()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()):
        log.error("Part of this process ended: %s", task.get_name(), exc_info=problem)


_process: Process | None = None


async def startup() -> None:
    """Begin to write and to follow answers in this process."""
    global _process
    _process = Process()


async def shutdown() -> None:
    """End this process's answers: finished within a moment, or marked interrupted with their text kept."""
    global _process
    if _process:
        ended, _process = _process, None
        await ended.close()


async def followed() -> None:
    """A copy of an answer was added: bring it up to date now."""
    if _process:
        await _process.reader.added()
