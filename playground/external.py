"""Servers of others: OpenAI-compatible ones that somebody runs already, as models that are asked there.

An administrator names the address, the model's name there, and a key. Started, one is a deployment like any
other, on the adapter that passes requests on. Which addresses may be named is `launchers/addresses`; the
forwarder judges them again at each connection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction

from playground import access, configurations, events, secrets
from playground.engines.launchers import addresses
from playground.models import Model, ModelFormat, Secret, Team, User

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
TASKS = (Model.Task.CHAT, Model.Task.COMPLETION, Model.Task.EMBEDDING)
MOST = 300
MOST_TOKENS = 100_000_000


class ExternalRefused(Exception):
    """A server may not be added so; `fields` has a sentence for each field that is wrong."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


@dataclass
class Named:
    """A server as it was entered, judged field by field."""

    name: str
    url: str
    model: str
    key: str = ""
    task: str = Model.Task.CHAT
    context: str = ""
    takes_images: bool = False
    wrong: dict[str, str] = field(default_factory=dict)

    def judge(self) -> None:
        """Fill `wrong`. Looks up where the address leads now."""
        if not NAME.fullmatch(self.name):
            self.wrong["name"] = "Up to 60 letters, digits, dots and hyphens; a letter or digit first."
        try:
            server = addresses.parse(self.url)
            self.url = server.base
            addresses.judge(server, addresses.resolve(server), addresses.networks(settings.EXTERNAL_NETWORKS))
        except addresses.Forbidden as problem:
            self.wrong["url"] = str(problem)
        if not (0 < len(self.model) <= MOST and self.model.isprintable()):
            self.wrong["model"] = "What the server calls the model, as in its list of models."
        self.wrong |= _judge_key(self.key)
        if self.task not in TASKS:
            self.wrong["task"] = "One of the list."
        if self.context and not (self.context.isascii() and self.context.isdigit() and self.tokens):
            self.wrong["context"] = "A whole number of tokens, or nothing."

    @property
    def tokens(self) -> int | None:
        """The context, where it was given."""
        return int(self.context[:12]) if self.context and int(self.context[:12]) <= MOST_TOKENS else None


def add(team: Team, user: User, given: Mapping[str, Any]) -> Model:
    """The model that is asked there; ExternalRefused names every field that is wrong."""
    named = Named(**given)
    named.judge()
    source = f"external:{named.name}"
    if Model.objects.filter(team=team, source=source, missing=False).exists():
        named.wrong["name"] = "There is one of that name: remove it first, or choose another name."
    if named.wrong:
        raise ExternalRefused(named.wrong)
    origin = {"url": named.url, "model": named.model}
    values = {"name": named.name, "origin": origin, "task": named.task, "context_length": named.tokens}
    values |= {"takes_images": named.takes_images and named.task == Model.Task.CHAT, "missing": False}
    digest = configurations.digest(configurations.canonical(origin))
    with transaction.atomic():
        row, _ = Model.objects.update_or_create(
            team=team, source=source, defaults=values, create_defaults={**values, "created_by": user}
        )
        # The same row: what once ran here keeps its name, and is refused where it now means another server.
        form = {"digest": digest, "path": source}
        ModelFormat.objects.update_or_create(model=row, kind=ModelFormat.Kind.EXTERNAL, defaults=form)
        forget_key(row, user)
        if named.key:
            secrets.keep(team, source, named.key, user)
        access.audit(user, team, "add external server", f"model:{row.pk}", url=named.url, asks=named.model)
    events.notify(team.pk, "models")
    return row


def set_key(model: Model, user: User, key: str) -> None:
    """A new key in the place of the one before; empty: none. What runs keeps the old one."""
    if wrong := _judge_key(key):
        raise ExternalRefused(wrong)
    if key:
        secrets.keep(model.team, model.source, key, user)
    else:
        forget_key(model, user)


def key(model: Model) -> str:
    """What the model's server asks for, for the process that asks it; empty where it has none."""
    return secrets.reveal(model.team, model.source) if model.is_elsewhere else ""


def kept(model: Model) -> Secret | None:
    """The key's row, for its hint and who gave it."""
    return secrets.find(model.team, model.source) if model.is_elsewhere else None


def forget_key(model: Model, user: User | None) -> None:
    if model.is_elsewhere:
        secrets.forget(model.team, model.source, user)


def _judge_key(key: str) -> dict[str, str]:
    fits = len(key) <= MOST and key.isascii() and key.isprintable() and " " not in key
    return {} if fits else {"key": "A key has letters, digits and signs only, without spaces."}
