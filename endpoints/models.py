"""Production names, the releases behind them, the keys that may call them."""

from django.db import models

from endpoints.fields import Integers
from playground.models import Configuration, Deployment, PromptVersion, Team, TeamOwned
from playground.models.fields import OrderedJSONField


class Endpoint(TeamOwned):
    """A production name; it points at one live release."""

    name = models.SlugField(max_length=80)
    live = models.ForeignKey("Release", on_delete=models.PROTECT, null=True, related_name="+")
    # Of how many requests what was asked and answered is kept, 0 to 1, and for how long.
    log_share = models.FloatField(default=0)
    log_days = models.PositiveSmallIntegerField(default=7)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="endpoint_name_once")]

    def __str__(self) -> str:
        return self.name


class Release(models.Model):
    """Immutable but for its state: a configuration, default sampling and the evidence it was promoted on."""

    class State(models.TextChoices):
        STARTING = "starting", "starting"
        LIVE = "live", "live"
        WARM = "warm", "warm"
        FAILED = "failed", "failed"
        RETIRED = "retired", "retired"

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="releases")
    number = models.PositiveIntegerField()
    configuration = models.ForeignKey(Configuration, on_delete=models.PROTECT, related_name="releases")
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="releases")
    sampling = OrderedJSONField(default=dict)
    # The prompt it was tested with: run only when a request names it.
    prompt_version = models.ForeignKey(
        PromptVersion, on_delete=models.PROTECT, null=True, related_name="releases"
    )
    evidence = models.JSONField(default=dict)
    note = models.TextField(blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.STARTING)
    problem = models.TextField(blank=True)
    created_by = models.ForeignKey("playground.User", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["endpoint", "number"], name="release_number_once")]
        ordering = ["-number"]


class EndpointEvent(models.Model):
    """Who moved the pointer, when, from where to where, and why. Append only."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="events")
    action = models.CharField(max_length=30, help_text="promote, live, roll back, failed")
    release = models.ForeignKey(Release, on_delete=models.CASCADE, null=True, related_name="+")
    previous = models.ForeignKey(Release, on_delete=models.CASCADE, null=True, related_name="+")
    user = models.ForeignKey("playground.User", on_delete=models.SET_NULL, null=True, related_name="+")
    note = models.TextField(blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at", "-id"]


class ApiKey(TeamOwned):
    """A key for /v1: a visible prefix and a 256-bit secret of which only the SHA-256 is kept."""

    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=12, unique=True)
    secret_hash = models.CharField(max_length=64)
    # "endpoints" reaches endpoints; "playground" also reaches ready deployments as deployment/<id>.
    scopes = models.JSONField(default=list)
    # Names of endpoints, and routes ("/v1/embeddings"), that it may call; empty: all.
    endpoints = models.JSONField(default=list)
    routes = models.JSONField(default=list)
    # By name: requests, tokens or spend, a minute or a day, and concurrent requests:
    # {"requests_minute": 600, "spend_day": 5.0, "concurrent": 20}.
    limits = models.JSONField(default=dict)
    # The first of a line of keys that replaced each other: they share their limits. Null: itself.
    family = models.BigIntegerField(null=True)
    replaces = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="replaced_by")
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)


class WebProcess(models.Model):
    """One web process's view: draining waits until each live one has a table newer than the drain."""

    boot_id = models.CharField(max_length=40, primary_key=True)
    node = models.CharField(max_length=60)
    pid = models.IntegerField()
    table_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField()


class IdempotentRequest(models.Model):
    """What one Idempotency-Key stands for: a request that runs under a lease, then its stored answer.

    Written by `endpoints.idempotency` alone. Of the client's own key only a hash is kept.
    """

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+")
    token_hash = models.CharField(max_length=64)
    body_hash = models.CharField(max_length=64)
    owner = models.CharField(max_length=32, unique=True)
    lease_until = models.DateTimeField()
    # Empty while it runs.
    answer = models.BinaryField(null=True)
    size = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key", "token_hash"], name="idempotency_key_once"),
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_by_age")]


class ApiFile(TeamOwned):
    """A file of /v1/files: lines that were sent for a batch, or what a batch came to.

    Its bytes lie in the home of the node that took or rendered it. Written by `endpoints.files` alone.
    """

    class Purpose(models.TextChoices):
        BATCH = "batch", "batch"
        BATCH_OUTPUT = "batch_output", "batch output"

    token = models.CharField(max_length=40, unique=True, help_text="What the API calls it: file-….")
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=255)
    purpose = models.CharField(max_length=16, choices=Purpose.choices)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    node = models.CharField(max_length=60)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["team", "-id"], name="api_file_newest")]


