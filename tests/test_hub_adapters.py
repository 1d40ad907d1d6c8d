"""LoRA adapters of the Hub: pinned, judged by their listing and again once here, fetched, removed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from playground import adapters, catalogue, engines, hub_adapters, jobs
from playground import hub as the_hub
from playground.adapters import AdapterRefused
from playground.models import Adapter, Job, Membership, Model, Node, Team, User
from tests import lora as made
from tests.hub_stand_in import TOKEN, HubStandIn

pytestmark = pytest.mark.django_db(transaction=True)
REPO = "me/rhymes"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def root(settings: Any) -> Iterator[Path]:
    """No waiting between attempts; what came is taken away afterwards."""
    settings.DOWNLOAD_RETRY_S = [0.0]
    the_hub.forget_troubles()
    folder: Path = settings.HOME / "models" / "hub"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model(team: Team) -> Model:
    Node.objects.get_or_create(name=settings.NODE_NAME)
    return catalogue.demo(team)


def files(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What a repository of an adapter of the demo model holds."""
    place = made.peft(tmp_path / f"peft-{len(list(tmp_path.iterdir()))}", **changes)
    beside = {"README.md": b"---\nlicense: mit\n---\n", "training_args.bin": b"\x80\x04x", "train.py": b"1"}
    return {file.name: file for file in place.iterdir()} | beside


def post(client: Client, model: Model, repo: str, name: str = "") -> Any:
    return client.post(reverse("adapter-add", args=[model.pk]), {"repo": repo, "hub_name": name})


def run(row: Adapter) -> Job:
    job = adapters.newest_job(row)
    assert job is not None
    jobs.run(job.pk)
    job.refresh_from_db()
    row.refresh_from_db()
    return job


def test_one_is_pinned_fetched_through_a_cut_and_attached(
    client: Client, user: User, model: Model, hub: HubStandIn, tmp_path: Path, root: Path
) -> None:
    commit = hub.add(REPO, files(tmp_path))
    client.force_login(user)
    assert post(client, model, REPO).status_code == 302
    row = Adapter.objects.get()
    assert (row.name, row.source, row.rank) == ("rhymes", f"hub:{REPO}@{commit}", made.RANK)
    assert [one["path"] for one in row.files] == ["adapter_config.json", WEIGHTS], (
        "pickles and code stay there"
    )
    page = client.get(reverse("adapters", args=[model.pk])).content.decode()
    assert f"job:{adapters.newest_job(row).pk}" in page and "Cancel" in page
    hub.cut(WEIGHTS, at=0.5)
    job = run(row)
    assert job.state == Job.State.DONE, job.error
    place = catalogue.root() / row.path
    assert row.digest and sorted(one.name for one in place.iterdir()) == ["adapter_config.json", WEIGHTS]
    node = Node.objects.get(name=settings.NODE_NAME)
    assert adapters.ensure(node, row) == row, "it is ready for every start"
    verdicts = {
        name: dict(adapters.offers(model, engines.get(name)))[row].why for name in ("vllm", "llama.cpp")
    }
    assert verdicts == {"vllm": "", "llama.cpp": "llama.cpp attaches LoRA adapters from GGUF files only."}
    hub.change(REPO, {WEIGHTS: b"other"})
    assert client.post(reverse("adapter-remove", args=[row.pk])).status_code == 302
    assert not place.exists() and not root.exists(), "its room is free again"


