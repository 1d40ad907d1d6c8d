"""LoRA adapters of a team's models: which there are, which fit, and making one ready on a node.

An adapter lies below SLIPWAY_HOME/models as a model's forms do, and is named by the digest of its files. What
its files must be is `lora`'s. Attached to a deployment, it is served under its own name next to the model.
"""

import dataclasses
import glob
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from playground import access, catalogue, downloads, engines, environments, jobs, lora, teams, weights
from playground.engines.base import Engine, LocalAdapter, LocalModel, Verdict
from playground.jobs import JobFailed, Work
from playground.models import Adapter, Configuration, Deployment, Job, Model, ModelFormat, Node, Team, User

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
DEPTH = 3
MOST = 16


class AdapterRefused(Exception):
    """It may not be added, attached or removed so; the text says why."""


@dataclass(frozen=True)
class Found:
    """An adapter that lies in the models folder and belongs to no model yet."""

    path: str
    facts: lora.Lora | None = None
    refused: str = ""

    @property
    def name(self) -> str:
        """What it could be called."""
        stem = Path(self.path).name.removesuffix(".gguf")
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:100] or "adapter"


# What there is


def found(team: Team) -> list[Found]:
    """Adapters below the models folder that no model of the team has yet."""
    taken = set(Adapter.objects.filter(team=team).values_list("path", flat=True))
    root = catalogue.root()
    # Below `hub` lies what teams added from there; it is no find.
    places = [path for path in _below(root) if path.relative_to(root).parts[0] != "hub"]
    paths = [path for path in places if str(path.relative_to(root)) not in taken]
    return [_look(path) for path in paths]


def _below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if lora.is_adapter(entry):
            yield entry
        elif entry.is_dir() and depth > 1:
            yield from _below(entry, depth - 1)


def _look(path: Path) -> Found:
    where = str(path.relative_to(catalogue.root()))
    try:
        return Found(where, _inspected(path))
    except (weights.Refused, OSError) as problem:
        return Found(where, refused=str(problem))


def _inspected(path: Path) -> lora.Lora:
    weights.refuse_links_out(path, catalogue.root())
    return lora.inspect(path)


def offers(model: Model, engine: Engine) -> list[tuple[Adapter, Verdict]]:
    """The model's adapters, each with whether that engine attaches it."""
    rows = model.adapters.order_by("name")
    return [(row, Verdict(False, row.refused) if row.refused else engine.attaches(row.kind)) for row in rows]


# Adding and removing


def add(model: Model, where: str, name: str, user: User | None) -> Adapter:
    """Take an adapter from the models folder for `model`; AdapterRefused unless it fits."""
    path = _inside(where)
    try:
        facts = _inspected(path)
        _refuse_misfit(facts, model)
    except (weights.Refused, OSError) as problem:
        raise AdapterRefused(str(problem)) from problem
    row = Adapter(
        team=model.team,
        created_by=user,
        model=model,
        name=checked_name(model, name),
        source=f"local:{where}"[:300],
        kind=facts.kind,
        path=where,
        size_bytes=facts.size_bytes,
        rank=facts.rank,
    )
    return keep(row, user)


def _inside(where: str) -> Path:
    """A path below the models folder that is an adapter."""
    root = catalogue.root()
    path = root / where
    inside = path.resolve().is_relative_to(root.resolve()) and ".." not in Path(where).parts
    if not where or "\0" in where or not inside or not path.exists() or not lora.is_adapter(path):
        raise AdapterRefused(f"{where[:100] or 'Nothing'} is no adapter in the models folder.")
    return path


def _refuse_misfit(facts: lora.Lora, model: Model) -> None:
    """Against the form it goes on, where that lies here; else against what is known of the model."""
    forms = [root_path for form in model.formats.filter(kind=facts.kind) if (root_path := _there(form.path))]
    if forms:
        lora.refuse_misfit(facts, forms[0])
        return
    hidden = model.facts.get("hidden_size")
    widths = {inner for inner, _ in facts.targets.values()}
    if hidden and hidden not in widths:
        said = ", ".join(f"{width:,}" for width in sorted(widths))
        raise weights.Refused(f"It is for a model {said} wide; this one is {hidden:,} wide.")


def _there(where: str) -> Path | None:
    path = catalogue.root() / where
    return path if path.exists() else None


