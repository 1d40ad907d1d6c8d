"""One form of a model's weights as it lies on a disk.

Whether it may be loaded, what it says of itself, its digest.

Safetensors and GGUF only. Nothing here runs a model's code or unpickles anything, and nothing a file claims
is believed before it is checked against the file. Knows nothing about rows.
"""

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground import gguf, gguf_shapes, kinds, safety
from playground import shapes as model_shapes
from playground.parameters import positive
from playground.safety import Refused as Refused

MAX_JSON = 64 << 20
MAX_SAFETENSORS_HEADER = 100_000_000
MAX_PARAMETERS = 1 << 60
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# Bits of a value of each type; of the rest the format's own reader knows.
_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16},
    **{"I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8},
}
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "fp8_e4m3",
    "F8_E5M2": "fp8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
}


@dataclass(frozen=True)
class Weights:
    """What a form says of itself; None and empty where it does not."""

    kind: str
    size_bytes: int
    dtype: str = ""
    task: str = "chat"
    architecture: str = ""
    licence: str = ""
    parameters: int | None = None
    context_length: int | None = None
    chat_template: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    takes_images: bool = False
    labels: tuple[str, ...] = ()
    """A classifier's, by place."""


def inspect(path: Path, *, code: bool = False) -> Weights:
    """The facts of a .gguf file or a folder of safetensors.

    Refused with the reason when it may not be loaded. `code`: its own Python files may be there.
    """
    return _inspect_gguf(path) if path.is_file() else _inspect_folder(path, code)


def files(path: Path) -> list[Path]:
    """The files that belong to a form, sorted.

    A folder's, or a .gguf file with the other parts of its series and the projector that lets it see.
    """
    if path.is_dir():
        return sorted(file for file in _walk(path) if file.suffix != ".gguf")
    series = SHARD.fullmatch(path.name)
    parts = (
        sorted(path.parent.glob(f"{_literal(series['stem'])}-?????-of-{series['count']}.gguf"))
        if series
        else [path]
    )
    beside = kinds.projector(path)
    return [*parts, beside] if beside and beside not in parts else parts


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in files(path))


def bytes_below(folder: Path) -> int:
    """What lies in a folder, hidden files too; nothing when it is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def signature(path: Path) -> list[list[Any]]:
    """Names, sizes and times: when they are the same, the contents are taken to be."""
    base = path if path.is_dir() else path.parent
    return [
        [str(file.relative_to(base)), file.stat().st_size, file.stat().st_mtime_ns] for file in files(path)
    ]


def digest(path: Path, told: Callable[[int], None] = lambda done: None) -> str:
    """SHA-256 over the names and contents of a form's files. `told` hears the bytes read so far."""
    base = path if path.is_dir() else path.parent
    digests, done = {}, 0
    for file in files(path):
        one = hashlib.sha256()
        with file.open("rb") as source:
            while block := source.read(8 << 20):
                one.update(block)
                done += len(block)
                told(done)
        digests[str(file.relative_to(base))] = one.hexdigest()
    return digest_of(digests)


