"""What people ask of those who may."""

from django.conf import settings
from django.db import models

from .deployments import Deployment
from .models import Model
from .teams import TeamOwned


class StartWish(TeamOwned):
    """Somebody who may not start a model asks those who may."""

    class State(models.TextChoices):
        OPEN = "open", "open"
        DONE = "done", "done"
        DECLINED = "declined", "declined"

    model = models.ForeignKey(Model, on_delete=models.CASCADE, null=True, related_name="+")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, null=True, related_name="+")
    # What the form would have sent: {"engine": "vllm", "options": {…}}.
    wanted = models.JSONField(default=dict)
    text = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.OPEN)
    answer = models.CharField(max_length=500, blank=True)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    answered_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["team", "state", "-id"], name="start_wish_newest")]
