"""What is private, or shared to be read: by every address, operation, message and list there is.

The matrix asks for each role what it may in a team; here a team's own people ask for what is another's.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.urls import reverse

from endpoints.models import Endpoint
from playground import access, consumers, frame, picking, prompt_rows, prompts, sharing_rules, sockets
from playground.models import (
    AuditEntry,
    Batch,
    Column,
    Comment,
    Conversation,
    Generation,
    Image,
    Measurement,
    Prompt,
    Shared,
    ShareLink,
    Turn,
    User,
)
from playground.sharing_rules import SharingRefused
from tests import matrix, matrix_api, matrix_world
from tests.matrix import Browser, Route
from tests.matrix_api import Caller, Operation
from tests.matrix_world import ADMIN, MARK, MEMBER, OPERATOR, SITE, VIEWER, World

KINDS: tuple[type[Shared], ...] = (Conversation, Prompt, Batch)
HANGS_ON_THEM = (Column, Turn, Generation, Image, Comment, ShareLink, Measurement)
ABOUT = (*KINDS, *HANGS_ON_THEM)
ROUTES = [one for one in matrix.routes() if one.policy and one.policy.of in ABOUT]
OPERATIONS = [one for one in matrix_api.operations() if one.policy and one.policy.of in ABOUT]
# What somebody who only reads may still do: it changes nothing of the thing, or is the reader's own.
READERS_MAY = {
    "prompt-try",
    "prompt-filled",
    "conversation-fork",
    "dataset-add",
    "turn-vote",
    "comments",
    "comment",
    "comment-delete",
    "POST /prompts/{pk}/versions/{number}/fill",
    "POST /conversations/{pk}/fork",
    "POST /answers/{pk}/comments",
    "POST /messages/{pk}/vote",
}
# A form without which a refusal would come for want of it.
FORMS = {f"{kind}-links": {"days": "7"} for kind in ("conversation", "prompt", "batch")}


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        with transaction.atomic():
            made = matrix_world.world()
            for kind in (*ABOUT, Endpoint):
                made.one(kind)
            for named in (*KINDS, Turn, Generation, Comment):
                named._default_manager.update(**{matrix_world.NAMES[named]: MARK})
            for kind in KINDS:
                kind._default_manager.update(created_by=made.owner)
                made.made.pop(kind).refresh_from_db()
                made.made[kind] = kind._default_manager.select_related("team", "created_by").get()
            yield made
            transaction.set_rollback(True)


@pytest.fixture(scope="module")
def browser(world: World) -> Browser:
    return Browser(world.people)


@pytest.fixture(scope="module")
def caller(world: World) -> Caller:
    return Caller(world)


@pytest.fixture
def private(world: World) -> Iterator[None]:
    yield from _shared(world, "private")


@pytest.fixture
def read_only(world: World) -> Iterator[None]:
    yield from _shared(world, "view")


def _shared(world: World, sharing: str) -> Iterator[None]:
    with matrix.undone():
        for kind in KINDS:
            kind._default_manager.update(sharing=sharing)
            world.one(kind).sharing = sharing
        yield
    for kind in KINDS:
        world.one(kind).sharing = "edit"


def asked(route: Route, world: World, browser: Browser, who: str, method: str) -> Any:
    """The answer, for a row that stays its owner's."""
    assert route.policy is not None
    with matrix.undone():
        address = matrix._address(route, route.policy, world, world.owner)
        form = dict(matrix_world.FORMS.get(route.name, lambda world: FORMS.get(route.name, {}))(world))
        return browser.ask(who, method, address, form)


def told(operation: Operation, world: World, caller: Caller, who: str) -> Any:
    with matrix.undone():
        return caller.ask(who, operation.method, matrix_api.address_of(operation, world), operation.body)


def methods(route: Route) -> list[str]:
    assert route.policy is not None
    return [method for method in ("GET", "POST") if route.policy.of_method(method)]


