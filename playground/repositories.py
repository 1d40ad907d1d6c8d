"""What of a repository is worth having: the forms of its weights, the files of each, and why it is refused.

Pure: judges a `hub.Repository` by the rules of `safety`, before a byte of its weights is here. The same rules
are kept again once the files lie on the disk.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from playground import kinds, safety, weights
from playground.hub import File, Repository
from playground.models import ModelFormat

# Beside safetensors: what configures them and their tokenizer.
_BESIDE = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".md"}
# sentence-transformers keeps its further layers in folders like 1_Pooling.
_LAYER = re.compile(r"\d+_\w+")
_WHOLE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_QUANTISATION = re.compile(
    r"(?:^|[-_.])(I?Q\d(?:_[0-9A-Z]{1,3}){0,3}|BF16|F16|F32|MXFP4(?:_MOE)?|TQ\d_0)(?=[-_.]|$)", re.IGNORECASE
)
_PROJECTOR = "mmproj"


@dataclass(frozen=True)
class Form:
    """One form that can be had. `path`: the first .gguf file; "" for the folder of safetensors."""

    kind: str
    path: str
    dtype: str
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def weight_bytes(self) -> int:
        """Of the weights alone."""
        ends = (".safetensors", ".gguf")
        return sum(file.size for file in self.files if file.path.endswith(ends) and not _sees(file))

    @property
    def key(self) -> str:
        """As forms and command lines name it."""
        return self.path or "safetensors"


def forms(repository: Repository) -> list[Form]:
    """Every form in it that may be loaded, safetensors first, then GGUF from small to large."""
    found = list(_ggufs(repository.files))
    found.sort(key=lambda form: form.size_bytes)
    return [*_safetensors(repository), *found]


def judge(repository: Repository, *, allowed: bool = False) -> safety.Judgement:
    """Whether it may be added; `refused` says why not. Code that nothing names is left there, unjudged."""
    names = [file.path for file in repository.files]
    quiet = [name for name in names if PurePosixPath(name).suffix.lower() not in safety.CODE]
    try:
        configurations = dict(_configurations(repository))
    except safety.Refused as problem:
        return safety.Judgement(str(problem), False, (), ())
    found = safety.judge_listing(quiet, configurations, allowed=allowed)
    if found.refused:
        found = safety.judge_listing(names, configurations, allowed=allowed)
    if (found.code or not found.refused) and (lacking := _lacking(repository, names)):
        return replace(found, refused=lacking, code=False)
    return found


def kind(repository: Repository) -> kinds.Kind:
    """What it is for: by its configuration where that is told, else by the Hub's word."""
    config = configuration(repository)
    template = chat_template(repository)
    if config.get("architectures") and "config.json" in repository.texts:
        modules = _json(repository.texts.get("modules.json", ""))
        return kinds.of_folder(config, modules, template, repository.repo)
    talks = template or "conversational" in repository.tags
    return kinds.of_pipeline(repository.told.task, "its own" if talks else "")


def configuration(repository: Repository) -> dict[str, Any]:
    """config.json, or the few keys of it that the Hub tells of a gated one."""
    whole = _json(repository.texts.get("config.json", ""))
    return whole if isinstance(whole, dict) else dict(repository.config)


def chat_template(repository: Repository) -> str:
    """From its own file, the tokenizer's configuration, or what the Hub read out of a GGUF file."""
    if own := repository.texts.get("chat_template.jinja", ""):
        return own
    tokenizer = _json(repository.texts.get("tokenizer_config.json", ""))
    template = tokenizer.get("chat_template") if isinstance(tokenizer, dict) else None
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    found = template or repository.gguf.get("chat_template") or ""
    return found if isinstance(found, str) else ""


def card(repository: Repository) -> str:
    """Its README without the front matter, which the facts show."""
    text = repository.texts.get("README.md", "").replace("\r\n", "\n")
    if text.startswith("---\n"):
        _, _, text = text[4:].partition("\n---")
    return text.strip()


def left_out(repository: Repository) -> list[tuple[File, str]]:
    """Files that are never fetched, each with the reason."""
    wanted = {file.path for form in forms(repository) for file in form.files}
    return [(file, _why_not(file)) for file in repository.files if file.path not in wanted]


def _why_not(file: File) -> str:
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix in safety.CODE | safety.PROGRAMS:
        return "code"
    if suffix in safety.PICKLES:
        return "can run code when it is loaded"
    return "another copy of the weights" if suffix in safety.WEIGHTS else "not needed"


# Safetensors


