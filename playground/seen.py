"""When each session last asked for a page, and from where: written at most once a minute, however much its
pages ask.
"""

import time
from datetime import timedelta

from allauth.usersessions.models import UserSession
from django.http import HttpRequest
from django.utils import timezone

EVERY_S = 60.0
MANY = 10_000

# By session key, when this process last asked the database; beyond MANY the longest past are forgotten.
_asked: dict[str, float] = {}


def seen(request: HttpRequest) -> None:
    """Remember that this session is used. Other web processes may have said so within the minute already."""
    key = request.session.session_key
    if key is None or not _due(key):
        return
    now = timezone.now()
    old = UserSession.objects.filter(session_key=key, last_seen_at__lt=now - timedelta(seconds=EVERY_S))
    old.update(last_seen_at=now, ip=request.META.get("REMOTE_ADDR") or "127.0.0.1")


def _due(key: str) -> bool:
    now = time.monotonic()
    if now - _asked.get(key, -EVERY_S) < EVERY_S:
        return False
    _asked.pop(key, None)
    _asked[key] = now
    if len(_asked) > MANY:
        del _asked[next(iter(_asked))]
    return True
