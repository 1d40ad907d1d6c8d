"""A batch's pages: what rows they show, what they count, and how all of it does with many rows."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from playground import batch_chart, batch_live, batch_report, batch_table, engine_client, scorers
from playground.batch_table import Wanted
from playground.figures import figures
from playground.models import (
    Batch,
    BatchColumn,
    BatchItem,
    BatchScore,
    DatasetVersion,
    Generation,
    Membership,
    Team,
    User,
)
from tests import batch_rows, batch_tables, chats
from tests.fakes import RunningFake

MANY = 200_000


@pytest.fixture
def version(team: Team) -> DatasetVersion:
    return batch_rows.version(team, [f"What is the capital of country {n}?" for n in range(1, 121)])


@pytest.fixture
def made(team: Team, version: DatasetVersion) -> tuple[Batch, list[BatchColumn]]:
    return batch_tables.batch(team, version)


@pytest.fixture
def page(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def numbers(found: batch_table.Page) -> list[int]:
    return [line.row.number for line in found.lines]


# The table


def test_pages_follow_each_other_by_key_until_the_rows_end(made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, columns = made
    seen: list[int] = []
    wanted = Wanted()
    for _ in range(3):
        found = batch_table.page(batch, columns, wanted)
        seen += numbers(found)
        wanted = Wanted(after=found.after)
    assert seen == list(range(1, 121)) and found.after == ""


def test_failed_rows_of_any_column_show_and_a_retried_one_does_not(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    batch, (one, two) = made
    for number in (3, 50, 99):
        batch_tables.fail(one, number)
    batch_tables.fail(two, 50)
    batch_tables.fail(two, 7)
    batch_tables.again(one, 99)
    wanted = Wanted(filter="failed")
    assert numbers(batch_table.page(batch, [one, two], wanted)) == [3, 7, 50]
    first = batch_table.page(batch, [one, two], wanted, size=2)
    assert numbers(first) == [3, 7] and first.after == "7"
    assert numbers(batch_table.page(batch, [one, two], Wanted("failed", after="7"), size=2)) == [50]
    (line,) = batch_table.lines(batch, [one, two], [99])
    assert line.cells[0].again and not line.cells[0].failed and not line.cells[1].again


def test_rows_that_differ_are_those_answered_twice_with_other_words(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    batch, (one, two) = made
    for number, words in ((1, "Paris"), (2, "Rome"), (3, "Bern")):
        batch_tables.answer(one, number, words)
    batch_tables.answer(two, 1, "Paris")
    batch_tables.answer(two, 2, "Milan")
    batch_tables.fail(two, 3)
    found = batch_table.page(batch, [one, two], Wanted(filter="differs"))
    assert numbers(found) == [2] and found.lines[0].differs and found.looked_to is None
    assert numbers(batch_table.page(batch, [one], Wanted(filter="differs"))) == []


def test_a_page_says_how_far_it_looked_for_rows_that_differ(
    made: tuple[Batch, list[BatchColumn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_table, "LOOKED_AT_MOST", 100)
    monkeypatch.setattr(batch_table, "FIRST_LOOK", 10)
    batch, (one, two) = made
    for number in (90, 110):
        batch_tables.answer(one, number, "a")
        batch_tables.answer(two, number, "b")
    found = batch_table.page(batch, [one, two], Wanted(filter="differs"))
    assert numbers(found) == [90] and found.looked_to == 100
    further = batch_table.page(batch, [one, two], Wanted(filter="differs", after=found.after))
    assert numbers(further) == [110] and further.looked_to is None


def test_regressions_are_rows_that_another_column_answers_worse_than_the_first(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    batch, (one, two) = made
    for number, (base, other) in {4: (1.0, 0.0), 5: (0.0, 1.0), 6: (1.0, 1.0), 9: (0.5, 0.25)}.items():
        BatchScore.objects.create(column=one, number=number, scorer=0, value=base)
        BatchScore.objects.create(column=two, number=number, scorer=0, value=other)
    BatchScore.objects.create(column=one, number=7, scorer=0, value=1.0)
    BatchScore.objects.create(column=two, number=7, scorer=0, value=None)
    assert numbers(batch_table.page(batch, [one, two], Wanted(filter="regressions"))) == [4, 9]
    assert numbers(batch_table.page(batch, [one], Wanted(filter="regressions"))) == []


@pytest.mark.parametrize(
    ("figure", "descending", "expected"),
    [
        ("ttft", False, [3, 1, 4, 2]),
        ("ttft", True, [2, 4, 1, 3]),
        ("e2e", True, [4, 3, 2, 1]),
        ("tokens", False, [2, 4, 1, 3]),
    ],
)
def test_rows_come_in_order_of_a_figure_page_by_page(
    made: tuple[Batch, list[BatchColumn]], figure: str, descending: bool, expected: list[int]
) -> None:
    batch, (one, two) = made
    for number, (ttft, e2e, tokens) in {
        1: (20, 100, 9),
        2: (70, 200, 1),
        3: (10, 300, 20),
        4: (20, 400, 1),
    }.items():
        timings, usage = {"ttft": ttft, "e2e": e2e}, {"completion_tokens": tokens}
        batch_tables.answer(one, number, timings=timings, usage=usage)
    batch_tables.fail(one, 5)
    batch_tables.answer(two, 6)
    seen: list[int] = []
    after = ""
    for _ in range(4):
        wanted = Wanted(figure=figure, column=one.pk, descending=descending, after=after)
        found = batch_table.page(batch, [one, two], wanted, size=1)
        seen, after = seen + numbers(found), found.after
    assert seen == expected and after == ""
    other = Wanted(figure=figure, column=two.pk + 99)
    assert numbers(batch_table.page(batch, [one, two], other)) == []


# Many rows


def plan(query: str, parameters: list[Any]) -> str:
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN " + query, parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


def queries(batch: Batch, columns: list[BatchColumn], wanted: Wanted) -> tuple[float, list[str], list[int]]:
    """How long a page took, the plans of its queries, the rows it showed."""
    with CaptureQueriesContext(connection) as asked:
        began = time.monotonic()
        found = batch_table.page(batch, columns, wanted)
        took = time.monotonic() - began
    return took, [plan(one["sql"], []) for one in asked.captured_queries], numbers(found)


@pytest.mark.slow
def test_a_page_of_two_hundred_thousand_rows_reads_only_what_it_shows(team: Team) -> None:
    version = batch_tables.emptied(batch_rows.version(team, ["x"]))
    batch, columns = batch_tables.batch(team, version)
    batch_tables.many(team, version, columns, MANY)
    batch.refresh_from_db()
    deep = str(MANY - 60)
    pages = [
        (Wanted(after=deep), list(range(MANY - 59, MANY - 9))),
        (Wanted("failed", after=str(MANY - 5000)), [MANY - 4000 + 1000 * n for n in range(5)]),
        (Wanted(figure="ttft", column=columns[0].pk, descending=True), None),
        (Wanted(figure="e2e", column=columns[1].pk, after=f"1500.0:{MANY // 2}"), None),
        (Wanted(figure="tokens", column=columns[1].pk, descending=True, after="50.0:7"), None),
    ]
    for wanted, expected in pages:
        took, plans, shown = queries(batch, columns, wanted)
        assert shown == expected or expected is None
        assert len(shown) in (5, 50)
        for one in plans:
            assert "Seq Scan" not in one or "playground_batchscore" in one, one
            assert not re.search(r"(?m)Sort .*rows=\d{4,}", one), one
        assert took < 1, (wanted, took)
    # Nothing differs: the page looks through LOOKED_AT_MOST rows, no more, and says so.
    began = time.monotonic()
    found = batch_table.page(batch, columns, Wanted("differs"))
    assert found.looked_to == batch_table.LOOKED_AT_MOST and numbers(found) == []
    assert time.monotonic() - began < 5


# What it counts


def test_totals_and_percentiles_are_of_answered_rows_alone(made: tuple[Batch, list[BatchColumn]]) -> None:
    _batch, (one, two) = made
    for number in range(1, 102):
        timings = {"ttft": float(number), "e2e": number + 1000.0, "cost": 0.01}
        batch_tables.answer(one, number, timings=timings)
    batch_tables.fail(one, 102)
    batch_tables.answer(one, 103, timings={"ttft": 9_999.0, "e2e": 99_999.0, "lagged": True, "cost": 0.01})
    found = batch_report.totals([one, two])
    total = found[one.pk]
    assert (total.n, total.tokens, total.prompt_tokens, total.late) == (102, 1122, 1224, 1)
    assert total.cost == pytest.approx(1.02)
    assert total.spreads["ttft"].n == 101
    assert total.spreads["ttft"].at == pytest.approx({50: 51.0, 90: 91.0, 95: 96.0, 99: 100.0})
    assert total.spreads["e2e"].at[50] == pytest.approx(1051.0)
    assert total.spreads["tpot"].at[50] == pytest.approx(100.0)
    assert total.tokens_s and total.span_s and total.tokens_s == pytest.approx(1122 / total.span_s)
    assert found[two.pk] == batch_report.Totals()
    assert batch_report.failed([one, two]) == {one.pk: 1, two.pk: 0}


def test_figures_agree_with_those_under_an_answer(made: tuple[Batch, list[BatchColumn]]) -> None:
    _, (one, _) = made
    result = batch_tables.answer(
        one, 1, timings={"ttft": 31.0, "e2e": 431.0, "chunks": 4, "first_chunk_tokens": 3}
    )
    (spread,) = [batch_report.totals([one])[one.pk].spreads["tpot"]]
    assert spread.at[50] == pytest.approx(figures(result).tpot) and spread.n == 1


def test_what_some_rows_do_not_tell_is_not_made_up(made: tuple[Batch, list[BatchColumn]]) -> None:
    _, (one, _) = made
    batch_tables.answer(one, 1, timings={"cost": 0.5})
    batch_tables.answer(one, 2, usage={"completion_tokens": None})
    total = batch_report.totals([one])[one.pk]
    assert total.cost is None and total.tokens is None and total.tokens_s is None
    assert total.spreads["tpot"].n == 1


def test_progress_has_a_rate_and_time_left_only_while_rows_come(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    batch, (one, two) = made
    for number in range(1, 11):
        batch_tables.answer(one, number)
    batch_tables.fail(one, 11)
    BatchResultTimes(one).spread(seconds=10)
    found = batch_report.progress(batch, [one, two])
    assert (found[one.pk].done, found[one.pk].failed, found[one.pk].open) == (10, 1, 109)
    assert found[one.pk].rate == pytest.approx(1.1, rel=0.2)
    assert found[one.pk].left_s == pytest.approx(109 / found[one.pk].rate)  # type: ignore[operator]
    assert found[two.pk].rate is None and found[two.pk].left_s is None
    whole = batch_report.whole(list(found.values()))
    assert (whole.total, whole.ended) == (240, 11) and whole.left_s is None
    batch.state = Batch.State.PAUSED
    assert batch_report.progress(batch, [one])[one.pk].rate is None


class BatchResultTimes:
    """When a column's results came."""

    def __init__(self, column: BatchColumn) -> None:
        self.column = column

    def spread(self, seconds: float) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE playground_batchresult"
                " SET created_at = now() - make_interval(secs => %s * (11 - number) / 10.0)"
                " WHERE column_id = %s",
                [seconds, self.column.pk],
            )


