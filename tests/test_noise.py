"""The noise floor: what is asked in which order, what may be said of it, and real runs on fake engines."""

import json
import math
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.test import Client
from django.urls import reverse

from playground import (
    asking,
    dataset_prompts,
    jobs,
    load,
    load_form,
    noise,
    noise_form,
    noise_order,
    noise_report,
    noise_words,
    subjects,
)
from playground.answers import Question
from playground.asking import Taken
from playground.models import (
    Column,
    Conversation,
    Deployment,
    Generation,
    Job,
    MeasuredUse,
    Measurement,
    Membership,
    Replica,
    RowsTaken,
    Sample,
    Team,
    Turn,
    User,
)
from playground.noise import NoiseRefused, Wanted
from playground.noise_report import Observed
from tests import chats
from tests.batch_rows import version
from tests.fakes import RunningFake
from tests.fleet import ROOT

SEEDS = range(200)
Engine = Callable[..., RunningFake]

# The order


def test_every_column_is_asked_twice_with_every_prompt_in_every_round() -> None:
    asked = Counter(
        (slot.column, slot.arm, unit.prompt, unit.round)
        for slot in noise_order.slots(3, 7, 4, 2, seed=5)
        for unit in slot.units
    )
    assert len(asked) == 3 * 2 * 7 * 4
    assert set(asked.values()) == {1}


def test_columns_and_arms_are_balanced_in_time() -> None:
    order = list(noise_order.slots(2, 20, 1, 1, seed=1))
    places: dict[Any, list[int]] = {}
    for place, slot in enumerate(order):
        places.setdefault(slot.column, []).append(place)
        places.setdefault(slot.arm, []).append(place)
    means = {name: sum(them) / len(them) for name, them in places.items()}
    assert means[0] == means[1] == (len(order) - 1) / 2
    assert abs(means["A1"] - means["A2"]) <= 1


