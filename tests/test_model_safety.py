"""Which models are loaded: safetensors and GGUF, and a commit's own code once an administrator allowed it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from playground import (
    catalogue,
    chat_templates,
    configurations,
    deployments,
    engines,
    gguf,
    hub,
    hub_models,
    own_code,
    reconcile,
    safety,
    weights,
)
from playground.engines.base import LocalModel, ReasonCode
from playground.models import (
    AuditEntry,
    Deployment,
    EngineEnvironment,
    Model,
    ModelFormat,
    Node,
    Team,
    User,
)
from tests import fleet, real_engines
from tests.hub_repos import gguf as tiny_gguf
from tests.hub_repos import safetensors, tiny_files
from tests.hub_stand_in import HubStandIn
from tests.test_catalogue import LIES, text, write_gguf

CODE = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
SOURCE = b"raise SystemExit('ran at import')"


@pytest.fixture
def root(settings: Any) -> Iterator[Path]:
    """An empty models folder."""
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def config(**more: Any) -> dict[str, Any]:
    return json.loads(tiny_files()["config.json"]) | more  # type: ignore[arg-type, no-any-return]


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """A small model that may be loaded, changed by `files`: bytes, or what becomes JSON."""
    for name, content in {**tiny_files(), **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


# Attack 18: what a configuration can make a library do

# Each with what the refusal says, and whether an administrator may allow it.
HOSTILE: list[tuple[str, Any, str, bool]] = [
    ("config.json", config(**CODE), "auto_map", True),
    ("config.json", config(text_config={"deep": [CODE]}), "auto_map", True),
    ("config.json", config(vision_config={"trust_remote_code": True}), "remote code to be trusted", True),
    ("config.json", config(trust_remote_code="yes"), "remote code to be trusted", True),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.Tok", None]}}, "auto_map", True),
    ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "img.P"}}, "auto_map", True),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "proc.P"}}, "auto_map", True),
    ("generation_config.json", {"custom_generate": "generate.py"}, "to generate with", True),
    ("generation_config.json", {"custom_generate": "org/repo"}, "another repository (org/repo)", False),
    ("config.json", config(custom_pipelines={"x": {"impl": "p.P"}}), "run as a pipeline", True),
    ("modules.json", [{"type": "own.Layer", "path": ""}], "names Python code to load", False),
    ("modules.json", [{"type": "os.system", "path": ""}], "names Python code to load", False),
    ("config.json", config(auto_map={"AutoModel": "org/other--m.M"}), "another repository", False),
    ("config.json", config(_attn_implementation_internal="org/kernel"), "compute attention", False),
    ("config.json", config(text_config={"_attn_implementation_internal": "x"}), "compute attention", False),
    ("config.json", config(_experts_implementation_internal="x"), "compute experts", False),
    ("config.json", config(_attn_implementation="org/kernel@main"), "org/kernel", False),
    ("config.json", config(attn_implementation={"": "kernels-community/x"}), "kernels-community", False),
    ("config.json", config(experts_implementation="org/kernel"), "org/kernel", False),
    ("config.json", config(use_kernels=True), "compiled kernels", False),
    ("config.json", config(kernel_config={"RMSNorm": "org/k:Norm"}), "compiled kernels", False),
    ("config.json", config(quantization_config={"quant_method": "evil.quant"}), "quant_method", False),
    ("config.json", config(sbert_ce_default_activation_function="os.system"), "to import", False),
    ("tokenizer_config.json", {"tokenizer_class": "evil.Tokenizer"}, "tokenizer_class", False),
    ("tokenizer_config.json", {"tokenizer_class": "org/repo--tok.Tok"}, "tokenizer_class", False),
    ("preprocessor_config.json", {"image_processor_type": "a.b"}, "image_processor_type", False),
    ("adapter_config.json", {"base_model_name_or_path": "other/model"}, "another repository's", False),
    ("config.json", config(transformers_weights="../../etc/passwd"), "files outside", False),
    ("model.safetensors.index.json", {"weight_map": {"w": "../../x.safetensors"}}, "files outside", False),
    ("model.safetensors.index.json", {"weight_map": {"w": "/etc/passwd"}}, "files outside", False),
    ("model.safetensors.index.json", {"weight_map": {"w": "pytorch_model.bin"}}, "is not there", False),
    ("model.safetensors.index.json", {"weight_map": {"w": "model-9.safetensors"}}, "is not there", False),
    ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "../x"}], "outside", False),
    ("config.json", b"[" * 100_000, "no sound JSON", False),
    ("modeling.py", SOURCE, "code of its own", True),
    ("deep/er/modeling.py", SOURCE, "code of its own", True),
    ("MODELING.PY", SOURCE, "code of its own", True),
    ("pytorch_model.bin", b"\x80\x04.", "can run code when it is loaded", False),
    ("optimizer.PT", b"\x80\x04.", "can run code when it is loaded", False),
    ("deep/weights.pkl", b"\x80\x04.", "can run code when it is loaded", False),
    ("weights.npz", b"PK\x03\x04", "can run code when it is loaded", False),
    ("extension.so", b"\x7fELF", "is code", False),
    ("install.sh", b"#!/bin/sh", "is code", False),
    ("tokenizer_config.json", {"chat_template": "{{ ''.__class__.__mro__ }}"}, "Python's insides", False),
    ("chat_template.jinja", b"{% include '/etc/passwd' %}", "reads other files", False),
    ("additional_chat_templates/tool_use.jinja", b"{{ x|attr('y') }}", "Python's insides", False),
    ("model.safetensors", b"PK\x03\x04" + bytes(60), "zip archive", False),
    ("model.safetensors", b"\x80\x04" + bytes(60), "no sound safetensors", False),
]


def test_every_form_of_code_is_refused_with_its_reason(tmp_path: Path) -> None:
    for number, (name, content, why, allowable) in enumerate(HOSTILE):
        folder = write(tmp_path / str(number), {name: content})
        with pytest.raises(weights.Refused) as refusal:
            weights.inspect(folder)
        assert why in str(refusal.value), name
        judgement = refusal.value.judgement
        assert bool(judgement and judgement.code) is allowable, (name, why)
        if allowable:
            assert weights.inspect(folder, code=True).kind == "safetensors", name
        else:
            with pytest.raises(weights.Refused):
                weights.inspect(folder, code=True)


def test_leave_for_code_covers_nothing_that_lies_elsewhere(tmp_path: Path) -> None:
    both = config(**CODE, _attn_implementation_internal="org/kernel")
    folder = write(tmp_path / "both", {"config.json": both, "modeling.py": SOURCE})
    with pytest.raises(weights.Refused, match="attention") as refusal:
        weights.inspect(folder, code=True)
    assert refusal.value.judgement and not refusal.value.judgement.code


def test_what_real_models_say_of_themselves_is_not_refused(tmp_path: Path) -> None:
    harmless: dict[str, Any] = {
        "config.json": config(
            auto_map=None,
            trust_remote_code=False,
            use_kernels=False,
            attn_implementation="flash_attention_2",
            _attn_implementation="sdpa",
            activation_function="gelu_new",
            sbert_ce_default_activation_function="torch.nn.modules.linear.Identity",
            quantization_config={"quant_method": "compressed-tensors"},
        ),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": [{"name": "default", "template": TEMPLATES[0]}],
        },
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        ],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"},
        "model.safetensors.index.json": {"weight_map": {"weight": "model.safetensors"}},
        "LICENSE": b"free",
    }
    assert weights.inspect(write(tmp_path / "real", harmless)).kind == "safetensors"


def test_pickles_beside_safetensors_stay_where_they_are() -> None:
    names = [*tiny_files(), "pytorch_model.bin", "onnx/model.onnx", "flax_model.msgpack"]
    judgement = safety.judge_listing(names, {})
    assert judgement.refused == "" and set(judgement.left_out) == set(names[-3:])
    assert "can run code" in safety.judge_listing(["config.json", "pytorch_model.bin"], {}).refused
    assert "can run code" in safety.judge_listing(names, {}, on_disk=True).refused, "an engine would find it"


# Attack 17: names that lead elsewhere

ELSEWHERE = [
    *(
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a\0b",
        "a\nb",
        "a\\b",
        "c:x",
        "a//b",
        "./a",
        "a/.",
        "",
        " a",
        "a ",
    ),
    *("a" * 201, "\u202egnp.gguf", "a\u2028b", "é" * 150),
]


def test_a_name_that_leads_elsewhere_is_no_files() -> None:
    for name in ELSEWHERE:
        with pytest.raises(safety.Refused):
            safety.refuse_path(name)
        assert safety.judge_listing(["config.json", "model.safetensors", name], {}).refused, name
    for name in ("model-00001-of-00002.safetensors", "1_Pooling/config.json", "模型.gguf", "a b.json"):
        safety.refuse_path(name)


@pytest.mark.django_db
def test_a_model_id_that_leads_elsewhere_is_refused_and_the_hub_not_asked(
    user: User, stand_in: HubStandIn
) -> None:
    browser = signed_in(user)
    for repo in (
        "../x",
        "a/../b",
        "/etc/passwd",
        "a/b/c",
        "a\0b",
        "a/b\n",
        "a/..",
        "a\\b",
        "https://x/y",
        "",
    ):
        asked = {"repo": repo, "commit": "0" * 40}
        answer = browser.post(reverse("hub-add"), asked)
        assert 400 <= answer.status_code < 500, repo
    for moving in ("main", "v1.0", "0" * 39, "G" * 40, "0" * 40 + "\n", "refs/pr/1", ""):
        answer = browser.post(reverse("hub-add"), {"repo": "tiny-org/tiny-llama", "commit": moving})
        assert answer.status_code == 400, moving
    assert stand_in.seen == [] and not Model.objects.exists()


def test_a_link_out_of_the_models_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "models" / "linked", {})
    (tmp_path / "secret").mkdir()
    for place, target in (
        (folder / "tokenizer.json", "/etc/passwd"),
        (folder / "more", tmp_path / "secret"),
        (folder / "model.safetensors", "../../secret"),
    ):
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        with pytest.raises(weights.Refused, match="leads out of the models folder"):
            weights.refuse_links_out(folder, tmp_path / "models")
        place.unlink()


# Attack 19: files that lie, templates that attack

TEMPLATES = [
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m.content | trim }}{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{% set ns = namespace(found=false) %}{% set ns.found = true %}{{ raise_exception('only users') }}",
    "{% for x in y %}{% if loop.index0 == 3 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%d') }}",
    "{% macro render(t) %}{{ t | tojson(indent=4) }}{% endmacro %}{% generation %}{{ render(tools) }}"
    "{% endgeneration %}",
    "{{ bos_token }}{{ messages[1:] | length }}{{ m.content.split('</think>')[-1].lstrip('\\n') }}",
]
ATTACKS = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cl' + 'ass__'] }}",
    "{{ ''['_' ~ '_class_' ~ '_'] }}",
    "{{ ''[['__cl', 'ass__'] | join] }}",
    "{{ ''[['_', '_', 'class', '_', '_'] | join] }}",
    "{{ x[dict(__class__=x) | list | first] }}",
    "{{ x | attr('__class__') }}",
    "{{ x | attr(name) }}",
    "{{ x | map('attr', '__class__') | list }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}",
    "{{ x.gi_frame.f_builtins }}",
    "{{ x['f_globals'] }}",
    "{{ namespace.mro() }}",
    "{% set a = '__globals__' %}{{ x[a] }}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% from 'x' import y %}",
    "{% unknown %}{{ x.__class__ }}{% endunknown %}",
    "{{ '%c%c' | format(95, 95) }}{{ x['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "x" * ((1 << 20) + 1),
]


def test_templates_of_real_models_pass_and_hostile_ones_do_not() -> None:
    for template in TEMPLATES:
        chat_templates.check(template)
    for template in ATTACKS:
        with pytest.raises(chat_templates.Hostile):
            chat_templates.check(template)


def test_a_gguf_is_refused_for_any_of_its_templates(tmp_path: Path) -> None:
    for number, key in enumerate(("tokenizer.chat_template", "tokenizer.chat_template.tool_use")):
        for template in ("{{ x.__class__ }}", "x" * ((1 << 20) + 1)):
            pairs = [
                text("general.architecture") + b"\x08\0\0\0" + text("llama"),
                text(key) + b"\x08\0\0\0" + text(template),
            ]
            with pytest.raises(weights.Refused, match="chat template"):
                weights.inspect(write_gguf(tmp_path / f"{number}.gguf", pairs=pairs))


def test_every_file_of_a_gguf_is_read_and_none_may_lack(tmp_path: Path) -> None:
    parts = [tmp_path / f"a-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.write_bytes(tiny_gguf())
    assert weights.inspect(parts[0]).kind == "gguf"
    parts[1].write_bytes(LIES["a tensor past the end"])
    with pytest.raises(weights.Refused, match=r"a-00002-of-00003[.]gguf is no sound GGUF"):
        weights.inspect(parts[0])
    parts[1].unlink()
    with pytest.raises(weights.Refused, match=r"a-00002-of-00003[.]gguf is missing: all 3 parts"):
        weights.inspect(parts[0])


# An administrator's leave


@pytest.fixture
def node(db: None, settings: Any) -> Node:
    return Node.objects.get_or_create(name=settings.NODE_NAME)[0]


@pytest.fixture
def own(team: Team, root: Path) -> Model:
    """A folder refused for its own code alone."""
    write(root / "own", {"config.json": config(**CODE), "modeling.py": SOURCE})
    catalogue.scan(team)
    return Model.objects.get(team=team, name="own")


@pytest.fixture
def stand_in(hub: HubStandIn) -> HubStandIn:
    """The fixture under a name that is not the module's."""
    hub.add_tiny()
    return hub


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def allow(browser: Client, model: Model, typed: str = "", pin: str = "") -> int:
    """Allow what the page shows, or something else; the answer's status."""
    shown = own_code.of(model)
    assert shown is not None
    given = {"pin": pin or shown.pin, "typed": typed or shown.typed}
    return browser.post(reverse("own-code-allow", args=[model.pk]), given).status_code


