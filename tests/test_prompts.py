"""The library of prompts through its pages: written, saved, met by another, restored, found, tried."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from playground import (
    access,
    datasets,
    export_texts,
    exports,
    generation,
    opening,
    prompt_changes,
    prompts,
    trying,
    votes,
)
from playground.history import messages
from playground.models import (
    AuditEntry,
    Batch,
    Conversation,
    Dataset,
    DatasetRow,
    DatasetVersion,
    Deployment,
    Membership,
    Prompt,
    Team,
    User,
)
from playground.prompts import Conflict, PromptRefused, Said
from tests import chats
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db

TRIAGE = [
    {"role": "system", "content": "You help with {{product}}."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "What about {{product}}?"},
    {"role": "user", "content": "{{question}}"},
]
LEFT = {"more": "", "choices": "", "default": "", "about": "", "given": ""}


@pytest.fixture
def member(team: Team) -> User:
    return person(team, "bob")


@pytest.fixture
def viewer(team: Team) -> User:
    return person(team, "vera", Membership.Role.VIEWER)


@pytest.fixture
def prompt(team: Team, user: User) -> Prompt:
    variables = [{"name": "question", "default": "Why?"}]
    what = Said(TRIAGE, variables, {"temperature": 0.5, "seed": 7})
    return prompts.create(team, user, "support-triage", what, tags=["Support", "live"], note="first")


def person(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    made = User.objects.create_user(username=name)
    Membership.objects.create(user=made, team=team, role=role)
    return made


def signed_in(who: User, **headers: str) -> Client:
    client = Client(headers=headers)
    client.force_login(who)
    return client


def form(*rows: tuple[str, str], base: int = 1, **more: Any) -> dict[str, Any]:
    """The editor's fields with these messages."""
    fields = {
        "base": base,
        "note": "",
        "role": [role for role, _ in rows],
        "content": [text for _, text in rows],
        "more": [""] * len(rows),
    }
    return fields | more


def save_url(prompt: Prompt) -> str:
    return reverse("prompt-save", args=[prompt.pk])


def system(text: str) -> Said:
    return Said([{"role": "system", "content": text}])


# Writing