def checked_name(model: Model, name: str) -> str:
    """The name, when requests may give it as a model's; AdapterRefused otherwise."""
    if not NAME.fullmatch(name):
        raise AdapterRefused("A name of letters, digits, - and _ is needed: requests give it as the model.")
    if name == model.name:
        raise AdapterRefused(f"{name} is the model's own name: call the adapter something else.")
    return name


def keep(row: Adapter, user: User | None) -> Adapter:
    """Save a new one; AdapterRefused where its name is taken."""
    try:
        with transaction.atomic():
            row.save()
            access.audit(user, row.team, "add adapter", f"adapter:{row.pk}", model=row.model.name)
    except IntegrityError as problem:
        raise AdapterRefused(f"The team has an adapter called {row.name} already.") from problem
    return row


def remove(row: Adapter, user: User | None) -> None:
    """Forget an adapter. Refused while a deployment wants it.

    What came from the Hub is deleted here unless another team has it, too; files of the folder stay.
    """
    if users := users_of(row):
        raise AdapterRefused(f"It is in use by {', '.join(users)}: delete that first.")
    if Job.objects.filter(target=_goal(row), state__in=Job.ACTIVE).exists():
        raise AdapterRefused("It is being fetched: cancel that first.")
    with transaction.atomic():
        access.audit(user, row.team, "remove adapter", f"adapter:{row.pk}", name=row.name)
        row.delete()
    if row.files and not Adapter.objects.filter(path=row.path).exists():
        _delete(catalogue.root() / row.path)


