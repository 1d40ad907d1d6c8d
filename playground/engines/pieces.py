"""Tokens as engines name them, made into the bytes that they stand for. Pure."""

from collections.abc import Callable, Sequence
from functools import cache

Token = tuple[int, bytes]
"""A token's number and its bytes, which may end in the middle of a character."""


def spelled(names: Sequence[str], text: str) -> list[bytes] | None:
    """The bytes of tokens named as a vocabulary names them; None where they do not add up to `text`.

    Tried in turn: the text itself, bytes as letters (Ġ for a space), and ▁ for a space with bytes as <0x0A>.
    """
    wanted = text.encode()
    for spell in (str.encode, _by_letters, _by_blocks):
        found = _all(spell, names)
        if found is not None and b"".join(found) == wanted:
            return found
        if found and spell is _by_blocks and b"".join(found) == b" " + wanted:
            return [found[0][1:], *found[1:]]
    return None


def _all(spell: Callable[[str], bytes], names: Sequence[str]) -> list[bytes] | None:
    try:
        return [spell(name) for name in names]
    except (KeyError, UnicodeEncodeError):
        return None


@cache
def _letters() -> dict[str, int]:
    """The letter that stands for each byte in vocabularies made of bytes, as GPT-2's is."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _by_letters(name: str) -> bytes:
    letters = _letters()
    return bytes(letters[letter] for letter in name)


def _by_blocks(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        try:
            return bytes([int(name[3:5], 16)])
        except ValueError:
            pass
    return name.replace("\u2581", " ").encode()
