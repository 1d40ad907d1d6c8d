"""Removing a model: what uses it, who holds it, its files gone from each, its row when nothing needs it.

What runs, or is released, keeps its model. Everything else may lose it: a stopped deployment says that its
files are gone, and a Hub model added again at the same commit gives them back.
"""

import glob
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError

from playground import access, catalogue, downloads, events, external, jobs, weights
from playground.jobs import JobFailed, Work
from playground.models import Column, Deployment, Job, Model, ModelFormat, Node, Replica, User

WHEEL, LOCAL = "wheel:", "local:"


class RemoveRefused(Exception):
    """It is in use; the text says by what."""


@dataclass(frozen=True)
class Use:
    """Something that uses a model. `keeps`: it may not be removed before that ends."""

    what: str
    name: str
    keeps: bool = False


@dataclass(frozen=True)
class Held:
    """What a node has of a model's files; bytes."""

    node: Node
    size_bytes: int


def uses(model: Model) -> list[Use]:
    """Everything that would miss it, what keeps it first."""
    rows = Deployment.objects.filter(model=model).exclude(desired=Deployment.Desired.DELETED)
    found = [_use(row) for row in rows.order_by("name")]
    found += [Use("adapter", row.name) for row in model.adapters.order_by("name")]
    found += [Use("model made from it", row.name) for row in model.children.filter(missing=False)]
    made = Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL, arguments__model=model.pk, state__in=Job.ACTIVE)
    found += [Use("model being made from it", job.arguments["name"], keeps=True) for job in made]
    talks = Column.objects.filter(deployment__model=model).values("conversation").distinct().count()
    found += [Use("conversations", f"{talks}, whose answers stay")] if talks else []
    return sorted(found, key=lambda use: not use.keeps)


def _use(row: Deployment) -> Use:
    alive = row.replicas.exclude(state__in=Replica.TERMINAL).exists()
    if row.released:
        return Use("released deployment", row.name, keeps=True)
    if alive or row.desired == Deployment.Desired.RUNNING:
        return Use("running deployment", row.name, keeps=True)
    return Use("stopped deployment", row.name)


def holders(model: Model) -> list[Held]:
    """The nodes that have files of it: this one by its disk, others by what they last said."""
    found = []
    for node in Node.objects.order_by("name"):
        here = node.name == settings.NODE_NAME
        size = _size_here(model) if here else _size_there(model, node)
        if size:
            found.append(Held(node, size))
    return found


def request(model: Model, user: User | None) -> list[Job]:
    """Take it out of the catalogue, and its files from every node that has some: the jobs that do so."""
    with transaction.atomic():
        _refuse(Model.objects.select_for_update().get(pk=model.pk))
        if not model.source.startswith(WHEEL):
            Model.objects.filter(pk=model.pk).update(missing=True)
        external.forget_key(model, user)
        access.audit(user, model.team, "remove model", f"model:{model.pk}", source=model.source)
        asked = [_ask(model, held.node, user) for held in holders(model)]
    for job in _downloads(model):
        jobs.cancel(job, user)
    if not asked:
        forget(model)
    events.notify(model.team_id, "models")
    return asked


def discard(work: Work) -> dict[str, Any]:
    """Job: delete a model's files from this disk."""
    model = Model.objects.filter(pk=work.job.arguments["model"]).first()
    if model is None:
        return {"freed_bytes": 0}
    try:
        _refuse(model)
    except RemoveRefused as problem:
        Model.objects.filter(pk=model.pk).update(missing=False)
        raise JobFailed(str(problem)) from problem
    work.progress("removing")
    with downloads.alone(work, *model.formats.all()):
        freed = sum(_delete(path) for path in list(_paths(model)))
    for form in model.formats.all():
        catalogue.forget_digest(catalogue.root() / form.path)
    if not model.source.startswith(WHEEL):
        Model.objects.filter(pk=model.pk).update(missing=True)
    forget(model, besides=work.job)
    events.notify(model.team_id, "models")
    return {"freed_bytes": freed}