@pytest.mark.usefixtures("private")
def test_no_address_tells_the_team_of_what_is_private(world: World, browser: Browser) -> None:
    gaps = []
    for route in ROUTES:
        for method in methods(route):
            answer = asked(route, world, browser, OPERATOR, method)
            if answer.status_code != 404 or MARK.encode() in answer.content.lower():
                gaps.append(f"{method} {route}: {answer.status_code}")
    assert len(ROUTES) > 60
    assert not gaps


@pytest.mark.usefixtures("private")
def test_no_operation_of_the_api_does(world: World, caller: Caller) -> None:
    gaps = [
        f"{one}: {answer.status_code}"
        for one in OPERATIONS
        if (answer := told(one, world, caller, OPERATOR)).status_code != 404
        or MARK.encode() in answer.content.lower()
    ]
    assert len(OPERATIONS) > 25
    assert not gaps


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("kind", consumers.NEEDS)
def test_no_message_of_a_socket_does(world: World, kind: str) -> None:
    nouns = list(consumers.PLACES) if kind == "look" else [consumers._noun(kind, {})]
    for noun in nouns:
        row = world.one(consumers.PLACES.get(noun) or matrix_world.SPOKEN_OF[noun])
        for who in (VIEWER, MEMBER, OPERATOR):
            assert consumers._judge(world.people[who], kind, noun, row.pk)[0].startswith("There is no such")
        assert consumers._judge(world.people[ADMIN], kind, noun, row.pk)[0] == ""


@pytest.mark.usefixtures("private")
def test_open_sockets_of_others_are_sent_away_and_those_of_owner_and_administrators_stay(
    world: World,
) -> None:
    places = {f"{kind._meta.model_name}:{world.one(kind).pk}" for kind in KINDS}
    places.add(f"generation:{world.one(Generation).pk}")
    people = {who: world.people[who].pk for who in matrix_world.ROLES}
    shut = sockets.private(places, people.values())
    assert shut == {(people[who], place) for who in (VIEWER, MEMBER, OPERATOR) for place in places}


LISTS = ("playground", "prompts", "batches", "home")


@pytest.mark.usefixtures("private")
def test_no_list_finder_or_picker_names_it(world: World, browser: Browser, caller: Caller) -> None:
    user, team = world.people[MEMBER], world.team
    Batch.objects.update(state=Batch.State.FAILED, ended_at=world.one(Batch).created_at)
    for name in LISTS:
        assert MARK not in browser.ask(MEMBER, "GET", reverse(name), {}).content.decode().lower(), name
    kinds = {found.kind for found in frame.find(team, user, MARK)}
    assert not kinds & {"conversation", "prompt", "batch"}
    assert not [need for need in frame.needs(team, user) if "Batch" in need.text]
    assert [need for need in frame.needs(team, world.owner) if "Batch" in need.text]
    assert not prompt_rows.choices(team, user) and not prompts.tags_of(team, user)
    own = Conversation.objects.create(team=team, created_by=user)
    assert not picking.picker(user, own)["library"]
    for path in ("conversations", "prompts", "batches"):
        assert MARK.encode() not in caller.ask(MEMBER, "GET", f"/api/v1/{path}", None).content.lower()
    for name in LISTS:  # An administrator opens it by its address: nobody reads over people's shoulders.
        assert MARK not in browser.ask(ADMIN, "GET", reverse(name), {}).content.decode().lower(), name
    for kind in KINDS:
        address = reverse(str(kind._meta.model_name), args=[world.one(kind).pk])
        assert MARK in browser.ask(ADMIN, "GET", address, {}).content.decode().lower()
    assert {"conversation", "prompt", "batch"} <= {
        found.kind for found in frame.find(team, world.owner, MARK)
    }


