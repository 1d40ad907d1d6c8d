"""What makes something come of an address that changes things: what its form holds, what has to be so before.

By address: a function of the world that sets the scene and answers the form. What it changes is undone with
the rest of the case.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import F
from django.utils import timezone

from endpoints.models import Endpoint, Release
from playground import catalogue, imports, load_form, own_code, prompts, secrets
from playground.models import (
    Adapter,
    Batch,
    BatchColumn,
    BatchItem,
    Conversation,
    Deployment,
    Job,
    Measurement,
    Model,
    Node,
    Prompt,
    Replica,
    Upload,
)
from tests import lora, matrix_world
from tests.gateway_site import configuration
from tests.matrix_world import World

type Form = Mapping[str, Any]
ROW = b'{"prompt": "Hello", "expected": "Hi"}\n'


def works(world: World) -> Node:
    """A node that reports, on which jobs may be asked for."""
    Node.objects.filter(pk=world.one(Node).pk).update(
        heartbeat_at=timezone.now(), inventory={"cores": 4, "memory_bytes": 8 << 30}
    )
    return world.one(Node)


def serves(world: World, state: str = Replica.State.READY, **options: Any) -> Replica:
    """The deployment as if it ran on that node."""
    row, node = world.one(Deployment), works(world)
    frozen = configuration(world.team, **options) if options else row.configuration
    Deployment.objects.filter(pk=row.pk).update(configuration=frozen, wanted={"options": options})
    return Replica.objects.create(
        deployment=row, node=node, configuration=frozen, state=state, served_name="fake", port=9
    )


def live(**form: Any) -> Callable[[World], Form]:
    """That form, where a node reports."""

    def make(world: World) -> Form:
        works(world)
        return form

    return make


def serving(state: str = Replica.State.READY, **form: Any) -> Callable[[World], Form]:
    """That form, where the deployment has a replica."""

    def make(world: World) -> Form:
        serves(world, state)
        return form

    return make


def _attached(world: World, *, before: bool) -> Form:
    """An adapter that is here, and an engine that attaches while it runs."""
    serves(world, runtime_lora=True)
    row = world.one(Adapter)
    Adapter.objects.filter(pk=row.pk).update(digest="d" * 64, refused="")
    if before:
        held = Deployment.objects.get(pk=world.one(Deployment).pk)
        Deployment.objects.filter(pk=held.pk).update(wanted=held.wanted | {"adapters": [row.pk]})
        assert held.configuration is not None
        held.configuration.adapters = [{"name": row.name, "digest": "d" * 64}]
        held.configuration.save(update_fields=["adapters"])
    return {"adapter": row.pk}


def _adapter(world: World) -> Form:
    lora.gguf(catalogue.root() / "loras" / "rhyming.gguf")
    return {"path": "loras/rhyming.gguf", "name": "rhyming"}


def _coming(world: World) -> Form:
    matrix_world.job(world, Job.Kind.FETCH_ADAPTER, f"adapter:{world.one(Adapter).pk}")
    return {}


def _running(kind: str, job: Job.Kind) -> Callable[[World], Form]:
    """The newest measurement, which the address names, is under way."""

    def make(world: World) -> Form:
        row = Measurement.objects.filter(kind=kind).latest("pk")
        row.job = matrix_world.job(world, job, f"measurement:{row.pk}")
        row.save(update_fields=["job"])
        return {}

    return make


def _planned(world: World) -> Form:
    row = Measurement.objects.create(
        team=world.team, created_by=world.owner, conversation=world.one(Conversation), kind="plan"
    )
    settings = {"prompts": [], "turns": [], "stages": [], "waits": []}
    job = matrix_world.job(world, Job.Kind.RUN_PLAN, f"measurement:{row.pk}", measurement=row.pk)
    Measurement.objects.filter(pk=row.pk).update(settings=settings, job=job)
    return {}


def _scoring(world: World) -> Form:
    matrix_world.job(world, Job.Kind.SCORE_BATCH, f"batch-scores:{world.one(Batch).pk}")
    return {}


def _failed_rows(world: World) -> Form:
    row = world.one(Batch).version.rows.get(number=1)
    column = BatchColumn.objects.get(batch=world.one(Batch))
    BatchItem.objects.create(column=column, row=row, number=1, state=BatchItem.State.FAILED)
    return {}


def _paused(world: World) -> Form:
    Batch.objects.filter(pk=world.one(Batch).pk).update(state=Batch.State.PAUSED)
    return {}


def _without_batch(world: World) -> Form:
    Batch.objects.filter(pk=world.one(Batch).pk).delete()
    return {}


def _released(world: World, **values: Any) -> Release:
    """One more release of the endpoint."""
    row = world.one(Endpoint)
    assert row.live is not None
    own = Deployment.objects.create(
        **{name: getattr(row.live.deployment, name) for name in ("team", "model", "engine", "configuration")},
        name=f"words-{row.releases.count() + 1}",
        released=True,
    )
    made: Release = Release.objects.create(
        endpoint=row,
        number=row.releases.count() + 1,
        configuration=row.live.configuration,
        deployment=own,
        **values,
    )
    return made


def _with_former(world: World) -> Form:
    """The live release is the second: there is one to go back to, whose replica is warm."""
    made = _released(world, state=Release.State.LIVE)
    row = world.one(Endpoint)
    Release.objects.filter(pk=row.live_id).update(state=Release.State.WARM)
    Endpoint.objects.filter(pk=row.pk).update(live=made)
    return {}


def _starting(world: World) -> Form:
    return {"release": _released(world, state=Release.State.STARTING).number}


def _unused(world: World) -> Form:
    """Nothing that runs or is released keeps the model."""
    Deployment.objects.update(desired=Deployment.Desired.STOPPED, released=False)
    return {}


def _code(world: World) -> Form:
    """What the administrator read of the model with code of its own, and types."""
    own = own_code.of(Model.objects.get(source="local:matrix-own"))
    assert own is not None
    return {"pin": own.pin, "typed": own.typed}


def _code_allowed(world: World) -> Form:
    Model.objects.filter(source="local:matrix-own").update(
        code_allowed_by=world.owner, code_allowed_at=timezone.now()
    )
    return {}


def _kept_s3(world: World) -> Form:
    secrets.keep(world.team, imports.SECRET, "{}\nAKIA", world.owner)
    return {}


def _whole_upload(world: World) -> Form:
    row = world.one(Upload)
    Upload.objects.filter(pk=row.pk).update(received_bytes=F("size_bytes"))
    return {"name": row.name}


def _two_versions(world: World) -> Form:
    said = prompts.Said([{"role": "user", "content": "Good day {{name}}"}])
    prompts.save(world.one(Prompt), world.owner, said, base=1)
    return {"number": 1, "base": 2}


def _typed(text: str, **more: str) -> Form:
    """A prompt's form of one message."""
    return {"role": "user", "content": text, "more": "", **more}


