"""Own models from the pages: files sent in pieces, folders of a bucket, and what of both is on its way."""

import re
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.db.models.functions import Now
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from playground import access, catalogue, disk, imports, jobs, landing, secrets, uploads
from playground.models import Job, Model, Team, Upload
from playground.views.request import Request, team_of

RECENT = timedelta(hours=6)
SHOWN = 4
HEX = re.compile(r"[0-9a-f]{64}")
REFUSALS = (uploads.UploadRefused, landing.LandingRefused, disk.DiskFull)


@require_GET
def page(request: Request) -> HttpResponse:
    """The panel as a page of its own, and its list of what is on its way as a fragment."""
    part = "playground/add_model.html#coming" if request.htmx else "playground/own_models.html"
    return render(request, part, panel(request))


def panel(request: Request, **more: Any) -> dict[str, Any]:
    """What `add_model.html` shows."""
    team = team_of(request)
    return {
        "folder": catalogue.root(),
        "may_add": access.can(request.user, "add models", team),
        "may_keep_s3": access.can(request.user, "tokens", team),
        "adders": access.holders("add models", team),
        "s3": secrets.find(team, imports.SECRET),
        "coming": uploads.coming(team),
        "imports": _imports(team),
        "landed": _landed(team),
        "piece": uploads.PIECE,
        "own_used": landing.usage(team),
        "own_most": landing.most(team),
        **more,
    }


# Uploads: asked by static/upload.js, answered in JSON


@require_POST
def begin(request: Request) -> HttpResponse:
    """One file's row: new, or as far as it is."""
    team = team_of(request)
    access.require(request.user, "add models", team)
    posted = request.POST
    size, sha256 = posted.get("size", ""), posted.get("sha256", "")
    if not (size.isascii() and size.isdigit() and len(size) < 16) or (sha256 and not HEX.fullmatch(sha256)):
        return JsonResponse({"error": "The size is a number, the SHA-256 has 64 hex digits."}, status=400)
    name, path = posted.get("name", "").strip(), posted.get("path", "")
    try:
        row = uploads.begin(team, request.user, name, path, int(size), sha256)
        amount, digest = uploads.tail(row)
    except REFUSALS as refusal:
        return _refused(refusal)
    known = {"id": row.pk, "received": row.received_bytes, "tail": amount, "tail_sha256": digest}
    return JsonResponse(known | {"url": reverse("upload-piece", args=[row.pk])})


@require_POST
def piece(request: Request, pk: int) -> HttpResponse:
    """One piece of a file, as the body; where it belongs and its SHA-256 stand in the headers."""
    row = access.fetch(request.user, Upload.objects.all(), pk, write=True)
    access.require(request.user, "add models", row.team)
    offset, sha256 = request.headers.get("X-Offset", ""), request.headers.get("X-Sha256", "")
    if not (offset.isascii() and offset.isdigit() and len(offset) < 16):
        return JsonResponse({"error": "X-Offset says where the piece belongs."}, status=400)
    try:
        received = uploads.write(row, int(offset), request.read(uploads.PIECE + 1), sha256)
    except REFUSALS as refusal:
        return _refused(refusal)
    return JsonResponse({"received": received})


@require_POST
def finish(request: Request) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "add models", team)
    try:
        job = uploads.finish(team, request.user, request.POST.get("name", "").strip())
    except REFUSALS as refusal:
        return _refused(refusal)
    return JsonResponse({"job": job.pk})


@require_POST
def remove(request: Request) -> HttpResponse:
    """Throw away what came of one model so far."""
    team = team_of(request)
    access.require(request.user, "add models", team)
    name = request.POST.get("name", "")
    if uploads.remove(team, request.user, name):
        messages.success(request, f"The upload {name} was removed.")
    else:
        messages.info(request, "It was removed already.")
    return redirect("own-models")


def _refused(refusal: Exception) -> HttpResponse:
    received = getattr(refusal, "received", None)
    status = 507 if isinstance(refusal, disk.DiskFull) else 409 if received is not None else 422
    told = {"error": str(refusal), "received": received, "left_out": isinstance(refusal, landing.NotNeeded)}
    return JsonResponse(told, status=status)


# Buckets


@require_POST
def from_bucket(request: Request) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "add models", team)
    typed = {name: request.POST.get(name, "").strip() for name in ("address", "name")}
    try:
        imports.request(team, request.user, typed["address"], typed["name"])
    except imports.ImportRefused as refusal:
        return _again(request, bucket_typed=typed, bucket_errors=refusal.fields)
    except landing.LandingRefused as refusal:
        return _again(request, bucket_typed=typed, bucket_errors={"address": str(refusal)})
    return redirect(reverse("own-models") + "#coming")


@require_POST
def stop(request: Request, pk: int) -> HttpResponse:
    """Cancel an import that runs, or throw away what a failed one left."""
    job = access.fetch(request.user, Job.objects.filter(kind=Job.Kind.IMPORT_MODEL), pk, write=True)
    access.require(request.user, "add models", job.team)
    landing.give_up(job, request.user)
    return redirect("own-models")


@require_POST
def keep_credentials(request: Request) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "tokens", team)
    given = imports.Credentials(
        **{name: request.POST.get(name, "").strip() for name in ("key", "secret", "endpoint", "region")}
    )
    try:
        imports.keep_credentials(team, request.user, given)
    except imports.ImportRefused as refusal:
        typed = {"key": given.key, "endpoint": given.endpoint, "region": given.region}
        return _again(request, s3_typed=typed, s3_errors=refusal.fields)
    messages.success(request, "The credentials are kept, encrypted.")
    return redirect("own-models")


@require_POST
def forget_credentials(request: Request) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "tokens", team)
    secrets.forget(team, imports.SECRET, request.user)
    return redirect("own-models")


def _again(request: Request, **more: Any) -> HttpResponse:
    return render(request, "playground/own_models.html", panel(request, **more), status=422)


def _imports(team: Team) -> list[tuple[Job, str, int | None]]:
    """Imports from buckets that run, or failed and left something: each with words and per cent."""
    return [(job, jobs.in_words(job.progress), _share(job.progress)) for job in landing.imports(team)]


def _share(progress: dict[str, Any]) -> int | None:
    done, total = progress.get("done"), progress.get("total")
    return round(100 * done / total) if done is not None and total else None


def _landed(team: Team) -> list[Model]:
    """Models that came lately, to go on with."""
    rows = Job.objects.filter(team=team, kind=Job.Kind.IMPORT_MODEL, state=Job.State.DONE)
    recent = rows.filter(ended_at__gte=Now() - RECENT).order_by("-pk")[:SHOWN]
    keys = [job.result.get("model") for job in recent]
    return list(Model.objects.filter(team=team, pk__in=keys, missing=False))
