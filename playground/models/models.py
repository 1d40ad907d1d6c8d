"""What the catalogue knows of a model, and each form (GGUF, safetensors) its weights exist in."""

from django.db import models

from .teams import TeamOwned


class Model(TeamOwned):
    class Task(models.TextChoices):
        CHAT = "chat", "Chat"
        COMPLETION = "completion", "Completion"
        EMBEDDING = "embedding", "Embedding"
        RERANK = "rerank", "Rerank"
        CLASSIFICATION = "classification", "Classification"

    name = models.CharField(max_length=200)
    # "local:<folder or file name under SLIPWAY_HOME/models>", "wheel:<package>", "hub:<repo>@<commit>",
    # "external:<name>".
    source = models.CharField(max_length=300)
    task = models.CharField(max_length=16, choices=Task.choices, default=Task.CHAT)
    architecture = models.CharField(max_length=100, blank=True)
    licence = models.CharField(max_length=80, blank=True)
    parameters = models.BigIntegerField(null=True, help_text="Number of weights; null where unknown.")
    context_length = models.PositiveIntegerField(null=True, help_text="Tokens; null where unknown.")
    chat_template = models.TextField(blank=True)
    # Shape of the attention for memory estimates: layers, kv_heads, head_dim, hidden_size, vocab_size.
    facts = models.JSONField(default=dict)
    refused = models.TextField(blank=True, help_text="Why it may not be loaded, in words; empty when it may.")
    missing = models.BooleanField(default=False, help_text="Its files were gone at the last scan.")
    takes_images = models.BooleanField(default=False, help_text="Its chat reads images, too.")
    # Where it came from, as told there when it was added. The Hub: {"repo", "commit", "gated", "library",
    # "tags", "downloads", "likes", "card"}; quantised: {"method": "Q4_K_M"}; external: {"url", "model"}.
    origin = models.JSONField(default=dict)
    parent = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="children",
        help_text="What it was made from.",
    )
    code_allowed_by = models.ForeignKey(
        "User",
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The administrator who allowed this commit's own code; configurations say so for ever.",
    )
    code_allowed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "source"], name="model_source_once")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_elsewhere(self) -> bool:
        """It is asked on somebody else's server; `origin` names that."""
        return self.source.startswith("external:")


class ModelFormat(models.Model):
    """One form of a model's weights. A form that can be made on first need has no digest yet."""

    class Kind(models.TextChoices):
        GGUF = "gguf", "GGUF"
        SAFETENSORS = "safetensors", "safetensors"
        EXTERNAL = "external", "external server"

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="formats")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    path = models.CharField(
        max_length=400, help_text="Relative to SLIPWAY_HOME/models: a .gguf file or a folder."
    )
    digest = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 over names and contents; empty until it exists."
    )
    size_bytes = models.BigIntegerField(null=True)
    dtype = models.CharField(max_length=20, blank=True, help_text="bfloat16, Q4_1, …")
    # How it is made when it does not exist: {"job": "convert_model", "from": "gguf"}; empty for given files.
    recipe = models.JSONField(default=dict, blank=True)
    # What a download brings, pinned when the model was added: [{"path", "size", "sha256" or "sha1"}, …].
    files = models.JSONField(default=list, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "kind", "path"], name="format_once")]


class Adapter(TeamOwned):
    """LoRA weights on top of a model. Attached to a deployment, it is served under its own name."""

    name = models.SlugField(max_length=100, help_text="The model name that requests give.")
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="adapters")
    source = models.CharField(max_length=300, help_text='"local:<folder>" or "hub:<repo>@<commit>".')
    kind = models.CharField(max_length=16, choices=ModelFormat.Kind.choices)
    path = models.CharField(
        max_length=400, help_text="Relative to SLIPWAY_HOME/models: a folder or .gguf file."
    )
    digest = models.CharField(max_length=64, blank=True, help_text="As of a form; empty until it is here.")
    size_bytes = models.BigIntegerField(null=True)
    rank = models.PositiveIntegerField(null=True)
    files = models.JSONField(default=list, blank=True)
    refused = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="adapter_name_once")]

    def __str__(self) -> str:
        return self.name


class Upload(TeamOwned):
    """A file on its way from a browser, in pieces; it can go on after a break."""

    name = models.CharField(max_length=200, help_text="Folder of the model it belongs to.")
    path = models.CharField(max_length=200, help_text="File name in that folder.")
    size_bytes = models.BigIntegerField()
    received_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(
        max_length=64, blank=True, help_text="As the browser worked it out; may be empty."
    )
    finished_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name", "path"], name="upload_once")]


class Secret(TeamOwned):
    """Something only the server may read: a Hub token, an external server's key. Encrypted by `secrets`."""

    name = models.CharField(max_length=80, help_text='"hub", "s3", "external:<name>".')
    ciphertext = models.BinaryField()
    hint = models.CharField(max_length=8, blank=True, help_text="Its last four characters.")
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="secret_once")]
