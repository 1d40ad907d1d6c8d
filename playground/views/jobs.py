"""Long work: cancelling it."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from playground import access, jobs
from playground.models import Job
from playground.views.request import Request


@require_POST
def cancel(request: Request, pk: int) -> HttpResponse:
    """Whoever may start things may cancel what they wait for."""
    job = access.fetch(request.user, Job.objects.all(), pk, write=True)
    jobs.require_cancel(job, request.user)
    if not jobs.cancel(job, request.user):
        messages.info(request, "It had ended already.")
    return redirect("nodes")
