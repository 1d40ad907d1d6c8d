"""The noise floor of a conversation: the form, the run as it goes on, what it allows to be said."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from playground import (
    access,
    asking,
    dataset_prompts,
    noise,
    noise_form,
    noise_words,
    runs,
    standing,
    subjects,
    thread,
)
from playground.models import Conversation, Job, Measurement, Turn
from playground.noise_form import BadForm, Typed
from playground.views.request import Request

PAGE = "playground/noise.html"
EARLIER = 20


@never_cache
@require_GET
def page(request: Request, pk: int) -> HttpResponse:
    """The form, and the run asked for by ?run=, else the newest."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    run = _run(conversation, request.GET.get("run", ""))
    said = _said(_turn(conversation))
    form = noise_form.again(run.settings, said) if run else noise_form.typed({}, said)
    return render(request, PAGE, _context(request, conversation, run, form))


@never_cache
@require_GET
def live(request: Request, pk: int) -> HttpResponse:
    """The run alone, asked for as it goes on."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    run = _run(conversation, request.GET.get("run", ""))
    return render(request, f"{PAGE}#live", _shown(request, conversation, run))


@require_POST
def start(request: Request, pk: int) -> HttpResponse:
    """Begin a run, or show the form again with a sentence beside each field that is wrong."""
    conversation = access.fetch(request.user, Conversation.objects.select_related("team"), pk, write=True)
    access.require(request.user, "chat", conversation)
    turn = _turn(conversation)
    form = noise_form.typed(request.POST.dict(), _said(turn))
    try:
        wanted = noise_form.read(form, request.FILES.get("file"), _said(turn), conversation.team)
        run = noise.request(conversation, wanted, request.user, turn if wanted.only else None)
    except (BadForm, noise.NoiseRefused) as refusal:
        form.errors = refusal.fields if isinstance(refusal, BadForm) else {"": str(refusal)}
        return render(
            request, PAGE, _context(request, conversation, _run(conversation, ""), form), status=422
        )
    return redirect(reverse("noise", args=[pk]) + f"?run={run.pk}#results")


@require_POST
def estimate(request: Request, pk: int) -> HttpResponse:
    """How much is asked and how long that takes, as far as the form is filled in. Changes nothing."""
    conversation = access.fetch(request.user, Conversation.objects.all(), pk)
    said = _said(_turn(conversation))
    form = noise_form.typed(request.POST.dict(), said)
    context = {"conversation": conversation, **_estimate(conversation, form, said)}
    return render(request, f"{PAGE}#estimate", context)


@require_POST
def cancel(request: Request, pk: int, run: int) -> HttpResponse:
    """End a run; nothing is concluded from a part of one."""
    conversation = access.fetch(request.user, Conversation.objects.select_related("team"), pk, write=True)
    row = get_object_or_404(_runs(conversation), pk=run)
    if not runs.cancel(row, request.user):
        messages.info(request, "It had ended already.")
    return redirect(reverse("noise", args=[pk]) + f"?run={run}#results")


# What the page shows


def _runs(conversation: Conversation) -> QuerySet[Measurement]:
    return runs.of(conversation, Measurement.Kind.NOISE)


def _run(conversation: Conversation, wanted: str) -> Measurement | None:
    """The run asked for, 404 where it is none of this conversation's; the newest where none is."""
    if not wanted:
        return _runs(conversation).first()
    if not wanted.isdecimal() or len(wanted) > 18:
        raise Http404("no such run")
    return get_object_or_404(_runs(conversation), pk=wanted)


def _turn(conversation: Conversation) -> Turn | None:
    """The last message that the conversation shows."""
    return thread.show(conversation).parent


def _said(turn: Turn | None) -> str:
    return turn.text.strip() if turn else ""


def _context(
    request: Request, conversation: Conversation, run: Measurement | None, form: Typed
) -> dict[str, Any]:
    turn = _turn(conversation)
    return {
        **_shown(request, conversation, run),
        **_estimate(conversation, form, _said(turn)),
        "form": form,
        "said": _said(turn),
        "pictures": bool(turn and turn.inputs.get("images")),
        "columns": subjects.standing(asking.columns_of(conversation)),
        "most": noise,
        "datasets": dataset_prompts.choices(conversation.team),
        "usual": noise_form,
    }


def _shown(request: Request, conversation: Conversation, run: Measurement | None) -> dict[str, Any]:
    """A run, and what the person may do with it."""
    job = run.job if run else None
    going = job is not None and job.state in Job.ACTIVE
    return {
        "conversation": conversation,
        "run": run,
        "job": job,
        "going": going,
        "left": _left_s(job) if job and going else None,
        "runs": _runs(conversation)[:EARLIER],
        "line": standing.job_line(job) if job and going else None,
        "found": noise_words.page(run.settings, run.result) if run and run.result else None,
        "asked": noise_words.asked(run.settings) if run else "",
        "may_chat": access.can(request.user, "chat", conversation),
    }


def _left_s(job: Job) -> float | None:
    """Seconds until it ends, as fast as it went so far; None before that can be told."""
    done, total = job.progress.get("done"), job.progress.get("total")
    if not done or not total or job.started_at is None:
        return None
    passed: float = (timezone.now() - job.started_at).total_seconds()
    return passed * (total - done) / done


def _estimate(conversation: Conversation, form: Typed, said: str) -> dict[str, Any]:
    """What a run takes, or nothing while the form does not make one."""
    columns = asking.columns_of(conversation)
    try:
        wanted = noise_form.read(form, None, said, conversation.team)
    except BadForm:
        return {"taking": None}
    return {"taking": noise_form.shown(wanted, columns)}
