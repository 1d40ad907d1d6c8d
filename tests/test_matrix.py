"""Every address by every method, for people of every standing: what is declared is what happens.

The addresses are the URL resolver's own, so that a new one is here by itself; one without a policy fails.
What the matrix can see is shown by taking each check of the views away in turn: it finds every one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from playground import access, consumers
from playground.declared import Policy
from playground.models import AuditEntry
from tests import matrix, matrix_api, matrix_holes, matrix_world
from tests.matrix import Browser, Route
from tests.matrix_api import Caller, Operation
from tests.matrix_holes import Check
from tests.matrix_world import ADMIN, MEMBER, OPERATOR, STRANGER, VIEWER, World

type Named = Callable[[World], Mapping[str, Any]]

ROUTES = list(matrix.routes())
DECLARED = [route for route in ROUTES if route.policy is not None]
OPERATIONS = list(matrix_api.operations())


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """One for all cases; each case leaves it as it was, and nothing of it is left at the end."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)  # No test here asks for a database of its own.
        with transaction.atomic():
            yield _made()
            transaction.set_rollback(True)


def _made() -> World:
    made = matrix_world.world()
    for kind in matrix_world.BUILDERS:
        made.one(kind)
    matrix_world.mark(made)
    return made


@pytest.fixture(scope="module")
def browser(world: World) -> Browser:
    return Browser(world.people)


def test_every_address_declares_what_it_needs() -> None:
    assert matrix.undeclared(ROUTES) == []


@pytest.mark.parametrize("route", DECLARED, ids=str)
def test_what_is_declared_is_what_happens(route: Route, world: World, browser: Browser) -> None:
    gaps = matrix.gaps(route, browser, world)
    assert not gaps, "\n".join(gaps)


# Other teams' rows in forms of one's own pages


@pytest.fixture(scope="module")
def abroad(world: World) -> World:
    return matrix_world.abroad(world)


@pytest.mark.parametrize(("name", "method", "form"), matrix_world.FOREIGN)
def test_another_teams_row_named_in_a_form_is_not_there(
    name: str, method: str, form: Named, browser: Browser, world: World, abroad: World
) -> None:
    assert _foreign(name, method, form, browser, world, abroad) is None


# The management API


@pytest.fixture(scope="module")
def caller(world: World) -> Caller:
    return Caller(world)


def test_every_operation_declares_what_it_needs() -> None:
    assert [str(one) for one in OPERATIONS if one.policy is None] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_what_an_operation_declares_is_what_happens(
    operation: Operation, world: World, caller: Caller
) -> None:
    gaps = matrix_api.gaps(operation, caller, world)
    assert not gaps, "\n".join(gaps)


# Messages of a page's socket: who hears what is asked of the database with each, see tests/test_consumers.py


def test_every_message_declares_what_it_needs() -> None:
    assert set(consumers.KINDS_OF_MESSAGE) - consumers.NEEDS.keys() == {"unwatch"}, (
        "it takes nothing from anybody"
    )
    assert set(consumers.NEEDS.values()) <= access.NEEDS.keys()


@pytest.mark.parametrize("kind", consumers.NEEDS)
def test_what_a_message_declares_is_what_happens(kind: str, world: World) -> None:
    nouns = {"look": consumers.PLACES}.get(kind, {consumers._noun(kind, {}): None})
    for noun, model in nouns.items():
        row = world.one(model or matrix_world.SPOKEN_OF[noun])
        policy = Policy(writes=consumers.NEEDS[kind], of=type(row))
        for who, person in world.people.items():
            with matrix.undone():
                refusal, _ = consumers._judge(person, kind, noun, row.pk)
                want = matrix.expected(policy, consumers.NEEDS[kind], who)
                assert bool(refusal) == (want is not None), (kind, noun, who, refusal)
                tried = AuditEntry.objects.filter(user=person, action__startswith="refused").exists()
                assert tried == (bool(refusal) and consumers.NEEDS[kind] != "view"), (kind, noun, who)


# That the matrix sees what is missing

# Checks that are made once more, and where: taking one of the two away opens nothing.
TWICE = {
    "endpoints.request_views._added-fetch": "it looks among the team's alone",
    "endpoints.request_views.open_one-require": "logged.open_in_playground asks itself",
    "playground.views.batches._act-require": "the verbs of batches ask themselves",
    "playground.views.datasets._added-fetch": "it looks among the team's alone",
    "playground.views.datasets._named-fetch": "it looks among the team's alone",
    "playground.views.deployments.stop_many-require": "the team is asked first, and each row's once more",
    "playground.views.links.revoke-fetch": "the link's own, and then what it is to",
    "playground.views.nodes.install-require": "site.page asks for what is the site's",
    "playground.views.nodes.price-require": "site.page asks for what is the site's",
    "playground.views.nodes.remove-require": "site.page asks for what is the site's",
    "playground.views.prompt_picker._act-fetch": "it looks among the team's alone",
    "playground.views.prompts.begin-require": "the verbs of prompts ask themselves",
    "playground.views.prompts.change-require": "the verbs of prompts ask themselves",
    "playground.views.prompts.delete-require": "the verbs of prompts ask themselves",
    "playground.views.scores.add-require": "scoring.add asks itself",
    "playground.views.wishes.ask_for_model-require": "everybody in a team may ask",
    "playground.views.wishes.ask_for_deployment-require": "everybody in a team may ask",
}
VIEWS = {route.module for route in DECLARED if "views" in route.module}
CHECKS = list(matrix_holes.checks(VIEWS))
ONCE = [one for one in CHECKS if one.name not in TWICE]


@pytest.mark.parametrize("check", ONCE, ids=str)
def test_a_check_that_is_taken_away_is_missed(
    check: Check, world: World, abroad: World, browser: Browser
) -> None:
    with matrix_holes.without(check):
        assert next(_found(check, world, abroad, browser), None), (
            f"the matrix does not see that {check} is gone"
        )


def test_checks_that_are_made_twice_are_there() -> None:
    assert TWICE.keys() <= {one.name for one in CHECKS}


def _found(check: Check, world: World, abroad: World, browser: Browser) -> Iterator[str]:
    for route in _reached(check):
        yield from matrix.gaps(route, browser, world, _unfit(check))
    for name, method, form in matrix_world.FOREIGN:
        yield from filter(None, [_foreign(name, method, form, browser, world, abroad)])


def _reached(check: Check) -> list[Route]:
    """The addresses of its module, those first that are likeliest to come by."""
    own = [route for route in DECLARED if route.module == check.module]
    return sorted(own, key=lambda route: getattr(route.view, "__name__", "") != check.function)


def _unfit(check: Check) -> tuple[str, ...]:
    """Whom the check keeps out."""
    return (STRANGER,) if check.call == "fetch" else (VIEWER, ADMIN, OPERATOR, MEMBER)


def _foreign(
    name: str, method: str, form: Named, browser: Browser, world: World, abroad: World
) -> str | None:
    route = next(one for one in DECLARED if one.name == name)
    return matrix.foreign_gap(route, browser, abroad, world, method, dict(form(world)))
