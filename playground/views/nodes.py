"""Machines: what each has and holds, engine environments and their installs."""

import re
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from playground import access, engines, environments, frame, holders, jobs, options, standing
from playground import nodes as machines
from playground.models import EngineEnvironment, Job, Node, Replica, Team, User
from playground.views.request import Request, team_of

ENDED_SHOWN = 3
# As the column holds it: six digits, four after the point.
PRICE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,4})?")


def page(request: Request) -> HttpResponse:
    """Every node. Nodes belong to no team: all see them, and not what other teams run there."""
    part = "#nodes" if request.htmx else ""
    return render(request, f"playground/nodes.html{part}", _context(request))


@require_POST
def install(request: Request, pk: int) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "install", team)
    node = get_object_or_404(Node, pk=pk)
    engine, version = request.POST.get("engine", ""), request.POST.get("version", "").strip()
    error = _wrong(engine, version)
    if error:
        context = _context(request) | {
            "wrong": {"node": node.pk, "version": version, "engine": engine, **error}
        }
        return render(request, "playground/nodes.html", context, status=422)
    try:
        made = environments.ensure(node, engine, version or None, team=team, user=request.user)
    except jobs.JobRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("nodes")
    if isinstance(made, EngineEnvironment):
        messages.info(request, f"{engine} {made.version} is installed on {node.name} already.")
    return redirect("nodes")


@require_POST
def price(request: Request, pk: int) -> HttpResponse:
    """What an hour of this machine costs; empty is unknown."""
    team = team_of(request)
    access.require(request.user, "price", team)
    node = get_object_or_404(Node, pk=pk)
    text = request.POST.get("price_per_hour", "").strip()
    if text and not PRICE.fullmatch(text):
        wrong = {"node": node.pk, "price": text, "price_error": "A number like 2.49, or nothing."}
        return render(request, "playground/nodes.html", _context(request) | {"wrong": wrong}, status=422)
    machines.set_price(node, Decimal(text) if text else None, request.user, team)
    messages.success(request, f"The price of {node.name} was changed.")
    return redirect("nodes")


@require_POST
def remove(request: Request, pk: int, environment: int) -> HttpResponse:
    team = team_of(request)
    access.require(request.user, "install", team)
    node, row = get_object_or_404(Node, pk=pk), get_object_or_404(EngineEnvironment, pk=environment)
    try:
        environments.remove(row, node, team, request.user)
    except jobs.JobRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("nodes")


def _wrong(engine: str, version: str) -> dict[str, str]:
    if engine not in engines.names():
        return {"engine_error": "Choose an engine."}
    if version and not options.VERSION.fullmatch(version):
        return {"version_error": "A version looks like 0.32.0."}
    return {}


def _context(request: Request) -> dict[str, Any]:
    team = team_of(request)
    return {
        "nodes": [_facts(request.user, node, team) for node in Node.objects.order_by("name")],
        "engines": [adapter for adapter in engines.all() if not adapter.is_elsewhere],
        "may_install": access.can(request.user, "install", team),
        "may_start": access.can(request.user, "start", team),
        "installers": access.holders("install", team),
        "wrong": {},
    }


def _facts(user: User, node: Node, team: Team) -> dict[str, Any]:
    """One node as its panel shows it."""
    found = node.inventory
    memory, free = found.get("memory_bytes"), found.get("memory_available_bytes")
    running = node.replicas.filter(state__in=Replica.HOLDING)
    held = EngineEnvironment.objects.filter(digest__in=found.get("environments") or [])
    node_jobs = Job.objects.filter(node=node, team=team)
    return {
        "node": node,
        "live": frame.is_live(node),
        "memory_used": memory - free if memory and free is not None else None,
        "cores_used": sum(replica.health.get("cpu") or 0 for replica in running),
        "replicas": holders.on(user, team, node),
        "environments": held.order_by("engine", "-pk"),
        "active": [standing.job_line(job) for job in node_jobs.filter(state__in=Job.ACTIVE).order_by("pk")],
        "ended": _ended(node_jobs),
        "build": environments.build_of(node),
    }


def _ended(rows: Any) -> list[Job]:
    """Failed and cancelled jobs that were not tried again since, newest first."""
    newest: dict[str, Job] = {}
    for job in rows.order_by("-pk")[:50]:
        newest.setdefault(job.target, job)
    failed = [job for job in newest.values() if job.state in (Job.State.FAILED, Job.State.CANCELLED)]
    return failed[:ENDED_SHOWN]