def test_a_prompt_is_written_with_everything_it_may_have(team: Team, member: User) -> None:
    client = signed_in(member)
    assert client.get(reverse("prompt-new")).status_code == 200
    fields = form(
        ("developer", "Be {{tone}}."),
        ("user", "{{n}}"),
        ("assistant", ""),
        ("tool", "found"),
        name="  Look   up ",
        tags="Support, live ,",
        description="Looks things up.",
        note="begun",
        variable=["tone", "n"],
        type=["choice", "number"],
        choices=["kind\nstrict\n", ""],
        default=["kind", "3"],
        about=["how it speaks", ""],
        given=["", ""],
        temperature="0.2",
        stop="END",
        response_format='{"type": "json_object"}',
        tools='[{"type": "function", "function": {"name": "look"}}]',
        other='{"tool_choice": "auto"}',
    )
    fields["more"] = ["", "", '{"tool_calls": [{"id": "1", "type": "function"}]}', '{"tool_call_id": "1"}']
    answer = client.post(reverse("prompt-new"), fields)
    row = Prompt.objects.get(team=team)
    assert answer["Location"] == reverse("prompt", args=[row.pk]) + "?saved=new"
    assert (row.name, row.tags, row.head) == ("Look up", ["live", "support"], 1)
    version = row.versions.get()
    assert [one["role"] for one in version.messages] == ["developer", "user", "assistant", "tool"]
    assert version.messages[2]["content"] is None
    assert version.messages[3] == {"role": "tool", "content": "found", "tool_call_id": "1"}
    assert [(one["name"], one["type"], one["default"]) for one in version.variables] == [
        ("tone", "choice", "kind"),
        ("n", "number", 3),
    ]
    assert version.parameters == {
        "temperature": 0.2,
        "stop": ["END"],
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": "auto",
    }
    assert (version.note, version.created_by) == ("begun", member)
    entry = AuditEntry.objects.get(action="create prompt")
    assert (entry.user, entry.object, entry.name) == (member, f"prompt:{row.pk}", "Look up")
    page = client.get(save_url(row)).content.decode()
    for text in ("Be {{tone}}.", "how it speaks", "tool_call_id", "tool_choice", "json_object", "END"):
        assert text.replace('"', "&quot;") in page


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (form(("user", "x"), name=" "), "1 to 120 characters"),
        (form(("user", "x"), name="support-triage"), "called support-triage already"),
        (form(("user", " "), name="a"), "messages must not be empty"),
        (form(("user", "x"), name="a", more=["[1"]), "Its other fields"),
        (form(("user", "x"), name="a", more=['{"content": "y"}']), "one is too many"),
        (form(("user", ""), ("king", "kept text"), name="a"), "role of system"),
        (form(("user", "x"), name="a", temperature="hot"), "Temperature is a number"),
        (form(("user", "x"), name="a", response_format="{"), "must be JSON"),
        (form(("user", "x"), name="a", response_format='{"type": "xml"}'), "must be text, json_object"),
        (form(("user", "x"), name="a", tools='{"a": 1}'), "list of at most"),
        (form(("user", "x"), name="a", other='{"model": "x"}'), "does not keep model"),
        (form(("user", "x"), name="a", other="5"), "must be a JSON object"),
        (form(("user", "x"), name="a", note="n" * 501), "500 is the most"),
        (form(("user", "x"), name="a", tags="t" * 41), "40 characters"),
        (
            form(
                ("user", "{{v}}"), name="a", variable="v", type="number", default="many", choices="", about=""
            ),
            "v must be a number",
        ),
        (
            form(("user", "{{v}}"), name="a", variable="v", type="choice", default="", choices="", about=""),
            "v needs 1 to 100 choices",
        ),
    ],
)
def test_what_cannot_be_kept_is_told_and_nothing_typed_is_lost(
    prompt: Prompt, member: User, fields: dict[str, Any], words: str
) -> None:
    fields["description"] = "typed all the same"
    answer = signed_in(member).post(reverse("prompt-new"), fields)
    assert answer.status_code == 422
    page = answer.content.decode()
    assert words in page
    assert "typed all the same" in page
    for text in [*fields["content"], *([fields["other"]] if "other" in fields else [])]:
        assert text.strip().replace('"', "&quot;") in page
    assert Prompt.objects.count() == 1


def test_a_form_that_came_incomplete_saves_nothing(prompt: Prompt, member: User) -> None:
    fields = form(("user", "x"), ("user", "y")) | {"more": [""]}
    answer = signed_in(member).post(save_url(prompt), fields)
    assert answer.status_code == 422
    assert "reload the page" in answer.content.decode()
    assert prompt.versions.count() == 1


def test_what_is_typed_is_looked_at_with_its_variables(prompt: Prompt, member: User) -> None:
    client = signed_in(member)
    fields = form(("user", "Say {{word}} and {{no name}}"))
    page = client.post(reverse("prompt-form"), fields).content.decode()
    assert "#variables" in page
    assert "is no variable" in page
    fields |= LEFT | {"variable": "word", "type": "text", "given": "<b>ship</b>", "more": ""}
    page = client.post(reverse("prompt-form"), fields).content.decode()
    assert "#variables" not in page  # nobody's typing there is interrupted
    assert "Say " in page
    assert "&lt;b&gt;ship&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("verb", "texts"),
    [
        ("add", ["a", "b", ""]),
        ("up 1", ["b", "a"]),
        ("down 0", ["b", "a"]),
        ("remove 0", ["b"]),
        ("remove 7", ["a", "b"]),
        ("up x", ["a", "b"]),
        ("recall", ["a", "b"]),
    ],
)
def test_the_form_comes_again_with_what_was_typed(member: User, verb: str, texts: list[str]) -> None:
    fields = form(("user", "a"), ("user", "b"), base=4, whole=verb)
    answer = signed_in(member).post(reverse("prompt-form"), fields)
    assert [row["message"].content for row in answer.context["rows"]] == texts
    assert answer.context["form"].base == 4


