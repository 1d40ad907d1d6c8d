"""Which addresses a request may go to when its target was typed by a person. Standard library alone.

Public addresses by https; others only in networks that the machine's operator named; those where cloud machines
keep their secrets never. Shared by the site, which judges what is entered, and by `forward.py`, which judges each
address it is about to connect to: a name may lead elsewhere by then.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST = 500
# Link-local and the fixed addresses of metadata services, "this host", and everybody at once.
NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
        *("fd00:ec2::/32", "fd20:ce::254/128", "0.0.0.0/8", "::/128", "224.0.0.0/4", "240.0.0.0/4", "ff00::/8"),
    )
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
COMPATIBLE = ipaddress.ip_network("::/96")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")
PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class Forbidden(Exception):
    """No request goes there; the text says why."""


@dataclass(frozen=True)
class Server:
    """A server's base address, as OpenAI clients take it: "https://api.example.com/v1", no slash at its end."""

    secure: bool
    host: str
    port: int
    base: str


def parse(url: str) -> Server:
    """An address as it was typed. Forbidden says what is wrong with it."""
    if len(url) > MOST or not url.isascii() or not url.isprintable() or re.search(r"[\s\\]", url):
        raise Forbidden("An address like https://api.example.com/v1: plain characters, no spaces.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as problem:
        raise Forbidden(f"That is no address: {problem}.") from problem
    if parts.scheme not in ("http", "https"):
        raise Forbidden("It begins with https://, or with http:// in a network of your own.")
    if "@" in parts.netloc:
        raise Forbidden("No user or password in the address: the key has a field of its own.")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise Forbidden("Only up to the path, as in https://api.example.com/v1: no ? and no #.")
    path = parts.path.rstrip("/")
    if not PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise Forbidden("The path has letters, digits, dots and hyphens, as in /v1.")
    literal = ":" in host
    if not (literal and "%" not in host and _parsed(host)) and not HOST.fullmatch(host):
        raise Forbidden("It names no host.")
    if port == 0:
        raise Forbidden("A port lies between 1 and 65535.")
    secure = parts.scheme == "https"
    shown = f"[{host}]" if literal else host
    named = f":{port}" if port else ""
    base = f"{parts.scheme}://{shown}{named}{path or '/v1'}"
    return Server(secure, host, port or (443 if secure else 80), base)


def networks(names: Iterable[str]) -> tuple[Network, ...]:
    """Networks as an operator writes them: "10.0.0.0/8", "192.168.1.7". ValueError names a wrong one."""
    return tuple(ipaddress.ip_network(name.strip()) for name in names if name.strip())


def judge(
    server: Server, found: Iterable[str], allowed: Sequence[Network], setting: str = "SLIPWAY_EXTERNAL_NETWORKS"
) -> None:
    """Raise Forbidden unless every address that the server's name led to may be asked. `setting` names `allowed`."""
    for text in found:
        address = unwrapped(_address(text))
        leads = f"{server.host} leads to {address}, which" if str(address) != server.host else str(address)
        if any(address in network for network in NEVER):
            raise Forbidden(f"{leads} is of a kind that is never asked.")
        if any(address in network for network in allowed):
            continue
        if not address.is_global:
            raise Forbidden(
                f"{leads} is in a private network: name that in {setting} on this machine to allow it."
            )
        if not server.secure:
            raise Forbidden(f"{server.host} is public: use https, or the key and the texts travel in the clear.")


def resolve(server: Server) -> list[str]:
    """The addresses that its name leads to now. Forbidden where there are none."""
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as problem:
        raise Forbidden(f"{server.host} is not found: {problem.strerror or problem}.") from problem
    return [str(info[4][0]) for info in found]


def unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in NAT64 or (address in COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _address(text: str) -> Address:
    """An address without its zone."""
    return ipaddress.ip_address(text.partition("%")[0])


def _parsed(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
