"""A file on its way: written in pieces at any place, kept between attempts, named once its hash is right.

While it grows it lies beside its place as `.<name>.part`, with a journal of which bytes are here. Knows
nothing about where the bytes come from.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# Larger files are fetched as pieces of this size, several at once.
PIECE = 64 << 20
BLOCK = 4 << 20


class WrongHash(Exception):
    """What came is not what was promised; it was thrown away."""


class Stopped(Exception):
    """A check was ended before it was over."""


@dataclass
class Piece:
    """Bytes `start` to `end` of a file, of which the first `done` are here."""

    start: int
    end: int
    done: int = 0

    @property
    def at(self) -> int:
        return self.start + self.done

    @property
    def left(self) -> int:
        return self.end - self.at


class PartialFile:
    """One file that should come to lie at `path`, with that size and either a SHA-256 or git's SHA-1."""

    def __init__(self, path: Path, size: int, *, sha256: str = "", sha1: str = "") -> None:
        self.path, self.size, self.sha256, self.sha1 = path, size, sha256, sha1
        self.part = path.with_name(f".{path.name}.part")
        self.journal = path.with_name(f".{path.name}.part.json")
        self.checked = 0
        self._stopped = False
        self._descriptor: int | None = None
        self._named = path.is_file() and path.stat().st_size == size
        self.pieces = self._pieces()

    @property
    def done(self) -> int:
        return sum(piece.done for piece in self.pieces)

    @property
    def is_complete(self) -> bool:
        return self.done == self.size

    def write(self, piece: Piece, block: bytes) -> None:
        """Put `block` where the piece goes on."""
        left = memoryview(block)
        while left:
            written = os.pwrite(self._open(), left, piece.at)
            piece.done += written
            left = left[written:]

    def keep(self) -> None:
        """Write down how far it is, so that another attempt goes on from here."""
        if self._descriptor is None:
            return
        fresh = self.journal.with_suffix(".new")
        done = [piece.done for piece in self.pieces]
        fresh.write_text(json.dumps({"promised": self._promised(), "done": done}))
        fresh.replace(self.journal)

    def settle(self) -> str:
        """Check the hash and give the file its name; its SHA-256. WrongHash when it is another.

        A file that has its name already is checked again: it may have been changed since.
        """
        descriptor = None if self._named else self._open()
        taken = self._right(self.path if self._named else self.part)
        if not taken:
            self.discard()
            raise WrongHash(f"{self.path.name} is not what its commit names: it was thrown away.")
        if descriptor is not None:
            os.fsync(descriptor)
            self.part.rename(self.path)
            self.discard()
        return taken

    def stop(self) -> None:
        """End a check that runs in another thread."""
        self._stopped = True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Nothing stays of what was on its way, or has its name and not its hash."""
        self.close()
        if self._named:
            self.path.unlink()
        self.part.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def _open(self) -> int:
        if self._descriptor is None:
            self.part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, self.size)
        return self._descriptor

    def _pieces(self) -> list[Piece]:
        """As the journal left them; from the start where it tells of another file, or of none."""
        ends = list(range(PIECE, self.size, PIECE)) if self.size > 2 * PIECE else []
        edges = [0, *ends, self.size]
        pieces = [Piece(start, end) for start, end in pairwise(edges)]
        if self._named:
            return [Piece(piece.start, piece.end, piece.end - piece.start) for piece in pieces]
        for piece, done in zip(pieces, self._kept(len(pieces)), strict=True):
            piece.done = min(done, piece.end - piece.start)
        return pieces

    def _kept(self, count: int) -> list[int]:
        if not (self.part.exists() and self.journal.exists()):
            return [0] * count
        try:
            told: dict[str, Any] = json.loads(self.journal.read_text())
            same = told["promised"] == self._promised() and len(told["done"]) == count
            return [max(int(done), 0) for done in told["done"]] if same else [0] * count
        except (ValueError, KeyError, TypeError):
            return [0] * count  # A machine that lost its power left half a journal.

    def _promised(self) -> list[Any]:
        return [self.size, self.sha256, self.sha1]

    def _right(self, path: Path) -> str:
        """The SHA-256 of what lies at `path`, empty when it is not what was promised."""
        self.checked, plain = 0, hashlib.sha256()
        blob = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                if self._stopped:
                    raise Stopped
                self.checked += len(block)
                plain.update(block)
                if self.sha1:
                    blob.update(block)
        taken = plain.hexdigest()
        return taken if self.sha256 in ("", taken) and self.sha1 in ("", blob.hexdigest()) else ""