class ApiBatch(TeamOwned):
    """A batch of /v1/batches: what its client said of it, and how far it is. Its work is `batch`'s.

    The moments say its state; one of ENDS is the last. Written by `endpoints.batches` alone.
    """

    ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")

    token = models.CharField(max_length=40, unique=True, help_text="What the API calls it: batch_….")
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+")
    input_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, null=True, related_name="+")
    input_token = models.CharField(max_length=40, help_text="The file's, also once that is deleted.")
    node = models.CharField(max_length=60, help_text="Where its lines lie.")
    endpoint = models.CharField(max_length=60, help_text="The route each line asks: /v1/chat/completions.")
    metadata = OrderedJSONField(null=True)
    webhook = models.URLField(max_length=500, blank=True)
    # Known once the lines have been read.
    model = models.CharField(max_length=200, blank=True)
    release = models.ForeignKey(Release, on_delete=models.SET_NULL, null=True, related_name="+")
    batch = models.OneToOneField("playground.Batch", on_delete=models.PROTECT, null=True, related_name="+")
    # [{"code", "line", "message", "param"}, …]: why it failed.
    errors = models.JSONField(default=list)
    # What its client is told once it is over: {"total", "completed", "failed"}, and tokens.
    counts = models.JSONField(null=True)
    usage = models.JSONField(null=True)
    output_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, null=True, related_name="+")
    error_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, null=True, related_name="+")
    output_life_s = models.PositiveIntegerField(null=True, help_text="Of those two; null: for ever.")
    # When somebody should look at it next; null: never again.
    due_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["team", "-id"], name="api_batch_newest"),
            models.Index(fields=["due_at"], name="api_batch_due"),
        ]


class Usage(models.Model):
    """One request of /v1 that was let in: what it took, and what it cost. Written once, by its request id."""

    # Ours; a client's own x-request-id may come again, and is only told.
    request_id = models.CharField(max_length=64, unique=True)
    client_id = models.CharField(max_length=128, blank=True)
    at = models.DateTimeField(help_text="When it arrived.")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    key_name = models.CharField(max_length=80, blank=True)
    # The name that was called: an endpoint's, or deployment/<id>; and which adapter by it, if one.
    endpoint = models.CharField(max_length=120)
    adapter = models.CharField(max_length=100, blank=True)
    release = models.ForeignKey(
        Release, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    deployment = models.ForeignKey(
        Deployment, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    replica = models.BigIntegerField(null=True)
    model = models.CharField(max_length=255, blank=True)
    engine = models.CharField(max_length=30, blank=True)
    route = models.CharField(max_length=60)
    # 499: the client hung up. `code` is the error's, as the client was told it.
    status = models.PositiveSmallIntegerField()
    code = models.CharField(max_length=40, blank=True)
    stream = models.BooleanField(default=False)
    # Null where the engine told none.
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    cached_tokens = models.PositiveIntegerField(null=True)
    # Milliseconds; the replica's time that was its share, in seconds, and that at the node's price.
    ttft_ms = models.FloatField(null=True)
    e2e_ms = models.FloatField()
    busy_s = models.FloatField(null=True)
    cost = models.FloatField(null=True)
    # That share times the GPUs, or without any the cores, that the replica held.
    gpu_s = models.FloatField(null=True)
    core_s = models.FloatField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["team", "-at"], name="usage_of_team"),
            models.Index(fields=["team", "endpoint", "-id"], name="usage_of_endpoint"),
            models.Index(fields=["at"], name="usage_by_age"),
        ]


class UsageDay(models.Model):
    """A team's requests of one day by UTC, added up by key, endpoint, model or engine: see `usage_days`."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+", db_index=False)
    day = models.DateField()
    dimension = models.CharField(max_length=10, help_text="key, endpoint, model, engine")
    value = models.CharField(max_length=255)
    # The key's id, where it is of keys; no foreign key: a sum does not change.
    key = models.BigIntegerField(null=True)
    requests = models.BigIntegerField()
    errors = models.BigIntegerField()
    prompt_tokens = models.BigIntegerField(null=True)
    cached_tokens = models.BigIntegerField(null=True)
    completion_tokens = models.BigIntegerField(null=True)
    gpu_s = models.FloatField(null=True)
    core_s = models.FloatField(null=True)
    cost = models.FloatField(null=True)
    unpriced = models.BigIntegerField()
    # How many good answers had their TTFT in which step.
    ttft_steps = Integers()
    ttft_times = Integers()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["team", "day", "dimension", "value", "key"],
                name="usage_day_once",
                nulls_distinct=False,
            )
        ]


class LoggedRequest(models.Model):
    """What was asked and answered in one of the requests an endpoint keeps."""

    usage = models.OneToOneField(Usage, on_delete=models.CASCADE, related_name="logged")
    request = OrderedJSONField(help_text="The body as it came, without the key.")
    answer = OrderedJSONField(null=True, help_text="The whole answer; a stream's put together.")
    cut = models.BooleanField(default=False, help_text="It was longer than what is kept.")
