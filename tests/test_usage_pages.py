"""The pages of usage: each source counted once and told apart, groups, periods, chart, CSV, whose it is."""

import csv
import io
import random
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from endpoints import usage_chart, usage_report, usage_store
from endpoints.models import Usage, UsageDay
from endpoints.usage_report import Line, PeriodRefused
from playground import forks, measured_use, thread
from playground.asking import Taken
from playground.models import Conversation, Generation, Measurement, Membership, Replica, Team, User
from tests import rows, usage_rows
from tests.rows import Rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def full(team: Team, user: User) -> Rows:
    return rows.full(team, user)


@pytest.fixture
def page(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def week() -> usage_report.Period:
    return usage_report.period("7")


def by(team: Team, group: str) -> dict[tuple[str, str], Line]:
    return {(line.label, line.source): line for line in usage_report.report(team, week(), group).lines}


def test_each_source_is_counted_once_and_by_itself(full: Rows, team: Team, user: User) -> None:
    key = usage_rows.key(team, user, "desk")
    usage_store.keep([usage_rows.request(team, n, key=key.pk, deployment=full.ready.pk) for n in range(3)])
    usage_rows.answer(full.ready, user)
    usage_rows.batch(full.ready, None, 4, key)
    found = {line.source: line for line in usage_report.report(team, week(), "model").totals}
    assert {name: (line.requests, line.errors) for name, line in found.items()} == {
        "api": (3, 0),
        "playground": (1, 0),
        "batch": (4, 1),
    }
    api, batch = found["api"], found["batch"]
    assert (api.prompt_tokens, api.cached_tokens, api.completion_tokens) == (300, 60, 150)
    assert api.cost == pytest.approx(0.003) and api.core_h == pytest.approx(3 / 3600)
    assert batch.cost is None and batch.unpriced == 4, "no price is no cost, not none at all"
    # Two cores of the replica for 0.4 seconds each.
    assert batch.core_s == pytest.approx(0.8)


def test_groups_name_who_and_what(full: Rows, team: Team, user: User) -> None:
    bob = User.objects.create_user(username="bob")
    key = usage_rows.key(team, bob, "desk")
    usage_store.keep([usage_rows.request(team, 1, key=key.pk, deployment=full.ready.pk)])
    usage_rows.answer(full.ready, user)
    usage_rows.batch(full.ready, None, 1, key)
    usage_rows.batch(full.ready, user, 2)
    usage_rows.measured(full.ready, user, 2)
    name = f"desk (sk-slip-{key.prefix})"
    assert set(by(team, "person")) == {
        ("bob", "api"),
        ("ada", "playground"),
        ("bob", "batch"),
        ("ada", "batch"),
        ("ada", "measured"),
    }
    nameless = {("", "playground"), ("", "batch"), ("", "measured")}
    assert set(by(team, "key")) == {(name, "api"), (name, "batch"), *nameless}
    assert set(by(team, "endpoint")) == {
        ("support-triage", "api"),
        ("support-triage", "batch"),
        *nameless,
    }
    model = full.model.name
    assert set(by(team, "model")) == {(model, source) for source in usage_report.SOURCES}
    assert set(by(team, "engine")) == {("llama.cpp", source) for source in usage_report.SOURCES}
    assert by(team, "endpoint")["", "playground"].ttft_p50 == 30, "rows without a label have percentiles too"
    today = timezone.now().date().isoformat()
    assert set(by(team, "day")) == {(today, source) for source in usage_report.SOURCES}


def test_percentiles_are_of_what_succeeded(full: Rows, team: Team) -> None:
    found = [usage_rows.request(team, n, ttft_ms=float(n)) for n in range(1, 101)]
    found.append(usage_rows.request(team, 200, ttft_ms=9e6, status=502))
    found.append(usage_rows.request(team, 201, ttft_ms=None))
    usage_store.keep(found)
    (line,) = usage_report.report(team, week(), "model").totals
    assert line.ttft_p50 == pytest.approx(50.5) and line.ttft_p95 == pytest.approx(95.05)
    assert (line.requests, line.errors) == (102, 1)


def test_a_period_takes_in_its_days_and_no_other(full: Rows, team: Team) -> None:
    day = timezone.now().date() - timedelta(days=3)
    midnight = usage_report.period("custom", day.isoformat(), day.isoformat()).begin.timestamp()
    for n, at in enumerate((midnight - 1, midnight, midnight + 86399, midnight + 86400)):
        usage_store.keep([usage_rows.request(team, n, at=at)])
    when = usage_report.period("custom", day.isoformat(), day.isoformat())
    assert [line.requests for line in usage_report.report(team, when, "model").totals] == [2]
    steps = usage_report.report(team, when, "model").steps
    assert [line.label[-5:] for line in steps if line.requests] == ["00:00", "23:00"]


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("", "2026-01-02", "from"),
        ("2026-01-02", "", "to"),
        ("2026-01-02", "2026-01-01", "to"),
        ("2020-01-01", "2026-01-01", "to"),
        ("0001-01-01", "2026-01-01", "from"),
        ("x" * 500, "2026-01-01", "from"),
    ],
)
def test_a_period_that_is_none_is_refused_at_its_field(
    first: str, last: str, field: str, page: Client
) -> None:
    with pytest.raises(PeriodRefused) as refused:
        usage_report.period("custom", first, last)
    assert refused.value.field == field
    query = {"period": "custom", "from": first, "to": last, "by": "person"}
    answer = page.get(reverse("usage"), query)
    text = answer.content.decode()
    assert answer.status_code == 422
    assert f'id="{field}-error"' in text and f'value="{first[:20]}' in text
    assert '<option value="person" selected>' in text
    assert page.get(reverse("usage-csv"), query).status_code == 422


