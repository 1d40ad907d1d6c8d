"""Prompts as files: what is written comes back, differences read well, and no file does harm."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from playground import prompt_files, prompts
from playground.models import AuditEntry, Membership, Prompt, Team, User
from playground.prompts import PromptRefused, Said

LONG = "You help with {{product}}.\n\nBe brief:\n  - one line\n\tand a tab\nKüche 🚢\n"
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=80),
    st.text("ab:#-|> \t\n\u2028é", min_size=1, max_size=40),
)


@pytest.fixture
def prompt(team: Team, user: User) -> Prompt:
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": "no"}]
    variables = [{"name": "product", "default": "on", "description": "what: it is"}]
    parameters = {"temperature": 0.5, "response_format": {"type": "json_object"}, "max_tokens": 5}
    what = Said(messages, variables, parameters)
    return prompts.create(team, user, "support-triage", what, tags=["b", "a"], note="first")


def text_of(prompt: Prompt, kind: str = "yaml", *, every: bool = False) -> str:
    versions = list(prompt.versions.all())
    return prompt_files.write(prompt_files.document(prompt, versions, every=every), kind)


def kept(team: Team, user: User, text: str, name: str = "a.yaml") -> prompt_files.Imported:
    return prompt_files.keep(team, user, prompt_files.read(text.encode(), name))


# Writing


@pytest.mark.django_db
def test_long_texts_are_literal_blocks_and_keys_in_one_order(prompt: Prompt) -> None:
    assert text_of(prompt) == (
        "name: support-triage\n"
        "tags:\n"
        "  - a\n"
        "  - b\n"
        "note: first\n"
        "messages:\n"
        "  - role: system\n"
        "    content: |\n"
        "      You help with {{product}}.\n"
        "\n"
        "      Be brief:\n"
        "        - one line\n"
        "      \tand a tab\n"
        "      Küche 🚢\n"
        "  - role: user\n"
        "    content: 'no'\n"
        "variables:\n"
        "  - name: product\n"
        "    type: text\n"
        "    default: 'on'\n"
        "    description: 'what: it is'\n"
        "parameters:\n"
        "  temperature: 0.5\n"
        "  response_format:\n"
        "    type: json_object\n"
        "  max_tokens: 5\n"
    )


@settings(max_examples=200, deadline=None)
@example([("user", "\x85")])
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_whatever_is_written_is_read_back(kind: str, rows: list[tuple[str, str]]) -> None:
    told = {"name": rows[0][1], "messages": [{"role": role, "content": text} for role, text in rows]}
    assert prompt_files.read(prompt_files.write(told, kind).encode(), f"a.{kind}") == told


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["yaml", "json"])
@pytest.mark.parametrize("every", [True, False])
def test_an_export_imported_again_is_nothing_new(prompt: Prompt, user: User, kind: str, every: bool) -> None:
    done = kept(prompt.team, user, text_of(prompt, kind, every=every), f"a.{kind}")
    assert (done.what, done.prompt) == ("same", prompt)
    assert prompt.versions.count() == 1


@pytest.mark.django_db
def test_every_version_moves_to_another_team(prompt: Prompt, user: User, stranger: User) -> None:
    prompts.save(prompt, user, Said([{"role": "user", "content": "x"}]), base=1, note="second")
    theirs = stranger.memberships.get().team
    done = kept(theirs, stranger, text_of(prompt, every=True))
    assert done.what == "made"
    moved = done.prompt.versions.order_by("number")
    assert [(one.messages, one.note) for one in moved] == [
        (one.messages, one.note) for one in prompt.versions.order_by("number")
    ]
    assert {one.created_by for one in moved} == {stranger}
    assert done.prompt.tags == ["a", "b"]


# Reading


@pytest.mark.django_db
def test_a_file_that_says_something_else_is_a_new_version(prompt: Prompt, user: User) -> None:
    changed = text_of(prompt).replace("Be brief", "Be kind").replace("note: first", "note: kinder")
    done = kept(prompt.team, user, changed)
    newest = prompt.versions.first()
    assert newest is not None
    assert (done.what, newest.number, newest.note) == ("saved", 2, "kinder")
    assert "Be kind" in newest.messages[0]["content"]
    tagged = changed.replace("  - a\n", "  - c\n")
    assert kept(prompt.team, user, tagged).what == "changed"
    prompt.refresh_from_db()
    assert (prompt.tags, prompt.head) == (["b", "c"], 2)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases are not taken"),
        ("name: &x a\nmessages: []", "aliases are not taken"),
        ("[" * 5000, "nested more than 64"),
        ("name: a\nmessages:\n" + "- a\n" * 60_000, "more than 50,000 values"),
        ("name: a\nname: b\nmessages: []", "given twice"),
        ("1: a", "names must be text"),
        ("? [a]\n: b", "names must be text"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("name: !!binary aGk=\nmessages: []", "name must be text"),
        ("name: 2020-01-01\nmessages: 5\nnote: 1", "note must be text"),
        ("name: [a\n", "line 2"),
        ("just text", "no prompt"),
        ("", "no prompt"),
        ("- a", "no prompt"),
        ("name: a", "either messages or versions"),
        ("name: a\nmessages: []\nversions: []", "either messages or versions"),
        ("name: a\nversions: []", "1 to 1000"),
        ("name: a\nversions: [a]", "mapping with messages"),
        ("name: a\nversions:\n- messages: []\n  colour: red", "'colour', which no version has"),
        ("name: a\nmessages: []\ncolour: red", "'colour', which no prompt has"),
        ("name: a\nmessages: []\ntags: x", "list of texts"),
        ("name: a\nmessages: []\n--- \nname: b", "single document"),
        ("\x07", "not text in UTF-8"),
        ("x: 0x" + "9" * 300 + "\nname: " + "1" * 9000, "can be read from"),
    ],
)
def test_a_yaml_that_is_no_prompt_is_told_why(text: str, words: str) -> None:
    before = time.monotonic()
    with pytest.raises(PromptRefused, match=words):
        prompt_files.read(text.encode(), "a.yaml")
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("raw", "name", "words"),
    [
        (b"\xff\xfe", "a.yaml", "UTF-8"),
        (b"\xff\xfe", "a.json", "byte order mark"),
        (b"{", "a.json", "The file is not JSON"),
        (b'{"name": 1, "name": 2}', "a.json", "given twice"),
        (b"[]", "a.json", "must be a JSON object"),
        (b'{"name": "a", "messages": [NaN]}', "a.json", "not JSON"),
        (b"x" * 2_000_001, "a.yaml", "2,000,000 is the most"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_why(raw: bytes, name: str, words: str) -> None:
    with pytest.raises(PromptRefused, match=words):
        prompt_files.read(raw, name)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "text",
    [
        "name: ''\nmessages:\n- {role: user, content: x}",
        "name: a\nmessages: []",
        "name: a\nmessages: text",
        "name: a\nmessages:\n- {role: boss, content: x}",
        "name: a\nmessages:\n- {role: user, content: 5}",
        "name: a\nmessages:\n- {role: user, content: x}\nparameters: {temperature: .nan}",
        "name: a\nmessages:\n- {role: user, content: x}\nparameters: {model: x}",
        "name: a\nmessages:\n- {role: user, content: x}\nvariables: {a: b}",
        "name: a\nmessages:\n- {role: user, content: x}\nvariables: [{name: v, type: date}]",
        'name: a\nmessages:\n- {role: user, content: "\\0"}',
    ],
)
def test_what_a_version_may_not_say_makes_nothing(team: Team, user: User, text: str) -> None:
    with pytest.raises(PromptRefused):
        kept(team, user, text)
    assert not Prompt.objects.exists()


# Pages


@pytest.mark.django_db
def test_a_prompt_is_exported_and_imported_through_pages(prompt: Prompt, user: User, stranger: User) -> None:
    client = Client()
    client.force_login(user)
    answer = client.get(reverse("prompt-export", args=[prompt.pk]) + "?format=json")
    assert answer["Content-Disposition"] == 'attachment; filename="support-triage.json"'
    assert json.loads(answer.content)["messages"][0]["content"] == LONG
    assert client.get(reverse("prompt-export", args=[prompt.pk]) + "?format=exe").status_code == 404
    raw = client.get(reverse("prompt-export", args=[prompt.pk]) + "?all=1").content
    other = Client()
    other.force_login(stranger)
    made = other.post(reverse("prompt-import"), {"file": SimpleUploadedFile("p.yaml", raw)}, follow=True)
    assert "support-triage was made from p.yaml" in made.content.decode()
    again = other.post(reverse("prompt-import"), {"file": SimpleUploadedFile("p.yaml", raw)}, follow=True)
    assert "nothing was changed" in again.content.decode()
    bad = other.post(reverse("prompt-import"), {"file": SimpleUploadedFile("p.yaml", b"a: &a b")})
    assert bad.status_code == 422
    assert "aliases are not taken" in bad.content.decode()
    assert other.post(reverse("prompt-import"), {}).status_code == 422


@pytest.mark.django_db
def test_a_viewer_imports_nothing(team: Team) -> None:
    vera = User.objects.create_user(username="vera")
    Membership.objects.create(user=vera, team=team, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(vera)
    file = SimpleUploadedFile("p.yaml", b"name: a\nmessages: [{role: user, content: x}]")
    assert client.post(reverse("prompt-import"), {"file": file}).status_code == 403
    assert not Prompt.objects.exists()


# The command


def run(*words: Any) -> str:
    from io import StringIO

    out = StringIO()
    call_command("prompts", *map(str, words), stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_a_folder_for_git_goes_out_and_in(prompt: Prompt, team: Team, user: User, tmp_path: Path) -> None:
    prompts.create(team, user, "Support triage", Said([{"role": "user", "content": "x"}]))
    assert (
        run("export", tmp_path) == f"wrote support-triage.yaml\nwrote support-triage-{prompt.pk + 1}.yaml\n"
    )
    assert run("export", tmp_path) == ""
    path = tmp_path / "support-triage.yaml"
    path.write_text(path.read_text().replace("Be brief", "Be kind"))
    (tmp_path / "README.md").write_text("not a prompt")
    told = run("import", tmp_path, "--as", "ada")
    assert "support-triage.yaml: saved" in told
    assert f"support-triage-{prompt.pk + 1}.yaml: same" in told
    entry = AuditEntry.objects.get(action="save prompt")
    assert entry.via == "command"
    (tmp_path / "bad.yaml").write_text("a: &a b")
    with pytest.raises(CommandError, match=r"bad.yaml: .*aliases"):
        run("import", tmp_path, "--as", "ada")


@pytest.mark.django_db
def test_the_command_asks_for_the_role(team: Team, stranger: User, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nmessages: [{role: user, content: x}]")
    with pytest.raises(CommandError, match="role of member"):
        run("import", tmp_path, "--as", "mallory")
    for words in (["import", tmp_path, "--as", "nobody"], ["export", tmp_path, "--team", "none"]):
        with pytest.raises(CommandError, match="There is no"):
            run(*words)
    assert not Prompt.objects.exists()
