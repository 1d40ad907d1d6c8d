"""The background runs of a conversation, of whichever kind: which there are, and ending one."""

from django.db.models import QuerySet

from playground import access, jobs, plan_requests, sharing_rules
from playground.models import Conversation, Measurement, User

Kind = Measurement.Kind


def of(conversation: Conversation, kind: str | None = None) -> QuerySet[Measurement]:
    """Newest first."""
    rows = Measurement.objects.filter(conversation=conversation).select_related("job", "created_by", "team")
    return rows.filter(kind=kind) if kind else rows


def cancel(run: Measurement, user: User) -> bool:
    """End it; False where it had ended. Of a load run what it found so far stays.

    A plan of somebody else's is for those who may stop models. Whoever may not at all gets access.Refused.
    """
    conversation = run.conversation
    if run.kind == Kind.NOISE:
        access.require(user, "chat", conversation)
    else:
        sharing_rules.require_write(user, conversation)
    if run.kind == Kind.PLAN and not plan_requests.may_cancel(run, user):
        access.require(user, "stop", conversation)
    return run.job is not None and jobs.cancel(run.job, user)
