"""API keys: making, changing, replacing and revoking them, and what a secret looks like.

Checking one is the gateway's, and what its limits mean is `limits`'.
"""

import hashlib
import math
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from endpoints import limit_words, protocol
from endpoints.models import ApiKey
from playground import access, events
from playground.models import Team, User

SCOPES = {
    "endpoints": "call the team's endpoints by name",
    "playground": "also reach ready deployments as deployment/<id>",
}
# Every address a key may be held to. The list of models answers every key.
ROUTES = [*(path.decode() for _, path in protocol.ROUTES), "/v1/files", "/v1/batches"]
# What each limit is called, and the largest it may be.
LIMITS = {
    "requests_minute": ("Requests a minute", 10**9),
    "requests_day": ("Requests a day", 10**9),
    "tokens_minute": ("Tokens a minute", 10**12),
    "tokens_day": ("Tokens a day", 10**12),
    "spend_minute": ("Dollars a minute", 10**6),
    "spend_day": ("Dollars a day", 10**6),
    "concurrent": ("Requests at once", 10**5),
}
MOST_OVERLAP = timedelta(days=30)
# No key ends later: near the year 10,000 are moments that PostgreSQL keeps and Python cannot read.
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
START = "sk-slip-"
_LETTERS = string.ascii_lowercase + string.digits


class KeyRefused(Exception):
    """The key cannot be so; `field` names what was wrong with the input."""

    def __init__(self, text: str, field: str = "name") -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True)
class May:
    """What a key may do. Empty `endpoints` and `routes` mean all of them; a limit that is not there, none."""

    scopes: list[str]
    endpoints: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)


def digest(secret: str) -> str:
    """What is stored of a secret: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make(
    team: Team,
    user: User | None,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
    *,
    endpoints: Iterable[str] = (),
    routes: Iterable[str] = (),
    limits: Mapping[str, float] | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, `sk-slip-<prefix>-<43 characters>`, which is kept nowhere."""
    may = _checked(scopes, endpoints, routes, limits or {})
    name = _named(name)
    _check_end(expires_at)
    with transaction.atomic():
        key, secret = _new(team, user, name, may, expires_at)
        access.audit(user, team, "make key", f"key:{key.pk}", name=name, after=_facts(key))
    events.notify(team.pk, "keys")
    return key, secret


def _new(
    team: Team, user: User | None, name: str, may: May, expires_at: datetime | None, **more: Any
) -> tuple[ApiKey, str]:
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(8))
    secret = f"{START}{prefix}-{secrets.token_urlsafe(32)}"
    key = ApiKey.objects.create(
        team=team,
        created_by=user,
        name=name,
        prefix=prefix,
        secret_hash=digest(secret),
        expires_at=expires_at,
        **asdict(may),
        **more,
    )
    return key, secret


def change(
    key: ApiKey,
    user: User | None,
    *,
    name: str,
    scopes: Iterable[str],
    endpoints: Iterable[str],
    routes: Iterable[str],
    limits: Mapping[str, float],
    expires_at: datetime | None,
) -> ApiKey:
    """Let a key be called so and do this from now on; its limits go for all that share them."""
    may, name = _checked(scopes, endpoints, routes, limits), _named(name)
    if expires_at != key.expires_at:
        _check_end(expires_at)
    before = _facts(key)
    with transaction.atomic():
        values = asdict(may) | {"name": name, "expires_at": expires_at}
        if not living(ApiKey.objects.filter(pk=key.pk)).update(**values):
            raise KeyRefused("It was revoked or has expired: it can no longer be changed.", "whole")
        _line(key).update(limits=may.limits)
        key.refresh_from_db()
        after = _facts(key)
        if changed := [field for field, value in after.items() if before[field] != value]:
            access.audit(
                *(user, key.team, "change key", f"key:{key.pk}"),
                name=name,
                before={field: before[field] for field in changed},
                after={field: after[field] for field in changed},
            )
    events.notify(key.team_id, "keys")
    return key


