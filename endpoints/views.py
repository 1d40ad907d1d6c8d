"""Pages of the production side: endpoints, one endpoint, Promote…."""

from typing import Any

from django.contrib import messages
from django.db.models import Prefetch
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from endpoints import launches, promotion
from endpoints.models import Endpoint, Release
from playground import access, snippets, standing
from playground.models import Deployment, Replica
from playground.views.request import Request, number, team_of


def listing(request: Request) -> HttpResponse:
    team = team_of(request)
    rows = access.visible_to(request.user, Endpoint.objects.filter(team=team))
    rows = rows.select_related("live__configuration__model", "live__created_by", "live__deployment")
    ready = Replica.objects.filter(state=Replica.State.READY)
    rows = rows.prefetch_related(
        Prefetch("live__deployment__replicas", ready, to_attr="serving"),
        Prefetch("releases", Release.objects.filter(state=Release.State.STARTING), to_attr="starting"),
    )
    part = "#rows" if request.htmx else ""
    context = {"rows": rows.order_by("name"), "may_promote": access.can(request.user, "promote", team)}
    return render(request, f"endpoints/list.html{part}", context)


def detail(request: Request, name: str) -> HttpResponse:
    endpoint = fetch(request, name)
    part = "#status" if request.htmx else ""
    return render(request, f"endpoints/detail.html{part}", _detail(request, endpoint))


def fetch(request: Request, name: str, *, write: bool = False) -> Endpoint:
    """The endpoint of that name in the person's team."""
    rows = Endpoint.objects.filter(team=team_of(request), name=name).select_related(
        "team", "live__deployment"
    )
    found = access.visible_to(request.user, rows).first()
    if found is None:
        if write:
            access.audit(request.user, None, "refused write", f"endpoint:{name}")
        raise Http404("no such endpoint")
    return found


def _detail(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    releases = endpoint.releases.select_related(
        "configuration__model", "configuration__environment", "created_by", "prompt_version__prompt"
    )
    starting = releases.filter(state=Release.State.STARTING).select_related("deployment").first()
    last = releases.first()
    base_url = request.build_absolute_uri("/v1")
    return {
        "endpoint": endpoint,
        "releases": [(row, _may_return(endpoint, row)) for row in releases],
        "launch": launches.steps(starting) if starting else [],
        "starting": starting,
        "failed": last if last and last.state == Release.State.FAILED else None,
        "standing": standing.of(endpoint.live.deployment) if endpoint.live else None,
        "events": endpoint.events.select_related("release", "previous", "user")[:30],
        "previous": _previous(endpoint),
        "base_url": base_url,
        "snippets": snippets.snippets(base_url, endpoint.name, _task(endpoint), {}, {"max_tokens": 64}),
        "may_promote": access.can(request.user, "promote", endpoint.team),
    }


def _task(endpoint: Endpoint) -> str:
    """What its live model is for."""
    return endpoint.live.configuration.model.task if endpoint.live else "chat"


def _may_return(endpoint: Endpoint, release: Release) -> bool:
    """Whether a roll back to it is possible."""
    returnable = (Release.State.WARM, Release.State.RETIRED)
    return release.state in returnable and release.pk != endpoint.live_id


def _previous(endpoint: Endpoint) -> Release | None:
    try:
        return promotion.earlier(endpoint)
    except promotion.PromotionRefused:
        return None


def promote(request: Request, pk: int) -> HttpResponse:
    """What would be launched, on what evidence, and in place of what; then the launch."""
    posted = request.method == "POST"
    deployment = access.fetch(request.user, Deployment.objects.select_related("team"), pk, write=posted)
    if not posted:
        return render(request, "endpoints/promote.html", launches.proposal(deployment, request.user, {}))
    access.require(request.user, "promote", deployment.team)
    try:
        release = launches.launch(deployment, request.user, request.POST)
    except promotion.PromotionRefused as refusal:
        context = launches.proposal(deployment, request.user, request.POST, refusal)
        status = 409 if isinstance(refusal, promotion.PromotionConflict) else 422
        return render(request, "endpoints/promote.html", context, status=status)
    return redirect("endpoints:detail", name=release.endpoint.name)


@require_POST
def rollback(request: Request, name: str) -> HttpResponse:
    endpoint = _writable(request, name)
    to = _release(endpoint, request.POST.get("release", ""))
    try:
        release = promotion.rollback(endpoint, request.user, to)
    except promotion.PromotionRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("endpoints:detail", name=name)
    words = "is live again" if release.state == Release.State.LIVE else "starts again and is live once ready"
    messages.success(request, f"Release {release.number} {words}.")
    return redirect("endpoints:detail", name=name)


@require_POST
def stop(request: Request, name: str) -> HttpResponse:
    """Stop a release that is still starting."""
    endpoint = _writable(request, name)
    release = _release(endpoint, request.POST.get("release", ""))
    try:
        if release is not None:
            promotion.stop(release, request.user)
    except promotion.PromotionRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("endpoints:detail", name=name)


@require_POST
def offline(request: Request, name: str) -> HttpResponse:
    promotion.take_offline(_writable(request, name), request.user)
    messages.success(request, f"{name} is offline. Promote something to bring it back.")
    return redirect("endpoints:detail", name=name)


def _writable(request: Request, name: str) -> Endpoint:
    endpoint = fetch(request, name, write=True)
    access.require(request.user, "promote", endpoint.team)
    return endpoint


def _release(endpoint: Endpoint, text: str) -> Release | None:
    """The release of that number; none when no number was given."""
    if not text:
        return None
    wanted = number(text)
    found = None if wanted is None else endpoint.releases.filter(number=wanted).first()
    if found is None:
        raise Http404("no such release")
    return found
