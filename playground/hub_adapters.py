"""LoRA adapters of the Hub for a model: added at one commit, judged by their listing, fetched by a job.

What is stored names the commit, never a branch. The weights themselves are judged once they are here, by
`adapters`, as those of a folder are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from playground import adapters, downloads, hub, lora, safety, weights
from playground.adapters import AdapterRefused
from playground.hub import File, HubError, Repository
from playground.models import Adapter, Model, ModelFormat, User

WEIGHTS = "adapter_model.safetensors"
# Much larger ones are whole models, whatever they call themselves.
MOST_BYTES = 40 << 30


def add(model: Model, asked: str, name: str, user: User | None) -> Adapter:
    """Take "org/name", "org/name@revision" or "org/name:file.gguf" for `model`.

    AdapterRefused with the reason where it is none, or may not be loaded; HubError becomes one.
    """
    where, _, file = asked.strip().partition(":") if "://" not in asked else (asked.strip(), "", "")
    try:
        repository = hub.repository(*hub.split(where))
    except HubError as problem:
        raise AdapterRefused(str(problem)) from problem
    kind, files = _chosen(repository, file)
    rank = _judged(repository, files) if kind == ModelFormat.Kind.SAFETENSORS else None
    if sum(one.size for one in files) > MOST_BYTES:
        raise AdapterRefused(f"{repository.repo} is larger than any adapter.")
    row = Adapter(
        team=model.team,
        created_by=user,
        model=model,
        name=adapters.checked_name(model, name or _name(repository, file)),
        source=repository.source[:300],
        kind=kind,
        path=_path(repository, kind, files),
        size_bytes=sum(one.size for one in files if one.path.endswith((".safetensors", ".gguf"))),
        rank=rank,
        files=[one.as_row() for one in files],
    )
    return adapters.keep(row, user)


def _chosen(repository: Repository, file: str) -> tuple[str, list[File]]:
    """The form and the files that are worth having."""
    held = {one.path: one for one in repository.files}
    ggufs = [path for path in held if path.endswith(".gguf")]
    if file:
        if file not in ggufs:
            raise AdapterRefused(f"{repository.repo} has no {file[:80]}. It has: {', '.join(ggufs)[:300]}.")
        return ModelFormat.Kind.GGUF, [held[file]]
    if lora.CONFIG in held:
        if WEIGHTS not in held:
            raise AdapterRefused(_pickled(held) or f"{repository.repo} has no {WEIGHTS}.")
        return ModelFormat.Kind.SAFETENSORS, [held[lora.CONFIG], held[WEIGHTS]]
    if len(ggufs) == 1:
        return ModelFormat.Kind.GGUF, [held[ggufs[0]]]
    if ggufs:
        raise AdapterRefused(f"Which file? Write {repository.repo}:{ggufs[0]}, or another of its GGUF files.")
    raise AdapterRefused(f"{repository.repo} has no {lora.CONFIG} and no GGUF file: it is no adapter.")


def _pickled(names: dict[str, File]) -> str:
    pickles = [name for name in names if PurePosixPath(name).suffix.lower() in safety.PICKLES]
    return f"Its weights are pickled ({pickles[0]}): loading them can run code." if pickles else ""


def _judged(repository: Repository, files: list[File]) -> int | None:
    """The rank by its configuration; None of a gated one, whose configuration is not told."""
    text = repository.texts.get(lora.CONFIG, "")
    if not text:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise AdapterRefused(f"{lora.CONFIG} is no sound JSON.") from problem
    judgement = safety.judge_listing([one.path for one in files], {lora.CONFIG: config})
    if judgement.refused:
        raise AdapterRefused(judgement.refused)
    try:
        return lora.configured_rank(config)
    except weights.Refused as problem:
        raise AdapterRefused(str(problem)) from problem


def _name(repository: Repository, file: str) -> str:
    stem = PurePosixPath(file).stem or repository.repo.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:100] or "adapter"


def _path(repository: Repository, kind: str, files: list[File]) -> str:
    """Where it will lie, relative to the models folder."""
    folder = downloads.place(repository.repo, repository.commit)
    return f"{folder}/adapter" if kind == ModelFormat.Kind.SAFETENSORS else f"{folder}/gguf/{files[0].path}"


def found(model: Model) -> Iterator[dict[str, Any]]:
    """What the Hub says was made for this model: {"repo", "downloads", "likes"}, by use. HubError."""
    repo = str(model.origin.get("repo", ""))
    if not repo:
        return
    for one in hub.search(hub.Wish(tags=(f"base_model:adapter:{repo}",)), 20):
        yield {"repo": one.repo, "downloads": one.downloads, "likes": one.likes}
