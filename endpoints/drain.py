"""Whether every gateway has stopped choosing a draining replica."""

from datetime import timedelta

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from endpoints.models import WebProcess
from playground.models import Replica

# A web process that has been silent for longer is gone, or cut off from the database.
ALIVE = timedelta(seconds=10)


def live() -> QuerySet[WebProcess]:
    """Web processes that still tell of themselves."""
    return WebProcess.objects.filter(heartbeat_at__gt=Now() - ALIVE)


def acknowledged(replica: Replica) -> bool:
    """True once each live web process routes by a table read after the drain began."""
    behind = Q(table_at__isnull=True) | Q(table_at__lte=replica.drain_at)
    return replica.drain_at is None or not live().filter(behind).exists()
