"""Where this home's site listens, and the address that people are told."""

import socket
from contextlib import suppress

from django.conf import settings

IPV6 = "::1"


class CannotStart(Exception):
    """Why nothing was started, in words a person can act on."""


def own() -> str:
    """Where people reach this home's site while nobody listens at its name; see `named`."""
    host = settings.BIND if not settings.PUBLIC else settings.ALLOWED_HOSTS[0]
    scheme = "https" if settings.TLS_CERT else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.PORT}"


def named(listeners: list[socket.socket]) -> str:
    """The same, as http://localhost:PORT where all that this name means is ours: passkeys need a name.

    Elsewhere what another answers there would be given the cookies and the one-time link.
    """
    ours = {listener.getsockname()[0] for listener in listeners}
    if settings.PUBLIC or settings.TLS_CERT or "localhost" not in settings.ALLOWED_HOSTS:
        return own()
    try:
        found = socket.getaddrinfo("localhost", settings.PORT, type=socket.SOCK_STREAM)
    except OSError:
        return own()
    # Browsers ask nobody: to them localhost is 127.0.0.1, and ::1 where the machine has it.
    meant = {"127.0.0.1", *(entry[4][0] for entry in found)} | ({IPV6} if _has_ipv6() else set())
    return f"http://localhost:{settings.PORT}" if meant <= ours else own()


def _has_ipv6() -> bool:
    """Whether this machine has ::1 at all; where it has not, nobody can answer there."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((IPV6, 0))
    except OSError:
        return False
    return True


def listen() -> list[socket.socket]:
    """Web's listening sockets, held here so that no connection is refused while web restarts.

    Beside 127.0.0.1 the same port of ::1, where it is free: localhost means both.
    """
    try:
        listeners = [_listener(settings.BIND)]
    except OSError as error:
        raise CannotStart(
            f"Port {settings.PORT} on {settings.BIND} cannot be used ({error.strerror}). "
            f"Free it, or choose another: PORT={settings.PORT + 1} make up"
        ) from None
    if settings.BIND == "127.0.0.1":
        with suppress(OSError):
            listeners.append(_listener(IPV6))
    return listeners


def _listener(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, settings.PORT), family=family, backlog=2048)