def fresh(model: Model) -> Model:
    return Model.objects.get(pk=model.pk)


def frozen(model: Model) -> Any:
    """The configuration of its form in an environment that was never built."""
    environment = EngineEnvironment.objects.get_or_create(
        engine="transformers", version="1", digest="e" * 64, defaults={"packages": "", "python": "3.13"}
    )[0]
    form = ModelFormat.objects.get(model=model)
    if not form.digest:
        form.digest = catalogue.take_digest(catalogue.root() / form.path)
        form.save()
    return configurations.freeze(form, environment, "transformers", {}, [])


def candidate(model: Model) -> tuple[LocalModel | None, Any]:
    return catalogue.candidate(fresh(model), engines.get("transformers"))


@pytest.mark.django_db
def test_a_refused_model_starts_nowhere(own: Model, user: User, node: Node) -> None:
    browser = signed_in(user)
    page = browser.get(reverse("model", args=[own.pk])).content.decode()
    assert "modeling.py is code" in page or "names Python code to load" in page
    answer = browser.post(reverse("model-start", args=[own.pk]), {"engine": "transformers"})
    assert 400 <= answer.status_code < 500 and not Deployment.objects.exists()
    for adapter in engines.all():
        assert not catalogue.candidate(own, adapter)[1].ok


@pytest.mark.django_db
def test_its_code_is_shown_as_text_and_allowed_by_an_administrator_alone(own: Model, user: User) -> None:
    browser = signed_in(user)
    (catalogue.root() / "own" / "modeling.py").write_text("<script>alert(1)</script>")
    catalogue.scan(own.team)
    User.objects.filter(pk=user.pk).update(is_staff=False)
    page = browser.get(reverse("own-code", args=[own.pk])).content.decode()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    assert "is for the site's administrators" in page and reverse("own-code-allow", args=[own.pk]) not in page
    assert allow(browser, own) == 403
    assert AuditEntry.objects.filter(action="refused allow code").exists()
    assert fresh(own).code_allowed_at is None
    User.objects.filter(pk=user.pk).update(is_staff=True)
    assert (
        reverse("own-code-allow", args=[own.pk])
        in browser.get(reverse("own-code", args=[own.pk])).content.decode()
    )


