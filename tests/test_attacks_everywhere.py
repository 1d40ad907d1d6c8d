"""Attacks on every address there is: hostile names, requests of other sites, errors that quote a prompt."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import DataError, IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from playground import generation, log_lines
from playground.models import AuditEntry, Conversation, Deployment, Membership, Team, User
from tests import matrix, matrix_api, matrix_world
from tests.gateway_site import deployment
from tests.matrix import Browser
from tests.matrix_world import SITE, VIEWER, World

CANARY = "canary-5e1d-do-not-log"


# Pages of one process: hostile names (22), requests of other sites (27)


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        with transaction.atomic():
            made = matrix_world.world()
            for kind in matrix_world.BUILDERS:
                made.one(kind)
            yield made
            transaction.set_rollback(True)


@pytest.fixture(scope="module")
def browser(world: World) -> Browser:
    return Browser(world.people)


DECLARED = [route for route in matrix.routes() if route.policy is not None]
READ = [route for route in DECLARED if route.policy and route.policy.reads]
WRITTEN = [route for route in DECLARED if route.policy and route.policy.writes]
HOSTILE = '"><img src=x onerror=alert(1)>{{7*7}}\r\nSet-Cookie: a=b'


@pytest.fixture(scope="module")
def hostile(world: World) -> Iterator[World]:
    """Every name and text is an attack."""
    with transaction.atomic():
        for kind, name in matrix_world.NAMES.items():
            if kind._meta.model_name not in ("endpoint", "adapter"):  # Theirs are slugs, checked when made.
                kind._default_manager.filter(pk=world.one(kind).pk).update(**{name: HOSTILE})
        Team.objects.filter(pk=world.team.pk).update(name=HOSTILE)
        User.objects.filter(pk=world.people[VIEWER].pk).update(first_name=HOSTILE[:100])
        yield world
        transaction.set_rollback(True)


@pytest.mark.parametrize("route", READ, ids=str)
def test_hostile_names_are_inert_on_every_page(route: matrix.Route, hostile: World, browser: Browser) -> None:
    answer, _, _ = matrix.asked(route, browser, hostile, SITE, "GET")
    body = b"" if answer.streaming else answer.content
    if "html" in answer.headers.get("Content-Type", ""):
        assert b"<img src=x" not in body
    assert "Set-Cookie: a=b" not in str(answer.headers)


# A provider of sign-ins sends the browser back by a POST of its own page: what it signed is the token.
SIGNED = {"saml_acs", "saml_sls"}


@pytest.mark.parametrize("route", [one for one in WRITTEN if one.name not in SIGNED], ids=str)
def test_no_change_without_its_token(route: matrix.Route, world: World, browser: Browser) -> None:
    guarded = Browser(world.people, enforce_csrf_checks=True)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer, _, _ = matrix.asked(route, guarded, world, SITE, method)
        assert answer.status_code == 403 or (method != "POST" and answer.status_code == 405), method


def test_a_session_changes_nothing_by_the_api_without_its_token(world: World) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.people[SITE], "django.contrib.auth.backends.ModelBackend")
    for one in matrix_api.operations():
        if one.method != "GET":
            address = matrix_api.address_of(one, world)
            answer = client.generic(one.method, address, json.dumps(one.body or {}), "application/json")
            assert answer.status_code == 403, str(one)


@pytest.mark.django_db
def test_an_operator_of_one_team_stops_nothing_of_another(team: Team, user: User, stranger: User) -> None:
    row = deployment(team)
    Membership.objects.create(user=stranger, team=team, role=Membership.Role.VIEWER)
    User.objects.filter(pk=stranger.pk).update(team=Team.objects.get(slug="other"))
    client = Client()
    client.force_login(stranger, "django.contrib.auth.backends.ModelBackend")
    assert client.post(reverse("running-stop"), {"chosen": row.pk}).status_code == 403
    assert Deployment.objects.get(pk=row.pk).desired == Deployment.Desired.RUNNING
    assert AuditEntry.objects.filter(action="refused stop", user=stranger, team=team).exists()


# A secret in a prompt (34): pages whose code fails


class _Lines(logging.Handler):
    """What the log of a process would say, by the formatter that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(log_lines.Careful(settings.LOGGING["formatters"]["line"]["format"]))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[_Lines]:
    handler = _Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("error", [ValueError, DataError, IntegrityError, KeyError, UnicodeDecodeError])
def test_an_error_that_quotes_a_prompt_is_logged_without_it(
    error: type[Exception], world: World, browser: Browser, lines: _Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoting = error("utf-8", CANARY.encode(), 0, 1, CANARY) if error is UnicodeDecodeError else error(CANARY)

    def fail(*given: Any, **named: Any) -> None:
        try:
            raise quoting
        except Exception as cause:
            raise RuntimeError(f"no answer to {CANARY}") from cause

    monkeypatch.setattr(generation, "send", fail)
    address = reverse("turn-send", args=[world.one(Conversation).pk])
    with matrix.undone():
        answer = browser.ask(SITE, "POST", address, {"text": CANARY, "client_id": "a"})
    assert answer.status_code == 500
    assert CANARY not in answer.content.decode()
    log = "\n".join(lines.lines)
    assert "RuntimeError" in log and error.__name__ in log and "in fail" in log, "it is told where it failed"
    assert CANARY not in log


def test_a_task_that_fails_is_logged_without_what_it_quotes(lines: _Lines) -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as problem:
        context = {"id": "1", "name": "playground.x", "exc": repr(problem), "traceback": CANARY, "args": "()"}
        said = "Task %(name)s[%(id)s] raised unexpected: %(exc)s"
        logging.getLogger("celery.app.trace").error(said, context, exc_info=True)
    log = "\n".join(lines.lines)
    assert "playground.x" in log and "ValueError" in log
    assert CANARY not in log


def test_what_could_not_be_reached_is_logged_in_full(lines: _Lines) -> None:
    try:
        raise ConnectionRefusedError("nobody listens on port 9")
    except OSError:
        logging.getLogger("playground").exception("Not there")
    assert "nobody listens on port 9" in lines.lines[-1]