def forget(model: Model, besides: Job | None = None) -> bool:
    """Delete the row of a model that left the catalogue, unless a node still has to, or history names it."""
    waiting = Job.objects.filter(target=_target(model), state__in=Job.ACTIVE)
    if (waiting.exclude(pk=besides.pk) if besides else waiting).exists():
        return False
    try:
        gone, _ = Model.objects.filter(pk=model.pk, missing=True).delete()
    except ProtectedError:
        return False  # Configurations name it for ever.
    return bool(gone)


def _refuse(model: Model) -> None:
    keeping = [f"{use.what} {use.name}" for use in uses(model) if use.keeps]
    if keeping:
        raise RemoveRefused(f"It is in use by the {', the '.join(keeping)}: stop or delete that first.")
    if model.source.startswith(LOCAL) and _runs_elsewhere(model):
        raise RemoveRefused("Another team runs it from the same files.")


def _runs_elsewhere(model: Model) -> bool:
    """Whether another team, whose models folder is the same, has it running."""
    twins = Model.objects.filter(source=model.source).exclude(pk=model.pk)
    return any(use.keeps for twin in twins for use in uses(twin))


def _target(model: Model) -> str:
    return f"model:{model.pk}"


def _ask(model: Model, node: Node, user: User | None) -> Job:
    return jobs.request(Job.Kind.REMOVE_MODEL, node, _target(model), {"model": model.pk}, model.team, user)


def _downloads(model: Model) -> list[Job]:
    """Jobs that make its forms now."""
    targets = [f"format:{pk}" for pk in model.formats.values_list("pk", flat=True)]
    return list(Job.objects.filter(target__in=targets, state__in=Job.ACTIVE))


# Files


def _paths(model: Model) -> Iterator[Path]:
    """Everything on this disk that is the model's alone, what is on its way included."""
    if model.is_elsewhere:
        return
    if model.source.startswith(LOCAL):
        yield from _own(catalogue.root() / model.source.removeprefix(LOCAL))
        return
    for form in model.formats.all():
        if not _shared(form):
            yield from _parts(form)


def _own(path: Path) -> Iterator[Path]:
    """A model of the folder: its own folder, or a .gguf file with the other parts of its series."""
    if path.is_dir() or path.is_symlink():
        yield path
    elif path.exists():
        yield from weights.files(path)


def _parts(form: ModelFormat) -> Iterator[Path]:
    """A form's folder, or its files; of each also what has not got its name yet."""
    path = catalogue.root() / form.path
    if form.kind == ModelFormat.Kind.SAFETENSORS or not form.files:
        yield path
        return
    folder, kept = downloads.folder_of(form), _named_by_others(form)
    for one in form.files:
        if str(one["path"]) in kept:
            continue
        whole = folder / str(one["path"])
        yield whole
        yield from whole.parent.glob(f".{glob.escape(whole.name)}.part*")


def _shared(form: ModelFormat) -> bool:
    """Whether a model of another team lies in the same files."""
    others = ModelFormat.objects.filter(path=form.path, model__missing=False)
    return others.exclude(model=form.model_id).exists()


def _named_by_others(form: ModelFormat) -> set[str]:
    """Files of the same commit that another team's model needs: what lets several quantisations see."""
    others = ModelFormat.objects.filter(model__source=form.model.source, model__missing=False)
    lists = others.exclude(model=form.model_id).exclude(path=form.path).values_list("files", flat=True)
    return {str(one["path"]) for files in lists for one in files}


def _size_here(model: Model) -> int:
    return sum(_size(path) for path in _paths(model))


def _size(path: Path) -> int:
    """What it takes on the disk: a file on its way has its full length from the start."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_blocks * 512 for file in files if file.is_file())


def _size_there(model: Model, node: Node) -> int:
    held = set(node.inventory.get("formats") or [])
    return sum(form.size_bytes or 0 for form in model.formats.all() if form.digest and form.digest in held)


def _delete(path: Path) -> int:
    """Delete it, and the folders above that are empty then; the bytes that came free."""
    freed = _size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == catalogue.root() or not folder.is_dir() or any(folder.iterdir()):
            break
        folder.rmdir()
    return freed
