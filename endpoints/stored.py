"""The routes of /v1/files and /v1/batches: what was asked, one verb, and the answer in OpenAI's shape.

Rows come by the ORM: unlike requests to models these are few, and what they do is the playground's. Knows
nothing of the connection: the gateway passes a way to read the body, and sends what comes back.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from django.db import Error
from psycopg_pool import PoolTimeout

from endpoints import batch_facts, batches, files, idempotency, protocol
from endpoints.protocol import Refusal
from endpoints.table import Key
from playground import policy
from playground.orm import orm

# What each route is called. Compared byte for byte: nothing is decoded.
_ROUTE = re.compile(rb"/v1/(files|batches)(?:/([A-Za-z0-9_-]{1,64})(?:/(content|cancel))?)?")
ROUTES: Mapping[tuple[str, bytes, bool, bytes], str] = {
    ("POST", b"files", False, b""): "upload",
    ("GET", b"files", False, b""): "files",
    ("GET", b"files", True, b""): "file",
    ("DELETE", b"files", True, b""): "remove",
    ("GET", b"files", True, b"content"): "content",
    ("POST", b"batches", False, b""): "create",
    ("GET", b"batches", False, b""): "batches",
    ("GET", b"batches", True, b""): "batch",
    ("POST", b"batches", True, b"cancel"): "cancel",
}
# Of this process, and of one team.
UPLOADS_AT_ONCE, UPLOADS_OF_ONE = 8, 4
# Written at once; so much more is asked of the disk's room each time.
PIECE = 1 << 20
TIDY_S = 600.0

_uploads: Counter[int] = Counter()
_tidied = float("-inf")


@dataclass(frozen=True)
class Asked:
    """What a request wants: a verb of ROUTES, and the row's name, empty where there is none."""

    verb: str
    token: str = ""
    route: str = ""


@dataclass(frozen=True)
class Body:
    """How the request's body is read: whole, or as it comes."""

    whole: Callable[[], Awaitable[bytes]]
    pieces: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True)
class Content:
    """A file to be sent. Whoever gets it closes it."""

    file: BinaryIO
    size: int
    name: str

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, never more than the size that was announced."""
        left = self.size
        while left and (piece := await asyncio.to_thread(self.file.read, min(PIECE, left))):
            left -= len(piece)
            yield piece


def find(method: str, path: bytes) -> Asked | None:
    """What a request asks of files and batches; None where it is none of theirs."""
    match = _ROUTE.fullmatch(path)
    if match is None:
        return None
    noun, token, tail = match.groups(b"")
    verb = ROUTES.get((method, noun, bool(token), tail))
    return Asked(verb, token.decode(), f"/v1/{noun.decode()}") if verb else None


async def answer(
    asked: Asked, key: Key, found: Mapping[bytes, bytes], query: bytes, body: Body
) -> dict[str, Any] | Content:
    """The answer's object, or a file's bytes. Refuses with 400 to 507."""
    try:
        return await _answer(asked, key, found, query, body)
    except (Error, PoolTimeout) as problem:
        raise protocol.unavailable(
            "Files and batches cannot be reached right now.", 5, "no_database"
        ) from problem


async def _answer(
    asked: Asked, key: Key, found: Mapping[bytes, bytes], query: bytes, body: Body
) -> dict[str, Any] | Content:
    match asked.verb:
        case "upload":
            return await _upload(key, found, body)
        case "files":
            return await _files(key, Query(query))
        case "file":
            return files.facts(await orm(files.find, key.team, asked.token))
        case "remove":
            row = await orm(files.remove, key.team, asked.token)
            return {"id": row.token, "object": "file", "deleted": True}
        case "content":
            row = await orm(files.find, key.team, asked.token)
            return Content(await asyncio.to_thread(files.opened, row), row.size_bytes, row.name)
        case "create":
            return await _create(key, found, body)
        case "batches":
            return await _batches(key, Query(query))
        case "batch":
            return await orm(lambda: batch_facts.facts(batches.find(key.team, asked.token)))
    return await orm(lambda: batch_facts.facts(batches.cancel(key.team, asked.token)))


# Uploading


async def _upload(key: Key, found: Mapping[bytes, bytes], body: Body) -> dict[str, Any]:
    kind = _multipart(found)
    await orm(files.check_quota, key.team, 0, key.id)
    async with _turn(key.team):
        raw = files.incoming()
        sent = files.Sent(raw.with_suffix(".part"))
        try:
            await _gather(raw, body.pieces())
            await asyncio.to_thread(files.take_apart, raw, kind, sent)
            return files.facts(await orm(files.keep, key.team, key.id, sent))
        finally:
            raw.unlink(missing_ok=True)
            sent.path.unlink(missing_ok=True)


def _multipart(found: Mapping[bytes, bytes]) -> str:
    """The content type; refuses what is no form, and what is announced as too large."""
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "Compressed bodies are not accepted.", "unsupported_encoding")
    kind = found.get(b"content-type", b"").decode("latin-1")
    if not kind.lower().startswith("multipart/form-data"):
        raise Refusal(415, "Send the file as multipart/form-data.", "unsupported_media_type")
    announced = found.get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > files.limit():
        raise files.too_large()
    return kind


@asynccontextmanager
async def _turn(team: int) -> AsyncIterator[None]:
    """A seat among the uploads of this process; what earlier ones left behind is removed now and then."""
    global _tidied
    if _uploads.total() >= UPLOADS_AT_ONCE or _uploads[team] >= UPLOADS_OF_ONE:
        raise protocol.unavailable("Too much is being uploaded here.", 5, "too_busy")
    _uploads[team] += 1
    try:
        if monotonic() - _tidied > TIDY_S:
            _tidied = monotonic()
            await orm(files.tidy)
        yield
    finally:
        _uploads[team] -= 1


async def _gather(raw: Path, pieces: AsyncIterator[bytes]) -> None:
    """Write the body down as it comes, by the piece; the disk's brake is asked before each."""
    held, size = bytearray(), 0
    with await asyncio.to_thread(raw.open, "xb") as file:
        async for data in pieces:
            held += data
            size += len(data)
            if size > files.limit():
                raise files.too_large()
            if len(held) >= PIECE:
                await asyncio.to_thread(_write, file, held)
                held = bytearray()
        await asyncio.to_thread(_write, file, held)


