"""Every address by every method, for people of every standing: what is declared is what happens.

The addresses are the URL resolver's own, so that a new one is here by itself; one without a policy fails.
What the matrix can see is shown by taking each check of the views away in turn: it finds every one.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from tests import matrix, matrix_world
from tests.matrix import Browser, Route
from tests.matrix_world import World

ROUTES = list(matrix.routes())
DECLARED = [route for route in ROUTES if route.policy is not None]


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
