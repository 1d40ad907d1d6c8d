"""One real row of every kind that an address names, in one team, and people of every standing.

A kind without a builder fails the matrix: write a function of the world that makes one cheap row, and put it
into BUILDERS. What an address needs beside its first key stands in KEYS, what a form has to hold in FORMS.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.db.models import Model as Row
from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey, Endpoint, LoggedRequest, Usage
from playground import arriving, catalogue, load_form, prompts, teams
from playground.models import (
    AccessToken,
    Adapter,
    Batch,
    BatchColumn,
    Column,
    Comment,
    Conversation,
    Dataset,
    Deployment,
    EngineEnvironment,
    Generation,
    Image,
    Invitation,
    Job,
    Measurement,
    Membership,
    Model,
    Node,
    Prompt,
    ShareLink,
    StartWish,
    Team,
    Turn,
    Upload,
    User,
)
from tests import batch_rows, gateway_site, passkeys
from tests.hub_repos import tiny_files

Role = Membership.Role
# Who looks at what the team owns: nobody, people of another team, and each role of the team.
ANONYMOUS = "anonymous"
STRANGER, STRANGE_SITE = "administrator of another team", "site administrator of another team"
VIEWER, MEMBER, OPERATOR, ADMIN, SITE = "viewer", "member", "operator", "administrator", "site administrator"
ROLES = {
    VIEWER: Role.VIEWER,
    MEMBER: Role.MEMBER,
    OPERATOR: Role.OPERATOR,
    ADMIN: Role.ADMIN,
    SITE: Role.ADMIN,
}
STRANGERS = (STRANGER, STRANGE_SITE)


@dataclass
class World:
    team: Team
    other: Team
    people: dict[str, User]
    made: dict[type[Row], Row] = field(default_factory=dict)

    @property
    def owner(self) -> User:
        """Whose the rows are that belong to a person alone."""
        return self.people[SITE]

    def one[R: Row](self, kind: type[R]) -> R:
        """The team's row of that kind, made at first need."""
        if kind not in self.made:
            self.made[kind] = BUILDERS[kind](self)
        found = self.made[kind]
        assert isinstance(found, kind)
        return found


def world() -> World:
    team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
    other = Team.objects.create(name="Other", slug="matrix-other")
    people = {name: _person(name, team, role) for name, role in ROLES.items()}
    people |= {name: _person(name, other, Role.ADMIN) for name in STRANGERS}
    return World(team, other, people)


def _person(name: str, team: Team, role: str) -> User:
    person = User.objects.create_user(
        name.replace(" ", "-"), is_staff=name in (SITE, STRANGE_SITE), team=team
    )
    Membership.objects.create(user=person, team=team, role=role)
    return person


# One row of each kind


def _model(world: World) -> Model:
    return world.one(Deployment).model


def _deployment(world: World) -> Deployment:
    return gateway_site.deployment(world.team)


def _endpoint(world: World) -> Endpoint:
    behind = gateway_site.deployment(world.team, released=True, name="behind")
    return gateway_site.endpoint(world.team, "words", behind)


def _key(world: World) -> ApiKey:
    return keys.make(world.team, world.owner, "matrix", ["endpoints"])[0]


def _conversation(world: World) -> Conversation:
    row = Conversation.objects.create(team=world.team, created_by=world.owner, title="Capital cities")
    Column.objects.create(conversation=row, deployment=world.one(Deployment))
    return row


def _column(world: World) -> Column:
    return world.one(Conversation).columns.get()


def _turn(world: World) -> Turn:
    conversation = world.one(Conversation)
    return Turn.objects.create(conversation=conversation, text="Hello", client_id="matrix")


def _generation(world: World) -> Generation:
    state = Generation.State.COMPLETE
    vectors = {"vectors": b"\0\0\x80\x3f", "result": {"norms": [1.0], "dimension": 1}}
    return Generation.objects.create(
        turn=world.one(Turn),
        column=world.one(Column),
        state=state,
        text="Hi",
        request={"model": "x"},
        **vectors,
    )