def _write(file: BinaryIO, data: bytearray) -> None:
    files.brake(len(data))
    file.write(data)


# Lists, and making a batch


class Query:
    """What stands after the ? of a list. Refuses what cannot be meant."""

    def __init__(self, raw: bytes) -> None:
        try:
            pairs = parse_qs(raw.decode("ascii"), max_num_fields=20)
        except ValueError as problem:
            raise Refusal(400, "The query cannot be read.", "invalid_query") from problem
        self._given = {name: values[-1] for name, values in pairs.items()}

    def text(self, name: str) -> str:
        return self._given.get(name, "")

    def number(self, name: str, default: int, most: int) -> int:
        given = self._given.get(name, str(default))
        if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
            raise Refusal(400, f"{name} lies between 1 and {most:,}.", "invalid_query", name)
        return int(given)

    def one_of(self, name: str, *words: str) -> str:
        """The first word where none is given."""
        given = self._given.get(name, words[0])
        if given not in words:
            raise Refusal(400, f"{name} is {' or '.join(words)}.", "invalid_query", name)
        return given


async def _files(key: Key, query: Query) -> dict[str, Any]:
    rows, more = await orm(
        files.listed,
        key.team,
        after=query.text("after"),
        limit=query.number("limit", 10_000, 10_000),
        order=query.one_of("order", "desc", "asc"),
        purpose=query.text("purpose"),
    )
    return _page([files.facts(row) for row in rows], more)


async def _batches(key: Key, query: Query) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        limit = query.number("limit", 20, 100)
        rows, more = batches.listed(key.team, after=query.text("after"), limit=limit)
        return _page([batch_facts.facts(row) for row in rows], more)

    return await orm(read)


def _page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    edges = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": data, "has_more": more, **edges}


async def _create(key: Key, found: Mapping[bytes, bytes], body: Body) -> dict[str, Any]:
    again = idempotency.token(found, streaming=False)
    try:
        wanted = policy.loads(await body.whole())
    except policy.BadRequest as bad:
        raise Refusal(400, bad.message, bad.code, bad.param) from bad
    return await orm(lambda: batch_facts.facts(batches.create(key, wanted, again)))
