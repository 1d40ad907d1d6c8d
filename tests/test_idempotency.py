"""Idempotency-Key: one execution for many sendings, against real web processes, engines and PostgreSQL."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone

from endpoints import idempotency, keys, sql
from endpoints.models import ApiKey, IdempotentRequest
from playground.models import Team
from tests.fakes import RunningFake
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site

pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]
LEASE_S = 1.5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), SLIPWAY_LEASE_S=str(LEASE_S)) as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, fake_engine: Engines) -> Site:
    """The site with `words` in front of one fake engine, and a key."""
    served.engine = fake_engine(tokens=4)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind)
    replica(behind, served.engine)
    served.key(team)
    served.until(lambda: served.post(json=ask()).status_code == 200)
    return served


def send(site: Site, text: str = "hello", token: str = "once", **more: Any) -> httpx.Response:
    return site.post(json=ask(text, **more), headers={"idempotency-key": token})


def executions(site: Site, text: str) -> int:
    """How often this message reached the engine."""
    assert site.engine is not None
    seen = httpx.get(f"{site.engine.base_url}/fake/requests", timeout=5).json()
    return sum(text in json.dumps(one) for one in seen)


def code(answer: httpx.Response) -> str:
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


def test_the_same_request_is_answered_once_and_then_replayed(site: Site) -> None:
    first = send(site, "replay me")
    again = send(site, "replay me")
    assert first.status_code == again.status_code == 200
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert executions(site, "replay me") == 1


def test_the_order_and_spacing_of_fields_do_not_matter(site: Site) -> None:
    body = ask("spaced", temperature=0.5)
    turned = json.dumps(dict(reversed(body.items())), indent=3)
    assert site.post(json=body, headers={"idempotency-key": "once"}).status_code == 200
    again = site.post(content=turned, headers={"idempotency-key": "once"})
    assert again.headers["idempotent-replayed"] == "true"


def test_completions_are_replayed_too_and_are_no_chats(site: Site) -> None:
    body, header = {"model": "words", "prompt": "plain"}, {"idempotency-key": "once"}
    assert site.post("/v1/completions", json=body, headers=header).status_code == 200
    again = site.post("/v1/completions", json=body, headers=header)
    assert again.headers["idempotent-replayed"] == "true"
    assert site.post(json=ask("plain"), headers=header).status_code == 422


def test_another_body_is_422_and_does_not_run(site: Site) -> None:
    assert send(site, "first body").status_code == 200
    other = send(site, "second body")
    assert other.status_code == 422
    assert code(other) == "idempotency_key_reused"
    assert executions(site, "second body") == 0


def test_a_hundred_in_parallel_are_one_execution(site: Site) -> None:
    text = "in parallel [[tokens=40]] [[delay=20]]"

    async def flood() -> list[httpx.Response]:
        headers = {"authorization": f"Bearer {site.secret}", "idempotency-key": "once"}
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=20, limits=limits) as client:
            one = [
                client.post(f"{site.url}/v1/chat/completions", json=ask(text), headers=headers)
                for _ in range(100)
            ]
            return await asyncio.gather(*one)

    answers = async_to_sync(flood)()
    assert executions(site, "in parallel") == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    given = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.content for answer in given}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in given) == 1
    busy = [answer for answer in answers if answer.status_code == 409]
    assert busy, "some came while it ran"
    assert {code(answer) for answer in busy} == {"idempotency_key_in_use"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in busy)
    assert send(site, text).headers["idempotent-replayed"] == "true"


def test_the_official_client_outwaits_the_first_request(site: Site) -> None:
    slow = "outwaited [[tokens=10]] [[delay=100]]"
    first = threading.Thread(target=send, args=(site, slow))
    first.start()
    site.until(lambda: executions(site, "outwaited") == 1)
    answer = site.client(retries=3).chat.completions.create(
        **ask(slow), extra_headers={"Idempotency-Key": "once"}
    )
    first.join()
    assert answer.choices[0].message.content
    assert executions(site, "outwaited") == 1


def test_a_failure_frees_the_key(site: Site) -> None:
    for _ in range(2):
        assert send(site, "fails [[error=500]]").status_code == 502
    assert executions(site, "fails") == 2
    assert not IdempotentRequest.objects.exists()
    assert send(site, "works").status_code == 200


def test_a_client_that_hangs_up_frees_the_key(site: Site) -> None:
    assert site.engine is not None
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{site.url}/v1/chat/completions",
            json=ask("given up [[tokens=5000]] [[delay=10]]"),
            headers={"authorization": f"Bearer {site.secret}", "idempotency-key": "once"},
            timeout=0.5,
        )
    site.engine.wait_idle()
    site.until(lambda: not IdempotentRequest.objects.exists())
    assert send(site, "another now").status_code == 200


def test_a_bad_request_takes_no_key(site: Site) -> None:
    assert send(site, n=-1).status_code == 400
    assert send(site, model="nothing").status_code == 404
    assert not IdempotentRequest.objects.exists()


def test_a_streamed_request_is_refused_and_says_why(site: Site) -> None:
    answer = send(site, "streamed", stream=True)
    assert answer.status_code == 400
    assert code(answer) == "idempotency_key_with_stream"
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert executions(site, "streamed") == 0


@pytest.mark.parametrize("token", ["", "two words", "x" * 256, "a\tb"])
def test_a_malformed_key_is_400(site: Site, token: str) -> None:
    assert code(send(site, token=token)) == "bad_idempotency_key"


def test_each_api_key_has_keys_of_its_own(site: Site, team: Team) -> None:
    assert send(site, "mine").status_code == 200
    site.key(team)
    other = send(site, "yours")
    assert other.status_code == 200
    assert "idempotent-replayed" not in other.headers


def test_a_long_request_keeps_its_lease(site: Site) -> None:
    slow = "long [[tokens=30]] [[delay=100]]"
    first = threading.Thread(target=send, args=(site, slow))
    first.start()
    site.until(lambda: executions(site, "long") == 1)
    began = time.monotonic()
    while time.monotonic() - began < LEASE_S + 0.7:
        assert send(site, slow).status_code == 409
    first.join()
    assert send(site, slow).headers["idempotent-replayed"] == "true"
    assert executions(site, "long") == 1


def test_a_key_outlives_the_web_process_that_died_with_it(site: Site, tmp_path: Path) -> None:
    slow = "orphaned [[tokens=4]] [[delay=300]]"
    with running_site(tmp_path, SLIPWAY_LEASE_S=str(LEASE_S)) as doomed:
        doomed.secret = site.secret
        doomed.until(lambda: doomed.get("/v1/models/words").status_code == 200)
        client = threading.Thread(target=_send_to_the_doomed, args=(doomed, slow))
        client.start()
        site.until(lambda: executions(site, "orphaned") == 1)
        os.kill(doomed.process.pid, signal.SIGKILL)
        client.join()
    assert send(site, slow).status_code == 409
    site.until(lambda: send(site, slow).status_code == 200, LEASE_S + 5)
    assert executions(site, "orphaned") == 2


def _send_to_the_doomed(site: Site, text: str) -> None:
    with pytest.raises(httpx.TransportError):
        send(site, text)


# What is kept


def stored(key: ApiKey, token: str, size: int, age: timedelta) -> IdempotentRequest:
    return IdempotentRequest.objects.create(
        key=key,
        token_hash=token,
        body_hash="b",
        owner=token,
        lease_until=timezone.now() - age,
        answer=b"x" * size,
        size=size,
        created_at=timezone.now() - age,
    )


def swept(limit: int) -> set[str]:
    """The tokens left after a sweep."""

    async def sweep() -> None:
        url = settings.DATABASE_URL
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await sql.sweep(connection, idempotency.LIFE, limit)

    async_to_sync(sweep)()
    return set(IdempotentRequest.objects.values_list("token_hash", flat=True))


def test_answers_go_after_a_day_and_the_oldest_beyond_a_sum(team: Team) -> None:
    key, other = (keys.make(team, None, name, ["endpoints"])[0] for name in ("one", "two"))
    stored(key, "yesterday", 1, timedelta(hours=25))
    for hours in (3, 2, 1):
        stored(key, f"{hours} h", 40, timedelta(hours=hours))
    stored(other, "other", 90, timedelta(hours=5))
    assert swept(100) == {"2 h", "1 h", "other"}


def test_an_answer_older_than_a_day_is_not_replayed(site: Site) -> None:
    assert send(site, "old news").status_code == 200
    IdempotentRequest.objects.update(created_at=timezone.now() - timedelta(hours=25))
    again = send(site, "old news")
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers
    assert executions(site, "old news") == 2


def test_an_answer_too_large_to_keep_is_passed_on_and_frees_the_key(site: Site) -> None:
    words = idempotency.STORED_LIMIT // 5
    answer = send(site, f"huge [[tokens={words}]] [[delay=0]]")
    assert answer.status_code == 200
    assert len(answer.content) > idempotency.STORED_LIMIT
    assert not IdempotentRequest.objects.exists()


def test_neither_the_clients_key_nor_the_prompt_is_kept(site: Site) -> None:
    assert send(site, "prompt-to-forget", token="token-to-forget").status_code == 200
    row = IdempotentRequest.objects.get()
    told = " ".join((row.token_hash, row.body_hash, row.owner, bytes(row.answer or b"").decode()))
    assert "to-forget" not in told
