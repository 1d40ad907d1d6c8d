"""/v1/responses of engines that serve chats alone: what is sent, told, kept, and refused by its name."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from endpoints import as_chat, as_response, logged
from endpoints.models import Endpoint, LoggedRequest, Usage
from endpoints.protocol import Refusal
from endpoints.streams import Malformed
from playground import prompts
from playground.engines.base import Quirks
from playground.models import Deployment, Prompt, Team, User
from playground.reading import Problem, Row
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, deployment, endpoint, replica, running_site

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]
WORDS = " ".join(f"word{i}" for i in range(8))
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
DELTAS = ("response.output_text.delta", "response.reasoning_text.delta")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(params=["llama.cpp", "transformers"])
def site(request: pytest.FixtureRequest, served: Site, team: Team, fake_engine: Engines) -> Site:
    """`words`, of an engine without the route: its whole answers come as a stream, or as they are."""
    engine = fake_engine(key="k", tokens=8)
    behind = deployment(team, released=True)
    Deployment.objects.filter(pk=behind.pk).update(engine=request.param)
    endpoint(team, "words", behind, temperature=0.25, max_tokens=50)
    Endpoint.objects.update(log_share=1)
    replica(behind, engine)
    served.key(team)
    served.until(lambda: served.post("/v1/responses", json={"model": "words", "input": "x"}).is_success)
    served.engine = engine
    return served


@pytest.fixture
def house(site: Site, team: Team, user: User) -> Prompt:
    said = prompts.Said(
        [{"role": "developer", "content": "You help with {{product}}."}],
        [{"name": "product", "type": "text"}],
        {"temperature": 0.5},
    )
    prompt = prompts.create(team, user, "support-triage", said)
    wanted = {"model": "words", "prompt": {"id": "support-triage", "variables": {"product": "x"}}}
    site.until(lambda: site.post("/v1/responses", json=wanted).is_success)
    return prompt


def reached(site: Site) -> dict[str, Any]:
    assert site.engine is not None
    path, body = site.engine.asked()
    assert path == "/v1/chat/completions"
    return body


def types(events: list[Any]) -> list[str]:
    """The kinds of events, pieces of texts once for all that follow each other."""
    kinds = [event.type for event in events]
    return [kind for place, kind in enumerate(kinds) if kind not in DELTAS or kind != kinds[place - 1]]


def test_the_official_client_names_a_prompt(site: Site, house: Prompt) -> None:
    wanted: Any = {"id": "support-triage", "version": "1", "variables": {"product": "Slipway"}}
    answer = site.client().responses.create(model="words", prompt=wanted, input="hello", max_output_tokens=40)
    assert answer.output_text == WORDS and answer.status == "completed"
    assert answer.usage and answer.usage.output_tokens == 8
    assert answer.usage.total_tokens == answer.usage.input_tokens + 8
    body = reached(site)
    assert body["messages"] == [
        {"role": "system", "content": "You help with Slipway."},
        {"role": "user", "content": "hello"},
    ]
    assert (body["temperature"], body["max_tokens"]) == (0.5, 40)
    assert not body.keys() & {"prompt", "input", "store", "max_output_tokens"}


def test_it_streams_events_whose_last_holds_all_and_usage_and_log_have_it(site: Site, house: Prompt) -> None:
    Usage.objects.all().delete()
    wanted: Any = {"id": "support-triage", "variables": {"product": "Slipway"}}
    where = "[[usage_on_content]]" if Deployment.objects.get().engine == "transformers" else ""
    said = f"[[reason=3]] {where} hello"
    with site.client().responses.stream(model="words", prompt=wanted, input=said) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert types(events) == [
        "response.created",
        "response.in_progress",
        *("response.output_item.added", "response.content_part.added", "response.reasoning_text.delta"),
        *("response.reasoning_text.done", "response.content_part.done", "response.output_item.done"),
        *("response.output_item.added", "response.content_part.added", "response.output_text.delta"),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == WORDS and final.usage and final.usage.output_tokens == 11
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == WORDS
    site.until(lambda: LoggedRequest.objects.filter(usage__stream=True).exists())
    row = LoggedRequest.objects.select_related("usage").get(usage__stream=True)
    used = row.usage
    assert (used.route, used.status, used.completion_tokens) == ("/v1/responses", 200, 11)
    assert used.prompt_tokens and used.ttft_ms
    assert row.request["prompt"]["id"] == "support-triage"
    assert row.answer["id"] == final.id
    assert row.answer["output"][1]["content"][0]["text"] == WORDS


def test_a_response_by_the_engine_s_own_route_is_kept_and_counted_too(
    served: Site, team: Team, fake_engine: Engines
) -> None:
    behind = deployment(team, released=True)
    endpoint(team, "native", behind)
    Endpoint.objects.update(log_share=1)
    replica(behind, fake_engine(key="k", tokens=8))
    served.key(team)
    served.until(lambda: served.post("/v1/responses", json={"model": "native", "input": "x"}).is_success)
    events = list(served.client().responses.create(model="native", input="hello", stream=True))
    served.until(lambda: LoggedRequest.objects.filter(usage__stream=True).exists())
    row = LoggedRequest.objects.select_related("usage").get(usage__stream=True)
    assert (row.usage.route, row.usage.completion_tokens) == ("/v1/responses", 8)
    last: Any = events[-1]
    assert row.answer["id"] == last.response.id
    assert logged.said(row.answer).text == WORDS


@pytest.mark.parametrize("words", [{"input": "2 + 2?", "instructions": "Be brief."}, {"input": []}])
def test_a_kept_response_becomes_a_row_of_a_dataset_as_a_chat(words: dict[str, Any]) -> None:
    chat = {"model": "m", "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    answer = as_response.Told({}).whole(chat)
    used = Usage(request_id="one", route="/v1/responses", status=200)
    asked = {"model": "words", "temperature": 0.5, **words}
    (row,) = logged.rows([LoggedRequest(usage=used, request=asked, answer=answer)], answers=True)
    if not words["input"]:
        assert isinstance(row, Problem)
        return
    assert isinstance(row, Row)
    assert (row.url, row.expected, row.body["temperature"]) == ("/v1/chat/completions", "4", 0.5)
    assert [message["role"] for message in row.body["messages"]] == ["system", "user"]
    named = LoggedRequest(usage=used, request={**asked, "prompt": {"id": "house"}}, answer=answer)
    (problem,) = logged.rows([named], answers=True)
    assert isinstance(problem, Problem) and "prompt of the library" in str(problem)


def test_a_tool_is_called_and_its_result_goes_back(site: Site) -> None:
    ask: Any = {"model": "words", "tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}
    answer = site.client().responses.create(input="[[tool]] [[tokens=0]]", **ask)
    call = next(item for item in answer.output if item.type == "function_call")
    assert reached(site)["tools"][0]["function"]["name"] == "weather"
    assert reached(site)["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    streamed = list(site.client().responses.create(input="[[tool]] [[tokens=0]]", stream=True, **ask))
    last: Any = streamed[-1]
    again = next(item for item in last.response.output if item.type == "function_call")
    assert (again.name, again.arguments) == (call.name, call.arguments)
    said: Any = [
        {"role": "user", "content": "How is it?"},
        *(item.model_dump(exclude_none=True) for item in answer.output if item.type == "function_call"),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert site.client().responses.create(model="words", input=said).output_text == WORDS
    messages = reached(site)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id


def test_an_answer_that_was_cut_by_its_length_is_incomplete(site: Site) -> None:
    ask: Any = {"model": "words", "input": "go", "max_output_tokens": 4}
    answer = site.client().responses.create(**ask)
    assert answer.status == "incomplete" and answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    last: Any = list(site.client().responses.create(stream=True, **ask))[-1]
    assert last.type == "response.incomplete" and last.response.output[0].status == "incomplete"


def test_a_response_whose_engine_dies_ends_with_an_error(site: Site) -> None:
    with pytest.raises(openai.APIError, match="middle of its answer"):
        list(site.client().responses.create(model="words", input="[[delay=2]] [[cut=3]] go", stream=True))


def test_what_a_chat_cannot_say_is_refused_by_name_before_the_engine_hears_of_it(site: Site) -> None:
    assert site.engine is not None
    before = site.engine.metric("requests_total")
    refused = site.post("/v1/responses", json={"model": "words", "input": "x", "truncation": "auto"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "truncation")
    assert "chat completions" in refused.json()["error"]["message"]
    assert site.engine.metric("requests_total") == before


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f"}]}, "input[0].arguments"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_it_names_what_it_cannot_say(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        as_chat.body({"model": "m", "input": "x", **more})
    assert (refused.value.status, refused.value.param) == (400, param)


def test_every_kind_of_item_and_parameter_has_its_words_in_a_chat() -> None:
    schema = {"type": "json_schema", "name": "place", "schema": {"type": "object"}, "strict": True}
    body = as_chat.body(
        {
            "model": "m",
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": [{"type": "input_text", "text": "House."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                    ],
                },
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "one"},
            ],
            "text": {"format": schema},
            "reasoning": {"effort": "low"},
            "tools": [{"type": "function", "name": "f", "parameters": None}],
            "parallel_tool_calls": False,
            "top_k": 4,
            "store": True,
            "truncation": "disabled",
            "metadata": {"a": "b"},
        }
    )
    assert body["messages"][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "House."},
    ]
    assert body["messages"][2]["content"][1]["image_url"] == {
        "url": "data:image/png;base64,AA==",
        "detail": "auto",
    }
    assistant = body["messages"][3]
    assert (assistant["reasoning_content"], assistant["content"]) == ("Hm.", "A")
    assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["f", "g"]
    assert body["messages"][4] == {"role": "tool", "tool_call_id": "1", "content": "one"}
    assert body["response_format"]["json_schema"]["name"] == "place"
    assert (body["reasoning_effort"], body["top_k"]) == ("low", 4)
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert not body.keys() & {"store", "truncation", "metadata", "input", "instructions", "text"}


def test_calls_that_come_in_turns_stay_apart_and_rubbish_is_no_answer() -> None:
    events = as_response.Events(Quirks(), usage_asked=False, told=as_response.Told({}))
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "[1"}},
        {"index": 0, "function": {"arguments": "}"}},
        {"index": 1, "function": {"arguments": "]"}},
    ]
    for piece in pieces:
        chunk = {"model": "m", "choices": [{"delta": {"tool_calls": [piece]}}]}
        events.feed(b"data: " + as_response.json.dumps(chunk).encode() + b"\n\n")
    last = events.feed(b"data: [DONE]\n\n").decode()
    response = as_response.json.loads(last.rpartition("data: ")[2])["response"]
    assert [(one["name"], one["arguments"]) for one in response["output"]] == [("f", "{}"), ("g", "[1]")]
    assert events.complete and response["usage"] is None
    with pytest.raises(Malformed):
        as_response.Told({}).whole({"choices": []})
    for rubbish in (b"[1]", b'{"choices": [{"delta": [1]}]}', b'{"choices": [{"delta": {"content": 5}}]}'):
        with pytest.raises(Malformed):
            as_response.Events(Quirks(), usage_asked=False).feed(b"data: " + rubbish + b"\n\n")


def test_a_character_that_comes_in_halves_is_whole_in_the_end() -> None:
    events = as_response.Events(Quirks(), usage_asked=False, told=as_response.Told({}))
    for half in ("\\ud83d", "\\ude00"):
        events.feed(f'data: {{"choices": [{{"delta": {{"content": "{half}"}}}}]}}\n\n'.encode())
    last = events.feed(b"data: [DONE]\n\n").decode()
    response = as_response.json.loads(last.rpartition("data: ")[2])["response"]
    assert response["output"][0]["content"][0]["text"] == "\U0001f600"
