"""Load runs: their figures on samples made by hand, and real runs against the fake engine."""

import csv
import io
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from playground import jobs, load, load_chart, load_form, load_measuring, load_report, load_results
from playground.asking import Taken
from playground.cells import safe
from playground.load_report import Limits, Request, row
from playground.models import (
    Column,
    Conversation,
    Job,
    MeasuredUse,
    Measurement,
    Membership,
    RowsTaken,
    Sample,
    Team,
    User,
)
from tests import chats
from tests.fakes import RunningFake
from tests.fleet import ROOT

FORM = load_form.DEFAULTS | {"requests": "6", "max_tokens": "5", "warm_up": "1", "levels": "1, 2"}
PROMPT = "[[tokens=5]] [[delay=5]]"


def done(start: float, e2e: float = 1000.0, **more: Any) -> Request:
    """A completed request of 11 tokens, the first after 100 ms."""
    given = {"sent_ms": start, "ttft": 100.0, "tpot": (e2e - 100.0) / 10, "tokens": 11} | more
    return Request("complete", start, e2e=e2e, **given)


def closed(at_once: int, rounds: int, e2e: float = 1000.0) -> list[Request]:
    """A level whose answers last the same: waves that begin a millisecond after the last ended."""
    return [done(wave * (e2e + 1), e2e) for wave in range(rounds) for _ in range(at_once)]


# The figures, on samples made by hand


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_throughput_of_a_closed_level_is_what_its_definition_says(at_once: int) -> None:
    found = row(closed(at_once, rounds=5), Limits())
    # Four of five waves ended while requests were sent; the last wave is the tail.
    assert found["counted"] == 4 * at_once and found["tail_cut"]
    assert found["window_s"] == pytest.approx(4.003)
    assert found["tokens_s"] == pytest.approx(at_once * 4 * 11 / 4.003)
    assert found["requests_s"] == pytest.approx(at_once * 4 / 4.003)
    assert found["ttft"] == {"n": 5 * at_once, "p50": 100.0, "p95": 100.0}
    assert found["tpot"]["p50"] == pytest.approx(90.0)
    assert (found["offered"], found["completed"], found["failed"]) == (5 * at_once, 5 * at_once, 0)


def test_a_level_with_no_more_requests_than_run_at_once_has_no_tail_to_cut() -> None:
    found = row(closed(4, rounds=1), Limits())
    assert not found["tail_cut"] and found["tokens_s"] == pytest.approx(44.0)


def test_an_open_level_counts_from_when_a_request_was_to_be_sent() -> None:
    taken = Taken(
        "complete",
        0.0,
        usage={"completion_tokens": 3},
        timings={"ttft": 50.0, "e2e": 150.0, "chunks": 3, "first_chunk_tokens": 1},
    )
    late = load_report.request(taken, scheduled_ms=1000.0, sent_ms=1200.0)
    assert (late.ttft, late.e2e, late.tpot) == (250.0, 350.0, 50.0)
    assert late.late and late.end_ms == 1350.0
    prompt = load_report.request(taken, scheduled_ms=1000.0, sent_ms=1001.0)
    assert not prompt.late and prompt.ttft == 51.0
    assert load_report.request(taken, None, 1200.0).ttft == 50.0


def test_failed_requests_are_counted_and_left_out_of_latency_and_throughput() -> None:
    failed = Request("failed", 0.0, 0.0, ttft=1.0, e2e=5.0)
    stopped = Request("stopped", 0.0, 0.0, ttft=1.0)
    found = row([failed, stopped, *closed(1, rounds=3)], Limits())
    assert (found["offered"], found["completed"], found["failed"], found["unfinished"]) == (5, 3, 1, 1)
    assert found["ttft"] == {"n": 3, "p50": 100.0, "p95": 100.0}
    assert found["tokens_s"] == pytest.approx(2 * 11 / 2.001)


def test_nothing_completed_has_no_figures_rather_than_zeros() -> None:
    found = row([Request("failed", 0.0, 0.0)], Limits(ttft=100))
    assert found["tokens_s"] is None and found["goodput"] is None and found["ttft"]["p50"] is None
    assert found["good"] == 0


def test_tokens_that_no_engine_counted_leave_throughput_unknown() -> None:
    found = row([done(0), done(1001, tokens=None), done(2002)], Limits())
    assert found["tokens_s"] is None and found["requests_s"] is not None


