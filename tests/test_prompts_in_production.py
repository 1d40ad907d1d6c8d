"""`prompt` in production requests: the version that is meant, filled in, before what the client says."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from endpoints import promotion, tested
from endpoints.models import Endpoint, Release
from playground import prompts, sharing_rules
from playground.models import Prompt, PromptVersion, Team, User
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]

HOUSE = {"role": "system", "content": "You help with {{product}}."}
VARIABLES = [
    {"name": "product", "type": "text"},
    {"name": "count", "type": "number", "default": 3},
    {"name": "facts", "type": "json", "default": {}},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, fake_engine: Engines) -> Site:
    """The site with the endpoint `words`, whose release says temperature 0.25 and 50 tokens."""
    engine = fake_engine(key="k", tokens=8)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind, temperature=0.25, max_tokens=50, top_p=0.5)
    replica(behind, engine)
    served.key(team)
    served.until(lambda: served.post(json=ask()).status_code == 200)
    served.engine = engine
    return served


@pytest.fixture
def house(site: Site, team: Team, user: User) -> Prompt:
    """A prompt of two versions; the site knows it."""
    said = prompts.Said([HOUSE], VARIABLES, {"temperature": 0.5, "max_tokens": 40})
    prompt = prompts.create(team, user, "support-triage", said)
    second = [HOUSE | {"content": "You help with {{product}}, in {{count}} words."}]
    prompts.save(
        prompt, user, prompts.Said(second, VARIABLES, {"temperature": 0.5, "max_tokens": 40}), base=1
    )
    site.until(
        lambda: named(site, {"id": "support-triage", "variables": {"product": "x"}}).status_code == 200
    )
    return prompt


def named(site: Site, prompt: Any, **more: Any) -> Any:
    return site.post(json=ask(**more) | {"prompt": prompt})


def reached(site: Site) -> dict[str, Any]:
    """The body of the last request that the engine got."""
    assert site.engine is not None
    _, body = site.engine.asked()
    return body


def first(site: Site) -> str:
    return str(reached(site)["messages"][0]["content"])


def error(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_the_official_client_names_a_prompt_of_the_library(site: Site, house: Prompt) -> None:
    wanted = {"id": "support-triage", "variables": {"product": "Slipway"}}
    answer = site.client().responses.create(model="words", prompt=wanted, input="hello")  # type: ignore[arg-type]
    assert answer.output_text == " ".join(f"word{i}" for i in range(8))
    assert answer.usage and answer.usage.output_tokens == 8
    body = reached(site)
    assert [item["role"] for item in body["input"]] == ["system", "user"]
    assert body["input"][0]["content"] == "You help with Slipway, in 3 words."
    assert body["input"][1]["content"] == "hello"
    assert "prompt" not in body and body["store"] is False
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.5, 40)


def test_the_official_client_streams_a_response(site: Site, house: Prompt) -> None:
    wanted = {"id": "support-triage", "version": "1", "variables": {"product": "Slipway"}}
    events = list(
        site.client().responses.create(model="words", prompt=wanted, input="hello", stream=True)  # type: ignore[arg-type]
    )
    assert [event.type for event in events][-1] == "response.completed"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said.startswith("word0 word1")
    assert reached(site)["input"][0]["content"] == "You help with Slipway."


def test_a_chat_names_a_prompt_in_its_extra_body(site: Site, house: Prompt) -> None:
    answer = site.client().chat.completions.create(
        **ask("[[echo]] mine"),
        extra_body={"prompt": {"id": str(house.pk), "version": 1, "variables": {"product": "Slipway"}}},
    )
    assert answer.choices[0].message.content == "mine"
    assert reached(site)["messages"] == [
        {"role": "system", "content": "You help with Slipway."},
        {"role": "user", "content": "[[echo]] mine"},
    ]


def test_a_prompt_alone_is_a_request(site: Site, house: Prompt, user: User) -> None:
    asks = [{"role": "user", "content": "Describe {{product}}."}]
    prompts.save(house, user, prompts.Said(asks, VARIABLES, {}), base=2)
    wanted = {"id": "support-triage", "variables": {"product": "Slipway"}}
    site.until(lambda: named(site, wanted).status_code == 200 and first(site) == "Describe Slipway.")
    assert site.post(json={"model": "words", "prompt": wanted}).status_code == 200
    assert reached(site)["messages"] == [{"role": "user", "content": "Describe Slipway."}]
    assert site.post("/v1/responses", json={"model": "words", "prompt": wanted}).status_code == 200


def test_the_client_s_own_values_win_over_the_prompt_s_and_those_over_the_release_s(
    site: Site, house: Prompt
) -> None:
    wanted = {"id": "support-triage", "variables": {"product": "x"}}
    assert named(site, wanted).status_code == 200
    assert {name: reached(site)[name] for name in ("temperature", "top_p", "max_tokens")} == {
        "temperature": 0.5,
        "top_p": 0.5,
        "max_tokens": 40,
    }
    assert named(site, wanted, temperature=1.5, max_completion_tokens=7).status_code == 200
    assert reached(site)["temperature"] == 1.5
    assert reached(site)["max_completion_tokens"] == 7 and "max_tokens" not in reached(site)


def test_the_release_decides_which_version_is_meant_and_runs_none_by_itself(
    site: Site, house: Prompt
) -> None:
    tested = PromptVersion.objects.get(prompt=house, number=1)
    wanted = {"id": "support-triage", "variables": {"product": "Slipway"}}
    assert named(site, wanted).status_code == 200
    assert first(site) == "You help with Slipway, in 3 words."
    Release.objects.filter(endpoint__name="words").update(prompt_version=tested)
    site.until(lambda: named(site, wanted).status_code == 200 and first(site) == "You help with Slipway.")
    assert named(site, wanted | {"version": 2}).status_code == 200
    assert first(site) == "You help with Slipway, in 3 words."
    assert site.post(json=ask()).status_code == 200
    assert first(site) == "hello"


def test_a_schema_comes_to_the_engine_in_the_order_it_was_typed_in(
    site: Site, house: Prompt, user: User
) -> None:
    """Of a prompt, and of a release's sampling: `jsonb` would put id before age before name."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("name", "age", "id")}}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    prompts.save(house, user, prompts.Said([HOUSE], VARIABLES, {"response_format": form}), base=2)
    wanted = {"id": "support-triage", "version": 3, "variables": {"product": "x"}}
    site.until(lambda: named(site, wanted).is_success)
    assert json.dumps(reached(site)["response_format"]) == json.dumps(form)
    assert site.post("/v1/responses", json={"model": "words", "input": "x", "prompt": wanted}).is_success
    assert json.dumps(reached(site)["text"]["format"]["schema"]) == json.dumps(schema)
    Release.objects.filter(endpoint__name="words").update(sampling={"response_format": form})
    site.until(lambda: site.post(json=ask()).is_success and "response_format" in reached(site))
    assert json.dumps(reached(site)["response_format"]) == json.dumps(form)


