"""One engine's answer to a model: whether it can, what it needs, whether that fits, in words.

A value: made by `fitting`, which asks the engine and looks for the node.
"""

from dataclasses import dataclass
from functools import cached_property

from playground.engines.base import Engine, Estimate, LocalModel, Verdict
from playground.models import Node, Start
from playground.room import Room, gib


@dataclass(frozen=True)
class Offer:
    """`node` is the roomiest; `start` an earlier one of the same configuration, that put `estimate` right."""

    adapter: Engine
    verdict: Verdict
    local: LocalModel | None = None
    estimate: Estimate | None = None
    node: Node | None = None
    start: Start | None = None
    worked_out: Estimate | None = None
    """The estimate as it was before a start put it right."""
    asked: int | None = None
    """GPUs that were asked for, where that was said."""

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    @cached_property
    def room(self) -> Room | None:
        return Room(self.node, main="cuda" not in self.adapter.versions) if self.node else None

    @property
    def gpus(self) -> int:
        return self.estimate.gpus if self.estimate else 1

    @property
    def free(self) -> int | None:
        """Bytes free where it would go; None where nothing is known."""
        return self.room.free(self.gpus) if self.room else None

    @property
    def fits(self) -> bool | None:
        """None where something is not known: never guessed."""
        if not self.ok or (self.estimate and self.estimate.trouble):
            return False
        if self.estimate is None or self.free is None:
            return None
        if self._lacks_gpus:
            return False
        takes = self.estimate.takes
        if takes is None:
            return False if (self.estimate.weights or 0) > self.free else None
        return takes <= self.free

    @property
    def _lacks_gpus(self) -> bool:
        return bool(self.room and self.room.gpus and self._taken > len(self.room.gpus))

    @property
    def _taken(self) -> int:
        return max(self.gpus, self.asked or 1)

    @property
    def _idle(self) -> bool:
        return bool(self.room and self.room.gpus and self._taken > self.gpus)

    @property
    def words(self) -> str:
        """The verdict as a sentence for people."""
        if not self.ok:
            return self.verdict.why
        if self.estimate and self.estimate.trouble:
            return f"It would not start. {self.estimate.trouble}"
        if self.room is None:
            return f"Can load it{self._needs()}; no node reports, so nothing is known about room."
        if self._lacks_gpus:
            have = len(self.room.gpus)
            return f"Does not fit: it takes {self._taken} GPUs, {self.room.node.name} has {have}."
        if self.free is None:
            return f"Can load it{self._needs()}; {self.room.words()}."
        return self._compared(self.room.words(self.gpus))

    def _compared(self, has: str) -> str:
        estimate, free = self.estimate, self.free or 0
        if estimate is None or estimate.total is None:
            return self._partly(has)
        needs = self._each(estimate.total)
        if self.fits:
            idle = f" It would use {self.gpus} of the {self._taken} GPUs." if self._idle else ""
            return f"Fits: needs {needs}, {has}.{idle}"
        if estimate.total <= free and estimate.limit:
            return f"Does not fit: it needs {needs}, but takes {self._each(estimate.limit)}, and {has}."
        return f"Does not fit: needs {needs}, {has}."

    def _partly(self, has: str) -> str:
        """What can be said where the needs are not known whole."""
        if self.estimate is None or self.estimate.weights is None:
            return "Can load it; what it needs is not known before its files are here."
        weights = self._each(self.estimate.weights)
        if self.fits is False:
            return f"Does not fit: its weights alone need {weights}, {has}."
        missing = " and ".join(self.estimate.unknown) or "the rest"
        return f"Can load it: {weights} of weights, {has}; not known yet: {missing}."

    @property
    def brief(self) -> str:
        """The verdict for a list, where the engine's name and the node's room stand beside it."""
        if not self.ok:
            return self.verdict.why.removeprefix(f"{self.adapter.title} ")
        if self.estimate and self.estimate.trouble:
            return self.estimate.trouble
        total = self.estimate.total if self.estimate else None
        if total is None and self.fits is False:
            return "does not fit, by its weights alone"
        if total is None:
            return "can load it, needs are not known"
        if self.fits is None:
            return f"can load it, needs {gib(total)}"
        return f"{'fits' if self.fits else 'does not fit'}, needs {gib(total)}"

    def _needs(self) -> str:
        total = self.estimate.total if self.estimate else None
        return f", needs {self._each(total)}" if total is not None else ""

    def _each(self, count: int) -> str:
        return gib(count) if self.gpus == 1 else f"{gib(count // self.gpus)} on each of {self.gpus} GPUs"
