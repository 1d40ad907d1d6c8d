"""Editing a deployment: a new one with other wishes, beside the old or in its place.

What runs is never changed, since its configuration is what it was tried as. In its place means: once the new
one is ready it takes the old one's name and the old one stops; until then, and if the new one fails, the old
one runs on. The state of both is written by `deployments`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from playground import configurations, engines, extra
from playground.engines.base import Engine
from playground.models import Adapter, Deployment, Model, ModelFormat, Replica

# What may be wished beside the options, as people call it.
WISHES = {"version": "Version", "gpus": "GPUs", "cores": "Cores", "idle_timeout_s": "Stop when unused, s"}
GONE = (*Replica.TERMINAL, Replica.State.LOST)


@dataclass(frozen=True)
class Change:
    """One line of what changes; "" is unset."""

    name: str
    old: str
    new: str


def succession(old: Deployment, *, take_over: bool, name: bool) -> dict[str, Any]:
    """What a deployment's wishes say of the one it is to replace, and whether it takes the name, too."""
    return {"deployment": old.pk, "conversations": take_over, "name": name}


def heirs(old: Deployment) -> QuerySet[Deployment]:
    """Those on their way to take its place, the newest first; one that gave up is none."""
    alive = Replica.objects.filter(deployment=OuterRef("pk")).exclude(state__in=GONE)
    rows = Deployment.objects.filter(Q(problem="") | Exists(alive), wanted__replaces__deployment=old.pk)
    return rows.filter(desired=Deployment.Desired.RUNNING).order_by("-pk")


def predecessor(deployment: Deployment) -> Deployment | None:
    """The one whose place it is to take."""
    named = deployment.wanted.get("replaces")
    return _there(named["deployment"]) if named else None


def successor(deployment: Deployment) -> Deployment | None:
    """The one that took its place, while it rests."""
    running = deployment.desired == Deployment.Desired.RUNNING
    return None if running else _there(deployment.wanted.get("replaced_by"))


def _there(pk: int | None) -> Deployment | None:
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED)
    return rows.filter(pk=pk).first() if pk else None


def stamp(form: str, *wished: Any) -> str:
    """What marks all that one form asked for: pressed twice it is the same, changed in between it is not."""
    return configurations.digest(configurations.canonical({"form": form, "wished": wished}))


def wishes(deployment: Deployment) -> dict[str, Any]:
    """What was wished of a deployment, with its engine, as `changes` compares it."""
    more = {"engine": deployment.engine, "idle_timeout_s": deployment.idle_timeout_s}
    return {**deployment.wanted, **more}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What is wished otherwise, in the order a person reads: engine, version, weights, options, the rest."""
    lines = _lines(old), _lines(new)
    names = [*lines[0], *(name for name in lines[1] if name not in lines[0])]
    found = [Change(name, lines[0].get(name, ""), lines[1].get(name, "")) for name in names]
    return [change for change in found if change.old != change.new]


def _lines(wished: Mapping[str, Any]) -> dict[str, str]:
    """Each wish by its title, as text."""
    adapter = engines.get(wished["engine"])
    lines = {"Engine": adapter.title}
    lines |= {title: _text(wished.get(name)) for name, title in WISHES.items()}
    lines["Weights"] = _weights(wished.get("form"))
    lines |= _options(adapter, wished.get("options") or {})
    attached = Adapter.objects.filter(pk__in=wished.get("adapters") or []).order_by("name")
    lines["Adapters"] = ", ".join(attached.values_list("name", flat=True))
    lines |= {flag: value or "on" for flag, value in extra.pairs(adapter, wished.get("extra") or [])}
    return lines


def _options(adapter: Engine, options: Mapping[str, Any]) -> dict[str, str]:
    """Each option by its title; one of an earlier Slipway, which has it no more, by its name."""
    return {title: text for title, _, text in shown(adapter, options)}


def shown(adapter: Engine, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(title, name, text) of each option that was set, as people read them."""
    fields, found = adapter.Options.model_fields, []
    for name, value in options.items():
        more = fields[name].json_schema_extra if name in fields else None
        names_model = isinstance(more, dict) and more.get("model")
        row = Model.objects.filter(pk=value).first() if names_model else None
        title = str(fields[name].title) if name in fields else name
        found.append((title, name, row.name if row else _text(value)))
    return found


def _weights(form: Any) -> str:
    row = ModelFormat.objects.filter(pk=form).first() if form else None
    return f"{row.get_kind_display()} {row.dtype}".strip() if row else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
