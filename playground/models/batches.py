"""Datasets, versioned and shared; batches that run one over deployments; one result a row and column."""

from django.db import models
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from .deployments import Configuration, Deployment, Replica
from .fields import OrderedJSONField
from .teams import Shared, TeamOwned


class Dataset(TeamOwned):
    name = models.CharField(max_length=120)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="dataset_name_once")]

    def __str__(self) -> str:
        return self.name


class DatasetVersion(models.Model):
    """Immutable once `complete`. Rows that could not be read are told in `problems`, and are not in it."""

    class Kind(models.TextChoices):
        OPENAI = "openai", "OpenAI batch lines"
        PROMPTS = "prompts", "JSONL prompts"
        TABLE = "table", "table with a prompt template"
        CONVERSATIONS = "conversations", "messages of conversations"

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=Kind.choices)
    source = models.CharField(max_length=255, blank=True, help_text="The file's name as it came.")
    # Of a table: its columns' names, and the messages with {{column}} in them.
    columns = models.JSONField(default=list)
    template = OrderedJSONField(default=list)
    # [{"line": 12, "why": "…"}, …], the first hundred; `bad_rows` counts all.
    problems = models.JSONField(default=list)
    bad_rows = models.PositiveIntegerField(default=0)
    row_count = models.PositiveIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    complete = models.BooleanField(default=False)
    created_by = models.ForeignKey("User", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["dataset", "number"], name="dataset_version_once")]