def test_another_teams_usage_is_nowhere(full: Rows, team: Team, user: User, stranger: User) -> None:
    usage_store.keep([usage_rows.request(team, 1, endpoint="secret-endpoint")])
    usage_rows.answer(full.ready, user)
    usage_rows.batch(full.ready, user, 2)
    other = stranger.memberships.get().team
    assert [line.requests for line in usage_report.report(other, week(), "model").totals] == []
    client = Client()
    client.force_login(stranger)
    shown = client.get(reverse("usage"), {"by": "endpoint"}).content.decode()
    assert "secret-endpoint" not in shown and "Nothing was asked" in shown
    assert len(client.get(reverse("usage-csv"), {"by": "endpoint"}).content.decode().splitlines()) == 1


def test_a_viewer_sees_it_and_nobody_without_a_session_does(full: Rows, team: Team) -> None:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    client = Client()
    assert client.get(reverse("usage")).status_code == 302
    assert client.get(reverse("usage-csv")).status_code == 302
    client.force_login(person)
    assert client.get(reverse("usage")).status_code == 200


def test_the_csv_has_the_tables_numbers_and_no_formula(
    full: Rows, team: Team, user: User, page: Client
) -> None:
    key = usage_rows.key(team, user, "=HYPERLINK(1)")
    usage_store.keep([usage_rows.request(team, n, key=key.pk) for n in range(2)])
    usage_rows.answer(full.ready, user, timings={}, usage={})
    answer = page.get(reverse("usage-csv"), {"by": "key", "period": "today"})
    assert "usage-by-key-" in answer.headers["Content-Disposition"]
    head, *found = csv.reader(io.StringIO(answer.content.decode()))
    lines = [dict(zip(head, row, strict=True)) for row in found]
    assert lines[0]["key"] == f"'=HYPERLINK(1) (sk-slip-{key.prefix})"
    assert (lines[0]["source"], lines[0]["requests"], lines[0]["completion_tokens"]) == ("api", "2", "100")
    assert (lines[1]["cost"], lines[1]["prompt_tokens"], lines[1]["ttft_p50_ms"]) == ("", "", "")


