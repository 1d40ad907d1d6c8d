"""The shell's verbs, run as scripts run them: a process, its exit code, one JSON value."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from endpoints.models import ApiKey
from playground.models import Deployment, Model, Replica, Team
from tests.fleet import tiny_model

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> tuple[int, Any]:
    """The exit code and the one JSON value of a verb; anything else on standard output fails the test."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def deployment(team: Team) -> Deployment:
    model = Model.objects.create(team=team, name="tiny", source="local:tiny")
    return Deployment.objects.create(team=team, name="tiny-fake", model=model, engine="fake")


def test_it_lists_deployments(deployment: Deployment) -> None:
    code, rows = run("deployments")
    assert code == 0
    assert [(row["id"], row["name"], row["state"]) for row in rows] == [(deployment.pk, "tiny-fake", "none")]


def test_it_names_what_is_missing(team: Team) -> None:
    code, value = run("stop", "nothing")
    assert code == 3
    assert "nothing" in value["error"]


def test_it_refuses_an_ambiguous_name(deployment: Deployment) -> None:
    deployment.pk = None
    deployment.save()
    code, value = run("stop", "tiny-fake")
    assert code == 2
    assert "use an id" in value["error"]


def test_it_stops_a_deployment(deployment: Deployment) -> None:
    code, value = run("stop", str(deployment.pk), "--wait")
    assert (code, value["desired"]) == (0, "stopped")


def test_it_refuses_an_unknown_model(team: Team) -> None:
    code, value = run("serve", "nope", "--engine", "fake")
    assert code == 3
    assert "nope" in value["error"]


def test_it_refuses_an_option_the_engine_does_not_have(team: Team) -> None:
    model = tiny_model(team)
    code, value = run("serve", model.name, "--engine", "fake", "--option", "trust_remote_code=true")
    assert code == 4
    assert "trust_remote_code" in json.dumps(value["fields"])


def test_it_refuses_to_chat_with_what_is_not_ready(deployment: Deployment) -> None:
    code, value = run("chat", "tiny-fake", "hello")
    assert code == 4
    assert "not ready" in value["error"]


def test_it_prints_a_key_once_and_keeps_its_hash(team: Team) -> None:
    code, value = run("key", "ci")
    assert code == 0
    row = ApiKey.objects.get(prefix=value["prefix"])
    assert value["key"] not in json.dumps([row.secret_hash, row.name, row.prefix])
    assert row.scopes == ["endpoints", "playground"]


def test_it_refuses_to_roll_back_an_endpoint_that_is_not_there(team: Team) -> None:
    code, value = run("rollback", "nowhere")
    assert code == 3
    assert "nowhere" in value["error"]


def test_usage_errors_exit_with_two() -> None:
    done = subprocess.run([sys.executable, "manage.py", "serve"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2


def test_ctrl_c_ends_a_followed_log_without_a_traceback(deployment: Deployment) -> None:
    replica = Replica.objects.create(deployment=deployment, state=Replica.State.LOADING)
    log = settings.HOME / "replicas" / str(replica.pk) / "engine.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("loading weights\n")
    line = [sys.executable, "manage.py", "logs", str(deployment.pk), "--follow"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as verb:
        assert verb.stdout is not None
        assert verb.stdout.readline() == "loading weights\n"
        verb.send_signal(signal.SIGINT)
        _, complaint = verb.communicate(timeout=20)
    assert (verb.returncode, complaint) == (130, "")
