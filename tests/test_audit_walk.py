"""No change without an entry in the audit log: every address that changes something, asked to do so.

What was changed is the database's own word: rows it wrote in this transaction, by table.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from playground.models import AuditEntry, Batch, Deployment
from tests import matrix, matrix_api, matrix_world
from tests.matrix import Browser, Route
from tests.matrix_api import Caller, Operation
from tests.matrix_world import SITE, World

# Addresses that change something and leave none, each with the reason.
EXCEPTIONS = {
    "turn-send": "what is said in a conversation is its own record",
    "turn-edit": "a message beside the one before, which stays",
    "turn-stop": "an answer's end is on the answer",
    "turn-alone": "answers are their own record",
    "turn-replay": "answers are their own record",
    "turn-vote": "a vote is its own record: who, when, what",
    "generation-regenerate": "an answer beside the one before, which stays",
    "generation-stop": "an answer's end is on the answer",
    "conversation-new": "an empty conversation that nobody used yet",
    "column-add": "a conversation's columns are part of it, as its export tells",
    "column": "as column-add",
    "column-clone": "as column-add",
    "column-close": "as column-add; what it answered stays",
    "column-left": "an order",
    "column-right": "an order",
    "column-settings": "as column-add: each answer keeps the request that was sent",
    "picture-attach": "a draft; what is sent keeps its pictures",
    "picture-discard": "a draft",
    "upload-begin": "bytes on their way; the model that comes of them is told",
    "upload-piece": "as upload-begin",
    "dataset-file": "bytes on their way; the dataset that comes of them is told",
    "dataset-piece": "as dataset-file",
    "comments": "a comment is its own record",
    "comment": "as comments",
    "comment-delete": "as comments",
    "team-switch": "where one works, not what one may",
    "models-rescan": "it reads a folder",
    "conversation-prompt": "a conversation's setting that each answer keeps",
    "prompt-try": "it begins an empty conversation",
}
# Addresses that look, work something out or ask somebody else, and change nothing here.
LOOKING = {
    "account",
    "account_reauthenticate",
    "batch-estimate",
    "batch-trial",
    "load-estimate",
    "mfa_index",
    "mfa_list_webauthn",
    "mfa_reauthenticate",
    "mfa_reauthenticate_webauthn",
    "model-form",
    "noise-estimate",
    "prompt-filled",
    "prompt-form",
    "socialaccount_connections",
    "turn-margin",
    "turn-similarity",
}
# Changes that this walk does not come to, for want of an engine, a file or a second factor. What they call is
# audited where it is written: jobs.request and jobs.cancel, deployments, promotion, signing_in, uploads.
UNREACHED = {
    "account-password": "tests/test_signin.py",
    "adapter-add": "it needs a folder on the disk",
    "adapter-attach": "jobs.request",
    "adapter-cancel": "jobs.cancel",
    "adapter-detach": "jobs.request",
    "batch-resume": "only what is paused goes on: batch-pause is reached",
    "batch-retry": "only failed rows are asked again",
    "batch-scores-cancel": "jobs.cancel",
    "batch-scores-run": "jobs.request",
    "batch-score-add": "it needs a live node: scoring.add",
    "dataset-add": "it needs answers: datasets.create, datasets.fill",
    "dataset-new": "it needs a file: datasets.create, datasets.fill",
    "dataset-delete": "the batch stands on it: tests/test_datasets.py",
    "deployment-free": "only what was lost is freed",
    "endpoints:promote": "only what is ready is promoted: promotion._record",
    "endpoints:request-open": "no request was kept",
    "endpoints:requests-add": "no request was kept",
    "endpoints:rollback": "there is no release before: promotion._record",
    "endpoints:stop": "nothing starts: promotion._record",
    "hub-add": "it asks the Hub: tests/test_hub.py",
    "import-bucket": "jobs.request",
    "load-cancel": "jobs.cancel",
    "load-start": "jobs.request",
    "mfa_activate_totp": "tests/test_signin.py",
    "mfa_add_webauthn": "tests/test_signin.py",
    "mfa_deactivate_totp": "tests/test_signin.py",
    "mfa_edit_webauthn": "tests/test_signin.py",
    "mfa_generate_recovery_codes": "tests/test_signin.py",
    "mfa_remove_webauthn": "tests/test_signin.py",
    "model-compare": "deployments.request",
    "model-quantise": "jobs.request",
    "model-remove": "what runs keeps it: tests/test_hub.py",
    "model-start": "deployments.request",
    "noise-cancel": "jobs.cancel",
    "noise-start": "jobs.request",
    "own-code-allow": "it needs the code's own pin: tests/test_model_safety.py",
    "own-code-withdraw": "nothing was allowed: tests/test_model_safety.py",
    "plan": "jobs.request",
    "plan-cancel": "jobs.cancel",
    "prompt-import": "it needs a file: prompts.create and prompts.save",
    "prompt-new": "its form has rows: prompts.create, tests/test_prompts.py",
    "prompt-restore": "there is one version: prompts.save",
    "prompt-save": "prompts.save, as prompt-new",
    "provider-remove": "tests/test_signin.py",
    "s3-forget": "none is kept",
    "session-end": "tests/test_signin.py",
    "team-delete": "only an empty team goes: tests/test_teams.py",
    "upload-finish": "it needs a whole file",
    "upload-remove": "it needs a file",
    "wish-deployment": "only who may not start asks",
}
# Written by every request: who is signed in, when a token was last used, what is cached.
OWN_TABLES = {
    "django_session",
    "playground_auditentry",
    "playground_cache",
    "usersessions_usersession",
    "playground_accesstoken",
}

# What a form must hold so that something comes of it.
FORMS: dict[str, Callable[[World], Mapping[str, Any]]] = {
    "batch-links": lambda world: {"days": "7"},
    "batch-new": lambda world: {
        "version": world.one(Batch).version_id,
        "deployment": world.one(Deployment).pk,
        "name": "walked",
    },
    "conversation-blind": lambda world: {"on": "yes"},
    "conversation-links": lambda world: {"days": "7"},
    "conversation-rename": lambda world: {"title": "Capitals"},
    "conversation-settings": lambda world: {"system_prompt": "Be brief."},
    "conversation-share": lambda world: {"sharing": "view"},
    "prompt-share": lambda world: {"sharing": "view"},
    "batch-share": lambda world: {"sharing": "view"},
    "endpoints:key": lambda world: {"name": "other", "scopes": "endpoints"},
    "endpoints:keys": lambda world: {"name": "new", "scopes": "endpoints"},
    "endpoints:logging": lambda world: {"share": "50", "days": "7"},
    "endpoints:rotate": lambda world: {"overlap": "24"},
    "external-add": lambda world: {
        "name": "far",
        "url": "https://93.184.216.34/v1",
        "model": "m",
        "task": "chat",
    },
    "external-key": lambda world: {"key": "sk-0123456789abcdef"},
    "hub-token": lambda world: {"token": "hf_abcdefghij0123"},
    "member-role": lambda world: {"role": "operator"},
    "node-install": lambda world: {"engine": "llama.cpp"},
    "node-price": lambda world: {"price_per_hour": "2.5"},
    "person-staff": lambda world: {"wanted": "yes", "staff": "yes"},
    "prompt-change": lambda world: {"name": "Renamed"},
    "prompt-links": lambda world: {"days": "7"},
    "running-stop": lambda world: {"chosen": world.one(Deployment).pk},
    "s3-keep": lambda world: {"key": "AKIA0123456789", "secret": "s" * 40, "region": "eu-central-1"},
    "team-invite": lambda world: {"role": "member", "days": "7"},
    "team-limits": lambda world: {"name": "Walked", "replicas": "4"},
    "team-new": lambda world: {"name": "Walkers"},
    "team-rename": lambda world: {"name": "Walked"},
    "tokens": lambda world: {"name": "walk", "scope": "read", "expires": "30"},
    "wish-decline": lambda world: {"answer": "Not today."},
}
CHANGING = [
    route
    for route in matrix.routes()
    if route.policy and route.policy.writes not in (None, "public") and route.name not in LOOKING
]


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


@pytest.fixture(autouse=True)
def nothing_here(settings: Any, tmp_path: Path) -> None:
    """Another home: what lies in this one, from tests before, would only be noted, not asked for."""
    settings.HOME = tmp_path


@pytest.fixture(scope="module")
def browser(world: World) -> Browser:
    return Browser(world.people)


def changed() -> dict[str, int]:
    """How many rows of each table this transaction changed so far, but of OWN_TABLES."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables"
            " WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
        )
        return {name: count for name, count in cursor.fetchall() if name not in OWN_TABLES}