def test_goodput_counts_what_meets_every_limit() -> None:
    requests = [done(0), done(1001, ttft=300.0), done(2002, tpot=200.0), done(3003), done(4004, e2e=1000.0)]
    found = row(requests, Limits(ttft=250, tpot=100, e2e=1000))
    assert found["good"] == 3
    assert found["goodput"] == pytest.approx(
        2 / 4.003
    )  # Of the four that ended before the tail, two are good.
    assert row(requests, Limits())["good"] is None
    assert not Limits(ttft=250).meets(Request("failed", 0.0, 0.0, ttft=1.0, e2e=2.0))
    assert not Limits(ttft=250).meets(done(0, ttft=None))


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentiles_lie_between_the_nearest_ranks(share: float, expected: float) -> None:
    assert load_report.percentile([1.0, 2.0, 3.0, 4.0], share) == pytest.approx(expected)


def test_the_pareto_front_is_what_nothing_beats_in_both() -> None:
    points = [(10.0, 50.0), (20.0, 60.0), (15.0, 70.0), (20.0, 90.0), (20.0, 60.0), (5.0, 10.0)]
    assert load_report.front(points) == [True, True, False, False, True, True]


# What is drawn


def test_a_chart_has_every_point_within_its_frame_and_ticks_from_zero() -> None:
    points = [
        load_chart.Point(0, False, "1", 10.0, 120.0),
        load_chart.Point(0, False, "2", 18.0, 150.0),
        load_chart.Point(1, False, "1", 9.0, 200.0),
        load_chart.Point(1, True, "0.5/s", 4.0, 90.0),
    ]
    chart = load_chart.chart("ttft", "TTFT", ["a", "b"], points)
    assert chart is not None
    assert [(line.name, line.open, len(line.marks)) for line in chart.lines] == [
        ("a", False, 2),
        ("b", False, 1),
        ("b", True, 1),
    ]
    assert len({line.shape for line in chart.lines}) == 2, "columns differ by shape, loops by the filling"
    for line in chart.lines:
        for mark in line.marks:
            assert chart.left <= mark.x <= chart.right and chart.top <= mark.y <= chart.bottom
    assert [tick.label for tick in chart.x_ticks] == ["0", "5", "10", "15", "20"]
    assert chart.y_ticks[0].label == "0" and float(chart.y_ticks[-1].label) >= 200
    assert [mark.front for line in chart.lines for mark in line.marks] == [True, True, False, True]
    assert "b at 0.5/s" in chart.words and "b at 1" not in chart.words


@pytest.mark.parametrize("most", [1e-9, 0.5, 1, 9.99, 123.4, 98765.0])
def test_an_axis_ends_at_a_tick_above_everything(most: float) -> None:
    chart = load_chart.chart("ttft", "TTFT", ["a"], [load_chart.Point(0, False, "1", most, most)])
    assert chart is not None
    assert 2 <= len(chart.x_ticks) <= 8
    assert chart.x_ticks[-1].at == pytest.approx(chart.right, abs=0.2)


# What may be asked for


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("levels", "", "at least one"),
        ("levels", "1, 2, two", "two is no level"),
        ("levels", "0", "from 1 to 512"),
        ("levels", "1.5", "whole number"),
        ("levels", "513", "from 1 to 512"),
        ("levels", "0.001/s", "from 0.01/s"),
        ("levels", "999/s", "to 200/s"),
        ("levels", "1 2 1", "twice"),
        ("levels", ", ".join(map(str, range(1, 14))), "At most 12 levels; these are 13"),
        ("levels", "-1", "is no level"),
        ("levels", "1e3", "is no level"),
        ("requests", "0", "from 1 to 2,000"),
        ("requests", "2001", "from 1 to 2,000"),
        ("requests", "٣", "from 1 to 2,000"),
        ("seconds", "0", "above 0"),
        ("seconds", "1201", "to 1,200"),
        ("max_tokens", "0", "from 1 to"),
        ("warm_up", "51", "from 0 to 50"),
        ("ttft", "-5", "above 0"),
        ("tpot", "fast", "above 0"),
        ("e2e", "nan", "above 0"),
    ],
)
def test_a_wrong_field_is_refused_in_words(name: str, typed: str, said: str) -> None:
    with pytest.raises(load_form.LoadRefused) as refusal:
        load_form.read(FORM | {name: typed}, PROMPT)
    assert list(refusal.value.fields) == [name]
    assert said in refusal.value.fields[name]


