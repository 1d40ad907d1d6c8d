"""What the catalogue knows of a model, and each form (GGUF, safetensors) its weights exist in."""

from django.db import models

from .teams import TeamOwned


class Model(TeamOwned):
    class Task(models.TextChoices):
        CHAT = "chat", "Chat"
        COMPLETION = "completion", "Completion"
        EMBEDDING = "embedding", "Embedding"

    name = models.CharField(max_length=200)
    # "local:<folder or file name under SLIPWAY_HOME/models>", "wheel:<package>", later "hub:<repo>@<commit>".
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

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "source"], name="model_source_once")]

    def __str__(self) -> str:
        return self.name


class ModelFormat(models.Model):
    """One form of a model's weights. A form that can be made on first need has no digest yet."""

    class Kind(models.TextChoices):
        GGUF = "gguf", "GGUF"
        SAFETENSORS = "safetensors", "safetensors"

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

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "kind", "path"], name="format_once")]