def test_an_order_is_drawn_from_its_seed() -> None:
    first, again, other = (list(noise_order.slots(3, 20, 2, 1, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_salts_differ_and_are_equally_long() -> None:
    salts = [noise_order.salt(7, place) for place in range(5_000)]
    assert len(set(salts)) == len(salts)
    assert len({len(salt) for salt in salts}) == 1
    assert len({len(salt.split()) for salt in salts}) == 1
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    salted = noise_order.salted(said, salts[0])
    assert salted[0]["content"] == salts[0] + "Be brief." and salted[1] == said[1]


# What may be said


def answers(
    seed: int, slower: tuple[float, ...], prompts: int = 20, variation: float = 0.03, rounds: int = 1
) -> list[Observed]:
    """Answers of columns that vary by so much, each so much slower than the first."""
    chance = random.Random(seed)
    seen = []
    for prompt in range(prompts):
        for number in range(rounds):
            long = 1 + chance.random()
            for column, factor in enumerate(slower):
                for arm in noise_order.ARMS:
                    times = [
                        factor * mean * long * math.exp(chance.gauss(0, variation)) for mean in (50.0, 10.0)
                    ]
                    ttft, tpot = times
                    timings = {"ttft": ttft, "e2e": ttft + 63 * tpot, "chunks": 64, "first_chunk_tokens": 1}
                    usage = {"completion_tokens": 64}
                    seen.append(
                        Observed(
                            column,
                            prompt,
                            number,
                            arm,
                            "complete",
                            f"text {prompt}",
                            timings=timings,
                            usage=usage,
                        )
                    )
    return seen


def result(seen: list[Observed], columns: int = 2, **more: bool) -> dict[str, Any]:
    return noise_report.compare(seen, columns, **{"only": False, "texts": True, **more})


def between(found: dict[str, Any], a: int = 0, b: int = 1) -> dict[str, dict[str, Any]]:
    return {test["metric"]: test for test in found["speed"] if (test["a"], test["b"]) == (a, b)}


def test_identical_engines_have_few_false_winners_and_a_slow_one_is_found_in_whole_runs() -> None:
    """Every metric, every column against itself too, with Holm over all: as the page shows them."""
    false = sum(any(t["found"] for t in between(result(answers(seed, (1, 1)))).values()) for seed in SEEDS)
    assert false <= 6, f"{false} runs with a false winner"
    found = [between(result(answers(seed, (1, 1.05)))) for seed in SEEDS]
    for metric in noise_report.METRICS:
        hits = sum(
            one[metric]["found"] and one[metric]["ratio"] > 1 and not one[metric]["void"] for one in found
        )
        assert hits >= 190, f"{metric}: only {hits} found"


def test_a_slow_column_is_named_and_the_others_are_not() -> None:
    found = result(answers(3, (1.2, 1.0, 1.2)), 3)
    assert noise_report.best(found, 3) == {"ttft": 1, "tpot": 1, "e2e": 1}
    own, pairs = (table.rows for table in noise_words.tables(found))
    assert {verdict.kind for row in own for verdict in row.verdicts} == {"same"}
    slow = pairs[0].verdicts[0]
    assert slow.kind == "differs" and slow.words.startswith("A is ") and "\u00a0% slower (" in slow.words
    same = pairs[1].verdicts[0]
    assert (pairs[1].a, pairs[1].b) == ("A", "C")
    assert same.words.startswith("the same within the noise: a difference under ")


def test_where_two_are_equally_fast_nobody_is_best() -> None:
    assert noise_report.best(result(answers(3, (1.0, 1.0, 1.2)), 3), 3)["tpot"] is None


def test_below_ten_pairs_only_raw_values_show() -> None:
    found = result(answers(1, (1, 2), prompts=6))
    test = between(found)["ttft"]
    assert test["n"] == 6 and len(test["raw"]) == 6 and "ratio" not in test
    assert found["tests"] == 0
    verdict = noise_words.tables(found)[1].rows[0].verdicts[0]
    assert verdict.words == "n/a: 6 pairs, at least 10 are needed; raw values"
    assert noise_report.best(found, 2) == {"ttft": None, "tpot": None, "e2e": None}


def test_repeats_of_a_prompt_are_averaged_before_they_are_paired() -> None:
    found = result(answers(1, (1, 1), prompts=9, rounds=5))
    assert {test["n"] for test in found["speed"]} == {9}
    only = result(answers(1, (1, 1.3), prompts=1, rounds=12), only=True)
    assert only["unit"] == "round" and between(only)["e2e"]["n"] == 12 and between(only)["e2e"]["found"]


def test_failed_and_flagged_answers_are_counted_and_left_out() -> None:
    seen = answers(1, (1, 1), prompts=12)
    bent = [
        Observed(one.column, one.prompt, one.round, one.arm, "failed", error="It broke.")
        if one.column == 1 and one.prompt == 0
        else Observed(**{**vars_of(one), "timings": {**(one.timings or {}), "lagged": True}})
        if one.column == 0 and one.prompt == 1
        else one
        for one in seen
    ]
    found = result(bent)
    assert [one["failed"] for one in found["columns"]] == [0, 2]
    assert [one["lagged"] for one in found["columns"]] == [2, 0]
    assert found["columns"][1]["error"] == "It broke."
    assert between(found)["ttft"]["n"] == 10
    assert between(found, 1, 1)["ttft"]["n"] == 11


def vars_of(one: Observed) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Observed.__dataclass_fields__}


def test_a_column_that_differs_from_itself_makes_no_verdict() -> None:
    seen = [
        Observed(**{**vars_of(one), "timings": {**(one.timings or {}), "ttft": one.timings["ttft"] * 1.5}})
        if one.timings and one.column == 0 and one.arm == "A2"
        else one
        for one in answers(1, (1, 2))
    ]
    found = result(seen)
    own, pairs = (table.rows for table in noise_words.tables(found))
    assert own[0].verdicts[0].words.startswith("differs from itself: its second answers are")
    assert pairs[0].verdicts[0].kind == "void"
    assert noise_report.best(found, 2)["ttft"] is None


def texted(text: Callable[[int, str, int], str]) -> list[Observed]:
    return [
        Observed(**{**vars_of(one), "text": text(one.column, one.arm, one.prompt)})
        for one in answers(1, (1, 1))
    ]


def test_texts_that_differ_more_than_a_column_from_itself_are_found() -> None:
    (test,) = result(texted(lambda column, arm, prompt: f"{prompt} {column if prompt < 15 else 0}"))["text"]
    assert (test["differ"], test["self_a"], test["self_b"], test["found"]) == (15, 0, 0, True)


def test_texts_that_differ_from_themselves_as_often_are_the_same_within_the_noise() -> None:
    (test,) = result(texted(lambda column, arm, prompt: f"{prompt} {column} {arm}"))["text"]
    assert (test["differ"], test["self_a"], test["self_b"], test["found"]) == (20, 20, 20, False)
    # B alone is unsteady: that it differs from A too is its own noise.
    (test,) = result(texted(lambda column, arm, prompt: f"{prompt} {arm if column else ''}"))["text"]
    assert (test["differ"], test["self_a"], test["self_b"], test["found"]) == (20, 0, 20, False)
    found = result(answers(1, (1, 1)))
    assert noise_words.texts(found) == [
        {
            "a": "A",
            "b": "B",
            "differ": "0 of 20 prompts",
            "self_a": "0 of 20 prompts",
            "self_b": "0 of 20 prompts",
            "words": "identical text is identical",
            "kind": "same",
        }
    ]
    assert noise_words.texts(result(answers(1, (1, 1)), texts=False)) is None


# The form


def test_prompts_come_one_a_line_or_as_lines_of_json() -> None:
    assert noise_form.parse("one\n\n  two \r\n") == ["one", "two"]
    assert noise_form.parse('{"prompt": "a\\nb", "id": 1}\n', lines_of_json=True) == ["a\nb"]
    assert noise_form.parse('{"prompt": "a\\nb"}\n{"x": 1}') == ["a\nb", '{"x": 1}']


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"prompt": "a"}\n{"prompt": 5}\nhello',
            'Line 2 is not {"prompt": "…"}. Line 3 is not {"prompt": "…"}.',
        ),
        ("\n", "Give at least one prompt."),
        ('{"prompt": "a"}\n\n{"prompt": "a"}', "Line 3 repeats line 1: choose more rounds instead."),
        ("".join(f'{{"prompt": "{place}"}}\n' for place in range(201)), "201 prompts; 200 is the most."),
        ("nonsense\n" * 8, "And 3 more."),
    ],
)
def test_wrong_lines_are_named_by_number(text: str, why: str) -> None:
    with pytest.raises(noise_form.BadForm) as caught:
        noise_form.parse(text, lines_of_json=True)
    assert why in caught.value.fields["prompts"]


