"""Pages of scores: what they show, what the form keeps, whom they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from playground import score_form, scoring
from playground.models import (
    AuditEntry,
    Batch,
    BatchColumn,
    BatchScore,
    Deployment,
    Job,
    Membership,
    Team,
    User,
)
from playground.scorers import BadScorer, Scorer
from tests import chats, scored
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def page(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


@pytest.fixture
def batch(team: Team) -> Batch:
    """Twelve rows in two columns: the second loses eleven of them, and one failed in it."""
    scored.worker()
    lost = ["wrong"] * 10
    return scored.batch(team, ["right"] * 12, ["right"] * 12, [*lost, ValueError("It broke."), "right"])


def get(client: Client, name: str, *args: int, query: str = "") -> str:
    answer = client.get(reverse(name, args=args) + query)
    assert answer.status_code == 200
    return str(answer.content.decode())


def post(client: Client, batch: Batch, **typed: Any) -> Any:
    return client.post(reverse("batch-score-add", args=[batch.pk]), typed)


def test_a_scorer_is_added_and_its_results_are_shown(page: Client, batch: Batch) -> None:
    assert "Nothing scores these rows yet." in get(page, "batch-scores", batch.pk)
    answer = post(page, batch, kind="exact", against="expected", space="on", name="Capital")
    assert answer.status_code == 302 and answer.url == reverse("batch-scores", args=[batch.pk]) + "#scores"
    batch.refresh_from_db()
    assert batch.scorers == [{"kind": "exact", "name": "Capital", "space": True}]
    waiting = get(page, "batch-scores", batch.pk)
    assert "queued" in waiting and "12 to come" in waiting
    scored.finished(batch)
    shown = get(page, "batch-scores", batch.pk)
    assert (
        "Capital" in shown
        and "Exact match: the answer is the row&#x27;s expected answer, ignoring white space." in shown
    )
    # 12 of 12 by Wilson; 1 of 12; eleven lost and none won, by the sign test 2 / 2¹¹.
    assert "100.0 %" in shown and "75.8 to 100.0 %" in shown
    assert "8.3 %" in shown and "1.5 to 35.4 %" in shown
    assert (
        "worse by 91.7 (\u2212100.0 to \u221265.8) points" in shown
        and "11 worse</a>, 0 better, 1 even; p = 0.0010 by the sign test" in shown
    )
    assert "Worse in column 2" in shown and "Row 1</a>" in shown and "Question 1?" in shown


def test_the_results_alone_are_a_fragment(page: Client, batch: Batch, user: User) -> None:
    scored.score(batch, Scorer("exact"), user)
    shown = get(page, "batch-scores-live", batch.pk)
    assert shown.lstrip().startswith("<section") and "New scorer" not in shown
    assert f'data-topic="batch:{batch.pk}"' in shown


def test_another_baseline_turns_the_comparison_round(page: Client, batch: Batch, user: User) -> None:
    scored.score(batch, Scorer("exact"), user)
    second = batch.columns.all()[1]
    shown = get(page, "batch-scores", batch.pk, query=f"?baseline={second.pk}")
    assert "better by 91.7 (+65.8 to +100.0) points" in shown and "0 worse</a>, 11 better" in shown
    assert "baseline" in get(page, "batch-scores", batch.pk, query="?baseline=nonsense")


def test_a_single_column_is_compared_with_nothing(page: Client, team: Team, user: User) -> None:
    alone = scored.batch(team, ["a"] * 3, ["a", "b", "a"])
    scored.score(alone, Scorer("exact"), user)
    shown = get(page, "batch-scores", alone.pk)
    assert "66.7 %" in shown and "Against the baseline" not in shown
    assert "Not wholly right (1)" in get(page, "batch-score", alone.pk, 0)


def test_few_rows_and_equal_ones_are_told(page: Client, team: Team, user: User) -> None:
    few = scored.batch(team, ["a"] * 3, ["a"] * 3, ["b"] * 3, name="few")
    same = scored.batch(team, ["a"] * 12, ["a"] * 12, ["a"] * 12, name="same")
    for one in (few, same):
        scored.score(one, Scorer("exact"), user)
    assert "3 rows in common: 10 at least for a verdict" in get(page, "batch-scores", few.pk)
    assert "the same on every row" in get(page, "batch-scores", same.pk)


def test_rows_of_a_scorer_are_shown_page_by_page(
    page: Client, batch: Batch, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.views.scores.SHOWN", 5)
    place = scored.score(batch, Scorer("exact"), user)
    shown = get(page, "batch-score", batch.pk, place)
    assert "Worse (11)" in shown and "Better (0)" in shown and "1 to 5 of 11" in shown
    last = get(page, "batch-score", batch.pk, place, query="?page=3")
    assert "failed: It broke." in last and "Later" not in last
    for query in ("?page=-1", "?page=x", "?page=999999", "?show=all", "?column=0&baseline=%00"):
        get(page, "batch-score", batch.pk, place, query=query)
    assert "No row is better" in get(page, "batch-score", batch.pk, place, query="?show=better")


def test_what_could_not_be_scored_is_shown_with_its_reason(page: Client, team: Team, user: User) -> None:
    alone = scored.batch(team, ["a", None], ["a", "b"])
    place = scored.score(alone, Scorer("exact"), user)
    shown = get(page, "batch-score", alone.pk, place, query="?show=null")
    assert "The row does not tell its right answer." in shown and "Not scored (1)" in shown
    assert "Try the unscored again" in get(page, "batch-scores", alone.pk)


def test_hostile_texts_are_inert(page: Client, team: Team, user: User) -> None:
    bad = "<script>alert(1)</script>"
    hostile = scored.batch(
        team, [bad, bad], [bad, bad], ["x", ValueError(bad)], cells=[{bad: bad}] * 2, name=bad
    )
    place = scored.score(hostile, Scorer("contains", name=bad, against="cell", cell=bad), user)
    for shown in (get(page, "batch-scores", hostile.pk), get(page, "batch-score", hostile.pk, place)):
        assert bad not in shown and "&lt;script&gt;" in shown


# The form


def test_a_wrong_field_is_named_and_what_was_typed_stays(page: Client, batch: Batch) -> None:
    answer = post(page, batch, kind="regex", against="fixed", fixed="(a+)+$", name="My name", case="on")
    shown = answer.content.decode()
    assert answer.status_code == 422
    assert 'id="id-fixed-error">A pattern in the expression repeats a group' in shown
    assert "(a+)+$</textarea>" in shown and 'value="My name"' in shown
    assert 'name="case" checked' in shown and 'name="space" checked' not in shown
    batch.refresh_from_db()
    assert batch.scorers == [] and not Job.objects.exists()


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"kind": "magic"}, "kind"),
        ({"kind": "exact", "against": "cell", "cell": "x"}, "cell"),
        ({"kind": "number", "absolute": "much"}, "absolute"),
        ({"kind": "schema", "schema": "{"}, "schema"),
        ({"kind": "schema", "schema": '{"$ref": "#"}'}, "schema"),
        ({"kind": "similarity", "embedder": "999"}, "embedder"),
        ({"kind": "similarity", "embedder": "1", "least": "near"}, "least"),
        ({"kind": "judge", "judge": "x"}, "judge"),
        ({"kind": "judge", "judge": "1", "prompt": "Rate."}, "prompt"),
        ({"kind": "judge", "judge": "1", "max_tokens": "9" * 30}, "max_tokens"),
    ],
)
def test_each_wrong_field_has_its_sentence(
    page: Client, team: Team, typed: dict[str, str], field: str
) -> None:
    scored.worker()
    batch = scored.batch(team, ["a"], ["a"], cells=[{"capital": "a"}])
    answer = post(page, batch, against=typed.pop("against", "expected"), **typed)
    assert answer.status_code == 422 and f'id="id-{field}-error"' in answer.content.decode()


def test_a_form_keeps_only_what_its_kind_goes_by() -> None:
    form = score_form.typed(
        {"kind": "number", "against": "fixed", "fixed": "5", "case": "on", "judge": "7", "least": "x"}
    )
    assert score_form.read(form).kept() == {"kind": "number", "against": "fixed", "fixed": "5"}
    form = score_form.typed(
        {"kind": "schema", "schema": '{"type":\r\n"object"}', "against": "cell", "fixed": "x"}
    )
    kept = score_form.read(form).kept()
    assert kept == {"kind": "schema", "against": "fixed", "fixed": '{"type":\n"object"}', "fenced": False}
    with pytest.raises(BadScorer):
        score_form.read(score_form.typed({"kind": "exact", "against": "fixed"}))


def test_a_judge_is_chosen_among_those_that_run_and_told_when_it_judges_itself(
    page: Client, batch: Batch, fake_engine: Callable[..., RunningFake]
) -> None:
    assert "none runs" in get(page, "batch-scores", batch.pk)
    column = batch.columns.all()[0]
    chats.ready(column.deployment, fake_engine(key="k"))
    shown = get(page, "batch-scores", batch.pk)
    assert f'<option value="{column.deployment.pk}">' in shown and "Score: N" in shown
    answer = post(
        page,
        batch,
        kind="judge",
        against="expected",
        judge=column.deployment.pk,
        prompt="[[text=Score: 9]] {{answer}}",
    )
    assert answer.status_code == 302
    job = scored.finished(Batch.objects.get(pk=batch.pk))
    assert job.state == Job.State.DONE, job.error
    shown = get(page, "batch-scores", batch.pk)
    assert "judges its own answers in column 1" in shown
    detail = get(page, "batch-score", batch.pk, 0, query=f"?column={column.pk}&show=all")
    assert "Prompt as the judge was sent it" in detail and "right" in detail


# Verbs


def test_a_run_is_asked_for_cancelled_and_its_end_is_told(page: Client, batch: Batch, user: User) -> None:
    place = scored.score(batch, Scorer("exact"), user)
    BatchScore.objects.filter(number=3).delete()
    assert "Score the rest" in get(page, "batch-scores", batch.pk)
    page.post(reverse("batch-scores-run", args=[batch.pk]))
    job = scoring.newest(batch)
    assert job and job.state == Job.State.QUEUED
    page.post(reverse("batch-scores-cancel", args=[batch.pk]))
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED
    assert "Cancelled by ada. Scores that were given stay." in get(page, "batch-scores", batch.pk)
    page.post(reverse("batch-scores-run", args=[batch.pk]))
    scored.finished(batch)
    assert len(scored.values(batch, place)) == 12


def test_a_run_without_a_worker_is_refused_in_words(page: Client, team: Team, user: User) -> None:
    from playground.models import Node

    batch = scored.batch(team, ["a"], ["a"])
    scored.score(batch, Scorer("exact"), user)
    Node.objects.update(heartbeat_at=None)
    answer = page.post(reverse("batch-scores-run", args=[batch.pk]), follow=True)
    assert "No worker runs" in answer.content.decode()
    answer = post(page, batch, kind="exact", against="expected")
    assert answer.status_code == 422 and "No worker runs" in answer.content.decode()


def test_a_scorer_is_taken_away(page: Client, batch: Batch, user: User) -> None:
    place = scored.score(batch, Scorer("exact", name="Gone"), user)
    for _ in range(2):
        assert page.post(reverse("batch-score-remove", args=[batch.pk, place])).status_code == 302
    assert not BatchScore.objects.exists()
    assert "Gone" not in get(page, "batch-scores", batch.pk)
    assert page.get(reverse("batch-score", args=[batch.pk, place])).status_code == 404


# Whom they refuse

GETS = ("batch-scores", "batch-scores-live", "batch-score")
POSTS = ("batch-score-add", "batch-scores-run", "batch-scores-cancel", "batch-score-remove")


def address(name: str, batch: Batch) -> str:
    return reverse(name, args=[batch.pk, 0] if name in ("batch-score", "batch-score-remove") else [batch.pk])


@pytest.fixture
def made(batch: Batch, user: User) -> Batch:
    scored.score(batch, Scorer("exact"), user)
    return batch


def test_a_stranger_sees_and_changes_nothing(client: Client, made: Batch, stranger: User) -> None:
    client.force_login(stranger)
    for name in GETS:
        assert client.get(address(name, made)).status_code == 404
    for name in POSTS:
        assert client.post(address(name, made), {"kind": "exact"}).status_code == 404
    assert AuditEntry.objects.filter(user=stranger, action="refused write").count() == len(POSTS)
    made.refresh_from_db()
    assert len(made.scorers) == 1 and "removed" not in made.scorers[0]


def test_a_viewer_sees_everything_and_changes_nothing(client: Client, made: Batch, team: Team) -> None:
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    client.force_login(viewer)
    for name in GETS:
        assert client.get(address(name, made)).status_code == 200
    assert "needs the role of member" in get(client, "batch-scores", made.pk)
    jobs = Job.objects.count()
    for name in POSTS:
        assert client.post(address(name, made), {"kind": "exact"}).status_code == 403
    made.refresh_from_db()
    assert len(made.scorers) == 1 and "removed" not in made.scorers[0] and Job.objects.count() == jobs


def test_nobody_signed_in_is_led_to_sign_in_and_gets_change_nothing(
    client: Client, user: User, made: Batch
) -> None:
    for name in GETS:
        assert client.get(address(name, made)).status_code == 302
    client.force_login(user)
    for name in POSTS:
        assert client.get(address(name, made)).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    for name in POSTS:
        assert strict.post(address(name, made)).status_code == 403


def test_a_batch_without_columns_and_a_scorer_that_is_none_are_404(page: Client, made: Batch) -> None:
    assert page.get(reverse("batch-score", args=[made.pk, 7])).status_code == 404
    BatchColumn.objects.filter(batch=made).delete()
    Deployment.objects.all().delete()
    assert page.get(reverse("batch-scores", args=[made.pk])).status_code == 404
