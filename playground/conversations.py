"""Conversations as people keep them: begun, named, set up, searched, deleted. What is said: `generation`."""

import hashlib
from typing import Any

from django.db import transaction
from django.db.models import Exists, JSONField, OuterRef, Q, QuerySet
from django.db.models.functions import Cast

from playground import access, adapters, events, key_order, kinds
from playground.models import Column, Conversation, Deployment, Generation, Model, Team, Turn, User

UNTITLED = "New conversation"
OPEN_OWN = "Open it in a conversation of its own, from Running."
TITLE = 80
PROMPT = 200_000


class ConversationRefused(Exception):
    """It cannot be so; the text says why."""


def begin(team: Team, user: User, deployment: Deployment | None) -> Conversation:
    """An empty conversation with one column; one this person has and did nothing in is taken first."""
    empty = Conversation.objects.filter(
        team=team,
        created_by=user,
        turns=None,
        title=UNTITLED,
        system_prompt="",
        prompt_version=None,
        blind=False,
        sharing=Conversation.Sharing.EDIT,
    )
    several = Column.objects.filter(conversation=OuterRef("pk"), closed=False, position__gt=0)
    set_up = Q(parameters__isnull=False) | Q(system_prompt__isnull=False)
    own = Column.objects.filter(set_up, conversation=OuterRef("pk"))
    empty = empty.filter(~Exists(several), ~Exists(own))
    task = deployment.model.task if deployment else Model.Task.CHAT
    with transaction.atomic():
        unset = empty.alias(own=Cast("parameters", JSONField())).filter(own={})
        row: Conversation | None = unset.order_by("-pk").first()
        if row is None:
            row = Conversation.objects.create(team=team, created_by=user, title=UNTITLED, task=task)
        elif row.task != task:
            Conversation.objects.filter(pk=row.pk).update(task=task)
            row.task = task
        answers = {"deployment": deployment, "adapter": ""}
        Column.objects.update_or_create(conversation=row, closed=False, defaults=answers)
        tell(row)
    return row


def rename(conversation: Conversation, title: str, user: User) -> None:
    title = " ".join(title.split())[:200]
    if not title:
        raise ConversationRefused("A conversation needs a name.")
    before = conversation.title
    Conversation.objects.filter(pk=conversation.pk).update(title=title)
    conversation.title = title
    if title != before:
        record(conversation, user, "rename conversation", {"title": before}, {"title": title})
    tell(conversation)


def name_after(conversation: Conversation, text: str) -> bool:
    """Call a conversation without a name after its first message; no model is asked. True if it was."""
    if conversation.title != UNTITLED:
        return False
    words = " ".join(text[:1000].split())
    title = words if len(words) <= TITLE else words[: TITLE - 1].rsplit(" ", 1)[0] + "…"
    named = Conversation.objects.filter(pk=conversation.pk, title=UNTITLED).update(title=title or UNTITLED)
    if named:
        conversation.title = title or UNTITLED
    return bool(named)


def configure(conversation: Conversation, system_prompt: str, parameters: dict[str, Any], user: User) -> None:
    """From the next message on. `parameters` holds only what was set."""
    require_prompt(system_prompt)
    prompt = system_prompt.replace("\r\n", "\n")
    before = _setting(conversation.system_prompt, conversation.parameters)
    after = _setting(prompt, parameters)
    if not (prompt == conversation.system_prompt and key_order.same(conversation.parameters, parameters)):
        record(conversation, user, "set up conversation", before, after)
    Conversation.objects.filter(pk=conversation.pk).update(system_prompt=prompt, parameters=parameters)
    conversation.system_prompt, conversation.parameters = prompt, parameters


def require_prompt(system_prompt: str) -> None:
    """Refuse one that is too long to be anybody's."""
    if len(system_prompt) > PROMPT:
        raise ConversationRefused(
            f"The system prompt has {len(system_prompt):,} characters; {PROMPT:,} is the most."
        )


def go_on_from(conversation: Conversation, *, one: bool) -> None:
    """Whether messages go on from one chosen answer in every column, or from each column's own."""
    if conversation.together != one:
        Conversation.objects.filter(pk=conversation.pk).update(together=one)
        conversation.together = one


def choose(column: Column, deployment: Deployment, adapter: str = "") -> None:
    """From the next message on `deployment` answers in `column`; its model has to be for the same task.

    `adapter`: the one of its adapters that answers; empty for the model itself.
    """
    if adapter and adapter not in adapters.served(deployment):
        raise ConversationRefused(f"{deployment.name} does not serve an adapter called {adapter[:100]}.")
    task, model = column.conversation.task, deployment.model
    if model.task != task:
        here = kinds.SPACES[task]
        raise ConversationRefused(f"{deployment.name} {kinds.NAMES[model.task]}; {here}. {OPEN_OWN}")
    Column.objects.filter(pk=column.pk).update(deployment=deployment, adapter=adapter)
    column.deployment, column.adapter = deployment, adapter
    tell(column.conversation)


def move(old: Deployment, new: Deployment) -> None:
    """From the next message on `new` answers wherever `old` did; its model does for an adapter it lacks."""
    theirs = Column.objects.filter(deployment=old)
    held = list(Conversation.objects.filter(pk__in=theirs.values("conversation")))
    theirs.exclude(adapter__in=["", *adapters.served(new)]).update(adapter="")
    theirs.update(deployment=new)
    for conversation in held:
        tell(conversation)


def delete(conversation: Conversation, user: User) -> None:
    """With every message; refused while an answer streams, so that nothing writes into what is gone."""
    if Generation.objects.filter(turn__conversation=conversation, state__in=Generation.LIVE).exists():
        raise ConversationRefused("An answer is still streaming here: stop it first.")
    before = {"title": conversation.title, "messages": conversation.turns.count()}
    with transaction.atomic():
        record(conversation, user, "delete conversation", before, None)
        tell(conversation)
        conversation.delete()


def find(team: Team, query: str) -> QuerySet[Conversation]:
    """The team's conversations whose name or messages hold `query`, last used first."""
    rows = Conversation.objects.filter(team=team).order_by("-updated_at", "-pk")
    query = query.strip()[:200]
    if not query:
        return rows
    said = Turn.objects.filter(conversation=OuterRef("pk"), text__icontains=query)
    return rows.filter(Q(title__icontains=query) | Exists(said))


def record(
    conversation: Conversation,
    user: User,
    act: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Keep in the audit log what was done to it; what was said in it is its own record."""
    about, name = f"conversation:{conversation.pk}", conversation.title
    access.audit(user, conversation.team, act, about, name=name, before=before, after=after)


def _setting(system_prompt: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """How it is set up, as the audit log keeps it: a system prompt by its digest, for it may be long."""
    digest = hashlib.sha256(system_prompt.encode()).hexdigest()[:16] if system_prompt else ""
    return {"system_prompt": digest, "characters": len(system_prompt), "parameters": parameters}


def tell(conversation: Conversation) -> None:
    events.notify(conversation.team_id, f"conversation:{conversation.pk}", "conversations")
