"""Conversations as files: what is in them, what is not, and what a spreadsheet or a reader makes of them."""

import csv
import io
import json
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from playground import catalogue, export_texts
from playground.models import (
    Configuration,
    Conversation,
    EngineEnvironment,
    Generation,
    Image,
    Membership,
    Replica,
    Team,
    Turn,
    User,
    Vote,
)
from tests import chats
from tests.fakes import RunningFake

SECRET = "engine-key-that-nobody-may-see"


@pytest.fixture
def configuration(team: Team) -> Configuration:
    model = catalogue.demo(team)
    environment = EngineEnvironment.objects.create(
        engine="llama.cpp", version="2026.10", digest="e" * 64, packages="", python="3.13"
    )
    return Configuration.objects.create(
        digest="7be1" * 16,
        canonical="{}",
        model=model,
        format=model.formats.get(kind="gguf"),
        format_digest="f" * 64,
        environment=environment,
        engine="llama.cpp",
        adapters=[{"name": "polite", "digest": "a" * 64}],
    )


@pytest.fixture
def chat(team: Team, user: User, configuration: Configuration) -> Conversation:
    """Two columns, one of which speaks to what runs."""
    first = chats.deployment(team, "first", configuration=configuration)
    chats.ready(first, RunningFake("http://127.0.0.1:9", 9, SECRET, None))  # type: ignore[arg-type]
    Replica.objects.update(relay_key=SECRET + "-relay")
    row = chats.conversation(team, first, chats.deployment(team, "second"), created_by=user)
    Conversation.objects.filter(pk=row.pk).update(title="Capital cities: Île-de-France")
    row.refresh_from_db()
    return row


def said(chat: Conversation, text: str = "hello", parent: Turn | None = None, **more: Any) -> Turn:
    """A message with a complete answer a column."""
    turn = chat.turns.create(text=text, client_id=f"c{chat.turns.count()}", parent=parent, **more)
    for column in chat.columns.select_related("deployment"):
        assert column.deployment
        Generation.objects.create(
            turn=turn,
            column=column,
            previous=parent.generations.filter(column=column).last() if parent else None,
            state="complete",
            text=f"answer of {column.deployment.name} to {text}",
            finish_reason="stop",
            configuration=column.deployment.configuration,
            replica=column.deployment.replicas.first(),
            request={"model": "fake", "messages": [{"role": "user", "content": text}], "temperature": 0.5},
            usage={"prompt_tokens": 7, "completion_tokens": 11},
            timings={"ttft": 40.0, "e2e": 140.0, "chunks": 11},
        )
    return turn


