"""In which ways a model of the catalogue may be quantised here, and how large it would get by each.

A way takes one form: llama.cpp's mixtures a GGUF file, llm-compressor's schemes a folder of safetensors.
Reads rows and headers, changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from playground import catalogue, gguf, mixtures, schemes, weights
from playground.mixtures import MIXTURES, Mixture
from playground.models import Model, ModelFormat
from playground.schemes import SCHEMES, Scheme

LLAMACPP, COMPRESSOR = "llama.cpp", "llm-compressor"
# What comes of each, and who loads it.
RESULTS = {LLAMACPP: "a GGUF file, for llama.cpp", COMPRESSOR: "safetensors, for vLLM and SGLang"}


@dataclass(frozen=True)
class Way:
    """One way for one form. Bytes; `size_bytes` None where it is not known before the form lies here."""

    method: str
    words: str
    tool: str
    form: ModelFormat
    size_bytes: int | None = None
    note: str = ""
    why_not: str = ""

    @property
    def change(self) -> str:
        """What that is beside today's weights: "45 % smaller"; empty where it is not known."""
        if not self.size_bytes or not self.form.size_bytes:
            return ""
        share = round(100 * self.size_bytes / self.form.size_bytes) - 100
        return f"{abs(share)} % {'larger' if share > 0 else 'smaller'}" if share else "the same size"

    @property
    def grows(self) -> bool:
        return bool(self.size_bytes and self.form.size_bytes and self.size_bytes > self.form.size_bytes)


def of(model: Model) -> list[Way]:
    """Every way there is for it, those that cannot be gone with the reason."""
    if model.refused or model.missing:
        return []
    return [*_ggufs(model), *_folders(model)]


def by_tool(model: Model) -> list[tuple[str, list[Way]]]:
    """The same in groups."""
    found = of(model)
    groups = [(tool, [way for way in found if way.tool == tool]) for tool in RESULTS]
    return [(tool, group) for tool, group in groups if group]


def find(model: Model, method: str) -> Way | None:
    return next((way for way in of(model) if way.method == method), None)


def source(model: Model, kind: str) -> ModelFormat | None:
    """The form to start from: of several the largest, which lost least."""
    rows = list(model.formats.filter(kind=kind))
    return max(rows, key=lambda row: (row.size_bytes or 0, -row.pk), default=None)


# GGUF


def _ggufs(model: Model) -> Iterator[Way]:
    form = source(model, ModelFormat.Kind.GGUF)
    if form is None:
        return
    path = catalogue.root() / form.path
    if weights.SHARD.fullmatch(path.name):
        why = "Its weights lie in several files; only a single GGUF file is quantised here."
        yield from (Way(one.name, one.words, LLAMACPP, form, why_not=why) for one in MIXTURES.values())
        return
    try:
        header = read_header(path) if path.is_file() else None
    except gguf.Malformed as problem:
        why = f"{path.name} is no sound GGUF file: {problem}."
        yield from (Way(one.name, one.words, LLAMACPP, form, why_not=why) for one in MIXTURES.values())
        return
    yield from (_gguf_way(form, header, mixture) for mixture in MIXTURES.values())


def _gguf_way(form: ModelFormat, header: gguf.Header | None, mixture: Mixture) -> Way:
    if header is None:
        return Way(mixture.name, mixture.words, LLAMACPP, form)
    planned = mixtures.plan(header, mixture)
    if not planned:
        return Way(mixture.name, mixture.words, LLAMACPP, form, why_not=f"Its weights are {header.dtype}.")
    again = mixtures.requantises(header, planned)
    note = f"Made from {header.dtype}: what that lost stays lost." if again else ""
    size = mixtures.size(header, planned)
    return Way(mixture.name, mixture.words, LLAMACPP, form, size_bytes=size, note=note)


def read_header(path: Path) -> gguf.Header:
    """The header of a GGUF file, kept as long as the file stays as it is. gguf.Malformed."""
    facts = path.stat()
    return _read_header(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_header(path: Path, size: int, changed: int) -> gguf.Header:
    return gguf.read(path)


# Safetensors


def _folders(model: Model) -> Iterator[Way]:
    form = source(model, ModelFormat.Kind.SAFETENSORS)
    if form is None:
        return
    why = schemes.why_not(model.facts, model.task)
    if model.code_allowed_at:
        why = "It runs code of its own, which is not done to quantise it."
    if model.takes_images:
        why = "Models that read images are not quantised here."
    path = catalogue.root() / form.path
    yield from (_folder_way(form, path, scheme, why) for scheme in SCHEMES.values())


def _folder_way(form: ModelFormat, path: Path, scheme: Scheme, why: str) -> Way:
    size = None
    if path.is_dir() and not why:
        why, size = schemes.misfit(path, scheme), schemes.size(path, form.dtype, scheme)
    return Way(scheme.name, scheme.words, COMPRESSOR, form, size_bytes=None if why else size, why_not=why)
