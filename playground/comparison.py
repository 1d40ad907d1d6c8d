"""The columns of a conversation: added, cloned, closed, put in order, given settings of their own.

A chat is a comparison with one column. What is asked in them: `generation`; what stands over them: `columns`.
"""

from typing import Any

from django.db import transaction
from django.db.models import F

from playground import columns, conversations
from playground.models import Column, Conversation, Deployment, Generation

MOST = 6


class ComparisonRefused(Exception):
    """It cannot be so; the text says why."""


def shown(conversation: Conversation) -> list[Column]:
    """Its open columns in order, each with what its heading needs."""
    rows = conversation.columns.filter(closed=False).select_related(
        "deployment__model", "deployment__configuration__environment", "deployment__configuration__format"
    )
    return list(rows)


def add(conversation: Conversation, deployment: Deployment | None = None, adapter: str = "") -> Column:
    """One more column at the end: of `deployment`, else of what runs and is in none yet, else as the last.

    `adapter`: the one of its adapters that answers.
    """
    with transaction.atomic():
        there = _locked(conversation)
        chosen = deployment or _unused(conversation, there) or there[-1].deployment
        column = _insert(conversation, there, len(there), deployment=chosen)
        if chosen and (deployment or adapter):
            conversations.choose(column, chosen, adapter)
    conversations.tell(conversation)
    return column


def clone(column: Column) -> Column:
    """The same beside it: who answers, its own settings. It goes on from the answers that stand there."""
    with transaction.atomic():
        there = _locked(column.conversation)
        at = next(place for place, one in enumerate(there) if one.pk == column.pk)
        same = {
            name: getattr(column, name) for name in ("deployment", "adapter", "parameters", "system_prompt")
        }
        copy = _insert(column.conversation, there, at + 1, **same)
    conversations.tell(column.conversation)
    return copy


def close(column: Column) -> None:
    """Take it away. What it answered stays with the conversation; one that still answers is stopped first."""
    with transaction.atomic():
        there = _locked(column.conversation)
        if len(there) == 1:
            raise ComparisonRefused("The last column stays: choose another model in it instead.")
        if column.generations.filter(state__in=Generation.LIVE).exists():
            raise ComparisonRefused("It is still answering. Stop it first, then close it.")
        Column.objects.filter(pk=column.pk).update(closed=True)
        _number([one for one in there if one.pk != column.pk])
    conversations.tell(column.conversation)


def move(column: Column, by: int) -> None:
    """Put it `by` places to the right, negative to the left; at an end it stays."""
    with transaction.atomic():
        there = _locked(column.conversation)
        at = next(place for place, one in enumerate(there) if one.pk == column.pk)
        there.insert(max(0, min(len(there) - 1, at + by)), there.pop(at))
        _number(there)
    conversations.tell(column.conversation)


def configure(column: Column, system_prompt: str | None, parameters: dict[str, Any] | None) -> None:
    """From the next message on, settings of its own; None for the conversation's."""
    if system_prompt is not None:
        conversations.require_prompt(system_prompt)
        system_prompt = system_prompt.replace("\r\n", "\n")
    Column.objects.filter(pk=column.pk).update(system_prompt=system_prompt, parameters=parameters)
    column.system_prompt, column.parameters = system_prompt, parameters
    conversations.tell(column.conversation)


def _locked(conversation: Conversation) -> list[Column]:
    """The open columns, while nobody else changes which there are."""
    Conversation.objects.select_for_update().get(pk=conversation.pk)
    return list(conversation.columns.filter(closed=False).select_related("deployment"))


def _insert(conversation: Conversation, there: list[Column], at: int, **what: Any) -> Column:
    if len(there) >= MOST:
        raise ComparisonRefused(f"{MOST} columns are the most that stand beside each other. Close one first.")
    conversation.columns.filter(closed=False, position__gte=at).update(position=F("position") + 1)
    return Column.objects.create(conversation=conversation, position=at, **what)


def _number(there: list[Column]) -> None:
    for place, one in enumerate(there):
        if one.position != place:
            Column.objects.filter(pk=one.pk).update(position=place)


def _unused(conversation: Conversation, there: list[Column]) -> Deployment | None:
    """What runs or starts and answers in no column yet."""
    taken = {(one.deployment_id, one.adapter) for one in there}
    found = columns.choices(conversation.team, conversation.task)
    free = (one for one in found if (one.deployment.pk, one.adapter) not in taken and not one.adapter)
    return next((one.deployment for one in free if one.state in ("ready", "loading")), None)
