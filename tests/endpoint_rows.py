"""Endpoints as a team has them after some weeks, for tests of pages. States are set, not lived through."""

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey, Endpoint, EndpointEvent, Release
from playground.models import Configuration, Deployment, Node, Replica, ReplicaEvent, Team, User
from tests.rows import STEPS, Rows

LONG = "an-endpoint-whose-name-is-as-long-as-a-name-may-be-which-is-eighty-characters-ok"
PROBLEM = "The KV cache of 131,072 tokens needs 2.8 GiB, which is not free: lower the context, to 65,536."
State = Release.State


@dataclass(frozen=True)
class Endpoints:
    """What `full` made."""

    triage: Endpoint
    """Live on release 3; 2 is warm, 1 retired, 4 failed."""
    starting: Endpoint
    silent: Endpoint
    """Live, with no replica ready."""
    offline: Endpoint
    key: ApiKey


def full(rows: Rows, team: Team, user: User) -> Endpoints:
    """An endpoint in every kind of state, and keys in use, unused, revoked and expired."""
    maker = _Maker(rows, team, user)
    triage = maker.endpoint("support-triage")
    maker.release(triage, 1, State.RETIRED, "First try.", days=21)
    warm = maker.release(triage, 2, State.WARM, "Shorter answers, asked for by support.", days=9, ready=True)
    live = maker.release(
        triage, 3, State.LIVE, "Q8 weights: fewer wrong tags.", days=2, ready=True, temperature=0.2, top_p=0.9
    )
    failed = maker.release(triage, 4, State.FAILED, "Longer context for long threads.", days=0)
    Release.objects.filter(pk=failed.pk).update(problem=PROBLEM)
    maker.live(triage, live, warm)
    maker.event(triage, "failed", failed, None, PROBLEM)
    starting = maker.endpoint("summaries")
    maker.start(starting)
    silent = maker.endpoint(LONG)
    maker.live(silent, maker.release(silent, 1, State.LIVE, "", days=1), None)
    offline = maker.endpoint("old-search")
    maker.release(offline, 1, State.RETIRED, "Replaced by support-triage.", days=30)
    maker.event(offline, "offline", None, None, "")
    return Endpoints(triage, starting, silent, offline, _keys(team, user))


def _keys(team: Team, user: User) -> ApiKey:
    now = timezone.now()
    used, _ = keys.make(team, user, "support desk, production", keys.SCOPES)
    ApiKey.objects.filter(pk=used.pk).update(last_used_at=now - timedelta(seconds=40))
    keys.make(
        team, user, "nightly evaluation of every model that anybody in this team starts", ["playground"]
    )
    revoked, _ = keys.make(team, user, "laptop of a leaver", ["endpoints"])
    keys.revoke(revoked, user)
    expired, _ = keys.make(team, None, "trial", ["endpoints"], now + timedelta(hours=1))
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=now - timedelta(days=3))
    return used


class _Maker:
    def __init__(self, rows: Rows, team: Team, user: User) -> None:
        self.rows, self.team, self.user = rows, team, user
        assert rows.ready.configuration is not None
        self.configuration: Configuration = rows.ready.configuration

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint.objects.create(team=self.team, name=name, created_by=self.user)

    def release(
        self,
        endpoint: Endpoint,
        number: int,
        state: str,
        note: str,
        *,
        days: int,
        ready: bool = False,
        **sampling: float,
    ) -> Release:
        deployment = self._deployment(f"{endpoint.name}-{number}"[:80], running=ready)
        if ready:
            self._replica(deployment, self.rows.node, Replica.State.READY)
        release = Release.objects.create(
            endpoint=endpoint,
            number=number,
            configuration=self.configuration,
            deployment=deployment,
            sampling=sampling,
            note=note,
            state=state,
            created_by=self.user,
            evidence={
                "deployment": self.rows.ready.pk,
                "name": "smol",
                "answers": 3 * number,
                "conversations": [],
            },
        )
        at = timezone.now() - timedelta(days=days, minutes=7)
        Release.objects.filter(pk=release.pk).update(created_at=at)
        self.event(endpoint, "promote", release, None, note)
        return release

    def live(self, endpoint: Endpoint, release: Release, previous: Release | None) -> None:
        Endpoint.objects.filter(pk=endpoint.pk).update(live=release)
        endpoint.refresh_from_db()
        self.event(endpoint, "live", release, previous, "")

    def start(self, endpoint: Endpoint) -> None:
        release = self.release(endpoint, 1, State.STARTING, "Weekly report.", days=0)
        Deployment.objects.filter(pk=release.deployment_id).update(desired=Deployment.Desired.RUNNING)
        self._replica(release.deployment, self.rows.node, Replica.State.LOADING, steps=5)

    def event(
        self, endpoint: Endpoint, action: str, release: Release | None, previous: Release | None, note: str
    ) -> None:
        EndpointEvent.objects.create(
            endpoint=endpoint, action=action, release=release, previous=previous, user=self.user, note=note
        )

    def _deployment(self, name: str, *, running: bool) -> Deployment:
        return Deployment.objects.create(
            team=self.team,
            created_by=self.user,
            model=self.rows.model,
            name=name,
            engine="llama.cpp",
            configuration=self.configuration,
            released=True,
            desired=Deployment.Desired.RUNNING if running else Deployment.Desired.STOPPED,
        )

    def _replica(self, deployment: Deployment, node: Node, state: str, steps: int = len(STEPS)) -> None:
        replica = Replica.objects.create(
            deployment=deployment, node=node, state=state, configuration=self.configuration
        )
        began = timezone.now() - timedelta(seconds=12)
        for name, note, after in STEPS[:steps]:
            event = ReplicaEvent.objects.create(replica=replica, state=name, note=note)
            ReplicaEvent.objects.filter(pk=event.pk).update(at=began + timedelta(seconds=after))
