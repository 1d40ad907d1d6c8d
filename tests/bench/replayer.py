"""Recorded streams, and a server that plays one to whoever asks, each event at the moment it once came.

`python -m tests.bench.replayer record SOURCE URL [KEY [PROMPT]]` asks a running engine once and adds the
events of its answer to recorded_streams.json; `python -m tests.bench.replayer serve PORT PLACE` plays those
at that place in it. A process of its own: what measures shares no event loop with it.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

FILE = Path(__file__).with_name("recorded_streams.json")
MODEL = "recorded"
PROMPT = (
    "You keep the log of a harbour. Write what happened today: which ships came and went, the weather, "
    "the tides, and what the pilots said of the new lights. "
) * 2
TOKENS = 48


@dataclass(frozen=True)
class Recording:
    """`events`: milliseconds from the request's end to the event, and its payload without "data: "."""

    source: str
    events: list[tuple[float, str]]

    @classmethod
    def all(cls) -> list["Recording"]:
        """Those that are kept."""
        kept = json.loads(FILE.read_text()) if FILE.exists() else []
        pairs = [
            (one["source"], [(float(at), str(payload)) for at, payload in one["events"]]) for one in kept
        ]
        return [cls(*pair) for pair in pairs]

    @property
    def tokens(self) -> int:
        """What its usage says."""
        counts = [json.loads(payload).get("usage") for _, payload in self.events if payload != "[DONE]"]
        found: int = next(usage["completion_tokens"] for usage in reversed(counts) if usage)
        return found


def record(source: str, url: str, key: str = "", prompt: str = PROMPT) -> Recording:
    """Ask a running engine for one streamed answer, and note when each event of it comes."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=300)
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    sent, events = time.monotonic(), []
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    for line in iter(answer.readline, b""):
        if line.startswith(b"data: "):
            events.append((round((time.monotonic() - sent) * 1000, 2), line[6:].decode().strip()))
    connection.close()
    return Recording(source, events)


def keep(recording: Recording) -> None:
    """Add it to those that are kept."""
    FILE.write_text(json.dumps([asdict(one) for one in [*Recording.all(), recording]], indent=0) + "\n")


async def serve(port: int, place: int) -> None:
    """Play a recording on every completion route until the process is ended."""
    recording = Recording.all()[place]
    chunks = [(at / 1000, _chunk(f"data: {payload}\n\n".encode())) for at, payload in recording.events]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(_length(head))
                await (_play(writer, chunks) if head.startswith(b"POST") else _small(writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def _play(writer: asyncio.StreamWriter, chunks: list[tuple[float, bytes]]) -> None:
    began = time.monotonic()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for at, chunk in chunks:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        writer.write(chunk)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _small(writer: asyncio.StreamWriter) -> None:
    """What tools ask beside: which models there are, whether it is well."""
    models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}]}
    body = json.dumps(models).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _length(head: bytes) -> int:
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


def main() -> None:
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2]), int(sys.argv[3])))
    else:
        keep(record(*sys.argv[2:]))


if __name__ == "__main__":
    main()
