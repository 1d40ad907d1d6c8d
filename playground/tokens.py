"""Tokens for the management API: made, checked, revoked. One acts as its person, and never as more."""

import hashlib
import hmac
import re
import secrets
import string
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from playground import access
from playground.models import AccessToken, Team, User

START = "slp-"
LIVES = {
    "7": "after 7 days",
    "30": "after 30 days",
    "90": "after 90 days",
    "365": "after a year",
    "": "never",
}
# As much as `make` gives out; whatever looks otherwise is not looked up.
SHAPE = re.compile(r"slp-([a-z0-9]{8})-([A-Za-z0-9_-]{43})")
MOST = 50
# The last use is written at most so often.
USED_EVERY = timedelta(minutes=1)
_LETTERS = string.ascii_lowercase + string.digits


class TokenRefused(Exception):
    """The token cannot be made; `field` names what was wrong with the input."""

    def __init__(self, text: str, field: str = "name") -> None:
        super().__init__(text)
        self.field = field


def make(
    user: User,
    name: str,
    scope: str = AccessToken.Scope.READ,
    team: Team | None = None,
    expires_at: datetime | None = None,
) -> tuple[AccessToken, str]:
    """A new token and its secret, `slp-<prefix>-<43 characters>`, which is kept nowhere.

    `team` None: in every team of the person's, those they join later included.
    """
    name = " ".join(name.split())
    _check(user, name, scope, team, expires_at)
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(8))
    secret = f"{START}{prefix}-{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if usable(user).count() >= MOST:
            raise TokenRefused(f"You have {MOST} tokens: revoke one first.")
        token = AccessToken.objects.create(
            user=user,
            team=team,
            name=name,
            scope=scope,
            prefix=prefix,
            secret_hash=_digest(secret),
            expires_at=expires_at,
        )
        after = {"scope": scope, "team": team.name if team else None, "expires_at": _moment(expires_at)}
        access.audit(user, team, "make token", f"token:{token.pk}", name=name, after=after)
    return token, secret


def check(secret: str) -> AccessToken | None:
    """The usable token of that secret, its use written down; None for any other text."""
    shape = SHAPE.fullmatch(secret)
    if shape is None:
        return None
    token = AccessToken.objects.select_related("user", "team").filter(prefix=shape[1]).first()
    if token is None or not hmac.compare_digest(token.secret_hash, _digest(secret)):
        return None
    if not is_usable(token) or not token.user.is_active:
        return None
    now = timezone.now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USED_EVERY)
    AccessToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


def revoke(token: AccessToken, user: User) -> bool:
    """Refuse it from the next request on; False when it was revoked before."""
    with transaction.atomic():
        done = AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        if done:
            access.audit(user, token.team, "revoke token", f"token:{token.pk}", name=token.name)
    return bool(done)


def is_usable(token: AccessToken) -> bool:
    """Whether it was neither revoked nor is past its end."""
    ended = token.expires_at is not None and token.expires_at <= timezone.now()
    return token.revoked_at is None and not ended


def of(user: User) -> QuerySet[AccessToken]:
    """The person's, newest first."""
    return user.tokens.select_related("team").order_by("-pk")


def usable(user: User) -> QuerySet[AccessToken]:
    open_ended = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return user.tokens.filter(open_ended, revoked_at=None)


def _check(user: User, name: str, scope: str, team: Team | None, expires_at: datetime | None) -> None:
    if not name:
        raise TokenRefused("Say what the token is for.")
    if len(name) > 80 or not name.isprintable():
        raise TokenRefused("At most 80 characters, all of them visible.")
    if scope not in AccessToken.Scope.values:
        raise TokenRefused("Choose whether it may only read.", "scope")
    if team is not None and access.role_in(user, team) is None:
        raise TokenRefused("You are not in that team.", "team")
    if expires_at is not None and expires_at <= timezone.now():
        raise TokenRefused("That moment has passed.", "expires")


def _digest(secret: str) -> str:
    """What is stored of a secret: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
