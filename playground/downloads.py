"""Downloads: the job that brings a form of a Hub model to this disk, whole and checked, or says why not.

It holds no GPU and no slot; one job a form and node serves every deployment that waits for it. Bytes come
through `fetching`, are hashed before they get their names, and stay when an attempt ends early. The team's
token is read here, in the job's own process, and goes to the Hub alone.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

from playground import catalogue, disk, hub, jobs, safety, secrets, weights
from playground.engines.base import ReasonCode
from playground.fetching import Fetch, FetchFailed, Gated, Origin
from playground.jobs import JobFailed, Work
from playground.models import Job, Model, ModelFormat
from playground.partial import PartialFile, Stopped, WrongHash

LOOK_EVERY_S = 0.25
DOWNLOADING = "downloading"


def download(work: Work) -> dict[str, Any]:
    """Job: bring the files that a form of the Hub names, and take its digest."""
    form = ModelFormat.objects.select_related("model").get(pk=work.job.arguments["format"])
    path = catalogue.root() / form.path
    with alone(work, form):
        digests = bring(work, form.model.source, form.files, folder_of(form))
        return _admit(work, form, path, digests)


def bring(work: Work, source: str, files: Iterable[Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Have these files of a commit ("hub:<repo>@<commit>") lie in `folder`; the SHA-256 of each, by its path.

    JobFailed in words when they do not come; what came stays for the next attempt.
    """
    repo, _, commit = source.removeprefix("hub:").rpartition("@")
    if not hub.COMMIT.fullmatch(commit):
        raise JobFailed(f"{source} names no commit: add the model again.")
    partial = {one["path"]: _partial(folder, one) for one in files}
    try:
        return _fetch(work, Origin(repo, commit, _token(work)), partial, folder)
    except Gated as problem:
        raise JobFailed(str(problem), ReasonCode.GATED) from problem
    except (FetchFailed, WrongHash, disk.DiskFull) as problem:
        raise JobFailed(str(problem)) from problem
    except Stopped:
        work.check()
        raise


def folder_of(form: ModelFormat) -> Path:
    """Where the paths that its files have in their repository begin."""
    path = catalogue.root() / form.path
    if form.kind == ModelFormat.Kind.SAFETENSORS:
        return path
    first = str(form.files[0]["path"]) if form.files else path.name
    return path.parents[first.count("/")]


def place(repo: str, commit: str) -> str:
    """The folder of a commit, relative to the models folder."""
    return f"hub/{repo.replace('/', '--')}@{commit[:12]}"


def _partial(folder: Path, one: Mapping[str, Any]) -> PartialFile:
    try:
        safety.refuse_path(str(one["path"]))
    except safety.Refused as problem:
        raise JobFailed(str(problem)) from problem
    sha256, sha1 = str(one.get("sha256", "")), str(one.get("sha1", ""))
    if not (sha256 or sha1):
        raise JobFailed(f"{one['path']} has no hash to check it by.")
    return PartialFile(folder / str(one["path"]), int(one["size"]), sha256=sha256, sha1=sha1)


def _token(work: Work) -> str:
    try:
        return secrets.reveal(work.job.team, secrets.HUB)
    except secrets.Unreadable as problem:
        raise JobFailed(str(problem)) from problem


def _fetch(work: Work, origin: Origin, files: dict[str, PartialFile], folder: Path) -> dict[str, str]:
    """Follow the fetch until it is over: tell how far it is, mind the disk, end it when asked."""
    if settings.HF_OFFLINE:
        raise JobFailed(hub.SWITCHED_OFF)
    total = sum(file.size for file in files.values())
    disk.brake(folder, total - sum(file.done for file in files.values()) + promised(work))
    with Fetch(origin, files) as fetch:
        work.progress(DOWNLOADING, fetch.done, total, "bytes")
        while not fetch.wait(LOOK_EVERY_S):
            for cut in _drained(fetch):
                work.note(cut)
            if fetch.done < total:
                disk.brake(folder, total - fetch.done)
                work.progress(DOWNLOADING, fetch.done, total, "bytes", fetch.rate)
            else:
                work.progress("checking", fetch.checked, total, "bytes")
        for cut in _drained(fetch):
            work.note(cut)
        return fetch.digests


def promised(work: Work) -> int:
    """Bytes that this node's other downloads have still to write: room that is no longer free."""
    others = Job.objects.filter(
        node=work.job.node, state=Job.State.RUNNING, progress__step=DOWNLOADING, progress__unit="bytes"
    )
    told = others.exclude(pk=work.job.pk).values_list("progress", flat=True)
    return sum(max((one.get("total") or 0) - (one.get("done") or 0), 0) for one in told)


def _drained(fetch: Fetch) -> Iterator[str]:
    while fetch.cuts:
        yield fetch.cuts.popleft()


@contextmanager
def alone(work: Work, *forms: ModelFormat) -> Iterator[None]:
    """The locks on the forms' files: another team's job may bring them, another form's some of them."""
    names = {name for form in forms for name in (form.path, *_weights_of(form))}
    with ExitStack() as stack:
        for name in sorted(names):
            stack.enter_context(_held(work, name))
        yield


def _weights_of(form: ModelFormat) -> Iterator[str]:
    """GGUF files, relative to the models folder: several forms may share what lets them see."""
    folder = folder_of(form).relative_to(catalogue.root())
    for one in form.files:
        if str(one["path"]).endswith(".gguf"):
            yield str(folder / str(one["path"]))


@contextmanager
def _held(work: Work, where: str) -> Iterator[None]:
    while True:
        with jobs.alone(f"files:{where}") as held:
            if held:
                yield
                return
        work.progress("waiting for another download of the same files")
        work.wait(0.5)


def _admit(work: Work, form: ModelFormat, path: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """Judge what came as any model here is judged, and write down what it is. What is refused is deleted."""
    work.progress("checking what it holds")
    model = form.model
    try:
        weights.refuse_links_out(path, catalogue.root())
        found = weights.inspect(path, code=model.code_allowed_at is not None)
    except weights.Refused as problem:
        Model.objects.filter(pk=model.pk).update(refused=str(problem))
        _throw_away(form, path)
        raise JobFailed(str(problem)) from problem
    base = path if path.is_dir() else path.parent
    held = {str(file.relative_to(base)): _name(file, form) for file in weights.files(path)}
    if strange := [name for name in held.values() if name not in digests]:
        raise JobFailed(f"{form.path} holds {strange[0]}, which its commit does not name: remove that file.")
    taken = weights.digest_of({name: digests[whole] for name, whole in held.items()})
    if form.digest and form.digest != taken:
        raise JobFailed(f"{form.path} is not what it is on other nodes: remove it here and start again.")
    catalogue.remember_digest(path, taken)
    ModelFormat.objects.filter(pk=form.pk).update(digest=taken, size_bytes=found.size_bytes)
    catalogue.learn(model, found)
    return {"format": form.pk, "digest": taken}


def _throw_away(form: ModelFormat, path: Path) -> None:
    if path.is_dir():
        return shutil.rmtree(path, ignore_errors=True)
    for one in form.files:
        (folder_of(form) / str(one["path"])).unlink(missing_ok=True)
    return None


def _name(file: Path, form: ModelFormat) -> str:
    """The path that a file of a form has in its repository."""
    return str(file.relative_to(folder_of(form)))
