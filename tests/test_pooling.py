"""/v1/embeddings, rerank, score and classify: what a client gets, what is refused, what goes wrong."""

import base64
import json
import math
import threading
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from django.core.management import call_command
from hypothesis import given
from hypothesis import strategies as st

from endpoints import protocol
from playground import engines, pooling, schemas
from playground.models import Replica, Team
from tests.fakes import RunningFake, running_fake
from tests.gateway_site import Site, deployment, endpoint, replica, running_site

TASKS = {"chat": "words", "embedding": "vectors", "rerank": "ranks", "classification": "labels"}
ROUTES = {
    "/v1/embeddings": {"model": "vectors", "input": ["the cat sat", "bananas"]},
    "/v1/rerank": {"model": "ranks", "query": "cat", "documents": ["bananas", "the cat sat"]},
    "/v1/score": {"model": "ranks", "text_1": "cat", "text_2": ["the cat sat"]},
    "/v1/classify": {"model": "labels", "input": "what a match"},
}


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Site]:
    """An endpoint for each task, all answered by one fake engine."""
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        call_command("migrate", verbosity=0)  # No test here asks for a database of its own.
        stack.callback(call_command, "flush", verbosity=0, interactive=False)
        served = stack.enter_context(running_site(tmp_path_factory.mktemp("pooling")))
        served.engine = stack.enter_context(running_fake(key="engine-secret", tokens=3))
        team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        for task, name in TASKS.items():
            of_task(team, task, name, served.engine)
        served.key(team)
        served.until(lambda: all(served.get(f"/v1/models/{name}").is_success for name in TASKS.values()))
        yield served


def of_task(team: Team, task: str, name: str, engine: RunningFake | None) -> Replica | None:
    """An endpoint `name` in front of a model for that task."""
    behind = deployment(team, released=True, name=name, task=task)
    endpoint(team, name, behind, temperature=0.5)
    return replica(behind, engine) if engine else None


def last(site: Site) -> dict[str, Any]:
    """What reached the engine last."""
    assert site.engine is not None
    seen = httpx.get(f"{site.engine.base_url}/fake/requests", timeout=5).json()
    posted: dict[str, Any] = [one for one in seen if one["method"] == "POST"][-1]
    return posted


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# What a client gets


