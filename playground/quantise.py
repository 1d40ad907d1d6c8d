"""Quantising a model into a new one of the team's own: asking for it, and the job that makes it.

The parent stays as it is. What is made gathers beside the models, is judged as any model that comes here,
and is seen by nobody before it is whole. Which ways there are is for `ways`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db.models import QuerySet

from playground import (
    catalogue,
    disk,
    downloads,
    environments,
    events,
    frame,
    holdings,
    jobs,
    kinds,
    landing,
    mixtures,
    tools,
    ways,
)
from playground.engines.base import LAUNCHERS, Requirements
from playground.jobs import Act, JobFailed, Work
from playground.mixtures import MIXTURES
from playground.models import Job, Model, ModelFormat, Node, Team, Upload, User
from playground.ways import Way

COMPRESSOR_VERSION = "0.14.0.1"
COMPRESSOR = Requirements(
    python=("3.12", "3.11", "3.13", "3.10"), packages=(f"llmcompressor=={COMPRESSOR_VERSION}",)
)
# Of main memory, for each byte of the weights: they are loaded, and held once more while they are written.
MEMORY = 1.6


class QuantiseRefused(Exception):
    """It may not be made so; `fields` say why, by the field of the form."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


# Asking


def request(model: Model, method: str, name: str, user: User | None) -> Job:
    """The job that makes a new model of `model`; the same one when that is being made already.

    QuantiseRefused when it cannot be made, or not under that name.
    """
    way = ways.find(model, method)
    if way is None:
        raise QuantiseRefused({"method": f"{method[:40] or 'Nothing'} is no way to quantise it here."})
    if way.why_not:
        raise QuantiseRefused({"method": way.why_not})
    same = [job for job in active(model) if job.arguments["method"] == method]
    if same and name in ("", same[0].arguments["name"]):
        return same[0]
    name = name or _name(model, way)
    _check(model.team, name, way)
    return _ask(model, way, name, user)


def active(model: Model) -> list[Job]:
    """The jobs that make new models of it now."""
    return list(_jobs(model).filter(state__in=Job.ACTIVE).order_by("pk"))


def failed(model: Model) -> list[Job]:
    """Those that failed, unless the same was made or asked for again since."""
    newest: dict[str, Job] = {job.arguments["method"]: job for job in _jobs(model).order_by("pk")}
    return [job for job in newest.values() if job.state == Job.State.FAILED]


def _jobs(model: Model) -> QuerySet[Job]:
    return Job.objects.filter(kind=Job.Kind.QUANTISE_MODEL, arguments__model=model.pk)


def made(model: Model) -> list[Model]:
    """The models made from it that are in the catalogue."""
    return list(model.children.filter(missing=False).order_by("name"))


def _name(model: Model, way: Way) -> str:
    """What it is called where nobody chose: after the parent and the method."""
    for child in made(model):
        if child.origin.get("method") == way.method:
            raise QuantiseRefused({"name": f"{child.name} is that already: give another one a name."})
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name.rpartition("/")[2]).strip("-._")[:60] or "model"
    first = f"{stem}-{way.method}"
    names = [first, *(f"{first}-{number}" for number in range(2, 10))]
    return next((name for name in names if _is_free(name)), first)


def _is_free(name: str) -> bool:
    """Other teams' models lie in the same folder: their names are passed over without a word."""
    try:
        landing.check_name(name)
    except landing.LandingRefused:
        return False
    return True


def _check(team: Team, name: str, way: Way) -> None:
    try:
        landing.check_name(name)
    except landing.LandingRefused as problem:
        raise QuantiseRefused({"name": str(problem)}) from problem
    if Upload.objects.filter(team=team, name=name).exists():
        raise QuantiseRefused({"name": f"{name} is being uploaded: choose another name."})
    try:
        landing.check_room(team, way.size_bytes or 0)
    except (landing.LandingRefused, disk.DiskFull) as problem:
        raise QuantiseRefused({"method": str(problem)}) from problem


def _ask(model: Model, way: Way, name: str, user: User | None) -> Job:
    arguments = {"model": model.pk, "format": way.form.pk, "method": way.method, "name": name}
    goal = landing.target(model.team_id, name)
    act = Act("quantise model", f"model:{model.pk}", name, {"method": way.method})
    job = jobs.request(Job.Kind.QUANTISE_MODEL, _node(way.form), goal, arguments, model.team, user, act=act)
    if job.arguments != arguments:
        raise QuantiseRefused({"name": f"{name} is on its way already: choose another name."})
    events.notify(model.team_id, "models")
    return job


def _node(form: ModelFormat) -> Node:
    """Where it is made: a node that has the weights, this one first; else this one, if they can come."""
    live = frame.live_nodes()
    here = [node for node in live if holdings.lies_on(form, node)]
    local = Node.objects.filter(name=settings.NODE_NAME).first()
    if local in here or (local and (form.recipe or not here)):
        return local
    if not here:
        raise QuantiseRefused({"method": "No worker runs on this machine, where it would be made."})
    return here[0]


# The job


