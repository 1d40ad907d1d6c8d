"""Fetching the files of one commit of the Hub: many ranged requests at once, each goes on where it was cut.

The token goes to the Hub's own address and to no other, wherever that redirects. A loop in a thread of its
own does the work, so that whoever asked can look at how far it is, and end it. Knows nothing of jobs or rows.
"""

import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
from django.conf import settings
from yarl import URL

from playground.partial import PartialFile, Piece

HOPS = 6
# So often in a row may a piece be cut without a byte more; Retry-After is heeded up to this long.
PATIENCE = 8
MOST_PATIENT_S = 300.0
KEEP_EVERY_S = 1.0
# The rate shown is that of the last seconds.
RATE_OVER_S = 6.0
END_WITHIN_S = 30.0
Waiting = deque[tuple[str, PartialFile, Piece]]


class FetchFailed(Exception):
    """The files will not come; the text says why."""


class Gated(FetchFailed):
    """Its makers did not accept whoever asks."""


class _Cut(Exception):
    """A request ended before it was complete: it is made again, after `wait_s` where that was named."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Origin:
    """What is fetched: a repository at a commit, and what opens it."""

    repo: str
    commit: str
    token: str = ""

    def address(self, path: str) -> URL:
        return URL(f"{settings.HF_ENDPOINT}/{self.repo}/resolve/{self.commit}/{quote(path)}", encoded=True)

    def headers(self, address: URL, part: str) -> dict[str, str]:
        """Those of a request to `address`: only the Hub's own gets the token."""
        known = {"Range": part, "Accept-Encoding": "identity", "User-Agent": "slipway"}
        if self.token and address.origin() == URL(settings.HF_ENDPOINT).origin():
            known["Authorization"] = f"Bearer {self.token}"
        return known


