"""The form of a key, for a new one and for one that is changed: what it shows, and what was typed, read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.http import QueryDict
from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey, Endpoint
from playground.models import Node, Team

LIVES = (("", "never"), ("1", "after a day"), ("30", "after 30 days"), ("90", "after 90 days"))
OVERLAPS = (
    ("0", "at once"),
    ("1", "in an hour"),
    ("24", "in a day"),
    ("168", "in 7 days"),
    ("720", "in 30 days"),
)


@dataclass
class Typed:
    """What stands in the form."""

    name: str = ""
    expires: str = ""
    scopes: list[str] = field(default_factory=lambda: list(keys.SCOPES))
    endpoints: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    limits: dict[str, str] = field(default_factory=dict)


def posted(data: QueryDict) -> Typed:
    return Typed(
        data.get("name", ""),
        data.get("expires", ""),
        data.getlist("scopes"),
        data.getlist("endpoints"),
        data.getlist("routes"),
        {name: data.get(name, "") for name in keys.LIMITS},
    )


def of(key: ApiKey) -> Typed:
    """As the key is now."""
    limits = {name: f"{value:.6f}".rstrip("0").rstrip(".") for name, value in key.limits.items()}
    return Typed(key.name, _day(key), list(key.scopes), list(key.endpoints), list(key.routes), limits)


def _day(key: ApiKey) -> str:
    return key.expires_at.astimezone(UTC).date().isoformat() if key.expires_at else ""


def context(team: Team, typed: Typed, errors: Mapping[str, str], key: ApiKey | None = None) -> dict[str, Any]:
    """Everything `endpoints/key_fields.html` shows."""
    names = {*Endpoint.objects.filter(team=team).values_list("name", flat=True), *typed.endpoints}
    unpriced = Node.objects.filter(price_per_hour=None).values_list("name", flat=True)
    narrowed = bool(typed.endpoints or typed.routes) or "endpoints" in errors or "routes" in errors
    return {
        "typed": typed,
        "errors": errors,
        "key": key,
        "scopes": [(scope, words, scope in typed.scopes) for scope, words in keys.SCOPES.items()],
        "endpoints": [(name, name in typed.endpoints) for name in sorted(names)],
        "routes": [(route, route in typed.routes) for route in keys.ROUTES],
        "limits": [
            (name, title, typed.limits.get(name, ""), errors.get(name, ""))
            for name, (title, _) in keys.LIMITS.items()
        ],
        "lives": LIVES,
        "unpriced": sorted(unpriced),
        "open_narrow": narrowed,
        "open_limits": any(typed.limits.values()) or any(name in errors for name in keys.LIMITS),
    }


def values(typed: Typed) -> dict[str, Any]:
    """What `keys.make` and `keys.change` take; KeyRefused names the field."""
    return {
        "name": typed.name,
        "scopes": typed.scopes,
        "endpoints": typed.endpoints,
        "routes": typed.routes,
        "limits": {name: _number(name, text) for name, text in typed.limits.items() if text.strip() and name},
    }


def _number(name: str, text: str) -> float:
    """As it was typed; a comma or a blank between thousands is let through."""
    plain = text.strip().replace(",", "").replace(" ", "").removeprefix("$")
    try:
        value = float(plain) if plain.isascii() and len(plain) < 30 else float("nan")
    except ValueError:
        value = float("nan")
    return int(value) if value == value and abs(value) < 1e18 and value == int(value) else value


def life(typed: Typed) -> datetime | None:
    """When a new key ends."""
    if typed.expires not in dict(LIVES):
        raise keys.KeyRefused("Choose one of these.", "expires")
    return timezone.now() + timedelta(days=int(typed.expires)) if typed.expires else None


def end(typed: Typed, key: ApiKey) -> datetime | None:
    """When a changed key ends: as before, where its day is the same; else with the day that was typed."""
    text = typed.expires.strip()
    if text == _day(key):
        return key.expires_at
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as problem:
        raise keys.KeyRefused("A day like 2027-01-31, or nothing for never.", "expires") from problem
    return datetime.combine(day, time(23, 59, 59), UTC)


def overlap(text: str) -> timedelta:
    """How long the old secret works on."""
    if text not in dict(OVERLAPS):
        raise keys.KeyRefused("Choose one of these.", "overlap")
    return timedelta(hours=int(text))
