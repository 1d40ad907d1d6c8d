"""What is found out about columns beside each other: measured runs, their samples, people's votes."""

from django.conf import settings
from django.db import models

from .conversations import Column, Conversation, Turn
from .deployments import Configuration, Replica
from .fields import OrderedJSONField
from .jobs import Job
from .teams import Team, TeamOwned


class Measurement(TeamOwned):
    """One background run over the columns of a conversation, done by a Job."""

    class Kind(models.TextChoices):
        NOISE = "noise", "Noise floor"
        LOAD = "load", "Load"
        PLAN = "plan", "One after another"

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="measurements")
    turn = models.ForeignKey(Turn, on_delete=models.SET_NULL, null=True, related_name="+")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    # What was asked for, by kind; read and written by the kind's module alone.
    settings = OrderedJSONField(default=dict)
    result = models.JSONField(default=dict)
    job = models.ForeignKey(Job, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["-id"]


class Sample(models.Model):
    """One request of a measured run, and what came of it."""

    measurement = models.ForeignKey(Measurement, on_delete=models.CASCADE, related_name="samples")
    column = models.ForeignKey(Column, on_delete=models.SET_NULL, null=True, related_name="+")
    configuration = models.ForeignKey(Configuration, on_delete=models.SET_NULL, null=True, related_name="+")
    replica = models.ForeignKey(Replica, on_delete=models.SET_NULL, null=True, related_name="+")
    arm = models.CharField(max_length=20, blank=True, help_text="Which of a column's own repeats: A1, A2.")
    level = models.FloatField(null=True, help_text="Requests at once, or a second, of a load run.")
    round = models.PositiveIntegerField(default=0)
    prompt = models.PositiveIntegerField(default=0, help_text="Its place among the prompts of the run.")
    # Milliseconds on the run's monotonic clock: when it was to be sent, and when it was.
    scheduled_ms = models.FloatField(null=True)
    sent_ms = models.FloatField(null=True)
    state = models.CharField(max_length=16)
    text = models.TextField(blank=True)
    error = models.TextField(blank=True)
    finish_reason = models.CharField(max_length=30, blank=True)
    # As those of a Generation.
    usage = models.JSONField(default=dict)
    timings = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]


class Vote(models.Model):
    """Which answer a person found best without knowing whose it was. One a person and turn."""

    class Verdict(models.TextChoices):
        BEST = "best", "one is best"
        TIE = "tie", "a tie"
        BAD = "bad", "all bad"

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="+")
    turn = models.ForeignKey(Turn, on_delete=models.SET_NULL, null=True, related_name="votes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    verdict = models.CharField(max_length=8, choices=Verdict.choices)
    column = models.ForeignKey(Column, on_delete=models.SET_NULL, null=True, related_name="+")
    configuration = models.ForeignKey(Configuration, on_delete=models.SET_NULL, null=True, related_name="+")
    # The answers that stood beside each other, in the order shown: [{"letter", "column", "generation",
    #   "configuration": pk | null, "digest", "name", "adapter", "chosen": bool}].
    candidates = models.JSONField(default=list)
    prompt_digest = models.CharField(
        max_length=64, help_text="SHA-256 of what was asked: the same prompt counts once a person."
    )
    created_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["turn", "user"], name="vote_once")]
