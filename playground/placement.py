"""Which node, and what of it, a replica gets. Pure: an inventory and a want in, a place or the reason out.

GPUs: a replica holds whole ones, or one share of one beside others as long as their memory fits. A whole GPU
takes every share's lock, so that the locks alone keep a whole and a share apart.

CPU: memory is the hard limit. Cores are shared: comparing engines beside each other is the point, and on two
cores a lock per core would allow one. So a replica's slot is the first free number, "cpu.0", "cpu.1", …, and
the note says how many share the cores. Memory that nobody could estimate counts as nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

SHARES = 4
DEFAULT_CORES = 8
GIB = 1 << 30


@dataclass(frozen=True)
class Want:
    """What a replica needs on a node. `memory_bytes` is the GPU's where it runs on GPUs; 0 is unknown."""

    build: str
    """"cuda" or "cpu": which hardware it will run on there."""
    memory_bytes: int = 0
    gpus: int = 1
    share: bool = False
    cores: int | None = None


@dataclass(frozen=True)
class Held:
    """What one replica holds of a node. `settled`: its memory already shows in what the node measures."""

    replica: int
    name: str
    build: str
    memory_bytes: int
    slots: tuple[str, ...]
    gpus: tuple[int, ...] = ()
    settled: bool = True


@dataclass(frozen=True)
class GpuRoom:
    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class NodeRoom:
    """A node that accepts replicas, and who holds what of it. Bytes."""

    pk: int
    name: str
    cores: int
    memory_bytes: int
    available_bytes: int
    gpus: tuple[GpuRoom, ...] = ()
    held: tuple[Held, ...] = ()
    has: int = 0
    """How much of what the replica needs lies there already: its environment, its weights."""

    @property
    def free_bytes(self) -> int:
        """Main memory a new replica may take: by what is promised, and by what is measured."""
        on_cpu = [held for held in self.held if held.build == "cpu"]
        promised = self.memory_bytes - sum(held.memory_bytes for held in on_cpu)
        measured = self.available_bytes - sum(held.memory_bytes for held in on_cpu if not held.settled)
        return max(0, min(promised, measured))

    @property
    def slots(self) -> frozenset[str]:
        return frozenset(slot for held in self.held for slot in held.slots)


@dataclass(frozen=True)
class Placement:
    """Where it goes. `gpus` are (index, share), None for a whole one; `slots` are the names of its locks."""

    node: int
    build: str
    cores: int
    memory_bytes: int
    slots: tuple[str, ...]
    gpus: tuple[tuple[int, int | None], ...] = ()
    note: str = ""

    @property
    def resources(self) -> dict[str, object]:
        """As `Replica.resources` keeps it."""
        return {
            "build": self.build,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "gpus": [{"index": index, "share": share} for index, share in self.gpus],
            "slots": list(self.slots),
        }


@dataclass(frozen=True)
class NoRoom:
    """Why nothing fits, in words: what it needs, what the largest has, who holds the rest."""

    reason: str


@dataclass(frozen=True)
class _Ranked:
    placement: Placement
    rank: tuple[int, int, int] = field(default=(0, 0, 0))


def place(wants: Sequence[tuple[Want, NodeRoom]]) -> Placement | NoRoom:
    """The best node, given what it would need on each. Prefers GPUs, then what lies there, then room."""
    found: list[_Ranked] = []
    for want, node in wants:
        placement = fit(want, node)
        if isinstance(placement, Placement):
            rank = (int(want.build == "cuda"), node.has, _free(want, node))
            found.append(_Ranked(placement, rank))
    if not found:
        return NoRoom(_why(wants))
    return max(found, key=lambda ranked: ranked.rank).placement


def fit(want: Want, node: NodeRoom) -> Placement | None:
    """The place a replica would get on this node; None when there is none."""
    return _fit_gpu(want, node) if want.build == "cuda" else _fit_cpu(want, node)