# Versions


def test_a_save_makes_the_next_version_and_both_stay(prompt: Prompt, member: User) -> None:
    answer = signed_in(member).post(save_url(prompt), form(("system", "Be brief."), note="shorter"))
    assert answer["Location"].endswith("?saved=1")
    prompt.refresh_from_db()
    assert prompt.head == 2
    first, second = prompt.versions.order_by("number")
    assert first.messages == TRIAGE
    assert (second.messages, second.note) == ([{"role": "system", "content": "Be brief."}], "shorter")
    entry = AuditEntry.objects.get(action="save prompt")
    assert (entry.before, entry.after) == ({"version": 1}, {"version": 2, "note": "shorter"})


def test_what_changes_nothing_is_no_version(prompt: Prompt, user: User) -> None:
    with pytest.raises(PromptRefused, match="Nothing has changed since v1"):
        prompts.save(prompt, user, prompts.said(prompt.versions.get()), base=1)
    assert prompt.versions.count() == 1


def test_saved_twice_by_one_person_is_one_version(prompt: Prompt, user: User, member: User) -> None:
    made = prompts.save(prompt, user, system("x"), base=1)
    assert prompts.save(prompt, user, system("x"), base=1) == made
    with pytest.raises(PromptRefused):
        prompts.save(prompt, member, system("x"), base=1)
    assert prompt.versions.count() == 2


def test_who_comes_second_sees_both_texts_and_loses_nothing(prompt: Prompt, user: User, member: User) -> None:
    prompts.save(prompt, user, system("You help with {{product}}. Be brief."), base=1, note="brief")
    mine = form(("system", "You kindly help with {{product}}."), ("user", "my own words"), note="mine")
    answer = signed_in(member).post(save_url(prompt), mine)
    assert answer.status_code == 409
    page = answer.content.decode()
    assert "ada saved v2 while you wrote" in page
    assert "“brief”" in page
    assert "my own words" in page
    assert 'name="base" value="2"' in page
    assert prompt.versions.count() == 2


def test_both_peoples_changes_are_put_together(prompt: Prompt, user: User, member: User) -> None:
    theirs = [{"role": "system", "content": "You help with {{product}}. Be brief."}, *TRIAGE[1:]]
    prompts.save(prompt, user, Said(theirs, [], {"temperature": 0.5, "seed": 7}), base=1)
    rows = [(one["role"], one["content"]) for one in TRIAGE]
    rows[0] = ("system", "You kindly help with {{product}}.")
    fields = form(*rows, temperature="0.9", seed="7", note="mine", action="merge")
    answer = signed_in(member).post(save_url(prompt), fields)
    assert answer.status_code == 200
    merged = answer.context["form"]
    assert merged.base == 2
    assert merged.messages[0].content == "You kindly help with {{product}}. Be brief."
    assert merged.parameters["temperature"] == "0.9"
    assert merged.note == "mine"
    assert answer.context["merged"]["clashes"] == []


def test_saving_on_top_keeps_the_others_version(prompt: Prompt, user: User, member: User) -> None:
    prompts.save(prompt, user, system("theirs"), base=1)
    fields = form(("system", "mine")) | {"base": ["1", "2"]}
    assert signed_in(member).post(save_url(prompt), fields).status_code == 302
    texts = [version.messages[0]["content"] for version in prompt.versions.order_by("number")]
    assert texts == ["You help with {{product}}.", "theirs", "mine"]