def test_a_gguf_file_is_named_where_there_are_several(
    user: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    file = made.gguf(tmp_path / "one.gguf")
    hub.add("me/gguf", {"one-f16.gguf": file, "two-f16.gguf": file})
    with pytest.raises(AdapterRefused, match=r"Which file\? Write me/gguf:one-f16\.gguf"):
        hub_adapters.add(model, "me/gguf", "", user)
    with pytest.raises(AdapterRefused, match=r"has no three\.gguf"):
        hub_adapters.add(model, "me/gguf:three.gguf", "", user)
    row = hub_adapters.add(model, "me/gguf:two-f16.gguf", "", user)
    adapters.ensure(Node.objects.get(name=settings.NODE_NAME), row)
    assert run(row).state == Job.State.DONE
    assert (row.name, row.kind, row.rank) == ("two-f16", "gguf", made.RANK)
    adapters.remove(row, user)
    assert not (catalogue.root() / row.path).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 1024}, "Its rank is 1024; engines take 1 to 512."),
        ({"use_dora": True}, "is a DoRA"),
        ({"peft_type": "PROMPT_TUNING"}, "LoRA is what engines attach"),
        ({"auto_mapping": {"parent_library": "evil.module"}}, "names Python to import"),
    ],
)
def test_what_its_configuration_rules_out_is_refused_before_it_comes(
    client: Client,
    user: User,
    model: Model,
    hub: HubStandIn,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    hub.add(REPO, files(tmp_path, **change))
    client.force_login(user)
    answer = post(client, model, REPO, "mine")
    page = answer.content.decode()
    assert answer.status_code == 422 and words in page
    assert f'value="{REPO}"' in page and 'value="mine"' in page, "what was typed stays"
    assert not Adapter.objects.exists() and not Job.objects.exists()


def test_what_is_no_adapter_is_told(user: User, model: Model, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add_tiny()
    pickled = {"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x04x"}
    hub.add("me/pickled", pickled)
    for repo, words in [
        ("tiny-org/tiny-llama", "it is no adapter"),
        ("me/pickled", "Its weights are pickled"),
        ("me/none", "has no such model"),
        ("../etc", "no name of a repository"),
    ]:
        with pytest.raises(AdapterRefused, match=words):
            hub_adapters.add(model, repo, "", user)


def test_one_for_another_model_is_refused_once_its_weights_are_here(
    client: Client, user: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    """Its listing does not tell."""
    hub.add(REPO, files(tmp_path, hidden=64))
    client.force_login(user)
    post(client, model, REPO)
    row = Adapter.objects.get()
    job = run(row)
    assert job.state == Job.State.FAILED and "64 wide" in job.error
    assert row.refused == job.error and not (catalogue.root() / row.path).exists()
    page = client.get(reverse("model", args=[model.pk]) + "?engine=vllm").content.decode()
    assert "64 wide" in page
    start = client.post(reverse("model-start", args=[model.pk]), {"engine": "vllm", "adapters": [row.pk]})
    assert start.status_code == 422 and "64 wide" in start.content.decode()


def test_a_gated_one_comes_with_the_teams_token(
    user: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    from playground import secrets

    hub.add(REPO, files(tmp_path), gated="manual")
    row = hub_adapters.add(model, REPO, "", user)
    assert row.rank is None, "its configuration is not told"
    node = Node.objects.get(name=settings.NODE_NAME)
    adapters.ensure(node, row)
    assert run(row).state == Job.State.FAILED
    secrets.keep(model.team, secrets.HUB, TOKEN, user)
    adapters.ensure(node, row)
    assert run(row).state == Job.State.DONE
    assert row.rank == made.RANK


def test_files_that_another_team_has_too_stay(
    user: User, stranger: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.add(REPO, files(tmp_path))
    other = stranger.memberships.get().team
    mine = hub_adapters.add(model, REPO, "", user)
    theirs = hub_adapters.add(catalogue.demo(other), REPO, "", stranger)
    adapters.ensure(Node.objects.get(name=settings.NODE_NAME), mine)
    assert run(mine).state == Job.State.DONE
    assert not adapters.found(other), "what a team added from the Hub is no find for another"
    adapters.remove(mine, user)
    assert (catalogue.root() / theirs.path).exists()


def test_while_it_is_fetched_it_stays_and_can_be_cancelled(
    client: Client, user: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.add(REPO, files(tmp_path))
    client.force_login(user)
    post(client, model, REPO)
    row = Adapter.objects.get()
    answer = client.post(reverse("adapter-remove", args=[row.pk]))
    assert answer.status_code == 422 and "It is being fetched: cancel that first." in answer.content.decode()
    assert client.post(reverse("adapter-cancel", args=[row.pk])).status_code == 302
    assert adapters.newest_job(row).state == Job.State.CANCELLED  # type: ignore[union-attr]
    assert "Download" in client.get(reverse("adapters", args=[model.pk])).content.decode()
    assert client.post(reverse("adapter-fetch", args=[row.pk])).status_code == 302
    assert run(row).state == Job.State.DONE


def test_viewers_and_strangers_fetch_and_cancel_nothing(
    client: Client, user: User, stranger: User, model: Model, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.add(REPO, files(tmp_path))
    row = hub_adapters.add(model, REPO, "", user)
    client.force_login(stranger)
    assert post(client, model, REPO).status_code == 404
    for name in ("adapter-fetch", "adapter-cancel", "adapter-remove"):
        assert client.post(reverse(name, args=[row.pk])).status_code == 404
    Membership.objects.filter(user=user).update(role=Membership.Role.VIEWER)
    client.force_login(user)
    assert post(client, model, REPO).status_code == 403
    assert client.post(reverse("adapter-fetch", args=[row.pk])).status_code == 403
    assert not Job.objects.exists()


def test_the_hub_is_asked_what_it_has_for_a_model(
    client: Client, user: User, model: Model, hub: HubStandIn
) -> None:
    hub.add_tiny()
    Model.objects.filter(pk=model.pk).update(origin={"repo": "tiny-org/tiny-llama"})
    client.force_login(user)
    place = reverse("adapters-hub", args=[model.pk])
    assert "tiny-org/tiny-lora" in client.get(place).content.decode()
    the_hub.forget_troubles()
    hub.fail(503, times=9)
    answer = client.get(place)
    assert answer.status_code == 200 and "The Hub answered 503" in answer.content.decode()
