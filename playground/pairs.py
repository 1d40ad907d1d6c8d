"""Two models that belong together, a parent and what was made from it, answering side by side.

Reads deployments; the one thing it makes is a conversation with a column for each.
"""

from dataclasses import dataclass

from django.db import transaction

from playground import conversations
from playground.models import Column, Conversation, Deployment, Model, ModelFormat, User


@dataclass(frozen=True)
class Kin:
    """A model beside another one. `sides`: a running deployment of each, the parent's first."""

    model: Model
    form: ModelFormat | None
    sides: tuple[Deployment, Deployment] | None
    method: str = ""


def parent(model: Model) -> Kin | None:
    """What it was made from, while that is in the catalogue."""
    given = model.parent
    if given is None or given.missing:
        return None
    return Kin(given, _form(given, _kind(model)), sides(given, model), str(model.origin.get("method", "")))


def children(model: Model) -> list[Kin]:
    """What was made from it."""
    rows = model.children.filter(missing=False).order_by("name")
    return [
        Kin(row, _form(row, _kind(row)), sides(model, row), str(row.origin.get("method", ""))) for row in rows
    ]


def sides(one: Model, other: Model) -> tuple[Deployment, Deployment] | None:
    """A running deployment of each, on the same engine where there is such a pair; None when one has none."""
    left, right = _running(one), _running(other)
    pairs = [(mine, theirs) for mine in left for theirs in right]
    return min(pairs, key=lambda pair: pair[0].engine != pair[1].engine, default=None)


def compare(user: User, one: Deployment, other: Deployment) -> Conversation:
    """A conversation in which both answer; an empty one of this person for the same two is taken first."""
    team, task = one.team, one.model.task
    title = f"{one.model.name} and {other.model.name}"[:200]
    rows = Conversation.objects.filter(team=team, created_by=user, title=title, turns=None, task=task)
    with transaction.atomic():
        row = rows.order_by("-pk").first()
        if row is None:
            row = Conversation.objects.create(team=team, created_by=user, title=title, task=task)
        for position, deployment in enumerate((one, other)):
            answers = {"deployment": deployment, "adapter": ""}
            Column.objects.update_or_create(conversation=row, position=position, defaults=answers)
        conversations.tell(row)
    return row


def _running(model: Model) -> list[Deployment]:
    rows = model.deployments.filter(desired=Deployment.Desired.RUNNING, problem="")
    return list(rows.select_related("model", "team").order_by("-pk"))


def _kind(model: Model) -> str:
    """The form that it was made in."""
    form = model.formats.order_by("pk").first()
    return form.kind if form else ""


def _form(model: Model, kind: str) -> ModelFormat | None:
    rows = list(model.formats.filter(kind=kind))
    return max(rows, key=lambda row: row.size_bytes or 0, default=None)