def _image(world: World) -> Image:
    conversation = world.one(Conversation)
    return Image.objects.create(
        conversation=conversation, kind="png", width=1, height=1, size_bytes=1, data=b"x"
    )


def _dataset(world: World) -> Dataset:
    return batch_rows.version(world.team, ["One?", "Two?"]).dataset


def _batch(world: World) -> Batch:
    version = world.one(Dataset).versions.get()
    batch = Batch.objects.create(
        team=world.team, name="matrix", version=version, scorers=[{"kind": "contains", "case": False}]
    )
    BatchColumn.objects.create(batch=batch, deployment=world.one(Deployment))
    return batch


def _node(world: World) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


def job(world: World, kind: Job.Kind, target: str, **arguments: Any) -> Job:
    return Job.objects.create(
        team=world.team,
        kind=kind,
        node=world.one(Node),
        target=target,
        arguments=arguments,
        created_by=world.owner,
    )


def _job(world: World) -> Job:
    return job(world, Job.Kind.IMPORT_MODEL, "import:matrix")


def _upload(world: World) -> Upload:
    return Upload.objects.create(team=world.team, name="own", path="model.safetensors", size_bytes=10)


def _adapter(world: World) -> Adapter:
    files = [{"path": "adapter_model.safetensors", "size": 1, "sha256": "0" * 64}]
    return Adapter.objects.create(
        team=world.team,
        name="tuned",
        model=world.one(Model),
        source="hub:org/tuned@" + "a" * 40,
        kind="gguf",
        path="tuned",
        files=files,
    )


def _environment(world: World) -> EngineEnvironment:
    return EngineEnvironment.objects.create(
        engine="llama.cpp", version="1.0", digest="1" * 64, packages="", python="3.13"
    )


def _membership(world: World) -> Membership:
    """Somebody who is neither the last administrator nor one of those who look."""
    person = User.objects.create_user("somebody")
    return Membership.objects.create(user=person, team=world.team, role=Role.MEMBER)


def _invitation(world: World) -> Invitation:
    return teams.invite(world.team, Role.VIEWER, world.owner)[0]


def _wish(world: World) -> StartWish:
    return StartWish.objects.create(team=world.team, created_by=world.owner, model=world.one(Model))


def _prompt(world: World) -> Prompt:
    said = [{"role": "user", "content": "Hello {{name}}"}]
    return prompts.create(world.team, world.owner, "Greeting", prompts.Said(said))


def _token(world: World) -> AccessToken:
    return AccessToken.objects.create(user=world.owner, name="matrix", prefix="matrix", secret_hash="0" * 64)


def _link(world: World) -> ShareLink:
    return ShareLink.objects.create(
        team=world.team,
        kind=ShareLink.Kind.CONVERSATION,
        object_id=world.one(Conversation).pk,
        created_by=world.owner,
        expires_at=timezone.now() + timedelta(days=1),
    )


def _comment(world: World) -> Comment:
    return Comment.objects.create(generation=world.one(Generation), user=world.owner, text="Good")


def _passkey(world: World) -> Authenticator:
    data = {"name": "Phone", "credential": passkeys.credential()}
    return Authenticator.objects.create(user=world.owner, type=Authenticator.Type.WEBAUTHN, data=data)


def _run(world: World) -> Measurement:
    wanted = load_form.Wanted((load_form.Level(open=False, value=1),), 1, 16, ("Hello",))
    talk, kind = world.one(Conversation), Measurement.Kind.LOAD
    return Measurement.objects.create(
        team=world.team, conversation=talk, kind=kind, settings={**wanted.kept(), "columns": []}
    )


def _by_provider(world: World) -> SocialAccount:
    return SocialAccount.objects.create(user=world.owner, provider="corp", uid="1")


