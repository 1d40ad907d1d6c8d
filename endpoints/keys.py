"""API keys: making and revoking them, and what a secret looks like. Checking one is the gateway's."""

import hashlib
import secrets
import string
from collections.abc import Iterable
from datetime import datetime

from django.utils import timezone

from endpoints.models import ApiKey
from playground import access, events
from playground.models import Team, User

SCOPES = {
    "endpoints": "call the team's endpoints by name",
    "playground": "also reach ready deployments as deployment/<id>",
}
START = "sk-slip-"
_LETTERS = string.ascii_lowercase + string.digits


class KeyRefused(Exception):
    """The key cannot be made; `field` names what was wrong with the input."""

    def __init__(self, text: str, field: str = "name") -> None:
        super().__init__(text)
        self.field = field


def digest(secret: str) -> str:
    """What is stored of a secret: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make(
    team: Team, user: User | None, name: str, scopes: Iterable[str], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its secret, `sk-slip-<prefix>-<43 characters>`, which is kept nowhere."""
    name, chosen = name.strip(), sorted(set(scopes))
    _check(name, chosen, expires_at)
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(8))
    secret = f"{START}{prefix}-{secrets.token_urlsafe(32)}"
    key = ApiKey.objects.create(
        team=team,
        created_by=user,
        name=name,
        prefix=prefix,
        secret_hash=digest(secret),
        scopes=chosen,
        expires_at=expires_at,
    )
    access.audit(user, team, "make key", f"key:{key.pk}", name=name, scopes=chosen)
    events.notify(team.pk, "keys")
    return key, secret


def _check(name: str, scopes: list[str], expires_at: datetime | None) -> None:
    if not name:
        raise KeyRefused("Say what the key is for.")
    if len(name) > 80:
        raise KeyRefused("At most 80 characters.")
    if not scopes or not set(scopes) <= SCOPES.keys():
        raise KeyRefused(f"Choose at least one of: {', '.join(SCOPES)}.", "scopes")
    if expires_at is not None and expires_at <= timezone.now():
        raise KeyRefused("That moment has passed.", "expires")


def revoke(key: ApiKey, user: User | None) -> bool:
    """Refuse the key from now on, on every web process within seconds; False when it was revoked before."""
    done = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()) == 1
    if done:
        access.audit(user, key.team, "revoke key", f"key:{key.pk}", name=key.name)
        events.notify(key.team_id, "keys")
    return done
