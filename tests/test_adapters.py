"""LoRA adapters: what is taken and what is refused, and real ones served beside their model by llama.cpp."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoDbBlocker

from endpoints import promotion
from endpoints.models import Release
from playground import adapters, catalogue, conversations, deployments, lora, weights
from playground.models import (
    Adapter,
    Column,
    Conversation,
    Deployment,
    Generation,
    Membership,
    Model,
    Team,
    User,
)
from tests import chats, fleet, real_engines
from tests import lora as made
from tests.fleet import Fleet, until
from tests.gateway_site import Site, running_site
from tests.home import HOME

MODELS = HOME / "models"
QUESTION = "Name three colours of the rainbow."


@pytest.fixture
def folder(team: Team) -> Iterator[Path]:
    """A place in the models folder, gone afterwards."""
    place = MODELS / "loras"
    yield place
    shutil.rmtree(place, ignore_errors=True)


# What the files must be


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "LoRA is what engines attach"),
        ({"use_dora": True}, "is a DoRA"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
        ({"bias": "all"}, "biases"),
        ({"r": 4}, "says rank 4, its weights have 8"),
        ({"auto_mapping": {"parent_library": "evil.module"}}, "names Python to import"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "names Python code to load"),
    ],
)
def test_it_refuses_a_configuration_engines_do_not_attach(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    place = made.peft(tmp_path / "one", **change)
    with pytest.raises(weights.Refused, match=words):
        lora.inspect(place)


def test_it_refuses_a_pickle_and_weights_that_are_no_lora(tmp_path: Path) -> None:
    place = made.peft(tmp_path / "one")
    (place / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(weights.Refused, match=r"adapter_model\.bin"):
        lora.inspect(place)
    (place / "adapter_model.bin").unlink()
    made.safetensors(place / "adapter_model.safetensors", {"model.norm.weight": made.zeros(2, 2)})
    with pytest.raises(weights.Refused, match="no part of a plain LoRA"):
        lora.inspect(place)
    half = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": made.zeros(8, 576)}
    made.safetensors(place / "adapter_model.safetensors", half)
    with pytest.raises(weights.Refused, match="do not belong together"):
        lora.inspect(place)


def test_both_forms_say_the_same_of_themselves(tmp_path: Path) -> None:
    peft, gguf = lora.inspect(made.peft(tmp_path / "one")), lora.inspect(made.gguf(tmp_path / "one.gguf"))
    assert (peft.kind, gguf.kind) == ("safetensors", "gguf")
    assert peft.rank == gguf.rank == made.RANK
    assert sorted(peft.targets.values()) == sorted(gguf.targets.values())
    assert gguf.architecture == "llama"


# Adding one to a model


@pytest.fixture
def model(team: Team) -> Model:
    return catalogue.demo(team)


def _add(client: Client, model: Model, **form: str) -> Any:
    return client.post(reverse("adapter-add", args=[model.pk]), form)


def test_one_from_the_folder_becomes_a_name_of_its_model(
    client: Client, user: User, model: Model, folder: Path
) -> None:
    made.peft(folder / "polite")
    client.force_login(user)
    page = client.get(reverse("model", args=[model.pk])).content.decode()
    assert "loras/polite" in page and "rank 8" in page
    assert _add(client, model, path="loras/polite", name="").status_code == 302
    row = Adapter.objects.get(name="polite")
    assert (row.model, row.kind, row.rank) == (model, "safetensors", 8)
    assert not any(one.name.endswith("polite") for one in catalogue.scan(model.team)), "it is no model"
    page = client.get(reverse("model", args=[model.pk]) + "?engine=vllm").content.decode()
    assert f'name="adapters" value="{row.pk}"' in page
    preview = client.post(
        reverse("model-form", args=[model.pk]), {"engine": "vllm", "adapters": [row.pk]}
    ).content.decode()
    assert "--lora-modules" in preview and "polite=" in preview


def test_one_for_another_model_is_refused_where_the_person_looks(
    client: Client, user: User, model: Model, folder: Path
) -> None:
    made.peft(folder / "wide", hidden=64)
    client.force_login(user)
    answer = _add(client, model, path="loras/wide", name="my-own")
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "It is for a model 64 wide; this one is 576 wide." in page
    assert 'value="my-own"' in page
    assert not Adapter.objects.exists()


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("../secret", "x", "no adapter in the models folder"),
        ("loras/none", "x", "no adapter in the models folder"),
        ("loras/polite", "a b", "A name of letters"),
        ("loras/polite", "SmolLM2-135M-Instruct", "own name"),
    ],
)
def test_a_bad_place_or_name_is_refused(
    client: Client, user: User, model: Model, folder: Path, path: str, name: str, words: str
) -> None:
    made.peft(folder / "polite")
    client.force_login(user)
    answer = _add(client, model, path=path, name=name)
    assert answer.status_code == 422
    assert words in answer.content.decode()


def test_strangers_and_viewers_add_and_remove_nothing(
    client: Client, user: User, stranger: User, model: Model, folder: Path
) -> None:
    made.peft(folder / "polite")
    row = adapters.add(model, "loras/polite", "polite", user)
    remove = reverse("adapter-remove", args=[row.pk])
    client.force_login(stranger)
    assert _add(client, model, path="loras/polite", name="x").status_code == 404
    assert client.post(remove).status_code == 404
    Membership.objects.filter(user=user).update(role=Membership.Role.VIEWER)
    client.force_login(user)
    assert _add(client, model, path="loras/polite", name="x").status_code == 403
    assert client.post(remove).status_code == 403
    assert Adapter.objects.count() == 1


def test_an_engine_that_attaches_none_says_so(client: Client, user: User, model: Model, folder: Path) -> None:
    made.peft(folder / "polite")
    row = adapters.add(model, "loras/polite", "polite", user)
    client.force_login(user)
    for engine, words in [
        ("transformers", "transformers attaches no LoRA adapters."),
        ("llama.cpp", "llama.cpp attaches LoRA adapters from GGUF files only."),
    ]:
        form = {"engine": engine, "adapters": [row.pk]}
        answer = client.post(reverse("model-start", args=[model.pk]), form)
        assert answer.status_code == 422
        assert f"polite: {words}" in answer.content.decode()
    assert not Deployment.objects.exists()


def test_a_rank_beyond_what_is_set_aside_is_refused_before_the_start(
    client: Client, user: User, model: Model, folder: Path
) -> None:
    made.peft(folder / "polite")
    row = adapters.add(model, "loras/polite", "polite", user)
    client.force_login(user)
    form = {"engine": "vllm", "adapters": [row.pk], "option.max_lora_rank": "1"}
    answer = client.post(reverse("model-start", args=[model.pk]), form)
    assert answer.status_code == 422
    assert "polite has rank 8, and “Largest rank” is set to 1" in answer.content.decode()
    assert not Deployment.objects.exists()


def test_one_in_use_is_not_removed(client: Client, user: User, model: Model, folder: Path) -> None:
    made.peft(folder / "polite")
    row = adapters.add(model, "loras/polite", "polite", user)
    used = deployments.request(
        team=model.team, user=user, model=model, engine="vllm", options={}, name="user", attached=[row.pk]
    )
    client.force_login(user)
    answer = client.post(reverse("adapter-remove", args=[row.pk]))
    assert answer.status_code == 422 and "in use by user" in answer.content.decode()
    deployments.delete(used, user)
    assert client.post(reverse("adapter-remove", args=[row.pk])).status_code == 302
    assert not Adapter.objects.exists() and (folder / "polite").exists()


# A real one, served by llama.cpp beside the demo model


@dataclass
class Served:
    """A ready deployment with an adapter, and a site in front of it."""

    site: Site
    team: Team
    user: User
    row: Deployment
    adapter: Adapter

    def ask(self, model: str, **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
        return self.site.post(
            json={**body, "temperature": 0, "max_tokens": 24, "cache_prompt": False, **more}
        )

    def text(self, model: str) -> str:
        answer = self.ask(model)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    @property
    def name(self) -> str:
        return f"deployment/{self.row.pk}"


@pytest.fixture(scope="module")
def served(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        team, _ = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})
        user = User.objects.create_user(username="ada-lora")
        Membership.objects.create(user=user, team=team, role=Membership.Role.ADMIN)
        real_engines.environment("llama.cpp")
        model, _ = real_engines.demo("gguf")
        made.gguf(MODELS / "loras" / "rhyming.gguf")
        adapter = adapters.add(model, "loras/rhyming.gguf", "rhyming", user)
        row = deployments.request(
            team=team,
            user=user,
            model=model,
            engine="llama.cpp",
            options={"context": 1024},
            attached=[adapter.pk],
        )
        workers = Fleet()
        try:
            workers.work(SLIPWAY_GRACE_S="10", SLIPWAY_FROZEN_AFTER_S="60", SLIPWAY_LOST_AFTER_S="30")
            with running_site(tmp_path_factory.mktemp("site")) as web:
                fleet.ready(row, 120)
                row.refresh_from_db()
                adapter.refresh_from_db()
                web.key(team)
                yield Served(web, team, user, row, adapter)
        finally:
            workers.close()
            (MODELS / "loras" / "rhyming.gguf").unlink()
        call_command("flush", interactive=False, verbosity=0)
        Team.objects.create(slug="default", name="Default")
        connections.close_all()


def test_the_adapter_is_part_of_the_configuration(served: Served) -> None:
    frozen = served.row.configuration
    assert frozen is not None and served.adapter.digest
    assert frozen.adapters == [{"name": "rhyming", "digest": served.adapter.digest}]
    assert served.adapter.digest in json.loads(frozen.canonical)["adapters"][0]["digest"]
    assert "--lora-scaled" in served.row.replicas.get().command


def test_its_name_answers_otherwise_and_the_model_as_before(served: Served) -> None:
    plain, other = served.text(served.name), served.text(f"{served.name}:rhyming")
    assert plain != other
    assert served.text(served.name) == plain, "the model is as it was without the adapter"
    assert served.text(f"{served.name}:rhyming") == other
    listed = {one["id"]: one for one in served.site.get("/v1/models").json()["data"]}
    assert listed[f"{served.name}:rhyming"]["parent"] == served.name
    assert "parent" not in listed[served.name]


def test_only_its_name_selects_it(served: Served) -> None:
    unknown = served.ask(f"{served.name}:nobody")
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"
    raw = served.ask(served.name, lora=[{"id": 0, "scale": 1.0}])
    assert raw.status_code == 400 and raw.json()["error"]["param"] == "lora"


def test_a_column_picks_it(served: Served) -> None:
    chat = Conversation.objects.create(
        team=served.team, created_by=served.user, parameters={"temperature": 0, "max_tokens": 24}
    )
    column = Column.objects.create(conversation=chat, deployment=served.row)
    name, _, value = chats.cookie(served.user).partition("=")
    browser = Client()
    browser.cookies[name] = value
    page = browser.get(f"/playground/{chat.pk}/").content.decode()
    assert f'<option value="{served.row.pk}:rhyming">' in page
    place = reverse("column", args=[column.pk])
    refused = browser.post(place, {"deployment": f"{served.row.pk}:nobody"})
    assert (
        refused.status_code == 422 and "does not serve an adapter called nobody" in refused.content.decode()
    )
    assert "rhyming" in browser.post(place, {"deployment": f"{served.row.pk}:rhyming"}).content.decode()
    column.refresh_from_db()
    assert column.adapter == "rhyming"
    # The site's own process writes the answer, as for a browser.
    browser.post(f"/playground/{chat.pk}/send/", {"text": QUESTION, "client_id": "one"})
    answer = until(
        "the answer is whole",
        lambda: Generation.objects.filter(turn__conversation=chat, state="complete").first(),
        30,
    )
    assert answer.text == served.text(f"{served.name}:rhyming")
    assert answer.request["lora"] == [{"id": 0, "scale": 1.0}]
    with pytest.raises(conversations.ConversationRefused):
        conversations.choose(column, served.row, "nobody")


def test_a_release_serves_it_under_the_endpoint(served: Served) -> None:
    release = promotion.promote(served.row, endpoint="colours", user=served.user)

    def live() -> bool:
        promotion.settle()  # As beat asks for it each second.
        return Release.objects.get(pk=release.pk).state == Release.State.LIVE

    until("it is live", live, 120)
    served.site.until(lambda: served.ask("colours").status_code == 200, 20)
    assert served.text("colours:rhyming") == served.text(f"{served.name}:rhyming")


def test_files_that_changed_are_not_what_was_tried(served: Served) -> None:
    """A release or restart of the same digest never loads other weights."""
    file = MODELS / served.adapter.path
    kept = file.read_bytes()
    try:
        made.gguf(file, seed=8)
        deployments.restart(served.row, None)
        problem = until("it is given up", lambda: Deployment.objects.get(pk=served.row.pk).problem, 30)
        assert "adapter changed" in problem
    finally:
        file.write_bytes(kept)
