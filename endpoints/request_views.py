"""The requests of an endpoint, one by one: figures of all, and what was said where the endpoint keeps it."""

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from endpoints import logged, requests
from endpoints.logged import LoggedRefused
from endpoints.models import ApiKey, Endpoint, LoggedRequest
from endpoints.views import fetch
from playground import access, datasets
from playground.datasets import DatasetRefused
from playground.models import Dataset
from playground.views.request import Request, number

PAGE, ONE = "endpoints/requests.html", "endpoints/request.html"
LISTED = 50
TICKED = 500
HTTP_UNPROCESSABLE = 422
# To the first token, or of a whole answer to its end.
SLOW = {"": "all", "1": "slower than 1 s", "5": "slower than 5 s", "30": "slower than 30 s"}
FILTERS = ("status", "key", "slow", "id")


@never_cache
@require_GET
def listing(request: Request, name: str) -> HttpResponse:
    """Newest first; ?status=, ?key=, ?slow= and ?id= choose, ?before= is the next page."""
    endpoint = fetch(request, name)
    return render(request, PAGE, _listing(request, endpoint))


def _listing(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    wanted = {name: request.GET.get(name, "")[:128] for name in FILTERS}
    before = request.GET.get("before", "")
    rows = _chosen(endpoint, wanted)
    if (below := number(before)) is not None:
        rows = rows.filter(pk__lt=below)
    found = list(rows.order_by("-pk")[: LISTED + 1])
    shown = found[:LISTED]
    query = {name: value for name, value in wanted.items() if value}
    team = endpoint.team
    return {
        "endpoint": endpoint,
        "rows": shown,
        "any_kept": any(row.kept for row in shown),
        "wanted": wanted,
        "filtered": bool(query),
        "before": before,
        "here": urlencode(query | ({} if below is None else {"before": before})),
        "first": urlencode(query),
        "next": urlencode(query | {"before": shown[-1].pk}) if len(found) > LISTED else "",
        "statuses": requests.STATUSES.items(),
        "slows": SLOW.items(),
        "keys": access.visible_to(request.user, ApiKey.objects.filter(team=team)).order_by("name", "pk")[
            :500
        ],
        "datasets": access.visible_to(request.user, Dataset.objects.filter(team=team)).order_by("name")[:500],
        "may_open": access.can(request.user, "chat", team),
        "may_promote": access.can(request.user, "promote", team),
        "log_typed": {"share": None, "days": None},
        "typed": {"dataset": "", "name": "", "answers": True, "ticked": set()},
        "share": f"{endpoint.log_share * 100:g}",
    }


def _chosen(endpoint: Endpoint, wanted: dict[str, str]) -> QuerySet[Any]:
    slow = wanted["slow"] if wanted["slow"] in SLOW else ""
    return requests.chosen(
        endpoint,
        status=wanted["status"],
        key=number(wanted["key"]),
        slower_ms=1000 * int(slow) if slow else None,
        name=wanted["id"].strip(),
    )


@never_cache
@require_GET
def one(request: Request, name: str, pk: int) -> HttpResponse:
    """What was asked and answered in one of them. For members: it is what somebody wrote."""
    endpoint = fetch(request, name)
    access.require(request.user, "chat", endpoint.team)
    return render(request, ONE, _one(_logged(endpoint, pk)))


def _logged(endpoint: Endpoint, pk: int) -> LoggedRequest:
    found = requests.one(endpoint, pk)
    if found is None:
        raise Http404("no such request, or it is not kept any more")
    return found


def _one(row: LoggedRequest, error: str = "") -> dict[str, Any]:
    return {
        "row": row,
        "used": row.usage,
        "asked": _written(row.request),
        "answer": logged.said(row.answer),
        "answered": _written(row.answer),
        "error": error,
    }


def _written(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


@require_POST
def open_one(request: Request, name: str, pk: int) -> HttpResponse:
    """A conversation that begins as this request did."""
    endpoint = fetch(request, name, write=True)
    access.require(request.user, "chat", endpoint.team)
    row = _logged(endpoint, pk)
    try:
        opened = logged.open_in_playground(row, request.user)
    except LoggedRefused as refusal:
        return render(request, ONE, _one(row, str(refusal)), status=HTTP_UNPROCESSABLE)
    if opened.left_out:
        left = ", ".join(opened.left_out)
        messages.warning(request, f"A conversation does not hold {left}: its answers here are without.")
    return redirect("conversation", opened.conversation.pk)


@require_POST
def add(request: Request, name: str) -> HttpResponse:
    """Those that are ticked become rows of a dataset: `dataset`, or a new one called `name`."""
    endpoint = fetch(request, name, write=True)
    access.require(request.user, "chat", endpoint.team)
    given = request.POST.getlist("request")[:TICKED]
    ticked = [pk for text in given if (pk := number(text)) is not None]
    try:
        return _added(request, endpoint, ticked)
    except DatasetRefused as problem:
        typed: dict[str, Any] = {name: request.POST.get(name, "") for name in ("dataset", "name")}
        typed |= {"answers": "answers" in request.POST, "ticked": set(ticked)}
        context = _listing(request, endpoint) | {"typed": typed, "error": str(problem)}
        return render(request, PAGE, context, status=HTTP_UNPROCESSABLE)


def _added(request: Request, endpoint: Endpoint, ticked: list[int]) -> HttpResponse:
    requests.require_kept(endpoint, ticked)
    own = request.POST.get("dataset", "")
    if own:
        if number(own) is None:
            raise Http404("no such dataset")
        target = access.fetch(request.user, Dataset.objects.filter(team=endpoint.team), own, write=True)
    else:
        target = datasets.create(endpoint.team, request.user, request.POST.get("name", ""))
    try:
        answers = "answers" in request.POST
        version = requests.add_to(target, request.user, endpoint, ticked, answers=answers)
    except DatasetRefused:
        if not own:
            target.delete()
        raise
    words = f"{target.name} has {version.row_count:,} rows now, as version {version.number}."
    if version.bad_rows:
        words += f" {version.bad_rows} could not be added: {version.problems[0]['why']}"
    messages.success(request, words)
    return redirect("dataset", target.pk)


@require_POST
def set_log(request: Request, name: str) -> HttpResponse:
    """Of how many requests what is said is kept, in percent, and for how many days."""
    endpoint = fetch(request, name, write=True)
    access.require(request.user, "promote", endpoint.team)
    share, days = request.POST.get("share", "").strip(), request.POST.get("days", "").strip()
    try:
        logged.set_log(endpoint, request.user, _share(share), _days(days))
    except LoggedRefused as refusal:
        context = _listing(request, endpoint)
        context |= {"log_error": {refusal.field: str(refusal)}, "log_typed": {"share": share, "days": days}}
        return render(request, PAGE, context, status=HTTP_UNPROCESSABLE)
    messages.success(request, _told(endpoint))
    return redirect(reverse("endpoints:requests", args=[name]))


def _share(text: str) -> float:
    try:
        return round(float(text) / 100, 6)
    except (ValueError, OverflowError) as problem:
        raise LoggedRefused("A share is a number from 0 to 100.", "share") from problem


def _days(text: str) -> int:
    days = number(text)
    if days is None:
        raise LoggedRefused("A whole number of days.", "days")
    return days


def _told(endpoint: Endpoint) -> str:
    if not endpoint.log_share:
        return "Nothing more that is asked or answered is kept; what was kept goes when its days are over."
    share = f"{endpoint.log_share * 100:g} %"
    return f"What is asked and answered in {share} of requests is kept for {endpoint.log_days} days."
