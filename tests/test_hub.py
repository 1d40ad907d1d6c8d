"""The Hub in the catalogue: searched with what lies here, looked at, added, brought, removed."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import hub as the_hub
from playground import hub_models, jobs, repositories, secrets
from playground.models import AuditEntry, Deployment, Job, Membership, Model, Node, Secret, Team, User
from tests.fleet import tiny_model
from tests.hub_repos import gguf, tiny_files
from tests.hub_stand_in import TOKEN, HubStandIn

TINY = "tiny-org/tiny-llama"


@pytest.fixture(autouse=True)
def root(settings: Any) -> Iterator[Path]:
    """An empty models folder, and a Hub of which nothing is remembered."""
    settings.DOWNLOAD_RETRY_S = [0.0]
    the_hub.forget_troubles()
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node(team: Team, settings: Any) -> Node:
    inventory = {"cores": 2, "memory_bytes": 16 << 30, "memory_available_bytes": 8 << 30, "gpus": []}
    given = {"heartbeat_at": timezone.now(), "inventory": inventory}
    return Node.objects.update_or_create(name=settings.NODE_NAME, defaults=given)[0]


@pytest.fixture
def tiny(hub: HubStandIn) -> HubStandIn:
    hub.add_tiny()
    return hub


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


@pytest.fixture
def signed(team: Team) -> Callable[[str], Client]:
    """A browser signed in as somebody with that role."""

    def as_role(role: str) -> Client:
        person = User.objects.create_user(username=f"a-{role}")
        Membership.objects.create(user=person, team=team, role=role)
        return signed_in(person)

    return as_role


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def found(page: Client, **query: str) -> str:
    answer = page.get(reverse("models-hub"), query)
    assert answer.status_code == 200
    return answer.content.decode()


def repos_in(html: str) -> list[str]:
    return re.findall(r'href="/models/hub/of/([^"]+?)/?"', html)


def last_query(hub: HubStandIn) -> dict[str, list[str]]:
    return next(one.query for one in reversed(hub.seen) if one.path == "/api/models")


def add(page: Client, repo: str, commit: str, *forms: str) -> Any:
    return page.post(reverse("hub-add"), {"repo": repo, "commit": commit, "form": list(forms)})


def added(team: Team, repo: str = TINY, *forms: str) -> Model:
    return hub_models.add(the_hub.repository(repo), forms, team, None)


def fetched(team: Team, node: Node, repo: str = TINY, *forms: str) -> Model:
    """Added, and its files here."""
    model = added(team, repo, *forms)
    for form in model.formats.all():
        job = hub_models.download(model, form, node, None)
        assert isinstance(job, Job)
        assert jobs.run(job.pk) == "done"
    return model


def carried_out(target: str) -> Job:
    """The newest job on that target, run here."""
    job = Job.objects.filter(target=target).latest("pk")
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def messages_of(answer: Any) -> str:
    return " ".join(str(one) for one in answer.context["messages"])


# Searching


def test_it_finds_on_the_hub_and_here_at_once(page: Client, tiny: HubStandIn, team: Team, node: Node) -> None:
    tiny_model(team)
    html = page.get(reverse("models"), {"q": "tiny"}).content.decode()
    here, _, there = html.partition('id="hub"')
    assert ">tiny<" in here.replace("\n", "")
    assert "SmolLM2" not in here, "the demo model is not called that"
    assert repos_in(there) == [
        TINY,
        "tiny-org/gated",
        "tiny-org/tiny-GGUF",
        "tiny-org/huge",
        "tiny-org/tiny-lora",
    ]
    assert "fits: " in there and "does not fit: " in there
    assert 'class="badge">gated' in there


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({"q": " two  words "}, {"search": ["two  words"]}),
        ({"task": "chat"}, {"pipeline_tag": ["text-generation"], "filter": ["conversational"]}),
        ({"task": "embedding"}, {"pipeline_tag": ["feature-extraction"]}),
        ({"size": "4"}, {"num_parameters": ["min:1B,max:4B"]}),
        ({"size": "more"}, {"num_parameters": ["min:40B"]}),
        ({"licence": "mit"}, {"filter": ["license:mit"]}),
        ({"library": "gguf"}, {"filter": ["gguf"]}),
        ({"gated": "yes"}, {"gated": ["true"]}),
        ({"gated": "no"}, {"gated": ["false"]}),
        ({"sort": "likes"}, {"sort": ["likes"]}),
        ({"sort": "no such order", "task": "\x00", "size": "-1"}, {"sort": ["downloads"]}),
    ],
)
def test_each_filter_is_asked_of_the_hub(
    page: Client, tiny: HubStandIn, query: dict[str, str], asked: dict[str, list[str]]
) -> None:
    found(page, **query)
    told = last_query(tiny)
    plain = {"sort": ["downloads"]}
    assert {key: value for key, value in told.items() if key not in ("limit", "expand")} == plain | asked


def test_filters_choose_what_is_shown(page: Client, tiny: HubStandIn) -> None:
    assert repos_in(found(page, gated="yes")) == ["tiny-org/gated"]
    assert repos_in(found(page, library="gguf")) == ["tiny-org/tiny-GGUF"]
    assert repos_in(found(page, size="more")) == ["tiny-org/huge"]
    assert "The Hub has nothing like that" in found(page, q="no-such-model")


def test_what_fits_nowhere_can_be_left_out(page: Client, tiny: HubStandIn, node: Node) -> None:
    assert "tiny-org/huge" not in repos_in(found(page, q="tiny-org", fits="1"))
    assert "The one found does not fit" in found(page, q="huge", fits="1")


def test_what_was_found_is_not_asked_for_again_at_once(page: Client, tiny: HubStandIn) -> None:
    assert found(page, q="tiny") == found(page, q="tiny")
    assert len(tiny.seen) == 1


def test_what_the_hub_says_is_text(page: Client, hub: HubStandIn) -> None:
    evil = "<img src=x onerror=alert(1)>"
    hub.add("me/evil", tiny_files(), pipeline_tag=evil, license=evil, library_name=evil, tags=[evil])
    assert evil not in found(page, q="evil")
    html = page.get(reverse("hub-model", args=["me/evil"])).content.decode()
    assert evil not in html and "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html, "the card, as text"


# No Hub


def test_without_a_network_models_here_work(page: Client, team: Team, node: Node, settings: Any) -> None:
    settings.HF_ENDPOINT = "http://127.0.0.1:9"
    model = tiny_model(team)
    html = page.get(reverse("models"), {"q": "tiny"}).content.decode()
    assert 'data-trouble="away"' in html
    assert "http://127.0.0.1:9 cannot be reached from this machine. Models that lie here work." in html
    assert reverse("model", args=[model.pk]) in html
    assert page.get(reverse("model", args=[model.pk])).status_code == 200
    answer = page.get(reverse("hub-model", args=[TINY]))
    assert (answer.status_code, b"cannot be reached" in answer.content) == (503, True)


def test_one_failure_to_reach_it_spares_the_next_ones(page: Client, tiny: HubStandIn, settings: Any) -> None:
    away, settings.HF_ENDPOINT = settings.HF_ENDPOINT, "http://127.0.0.1:9"
    found(page, q="tiny")
    assert the_hub._away_until, "known to be away"
    settings.HF_ENDPOINT = away
    assert TINY in found(page, q="tiny"), "which says nothing of another endpoint"


def test_a_hub_that_is_switched_off_is_never_asked(page: Client, tiny: HubStandIn, settings: Any) -> None:
    settings.HF_OFFLINE = True
    html = found(page, q="tiny")
    assert 'data-trouble="off"' in html and "HF_HUB_OFFLINE" in html
    assert tiny.seen == []


@pytest.mark.parametrize(
    ("fault", "trouble", "words"),
    [
        (lambda hub: hub.limit(retry_after=7), "limited", "Try again in 7 s."),
        (lambda hub: hub.fail(500), "failed", "answered 500"),
        (lambda hub: hub.fail(404), "unknown", "no such model"),
    ],
)
def test_each_refusal_is_a_state_of_the_page(
    page: Client, tiny: HubStandIn, fault: Callable[[HubStandIn], None], trouble: str, words: str
) -> None:
    fault(tiny)
    html = found(page, q="tiny")
    assert f'data-trouble="{trouble}"' in html
    assert words in html
    assert TINY in found(page, q="tiny"), "the next question is asked"


def test_a_mirror_that_does_not_speak_as_the_hub_is_named(
    page: Client, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "repos", {"x/y": None})
    assert 'data-trouble="' in found(page, q="y")


def test_a_mirror_below_a_path_is_honoured(
    page: Client, team: Team, node: Node, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = HubStandIn(prefix="/mirror")
    try:
        mirror.add_tiny()
        settings.HF_ENDPOINT = mirror.url
        assert TINY in repos_in(found(page, q="tiny"))
        fetched(team, node)
        assert all(one.path.startswith("/mirror/") for one in mirror.seen if one.server == "hub")
    finally:
        mirror.close()


# One repository


def test_its_page_tells_all_before_it_is_added(page: Client, tiny: HubStandIn, node: Node) -> None:
    html = page.get(reverse("hub-model", args=[TINY])).content.decode()
    for words in (
        tiny.commit(TINY),
        "LlamaForCausalLM",
        "64 BF16",
        "2,048 tokens",
        "{{ messages }}",
        "For tests.",
        "may be loaded",
        "can run code when it is loaded",
        "SHA-256",
        "Would it run here?",
        "Fits: needs",
    ):
        assert words in html or words.replace("{", "&#123;") in html, words
    assert re.search(r"Licence</dt><dd>mit<", html)
    assert re.search(r"Access</dt><dd>open<", html)


def test_a_gated_one_says_how_it_is_opened(page: Client, tiny: HubStandIn, team: Team, user: User) -> None:
    address = reverse("hub-model", args=["tiny-org/gated"])
    html = page.get(address).content.decode()
    assert "It is gated." in html and "enter the team" in html
    assert re.search(r"Access</dt><dd>gated<", html)
    assert not [one for one in tiny.seen if "/resolve" in one.path], "none of its files is asked for"
    secrets.keep(team, secrets.HUB, TOKEN, user)
    html = page.get(address).content.decode()
    assert "with the account of the team" in html
    assert not any(one.authorization for one in tiny.seen), "pages have no token to give"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a/b/c",
        "a/b@../main",
        "a/b@x y",
        "a\x00/b",
        "a/b.git",
        "a/" + "b" * 200,
        "http://elsewhere.test/a/b",
    ],
)
def test_what_is_no_name_is_refused_unasked(page: Client, tiny: HubStandIn, name: str) -> None:
    with pytest.raises(the_hub.HubError) as refused:
        the_hub.repository(*the_hub.split(name))
    assert refused.value.trouble == "bad_name"
    answer = page.post(reverse("hub-add"), {"repo": name, "commit": "a" * 40})
    assert answer.status_code == 400
    assert tiny.seen == []


def test_one_that_is_not_there_says_so(page: Client, tiny: HubStandIn) -> None:
    tiny.add("tiny-org/private", tiny_files(), private=True)
    for repo in ("tiny-org/nothing", "tiny-org/private"):
        answer = page.get(reverse("hub-model", args=[repo]))
        assert (answer.status_code, b"no such model, or it is private" in answer.content) == (404, True)
    answer = page.get(reverse("hub-model", args=[TINY]), {"revision": "nowhere"})
    assert (answer.status_code, b"no such branch" in answer.content) == (404, True)


# Adding


def test_it_is_added_at_the_commit_that_was_seen(page: Client, tiny: HubStandIn, team: Team) -> None:
    seen = tiny.commit(TINY)
    moved = tiny.change(TINY, {"README.md": b"other"})
    answer = add(page, TINY, seen)
    model = Model.objects.get(team=team, source__startswith="hub:")
    assert answer.headers["Location"] == reverse("model", args=[model.pk])
    assert model.source == f"hub:{TINY}@{seen}"
    assert (model.parameters, model.context_length, model.licence) == (64, 2048, "mit")
    form = model.formats.get()
    assert {one["path"] for one in form.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert all(one.get("sha256") or one.get("sha1") for one in form.files)
    assert not [one for one in form.files if one["path"].endswith((".bin", ".py", ".onnx"))]
    assert AuditEntry.objects.filter(action="add model", team=team).count() == 1

    add(page, TINY, moved)
    newer = Model.objects.get(source=f"hub:{TINY}@{moved}")
    assert newer.name == f"{TINY}@{moved[:7]}", "told apart from the first"


@pytest.mark.parametrize("commit", ["main", "", "A" * 40, "f" * 39, "../" + "a" * 37])
def test_a_moving_reference_is_refused(page: Client, tiny: HubStandIn, commit: str) -> None:
    answer = add(page, TINY, commit)
    assert (answer.status_code, b"branches and tags move" in answer.content) == (400, True)
    assert not Model.objects.filter(source__startswith="hub:").exists()


def test_adding_twice_makes_one_model(page: Client, tiny: HubStandIn, team: Team) -> None:
    commit = tiny.commit("tiny-org/tiny-GGUF")
    first = add(page, "tiny-org/tiny-GGUF", commit, "tiny-Q4_K_M.gguf")
    again = add(page, "tiny-org/tiny-GGUF", commit, "tiny-Q4_K_M.gguf", "tiny-F16-00001-of-00002.gguf")
    assert first.headers["Location"] == again.headers["Location"]
    model = Model.objects.get(source__startswith="hub:")
    kept = {form.dtype: [one["path"] for one in form.files] for form in model.formats.all()}
    assert kept == {
        "Q4_K_M": ["tiny-Q4_K_M.gguf"],
        "F16": ["tiny-F16-00001-of-00002.gguf", "tiny-F16-00002-of-00002.gguf"],
    }
    shown = page.get(reverse("hub-model", args=["tiny-org/tiny-GGUF"])).content.decode()
    assert "Add the chosen forms" in shown and reverse("model", args=[model.pk]) in shown


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("evil/pickle-only", "pytorch_model.bin is a format that can run code"),
        ("tiny-org/tiny-lora", "It is an adapter, not a model"),
    ],
)
def test_what_may_not_be_loaded_is_not_added(page: Client, tiny: HubStandIn, repo: str, words: str) -> None:
    answer = add(page, repo, tiny.commit(repo))
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Model.objects.filter(source__startswith="hub:").exists()


def test_one_with_code_of_its_own_is_added_and_stays_refused(
    page: Client, tiny: HubStandIn, team: Team
) -> None:
    add(page, "evil/auto-map", tiny.commit("evil/auto-map"))
    model = Model.objects.get(source__startswith="hub:")
    assert "modeling_evil.py is code" in model.refused
    answer = page.post(reverse("model-start", args=[model.pk]), {"engine": "fake"})
    assert answer.status_code == 422
    assert not Deployment.objects.exists()


def test_a_form_that_is_not_there_is_refused_beside_its_field(page: Client, tiny: HubStandIn) -> None:
    answer = add(page, "tiny-org/tiny-GGUF", tiny.commit("tiny-org/tiny-GGUF"), "other.gguf")
    assert answer.status_code == 422
    assert "has no other.gguf" in answer.content.decode()


def test_a_part_that_is_missing_makes_no_form(hub: HubStandIn) -> None:
    names = ("a-00001-of-00002.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf")
    hub.add("me/parts", {name: gguf() for name in names})
    assert [form.key for form in repositories.forms(the_hub.repository("me/parts"))] == [names[1]]


# Who may


def test_a_viewer_sees_and_changes_nothing(
    signed: Callable[[str], Client], tiny: HubStandIn, team: Team, node: Node
) -> None:
    viewer, model = signed("viewer"), added(team)
    assert TINY in repos_in(found(viewer, q="tiny"))
    seen = viewer.get(reverse("hub-model", args=[TINY])).content.decode()
    assert "needs the role of member" in seen
    form = model.formats.get()
    assert add(viewer, TINY, tiny.commit(TINY)).status_code == 403
    assert (
        viewer.post(reverse("model-fetch", args=[model.pk, form.pk]), {"node": node.name}).status_code == 403
    )
    assert viewer.post(reverse("model-remove", args=[model.pk])).status_code == 403
    assert not Job.objects.exists()


def test_another_team_cannot_see_or_touch_it(
    tiny: HubStandIn, team: Team, node: Node, stranger: User
) -> None:
    model, other = added(team), signed_in(stranger)
    form = model.formats.get()
    hub_models.download(model, form, node, None)
    job = Job.objects.get()
    assert other.get(reverse("model", args=[model.pk])).status_code == 404
    assert other.get(reverse("model-files", args=[model.pk])).status_code == 404
    for address in (
        reverse("model-fetch", args=[model.pk, form.pk]),
        reverse("model-cancel", args=[model.pk, job.pk]),
        reverse("model-remove", args=[model.pk]),
    ):
        assert other.post(address, {"node": node.name}).status_code == 404
    assert AuditEntry.objects.filter(user=stranger, action="refused write").count() == 3
    job.refresh_from_db()
    assert (job.state, job.cancel_requested_at) == ("queued", None)
    html = other.get(reverse("models"), {"q": "tiny"}).content.decode()
    assert reverse("model", args=[model.pk]) not in html
    added(stranger.memberships.get().team)
    assert Model.objects.filter(source=model.source).count() == 2, "each team has its own"


# The token


def test_the_token_is_encrypted_and_shown_to_nobody(page: Client, tiny: HubStandIn, team: Team) -> None:
    answer = page.post(reverse("hub-token"), {"token": f" {TOKEN} "}, follow=True)
    assert "encrypted and kept" in messages_of(answer)
    row = Secret.objects.get(team=team)
    assert TOKEN.encode() not in bytes(row.ciphertext)
    assert secrets.reveal(team, secrets.HUB) == TOKEN
    for address in (reverse("models"), reverse("hub-model", args=[TINY]), reverse("home")):
        html = page.get(address).content.decode()
        assert TOKEN not in html
    assert f'ends in <span class="mono">{TOKEN[-4:]}</span>' in page.get(reverse("models")).content.decode()
    assert TOKEN not in str(list(AuditEntry.objects.values()))

    answer = page.post(reverse("hub-token"), {"token": "", "forget": "1"}, follow=True)
    assert "forgotten" in messages_of(answer)
    assert not Secret.objects.exists()
    assert [one.action for one in AuditEntry.objects.order_by("pk")] == ["keep secret", "forget secret"]


@pytest.mark.parametrize(
    "value", ["", "hf_", "hf_short", "sk-123456789012", "hf_" + "x" * 600, "hf_abcdefg\r\nX: y"]
)
def test_what_is_no_token_is_not_kept(page: Client, team: Team, value: str) -> None:
    answer = page.post(reverse("hub-token"), {"token": value}, follow=True)
    assert "That is no token" in messages_of(answer)
    assert not value.strip() or f'value="{value}"' not in answer.content.decode()
    assert not Secret.objects.exists()


def test_only_administrators_give_a_token(signed: Callable[[str], Client], team: Team) -> None:
    operator = signed("operator")
    assert operator.post(reverse("hub-token"), {"token": TOKEN}).status_code == 403
    assert "Token of the team" not in operator.get(reverse("models")).content.decode()
    assert not Secret.objects.exists()


def test_a_token_outlives_a_new_secret_key(team: Team, user: User, settings: Any) -> None:
    secrets.keep(team, secrets.HUB, TOKEN, user)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another" * 8
    with pytest.raises(secrets.Unreadable, match="SLIPWAY_OLD_SECRET_KEYS"):
        secrets.reveal(team, secrets.HUB)
    settings.SECRET_KEY_FALLBACKS = [old]
    assert secrets.reveal(team, secrets.HUB) == TOKEN
    call_command("migrate", verbosity=0)
    settings.SECRET_KEY_FALLBACKS = []
    assert secrets.reveal(team, secrets.HUB) == TOKEN, "encrypted anew by migrate"


# Bringing it, removing it


def test_a_download_is_asked_for_once_and_can_be_cancelled(
    page: Client, tiny: HubStandIn, team: Team, node: Node
) -> None:
    model = added(team)
    form = model.formats.get()
    address = reverse("model-fetch", args=[model.pk, form.pk])
    for _ in range(2):
        assert page.post(address, {"node": node.name}).status_code == 302
    job = Job.objects.get()
    html = page.get(reverse("model-files", args=[model.pk])).content.decode()
    assert "Cancel" in html and "queued" in html
    page.post(reverse("model-cancel", args=[model.pk, job.pk]))
    again = page.post(reverse("model-cancel", args=[model.pk, job.pk]), follow=True)
    assert "ended already" in messages_of(again)
    job.refresh_from_db()
    assert job.state == "cancelled"
    page.post(address, {"node": node.name})
    assert carried_out(f"format:{form.pk}").state == "done"
    assert "It is on test-node already" in messages_of(page.post(address, {"node": node.name}, follow=True))
    assert page.post(address, {"node": "nowhere"}).status_code == 404


def test_a_download_that_failed_says_why_where_it_lies(
    page: Client, tiny: HubStandIn, team: Team, node: Node
) -> None:
    model = added(team, "tiny-org/gated")
    page.post(reverse("model-fetch", args=[model.pk, model.formats.get().pk]), {"node": node.name})
    carried_out(f"format:{model.formats.get().pk}")
    html = page.get(reverse("model", args=[model.pk])).content.decode()
    assert "the team has no token" in html and "Try again" in html


def test_what_uses_it_is_listed_and_what_runs_keeps_it(
    page: Client, tiny: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    model = fetched(team, node)
    Deployment.objects.create(team=team, name="runs", model=model, engine="fake")
    Deployment.objects.create(team=team, name="rests", model=model, engine="fake", desired="stopped")
    html = page.get(reverse("model", args=[model.pk])).content.decode()
    _, _, removing = html.partition('id="removing"')
    assert removing.index("runs") < removing.index("rests"), "what keeps it stands first"
    assert "running deployment" in removing and "stopped deployment" in removing
    assert "test-node gets" in removing
    answer = page.post(reverse("model-remove", args=[model.pk]), follow=True)
    assert "in use by the running deployment runs" in messages_of(answer)
    assert (root / model.formats.get().path).exists()
    assert not Job.objects.filter(kind="remove_model").exists()


def test_removing_gives_the_space_back(
    page: Client, tiny: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    model = fetched(team, node)
    Deployment.objects.create(team=team, name="rests", model=model, engine="fake", desired="deleted")
    model.deployments.all().delete()
    answer = page.post(reverse("model-remove", args=[model.pk]), follow=True)
    assert "being removed" in messages_of(answer)
    job = carried_out(f"model:{model.pk}")
    assert job.state == "done"
    assert job.result["freed_bytes"] > 0
    assert [path for path in root.rglob("*") if path.is_file() and ".digests" not in str(path)] == []
    assert not Model.objects.filter(pk=model.pk).exists()
    assert fetched(team, node).formats.get().digest, "added again, it comes again"


def test_one_that_history_keeps_says_how_it_comes_back(
    page: Client, tiny: HubStandIn, team: Team, node: Node
) -> None:
    model = added(team)
    Deployment.objects.create(team=team, name="rests", model=model, engine="fake", desired="stopped")
    page.post(reverse("model-remove", args=[model.pk]))
    html = page.get(reverse("model", args=[model.pk])).content.decode()
    again = reverse("hub-model", args=[TINY]) + f"?revision={tiny.commit(TINY)}"
    assert "It was removed." in html and again in html
    assert reverse("model", args=[model.pk]) not in page.get(reverse("models")).content.decode()
    assert page.post(reverse("model-start", args=[model.pk]), {"engine": "fake"}).status_code == 422
    assert add(page, TINY, tiny.commit(TINY)).headers["Location"] == reverse("model", args=[model.pk])


def test_removing_ends_its_download_and_what_had_come_goes(
    page: Client, tiny: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    model = added(team)
    form = model.formats.get()
    job = hub_models.download(model, form, node, None)
    assert isinstance(job, Job)
    (root / form.path).mkdir(parents=True)
    (root / form.path / ".model.safetensors.part").write_bytes(b"x" * 5000)
    page.post(reverse("model-remove", args=[model.pk]))
    job.refresh_from_db()
    assert job.state == "cancelled"
    carried_out(f"model:{model.pk}")
    assert not (root / "hub").exists()


def test_files_that_another_team_has_too_stay(
    page: Client, tiny: HubStandIn, team: Team, node: Node, stranger: User, root: Path
) -> None:
    mine, theirs = fetched(team, node), fetched(stranger.memberships.get().team, node)
    page.post(reverse("model-remove", args=[mine.pk]))
    assert not Model.objects.filter(pk=mine.pk).exists()
    assert (root / theirs.formats.get().path / "model.safetensors").exists()


def test_what_lets_another_teams_quantisation_see_stays(
    page: Client, hub: HubStandIn, team: Team, node: Node, stranger: User, root: Path
) -> None:
    hub.add("me/eyes", {name: gguf() for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a.gguf")})
    mine = fetched(team, node, "me/eyes", "a-Q4_K_M.gguf")
    fetched(stranger.memberships.get().team, node, "me/eyes", "a-Q8_0.gguf")
    page.post(reverse("model-remove", args=[mine.pk]))
    carried_out(f"model:{mine.pk}")
    assert sorted(file.name for file in root.rglob("*.gguf")) == ["a-Q8_0.gguf", "mmproj-a.gguf"]


# The shell


def shell(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, Any]:
    """The exit code and the one JSON value of `manage.py models …`."""
    code = 0
    try:
        call_command("models", *line, "--json")
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(capsys.readouterr().out)


def test_the_shell_searches_adds_and_removes(
    capsys: pytest.CaptureFixture[str], tiny: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    code, hits = shell(capsys, "search", "tiny", "--gated", "no", "--limit", "2")
    assert (code, [hit["repo"] for hit in hits]) == (0, [TINY, "tiny-org/tiny-GGUF"])
    assert (hits[0]["parameters"], hits[0]["dtype"], hits[0]["fits"]) == (64, "BF16", True)

    code, model = shell(capsys, "add", "tiny-org/tiny-GGUF", "--form", "tiny-Q8_0.gguf", "--download")
    assert (code, model["forms"][0]["dtype"]) == (0, "Q8_0")
    assert model["source"] == f"hub:tiny-org/tiny-GGUF@{tiny.commit('tiny-org/tiny-GGUF')}"
    assert model["forms"][0]["digest"]
    assert shell(capsys)[1][-1]["name"] == model["name"]

    row = Model.objects.get(pk=model["id"])
    rests = Deployment.objects.create(team=team, name="rests", model=row, engine="fake", desired="stopped")
    code, problem = shell(capsys, "remove", model["name"])
    assert (code, "stopped deployment rests" in problem["error"]) == (4, True)
    rests.delete()
    code, gone = shell(capsys, "remove", model["name"])
    assert (code, gone["removed"], gone["freed_bytes"] > 0) == (0, model["name"], True)
    assert list(root.rglob("*.gguf")) == []


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (("add", "../x"), 2, "no name of a repository"),
        (("add", "tiny-org/nothing"), 3, "no such model"),
        (("add", f"{TINY}@nowhere"), 3, "no such branch"),
        (("add", "evil/pickle-only"), 4, "can run code"),
        (("add", "evil/auto-map"), 4, "may not be loaded"),
        (("add", "tiny-org/gated", "--download"), 1, "the team has no token"),
        (("remove", "nothing"), 3, "No model is called"),
    ],
)
def test_the_shell_says_why_not(
    capsys: pytest.CaptureFixture[str],
    tiny: HubStandIn,
    team: Team,
    node: Node,
    line: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    ended, value = shell(capsys, *line)
    assert (ended, words in value["error"]) == (code, True), value


def test_the_shell_says_when_there_is_no_hub(
    capsys: pytest.CaptureFixture[str], team: Team, settings: Any
) -> None:
    settings.HF_ENDPOINT = "http://127.0.0.1:9"
    code, value = shell(capsys, "search", "tiny")
    assert (code, "cannot be reached" in value["error"]) == (1, True)
    assert shell(capsys, "list")[0] == 0