def test_levels_are_concurrencies_and_rates_in_the_order_typed() -> None:
    levels = load_form.read_levels("4, 1; 0.5/s 2 /s")
    assert [(level.open, level.value) for level in levels] == [(False, 4), (False, 1), (True, 0.5), (True, 2)]
    assert [level.label for level in levels] == ["4", "1", "0.5/s", "2/s"]


def test_what_is_kept_is_read_again_as_it_was() -> None:
    wanted = load_form.read(FORM | {"levels": "1, 0.5/s", "ttft": "20"}, PROMPT)
    assert load_form.Wanted.of(wanted.kept() | {"columns": []}) == wanted


def test_arrivals_are_poisson_repeatable_and_end_with_the_seconds() -> None:
    wanted = load_form.read(FORM | {"levels": "1, 4/s", "requests": "2000", "seed": "7"}, PROMPT)
    arrivals = wanted.arrivals(1)
    assert arrivals == wanted.arrivals(1) and arrivals[0] == 0.0 and arrivals == sorted(arrivals)
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.25, rel=0.1) and spread == pytest.approx(mean, rel=0.1)
    other = load_form.read(FORM | {"levels": "1, 4/s", "requests": "2000", "seed": "8"}, PROMPT)
    assert other.arrivals(1) != arrivals
    short = load_form.read(FORM | {"levels": "1, 4/s", "requests": "2000", "seconds": "10"}, PROMPT)
    assert 20 < len(short.arrivals(1)) < 60 and short.arrivals(1)[-1] <= 10


def test_prompts_are_text_or_json_lines_or_batch_lines() -> None:
    assert load_form.read_prompts("one\n\n two \r\n") == ("one", "two")
    lines = '{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n'
    lines += '{"custom_id": "1", "body": {"model": "m", "messages": [{"role": "user", "content": "c"}]}}'
    assert load_form.read_prompts(lines) == (
        "a",
        [{"role": "user", "content": "b"}],
        [{"role": "user", "content": "c"}],
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "at least one"),
        ('{"prompt": "a"}\nnot json', "Line 2: it is not JSON: Expecting value: column 1"),
        ('{"prompt": "a"}\n\n{"prompt": ""}', "Line 3: neither"),
        ('{"body": {"messages": []}}', "Line 1: messages must not be empty"),
        ('{"body": 3}', "Line 1: body must be an object"),
        ('{"messages": [{"role": "tyrant", "content": "x"}]}', "Line 1: messages[0].role"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}',
            "Line 1: only messages",
        ),
        ('{"prompt": "a", "prompt": "b"}', "Line 1: 'prompt' is given twice"),
        ("\n".join(["{"] * 9), "And 4 more."),
        ("x\n" * 2001, "At most 2,000 prompts"),
    ],
)
def test_wrong_lines_are_named(lines: str, said: str) -> None:
    with pytest.raises(load_form.LoadRefused) as refusal:
        load_form.read(FORM | {"source": "prompts", "prompts": lines}, "")
    assert said in refusal.value.fields["prompts"]


def test_the_estimate_says_what_it_can_and_no_more() -> None:
    wanted = load_form.read(FORM | {"levels": "1, 2", "requests": "10", "warm_up": "0"}, PROMPT)
    taking = load_form.estimate(wanted, [2.0])
    assert (taking.least, taking.most) == (30.0, 40.0)
    assert load_form.estimate(wanted, [2.0, None]).most is None
    assert load_form.estimate(wanted, [None]) == load_form.Estimate(None, None)
    slow = load_form.read(FORM | {"levels": "0.01/s", "requests": "100"}, PROMPT)
    assert load_form.estimate(slow, [None]).too_long
    assert not load_form.estimate(
        load_form.read(FORM | {"levels": "1", "requests": "2000", "seconds": "9"}, PROMPT), [5.0]
    ).too_long


# Real runs


@pytest.fixture
def fake(fake_engine: Callable[..., RunningFake]) -> RunningFake:
    return fake_engine(key="k")


@pytest.fixture
def chat(team: Team, fake: RunningFake, transactional_db: None) -> Conversation:
    """Two columns of which one is ready, and a message."""
    ready, stopped = chats.deployment(team, "ready"), chats.deployment(team, "stopped", desired="stopped")
    chats.ready(ready, fake)
    row = chats.conversation(team, ready, stopped)
    row.turns.create(text=PROMPT, client_id="1")
    return row


