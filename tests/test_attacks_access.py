"""Attacks on who may what, by number of the list of attacks, and where each is tested.

2  revoked and expired keys, Redis down      test_keys_at_the_gateway.py, test_gateway.py
3  two keys at once, either alone            test_attacks.py, test_keys_at_the_gateway.py
4  another team's object by id, any verb     test_matrix.py (pages, API, sockets), here (/v1)
5  a viewer's or removed member's socket     test_consumers.py, test_matrix.py
6  a socket of a foreign page                test_consumers.py
7  odd, doubled and forwarded hosts          test_attacks.py (/v1), here (pages, socket)
22 hostile names                             test_attacks_everywhere.py, on every page there is; test_pages.py
27 changes without a CSRF token              test_attacks_everywhere.py, every address there is, and the API
31 two promote at once                       test_promotion.py
34 a secret in a prompt                      test_attacks.py (/v1), test_attacks_everywhere.py (logs), here
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from django.core.management import call_command

from endpoints import keys, protocol, stored
from playground import tokens
from playground.models import AuditEntry, Deployment, Generation, Membership, Team, User
from tests import chats
from tests.fakes import running_fake
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site
from tests.test_attacks import spoken

CANARY = "canary-5e1d-do-not-log"


# A real process: /v1 by key, scope and team (4), hosts and forwarding (7), a secret in a prompt (34)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Site]:
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        call_command("migrate", verbosity=0)
        stack.callback(call_command, "flush", verbosity=0, interactive=False)
        served = stack.enter_context(running_site(tmp_path_factory.mktemp("access")))
        team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        other = Team.objects.create(name="Other", slug="other")
        for owner, name in ((team, "words"), (other, "private")):
            behind = deployment(owner, released=True, name=name)
            endpoint(owner, name, behind)
            served.engine = stack.enter_context(running_fake(key="engine-secret", tokens=3))
            replica(behind, served.engine)
        person = User.objects.create_user("ada", is_staff=True)
        Membership.objects.create(user=person, team=team, role=Membership.Role.ADMIN)
        served.key(team)
        served.until(lambda: served.get("/v1/models/words").status_code == 200)
        yield served


# Keys (4)

BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"input": "Hi"},
    "completion": {"prompt": "Hi"},
    "embedding": {"input": "Hi"},
    "rerank": {"query": "Hi", "documents": ["Ho"]},
    "score": {"text_1": "Hi", "text_2": "Ho"},
    "classification": {"input": "Hi"},
}
ASKING = [(path.decode(), kind) for (_, path), kind in protocol.ROUTES.items()]
KEEPING = [(method, noun.decode(), tail.decode()) for method, noun, named, tail in stored.ROUTES if named]


def asked(site: Site, path: str, kind: str, model: str, secret: str | None) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.post(f"{site.url}{path}", json={**BODIES[kind], "model": model}, headers=headers, timeout=20)


def key(team: str, *scopes: str) -> str:
    """A new key of that team's; the gateway takes it at once."""
    return keys.make(Team.objects.get(slug=team), None, "attack", scopes or tuple(keys.SCOPES))[1]


@pytest.mark.parametrize(("path", "kind"), ASKING)
def test_no_route_answers_who_may_not_call_it(site: Site, path: str, kind: str) -> None:
    ours = f"deployment/{Deployment.objects.get(name='words').pk}"
    assert asked(site, path, kind, "words", None).status_code == 401
    for model in ("words", ours):
        assert asked(site, path, kind, model, key("other")).status_code == 404
    assert asked(site, path, kind, "words", key("default", "playground")).status_code == 403
    assert asked(site, path, kind, ours, key("default", "endpoints")).status_code == 403


def test_models_are_told_to_their_team_alone(site: Site) -> None:
    other = {"authorization": f"Bearer {key('other')}"}
    assert httpx.get(f"{site.url}/v1/models").status_code == 401
    assert "words" not in httpx.get(f"{site.url}/v1/models", headers=other).text
    assert httpx.get(f"{site.url}/v1/models/words", headers=other).status_code == 404