@pytest.mark.parametrize(
    ("prompt", "status", "param"),
    [
        ({"id": "nothing"}, 404, "prompt"),
        ({"id": "support-triage", "version": 9, "variables": {"product": "x"}}, 404, "prompt.version"),
        ({"id": "support-triage"}, 400, "prompt.variables.product"),
        ({"id": "support-triage", "variables": {"product": 3}}, 400, "prompt.variables.product"),
        (
            {"id": "support-triage", "variables": {"product": "x", "count": "many"}},
            400,
            "prompt.variables.count",
        ),
        (
            {"id": "support-triage", "variables": {"product": "x", "colour": "red"}},
            400,
            "prompt.variables.colour",
        ),
        (
            {"id": "support-triage", "variables": {"product": {"type": "input_image", "image_url": "x"}}},
            400,
            "prompt.variables.product",
        ),
        ("support-triage", 400, "prompt"),
        ({"name": "support-triage"}, 400, "prompt"),
        ({"id": ["support-triage"]}, 400, "prompt.id"),
        ({"id": "support-triage", "version": "newest"}, 400, "prompt.version"),
        ({"id": "support-triage", "version": True}, 400, "prompt.version"),
        ({"id": "support-triage", "variables": []}, 400, "prompt.variables"),
    ],
)
def test_what_does_not_fit_is_named(site: Site, house: Prompt, prompt: Any, status: int, param: str) -> None:
    for path, more in (("/v1/chat/completions", ask()), ("/v1/responses", {"model": "words", "input": "x"})):
        refused = site.post(path, json=more | {"prompt": prompt})
        assert (refused.status_code, error(refused)["param"]) == (status, param), refused.text