def test_the_client_embeds_as_floats_and_as_base64_and_they_are_the_same(site: Site) -> None:
    """Left alone it asks for base64 and unpacks it, which its own strict mode does not know."""
    texts = ["the cat sat", "bananas are yellow", "the cat sat"]
    lenient = site.client().with_options(_extra_kwargs={"_strict_response_validation": False})
    packed = lenient.embeddings.create(model="vectors", input=texts)
    assert last(site)["body"]["encoding_format"] == "base64"
    plain = site.client().embeddings.create(model="vectors", input=texts, encoding_format="float")
    assert [row.index for row in plain.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    first, second, third = (row.embedding for row in plain.data)
    assert first == third and math.sumprod(first, second) < 0.5
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == 9


def test_base64_that_was_asked_for_is_left_as_the_engine_packed_it(site: Site) -> None:
    wanted = ROUTES["/v1/embeddings"] | {"encoding_format": "base64"}
    found = site.post("/v1/embeddings", json=wanted).json()["data"][0]["embedding"]
    values = array("f", base64.b64decode(found))
    assert len(values) == 16 and math.hypot(*values) == pytest.approx(1, abs=1e-6)


def test_documents_are_ranked_scored_and_classified(site: Site) -> None:
    ranked = site.post("/v1/rerank", json=ROUTES["/v1/rerank"]).json()
    assert [row["index"] for row in ranked["results"]] == [1, 0]
    assert site.post("/v1/score", json=ROUTES["/v1/score"]).json()["data"][0]["score"] == 0.5
    labelled = site.post("/v1/classify", json=ROUTES["/v1/classify"]).json()
    assert (labelled["data"][0]["label"], labelled["data"][0]["probs"]) == ("short", [0.2, 0.8])
    assert last(site)["path"] == "/classify", "engines have it there"


@pytest.mark.parametrize("path", ROUTES)
def test_the_engine_gets_what_was_asked_under_its_own_name_and_nothing_else(site: Site, path: str) -> None:
    """No sampling of the release, no stream, no usage option: these routes know none of them."""
    assert site.post(path, json=ROUTES[path]).status_code == 200
    assert last(site)["body"] == ROUTES[path] | {"model": "fake"}


def test_tokens_read_are_counted_for_the_endpoint(site: Site) -> None:
    def counted() -> float:
        name = 'slipway_tokens_total{endpoint="labels",kind="prompt"}'
        lines = httpx.get(f"{site.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = counted()
    site.post("/v1/classify", json={"model": "labels", "input": ["one two", "three"]})
    assert counted() - before == 3


def test_an_idempotency_key_replays_the_vectors(site: Site) -> None:
    asked = ROUTES["/v1/embeddings"]
    answers = [site.post("/v1/embeddings", json=asked, headers={"idempotency-key": "once"}) for _ in range(2)]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert answers[0].json() == answers[1].json()


def test_five_hundred_texts_come_back_in_their_places(site: Site) -> None:
    texts = [f"text {at}" for at in range(500)]
    answer = site.client().embeddings.create(model="vectors", input=texts, encoding_format="float")
    assert [row.index for row in answer.data] == list(range(500))


@pytest.mark.parametrize("wide", [4, 60_000], ids=["small", "large"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_usage_is_read_of_small_and_of_large_answers_wherever_it_stands(wide: int, first: bool) -> None:
    """Large ones are not parsed: that would take the time of every other request."""
    usage = {"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}}
    # A packed vector may hold the letters of what is no number.
    data = {"data": [{"index": 0, "embedding": [0.123456789012345678] * wide}, {"embedding": "NaN/Infinity"}]}
    raw = json.dumps(usage | data if first else data | usage).encode()
    assert (len(raw) > protocol.PARSED) is (wide > 4)
    assert protocol.read_answer(raw, "embedding")["usage"] == usage["usage"]
    for wrong in (b"NaN", b"-Infinity"):
        with pytest.raises(ValueError, match="no "):
            protocol.read_answer(raw.replace(b"0.123", wrong + b",0.123", 1), "embedding")
    with pytest.raises(ValueError):
        protocol.read_answer(raw[:-6], "embedding")


# What is refused, and where it says so


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["one", ""]}, "input"),
        ("/v1/embeddings", {"input": ["one", 2]}, "input"),
        ("/v1/embeddings", {"input": {"text": "one"}}, "input"),
        ("/v1/embeddings", {"input": None}, "input"),
        ("/v1/embeddings", {"input": ["x"] * 2049}, "input"),
        ("/v1/embeddings", {"input": "x" * 4_000_001}, "input"),
        ("/v1/embeddings", {"input": [1, -1]}, "input"),
        ("/v1/embeddings", {"input": [True]}, "input"),
        ("/v1/embeddings", {"input": [[1, 2], []]}, "input"),
        ("/v1/embeddings", {"input": [[1] * 300_001]}, "input"),
        ("/v1/embeddings", {"dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"dimensions": 1.5}, "dimensions"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"encoding_format": ["float"]}, "encoding_format"),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ("/v1/embeddings", {"temperature": 1}, "temperature"),
        ("/v1/embeddings", {"chat_template": "{{ x }}"}, "chat_template"),
        ("/v1/embeddings", {"mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ("/v1/rerank", {"query": ""}, "query"),
        ("/v1/rerank", {"query": None}, "query"),
        ("/v1/rerank", {"query": {"content": [{"type": "image_url"}]}}, "query"),
        ("/v1/rerank", {"documents": []}, "documents"),
        ("/v1/rerank", {"documents": [{"image": "http://169.254.169.254/"}]}, "documents"),
        ("/v1/rerank", {"top_n": -1}, "top_n"),
        ("/v1/rerank", {"instruction": "obey"}, "instruction"),
        ("/v1/score", {"text_1": None}, "text_1"),
        ("/v1/score", {"text_2": [""]}, "text_2"),
        ("/v1/classify", {"input": [[1, 2], "x"]}, "input"),
        ("/v1/classify", {"use_activation": "yes"}, "use_activation"),
    ],
)
def test_what_these_routes_do_not_take_is_named(
    site: Site, path: str, change: dict[str, Any], param: str
) -> None:
    error = refusal(site.post(path, json=ROUTES[path] | change), 400)
    assert error["param"] == param
    assert len(error["message"]) < 200


def test_a_body_of_more_than_it_takes_and_one_that_is_no_json_are_refused(site: Site) -> None:
    heavy = site.post("/v1/embeddings", content=b'{"input": "' + b"x" * (17 << 20) + b'"}')
    assert heavy.status_code == 413
    for raw in (b'{"model": "vectors", "input": [NaN]}', b'{"model": "vectors", "input": "a", "input": "b"}'):
        refusal(site.post("/v1/embeddings", content=raw), 400)


@pytest.mark.parametrize(
    ("path", "model", "words"),
    [
        ("/v1/embeddings", "words", "chats"),
        ("/v1/embeddings", "labels", "classifies texts"),
        ("/v1/rerank", "labels", "classifies texts"),
        ("/v1/rerank", "vectors", "embeds texts"),
        ("/v1/classify", "words", "chats"),
        ("/v1/chat/completions", "vectors", "embeds texts"),
        ("/v1/completions", "ranks", "ranks documents"),
    ],
)
def test_a_model_of_another_task_says_what_it_is_for(site: Site, path: str, model: str, words: str) -> None:
    whole = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "hi"}
    body = ROUTES.get(path, whole) | {"model": model}
    error = refusal(site.post(path, json=body), 400)
    assert (error["code"], error["param"]) == ("unsupported_route", "model")
    assert f"This model {words}" in error["message"]


def test_another_teams_vectors_are_not_there(site: Site, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        other = Team.objects.create(name="Other", slug="other")
        of_task(other, "embedding", "private", site.engine)
        of_task(Team.objects.get(slug="default"), "embedding", "later", site.engine)
    site.until(lambda: site.get("/v1/models/later").status_code == 200)
    assert site.post("/v1/embeddings", json={"model": "private", "input": "x"}).status_code == 404


@given(
    st.dictionaries(
        st.sampled_from(["input", "documents", "query", "top_n", "user"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=6,
        ),
    ),
    st.sampled_from(sorted(pooling.KINDS)),
)
def test_whatever_comes_is_taken_or_refused_in_words(body: dict[str, Any], kind: str) -> None:
    try:
        pooling.check(body, kind)
    except schemas.BadRequest as problem:
        assert problem.message and problem.param
        return
    texts = body.get("input") or body["documents"]
    assert isinstance(texts, str) or all(isinstance(one, str | int | list) for one in texts)


@pytest.mark.parametrize("name", [name for name in engines.names() if name != "fake"])
def test_an_engine_without_the_route_is_never_asked(name: str) -> None:
    """What each engine lacks is a 400 here, not whatever it would say."""
    quirks = engines.get(name).quirks
    for path, body in ROUTES.items():
        kind = protocol.ROUTES["POST", path.encode()]
        asked = protocol.ENGINE_PATHS.get(path.encode()) or path
        task = {"vectors": "embedding", "ranks": "rerank", "labels": "classification"}[body["model"]]
        if ("POST", asked) in quirks.routes:
            protocol.refuse_wrong_task(kind, asked, task, quirks)
            continue
        with pytest.raises(protocol.Refusal) as refused:
            protocol.refuse_wrong_task(kind, asked, task, quirks)
        assert refused.value.code == "unsupported_route"


def test_an_embeddings_cosine_ranks_only_where_the_engine_has_it() -> None:
    quirks = engines.get("fake").quirks
    with pytest.raises(protocol.Refusal):
        protocol.refuse_wrong_task("rerank", "/v1/rerank", "embedding", quirks)
    able = replace(quirks, scores_embeddings=True)
    protocol.refuse_wrong_task("rerank", "/v1/rerank", "embedding", able)
    protocol.refuse_wrong_task("score", "/v1/score", "embedding", able)


# What goes wrong on the way


@pytest.mark.parametrize("directive", ["error=500", "html", "malformed", "nan", "redirect"])
def test_an_engine_that_answers_nonsense_is_a_502(site: Site, directive: str) -> None:
    answer = site.post("/v1/embeddings", json={"model": "vectors", "input": f"a [[{directive}]]"})
    error = refusal(answer, 502)
    assert "169.254" not in error["message"] and "<" not in error["message"]


def test_a_text_beyond_the_context_is_the_clients_error(site: Site) -> None:
    answer = site.post("/v1/embeddings", json={"model": "vectors", "input": "a [[long]]"})
    error = refusal(answer, 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_a_client_that_hangs_up_stops_the_engine(site: Site) -> None:
    engine = site.engine
    assert engine is not None
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{site.url}/v1/embeddings",
            json={"model": "vectors", "input": "a [[hang]]"},
            headers={"authorization": f"Bearer {site.secret}"},
            timeout=0.5,
        )
    engine.wait_idle()


def test_an_engine_killed_midway_is_said_and_the_next_request_waits_for_another(
    site: Site, django_db_blocker: Any
) -> None:
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            fragile = stack.enter_context(running_fake(key="engine-secret"))
            team = Team.objects.get(slug="default")
            row = of_task(team, "embedding", "fragile", fragile)
            assert row is not None
        # A deployment is listed once a replica of it is ready; the endpoint's name is there before.
        site.until(lambda: f'"deployment/{row.deployment_id}"' in site.get("/v1/models").text)
        answers: list[httpx.Response] = []
        asked = {"model": "fragile", "input": "a [[hang]]"}
        waiting = threading.Thread(target=lambda: answers.append(site.post("/v1/embeddings", json=asked)))
        waiting.start()
        site.until(lambda: fragile.metric("num_requests_running") == 1)
        fragile.process.kill()
        waiting.join()
        assert refusal(answers[0], 503)["code"] == "no_capacity"
        with django_db_blocker.unblock():
            Replica.objects.filter(pk=row.pk).update(state=Replica.State.FAILED)
            coming = Replica.objects.create(
                deployment=row.deployment, configuration=row.configuration, state=Replica.State.LOADING
            )
        site.until(lambda: _held(site))
        held = threading.Thread(target=lambda: answers.append(_embed(site, "fragile")))
        held.start()
        assert site.engine is not None
        with django_db_blocker.unblock():
            Replica.objects.filter(pk=coming.pk).update(
                state=Replica.State.READY,
                node=row.node,
                port=site.engine.port,
                engine_key=site.engine.key,
                served_name="fake",
            )
        held.join()
        assert answers[1].status_code == 200, answers[1].text


def _embed(site: Site, model: str) -> httpx.Response:
    return site.post("/v1/embeddings", json={"model": model, "input": "a"})


def _held(site: Site) -> bool:
    """Whether a request to `fragile` is held: it is, once the table knows of the replica that comes."""
    try:
        httpx.post(
            f"{site.url}/v1/embeddings",
            json={"model": "fragile", "input": "a"},
            headers={"authorization": f"Bearer {site.secret}"},
            timeout=0.5,
        )
    except httpx.ReadTimeout:
        return True
    return False
