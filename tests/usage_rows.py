"""A team's usage of some days, for tests of pages: requests of /v1, playground answers, rows of batches."""

import random
from datetime import timedelta
from typing import Any

from django.utils import timezone

from endpoints import keys, usage_store
from endpoints.models import ApiBatch, ApiKey
from playground.models import (
    Batch,
    BatchColumn,
    BatchResult,
    Column,
    Conversation,
    Dataset,
    DatasetVersion,
    Deployment,
    Generation,
    MeasuredUse,
    Replica,
    Team,
    Turn,
    User,
)


def measured(deployment: Deployment, user: User, count: int) -> None:
    """Requests of a load run of that person."""
    MeasuredUse.objects.bulk_create(
        MeasuredUse(
            team=deployment.team,
            user=user,
            kind="load",
            configuration=deployment.configuration,
            failed=False,
            prompt_tokens=40,
            completion_tokens=20,
            ttft_ms=30.0 + n,
            busy_s=0.2,
            core_s=0.4,
        )
        for n in range(count)
    )


def request(team: Team, number: int, **more: Any) -> dict[str, Any]:
    """A record of one request, as the gateway leaves it."""
    plain = {
        "request_id": f"row-{number}",
        "client_id": f"req_{number}",
        "at": timezone.now().timestamp() - 60,
        "team": team.pk,
        "endpoint": "support-triage",
        "route": "/v1/chat/completions",
        "status": 200,
        "stream": True,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "cached_tokens": 20,
        "ttft_ms": 40.0,
        "e2e_ms": 900.0,
        "busy_s": 0.5,
        "cost": 0.001,
        "core_s": 1.0,
    }
    return plain | more


def requests(team: Team, deployment: Deployment, key: ApiKey, count: int, days: int = 6) -> None:
    """Requests of one key over some days, of which some failed."""
    chance = random.Random(7)
    now = timezone.now().timestamp()
    found = []
    for n in range(count):
        failed = chance.random() < 0.04
        first = chance.lognormvariate(4, 0.5)
        found.append(
            request(
                team,
                n + key.pk * 1_000_000,
                at=now - chance.random() * days * 86400,
                key=key.pk,
                deployment=deployment.pk,
                status=chance.choice([502, 499, 503]) if failed else 200,
                code="died_midway" if failed else "",
                prompt_tokens=chance.randint(50, 900),
                completion_tokens=None if failed else chance.randint(5, 400),
                ttft_ms=first,
                e2e_ms=first + chance.random() * 4000,
            )
        )
    usage_store.keep(found)


def answer(deployment: Deployment, user: User, **more: Any) -> Generation:
    """An answer in the playground."""
    team = deployment.team
    conversation = Conversation.objects.create(team=team, created_by=user)
    column = Column.objects.create(conversation=conversation, deployment=deployment)
    turn = Turn.objects.create(conversation=conversation, text="Hi", client_id="1", created_by=user)
    timings = {"ttft": 30.0, "e2e": 500.0, "busy_s": 0.4, "cost": 0.0005}
    plain: dict[str, Any] = {
        "state": Generation.State.COMPLETE,
        "owner": "a-web-process",
        "configuration": deployment.configuration,
        "replica": Replica.objects.filter(deployment=deployment).first(),
        "usage": {"prompt_tokens": 10, "completion_tokens": 7},
        "timings": timings,
    }
    return Generation.objects.create(turn=turn, column=column, **plain | more)


def batch(deployment: Deployment, user: User | None, rows: int, key: ApiKey | None = None) -> Batch:
    """A batch of one column, of whose rows the last failed; sent by /v1/batches where it has a key."""
    team = deployment.team
    name = f"tickets {Batch.objects.count()}"
    dataset = Dataset.objects.create(team=team, name=name)
    version = DatasetVersion.objects.create(dataset=dataset, number=1, kind="prompts", row_count=rows)
    made = Batch.objects.create(team=team, name=name, version=version, created_by=user)
    column = BatchColumn.objects.create(batch=made, deployment=deployment)
    for number in range(1, rows + 1):
        BatchResult.objects.create(
            column=column,
            number=number,
            attempt=1,
            ok=number < rows,
            usage={"prompt_tokens": 5, "completion_tokens": 3},
            timings={"ttft": 20.0, "e2e": 90.0, "busy_s": 0.1},
            configuration=deployment.configuration,
            replica=Replica.objects.filter(deployment=deployment).first(),
        )
    if key is not None:
        ApiBatch.objects.create(
            team=team,
            token=f"batch_{made.pk}",
            key=key,
            input_token="file_1",
            node="n",
            endpoint="/v1/chat/completions",
            model="support-triage",
            batch=made,
            expires_at=timezone.now() + timedelta(days=1),
        )
    return made


def key(team: Team, user: User | None, name: str) -> ApiKey:
    return keys.make(team, user, name, ["endpoints"])[0]
