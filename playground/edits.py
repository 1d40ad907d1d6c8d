"""Editing a deployment: a new one with other wishes, beside the old or in its place.

What runs is never changed, since its configuration is what it was tried as. In its place means: once the new
one is ready it takes the old one's name and the old one stops; until then, and if the new one fails, the old
one runs on. The state of both is written by `deployments`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playground import engines, extra
from playground.engines.base import Engine
from playground.models import Adapter, Deployment, ModelFormat

# What may be wished beside the options, as people call it.
WISHES = {"version": "Version", "gpus": "GPUs", "cores": "Cores"}


@dataclass(frozen=True)
class Change:
    """One line of what changes; "" is unset."""

    name: str
    old: str
    new: str


def succession(old: Deployment, *, take_over: bool, name: bool) -> dict[str, Any]:
    """What a deployment's wishes say of the one it is to replace, and whether it takes the name, too."""
    return {"deployment": old.pk, "conversations": take_over, "name": name}


def wishes(deployment: Deployment) -> dict[str, Any]:
    """What was wished of a deployment, with its engine, as `changes` compares it."""
    return {**deployment.wanted, "engine": deployment.engine}


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
    fields = adapter.Options.model_fields
    return {str(fields[name].title): _text(value) for name, value in options.items() if name in fields}


def _weights(form: Any) -> str:
    row = ModelFormat.objects.filter(pk=form).first() if form else None
    return f"{row.get_kind_display()} {row.dtype}".strip() if row else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