@pytest.mark.django_db(transaction=True)
def test_of_two_who_save_in_the_same_moment_one_is_told(prompt: Prompt, user: User, member: User) -> None:
    together = Barrier(2)

    def save(who: User) -> str:
        try:
            together.wait(10)
            return f"v{prompts.save(Prompt.objects.get(), who, system(who.username), base=1).number}"
        except Conflict as problem:
            return f"met v{problem.newest.number}"
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(save, [user, member])) == ["met v2", "v2"]
    assert prompt.versions.count() == 2


def test_a_version_made_up_is_a_conflict(prompt: Prompt, user: User) -> None:
    with pytest.raises(Conflict):
        prompts.save(prompt, user, system("x"), base=9)
    assert prompt.versions.count() == 1


def test_restoring_makes_a_new_version(prompt: Prompt, user: User, member: User) -> None:
    prompts.save(prompt, user, system("x"), base=1)
    client = signed_in(member)
    client.post(reverse("prompt-restore", args=[prompt.pk]), {"number": 1, "base": 2})
    newest = prompt.versions.first()
    assert newest is not None
    assert (newest.number, newest.restores, newest.messages) == (3, 1, TRIAGE)
    answer = client.post(reverse("prompt-restore", args=[prompt.pk]), {"number": 2, "base": 2}, follow=True)
    assert "saved v3 while you wrote" in answer.content.decode()
    assert client.post(reverse("prompt-restore", args=[prompt.pk]), {"number": "x"}).status_code == 404
    assert prompt.versions.count() == 3
    assert AuditEntry.objects.get(action="restore prompt").after == {
        "version": 3,
        "note": "Restores v1.",
        "restores": 1,
    }


def test_two_versions_are_compared_by_word(prompt: Prompt, user: User, viewer: User) -> None:
    prompts.save(prompt, user, Said([{"role": "system", "content": "You help with ships."}]), base=1)
    page = signed_in(viewer).get(reverse("prompt-diff", args=[prompt.pk])).content.decode()
    assert "<del>{{product}}</del><ins>ships</ins>" in page
    assert "removed" in page
    assert signed_in(viewer).get(reverse("prompt-diff", args=[prompt.pk]) + "?a=9").status_code == 404


# Finding, naming, tags


def test_the_list_is_searched_by_name_words_and_tags(prompt: Prompt, team: Team, user: User) -> None:
    prompts.create(team, user, "other", system("Nothing of it"), tags=["x"])
    client = signed_in(user)

    def found(query: str) -> list[str]:
        page = client.get(reverse("prompts") + query)
        return [row.name for row in page.context["page"]]

    assert found("") == ["other", "support-triage"]
    assert found("?q=TRIAGE") == ["support-triage"]
    assert found("?q=you help with") == ["support-triage"]
    assert found("?tag=live") == ["support-triage"]
    assert found("?q=nowhere") == []
    assert "No prompt" in client.get(reverse("prompts") + "?q=nowhere").content.decode()
    assert "first" in client.get(reverse("prompts")).content.decode()


def test_words_of_an_old_version_are_not_found(prompt: Prompt, user: User, team: Team) -> None:
    prompts.save(prompt, user, system("quite different"), base=1)
    assert list(prompts.find(team, "You help with")) == []
    assert list(prompts.find(team, "quite different")) == [prompt]


def test_name_tags_and_description_change_and_are_audited(prompt: Prompt, member: User) -> None:
    client = signed_in(member)
    url = reverse("prompt-change", args=[prompt.pk])
    client.post(url, {"name": "Triage", "description": "It sorts.", "tags": "b, A,a"})
    prompt.refresh_from_db()
    assert (prompt.name, prompt.description, prompt.tags) == ("Triage", "It sorts.", ["a", "b"])
    entry = AuditEntry.objects.get(action="change prompt")
    assert (entry.before["name"], entry.after["name"]) == ("support-triage", "Triage")
    answer = client.post(url, {"name": "", "description": "typed", "tags": "t" * 41})
    assert answer.status_code == 422
    assert "typed" in answer.content.decode()