@pytest.mark.django_db
def test_another_teams_code_is_nobodys_business(own: Model, stranger: User) -> None:
    browser = signed_in(stranger)
    assert browser.get(reverse("own-code", args=[own.pk])).status_code == 404
    for name in ("own-code-allow", "own-code-withdraw"):
        assert browser.post(reverse(name, args=[own.pk])).status_code == 404
    assert fresh(own).code_allowed_at is None


@pytest.mark.django_db
def test_leave_is_for_exactly_what_was_shown(own: Model, user: User) -> None:
    browser = signed_in(user)
    before = own_code.of(own)
    assert before is not None
    assert allow(browser, own, typed="yes") == 422
    (catalogue.root() / "own" / "modeling.py").write_bytes(SOURCE + b"#")
    assert allow(browser, own, typed=before.typed, pin=before.pin) == 422
    assert fresh(own).code_allowed_at is None
    assert allow(browser, own) == 302
    allowed = fresh(own)
    assert (allowed.refused, allowed.code_allowed_by) == ("", user)
    local, verdict = candidate(own)
    assert verdict.ok and local and local.trusts_code
    assert AuditEntry.objects.filter(action="allow code", object=f"model:{own.pk}").exists()
    page = browser.get(reverse("model", args=[own.pk])).content.decode()
    assert "Runs code of its own" in page and user.username in page


