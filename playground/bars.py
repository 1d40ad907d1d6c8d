"""The bar of an estimate: what is used of a node's memory, and what a model would take of the rest."""

from dataclasses import dataclass

from playground.offers import Offer


@dataclass(frozen=True)
class Piece:
    """`start` and `width` are in hundredths of the whole bar."""

    kind: str
    name: str
    bytes: int
    start: float
    width: float


@dataclass(frozen=True)
class Bar:
    """`end` is where the node's memory ends: before 100 where the model reaches beyond it."""

    pieces: tuple[Piece, ...]
    whole: int
    end: float


def of(offer: Offer) -> Bar | None:
    """None where the needs or the memory are not known."""
    estimate, room = offer.estimate, offer.room
    whole, free = (room.whole(offer.gpus), room.free(offer.gpus)) if room else (None, None)
    if estimate is None or estimate.total is None or not whole or free is None:
        return None
    parts = [
        ("used", "Used by others", max(0, whole - free)),
        ("weights", "Weights", estimate.weights or 0),
        ("cache", "KV cache", estimate.kv_cache or 0),
        ("overhead", "Overhead", estimate.overhead),
        ("rest", "Taken for more requests", max(0, (estimate.limit or 0) - estimate.total)),
    ]
    scale = max(whole, sum(size for _, _, size in parts))
    pieces, at = [], 0.0
    for kind, name, size in parts:
        width = 100 * size / scale
        if size:
            pieces.append(Piece(kind, name, size, round(at, 2), round(width, 2)))
        at += width
    return Bar(tuple(pieces), whole, round(100 * whole / scale, 2))