BUILDERS: dict[type[Row], Callable[[World], Row]] = {
    Model: _model,
    Deployment: _deployment,
    Endpoint: _endpoint,
    ApiKey: _key,
    Conversation: _conversation,
    Column: _column,
    Turn: _turn,
    Generation: _generation,
    Image: _image,
    Dataset: _dataset,
    Batch: _batch,
    Node: _node,
    Job: _job,
    Upload: _upload,
    Adapter: _adapter,
    EngineEnvironment: _environment,
    Membership: _membership,
    Invitation: _invitation,
    StartWish: _wish,
    Prompt: _prompt,
    AccessToken: _token,
    ShareLink: _link,
    Comment: _comment,
    Measurement: _run,
    Authenticator: _passkey,
    SocialAccount: _by_provider,
    Team: lambda world: world.team,
    User: lambda world: world.one(Membership).user,
}

# What a socket's message calls its kinds.
SPOKEN_OF: dict[str, type[Row]] = {"conversation": Conversation, "generation": Generation}

# A word in the names of all that has one: whoever reads it has been told of another team's row.
MARK = "zanzibar"
NAMES: dict[type[Row], str] = {
    Model: "name",
    Deployment: "name",
    Endpoint: "name",
    ApiKey: "name",
    Conversation: "title",
    Turn: "text",
    Generation: "text",
    Dataset: "name",
    Batch: "name",
    Upload: "name",
    Adapter: "name",
    Prompt: "name",
    Comment: "text",
}


def mark(world: World) -> None:
    """Put MARK into every name."""
    for kind, name in NAMES.items():
        row = world.one(kind)
        kind._default_manager.filter(pk=row.pk).update(**{name: MARK})
        row.refresh_from_db()


# Other rows than the usual of their kind: by address.


