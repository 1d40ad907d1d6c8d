"""The catalogue, one model, and its Start form."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from playground import access, adapters, catalogue, deployments, engines, fitting, forms, options, secrets
from playground.models import Deployment, Model, Team
from playground.views import extras, holdings, hub, uploads
from playground.views.request import Request, team_of
from playground.wishes import Looking

IDLE_CHOICES = (("", "never"), ("600", "after 10 min"), ("3600", "after 1 h"), ("14400", "after 4 h"))


def listing(request: Request) -> HttpResponse:
    """Models here, and what the Hub finds once it is asked; the folder is looked at anew each time."""
    team, looking = team_of(request), Looking.of(request.GET.dict())
    context = {"looking": looking, **_here(team, looking)}
    if request.htmx:
        return render(request, "playground/models.html#local", context)
    if request.GET:
        context |= hub.results(looking, team)
    token = secrets.find(team, secrets.HUB)
    context |= {
        "selects": looking.selects(),
        **uploads.panel(request),
        "may_token": access.can(request.user, "tokens", team),
        "token": token,
        "hub_address": settings.HF_ENDPOINT,
    }
    return render(request, "playground/models.html", context)


def _here(team: Team, looking: Looking) -> dict[str, Any]:
    """The catalogue's models that are looked for, each with every engine's answer."""
    rows = catalogue.scan(team)
    chosen = [row for row in rows if looking.means(row)]
    shown = [(row, [] if row.refused else fitting.offers(row)) for row in chosen]
    if looking.fits:
        shown = [(row, offers) for row, offers in shown if any(offer.fits for offer in offers)]
    context: dict[str, Any] = {"rows": shown, "all": len(rows)}
    if node := fitting.roomiest():
        context |= {"node": node, "free": fitting.free(node)}
    return context


def page(request: Request, pk: int) -> HttpResponse:
    model = access.fetch(request.user, Model.objects.all(), pk)
    return shown(request, model)


def shown(request: Request, model: Model, status: int = 200, **more: Any) -> HttpResponse:
    """The whole page; `more` is what one of its panels has to say."""
    context = _context(request, model, _initial(request)) | holdings.panel(request, model) | more
    return render(request, "playground/model.html", context, status=status)


@require_POST
def form(request: Request, pk: int) -> HttpResponse:
    """The form and its preview again, as far as it is filled in. Changes nothing."""
    model = access.fetch(request.user, Model.objects.all(), pk)
    return render(request, "playground/model.html#start", _context(request, model, request.POST))


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Start a deployment, or show the form again with a sentence beside each field that is wrong."""
    model = access.fetch(request.user, Model.objects.all(), pk, write=True)
    access.require(request.user, "start", model.team)
    try:
        deployment = _request(request, model)
    except deployments.DeploymentRefused as refusal:
        context = _context(request, model, request.POST, refusal.fields) | holdings.panel(request, model)
        return render(request, "playground/model.html", context, status=422)
    return redirect("deployment", pk=deployment.pk)


@require_POST
def rescan(request: Request) -> HttpResponse:
    found = catalogue.scan(team_of(request))
    messages.success(request, f"The folder was read: {len(found)} model{'s' * (len(found) != 1)}.")
    return redirect("models")


def _request(request: Request, model: Model) -> Deployment:
    """One verb with what was posted; raises DeploymentRefused."""
    posted = request.POST
    numbers, errors = _numbers(posted, ("idle_timeout_s", "gpus", "cores", "form"))
    try:
        adapter = engines.get(posted.get("engine", ""))
    except engines.UnknownEngine as problem:
        raise deployments.DeploymentRefused({"engine": str(problem)}) from problem
    if errors:
        raise deployments.DeploymentRefused(errors)
    return deployments.request(
        team=model.team,
        user=request.user,
        model=model,
        engine=adapter.name,
        options=forms.given(adapter.Options, posted),
        version=posted.get("version", "").strip() or None,
        name=posted.get("name", "").strip(),
        idle_timeout_s=numbers.get("idle_timeout_s"),
        gpus=numbers.get("gpus"),
        cores=numbers.get("cores"),
        attached=posted.getlist("adapters"),
        form=numbers.get("form"),
    )


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


