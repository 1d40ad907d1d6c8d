"""Options: the form made from an engine's types, what survives another engine, versions, extra arguments."""

import html
import re
from itertools import combinations
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import configurations, deployments, drafts, edits, engines, extra, forms, options, shell
from playground.engines.base import GROUPS, Engine
from playground.models import (
    AuditEntry,
    Deployment,
    EngineEnvironment,
    Membership,
    Model,
    ModelFormat,
    Node,
    Team,
    User,
)
from tests import fleet, rows
from tests.real_engines import ROWS

REAL = list(ROWS)
# The same words, another meaning by nature: each engine's own names for its ways.
OWN_CHOICES = {"Guess tokens by", "Attention", "Quantisation", "Loading of weights", "Reasoning parser"}


def adapter(name: str) -> Engine:
    if name not in engines.names():
        pytest.skip(f"{name} is not in the registry")
    return engines.get(name)


@pytest.fixture
def full(team: Team, user: User) -> rows.Rows:
    return rows.full(team, user)


@pytest.fixture
def page(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator(team: Team) -> Client:
    person = User.objects.create_user(username="oscar")
    Membership.objects.create(user=person, team=team, role=Membership.Role.OPERATOR)
    client = Client()
    client.force_login(person)
    return client


def words(answer: Any) -> str:
    """What a page says, without its tags."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode()))
    return re.sub(r"\s+", " ", text)


def values(shown: str) -> dict[str, str]:
    """What the options of a form are set to."""
    found = {
        name: value
        for name, value in re.findall(r'name="option\.(\w+)"\s+type="\w+"\s+value="([^"]*)"', shown)
        if value
    }
    for name, inner in re.findall(r'name="option\.(\w+)"[^>]*>(.*?)</select>', shown, re.DOTALL):
        if picked := re.search(r'value="([^"]+)" selected', inner):
            found[name] = picked[1]
    return {name: html.unescape(value) for name, value in found.items()}


# The form


@pytest.mark.parametrize("name", REAL)
def test_every_option_is_typed_named_described_and_grouped(name: str) -> None:
    groups = forms.groups(adapter(name).Options, {})
    titles = [field.title for group in groups for field in group.fields]
    assert len(titles) == len(set(titles)), "two options of one engine are called the same"
    places = [GROUPS.index(group.title) if group.title in GROUPS else len(GROUPS) for group in groups]
    assert places == sorted(places), "groups are not in the order that every form has"
    for group in groups:
        for field in group.fields:
            assert field.hint, f"{field.name} is not described"
            assert field.kind in ("choice", "number"), f"{field.name} takes any text"
            assert (
                field.kind == "choice"
                or (field.least and field.most)
                or "exclusive"
                in str(
                    adapter(name).Options.model_json_schema()["properties"][
                        field.name.removeprefix("option.")
                    ]
                )
            ), f"{field.name} has no limits"


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_s_form_has_all_that_people_think_of(name: str) -> None:
    groups = {group.title for group in forms.groups(adapter(name).Options, {})}
    assert groups >= set(GROUPS[:9])


def test_what_is_called_the_same_is_of_one_kind_in_every_engine() -> None:
    known = [engines.get(name) for name in REAL if name in engines.names()]
    for one, other in combinations(known, 2):
        theirs = {field.title: field for group in forms.groups(other.Options, {}) for field in group.fields}
        for group in forms.groups(one.Options, {}):
            for field in group.fields:
                twin = theirs.get(field.title)
                if twin is None or field.title in OWN_CHOICES:
                    continue
                pair = f"{field.title} in {one.name} and {other.name}"
                numbers = [
                    one.kind == "number" or all(value.isdigit() for value, _ in one.choices)
                    for one in (field, twin)
                ]
                assert numbers[0] == numbers[1], pair
                booleans = {len(dict(choice.choices).keys() & {"true", "false"}) for choice in (field, twin)}
                assert len(booleans) == 1, pair


def test_what_means_the_same_survives_another_engine_and_nothing_else(page: Client, full: rows.Rows) -> None:
    typed = {"context": "2048", "parallel": "8", "pooling": "mean", "seed": "7", "cache_type_k": "q5_1"}
    posted = {"engine": "vllm", "options-of": "llama.cpp", "version": "2026.1"} | {
        f"option.{name}": value for name, value in typed.items()
    }
    shown = page.post(reverse("model-form", args=[full.model.pk]), posted).content.decode()
    assert values(shown) == {"max_model_len": "2048", "max_num_seqs": "8", "pooling": "MEAN", "seed": "7"}
    assert "2026.1" not in shown, "a version of another engine"


def test_what_no_engine_takes_so_is_left_behind() -> None:
    llama, vllm = engines.get("llama.cpp").Options, engines.get("vllm").Options
    assert forms.carried(llama, vllm, {"context": "many", "threads": "4"}) == {"threads": "4"}
    assert forms.carried(llama, vllm, {"context": "1"}) == {}, "vLLM's smallest context is larger"


def test_another_build_s_options_say_so_and_take_nothing(page: Client, full: rows.Rows) -> None:
    form = reverse("model-form", args=[full.model.pk])
    shown = page.post(form, {"engine": "vllm"}).content.decode()
    field = re.search(r'<input id="id-option-tensor_parallel_size".*?</div>', shown, re.DOTALL)
    assert field and "disabled" in field[0] and "Needs a GPU; no node here has one." in field[0]
    switch = re.search(r'<select id="id-option-enforce_eager".*?</div>', shown, re.DOTALL)
    assert switch and "disabled" not in switch[0] and "data-off" not in switch[0]
    Node.objects.filter(pk=full.gpu_node.pk).update(heartbeat_at=timezone.now())
    shown = page.post(form, {"engine": "vllm"}).content.decode()
    assert "Needs a GPU; no node here has one." not in shown


def test_wrong_values_come_back_each_with_its_sentence(page: Client, full: rows.Rows) -> None:
    posted = {
        "engine": "llama.cpp",
        "option.context": "many",
        "option.parallel": "0",
        "option.rope_scaling": "sideways",
        "option.threads": "2",
        "version": "other",
        "other-version": "newest",
        "cores": "two",
        "extra.flag": ["--nonsense"],
        "extra.value": ["1"],
    }
    answer = page.post(reverse("model-start", args=[full.model.pk]), posted)
    shown = answer.content.decode()
    assert answer.status_code == 422
    kept = {"context": "many", "parallel": "0", "rope_scaling": "sideways", "threads": "2"}
    assert values(shown) == kept
    assert 'value="newest"' in shown and 'value="two"' in shown and "--nonsense" in shown
    for name in ("context", "parallel", "rope_scaling"):
        field = re.search(rf'<(input|select) id="id-option-{name}".*?</div>', shown, re.DOTALL)
        assert field and 'aria-invalid="true"' in field[0] and f'id="id-option-{name}-error"' in field[0]
        assert f'aria-describedby="id-option-{name}-error' in field[0]
    assert not Deployment.objects.filter(wanted__options__threads=2).exists()


def test_a_draft_model_is_one_of_the_team_s_that_the_engine_loads(
    page: Client, full: rows.Rows, stranger: User
) -> None:
    other = Model.objects.create(
        team=full.model.team, name="tinier", source="local:tinier", task="chat", parameters=1_000_000
    )
    form = ModelFormat.objects.create(model=other, kind="gguf", path="tinier.gguf", digest="5c" * 32)
    foreign = Model.objects.create(team=stranger.memberships.get().team, name="theirs", source="local:theirs")
    ModelFormat.objects.create(model=foreign, kind="gguf", path="theirs.gguf")
    llama = engines.get("llama.cpp")
    assert drafts.choices(full.model.team, full.model, llama) == [(str(other.pk), "tinier")]
    posted = {"engine": "llama.cpp", "option.draft_model": str(other.pk)}
    shown = page.post(reverse("model-form", args=[full.model.pk]), posted).content.decode()
    assert values(shown)["draft_model"] == str(other.pk)
    assert "--spec-draft-model" in shown and form.path in shown
    for wrong in (foreign.pk, full.model.pk, 10**6):
        posted = {"engine": "llama.cpp", "option.draft_model": str(wrong)}
        answer = page.post(reverse("model-start", args=[full.model.pk]), posted)
        assert answer.status_code == 422, wrong
        assert "theirs" not in answer.content.decode()


def test_of_several_forms_of_the_weights_one_is_chosen(page: Client, full: rows.Rows) -> None:
    first = full.model.formats.get(kind="gguf")
    second = ModelFormat.objects.create(
        model=full.model, kind="gguf", dtype="Q4_K_M", path="smaller.gguf", digest="aa" * 32, size_bytes=5
    )
    shown = page.post(reverse("model-form", args=[full.model.pk]), {"engine": "llama.cpp"}).content.decode()
    assert f'<option value="{first.pk}" selected>' in shown
    posted = {"engine": "llama.cpp", "form": str(second.pk), "name": "small"}
    shown = page.post(reverse("model-form", args=[full.model.pk]), posted).content.decode()
    assert "smaller.gguf" in shown
    page.post(reverse("model-start", args=[full.model.pk]), posted)
    assert Deployment.objects.get(name="small").wanted["form"] == second.pk
    answer = page.post(reverse("model-start", args=[full.model.pk]), posted | {"engine": "vllm"})
    assert answer.status_code == 422, "vLLM does not load it"


@pytest.mark.parametrize(
    ("engine", "given", "wrong"),
    [
        ("vllm", {"structured_compact": True}, {"structured_compact"}),
        ("vllm", {"structured_compact": True, "structured_backend": "guidance"}, set()),
        ("vllm", {"structured_compact": False}, set()),
        ("vllm", {"spec_method": "eagle3"}, {"spec_method"}),
        ("vllm", {"spec_method": "ngram", "draft_model": 1}, {"draft_model"}),
        ("vllm", {"spec_tokens": 3}, {"spec_tokens"}),
        (
            "vllm",
            {"spec_method": "ngram", "prompt_lookup_min": 5, "prompt_lookup_max": 4},
            {"prompt_lookup_min"},
        ),
        ("vllm", {"max_loras": 4, "max_cpu_loras": 2}, {"max_loras"}),
        ("llama.cpp", {"draft_min": 2}, {"draft_min"}),
        ("llama.cpp", {"cache_type_v": "q8_0", "flash_attention": "off"}, {"cache_type_v"}),
        ("llama.cpp", {"cache_type_v": "q8_0"}, set()),
        ("llama.cpp", {"batch": 64, "micro_batch": 128}, {"micro_batch"}),
        ("transformers", {"cb_block_size": 32}, {"cb_block_size"}),
        ("transformers", {"cb_block_size": 32, "continuous_batching": True}, set()),
    ],
)
def test_what_means_nothing_beside_the_others_is_told(
    engine: str, given: dict[str, Any], wrong: set[str]
) -> None:
    found = engines.get(engine).objections(given)
    assert set(found) == wrong
    assert all(sentence.endswith(".") for sentence in found.values())


# Versions


def test_the_versions_there_are_can_be_chosen_and_any_other_typed(page: Client, full: rows.Rows) -> None:
    older = EngineEnvironment.objects.create(
        engine="llama.cpp", version="2026.8.1", digest="8a" * 32, packages="x", python="3.13"
    )
    Node.objects.filter(pk=full.node.pk).update(
        inventory=full.node.inventory | {"environments": ["3f" * 32, older.digest]}
    )
    form, start = (reverse(f"model-{verb}", args=[full.model.pk]) for verb in ("form", "start"))
    shown = words(page.post(form, {"engine": "llama.cpp"}))
    assert "2026.10.11549, installed, the usual one" in shown
    assert "2026.8.1, installed" in shown and "another version…" in shown
    for posted, version in (
        ({"version": "2026.8.1"}, "2026.8.1"),
        ({"version": "other", "other-version": "2026.9.9"}, "2026.9.9"),
        ({"version": "", "other-version": "left over"}, None),
    ):
        page.post(start, {"engine": "llama.cpp", "name": f"on {version}"} | posted)
        assert Deployment.objects.get(name=f"on {version}").wanted["version"] == version
    for wrong in ("latest", "1 --index-url x", "../up", "9" * 41):
        answer = page.post(start, {"engine": "llama.cpp", "version": "other", "other-version": wrong})
        assert answer.status_code == 422 and "A version looks like" in words(answer), wrong


# Extra arguments


def test_only_what_is_on_the_list_is_added() -> None:
    fake = engines.get("fake")
    given = [("--mood", "calm"), ("--quiet", ""), ("", ""), ("--patience", "0007"), ("--share", ".5")]
    line = extra.parse(fake, given)
    assert line == ["--mood", "calm", "--quiet", "--patience", "7", "--share", "0.5"]
    assert extra.pairs(fake, line) == [
        ("--mood", "calm"),
        ("--quiet", ""),
        ("--patience", "7"),
        ("--share", "0.5"),
    ]


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([("--host", "0.0.0.0")], "not on the list"),
        ([("--tokens", "5")], "is an option here: set Reply length"),
        ([("--mood=calm", "")], "not on the list"),
        ([("--mood", "angry")], "takes calm or brisk"),
        ([("--mood", "--host")], "takes calm or brisk"),
        ([("--patience", "2.5")], "takes a whole number"),
        ([("--patience", "-1")], "from 0"),
        ([("--patience", "1e99")], "takes a whole number"),
        ([("--share", "nan")], "a number from 0"),
        ([("--share", "inf")], "a number from 0"),
        ([("--quiet", "yes")], "a switch: no value"),
        ([("--quiet", ""), ("--quiet", "")], "there twice"),
        ([("", "5")], "not on the list"),
    ],
)
def test_what_is_not_on_the_list_is_refused(pairs: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(extra.ExtraRefused, match=re.escape(why)):
        extra.parse(engines.get("fake"), pairs)


@pytest.mark.parametrize("name", REAL)
def test_no_extra_argument_is_an_option_or_names_a_place(name: str) -> None:
    engine = adapter(name)
    known = {
        str(more["flag"])
        for field in engine.Options.model_fields.values()
        if isinstance(more := field.json_schema_extra, dict) and more.get("flag")
    }
    listed = engine.extra_flags
    assert not known & set(listed)
    never = {"path", "dir", "file", "host", "port", "key", "url", "trust", "ssl", "plugin", "code", "addr"}
    assert not [flag for flag in listed if never & set(flag.split("-"))]


def test_an_administrator_adds_arguments_which_the_digest_names(page: Client, full: rows.Rows) -> None:
    posted = {
        "engine": "fake",
        "name": "added",
        "extra.flag": ["--mood", "--quiet", ""],
        "extra.value": ["calm", "", ""],
    }
    shown = page.post(reverse("model-form", args=[full.model.pk]), posted).content.decode()
    command = re.search(r'id="command"[^>]*>(.*?)</pre>', shown, re.DOTALL)
    assert command and "--mood calm" in command[1] and "--quiet" in command[1]
    page.post(reverse("model-start", args=[full.model.pk]), posted)
    assert Deployment.objects.get(name="added").wanted["extra"] == ["--mood", "calm", "--quiet"]
    form, environment = full.model.formats.get(kind="gguf"), EngineEnvironment.objects.get()
    plain = configurations.freeze(form, environment, "fake", {}, [])
    added = configurations.freeze(form, environment, "fake", {}, [], extra=["--mood", "calm"])
    assert plain.digest != added.digest and added.extra == ["--mood", "calm"]


def test_an_operator_adds_none_and_is_remembered(operator: Client, full: rows.Rows) -> None:
    posted = {"engine": "fake", "name": "sneaked", "extra.flag": ["--quiet"], "extra.value": [""]}
    assert operator.post(reverse("model-start", args=[full.model.pk]), posted).status_code == 403
    assert not Deployment.objects.filter(name="sneaked").exists()
    assert AuditEntry.objects.filter(action="refused extra arguments", user__username="oscar").exists()
    shown = operator.get(reverse("model", args=[full.model.pk]) + "?engine=fake").content.decode()
    assert "extra.flag" not in shown


# The shell


def test_the_shell_starts_a_version_with_options_and_extra_arguments(team: Team, user: User) -> None:
    fleet.tiny_model(team)
    asked = ["serve", "tiny", "--engine=fake", "--option=tokens=7", "--version=0.9", "--name=typed"]
    call_command(*asked, "--extra=--mood=calm", "--extra=--quiet")
    row = Deployment.objects.get(name="typed")
    assert row.wanted["options"] == {"tokens": 7}
    assert (row.wanted["version"], row.wanted["extra"]) == ("0.9", ["--mood", "calm", "--quiet"])
    call_command("serve", "tiny", "--engine=fake", "--instead-of=typed")
    assert edits.heirs(row).get().wanted["version"] is None
    with pytest.raises(shell.Failed, match="not on the list"):
        call_command(*asked, "--extra=--host=0.0.0.0")


def test_options_without_limits_are_judged_as_a_whole(team: Team) -> None:
    model = fleet.tiny_model(team)
    clean, wrong = options.judge(team, model, "fake", {"tokens": "x", "nope": 1}, "v1", "a\nb")
    assert clean == {} and set(wrong) == {"tokens", "nope", "version", "name"}
    with pytest.raises(deployments.DeploymentRefused):
        deployments.request(team=team, user=None, model=model, engine="fake", options={"nope": 1})
