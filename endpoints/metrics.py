"""Counts and durations of the gateway, and the page a scraper reads. Labels: endpoint names and statuses.

Each web process counts its own requests. Only a caller on this machine, with no proxy between, gets the page.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cache
from time import monotonic
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from endpoints import routing

REGISTRY = CollectorRegistry()
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
REQUESTS = Counter("slipway_requests", "Requests answered.", ["endpoint", "status"], registry=REGISTRY)
DURATION = Histogram(
    "slipway_request_seconds", "Arrival to last byte.", ["endpoint"], buckets=_SECONDS, registry=REGISTRY
)
TTFT = Histogram(
    "slipway_ttft_seconds",
    "Arrival to first content, streams.",
    ["endpoint"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
TOKENS = Counter("slipway_tokens", "As engines count them.", ["endpoint", "kind"], registry=REGISTRY)
TABLE_AGE = Gauge("slipway_routing_table_age_seconds", "Since it was read.", registry=REGISTRY)
_PROXIES = {b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"}


@cache
def _requests(endpoint: str, status: int) -> Any:
    return REQUESTS.labels(endpoint, status)


@cache
def _duration(endpoint: str) -> Any:
    return DURATION.labels(endpoint)


def finished(
    endpoint: str, status: int, seconds: float, ttft: float | None, usage: Mapping[str, Any] | None
) -> None:
    """Account for one request. `endpoint` is empty for those that named none that exists."""
    _requests(endpoint, status).inc()
    _duration(endpoint).observe(seconds)
    if ttft is not None:
        TTFT.labels(endpoint).observe(ttft)
    for kind in ("prompt_tokens", "completion_tokens"):
        count = usage.get(kind) if usage is not None else None
        if isinstance(count, int) and count > 0:
            _tokens(endpoint, kind.removesuffix("_tokens")).inc(count)


@cache
def _tokens(endpoint: str, kind: str) -> Any:
    return TOKENS.labels(endpoint, kind)


async def application(
    scope: MutableMapping[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """GET /metrics."""
    status, kind, body = 404, b"text/plain; charset=utf-8", b"not found\n"
    if scope["method"] == "GET" and _local(scope):
        TABLE_AGE.set_function(_table_age)
        status, kind, body = 200, CONTENT_TYPE_LATEST.encode(), generate_latest(REGISTRY)
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _local(scope: MutableMapping[str, Any]) -> bool:
    peer = (scope.get("client") or ("",))[0]
    return peer in ("127.0.0.1", "::1", "") and not any(name in _PROXIES for name, _ in scope["headers"])


def _table_age() -> float:
    return monotonic() - routing.table().read
