"""Public links: whoever has one reads one conversation, prompt or batch, until a day, without signing in.

The token is made of the link's row by the site's secret key, so that it can be shown again and is kept
nowhere; old secret keys that are still accepted open what they made. Who may share a thing makes and takes
back its links. Knows nothing of what the page shows: that is `shared`'s.
"""

import base64
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db.models import F
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.dateparse import parse_date

from playground import access, sharing_rules
from playground.models import Batch, Conversation, Prompt, ShareLink, User

DAYS = (1, 7, 30)
MOST_DAYS, MOST = 365, 20
Kind = ShareLink.Kind
Thing = Conversation | Batch | Prompt
MODELS: dict[str, type[Conversation] | type[Batch] | type[Prompt]] = {
    Kind.CONVERSATION: Conversation,
    Kind.PROMPT: Prompt,
    Kind.BATCH: Batch,
}
_KEYS = {Kind.CONVERSATION: "team", Kind.PROMPT: "team", Kind.BATCH: "version__dataset"}


class LinkRefused(Exception):
    """There is no such link made; `field` is the part of the form that is wrong, the text says why."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class Gone(Exception):
    """No such link holds: it ended, was taken back, never was, or what it showed is deleted."""


@dataclass(frozen=True)
class Opened:
    link: ShareLink
    thing: Thing


# Until when


def read_end(days: str, day: str) -> datetime:
    """When it ends, as a form says it: `days` from now, or at the end of a `day` ("2026-12-24")."""
    now = timezone.now()
    if days in {str(one) for one in DAYS}:
        return now + timedelta(days=int(days))
    if days != "date":
        raise LinkRefused("Choose how long it holds.", "days")
    try:
        chosen = parse_date(day)
    except ValueError:
        chosen = None
    if chosen is None:
        raise LinkRefused("Write the day as year-month-day, for example 2026-12-24.", "day")
    return _end_of(chosen, now)


def _end_of(day: date, now: datetime) -> datetime:
    today = timezone.localdate(now)
    if day < today:
        raise LinkRefused("That day is over.", "day")
    if day > today + timedelta(days=MOST_DAYS):
        raise LinkRefused("A link holds for at most a year.", "day")
    return min(timezone.make_aware(datetime.combine(day, time.max)), now + timedelta(days=MOST_DAYS))


# Making and taking back


def make(thing: Thing, user: User, until: datetime, version: int | None = None) -> ShareLink:
    """A new link. `version`: that one of a prompt for ever; None the newest of each day."""
    _require(user, thing, "make")
    if isinstance(thing, Prompt):
        _require_version(thing, version)
    kind = kind_of(thing)
    if len(of(thing)) >= MOST:
        raise LinkRefused(f"There are {MOST} links already: take one back first.")
    link = ShareLink.objects.create(
        team=thing.team,
        kind=kind,
        object_id=thing.pk,
        version=version if isinstance(thing, Prompt) else None,
        created_by=user,
        expires_at=until,
    )
    access.audit(
        user,
        thing.team,
        "make public link",
        f"{kind}:{thing.pk}",
        name=title(thing),
        after={"link": link.pk, "until": until.isoformat(), "version": link.version},
    )
    return link


def revoke(link: ShareLink, user: User) -> bool:
    """From now on it opens nothing. False where it was taken back before."""
    thing = MODELS[link.kind]._default_manager.filter(pk=link.object_id).select_related("team").first()
    if thing is not None:
        _require(user, thing, "take back")
    else:
        access.require(user, "chat", link.team)
    done = ShareLink.objects.filter(pk=link.pk, revoked_at=None).update(revoked_at=timezone.now())
    if done:
        access.audit(
            user,
            link.team,
            "take back public link",
            f"{link.kind}:{link.object_id}",
            name=title(thing) if thing else "",
            before={"link": link.pk, "until": link.expires_at.isoformat()},
            after={"link": None},
        )
    return bool(done)


def of(thing: Thing) -> list[ShareLink]:
    """Its links that hold, newest first."""
    rows = ShareLink.objects.filter(kind=kind_of(thing), object_id=thing.pk, revoked_at=None)
    return list(rows.filter(expires_at__gt=timezone.now()).select_related("created_by").order_by("-pk"))


def kind_of(thing: Thing) -> str:
    return next(kind for kind, model in MODELS.items() if isinstance(thing, model))


def title(thing: Thing) -> str:
    return thing.title if isinstance(thing, Conversation) else thing.name


def _require(user: User, thing: Thing, verb: str) -> None:
    access.require(user, "chat", thing.team)
    if not sharing_rules.may_share(user, thing):
        access.audit(user, thing.team, f"refused {verb} link", f"{kind_of(thing)}:{thing.pk}")
        raise access.Refused("Public links are for its owner and the team's administrators to make.")


def _require_version(prompt: Prompt, version: int | None) -> None:
    if version is not None and not prompt.versions.filter(number=version).exists():
        raise LinkRefused("There is no such version.", "version")


# Tokens


def token(link: ShareLink) -> str:
    """What the address of its page ends with."""
    return f"{link.pk}-{_mac(link, settings.SECRET_KEY)}"


def open_by(token: str) -> Opened:
    """What a token opens now; Gone where it opens nothing."""
    number, _, mac = token.partition("-")
    if not (number.isascii() and number.isdecimal() and len(number) < 19 and mac.isascii()):
        raise Gone(token)
    rows: Any = ShareLink.objects.filter(pk=int(number), revoked_at=None, expires_at__gt=timezone.now())
    link = rows.first()
    if link is None or not _made(link, mac):
        raise Gone(token)
    things: Any = MODELS[link.kind]._default_manager.select_related(_KEYS[link.kind])
    thing = things.filter(pk=link.object_id, team=link.team_id).first()
    if thing is None:
        raise Gone(token)
    return Opened(link, thing)


def count(link: ShareLink) -> None:
    """It was opened once more."""
    ShareLink.objects.filter(pk=link.pk).update(opened=F("opened") + 1)


def _made(link: ShareLink, mac: str) -> bool:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any([constant_time_compare(mac, _mac(link, key)) for key in keys])


def _mac(link: ShareLink, key: str) -> str:
    signed = salted_hmac("playground.links", f"{link.pk}:{link.nonce}", secret=key, algorithm="sha256")
    return base64.urlsafe_b64encode(signed.digest()).rstrip(b"=").decode()