def digest_of(digests: Mapping[str, str]) -> str:
    """The digest of a form from the SHA-256 of each of its files, by name."""
    whole = hashlib.sha256()
    for name in sorted(digests, key=Path):
        whole.update(f"{name}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def code_digest(folder: Path) -> str:
    """SHA-256 over what could run or configure code: every file of a folder but the weights themselves."""
    whole = hashlib.sha256()
    for file in files(folder):
        if file.suffix not in safety.WEIGHTS:
            own = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{file.relative_to(folder)}\0{own}\n".encode())
    return whole.hexdigest()


def refuse_links_out(path: Path, root: Path) -> None:
    """Refused when `path`, or anything below it, is a link that leads out of `root`."""
    root = root.resolve()
    below = [path, *path.rglob("*")] if path.is_dir() else [path]
    for one in below[: safety.MAX_FILES + 1]:
        if one.is_symlink() and not one.resolve().is_relative_to(root):
            raise Refused(f"{one.name} is a link that leads out of the models folder.")


def _literal(name: str) -> str:
    """A name whose special characters mean nothing in a glob pattern."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones."""
    count = 0
    for file in folder.rglob("*"):
        if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
            continue
        count += 1
        if count > safety.MAX_FILES:
            raise Refused(f"It has more than {safety.MAX_FILES} files.")
        yield file


# GGUF


def _inspect_gguf(path: Path) -> Weights:
    header = _header(path)
    for other in _others(path):
        _check_gguf_templates(other, _header(other))
    architecture = _plain(header.values.get("general.architecture"), 100)
    _check_gguf_templates(path, header)
    template = str(header.values.get("tokenizer.chat_template", ""))
    kind = kinds.of_gguf(architecture, header.of("pooling_type"), template, kinds.projector(path))
    return Weights(
        kind="gguf",
        size_bytes=size(path),
        dtype=header.dtype,
        task=kind.task,
        takes_images=kind.takes_images,
        architecture=architecture,
        licence=_plain(header.values.get("general.license"), 80),
        parameters=_amount(header.parameters),
        context_length=positive(header.of("context_length")),
        chat_template=template,
        facts=gguf_shapes.of_header(header),
    )


def _header(path: Path) -> gguf.Header:
    try:
        return gguf.read(path)
    except gguf.Malformed as problem:
        raise Refused(f"{path.name} is no sound GGUF file: {problem}.") from problem


def _others(path: Path) -> list[Path]:
    """The files that are loaded with it. Refused where a part of its series is missing."""
    if series := SHARD.fullmatch(path.name):
        held = {file.name for file in files(path)}
        for number in range(1, int(series["count"]) + 1):
            name = f"{series['stem']}-{number:05d}-of-{series['count']}.gguf"
            if name not in held:
                raise Refused(f"{name} is missing: all {int(series['count']):,} parts belong in one folder.")
    return [file for file in files(path) if file != path]


def _check_gguf_templates(path: Path, header: gguf.Header) -> None:
    """A file may carry several, by name; any of them may be asked for."""
    for key, value in header.values.items():
        if key.startswith("tokenizer.chat_template") and isinstance(value, str):
            safety.check_template(path.name, value)
    if any(
        key.startswith("tokenizer.chat_template.") or key == "tokenizer.chat_template" for key in header.long
    ):
        raise Refused(f"{path.name}: the chat template is longer than 1 MB.")


# Folders of safetensors


def read_folder(folder: Path, *, code: bool = False) -> tuple[list[Path], dict[str, Any]]:
    """The files of a folder, and the content of its configurations by name.

    Refused when anything in it could run code, but Python files of its own where `code` allows them.
    """
    held = list(_walk(folder))
    configurations = configurations_of(folder, held)
    names = [str(file.relative_to(folder)) for file in held]
    judgement = safety.judge_listing(names, configurations, allowed=code, on_disk=True)
    if judgement.refused:
        raise Refused(judgement.refused, judgement)
    return held, configurations


def configurations_of(folder: Path, held: list[Path]) -> dict[str, Any]:
    """What `safety` wants to read of a folder: parsed JSON, and the text of templates."""
    named = {str(file.relative_to(folder)): file for file in held}
    return {
        name: file.read_text(errors="replace") if file.suffix == ".jinja" else _json(file)
        for name, file in named.items()
        if safety.is_config(name)
    }


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a .safetensors file, after the checks of its header."""
    header = _safetensors_header(file)
    return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}


def described(config: dict[str, Any]) -> tuple[str, int | None, dict[str, Any]]:
    """What a config.json alone says of a model: its architecture, its context, its shape."""
    return _architecture(config), model_shapes.context_length(config), model_shapes.from_config(config)


def _inspect_folder(folder: Path, code: bool) -> Weights:
    held, configurations = read_folder(folder, code=code)
    config = configurations.get("config.json")
    if not isinstance(config, dict):
        raise Refused("It has no config.json.")
    if why := kinds.why_none(config):
        raise Refused(why)
    shards = [file for file in held if file.suffix == ".safetensors"]
    if not shards:
        raise Refused("It has no .safetensors file.")
    tensors = _safetensors(shards)
    template = _template(configurations)
    kind = kinds.of_folder(config, configurations.get("modules.json"), template, folder.name)
    pooled = kinds.pooling(configurations) if kind.task == kinds.EMBEDDING else ""
    return Weights(
        kind="safetensors",
        size_bytes=sum(file.stat().st_size for file in shards),
        dtype=DTYPES.get(tensors.most_common(1)[0][0], "") if tensors else "",
        task=kind.task,
        takes_images=kind.takes_images,
        labels=kind.labels,
        architecture=_architecture(config),
        licence=_licence(folder),
        parameters=_amount(sum(tensors.values())),
        context_length=kinds.read_at_once(configurations, model_shapes.context_length(config)),
        chat_template=template,
        facts=model_shapes.from_config(config) | ({"pooling": pooled} if pooled else {}),
    )


def _json(file: Path) -> Any:
    if file.stat().st_size > MAX_JSON:
        raise Refused(f"{file.name} is too large for a configuration.")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise Refused(f"{file.name} is no sound JSON.") from problem


def _safetensors(shards: list[Path]) -> Counter[str]:
    """Weights by type over all files, after checking that each header describes its file and no more."""
    weights: Counter[str] = Counter()
    for file in shards:
        for name, tensor in _safetensors_header(file).items():
            if name == "__metadata__":
                continue
            amount = 1
            for dimension in tensor["shape"]:
                amount *= dimension
            weights[str(tensor["dtype"])] += amount
    return weights


def _safetensors_header(file: Path) -> dict[str, Any]:
    whole = file.stat().st_size
    with file.open("rb") as source:
        start = source.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start.startswith(b"PK\x03\x04"):
            raise Refused(f"{file.name} is a zip archive with the name of a safetensors file.")
        if not 2 <= length <= min(MAX_SAFETENSORS_HEADER, whole - 8):
            raise Refused(f"{file.name} is no sound safetensors file: its header's length cannot be.")
        raw = source.read(length)
    try:
        header = json.loads(raw)
        ends = [_end(tensor) for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise Refused(f"{file.name} is no sound safetensors file: its header is broken.") from problem
    if max(ends, default=0) != whole - 8 - length:
        raise Refused(
            f"{file.name} is no sound safetensors file: it is cut short, or holds more than it says."
        )
    checked: dict[str, Any] = header
    return checked


def _end(tensor: dict[str, Any]) -> int:
    """Where a tensor's bytes end; ValueError when its numbers cannot be."""
    begin, end = tensor["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError("offsets")
    if not all(isinstance(size, int) and size >= 0 for size in tensor["shape"]):
        raise ValueError("shape")
    bits = _BITS.get(str(tensor["dtype"]))
    if bits and math.prod(tensor["shape"]) * bits != (end - begin) * 8:
        raise ValueError("size")
    return end


def _template(configurations: dict[str, Any]) -> str:
    """The chat template.

    A file of its own in newer models, a key of the tokenizer's configuration in older ones.
    """
    if own := configurations.get("chat_template.jinja"):
        return str(own)
    tokenizer = configurations.get("tokenizer_config.json")
    template = tokenizer.get("chat_template", "") if isinstance(tokenizer, dict) else ""
    if isinstance(template, list):
        named = {one.get("name"): one.get("template", "") for one in template if isinstance(one, dict)}
        template = named.get("default", "")
    return template if isinstance(template, str) else ""


def _licence(folder: Path) -> str:
    """The licence that the card's front matter names."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > MAX_JSON:
        return ""
    found = re.search(r"\A---\n(?:.*\n)*?license: *([\w.+-]+)", card.read_text(errors="replace")[:20_000])
    return found[1][:80] if found else ""


# Both


def _amount(weights: int) -> int | None:
    """A number of weights that a column can hold."""
    return weights if 0 < weights < MAX_PARAMETERS else None


def _plain(value: Any, most: int) -> str:
    """A text of a file as a column can hold it, without control characters."""
    text = value if isinstance(value, str) else ""
    return "".join(letter for letter in text[:most] if letter.isprintable())


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else config.get("model_type")
    return _plain(first, 100)