FORMS: dict[str, Callable[[World], Form]] = {
    "adapter-add": _adapter,
    "adapter-attach": lambda world: _attached(world, before=False),
    "adapter-cancel": _coming,
    "adapter-detach": lambda world: _attached(world, before=True),
    "batch-links": lambda world: {"days": "7"},
    "batch-new": lambda world: {
        "version": world.one(Batch).version_id,
        "deployment": world.one(Deployment).pk,
        "name": "walked",
    },
    "batch-resume": _paused,
    "batch-share": lambda world: {"sharing": "view"},
    "batch-retry": _failed_rows,
    "batch-score-add": live(kind="exact", against="fixed", fixed="Hi"),
    "batch-scores-cancel": _scoring,
    "batch-scores-run": live(),
    "conversation-blind": lambda world: {"on": "yes"},
    "conversation-links": lambda world: {"days": "7"},
    "conversation-rename": lambda world: {"title": "Capitals"},
    "conversation-settings": lambda world: {"system_prompt": "Be brief."},
    "conversation-share": lambda world: {"sharing": "view"},
    "dataset-add": lambda world: {"name": "walked", "answers": "on"},
    "dataset-delete": _without_batch,
    "dataset-new": lambda world: {
        "name": "walked",
        "action": "keep",
        "upload": SimpleUploadedFile("rows.jsonl", ROW),
    },
    "deployment-free": serving(Replica.State.LOST),
    "endpoints:key": lambda world: {"name": "other", "scopes": "endpoints"},
    "endpoints:keys": lambda world: {"name": "new", "scopes": "endpoints"},
    "endpoints:logging": lambda world: {"share": "50", "days": "7"},
    "endpoints:promote": serving(endpoint="fresh"),
    "endpoints:requests-add": lambda world: {
        "request": matrix_world.logged(world).usage_id,
        "name": "walked",
    },
    "endpoints:rollback": _with_former,
    "endpoints:rotate": lambda world: {"overlap": "24"},
    "endpoints:stop": _starting,
    "external-add": lambda world: {
        "name": "far",
        "url": "https://93.184.216.34/v1",
        "model": "m",
        "task": "chat",
    },
    "external-key": lambda world: {"key": "sk-0123456789abcdef"},
    "hub-token": lambda world: {"token": "hf_abcdefghij0123"},
    "import-bucket": lambda world: {"address": "s3://models/tiny", "name": "walked"},
    "load-cancel": _running("load", Job.Kind.MEASURE_LOAD),
    "load-start": serving(**load_form.DEFAULTS | {"source": "prompts", "prompts": "Hello"}),
    "member-role": lambda world: {"role": "operator"},
    "model-quantise": lambda world: {"method": "Q8_0", "name": "smaller"},
    "model-remove": _unused,
    "model-start": lambda world: {"engine": "fake", "name": "walked"},
    "node-install": lambda world: {"engine": "llama.cpp"},
    "node-price": lambda world: {"price_per_hour": "2.5"},
    "noise-cancel": _running("noise", Job.Kind.MEASURE_NOISE),
    "noise-start": serving(what="list", prompts="Hello"),
    "own-code-allow": _code,
    "own-code-withdraw": _code_allowed,
    "person-staff": lambda world: {"wanted": "yes", "staff": "yes"},
    "plan-cancel": _planned,
    "prompt-change": lambda world: {"name": "Renamed"},
    "prompt-import": lambda world: {
        "file": SimpleUploadedFile(
            "walked.json",
            json.dumps({"name": "walked", "messages": [{"role": "user", "content": "Hi"}]}).encode(),
        )
    },
    "prompt-links": lambda world: {"days": "7"},
    "prompt-new": lambda world: _typed("Hello", name="walked"),
    "prompt-restore": _two_versions,
    "prompt-share": lambda world: {"sharing": "view"},
    "prompt-save": lambda world: _typed("Good day", base="1"),
    "running-stop": lambda world: {"chosen": world.one(Deployment).pk},
    "s3-forget": _kept_s3,
    "s3-keep": lambda world: {"key": "AKIA0123456789", "secret": "s" * 40, "region": "eu-central-1"},
    "team-invite": lambda world: {"role": "member", "days": "7"},
    "team-limits": lambda world: {"name": "Walked", "replicas": "4"},
    "team-new": lambda world: {"name": "Walkers"},
    "team-rename": lambda world: {"name": "Walked"},
    "tokens": lambda world: {"name": "walk", "scope": "read", "expires": "30"},
    "upload-finish": _whole_upload,
    "upload-remove": lambda world: {"name": world.one(Upload).name},
    "wish-decline": lambda world: {"answer": "Not today."},
}
