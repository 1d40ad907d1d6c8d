"""What runs: the list, one deployment with its start as steps, its log, and the verbs on it."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from playground import (
    access,
    deployments,
    edits,
    engine_logs,
    engines,
    forms,
    holders,
    standing,
    start_wishes,
)
from playground.engines.base import ReasonCode
from playground.models import Deployment, Replica, User
from playground.standing import Standing
from playground.views import attaching
from playground.views.request import Request, number, team_of

FILTERS = ("state", "engine", "owner", "model")


def listing(request: Request) -> HttpResponse:
    team = team_of(request)
    found = standing.all_of(access.visible_to(request.user, Deployment.objects.filter(team=team)))
    chosen = {name: request.GET.get(name, "") for name in FILTERS}
    shown = [row for row in found if _matches(row, chosen)]
    context = {
        "rows": shown,
        "all": len(found),
        "chosen": chosen,
        "filters": [(name, sorted({_facet(row, name) for row in found} - {""})) for name in FILTERS],
        "others": holders.of_others(request.user, team),
        "may_stop": access.can(request.user, "stop", team),
        "query": request.GET.urlencode(),
    }
    part = "#rows" if request.htmx else ""
    return render(request, f"playground/running.html{part}", context)


def page(request: Request, pk: int) -> HttpResponse:
    return render(request, "playground/deployment.html", _context(request, _fetch(request, pk)))


def status(request: Request, pk: int) -> HttpResponse:
    """The part of the page that lives: state, steps, figures, and its name, which it may have taken over."""
    context = _context(request, _fetch(request, pk)) | {"renamed": True}
    answer = render(request, "playground/deployment.html#status", context)
    answer.write(render_to_string("playground/deployment.html#name", context, request))
    return answer


async def logs(request: Request, pk: int) -> HttpResponse:
    """The newest replica's log, or an older one's by ?replica=."""
    replica = await sync_to_async(_replica)(request, pk)
    text = await engine_logs.tail(replica) if replica else ""
    return await sync_to_async(render)(
        request, "playground/deployment.html#log", {"text": text, "read": True, "deployment": {"pk": pk}}
    )


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, "start", deployments.start, "{} starts.")


@require_POST
def stop(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, "stop", deployments.stop, "{} stops.")


@require_POST
def restart(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, "start", deployments.restart, "{} restarts.")


@require_POST
def delete(request: Request, pk: int) -> HttpResponse:
    return _act(request, pk, "stop", deployments.delete, "{} was deleted.", "running")


@require_POST
def idle(request: Request, pk: int) -> HttpResponse:
    """Change after how long without use it stops."""
    text = request.POST.get("idle_timeout_s", "")
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    return _act(
        request,
        pk,
        "start",
        lambda row, user: deployments.set_idle_timeout(row, seconds, user),
        "The idle time-out of {} was changed.",
    )


@require_POST
def free(request: Request, pk: int) -> HttpResponse:
    """A person says that nothing of the lost replicas runs any more."""
    return _act(request, pk, "stop", deployments.free_lost, "What {} held is free again.")


@require_POST
def stop_many(request: Request) -> HttpResponse:
    """Stop the chosen ones; those that refuse say why, the others stop."""
    access.require(request.user, "stop", team_of(request))
    stopped = 0
    for text in request.POST.getlist("chosen")[:200]:
        if (pk := number(text)) is None:
            continue
        row = access.fetch(request.user, Deployment.objects.all(), pk, write=True)
        access.require(request.user, "stop", row.team)
        try:
            deployments.stop(row, request.user)
            stopped += 1
        except deployments.DeploymentRefused as refusal:
            messages.error(request, str(refusal))
    if stopped:
        messages.success(request, f"{stopped} deployment{'s stop' if stopped > 1 else ' stops'}.")
    return redirect("running")


def _act(
    request: Request,
    pk: int,
    action: str,
    verb: Callable[[Deployment, User], Any],
    words: str,
    then: str = "deployment",
) -> HttpResponse:
    """Fetch, check, call one verb, say what happened."""
    row = access.fetch(request.user, Deployment.objects.all(), pk, write=True)
    access.require(request.user, action, row.team)
    try:
        verb(row, request.user)
    except deployments.DeploymentRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("deployment", pk=pk)
    messages.success(request, words.format(row.name))
    return redirect(then) if then == "running" else redirect(then, pk=pk)


def _fetch(request: Request, pk: int) -> Deployment:
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED)
    rows = rows.select_related(
        "model", "created_by", "team", "configuration__environment", "configuration__format"
    )
    return access.fetch(request.user, rows, pk)


def _replica(request: Request, pk: int) -> Replica | None:
    row = _fetch(request, pk)
    asked = number(request.GET.get("replica", ""))
    rows = row.replicas.select_related("node", "deployment").order_by("-pk")
    return (rows if asked is None else rows.filter(pk=asked)).first()


def _context(request: Request, row: Deployment) -> dict[str, Any]:
    now = standing.of(row)
    replicas = list(row.replicas.select_related("node", "deployment__model").order_by("-pk")[:8])
    shown = next((replica for replica in replicas if now.replica and replica.pk == now.replica.pk), None)
    steps = standing.steps(shown) if shown else []
    return {
        "deployment": row,
        "standing": now,
        "replica": shown,
        "replicas": replicas,
        "lost": any(replica.state == Replica.State.LOST for replica in replicas),
        "steps": [(step, [standing.job_line(job) for job in step.jobs]) for step in steps],
        "typical": standing.typical_start(row),
        **_wished(row),
        **attaching.panel(row),
        "log_lines": _last_lines(shown),
        "may_start": access.can(request.user, "start", row.team),
        "may_promote": access.can(request.user, "promote", row.team),
        "operators": access.holders("start", row.team),
        "where": row.team,
        "queue": _queue(request, row, shown),
        "idle_choices": forms.idle_choices(forms.text_of(row.idle_timeout_s)),
        **start_wishes.panel(request.user, row.team, deployment=row),
    }


def _queue(request: Request, row: Deployment, shown: Replica | None) -> holders.Queue | None:
    """Where it stands in the queue, while nothing is free for it."""
    if shown is None or shown.state != Replica.State.PENDING or shown.reason_code != ReasonCode.NO_ROOM:
        return None
    return holders.behind(request.user, row, shown.reason)


def _wished(row: Deployment) -> dict[str, Any]:
    """What was asked of it in words, and what it is to replace, or is replaced by."""
    known = row.engine in engines.names()
    frozen = row.configuration
    return {
        "title": engines.get(row.engine).title if known else row.engine,
        "options": edits.shown(engines.get(row.engine), row.wanted.get("options") or {}) if known else [],
        "extra": frozen.extra if frozen else row.wanted.get("extra") or [],
        "predecessor": edits.predecessor(row),
        "successor": edits.successor(row),
        "heir": edits.heirs(row).first(),
    }


def _last_lines(replica: Replica | None, lines: int = 20) -> str:
    """The end of the log of a replica that failed."""
    if replica is None or replica.state != Replica.State.FAILED:
        return ""
    return "\n".join(replica.log_tail.splitlines()[-lines:])


def _facet(row: Standing, name: str) -> str:
    """What a row is filtered by."""
    deployment = row.deployment
    owner = deployment.created_by
    return {
        "state": row.word,
        "engine": deployment.engine,
        "owner": owner.get_username() if owner else "",
        "model": deployment.model.name,
    }[name]


def _matches(row: Standing, chosen: dict[str, str]) -> bool:
    return all(not value or _facet(row, name) == value for name, value in chosen.items())
