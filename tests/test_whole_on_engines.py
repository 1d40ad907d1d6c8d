"""The contract of every real engine, each started once: the whole product on it, and the engine itself.

A worker starts it, the site and its API ask it, and so do these tests at its own port. Then it is drained and
stopped, started again, and killed. Which engines there are is in `tests/real_engines.py`. Environments that
are not large are installed by a Job here each time.
"""

import shutil
import socket
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from endpoints.models import Usage
from playground import adapters, attaching, deployments, engine_client, pooling, prompts, weights
from playground.figures import figures
from playground.models import Adapter, Generation, Job, Replica, Start
from tests import chats, fits, token_checks
from tests import lora as made
from tests.fleet import assert_sound, engine_processes, runners, until
from tests.home import HOME
from tests.live import LENGTH, LONG, Live, assert_nothing_left, chunks, ended
from tests.live import live as live
from tests.live import site as site
from tests.real_engines import each

State = Replica.State
every = each("live", indirect=True)
CANARY = "canary-7f3a whisper"


# From the wish to a ready engine


@every
def test_it_starts_by_named_steps(live: Live) -> None:
    steps = [event.state for event in live.replica.events.all()]
    assert [step for step in steps if step != State.LOADING][-1] == State.READY
    assert {State.PREPARING, State.ASSIGNED, State.STARTING, State.LOADING} <= set(steps)
    notes = [event.note for event in live.replica.events.filter(state=State.LOADING)]
    assert any("loading weights" in note for note in notes), notes
    assert live.replica.command[0].startswith(str(HOME / "environments"))
    done = set(
        Job.objects.filter(created_at__gte=live.row.created_at, state=Job.State.DONE).values_list(
            "kind", flat=True
        )
    )
    if not live.facts.large:
        assert "install_environment" in done
    spent = live.replica.ready_at - live.replica.events.filter(state=State.STARTING).earliest("at").at
    print(
        f"{live.engine}: ready {live.ready_s:.1f} s after the wish, {spent.total_seconds():.1f} s of engine"
    )


@every
def test_the_weights_it_loads_are_the_demo_model_s(live: Live) -> None:
    """Where it wants safetensors, a Job made them of the GGUF file that came with the demo model."""
    assert live.replica.configuration
    form = live.replica.configuration.format
    assert form.kind in live.adapter.kinds
    if form.kind == "safetensors":
        read = weights.inspect(HOME / "models" / form.path)
        assert (read.parameters, read.dtype, read.task) == (134_515_008, "bfloat16", "chat")


@every
def test_everything_it_started_carries_the_mark(live: Live) -> None:
    """Also after a process renamed itself, which may overwrite the environment that /proc shows."""
    assert live.replica.engine_pid
    engine = psutil.Process(live.replica.engine_pid)
    family = {engine.pid, *(child.pid for child in engine.children(recursive=True))}
    marked = {process.pid for process in engine_processes(live.replica)}
    assert marked == family


@every
def test_it_took_what_was_worked_out(live: Live) -> None:
    assert live.replica.configuration
    start = Start.objects.get(configuration=live.replica.configuration)
    estimate = fits.worked_out(live.replica.configuration)
    fits.assert_agrees(start, estimate)
    if loaded := fits.checkpoint((HOME / "replicas" / str(live.replica.pk) / "engine.log").read_text()):
        assert estimate.weights == pytest.approx(loaded, rel=fits.WITHIN)
    assert start.node == live.replica.node
    assert 0 < start.ready_s <= live.ready_s
    # What is mapped or set aside but not touched yet is not resident: the total is a limit, not a target.
    assert start.resident_bytes and start.resident_bytes > 64 << 20


# In the playground


@every
def test_a_conversation_of_two_turns_is_streamed_and_measured(live: Live) -> None:
    live.set(max_tokens=24, temperature=0, presence_penalty=0.5)
    for text in ("What is the capital of France?", "And of Italy?"):
        page = live.page()
        with page.socket:
            row = live.send(text)
            page.watch(row.pk)
            assert page.until_end(60) == "complete"
        row = chats.answer(row.pk)
        assert row.text and page.text["content"] == row.text
        live.said.append(row)
    first, second = (figures(row) for row in live.said)
    for told in (first, second):
        assert told.ttft and told.e2e
        # On a machine so busy that all of it was read at once, there is no speed, and that is said.
        assert told.tokens_per_s or told.lagged
        assert told.tokens and 2 <= told.tokens <= 24
        assert not told.approximate_tokens
    assert first.prompt_tokens and second.prompt_tokens
    assert second.prompt_tokens > first.prompt_tokens + (first.tokens or 0), "the first turn is in the prompt"
    print(f"{live.engine}: TTFT {second.ttft:.0f} ms, {second.tokens_per_s or 0:.0f} tok/s")


