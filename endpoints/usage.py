"""What each request of /v1 took: one record at its end, in a local file at once, in PostgreSQL soon after.

A request waits for neither. `write` puts a record aside; a task writes what came to this process's file, and
another carries whole files into PostgreSQL (`usage_store`). A file is removed once that has committed, and
what is carried twice counts once: a process killed at any moment loses at most what came in the last WRITE_S.
While PostgreSQL is away the file grows, and is carried when it is back.
"""

import asyncio
import fcntl
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from django.db import Error
from psycopg_pool import PoolTimeout

from endpoints import request_log, routing, usage_store
from playground.orm import orm

log = logging.getLogger(__name__)

WRITE_S = 0.1
CARRY_S = 1.0
# Records that wait in memory where the disk takes none; the oldest go beyond it, and their number is logged.
WAITING = 100_000
# A file larger than this is carried by itself, so that none grows without end while PostgreSQL is away.
FILE_BYTES = 16 << 20

Record = dict[str, Any]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_numbers = count(1)
_journal: "Journal | None" = None
_tasks: list[asyncio.Task[None]] = []
_wanted: asyncio.Event


def own_id() -> str:
    """A name for a request that no other has, whatever its client calls it."""
    return f"{routing.BOOT_ID}-{next(_numbers):08x}"


def write(record: Record) -> None:
    """Keep a record, see `usage_store.FIELDS`. Never waits.

    `logged`, when there, is (what was asked, how what was answered is made): both are looked at later, off
    the event loop, and no more than `request_log.LIMIT` of each is kept.
    """
    if _journal is not None:
        _journal.put(record)
        _wanted.set()


async def startup() -> None:
    """Open this process's file, and begin writing and carrying. Files of dead processes come first."""
    global _journal, _wanted
    _wanted = asyncio.Event()
    _journal = Journal(usage_store.folder(), routing.BOOT_ID)
    _tasks.append(asyncio.create_task(_write_on(_journal), name="usage file"))
    _tasks.append(asyncio.create_task(_carry_on(_journal), name="usage to PostgreSQL"))


async def shutdown() -> None:
    """Write what came, and carry it if PostgreSQL takes it now; else whoever comes next does."""
    global _journal
    for task in _tasks:
        task.cancel()
    await asyncio.gather(*_tasks, return_exceptions=True)
    _tasks.clear()
    journal, _journal = _journal, None
    if journal is None:
        return
    await asyncio.to_thread(journal.write)
    try:
        async with asyncio.timeout(5):
            await _carry(journal)
    except (*AWAY, TimeoutError) as error:
        log.warning("usage is left for the next process to carry: %s", type(error).__name__)
    journal.close()


AWAY = (Error, PoolTimeout, OSError)


async def _write_on(journal: "Journal") -> None:
    while True:
        await _wanted.wait()
        await asyncio.sleep(WRITE_S)
        _wanted.clear()
        await asyncio.to_thread(journal.write)


async def _carry_on(journal: "Journal") -> None:
    """Carry whatever was written, each CARRY_S, whatever becomes of PostgreSQL."""
    complained = adopted = False
    while True:
        try:
            if not adopted:
                await orm(usage_store.adopt)
                adopted = True
            await _carry(journal)
            complained = False
        except AWAY as error:
            if not complained:
                log.warning("usage waits in its file, PostgreSQL takes none: %s", type(error).__name__)
            complained = True
        except Exception as error:
            log.error("usage could not be carried: %s", type(error).__name__)
        await asyncio.sleep(CARRY_S)


async def _carry(journal: "Journal") -> None:
    if journal.empty:
        return
    for path in await asyncio.to_thread(journal.finished):
        await orm(usage_store.carry, path)
    journal.left = False


class Journal:
    """This process's files: one that is written to, and those that wait to be carried, oldest first.

    A lock on `<name>.lock` says that the process lives; whoever gets it may carry what is left.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        # Held before it has its name: nobody ever sees it free while this process lives.
        nameless = folder / f".{name}"
        self._lock_file = nameless.open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nameless.rename(usage_store.lock_of(folder, name))
        self._waiting: deque[Record] = deque()
        self._file: int | None = None
        self._number = self._size = 0
        self._files = threading.Lock()
        self._complained = False
        self.left = False
        """Some of what was finished may not be carried yet."""

    @property
    def empty(self) -> bool:
        """There is nothing to carry."""
        return self._file is None and not self.left

    def put(self, record: Record) -> None:
        self._waiting.append(record)

    def write(self) -> None:
        """Append what waits to the file. Kept in memory where the disk takes none."""
        with self._files:
            taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not taken:
                return
            for record in taken:
                settle(record)
            try:
                self._append(b"".join(_encode(record).encode() + b"\n" for record in taken))
                self._complained = False
            except OSError as error:
                self._put_back(taken, error)

    def _put_back(self, taken: list[Record], error: OSError) -> None:
        if len(taken) > WAITING:
            log.error("%d usage records are lost: the disk takes none", len(taken) - WAITING)
        self._waiting.extendleft(reversed(taken[-WAITING:]))
        if not self._complained:
            log.error("usage waits in memory, the disk takes none: %s", error.strerror)
        self._complained = True

    def _append(self, data: bytes) -> None:
        """All of `data`, or none of it."""
        if self._file is None:
            path = usage_store.path_of(self._folder, self._name, self._number)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = 0
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def finished(self) -> list[Path]:
        """The files to carry, oldest first. What is written from now on goes to a new one.

        While older ones wait the present one is left to grow: an hour without PostgreSQL is one file, not
        thousands.
        """
        with self._files:
            found = usage_store.files_of(self._folder, self._name)
            current = usage_store.path_of(self._folder, self._name, self._number)
            self.left = True
            if self._file is None:
                return found
            older = [path for path in found if path != current]
            if older and self._size < FILE_BYTES:
                return older
            os.close(self._file)
            self._file, self._number = None, self._number + 1
            return found

    def close(self) -> None:
        with self._files:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            if not usage_store.files_of(self._folder, self._name):
                usage_store.lock_of(self._folder, self._name).unlink(missing_ok=True)
            self._lock_file.close()


def settle(record: Record) -> None:
    """Make what is to be logged of a request, once: cleaned and cut to its limit."""
    logged: tuple[Any, Callable[[], Any]] | None = record.pop("logged", None)
    if logged is None:
        return
    asked, answered = logged
    request, cut = request_log.kept(asked)
    answer, cut_too = request_log.kept(answered())
    record |= {"request": request, "answer": answer, "cut": cut or cut_too}


def tokens(usage: object) -> dict[str, int | None]:
    """What an engine told of tokens; None where it told nothing that is a count."""
    known = usage if isinstance(usage, Mapping) else {}
    details = known.get("prompt_tokens_details", known.get("input_tokens_details"))
    return {
        "prompt_tokens": _count(known.get("prompt_tokens", known.get("input_tokens"))),
        "completion_tokens": _count(known.get("completion_tokens", known.get("output_tokens"))),
        "cached_tokens": _count(details.get("cached_tokens") if isinstance(details, Mapping) else None),
    }


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 31 else None


def arrived(began: float) -> float | None:
    """The database's time, in seconds since 1970, at a moment of this process's monotonic clock."""
    table = routing.table()
    return table.at.timestamp() + began - table.read if table.at is not None else None