# Deleting


def test_a_prompt_a_batch_names_stays(prompt: Prompt, team: Team, user: User) -> None:
    data = DatasetVersion.objects.create(
        dataset=Dataset.objects.create(team=team, name="d"), number=1, kind="table"
    )
    batch = Batch.objects.create(
        team=team, name="nightly", version=data, prompt_version=prompt.versions.get()
    )
    url = reverse("prompt-delete", args=[prompt.pk])
    answer = signed_in(user).post(url, follow=True)
    assert "batch nightly (v1)" in answer.content.decode()
    batch.delete()
    signed_in(user).post(url)
    assert not Prompt.objects.exists()
    entry = AuditEntry.objects.get(action="delete prompt")
    assert (entry.name, entry.before["versions"]) == ("support-triage", 1)


def test_conversations_begun_with_a_deleted_prompt_stand_by_themselves(prompt: Prompt, user: User) -> None:
    chat = trying.begin(prompt.versions.get(), user, None, {"product": "ships"})
    prompts.delete(prompt, user)
    chat.refresh_from_db()
    assert (chat.prompt_version, chat.system_prompt) == (None, "You help with ships.")


# Who may


WRITES = ["prompt-restore", "prompt-change", "prompt-delete", "prompt-try", "prompt-save"]


@pytest.mark.parametrize("name", WRITES)
def test_a_viewer_writes_nothing_and_a_stranger_sees_nothing(
    prompt: Prompt, viewer: User, stranger: User, name: str
) -> None:
    url = reverse(name, args=[prompt.pk])
    assert signed_in(viewer).post(url, form(("user", "x"))).status_code == 403
    assert signed_in(stranger).post(url, form(("user", "x"))).status_code == 404
    assert Prompt.objects.get().head == 1
    assert Conversation.objects.count() == 0


@pytest.mark.parametrize("name", ["prompt", "prompt-diff", "prompt-export"])
def test_a_viewer_reads_and_a_stranger_does_not(
    prompt: Prompt, viewer: User, stranger: User, name: str
) -> None:
    url = reverse(name, args=[prompt.pk])
    assert signed_in(viewer).get(url).status_code == 200
    assert signed_in(stranger).get(url).status_code == 404


def test_verbs_ask_for_the_role_themselves(prompt: Prompt, team: Team, viewer: User) -> None:
    for act in (
        lambda: prompts.create(team, viewer, "x", system("x")),
        lambda: prompts.save(prompt, viewer, system("x"), base=1),
        lambda: prompts.change(prompt, viewer, name="x", description="", tags=[]),
        lambda: prompts.delete(prompt, viewer),
        lambda: trying.begin(prompt.versions.get(), viewer, None, {}),
    ):
        with pytest.raises(access.Refused):
            act()


# In the playground


@pytest.fixture
def deployment(team: Team, fake_engine: Callable[..., RunningFake]) -> Deployment:
    row = chats.deployment(team)
    chats.ready(row, fake_engine(key="k"))
    return row


def test_try_begins_a_conversation_that_opens_with_the_version(
    prompt: Prompt, member: User, deployment: Deployment
) -> None:
    url = reverse("prompt-try", args=[prompt.pk])
    client = signed_in(member)
    answer = client.post(url, {"number": 1, "value.product": "ships", "value.question": "How many?"})
    chat = Conversation.objects.get()
    assert answer["Location"] == reverse("conversation", args=[chat.pk])
    assert (chat.title, chat.created_by, chat.parameters["seed"]) == ("support-triage v1", member, 7)
    assert chat.columns.get().deployment == deployment
    assert opening.messages(chat) == [
        {"role": "system", "content": "You help with ships."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "What about ships?"},
    ]
    page = client.get(answer["Location"]).content.decode()
    assert "\nHow many?</textarea>" in page
    turn = generation.send(chat, "How many?", "c1", member)
    told = messages(turn.generations.get())
    assert [one["content"] for one in told][-2:] == ["What about ships?", "How many?"]


