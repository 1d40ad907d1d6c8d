"""Draft models: a smaller model of the catalogue that guesses ahead of another, named by one of its options.

What a person chooses is a model's number, never a path: the files behind it are the catalogue's, made ready
on the node like the model's own, and named by their digest in the configuration.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from playground import catalogue, engines
from playground.engines.base import Engine, LocalModel
from playground.models import Configuration, Deployment, Model, ModelFormat, Team


def option_of(adapter: Engine) -> str:
    """The option that names one; empty where the engine takes none."""
    for name, field in adapter.Options.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("model"):
            return name
    return ""


def judge(team: Team, model: Model, adapter: Engine, options: Mapping[str, Any]) -> dict[str, str]:
    """A sentence where the one chosen is not there, not the team's, or not for this engine."""
    name = option_of(adapter)
    if not name or name not in options:
        return {}
    row = Model.objects.filter(team=team, pk=options[name]).first()
    if row is None:
        return {name: "No such model."}
    if row.pk == model.pk:
        return {name: "A model cannot guess ahead of itself: choose a smaller one."}
    _, verdict = catalogue.candidate(row, adapter)
    return {} if verdict.ok else {name: verdict.why}


def choices(team: Team, model: Model, adapter: Engine) -> list[tuple[str, str]]:
    """(number, name) of every model that this engine can load and that is not larger; smallest first."""
    rows = Model.objects.filter(team=team, refused="", missing=False, task__in=("chat", "completion"))
    able = [row for row in rows.exclude(pk=model.pk) if catalogue.candidate(row, adapter)[1].ok]
    most = model.parameters or float("inf")
    able = [row for row in able if (row.parameters or 0) <= most]
    return [(str(row.pk), row.name) for row in sorted(able, key=lambda row: (row.parameters or 0, row.name))]


def form(adapter: Engine, options: Mapping[str, Any]) -> ModelFormat | None:
    """The form of the one chosen that the engine would load; None where none is."""
    number = options.get(option_of(adapter) or "")
    row = Model.objects.filter(pk=number).first() if number else None
    return catalogue.choose(row, adapter)[0] if row else None


def wanted(deployment: Deployment) -> ModelFormat | None:
    """The form to be made ready beside the model's: the configuration's own once there is one."""
    if deployment.configuration:
        return of(deployment.configuration)
    return form(engines.get(deployment.engine), deployment.wanted.get("options", {}))


def of(configuration: Configuration) -> ModelFormat | None:
    """The form a configuration names."""
    named = configuration.facts.get("draft")
    return ModelFormat.objects.select_related("model").get(pk=named["form"]) if named else None


def beside(model: LocalModel, draft: ModelFormat | None) -> LocalModel:
    """`model` with its draft, as an adapter sees them."""
    return replace(model, draft=catalogue.local(draft)) if draft else model
