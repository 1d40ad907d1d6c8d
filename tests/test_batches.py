"""Batches as rows: what begins, pauses, ends and is counted. No engine answers here; see test_batch_runs."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from playground import access, batch_sweep, batches
from playground.batches import BatchRefused
from playground.models import (
    Batch,
    BatchItem,
    BatchResult,
    DatasetVersion,
    Deployment,
    Membership,
    Model,
    Team,
    User,
)
from tests.batch_rows import version

State = Batch.State
WAITING = {"waiting": 3, "claimed": 0, "done": 0, "failed": 0, "cancelled": 0}


@pytest.fixture
def rows(team: Team) -> DatasetVersion:
    return version(team, ["b", "a", "c"])


@pytest.fixture
def deployment(team: Team, user: User) -> Deployment:
    model = Model.objects.create(team=team, name="tiny", source="local:tiny")
    return Deployment.objects.create(team=team, created_by=user, name="one", model=model, engine="fake")


@pytest.fixture
def batch(team: Team, user: User, rows: DatasetVersion, deployment: Deployment) -> Batch:
    return batches.begin(team, user, "mine", rows, [{"deployment": deployment}], {"temperature": 0})


def end_rows(batch: Batch, *states: str) -> None:
    """Its rows have come to these states, in the file's order."""
    for number, state in enumerate(states, 1):
        items = BatchItem.objects.filter(column__batch=batch, number=number)
        items.update(state=state)
        item = items.get()
        if state in ("done", "failed"):
            BatchResult.objects.create(
                column=item.column, number=number, attempt=item.attempt, ok=state == "done"
            )


def test_it_makes_an_item_for_each_row_and_column(
    team: Team, user: User, rows: DatasetVersion, deployment: Deployment
) -> None:
    other = {"deployment": deployment, "parameters": {"temperature": 1}, "defaults": {"top_p": 0.5}}
    batch = batches.begin(team, user, "", rows, [{"deployment": deployment}, other], {"max_tokens": 5})
    first, second = batch.columns.all()
    assert batches.counts(batch) == {first.pk: WAITING, second.pk: WAITING}
    assert (batch.state, batch.name, first.parameters, second.parameters) == (
        "running",
        "questions",
        None,
        {"temperature": 1},
    )
    assert second.defaults == {"top_p": 0.5}


def test_rows_that_begin_alike_are_asked_one_after_another(
    team: Team, user: User, deployment: Deployment
) -> None:
    def body(system: str, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}

    made = version(team, [body("S1", "z"), body("S2", "a"), body("S1", "b"), body("S2", "b")])
    batch = batches.begin(team, user, "", made, [{"deployment": deployment}], {})
    order = BatchItem.objects.filter(column__batch=batch).order_by("place")
    assert list(order.values_list("number", flat=True)) == [3, 1, 2, 4]


def test_it_refuses_what_cannot_be_asked(
    team: Team, user: User, stranger: User, rows: DatasetVersion, deployment: Deployment
) -> None:
    column = {"deployment": deployment}
    with pytest.raises(BatchRefused, match="Choose who answers"):
        batches.begin(team, user, "", rows, [], {})
    with pytest.raises(BatchRefused, match="adapter tone"):
        batches.begin(team, user, "", rows, [{**column, "adapter": "tone"}], {})
    with pytest.raises(BatchRefused, match="no rows"):
        batches.begin(team, user, "", version(team, [], "none"), [column], {})
    with pytest.raises(access.Refused):
        batches.begin(team, stranger, "", rows, [column], {})
    theirs = access.team_of(stranger)
    with pytest.raises(BatchRefused, match="another team"):
        batches.begin(theirs, stranger, "", rows, [column], {})
    with pytest.raises(BatchRefused, match="another team"):
        batches.begin(theirs, stranger, "", version(theirs, ["a"]), [column], {})
    Deployment.objects.filter(pk=deployment.pk).update(desired="deleted")
    with pytest.raises(BatchRefused, match="deleted"):
        batches.begin(team, user, "", rows, [column], {})
    assert not Batch.objects.exists()


def test_what_is_stopped_is_started_by_whom_may(
    team: Team, user: User, rows: DatasetVersion, deployment: Deployment
) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(desired="stopped")
    member = User.objects.create_user(username="member")
    Membership.objects.create(user=member, team=team, role=Membership.Role.MEMBER)
    with pytest.raises(access.Refused):
        batches.begin(team, member, "", rows, [{"deployment": deployment}], {})
    batch = batches.begin(team, user, "", rows, [{"deployment": deployment}], {})
    deployment.refresh_from_db()
    assert (deployment.desired, batch.columns.get().started_it) == ("running", True)
    end_rows(batch, "done", "done", "done")
    batch_sweep.settle(batch)
    deployment.refresh_from_db()
    assert (batch.state, deployment.desired) == ("completed", "stopped")


