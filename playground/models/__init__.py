"""Rows of the playground, one file a noun. Nothing here changes state: verbs live in the noun's module."""

from .batches import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchResult,
    BatchScore,
    Dataset,
    DatasetRow,
    DatasetVersion,
    WebhookDelivery,
)
from .comparisons import Measurement, Sample, Vote
from .conversations import Column, Comment, Conversation, Generation, Image, Turn
from .deployments import (
    Configuration,
    Deployment,
    EngineEnvironment,
    Node,
    Replica,
    ReplicaEvent,
    Start,
)
from .jobs import Job
from .models import Adapter, Model, ModelFormat, Secret, Upload
from .prompts import Prompt, PromptVersion
from .spent import MeasuredUse, RowsTaken
from .teams import (
    AccessToken,
    AuditEntry,
    Invitation,
    LoginLink,
    Membership,
    Shared,
    ShareLink,
    Team,
    TeamOwned,
    User,
)
from .wishes import StartWish

__all__ = [
    "AccessToken",
    "Adapter",
    "AuditEntry",
    "Batch",
    "BatchColumn",
    "BatchItem",
    "BatchResult",
    "BatchScore",
    "Column",
    "Comment",
    "Configuration",
    "Conversation",
    "Dataset",
    "DatasetRow",
    "DatasetVersion",
    "Deployment",
    "EngineEnvironment",
    "Generation",
    "Image",
    "Invitation",
    "Job",
    "LoginLink",
    "MeasuredUse",
    "Measurement",
    "Membership",
    "Model",
    "ModelFormat",
    "Node",
    "Prompt",
    "PromptVersion",
    "Replica",
    "ReplicaEvent",
    "RowsTaken",
    "Sample",
    "Secret",
    "ShareLink",
    "Shared",
    "Start",
    "StartWish",
    "Team",
    "TeamOwned",
    "Turn",
    "Upload",
    "User",
    "Vote",
    "WebhookDelivery",
]
