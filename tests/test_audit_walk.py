"""No change without an entry in the audit log: every address that changes something, asked to do so.

What was changed is the database's own word: rows it wrote in this transaction, by table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from playground.models import AuditEntry
from tests import audit_forms, matrix, matrix_api, matrix_world
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
    "model-compare": "it begins an empty conversation",
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
# Changes that this walk does not come to, each with the test that looks for its entry, or why there is none.
UNREACHED = {
    "account-password": "tests/test_signin.py",
    "hub-add": "it asks the Hub: tests/test_hub.py",
    "mfa_activate_totp": "tests/test_signin.py",
    "mfa_add_webauthn": "it needs a browser: kept as the app of mfa_activate_totp is",
    "mfa_deactivate_totp": "tests/test_signin.py",
    "mfa_edit_webauthn": "tests/test_signin.py",
    "mfa_generate_recovery_codes": "tests/test_signin.py",
    "mfa_remove_webauthn": "tests/test_signin.py",
    "plan": "it needs the plan's own seal: jobs.request, as noise-start",
    "provider-remove": "tests/test_signin.py",
    "session-end": "tests/test_signin.py",
    "team-delete": "only an empty team goes: tests/test_teams.py",
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
        form |= dict(audit_forms.FORMS[route.name](world)) if route.name in audit_forms.FORMS else {}
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
        assert audited, (
            f"{told}: nothing changed: say in audit_forms.FORMS what makes it, or in UNREACHED why it cannot"
        )


# The management API

OPERATIONS = [one for one in matrix_api.operations() if one.policy and one.policy.writes]
API_EXCEPTIONS = {
    "POST /models/rescan": "it reads a folder",
    "POST /conversations": "an empty conversation that nobody used yet",
    "POST /conversations/{pk}/messages": "what is said in a conversation is its own record",
    "POST /answers/{pk}/again": "an answer beside the one before, which stays",
    "POST /answers/{pk}/stop": "an answer's end is on the answer",
    "POST /messages/{pk}/edit": "a message beside the one before, which stays",
    "POST /messages/{pk}/alone": "answers are their own record",
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