def test_a_wrong_value_begins_nothing_and_stays_typed(prompt: Prompt, member: User) -> None:
    what = Said([{"role": "user", "content": "{{n}}"}], [{"name": "n", "type": "number"}])
    prompts.save(prompt, member, what, base=1)
    answer = signed_in(member).post(reverse("prompt-try", args=[prompt.pk]), {"value.n": "many"})
    assert answer.status_code == 422
    assert "n must be a number" in answer.content.decode()
    assert 'value="many"' in answer.content.decode()
    assert not Conversation.objects.exists()


def test_a_missing_value_is_asked_for_before_anything_is_sent(
    prompt: Prompt, member: User, deployment: Deployment
) -> None:
    chat = trying.begin(prompt.versions.get(), member, deployment, {})
    with pytest.raises(generation.SendRefused, match="product is missing"):
        generation.send(chat, "x", "c1", member)
    trying.give(chat, {"product": "ships"}, member)
    assert generation.send(chat, "x", "c1", member)


def test_values_live_in_the_conversation(prompt: Prompt, member: User) -> None:
    chat = trying.begin(prompt.versions.get(), member, None, {"product": "ships"})
    trying.give(chat, {"product": "{{question}}"}, member)
    assert opening.messages(chat)[0]["content"] == "You help with {{question}}."
    with pytest.raises(PromptRefused):
        trying.give(chat, {"product": 5}, member)
    opening.leave(chat, member)
    assert opening.messages(chat) == [{"role": "system", "content": "You help with {{question}}."}]


def test_the_picker_sets_changes_and_leaves_a_prompt(
    prompt: Prompt, team: Team, member: User, viewer: User
) -> None:
    chat = chats.conversation(team, title="Ships", system_prompt="Mine.")
    url = reverse("conversation-prompt", args=[chat.pk])
    client = signed_in(member, **{"HX-Request": "true"})
    assert "support-triage" in client.get(url).content.decode()
    assert client.post(url, {"act": "use", "prompt": prompt.pk}).status_code == 200
    chat.refresh_from_db()
    assert (chat.prompt_version, chat.system_prompt) == (prompt.versions.get(), TRIAGE[0]["content"])
    page = client.post(url, {"act": "give", "value.product": "ships"}).content.decode()
    assert "ships" in page
    answer = client.post(url, {"act": "give", "value.nobody": "x"})
    assert answer.status_code == 200  # what no variable is called is no value
    chat.refresh_from_db()
    assert chat.prompt_values == {}
    client.post(url, {"act": "leave"})
    chat.refresh_from_db()
    assert chat.prompt_version is None
    assert signed_in(viewer).post(url, {"act": "leave"}).status_code == 403


def test_a_prompt_of_another_team_is_not_picked(
    prompt: Prompt, team: Team, user: User, stranger: User
) -> None:
    theirs = prompts.create(stranger.memberships.get().team, stranger, "secret", system("secret"))
    chat = chats.conversation(team)
    url = reverse("conversation-prompt", args=[chat.pk])
    client = signed_in(user, **{"HX-Request": "true"})
    assert client.post(url, {"act": "use", "prompt": theirs.pk}).status_code == 404
    assert "secret" not in client.get(url).content.decode()


def test_settings_keep_what_the_prompt_brought_beside_them(prompt: Prompt, member: User) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    prompts.save(prompt, member, Said(TRIAGE, [], {"tools": tools, "seed": 7}), base=1)
    chat = trying.begin(prompt.versions.get(number=2), member, None, {"product": "ships"})
    url = reverse("conversation-settings", args=[chat.pk])
    signed_in(member).post(url, {"system_prompt": "New {{product}}", "temperature": "1"})
    chat.refresh_from_db()
    assert chat.parameters == {"tools": tools, "temperature": 1.0}


