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
from .conversations import Column, Conversation, Generation, Image, Turn
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
from .teams import AuditEntry, LoginLink, Membership, Team, TeamOwned, User

__all__ = [
    "Adapter",
    "AuditEntry",
    "Batch",
    "BatchColumn",
    "BatchItem",
    "BatchResult",
    "BatchScore",
    "Column",
    "Configuration",
    "Conversation",
    "Dataset",
    "DatasetRow",
    "DatasetVersion",
    "Deployment",
    "EngineEnvironment",
    "Generation",
    "Image",
    "Job",
    "LoginLink",
    "Measurement",
    "Membership",
    "Model",
    "ModelFormat",
    "Node",
    "Replica",
    "ReplicaEvent",
    "Sample",
    "Secret",
    "Start",
    "Team",
    "TeamOwned",
    "Turn",
    "Upload",
    "User",
    "Vote",
    "WebhookDelivery",
]
