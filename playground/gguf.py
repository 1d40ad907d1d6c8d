"""A reader of GGUF headers: what a file says about its model.

Bounded against files that lie. Knows nothing else.

Every length is checked against the bytes that are really there before anything is read or kept, so a hostile
file costs at most a pass over its own header. Format: the GGUF specification of the ggml project, versions 2
and 3.
"""

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_PAIRS = 100_000
MAX_TENSORS = 1_000_000
MAX_DIMENSIONS = 4
MAX_KEY = 65_535
# Longer texts (merged vocabularies, hostile templates) are passed over, not kept.
MAX_TEXT = 1 << 20
# Arrays are counted, not kept, beyond this many values: one for each layer of the deepest models is kept.
MAX_ARRAY = 256
# Tensors are counted, not kept, beyond this many.
MAX_KEPT_TENSORS = 50_000
MAX_NAME = 200

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# ggml types: name, values a block, bytes a block.
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


# Arrays that engines read by the number of tokens, and the types they take them to have.
VOCABULARY = {"tokenizer.ggml.scores": {6}, "tokenizer.ggml.token_type": {4, 5}}


class Malformed(Exception):
    """The file is no sound GGUF; the text says where it is wrong."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header describes it. The first of `shape` is the length of a row."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What the header says.

    Long texts and arrays are left out of `values`; an array's length is in `lengths`.
    """

    values: dict[str, Any]
    lengths: dict[str, int]
    parameters: int
    """Number of weights over all tensors."""
    dtype: str
    """The type most weights have: "Q4_K"."""
    types: dict[str, int] = field(default_factory=dict)
    """Weights by type."""
    long: frozenset[str] = frozenset()
    """Keys of texts that were too long to keep."""
    tensors: tuple[Tensor, ...] = ()
    """Each tensor; empty where there are too many to keep."""
    data_at: int = 0
    """Where the weights begin in the file."""

    def of(self, key: str) -> Any:
        """A value of the model's architecture: of("context_length") reads "llama.context_length"."""
        return self.values.get(f"{self.values.get('general.architecture', '')}.{key}")


def read(path: Path) -> Header:
    """The header of a GGUF file; Malformed when it is none, is cut short, or says what cannot be."""
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise Malformed("it is shorter than a header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).header()
            except (struct.error, UnicodeDecodeError, OverflowError) as problem:
                raise Malformed(f"its header is broken: {problem}") from problem


class _Reader:
    """Walks one header from front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.size = data, 0, len(data)
        self.long: frozenset[str] = frozenset()

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise Malformed("it does not begin with GGUF")
        self.at = 4
        version = self.number("I")
        if version not in (2, 3):
            raise Malformed(f"its version {version} is not known")
        tensors, pairs = self.number("Q"), self.number("Q")
        if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
            raise Malformed(f"it claims {tensors} tensors and {pairs} values")
        values: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(pairs):
            key = self.text(MAX_KEY) or ""
            values[key] = self.value(self.number("I"), key, lengths)
        self.check_vocabulary(lengths)
        self.long = frozenset(key for key, one in values.items() if one is None and key not in lengths)
        return self.tensors(tensors, {key: one for key, one in values.items() if one is not None}, lengths)

    def check_vocabulary(self, lengths: dict[str, int]) -> None:
        """One score and one type a token: engines read them by the number of tokens."""
        for key in VOCABULARY:
            if key in lengths and lengths[key] != lengths.get("tokenizer.ggml.tokens", 0):
                raise Malformed(f"its vocabulary has {lengths[key]} {key.rpartition('.')[2]}s for its tokens")

    def tensors(self, count: int, values: dict[str, Any], lengths: dict[str, int]) -> Header:
        """Count the weights, and check that every tensor lies within the file."""
        weights: Counter[str] = Counter()
        kept: list[Tensor] = []
        furthest = 0
        for _ in range(count):
            called = self.text(MAX_KEY) or ""
            dimensions = self.number("I")
            if dimensions > MAX_DIMENSIONS:
                raise Malformed(f"a tensor has {dimensions} dimensions")
            shape = tuple(self.number("Q") for _ in range(dimensions))
            amount = math.prod(shape)
            kind, offset = self.number("I"), self.number("Q")
            name, block, size = _TYPES.get(kind, (f"type {kind}", 1, 0))
            furthest = max(furthest, offset + amount // block * size)
            weights[name] += amount
            if count <= MAX_KEPT_TENSORS:
                kept.append(Tensor(called[:MAX_NAME], shape, name))
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise Malformed(f"its alignment {alignment} cannot be")
        start = -(-self.at // alignment) * alignment
        if start + furthest > self.size:
            raise Malformed(f"{start + furthest - self.size} bytes of its weights are missing")
        dtype = weights.most_common(1)[0][0] if weights else ""
        total = sum(weights.values())
        return Header(values, lengths, total, dtype, dict(weights), self.long, tuple(kept), start)

    def value(self, kind: int, key: str, lengths: dict[str, int]) -> Any:
        """One value; None for what is too long to keep."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text(MAX_TEXT)
        if kind == _ARRAY:
            return self.array(key, lengths)
        raise Malformed(f"{key[:80]!r} has the unknown type {kind}")

    def array(self, key: str, lengths: dict[str, int]) -> list[Any] | None:
        kind, length = self.number("I"), self.number("Q")
        lengths[key] = length
        if kind not in VOCABULARY.get(key, {kind}):
            raise Malformed(f"{key[:80]!r} is an array of type {kind}")
        if kind == _TEXT:
            return self.texts(length)
        if kind not in _SCALARS:
            raise Malformed(f"{key[:80]!r} is an array of type {kind}")
        size = struct.calcsize("<" + _SCALARS[kind])
        start = self.skip(length * size)
        if length > MAX_ARRAY:
            return None
        return list(struct.unpack_from(f"<{length}{_SCALARS[kind]}", self.data, start))

    def texts(self, length: int) -> list[Any] | None:
        """Texts of an array.

        Each takes at least its eight bytes of length, so a lie ends at the file's end.
        """
        if length * 8 > self.size - self.at:
            raise Malformed("an array is longer than the file")
        kept = [self.text(MAX_TEXT) for _ in range(min(length, MAX_ARRAY))]
        for _ in range(length - len(kept)):
            self.skip(self.number("Q"))
        return kept if length <= MAX_ARRAY else None

    def text(self, most: int) -> str | None:
        length = self.number("Q")
        start = self.skip(length)
        return self.data[start : self.at].decode(errors="replace") if length <= most else None

    def number(self, code: str) -> Any:
        start = self.skip(struct.calcsize("<" + code))
        return struct.unpack_from("<" + code, self.data, start)[0]

    def skip(self, amount: int) -> int:
        """Move on; returns where that began. Malformed past the end."""
        start = self.at
        if amount > self.size - start:
            raise Malformed("it is cut short, or lies about a length")
        self.at = start + amount
        return start


def type_bytes(dtype: str, values: int) -> int | None:
    """Bytes that so many values take in a type, by its name; None for a type that is not known."""
    for name, block, size in _TYPES.values():
        if name == dtype:
            return -(-values // block) * size
    return None


def block_of(dtype: str) -> int:
    """How many values a block of that type holds; a row is a whole number of blocks."""
    return next((block for name, block, _ in _TYPES.values() if name == dtype), 1)
