"""Whether one more may be taken: replicas, GPU-hours, batch rows, storage, each within its `quotas`.

Each is looked at where the act happens, in its transaction and under a lock: what two ask for at once is
counted one after the other. Whoever holds a deployment's row may ask for a lock here, never the other way.
"""

from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from playground import access, engines, environments, quotas
from playground.models import Deployment, Node, RowsTaken, Team, User
from playground.quotas import GB, STORAGE

IN_PLACE = "the old one runs until the new one is ready, and both count: stop it, or another, first"


class QuotaReached(Exception):
    """A limit is reached; the text names it, what is used, and who can raise it."""


def lock(team: Team, name: str) -> None:
    """Until the transaction ends nobody else looks at this limit of this team."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"quota:{name}:{team.pk}"])


def check_replicas(row: Deployment, replaced: int | None = None) -> None:
    """After a deployment was made, or is to run again: QuotaReached where that is too many.

    `replaced`: the one whose place it takes once it is ready. Until then both run, and both count.
    """
    for person in _limited(row, "replicas"):
        lock(row.team, "replicas")
        used, most = quotas.replicas(row.team, person), _most(row.team, person, "replicas")
        if most is not None and used > most:
            others = quotas.replicas(row.team, person, [row.pk])
            what = f"{_count(most, 'replica')} at once, and {others} run or wait"
            hint = IN_PLACE if replaced else "stop one first"
            raise QuotaReached(_words(row.team, person, what, hint, "run"))


def may_place(row: Deployment) -> str:
    """Why one more replica of it may not get a place now; empty when it may. Its transaction places it."""
    for person in _limited(row, "replicas"):
        lock(row.team, "replicas")
        used, most = quotas.placed(row.team, person), _most(row.team, person, "replicas")
        if most is not None and used >= most:
            what = f"{_count(most, 'replica')} at once, and {used} run"
            return "It waits. " + _words(row.team, person, what, "it starts once one stops", "run")
    return ""


def gpus_spent(row: Deployment) -> str:
    """Why nothing of it may start on GPUs any more today; empty when it may."""
    for person in _limited(row, "gpu_hours_day"):
        most = _most(row.team, person, "gpu_hours_day")
        if most is not None and quotas.gpu_hours(row.team, person) >= most:
            what = f"{most:g} GPU-hours a day, which are used"
            return _words(row.team, person, what, "it can start after midnight UTC")
    return ""


def check_gpus(row: Deployment) -> None:
    """QuotaReached for a deployment that could only run on GPUs, of which there are none left today."""
    fresh = Now() - timedelta(seconds=settings.LOST_AFTER_S)
    nodes = Node.objects.filter(accepting=True, heartbeat_at__gt=fresh)
    adapter = engines.get(row.engine)
    if {environments.build_of(node, adapter) for node in nodes} == {"cuda"} and (why := gpus_spent(row)):
        raise QuotaReached(why)


def take_rows(team: Team, user: User | None, rows: int, what: str) -> None:
    """Count so many requests to the day's limit; QuotaReached where they are too many. They are begun now.

    `what`: one of RowsTaken.What.
    """
    lock(team, "rows")
    for person in _both(user):
        used, most = quotas.batch_rows(team, person), _most(team, person, "batch_rows_day")
        if most is not None and used + rows > most:
            words = (
                f"{most:,.0f} batch rows and measured requests a day; {used:,} were begun since midnight UTC,"
                f" this has {rows:,}"
            )
            hint = "take fewer rows, prompts or columns, or wait for tomorrow"
            raise QuotaReached(_words(team, person, words, hint))
    RowsTaken.objects.create(team=team, user=user, what=what, rows=rows)


def check_storage(team: Team, user: User | None, kind: str, wanted: int) -> None:
    """QuotaReached where so many bytes more are too many. The caller holds the team's row.

    A team without a limit of its own has the settings', one for each kind of storage.
    """
    noun, setting, held = STORAGE[kind]
    most = quotas.of_team(team, "storage_gb")
    if most is None:
        used, kind_most = held(team, None), getattr(settings, setting)
        if used + wanted > kind_most * GB:
            raise QuotaReached(
                f"The team's {noun} may take {kind_most:,.1f} GB together, and {used / GB:,.1f} are used: "
                f"remove some first, or ask whoever runs this site for more (SLIPWAY_{setting})."
            )
    for person in _both(user):
        limit = _most(team, person, "storage_gb")
        total = 0.0 if limit is None else quotas.stored(team, person)
        if limit is not None and total + wanted / GB > limit:
            what = f"{limit:,.1f} GB of models, datasets and files, and {total:,.1f} are used"
            raise QuotaReached(_words(team, person, what, "remove something first", "keep"))


def _limited(row: Deployment, name: str) -> list[User | None]:
    """Of the team, as None, and the person it counts for, those that have a limit."""
    whose = _both(None if row.released else row.created_by)
    return [person for person in whose if _most(row.team, person, name) is not None]


def _both(person: User | None) -> list[User | None]:
    return [None, person] if person else [None]


def _most(team: Team, person: User | None, name: str) -> float | None:
    return quotas.of_person(person, team, name) if person else quotas.of_team(team, name)


def _words(team: Team, person: User | None, what: str, hint: str, verb: str = "take") -> str:
    """The limit, what is used, and who can raise it."""
    if person:
        askable = [user.get_username() for user in access.holders("manage team", team)]
        who = f"In {team.name} {person.get_username()} may {verb} {what}"
        kind = "an administrator of the team"
    else:
        staff = User.objects.filter(is_staff=True, is_active=True).order_by("username")
        askable = list(staff.values_list("username", flat=True))
        who, kind = f"{team.name} may {verb} {what}", "a site administrator"
    named = f" ({', '.join(askable[:3])})" if askable else ""
    return f"{who}: {hint}, or ask {kind}{named} for more."


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