def test_the_histogram_holds_every_answered_row_and_the_tail_in_its_last_bar(
    made: tuple[Batch, list[BatchColumn]],
) -> None:
    _, (one, two) = made
    for number in range(1, 101):
        batch_tables.answer(one, number, timings={"e2e": 100.0 + number})
        batch_tables.answer(two, number, timings={"e2e": 150.0})
    batch_tables.answer(one, 101, timings={"e2e": 9000.0})
    batch_tables.fail(two, 101)
    found = batch_report.histogram([one, two])
    assert sum(bin.count for bin in found[one.pk]) == 101 and sum(bin.count for bin in found[two.pk]) == 100
    assert found[one.pk][-1].high == 9000.0 and found[one.pk][-1].count >= 1
    charts = batch_chart.of(found, "e2e")
    assert [chart.column for chart in charts] == [one.pk, two.pk]
    assert all(bar.x >= 0 and bar.x + bar.width <= chart.width for chart in charts for bar in chart.bars)
    assert "of 100 rows: most, 100" in charts[1].words
    assert batch_chart.of(batch_report.histogram([two], "ttft"), "ttft")[0].bars
    assert batch_report.histogram([], "e2e") == {}


# The pages


def everything(batch: Batch) -> list[str]:
    pages = [reverse(name, args=[batch.pk]) for name in ("batch", "batch-live", "batch-report", "batch-rows")]
    return [*pages, reverse("batch-row", args=[batch.pk, 1]), reverse("batch-export", args=[batch.pk])]