def test_a_conversation_is_saved_back_and_saved_as_a_prompt(
    prompt: Prompt, team: Team, member: User, deployment: Deployment
) -> None:
    chat = trying.begin(prompt.versions.get(), member, deployment, {"product": "ships"})
    Conversation.objects.filter(pk=chat.pk).update(system_prompt="You {{tone}} help with {{product}}.")
    page = signed_in(member).get(save_url(prompt) + f"?conversation={chat.pk}")
    form = page.context["form"]
    assert [row.content for row in form.messages] == [
        "You {{tone}} help with {{product}}.",
        *(one["content"] for one in TRIAGE[1:]),
    ]
    assert {row.name for row in form.variables} == {"tone", "product", "question"}
    assert form.base == 1

    plain = chats.conversation(team, deployment, system_prompt="Brace {{yourself}}")
    generation.send(plain, "What is {{this}}?", "c1", member)
    page = signed_in(member).get(reverse("prompt-new") + f"?conversation={plain.pk}")
    texts = [row.content for row in page.context["form"].messages]
    assert texts == ["Brace \\{{yourself}}", "What is \\{{this}}?"]
    assert page.context["form"].variables == []


def test_what_a_conversation_opened_with_is_told_wherever_it_is_told(
    prompt: Prompt, member: User, deployment: Deployment
) -> None:
    chat = trying.begin(prompt.versions.get(), member, deployment, {"product": "ships"})
    turn = generation.send(chat, "How many?", "c1", member)
    before = votes.prompt_digest(turn)
    found = exports.document(chat, member, None)["conversation"]
    assert found["prompt"] == {"name": "support-triage", "version": 1, "values": {"product": "ships"}}
    assert found["opening"][0]["content"] == "You help with ships."
    text = export_texts.as_markdown(exports.document(chat, member, None))
    assert 'Prompt: support-triage v1: product "ships"' in text.replace("\\", "")
    trying.give(chat, {"product": "boats"}, member)
    turn.conversation.refresh_from_db()
    assert votes.prompt_digest(turn) != before
    client = signed_in(member)
    code = client.get(reverse("conversation-code", args=[chat.pk])).content.decode()
    assert "You help with boats." in code


# Over a table


@pytest.fixture
def table(team: Team, user: User, tmp_path: Path) -> DatasetVersion:
    file = tmp_path / "t.csv"
    file.write_text("product,question,n\nships,Why?,1\nboats,{{product}},x\n")
    template = [{"role": "user", "content": "{{question}}"}]
    return datasets.add_version(
        datasets.create(team, user, "tickets"), user, file, "t.csv", None, template, expected="n"
    )


def batch_form(table: DatasetVersion, prompt: Prompt, deployment: Deployment) -> dict[str, Any]:
    version = prompt.versions.get(number=prompt.head)
    return {"version": table.pk, "prompt": version.pk, "deployment": deployment.pk, "name": "nightly"}


def test_a_batch_asks_a_prompt_with_each_rows_cells(
    prompt: Prompt, member: User, table: DatasetVersion, deployment: Deployment
) -> None:
    client = signed_in(member)
    fields = batch_form(table, prompt, deployment)
    assert "You help with ships." in client.post(reverse("batch-estimate"), fields).content.decode()
    answer = client.post(reverse("batch-new"), fields)
    batch = Batch.objects.get()
    assert answer["Location"] == reverse("batch", args=[batch.pk])
    assert batch.prompt_version == prompt.versions.get()
    assert (batch.version.dataset, batch.version.source) == (table.dataset, "v1 with support-triage v1")
    bodies = [row.body for row in DatasetRow.objects.filter(version=batch.version).order_by("number")]
    assert [body["messages"][0]["content"] for body in bodies] == [
        "You help with ships.",
        "You help with boats.",
    ]
    assert bodies[1]["messages"][-1]["content"] == "{{product}}"  # a cell is text
    assert bodies[0]["temperature"] == 0.5
    assert DatasetRow.objects.filter(version=batch.version).values_list("expected", flat=True)[0] == "1"
    assert [use.title for use in prompts.uses(prompt, member)] == ["nightly"]
    client.post(reverse("batch-new"), fields)
    assert table.dataset.versions.count() == 2  # the same rows are filled in once
    assert "support-triage v1" in client.get(answer["Location"]).content.decode()


