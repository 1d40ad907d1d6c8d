"""What the Start form asks beside the engine's options: its version, extra arguments, and what it edits."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict

from playground import access, environments, extra, fitting
from playground.engines.base import Engine
from playground.models import Deployment, Model, Node
from playground.views.request import Request

OTHER = "other"
BLANK_ROWS = 2


def version(values: QueryDict) -> str:
    """The version asked for; empty is the one Slipway names."""
    chosen = values.get("version", "").strip()
    return values.get("other-version", "").strip() if chosen == OTHER else chosen


def versions(adapter: Engine, node: Node | None, values: QueryDict) -> dict[str, Any]:
    """The versions there are to choose from: Slipway's, those installed, others that ran, and any other."""
    installed = [row.version for row in fitting.installed(adapter)]
    build = environments.build_of(node) if node else "cpu"
    usual = fitting.version_of(adapter, node)
    named = dict.fromkeys([*installed, *adapter.also.get(build, ())])
    named.pop(usual, None)
    choices = [("", _label(usual, installed) + ", the usual one")]
    choices += [(one, _label(one, installed)) for one in named]
    asked = version(values)
    if asked == usual:
        asked = ""
    listed = asked in dict(choices) and values.get("version") != OTHER
    return {
        "versions": [*choices, (OTHER, "another version…")],
        "version_chosen": asked if listed else OTHER,
        "version_typed": "" if listed else asked,
        "version": asked or usual,
        "installed": installed,
    }


def _label(name: str, installed: list[str]) -> str:
    return f"{name}, installed" if name in installed else name


# Extra arguments


def pairs(values: QueryDict) -> list[tuple[str, str]]:
    """The (flag, value) pairs that were filled in."""
    typed = zip(values.getlist("extra.flag"), values.getlist("extra.value"), strict=False)
    rows = [(flag, text.strip()) for flag, text in typed]
    return [row for row in rows if any(row)]


def extra_rows(
    request: Request, model: Model, adapter: Engine, values: QueryDict, wrong: bool
) -> dict[str, Any]:
    """The rows of the form, for those who may add arguments; what is left out, for the others."""
    given = pairs(values)
    if not access.can(request.user, "extra arguments", model.team):
        return {"extra_left": " ".join(f"{flag} {value}".strip() for flag, value in given)}
    if not adapter.extra_flags:
        return {}
    return {
        "extra_rows": [*given, *[("", "")] * BLANK_ROWS],
        "extra_flags": [(flag, extra.words(taken)) for flag, taken in sorted(adapter.extra_flags.items())],
        "extra_names": list(adapter.extra_flags),
        "extra_set": len(given),
        "extra_open": bool(given) or wrong,
    }


def allowed_pairs(request: Request, model: Model) -> list[tuple[str, str]]:
    """The pairs that were posted, from an administrator; Refused and remembered from anybody else."""
    given = pairs(request.POST)
    if given:
        access.require(request.user, "extra arguments", model.team)
    return given


# Editing


def edited(request: Request, values: QueryDict, *, write: bool = False) -> Deployment | None:
    """The deployment that is edited, when the form says so."""
    pk = values.get("edit", "")
    if not (pk.isascii() and pk.isdigit() and len(pk) < 18):
        return None
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("model", "team")
    return access.fetch(request.user, rows, pk, write=write)


def prefill(values: QueryDict, row: Deployment, adapter: Engine) -> None:
    """Fill the form with what was wished of `row` beside its options."""
    values["version"] = row.wanted.get("version") or ""
    for name in ("gpus", "cores"):
        values[name] = str(row.wanted.get(name) or "")
    values["idle_timeout_s"] = str(row.idle_timeout_s or "")
    kept = extra.pairs(adapter, row.wanted.get("extra") or [])
    values.setlist("extra.flag", [flag for flag, _ in kept])
    values.setlist("extra.value", [value for _, value in kept])


def wished(
    adapter: Engine, clean: Mapping[str, Any], values: QueryDict, form: int | None, kept: bool
) -> dict[str, Any]:
    """What the form asks for, as far as it is right, as `edits.changes` compares it."""
    try:
        added = extra.parse(adapter, pairs(values)) if kept else []
    except extra.ExtraRefused:
        added = []
    return {
        "engine": adapter.name,
        "version": version(values) or None,
        "options": dict(clean),
        "gpus": values.get("gpus") or None,
        "cores": values.get("cores") or None,
        "form": form,
        "adapters": [int(pk) for pk in values.getlist("adapters") if pk.isascii() and pk.isdigit()],
        "extra": added,
    }