def test_every_page_shows_the_batch_to_its_team_and_to_nobody_else(
    page: Client, stranger: User, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, two) = made
    batch_tables.answer(one, 1, "<b>Paris</b>")
    batch_tables.fail(two, 1, "The engine <i>died</i>.")
    other = Client()
    other.force_login(stranger)
    for address in everything(batch):
        assert page.get(address).status_code == 200, address
        assert other.get(address).status_code == 404, address
    shown = page.get(reverse("batch", args=[batch.pk])).content.decode()
    assert "&lt;b&gt;Paris&lt;/b&gt;" in shown and "The engine &lt;i&gt;died&lt;/i&gt;." in shown
    assert batch.name in page.get(reverse("batches")).content.decode()
    assert batch.name not in other.get(reverse("batches")).content.decode()


def test_a_row_shows_what_was_asked_every_answer_and_earlier_attempts(
    page: Client, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, _two) = made
    batch.scorers = [{"kind": "exact"}]
    batch.save(update_fields=["scorers"])
    batch_tables.fail(one, 2, "First it was busy.")
    batch_tables.again(one, 2)
    batch_tables.answer(one, 2, "Rome")
    BatchScore.objects.create(column=one, number=2, scorer=0, value=0.0, why="It is not Paris.")
    shown = page.get(reverse("batch-row", args=[batch.pk, 2])).content.decode()
    for words in (
        "capital of country 2",
        "Rome",
        "First it was busy.",
        "1 earlier attempt",
        "It is not Paris.",
        scorers.KINDS["exact"],
    ):
        assert words in shown, words
    assert "Not answered yet." in shown
    for number in (0, 121, 10**9):
        assert page.get(f"/batches/{batch.pk}/rows/{number}/").status_code == 404