@pytest.mark.usefixtures("private")
def test_what_it_was_used_for_is_not_named(world: World) -> None:
    prompt = world.one(Prompt)
    Prompt.objects.filter(pk=prompt.pk).update(sharing="edit")
    version = prompt.versions.get()
    Batch.objects.update(prompt_version=version)
    Conversation.objects.update(prompt_version=version)
    seen = {use.title for use in prompts.uses(prompt, world.people[MEMBER])}
    assert seen == {"(private)"}
    assert MARK in {use.title for use in prompts.uses(prompt, world.owner)}


# Shared to be read


@pytest.mark.usefixtures("read_only")
def test_who_only_reads_changes_nothing_by_any_address(world: World, browser: Browser) -> None:
    gaps = []
    Measurement.objects.all().delete()  # One that was never asked for anything has no page.
    for route in ROUTES:
        for method in methods(route):
            assert route.policy is not None
            if route.policy.of_method(method) == "view":
                want, answer = (200, 204, 302, 404), asked(route, world, browser, MEMBER, method)
            elif method == "GET" or route.name in READERS_MAY or route.policy.writes != "chat":
                continue
            else:
                want, answer = (403,), asked(route, world, browser, MEMBER, method)
            if answer.status_code not in want:
                gaps.append(f"{method} {route}: {answer.status_code}")
    assert not gaps


@pytest.mark.usefixtures("read_only")
def test_nor_by_any_operation(world: World, caller: Caller) -> None:
    gaps = [
        f"{one}: {answer.status_code}"
        for one in OPERATIONS
        if one.policy and one.policy.writes == "chat" and str(one) not in READERS_MAY
        if (answer := told(one, world, caller, MEMBER)).status_code != 403
    ]
    assert not gaps


# Saying so


@pytest.fixture
def owner(world: World) -> User:
    return world.owner


@pytest.mark.parametrize("kind", KINDS)
def test_the_owner_says_who_reads_and_writes(world: World, owner: User, kind: type[Shared]) -> None:
    row = world.one(kind)
    with matrix.undone():
        for sharing in ("private", "view", "edit"):
            sharing_rules.share(row, owner, sharing)
            assert kind._default_manager.get(pk=row.pk).sharing == sharing
            entry = AuditEntry.objects.filter(object=f"{kind._meta.model_name}:{row.pk}")
            assert entry.latest("pk").action == f"share {kind._meta.model_name}"
            assert entry.latest("pk").after == {"sharing": sharing}
        with pytest.raises(access.Refused, match="owner and the team's administrators"):
            sharing_rules.share(row, world.people[OPERATOR], "private")
        with pytest.raises(SharingRefused):
            sharing_rules.share(row, owner, "everybody")


def test_what_production_names_stays_the_teams(world: World, owner: User) -> None:
    prompt, endpoint = world.one(Prompt), world.one(Endpoint)
    with matrix.undone():
        live = endpoint.releases.get()
        type(live).objects.filter(pk=live.pk).update(prompt_version=prompt.versions.get())
        with pytest.raises(SharingRefused, match=f"Release {live.number} of "):
            sharing_rules.share(prompt, owner, "private")
        sharing_rules.share(prompt, owner, "view")


def test_what_nobody_owns_cannot_become_private(world: World) -> None:
    batch = world.one(Batch)
    with matrix.undone():
        orphan = Batch(pk=batch.pk, team=batch.team, name=batch.name, version=batch.version)
        with pytest.raises(SharingRefused, match="Nobody owns it"):
            sharing_rules.share(orphan, world.people[ADMIN], "private")


@pytest.mark.usefixtures("private")
def test_what_its_owner_makes_of_it_is_private_too(world: World, owner: User, browser: Browser) -> None:
    for name, row in (("conversation-fork", world.one(Conversation)), ("prompt-try", world.one(Prompt))):
        form = {"value.name": "Ada"}
        answer = browser.ask(SITE, "POST", reverse(name, args=[row.pk]), form)
        made = Conversation.objects.latest("pk")
        assert answer["Location"] == reverse("conversation", args=[made.pk])
        assert made.sharing == "private"
