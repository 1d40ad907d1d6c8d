"""Who may not start a model asks those who may: a wish, which an operator starts with one press or declines.

Whoever asked sees what became of it until they clear it. That whoever acts may do it was judged before.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from playground import access, deployments, events, fitting
from playground import options as engine_options
from playground.deployments import DeploymentRefused
from playground.frame import Need
from playground.models import Deployment, Model, StartWish, Team, User

State = StartWish.State
OPEN_AT_MOST = 20
SHOWN_DAYS = 3


class WishRefused(Exception):
    """A wish may not be made or answered so; the text says why."""


def ask_for_model(user: User, model: Model, wanted: Mapping[str, Any], text: str = "") -> StartWish:
    """Ask that a model be started with what the form said; DeploymentRefused names what is wrong in it."""
    if wanted:
        given = (wanted["engine"], wanted["options"], wanted.get("version"), wanted.get("name") or "")
        _, fields = engine_options.judge(model.team, model, *given)
        numbers = (wanted.get("idle_timeout_s"), wanted.get("gpus"), wanted.get("cores"))
        fields |= engine_options.judge_numbers(1, 1, *numbers)
        if fields:
            raise DeploymentRefused(fields)
    return _ask(user, model.team, text, model=model, wanted=dict(wanted))


def ask_for_deployment(user: User, row: Deployment, text: str = "") -> StartWish:
    if row.desired == Deployment.Desired.RUNNING and not row.problem:
        raise WishRefused(f"{row.name} was started already.")
    return _ask(user, row.team, text, deployment=row)


def _ask(user: User, team: Team, text: str, **what: Any) -> StartWish:
    """The wish, or the person's open one for the same, with what was said last."""
    text = " ".join(text.split())[:500]
    same = {key: what.get(key) for key in ("model", "deployment")}
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        mine = StartWish.objects.filter(team=team, created_by=user, state=State.OPEN)
        known = mine.filter(**same).first()
        if known is None and mine.count() >= OPEN_AT_MOST:
            raise WishRefused(f"{OPEN_AT_MOST} of your wishes wait for an answer already.")
        if known:
            mine.filter(pk=known.pk).update(text=text, **what)
        row = known or StartWish.objects.create(team=team, created_by=user, text=text, **what)
        row.refresh_from_db()
        access.audit(user, team, "ask for a start", f"wish:{row.pk}", name=name(row), after={"text": text})
        events.notify(team.pk, "wishes", "bar")
    return row


def name(wish: StartWish) -> str:
    """What it asks for."""
    if wish.deployment:
        return wish.deployment.name
    assert wish.model is not None
    engine = wish.wanted.get("engine")
    return f"{wish.model.name} on {engine}" if engine else wish.model.name


def start(wish: StartWish, by: User) -> Deployment:
    """Start what was asked for. WishRefused when it was answered meanwhile, DeploymentRefused as ever."""
    with transaction.atomic():
        _answer(wish, by, State.DONE, "")
        if wish.deployment:
            deployments.start(wish.deployment, by)
            return wish.deployment
        assert wish.model is not None
        wanted = wish.wanted or {"engine": _usual(wish.model), "options": {}}
        row = deployments.request(team=wish.team, user=by, model=wish.model, **wanted)
        StartWish.objects.filter(pk=wish.pk).update(deployment=row)
    return row


def _usual(model: Model) -> str:
    """The engine the form would choose."""
    able = [offer for offer in fitting.offers(model) if offer.ok]
    if not able:
        raise DeploymentRefused({"engine": "No engine can load it."})
    return able[0].adapter.name


def decline(wish: StartWish, by: User, words: str) -> None:
    words = " ".join(words.split())[:500]
    if not words:
        raise WishRefused("Say why, so that they know what to do instead.")
    with transaction.atomic():
        _answer(wish, by, State.DECLINED, words)


def _answer(wish: StartWish, by: User, state: str, words: str) -> None:
    open_one = StartWish.objects.filter(pk=wish.pk, state=State.OPEN)
    if not open_one.update(state=state, answer=words, answered_by=by, answered_at=Now()):
        raise WishRefused("It was answered or taken back meanwhile.")
    asker = wish.created_by.get_username() if wish.created_by else ""
    change: dict[str, Any] = {"before": {"state": State.OPEN}, "after": {"state": state, "answer": words}}
    access.audit(by, wish.team, "answer a wish", f"wish:{wish.pk}", name=name(wish), asked_by=asker, **change)
    events.notify(wish.team_id, "wishes", "bar")


def drop(wish: StartWish, user: User) -> None:
    """Whoever asked takes it back, or has seen the answer; WishRefused for anybody else."""
    if wish.created_by_id != user.pk:
        raise WishRefused("Only whoever asked takes it back.")
    with transaction.atomic():
        before = {"state": wish.state, "text": wish.text, "answer": wish.answer}
        if StartWish.objects.filter(pk=wish.pk, created_by=user).delete()[0]:
            access.audit(user, wish.team, "clear a wish", f"wish:{wish.pk}", name=name(wish), before=before)
            events.notify(wish.team_id, "wishes", "bar")


# What is shown


def open_in(team: Team) -> QuerySet[StartWish]:
    """What waits for an operator: not what was started another way meanwhile."""
    runs = Q(deployment__desired=Deployment.Desired.RUNNING, deployment__problem="")
    return _rows(team).filter(state=State.OPEN).exclude(runs).exclude(model__missing=True)


def of(user: User, team: Team) -> QuerySet[StartWish]:
    """What a person asked for and has not cleared, while it is news."""
    late = Q(answered_at__lt=timezone.now() - timedelta(days=SHOWN_DAYS))
    return _rows(team).filter(created_by=user).exclude(late)


def _rows(team: Team) -> QuerySet[StartWish]:
    rows = StartWish.objects.filter(team=team).order_by("-pk")
    return rows.select_related("model", "deployment", "created_by", "answered_by", "team")


def by_deployment(user: User, team: Team) -> dict[int, StartWish]:
    """Deployment → what this person asked for it last, of what was not started."""
    rows = of(user, team).exclude(deployment=None).exclude(state=State.DONE).order_by("pk")
    return {row.deployment_id: row for row in rows if row.deployment_id}


def seen_by(user: User, team: Team) -> QuerySet[StartWish]:
    """What a person may answer, and what they asked for themselves."""
    answers = open_in(team) if access.can(user, "start", team) else StartWish.objects.none()
    return _rows(team).filter(Q(pk__in=answers.values("pk")) | Q(pk__in=of(user, team).values("pk")))


def panel(user: User, team: Team, **only: Any) -> dict[str, Any]:
    """What a page shows of wishes: those the person may answer, and their own. `only` filters them."""
    rows = open_in(team).filter(**only) if access.can(user, "start", team) else StartWish.objects.none()
    mine = of(user, team).filter(**only)
    return {"wishes": [(row, name(row)) for row in rows], "my_wishes": [(row, name(row)) for row in mine]}


def needs(team: Team, user: User) -> Iterable[Need]:
    """For those who may start: what was asked of them. For those who asked: the answer."""
    address = reverse("wishes")
    if access.can(user, "start", team):
        for row in open_in(team):
            asker = row.created_by.get_username() if row.created_by else "Somebody"
            yield Need(f"{asker} asks to start {name(row)}{': ' + row.text if row.text else '.'}", address)
    for row in of(user, team).filter(state=State.DECLINED):
        who = row.answered_by.get_username() if row.answered_by else "An operator"
        yield Need(f"{who} does not start {name(row)}: {row.answer}", address)
