"""What `up` prints: one line for each step with its time, and on a terminal one that is rewritten while it
works.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

NAME_WIDTH = 16
NOTE_WIDTH = 52
# Where nothing can be rewritten, how far a step is gets a line this often.
LINE_EVERY_S = 2.0


class Step:
    """One step under way. `say` tells how far it is; the last note is printed when it ends."""

    def __init__(self, name: str, steps: "Steps") -> None:
        self.name, self.steps = name, steps
        self.note = ""
        self.started = self.printed = time.monotonic()

    def say(self, note: str) -> None:
        if note != self.note:
            self.note = note
            self.steps.redraw(self)

    def done(self, note: str) -> None:
        """The note to end with: its line comes with the end of the step."""
        self.note = note

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Steps:
    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.active: list[Step] = []
        self.rewrites = self.out.isatty()
        self.drawn = False

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Print `name`, its last note and its seconds when the block ends well; its failure otherwise."""
        step = Step(name, self)
        self.active.append(step)
        try:
            yield step
        except BaseException:
            self.active.remove(step)
            self.line(f"  {step.name:<{NAME_WIDTH}}not done")
            raise
        self.active.remove(step)
        self.line(f"  {step.name:<{NAME_WIDTH}}{step.note:<{NOTE_WIDTH}}{step.seconds:6.1f} s")

    def line(self, text: str = "") -> None:
        """A line that stays."""
        self._clear()
        self._write(text + "\n")
        self._draw()

    def redraw(self, step: Step) -> None:
        if self.rewrites:
            self._clear()
            self._draw()
        elif time.monotonic() - step.printed >= LINE_EVERY_S:
            step.printed = time.monotonic()
            self._write(f"  {step.name:<{NAME_WIDTH}}{step.note}\n")

    def _draw(self) -> None:
        if self.rewrites and self.active:
            text = "  " + " · ".join(f"{step.name}: {step.note or 'starting'}" for step in self.active)
            self._write(text[: shutil.get_terminal_size().columns - 1])
            self.drawn = True

    def _clear(self) -> None:
        if self.drawn:
            self._write("\r\x1b[K")
            self.drawn = False

    def _write(self, text: str) -> None:
        # The terminal may be closed, or the reader of a pipe gone: that stops nothing.
        with suppress(OSError):
            self.out.write(text)
            self.out.flush()