def rotate(key: ApiKey, user: User | None, overlap: timedelta) -> tuple[ApiKey, str]:
    """A new secret that replaces the key's, which works for `overlap` longer. Both share the limits.

    The new one lives as long as the old one was to live.
    """
    if not timedelta(0) <= overlap <= MOST_OVERLAP:
        raise KeyRefused(f"The old key works on for at most {MOST_OVERLAP.days} days.", "overlap")
    with transaction.atomic():
        old = living(ApiKey.objects.select_for_update()).filter(pk=key.pk).select_related("team").first()
        if old is None:
            raise KeyRefused("It was revoked or has expired: make a new key.", "overlap")
        if living(old.replaced_by.all()).exists():
            raise KeyRefused("It is being replaced already: rotate the one that replaces it.", "overlap")
        now = timezone.now()
        life = old.expires_at and min(LATEST, now + (old.expires_at - old.created_at))
        may = May(old.scopes, old.endpoints, old.routes, old.limits)
        line = old.family or old.pk
        fresh, secret = _new(old.team, user, old.name, may, life, replaces=old, family=line)
        ends = min(filter(None, (old.expires_at, now + overlap)))
        ApiKey.objects.filter(pk=old.pk).update(expires_at=ends)
        access.audit(
            *(user, old.team, "rotate key", f"key:{old.pk}"),
            name=old.name,
            before={"expires_at": _moment(old.expires_at)},
            after={"expires_at": _moment(ends)},
            replaced_by=fresh.pk,
        )
    events.notify(old.team_id, "keys")
    return fresh, secret


def revoke(key: ApiKey, user: User | None) -> bool:
    """Refuse the key from now on, on every web process within seconds; False when it was revoked before."""
    with transaction.atomic():
        done = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()) == 1
        if done:
            access.audit(user, key.team, "revoke key", f"key:{key.pk}", name=key.name)
    if done:
        events.notify(key.team_id, "keys")
    return done


def living(rows: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
    """Those that are neither revoked nor expired."""
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)


def _line(key: ApiKey) -> QuerySet[ApiKey]:
    """The key and those it shares its limits with."""
    line = key.family or key.pk
    return ApiKey.objects.filter(Q(pk=line) | Q(family=line))


def _facts(key: ApiKey) -> dict[str, Any]:
    """What the audit log keeps of a key."""
    said = {name: getattr(key, name) for name in ("name", "scopes", "endpoints", "routes", "limits")}
    return said | {"expires_at": _moment(key.expires_at)}


def _moment(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None


# What may be asked for


def _named(name: str) -> str:
    name = name.strip()
    if not name:
        raise KeyRefused("Say what the key is for.")
    if len(name) > 80 or not name.isprintable():
        raise KeyRefused("At most 80 characters, all of them visible.")
    return name


def _check_end(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= timezone.now():
        raise KeyRefused("That moment has passed.", "expires")
    if expires_at is not None and expires_at > LATEST:
        raise KeyRefused(f"A moment before the year {LATEST.year}, or none at all.", "expires")


def _checked(
    scopes: Iterable[str], endpoints: Iterable[str], routes: Iterable[str], limits: Mapping[str, float]
) -> May:
    chosen = sorted(set(scopes))
    if not chosen or not set(chosen) <= SCOPES.keys():
        raise KeyRefused(f"Choose at least one of: {', '.join(SCOPES)}.", "scopes")
    names = sorted(set(endpoints))
    if any(not isinstance(name, str) or not 0 < len(name) <= 120 or not name.isprintable() for name in names):
        raise KeyRefused("Names of endpoints have 1 to 120 characters.", "endpoints")
    if len(names) > 200:
        raise KeyRefused("At most 200 endpoints; choose none for all of them.", "endpoints")
    if odd := sorted(set(routes) - set(ROUTES)):
        raise KeyRefused(f"There is no {odd[0][:60]} to allow: {', '.join(ROUTES)}.", "routes")
    return May(chosen, names, [route for route in ROUTES if route in set(routes)], _limited(limits))


def _limited(given: Mapping[str, float]) -> dict[str, float]:
    """The limits that are set; each is above zero, and whole but for dollars."""
    for name in given:
        if name not in LIMITS:
            raise KeyRefused(f"There is no limit called {name[:60]!r}: {', '.join(LIMITS)}.", "limits")
    return {name: _limit(name, given[name]) for name in LIMITS if given.get(name) is not None}


def _limit(name: str, value: float) -> float:
    title, most = LIMITS[name]
    money = name.startswith("spend")
    fits = type(value) in (int, float) and math.isfinite(value) and 0 < value <= most
    if not fits or (not money and value != int(value)):
        raise KeyRefused(f"{title}: a {'number above zero' if money else 'whole number from 1'}.", name)
    if money and value * limit_words.UNITS["spend"] < 1:
        raise KeyRefused(f"{title}: at least a millionth of one.", name)
    return float(value) if money else int(value)
