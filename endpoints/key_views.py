"""Pages of API keys: all of them, one that is changed, replaced or revoked, and the webhooks' secret."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.db.models import F, Prefetch
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from endpoints import key_form, key_report, keys
from endpoints.models import ApiKey
from playground import access, secrets, webhooks
from playground.views.request import Request, team_of


@never_cache
def listing(request: Request) -> HttpResponse:
    """The team's keys; a new one's secret is in the answer to its making, and nowhere else."""
    if request.method != "POST":
        return _list(request)
    team = team_of(request)
    access.require(request.user, "keys", team)
    typed = key_form.posted(request.POST)
    try:
        key, secret = keys.make(team, request.user, expires_at=key_form.life(typed), **key_form.values(typed))
    except keys.KeyRefused as refusal:
        return _list(request, typed, {refusal.field: str(refusal)}, status=422)
    return _list(request, made=key, secret=secret)


def _list(
    request: Request,
    typed: key_form.Typed | None = None,
    errors: Mapping[str, str] | None = None,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    team = team_of(request)
    rows = access.visible_to(request.user, ApiKey.objects.filter(team=team))
    rows = rows.select_related("created_by", "replaces").order_by(
        F("revoked_at").desc(nulls_first=True), "-created_at"
    )
    rows = rows.prefetch_related(
        Prefetch("replaced_by", ApiKey.objects.order_by("-id"), to_attr="replacements")
    )
    lines = key_report.lines(rows)
    context = {
        "rows": [(key, lines.get(key.pk, [])) for key in rows],
        "now": timezone.now(),
        "may_make": access.can(request.user, "keys", team),
        "webhook": secrets.find(team, webhooks.SECRET),
        **key_form.context(team, typed or key_form.Typed(), errors or {}),
        **more,
    }
    return render(request, "endpoints/keys.html", context, status=status)


@never_cache
def one(request: Request, pk: int) -> HttpResponse:
    """One key: what it may, what it uses, and the form that changes it."""
    posted = request.method == "POST"
    key = access.fetch(
        request.user, ApiKey.objects.select_related("team", "created_by", "replaces"), pk, write=posted
    )
    if not posted:
        return _one(request, key)
    access.require(request.user, "keys", key.team)
    typed = key_form.posted(request.POST)
    try:
        keys.change(key, request.user, expires_at=key_form.end(typed, key), **key_form.values(typed))
    except keys.KeyRefused as refusal:
        return _one(request, key, typed, {refusal.field: str(refusal)}, status=422)
    messages.success(request, f"{key.name} is changed: web processes follow within seconds.")
    return redirect("endpoints:key", pk=pk)


def _one(
    request: Request,
    key: ApiKey,
    typed: key_form.Typed | None = None,
    errors: Mapping[str, str] | None = None,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    living = keys.living(ApiKey.objects.filter(pk=key.pk)).exists()
    context = {
        "lines": key_report.lines([key]).get(key.pk, []),
        "replacement": key.replaced_by.order_by("-id").first(),
        "living": living,
        "overlaps": key_form.OVERLAPS,
        "overlap": "24",
        "may_make": access.can(request.user, "keys", key.team),
        **key_form.context(key.team, typed or key_form.of(key), errors or {}, key),
        **more,
    }
    return render(request, "endpoints/key.html", context, status=status)


@require_POST
@never_cache
def rotate(request: Request, pk: int) -> HttpResponse:
    """A new secret, in this one answer; the old one works on for as long as was chosen."""
    key = _writable(request, pk)
    text = request.POST.get("overlap", "")
    try:
        fresh, secret = keys.rotate(key, request.user, key_form.overlap(text))
    except keys.KeyRefused as refusal:
        error = {refusal.field: str(refusal)}
        return _one(request, key, errors=error, status=422, overlap=text)
    key.refresh_from_db()
    return _list(request, made=fresh, secret=secret, replaced=key)


@require_POST
def revoke(request: Request, pk: int) -> HttpResponse:
    key = _writable(request, pk)
    if keys.revoke(key, request.user):
        messages.success(request, f"{key.name} is revoked: refused everywhere within seconds.")
    return redirect("endpoints:keys")


def _writable(request: Request, pk: int) -> ApiKey:
    key = access.fetch(request.user, ApiKey.objects.select_related("team"), pk, write=True)
    access.require(request.user, "keys", key.team)
    return key


@require_POST
@never_cache
def webhook_secret(request: Request) -> HttpResponse:
    """A new secret for the team's webhooks, in this one answer and nowhere else."""
    team = team_of(request)
    access.require(request.user, "keys", team)
    return _list(request, webhook_secret=webhooks.renew_secret(team, request.user))