@pytest.mark.parametrize(
    ("text", "variable", "words"),
    [
        ("{{nothing}}", {}, "no column nothing"),
        ("{{n}}", {"name": "n", "type": "number"}, "Line 3: n must be a number"),
    ],
)
def test_a_table_that_cannot_fill_a_prompt_begins_nothing(
    prompt: Prompt,
    user: User,
    table: DatasetVersion,
    deployment: Deployment,
    text: str,
    variable: dict[str, Any],
    words: str,
) -> None:
    variables = [variable] if variable else []
    prompts.save(prompt, user, Said([{"role": "user", "content": text}], variables), base=1)
    answer = signed_in(user).post(reverse("batch-new"), batch_form(table, prompt, deployment))
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Batch.objects.exists()
    assert table.dataset.versions.count() == 1


def test_a_prompt_of_another_team_fills_no_rows(
    user: User, stranger: User, table: DatasetVersion, deployment: Deployment
) -> None:
    theirs = prompts.create(stranger.memberships.get(team__person=None).team, stranger, "x", system("secret"))
    answer = signed_in(user).post(reverse("batch-new"), batch_form(table, theirs, deployment))
    assert "no such prompt" in answer.content.decode()
    assert "secret" not in answer.content.decode()
    assert not Batch.objects.exists()


# Two changes to one text


def test_what_both_changed_stands_twice_between_marks() -> None:
    text, clashed = prompt_changes.merge_text("a b c", "a MINE c", "a THEIRS c", "v8")
    assert clashed
    assert text.index("MINE") < text.index("=======") < text.index("THEIRS")
    assert text.startswith("a ")
    assert text.endswith(" c")


def test_the_longest_texts_of_equal_lines_are_put_together_in_seconds() -> None:
    """Looking at every pair of equal lines would take hours, and hold up everybody else's pages meanwhile."""
    same = "yes\n" * 40_000
    text, clashed = prompt_changes.merge_text(f"{same}end", f"mine\n{same}end", f"{same}theirs\nend", "v8")
    assert clashed and "mine\n" in text and "theirs\n" in text
    began = f"{same}no\n"
    text, clashed = prompt_changes.merge_text(began, f"{began}mine\n", began.replace("no", "none"), "v8")
    assert clashed and "mine" in text and "none" in text


def test_a_long_text_changed_at_both_ends_is_put_together() -> None:
    lines = "".join(f"line {place}\n" for place in range(20_000))
    text, clashed = prompt_changes.merge_text(lines, f"{lines}mine", f"theirs\n{lines}", "v8")
    assert (text, clashed) == (f"theirs\n{lines}mine", False)


def test_messages_added_by_both_all_stay() -> None:
    base = system("a")
    mine = Said([*base.messages, {"role": "user", "content": "mine"}])
    theirs = Said([*base.messages, {"role": "user", "content": "theirs"}])
    merged = prompt_changes.merge(base, mine, theirs, "v8")
    assert [one["content"] for one in merged.said.messages] == ["a", "mine", "theirs"]
    assert len(merged.clashes) == 1


def test_parameters_changed_by_both_keep_mine_and_tell_theirs() -> None:
    base, mine, theirs = (Said([], [], {"seed": seed, "top_p": 1}) for seed in (1, 2, 3))
    merged = prompt_changes.merge(base, mine, theirs, "v8")
    assert merged.said.parameters == {"seed": 2, "top_p": 1}
    assert "v8 has 3" in merged.clashes[0]
