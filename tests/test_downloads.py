"""Downloads from the Hub: whole and checked, or refused with the reason; what is cut goes on."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from playground import catalogue, hub, hub_models, jobs, partial, weights
from playground.models import Job, Model, Node, Team, User
from tests.hub_repos import safetensors, tiny_files
from tests.hub_stand_in import HubStandIn

pytestmark = pytest.mark.django_db(transaction=True)
LARGE = "model.safetensors"


@pytest.fixture(autouse=True)
def root(settings: Any) -> Iterator[Path]:
    """An empty models folder, and no waiting between attempts."""
    settings.DOWNLOAD_RETRY_S = [0.0]
    hub.forget_troubles()
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node(team: Team) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


@pytest.fixture
def big(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """me/big: weights of 1 MB in pieces of 256 kB."""
    monkeypatch.setattr(partial, "PIECE", 256 << 10)
    hub.add("me/big", tiny_files() | {LARGE: safetensors({"weight": [512, 1024]})})
    return hub


def added(repo: str, team: Team, *keys: str, user: User | None = None) -> Model:
    return hub_models.add(hub.repository(repo), keys, team, user)


def asked(model: Model, node: Node) -> Job:
    job = hub_models.download(model, model.formats.get(), node, None)
    assert isinstance(job, Job)
    return job


def run(job: Job) -> Job:
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def in_thread(job: Job) -> threading.Thread:
    def work() -> None:
        try:
            jobs.run(job.pk)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def asked_of(stand_in: HubStandIn, name: str) -> list[str]:
    """The ranges of a file that its CDN was asked for."""
    return [one.range for one in stand_in.seen if one.server == "cdn" and one.path.endswith(name)]


def left_overs(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob(".*.part*"))


def test_it_brings_the_files_of_a_form_and_no_others(
    hub: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    job = run(asked(model, node))
    assert (job.state, job.error) == ("done", "")
    form = model.formats.get()
    folder = root / form.path
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert form.digest == weights.digest(folder), "as if all of it had been read again"
    assert catalogue.on_disk() == [form.digest]
    assert catalogue.ensure(node, model, "safetensors") == form
    assert left_overs(root) == []
    assert model.source == f"hub:tiny-org/tiny-llama@{hub.commit('tiny-org/tiny-llama')}"
