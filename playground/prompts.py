"""The team's library of prompts: made, saved as versions, restored, named, tagged, deleted.

What a version may say and how it is filled in is `prompt_texts`'. Saving is optimistic: whoever saves names
the version they began from, and where another came first nothing is written and nothing lost: `Conflict`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from playground import access, events, key_order, opening, prompt_texts
from playground.models import Batch, Conversation, Prompt, PromptVersion, Team, User
from playground.prompt_texts import PromptRefused, filled

__all__ = ["Conflict", "PromptRefused", "Said", "Use", "create", "filled", "save"]

NAME, NOTE, DESCRIPTION, TAGS, TAG = 120, 500, 2000, 20, 40
# Conversations told in "where used", the newest.
SHOWN = 50


class Conflict(Exception):
    """Another saved first; `newest` is what they made of it. Nothing was written."""

    def __init__(self, newest: PromptVersion) -> None:
        who = newest.created_by.get_username() if newest.created_by else "somebody"
        super().__init__(f"{who} saved v{newest.number} while you wrote.")
        self.newest = newest


@dataclass(frozen=True)
class Said:
    """What a version says, as PromptVersion has it."""

    messages: Sequence[Mapping[str, Any]]
    variables: Sequence[Mapping[str, Any]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def checked(self) -> "Said":
        """The same as it is kept; PromptRefused where it cannot be."""
        prompt_texts.check(self.messages, self.parameters)
        messages = [{**message, "content": message.get("content")} for message in self.messages]
        return Said(messages, prompt_texts.declared(self.messages, list(self.variables)), self.parameters)


@dataclass(frozen=True)
class Use:
    """What names a version: an endpoint's release, a batch, a conversation. `holds`: the prompt stays."""

    number: int
    kind: str
    title: str
    address: str
    holds: bool


# Where a team's prompt is used, asked of each application that names versions.
USES: list[Callable[[Prompt], Iterable[Use]]] = []


def said(version: PromptVersion) -> Said:
    return Said(version.messages, version.variables, version.parameters)


def create(
    team: Team,
    user: User,
    name: str,
    what: Said,
    *,
    description: str = "",
    tags: Sequence[str] = (),
    note: str = "",
) -> Prompt:
    """A prompt with its first version."""
    access.require(user, "chat", team)
    what = what.checked()
    row = Prompt(team=team, created_by=user, name=named(name), head=1)
    row.description, row.tags = described(description), tagged(tags)
    with transaction.atomic():
        _once(row.save, row.name)
        _write(row, user, 1, what, note)
        access.audit(user, team, "create prompt", _object(row), name=row.name, after=_about(row))
        tell(row)
    return row


def save(
    prompt: Prompt, user: User, what: Said, *, base: int, note: str = "", restores: int | None = None
) -> PromptVersion:
    """The version after `base`, the number it was begun from. Conflict where another has come since.

    Saved twice by the same person, it is one version; what says the same as `base` is refused.
    """
    access.require(user, "chat", prompt)
    what = what.checked()
    note = noted(note)
    with transaction.atomic():
        newest = prompt.versions.select_related("created_by").order_by("-number")[0]
        if same(what, newest):
            if newest.number > base and newest.created_by_id == user.pk:
                return newest
            raise PromptRefused(f"Nothing has changed since v{newest.number}.")
        moved = Prompt.objects.filter(pk=prompt.pk, head=base).update(
            head=base + 1, updated_at=timezone.now()
        )
        if not moved:
            raise Conflict(prompt.versions.select_related("created_by").order_by("-number")[0])
        prompt.head = base + 1
        what = replace(what, parameters=key_order.like(newest.parameters, what.parameters))
        fresh = _write(prompt, user, base + 1, what, note, restores)
        act = "restore prompt" if restores else "save prompt"
        access.audit(
            user,
            prompt.team,
            act,
            _object(prompt),
            name=prompt.name,
            before={"version": base},
            after={"version": base + 1, "note": note} | ({"restores": restores} if restores else {}),
        )
        tell(prompt)
    return fresh


def restore(prompt: Prompt, user: User, number: int, *, base: int) -> PromptVersion:
    """A new version that says what version `number` said."""
    old = prompt.versions.filter(number=number).first()
    if old is None:
        raise PromptRefused(f"There is no v{number}.")
    if number == prompt.head:
        raise PromptRefused(f"v{number} is the newest already.")
    return save(prompt, user, said(old), base=base, note=f"Restores v{number}.", restores=number)


def change(prompt: Prompt, user: User, *, name: str, description: str, tags: Sequence[str]) -> None:
    """Another name, description, tags: of the prompt, not of a version."""
    access.require(user, "chat", prompt)
    before = _about(prompt)
    prompt.name, prompt.description, prompt.tags = named(name), described(description), tagged(tags)
    after = _about(prompt)
    changed = {key for key in after if after[key] != before[key]}
    if not changed:
        return
    fields = {"name": prompt.name, "description": prompt.description, "tags": prompt.tags}
    with transaction.atomic():
        rows = Prompt.objects.filter(pk=prompt.pk)
        _once(lambda: rows.update(**fields, updated_at=timezone.now()), prompt.name)
        access.audit(
            user,
            prompt.team,
            "change prompt",
            _object(prompt),
            name=prompt.name,
            before={key: before[key] for key in sorted(changed)},
            after={key: after[key] for key in sorted(changed)},
        )
        tell(prompt)