def run(work: Work) -> dict[str, Any]:
    """Job: make the new model and land it. An attempt that is stopped or fails leaves nothing behind."""
    given, team = work.job.arguments, work.job.team
    name = given["name"]
    try:
        if not landing.has_landed(team, name):
            _make(work, given)
        model = landing.land(work, team, name, {"how": "quantised"})
    finally:
        landing.clear(team.pk, name)
    _settle(model, given)
    events.notify(team.pk, "models")
    return {"model": model.pk}


def clear(job: Job) -> None:
    """What a job left whose runner died for good."""
    landing.clear(job.team_id, job.arguments["name"])


def _make(work: Work, given: Mapping[str, Any]) -> None:
    """Bring the parent's weights here if they are not, and make the new ones of them."""
    form = ModelFormat.objects.select_related("model").filter(pk=given["format"]).first()
    if form is None or form.model.missing:
        raise JobFailed("The model that it was to be made from is gone.")
    path = catalogue.root() / form.path
    if not path.exists():
        _bring(work, form)
    way = ways.find(form.model, given["method"])
    if way is None or way.why_not:
        raise JobFailed(way.why_not if way else f"It is not quantised to {given['method']} here.")
    folder = landing.folder(work.job.team_id, given["name"])
    shutil.rmtree(folder, ignore_errors=True)
    try:
        landing.check_room(work.job.team, way.size_bytes or 0)
    except (landing.LandingRefused, disk.DiskFull) as problem:
        raise JobFailed(str(problem)) from problem
    folder.mkdir(parents=True, mode=0o700)
    _MAKERS[way.tool](work, way, path, folder)


def _bring(work: Work, form: ModelFormat) -> None:
    """The same job that a start would wait for, done as a part of this one."""
    bring = {
        Job.Kind.FETCH_MODEL: catalogue.fetch,
        Job.Kind.CONVERT_MODEL: catalogue.convert,
        Job.Kind.DOWNLOAD_MODEL: downloads.download,
    }.get(Job.Kind(form.recipe.get("job", Job.Kind.FETCH_MODEL)), catalogue.fetch)
    bring(work)


def _mixture(work: Work, way: Way, path: Path, folder: Path) -> None:
    """A GGUF file of other types, by llama.cpp's own code."""
    mixture = MIXTURES[way.method]
    planned = mixtures.plan(ways.read_header(path), mixture)
    environment = environments.provide(work, "llama.cpp", environments.build_of(work.job.node))
    plan = folder / ".plan.json"
    threads = len(os.sched_getaffinity(0))
    plan.write_text(json.dumps({"types": planned, "file_type": mixture.number, "threads": threads}))
    out = folder / f"{work.job.arguments['name']}.gguf"
    work.progress("quantising", 0, path.stat().st_size, "bytes")
    command = [environments.path(environment) / "bin" / "python", "-u", LAUNCHERS / "quantise_gguf.py"]
    work.call([str(part) for part in (*command, path, out, plan)], on_line=_heard(work))
    if projector := kinds.projector(path):
        work.progress("copying what lets it see")
        shutil.copyfile(projector, folder / projector.name)


def _scheme(work: Work, way: Way, path: Path, folder: Path) -> None:
    """A folder of safetensors by llm-compressor, on the processor: the GPUs are the replicas'."""
    needed, free = int((way.form.size_bytes or 0) * MEMORY), psutil.virtual_memory().available
    if needed > free:
        raise JobFailed(
            f"It takes {needed / 1e9:,.1f} GB of main memory, and {free / 1e9:,.1f} are free on "
            f"{work.job.node.name}: stop something there first."
        )
    tool = tools.provide(work, "llmcompressor", COMPRESSOR_VERSION, COMPRESSOR)
    plan, out = folder / ".plan.json", folder / ".out"
    plan.write_text(json.dumps({"scheme": way.method}))
    command = [tool / "bin" / "python", "-u", LAUNCHERS / "quantise_safetensors.py", path, out, plan]
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    caches = {"HF_HOME": str(settings.HOME / "cache" / "huggingface")}
    work.call([str(part) for part in command], {**quiet, **caches}, on_line=_heard(work))
    for file in list(out.iterdir()):
        file.rename(folder / file.name)
    out.rmdir()


_MAKERS: Mapping[str, Callable[[Work, Way, Path, Path], None]] = {
    ways.LLAMACPP: _mixture,
    ways.COMPRESSOR: _scheme,
}


def _heard(work: Work) -> Callable[[str], None]:
    """Turns a launcher's lines into progress."""

    def look(line: str) -> None:
        key, _, rest = line.partition(": ")
        if key == "step":
            work.progress(rest)
        elif key == "done":
            done, total = map(int, rest.split())
            work.progress("quantising", done, total, "bytes")

    return look


def _settle(model: Model, given: Mapping[str, Any]) -> None:
    """Write down what it came from, and what its files do not say."""
    parent = Model.objects.filter(pk=given["model"]).first()
    tool = ways.LLAMACPP if given["method"] in MIXTURES else f"llm-compressor {COMPRESSOR_VERSION}"
    values: dict[str, Any] = {"origin": {**model.origin, "method": given["method"], "tool": tool}}
    if parent is not None:
        values |= {"parent": parent, "licence": model.licence or parent.licence}
        values |= {"chat_template": model.chat_template or parent.chat_template}
    Model.objects.filter(pk=model.pk).update(**values)
