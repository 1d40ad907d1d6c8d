"""Scores of a batch: what a run writes, what scores say together, what models that embed and judge make."""

import json
import math
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from playground import batch_sweep, jobs, score_judge, score_report, score_run, score_tables, scoring
from playground.models import Batch, BatchScore, Deployment, Job, Membership, Model, Node, Team, User
from playground.score_report import PairSums, Sums
from playground.scorers import BadScorer, Scorer
from playground.scoring import ScoringRefused
from tests import chats, scored
from tests.fakes import RunningFake

Engine = Callable[..., RunningFake]
EXACT = Scorer("exact", space=True)


# What may be said of sums (pure)


def sums(*values: float) -> Sums:
    return Sums(
        len(values),
        math.fsum(values),
        math.fsum(value * value for value in values),
        all(value in (0, 1) for value in values),
        rows=len(values),
    )


def pairs(*differences: float) -> PairSums:
    return PairSums(
        len(differences),
        math.fsum(differences),
        math.fsum(value * value for value in differences),
        sum(value > 0 for value in differences),
        sum(value < 0 for value in differences),
        all(value in (-1, 0, 1) for value in differences),
    )


def test_a_mean_of_right_and_wrong_has_wilsons_interval() -> None:
    # 8 of 10: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10) with z = 1.959964.
    found = score_report.mean(sums(*[1] * 8, 0, 0))
    assert found.value == 0.8
    assert (found.low, found.high) == (pytest.approx(0.49016, abs=1e-5), pytest.approx(0.94331, abs=1e-5))


def test_a_mean_of_other_scores_has_students_interval() -> None:
    # 0.1 … 1.0: mean 0.55, s = 0.302765, t(0.975, 9) = 2.262157, so ± 0.216585.
    found = score_report.mean(sums(*(place / 10 for place in range(1, 11))))
    assert found.value == pytest.approx(0.55)
    assert (found.low, found.high) == (pytest.approx(0.333415, abs=1e-5), pytest.approx(0.766585, abs=1e-5))


def test_few_rows_have_a_mean_and_no_interval_and_none_have_neither() -> None:
    assert score_report.mean(sums(*[1] * 9)) == score_report.Mean(1.0)
    assert score_report.mean(Sums(null=5, rows=5)) == score_report.Mean(None)
    same = score_report.mean(sums(*[0.3] * 20))
    assert (same.low, same.high) == (pytest.approx(0.3), pytest.approx(0.3))
    assert score_report.mean(sums(*[1] * 20)).high == 1.0


def test_right_and_wrong_are_compared_by_the_sign_test() -> None:
    # 1 row won, 11 lost, 8 even: p = 2 (1 + 12) / 2¹² = 0.00634766.
    (found,) = score_report.versus([pairs(1, *[-1] * 11, *[0] * 8)])
    assert found.p == pytest.approx(26 / 4096)
    assert (found.pairs.wins, found.pairs.losses, found.pairs.ties) == (1, 11, 8)
    assert found.found and found.verdict == "worse"
    # Mean -0.5, s² = (12 - 20 · 0.25) / 19, t(0.995, 19) = 2.860935.
    reach = 2.860935 * math.sqrt(7 / 19 / 20)
    assert found.mean == -0.5
    assert (found.low, found.high) == (
        pytest.approx(-0.5 - reach, abs=1e-5),
        pytest.approx(-0.5 + reach, abs=1e-5),
    )


def test_what_noise_could_have_made_is_no_verdict() -> None:
    (found,) = score_report.versus([pairs(1, 1, *[-1] * 8, *[0] * 10)])
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert not found.found and found.verdict == "same"


def test_other_scores_are_compared_by_students_t() -> None:
    differences = [0.1, 0.2, 0.15, 0.05, 0.1, 0.2, 0.15, 0.1, 0.05, 0.1]
    (found,) = score_report.versus([pairs(*differences)])
    # Mean 0.12, s = 0.0537484, error 0.0169967, t = 7.06, t(0.995, 9) = 3.249836.
    assert found.found and found.verdict == "better" and found.p == pytest.approx(5.9e-5, rel=0.05)
    assert found.low == pytest.approx(0.12 - 3.249836 * 0.0169967, abs=1e-5)
    assert found.high == pytest.approx(0.12 + 3.249836 * 0.0169967, abs=1e-5)


