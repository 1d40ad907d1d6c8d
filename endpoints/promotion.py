"""Which release of an endpoint is live: promote, settle, roll back, stop, take offline.

The only writer of releases. A promotion makes one that starts on a deployment of its own; `settle` moves the
pointer once that is ready, by a conditional update, so the last good one stays live until another serves.
Where no second replica fits, the running one that was tested is handed over to the release.
"""

import re
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import Max, QuerySet

from endpoints.models import Endpoint, EndpointEvent, Release
from playground import access, deployments, events, tally
from playground.engines.base import ReasonCode
from playground.models import (
    Batch,
    BatchColumn,
    Configuration,
    Deployment,
    Generation,
    PromptVersion,
    Replica,
    Team,
    User,
)

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,78}[a-z0-9])?")
State = Release.State
# Releases that hold, or may again hold, a running deployment.
RUNNING = (State.STARTING, State.LIVE, State.WARM)


class PromotionRefused(Exception):
    """Why nothing was done; `field` names the input at fault, empty for the whole."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class PromotionConflict(PromotionRefused):
    """Someone else is moving this endpoint right now."""


def promote(
    deployment: Deployment,
    *,
    endpoint: str,
    user: User | None,
    sampling: Mapping[str, Any] | None = None,
    note: str = "",
    in_place: bool = False,
    prompt: PromptVersion | None = None,
) -> Release:
    """Begin to launch what `deployment` runs as `endpoint`; `settle` makes it live when it is ready.

    `prompt`: the version it was tested with, run for requests that name the prompt and no version.
    With `in_place` the running replica goes over to the release, at once and without a second start.
    """
    configuration = _tested(deployment)
    name = fitting_name(endpoint)
    if prompt is not None and prompt.prompt.team_id != deployment.team_id:
        raise PromotionRefused("That prompt is not the team's.", "prompt")
    with transaction.atomic():
        target = _locked(deployment.team, name, user)
        release = _number(target, deployment, configuration, user, sampling or {}, note, in_place, prompt)
        _record(target, "promote", user, release=release, previous=target.live, note=note)
    settle()
    release.refresh_from_db()
    return release


def _tested(deployment: Deployment) -> Configuration:
    """The configuration to launch; refused unless it is serving at this moment."""
    if deployment.configuration is None or not deployments.ready_replicas(deployment):
        raise PromotionRefused(f"{deployment.name} is not ready. Start it and try it first.")
    return deployment.configuration


def fitting_name(name: str) -> str:
    """The name without spaces around it; refused unless programs can call it everywhere."""
    name = name.strip()
    if not NAME.fullmatch(name):
        raise PromotionRefused(
            "Use lower-case letters, digits, hyphens and underscores; begin and end with a letter or digit; "
            "at most 80 characters.",
            "endpoint",
        )
    return name


def _locked(team: Team, name: str, user: User | None) -> Endpoint:
    """The endpoint, made if new, locked until the transaction ends; refused while another release starts."""
    Endpoint.objects.get_or_create(team=team, name=name, defaults={"created_by": user})
    endpoint = Endpoint.objects.select_for_update().get(team=team, name=name)
    if starting := endpoint.releases.filter(state=State.STARTING).first():
        raise PromotionConflict(
            f"Release {starting.number} of {name} is starting. Wait until it is live, or stop it.", "endpoint"
        )
    return endpoint


def _number(
    endpoint: Endpoint,
    tested: Deployment,
    configuration: Configuration,
    user: User | None,
    sampling: Mapping[str, Any],
    note: str,
    in_place: bool,
    prompt: PromptVersion | None,
) -> Release:
    """Make the next release and the deployment it owns."""
    number = (endpoint.releases.aggregate(last=Max("number"))["last"] or 0) + 1
    own = _own_deployment(endpoint, number, configuration, user)
    if in_place and not deployments.hand_over(tested, own):
        raise PromotionRefused(
            f"{tested.name} cannot be handed over: it belongs to a release, or just stopped."
        )
    return Release.objects.create(
        endpoint=endpoint,
        number=number,
        configuration=configuration,
        deployment=own,
        sampling=dict(sampling),
        prompt_version=prompt,
        evidence=evidence(tested),
        note=note.strip(),
        created_by=user,
    )


def _own_deployment(
    endpoint: Endpoint, number: int, configuration: Configuration, user: User | None
) -> Deployment:
    try:
        return deployments.release(
            configuration, team=endpoint.team, user=user, name=f"{endpoint.name}-{number}"
        )
    except deployments.DeploymentRefused as refusal:
        raise PromotionRefused(str(refusal)) from refusal


def evidence(tested: Deployment) -> dict[str, Any]:
    """What was tried, in figures: the deployment, the answers it gave, and what blind votes say of it."""
    answers = Generation.objects.filter(column__deployment=tested, state=Generation.State.COMPLETE)
    return {
        "deployment": tested.pk,
        "name": tested.name,
        "answers": answers.count(),
        "conversations": list(
            answers.order_by().values_list("turn__conversation", flat=True).distinct()[:20]
        ),
        "votes": tally.evidence(tested.configuration, tested.team) if tested.configuration else None,
    }


def settle() -> None:
    """Bring every starting release as far as it can go now. Idempotent; several may run at once."""
    starting = Release.objects.filter(state=State.STARTING).select_related(
        "endpoint__team", "deployment", "configuration"
    )
    for release in starting:
        _settle(release)
    for deployment in Deployment.objects.filter(released=True, desired=Deployment.Desired.RUNNING):
        _let_go(deployment, None)


def _settle(release: Release) -> None:
    if deployments.ready_replicas(release.deployment):
        _go_live(release, release.created_by, "live")
    elif refusal := _no_room(release.deployment):
        _make_do(release, refusal)
    elif problem := release.deployment.problem or _stopped(release.deployment):
        fail(release, problem)


def _stopped(deployment: Deployment) -> str:
    running = deployment.desired == Deployment.Desired.RUNNING
    return "" if running else "Its deployment was stopped."


def _no_room(deployment: Deployment) -> str:
    """Why its replica cannot be placed; empty while there is hope."""
    waiting = deployment.replicas.filter(state=Replica.State.PENDING, reason_code=ReasonCode.NO_ROOM)
    newest = waiting.order_by("-id").first()
    return newest.reason if newest else ""


def _make_do(release: Release, refusal: str) -> None:
    """No second replica fits: take over the tested one, or share one that runs this configuration."""
    tested = Deployment.objects.filter(pk=release.evidence.get("deployment")).first()
    if tested and deployments.hand_over(tested, release.deployment):
        note = f"No second replica fits, so the running one of {tested.name} was handed over."
        _record(release.endpoint, "hand over", release.created_by, release=release, note=note)
        _go_live(release, release.created_by, "live")
    elif shared := _sharable(release):
        _share(release, shared)
        _go_live(release, release.created_by, "live")
    else:
        fail(release, f"{refusal} What was tested no longer runs, so it could not take its place.")


def _share(release: Release, shared: Deployment) -> None:
    unused = release.deployment
    if Release.objects.filter(pk=release.pk, state=State.STARTING, deployment=unused).update(
        deployment=shared
    ):
        release.deployment = shared
        deployments.retire(unused, release.created_by)


def _sharable(release: Release) -> Deployment | None:
    """The ready deployment of another release of this endpoint with the very same configuration."""
    same = Deployment.objects.filter(
        releases__endpoint=release.endpoint,
        releases__state__in=[State.LIVE, State.WARM],
        configuration=release.configuration,
    ).exclude(pk=release.deployment_id)
    return next((row for row in same.distinct() if deployments.ready_replicas(row)), None)


def _go_live(release: Release, user: User | None, action: str) -> bool:
    """Move the pointer from what it showed to `release`; the one before stays warm, older ones retire."""
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().get(pk=release.endpoint_id)
        won = (
            Release.objects.filter(pk=release.pk, state__in=[State.STARTING, State.WARM])
            .exclude(pk=endpoint.live_id or 0)
            .update(state=State.LIVE, problem="")
        )
        if not won:
            return False
        previous = endpoint.live
        Endpoint.objects.filter(pk=endpoint.pk, live=previous).update(live=release)
        _retire(endpoint.releases.filter(state=State.WARM), user)
        if previous:
            Release.objects.filter(pk=previous.pk, state=State.LIVE).update(state=State.WARM)
        _record(endpoint, action, user, release=release, previous=previous, note=release.note)
    return True


def _retire(releases: QuerySet[Release], user: User | None) -> None:
    """Retire releases and stop deployments that no running release owns any more."""
    for release in list(releases.select_related("deployment")):
        if Release.objects.filter(pk=release.pk, state=release.state).update(state=State.RETIRED):
            _let_go(release.deployment, user)


def _let_go(deployment: Deployment, user: User | None) -> None:
    """Stop what no running release owns, unless a batch that began with it goes on: `settle` looks again."""
    asked = BatchColumn.objects.filter(deployment=deployment, batch__state__in=Batch.OPEN)
    if not Release.objects.filter(deployment=deployment, state__in=RUNNING).exists() and not asked.exists():
        deployments.retire(deployment, user)


def fail(release: Release, problem: str, user: User | None = None) -> bool:
    """Mark a starting release failed and stop what it started; what was live stays live."""
    with transaction.atomic():
        failed = Release.objects.filter(pk=release.pk, state=State.STARTING).update(
            state=State.FAILED, problem=problem
        )
        if failed:
            _let_go(release.deployment, user)
            _record(release.endpoint, "failed", user, release=release, note=problem)
    return bool(failed)


def stop(release: Release, user: User) -> None:
    """Stop a release that is still starting."""
    if not fail(release, f"Stopped by {user.get_username()}.", user):
        raise PromotionRefused("It is not starting any more.")


def rollback(endpoint: Endpoint, user: User | None, to: Release | None = None) -> Release:
    """Serve from an earlier release again: at once when it is warm, after a start when it was retired.

    A release that is still starting is stopped, so that it does not undo the roll back.
    """
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        target = earlier(endpoint, to)
        for starting in endpoint.releases.filter(state=State.STARTING).exclude(pk=target.pk):
            fail(starting, "A roll back came first.", user)
        if not _go_live_again(target, user):
            _restart(target, user)
    settle()
    target.refresh_from_db()
    return target


def earlier(endpoint: Endpoint, to: Release | None = None) -> Release:
    """The release to go back to: the one named, else the last that was live before."""
    # "warm" sorts after "retired": one that can take over at once comes first.
    candidates = endpoint.releases.exclude(pk=endpoint.live_id or 0).filter(
        state__in=[State.WARM, State.RETIRED]
    )
    target = (candidates.filter(pk=to.pk) if to else candidates.order_by("-state", "-number")).first()
    if target is None and to is not None:
        raise PromotionRefused(f"Release {to.number} is {to.state}: it cannot be rolled back to.")
    if target is None:
        raise PromotionRefused(f"{endpoint.name} has no earlier release to go back to.")
    return target


def _go_live_again(target: Release, user: User | None) -> bool:
    ready = target.state == State.WARM and deployments.ready_replicas(target.deployment)
    return bool(ready) and _go_live(target, user, "roll back")


def _restart(target: Release, user: User | None) -> None:
    """Start a retired (or fallen) release again, on a new deployment; `settle` then moves the pointer."""
    before = target.deployment
    own = _own_deployment(target.endpoint, target.number, target.configuration, user)
    if Release.objects.filter(pk=target.pk, state=target.state).update(
        state=State.STARTING, problem="", deployment=own
    ):
        _let_go(before, user)
        _record(target.endpoint, "roll back", user, release=target, note="It starts again first.")


def take_offline(endpoint: Endpoint, user: User) -> None:
    """Serve nothing under this name and stop its replicas; the history stays, promoting brings it back."""
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        previous = endpoint.live
        for starting in endpoint.releases.filter(state=State.STARTING):
            fail(starting, "The endpoint was taken offline.", user)
        Endpoint.objects.filter(pk=endpoint.pk).update(live=None)
        _retire(endpoint.releases.filter(state__in=[State.LIVE, State.WARM]), user)
        _record(endpoint, "offline", user, previous=previous)


def _record(
    endpoint: Endpoint,
    action: str,
    user: User | None,
    *,
    release: Release | None = None,
    previous: Release | None = None,
    note: str = "",
) -> None:
    """Keep who did what, in the endpoint's history and in the audit log, and tell the browsers."""
    change: dict[str, Any] = {
        "before": {"live": previous.number} if previous else None,
        "after": {"release": release.number} if release else {"live": None},
    }
    about = f"endpoint:{endpoint.pk}"
    access.audit(user, endpoint.team, f"endpoint {action}", about, name=endpoint.name, **change, note=note)
    EndpointEvent.objects.create(
        endpoint=endpoint, action=action, release=release, previous=previous, user=user, note=note
    )
    events.notify(endpoint.team_id, f"endpoint:{endpoint.pk}", "endpoints")