@every
def test_it_tells_what_was_really_asked(live: Live) -> None:
    row = live.said[-1]
    with live.http() as client:
        shown = client.get(f"/playground/answers/{row.pk}/request/")
    assert shown.status_code == 200
    row.refresh_from_db()
    assert row.effective["by"] == live.facts.renders
    prompt = row.effective["rendered"]
    for said in ("<|im_start|>user", "capital of France", "And of Italy?", live.said[0].text.strip()):
        assert said in prompt
    assert prompt.rstrip().endswith("<|im_start|>assistant")
    assert len(row.effective["token_ids"]) == row.usage["prompt_tokens"]
    ignored = "presence_penalty" in live.adapter.quirks.ignored
    assert row.effective.get("ignored", []) == (["presence_penalty"] if ignored else [])
    assert ("Ignored" in shown.text) is ignored
    assert "&lt;|im_start|&gt;user" in shown.text


@every
def test_stop_reaches_the_engine_and_the_text_stays(live: Live) -> None:
    live.set(max_tokens=LENGTH, temperature=1)
    page = live.page()
    with page.socket, live.stops_early():
        row = live.send(LONG)
        page.watch(row.pk)
        page.until(lambda: len(page.text["content"]) > 40, 60)
        assert live.running() == 1
        page.send(type="stop", generation=row.pk)
        assert page.until_end(10) == "stopped"
    row = chats.answer(row.pk)
    assert row.state == Generation.State.STOPPED
    assert row.text and row.text.startswith(page.text["content"][:40])
    tokens = figures(row).tokens
    assert 0 < (tokens or 0) < LENGTH if live.facts.counts_stopped else tokens is None


@every
def test_a_conversation_beyond_the_context_says_so(live: Live) -> None:
    row = live.send("hi " * (live.facts.context + 100))
    row = chats.answer(row.pk, within_s=60)
    assert (row.state, row.error_code) == ("failed", "context_exceeded"), row.error
    assert "context" in row.error and str(live.facts.context) in row.error.replace(",", "")
    print(f"{live.engine}: {row.error}")


# By the API


@every
def test_the_openai_client_gets_an_answer(live: Live) -> None:
    answer = live.site.client().chat.completions.create(**live.body(max_tokens=8))
    assert answer.choices[0].message.content
    assert answer.usage and 0 < answer.usage.completion_tokens <= 8


@every
def test_the_openai_client_gets_a_stream(live: Live) -> None:
    wanted = live.body(max_tokens=8, stream=True, stream_options={"include_usage": True})
    found = list(live.site.client().chat.completions.create(**wanted))
    parts = [chunk.choices[0].delta.content for chunk in found if chunk.choices]
    assert len([part for part in parts if part]) >= 2
    assert found[-1].choices == [] and found[-1].usage
    assert 0 < found[-1].usage.completion_tokens <= 8


@every
def test_the_openai_client_gets_a_response_by_a_prompt_of_the_library(live: Live) -> None:
    """By the engine's own route or by its chat completions: the client meets the same."""
    words = {"role": "system", "content": "You answer with {{what}} alone."}
    house = prompts.Said([words], [{"name": "what", "type": "text"}], {"temperature": 0})
    named = prompts.create(live.row.team, live.user, f"house-{live.row.pk}", house)
    prompt: Any = {"id": named.name, "version": "1", "variables": {"what": "a name of a city"}}
    wanted: Any = {
        "model": f"deployment/{live.row.pk}",
        "prompt": prompt,
        "input": "What is the capital of France?",
        "max_output_tokens": 24,
    }
    client = live.site.client()
    until("it knows the prompt", lambda: knows(live, wanted), 10)
    answer = client.responses.create(**wanted)
    events = list(client.responses.create(stream=True, **wanted))
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert answer.output_text and said == last.response.output_text
    assert len([event for event in events if event.type == "response.output_text.delta"]) >= 2
    for told in (answer.usage, last.response.usage):
        assert told and 2 <= told.output_tokens <= 24 and told.input_tokens > 20
    until("both are in usage", lambda: Usage.objects.filter(**used_by(live)).count() >= 2, 10)
    for row in Usage.objects.filter(**used_by(live)):
        assert row.prompt_tokens and row.completion_tokens and row.prompt_tokens > 20
    assert Usage.objects.filter(**used_by(live), stream=True, ttft_ms__isnull=False).exists()


