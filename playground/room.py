"""What a node has free for a model, as its last heartbeat told. Knows nothing of engines."""

from dataclasses import dataclass
from functools import cached_property

from playground.models import Node

GIB = 1 << 30


@dataclass(frozen=True)
class GpuRoom:
    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Room:
    """One node's; None where it does not tell. `main`: of its main memory, whatever GPUs it has."""

    node: Node
    main: bool = False

    @cached_property
    def gpus(self) -> tuple[GpuRoom, ...]:
        """Its GPUs, the emptiest first."""
        told = [
            GpuRoom(
                str(gpu.get("name", "GPU")).removeprefix("NVIDIA "),
                gpu.get("memory_bytes") or 0,
                max(0, (gpu.get("memory_bytes") or 0) - (gpu.get("used_bytes") or 0)),
            )
            for gpu in (not self.main and self.node.inventory.get("gpus")) or []
        ]
        return tuple(sorted(told, key=lambda gpu: -gpu.free_bytes))

    def free(self, gpus: int = 1) -> int | None:
        """Bytes for a model that spreads evenly over so many GPUs; of main memory where there are none."""
        if self.gpus:
            return self.gpus[gpus - 1].free_bytes * gpus if gpus <= len(self.gpus) else 0
        told = self.node.inventory.get("memory_available_bytes")
        return int(told) if told is not None else None

    def whole(self, gpus: int = 1) -> int | None:
        """All the memory of what `free` is told of."""
        if self.gpus:
            return sum(gpu.memory_bytes for gpu in self.gpus[:gpus])
        told = self.node.inventory.get("memory_bytes")
        return int(told) if told else None

    def words(self, gpus: int = 1) -> str:
        """What it has free, as the end of a sentence."""
        free = self.free(gpus)
        if free is None:
            return f"{self.node.name} does not tell its memory"
        if not self.gpus:
            return f"{self.node.name} has {gib(free)} free"
        if gpus == 1:
            return f"the emptiest GPU of {self.node.name}, {self.gpus[0].name}, has {gib(free)} free"
        return f"{gpus} GPUs of {self.node.name} have {gib(free // gpus)} free each"


def gib(count: int) -> str:
    """Memory as people compare it: "1.2 GiB", "64 MiB"."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"