@pytest.mark.parametrize(("method", "noun", "tail"), KEEPING)
def test_another_teams_file_or_batch_is_not_there(site: Site, method: str, noun: str, tail: str) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": ask()}
    file = {"file": ("rows.jsonl", json.dumps(line).encode())}
    mine = {"authorization": f"Bearer {site.secret}"}
    made = httpx.post(f"{site.url}/v1/files", files=file, data={"purpose": "batch"}, headers=mine).json()[
        "id"
    ]
    if noun == "batches":
        wanted = {"input_file_id": made, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = httpx.post(f"{site.url}/v1/batches", json=wanted, headers=mine).json()["id"]
    address = f"{site.url}/v1/{noun}/{made}" + (f"/{tail}" if tail else "")
    assert httpx.request(method, address).status_code == 401
    other = {"authorization": f"Bearer {key('other')}"}
    assert httpx.request(method, address, headers=other).status_code == 404
    assert httpx.get(f"{site.url}/v1/{noun}/{made}", headers=mine).status_code == 200, "it is there as before"
    assert made not in httpx.get(f"{site.url}/v1/{noun}", headers=other).text


# Hosts and forwarding (7)

HOSTS = [["a/health?"], ["127.0.0.1", "127.0.0.1"], ["evil.example"], [], ["127.0.0.1@evil.example"]]


@pytest.mark.parametrize("hosts", HOSTS, ids=str)
@pytest.mark.parametrize("path", ["/", "/sign-in/", "/api/v1/me", "/static/site.css", "/nothing"])
def test_a_page_asked_by_a_wrong_host_is_400(site: Site, path: str, hosts: list[str]) -> None:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    answer = spoken(site, f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] == b"400"
    assert b"evil.example" not in answer


@pytest.mark.parametrize("hosts", HOSTS, ids=str)
def test_a_socket_asked_by_a_wrong_host_is_refused(site: Site, hosts: list[str]) -> None:
    lines = "".join(f"Host: {host}\r\nOrigin: http://{host}\r\n" for host in hosts)
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    wish = f"GET /ws/ HTTP/1.1\r\n{lines}{upgrade}Sec-WebSocket-Key: {'a' * 22}==\r\n\r\n"
    assert spoken(site, wish.encode(), 4).split(b" ")[1] in (b"400", b"403")


def test_forwarding_headers_of_a_page_are_not_believed(site: Site) -> None:
    person = User.objects.get(username="ada")
    sent = {
        "x-forwarded-for": "10.9.9.9",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "forwarded": "for=10.9.9.9;host=evil.example;proto=https",
        "x-real-ip": "10.9.9.9",
    }
    cookie = {"cookie": chats.cookie(person)}
    page = httpx.get(f"{site.url}/endpoints/on/words/", headers=sent | cookie, timeout=60)
    assert page.status_code == 200
    assert "evil.example" not in page.text and f"http://127.0.0.1:{site.port}/v1" in page.text
    _, secret = tokens.make(person, "attack", "write")
    refused = httpx.delete(
        f"{site.url}/api/v1/models/{10**9}", headers=sent | {"authorization": f"Bearer {secret}"}, timeout=60
    )
    assert refused.status_code == 404
    row = AuditEntry.objects.filter(user=person, action="refused write").latest("pk")
    assert (row.address, row.via) == ("127.0.0.1", "api")


# A secret in a prompt (34)


def test_a_secret_said_in_the_playground_is_nowhere_else(site: Site) -> None:
    person = User.objects.get(username="ada")
    chat = chats.conversation(person.memberships.get().team, Deployment.objects.get(name="words"))
    _, secret = tokens.make(person, "canary", "write")
    to = f"{site.url}/api/v1/conversations/{chat.pk}/messages"
    known = {"authorization": f"Bearer {secret}"}
    for directive in ("", "[[error=500]]", "[[error=400]]", "[[malformed]]", "[[html]]", "[[die=1]]"):
        sent = httpx.post(to, json={"text": f"{CANARY} {directive}"}, headers=known)
        assert sent.status_code in (200, 201, 202), sent.text
        for answer in Generation.objects.filter(turn__conversation=chat):
            chats.answer(answer.pk)
    wrong = [
        httpx.post(to, content=f'{{"text": "{CANARY}"', headers=known | {"content-type": "application/json"}),
        httpx.post(to, json={"text": CANARY, "client_id": ["x"]}, headers=known),
        httpx.post(f"{site.url}/playground/{chat.pk}/send/", data={"text": CANARY}),
        httpx.post(f"{site.url}/nowhere/", data={"text": CANARY}),
        httpx.post(f"{site.url}/api/v1/nowhere", json={"text": CANARY}, headers=known),
    ]
    for refused in wrong:
        assert refused.status_code >= 300 and CANARY not in refused.text, refused.request.url
    web = psutil.Process(site.process.pid)
    running = [one.cmdline() for one in (web, *web.children(recursive=True))]
    figures = httpx.get(f"{site.url}/metrics").text
    for place, text in (
        ("log", site.log.read_text()),
        ("figures", figures),
        ("processes", json.dumps(running)),
    ):
        assert CANARY not in text and secret not in text, place
    kept = AuditEntry.objects.values_list("detail", "before", "after", "name", "object")
    assert CANARY not in json.dumps(list(kept)), "the audit log says who did what, never what was said"