def test_several_comparisons_share_one_chance_of_error() -> None:
    # Alone, 0.0063 is below 1 %; beside a second test the first to be decided must be below 0.5 %.
    one = pairs(1, *[-1] * 11)
    assert score_report.versus([one])[0].found
    assert not any(each.found for each in score_report.versus([one, pairs(*[0] * 12)]))


def test_few_pairs_are_no_test_and_equal_ones_have_no_interval() -> None:
    few, same, all_lost = score_report.versus([pairs(*[-1] * 9), pairs(*[0] * 20), pairs(*[-1] * 20)])
    assert few.verdict == "few" and few.p is None and few.mean == -1
    assert same.verdict == "same" and same.p == 1 and same.low is None
    assert all_lost.verdict == "worse" and all_lost.p == pytest.approx(2**-19) and all_lost.low is None
    assert score_report.versus([PairSums()])[0].mean is None


# Runs


@pytest.mark.django_db(transaction=True)
def test_a_run_scores_each_row_and_counts_failed_ones_as_wrong(team: Team, user: User) -> None:
    batch = scored.batch(
        team,
        ["Paris", "Rome", None, "Oslo", "Bern"],
        ["Paris ", "Milan", "x", ValueError("It broke."), None],
        ["Paris", "Rome", ValueError("It broke."), "Oslo", "Bern"],
    )
    place = scored.score(batch, EXACT, user)
    assert scored.values(batch, place) == [1, 0, None, 0]
    assert scored.values(batch, place, 1) == [1, 1, None, 1, 1]
    # Without a right answer nobody is scored: to count only the failed one as wrong would not be fair.
    assert scored.whys(batch, place) == [
        "",
        "",
        "The row does not tell its right answer.",
        "The row failed: It broke.",
    ]
    first, second = batch.columns.all()
    found = score_tables.sums(batch, [first, second])
    assert found[place, first.pk] == Sums(3, 1, 1, True, failed=1, null=1, rows=4)
    assert found[place, second.pk] == Sums(4, 4, 4, True, failed=0, null=1, rows=5)
    compared = score_tables.pair_sums(first, [second])
    assert compared == {(place, second.pk): PairSums(3, 2, 2, 2, 0, True)}


@pytest.mark.django_db(transaction=True)
def test_a_second_run_scores_only_what_has_no_lasting_score(team: Team, user: User) -> None:
    batch = scored.batch(team, ["a", "b", "c"], ["a", ValueError("Away."), None])
    place = scored.score(batch, EXACT, user)
    column = batch.columns.get()
    assert [item.number for item in scoring.due(column, place)] == [2]
    scored.answer(column, 2, "b")
    scored.answer(column, 3, "d")
    assert [item.number for item in scoring.due(column, place)] == [2, 3]
    scoring.after(batch)
    job = scored.finished(batch)
    assert job.result == {"scores": 2}
    assert scored.values(batch, place) == [1, 1, 0]
    assert scored.whys(batch, place) == ["", "", ""]
    assert not scoring.due(column, place).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", ["running", "cancelling"])
def test_what_is_not_scored_when_a_batch_ends_is_scored_then(team: Team, user: User, state: str) -> None:
    batch = scored.batch(team, ["a", "b"], ["a", None])
    place = scored.score(batch, EXACT, user)
    column = batch.columns.get()
    scored.answer(column, 2, "b")
    Batch.objects.update(state=state)
    batch.refresh_from_db()
    batch_sweep.settle(batch)
    assert batch.state not in Batch.OPEN
    assert scored.finished(batch).result == {"scores": 1}
    assert scored.values(batch, place) == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_a_batch_without_scorers_or_a_worker_ends_without_a_run(team: Team, user: User) -> None:
    plain, scored_one = (scored.batch(team, ["a"], ["a"], name=name) for name in ("plain", "scored"))
    scored.score(scored_one, EXACT, user)
    jobs_before = Job.objects.count()
    Node.objects.update(heartbeat_at=None)
    for batch in (plain, scored_one):
        batch_sweep.settle(batch)
        assert batch.state == Batch.State.COMPLETED
    assert Job.objects.count() == jobs_before


@pytest.mark.django_db(transaction=True)
def test_right_answers_come_from_a_cell_too(team: Team, user: User) -> None:
    cells = [{"capital": "Paris", "people": 5}, {"capital": None, "people": 7}]
    batch = scored.batch(team, [None, None], ["It is Paris, of 5 people", "7"], cells=cells)
    by_text = scored.score(batch, Scorer("contains", against="cell", cell="capital"), user)
    by_number = scored.score(batch, Scorer("number", against="cell", cell="people"), user)
    assert scored.values(batch, by_text) == [1, None]
    assert scored.values(batch, by_number) == [1, 1]
    with pytest.raises(BadScorer, match="no such column"):
        scoring.add(batch, Scorer("exact", against="cell", cell="mayor"), user)