def knows(live: Live, wanted: dict[str, Any]) -> bool:
    """Whether the web process has read of a prompt that was made a moment ago."""
    asked = wanted | {"prompt": wanted["prompt"] | {"variables": {}}}
    return live.site.post("/v1/responses", json=asked).status_code == 400


def used_by(live: Live) -> dict[str, Any]:
    return {"deployment": live.row.pk, "route": "/v1/responses", "status": 200}


@every
def test_a_client_that_hangs_up_on_a_stream_stops_the_engine(live: Live) -> None:
    wanted = live.body(LONG, max_tokens=LENGTH, temperature=1, stream=True)
    with live.stops_early():
        with live.site.client().chat.completions.create(**wanted) as stream:
            next(iter(stream))
            live.works()


@every
def test_several_choices_end_with_their_client(live: Live) -> None:
    wanted = live.body(LONG, max_tokens=LENGTH, temperature=1, stream=True, n=2)
    with live.stops_early():
        with live.site.client().chat.completions.create(**wanted) as stream:
            next(iter(stream))
            live.works()


@every
def test_a_client_that_hangs_up_on_a_whole_answer_stops_the_engine(live: Live) -> None:
    wanted = live.body(LONG, max_tokens=LENGTH, temperature=1)
    body = httpx.Request("POST", live.site.url, json=wanted).content
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{live.site.port}\r\n"
        f"Authorization: Bearer {live.site.secret}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with live.stops_early():
        with socket.create_connection(("127.0.0.1", live.site.port), 10) as client:
            client.sendall(head.encode() + body)
            live.works()


# At its own port, as its adapter describes it


