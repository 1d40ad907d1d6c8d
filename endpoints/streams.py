"""What happens to the bytes of a streamed answer on their way through: as little as possible.

Bytes pass untouched, a read at a time, cut only at the end of an event. The exceptions: a usage chunk that
the client did not ask for is left out; one it asked for is made where the engine puts usage on content;
`[DONE]` is added where the engine sends none. Knows nothing about connections.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from playground.engines.base import Quirks

DONE = b"data: [DONE]\n\n"
# A single event longer than this is no token.
EVENT_LIMIT = 1024 * 1024

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_CONTENT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|arguments)"\s*:\s*"(?!")|"tool_calls"\s*:\s*\[\s*\{'
)
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Malformed(Exception):
    """The engine's stream is not one of server-sent events of a sane size."""


@dataclass(slots=True)
class Stream:
    """One answer's passage. `feed` gives what to send on; `end` says how it ended."""

    quirks: Quirks
    usage_asked: bool
    usage: dict[str, Any] | None = None
    content_seen: bool = False
    done: bool = False
    failed: bool = False
    _held: bytes = b""
    _finished: bool = False
    _usage_sent: bool = False
    _last: dict[str, Any] = field(default_factory=dict)

    def feed(self, data: bytes) -> bytes:
        """The whole events of what was read so far, filtered; an unfinished one is held back."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n"):
            data = self._hold(data)
        if not self.content_seen and _CONTENT.search(data):
            self.content_seen = True
        if not self.quirks.sends_done and not self._finished and _FINISHED.search(data):
            self._finished = True
        if b"[DONE]" in data or b'"error"' in data or _USAGE.search(data):
            return b"".join(filter(None, map(self._event, events_of(data))))
        return data

    def _hold(self, data: bytes) -> bytes:
        """Keep back what follows the last complete event."""
        end = max((match.end() for match in _EVENT_END.finditer(data)), default=0)
        self._held = data[end:]
        if len(self._held) > EVENT_LIMIT:
            raise Malformed("an event without end")
        return data[:end]

    def _event(self, event: bytes) -> bytes:
        """One event as it goes on; empty when it is left out."""
        if self.done:
            return b""
        payload = payload_of(event)
        if payload == b"[DONE]":
            self.done = True
            return self._own_usage() + event
        if not _USAGE.search(payload) and b'"error"' not in payload:
            return event
        return self._look(event, payload)

    def _look(self, event: bytes, payload: bytes) -> bytes:
        try:
            chunk = json.loads(payload)
        except ValueError as error:
            raise Malformed("a chunk that is no JSON") from error
        if not isinstance(chunk, dict):
            raise Malformed("a chunk that is no object")
        if chunk.get("error") and not chunk.get("choices"):
            self.failed = True
            return b""
        if isinstance(chunk.get("usage"), dict):
            self.usage, self._last = chunk["usage"], chunk
            if chunk.get("choices") == []:
                self._usage_sent = True
                return event if self.usage_asked else b""
        return event

    def _own_usage(self) -> bytes:
        """A usage chunk of the API's shape, where one was asked and the engine put usage elsewhere."""
        if not self.usage_asked or self._usage_sent or self.usage is None:
            return b""
        kept: dict[str, Any] = {
            name: self._last[name] for name in ("id", "object", "created", "model") if name in self._last
        }
        chunk: dict[str, Any] = {**kept, "choices": [], "usage": self.usage}
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    def end(self) -> bytes:
        """The last bytes where the engine sends no [DONE]."""
        self.done = True
        return self._own_usage() + DONE

    @property
    def complete(self) -> bool:
        """The client has been sent the end."""
        return self.done and not self.failed

    @property
    def end_reached(self) -> bool:
        """The engine, which sends no [DONE], said why it finished."""
        return not self.quirks.sends_done and self._finished


def events_of(data: bytes) -> list[bytes]:
    """`data` cut after each event."""
    found, begin = [], 0
    for match in _EVENT_END.finditer(data):
        found.append(data[begin : match.end()])
        begin = match.end()
    return found


def payload_of(event: bytes) -> bytes:
    """The data of an event, without field name and line ends."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)