def page(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def export(person: User, chat: Conversation, kind: str = "json", **query: Any):
    return page(person).get(reverse("conversation-export", args=[chat.pk]), {"format": kind, **query})


def exported(person: User, chat: Conversation, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(export(person, chat, **query).content)
    return found


def lines(person: User, chat: Conversation, **query: Any) -> list[dict[str, str]]:
    text = export(person, chat, "csv", **query).content.decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


# JSON


def test_the_document_says_who_answered_what_and_how_fast(chat: Conversation, user: User) -> None:
    turn = said(chat)
    found = exported(user, chat)
    assert found["slipway_export"] == 1
    assert found["conversation"]["title"] == chat.title
    assert [column["deployment"] for column in found["columns"]] == ["first", "second"]
    answer = found["turns"][0]["answers"][0]
    assert answer["id"] == turn.generations.first().pk  # type: ignore[union-attr]
    assert (answer["column"], answer["engine"], answer["version"]) == (1, "llama.cpp", "2026.10")
    assert (answer["configuration"], answer["finish_reason"]) == ("7be1" * 16, "stop")
    assert (answer["parameters"], answer["usage"]["prompt_tokens"]) == ({"temperature": 0.5}, 7)
    assert answer["request"]["messages"] == [{"role": "user", "content": "hello"}]
    figures = answer["figures"]
    assert (figures["engine_ttft_ms"], figures["e2e_ms"], figures["n"]) == (40.0, 140.0, 11)
    assert figures["tpot_ms"] == pytest.approx(10.0)
    assert figures["cached_tokens"] is None


def test_an_answer_is_of_whom_gave_it_not_of_whom_the_column_asks_now(chat: Conversation, user: User) -> None:
    turn = said(chat)
    chat.columns.filter(position=0).update(deployment=chat.columns.all()[1].deployment)
    lora = {"lora": [{"id": 0, "scale": 1.0}]}
    turn.generations.filter(column__position=0).update(request=lora)
    answer = exported(user, chat)["turns"][0]["answers"][0]
    assert (answer["deployment"], answer["adapter"]) == ("first", "polite")


@pytest.mark.parametrize("kind", ["json", "csv", "md"])
def test_no_key_is_in_any_file(chat: Conversation, user: User, kind: str) -> None:
    said(chat)
    text = export(user, chat, kind, all=1).content.decode()
    assert "answer of first to hello" in text
    assert SECRET not in text
    assert "csrf" not in text.lower()


def test_the_branch_shown_or_every_one(chat: Conversation, user: User) -> None:
    first = said(chat, "first")
    one = said(chat, "one", first)
    other = said(chat, "other", first)
    Generation.objects.create(turn=other, column=chat.columns.all()[0], state="stopped", text="again")
    assert [turn["text"] for turn in exported(user, chat)["turns"]] == ["first", "other"]
    shown = exported(user, chat, turn=one.pk)
    assert [turn["text"] for turn in shown["turns"]] == ["first", "one"]
    every = exported(user, chat, all=1)
    assert [(turn["text"], turn["after"]) for turn in every["turns"]] == [
        ("first", None),
        ("one", first.pk),
        ("other", first.pk),
    ]
    assert [answer["state"] for answer in every["turns"][2]["answers"]] == ["complete", "stopped", "complete"]
    assert (shown["whole"], every["whole"]) == (False, True)


def test_pictures_are_named_without_their_bytes(chat: Conversation, user: User) -> None:
    row = Image.objects.create(conversation=chat, kind="png", width=3, height=2, size_bytes=4, data=b"data")
    said(chat, "look", inputs={"images": [row.pk]})
    assert exported(user, chat)["turns"][0]["pictures"] == [
        {"id": row.pk, "kind": "png", "width": 3, "height": 2}
    ]
    assert "With 1 picture." in export(user, chat, "md").content.decode()


# CSV


def test_csv_has_a_line_an_answer_with_its_figures(chat: Conversation, user: User) -> None:
    said(chat, 'with\na line, and a " quote')
    found = lines(user, chat)
    assert [(line["column"], line["model"]) for line in found] == [
        ("1", "SmolLM2-135M-Instruct"),
        ("2", ""),
    ]
    assert found[0]["message"] == 'with\na line, and a " quote'
    assert (found[0]["engine_ttft_ms"], found[0]["n"], found[0]["cached_tokens"]) == ("40.0", "11", "n/a")


def test_csv_keeps_a_message_that_nobody_answered(chat: Conversation, user: User) -> None:
    chat.turns.create(text="alone", client_id="x")
    assert [(line["message"], line["text"]) for line in lines(user, chat)] == [("alone", "")]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_as_a_formula(chat: Conversation, user: User, start: str) -> None:
    turn = said(chat, f"{start}HYPERLINK(1)")
    turn.generations.update(text=f"{start}cmd|' /C calc'!A0", error=f"{start}1")
    for line in lines(user, chat):
        for name in ("message", "text", "error"):
            assert line[name].startswith(f"'{start}"), name


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_whatever_the_text_a_cell_holds_it_and_runs_nothing(text: str) -> None:
    found = export_texts.cell(text)
    assert not found.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert found.removeprefix("'") == text.removeprefix("'")


# Markdown


@given(st.text(st.sampled_from("`~ \nab"), max_size=60))
def test_no_answer_ends_its_fence(text: str) -> None:
    block = export_texts.fenced(text).split("\n")
    fence = block[0]
    assert block[-1] == fence
    assert re.fullmatch("`{3,}", fence)
    assert not any(re.match(rf" {{0,3}}`{{{len(fence)},}} *$", line) for line in block[1:-1])


def test_markdown_reads_well_and_hostile_names_stay_words(chat: Conversation, user: User) -> None:
    Conversation.objects.filter(pk=chat.pk).update(
        title="# <script>x</script> [a](javascript:b)", system_prompt="Be brief."
    )
    turn = said(chat)
    turn.generations.filter(column__position=1).update(state="failed", error="out of *memory*")
    text = export(user, chat, "md").content.decode()
    assert text.startswith("# \\# \\<script\\>x\\</script\\> \\[a\\](javascript:b)\n")
    assert "```\nBe brief.\n```" in text
    assert "### Column 1: SmolLM2-135M-Instruct · llama.cpp 2026.10" in text
    assert "```\nanswer of first to hello\n```" in text
    assert "engine TTFT 40 ms, ≈ 100 tok/s" in text or "engine TTFT 40 ms, 100 tok/s" in text
    assert "failed: out of \\*memory\\*" in text


# Who, and how


def test_files_have_names_that_every_system_takes(chat: Conversation, user: User) -> None:
    said(chat)
    for kind, media in (("json", "application/json"), ("csv", "text/csv"), ("md", "text/markdown")):
        answer = export(user, chat, kind)
        wanted = f'attachment; filename="capital-cities-ile-de-france-{chat.pk}.{kind}"'
        assert answer.headers["Content-Disposition"] == wanted
        assert answer.headers["Content-Type"] == f"{media}; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in answer.headers["Cache-Control"]
    Conversation.objects.filter(pk=chat.pk).update(title='"; rm -rf / \r\nX: 1 日本')
    assert "\n" not in export(user, chat).headers["Content-Disposition"]
    Conversation.objects.filter(pk=chat.pk).update(title="日本")
    assert f'"conversation-{chat.pk}.json"' in export(user, chat).headers["Content-Disposition"]


def test_a_blind_message_is_in_no_file_of_who_did_not_vote(
    chat: Conversation, team: Team, user: User
) -> None:
    other = User.objects.create_user(username="bob")
    Membership.objects.create(user=other, team=team)
    said(chat, "seen")
    Conversation.objects.filter(pk=chat.pk).update(blind=True)
    turn = said(chat, "blind", inputs={"blind": True})
    Vote.objects.create(team=team, turn=turn, user=user, verdict="tie", prompt_digest="x")
    assert export(user, chat).status_code == 200
    refused = export(other, chat)
    assert refused.status_code == 409
    assert "Vote first, or turn blind off" in refused.content.decode()
    assert "7be1" not in refused.content.decode()
    Conversation.objects.filter(pk=chat.pk).update(blind=False)
    assert export(other, chat).status_code == 200


def test_a_viewer_exports_and_a_stranger_finds_nothing(
    chat: Conversation, team: Team, stranger: User
) -> None:
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    said(chat)
    assert export(viewer, chat).status_code == 200
    assert export(stranger, chat).status_code == 404
    address = reverse("conversation-export", args=[chat.pk])
    assert Client().get(address).status_code == 302


def test_a_format_that_is_none_is_not_there(chat: Conversation, user: User) -> None:
    assert export(user, chat, "exe").status_code == 404
    assert page(user).post(reverse("conversation-export", args=[chat.pk])).status_code == 405


def test_an_empty_conversation_is_an_empty_file(chat: Conversation, user: User) -> None:
    assert exported(user, chat)["turns"] == []
    assert lines(user, chat) == []