@pytest.fixture
def page(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def post(page: Client, chat: Conversation, **typed: Any) -> Any:
    return page.post(reverse("load-start", args=[chat.pk]), FORM | typed)


def begun(page: Client, chat: Conversation, **typed: Any) -> Measurement:
    answer = post(page, chat, **typed)
    assert answer.status_code == 302, answer.content.decode()
    return Measurement.objects.get()


def finished(run: Measurement) -> Measurement:
    assert run.job is not None
    jobs.run(run.job.pk)
    run.refresh_from_db()
    return run


def test_a_run_measures_closed_and_open_levels_and_shows_them(page: Client, chat: Conversation) -> None:
    run = begun(page, chat, levels="1, 3, 40/s", ttft="60000")
    assert run.job is not None and run.job.kind == Job.Kind.MEASURE_LOAD
    assert [one["name"] for one in run.settings["columns"]] == ["ready"]
    run = finished(run)
    assert run.job.state == Job.State.DONE, run.job.error
    samples = list(run.samples.all())
    assert [(one.arm, one.level) for one in samples] == [
        *[("closed", 1)] * 6,
        *[("closed", 3)] * 6,
        *[("open", 40)] * 6,
    ]
    assert all(one.state == "complete" and one.usage["completion_tokens"] == 5 for one in samples)
    assert all(one.scheduled_ms is None for one in samples[:12])
    # Nothing is sent before its time; what came later than that is in the figures.
    assert all(one.sent_ms >= one.scheduled_ms for one in samples[12:])
    first, last = samples[12].scheduled_ms, samples[17].scheduled_ms
    wanted = load_form.Wanted.of(run.settings)
    assert last - first == pytest.approx(1000 * wanted.arrivals(2)[-1], abs=0.1)
    rows = run.result["rows"]
    assert [(one["completed"], one["failed"], one["good"]) for one in rows] == [(6, 0, 6)] * 3
    assert all(one["tokens_mean"] == 5 and one["tokens_s"] > 0 and one["goodput"] > 0 for one in rows)
    assert all(one["tpot"]["p50"] >= 4 for one in rows), "the fake waits 5 ms a token"
    shown = page.get(reverse("load", args=[chat.pk])).content.decode()
    assert "40 requests/s" in shown and "3 at once" in shown and "Every answer had 5 tokens." in shown
    assert shown.count('<svg class="chart"') == 2 and "open loop" in shown and "closed loop" in shown


def test_no_more_run_at_once_than_a_closed_level_says(page: Client, chat: Conversation) -> None:
    run = finished(begun(page, chat, levels="2", requests="8", warm_up="0"))
    spans = sorted((one.sent_ms, one.sent_ms + one.timings["e2e"]) for one in run.samples.all())
    for start, _ in spans:
        assert sum(other <= start < end for other, end in spans) <= 2
    assert any(sum(other <= start < end for other, end in spans) == 2 for start, _ in spans)


def test_warm_up_is_asked_and_not_counted(page: Client, chat: Conversation, fake: RunningFake) -> None:
    run = finished(begun(page, chat, levels="1", requests="3", warm_up="2"))
    assert run.samples.count() == 3
    assert MeasuredUse.objects.filter(team=run.team, user=run.created_by, kind="load").count() == 5
    assert RowsTaken.objects.get().rows == 5
    bodies = [one["body"] for one in fake.requests() if one["path"] == "/v1/chat/completions"]
    assert len(bodies) == 5
    # The length is asked for where the engine has a way to fix it.
    assert all(
        body["max_tokens"] == 5 and body["ignore_eos"] is True and body["min_tokens"] == 5 for body in bodies
    )


def test_lengths_that_differ_are_told(page: Client, chat: Conversation) -> None:
    lines = "[[tokens=3]]\n[[tokens=5]]"
    run = finished(begun(page, chat, levels="1", requests="4", source="prompts", prompts=lines, fixed=""))
    assert run.result["rows"][0]["tokens_mean"] == 4
    assert {one.prompt for one in run.samples.all()} == {0, 1}
    assert "Answers had from 3 to 5 tokens" in page.get(reverse("load", args=[chat.pk])).content.decode()


def test_failures_are_counted_and_ten_in_a_row_end_the_column(page: Client, chat: Conversation) -> None:
    run = finished(begun(page, chat, requests="30", source="prompts", prompts="[[error=500]]", warm_up="0"))
    assert run.job is not None and run.job.state == Job.State.DONE
    (found,) = run.result["rows"]
    assert found["failed"] == found["offered"] == 10 and found["tokens_s"] is None
    assert "failed 10 times one after another" in run.result["left"][str(chat.columns.first().pk)]
    shown = page.get(reverse("load", args=[chat.pk])).content.decode()
    assert "failed 10 times" in shown and '<svg class="chart"' not in shown


def test_cancel_ends_everything_within_a_second_and_keeps_what_came(
    page: Client, chat: Conversation, fake: RunningFake
) -> None:
    run = begun(
        page,
        chat,
        levels="1, 4",
        requests="4",
        source="prompts",
        prompts="[[tokens=8]] [[delay=400]]",
        max_tokens="8",
    )
    assert run.job is not None
    runner = threading.Thread(target=jobs.run, args=[run.job.pk])
    runner.start()
    chats.until("a sample came", lambda: run.samples.exists(), 20)
    answer = page.post(reverse("load-cancel", args=[chat.pk, run.pk]))
    asked = time.monotonic()
    assert answer.status_code == 302
    runner.join(20)
    assert time.monotonic() - asked < 3.0  # A second, and what a busy machine adds.
    fake.wait_idle()
    run.refresh_from_db()
    assert run.job is not None and run.job.state == Job.State.CANCELLED
    assert 1 <= run.samples.count() < 8
    assert "Cancelled by ada" in page.get(reverse("load", args=[chat.pk])).content.decode()


def test_what_outlasts_the_run_is_cut_off_and_counts_neither_way(
    page: Client, chat: Conversation, fake: RunningFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_measuring, "RUN_S", 0.6)
    given = {"source": "prompts", "prompts": "[[tokens=100]] [[delay=200]]", "max_tokens": "100"}
    run = finished(begun(page, chat, levels="1, 2", requests="3", warm_up="0", **given))
    assert run.job is not None and run.job.state == Job.State.DONE
    (sample,) = run.samples.all()
    assert sample.state == "stopped" and "time of the run was over" in sample.error
    (found,) = run.result["rows"]
    assert (found["offered"], found["completed"], found["failed"], found["unfinished"]) == (1, 0, 0, 1)
    assert "minutes of a run were over" in page.get(reverse("load", args=[chat.pk])).content.decode()
    fake.wait_idle()


def test_a_runner_told_to_end_stops_the_engine_and_gives_the_run_back(
    page: Client, chat: Conversation, fake: RunningFake
) -> None:
    given = {"source": "prompts", "prompts": "[[tokens=8]] [[delay=300]]", "max_tokens": "8"}
    run = begun(page, chat, levels="2", requests="20", warm_up="0", **given)
    assert run.job is not None
    runner = subprocess.Popen([sys.executable, "manage.py", "run_job", str(run.job.pk)], cwd=ROOT)
    try:
        chats.until("a sample came", lambda: run.samples.exists(), 40)
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(15) == 0
    finally:
        runner.kill()
        runner.wait()
    fake.wait_idle()
    run.job.refresh_from_db()
    assert run.job.state == Job.State.QUEUED and run.job.attempt == 0


def test_a_run_taken_up_again_starts_anew(page: Client, chat: Conversation) -> None:
    run = begun(page, chat, levels="1", requests="3")
    Sample.objects.create(measurement=run, state="complete", sent_ms=1.0)
    run = finished(run)
    assert run.samples.count() == 3


def test_a_column_that_stopped_meanwhile_is_told(page: Client, chat: Conversation) -> None:
    run = begun(page, chat)
    chat.columns.first().deployment.replicas.update(state="stopped")
    run = finished(run)
    assert run.job is not None and run.job.state == Job.State.FAILED
    assert "ready was not ready when its turn came" in run.job.error


# The page


def test_what_was_typed_stays_beside_what_is_wrong(page: Client, chat: Conversation) -> None:
    answer = post(page, chat, levels="1, many", source="prompts", prompts="{}\n<b>", e2e="soon", seed="77")
    assert answer.status_code == 422 and not Measurement.objects.exists()
    shown = answer.content.decode()
    assert "many is no level" in shown and "Line 1: neither" in shown and shown.count('class="error') == 3
    assert 'value="1, many"' in shown and "{}\n&lt;b&gt;" in shown and 'value="77"' in shown


def test_a_file_is_read_and_its_lines_stay_when_it_is_refused(page: Client, chat: Conversation) -> None:
    good = SimpleUploadedFile("prompts.jsonl", b'{"prompt": "[[tokens=5]]"}\n{"prompt": "[[tokens=5]] b"}\n')
    run = begun(page, chat, file=good)
    assert run.settings["prompts"] == ["[[tokens=5]]", "[[tokens=5]] b"]
    jobs.cancel(run.job, None)
    bad = post(page, chat, file=SimpleUploadedFile("prompts.jsonl", b'{"prompt": "kept"}\n{"no": 1}'))
    assert bad.status_code == 422 and "Line 2: neither" in bad.content.decode()
    assert "kept" in bad.content.decode()
    binary = post(page, chat, file=SimpleUploadedFile("prompts.jsonl", b"\xff\xfe\x00"))
    assert binary.status_code == 422 and "no UTF-8 text" in binary.content.decode()
    large = post(page, chat, file=SimpleUploadedFile("p.txt", b"x" * (load_form.BYTES + 1)), levels="3, 5")
    assert large.status_code == 422 and "at most 1 MiB" in large.content.decode()
    assert 'value="3, 5"' in large.content.decode()


def test_one_run_at_a_time_and_none_without_a_ready_column(page: Client, chat: Conversation) -> None:
    run = begun(page, chat)
    again = post(page, chat)
    assert again.status_code == 422 and "still going: wait for it" in again.content.decode()
    jobs.cancel(run.job, None)
    chat.columns.first().deployment.replicas.update(state="stopped")
    none = post(page, chat)
    assert none.status_code == 422 and "None of the columns is ready" in none.content.decode()


def test_a_run_that_must_outlast_twenty_minutes_is_refused_beforehand(
    page: Client, chat: Conversation
) -> None:
    answer = post(page, chat, levels="0.01/s", requests="100")
    assert answer.status_code == 422
    assert "at least" in answer.content.decode() and "a run ends after 20" in answer.content.decode()
    asked = page.post(
        reverse("load-estimate", args=[chat.pk]), FORM | {"levels": "0.01/s", "requests": "100"}
    )
    assert "a run ends after 20" in asked.content.decode()
    short = page.post(reverse("load-estimate", args=[chat.pk]), FORM | {"levels": "2/s", "requests": "20"})
    assert "At least" in short.content.decode()


def test_a_viewer_may_look_but_not_start_and_a_stranger_sees_nothing(
    client: Client, page: Client, chat: Conversation, team: Team, stranger: User
) -> None:
    run = finished(begun(page, chat, levels="1", requests="2"))
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(viewer)
    shown = client.get(reverse("load", args=[chat.pk]))
    assert shown.status_code == 200 and "You may look at every run" in shown.content.decode()
    assert client.get(reverse("load-samples", args=[chat.pk, run.pk])).status_code == 200
    assert post(client, chat).status_code == 403
    assert client.post(reverse("load-cancel", args=[chat.pk, run.pk])).status_code == 403
    client.force_login(stranger)
    for name in ("load", "load-live"):
        assert client.get(reverse(name, args=[chat.pk])).status_code == 404
    assert client.get(reverse("load-samples", args=[chat.pk, run.pk])).status_code == 404
    assert post(client, chat).status_code == 404
    assert client.post(reverse("load-estimate", args=[chat.pk]), FORM).status_code == 404
    assert client.post(reverse("load-cancel", args=[chat.pk, run.pk])).status_code == 404
    assert Measurement.objects.count() == 1


def test_a_run_of_another_conversation_is_not_shown_here(
    page: Client, chat: Conversation, team: Team
) -> None:
    run = begun(page, chat)
    other = chats.conversation(team)
    assert page.get(reverse("load", args=[other.pk]), {"run": run.pk}).status_code == 404
    assert page.get(reverse("load", args=[other.pk]), {"run": "x"}).status_code == 404
    assert page.get(reverse("load-samples", args=[other.pk, run.pk])).status_code == 404


def test_a_blind_conversation_tells_no_figures(page: Client, chat: Conversation) -> None:
    run = finished(begun(page, chat, levels="1", requests="2"))
    Conversation.objects.filter(pk=chat.pk).update(blind=True)
    shown = page.get(reverse("load", args=[chat.pk])).content.decode()
    assert "is blind" in shown and "ready" not in shown.partition("<main")[2].partition("</main>")[0].replace(
        "already", ""
    )
    assert page.get(reverse("load-samples", args=[chat.pk, run.pk])).status_code == 404
    assert post(page, chat).status_code == 422


def test_samples_are_a_file_without_formulas(page: Client, chat: Conversation) -> None:
    run = finished(begun(page, chat, levels="1, 40/s", requests="2"))
    settings = run.settings
    settings["columns"][0]["name"] = "=cmd|' /C calc'!A0"
    Measurement.objects.filter(pk=run.pk).update(settings=settings)
    run.samples.filter(level=1).update(error='@SUM(1+9), "quoted"\nsecond line')
    answer = page.get(reverse("load-samples", args=[chat.pk, run.pk]))
    assert answer["Content-Type"].startswith("text/csv") and "attachment" in answer["Content-Disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [line["loop"] for line in lines] == ["closed", "closed", "open", "open"]
    assert all(line["column"] == "'=cmd|' /C calc'!A0" for line in lines)
    assert lines[0]["error"] == '\'@SUM(1+9), "quoted"\nsecond line'
    assert float(lines[2]["ttft_ms"]) >= float(lines[2]["sent_ms"]) - float(lines[2]["scheduled_ms"])
    assert lines[0]["completion_tokens"] == "5"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_a_cell_that_a_spreadsheet_would_run_is_text(cell: str) -> None:
    assert safe(cell) == f"'{cell}"
    assert safe(-1.5) == -1.5 and safe("plain") == "plain"


def test_columns_on_the_same_hardware_say_so() -> None:
    columns = [
        {"name": "a", "hardware": ["gpu-1, GPU 0"]},
        {"name": "b", "hardware": ["gpu-1, GPU 0", "gpu-1, GPU 1"]},
        {"name": "c", "hardware": ["node-1, processor"]},
    ]
    said = load_results.sharing(columns)
    assert "one after another, not interleaved" in said and "a, b share gpu-1, GPU 0" in said
    assert "GPU 1" not in said and "processor" not in said
    assert load_results.sharing(columns[:1]) == ""


def test_a_column_on_another_node_says_that_the_network_is_in_its_figures() -> None:
    columns = [{"name": "a", "hardware": ["here, processor"]}, {"name": "b", "hardware": ["gpu-1, GPU 0"]}]
    assert load_results.distance("here", columns) == "Measured from here: the way to b is in its figures."
    assert load_results.distance("here", columns[:1]) == ""


def test_goodput_is_reckoned_anew_for_other_limits(page: Client, chat: Conversation) -> None:
    run = finished(begun(page, chat, levels="1", requests="6"))
    address = reverse("load", args=[chat.pk])
    assert "no limits" in page.get(address).content.decode()
    ordered = sorted(one.timings["e2e"] for one in run.samples.all())
    middle = f"{(ordered[2] + ordered[3]) / 2:.3f}"
    shown = page.get(address, {"run": run.pk, "e2e": middle, "ttft": ""}).content.decode()
    assert "3 of 6" in shown and f'value="{middle}"' in shown and "Good is what completed with E2E" in shown
    wrong = page.get(address, {"run": run.pk, "tpot": "quick"}).content.decode()
    assert "above 0" in wrong and 'value="quick"' in wrong
    run.refresh_from_db()
    assert run.settings["limits"]["e2e"] is None, "looking changes nothing"


def test_no_column_idles_while_others_are_measured(page: Client, chat: Conversation) -> None:
    deployment = chat.columns.first().deployment
    before = deployment.last_used_at
    finished(begun(page, chat, levels="1", requests="2"))
    deployment.refresh_from_db()
    assert before is None and deployment.last_used_at is not None


def test_a_deleted_column_leaves_its_run_readable(page: Client, chat: Conversation) -> None:
    finished(begun(page, chat, levels="1", requests="2"))
    Column.objects.all().delete()
    shown = page.get(reverse("load", args=[chat.pk])).content.decode()
    assert "1 at once" in shown and '<svg class="chart"' in shown


def test_the_hardware_is_the_gpus_or_the_processor_of_the_node(chat: Conversation) -> None:
    replica = load.replicas_of(chat.columns.first())[0]
    assert load.hardware(replica) == ["test-node, processor"]
    replica.resources = {"gpus": [{"index": 0, "share": 0}, {"index": 1, "share": 0}]}
    assert load.hardware(replica) == ["test-node, GPU 0", "test-node, GPU 1"]
