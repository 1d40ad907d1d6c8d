"""People and their sign-in: default team, first user, one-time links. Knows nothing about requests."""

import hashlib
import hmac
import secrets
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from playground.models import LoginLink, Membership, Team, User


def default_team() -> Team:
    """The team everything belongs to until a second one is made."""
    return Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


def first_user() -> User:
    """The administrator who exists from the first start on: "admin", in the default team."""
    with transaction.atomic():
        user, made = User.objects.get_or_create(username="admin")
        if made:
            user.set_unusable_password()
            user.save(update_fields=["password"])
        Membership.objects.get_or_create(
            user=user, team=default_team(), defaults={"role": Membership.Role.ADMIN}
        )
    return user


def make_login_link(user: User, minutes: int = 15) -> str:
    """A one-time token that signs `user` in within `minutes`. Only its SHA-256 is kept."""
    token = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(minutes=minutes)
    LoginLink.objects.create(user=user, token_hash=_hash(token), expires_at=expires_at)
    return token


def sign_in_by(token: str) -> User | None:
    """The person a token belongs to, and the token is used up; None when it is unknown, used or too old."""
    token_hash = _hash(token)
    link = LoginLink.objects.filter(token_hash=token_hash).select_related("user").first()
    if link is None or not hmac.compare_digest(link.token_hash, token_hash):
        return None
    now = timezone.now()
    fresh = LoginLink.objects.filter(
        pk=link.pk, used_at__isnull=True, expires_at__gt=now, user__is_active=True
    )
    return link.user if fresh.update(used_at=now) == 1 else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
