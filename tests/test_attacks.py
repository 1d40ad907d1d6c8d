"""What attackers send, and what they get: a refusal in the API's shape, and an engine that heard nothing."""

import base64
import gzip
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from django.core.management import call_command
from django.test import Client

from playground import deployments
from playground.models import Deployment, Team, User
from tests.fakes import RunningFake, running_fake
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Site]:
    """One site for all attacks: `words` to call, `fragile` to break, and another team's `private`."""
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        call_command("migrate", verbosity=0)  # Most tests here ask for no database of their own.
        stack.callback(call_command, "flush", verbosity=0, interactive=False)
        served = stack.enter_context(running_site(tmp_path_factory.mktemp("attacked")))
        team = Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]
        other = Team.objects.create(name="Other", slug="other")
        for owner, name in ((team, "words"), (team, "fragile"), (other, "private")):
            behind = deployment(owner, released=True, name=name)
            endpoint(owner, name, behind)
            engine = stack.enter_context(running_fake(key="engine-secret", tokens=3))
            replica(behind, engine)
            served.engine = engine if name == "words" else served.engine
        served.key(team)
        served.until(lambda: served.get("/v1/models/fragile").status_code == 200)
        yield served


@pytest.fixture
def untouched(site: Site) -> Iterator[None]:
    """The engine got nothing during the test."""
    assert site.engine is not None
    before = len(heard(site.engine))
    yield
    assert heard(site.engine)[before:] == []