class Fetch:
    """Some files on their way. Used as a context manager: left before the end, it stops and keeps what came.

    `digests` has the SHA-256 of each file that lies whole under its name.
    """

    def __init__(self, origin: Origin, files: Mapping[str, PartialFile]) -> None:
        self.origin = origin
        self.files = files
        self.total = sum(file.size for file in files.values())
        self.digests: dict[str, str] = {}
        self.cuts: deque[str] = deque(maxlen=100)
        self._taken: set[str] = set()
        # Where the bytes of a large file lie: an address that holds for a while.
        self._places: dict[str, URL] = {}
        self._readings: deque[tuple[float, int]] = deque()
        self._came = 0

    @property
    def done(self) -> int:
        """Bytes that are here, in whole files and in pieces."""
        return sum(file.done for file in self.files.values())

    @property
    def checked(self) -> int:
        """Bytes whose hash was taken."""
        return sum(file.checked for file in self.files.values())

    @property
    def rate(self) -> float | None:
        """Bytes a second of the last seconds; None before there is one."""
        now = time.monotonic()
        self._readings.append((now, self._came))
        while now - self._readings[0][0] > RATE_OVER_S:
            self._readings.popleft()
        then, before = self._readings[0]
        return (self._came - before) / (now - then) if now - then > 0.5 else None

    def __enter__(self) -> Self:
        self._readings.append((time.monotonic(), 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._whole: Future[None] = asyncio.run_coroutine_threadsafe(self._all(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.stop()
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(END_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_WITHIN_S)
        self._loop.close()
        for file in self.files.values():
            file.keep()
            file.close()

    def wait(self, seconds: float) -> bool:
        """Whether all of it is here, after at most that long. Raises what ended it."""
        try:
            self._whole.result(seconds)
        except NotYet:
            if self._whole.done():
                raise
            return False
        return True

    # What the loop runs

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.HUB_TIMEOUT_S, sock_read=settings.DOWNLOAD_SILENCE_S
        )
        waiting = deque(self._pieces())
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session:
            keeper = asyncio.create_task(self._keep())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(max(settings.DOWNLOADS_AT_ONCE, 1)):
                        group.create_task(self._work(session, waiting))
            except BaseExceptionGroup as problems:
                raise problems.exceptions[0] from None
            finally:
                keeper.cancel()

    def _pieces(self) -> Iterator[tuple[str, PartialFile, Piece]]:
        """Small files first, so that a refusal shows at once; then the large ones, piece by piece."""
        for name, file in sorted(self.files.items(), key=lambda entry: entry[1].size):
            for piece in file.pieces:
                yield name, file, piece

    async def _work(self, session: aiohttp.ClientSession, waiting: Waiting) -> None:
        while waiting:
            name, file, piece = waiting.popleft()
            await self._fetch(session, name, file, piece)
            if file.is_complete and name not in self._taken:
                self._taken.add(name)
                self.digests[name] = await asyncio.to_thread(file.settle)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            for name, file in self.files.items():
                if name not in self._taken:
                    file.keep()

    async def _fetch(
        self, session: aiohttp.ClientSession, name: str, file: PartialFile, piece: Piece
    ) -> None:
        """One piece, however often it is cut, as long as something comes in between."""
        cuts = 0
        while piece.left:
            before = piece.done
            try:
                await self._request(session, name, file, piece)
            except (aiohttp.ClientError, TimeoutError, _Cut) as problem:
                cuts = 0 if piece.done > before else cuts + 1
                why = str(problem) or "silence"
                if cuts >= PATIENCE:
                    raise FetchFailed(f"{name} does not come: {why}. What is here is kept.") from problem
                self.cuts.append(f"{name}: cut at {piece.at} of {file.size} bytes: {why}")
                await asyncio.sleep(_pause(cuts, problem))

    async def _request(
        self, session: aiohttp.ClientSession, name: str, file: PartialFile, piece: Piece
    ) -> None:
        """Ask for what the piece lacks, and write what comes."""
        start = piece.at
        async with self._answer(session, name, f"bytes={start}-{piece.end - 1}") as answer:
            _check_part(answer, name, file.size, start)
            # A server without ranges sends all of it.
            skip = 0 if answer.status == 206 else start
            async for block in answer.content.iter_any():
                fresh, skip = block[skip:], max(0, skip - len(block))
                self._write(file, piece, fresh[: piece.left])
                if not piece.left:
                    return
        raise _Cut("the connection ended early")

    def _write(self, file: PartialFile, piece: Piece, block: bytes) -> None:
        try:
            file.write(piece, block)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                text = "The disk is full. Make room and try again: what is here is kept."
                raise FetchFailed(text) from problem
            raise
        self._came += len(block)

    @asynccontextmanager
    async def _answer(
        self, session: aiohttp.ClientSession, name: str, part: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer that has the bytes, after what redirects to it."""
        known = self._places.get(name)
        address = known or self.origin.address(name)
        for _ in range(HOPS):
            headers = self.origin.headers(address, part)
            async with session.get(address, headers=headers, allow_redirects=False) as answer:
                if 300 < answer.status < 309 and "Location" in answer.headers:
                    address = answer.url.join(URL(answer.headers["Location"], encoded=True))
                    continue
                if known and answer.status in (401, 403, 404, 410):
                    self._places.pop(name, None)
                    raise _Cut("the address it lay at has expired")
                self._refuse(answer, name)
                if answer.url.origin() != URL(settings.HF_ENDPOINT).origin():
                    self._places[name] = answer.url
                yield answer
                return
        raise FetchFailed(f"{name}: the Hub redirects without an end.")

    def _refuse(self, answer: aiohttp.ClientResponse, name: str) -> None:
        """Raise what an answer without the bytes means."""
        if answer.status in (200, 206):
            return
        if answer.status == 429 or answer.status >= 500:
            wait = answer.headers.get("Retry-After", "")
            raise _Cut(f"the server answered {answer.status}", float(wait) if wait.isdigit() else 0.0)
        if answer.status in (401, 403):
            raise Gated(self._shut(answer))
        if answer.status == 404:
            raise FetchFailed(f"The Hub does not have {name} of {self.origin.repo} any more.")
        raise FetchFailed(f"{name}: the server answered {answer.status}.")

    def _shut(self, answer: aiohttp.ClientResponse) -> str:
        """What a person can do about a repository that does not open."""
        where = f"{settings.HF_ENDPOINT}/{self.origin.repo}"
        if answer.headers.get("X-Error-Code") == "RepoNotFound":
            return f"The Hub has no {self.origin.repo} any more, or it is private."
        if not self.origin.token:
            return (
                f"{self.origin.repo} is gated, and the team has no token: ask for access at {where}, then "
                "have an administrator enter a token on the Models page."
            )
        if answer.headers.get("X-Error-Code") == "GatedRepo":
            return f"{self.origin.repo} is gated, and the team's token is not accepted yet: ask at {where}."
        return f"The Hub refuses the team's token for {self.origin.repo}: enter a new one on the Models page."


def _check_part(answer: aiohttp.ClientResponse, name: str, size: int, start: int) -> None:
    """That what comes is the part asked for, of a file of the size that the commit names."""
    if answer.status == 206:
        part = answer.headers.get("Content-Range", "")
        if not part.startswith(f"bytes {start}-"):
            raise _Cut("another part came than was asked for")
        whole = part.rpartition("/")[2]
    else:
        whole = answer.headers.get("Content-Length", "")
    if whole.isdigit() and int(whole) != size:
        raise FetchFailed(f"{name} is {int(whole):,} bytes there, and {size:,} by its commit.")


def _pause(cuts: int, problem: Exception) -> float:
    waits = settings.DOWNLOAD_RETRY_S
    asked = problem.wait_s if isinstance(problem, _Cut) else 0.0
    return min(max(waits[min(cuts, len(waits) - 1)], asked), MOST_PATIENT_S)


async def _end_all() -> None:
    """End every other task of this loop, and wait for it."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