def test_the_page_shows_the_charts_numbers_in_a_table(
    full: Rows, team: Team, user: User, page: Client
) -> None:
    key = usage_rows.key(team, user, "desk")
    usage_rows.requests(team, full.ready, key, 120)
    usage_rows.answer(full.ready, user)
    for show in usage_chart.FIGURES:
        answer = page.get(reverse("usage"), {"show": show, "by": "person"})
        assert answer.status_code == 200
    text = page.get(reverse("usage"), {"show": "requests", "by": "endpoint"}).content.decode()
    table = re.search(r'aria-label="Requests by day".*?</table>', text, re.S)
    assert table
    sums = [int(n) for n in re.findall(r'<td class="num">(\d+)</td></tr>', table[0])]
    assert sum(sums) == 121
    assert "support-triage" in text and "no endpoint" in text


@pytest.mark.parametrize(
    "query",
    [
        {"by": "'; DROP TABLE x"},
        {"source": "nothing"},
        {"show": "nothing"},
        {"period": "forever"},
        {"by": "\0"},
        {"period": "\0", "from": "\0"},
    ],
)
def test_a_strange_query_breaks_nothing(page: Client, full: Rows, query: dict[str, str]) -> None:
    assert page.get(reverse("usage"), query).status_code in (200, 422)
    assert page.get(reverse("usage-csv"), query).status_code in (200, 422)


def test_hostile_names_are_inert(full: Rows, team: Team, user: User, page: Client) -> None:
    key = usage_rows.key(team, user, "<script>alert(1)</script>")
    usage_store.keep([usage_rows.request(team, 1, key=key.pk)])
    assert b"<script>alert" not in page.get(reverse("usage"), {"by": "key"}).content


def test_time_that_nobody_used_is_told_apart(full: Rows, team: Team, page: Client) -> None:
    now = timezone.now()
    Replica.objects.filter(deployment=full.ready).update(ready_at=now - timedelta(hours=2), ended_at=None)
    full.node.price_per_hour = 3
    full.node.save()
    when = usage_report.period("custom", (now - timedelta(days=1)).date().isoformat(), now.date().isoformat())
    held = usage_report.held(team, when)
    ready = Replica.objects.get(deployment=full.ready)
    assert held.ready_s >= 7190
    assert held.core_s >= 7190 * ready.resources["cores"]
    assert held.cost and held.cost >= 5.9
    usage_store.keep([usage_rows.request(team, 1, cost=2.0)])
    text = page.get(reverse("usage")).content.decode()
    assert "was for time in which nothing listed here was asked" in text


def test_days_without_anything_are_bars_of_nothing(team: Team) -> None:
    when = usage_report.period("7")
    lines = [Line(when.last.isoformat(), "api", 4, 1), Line(when.last.isoformat(), "batch", 12, 0)]
    chart = usage_chart.of(lines, when, "requests")
    assert chart and len(chart.rows) == 7 and chart.most == 16
    assert [row.total for row in chart.rows] == [None] * 6 + [16]
    assert sum(bar.height for bar in chart.bars) == pytest.approx(100)
    assert usage_chart.of([], when, "requests") is None
    assert usage_chart.of(lines, when, "cost") is None, "an unknown cost is not drawn as none"


def test_copies_of_answers_are_not_asked_again(full: Rows, team: Team, user: User) -> None:
    made = usage_rows.answer(full.ready, user, text="Hello.")
    forks.fork(made.turn.conversation, user, thread.show(made.turn.conversation))
    assert Generation.objects.count() == 2
    assert [(line.source, line.requests) for line in usage_report.report(team, week(), "model").totals] == [
        ("playground", 1)
    ]


def test_usage_of_a_deleted_key_stays(full: Rows, team: Team, user: User) -> None:
    key = usage_rows.key(team, user, "gone")
    usage_store.keep([usage_rows.request(team, 1, key=key.pk)])
    key.delete()
    assert Usage.objects.get().key is None
    assert set(by(team, "key")) == {("gone", "api")}


# Days added up


