"""What a team, and each person in it, may take: replicas, GPU-hours and batch rows a day, storage.

A team's own limits come from its row, which site administrators set; a person's from their membership, else
from their team's, which its administrators set; what neither names is the site's settings, or has no limit.
`admission` holds people to them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, Q, Sum
from django.utils import timezone

from playground import events, nudges
from playground.models import (
    Deployment,
    Membership,
    Replica,
    RowsTaken,
    Team,
    User,
)

State = Replica.State
GB = 10**9
SHARES = 4
# States of a replica that is on its way or serves: not one that ends, nor one that was lost and is replaced.
UP = (
    State.PENDING,
    State.PREPARING,
    State.ASSIGNED,
    State.STARTING,
    State.LOADING,
    State.READY,
    State.UNHEALTHY,
)
TITLES = {
    "replicas": "Running replicas",
    "gpu_hours_day": "GPU-hours a day",
    "storage_gb": "Storage, GB",
    "batch_rows_day": "Batch rows and measured requests a day",
}
MOST = 10**9

# What takes storage: its name → (words, the setting of its own limit, bytes of a team or of a person in it).
# Each storage adds itself from `AppConfig.ready`.
Held = Callable[[Team, User | None], int]
STORAGE: dict[str, tuple[str, str, Held]] = {}


@dataclass(frozen=True)
class Line:
    """One limit as a page shows it. `most` None: no limit; `own`: set for just this one."""

    name: str
    used: float
    most: float | None
    own: bool

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def shown_used(self) -> str:
        return _shown(self.used)

    @property
    def shown_most(self) -> str:
        if self.most is None and self.name == "storage_gb":
            kinds = [(words, getattr(settings, setting)) for words, setting, _ in STORAGE.values()]
            return ", ".join(f"{words} {most:g}" for words, most in kinds)
        return "no limit" if self.most is None else _shown(self.most)

    @property
    def share(self) -> float:
        """How much of it is used, 0…1."""
        return min(1.0, self.used / self.most) if self.most else float(self.most == 0)


def _shown(number: float) -> str:
    """1,200 or 0.4."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


# Limits


def of_team(team: Team, name: str) -> float | None:
    """The most a team may take; None is no limit."""
    if name in team.quotas:
        return float(team.quotas[name])
    usual: float | None = settings.QUOTAS["personal" if team.person_id else "team"][name]
    return usual


def of_person(user: User, team: Team, name: str) -> float | None:
    """The most a person may take in a team; None is no limit but the team's."""
    own = Membership.objects.filter(user=user, team=team).values_list("quotas", flat=True).first() or {}
    found = own.get(name, team.person_quotas.get(name))
    return None if found is None else float(found)


def parse(typed: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """Limits from a form's texts, and a sentence for each that is none. Empty is unset."""
    clean: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for name in TITLES:
        text = typed.get(name, "").strip().replace(",", "")
        whole = name in ("replicas", "batch_rows_day")
        if text and (number := _number(text, whole=whole)) is not None:
            clean[name] = number
        elif text:
            kind = "A whole number" if whole else "A number"
            wrong[name] = f"{kind} from 0 to {MOST:,}, or nothing."
    return clean, wrong


def _number(text: str, *, whole: bool) -> float | None:
    digits = text if whole else text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit() and len(text) < 16) or float(text) > MOST:
        return None
    return int(text) if whole else float(text)


# What is used


def use(team: Team, person: User | None = None) -> list[Line]:
    """Every limit with what is used of it, of a team or of one person in it."""
    own = team.quotas if person is None else {}
    if person is not None:
        rows = Membership.objects.filter(user=person, team=team)
        own = rows.values_list("quotas", flat=True).first() or {}
    return [
        Line(
            name,
            USED[name](team, person),
            of_team(team, name) if person is None else of_person(person, team, name),
            name in own,
        )
        for name in TITLES
    ]


def replicas(team: Team, person: User | None = None, without: Iterable[int] = ()) -> int:
    """Replicas that run, or will: of each deployment those on their way, or as many as it should have.

    A person's are those of the deployments they made; what serves an endpoint is only the team's.
    """
    rows = _deployments(team, person).exclude(pk__in=list(without))
    counted = rows.annotate(up=Count("replicas", filter=Q(replicas__state__in=UP)))
    wanted = counted.values_list("up", "min_replicas", "problem")
    return sum(max(up, 0 if problem else least) for up, least, problem in wanted)


def placed(team: Team, person: User | None = None) -> int:
    """Replicas that have a place, or look for no other."""
    rows = _deployments(team, person)
    up = [state for state in UP if state != State.PENDING]
    return Replica.objects.filter(deployment__in=rows, state__in=up).count()


def _deployments(team: Team, person: User | None) -> Any:
    rows = Deployment.objects.filter(team=team, desired=Deployment.Desired.RUNNING)
    return rows.filter(created_by=person, released=False) if person else rows


def midnight() -> datetime:
    """When the day of the daily limits began, UTC."""
    return timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)


def gpu_hours(team: Team, person: User | None = None) -> float:
    """GPU-hours held since midnight: from a replica's place to its end; a share counts as a part."""
    begin, now = midnight(), timezone.now()
    rows = Replica.objects.filter(deployment__team=team, resources__gpus__0__isnull=False)
    if person:
        rows = rows.filter(deployment__created_by=person, deployment__released=False)
    rows = rows.filter(Q(ended_at=None) | Q(ended_at__gt=begin))
    held = rows.annotate(since=Min("events__at", filter=Q(events__state=State.ASSIGNED)))
    hours = 0.0
    for row in held.values_list("resources", "since", "ended_at", "state", "heartbeat_at"):
        resources, since, ended, state, beat = row
        end = ended or (beat if state == State.LOST and beat else now)
        span = (end - max(begin, since or now)).total_seconds()
        hours += max(0.0, span) / 3600 * _gpus(resources)
    return hours


def _gpus(resources: Mapping[str, Any]) -> float:
    return sum(1.0 if gpu.get("share") is None else 1 / SHARES for gpu in resources.get("gpus") or [])


def batch_rows(team: Team, person: User | None = None) -> int:
    """What was begun since midnight: batches' rows, once for each column that asks them; failed rows asked
    again; requests of runs that measure. What is deleted since counts, too."""
    taken = RowsTaken.objects.filter(team=team, at__gte=midnight())
    if person:
        taken = taken.filter(user=person)
    return taken.aggregate(total=Sum("rows"))["total"] or 0


def stored(team: Team, person: User | None = None) -> float:
    """GB of everything the team keeps."""
    return sum(held(team, person) for _, _, held in STORAGE.values()) / GB


USED: dict[str, Callable[[Team, User | None], float]] = {
    "replicas": replicas,
    "gpu_hours_day": gpu_hours,
    "storage_gb": stored,
    "batch_rows_day": batch_rows,
}


def storage_most(team: Team, kind: str) -> int:
    """Bytes a kind of storage may take, as pages show it."""
    own = of_team(team, "storage_gb")
    return int((getattr(settings, STORAGE[kind][1]) if own is None else own) * GB)


def announce(team: Team) -> None:
    """Limits changed: what waits is looked at again."""
    events.notify(team.pk, "team")
    nudges.send("playground.reconcile")