@pytest.mark.parametrize("route", CHANGING, ids=str)
def test_no_change_by_a_page_is_without_an_entry(route: Route, world: World, browser: Browser) -> None:
    if route.name in UNREACHED:
        pytest.skip(UNREACHED[route.name])
    assert route.policy is not None
    with matrix.undone():
        address = matrix._address(route, route.policy, world, world.people[SITE])
        form = dict(matrix_world.FORMS[route.name](world)) if route.name in matrix_world.FORMS else {}
        form |= dict(FORMS[route.name](world)) if route.name in FORMS else {}
        entries, before = AuditEntry.objects.count(), changed()
        answer = browser.ask(SITE, "POST", address, form)
        after, audited = changed(), AuditEntry.objects.count() > entries
    touched = {name for name, count in after.items() if count > before.get(name, 0)}
    if route.name in EXCEPTIONS:
        return
    told = f"{route.name}: {answer.status_code}, {sorted(touched)}"
    assert not touched or audited, (
        f"{told}: no entry tells of it: access.audit in the noun's verb, or EXCEPTIONS"
    )
    if route.name not in UNREACHED:
        assert audited, f"{told}: nothing changed: say in FORMS what makes it, or in UNREACHED why it cannot"


# The management API

OPERATIONS = [one for one in matrix_api.operations() if one.policy and one.policy.writes]
API_EXCEPTIONS = {
    "POST /models/rescan": "it reads a folder",
    "POST /conversations": "an empty conversation that nobody used yet",
    "POST /conversations/{pk}/messages": "what is said in a conversation is its own record",
    "POST /answers/{pk}/again": "an answer beside the one before, which stays",
    "POST /answers/{pk}/stop": "an answer's end is on the answer",
    "POST /conversations/{pk}/columns": "a conversation's columns are part of it, as its export tells",
    "PATCH /columns/{pk}": "as a column that is added: each answer keeps the request that was sent",
    "DELETE /columns/{pk}": "as a column that is added; what it answered stays",
}


# Of those whose least body asks for what is so already.
SENT = {
    "PATCH /keys/{pk}": {"name": "renamed"},
    **{
        f"PUT /{noun}/{{pk}}/sharing": {"sharing": "view"} for noun in ("conversations", "prompts", "batches")
    },
}


@pytest.fixture(scope="module")
def caller(world: World) -> Caller:
    return Caller(world)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_no_change_by_the_api_is_without_an_entry(operation: Operation, world: World, caller: Caller) -> None:
    assert operation.policy is not None
    body = None if operation.body is None else dict(operation.body)
    with matrix.undone():
        address = matrix_api.address_of(operation, world)
        if body is not None and str(operation) in matrix_api.BODIES:
            body = body | matrix_api.BODIES[str(operation)](world)
        if body is not None:
            body |= SENT.get(str(operation), {})
        entries, before = AuditEntry.objects.count(), changed()
        answer = caller.ask(SITE, operation.method, address, body)
        after, audited = changed(), AuditEntry.objects.count() > entries
    touched = {name for name, count in after.items() if count > before.get(name, 0)}
    if answer.status_code < 400 and str(operation) not in API_EXCEPTIONS:
        assert not touched or audited, f"{operation}: {sorted(touched)}: no entry tells of it"
