"""The Start form: what it begins with, what it shows as far as it is filled in, and what it asks for.

The same form edits a deployment: then it says what changes, and where the new one goes.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from django.db.models import Case, Value, When
from django.http import Http404, QueryDict

from playground import (
    access,
    advice,
    bars,
    catalogue,
    deployments,
    drafts,
    edits,
    engines,
    environments,
    extra,
    fitting,
    forms,
    frame,
    holders,
    options,
    preview,
)
from playground.engines.base import Engine
from playground.models import Deployment, Model, ModelFormat, Node
from playground.views import extras
from playground.views.request import Request

OTHER = "other"
INSTEAD = "instead"
BLANK_ROWS = 2


# What it begins with


def initial(request: Request, model: Model) -> QueryDict:
    """An empty form for ?engine=; with ?edit= that deployment's wishes, as they were typed."""
    values = QueryDict(mutable=True)
    values["engine"] = request.GET.get("engine", "")
    values["edit"] = request.GET.get("edit", "")
    if (row := edited(request, values, model)) and row.engine in engines.names():
        prefill(values, row)
    return values


def edited(request: Request, values: QueryDict, model: Model) -> Deployment | None:
    """The deployment of `model` that is edited, when the form says so."""
    pk = values.get("edit", "")
    if not pk:
        return None
    if not (pk.isascii() and pk.isdigit() and len(pk) < 18):
        raise Http404("no such deployment")
    rows = Deployment.objects.filter(model=model).exclude(desired=Deployment.Desired.DELETED)
    return access.fetch(request.user, rows.select_related("model", "team", "configuration__environment"), pk)


def prefill(values: QueryDict, row: Deployment) -> None:
    """Fill the form with what was wished of `row`."""
    adapter = engines.get(row.engine)
    values["engine"] = row.engine
    values["place"] = "beside" if row.desired == Deployment.Desired.RUNNING and not row.problem else INSTEAD
    for name, value in row.wanted.get("options", {}).items():
        values[forms.PREFIX + name] = forms.text_of(value)
    values["version"] = ran(row)
    for name in ("gpus", "cores", "form"):
        values[name] = str(row.wanted.get(name) or "")
    values["idle_timeout_s"] = str(row.idle_timeout_s or "")
    values.setlist("adapters", [str(pk) for pk in row.wanted.get("adapters") or []])
    kept = extra.pairs(adapter, row.wanted.get("extra") or [])
    values.setlist("extra.flag", [flag for flag, _ in kept])
    values.setlist("extra.value", [value for _, value in kept])


def ran(row: Deployment) -> str:
    """The engine's version that it ran on, or was asked for; empty before it ran on the usual one."""
    return row.configuration.environment.version if row.configuration else row.wanted.get("version") or ""


# What it shows