class DatasetRow(models.Model):
    """One input. `number` counts from 1 in the file's order; `line` is where it stood in the file."""

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="rows")
    number = models.PositiveIntegerField()
    line = models.PositiveIntegerField()
    custom_id = models.CharField(max_length=512)
    url = models.CharField(max_length=60, default="/v1/chat/completions")
    # The request without a model: {"messages": […], "max_tokens": …} or {"prompt": "…"} or {"input": …}.
    body = OrderedJSONField()
    # Of a table: its cells by column; else {}.
    cells = OrderedJSONField(default=dict)
    expected = models.TextField(null=True, help_text="What a right answer is, where the input tells it.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "number"], name="dataset_row_once")]


class Batch(Shared):
    class State(models.TextChoices):
        VALIDATING = "validating", "validating"
        RUNNING = "running", "running"
        PAUSED = "paused", "paused"
        FINALIZING = "finalizing", "finalizing"
        COMPLETED = "completed", "completed"
        CANCELLING = "cancelling", "cancelling"
        CANCELLED = "cancelled", "cancelled"
        FAILED = "failed", "failed"
        EXPIRED = "expired", "expired"

    OPEN = (State.VALIDATING, State.RUNNING, State.PAUSED, State.FINALIZING, State.CANCELLING)

    name = models.CharField(max_length=200)
    version = models.ForeignKey(DatasetVersion, on_delete=models.PROTECT, related_name="batches")
    state = models.CharField(max_length=16, choices=State.choices, default=State.RUNNING)
    # Over the row's own: {"temperature": 0, "max_tokens": 200}. Only what was set.
    parameters = OrderedJSONField(default=dict)
    # What scores its rows: [{"kind": "exact", …}, …], see `scoring`.
    scorers = models.JSONField(default=list)
    webhook = models.URLField(max_length=500, blank=True)
    # The prompt of the library whose variables its rows fill, if any.
    prompt_version = models.ForeignKey(
        "PromptVersion", on_delete=models.SET_NULL, null=True, related_name="batches"
    )
    problem = models.TextField(blank=True)
    expires_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class BatchColumn(models.Model):
    """One deployment that answers every row."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="columns")
    position = models.PositiveSmallIntegerField(default=0)
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+")
    adapter = models.CharField(max_length=100, blank=True)
    parameters = OrderedJSONField(null=True, help_text="Null: the batch's.")
    # Under the row's own: the sampling of the release that it began with. A page's batch has none.
    defaults = OrderedJSONField(default=dict)
    # How many requests at once the last slice found to be enough.
    concurrency = models.PositiveIntegerField(default=4)
    started_it = models.BooleanField(
        default=False, help_text="The batch started it, and stops it at its end."
    )
    problem = models.TextField(blank=True, help_text="Why its rows wait, in words.")

    class Meta:
        ordering = ["position", "id"]


class BatchItem(models.Model):
    """One row in one column: who works on it, and how far it is. A success is final."""

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"
        CLAIMED = "claimed", "claimed"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    column = models.ForeignKey(BatchColumn, on_delete=models.CASCADE, related_name="items")
    row = models.ForeignKey(DatasetRow, on_delete=models.PROTECT, related_name="+")
    number = models.PositiveIntegerField(help_text="The row's.")
    # In which order rows are asked: those with a common beginning beside each other.
    place = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=12, choices=State.choices, default=State.WAITING)
    attempt = models.PositiveSmallIntegerField(default=0)
    deaths = models.PositiveSmallIntegerField(
        default=0, help_text="Engines that died while it was in flight."
    )
    claimed_by = models.CharField(max_length=40, blank=True)
    lease_expires_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["column", "number"], name="batch_item_once")]
        indexes = [
            models.Index(fields=["column", "state", "place"], name="batch_item_next"),
            # Pages of a million rows that show only what failed.
            models.Index(
                fields=["column", "number"], condition=models.Q(state="failed"), name="batch_item_failed"
            ),
        ]


class BatchResult(models.Model):
    """What one attempt at a row came to. Never changed; (column, number, attempt) once."""

    column = models.ForeignKey(BatchColumn, on_delete=models.CASCADE, related_name="results")
    number = models.PositiveIntegerField()
    attempt = models.PositiveSmallIntegerField()
    ok = models.BooleanField()
    text = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    finish_reason = models.CharField(max_length=30, blank=True)
    # As those of a Generation.
    usage = models.JSONField(default=dict)
    timings = models.JSONField(default=dict)
    # Of tasks without text: the engine's own answer.
    response = models.JSONField(null=True)
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    configuration = models.ForeignKey(Configuration, on_delete=models.SET_NULL, null=True, related_name="+")
    replica = models.ForeignKey(Replica, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    # Kept by the database beside `timings` and `usage`, so that a million rows can be sorted and summed.
    ttft = models.GeneratedField(
        expression=Cast(KeyTextTransform("ttft", "timings"), models.FloatField()),
        output_field=models.FloatField(null=True),
        db_persist=True,
    )
    e2e = models.GeneratedField(
        expression=Cast(KeyTextTransform("e2e", "timings"), models.FloatField()),
        output_field=models.FloatField(null=True),
        db_persist=True,
    )
    tokens = models.GeneratedField(
        expression=Cast(KeyTextTransform("completion_tokens", "usage"), models.FloatField()),
        output_field=models.FloatField(null=True),
        db_persist=True,
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["column", "number", "attempt"], name="batch_result_once")
        ]
        indexes = [
            # Of a row and column at most one succeeded.
            models.Index(
                fields=["column", "number"],
                include=["ttft", "e2e", "tokens"],
                condition=models.Q(ok=True),
                name="batch_result_ok",
            ),
            models.Index(
                fields=["column", "ttft", "number"], condition=models.Q(ok=True), name="batch_result_ttft"
            ),
            models.Index(
                fields=["column", "e2e", "number"], condition=models.Q(ok=True), name="batch_result_e2e"
            ),
            models.Index(
                fields=["column", "tokens", "number"], condition=models.Q(ok=True), name="batch_result_tokens"
            ),
            models.Index(fields=["column", "created_at"], name="batch_result_when"),
        ]


class BatchScore(models.Model):
    """What one scorer said of a row's last result."""

    column = models.ForeignKey(BatchColumn, on_delete=models.CASCADE, related_name="scores")
    number = models.PositiveIntegerField()
    scorer = models.PositiveSmallIntegerField(help_text="Its place in the batch's scorers.")
    value = models.FloatField(null=True, help_text="0 to 1; null: it could not be scored, and `why` says so.")
    why = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["column", "number", "scorer"], name="batch_score_once")
        ]


class WebhookDelivery(models.Model):
    """One message to a team's own server: tried until it is taken, or given up."""

    team = models.ForeignKey("Team", on_delete=models.CASCADE, related_name="+")
    # What it is about, once: "batch:5".
    subject = models.CharField(max_length=80, unique=True)
    url = models.URLField(max_length=500)
    payload = models.JSONField()
    attempts = models.PositiveSmallIntegerField(default=0)
    # Null: nothing more is tried.
    due_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    problem = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="webhook_due")]