@pytest.mark.django_db
def test_code_that_changed_since_is_refused_again(own: Model, user: User, node: Node) -> None:
    assert allow(signed_in(user), own) == 302
    folder = catalogue.root() / "own"
    model_file = folder / "model.safetensors"
    model_file.write_bytes(safetensors({"other": [4, 4]}))
    catalogue.scan(own.team)
    assert fresh(own).refused == "", "weights run no code"
    (folder / "modeling.py").write_bytes(SOURCE + b"# changed")
    with pytest.raises(Exception, match="code"):
        catalogue.ensure(node, fresh(own), "safetensors")
    catalogue.scan(own.team)
    assert "code" in fresh(own).refused and fresh(own).code_allowed_at is None
    (folder / "modeling.py").write_bytes(SOURCE)
    catalogue.scan(own.team)
    assert fresh(own).refused, "leave that was taken does not come back by itself"


@pytest.mark.django_db
def test_the_configuration_says_so_for_ever(own: Model, user: User, root: Path) -> None:
    browser = signed_in(user)
    allow(browser, own)
    configuration = frozen(fresh(own))
    assert configuration.runs_code and configuration.facts["code"] is True
    assert configurations.digest(configuration.canonical) == configuration.digest
    without = configurations.canonical({k: v for k, v in configuration.facts.items() if k != "code"})
    assert configurations.digest(without) != configuration.digest, "the digest names it"
    write(root / "plain", {})
    catalogue.scan(own.team)
    plain = frozen(Model.objects.get(name="plain"))
    assert not plain.runs_code and "code" not in plain.facts
    assert browser.post(reverse("own-code-withdraw", args=[own.pk])).status_code == 302
    assert fresh(own).refused and not candidate(own)[1].ok
    configuration.refresh_from_db()
    assert configuration.runs_code