def _fit_cpu(want: Want, node: NodeRoom) -> Placement | None:
    if want.memory_bytes > node.free_bytes or (want.cores or 0) > node.cores:
        return None
    cores = want.cores or min(node.cores, DEFAULT_CORES)
    number = next(n for n in range(len(node.held) + 1) if f"cpu.{n}" not in node.slots)
    others = sum(held.build == "cpu" for held in node.held)
    note = f"on {node.name} · {cores} of {node.cores} cores" + (
        f", shared with {others} more" if others else ""
    )
    return Placement(node.pk, "cpu", cores, want.memory_bytes, (f"cpu.{number}",), note=note + _unknown(want))


def _fit_gpu(want: Want, node: NodeRoom) -> Placement | None:
    picked = _pick_share(want, node) if want.share else _pick_whole(want, node)
    if not picked:
        return None
    slots = [name for index, share in picked for name in _locks(index, share)]
    cores = want.cores or min(node.cores, DEFAULT_CORES)
    label = ", ".join(
        f"GPU {index}" + ("" if share is None else f" (share {share})") for index, share in picked
    )
    note = f"on {node.name} · {label}" + _unknown(want)
    return Placement(node.pk, "cuda", cores, want.memory_bytes, tuple(slots), tuple(picked), note)


def _pick_whole(want: Want, node: NodeRoom) -> list[tuple[int, int | None]]:
    """The first free GPUs whose memory together holds it; empty when they do not."""
    free = [gpu for gpu in node.gpus if not node.slots & set(_locks(gpu.index, None))]
    each = -(-want.memory_bytes // want.gpus)
    fitting = [gpu for gpu in free if gpu.memory_bytes >= each]
    return [(gpu.index, None) for gpu in fitting[: want.gpus]] if len(fitting) >= want.gpus else []


def _pick_share(want: Want, node: NodeRoom) -> list[tuple[int, int | None]]:
    """A share of the fullest GPU that still has the memory: whole ones stay free for those who need them."""
    best: tuple[int, int, int] | None = None
    for gpu in node.gpus:
        numbers = [n for n in range(SHARES) if f"gpu-{gpu.index}.{n}" not in node.slots]
        left = gpu.memory_bytes - sum(held.memory_bytes for held in node.held if gpu.index in held.gpus)
        if numbers and want.memory_bytes <= left and (best is None or left < best[0]):
            best = (left, gpu.index, numbers[0])
    return [(best[1], best[2])] if best else []


def _locks(index: int, share: int | None) -> list[str]:
    """Names of the locks of one share, or of a whole GPU: all of its shares."""
    return [f"gpu-{index}.{n}" for n in (range(SHARES) if share is None else [share])]


def _free(want: Want, node: NodeRoom) -> int:
    """Bytes free there for what is wanted."""
    if want.build == "cpu":
        return node.free_bytes
    promised = {gpu.index: gpu.memory_bytes for gpu in node.gpus}
    for held in node.held:
        for index in held.gpus:
            promised[index] = max(0, promised.get(index, 0) - held.memory_bytes) if want.share else 0
    return max(promised.values(), default=0)


def _unknown(want: Want) -> str:
    return "" if want.memory_bytes else " · memory it needs: unknown"


def _why(wants: Sequence[tuple[Want, NodeRoom]]) -> str:
    if not wants:
        return "No node accepts replicas now: start a worker."
    want, node = max(wants, key=lambda pair: _free(*pair))
    need = _gib(want.memory_bytes) + " of memory" if want.memory_bytes else "room"
    if want.build == "cuda":
        need = f"{want.gpus} GPU{'s' if want.gpus > 1 else ''} with {need}"
    elif want.cores and want.cores > node.cores:
        need = f"{want.cores} cores"
    holders = [f"{held.name} ({_gib(held.memory_bytes)})" for held in node.held]
    text = f"It needs {need}; the largest node, {node.name}, has {_offer(want, node)}"
    return text + (f". Held by: {', '.join(holders)}." if holders else ".")


def _offer(want: Want, node: NodeRoom) -> str:
    if want.build == "cuda":
        free = sum(not node.slots & set(_locks(gpu.index, None)) for gpu in node.gpus)
        return f"{free} of {len(node.gpus)} GPUs free, {_gib(_free(want, node))} on the freest"
    if want.cores and want.cores > node.cores:
        return f"{node.cores} cores"
    return f"{_gib(node.free_bytes)} free of {_gib(node.memory_bytes)}"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