def _with_own_code(world: World) -> Model:
    """A model that is refused for code of its own, and nothing else."""
    folder = catalogue.root() / "matrix-own"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tiny_files().items():
        (folder / name).write_bytes(content)
    config = json.loads(tiny_files()["config.json"]) | {"auto_map": {"AutoModel": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("VALUE = 1")
    catalogue.scan(world.team)
    return Model.objects.get(team=world.team, source="local:matrix-own")


def _elsewhere(world: World) -> Model:
    return Model.objects.create(
        team=world.team,
        name="theirs",
        source="external:theirs",
        origin={"url": "https://example.org/v1", "model": "m"},
    )


def _own(kind: type[Row]) -> Callable[[World, User | None], Row]:
    """One that this person made or began: what is done with it is for its owner alone."""

    def made(world: World, person: User | None) -> Row:
        row = world.one(kind)
        kind._default_manager.filter(pk=row.pk).update(created_by=person)
        return row

    return made


def _own_link(world: World, person: User | None) -> ShareLink:
    _own(Conversation)(world, person)
    return world.one(ShareLink)


def _own_comment(world: World, person: User | None) -> Comment:
    row = world.one(Comment)
    Comment.objects.filter(pk=row.pk).update(user=person)
    return row


PARTICULAR: dict[str, Callable[[World, User | None], Row]] = {
    "own-code": lambda world, person: _with_own_code(world),
    "own-code-allow": lambda world, person: _with_own_code(world),
    "own-code-withdraw": lambda world, person: _with_own_code(world),
    "external-key": lambda world, person: _elsewhere(world),
    "picture-discard": _own(Image),
    "conversation-share": _own(Conversation),
    "prompt-share": _own(Prompt),
    "batch-share": _own(Batch),
    "share-link-revoke": _own_link,
    "comment": _own_comment,
    "comment-delete": _own_comment,
}

# What stands in an address beside its first key: by its name there, and by address where that is not enough.


def _measurement(kind: str) -> Callable[[World, User | None], int]:
    return lambda world, person: (
        Measurement.objects.create(team=world.team, conversation=world.one(Conversation), kind=kind).pk
    )


def _format(world: World) -> int:
    return world.one(Model).formats.get().pk


def _arriving(world: World, person: User | None) -> str:
    """A file on its way to this person's own team: no row, so that there is nothing to name it by."""
    team = person.team if person and person.team else world.team
    for file in arriving._waiting(team):  # Of other cases: files go back with no transaction.
        arriving.remove(file)
    return arriving.begin(team, "rows.jsonl", 10).key


def logged(world: World) -> LoggedRequest:
    """A request that the endpoint kept."""
    row = Usage.objects.create(
        request_id="matrix",
        at=timezone.now(),
        team=world.team,
        endpoint=world.one(Endpoint).name,
        route="/v1/chat/completions",
        status=200,
        e2e_ms=1.0,
    )
    body = {"messages": [{"role": "user", "content": MARK}]}
    return LoggedRequest.objects.create(usage=row, request=body)


KEYS: dict[str, Callable[[World, User | None], Any]] = {
    "form": lambda world, person: _format(world),
    "environment": lambda world, person: world.one(EngineEnvironment).pk,
    "number": lambda world, person: 1,
    "place": lambda world, person: 0,
    "repo": lambda world, person: "org/model",
    "rest": lambda world, person: "nothing",
    "key": _arriving,
    "token": lambda world, person: "nosuchtoken",
    # Of what is one's own, or shared by a link: none that is there.
    "pk": lambda world, person: 10**9,
    "provider_id": lambda world, person: "nobody",
    "organization_slug": lambda world, person: "nobody",
    "model-cancel job": lambda world, person: (
        job(world, Job.Kind.DOWNLOAD_MODEL, f"format:{_format(world)}").pk
    ),
    "model-quantise-cancel job": lambda world, person: (
        job(world, Job.Kind.QUANTISE_MODEL, "quantise:matrix", model=world.one(Model).pk).pk
    ),
    "endpoints:request pk": lambda world, person: logged(world).usage_id,
    "endpoints:request-open pk": lambda world, person: logged(world).usage_id,
    "load-cancel run": _measurement("load"),
    "load-samples run": _measurement("load"),
    "noise-cancel run": _measurement("noise"),
}

# What a form must hold so that the answer is not a 404 for want of it.
FORMS: dict[str, Callable[[World], Mapping[str, Any]]] = {
    "model-fetch": lambda world: {"node": world.one(Node).name},
    "adapter-attach": lambda world: {"adapter": world.one(Adapter).pk},
    "adapter-detach": lambda world: {"adapter": world.one(Adapter).pk},
    "column": lambda world: {"deployment": world.one(Deployment).pk},
    "prompt-restore": lambda world: {"number": 1, "base": 1},
    "conversation-prompt": lambda world: {"act": "leave"},
    "batches-ended": lambda world: {"since": timezone.now().isoformat()},
}


# A row of another team named in a form or a query, of one's own page: by address and method.
FOREIGN: list[tuple[str, str, Callable[[World], Mapping[str, Any]]]] = [
    ("conversation-new", "POST", lambda theirs: {"deployment": theirs.one(Deployment).pk}),
    ("column", "POST", lambda theirs: {"deployment": theirs.one(Deployment).pk}),
    ("column-add", "POST", lambda theirs: {"deployment": theirs.one(Deployment).pk}),
    ("running-stop", "POST", lambda theirs: {"chosen": theirs.one(Deployment).pk}),
    ("adapter-attach", "POST", lambda theirs: {"adapter": theirs.one(Adapter).pk}),
    ("model", "GET", lambda theirs: {"edit": theirs.one(Deployment).pk}),
    ("model-start", "POST", lambda theirs: {"engine": "fake", "edit": theirs.one(Deployment).pk}),
    ("dataset-new", "GET", lambda theirs: {"dataset": theirs.one(Dataset).pk}),
    ("dataset-new", "POST", lambda theirs: {"of": theirs.one(Dataset).pk}),
    ("dataset-add", "POST", lambda theirs: {"dataset": theirs.one(Dataset).pk}),
    ("batch-new", "POST", lambda theirs: {"version": theirs.one(Dataset).versions.get().pk}),
    ("prompt-new", "GET", lambda theirs: {"conversation": theirs.one(Conversation).pk}),
    ("conversation-prompt", "POST", lambda theirs: {"act": "use", "prompt": theirs.one(Prompt).pk}),
]


def abroad(world: World) -> World:
    """The other team's own: with rows as this one's, of which its administrator is the owner."""
    people = world.people | {SITE: world.people[STRANGER]}
    return World(world.other, world.team, people)
