"""What the management API shows of the playground's rows. Keys of rows are numbers; moments are ISO 8601."""

from datetime import datetime
from typing import Any

from ninja import Schema
from pydantic import Field

from playground.models import (
    Batch,
    BatchColumn,
    Conversation,
    Dataset,
    Deployment,
    Generation,
    Job,
    Model,
    Node,
    TeamOwned,
    User,
)
from playground.standing import Standing


class Page[Item](Schema):
    """A part of a list, newest first; `next` goes into `after` for the part that follows."""

    items: list[Item]
    next: int | None


class Row(Schema):
    """What belongs to a team."""

    id: int
    team: str = Field(description="The team's slug.")
    created_by: str | None = None
    created_at: datetime

    @staticmethod
    def resolve_team(row: Any) -> str:
        return str(row["team"] if isinstance(row, dict) else row.team.slug)

    @staticmethod
    def resolve_created_by(row: Any) -> str | None:
        return row["created_by"] if isinstance(row, dict) else person(row.created_by)


def owned(row: TeamOwned) -> dict[str, Any]:
    """What a Row shows of it."""
    told = {"id": row.pk, "team": row.team.slug, "created_at": row.created_at}
    return told | {"created_by": person(row.created_by)}


def person(user: User | None) -> str | None:
    return user.get_username() if user else None


class FormShown(Schema):
    """One form of a model's weights."""

    id: int
    kind: str
    path: str
    dtype: str
    size_bytes: int | None
    digest: str = Field(description="Empty until it is here.")


class ModelShown(Row):
    """A model of the catalogue."""

    name: str
    source: str
    task: str
    architecture: str
    licence: str
    parameters: int | None
    context_length: int | None
    takes_images: bool
    refused: str = Field(description="Why it may not be loaded; empty when it may.")
    missing: bool
    forms: list[FormShown]

    @staticmethod
    def resolve_forms(row: Model) -> Any:
        return list(row.formats.all())


class ReplicaShown(Schema):
    """One start of a deployment on one node."""

    id: int
    node: str | None
    state: str
    reason: str
    created_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None

    @staticmethod
    def resolve_node(row: Any) -> str | None:
        return row.node.name if row.node else None


class DeploymentShown(Row):
    """What should run, and how it stands."""

    name: str
    model: int
    model_name: str
    engine: str
    options: dict[str, Any]
    version: str | None
    desired: str
    state: str = Field(description="In one word: queued, loading, ready, stopped, failed, …")
    why: str
    ready: int = Field(description="Replicas that serve now.")
    released: bool = Field(description="An endpoint's release owns it.")
    configuration: str | None = Field(description="Digest of what really runs, once that is known.")
    idle_timeout_s: int | None
    last_used_at: datetime | None
    problem: str


def deployment(stands: Standing) -> dict[str, Any]:
    row: Deployment = stands.deployment
    return {
        **owned(row),
        "name": row.name,
        "model": row.model_id,
        "model_name": row.model.name,
        "engine": row.engine,
        "options": row.wanted.get("options") or {},
        "version": row.wanted.get("version"),
        "desired": row.desired,
        "state": stands.word,
        "why": stands.why,
        "ready": stands.ready,
        "released": row.released,
        "configuration": row.configuration.digest if row.configuration else None,
        "idle_timeout_s": row.idle_timeout_s,
        "last_used_at": row.last_used_at,
        "problem": row.problem,
    }


class JobShown(Row):
    """Long work with progress."""

    kind: str
    node: str
    target: str
    state: str
    progress: dict[str, Any]
    result: dict[str, Any]
    error: str
    started_at: datetime | None
    ended_at: datetime | None

    @staticmethod
    def resolve_node(row: Job) -> str:
        return row.node.name


class EnvironmentShown(Schema):
    """One installed version of an engine."""

    id: int
    engine: str
    version: str
    build: str
    digest: str
    python: str
    size_bytes: int | None


class NodeShown(Schema):
    """One machine."""

    id: int
    name: str
    live: bool
    accepting: bool
    heartbeat_at: datetime | None
    price_per_hour: str | None
    cores: int | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    gpus: list[dict[str, Any]]
    environments: list[EnvironmentShown]


class HolderShown(Schema):
    """What one replica holds of a node. Of another team's neither its name nor its owner is told."""

    name: str
    deployment: int | None = Field(description="Null where it is another team's.")
    owner: str
    state: str
    node: str
    gpus: list[int] = Field(description="Their numbers on the node.")
    cores: int | None
    memory_bytes: int | None
    idle_since: datetime | None
    busy: bool

    @staticmethod
    def resolve_deployment(row: Any) -> int | None:
        return row.deployment.pk if row.deployment else None


