"""The audit log as people read it: who sees which entries, finding them, what an entry is about, as files.

Writing is `access.audit`'s. Entries are never changed; objects they tell of may be gone.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from playground import access
from playground.cells import safe
from playground.models import (
    AuditEntry,
    Batch,
    Conversation,
    Dataset,
    Deployment,
    Membership,
    Model,
    Node,
    Prompt,
    Team,
    User,
)
from playground.orm import orm

# How refused acts are called.
REFUSED = "refused"
CELL, PIECE, RECENT = 32_000, 500, 5_000
FIELDS = (
    "id",
    "at",
    "who",
    "team",
    "action",
    "object",
    "name",
    "before",
    "after",
    "detail",
    "address",
    "via",
)
FORMATS = {"csv": "text/csv", "jsonl": "application/jsonl"}
VIA = ("page", "socket", "api", "command", "worker")

# Where an object is seen, by its kind: the address of those of the given keys that are still there.
Places = Callable[[list[str]], dict[str, str]]


@dataclass(frozen=True)
class Wish:
    """What is looked for; empty is anything. `until` is included."""

    who: str = ""
    action: str = ""
    kind: str = ""
    via: str = ""
    text: str = ""
    since: date | None = None
    until: date | None = None
    refused: bool = False
    # Of one team alone; None: of all that are seen.
    team: Team | None = None


@dataclass(frozen=True)
class Change:
    """One field that changed, before and after, as text; None where it was not there."""

    name: str
    before: str | None
    after: str | None


def may_read(user: User, team: Team) -> bool:
    """Whether `user` reads the log of `team`: its administrators, and those of the site."""
    return user.is_staff or access.role_in(user, team) == Membership.Role.ADMIN


def seen_by(user: User) -> QuerySet[AuditEntry]:
    """The entries `user` may read: of teams they administrate, or all of the site's."""
    if user.is_staff:
        return AuditEntry.objects.all()
    held = user.memberships.filter(role=Membership.Role.ADMIN).values("team")
    return AuditEntry.objects.filter(team__in=held)


def find(rows: QuerySet[AuditEntry], wish: Wish) -> QuerySet[AuditEntry]:
    """Those of `rows` that are looked for, newest first."""
    exact = {"action": wish.action, "via": wish.via, "team": wish.team, "who": wish.who}
    rows = rows.filter(**{name: value for name, value in exact.items() if value})
    if wish.kind:
        rows = rows.filter(object__startswith=f"{wish.kind}:")
    if wish.refused:
        rows = rows.filter(action__startswith=REFUSED)
    if wish.since:
        rows = rows.filter(at__gte=_midnight(wish.since))
    if wish.until:
        rows = rows.filter(at__lt=_midnight(wish.until + timedelta(days=1)))
    if text := wish.text.strip()[:200]:
        hit = Q(name__icontains=text) | Q(object__icontains=text) | Q(action__icontains=text)
        rows = rows.filter(hit | Q(who__icontains=text) | Q(address__startswith=text))
    return rows.select_related("team", "user").order_by("-pk")


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


def choices(rows: QuerySet[AuditEntry]) -> tuple[list[str], list[str]]:
    """(actions, kinds of objects) among the newest of `rows`, to choose from."""
    newest = rows.order_by("-pk").values_list("action", "object")[:RECENT]
    told = list(newest)
    kinds = {object.partition(":")[0] for _, object in told}
    return sorted({action for action, _ in told}), sorted(kinds)


def changes(entry: AuditEntry) -> list[Change]:
    """The fields that changed; those of `detail` are what else was told."""
    before, after = entry.before or {}, entry.after or {}
    return [
        Change(
            name,
            _text(before[name]) if name in before else None,
            _text(after[name]) if name in after else None,
        )
        for name in dict.fromkeys([*before, *after])
    ]


def details(entry: AuditEntry) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in entry.detail.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)


# What it is about


def _keyed(rows: QuerySet[Any], page: str) -> Places:
    """Objects that are named by their number and have a page."""

    def places(keys: list[str]) -> dict[str, str]:
        numbers = [int(key) for key in keys if key.isascii() and key.isdigit() and len(key) < 19]
        found = rows.filter(pk__in=numbers).values_list("pk", flat=True)
        return {str(pk): reverse(page, args=[pk]) for pk in found}

    return places


def _node(keys: list[str]) -> dict[str, str]:
    numbers = [int(key) for key in keys if key.isascii() and key.isdigit() and len(key) < 19]
    found = Node.objects.filter(pk__in=numbers).values_list("pk", flat=True)
    return {str(pk): f"{reverse('nodes')}#node-{pk}" for pk in found}


# Other applications add theirs from their `AppConfig.ready`.
PLACES: dict[str, Places] = {
    "deployment": _keyed(Deployment.objects.exclude(desired=Deployment.Desired.DELETED), "deployment"),
    "model": _keyed(Model.objects.filter(missing=False), "model"),
    "conversation": _keyed(Conversation.objects.all(), "conversation"),
    "dataset": _keyed(Dataset.objects.all(), "dataset"),
    "batch": _keyed(Batch.objects.all(), "batch"),
    "prompt": _keyed(Prompt.objects.all(), "prompt"),
    "node": _node,
}


def addresses(entries: list[AuditEntry], user: User) -> dict[int, str]:
    """By entry: the page of what it is about, where that is still there and in a team of `user`'s."""
    asked: dict[str, list[str]] = {}
    mine = {team.pk for team in access.teams_of(user)}
    near = [entry for entry in entries if entry.team_id in mine or entry.object.startswith("node:")]
    for entry in near:
        kind, _, key = entry.object.partition(":")
        asked.setdefault(kind, []).append(key)
    found = {kind: _places(kind, keys) for kind, keys in asked.items()}
    told = {}
    for entry in near:
        kind, _, key = entry.object.partition(":")
        if key in found[kind]:
            told[entry.pk] = found[kind][key]
    return told


def _places(kind: str, keys: list[str]) -> dict[str, str]:
    try:
        return PLACES[kind](keys) if kind in PLACES else {}
    except NoReverseMatch:
        return {}


# Files


def document(entry: AuditEntry) -> dict[str, Any]:
    """One entry as plain values, by FIELDS."""
    told = {"at": entry.at.isoformat(), "team": entry.team_name}
    return {name: told.get(name, getattr(entry, name)) for name in FIELDS}


async def stream(rows: QuerySet[AuditEntry], kind: str) -> AsyncIterator[str]:
    """All of `rows` as a file of FORMATS, newest first, in pieces that are read as they are sent."""
    write = _csv if kind == "csv" else _json_lines
    if kind == "csv":
        yield _csv_line(FIELDS)
    last: int | None = None
    while True:
        piece = await orm(_piece, rows, last)
        if not piece:
            return
        yield write(piece)
        last = piece[-1].pk


def _piece(rows: QuerySet[AuditEntry], last: int | None) -> list[AuditEntry]:
    return list((rows if last is None else rows.filter(pk__lt=last))[:PIECE])


def _json_lines(entries: list[AuditEntry]) -> str:
    return "".join(json.dumps(document(entry), ensure_ascii=False) + "\n" for entry in entries)


def _csv(entries: list[AuditEntry]) -> str:
    """Lines of a table that no spreadsheet runs."""
    return "".join(_csv_line([_cell(value) for value in document(entry).values()]) for entry in entries)


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return safe(_text(value)[:CELL]) if isinstance(value, str | dict | list) else value
