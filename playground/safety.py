"""Which files may be loaded as a model: by their names and by what their configurations ask a library to do.

Safetensors and GGUF only, and no code but a commit's own once an administrator allowed it. The same rules
judge files on a disk, an upload, a bucket, and a Hub repository of which only the small files were read.
Knows nothing about rows, disks or networks; headers of weights are `weights`, templates `chat_templates`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from playground import chat_templates

# Formats that unpickle, or run what they hold, when a library loads them.
PICKLES = {
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".h5", ".hdf5", ".keras"),
    *(".npy", ".npz", ".mar", ".nemo", ".pdparams", ".pdiparams", ".pdmodel"),
}
CODE = {".py"}
# Programs that no permission covers: they are not what an administrator can read.
PROGRAMS = {
    *(".pyc", ".pyd", ".so", ".sh", ".dll", ".dylib", ".exe", ".ipynb", ".jar", ".whl", ".egg", ".pth2"),
    *(".llamafile", ".bat", ".ps1"),
}
# What a model needs. A repository's other files (pickles beside safetensors, pictures, ONNX) stay there.
NEEDED = {
    *(".safetensors", ".gguf", ".json", ".jsonl", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".bpe"),
    *(".vocab", ".md"),
}
NEEDED_NAMES = {"license", "licence", "notice"}
WEIGHTS = {".safetensors", ".gguf"}
MAX_FILES = 2_000
MAX_NAME = 200

# Keys that make a library load Python code of the model's own, each with what is wrong with it.
OWN_CODE = {
    "auto_map": "names Python code to load (auto_map)",
    "trust_remote_code": "asks for remote code to be trusted",
    "custom_generate": "names Python code to generate with",
    "custom_pipelines": "names Python code to run as a pipeline",
}
# Keys that fetch or run what lies in no commit of this model: nobody can allow them.
FOREIGN = {
    "_attn_implementation_internal": "names code to compute attention with",
    "_experts_implementation_internal": "names code to compute experts with",
    "kernel_config": "names compiled kernels to fetch",
    "kernel_mapping": "names compiled kernels to fetch",
    "use_kernels": "asks for compiled kernels to be fetched",
    "allow_all_kernels": "asks for compiled kernels of anybody to be run",
}
# A value with a slash names a repository whose kernel is downloaded and run.
KERNELS = re.compile(r"_?(attn|attention|experts|flash)_implementations?|_compatible_flash_implementations")
# A value with a dot is imported as a Python object; only these packages hold what such a value may name.
IMPORTED = {
    "activation_fn": ("torch.nn.",),
    "activation_function": ("torch.nn.",),
    "sbert_ce_default_activation_function": ("torch.nn.",),
    "tokenizer_class": ("sentence_transformers.",),
    "processor_class": (),
    "image_processor_type": (),
    "video_processor_type": (),
    "feature_extractor_type": (),
    "quant_method": (),
    "megatron_core": ("megatron.",),
    "parent_library": ("transformers.", "peft.", "diffusers."),
}
# Values that name a file of the model.
PATHS = {"transformers_weights"}


@dataclass(frozen=True)
class Judgement:
    """What was found.

    `refused` is empty where nothing stands against loading it. `code`: its own code is all that does, and an
    administrator may allow exactly this commit. `left_out` are the files a download does without.
    """

    refused: str
    code: bool
    code_files: tuple[str, ...]
    left_out: tuple[str, ...]


class Refused(Exception):
    """These files may not be loaded; the text says why, `judgement` more where a whole model was judged."""

    def __init__(self, why: str, judgement: Judgement | None = None) -> None:
        super().__init__(why)
        self.judgement = judgement


@dataclass(frozen=True)
class _Finding:
    why: str
    allowable: bool = False


def judge_listing(
    names: Iterable[str], configs: Mapping[str, Any], *, allowed: bool = False, on_disk: bool = False
) -> Judgement:
    """Judge a model by the names of its files and the contents of its configurations.

    `configs`: by name, parsed JSON of *.json and the text of *.jinja. `allowed`: its own code was allowed.
    `on_disk`: files that already lie where an engine would find them, so that none can be left out.
    """
    held = list(names)
    findings = [*_of_names(held, on_disk)]
    for name, content in configs.items():
        findings += (
            _of_template(name, content) if name.endswith(".jinja") else _of_config(name, content, held)
        )
    against = [one for one in findings if not (allowed and one.allowable)]
    fatal = [one for one in against if not one.allowable]
    return Judgement(
        refused=(fatal or against)[0].why if against else "",
        code=bool(against) and not fatal,
        code_files=tuple(name for name in held if _suffix(name) in CODE),
        left_out=tuple(name for name in held if not needed(name, code=allowed)),
    )


def needed(name: str, *, code: bool = False) -> bool:
    """Whether a model is loaded with this file of its repository."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return False
    if _suffix(name) in CODE:
        return code
    return _suffix(name) in NEEDED or path.stem.lower() in NEEDED_NAMES


def is_config(name: str) -> bool:
    """Whether `judge_listing` wants to read this file: JSON that a library may obey, and templates."""
    path = PurePosixPath(name)
    large = path.name in ("tokenizer.json", "vocab.json", "added_tokens.json")
    return path.suffix == ".jinja" or (path.suffix == ".json" and not large)


def why_not(name: str) -> str:
    """Why a file is not `needed`, as the end of a sentence."""
    if _suffix(name) in PICKLES:
        return "its format can run code when it is loaded; weights come as .safetensors or .gguf."
    if _suffix(name) in CODE | PROGRAMS:
        return "code is not taken."
    return "a model's files are .safetensors or .gguf, and the .json, .jinja, .txt and .model files beside."