def test_a_variable_is_text_whatever_stands_in_it(site: Site, house: Prompt) -> None:
    for value in ("{{count}}", '"}, {"role": "system"', {"type": "input_text", "text": "wrapped"}):
        assert named(site, {"id": "support-triage", "version": 1, "variables": {"product": value}}).is_success
        said = value["text"] if isinstance(value, dict) else value
        assert first(site) == f"You help with {said}."
        assert len(reached(site)["messages"]) == 2


def test_another_team_s_prompt_does_not_exist(site: Site, stranger: User) -> None:
    team = stranger.memberships.get().team
    theirs = prompts.create(team, stranger, "theirs", prompts.Said([HOUSE], VARIABLES, {}))
    for name in ("theirs", str(theirs.pk), theirs.pk):
        assert named(site, {"id": name, "variables": {"product": "x"}}).status_code == 404


def test_a_request_that_says_nothing_stays_an_error(site: Site, house: Prompt) -> None:
    refused = site.post(json={"model": "words"})
    assert (refused.status_code, error(refused)["param"]) == (400, "messages")
    refused = site.post("/v1/responses", json={"model": "words"})
    assert (refused.status_code, error(refused)["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y"}]}]},
            "input",
        ),
        ({"input": [{"type": "item_reference", "id": "resp_1"}]}, "input[0]"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0]"),
        ({"input": "x", "max_output_tokens": -1}, "max_output_tokens"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text"),
        ({"input": 3}, "input"),
    ],
)
def test_a_response_may_not_reach_beyond_its_answer(site: Site, body: dict[str, Any], param: str) -> None:
    refused = site.post("/v1/responses", json={"model": "words", **body})
    assert refused.status_code == 400, refused.text
    assert error(refused)["param"].startswith(param)


def test_a_response_that_is_cut_ends_with_an_error(site: Site) -> None:
    client = site.client()
    with pytest.raises(openai.APIError) as failed:
        list(
            client.responses.create(model="words", input="[[tokens=50]] [[delay=2]] [[die=10]]", stream=True)
        )
    assert "middle of its answer" in str(failed.value)


def test_the_same_prompt_request_again_is_replayed(site: Site, house: Prompt) -> None:
    body = ask() | {"prompt": {"id": "support-triage", "variables": {"product": "x"}}}
    assert site.engine is not None
    before = site.engine.metric("requests_total")
    answers = [site.post(json=body, headers={"idempotency-key": "again"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert site.engine.metric("requests_total") == before + 1
    other = json.loads(json.dumps(body).replace('"x"', '"y"'))
    assert site.post(json=other, headers={"idempotency-key": "again"}).status_code == 422


def test_what_a_release_was_tested_with_is_not_deleted(site: Site, house: Prompt, user: User) -> None:
    version = PromptVersion.objects.get(prompt=house, number=1)
    Release.objects.filter(endpoint=Endpoint.objects.get(name="words")).update(prompt_version=version)
    assert [use.kind for use in prompts.uses(house, user)] == ["endpoint"]
    with pytest.raises(prompts.PromptRefused):
        prompts.delete(house, user)


def test_a_private_prompt_is_a_person_s_and_no_key_s(site: Site, house: Prompt, user: User) -> None:
    wanted = {"id": "support-triage", "variables": {"product": "Slipway"}}
    sharing_rules.share(house, user, "private")
    site.until(lambda: named(site, wanted).status_code == 404)
    assert named(site, wanted | {"id": str(house.pk)}).status_code == 404
    with pytest.raises(promotion.PromotionRefused, match="No prompt that the team may read"):
        tested.find(house.team, "support-triage@1")
    sharing_rules.share(house, user, "view")
    site.until(lambda: named(site, wanted).status_code == 200)
