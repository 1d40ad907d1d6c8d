"""Chats. A comparison is a conversation with several columns; one column is a plain chat."""

from django.db import models

from .deployments import Configuration, Deployment, Replica
from .fields import OrderedJSONField
from .models import Model
from .teams import Shared


class Conversation(Shared):
    # What is asked here, and so which widget it has: that of the model it was begun with.
    task = models.CharField(max_length=16, choices=Model.Task.choices, default=Model.Task.CHAT)
    title = models.CharField(max_length=200, default="New conversation")
    system_prompt = models.TextField(blank=True)
    # Only what was set: {"temperature": 0.7, "max_tokens": 200}. Absent means the engine's default.
    parameters = OrderedJSONField(default=dict)
    together = models.BooleanField(
        default=False, help_text="Every column goes on from one chosen answer, not each from its own."
    )
    blind = models.BooleanField(default=False, help_text="Who answers is hidden until one has voted.")
    # Which prompt of the library it was begun with, and what its variables were given.
    prompt_version = models.ForeignKey(
        "PromptVersion", on_delete=models.SET_NULL, null=True, related_name="conversations"
    )
    prompt_values = OrderedJSONField(default=dict)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.title


class Column(models.Model):
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="columns")
    position = models.PositiveSmallIntegerField(default=0)
    deployment = models.ForeignKey(Deployment, on_delete=models.SET_NULL, null=True, related_name="columns")
    adapter = models.CharField(
        max_length=100, blank=True, help_text="Which adapter answers; empty: the deployment's model."
    )
    parameters = OrderedJSONField(null=True, help_text="Null: the conversation's.")
    system_prompt = models.TextField(null=True, help_text="Null: the conversation's.")
    closed = models.BooleanField(default=False, help_text="Not shown and not asked; its answers stay.")

    class Meta:
        ordering = ["position", "id"]


class Turn(models.Model):
    """One user message. Editing makes a sibling: turns are a tree, and every branch stays reachable."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="turns")
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="children")
    text = models.TextField()
    # Beside the text: {"images": [pk of Image, …]}, {"query": "…"} of a rerank.
    inputs = models.JSONField(default=dict)
    # Sent once by the browser with each message: a double click makes one turn.
    client_id = models.CharField(max_length=64)
    created_by = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["conversation", "client_id"], name="turn_sent_once")]


class Image(models.Model):
    """A picture attached to messages of a conversation, checked when it came. Messages name it by key."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="images")
    kind = models.CharField(max_length=8, help_text="png, jpeg, webp.")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    size_bytes = models.PositiveIntegerField()
    data = models.BinaryField()
    sent = models.BooleanField(default=False, help_text="False while it waits at the composer.")
    created_by = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]


class Generation(models.Model):
    """One model answer to one turn in one column. Regenerating adds a row; none is overwritten."""

    class State(models.TextChoices):
        PENDING = "pending", "pending"
        STREAMING = "streaming", "streaming"
        COMPLETE = "complete", "complete"
        STOPPED = "stopped", "stopped"
        FAILED = "failed", "failed"
        INTERRUPTED = "interrupted", "interrupted"

    LIVE = (State.PENDING, State.STREAMING)

    turn = models.ForeignKey(Turn, on_delete=models.CASCADE, related_name="generations")
    column = models.ForeignKey(Column, on_delete=models.CASCADE, related_name="generations")
    previous = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The answer whose history it continues.",
    )
    after = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The answer that has to end before this one is asked: timed alone.",
    )
    configuration = models.ForeignKey(Configuration, on_delete=models.SET_NULL, null=True, related_name="+")
    replica = models.ForeignKey(Replica, on_delete=models.SET_NULL, null=True, related_name="+")
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    text = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    # What came of a task without text, as shown: see `widgets`. Vectors: float32, one after another.
    result = models.JSONField(default=dict)
    vectors = models.BinaryField(null=True)
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    finish_reason = models.CharField(max_length=30, blank=True)
    request = OrderedJSONField(default=dict, help_text="The body sent to the engine.")
    # {"ignored": ["seed"], "added": {"temperature": 0.2}, "rendered": "…", "token_ids": […]}; else unknown.
    effective = models.JSONField(default=dict)
    # {"prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "approximate": bool}
    usage = models.JSONField(default=dict)
    # Milliseconds on the sender's monotonic clock from the request's writing: {"ttft", "first_answer", "e2e",
    #   "queue", "chunks", "first_chunk_tokens", "lagged": bool}. Definitions: README, "Figures".
    timings = models.JSONField(default=dict)
    # When its text came: [[milliseconds, characters so far], …], thinned out to some hundred points.
    pace = models.JSONField(default=list)
    owner = models.CharField(max_length=40, blank=True, help_text="Boot id of the web process that runs it.")
    lease_expires_at = models.DateTimeField(null=True)
    stop_requested_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]


class Comment(models.Model):
    """What a person says about an answer."""

    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="comments")
    user = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="+")
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    edited_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