@pytest.mark.django_db
def test_the_engine_is_told_to_trust_it_by_its_configuration_alone(
    own: Model, user: User, root: Path
) -> None:
    allow(signed_in(user), own)
    write(root / "plain", {})
    catalogue.scan(own.team)
    for model, trusted in ((fresh(own), True), (Model.objects.get(name="plain"), False)):
        local = catalogue.local(model.formats.get())
        for name in ("vllm", "transformers", "sglang", "triton"):
            if name in {adapter.name for adapter in engines.all()}:
                adapter = engines.get(name)
                line = adapter.command(Path("/env"), local, adapter.Options(), 1, "x", real_engines.HARDWARE)
                assert ("--trust-remote-code" in line) is trusted, name


@pytest.mark.django_db
def test_a_replica_is_refused_once_leave_is_withdrawn(own: Model, user: User, node: Node) -> None:
    browser = signed_in(user)
    allow(browser, own)
    configuration = frozen(fresh(own))
    parts = reconcile._Parts(configuration.environment, configuration.format, [], None)
    assert reconcile._other_than(configuration, parts, []) == ""
    browser.post(reverse("own-code-withdraw", args=[own.pk]))
    parts.form.refresh_from_db()
    assert "was withdrawn" in reconcile._other_than(configuration, parts, [])


