"""Long work with progress: installing an environment, fetching or converting a model."""

from django.db import models

from .teams import TeamOwned


class Job(TeamOwned):
    class Kind(models.TextChoices):
        INSTALL_ENVIRONMENT = "install_environment", "Install engine"
        REMOVE_ENVIRONMENT = "remove_environment", "Remove engine"
        FETCH_MODEL = "fetch_model", "Fetch model"
        CONVERT_MODEL = "convert_model", "Convert model"
        DOWNLOAD_MODEL = "download_model", "Download model"
        IMPORT_MODEL = "import_model", "Import model"
        QUANTISE_MODEL = "quantise_model", "Quantise model"
        REMOVE_MODEL = "remove_model", "Remove model"
        FETCH_ADAPTER = "fetch_adapter", "Fetch adapter"
        ATTACH_ADAPTER = "attach_adapter", "Attach adapter"
        MEASURE_NOISE = "measure_noise", "Measure noise floor"
        MEASURE_LOAD = "measure_load", "Measure under load"
        RUN_PLAN = "run_plan", "Run columns one after another"
        SCORE_BATCH = "score_batch", "Score batch"

    class State(models.TextChoices):
        QUEUED = "queued", "queued"
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    ACTIVE = (State.QUEUED, State.RUNNING)

    kind = models.CharField(max_length=32, choices=Kind.choices)
    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="jobs")
    # What it works on; one active job a (node, target): "environment:vllm==0.32.0", "format:12".
    target = models.CharField(max_length=200)
    arguments = models.JSONField(default=dict)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    # {"step": "downloading", "done": 12, "total": 93, "unit": "bytes"}; total null where unknown.
    progress = models.JSONField(default=dict)
    result = models.JSONField(default=dict)
    error = models.TextField(blank=True)
    log_tail = models.TextField(blank=True)
    attempt = models.PositiveSmallIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    pid = models.IntegerField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["node", "target"],
                condition=models.Q(state__in=["queued", "running"]),
                name="job_active_once",
            )
        ]