def heard(engine: RunningFake) -> list[dict[str, Any]]:
    """The API requests that reached an engine, its own health and figures left out."""
    seen = httpx.get(f"{engine.base_url}/fake/requests", timeout=5).json()
    return [one for one in seen if not one["path"].startswith(("/fake/", "/metrics", "/health"))]


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error object of a refusal; the test fails when it is none, or not in the API's shape."""
    assert answer.status_code in statuses, answer.text[:300]
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def spoken(site: Site, request: bytes, timeout_s: float = 8.0) -> bytes:
    """What a connection answers to these bytes until it closes or falls silent."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=timeout_s) as connection:
        connection.sendall(request)
        return heard_back(connection)


def heard_back(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while data := connection.recv(65536):
            answer += data
            if b'"error"' in answer:
                break
    except (TimeoutError, ConnectionResetError):
        return answer
    return answer


def head(site: Site, *lines: str, path: str = "/v1/chat/completions") -> bytes:
    """A POST's head with the site's key."""
    given = [
        "Host: 127.0.0.1",
        f"Authorization: Bearer {site.secret}",
        "Content-Type: application/json",
        *lines,
    ]
    return "\r\n".join([f"POST {path} HTTP/1.1", *given, "", ""]).encode()


# Keys (1, 3)


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer ' OR 1=1; DROP TABLE endpoints_apikey; --",
        b"Bearer sk-slip-aaaaaaaa-' OR ''='",
        b"Bearer \xff\xfe\xfd",
        b"Bearer sk-slip-" + b"a" * 30_000,
        b"Bearer",
        b"Basic YTpi",
        b"Bearer sk-slip-",
        b"",
    ],
)
def test_a_hostile_key_is_401_at_once(site: Site, untouched: None, value: bytes) -> None:
    began = time.monotonic()
    answer = httpx.post(f"{site.url}/v1/chat/completions", json=ask(), headers={b"authorization": value})
    assert refused(answer, 401)["code"] == "invalid_api_key"
    assert time.monotonic() - began < 1


def test_a_key_of_a_megabyte_or_with_nul_is_refused(site: Site, untouched: None) -> None:
    for value in (b"a" * 1_000_000, b"sk-\x00-x"):
        request = (
            b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + value + b"\r\n\r\n"
        )
        answer = spoken(site, request, 4)
        assert answer.split(b" ")[1:2] in ([b"431"], [b"400"], [b"401"]) or answer == b""


def test_two_keys_are_400_and_either_alone_works(site: Site) -> None:
    both = site.post(json=ask(), headers={"x-api-key": site.secret})
    assert refused(both, 400)["code"] == "two_keys"
    alone = httpx.post(f"{site.url}/v1/chat/completions", json=ask(), headers={"x-api-key": site.secret})
    assert alone.status_code == 200


# Other teams (4)


def test_another_teams_names_are_404(site: Site, untouched: None) -> None:
    numbers = [route["id"] for route in site.get("/v1/models").json()["data"]]
    ours = [int(name.partition("/")[2]) for name in numbers if "/" in name]
    for name in ("private", f"deployment/{max(ours) + 1}"):
        assert refused(site.post(json=ask(model=name)), 404)["code"] == "model_not_found"
        assert refused(site.get(f"/v1/models/{name}"), 404)
    assert "private" not in numbers


# Hosts and forwarding (7)


@pytest.mark.parametrize(
    "hosts", [["a/health?"], ["127.0.0.1", "127.0.0.1"], ["evil.example"], [], ["127.0.0.1@evil.example"]]
)
def test_a_wrong_host_is_400(site: Site, untouched: None, hosts: list[str]) -> None:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    request = (
        f"GET /v1/models HTTP/1.1\r\n{lines}Authorization: Bearer {site.secret}\r\nConnection: close\r\n\r\n"
    )
    assert spoken(site, request.encode()).split(b" ")[1] == b"400"


def test_forwarding_headers_change_nothing_and_go_no_further(site: Site) -> None:
    sent = {"x-forwarded-for": "10.0.0.1", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    assert site.post(json=ask(), headers=sent).status_code == 200
    assert site.engine is not None
    assert "evil.example" not in json.dumps(heard(site.engine))


# Paths (8)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../pause",
        "/v1/%2e%2e/pause",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions/",
        "/v1/chat/completions/../../pause",
        "/v1/chat/completions;x",
        "/v1/./chat/completions",
        "/V1/chat/completions",
        "/v1\\chat\\completions",
        "/v1/pause",
        "/v1/collective_rpc",
        "/v1/load_lora_adapter",
        "/v1/invocations",
        "/v1/update_weights",
        "/v1/completions/render",
        "/v1",
        "/v1/",
        "/v1%2fchat/completions",
        "/%76%31/chat/completions",
        "//v1//chat/completions",
        "/invocations",
        "/pause",
        "/collective_rpc",
        "/tokenize",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_any_other_path_never_reaches_an_engine(
    site: Site, untouched: None, method: str, target: str
) -> None:
    answer = site.raw(method, target)
    assert answer.status in (400, 403, 404, 405)
    if "v1" in target.lower() or "%76" in target:
        assert answer.status == 404
        assert answer.getheader("content-type") == "application/json"
        assert json.loads(answer.read())["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_another_method_is_404(site: Site, untouched: None, method: str) -> None:
    assert site.raw(method, "/v1/chat/completions").status == 404


# Values (11, 13)


@pytest.mark.parametrize("name", ["n", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", ["-1", "0.5", '"7"', "1e400", "99999999999999999999", "[]", "true"])
def test_a_bad_number_is_400_and_named(site: Site, untouched: None, name: str, value: str) -> None:
    body = json.dumps(ask())[:-1] + f', "{name}": {value}}}'
    error = refused(site.post(content=body), 400)
    assert value == "1e400" or error["param"] == name


@pytest.mark.parametrize(
    "name",
    ["chat_template", "n_discard", "api_base", "prompt_embeds", "logits_processors"],
)
def test_a_dangerous_field_is_400_and_named(site: Site, untouched: None, name: str) -> None:
    assert refused(site.post(json=ask(**{name: "x"})), 400)["param"] == name


@pytest.mark.parametrize("model", [None, 7, "", "x" * 500, ["words"], {"a": 1}])
def test_a_model_that_is_no_name_is_400(site: Site, untouched: None, model: object) -> None:
    assert refused(site.post(json={**ask(), "model": model}), 400)["param"] == "model"


# Pictures (9, 10)


def picture(url: object) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "words", "messages": [{"role": "user", "content": parts}]}


@pytest.mark.parametrize(
    "where",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "127.1", "127.0.0.1.nip.io"],
)
def test_no_address_of_a_picture_is_asked(site: Site, untouched: None, where: str) -> None:
    """Neither the site nor an engine sends a packet there, so nothing can lead them further."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for url in (
            f"http://{where}:{port}/a.png",
            f"http:\\\\{where}:{port}\\a.png",
            f"//{where}:{port}/a.png",
        ):
            assert refused(site.post(json=picture(url)), 400)["code"] == "unsupported_image"
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000) + b"\x08\x06\0\0\0"
JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://169.254.169.254/"/></svg>'


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("png", PNG),
        ("png", JPEG_2000),
        ("jp2", JPEG_2000),
        ("svg+xml", SVG),
        ("png", SVG),
        ("tiff", b"II*\0"),
    ],
    ids=["huge", "not-png", "jpeg-2000", "svg", "svg-as-png", "tiff"],
)
def test_pictures_that_cost_or_do_more_than_they_say_are_400(
    site: Site, untouched: None, kind: str, raw: bytes
) -> None:
    encoded = base64.b64encode(raw).decode()
    refused(site.post(json=picture(f"data:image/{kind};base64,{encoded}")), 400)