def delete(prompt: Prompt, user: User) -> None:
    """With every version; refused while an endpoint's release or a batch names one."""
    access.require(user, "chat", prompt)
    with transaction.atomic():
        # Locked, no row can come to name a version until this is over.
        list(prompt.versions.select_for_update().values_list("pk"))
        held = [use for use in uses(prompt, user) if use.holds]
        if held:
            names = ", ".join(f"{use.kind} {use.title} (v{use.number})" for use in held[:5])
            raise PromptRefused(f"It is used and stays: {names}.")
        versions = prompt.versions.count()
        access.audit(
            user,
            prompt.team,
            "delete prompt",
            _object(prompt),
            name=prompt.name,
            before=_about(prompt) | {"versions": versions},
        )
        opening.let_go(prompt)
        tell(prompt)
        prompt.delete()


def find(team: Team, query: str = "", tag: str = "") -> QuerySet[Prompt]:
    """The team's prompts that hold `query` in name, tags or newest messages, last changed first."""
    rows = Prompt.objects.filter(team=team).order_by("-updated_at", "-pk")
    if tag:
        rows = rows.filter(tags__contains=[tag])
    query = query.strip()[:200]
    if not query:
        return rows
    newest = Q(versions__number=F("head"), versions__messages__icontains=query)
    hit = Q(name__icontains=query) | Q(description__icontains=query) | Q(tags__icontains=query)
    return rows.filter(hit | newest).distinct()


def tags_of(team: Team, user: User) -> list[str]:
    """Every tag that a prompt of the team bears which `user` sees, sorted."""
    rows = access.listed_to(user, Prompt.objects.filter(team=team))
    told = rows.exclude(tags=[]).values_list("tags", flat=True)
    return sorted({tag for tags in told for tag in tags})


def uses(prompt: Prompt, user: User) -> list[Use]:
    """Where its versions are used, newest version first; what is private to others has no name or address."""
    found = [*_own_uses(prompt, user), *(use for ask in USES for use in ask(prompt))]
    return sorted(found, key=lambda use: (-use.number, use.kind, use.title))


def _own_uses(prompt: Prompt, user: User) -> Iterable[Use]:
    batches = Batch.objects.filter(prompt_version__prompt=prompt)
    seen = set(access.visible_to(user, batches).values_list("pk", flat=True))
    for number, pk, name in batches.values_list("prompt_version__number", "pk", "name"):
        told = (name, reverse("batch", args=[pk])) if pk in seen else ("(private)", "")
        yield Use(number, "batch", *told, holds=True)
    talks = access.visible_to(user, Conversation.objects.filter(prompt_version__prompt=prompt))
    talks = talks.order_by("-updated_at")[:SHOWN]
    for number, pk, title in talks.values_list("prompt_version__number", "pk", "title"):
        yield Use(number, "conversation", title, reverse("conversation", args=[pk]), holds=False)


def same(what: Said, version: PromptVersion) -> bool:
    """Whether both say the same: in which order, too, but for the names of a message, of the parameters."""
    mine, other = ([*one.messages, *one.variables, one.parameters] for one in (what, said(version)))
    return (
        len(what.messages) == len(version.messages)
        and len(mine) == len(other)
        and all(map(key_order.same, mine, other))
    )


# Fields


def named(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > NAME or "\x00" in name:
        raise PromptRefused(f"A prompt's name has 1 to {NAME} characters.", "name")
    return name


def noted(note: str) -> str:
    note = " ".join(note.split())
    if len(note) > NOTE or "\x00" in note:
        raise PromptRefused(f"The note has {len(note)} characters; {NOTE} is the most.", "note")
    return note


def described(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if len(text) > DESCRIPTION or "\x00" in text:
        raise PromptRefused(
            f"The description has {len(text):,} characters; {DESCRIPTION:,} is the most.", "description"
        )
    return text


def tagged(tags: Sequence[str]) -> list[str]:
    """Sorted, in lower case, each once."""
    found = sorted({" ".join(tag.lower().split()) for tag in tags} - {""})
    if len(found) > TAGS or any(len(tag) > TAG or "," in tag or "\x00" in tag for tag in found):
        raise PromptRefused(f"At most {TAGS} tags, each of at most {TAG} characters and no comma.", "tags")
    return found


# Rows


def _write(
    prompt: Prompt, user: User, number: int, what: Said, note: str, restores: int | None = None
) -> PromptVersion:
    return PromptVersion.objects.create(
        prompt=prompt,
        number=number,
        messages=list(what.messages),
        variables=list(what.variables),
        parameters=dict(what.parameters),
        note=noted(note),
        restores=restores,
        created_by=user,
    )


def _once(write: Callable[[], Any], name: str) -> None:
    """Write, or refuse a name that another prompt of the team has."""
    try:
        with transaction.atomic():
            write()
    except IntegrityError as problem:
        if "prompt_name_once" not in str(problem):
            raise
        raise PromptRefused(f"There is a prompt called {name} already.", "name") from problem


def _about(prompt: Prompt) -> dict[str, Any]:
    return {"name": prompt.name, "description": prompt.description, "tags": prompt.tags}


def _object(prompt: Prompt) -> str:
    return f"prompt:{prompt.pk}"


def tell(prompt: Prompt) -> None:
    events.notify(prompt.team_id, f"prompt:{prompt.pk}", "prompts")
