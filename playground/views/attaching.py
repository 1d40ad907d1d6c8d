"""Adapters of a deployment that runs: attaching one more, letting one go."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from playground import access, adapters, attaching, engines, standing
from playground.models import Deployment, Job
from playground.views.request import Request


def panel(row: Deployment) -> dict[str, Any]:
    """What stands on the deployment's page; nothing for a model and an engine without adapters."""
    rows = list(row.model.adapters.order_by("name"))
    if not rows or row.engine not in engines.names():
        return {}
    served = adapters.served(row)
    job = attaching.newest_job(row)
    return {
        "adapters": [one for one in rows if one.name in served],
        "attach_choices": attaching.choices(row),
        "attach_verdict": attaching.can(row),
        "attach_line": standing.job_line(job) if job and job.state in Job.ACTIVE else None,
        "attach_failed": job if job and job.state == Job.State.FAILED else None,
    }


@require_POST
def attach(request: Request, pk: int) -> HttpResponse:
    return _ask(request, pk, attaching.ATTACH)


@require_POST
def detach(request: Request, pk: int) -> HttpResponse:
    return _ask(request, pk, attaching.DETACH)


def _ask(request: Request, pk: int, verb: str) -> HttpResponse:
    rows = Deployment.objects.exclude(desired=Deployment.Desired.DELETED).select_related("model", "team")
    row = access.fetch(request.user, rows, pk, write=True)
    access.require(request.user, "start", row.team)
    asked = request.POST.get("adapter", "")
    number = asked if asked.isascii() and asked.isdigit() and len(asked) < 18 else "0"
    adapter = get_object_or_404(row.model.adapters, pk=number)
    try:
        attaching.request(row, adapter, verb, request.user)
    except attaching.AttachRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("deployment", pk=row.pk)
