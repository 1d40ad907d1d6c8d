"""What a key may use: granted in blocks, settled with what was truly taken, one limit for all processes."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import redis
from django.conf import settings
from django.utils import timezone

from endpoints import keys
from endpoints.models import ApiKey, Usage
from playground import servers
from playground.models import Node, Team
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[list[Site]]:
    with (
        running_site(tmp_path_factory.mktemp("one")) as one,
        running_site(tmp_path_factory.mktemp("two")) as two,
    ):
        yield [one, two]


@pytest.fixture
def site(sites: list[Site], team: Team, fake_engine: Engines) -> Site:
    """Two web processes; the first of them, with `words` in front of a fake engine."""
    engine = fake_engine(key="k", tokens=8)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind)
    replica(behind, engine)
    for site in sites:
        site.key(team)
        site.until(lambda site=site: site.post(json=ask()).status_code == 200)  # type: ignore[misc]
        site.engine = engine
    return sites[0]


def limited(site: Site, team: Team, *others: Site, **limits: float) -> ApiKey:
    """The sites ask with a key of these limits from now on."""
    key, secret = keys.make(team, None, "robot", ["endpoints"], limits=limits)
    for one in (site, *others):
        one.secret = secret
        one.until(lambda one=one: one.get("/v1/models").status_code == 200)  # type: ignore[misc]
    calm(site)
    return key


def calm(site: Site) -> None:
    """Not within the last seconds of a minute, where a new one would begin in a test."""
    left = 60 - timezone.now().timestamp() % 60
    if left < 8:
        end = timezone.now() + timedelta(seconds=left + 0.1)
        site.until(lambda: timezone.now() > end, 10)


def statuses(site: Site, times: int, **body: Any) -> list[int]:
    return [site.post(json=ask(**body)).status_code for _ in range(times)]


def error(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_requests_beyond_the_limit_are_429_with_the_time_to_wait(site: Site, team: Team) -> None:
    limited(site, team, requests_minute=3)
    assert statuses(site, 4) == [200, 200, 200, 429]
    refused = site.post(json=ask())
    assert error(refused)["code"] == "rate_limit_exceeded"
    assert error(refused)["type"] == "rate_limit_error"
    assert re.fullmatch(
        r"robot has used its 3 requests a minute\. Try again in \d+ s\.", error(refused)["message"]
    )
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in refused.headers


def test_the_official_client_hears_of_the_limit(site: Site, team: Team) -> None:
    limited(site, team, requests_minute=1)
    raw = site.client().chat.completions.with_raw_response.create(**ask())
    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"\d+s|1m0s|\d+ms", raw.headers["x-ratelimit-reset-requests"])
    with pytest.raises(openai.RateLimitError):
        site.client().chat.completions.create(**ask())


def test_a_day_s_limit_tells_clients_not_to_try_again(site: Site, team: Team) -> None:
    limited(site, team, requests_day=2)
    assert statuses(site, 2) == [200, 200]
    refused = site.post(json=ask())
    assert refused.status_code == 429
    assert error(refused)["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert "2 requests a day" in error(refused)["message"]


def test_what_was_thought_to_take_tokens_gives_back_what_it_did_not(site: Site, team: Team) -> None:
    """Each is thought to take 512 and takes 9: ten fit into 1,000, where two would have."""
    limited(site, team, tokens_minute=1000)
    answers = [site.post(json=ask(max_tokens=500)) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    assert answers[0].headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(site.post(json=ask()).headers["x-ratelimit-remaining-tokens"]) < 1000 - 10 * 9


def test_what_takes_more_than_thought_is_paid_by_the_next(site: Site, team: Team) -> None:
    """Nothing says how long the answer may be, and it is longer than the limit."""
    limited(site, team, tokens_minute=400)
    assert site.post(json=ask("[[tokens=390]] [[delay=0]]")).status_code == 200
    refused = site.post(json=ask())
    assert refused.status_code == 429
    assert "400 tokens a minute" in error(refused)["message"]


def test_a_request_larger_than_the_limit_says_what_to_do(site: Site, team: Team) -> None:
    limited(site, team, tokens_minute=100)
    refused = site.post(json=ask(max_tokens=5000))
    assert refused.status_code == 429
    assert "ask for fewer tokens with max_tokens" in error(refused)["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert site.post(json=ask(max_tokens=20)).status_code == 200


def test_a_failed_request_takes_no_tokens(site: Site, team: Team) -> None:
    limited(site, team, tokens_minute=600)
    assert statuses(site, 3, text="[[error=500]]", max_tokens=500) == [502] * 3
    assert site.post(json=ask(max_tokens=500)).status_code == 200


def test_spend_counts_where_the_machine_has_a_price(site: Site, team: Team) -> None:
    Node.objects.update(price_per_hour=3600, inventory={"cores": 4})
    limited(site, team, spend_minute=0.05)
    site.until(lambda: bool(site.post(json=ask("[[tokens=20]] [[delay=5]]")).status_code == 429), 20)
    refused = site.post(json=ask())
    assert "$0.05 a minute" in error(refused)["message"]


def test_without_a_price_spend_refuses_nothing(site: Site, team: Team) -> None:
    limited(site, team, spend_minute=0.000001)
    assert statuses(site, 3) == [200] * 3


def test_two_processes_and_two_keys_of_a_line_share_one_limit(
    sites: list[Site], site: Site, team: Team
) -> None:
    key = limited(site, team, sites[1], requests_minute=10)
    found = statuses(site, 3) + statuses(sites[1], 3)
    _, sites[1].secret = keys.rotate(key, None, timedelta(hours=1))
    sites[1].until(lambda: sites[1].get("/v1/models").status_code == 200)
    found += statuses(sites[1], 4) + statuses(site, 6)
    assert found.count(200) == 10 and set(found) == {200, 429}


def test_most_requests_ask_redis_nothing(site: Site, team: Team) -> None:
    limited(site, team, requests_minute=3200, tokens_minute=10_000_000)
    assert site.post(json=ask()).status_code == 200
    server = redis.Redis.from_url(settings.REDIS_URL)
    before = server.info("commandstats")["cmdstat_hincrby"]["calls"]
    assert statuses(site, 60) == [200] * 60
    assert server.info("commandstats")["cmdstat_hincrby"]["calls"] <= before + 1


def test_a_flushed_redis_grants_nothing_twice(sites: list[Site], site: Site, team: Team) -> None:
    limited(site, team, sites[1], requests_minute=8)
    found = statuses(site, 3) + statuses(sites[1], 3)
    redis.Redis.from_url(settings.REDIS_URL).flushall()
    found += statuses(sites[1], 4) + statuses(site, 4)
    assert found.count(200) == 8 and found.count(429) == 6


def test_a_day_that_redis_forgot_and_nobody_remembers_comes_from_usage(
    site: Site, team: Team, sites: list[Site]
) -> None:
    key = limited(site, team, requests_day=5)
    row = {"at": timezone.now(), "team": team, "key": key, "endpoint": "words", "status": 200, "e2e_ms": 1.0}
    Usage.objects.bulk_create(Usage(request_id=f"old-{at}", route="/v1/x", **row) for at in range(3))
    found = statuses(site, 4)
    assert found == [200, 200, 429, 429]


def test_at_most_so_many_requests_at_once_over_all_processes(
    sites: list[Site], site: Site, team: Team
) -> None:
    limited(site, team, sites[1], concurrent=3)
    with ThreadPoolExecutor(12) as pool:
        slow = ask("[[tokens=200]] [[delay=10]]")
        found = list(pool.map(lambda at: sites[at % 2].post(json=slow), range(12)))
    assert sorted(one.status_code for one in found) == [200] * 3 + [429] * 9
    refused = next(one for one in found if one.status_code == 429)
    assert "3 requests at once" in error(refused)["message"]
    assert refused.headers["retry-after"] == "1"
    site.until(lambda: statuses(site, 1) == [200])


def test_a_key_without_limits_of_its_own_has_one_on_streams(site: Site, team: Team, tmp_path: Path) -> None:
    with running_site(tmp_path, SLIPWAY_KEY_CONCURRENT="20") as narrow:
        narrow.key(team)
        narrow.until(lambda: narrow.post(json=ask()).status_code == 200)
        slow = ask("[[tokens=5000]] [[delay=10]]", stream=True)
        headers = {"authorization": f"Bearer {narrow.secret}"}
        every = threading.Barrier(60)

        def told(_: int) -> int:
            """Its status; the stream stays open until each has one."""
            url = f"{narrow.url}/v1/chat/completions"
            with httpx.stream("POST", url, json=slow, headers=headers, timeout=60) as answer:
                every.wait(60)
                return answer.status_code

        with ThreadPoolExecutor(60) as pool:
            found = list(pool.map(told, range(60)))
        assert found.count(200) == 20 and found.count(429) == 40


def test_without_redis_each_process_has_its_share(
    site: Site, team: Team, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("redis")
    servers.start_valkey(home)
    address = servers.addresses(home).redis_url
    with (
        running_site(tmp_path_factory.mktemp("a"), REDIS_URL=address) as one,
        running_site(tmp_path_factory.mktemp("b"), REDIS_URL=address) as two,
    ):
        one.secret = two.secret = site.secret
        for each in (one, two):
            each.until(lambda each=each: each.post(json=ask()).status_code == 200)  # type: ignore[misc]
        limited(one, team, two, requests_minute=40)
        assert statuses(one, 2) + statuses(two, 2) == [200] * 4
        servers.stop_valkey(home)
        found = statuses(one, 40) + statuses(two, 40)
        # Four processes live: two of the other fixture, which nobody asks.
        assert found.count(200) + 4 <= 40
        assert found.count(200) >= 16 and set(found) == {200, 429}
        servers.start_valkey(home)
        one.until(lambda: one.get("/v1/models").status_code == 200)
        total = found.count(200) + 4 + (statuses(one, 30) + statuses(two, 30)).count(200)
        assert total <= 40
    servers.stop_valkey(home)
    shutil.rmtree(servers.addresses(home).sockets)