def _initial(request: Request) -> QueryDict:
    """What the form starts with: an earlier deployment's wishes when ?from= names one."""
    values = QueryDict(mutable=True)
    values["engine"] = request.GET.get("engine", "")
    source = request.GET.get("from", "")
    if source.isascii() and source.isdigit():
        row = access.fetch(request.user, Deployment.objects.all(), source)
        values["engine"] = row.engine
        values["version"] = row.wanted.get("version") or ""
        for name, value in row.wanted.get("options", {}).items():
            values[forms.PREFIX + name] = forms.text_of(value)
        values["form"] = str(row.wanted.get("form") or "")
        values.setlist("adapters", [str(pk) for pk in row.wanted.get("adapters") or []])
    return values


def _context(
    request: Request, model: Model, values: QueryDict, errors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything the page and its form show for `values`, which may be half filled in."""
    offers = fitting.offers(model)
    able = [offer for offer in offers if offer.ok]
    chosen = next((offer for offer in able if offer.adapter.name == values.get("engine")), None)
    chosen = chosen or (able[0] if able else None)
    context: dict[str, Any] = {
        "model": model,
        "formats": model.formats.order_by("kind"),
        "offers": offers,
        "chosen": chosen,
        "errors": errors or {},
        "values": values,
        "may_start": access.can(request.user, "start", model.team),
        "operators": access.holders("start", model.team),
        "deployments": model.deployments.filter(team=model.team)
        .exclude(desired=Deployment.Desired.DELETED)
        .order_by("-pk")[:6],
        "idle_choices": IDLE_CHOICES,
        **extras.adapters_panel(request, model),
        **extras.code_note(request, model),
    }
    return context | (_form(model, chosen, values, errors or {}) if chosen else {})


def _form(
    model: Model, chosen: fitting.Offer, values: QueryDict, errors: Mapping[str, str]
) -> dict[str, Any]:
    """The chosen engine's fields, and what would run with them."""
    adapter = chosen.adapter
    given = _carried(values, adapter)
    node = fitting.roomiest()
    version = values.get("version", "").strip() or fitting.version_of(adapter, node)
    try:
        clean, problems = options.parse(adapter, given), {}
    except options.OptionsRefused as refusal:
        clean, problems = {}, refusal.fields
    attachable = extras.attachable(model, adapter, values.getlist("adapters"))
    loadable = [row for row in model.formats.order_by("kind", "pk") if row.kind in adapter.kinds]
    form = next((row for row in loadable if str(row.pk) == values.get("form")), None)
    offer = fitting.offer(model, adapter, clean, node, form.pk if form else None)
    if offer.local:
        picked = [row for row, _, picked in attachable if picked]
        offer = replace(offer, local=adapters.on(offer.local, picked))
    return {
        "attachable": attachable,
        "loadable": loadable,
        "form": form or (loadable[0] if loadable else None),
        "groups": forms.groups(adapter.Options, given, {**problems, **errors}),
        "problems": [(f"id-option-{name}", text) for name, text in problems.items()],
        "offer": offer,
        "node": node,
        "version": version,
        "installed": fitting.installed(adapter),
        "command": fitting.command(offer, clean, version, model.name),
    }


def _carried(values: QueryDict, adapter: engines.Engine) -> dict[str, Any]:
    """The chosen engine's options as typed; after a change of engine, what means the same in both."""
    before = values.get("options-of", "")
    if not before or before == adapter.name or before not in engines.names():
        return forms.given(adapter.Options, values)
    old = engines.get(before).Options
    return forms.carried(old, adapter.Options, forms.given(old, values))
