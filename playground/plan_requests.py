"""Asking for a plan to be run: its prompts, turns and job. What it does is for `plans` and `plan_runs`."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import transaction

from playground import access, conversations, frame, jobs, thread, widgets
from playground.generation import CHARACTERS
from playground.models import Conversation, Generation, Job, Measurement, Node, Team, Turn, User
from playground.plans import Plan

PROMPTS = 20


class PlanRefused(Exception):
    """This plan may not be run; the text says why. What was typed stays with the person."""


def active(conversation: Conversation) -> Measurement | None:
    """The plan that runs in this conversation now, or waits to."""
    return _plans(conversation).filter(job__state__in=Job.ACTIVE).first()


def latest(conversation: Conversation) -> Measurement | None:
    """The last plan that was run here."""
    return _plans(conversation).first()


def may_cancel(row: Measurement, user: User) -> bool:
    """Whoever asked for it, and whoever may stop models."""
    return row.created_by_id == user.pk or access.can(user, "stop", row.team)


def _plans(conversation: Conversation) -> Any:
    rows = Measurement.objects.filter(conversation=conversation, kind=Measurement.Kind.PLAN)
    return rows.select_related("job", "team")


def prompts_of(text: str, *, lines: bool) -> list[str]:
    """What is to be asked: the whole text, or each line that is not empty. PlanRefused says what is wrong."""
    text = text.replace("\r\n", "\n")
    prompts = [line.strip() for line in text.split("\n")] if lines else [text]
    return checked([prompt for prompt in prompts if prompt.strip()])


def checked(prompts: list[str]) -> list[str]:
    """The same, if one plan may ask them; PlanRefused."""
    if not prompts:
        raise PlanRefused("Write what is to be asked first.")
    if len(prompts) > PROMPTS:
        raise PlanRefused(f"These are {len(prompts)} prompts; {PROMPTS} is the most of one plan.")
    if any(len(prompt) > CHARACTERS for prompt in prompts):
        raise PlanRefused(f"A prompt has more than {CHARACTERS:,} characters, the most that is sent.")
    if any("\x00" in prompt for prompt in prompts):
        raise PlanRefused("The text holds a NUL character, which no model takes.")
    return prompts


def count(text: str, *, lines: bool) -> int:
    """How many prompts the text holds, at least one: for the times of a plan that is still being written."""
    return max(1, sum(bool(line.strip()) for line in text.split("\n"))) if lines else 1


def request(
    conversation: Conversation,
    user: User,
    prompts: Sequence[str],
    made: Plan,
    seal: str,
    *,
    again: bool = True,
) -> Measurement:
    """Run `made`: its turns, in order, and the job. The one that runs here where it asks the same.

    `seal`: that of the plan the person was shown, which has to be this one.
    """
    if seal != made.seal:
        raise PlanRefused("What runs has changed since this was shown: look at the plan again.")
    if made.refusal:
        raise PlanRefused(made.refusal)
    access.require(user, "start" if made.touches or made.waits else "chat", conversation)
    node = _node()
    with transaction.atomic():
        Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
        if running := active(conversation):
            if running.settings["prompts"] == list(prompts):
                return running
            raise PlanRefused("A run is under way here: wait for its end, or cancel it.")
        _refuse_rivals(conversation, user, made)
        row = Measurement.objects.create(
            team=conversation.team, created_by=user, conversation=conversation, kind=Measurement.Kind.PLAN
        )
        stands = thread.show(conversation)
        turns = _turns(row, stands, prompts, user)
        row.turn, row.settings = turns[-1], _settings(made, prompts, turns, again=again)
        row.settings["stands"] = _stands(conversation, stands)
        target, arguments = f"measurement:{row.pk}", {"measurement": row.pk}
        row.job = jobs.request(Job.Kind.RUN_PLAN, node, target, arguments, conversation.team, user)
        row.save()
        conversations.name_after(conversation, turns[0].text)
        conversations.tell(conversation)
    return row


def _node() -> Node:
    """Where the job runs: this machine, else any that works."""
    live = [node for node in frame.live_nodes() if node.accepting]
    if not live:
        raise PlanRefused("No worker runs: start one, then try again.")
    return next((node for node in live if node.name == settings.NODE_NAME), live[0])


def _refuse_rivals(conversation: Conversation, user: User, made: Plan) -> None:
    """Runs of the team that speak to what this one would start or stop. Holds the team's row."""
    Team.objects.select_for_update(no_key=True).get(pk=conversation.team_id)
    rows = Measurement.objects.filter(team=conversation.team_id, job__state__in=Job.ACTIVE)
    for rival in rows.select_related("conversation"):
        theirs = set(rival.conversation.columns.values_list("deployment_id", flat=True))
        if rival.kind == Measurement.Kind.PLAN or theirs & made.touches:
            what = Measurement.Kind(rival.kind).label.lower()
            seen = access.can(user, "view", rival.conversation)
            where = f"“{rival.conversation.title}”" if seen else "a private conversation"
            raise PlanRefused(
                f"A run ({what}) is under way in {where}: wait for its end, or cancel it there."
            )


def _settings(made: Plan, prompts: Sequence[str], turns: Sequence[Turn], *, again: bool) -> dict[str, Any]:
    """What `plan_runs` goes by, all by key."""
    return {
        "prompts": list(prompts),
        "turns": [turn.pk for turn in turns],
        "stages": [
            {
                "stops": [stop.deployment.pk for stop in stage.stops],
                "starts": [start.deployment.pk for start in stage.starts],
                "columns": [one.column.pk for one in stage.asked],
            }
            for stage in made.stages
        ],
        "waits": [row.pk for row in made.waits],
        "again": again,
        "expected_s": made.time.seconds,
    }


def _turns(row: Measurement, stands: thread.Shown, prompts: Sequence[str], user: User) -> list[Turn]:
    """A turn a prompt, after the last one of the conversation. Their answers come column by column."""
    conversation = row.conversation
    if stands.live:
        raise PlanRefused("An answer is still being written here. Wait for it, or stop it first.")
    parent, turns = stands.parent, []
    for number, text in enumerate(prompts):
        try:
            widgets.check(conversation.task, text, {})
        except widgets.Unfit as problem:
            raise PlanRefused(str(problem)) from problem
        parent = Turn.objects.create(
            conversation=conversation,
            client_id=f"plan-{row.pk}-{number}",
            parent=parent,
            text=text,
            created_by=user,
            inputs={"blind": True} if conversation.blind else {},
        )
        turns.append(parent)
    conversation.save(update_fields=["updated_at"])
    return turns


def _stands(conversation: Conversation, shown: thread.Shown) -> list[int]:
    """The answers that the first turn goes on from: those that stand there, or the one chosen for all."""
    return [one.pk for one in (shown.previous[:1] if conversation.together else shown.previous)]


def answers(row: Measurement) -> list[Generation]:
    """What came of it so far, in the order asked."""
    rows = Generation.objects.filter(turn__in=row.settings["turns"]).defer("vectors")
    return list(rows.order_by("pk"))
