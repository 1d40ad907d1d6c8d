"""From where this process acts just now, for the audit log: a page's request, a socket, the API, a command.

A context variable: threads that Django and `orm` hand work to see what their request set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Acting:
    """`via` is page, socket, api, command or worker; `who` names one who is no user: a key, a command."""

    via: str
    address: str = ""
    who: str = ""


_WORKER = Acting("worker")
_now: ContextVar[Acting] = ContextVar("acting", default=_WORKER)


def now() -> Acting:
    return _now.get()


@contextmanager
def acting(via: str, address: str = "", who: str = "") -> Iterator[None]:
    """While inside, acts come from there."""
    token = _now.set(Acting(via, address, who))
    try:
        yield
    finally:
        _now.reset(token)


def come_by(via: str, who: str = "") -> None:
    """For the rest of the request whose `acting` this is inside: it came that way, by this token."""
    _now.set(Acting(via, _now.get().address, who))