@pytest.mark.django_db(transaction=True)
def test_an_expression_that_is_dear_everywhere_is_given_up(
    team: Team, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "DEAR", 2)
    batch = scored.batch(team, [None] * 4, ["ab" * 3000 + "!"] * 4)
    pattern = r"\w*\w*\w*\w*\w*\w*\w*\w*[,;]"
    place = scored.score(batch, Scorer("regex", against="fixed", fixed=pattern), user)
    assert scored.values(batch, place) == [None] * 4
    whys = scored.whys(batch, place)
    assert "more than 0.1 s" in whys[1] and "no more were tried" in whys[2]


@pytest.mark.django_db(transaction=True)
def test_groups_are_kept_as_they_come(team: Team, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_run, "GROUP", 3)
    batch = scored.batch(team, ["a"] * 10, ["a"] * 10)
    place = scored.score(batch, EXACT, user)
    assert scored.values(batch, place) == [1] * 10


@pytest.mark.django_db(transaction=True)
def test_a_removed_scorer_is_gone_and_the_others_keep_their_places(team: Team, user: User) -> None:
    batch = scored.batch(team, ["a"], ["a"])
    first = scored.score(batch, EXACT, user)
    second = scored.score(batch, Scorer("contains"), user)
    assert scoring.remove(batch, first, user) and not scoring.remove(batch, first, user)
    assert [place for place, _ in scoring.scorers_of(batch)] == [second]
    assert set(BatchScore.objects.values_list("scorer", flat=True)) == {second}
    assert scored.score(batch, EXACT, user) == 2
    assert scored.values(batch, second) == scored.values(batch, 2) == [1]


@pytest.mark.django_db(transaction=True)
def test_regressions_come_first_and_biggest_first(team: Team, user: User) -> None:
    batch = scored.batch(
        team, ["a"] * 6, ["a", "a", "b", "a", "a", "b"], ["b", "a", "a", ValueError("x"), None, "b"]
    )
    place = scored.score(batch, EXACT, user)
    baseline, column = batch.columns.all()
    scorer = dict(scoring.scorers_of(batch))[place]

    def shown(which: str, **more: int) -> list[tuple[int, float | None, float | None]]:
        found = score_tables.compared(place, scorer, column, baseline, which, **more)
        return [(one.number, one.old, one.new) for one in found]

    assert shown("worse") == [(1, 1, 0), (4, 1, 0)]
    assert shown("worse", offset=1, limit=1) == [(4, 1, 0)]
    assert shown("better") == [(3, 0, 1)]
    assert shown("low") == [(1, 1, 0), (4, 1, 0), (6, 0, 0)]
    counts = [score_tables.count(place, column, baseline, which) for which in score_tables.WHICH]
    assert counts == [2, 1, 3, 0, 5]
    first = score_tables.compared(place, scorer, column, baseline, "worse")[0]
    assert (first.question, first.wanted) == ("Question 1?", "a")
    assert first.new_result and first.old_result
    assert (first.new_result.text, first.old_result.text) == ("b", "a")
    BatchScore.objects.filter(column=column, number=1).update(value=0.9)
    assert shown("worse") == [(4, 1, 0), (1, 1, 0.9)]


@pytest.mark.django_db(transaction=True)
def test_a_scorer_added_while_a_run_goes_on_is_seen_to_by_it(team: Team, user: User) -> None:
    batch = scored.batch(team, ["a"], ["a"])
    scored.worker()
    scoring.add(batch, EXACT, user)
    scoring.add(batch, Scorer("contains"), user)
    assert Job.objects.filter(kind=Job.Kind.SCORE_BATCH).count() == 1
    scored.finished(batch)
    assert scored.values(batch, 0) == scored.values(batch, 1) == [1]


# Refusals


@pytest.mark.django_db(transaction=True)
def test_it_refuses_strangers_and_viewers(team: Team, user: User, stranger: User) -> None:
    batch = scored.batch(team, ["a"], ["a"])
    place = scored.score(batch, EXACT, user)
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    for person in (stranger, viewer):
        with pytest.raises(PermissionDenied):
            scoring.add(batch, EXACT, person)
        with pytest.raises(PermissionDenied):
            scoring.remove(batch, place, person)
    batch.refresh_from_db()
    assert len(batch.scorers) == 1 and scored.values(batch, place) == [1]


