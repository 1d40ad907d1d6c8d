"""What people type keeps the order of its keys on its way to an engine, into files and back."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError
from django.db import DataError, transaction
from django.db.models import JSONField
from django.db.models.functions import Cast
from django.test import Client
from django.urls import reverse

from endpoints import usage_store
from endpoints.models import LoggedRequest
from playground import (
    asking,
    batch_asking,
    batch_claims,
    batches,
    dataset_rows,
    datasets,
    engine_client,
    prompt_changes,
    prompt_files,
    prompts,
    trying,
)
from playground.answers import Answer
from playground.models import Conversation, Prompt, PromptVersion, Team, User
from playground.prompts import PromptRefused, Said
from playground.replay import Feed
from tests import chats, usage_rows
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db
Engines = Callable[..., RunningFake]

# `jsonb` would put id before age before name.
PROPERTIES = {name: {"type": "string"} for name in ("name", "age", "id")}
OTHERS = {name: PROPERTIES[name] for name in ("id", "age", "name")}
HELLO = [{"role": "user", "content": "Describe {{who}}."}]


def wanted(properties: dict[str, Any] = PROPERTIES) -> dict[str, Any]:
    """A response format and a tool with these properties."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": "look_up", "parameters": schema}
    return {
        "temperature": 0.5,
        "max_tokens": 4,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        "tools": [{"type": "function", "function": function}],
    }


def typed(value: Any) -> str:
    return json.dumps(value, indent=1)


@pytest.fixture
def member(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


@pytest.fixture
def prompt(team: Team, user: User) -> Prompt:
    return prompts.create(team, user, "people", Said(HELLO, [], wanted()))


async def once[T](asked: Awaitable[T]) -> T:
    """What comes of it; then its connections are closed, with the loop they are of."""
    try:
        return await asked
    finally:
        await engine_client.close()


def same_text(a: Any, b: Any) -> bool:
    return json.dumps(a) == json.dumps(b)


def test_a_schema_typed_on_a_page_comes_to_the_engine_so(
    member: Client, team: Team, user: User, fake_engine: Engines
) -> None:
    said = wanted()
    fields = {"base": 0, "name": "people", "role": ["user"], "content": ["Hello"], "more": [""]}
    written = {name: typed(said[name]) for name in ("response_format", "tools")}
    assert member.post(reverse("prompt-new"), fields | written | {"max_tokens": "4"}).status_code == 302
    version = PromptVersion.objects.get(prompt__team=team)
    fake = fake_engine(key="k")
    row = chats.deployment(team)
    conversation = trying.begin(version, user, row, {})
    column = Conversation.objects.get(pk=conversation.pk).columns.get()
    question = asking.question(column, chats.ready(row, fake), asking.prompt_of(column, "Hello"))
    taken = async_to_sync(once)(asking.ask(question))
    assert taken.error == "" and taken.text.startswith("word0")
    _, body = fake.asked()
    assert same_text([body["response_format"], body["tools"]], [said["response_format"], said["tools"]])


def test_a_dataset_s_line_comes_to_the_engine_and_out_again_so(
    team: Team, user: User, tmp_path: Path, fake_engine: Engines
) -> None:
    body = {"messages": [{"content": "Hello", "role": "user"}]} | wanted()
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(line) + "\n")
    version = datasets.add_version(datasets.create(team, user, "People"), user, path, "in.jsonl")
    fake, deployment = fake_engine(key="k"), chats.deployment(team, desired="running")
    chats.ready(deployment, fake)
    batch = batches.begin(team, user, "", version, [{"deployment": deployment}], {"seed": 1})
    column = batch.columns.get()
    (row,) = batch_claims.claim(column.pk, "me", 1)
    standing = batch_asking.standing(column.pk)
    answer = Answer(Feed(0), lambda _: None)
    assert async_to_sync(once)(batch_asking.ask(row, standing, standing.places[0], answer)).ok
    _, came = fake.asked()
    assert same_text({name: came[name] for name in body}, body)
    assert dataset_rows.openai_line(version.rows.get()) == path.read_text()


def test_a_logged_request_stands_as_it_came(team: Team) -> None:
    record = usage_rows.request(team, 1)
    assert usage_store.keep([record | {"request": wanted(), "answer": wanted(OTHERS), "cut": False}]) == 1
    logged = LoggedRequest.objects.get()
    assert same_text([logged.request, logged.answer], [wanted(), wanted(OTHERS)])


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_an_export_has_the_order_of_the_import(prompt: Prompt, team: Team, user: User, kind: str) -> None:
    text = prompt_files.write(prompt_files.document(prompt, [prompt.versions.get()], every=False), kind)
    told = prompt_files.read(text.encode(), f"a.{kind}")
    assert same_text(told["parameters"], wanted())
    assert prompt_files.keep(team, user, told).what == "same"
    assert prompt_files.keep(team, user, told | {"name": "again"}).what == "made"
    again = Prompt.objects.get(name="again")
    document = prompt_files.document(again, [again.versions.get()], every=False)
    assert prompt_files.write(document | {"name": "people"}, kind) == text


def test_another_order_in_a_schema_is_another_version(prompt: Prompt, user: User) -> None:
    with pytest.raises(PromptRefused, match="Nothing has changed"):
        turned = dict(reversed(wanted().items()))
        prompts.save(prompt, user, Said(HELLO, [], turned), base=1)
    first = prompts.said(prompt.versions.get())
    second = prompts.save(prompt, user, Said(HELLO, [], wanted(OTHERS)), base=1)
    assert not prompt_changes.identical(prompt_changes.compare(first, prompts.said(second)))
    assert list(second.parameters) == list(wanted())
    kept = prompts.restore(prompt, user, 1, base=2)
    kept.refresh_from_db()
    assert same_text(kept.parameters, wanted())
    merged = prompt_changes.merge(first, prompts.said(second), first, "v1")
    assert not merged.clashes and same_text(merged.said.parameters, wanted(OTHERS))


def test_a_search_finds_letters_and_no_value_is_looked_for(prompt: Prompt, user: User) -> None:
    said = Said([{"role": "user", "content": "Grüße"}], [], {"seed": 1})
    made = prompts.save(prompt, user, said, base=1)
    rows = PromptVersion.objects.all()
    assert rows.filter(messages__icontains="grüße").get() == made
    with pytest.raises(FieldError, match="Unsupported lookup"):
        rows.filter(parameters={"seed": 1})
    asked = rows.alias(own=Cast("parameters", JSONField())).filter(own={"seed": 1}, own__has_key="seed")
    assert asked.get() == made


@pytest.mark.parametrize("text", ["a\0b", "\\\0", "\ud83d"])
def test_what_no_column_can_look_into_is_refused(team: Team, text: str) -> None:
    with pytest.raises(DataError, match="cannot be kept"), transaction.atomic():
        Conversation.objects.create(team=team, parameters={"stop": [text]})
    row = Conversation.objects.create(team=team, parameters={"stop": ["\\u0000"]})
    row.refresh_from_db()
    assert row.parameters == {"stop": ["\\u0000"]}