def context(
    request: Request, model: Model, values: QueryDict, errors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything the form shows for `values`, which may be half filled in."""
    offers = fitting.offers(model)
    able = [offer for offer in offers if offer.ok]
    chosen = next((offer for offer in able if offer.adapter.name == values.get("engine")), None)
    chosen = chosen or (able[0] if able else None)
    found: dict[str, Any] = {
        "offers": offers,
        "chosen": chosen,
        "errors": errors or {},
        "values": values,
        "edited": edited(request, values, model),
        "once": values.get("once") or uuid.uuid4().hex,
        "may_start": access.can(request.user, "start", model.team),
        "operators": access.holders("start", model.team),
        "where": model.team,
        "idle_choices": forms.idle_choices(values.get("idle_timeout_s", "")),
    }
    return found | (_of_engine(request, model, chosen, values, found) if chosen else {})


def _of_engine(
    request: Request, model: Model, chosen: fitting.Offer, values: QueryDict, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The chosen engine's fields, and what would run with them."""
    adapter, errors = chosen.adapter, found["errors"]
    given = _carried(values, adapter)
    node = fitting.roomiest()
    attachable = extras.attachable(model, adapter, values.getlist("adapters"))
    loadable = _loadable(model, adapter)
    form = next((row for row in loadable if str(row.pk) == values.get("form")), None)
    form = form or catalogue.choose(model, adapter)[0]
    gpus = _numbers(values, ("gpus",))[0].get("gpus")
    picked = [row for row, _, picked in attachable if picked]
    asked = versions(adapter, node, values)
    added = extra_rows(request, model, adapter, values, found)
    looked = preview.of(
        model,
        adapter,
        given,
        node,
        version=asked["version"],
        form=form.pk if form else None,
        gpus=gpus,
        attached=picked,
        extra=added["extra"],
    )
    offer, clean, problems = looked.offer, looked.options, looked.problems
    wished = {
        "engine": adapter.name,
        "version": asked["version"],
        "options": clean,
        "form": form.pk if form else None,
        "adapters": [row.pk for row in picked],
        "extra": added["extra"],
    } | {name: values.get(name) or None for name in ("gpus", "cores", "idle_timeout_s")}
    groups = forms.groups(
        adapter.Options,
        given,
        {**problems, **errors},
        build=_only_build(),
        models=drafts.choices(model.team, model, adapter) if drafts.option_of(adapter) else (),
    )
    return {
        "attachable": attachable,
        "loadable": loadable,
        "form": form,
        "groups": groups,
        "option_count": sum(len(group.fields) for group in groups),
        "problems": [(f"id-option-{name}", text) for name, text in problems.items()],
        "offer": offer,
        "advice": advice.of(offer, clean, gpus),
        "taken": bars.of(offer),
        "node": node,
        "command": looked.command,
        "changes": _changes(found["edited"], wished, node),
        "queue": _queue(request, model, wished, values),
        **asked,
        **added,
    }


def _queue(
    request: Request, model: Model, wished: Mapping[str, Any], values: QueryDict
) -> holders.Queue | None:
    """What it would wait behind if it were started now."""
    names = ("version", "options", "form", "adapters", "extra")
    numbers, _ = _numbers(values, ("gpus", "cores"))
    kept = {name: wished[name] for name in names} | numbers
    row = Deployment(team=model.team, model=model, engine=wished["engine"], wanted=kept)
    return holders.before(request.user, row)


def _carried(values: QueryDict, adapter: Engine) -> dict[str, Any]:
    """The chosen engine's options as typed; after a change of engine, what means the same in both."""
    before = values.get("options-of", "")
    if not before or before == adapter.name or before not in engines.names():
        return forms.given(adapter.Options, values)
    old = engines.get(before).Options
    return forms.carried(old, adapter.Options, forms.given(old, values))


def _loadable(model: Model, adapter: Engine) -> list[ModelFormat]:
    """The model's forms that this engine may load, those it prefers first."""
    order = Case(*(When(kind=kind, then=Value(place)) for place, kind in enumerate(adapter.kinds)))
    return list(model.formats.filter(kind__in=adapter.kinds).order_by(order, "pk"))


def _only_build() -> str:
    """The build that every live node takes; empty where they differ, or none lives."""
    builds = {environments.build_of(node) for node in frame.live_nodes()}
    return builds.pop() if len(builds) == 1 else ""


def _changes(row: Deployment | None, wished: Mapping[str, Any], node: Node | None) -> list[edits.Change]:
    if row is None or row.engine not in engines.names():
        return []
    old = engines.get(row.engine)
    form = row.configuration.format_id if row.configuration else row.wanted.get("form")
    if form is None:
        default, _ = catalogue.choose(row.model, old)
        form = default.pk if default else None
    before = edits.wishes(row) | {"version": ran(row) or fitting.version_of(old, node), "form": form}
    return edits.changes(before, wished)


# Its version


def version(values: QueryDict) -> str:
    """The version asked for; empty is the one Slipway names."""
    chosen = values.get("version", "").strip()
    return values.get("other-version", "").strip() if chosen == OTHER else chosen


def versions(adapter: Engine, node: Node | None, values: QueryDict) -> dict[str, Any]:
    """The versions there are to choose from: Slipway's, those installed, others that ran, and any other.

    After a change of engine the other's version means nothing.
    """
    installed = [row.version for row in fitting.installed(adapter)]
    build = environments.build_of(node) if node else "cpu"
    usual = fitting.version_of(adapter, node)
    named = dict.fromkeys([*installed, *adapter.also.get(build, ())])
    named.pop(usual, None)
    choices = [("", _label(usual, installed) + ", the usual one")]
    choices += [(one, _label(one, installed)) for one in named]
    asked = version(values) if values.get("options-of", adapter.name) == adapter.name else ""
    if asked == usual:
        asked = ""
    listed = asked in dict(choices)
    return {
        "versions": [*choices, (OTHER, "another version…")],
        "version_chosen": asked if listed else OTHER,
        "version_typed": "" if listed else asked,
        "version": asked or usual,
        "usual_version": usual,
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
    request: Request, model: Model, adapter: Engine, values: QueryDict, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The rows of the form and, as "extra", the arguments they add, for those who may add any.

    For the others what the edited deployment has of them, which is left out.
    """
    row = found["edited"]
    if not access.can(request.user, "extra arguments", model.team):
        return {"extra": [], "extra_left": " ".join(row.wanted.get("extra") or []) if row else ""}
    given = pairs(values) if values.get("options-of", adapter.name) == adapter.name else []
    added, why = options.judge_extra(adapter.name, given)
    if not adapter.extra_flags:
        return {"extra": added}
    return {
        "extra": added,
        "extra_rows": [*given, *[("", "")] * BLANK_ROWS],
        "extra_flags": [(flag, extra.words(taken)) for flag, taken in sorted(adapter.extra_flags.items())],
        "extra_names": list(adapter.extra_flags),
        "extra_error": why,
        "extra_set": len(given),
    }


def _allowed_pairs(request: Request, model: Model) -> list[tuple[str, str]]:
    """The pairs that were posted, from an administrator; Refused and remembered from anybody else."""
    given = pairs(request.POST)
    if given:
        access.require(request.user, "extra arguments", model.team)
    return given


# What it asks for


def submit(request: Request, model: Model) -> Deployment:
    """One verb with what was posted; raises DeploymentRefused."""
    posted = request.POST
    asked = wanted(request, model)
    row = edited(request, posted, model)
    return deployments.request(
        team=model.team,
        user=request.user,
        model=model,
        **asked,
        min_replicas=max(1, row.min_replicas) if row else 1,
        max_replicas=row.max_replicas if row else 1,
        share=bool(row and row.wanted.get("share")),
        replaces=row if posted.get("place") == INSTEAD else None,
        take_over=bool(posted.get("take-over")),
        once=posted.get("once", "")[:64],
    )


def wanted(request: Request, model: Model) -> dict[str, Any]:
    """What was posted of one new deployment, as `deployments.request` takes it and JSON keeps it."""
    posted = request.POST
    numbers, errors = _numbers(posted, ("idle_timeout_s", "gpus", "cores", "form"))
    try:
        adapter = engines.get(posted.get("engine", ""))
    except engines.UnknownEngine as problem:
        raise deployments.DeploymentRefused({"engine": str(problem)}) from problem
    if errors:
        raise deployments.DeploymentRefused(errors)
    return {
        "engine": adapter.name,
        "options": forms.given(adapter.Options, posted),
        "version": version(posted) or None,
        "name": posted.get("name", "").strip(),
        "idle_timeout_s": numbers.get("idle_timeout_s"),
        "gpus": numbers.get("gpus"),
        "cores": numbers.get("cores"),
        "attached": posted.getlist("adapters"),
        "form": numbers.get("form"),
        "extra": _allowed_pairs(request, model),
    }


def _numbers(posted: QueryDict, names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, str]]:
    """Whole numbers of optional fields that were filled in, and a sentence for each that is none."""
    numbers, errors = {}, {}
    for name in names:
        text = posted.get(name, "").strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            numbers[name] = int(text)
        elif text:
            errors[name] = "A whole number, or nothing."
    return numbers, errors
