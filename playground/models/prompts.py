"""The library of prompts: each a name, and versions that never change."""

from django.conf import settings
from django.db import models

from .fields import OrderedJSONField
from .teams import Shared


class Prompt(Shared):
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    tags = models.JSONField(default=list, help_text="Sorted, in lower case.")
    # The newest version's number. Whoever saves names the one they began from: see `prompts.save`.
    head = models.PositiveIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="prompt_name_once")]

    def __str__(self) -> str:
        return self.name


class PromptVersion(models.Model):
    """What a prompt said from one save to the next. Immutable."""

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    # [{"role": "system", "content": "You help with {{product}}."}, …], as the API takes them.
    messages = OrderedJSONField()
    # In the order they are asked for:
    # [{"name": "product", "type": "text", "default": null, "description": ""}, …]
    variables = OrderedJSONField(default=list)
    # As a conversation's parameters, response_format and tools among them. Only what was set.
    parameters = OrderedJSONField(default=dict)
    note = models.CharField(max_length=500, blank=True, help_text="What changed, and why.")
    restores = models.PositiveIntegerField(null=True, help_text="The number of the version it brings back.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["prompt", "number"], name="prompt_version_once")]

    def __str__(self) -> str:
        return f"{self.prompt} v{self.number}"