@pytest.mark.django_db(transaction=True)
def test_it_refuses_too_many_what_is_no_text_and_no_worker(team: Team, user: User) -> None:
    batch = scored.batch(team, ["a"], ["a"])
    with pytest.raises(ScoringRefused, match="No worker runs"):
        scoring.add(batch, EXACT, user)
    batch.refresh_from_db()
    assert batch.scorers == [], "what cannot run is not added"
    scored.worker()
    for _ in range(scoring.MOST):
        scoring.add(batch, EXACT, user)
    with pytest.raises(ScoringRefused, match="at most 8"):
        scoring.add(batch, EXACT, user)
    Model.objects.update(task="embedding")
    with pytest.raises(ScoringRefused, match="only text is scored"):
        scoring.add(batch, EXACT, user)


@pytest.mark.django_db(transaction=True)
def test_a_deleted_batch_ends_its_job_in_words(team: Team, user: User) -> None:
    batch = scored.batch(team, ["a"], ["a"])
    scored.worker()
    scoring.add(batch, EXACT, user)
    job = scoring.newest(batch)
    assert job
    Batch.objects.all().delete()
    assert jobs.run(job.pk) == Job.State.FAILED
    job.refresh_from_db()
    assert job.error == "The batch was deleted."


# Models that judge and embed


def requests(fake: RunningFake, path: str) -> list[dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", fake.port, timeout=5)
    connection.request("GET", "/fake/requests")
    seen = json.loads(connection.getresponse().read())
    connection.close()
    return [one["body"] for one in seen if one["path"] == path]


def engine(team: Team, fake: RunningFake, task: str, name: str = "helper") -> Deployment:
    model = Model.objects.create(team=team, source=f"local:{name}", name=name, task=task)
    row = Deployment.objects.create(team=team, name=name, model=model, engine="fake")
    chats.ready(row, fake)
    return row


def judge(row: Deployment, prompt: str = "[[text={{answer}}]]", **more: Any) -> Scorer:
    """By default the fake engine says just what the answer is."""
    return Scorer("judge", deployment=row.pk, prompt=prompt, **more)


@pytest.mark.django_db(transaction=True)
def test_a_judge_scores_by_its_last_line_or_not_at_all(team: Team, user: User, fake_engine: Engine) -> None:
    fake = fake_engine(key="k")
    answers = ["Fine.\nScore: 8", "Score: 10/10", "No idea", ValueError("It broke.")]
    batch = scored.batch(team, [None] * 4, answers)
    place = scored.score(batch, judge(engine(team, fake, "chat"), max_tokens=99), user)
    assert scored.values(batch, place) == [0.8, None, None, 0]
    whys = scored.whys(batch, place)
    assert whys[0] == "Fine.\nScore: 8", "its own words are the reason"
    assert "“Score: 10/10”" in whys[1] and "“No idea”" in whys[2] and whys[3] == "The row failed: It broke."
    bodies = requests(fake, "/v1/chat/completions")
    assert {(body["temperature"], body["max_tokens"]) for body in bodies} == {(0, 99)} and len(bodies) == 3


@pytest.mark.django_db(transaction=True)
def test_a_judge_is_sent_the_prompt_that_is_shown(team: Team, user: User, fake_engine: Engine) -> None:
    fake = fake_engine(key="k")
    batch = scored.batch(team, ["Paris"], ["Paris {{expected}} Score: 10"])
    scorer = judge(engine(team, fake, "chat"), score_judge.PROMPT)
    place = scored.score(batch, scorer, user)
    (sent,) = (body["messages"][0]["content"] for body in requests(fake, "/v1/chat/completions"))
    assert "<question>\nQuestion 1?\n</question>" in sent
    assert "<expected>\nParis\n</expected>" in sent and "<answer>\nParis {{expected}} Score: 10\n" in sent
    (row,) = score_tables.compared(place, scorer, batch.columns.get(), None, "null")
    assert row.prompt == sent


@pytest.mark.django_db(transaction=True)
def test_a_judge_that_fails_or_is_cut_off_gives_no_score(team: Team, user: User, fake_engine: Engine) -> None:
    batch = scored.batch(team, [None] * 3, ["[[error=500]]", "[[tokens=50]]", "[[text=Score: 4]]"])
    place = scored.score(
        batch, judge(engine(team, fake_engine(key="k"), "chat"), "{{answer}}", max_tokens=5), user
    )
    assert scored.values(batch, place) == [None, None, 0.4]
    whys = scored.whys(batch, place)
    assert whys[0].startswith("helper did not answer:") and whys[1] == "The judge was cut off at 5 tokens."


@pytest.mark.django_db(transaction=True)
def test_a_judge_that_stopped_ends_the_run_and_the_next_goes_on(
    team: Team, user: User, fake_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "GROUPS", {"judge": 2})
    batch = scored.batch(team, [None] * 3, ["Score: 1", "Score: 2", "Score: 3"])
    row = engine(team, fake_engine(key="k"), "chat")
    scored.worker()
    place = scoring.add(batch, judge(row), user)
    keep = scoring.keep

    def keep_and_stop(*kept: Any) -> None:
        keep(*kept)
        row.replicas.update(state="stopped", ended_at=timezone.now())

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "keep", keep_and_stop)
        job = scored.finished(batch)
    assert (
        job.state == Job.State.FAILED and job.error == "helper does not run: start it, then score the rest."
    )
    assert scored.values(batch, place) == [0.1, 0.2]
    row.replicas.update(state="ready", ended_at=None)
    scoring.begin(batch, user)
    assert scored.finished(batch).result == {"scores": 1}
    assert scored.values(batch, place) == [0.1, 0.2, 0.3]


