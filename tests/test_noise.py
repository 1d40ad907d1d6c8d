"""The noise floor: what is asked in which order, what may be said of it, and real runs on fake engines."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import pytest

from playground import jobs, noise, noise_form, noise_order, noise_report, noise_words, subjects
from playground.models import Conversation, Deployment, Job, Measurement, Replica, Sample, Team, User
from playground.noise import NoiseRefused, Wanted
from playground.noise_report import Observed
from tests import chats
from tests.fakes import RunningFake

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
    own, pairs = noise_words.rows(found)
    assert {verdict.kind for row in own for verdict in row.verdicts} == {"same"}
    slow = pairs[0].verdicts[0]
    assert slow.kind == "differs" and slow.words.startswith("A is ") and "% slower (" in slow.words
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
    verdict = noise_words.rows(found)[1][0].verdicts[0]
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
    own, pairs = noise_words.rows(found)
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


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"prompt": "a"}\n{"prompt": 5}\nhello',
            'Line 2 is not {"prompt": "…"}. Line 3 is not {"prompt": "…"}.',
        ),
        ("\n", "Give at least one prompt."),
        ('{"prompt": "x"}\n' * 201, "201 prompts; 200 is the most."),
        ("nonsense\n" * 8, "And 3 more."),
    ],
)
def test_wrong_lines_are_named_by_number(text: str, why: str) -> None:
    with pytest.raises(noise_form.BadForm) as caught:
        noise_form.parse(text, lines_of_json=True)
    assert why in caught.value.fields["prompts"]


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


def finished(measurement: Measurement) -> Measurement:
    assert measurement.job is not None
    jobs.run(measurement.job.pk)
    measurement.refresh_from_db()
    return measurement


PROMPTS = tuple(f"number {place} [[tokens=4]]" for place in range(12))


def requests(fake: RunningFake) -> list[str]:
    """The last user message of every request that reached it."""
    connection = HTTPConnection("127.0.0.1", fake.port, timeout=5)
    connection.request("GET", "/fake/requests")
    seen = json.loads(connection.getresponse().read())
    connection.close()
    return [one["body"]["messages"] for one in seen if one["path"] == "/v1/chat/completions"]


@pytest.mark.django_db(transaction=True)
def test_a_slower_column_is_found_and_identical_ones_are_not(
    columns: Callable[..., Conversation], user: User
) -> None:
    chat = columns({"token_delay_ms": 4}, {"token_delay_ms": 4}, {"token_delay_ms": 12})
    run = finished(noise.request(chat, Wanted(PROMPTS), user, None))
    assert run.job is not None and run.job.state == Job.State.DONE, run.job.error
    assert run.samples.count() == 12 * 3 * 2
    assert run.settings["shared"] is True
    test = between(run.result, 1, 2)["tpot"]
    assert test["found"] and 1.5 < test["ratio"] < 5
    assert not between(run.result, 0, 1)["tpot"]["found"]
    assert noise.floor_of(chat) == {"ttft": None, "tpot": None, "e2e": None}
    assert [one["starts"] for one in run.result["columns"]] == [1, 1, 1]
