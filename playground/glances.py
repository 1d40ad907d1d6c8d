"""A first verdict on a hit of the Hub's search, by the size of its weights alone; its page goes further."""

from dataclasses import dataclass

from playground import fitting
from playground.hub import Found
from playground.models import Node

# What most people take of a GGUF repository, in bits a weight: Q4_K_M.
GGUF_BITS = 4.85
GIB = 1 << 30


@dataclass(frozen=True)
class Glance:
    """`fits` is None where the Hub does not tell a size. `about`: worked out from the parameters."""

    size_bytes: int | None
    about: bool
    fits: bool | None
    words: str


def of(found: Found, node: Node | None) -> Glance:
    """By what the roomiest node has free."""
    about = found.size_bytes is None
    size = int(found.parameters * GGUF_BITS / 8) if about and found.parameters else found.size_bytes
    if size is None:
        return Glance(None, False, None, "its size is told on its page")
    if node is None:
        return Glance(size, about, None, "no node reports")
    free = fitting.free(node)
    weigh = f"{'about ' if about else ''}{_gib(size)} of weights"
    if size > free:
        return Glance(size, about, False, f"does not fit: {weigh}")
    return Glance(size, about, True, f"fits: {weigh}")


def _gib(size: int) -> str:
    if size < 1 << 20:
        return "less than 1 MiB"
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.0f} MiB"
