"""What was asked in the background, for limits and usage: it stays when its batch or run is deleted."""

from django.conf import settings
from django.db import models

from .deployments import Configuration
from .teams import Team


class RowsTaken(models.Model):
    """So many requests that one act set off, as the day's limit counts. Written by `admission` alone."""

    class What(models.TextChoices):
        BATCH = "batch", "batch"
        AGAIN = "again", "failed rows again"
        NOISE = "noise", "noise floor"
        LOAD = "load", "load run"

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    what = models.CharField(max_length=8, choices=What.choices)
    rows = models.PositiveIntegerField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["team", "at"], name="rows_taken_of_team")]


class MeasuredUse(models.Model):
    """One request of a run that measures, its warm-up and what was asked anew included.

    See `measured_use`.
    """

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    kind = models.CharField(max_length=8, help_text="noise or load")
    configuration = models.ForeignKey(
        Configuration, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    at = models.DateTimeField(auto_now_add=True)
    failed = models.BooleanField()
    # Null where the engine told none.
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    cached_tokens = models.PositiveIntegerField(null=True)
    ttft_ms = models.FloatField(null=True)
    # Its share of its replica's time, in seconds, and that times what the replica held and at its price.
    busy_s = models.FloatField(null=True)
    gpu_s = models.FloatField(null=True)
    core_s = models.FloatField(null=True)
    cost = models.FloatField(null=True)

    class Meta:
        indexes = [models.Index(fields=["team", "at"], name="measured_use_of_team")]