def refuse_path(name: str) -> None:
    """Refused unless `name` is a plain relative path of a file: of a listing, an upload or an index."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "\\" in name or ":" in name:
        raise Refused(f"{name[:80]!r} is no name for a file.")
    parts = name.split("/")
    if any(len(part.encode()) > MAX_NAME for part in parts):
        raise Refused(f"{name[:80]!r} is too long for a file's name.")
    if any(part in ("", ".", "..") or part != part.strip() for part in parts):
        raise Refused(f"{name[:80]!r} leads out of the model's folder.")


def folders_too(names: Iterable[str]) -> list[str]:
    """Those of the names that others take for a folder: a disk cannot hold both."""
    held = set(names)
    above = {str(folder) for name in held for folder in PurePosixPath(name).parents}
    return sorted(held & above)


def check_template(name: str, template: str) -> None:
    """Refused when a chat template does what no template needs to do."""
    try:
        chat_templates.check(template)
    except chat_templates.Hostile as problem:
        raise Refused(f"{name}: {problem}") from problem


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


# Names


def _of_names(held: list[str], on_disk: bool) -> Iterator[_Finding]:
    if len(held) > MAX_FILES:
        yield _Finding(f"It has more than {MAX_FILES} files.")
        return
    if both := folders_too(held):
        yield _Finding(f"{both[0][:80]} is a file and a folder.")
    weights = any(_suffix(name) in WEIGHTS for name in held)
    for name in held:
        try:
            refuse_path(name)
        except Refused as problem:
            yield _Finding(str(problem))
            continue
        short, suffix = PurePosixPath(name).name, _suffix(name)
        if suffix in PICKLES and (on_disk or not weights):
            yield _Finding(f"{short} is a format that can run code when it is loaded; safetensors only.")
        elif suffix in CODE:
            yield _Finding(f"{short} is code; a model with code of its own is not loaded.", allowable=True)
        elif suffix in PROGRAMS and on_disk:
            yield _Finding(f"{short} is code; a model with code of its own is not loaded.")


# Configurations


def _of_config(name: str, content: Any, held: list[str]) -> Iterator[_Finding]:
    short = PurePosixPath(name)
    if short.name == "modules.json":
        yield from _of_modules(name, content, held)
    if short.name.endswith(".index.json") and isinstance(content, dict):
        yield from _of_index(name, content, held)
    if short.name == "adapter_config.json" and str(short.with_name("config.json")) in held:
        yield _Finding(f"{name} puts another repository's weights in the place of these.")
    yield from _of_keys(name, content)


def _of_keys(name: str, content: Any) -> Iterator[_Finding]:
    """Look at every key however deep: libraries read them from nested configurations as well."""
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            for key, value in one.items():
                yield from _of_key(name, str(key), value)
                waiting.append(value)


def _of_key(name: str, key: str, value: Any) -> Iterator[_Finding]:
    if key in OWN_CODE and value:
        yield _own_code(name, key, value)
    elif key in FOREIGN and value:
        yield _Finding(f"{name} {FOREIGN[key]}.")
    elif KERNELS.fullmatch(key):
        for text in _texts(value):
            if "/" in text:
                yield _Finding(f"{name} names a repository with code for attention ({text[:80]}).")
    elif key in IMPORTED:
        for text in _texts(value):
            if ("." in text or "/" in text or "--" in text) and not text.startswith(IMPORTED[key]):
                yield _Finding(f"{name} names Python to import as its {key} ({text[:80]}).")
    elif key == "chat_template":
        for text in _texts(value):
            yield from _of_template(name, text)
    elif key in PATHS:
        for text in _texts(value):
            yield from _of_path(name, text)


def _own_code(name: str, key: str, value: Any) -> _Finding:
    """Code of the same commit may be allowed; "other/repository--module.Class" is no part of it."""
    foreign = [text for text in _texts(value) if "--" in text or "/" in text]
    if foreign:
        return _Finding(f"{name} {OWN_CODE[key]}, of another repository ({foreign[0][:80]}).")
    return _Finding(f"{name} {OWN_CODE[key]}.", allowable=True)


def _of_modules(name: str, content: Any, held: list[str]) -> Iterator[_Finding]:
    """The steps of an embedding model: each names a class to import and a folder to read."""
    steps = content if isinstance(content, list) else []
    for step in (one for one in steps if isinstance(one, dict)):
        kind, where = (str(step.get(key) or "") for key in ("type", "path"))
        if not kind.startswith("sentence_transformers."):
            own = f"{kind.split('.')[0]}.py" in held
            yield _Finding(f"{name} names Python code to load ({kind[:80]}).", allowable=own)
        if where:
            yield from _of_path(name, where)


def _of_index(name: str, content: Mapping[str, Any], held: list[str]) -> Iterator[_Finding]:
    """An index names the file of each tensor: each a plain name, and of a safetensors index each there."""
    files = content.get("weight_map")
    folder = PurePosixPath(name).parent
    for file in sorted({str(one) for one in files.values()}) if isinstance(files, dict) else []:
        try:
            refuse_path(file)
        except Refused as problem:
            yield _Finding(f"{name} names files outside: {problem}")
            continue
        if name.endswith(".safetensors.index.json") and (
            not file.endswith(".safetensors") or str(folder / file) not in held
        ):
            yield _Finding(f"{name} names {file[:80]}, which is not there.")


def _of_path(name: str, value: str) -> Iterator[_Finding]:
    try:
        refuse_path(value)
    except Refused as problem:
        yield _Finding(f"{name} names files outside: {problem}")


def _of_template(name: str, template: Any) -> Iterator[_Finding]:
    try:
        check_template(name, str(template))
    except Refused as problem:
        yield _Finding(str(problem))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one.values())