def test_an_open_row_shows_what_is_written_so_far(
    page: Client, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, two) = made
    BatchItem.objects.filter(column=one, number=3).update(state=BatchItem.State.CLAIMED)
    address = reverse("batch-row", args=[batch.pk, 3])
    assert "every 600ms" in page.get(address).content.decode()

    async def write() -> None:
        """What the process that answers does with every row it has; only watched ones come across."""
        shown = batch_live.Shown()
        said = SimpleNamespace(content="The capital <i>of", reasoning="Which country?")
        await shown.show(one.pk, {3: said, 4: said})
        await shown.show(two.pk, {3: said})
        await shown.close()

    asyncio.run(write())
    live = page.get(address, headers={"HX-Request": "true"}).content.decode()
    assert "The capital &lt;i&gt;of" in live and "Which country?" in live
    assert batch_live.watch(one.pk, 4) is None and live.count("The capital") == 1
    batch_tables.answer(one, 3, "Bern")
    done = page.get(address, headers={"HX-Request": "true"}).content.decode()
    assert "Bern" in done and "The capital &lt;" not in done and "every 600ms" not in done


def test_strange_wishes_show_rows_or_none_and_never_an_error(
    page: Client, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, _) = made
    wishes = [
        {"show": "everything"},
        {"show": "failed", "after": "-1"},
        {"by": "ttft:999999"},
        {"by": f"-ttft:{one.pk}", "after": "nan:nan"},
        {"by": f"ttft:{one.pk}", "after": f"1e400:{10**30}"},
        {"by": "cost;drop table:1"},
        {"after": "9" * 40},
        {"from": "²"},
        {"from": "100"},
        {"figure": "nothing"},
    ]
    for wish in wishes:
        assert page.get(reverse("batch", args=[batch.pk]), wish).status_code == 200, wish
    shown = page.get(reverse("batch", args=[batch.pk]), {"from": "100"}).content.decode()
    assert 'id="row-100"' in shown and 'id="row-99"' not in shown
    for wish in ({"format": "exe"}, {"column": "1"}, {"column": "x" * 30}):
        status = page.get(reverse("batch-export", args=[batch.pk]), wish).status_code
        assert status == (200 if wish.get("column", "").startswith("x") else 404), wish