def test_the_form_of_a_run_asks_for_the_same_again() -> None:
    prompts = ["plain", "two\nlines", '{"prompt": "of JSON"}', " spaced "]
    chosen = {**asdict(Wanted(tuple(prompts), rounds=3, cache="cold")), "seed": 1}
    form = noise_form.again(chosen, "")
    assert noise_form.read(form, None, "") == Wanted(tuple(prompts), rounds=3, cache="cold")
    only = noise_form.again(asdict(Wanted(("hello",), rounds=12, only=True)), "hello")
    assert (only.what, only.prompts) == ("only", "")


# Runs


@pytest.fixture
def columns(team: Team, fake_engine: Engine) -> Callable[..., Conversation]:
    """A conversation with a column for each fake engine, by its options."""

    def made(*engines: dict[str, Any], **more: Any) -> Conversation:
        rows = []
        for place, options in enumerate(engines):
            row = chats.deployment(team, f"engine {place}")
            chats.ready(row, fake_engine(key="k", **options))
            rows.append(row)
        return chats.conversation(team, *rows, **more)

    return made


@pytest.fixture
def never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine times late is left at that: tests may count the requests."""
    monkeypatch.setattr(noise, "AGAIN", 0)


def finished(measurement: Measurement) -> Measurement:
    assert measurement.job is not None
    jobs.run(measurement.job.pk)
    measurement.refresh_from_db()
    return measurement


PROMPTS = tuple(f"number {place} [[tokens=4]]" for place in range(12))


def requests(fake: RunningFake, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    """The body of every request for an answer that reached it."""
    connection = HTTPConnection("127.0.0.1", fake.port, timeout=5)
    connection.request("GET", "/fake/requests")
    seen = json.loads(connection.getresponse().read())
    connection.close()
    return [one["body"] for one in seen if one["path"] == path]


@pytest.mark.django_db(transaction=True)
def test_a_slower_column_is_found_and_identical_ones_are_not(
    columns: Callable[..., Conversation], user: User
) -> None:
    chat = columns({"token_delay_ms": 4}, {"token_delay_ms": 4}, {"token_delay_ms": 12})
    run = finished(noise.request(chat, Wanted(PROMPTS), user, None))
    assert run.job is not None and run.job.state == Job.State.DONE, run.job.error
    kept = run.samples.values_list("column", "prompt", "round", "arm").distinct()
    assert kept.order_by("column").count() == 12 * 3 * 2
    assert run.settings["shared"] is True
    test = between(run.result, 1, 2)["tpot"]
    assert test["found"] and 1.5 < test["ratio"] < 5
    assert not between(run.result, 0, 1)["tpot"]["found"]
    assert noise.floor_of(chat) == {"ttft": None, "tpot": None, "e2e": None}
    assert [one["starts"] for one in run.result["columns"]] == [1, 1, 1]


@pytest.mark.usefixtures("never_again")
@pytest.mark.django_db(transaction=True)
def test_cold_requests_each_have_a_salt_of_their_own_and_equal_length(
    team: Team, fake_engine: Engine, user: User
) -> None:
    fake = fake_engine(key="k", tokens=2)
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row, system_prompt="Be brief.")
    run = finished(noise.request(chat, Wanted(("hello", "howdy"), rounds=3, cache="cold"), user, None))
    assert run.job is not None and run.job.state == Job.State.DONE, run.job.error
    # One more is asked before the first, to wake the engine.
    seen = [body["messages"][0]["content"] for body in requests(fake)]
    assert len(seen) == 2 * 2 * 3 + 1 and len(set(seen)) == len(seen)
    assert {len(content) for content in seen} == {len(seen[0])}
    assert all(content.endswith("Be brief.") for content in seen)
    assert run.result["text"] is None


@pytest.mark.usefixtures("never_again")
@pytest.mark.django_db(transaction=True)
def test_a_completion_is_salted_too(team: Team, fake_engine: Engine, user: User) -> None:
    fake = fake_engine(key="k", tokens=2)
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row, task="completion", system_prompt="Not sent.")
    run = finished(noise.request(chat, Wanted(("Once upon",), cache="cold"), user, None))
    assert run.job is not None and run.job.state == Job.State.DONE, run.job.error
    seen = [body["prompt"] for body in requests(fake, "/v1/completions")]
    assert len(seen) == 3 == len(set(seen))
    assert all(re.fullmatch(r"(\d ){13}\d\n\nOnce upon", prompt) for prompt in seen)


def test_cold_caches_that_knew_a_prompt_all_the_same_are_told() -> None:
    column = {"answers": 2, "tokens": 5, "starts": 3, "cached": 26.0, "prompt": 67.0}
    found = {**result([], 1), "columns": [column]}
    settings = {**asdict(Wanted(("a",), cache="cold")), "shared": False, "columns": [{"name": "one"}]}
    notes = noise_words.page(settings, found)["notes"]
    assert any("its cache knew 26 of 67 prompt tokens" in note for note in notes)
    assert not any("cache" in note for note in noise_words.page(settings | {"cache": "warm"}, found)["notes"])


@pytest.mark.django_db
def test_a_run_beyond_the_day_s_limit_is_refused_in_words(
    columns: Callable[..., Conversation], team: Team, user: User
) -> None:
    team.quotas = {"batch_rows_day": 8}
    team.save()
    with pytest.raises(
        NoiseRefused,
        match=r"8 batch rows and measured requests a day; 0 .* this has 9",
    ):
        noise.request(columns({"tokens": 2}), Wanted(("hello", "howdy")), user, None)
    assert not Measurement.objects.exists()


@pytest.mark.usefixtures("never_again")
@pytest.mark.django_db(transaction=True)
def test_warm_requests_are_preceded_by_an_untimed_one(team: Team, fake_engine: Engine, user: User) -> None:
    fake = fake_engine(key="k", tokens=9)
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row, parameters={"max_completion_tokens": 7, "temperature": 0})
    run = finished(noise.request(chat, Wanted(("hello", "howdy"), max_tokens=5), user, None))
    bodies = requests(fake)[1:]
    assert [body["max_tokens"] for body in bodies] == [1, 5] * 4
    assert {body.get("max_completion_tokens") for body in bodies} == {None}
    assert {body["temperature"] for body in bodies} == {0}
    said = [body["messages"][-1]["content"] for body in bodies]
    assert said[::2] == said[1::2]
    assert run.samples.count() == 4
    assert {sample.usage["completion_tokens"] for sample in run.samples.all()} == {5}
    # The one that warms the column up, and before each timed one another of a single token.
    used = MeasuredUse.objects.filter(team=team, user=user, kind="noise", failed=False)
    assert sorted(used.values_list("completion_tokens", flat=True)) == [1] * 4 + [5] * 5
    assert RowsTaken.objects.get().rows == used.count() == 9


@pytest.mark.django_db(transaction=True)
def test_as_many_requests_as_chosen_are_in_flight_to_one_column_and_none_to_two(
    columns: Callable[..., Conversation], user: User
) -> None:
    chat = columns({"token_delay_ms": 3}, {"token_delay_ms": 3})
    prompts = tuple(f"{place} [[tokens=20]]" for place in range(6))
    run = finished(noise.request(chat, Wanted(prompts, at_once=3, max_tokens=20), user, None))
    spans = [(one.sent_ms, one.sent_ms + one.timings["e2e"], one.column_id) for one in run.samples.all()]
    for begun, ended, column in spans:
        beside = [other for start, end, other in spans if start < ended and end > begun]
        assert set(beside) == {column}
    assert max(sum(start <= begun < end for start, end, _ in spans) for begun, _, _ in spans) == 3


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_was_timed_late_is_kept_flagged_and_asked_anew(
    columns: Callable[..., Conversation], user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = asking.ask

    async def late(question: Question) -> Taken:
        taken = await ask(question)
        asked.append(question.parameters["max_tokens"])
        # The first is untimed, and one goes ahead of each: the third is the first that counts.
        return replace(taken, timings={**taken.timings, "lagged": len(asked) in (3, 5, 7)})

    monkeypatch.setattr(asking, "ask", late)
    run = finished(noise.request(columns({"tokens": 2}), Wanted(("hello",), max_tokens=2), user, None))
    assert run.samples.count() == 4, "twice anew, then it is left at that"
    assert [one.timings["lagged"] for one in run.samples.all()] == [True, True, True, False]
    assert run.result["columns"][0]["lagged"] == 3
    assert between(run.result, 0, 0)["ttft"]["n"] == 0
    asked.clear()
    asked.extend([2, 2])  # Now the first that counts is late twice, and in time when asked once more.
    again = finished(noise.request(run.conversation, Wanted(("hello",), max_tokens=2), user, None))
    assert between(again.result, 0, 0)["ttft"]["n"] == 1


@pytest.mark.django_db(transaction=True)
def test_failed_answers_are_kept_and_counted(columns: Callable[..., Conversation], user: User) -> None:
    chat = columns({}, {})
    prompts = (*PROMPTS[:10], "broken [[error=500]]")
    run = finished(noise.request(chat, Wanted(prompts), user, None))
    assert run.job is not None and run.job.state == Job.State.DONE
    assert [one["failed"] for one in run.result["columns"]] == [2, 2]
    assert run.samples.filter(state="failed").count() == 4
    assert run.samples.filter(state="failed").exclude(error="").count() == 4
    assert between(run.result)["ttft"]["n"] <= 10


@pytest.mark.django_db(transaction=True)
def test_a_cancelled_run_ends_the_engines_work_and_concludes_nothing(
    team: Team, fake_engine: Engine, user: User
) -> None:
    fake = fake_engine(key="k")
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row)
    measurement = noise.request(chat, Wanted(("hello", "[[hang]]")), user, None)
    job = measurement.job
    assert job is not None

    def cancel() -> None:
        try:
            hangs = "[[hang]]"
            chats.until("it hangs", lambda: requests(fake)[-1:] and hangs in str(requests(fake)[-1]))
            assert jobs.cancel(job, user)
        finally:
            connections.close_all()

    canceller = Thread(target=cancel)
    canceller.start()
    finished(measurement)
    canceller.join()
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.CANCELLED, "Cancelled by ada.")
    fake.wait_idle()
    measurement.refresh_from_db()
    assert measurement.result == {}
    assert noise.floor_of(chat) is None


@pytest.mark.usefixtures("never_again")
@pytest.mark.django_db(transaction=True)
def test_a_run_whose_runner_died_starts_anew(columns: Callable[..., Conversation], user: User) -> None:
    chat = columns({"tokens": 2})
    measurement = noise.request(chat, Wanted(("hello",), rounds=2), user, None)
    Sample.objects.create(measurement=measurement, column=chat.columns.get(), state="complete", arm="A1")
    run = finished(measurement)
    assert run.samples.count() == 4


@pytest.mark.django_db(transaction=True)
def test_a_run_whose_conversation_is_deleted_says_so(
    columns: Callable[..., Conversation], user: User
) -> None:
    chat = columns({"token_delay_ms": 20, "tokens": 10})
    job = noise.request(chat, Wanted(("one", "two", "three")), user, None).job
    assert job is not None

    def delete() -> None:
        try:
            chats.until("an answer is kept", Sample.objects.exists)
            chat.delete()
        finally:
            connections.close_all()

    deleter = Thread(target=delete)
    deleter.start()
    jobs.run(job.pk)
    deleter.join()
    job.refresh_from_db()
    assert job.state == Job.State.FAILED and "deleted" in job.error


@pytest.mark.django_db(transaction=True)
def test_a_job_runner_told_to_end_gives_the_run_back(team: Team, fake_engine: Engine, user: User) -> None:
    fake = fake_engine(key="k")
    row = chats.deployment(team)
    chats.ready(row, fake)
    chat = chats.conversation(team, row)
    job = noise.request(chat, Wanted(("[[hang]]",)), user, None).job
    assert job is not None
    runner = subprocess.Popen([sys.executable, str(ROOT / "manage.py"), "run_job", str(job.pk)], cwd=ROOT)
    chats.until("it asks", lambda: fake.metric("num_requests_running"), 30)
    runner.terminate()
    assert runner.wait(timeout=20) == 0
    fake.wait_idle()
    job.refresh_from_db()
    assert (job.state, job.attempt) == (Job.State.QUEUED, 0)


@pytest.mark.django_db(transaction=True)
def test_columns_that_are_not_ready_are_refused_by_name(
    columns: Callable[..., Conversation], user: User, team: Team
) -> None:
    chat = columns({"tokens": 2})
    stopped = chats.deployment(team, "sleeper", desired=Deployment.Desired.STOPPED)
    Column.objects.create(conversation=chat, position=1, deployment=stopped)
    Column.objects.create(conversation=chat, position=2)
    with pytest.raises(NoiseRefused, match=r"^sleeper is stopped: start it first\. Column C has no model"):
        noise.request(chat, Wanted(PROMPTS), user, None)
    assert not Measurement.objects.exists() and not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_one_run_at_a_time_and_a_changed_column_ends_it(
    columns: Callable[..., Conversation], user: User
) -> None:
    chat = columns({"tokens": 2})
    run = noise.request(chat, Wanted(("hello",)), user, None)
    with pytest.raises(NoiseRefused, match="not over yet"):
        noise.request(chat, Wanted(("hello",)), user, None)
    chat.columns.update(parameters={"temperature": 1.5})
    finished(run)
    job = Job.objects.get()
    assert job.state == Job.State.FAILED and "was changed" in job.error
    assert noise.request(chat, Wanted(("hello",)), user, None).pk != run.pk


@pytest.mark.django_db(transaction=True)
def test_the_floor_is_of_the_columns_as_they_are(columns: Callable[..., Conversation], user: User) -> None:
    chat = columns({"token_delay_ms": 2}, {"token_delay_ms": 14})
    assert noise.floor_of(chat) is None
    finished(noise.request(chat, Wanted(PROMPTS), user, None))
    fast = chat.columns.first()
    assert fast is not None
    floor = noise.floor_of(chat)
    assert floor is not None and floor["tpot"] == fast.pk and floor["e2e"] == fast.pk
    fast.parameters = {"temperature": 0.1}
    fast.save()
    assert noise.floor_of(chat) is None


def test_columns_of_one_machine_share_its_hardware_unless_they_have_gpus_of_their_own() -> None:
    def on(node: int, *gpus: int) -> Replica:
        return Replica(node_id=node, resources={"gpus": [{"index": gpu, "share": None} for gpu in gpus]})

    assert subjects.share_hardware([[on(1)], [on(1)]])
    assert subjects.share_hardware([[on(1, 0, 1)], [on(1, 1)]])
    assert not subjects.share_hardware([[on(1, 0)], [on(1, 1)]])
    assert not subjects.share_hardware([[on(1)], [on(2)], [on(1, 0)]])


# The page


@pytest.fixture
def chat(columns: Callable[..., Conversation]) -> Conversation:
    row = columns({"tokens": 3}, {"tokens": 3})
    Turn.objects.create(conversation=row, text="What is <b>2 + 2</b>?", client_id="1")
    return row


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


@pytest.mark.django_db(transaction=True)
def test_the_page_leads_from_the_form_to_the_results(chat: Conversation, user: User) -> None:
    page, where = signed_in(user), reverse("noise", args=[chat.pk])
    first = page.get(where).content.decode()
    assert (
        "This prompt only" in first
        and "What is &lt;b&gt;2 + 2&lt;/b&gt;?" in first
        and "No run yet." in first
    )
    assert "48 answers, 12 pairs a comparison." in first
    form = {"what": "only", "rounds": "", "at_once": "1", "cache": "warm", "max_tokens": "8"}
    answer = page.post(reverse("noise-start", args=[chat.pk]), form)
    run = Measurement.objects.get()
    assert answer.status_code == 302 and answer["Location"] == f"{where}?run={run.pk}#results"
    assert run.turn is not None and run.settings["rounds"] == 12 and run.settings["only"] is True
    going = page.get(where).content.decode()
    assert f'data-topic="job:{run.job_id}"' in going and "Cancel" in going
    again = page.post(reverse("noise-start", args=[chat.pk]), form)
    assert again.status_code == 422 and "is not over yet" in again.content.decode()
    finished(run)
    done = page.get(reverse("noise-live", args=[chat.pk]), headers={"HX-Request": "true"}).content.decode()
    assert "The smallest difference it could have found" in done
    assert "Timed one at a time on shared hardware; interleaved." in done
    assert "True of these starts, not of the engine" in done
    assert "This prompt only: pairs are repeats of one prompt" in done
    assert "identical text is identical" in done
    assert "data-topic" not in done


@pytest.mark.django_db(transaction=True)
def test_a_run_of_few_pairs_shows_raw_values(chat: Conversation, user: User) -> None:
    finished(noise.request(chat, Wanted(("one", "two", "three")), user, None))
    shown = signed_in(user).get(reverse("noise", args=[chat.pk])).content.decode()
    assert "n/a: 3 pairs, at least 10 are needed; raw values" in shown
    assert 'TTFT <span class="figure">n/a</span>' in shown


@pytest.mark.django_db(transaction=True)
def test_what_is_wrong_is_said_at_its_field_and_nothing_typed_is_lost(chat: Conversation, user: User) -> None:
    page, where = signed_in(user), reverse("noise-start", args=[chat.pk])
    form = {
        "what": "list",
        "prompts": "\n".join(map(str, range(201))),
        "rounds": "51",
        "at_once": "0",
        "cache": "hot",
    }
    answer = page.post(where, form | {"max_tokens": "many"})
    shown = answer.content.decode()
    assert answer.status_code == 422
    for why in (
        "201 prompts; 200 is the most.",
        "from 1 to 50.",
        "from 1 to 32.",
        "Warm or cold.",
        "from 1 to 4,096.",
    ):
        assert why in shown, why
    assert 'value="many"' in shown and "0\n1\n2" in shown
    file = SimpleUploadedFile("p.jsonl", b'{"prompt": "a"}\nnonsense')
    answer = page.post(where, {**form, "file": file})
    assert "Line 2 is not" in answer.content.decode()
    broken = SimpleUploadedFile("p.jsonl", b"\xff\xfe\x00")
    assert "not text in UTF-8" in page.post(where, {**form, "file": broken}).content.decode()
    assert not Measurement.objects.exists()
    lines = SimpleUploadedFile("p.jsonl", b'{"prompt": "a"}\n{"prompt": "b"}')
    right = {"what": "list", "prompts": "", "file": lines, "rounds": "2", "at_once": "1"}
    assert page.post(where, right | {"cache": "cold", "max_tokens": "4"}).status_code == 302
    kept = Measurement.objects.get().settings
    assert (kept["prompts"], kept["rounds"], kept["cache"], kept["only"]) == (["a", "b"], 2, "cold", False)


@pytest.mark.django_db(transaction=True)
def test_a_viewer_looks_and_starts_nothing_and_a_stranger_sees_nothing(
    chat: Conversation, user: User, stranger: User, team: Team
) -> None:
    run = noise.request(chat, Wanted(("one",)), user, None)
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    reads = [reverse("noise", args=[chat.pk]), reverse("noise-live", args=[chat.pk])]
    writes = [reverse("noise-start", args=[chat.pk]), reverse("noise-cancel", args=[chat.pk, run.pk])]
    for address in reads:
        assert signed_in(viewer).get(address).status_code == 200
        assert signed_in(stranger).get(address).status_code == 404
    page = signed_in(viewer).get(reads[0]).content.decode()
    assert "Measuring needs the role of member" in page and 'type="submit">Cancel' not in page
    for address in writes:
        assert signed_in(viewer).post(address, {"what": "only"}).status_code == 403
        assert signed_in(stranger).post(address, {"what": "only"}).status_code == 404
    assert signed_in(stranger).post(reverse("noise-estimate", args=[chat.pk])).status_code == 404
    assert Measurement.objects.count() == 1
    assert Job.objects.get().state == Job.State.QUEUED
    assert signed_in(user).post(writes[1]).status_code == 302
    assert Job.objects.get().state == Job.State.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_a_run_of_another_conversation_is_not_shown(chat: Conversation, user: User, team: Team) -> None:
    other = chats.conversation(team)
    run = Measurement.objects.create(team=team, conversation=other, kind=Measurement.Kind.NOISE)
    page = signed_in(user)
    for wanted in (run.pk, "x", "9" * 30):
        assert page.get(reverse("noise", args=[chat.pk]), {"run": wanted}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_the_estimate_goes_by_earlier_answers(chat: Conversation, user: User) -> None:
    page, where = signed_in(user), reverse("noise-estimate", args=[chat.pk])
    form = {"what": "list", "prompts": "a\nb\nc", "rounds": "1", "at_once": "1", "cache": "warm"}
    assert "How long it takes is not known" in page.post(where, form | {"max_tokens": "11"}).content.decode()
    turn = Turn.objects.get()
    for column in chat.columns.all():
        timings = {"ttft": 1000.0, "e2e": 1000.0 + 99 * 100, "chunks": 100, "first_chunk_tokens": 1}
        usage = {"completion_tokens": 100}
        Generation.objects.create(turn=turn, column=column, state="complete", timings=timings, usage=usage)
    # Two seconds each: eleven of the hundred tokens. Three prompts, two columns, each twice.
    shown = page.post(where, form | {"max_tokens": "11"}).content.decode()
    assert "12 answers, 3 pairs a comparison" in shown and "About 24 s" in shown
    assert "too few for a verdict" in shown


def test_a_dataset_gives_its_prompts_and_its_name(
    team: Team, columns: Callable[..., Conversation], user: User
) -> None:
    many = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}
    made = version(team, ["One?", "Two?", "One?", many])
    other = version(Team.objects.create(slug="other", name="Other"), ["Three?"])
    form = noise_form.Typed(what="dataset", dataset=str(made.pk))
    wanted = noise_form.read(form, None, "", team)
    assert wanted.prompts == ("One?", "Two?") and wanted.rounds == 1
    assert noise_words.asked(asdict(wanted)).startswith("2 prompts of questions v1, 2 of 4 rows, 1 round")
    for key in (str(other.pk), "", "x", "9" * 30):
        with pytest.raises(noise_form.BadForm) as caught:
            noise_form.read(replace(form, dataset=key), None, "", team)
        assert caught.value.fields["dataset"] == "Choose a dataset."
    lone = version(team, [many], name="talks")
    with pytest.raises(noise_form.BadForm, match="No row of talks v1 is one message of text"):
        noise_form.read(replace(form, dataset=str(lone.pk)), None, "", team)
    found = dataset_prompts.given(team, str(made.pk), 2000, single=False)
    assert found.prompts == (
        *([{"role": "user", "content": text}] for text in ("One?", "Two?")),
        many["messages"],
    )


def test_the_forms_offer_datasets(
    team: Team, columns: Callable[..., Conversation], client: Client, user: User
) -> None:
    made, chat = version(team, ["One?", "Two?"]), columns({})
    client.force_login(user)
    for name in ("noise", "load"):
        page = client.get(reverse(name, args=[chat.pk])).content.decode()
        assert f'<option value="{made.pk}">questions v1, 2 rows</option>' in page
    typed = {"source": "dataset", "dataset": str(made.pk), "levels": "x"}
    answer = client.post(reverse("load-start", args=[chat.pk]), typed)
    assert answer.status_code == 422
    assert f'<option value="{made.pk}" selected>' in answer.content.decode()
    typed = load_form.DEFAULTS | typed | {"levels": "1"}
    assert load.wanted(chat, typed).prompts[0] == [{"role": "user", "content": "One?"}]
