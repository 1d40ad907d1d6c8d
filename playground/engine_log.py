"""The log file of one engine: bounded, followed while loading, its tail kept for people, keys hidden."""

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT = 16 * 1024 * 1024
TAIL_LINES = 200
SECRET_CHARS = 8  # fewer would be found in innocent words
LINE_CHARS = 2000
TAIL_BYTES = 256 * 1024


class EngineLog:
    """`engine.log`, which the engine appends to, and `engine.log.1`, what was cut off it."""

    def __init__(self, folder: Path, secrets: Iterable[str] = (), limit: int = LIMIT) -> None:
        self.path = folder / "engine.log"
        self.older = folder / "engine.log.1"
        self._secrets = [secret.encode() for secret in secrets if len(secret) >= SECRET_CHARS]
        self._limit = limit
        self._seen = 0
        self._start = 0
        self._part = b""

    def begin(self) -> None:
        """A new attempt starts here: the tail does not reach back before this point."""
        self._start = self._seen = self._size()
        self._part = b""

    def bound(self) -> None:
        """Cut the file when it is too long. The engine appends, so it goes on at the new end."""
        if self._size() <= self._limit:
            return
        try:
            shutil.copyfile(self.path, self.older)
        except OSError as error:  # a full disk: cut it all the more
            log.warning("the older part of %s is lost: %s", self.path, error)
        with self.path.open("r+b") as file:
            file.truncate(0)
        self._seen = self._start = 0

    def new_lines(self) -> list[str]:
        """Whole lines written since the last call; a progress bar's carriage returns end lines too."""
        fresh = self.read(self._seen, LIMIT)
        self._seen += len(fresh)
        *lines, self._part = re.split(rb"[\r\n]+", self._part + fresh)
        self._part = self._part[-LINE_CHARS:]
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def tail(self) -> list[str]:
        """The last lines of this attempt, as people see them."""
        size = self._size()
        raw = self.read(max(self._start, size - TAIL_BYTES), TAIL_BYTES)
        if self._start == 0 and size < TAIL_BYTES and self.older.exists():
            raw = _end_of(self.older, TAIL_BYTES - size) + raw
        lines = re.split(rb"[\r\n]+", self._hide(raw))
        return [line.decode(errors="replace")[:LINE_CHARS] for line in lines if line.strip()][-TAIL_LINES:]

    def lines(self, most: int = LIMIT) -> list[str]:
        """Every line of this attempt, keys hidden; at most its first `most` bytes."""
        return self.read(self._start, most).decode(errors="replace").splitlines()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on, keys hidden; from the start when the file was cut below `offset`."""
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(offset if offset <= self._size() else 0)
            return self._hide(file.read(length))

    def piece(self, offset: int, length: int) -> tuple[int, bytes]:
        """(where it really starts, bytes) of at most `length` bytes from `offset` on."""
        start = offset if offset <= self._size() else 0
        return start, self.read(start, length)

    def _hide(self, raw: bytes) -> bytes:
        for secret in self._secrets:
            raw = raw.replace(secret, b"*" * len(secret))
        return raw

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def _end_of(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - length))
        return file.read(length)
