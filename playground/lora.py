"""LoRA weights as they lie on a disk: whether they may be loaded, and whether they fit a model.

Two forms: a PEFT folder (adapter_config.json and safetensors) and a GGUF file. The same rules of safety hold
as for models; nothing a file claims is believed before it is checked. Knows nothing about rows.
"""

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground import gguf, weights
from playground.weights import Refused

CONFIG = "adapter_config.json"
MAX_RANK = 512
_PEFT = re.compile(r"(?:base_model\.model\.)?(?P<target>.+)\.lora_(?P<half>[AB])(?:\.[^.]+)?\.weight")
_GGUF = re.compile(r"(?P<target>.+)\.lora_(?P<half>[ab])")
# general.type = "adapter" as a GGUF header says it, among its first values.
_IS_ADAPTER = b"general.type" + struct.pack("<IQ", 8, 7) + b"adapter"
READ_FIRST = 1 << 16
# Forms of LoRA that need more than two matrices a target, which the engines here do not load.
UNSERVED = {
    "use_dora": "is a DoRA",
    "modules_to_save": "replaces whole modules (modules_to_save)",
    "trainable_token_indices": "changes single tokens",
    "megatron_config": "is for Megatron",
}


@dataclass(frozen=True)
class Lora:
    """What an adapter says of itself. `targets`: the base's tensor → (values in, values out)."""

    kind: str
    size_bytes: int
    rank: int
    base: str = ""
    """The model it says it was made for, as its files name it."""
    architecture: str = ""
    targets: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def is_adapter(path: Path) -> bool:
    """Whether a folder or file is LoRA weights rather than a model. Reads as little as that takes."""
    if path.is_dir():
        return (path / CONFIG).is_file()
    if path.suffix != ".gguf":
        return False
    with path.open("rb") as file:
        return _IS_ADAPTER in file.read(READ_FIRST)


def inspect(path: Path) -> Lora:
    """The facts of a PEFT folder or a GGUF file; Refused with the reason when it may not be loaded."""
    found = _inspect_gguf(path) if path.is_file() else _inspect_folder(path)
    _checked_rank(found.rank)
    return found


def refuse_misfit(found: Lora, base: Path) -> None:
    """Refused unless every target is a tensor of the model at `base`, of the same shape."""
    shapes = _base_shapes(base)
    for target, (inner, outer) in found.targets.items():
        shape = shapes.get(target) or shapes.get(_without_wrapper(target))
        if shape is None:
            raise Refused(f"It changes {target}, which this model does not have: it is for another one.")
        if shape != (inner, outer):
            raise Refused(
                f"Its {target} is for {inner:,} values in and {outer:,} out; this model has {shape[0]:,} and "
                f"{shape[1]:,}: it is for another one."
            )


def _without_wrapper(name: str) -> str:
    """A tensor's name without what a training library put before it."""
    return re.sub(r"^(model\.)+(?=model\.)", "", name)


def _base_shapes(base: Path) -> dict[str, tuple[int, int]]:
    """(values in, values out) of each matrix of a model."""
    if base.is_file():
        tensors = gguf.read(base).tensors
        return {one.name: (one.shape[0], one.shape[1]) for one in tensors if len(one.shape) == 2}
    found: dict[str, tuple[int, int]] = {}
    for file in weights.files(base):
        if file.suffix == ".safetensors":
            shapes = weights.shapes(file)
            found |= {name: (one[1], one[0]) for name, one in shapes.items() if len(one) == 2}
    return found


# PEFT folders


def _inspect_folder(folder: Path) -> Lora:
    held, configurations = weights.read_folder(folder)
    config = configurations.get(CONFIG)
    if not isinstance(config, dict):
        raise Refused(f"It has no {CONFIG}.")
    _refuse_config(config)
    files = [file for file in held if file.suffix == ".safetensors"]
    if not files:
        raise Refused("It has no adapter_model.safetensors.")
    shapes = {name: shape for file in files for name, shape in weights.shapes(file).items()}
    targets, ranks = _pairs(((name, shape[::-1]) for name, shape in shapes.items()), _PEFT)
    _refuse_ranks(ranks, config)
    return Lora(
        kind="safetensors",
        size_bytes=sum(file.stat().st_size for file in files),
        rank=max(ranks),
        base=str(config.get("base_model_name_or_path") or "")[:300],
        targets=targets,
    )


def _refuse_config(config: Mapping[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise Refused(f"It is {str(kind)[:40]}; LoRA is what engines attach.")
    for key, what in UNSERVED.items():
        if config.get(key):
            raise Refused(f"It {what}, which engines do not attach.")
    if (bias := config.get("bias", "none")) != "none":
        raise Refused(f"It changes biases (bias: {str(bias)[:20]}), which engines do not attach.")


def configured_rank(config: Any) -> int:
    """The rank that a PEFT configuration alone tells; Refused where engines do not attach such a one."""
    if not isinstance(config, dict):
        raise Refused(f"{CONFIG} is no sound PEFT configuration.")
    _refuse_config(config)
    patterns = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    rank = max((one for one in ranks if isinstance(one, int)), default=0)
    return _checked_rank(rank)


def _checked_rank(rank: int) -> int:
    if not 0 < rank <= MAX_RANK:
        raise Refused(f"Its rank is {rank}; engines take 1 to {MAX_RANK}.")
    return rank


def _refuse_ranks(ranks: set[int], config: Mapping[str, Any]) -> None:
    """What the configuration says must be what the weights are: engines set memory aside by it."""
    patterns = config.get("rank_pattern") or {}
    said = {config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())}
    if not ranks <= said:
        raise Refused(f"{CONFIG} says rank {config.get('r')}, its weights have {max(ranks)}.")


# GGUF files


def _inspect_gguf(path: Path) -> Lora:
    try:
        header = gguf.read(path)
    except gguf.Malformed as problem:
        raise Refused(f"{path.name} is no sound GGUF file: {problem}.") from problem
    if header.values.get("general.type") != "adapter" or header.values.get("adapter.type") != "lora":
        raise Refused(f"{path.name} is no LoRA adapter.")
    targets, ranks = _pairs(((one.name, one.shape) for one in header.tensors), _GGUF)
    values = header.values
    base = values.get("general.base_model.0.repo_url") or values.get("general.base_model.0.name") or ""
    return Lora(
        kind="gguf",
        size_bytes=path.stat().st_size,
        rank=max(ranks),
        base=str(base)[:300],
        architecture=str(values.get("general.architecture", "")),
        targets=targets,
    )


# Both


def _pairs(
    tensors: Iterable[tuple[str, tuple[int, ...]]], pattern: re.Pattern[str]
) -> tuple[dict[str, tuple[int, int]], set[int]]:
    """The targets with their shapes, and the ranks; shapes are (length of a row, rows)."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in tensors:
        found = pattern.fullmatch(name)
        if found is None or len(shape) != 2:
            raise Refused(f"It holds {name[:120]}, which is no part of a plain LoRA.")
        halves.setdefault(found["target"], {})[found["half"].upper()] = shape
    if not halves:
        raise Refused("It holds no weights.")
    targets, ranks = {}, set()
    for target, pair in halves.items():
        down, up = pair.get("A"), pair.get("B")
        if down is None or up is None or down[1] != up[0]:
            raise Refused(f"The two matrices of {target[:120]} do not belong together.")
        ranks.add(down[1])
        targets[target if target.endswith(".weight") else f"{target}.weight"] = (down[0], up[1])
    return targets, ranks