@every
def test_it_streams_and_counts_as_its_quirks_say(live: Live) -> None:
    quirks, before = live.adapter.quirks, live.metrics()
    answer = live.ask(
        messages=said("Name three colours."),
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    found = chunks(answer)
    assert (found[-1] == "[DONE]") is quirks.sends_done
    events = [event for event in found if event != "[DONE]"]
    text = [event["choices"][0]["delta"].get("content") for event in events if event["choices"]]
    assert len([one for one in text if one]) >= 2
    assert (events[0]["model"] == live.replica.served_name) is not quirks.renames_model
    with_usage = [event for event in events if event.get("usage")]
    assert with_usage, "usage is asked for"
    assert (with_usage[-1]["choices"] == []) is quirks.usage_chunk
    assert bool(with_usage[-1]["choices"]) is quirks.usage_on_content
    after = live.metrics()
    for name in quirks.progress_metrics:
        assert after[name] > before.get(name, 0), name
    for name in (quirks.waiting_metric, quirks.kv_cache_metric):
        assert not name or name in after, name


@every
def test_it_asks_for_the_key(live: Live) -> None:
    assert live.adapter.quirks.takes_key
    for key in ("", "wrong"):
        answer = live.ask(key=key, messages=said("x"), max_tokens=1)
        assert answer.status_code == 401
        assert live.replica.engine_key not in answer.text


@every
def test_it_ignores_what_its_quirks_say_and_honours_the_rest(live: Live) -> None:
    # vLLM refuses several choices of a greedy answer.
    asked: dict[str, Any] = {"n": 2, "logprobs": True, "top_logprobs": 2, "temperature": 0.8}
    answer = live.ask(messages=said("Hello"), max_tokens=3, **asked)
    assert answer.status_code == 200, answer.text
    ignored, choices = live.adapter.quirks.ignored, answer.json()["choices"]
    assert len(choices) == (1 if "n" in ignored else 2)
    assert bool(choices[0].get("logprobs")) is not ("logprobs" in ignored)
    until("nothing of it is left", lambda: live.running() == 0)


@every
def test_a_schema_is_kept_or_declared_ignored(live: Live) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    answer = live.ask(messages=said("Name a city."), max_tokens=40, response_format=wanted)
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["message"]["content"]
    kept = any(
        text.replace(" ", "").replace("\n", "") == f'{{"city":"{city}"}}' for city in ("Paris", "Rome")
    )
    assert kept is not ("response_format" in live.adapter.quirks.ignored), text


@every
def test_it_refuses_what_its_quirks_say(live: Live) -> None:
    """Of a chat: what it refuses where it embeds or ranks is not asked here."""
    elsewhere = {name for parameters, _ in pooling.KINDS.values() for name in parameters}
    for name in live.adapter.quirks.refused - elsewhere:
        assert live.ask(messages=said("x"), max_tokens=1, **{name: 1}).status_code >= 400, name
    assert live.ask(messages=said("still there?"), max_tokens=1).status_code == 200


@every
def test_its_tokens_and_log_probabilities_are_read_where_it_tells_them(live: Live) -> None:
    target = engine_client.target(live.replica)
    token_checks.check_tokens(target)
    token_checks.check_log_probabilities(target)


@every
def test_its_log_keeps_neither_prompt_nor_key(live: Live) -> None:
    assert live.ask(messages=said(CANARY), max_tokens=2).status_code == 200
    log = (HOME / "replicas" / str(live.replica.pk) / "engine.log").read_text(errors="replace")
    assert len(log) > 100
    assert CANARY not in log and live.replica.engine_key not in log
    assert live.replica.engine_key not in " ".join(live.replica.command)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# Adapters


@every
def test_an_adapter_is_attached_while_it_runs_or_refused_in_words(live: Live) -> None:
    """Where it can, its name answers otherwise than the model, until it is detached."""
    place = made.peft(HOME / "models" / "runtime" / live.engine)
    row = adapters.add(live.row.model, f"runtime/{live.engine}", f"rhyming-{live.row.pk}", None)
    try:
        if not attaching.can(live.row).ok:
            with pytest.raises(attaching.AttachRefused, match=r"attaches|started without"):
                attaching.request(live.row, row, attaching.ATTACH, None)
            return
        done(live, row, attaching.ATTACH)
        asked = {"messages": said("Name three colours of the rainbow."), "max_tokens": 16}
        plain, other = (live.ask(**asked, **name).json() for name in ({}, {"model": row.name}))
        assert plain["choices"][0]["message"] != other["choices"][0]["message"]
        name = f"deployment/{live.row.pk}:{row.name}"
        body = {"model": name, "messages": said("Hello"), "max_tokens": 2}
        live.site.until(lambda: live.site.post(json=body).status_code == 200, 20)
        done(live, row, attaching.DETACH)
        assert live.ask(**asked, model=row.name).status_code == 404
    finally:
        row.delete()
        shutil.rmtree(place)


def done(live: Live, row: Adapter, verb: str) -> None:
    job = attaching.request(live.row, row, verb, None)
    until("it is over", lambda: Job.objects.get(pk=job.pk).state not in Job.ACTIVE, 60)
    job.refresh_from_db()
    assert job.state == Job.State.DONE, job.error
    live.row.refresh_from_db()


# The ends, last: what stands below starts it again


@every
def test_a_stop_lets_it_finish_and_leaves_nothing(live: Live) -> None:
    wanted = live.body(LONG, max_tokens=24, stream=True)
    with live.site.client().chat.completions.create(**wanted) as stream:
        answer = iter(stream)
        next(answer)
        deployments.stop(live.row, None)
        rest = list(answer)
    assert [chunk.choices[0].finish_reason for chunk in rest if chunk.choices][-1] == "length"
    stopped = ended(live.replica, State.STOPPED, 60)
    assert State.DRAINING in [event.state for event in stopped.events.all()]
    until("its runner ends", lambda: not runners())
    assert_nothing_left(live.replica)
    assert_sound()


@every
def test_killed_it_is_replaced_and_leaves_nothing(live: Live) -> None:
    """The process with the model, which may be another than the one that is asked, and would outlive it."""
    deployments.start(live.row, None)
    live.again()
    first, family = live.replica, engine_processes(live.replica)
    live.core().kill()
    first = ended(first, State.FAILED, 30)
    assert first.reason_code == "crashed" and first.reason, first.reason
    print(f"{live.engine} without its core: {first.reason}")
    # A killed process that gives its memory back has no environment any more, and still runs.
    until("all of it is gone", lambda: not [one for one in family if alive(one)], 5)
    assert_nothing_left(first)
    until("another is on its way", lambda: live.row.replicas.filter(pk__gt=first.pk).exists())


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
