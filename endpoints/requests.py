"""The requests of an endpoint: those somebody looks for, what is kept of one, rows of a dataset of them."""

from collections.abc import Collection
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from endpoints import logged
from endpoints.models import Endpoint, LoggedRequest, Usage
from playground import collecting
from playground.datasets import DatasetRefused
from playground.models import Dataset, DatasetVersion, User

STATUSES = {"": "all", "ok": "answered", "errors": "failed", "left": "client left"}
CLIENT_LEFT = 499


def chosen(
    endpoint: Endpoint,
    *,
    status: str = "",
    key: int | None = None,
    slower_ms: float | None = None,
    name: str = "",
) -> QuerySet[Any]:
    """Those of a status (of STATUSES), by a key, slower than that, of an id that is ours or the client's.

    Slow is counted to the first token, of a whole answer to its end. `kept`: whether their text is there.
    """
    rows = Usage.objects.filter(team=endpoint.team_id, endpoint=endpoint.name)
    match status:
        case "ok":
            rows = rows.filter(status__lt=400)
        case "errors":
            rows = rows.filter(status__gte=400).exclude(status=CLIENT_LEFT)
        case "left":
            rows = rows.filter(status=CLIENT_LEFT)
    if key is not None:
        rows = rows.filter(key=key)
    if slower_ms is not None:
        rows = rows.filter(Q(ttft_ms__gte=slower_ms) | Q(ttft_ms=None, e2e_ms__gte=slower_ms))
    if name and "\0" not in name:
        rows = rows.filter(Q(client_id=name) | Q(request_id=name))
    return rows.annotate(kept=Exists(logged.of(endpoint).filter(usage=OuterRef("pk")))).select_related(
        "release"
    )


def one(endpoint: Endpoint, pk: int) -> LoggedRequest | None:
    """What is kept of one."""
    rows = logged.of(endpoint).select_related(
        "usage__team", "usage__release", "usage__deployment__configuration", "usage__key"
    )
    return rows.filter(usage=pk).first()


def add_to(
    dataset: Dataset, user: User, endpoint: Endpoint, requests: Collection[int], *, answers: bool
) -> DatasetVersion:
    """A version with those whose text is kept as further rows. `answers`: what was answered counts as right.

    DatasetRefused where none is kept, or nothing is added.
    """
    require_kept(endpoint, requests)
    rows = logged.of(endpoint).filter(usage__in=requests).select_related("usage").order_by("usage")
    made = logged.rows(rows, answers=answers)
    return collecting.add(dataset, user, made, f"requests of {endpoint.name}", "request")


def require_kept(endpoint: Endpoint, requests: Collection[int]) -> None:
    """DatasetRefused unless the text of one of them is there."""
    if not requests or not logged.of(endpoint).filter(usage__in=requests).exists():
        raise DatasetRefused("Choose at least one request whose text is kept.")