def _safetensors(repository: Repository) -> Iterator[Form]:
    """The folder: its weights once, and what configures them."""
    held = {file.path: file for file in repository.files}
    shards = [file for file in repository.files if _is_shard(file, _usual(held))]
    if not shards or "config.json" not in held:
        return
    beside = [file for file in repository.files if _is_beside(file)]
    layers = [file for file in repository.files if _is_layer(file)]
    dtype = weights.DTYPES.get(repository.told.dtype, "")
    yield Form(ModelFormat.Kind.SAFETENSORS, "", dtype, (*shards, *beside, *layers))


def _usual(names: Iterable[str]) -> bool:
    """Whether the weights lie under their usual names: others are then second copies."""
    return any(_WHOLE.fullmatch(name) for name in names)


def _is_shard(file: File, usual: bool) -> bool:
    if "/" in file.path or not file.path.endswith(".safetensors") or file.path.startswith("adapter_"):
        return False
    return not usual or bool(_WHOLE.fullmatch(file.path))


def _is_beside(file: File) -> bool:
    path = PurePosixPath(file.path)
    folder = str(path.parent)
    if file.path.startswith("."):
        return False
    return path.suffix in _BESIDE and folder in (".", "additional_chat_templates")


def _is_layer(file: File) -> bool:
    folder, _, name = file.path.partition("/")
    return bool(_LAYER.fullmatch(folder)) and "/" not in name and name.endswith((".json", ".safetensors"))


# GGUF


def _ggufs(files: tuple[File, ...]) -> Iterator[Form]:
    """Each GGUF file, or series of parts, with what lets it see where the repository has that."""
    held = {file.path: file for file in files if file.path.endswith(".gguf")}
    eyes = min((file for file in held.values() if _sees(file)), key=lambda file: file.size, default=None)
    for path, file in sorted(held.items()):
        series = weights.SHARD.fullmatch(path)
        if _sees(file) or (series and int(series["number"]) != 1):
            continue
        parts = [held[name] for name in sorted(held) if _is_part(name, series)] if series else [file]
        if series and len(parts) != int(series["count"]):
            continue  # A part is missing: no engine loads it.
        seeing = [eyes] if eyes and PurePosixPath(eyes.path).parent == PurePosixPath(path).parent else []
        yield Form(ModelFormat.Kind.GGUF, path, quantisation(path), (*parts, *seeing))


def _is_part(name: str, series: re.Match[str]) -> bool:
    found = weights.SHARD.fullmatch(name)
    return found is not None and (found["stem"], found["count"]) == (series["stem"], series["count"])


def _sees(file: File) -> bool:
    return PurePosixPath(file.path).name.startswith(_PROJECTOR)


def quantisation(path: str) -> str:
    """ "model.Q4_K_M.gguf" → "Q4_K_M"; empty where the name does not say."""
    found = _QUANTISATION.findall(PurePosixPath(path).stem)
    return str(found[-1]).upper() if found else ""


# What it lacks, what it says


def _lacking(repository: Repository, names: list[str]) -> str:
    """Why there is nothing in it that an engine here loads; empty when there is."""
    if "adapter_config.json" in names and not _usual(names):
        return "It is an adapter, not a model: attach it to the model it was made for."
    if not forms(repository):
        return "It has no weights as safetensors or GGUF, which engines here load."
    return kinds.why_none(configuration(repository))


def _configurations(repository: Repository) -> Iterator[tuple[str, Any]]:
    """What its configuration files say; of a gated one, what the Hub tells of them."""
    yield "config.json", dict(repository.config)
    for name, text in repository.texts.items():
        if name.endswith(".jinja"):
            yield name, text
        elif name.endswith(".json"):
            yield name, _sound(name, text)


def _sound(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise safety.Refused(f"{name} is no sound JSON.") from problem


def _json(text: str) -> Any:
    """What a describing file says; nothing where it is missing or broken: `judge` says so."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Facts:
    """What its configuration says of its weights, before they are here."""

    architecture: str
    context_length: int | None
    shape: dict[str, Any]


def facts(repository: Repository) -> Facts:
    """From config.json, or what the Hub read out of a GGUF file."""
    architecture, context, shape = weights.described(configuration(repository))
    told = repository.gguf.get("context_length")
    known = told if isinstance(told, int) and 0 < told < 2**31 else None
    return Facts(architecture or str(repository.gguf.get("architecture", "")), context or known, shape)


def usual(found: list[Form]) -> Form:
    """The one to take where nobody chose: safetensors, else the GGUF that most people take."""
    order = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "Q8_0")
    by_type = {form.dtype: form for form in reversed(found)}
    whole = [form for form in found if form.kind == ModelFormat.Kind.SAFETENSORS]
    named = [by_type[name] for name in order if name in by_type]
    return [*whole, *named, *found][0]
