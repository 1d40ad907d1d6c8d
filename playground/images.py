"""Images in requests: only inline ones of harmless kinds; sizes are read from headers, undecoded. Pure."""

import base64
import binascii
import re
import struct
from typing import Any

from playground.schemas import BadRequest

PIXELS = 40_000_000
BYTES = 16 << 20
# What people may attach to a message.
ATTACHED = ("png", "jpeg", "webp")
DATA = re.compile(r"data:image/(png|jpeg|gif|webp);base64,", re.ASCII)


def measured(raw: bytes) -> tuple[str, int, int]:
    """(kind, width, height) of a file, whatever it is called; ValueError says why it is not taken."""
    for kind in ATTACHED:
        try:
            width, height = SIZES[kind](raw)
        except (struct.error, IndexError, ValueError):
            continue
        if not 0 < width * height <= PIXELS:
            raise ValueError(f"it has {width:,} by {height:,} pixels; {PIXELS:,} in all is the most")
        return kind, width, height
    raise ValueError("it is no PNG, JPEG or WebP")


def data_url(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def check(url: Any, name: str) -> None:
    """Raise BadRequest unless `url` is an inline PNG, JPEG, GIF or WebP of bearable size."""
    found = DATA.match(url) if isinstance(url, str) else None
    if found is None:
        raise BadRequest(
            f"{name} must be a data: URL of a PNG, JPEG, GIF or WebP image; remote images are not fetched.",
            name,
            "unsupported_image",
        )
    encoded = url[found.end() :]
    if len(encoded) > BYTES * 4 // 3:
        raise BadRequest(f"{name} is larger than {BYTES >> 20} MiB.", name, "image_too_large")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise BadRequest(f"{name} is not base64.", name, "invalid_image") from problem
    try:
        width, height = SIZES[found.group(1)](raw)
    except (struct.error, IndexError, ValueError) as problem:
        raise BadRequest(
            f"{name} is not the {found.group(1)} it says it is.", name, "invalid_image"
        ) from problem
    if not 0 < width * height <= PIXELS:
        raise BadRequest(f"{name} has more than {PIXELS:,} pixels, or none.", name, "image_too_large")


def _png(raw: bytes) -> tuple[int, int]:
    if raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR":
        raise ValueError("no PNG")
    width, height = struct.unpack(">II", raw[16:24])
    return width, height


def _gif(raw: bytes) -> tuple[int, int]:
    if raw[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("no GIF")
    width, height = struct.unpack("<HH", raw[6:10])
    return width, height


def _jpeg(raw: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header."""
    if raw[:3] != b"\xff\xd8\xff":
        raise ValueError("no JPEG")
    place = 2
    while raw[place] == 0xFF:
        marker = raw[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", raw[place + 5 : place + 9])
            return width, height
        if marker == 0xFF:
            place += 1
        else:
            place += 2 + max(2, struct.unpack(">H", raw[place + 2 : place + 4])[0])
    raise ValueError("no frame")


def _webp(raw: bytes) -> tuple[int, int]:
    if raw[:4] != b"RIFF" or raw[8:12] != b"WEBP":
        raise ValueError("no WebP")
    kind, head = raw[12:16], raw[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no frame")


SIZES = {"png": _png, "gif": _gif, "jpeg": _jpeg, "webp": _webp}