def test_what_another_batch_still_asks_is_left_to_it(
    team: Team, user: User, rows: DatasetVersion, deployment: Deployment
) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(desired="stopped")
    first, second = (batches.begin(team, user, "", rows, [{"deployment": deployment}], {}) for _ in range(2))
    batches.cancel(first, user)
    batch_sweep.settle(first)
    deployment.refresh_from_db()
    assert (first.state, deployment.desired) == ("cancelled", "running")
    batches.cancel(second, user)
    batch_sweep.settle(second)
    deployment.refresh_from_db()
    assert deployment.desired == "stopped"


def test_pause_and_resume(batch: Batch, user: User, stranger: User) -> None:
    with pytest.raises(access.Refused):
        batches.pause(batch, stranger)
    batches.pause(batch, user)
    assert batch.state == State.PAUSED
    with pytest.raises(BatchRefused):
        batches.pause(batch, user)
    end_rows(batch, "done", "done", "done")
    batch_sweep.settle(batch)
    assert batch.state == State.PAUSED
    batches.resume(batch, user)
    batch_sweep.settle(batch)
    assert batch.state == State.COMPLETED
    with pytest.raises(BatchRefused):
        batches.resume(batch, user)


def test_cancel_keeps_what_was_answered(batch: Batch, user: User) -> None:
    end_rows(batch, "done", "failed")
    batches.cancel(batch, user)
    batches.cancel(batch, user)
    batch_sweep.settle(batch)
    assert batch.state == State.CANCELLED
    assert list(batches.counts(batch).values()) == [
        {"waiting": 0, "claimed": 0, "done": 1, "failed": 1, "cancelled": 1}
    ]
    with pytest.raises(BatchRefused):
        batches.retry_failed(batch, user)


def test_a_retry_raises_the_attempt_and_a_success_is_final(batch: Batch, user: User) -> None:
    end_rows(batch, "done", "failed", "done")
    batch_sweep.settle(batch)
    assert batch.state == State.COMPLETED and batch.ended_at
    assert batches.retry_failed(batch, user) == 1
    assert (batch.state, batch.ended_at) == ("running", None)
    items = BatchItem.objects.filter(column__batch=batch).order_by("number")
    assert list(items.values_list("state", "attempt")) == [("done", 0), ("waiting", 1), ("done", 0)]
    assert batches.retry_failed(batch, user) == 0
    assert BatchResult.objects.filter(column__batch=batch, ok=False).count() == 1


def test_its_end_waits_for_what_else_is_to_be_done(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(batch_sweep, "FINISHERS", [lambda _: next(answers)])
    end_rows(batch, "done", "done", "done")
    batch_sweep.settle(batch)
    assert batch.state == State.FINALIZING
    batch_sweep.settle(batch)
    assert batch.state == State.COMPLETED


def test_a_window_that_is_over_ends_it(
    team: Team, user: User, rows: DatasetVersion, deployment: Deployment
) -> None:
    batch = batches.begin(team, user, "", rows, [{"deployment": deployment}], {}, window_s=-1)
    end_rows(batch, "done")
    batch_sweep.settle_all()
    batch.refresh_from_db()
    assert (batch.state, batch.problem) == ("expired", batch_sweep.WINDOW_OVER)


def test_an_expired_claim_is_free_and_a_held_one_is_not(batch: Batch) -> None:
    items = BatchItem.objects.filter(column__batch=batch)
    items.filter(number=1).update(state="claimed", claimed_by="gone", lease_expires_at="2020-01-01T00:00Z")
    items.filter(number=2).update(
        state="claimed", claimed_by="here", lease_expires_at=Now() + timedelta(hours=1)
    )
    batch_sweep.settle(batch)
    assert list(items.order_by("number").values_list("state", flat=True)) == ["waiting", "claimed", "waiting"]


def test_it_says_why_its_rows_wait(batch: Batch, deployment: Deployment) -> None:
    batch_sweep.settle(batch)
    assert batch.columns.get().problem == "one is starting."
    Deployment.objects.filter(pk=deployment.pk).update(desired="stopped")
    batch_sweep.settle(batch)
    assert "is stopped: start it" in batch.columns.get().problem