# JSON (14)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "words", "model": "other", "messages": []}',
        b'{"model": "words", "messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model": "words", "temperature": NaN, "messages": []}',
        b'{"model": "words", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"\xef\xbb\xbf" + json.dumps(ask()).encode(),
        b'{"model": "words", "messages": "\xff"}',
        b"[]",
        b"null",
        b"",
        b"{",
    ],
)
def test_bad_json_is_400(site: Site, untouched: None, body: bytes) -> None:
    refused(site.post(content=body), 400)


# Bodies (15)


def test_a_body_over_the_limit_is_413_before_it_is_read(site: Site, untouched: None) -> None:
    answer = spoken(site, head(site, "Content-Length: 999999999"))
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_413(site: Site, untouched: None) -> None:
    def flood() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 20)

    try:
        refused(site.post(content=flood()), 413)
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        # It may close while we still write; that it serves on is what counts.
        assert site.get("/v1/models").status_code == 200


def test_an_understated_length_is_refused(site: Site, untouched: None) -> None:
    answer = spoken(site, head(site, "Content-Length: 20") + json.dumps(ask()).encode())
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "abc", "10, 10"])
def test_a_malformed_length_is_400(site: Site, untouched: None, length: str) -> None:
    answer = spoken(site, head(site, f"Content-Length: {length}") + json.dumps(ask()).encode(), 4)
    assert answer.split(b" ")[1] in (b"400", b"411", b"413")


def test_a_body_that_never_comes_is_408(site: Site, untouched: None) -> None:
    began = time.monotonic()
    answer = spoken(site, head(site, "Content-Length: 500") + b'{"model"')
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5


def test_a_body_in_tiny_chunks_is_408(site: Site, untouched: None) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=8) as connection:
        connection.sendall(head(site, "Transfer-Encoding: chunked"))
        for _ in range(60):
            try:
                connection.sendall(b"1\r\n \r\n")
            except (BrokenPipeError, ConnectionResetError):
                break
            connection.settimeout(0.1)
            try:
                if connection.recv(65536).startswith(b"HTTP/1.1 408"):
                    return
            except TimeoutError:
                continue
    pytest.fail("a slow body was read to the end")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, gzip"])
def test_a_compressed_body_is_415(site: Site, untouched: None, encoding: str) -> None:
    body = gzip.compress(json.dumps(ask()).encode())
    refused(site.post(content=body, headers={"content-encoding": encoding}), 415)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_type_of_body_is_415(site: Site, untouched: None, kind: str) -> None:
    refused(site.post(content=json.dumps(ask()), headers={"content-type": kind}), 415)


# Slow readers (28)