@pytest.mark.django_db
def test_nobody_can_allow_what_lies_in_no_commit(team: Team, user: User, root: Path) -> None:
    write(root / "both", {"config.json": config(**CODE, use_kernels=True), "modeling.py": SOURCE})
    catalogue.scan(team)
    model = Model.objects.get(name="both")
    assert own_code.of(model) is None
    browser = signed_in(user)
    assert browser.get(reverse("own-code", args=[model.pk])).status_code == 404
    given = {"pin": weights.code_digest(root / "both"), "typed": "x"}
    assert browser.post(reverse("own-code-allow", args=[model.pk]), given).status_code in (404, 422)
    assert fresh(model).refused


@pytest.mark.django_db
def test_leave_for_one_commit_of_the_hub_is_none_for_the_next(
    stand_in: HubStandIn, team: Team, user: User
) -> None:
    browser = signed_in(user)
    hub.forget_troubles()
    first = hub_models.add(hub.repository("evil/auto-map"), [], team, user)
    assert "auto_map" in first.refused or "code" in first.refused
    page = browser.get(reverse("own-code", args=[first.pk])).content.decode()
    assert "import os" in page and first.source.rpartition("@")[2] in page
    assert allow(browser, first) == 302
    allowed = fresh(first)
    assert allowed.refused == "" and candidate(first)[1].ok
    assert "modeling_evil.py" in {one["path"] for one in allowed.formats.get().files}
    stand_in.change("evil/auto-map", {"modeling_evil.py": b"import os  # now evil"})
    second = hub_models.add(hub.repository("evil/auto-map"), [], team, user)
    assert second.pk != first.pk and second.refused and second.code_allowed_at is None


# A real engine, given a template that reading cannot judge

LOOP = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3


@pytest.fixture
def endless(root: Path) -> Path:
    """The demo model, with a template of the same length that never ends."""
    real_engines.environment("llama.cpp")
    found = root / real_engines.demo("gguf")[1].path
    template = str(gguf.read(found).values["tokenizer.chat_template"]).encode()
    path = root / "endless.gguf"
    path.write_bytes(found.read_bytes().replace(template, LOOP.encode().ljust(len(template))))
    return path


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_template_without_an_end_costs_its_replica_alone(endless: Path, team: Team) -> None:
    assert weights.inspect(endless).chat_template.startswith(LOOP), "nothing in it can be told by reading"
    workers = fleet.Fleet()
    workers.work(SLIPWAY_LOAD_TIMEOUT_S="15", SLIPWAY_RETRY_S="600")
    try:
        catalogue.scan(team)
        row = deployments.request(
            team=team, user=None, model=Model.objects.get(name="endless"), engine="llama.cpp", options={}
        )
        failed = fleet.until("it fails", lambda: row.replicas.filter(state="failed").first(), 90)
        assert failed.reason_code == ReasonCode.LOAD_TIMEOUT
        assert "n_slots" in failed.log_tail, "its weights were there: it hung at the template"
        assert fleet.engine_processes(failed) == []
        fleet.ready(fleet.start(team, fleet.tiny_model(team)))
    finally:
        workers.close()
