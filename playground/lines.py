"""The lines of a text file that nobody trusts: UTF-8, any line ends, none longer than MOST. Pure.

Never more than one line is held. What cannot be read is a BadLine that names it, and the next line can still
be asked for.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

MOST = 8 << 20
# Empty ones count too: a file of nothing but line ends would be read for minutes.
MAX_LINES = 5_000_000
UTF_16_32 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


class BadLine(Exception):
    """This line cannot be read; the text says why. `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line, self.why = line, why


class TooManyLines(Exception):
    """The file has more than MAX_LINES."""


class Lines:
    """Iterates over a file's lines with their ends. `number` is that of the last one."""

    def __init__(self, path: Path) -> None:
        self.number = 0
        # A byte order mark is left out; bytes that are no UTF-8 become surrogates: their line is known then.
        self._file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MOST)
        if not line:
            raise StopIteration
        self.number += 1
        if self.number > MAX_LINES:
            raise TooManyLines(f"The file has more than {MAX_LINES:,} lines.")
        if len(line) == MOST and not line.endswith(("\n", "\r")):
            self._skip()
            raise BadLine(self.number, f"The line is longer than {MOST >> 20} MB.")
        if "\0" in line:
            raise BadLine(self.number, "The line holds a NUL character: save the file as UTF-8 text.")
        if not _is_text(line):
            raise BadLine(self.number, "The line is not UTF-8 text: save the file as UTF-8.")
        return line

    def _skip(self) -> None:
        """Go on to the end of a line that is too long."""
        while (rest := self._file.readline(MOST)) and not rest.endswith(("\n", "\r")):
            pass


def _is_text(line: str) -> bool:
    if line.isascii():
        return True
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
