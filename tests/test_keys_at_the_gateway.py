"""What a key may call, and since when it may not: asked of two web processes, with Redis and without."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import openai
import pytest

from endpoints import keys
from endpoints.models import ApiKey, Release
from playground import servers
from playground.models import Team
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]
SOON_S = 5.0


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[list[Site]]:
    """Two web processes whose Redis ends midway, by `redis_gone`."""
    home = tmp_path_factory.mktemp("redis")
    servers.start_valkey(home)
    address = servers.addresses(home).redis_url
    with (
        running_site(tmp_path_factory.mktemp("one"), REDIS_URL=address) as one,
        running_site(tmp_path_factory.mktemp("two"), REDIS_URL=address) as two,
    ):
        one.redis = two.redis = home  # type: ignore[attr-defined]
        yield [one, two]
    servers.stop_valkey(home)
    shutil.rmtree(servers.addresses(home).sockets)


@pytest.fixture
def site(sites: list[Site], team: Team, fake_engine: Engines) -> Site:
    """The first of two, with `words` and `others` in front of a fake engine."""
    engine = fake_engine(key="k", tokens=4)
    behind = deployment(team, released=True)
    endpoint(team, "words", behind)
    endpoint(team, "others", behind)
    replica(behind, engine)
    for site in sites:
        site.key(team)
        site.until(lambda site=site: site.post(json=ask(model="others")).status_code == 200)  # type: ignore[misc]
        site.engine = engine
    return sites[0]


def known(site: Site, secret: str) -> bool:
    return site.get("/v1/models", authorization=f"Bearer {secret}").status_code == 200


def everywhere(sites: list[Site], holds: Callable[[Site], bool], timeout_s: float = 10.0) -> None:
    """Return once it holds at each of them."""
    for site in sites:
        site.until(partial(holds, site), timeout_s)


def may(site: Site, team: Team, scopes: tuple[str, ...] = tuple(keys.SCOPES), **limits: list[str]) -> str:
    _, secret = keys.make(team, None, "narrow", scopes, **limits)  # type: ignore[arg-type]
    site.until(lambda: known(site, secret))
    return secret


def test_a_key_of_one_endpoint_sees_and_calls_no_other(site: Site, team: Team) -> None:
    client = site.client(may(site, team, endpoints=["words"]))
    assert [model.id for model in client.models.list()] == ["words"]
    assert client.chat.completions.create(**ask()).choices
    for name in ("others", f"deployment/{deployment_pk()}"):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(**ask(model=name))
        assert refused.value.code == "model_not_allowed"
        with pytest.raises(openai.PermissionDeniedError):
            client.models.retrieve(name)


def deployment_pk() -> int:
    return Release.objects.values_list("deployment_id", flat=True)[0]


def test_a_key_of_one_route_is_refused_by_all_others(site: Site, team: Team) -> None:
    site.secret = may(site, team, routes=["/v1/responses"])
    assert site.post("/v1/responses", json={"model": "words", "input": "hello"}).status_code == 200
    assert site.get("/v1/models").status_code == 200
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/batches", "/v1/files"):
        refused = site.post(path, json=ask())
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "route_not_allowed"), path
    for path in ("/v1/files", "/v1/batches", "/v1/files/file-x/content"):
        assert site.get(path).status_code == 403


def test_a_batch_asks_nothing_that_its_key_may_not(site: Site, team: Team) -> None:
    site.secret = may(site, team, routes=["/v1/files", "/v1/batches", "/v1/chat/completions"])
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "words", "input": "x"},
    }
    file = site.client().files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        site.client().batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
    assert refused.value.code == "route_not_allowed"


def test_two_ways_of_sending_a_key_are_refused_together_and_equal_alone(site: Site, team: Team) -> None:
    secret = may(site, team, routes=["/v1/chat/completions"])
    alone = [{"authorization": f"Bearer {secret}"}, {"x-api-key": secret}]
    for headers in alone:
        assert site.get("/v1/models", **headers).status_code == 200
        assert site.get("/v1/files", **headers).status_code == 403
    both = site.get("/v1/models", **alone[0], **alone[1])
    assert (both.status_code, both.json()["error"]["code"]) == (400, "two_keys")


def test_both_secrets_work_until_the_old_one_ends(sites: list[Site], site: Site, team: Team) -> None:
    key, old = keys.make(team, None, "changes over", ["endpoints"])
    site.until(lambda: known(site, old))
    _, new = keys.rotate(key, None, timedelta(hours=1))
    everywhere(sites, lambda each: known(each, new) and known(each, old), SOON_S)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=key.created_at)
    everywhere(sites, lambda each: not known(each, old) and known(each, new), SOON_S)


def test_a_change_is_followed_everywhere(sites: list[Site], site: Site, team: Team) -> None:
    key, secret = keys.make(team, None, "robot", ["endpoints"])
    everywhere(sites, lambda each: known(each, secret))
    keys.change(
        *(key, None),
        name="robot",
        scopes=["endpoints"],
        endpoints=["others"],
        routes=[],
        limits={"requests_minute": 1},
        expires_at=None,
    )
    for each in sites:
        each.secret = secret
    everywhere(sites, lambda each: each.post(json=ask()).status_code == 403, SOON_S)
    found = [each.post(json=ask(model="others")).status_code for each in sites * 2]
    assert sorted(found) == [200, 429, 429, 429]


def test_a_revoked_key_is_refused_everywhere_within_5_s_also_without_redis(
    sites: list[Site], site: Site, team: Team
) -> None:
    _refused_within(SOON_S, sites, team)
    servers.stop_valkey(site.redis)  # type: ignore[attr-defined]
    try:
        _refused_within(SOON_S, sites, team)
    finally:
        servers.start_valkey(site.redis)  # type: ignore[attr-defined]


def _refused_within(seconds: float, sites: list[Site], team: Team) -> None:
    key, secret = keys.make(team, None, "leaks", ["endpoints"])
    everywhere(sites, lambda each: known(each, secret))
    began = time.monotonic()
    keys.revoke(key, None)
    everywhere(sites, lambda each: not known(each, secret), seconds)
    assert time.monotonic() - began < seconds
