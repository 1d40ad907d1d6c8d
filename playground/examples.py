"""What a newcomer finds ready: the demo model to chat with, and the same weights beside themselves.

Starts deployments and begins conversations by the verbs that people's own are started with.
"""

from typing import Any

from django.db import transaction

from playground import catalogue, comparison, conversations, deployments
from playground.models import Column, Conversation, Deployment, Team, User

ENGINE = "llama.cpp"
MESSAGE = "What is the capital of France? Answer in one sentence."
LONGER = "Write three sentences about the sea."
TITLE = "Example: llama.cpp beside itself, its KV cache in 16 bits and in 4"
# Two settings of one engine on the same weights: the second remembers in rounder numbers.
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"cache_type_k": "q4_0", "cache_type_v": "q4_0"})
PARAMETERS = {"temperature": 0.0, "max_tokens": 128}


def chat(team: Team, user: User) -> Conversation:
    """The demo model with default options, started, in a conversation of one column."""
    return conversations.begin(team, user, started(team, user, {}))


def compare(team: Team, user: User) -> Conversation:
    """The demo model twice with other settings, both started; this person's empty example is taken first."""
    rows = [started(team, user, options) for options in SETTINGS]
    empty = Conversation.objects.filter(team=team, created_by=user, title=TITLE, turns=None)
    with transaction.atomic():
        found = empty.order_by("-pk").first()
        if found is None:
            found = Conversation.objects.create(
                team=team, created_by=user, title=TITLE, parameters=dict(PARAMETERS)
            )
            for position, row in enumerate(rows):
                Column.objects.create(conversation=found, position=position, deployment=row)
        else:
            _point(found, rows)
        conversations.tell(found)
    return found


def _point(conversation: Conversation, rows: list[Deployment]) -> None:
    """Have the first columns of an example be asked as it was begun, whatever was tried in them."""
    for column, row in zip(comparison.shown(conversation), rows, strict=False):
        Column.objects.filter(pk=column.pk).update(deployment=row, adapter="")


def started(team: Team, user: User, options: dict[str, Any]) -> Deployment:
    """The demo model with these options: the deployment there is, started again, or a new one."""
    model = catalogue.demo(team)
    earlier = Deployment.objects.filter(
        team=team, model=model, engine=ENGINE, released=False, wanted__options=options
    )
    row = earlier.exclude(desired=Deployment.Desired.DELETED).order_by("-pk").first()
    if row is None:
        return deployments.request(team=team, user=user, model=model, engine=ENGINE, options=options)
    deployments.start(row, user)
    return row