class NodePriced(Schema):
    """One machine and its price."""

    id: int
    name: str
    price_per_hour: str | None

    @staticmethod
    def resolve_price_per_hour(row: Node) -> str | None:
        return None if row.price_per_hour is None else str(row.price_per_hour)


class ColumnShown(Schema):
    """One answerer of a conversation or a batch."""

    id: int
    position: int
    deployment: int | None
    name: str | None
    adapter: str
    parameters: dict[str, Any] | None

    @staticmethod
    def resolve_deployment(row: Any) -> int | None:
        return row.deployment_id

    @staticmethod
    def resolve_name(row: Any) -> str | None:
        return row.deployment.name if row.deployment else None


class SharingShown(Schema):
    """What others of the team may do with it: edit, view, or nothing (private)."""

    id: int
    sharing: str


class ConversationShown(Row):
    """A conversation, without what was said."""

    title: str
    task: str
    system_prompt: str
    parameters: dict[str, Any]
    sharing: str
    blind: bool
    updated_at: datetime
    columns: list[ColumnShown]

    @staticmethod
    def resolve_columns(row: Conversation) -> Any:
        return [column for column in row.columns.all() if not column.closed]


class AnswerShown(Schema):
    """One model's answer; its text grows while `state` is pending or streaming."""

    id: int
    message: int
    column: int
    state: str
    text: str
    reasoning: str
    finish_reason: str
    error_code: str
    error: str
    usage: dict[str, Any]
    timings: dict[str, Any] = Field(description="Milliseconds.")
    configuration: str | None
    created_at: datetime
    ended_at: datetime | None

    @staticmethod
    def resolve_message(row: Generation) -> int:
        return row.turn_id

    @staticmethod
    def resolve_column(row: Generation) -> int:
        return row.column_id

    @staticmethod
    def resolve_configuration(row: Generation) -> str | None:
        return row.configuration.digest if row.configuration else None


class MessageShown(Schema):
    """What a person said, and what came back so far. While a blind vote is open answers are left out."""

    id: int
    parent: int | None
    text: str
    created_by: str | None
    created_at: datetime
    answers: list[AnswerShown]


class VersionShown(Schema):
    """One version of a dataset."""

    id: int
    number: int
    kind: str
    source: str
    columns: list[str]
    row_count: int
    bad_rows: int
    problems: list[dict[str, Any]]
    size_bytes: int
    complete: bool
    created_at: datetime


class DatasetShown(Row):
    """A named set of inputs."""

    name: str
    versions: list[VersionShown]

    @staticmethod
    def resolve_versions(row: Dataset) -> Any:
        return list(row.versions.all())


class DatasetRowShown(Schema):
    """One input."""

    number: int
    line: int
    custom_id: str
    url: str
    body: dict[str, Any]
    cells: dict[str, Any]
    expected: str | None


class ProgressShown(Schema):
    """How far a column is."""

    total: int
    done: int
    failed: int
    cancelled: int
    ended: int


class BatchColumnShown(ColumnShown):
    """A batch's column and how far it is."""

    problem: str
    progress: ProgressShown | None = None


class BatchShown(Row):
    """A dataset's version asked of one or several deployments."""

    name: str
    state: str
    sharing: str
    problem: str
    dataset: int
    version: int = Field(description="The dataset version's id.")
    prompt_version: int | None = Field(description="Of the prompt that the rows are filled into.")
    parameters: dict[str, Any]
    webhook: str
    started_at: datetime | None
    ended_at: datetime | None
    columns: list[BatchColumnShown]


def batch(row: Batch, columns: list[BatchColumn]) -> dict[str, Any]:
    names = ("name", "state", "sharing", "problem", "parameters", "webhook", "started_at", "ended_at")
    told = owned(row) | {name: getattr(row, name) for name in names}
    told |= {"dataset": row.version.dataset_id, "version": row.version_id}
    return told | {"prompt_version": row.prompt_version_id, "columns": columns}


class ResultShown(Schema):
    """One attempt at one row."""

    id: int
    number: int = Field(description="Of the row.")
    attempt: int
    ok: bool
    text: str
    reasoning: str
    finish_reason: str
    usage: dict[str, Any]
    timings: dict[str, Any]
    response: Any = None
    error_code: str
    error: str
