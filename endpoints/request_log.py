"""What is kept of a logged request and its answer: no picture, no key, no more than LIMIT of each. Pure."""

import json
import random
import re
from collections.abc import Mapping
from typing import Any

from endpoints.responses import ENDS
from endpoints.streams import Malformed, events_of, payload_of
from endpoints.whole import Whole

LIMIT = 64 * 1024
# Of a stream no more bytes than these are looked at: events are many times what they say.
STREAM_BYTES = 8 << 20
DEPTH = 64
# Parts of messages that carry what is no text.
PICTURES = frozenset(
    {"image_url", "input_image", "image", "input_audio", "audio_url", "video_url", "input_file", "file"}
)
NOT_KEPT = "not_kept"
SECRET = frozenset({"api_key", "authorization", "x-api-key"})
_KEYS = re.compile(r"\b(sk-slip|slp)-[a-z0-9]{8}-[A-Za-z0-9_-]{20,}")
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,")
_LAST = re.compile(rb'"response\.(?:completed|incomplete)"')
# Longest texts that are tried, until all of it fits.
LENGTHS = (32_768, 8_192, 2_048, 512, 128)


def chosen(share: float) -> bool:
    """Whether this request is one of the share that is kept."""
    return share > 0 and (share >= 1 or random.random() < share)


def kept(value: Any) -> tuple[Any, bool]:
    """`value` fit to be stored as JSON, and whether something of it was cut for its length."""
    if value is None:
        return None, False
    clean = _clean(value, DEPTH)
    for length in (None, *LENGTHS):
        short = clean if length is None else _short(clean, length)
        written = json.dumps(short, ensure_ascii=False)
        if len(written.encode()) <= LIMIT:
            return short, length is not None
    beginning = written.encode()[: LIMIT // 2].decode(errors="ignore")
    return {"beginning": beginning}, True


def _clean(value: Any, depth: int) -> Any:
    """Without pictures and keys, and of characters that PostgreSQL keeps."""
    if isinstance(value, str):
        return _text(value)
    if not depth:
        return "…"
    if isinstance(value, list):
        return [_clean(one, depth - 1) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in PICTURES:
        return {"type": value["type"], NOT_KEPT: True}
    return {
        _text(str(name)): "…" if str(name).lower() in SECRET else _clean(inner, depth - 1)
        for name, inner in value.items()
    }


def _text(text: str) -> str:
    if text.startswith("data:") and _DATA.match(text):
        return f"({len(text):,} characters of data, not kept)"
    text = _KEYS.sub(r"\1-…", text).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _short(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= length else f"{value[:length]}…"
    if isinstance(value, list):
        return [_short(one, length) for one in value]
    if isinstance(value, dict):
        return {name: _short(inner, length) for name, inner in value.items()}
    return value


def has_pictures(value: Any) -> bool:
    """Whether something that is no text was left out of what is kept."""
    if isinstance(value, dict):
        return value.get(NOT_KEPT) is True or any(map(has_pictures, value.values()))
    return isinstance(value, list) and any(map(has_pictures, value))


class Answer:
    """An answer that is to be kept, as it comes: whole, streamed, or an error."""

    def __init__(self) -> None:
        self._whole: Any = None
        self._error: Any = None
        self._stream = Whole()
        self._read = 0
        self._over = False

    def take(self, answer: Any) -> None:
        """All of it at once."""
        self._whole = answer

    def fail(self, error: Mapping[str, Any]) -> None:
        """The error object that the client was sent."""
        self._error = dict(error)

    def feed(self, data: bytes) -> None:
        """What the client was sent of a stream. What cannot be read ends the keeping, never the stream."""
        self._read += len(data)
        if self._over or self._read > STREAM_BYTES:
            self._over = True
            return
        try:
            if _LAST.search(data):
                self._of_responses(data)
            else:
                self._stream.feed(data)
        except Malformed:
            self._over = True

    def _of_responses(self, data: bytes) -> None:
        """The last event of /v1/responses holds the whole answer."""
        for event in events_of(data):
            try:
                said = json.loads(payload_of(event))
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("type") in ENDS:
                self._whole = said.get("response")

    def made(self) -> Any:
        """What came; None where nothing did."""
        came = self._whole if self._whole is not None else self._stream.so_far()
        if self._error is None:
            return came
        return {"error": self._error} | ({"before": came} if came is not None else {})