def test_only_members_act_and_a_refusal_says_why(
    page: Client, stranger: User, team: Team, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, _ = made
    viewer, other = Client(), Client()
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    viewer.force_login(person)
    other.force_login(stranger)
    for name in ("batch-pause", "batch-resume", "batch-cancel", "batch-retry"):
        address = reverse(name, args=[batch.pk])
        assert page.get(address).status_code == 405
        assert viewer.post(address).status_code == 403
        assert other.post(address).status_code == 404
    batch.refresh_from_db()
    assert batch.state == Batch.State.RUNNING
    assert "Pause" not in viewer.get(reverse("batch", args=[batch.pk])).content.decode()
    refused = page.post(reverse("batch-resume", args=[batch.pk]), follow=True)
    assert "only what is paused can go on" in refused.content.decode()


def test_verbs_pause_resume_cancel_and_retry(page: Client, made: tuple[Batch, list[BatchColumn]]) -> None:
    batch, (one, _) = made
    batch_tables.fail(one, 1)

    def act(name: str) -> str:
        assert page.post(reverse(name, args=[batch.pk])).status_code == 302
        batch.refresh_from_db()
        return batch.state

    assert act("batch-pause") == Batch.State.PAUSED
    assert act("batch-resume") == Batch.State.RUNNING
    assert act("batch-retry") == Batch.State.RUNNING
    item = BatchItem.objects.get(column=one, number=1)
    assert (item.state, item.attempt) == (BatchItem.State.WAITING, 1)
    assert act("batch-cancel") in (Batch.State.CANCELLING, Batch.State.CANCELLED)


# A new one


def form(version: DatasetVersion, **more: Any) -> dict[str, Any]:
    return {"version": version.pk, "name": "", "temperature": "0", "max_tokens": "20"} | more


def test_a_batch_begins_from_the_form(page: Client, team: Team, version: DatasetVersion) -> None:
    one, two = chats.deployment(team, "one"), chats.deployment(team, "two")
    answer = page.post(
        reverse("batch-new"), form(version, deployment=[one.pk, two.pk], webhook="https://93.184.216.34/x")
    )
    batch = Batch.objects.get()
    assert answer.headers["Location"] == reverse("batch", args=[batch.pk])
    assert [column.deployment_id for column in batch.columns.all()] == [one.pk, two.pk]
    assert (
        batch.parameters == {"temperature": 0.0, "max_tokens": 20}
        and batch.webhook == "https://93.184.216.34/x"
    )
    assert batch.name == "questions"
    assert BatchItem.objects.filter(column__batch=batch).count() == 240


def test_a_column_may_have_parameters_of_its_own(page: Client, team: Team, version: DatasetVersion) -> None:
    one, two, three = (chats.deployment(team, name) for name in ("one", "two", "three"))
    own = {f"own-{one.pk}": "temperature=0.5, seed=7", f"own-{three.pk}": "nonsense"}
    page.post(reverse("batch-new"), form(version, deployment=[one.pk, two.pk], **own))
    batch = Batch.objects.get()
    first, second = batch.columns.all()
    assert first.parameters == {"temperature": 0.5, "max_tokens": 20, "seed": 7}
    assert second.parameters is None
    shown = page.get(reverse("batch", args=[batch.pk])).content.decode()
    assert "temperature=0.5 max_tokens=20 seed=7" in shown
    for wrong, words in (
        ("temperature", "temperature is not name=value."),
        ("colour=red", "colour is none of temperature, top_p"),
        ("seed=1 seed=2", "seed is given twice."),
        ("seed=x", "Seed is a whole number"),
        ("top_p=7", "top_p"),
    ):
        answer = page.post(
            reverse("batch-new"), form(version, deployment=[one.pk], **{f"own-{one.pk}": wrong})
        )
        told = answer.content.decode()
        assert answer.status_code == 422 and words in told and f'value="{wrong}"' in told
        assert f'id="id-own-{one.pk}-error"' in told
    assert Batch.objects.count() == 1


def test_what_is_wrong_in_the_form_is_said_and_nothing_typed_is_lost(
    page: Client, team: Team, stranger: User, version: DatasetVersion
) -> None:
    one = chats.deployment(team, "one")
    typed = form(version, deployment=[one.pk], max_tokens="many", webhook="ftp://x", name="My batch")
    answer = page.post(reverse("batch-new"), typed)
    shown = answer.content.decode()
    assert answer.status_code == 422
    for words in (
        "Max tokens is a whole number",
        "It begins with https://",
        'value="many"',
        'value="My batch"',
    ):
        assert words in shown, words
    assert re.search(rf'value="{one.pk}" checked', shown)
    empty = page.post(reverse("batch-new"), {}).content.decode()
    assert "Choose the rows." in empty and "Choose who answers." in empty
    foreign = batch_rows.version(stranger.memberships.get().team, ["secret"])
    assert (
        "Choose the rows."
        in page.post(reverse("batch-new"), form(foreign, deployment=[one.pk])).content.decode()
    )
    assert not Batch.objects.exists()


def test_the_estimate_says_what_it_was_taken_from(page: Client, team: Team, version: DatasetVersion) -> None:
    one = chats.deployment(team, "one")
    asked = form(version, deployment=[one.pk])
    estimate = reverse("batch-estimate")
    shown = page.post(estimate, asked).content.decode()
    assert "How long it takes is not known" in shown and "cost is n/a" in shown
    assert "capital of country 1?" in shown and "&quot;max_tokens&quot;: 20" in shown
    conversation = chats.conversation(team, one)
    turn = conversation.turns.create(text="Hello", client_id="1")
    Generation.objects.create(
        turn=turn,
        column=conversation.columns.get(),
        state=Generation.State.COMPLETE,
        timings={"e2e": 500.0, "cost": 0.001},
    )
    shown = page.post(estimate, asked).content.decode()
    assert "At most 1 min" in shown and "$0.12" in shown and "its last 1 answer in conversations" in shown
    earlier, (column, _) = batch_tables.batch(team, version)
    BatchColumn.objects.filter(pk=column.pk).update(deployment=one)
    for number in range(1, 26):
        batch_tables.answer(column, number)
    BatchResultTimes(column).spread(seconds=10)
    shown = page.post(estimate, asked).content.decode()
    assert f"by the last 25 rows of batch {earlier.pk}" in shown and "About 2 min" in shown


@pytest.mark.django_db(transaction=True)
def test_a_trial_asks_rows_or_says_why_not(
    user: User, team: Team, fake_engine: Callable[..., RunningFake]
) -> None:
    asked = batch_rows.version(team, [f"[[tokens=3]] [[delay=5]] {n}" for n in range(50)], name="asked")
    runs, rests = chats.deployment(team, "runs"), chats.deployment(team, "rests")
    chats.ready(runs, fake_engine(key="k"))
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    address = reverse("batch-trial")
    page, viewer = AsyncClient(), AsyncClient()
    page.force_login(user)
    viewer.force_login(person)

    async def tried() -> list[str]:
        """In one loop, as a web process has it: the engine's connections are kept in it."""
        try:
            both = await page.post(address, form(asked, deployment=[runs.pk]))
            one = await page.post(address, form(asked, deployment=[runs.pk, rests.pk]))
            wrong = await page.post(address, form(asked, deployment=[runs.pk], max_tokens="many"))
            assert (await viewer.post(address, form(asked, deployment=[runs.pk]))).status_code == 403
            return [answer.content.decode() for answer in (both, one, wrong)]
        finally:
            await engine_client.close()

    both, one, wrong = asyncio.run(tried())
    assert "by 20 trial rows, 4 at once" in both and "About" in both
    assert "it does not run now" in one and "How long it takes is not known" in one
    assert "Max tokens is a whole number" in wrong and "trial rows" not in wrong


# Notices


def test_a_batch_that_ended_is_told_once_to_whoever_began_it(
    page: Client, user: User, stranger: User, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, _ = made
    since = timezone.now()
    Batch.objects.filter(pk=batch.pk).update(
        created_by=user, state=Batch.State.COMPLETED, ended_at=timezone.now()
    )
    shown = page.get(reverse("batches-ended"), {"since": since.isoformat()}).content.decode()
    assert f"Batch {batch.name} is completed." in shown
    (again,) = re.findall(r"since=([^\"]+)", shown)
    assert "data-toast" not in page.get(reverse("batches-ended"), {"since": unquote(again)}).content.decode()
    other = Client()
    other.force_login(stranger)
    assert (
        "data-toast" not in other.get(reverse("batches-ended"), {"since": since.isoformat()}).content.decode()
    )
    for bad in ("", "yesterday", "2026-01-01T00:00:00"):
        assert page.get(reverse("batches-ended"), {"since": bad}).status_code == 404


def test_json_of_the_form_is_what_a_row_becomes(page: Client, team: Team) -> None:
    made = batch_rows.version(team, [{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.9}])
    one = chats.deployment(team, "one")
    shown = page.post(reverse("batch-estimate"), form(made, deployment=[one.pk])).content.decode()
    text = re.search(r'<pre class="code sent"[^>]*>(.*?)</pre>', shown, re.DOTALL)
    assert text
    sent = json.loads(unescape(text[1]))
    assert sent["temperature"] == 0.0 and sent["max_tokens"] == 20