def _delete(path: Path) -> None:
    """Delete it, and the folders above that are empty then."""
    catalogue.forget_digest(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        for part in path.parent.glob(f".{glob.escape(path.name)}.part*"):
            part.unlink()
    for folder in path.parents:
        if folder == catalogue.root() or not folder.is_dir() or any(folder.iterdir()):
            break
        folder.rmdir()


def users_of(row: Adapter) -> list[str]:
    """Names of the deployments that have it attached, releases' own included."""
    live = Deployment.objects.filter(model=row.model).exclude(desired=Deployment.Desired.DELETED)
    return sorted(one.name for one in live if row.pk in (one.wanted.get("adapters") or []))


# Attaching


def judge(
    model: Model, engine: str, asked: Iterable[Any], options: Mapping[str, Any]
) -> tuple[list[int], str]:
    """The keys of the adapters asked for, by name; and a sentence where they cannot be attached so."""
    wanted = {int(one) for one in asked if str(one).isascii() and str(one).isdigit() and len(str(one)) < 18}
    if not wanted:
        return [], ""
    try:
        known = {row.pk: (row, verdict) for row, verdict in offers(model, engines.get(engine))}
    except engines.UnknownEngine:
        return [], ""
    if wanted - known.keys():
        return [], "One of these adapters is not this model's."
    if len(wanted) > MOST:
        return [], f"At most {MOST} adapters."
    chosen = sorted((known[pk] for pk in wanted), key=lambda one: one[0].name)
    why = next((f"{row.name}: {verdict.why}" for row, verdict in chosen if not verdict.ok), "")
    why = why or next((text for row, _ in chosen if (text := outranks(row, options))), "")
    return [row.pk for row, _ in chosen], why


def outranks(row: Adapter, options: Mapping[str, Any]) -> str:
    """Why it is too large for what the engine is told to set aside; empty when it is not.

    An option called `max_lora_rank` is what says so.
    """
    most = options.get("max_lora_rank")
    if not most or not row.rank or row.rank <= int(most):
        return ""
    return (
        f"{row.name} has rank {row.rank}, and “Largest rank” is set to {most}: raise it, or leave it unset."
    )


def wanted(deployment: Deployment) -> list[Adapter]:
    """The adapters a deployment was asked to have, by name: their places are the same in every start."""
    return list(Adapter.objects.filter(pk__in=deployment.wanted.get("adapters") or []).order_by("name"))


def frozen(rows: Iterable[Adapter]) -> list[dict[str, Any]]:
    """What a configuration says of its adapters."""
    return [{"name": row.name, "digest": row.digest} for row in rows]


def names(configuration: Configuration | None) -> list[str]:
    """The names, besides its own, under which a configuration's model is served."""
    return [str(one["name"]) for one in configuration.adapters] if configuration else []


def served(deployment: Deployment) -> list[str]:
    """The same of a deployment, also before its configuration is settled."""
    if deployment.configuration:
        return names(deployment.configuration)
    return [row.name for row in wanted(deployment)] if deployment.wanted.get("adapters") else []


def of(configuration: Configuration) -> list[Adapter]:
    """The very adapters a configuration names; AdapterRefused where one is not known any more."""
    rows = Adapter.objects.filter(model=configuration.model)
    found = {(row.name, row.digest): row for row in rows}
    try:
        return [found[one["name"], one["digest"]] for one in configuration.adapters]
    except KeyError as problem:
        gone = problem.args[0][0]
        raise AdapterRefused(f"The adapter {gone} is not what it was: add those files again.") from problem


def local(configuration: Configuration) -> tuple[LocalAdapter, ...]:
    """A configuration's adapters as an engine on this node is given them."""
    return tuple(as_local(row) for row in of(configuration))


def on(model: LocalModel, rows: Iterable[Adapter]) -> LocalModel:
    """The model with adapters attached, as a form's preview shows it."""
    return dataclasses.replace(model, adapters=tuple(as_local(row) for row in rows))


def as_local(row: Adapter) -> LocalAdapter:
    """One as an engine on this node is given it."""
    return LocalAdapter(row.name, catalogue.root() / row.path, row.rank)


# Ready on a node


def ensure(
    node: Node,
    row: Adapter,
    *,
    since: datetime | None = None,
    team: Team | None = None,
    user: User | None = None,
) -> Adapter | Job:
    """The adapter, once it lies on the node with its digest known; else the Job that makes it so."""
    if _is_ready(node, row):
        return row
    if failed := jobs.failed_since(node, _goal(row), since):
        return failed
    owner = team or row.team or teams.default_team()
    return jobs.request(Job.Kind.FETCH_ADAPTER, node, _goal(row), {"adapter": row.pk}, owner, user)


def newest_job(row: Adapter) -> Job | None:
    """The job that brought it or brings it, on whatever node."""
    return Job.objects.filter(target=_goal(row)).order_by("-pk").first()


def _goal(row: Adapter) -> str:
    return f"adapter:{row.pk}"


def _is_ready(node: Node, row: Adapter) -> bool:
    if node.name != settings.NODE_NAME:
        return bool(row.digest) and row.digest in node.inventory.get("formats", [])
    path = catalogue.root() / row.path
    if not path.exists():
        return False
    taken = catalogue.digest_known(path)
    return bool(taken) and taken == row.digest


def fetch(work: Work) -> dict[str, Any]:
    """Job: have the adapter lie here, check it once more, take its digest and write it down."""
    row = Adapter.objects.select_related("model").filter(pk=work.job.arguments["adapter"]).first()
    if row is None:
        raise JobFailed("The adapter was removed.")
    path = catalogue.root() / row.path
    with environments.turn(work, f"files:{row.path}"):
        if not all((_folder(row) / str(one["path"])).exists() for one in row.files):
            downloads.bring(work, row.source, row.files, _folder(row))
        if not path.exists():
            raise JobFailed(f"{row.path} is not in the models folder of {work.job.node.name}: copy it there.")
        return _admit(work, row, path)


def _folder(row: Adapter) -> Path:
    """Where the paths that its files have in their repository begin."""
    path = catalogue.root() / row.path
    return path if row.kind == ModelFormat.Kind.SAFETENSORS else path.parents[row.files[0]["path"].count("/")]


def _admit(work: Work, row: Adapter, path: Path) -> dict[str, Any]:
    work.progress("checking")
    try:
        facts = _inspected(path)
        _refuse_misfit(facts, row.model)
    except weights.Refused as problem:
        if row.files:
            # It was judged by its listing alone when it was added.
            Adapter.objects.filter(pk=row.pk).update(refused=str(problem))
            _delete(path)
        raise JobFailed(str(problem)) from problem
    taken = catalogue.digest_known(path) or catalogue.take_digest(path, work)
    Adapter.objects.filter(pk=row.pk).update(digest=taken, size_bytes=facts.size_bytes, rank=facts.rank)
    return {"adapter": row.pk, "digest": taken}