def test_the_sums_of_days_are_those_of_their_rows_whatever_came_twice_late_or_went(
    full: Rows, team: Team, user: User, settings: Any
) -> None:
    settings.USAGE_DAYS = 20
    made = [usage_rows.key(team, user, name) for name in ("desk", "phone")]
    chance, now = random.Random(3), timezone.now().timestamp()
    records = [
        usage_rows.request(
            team,
            n,
            at=now - chance.random() * 25 * 86_400,
            key=chance.choice([None, *(key.pk for key in made)]),
            endpoint=chance.choice(["words", "songs"]),
            deployment=chance.choice([None, full.ready.pk]),
            status=chance.choice([200, 200, 502]),
            prompt_tokens=chance.choice([None, 10, 31]),
            cost=chance.choice([None, 0.25]),
            ttft_ms=chance.choice([None, 0.2, 40.0, 41.0, 5e7]),
        )
        for n in range(300)
    ]
    for start in range(0, 300, 40):
        usage_store.keep(records[start : start + 40])
    assert usage_store.keep(records[:50]) == 0, "carried twice"
    assert usage_store.forget()[1] > 0
    month = usage_report.period("30")
    for group in usage_report.GROUPS:
        wanted = usage_report._by_rows(team, month, group, "api")
        sums, *rest = usage_report._by_days(team, month, group, "api")
        assert comparable(sums) == comparable(wanted[0]), group
        assert rest == list(wanted[1:]), "of few requests each is looked at"


def comparable(sums: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(
        tuple(round(value, 6) if isinstance(value, float) else str(value or "") for value in row.values())
        for row in sums
    )


def test_percentiles_of_many_requests_are_within_one_percent_and_say_so(
    full: Rows, team: Team, page: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    records = [
        usage_rows.request(team, n, ttft_ms=chance.lognormvariate(4, 0.8), endpoint=f"e{n % 3}")
        for n in range(400)
    ]
    usage_store.keep(records)
    exact = usage_report.report(team, week(), "endpoint")
    assert "steps of 2 %" not in page.get(reverse("usage")).content.decode()
    monkeypatch.setattr(usage_report, "SORTED", 10)
    rough = usage_report.report(team, week(), "endpoint")
    assert rough.rough and not exact.rough
    for one, other in zip([*exact.totals, *exact.lines], [*rough.totals, *rough.lines], strict=True):
        assert other.ttft_p50 == pytest.approx(one.ttft_p50, rel=0.03)
        assert other.ttft_p95 == pytest.approx(one.ttft_p95, rel=0.08), "between two of few values"
    ordered = sorted(record["ttft_ms"] for record in records)
    assert rough.totals[0].ttft_p50 == pytest.approx(ordered[200], rel=0.015)
    assert "steps of 2 %" in page.get(reverse("usage")).content.decode()


def test_what_is_added_to_a_day_later_is_added_to_what_is_there(team: Team) -> None:
    usage_store.keep([usage_rows.request(team, n, endpoint=f"e{n % 4}") for n in range(40)])
    usage_store.keep([usage_rows.request(team, n, endpoint=f"e{n % 4}", ttft_ms=80) for n in range(40, 60)])
    rows = UsageDay.objects.filter(dimension="endpoint").order_by("value")
    assert [(row.value, row.requests, sum(row.ttft_times)) for row in rows] == [
        (f"e{n}", 15, 15) for n in range(4)
    ]
    assert all(len(row.ttft_steps) == 2 for row in rows)


def test_runs_that_measure_are_usage_of_whoever_asked_for_them(full: Rows, team: Team, user: User) -> None:
    conversation = Conversation.objects.create(team=team, created_by=user)
    run = Measurement.objects.create(team=team, created_by=user, conversation=conversation, kind="noise")
    replica = Replica.objects.select_related("node").filter(configuration__isnull=False).first()
    assert replica
    replica.resources = {"cores": 2}
    good = Taken("complete", 0.0, usage={"prompt_tokens": 7, "completion_tokens": 3}, timings={"busy_s": 0.5})
    measured_use.keep(run, [(replica, good), (replica, Taken("failed", 0.0, error="no"))])
    conversation.delete()
    line = by(team, "person")[user.username, "measured"]
    assert (line.requests, line.errors, line.prompt_tokens, line.completion_tokens) == (2, 1, 7, 3)
    assert line.core_s == pytest.approx(1.0) and line.source_name == "Measurements"
    assert set(by(team, "engine")) == {("llama.cpp", "measured")}
