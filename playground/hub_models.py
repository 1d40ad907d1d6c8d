"""Models of the Hub in a team's catalogue: added at one commit, with the forms a person chose.

What is stored names the commit, never a branch. Nothing is fetched here: the first start, or a person, asks
for that (`download`).
"""

from collections.abc import Iterable
from typing import Any

from django.db import transaction

from playground import access, catalogue, downloads, repositories, safety
from playground.engines.base import LocalModel
from playground.hub import Repository
from playground.models import Job, Model, ModelFormat, Node, Team, User
from playground.repositories import Form

RECIPE = {"job": Job.Kind.DOWNLOAD_MODEL.value}
CARD_KEPT = 40_000


class AddRefused(Exception):
    """A repository may not be added, or not like this; the text says why."""


def added(team: Team, repository: Repository) -> Model | None:
    """The team's model of exactly this commit."""
    return Model.objects.filter(team=team, source=repository.source, missing=False).first()


def add(repository: Repository, keys: Iterable[str], team: Team, user: User | None) -> Model:
    """The commit as a model of the team, with the forms that `keys` name; more of them where it is there.

    AddRefused when it may not be loaded here, or has no such form. One that only its own code speaks against
    is added and refused, for an administrator to judge.
    """
    judgement = repositories.judge(repository)
    if judgement.refused and not judgement.code:
        raise AddRefused(judgement.refused)
    origin = _origin(repository) | _code(repository, judgement)
    chosen = _chosen(repository, list(keys))
    with transaction.atomic():
        model, fresh = Model.objects.update_or_create(
            team=team,
            source=repository.source,
            defaults={"missing": False, "origin": origin},
            create_defaults={
                **_values(repository, team, chosen),
                "created_by": user,
                "origin": origin,
                "refused": judgement.refused,
            },
        )
        for form in chosen:
            _keep(model, repository, form)
        access.audit(user, team, "add model", f"model:{model.pk}", source=model.source, fresh=fresh)
    return model


def chosen(model: Model, repository: Repository, keys: Iterable[str]) -> list[ModelFormat]:
    """The rows of the forms that `add` was told to take."""
    paths = [_path(repository, form) for form in _chosen(repository, list(keys))]
    return list(model.formats.filter(path__in=paths).order_by("pk"))


def download(model: Model, form: ModelFormat, node: Node, user: User | None) -> ModelFormat | Job:
    """The form once it lies on the node; else the job that brings it."""
    return catalogue.ensure(node, model, form.kind, form=form, team=model.team, user=user)


def previews(repository: Repository) -> list[LocalModel]:
    """Each form as an adapter would see it, for a verdict before anything is added."""
    values = _values(repository, None, repositories.forms(repository))
    return [
        LocalModel(
            name=repository.repo,
            path=catalogue.root() / _path(repository, form),
            kind=form.kind,
            size_bytes=form.weight_bytes,
            dtype=form.dtype,
            task=values["task"],
            architecture=values["architecture"],
            parameters=values["parameters"],
            context_length=values["context_length"],
            facts=values["facts"],
            takes_images=values["takes_images"],
        )
        for form in repositories.forms(repository)
    ]


def _chosen(repository: Repository, keys: list[str]) -> list[Form]:
    """The forms of those keys; the usual one for none."""
    forms = {form.key: form for form in repositories.forms(repository)}
    if not keys:
        return [repositories.usual(list(forms.values()))]
    if unknown := [key for key in keys if key not in forms]:
        had = ", ".join(forms)
        raise AddRefused(f"{repository.repo} has no {unknown[0][:80]}. It has: {had[:400]}.")
    return [forms[key] for key in keys]


def _keep(model: Model, repository: Repository, form: Form) -> None:
    values: dict[str, Any] = {
        "size_bytes": form.weight_bytes,
        "dtype": form.dtype[:20],
        "recipe": RECIPE,
        "files": [file.as_row() for file in form.files],
    }
    where = _path(repository, form)
    ModelFormat.objects.get_or_create(model=model, kind=form.kind, path=where, defaults=values)


def _path(repository: Repository, form: Form) -> str:
    """Where it will lie, relative to the models folder."""
    folder = downloads.place(repository.repo, repository.commit)
    return f"{folder}/gguf/{form.path}" if form.path else f"{folder}/safetensors"


def _values(repository: Repository, team: Team | None, chosen: list[Form]) -> dict[str, Any]:
    """What is known of the model before its weights are here."""
    kind = repositories.kind(repository)
    facts = repositories.facts(repository)
    return {
        "name": _name(repository, team),
        "task": kind.task,
        "takes_images": kind.takes_images,
        "architecture": facts.architecture[:100],
        "licence": repository.told.licence[:80],
        "parameters": repository.told.parameters,
        "context_length": facts.context_length,
        "chat_template": repositories.chat_template(repository),
        "facts": facts.shape,
        "origin": _origin(repository),
    }


def _origin(repository: Repository) -> dict[str, Any]:
    told = repository.told
    return {
        "repo": repository.repo,
        "commit": repository.commit,
        "gated": told.gated,
        "library": told.library,
        "tags": list(repository.tags)[:100],
        "downloads": told.downloads,
        "likes": told.likes,
        "card": repositories.card(repository)[:CARD_KEPT],
        "address": repository.address,
    }


def _code(repository: Repository, judgement: safety.Judgement) -> dict[str, Any]:
    """The code of its own that it is refused for, which an administrator may allow at this commit."""
    if not judgement.code:
        return {}
    files = [file.as_row() for file in repository.files if file.path in judgement.code_files]
    return {"code": {"why": judgement.refused, "files": files}}


def _name(repository: Repository, team: Team | None) -> str:
    """The repository's; with its commit where the team has another one of it."""
    taken = Model.objects.filter(team=team, name=repository.repo, missing=False) if team else None
    if taken is not None and taken.exclude(source=repository.source).exists():
        return f"{repository.repo}@{repository.commit[:7]}"
    return repository.repo