def test_readers_that_do_not_read_are_cut_off_and_cost_no_memory(site: Site) -> None:
    """Each is sent far more than the kernel's buffers hold."""
    assert site.engine is not None
    web = psutil.Process(site.process.pid)
    before = web.memory_info().rss
    body = json.dumps(ask("[[tokens=100000]] [[delay=0]]", stream=True)).encode()
    request = head(site, f"Content-Length: {len(body)}") + body
    with ExitStack() as stack:
        deaf = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in deaf:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", site.port))
            one.sendall(request)
        ports = {one.getsockname()[1] for one in deaf}
        site.until(lambda: _connected(web) >= ports)
        site.until(lambda: not _connected(web) & ports, 40)
        assert web.memory_info().rss - before < 32 * 2**20
    site.engine.wait_idle(20)
    assert site.post(json=ask()).status_code == 200


def _connected(process: psutil.Process) -> set[int]:
    """The ports of those connected to it."""
    return {one.raddr.port for one in process.net_connections() if one.raddr}


# Headers (16)


def test_ten_thousand_headers_are_431(site: Site, untouched: None) -> None:
    flood = "".join(f"x-{number}: a\r\n" for number in range(10_000))
    assert spoken(site, f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n{flood}\r\n".encode()).startswith(
        b"HTTP/1.1 431"
    )


# Engine options (20)


@pytest.mark.parametrize(
    "extra",
    [
        {"--trust-remote-code": "true"},
        {"--host": "0.0.0.0"},
        {"tokens": "1; rm -rf /"},
        {"tokens": "1\n--host"},
    ],
)
@pytest.mark.django_db
def test_engine_options_are_typed_and_known(team: Team, user: User, extra: dict[str, str]) -> None:
    known = deployment(team)
    with pytest.raises(deployments.DeploymentRefused):
        deployments.request(team=team, user=user, model=known.model, engine="fake", options=extra)
    assert not Deployment.objects.filter(created_by=user).exists()


# Cross-site requests (27)


@pytest.mark.django_db
def test_every_unsafe_page_of_endpoints_wants_its_token(team: Team, user: User) -> None:
    row = deployment(team)
    endpoint(team, "attacked", row)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    for path in (
        "/endpoints/keys/",
        "/endpoints/keys/1/revoke/",
        f"/endpoints/promote/{row.pk}/",
        "/endpoints/on/attacked/rollback/",
        "/endpoints/on/attacked/stop/",
        "/endpoints/on/attacked/offline/",
    ):
        assert client.post(path, {"name": "x"}).status_code == 403


# A secret in a prompt (34)

CANARY = "canary-7f3a9c-do-not-log"


def test_a_secret_in_a_prompt_is_nowhere_whatever_goes_wrong(site: Site) -> None:
    for directive in ("", "[[error=500]]", "[[error=400]]", "[[malformed]]", "[[html]]"):
        for stream in (False, True):
            site.post(json=ask(f"{CANARY} {directive}", stream=stream))
    for _ in range(2):
        site.post(json=ask(f"{CANARY} [[die=1]]", model="fragile", stream=True))
    site.post(json=ask(CANARY, n=-1))
    site.post(json=ask(CANARY, model="nothing"))
    site.post(content=json.dumps(ask(CANARY))[:-1])
    site.post(json=ask(CANARY, temperature=CANARY))
    site.post(json=ask(CANARY), headers={"authorization": f"Bearer {CANARY}"})
    site.get(f"/v1/models/{CANARY}")
    page = httpx.post(f"{site.url}/nowhere/", data={"message": CANARY}).text
    figures = httpx.get(f"{site.url}/metrics").text
    log = site.log.read_text()
    assert "502" in log, "errors are logged"
    for place, text in (("log", log), ("figures", figures), ("error page", page)):
        assert CANARY not in text, place
        assert site.secret not in text, place
    assert CANARY not in json.dumps(psutil.Process(site.process.pid).cmdline())


def test_an_error_never_quotes_the_engines_key_or_address(site: Site) -> None:
    for directive in ("[[error=500]]", "[[error=401]]", "[[html]]"):
        text = site.post(json=ask(directive)).text
        assert "engine-secret" not in text
        assert "127.0.0.1" not in text


def test_the_log_is_written_where_the_test_looks(site: Site, tmp_path: Path) -> None:
    site.post(json=ask("[[error=500]]"), headers={"x-request-id": "find-me-in-the-log"})
    site.until(lambda: "find-me-in-the-log" in site.log.read_text())