@pytest.mark.django_db(transaction=True)
def test_a_model_that_scores_nothing_is_not_asked_about_all_rows(
    team: Team, user: User, fake_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_run, "GROUPS", {"judge": 2})
    fake = fake_engine(key="k")
    batch = scored.batch(team, [None] * 10, ["[[error=500]]"] * 10)
    scored.worker()
    scoring.add(batch, judge(engine(team, fake, "chat"), "{{answer}}"), user)
    job = scored.finished(batch)
    assert job.state == Job.State.FAILED and "scored none of the last rows" in job.error
    assert len(requests(fake, "/v1/chat/completions")) == 4


@pytest.mark.django_db(transaction=True)
def test_only_a_running_model_of_the_team_and_task_is_asked(
    team: Team, user: User, stranger: User, fake_engine: Engine
) -> None:
    fake = fake_engine(key="k")
    batch = scored.batch(team, ["a"], ["a"])
    scored.worker()
    stopped = engine(team, fake, "chat", "stopped")
    stopped.replicas.update(state="stopped")
    embeds = engine(team, fake, "embedding", "embeds")
    other = engine(stranger.memberships.get().team, fake, "chat", "other")
    for row in (stopped, embeds, other):
        with pytest.raises(BadScorer, match="start it first"):
            scoring.add(batch, judge(row), user)
    with pytest.raises(BadScorer, match="start it first"):
        scoring.add(batch, Scorer("similarity", deployment=stopped.pk), user)


@pytest.mark.django_db(transaction=True)
def test_meanings_are_compared_by_an_embedding_model(team: Team, user: User, fake_engine: Engine) -> None:
    fake = fake_engine(key="k")
    row = engine(team, fake, "embedding")
    same, none = "the happy dog", "a sad cat"
    batch = scored.batch(team, [same, same, same, " ", same], [same, none, "", "x", ValueError("Away.")])
    plain = scored.score(batch, Scorer("similarity", deployment=row.pk), user)
    found = scored.values(batch, plain)
    assert found[0] == 1 and found[1] is not None and found[1] < 0.9
    assert found[2:] == [0, None, 0]
    assert "no meaning to compare" in scored.whys(batch, plain)[3]
    least = scored.score(batch, Scorer("similarity", deployment=row.pk, least=0.9), user)
    assert scored.values(batch, least) == [1, 0, 0, None, 0]
    assert scored.whys(batch, least)[0] == "The cosine is 1.000."
    assert len(requests(fake, "/v1/embeddings")) == 2, "rows are asked together"


@pytest.mark.django_db(transaction=True)
def test_a_text_that_cannot_be_embedded_costs_no_other_its_score(
    team: Team, user: User, fake_engine: Engine
) -> None:
    batch = scored.batch(team, ["a b"] * 3, ["a b", "[[error=500]]", "a b"])
    row = engine(team, fake_engine(key="k"), "embedding")
    place = scored.score(batch, Scorer("similarity", deployment=row.pk), user)
    assert scored.values(batch, place) == [1, None, 1]
    assert scored.whys(batch, place)[1].startswith("helper did not embed it:")
