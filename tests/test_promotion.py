"""Releases: what may be promoted, what becomes live when, and how one goes back."""

import threading
from collections.abc import Callable

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client

from endpoints import promotion
from endpoints.models import Endpoint, EndpointEvent, Release
from endpoints.tested import find as find_tested
from playground import prompts, shell
from playground.models import (
    AuditEntry,
    Conversation,
    Deployment,
    Membership,
    Node,
    Prompt,
    Replica,
    Team,
    User,
)
from tests import gateway_site

pytestmark = pytest.mark.django_db
State = Release.State


def ready(row: Deployment) -> Replica:
    """Give a deployment a ready replica, as its runner would."""
    node, _ = Node.objects.get_or_create(name="test-node")
    return Replica.objects.create(
        deployment=row, configuration=row.configuration, node=node, state=Replica.State.READY, port=1
    )


@pytest.fixture
def tested(team: Team) -> Deployment:
    row = gateway_site.deployment(team, tokens=4)
    ready(row)
    return row


@pytest.fixture
def launch(tested: Deployment, user: User) -> Callable[..., Release]:
    """Promote, and let the release's own replica become ready."""

    def launched(name: str = "words", **more: object) -> Release:
        release = promotion.promote(tested, endpoint=name, user=user, **more)  # type: ignore[arg-type]
        ready(release.deployment)
        promotion.settle()
        release.refresh_from_db()
        return release

    return launched


@pytest.fixture
def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def live(name: str = "words") -> int | None:
    release = Endpoint.objects.select_related("live").get(name=name).live
    return release.number if release else None


def test_it_starts_a_deployment_of_its_own_and_goes_live_when_that_is_ready(
    tested: Deployment, user: User
) -> None:
    release = promotion.promote(tested, endpoint="words", user=user, sampling={"temperature": 0}, note="good")
    assert release.state == State.STARTING
    assert live() is None
    own = release.deployment
    assert (own.released, own.configuration, own.desired) == (True, tested.configuration, "running")
    assert own != tested
    ready(own)
    promotion.settle()
    release.refresh_from_db()
    assert (release.state, live()) == (State.LIVE, 1)
    assert [event.action for event in EndpointEvent.objects.all()] == ["live", "promote"]
    promotion.settle()
    assert EndpointEvent.objects.count() == 2


def test_it_refuses_to_promote_a_starting_deployment(team: Team, user: User) -> None:
    row = gateway_site.deployment(team)
    Replica.objects.create(deployment=row, configuration=row.configuration, state=Replica.State.LOADING)
    with pytest.raises(promotion.PromotionRefused, match="not ready"):
        promotion.promote(row, endpoint="words", user=user)
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("name", ["", "Words", "a b", "-a", "a-", "a/b", "x" * 81, "../x", "é"])
def test_it_refuses_a_bad_name(tested: Deployment, user: User, name: str) -> None:
    with pytest.raises(promotion.PromotionRefused) as refusal:
        promotion.promote(tested, endpoint=name, user=user)
    assert refusal.value.field == "endpoint"
    assert not Endpoint.objects.exists()


def test_the_release_before_stays_warm_and_the_one_before_that_retires(
    launch: Callable[..., Release],
) -> None:
    first, second, third = launch(), launch(), launch()
    for row in (first, second):
        row.refresh_from_db()
    assert [first.state, second.state, third.state] == [State.RETIRED, State.WARM, State.LIVE]
    assert live() == 3
    assert Deployment.objects.get(pk=first.deployment_id).desired == "stopped"
    assert Deployment.objects.get(pk=second.deployment_id).desired == "running"


def test_a_release_that_fails_leaves_the_last_good_one_live(
    launch: Callable[..., Release], tested: Deployment, user: User
) -> None:
    launch()
    bad = promotion.promote(tested, endpoint="words", user=user)
    Deployment.objects.filter(pk=bad.deployment_id).update(problem="Out of memory: needs 2 GB more.")
    promotion.settle()
    bad.refresh_from_db()
    assert (bad.state, bad.problem, live()) == (State.FAILED, "Out of memory: needs 2 GB more.", 1)
    assert Deployment.objects.get(pk=bad.deployment_id).desired == "stopped"


def test_another_promotion_is_a_conflict_while_one_starts(tested: Deployment, user: User) -> None:
    promotion.promote(tested, endpoint="words", user=user)
    with pytest.raises(promotion.PromotionConflict):
        promotion.promote(tested, endpoint="words", user=user)
    assert Release.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_wins(tested: Deployment, user: User) -> None:
    barrier, outcomes = threading.Barrier(2), []

    def go() -> None:
        barrier.wait()
        try:
            outcomes.append(promotion.promote(tested, endpoint="words", user=user).state)
        except promotion.PromotionConflict:
            outcomes.append("conflict")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "starting"]
    assert Release.objects.count() == 1


def test_where_no_second_fits_the_running_replica_is_handed_over(tested: Deployment, user: User) -> None:
    replica = tested.replicas.get()
    release = promotion.promote(tested, endpoint="words", user=user)
    Replica.objects.create(
        deployment=release.deployment,
        configuration=release.configuration,
        state=Replica.State.PENDING,
        reason_code="no_room",
        reason="Two cores are busy.",
    )
    promotion.settle()
    release.refresh_from_db()
    replica.refresh_from_db()
    assert (release.state, live()) == (State.LIVE, 1)
    assert replica.deployment_id == release.deployment_id
    assert Deployment.objects.get(pk=tested.pk).desired == "stopped"


def test_it_hands_over_at_once_when_asked(tested: Deployment, user: User) -> None:
    release = promotion.promote(tested, endpoint="words", user=user, in_place=True)
    assert (release.state, live()) == (State.LIVE, 1)


def test_without_room_and_without_the_tested_replica_it_fails(tested: Deployment, user: User) -> None:
    release = promotion.promote(tested, endpoint="words", user=user)
    tested.replicas.all().delete()
    Replica.objects.create(
        deployment=release.deployment, state="pending", reason_code="no_room", reason="Two cores are busy."
    )
    promotion.settle()
    release.refresh_from_db()
    assert release.state == State.FAILED
    assert "Two cores are busy." in release.problem


def test_rolling_back_is_at_once_when_the_release_is_warm(launch: Callable[..., Release], user: User) -> None:
    launch(), launch()
    back = promotion.rollback(Endpoint.objects.get(), user)
    assert (back.number, back.state, live()) == (1, State.LIVE, 1)
    assert Release.objects.get(number=2).state == State.WARM
    event = EndpointEvent.objects.first()
    assert event is not None
    assert (event.action, event.release, event.user) == ("roll back", back, user)


def test_rolling_back_to_a_retired_release_starts_it_first(
    launch: Callable[..., Release], user: User
) -> None:
    first = launch()
    launch(), launch()
    back = promotion.rollback(Endpoint.objects.get(), user, first)
    assert (back.state, live()) == (State.STARTING, 3)
    ready(back.deployment)
    promotion.settle()
    assert live() == 1


def test_rolling_back_stops_a_release_that_still_starts(
    launch: Callable[..., Release], tested: Deployment, user: User
) -> None:
    launch(), launch()
    starting = promotion.promote(tested, endpoint="words", user=user)
    promotion.rollback(Endpoint.objects.get(), user)
    starting.refresh_from_db()
    assert (starting.state, live()) == (State.FAILED, 1)


def test_it_refuses_to_roll_back_without_an_earlier_release(
    launch: Callable[..., Release], user: User
) -> None:
    only = launch()
    with pytest.raises(promotion.PromotionRefused, match="no earlier release"):
        promotion.rollback(only.endpoint, user)
    with pytest.raises(promotion.PromotionRefused, match="cannot be rolled back to"):
        promotion.rollback(only.endpoint, user, only)
    assert live() == 1


def test_taking_offline_stops_its_replicas_and_keeps_the_history(
    launch: Callable[..., Release], user: User
) -> None:
    release = launch()
    promotion.take_offline(release.endpoint, user)
    release.refresh_from_db()
    assert (release.state, live()) == (State.RETIRED, None)
    assert Deployment.objects.get(pk=release.deployment_id).desired == "stopped"


def test_every_change_is_announced_to_gateways(launch: Callable[..., Release]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'slipway_routes'")
        watched = {row[0] for row in cursor.fetchall()}
    assert watched >= {"endpoints_apikey", "endpoints_endpoint", "playground_replica"}


# Pages


def test_the_page_shows_what_was_tested_and_promotes_it(browser: Client, tested: Deployment) -> None:
    page = browser.get(f"/endpoints/promote/{tested.pk}/").content.decode()
    assert tested.configuration is not None
    assert tested.configuration.short in page
    assert "Nobody has had an answer from it yet." in page
    answer = browser.post(
        f"/endpoints/promote/{tested.pk}/",
        {"endpoint": "words", "temperature": "0.2", "note": "best of three"},
    )
    assert answer.headers["location"] == "/endpoints/on/words/"
    detail = browser.get("/endpoints/on/words/").content.decode()
    assert "Release 1 starts" in detail
    assert "best of three" in detail
    release = Release.objects.get()
    assert release.sampling == {"temperature": 0.2}
    ready(release.deployment)
    promotion.settle()
    detail = browser.get("/endpoints/on/words/").content.decode()
    assert ">live<" in detail
    assert "SLIPWAY_API_KEY" in detail
    assert "words" in browser.get("/endpoints/").content.decode()


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ({"endpoint": "Not A Name", "note": "kept"}, "lower-case letters"),
        ({"endpoint": "words", "note": "kept", "temperature": "hot"}, "Temperature is a number."),
        ({"endpoint": "words", "note": "kept", "top_p": "7"}, "top_p"),
    ],
)
def test_bad_input_gets_its_error_and_keeps_what_was_typed(
    browser: Client, tested: Deployment, typed: dict[str, str], error: str
) -> None:
    page = browser.post(f"/endpoints/promote/{tested.pk}/", typed)
    text = page.content.decode()
    assert page.status_code == 422
    assert error in text
    assert "kept" in text
    assert typed["endpoint"] in text
    assert not Release.objects.exists()


def test_a_conflict_is_409(browser: Client, tested: Deployment, user: User) -> None:
    promotion.promote(tested, endpoint="words", user=user)
    page = browser.post(f"/endpoints/promote/{tested.pk}/", {"endpoint": "words"})
    assert page.status_code == 409
    assert "is starting" in page.content.decode()


def test_the_difference_to_what_is_live_is_shown(
    browser: Client, launch: Callable[..., Release], team: Team
) -> None:
    launch()
    other = gateway_site.deployment(team, name="slower", tokens=9)
    ready(other)
    page = browser.get(f"/endpoints/promote/{other.pk}/").content.decode()
    assert "Against words" in page
    assert "<strong>9</strong>" in page


def test_the_pages_buttons_roll_back_stop_and_take_offline(
    browser: Client, launch: Callable[..., Release], tested: Deployment, user: User
) -> None:
    launch(), launch()
    browser.post("/endpoints/on/words/rollback/", {"release": "1"})
    assert live() == 1
    third = promotion.promote(tested, endpoint="words", user=user)
    browser.post("/endpoints/on/words/stop/", {"release": str(third.number)})
    third.refresh_from_db()
    assert third.state == State.FAILED
    assert "Stopped by ada" in browser.get("/endpoints/on/words/").content.decode()
    browser.post("/endpoints/on/words/offline/")
    assert live() is None


def test_a_member_may_look_and_not_touch(
    browser: Client, launch: Callable[..., Release], tested: Deployment, user: User
) -> None:
    launch(), launch()
    Membership.objects.filter(user=user).update(role=Membership.Role.MEMBER)
    assert "Roll back" not in browser.get("/endpoints/on/words/").content.decode()
    assert browser.post("/endpoints/on/words/rollback/").status_code == 403
    assert browser.post(f"/endpoints/promote/{tested.pk}/", {"endpoint": "x"}).status_code == 403
    assert live() == 2


def test_a_stranger_finds_nothing(launch: Callable[..., Release], tested: Deployment, stranger: User) -> None:
    launch()
    client = Client()
    client.force_login(stranger)
    assert client.get("/endpoints/on/words/").status_code == 404
    assert client.get(f"/endpoints/promote/{tested.pk}/").status_code == 404
    assert client.post(f"/endpoints/promote/{tested.pk}/", {"endpoint": "mine"}).status_code == 404
    for verb in ("rollback", "stop", "offline"):
        assert client.post(f"/endpoints/on/words/{verb}/").status_code == 404
    assert AuditEntry.objects.filter(user=stranger, action="refused write").count() == 4
    assert live() == 1


# The prompt it was tested with


@pytest.fixture
def house(team: Team, user: User) -> Prompt:
    """A prompt of two versions."""
    said = prompts.Said([{"role": "system", "content": "You help with {{product}}."}])
    house = prompts.create(team, user, "support triage", said)
    prompts.save(house, user, prompts.Said([{"role": "system", "content": "Help."}]), base=1)
    return house


@pytest.mark.parametrize(
    ("text", "number"), [("support triage", 2), ("support triage v1", 1), ("support triage@2", 2), ("", None)]
)
def test_the_page_names_the_prompt_it_was_tested_with(
    browser: Client, tested: Deployment, house: Prompt, text: str, number: int | None
) -> None:
    page = browser.post(f"/endpoints/promote/{tested.pk}/", {"endpoint": "words", "prompt": text})
    assert page.status_code == 302
    version = Release.objects.get().prompt_version
    assert (version.number if version else None) == number
    shown = "support triage v" in browser.get("/endpoints/on/words/").content.decode()
    assert shown == (number is not None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nothing", "No prompt that the team may read is called"),
        ("support triage v9", "has no version 9: v2 is its newest"),
    ],
)
def test_a_prompt_that_is_not_there_is_said_beside_its_field(
    browser: Client, tested: Deployment, house: Prompt, text: str, error: str
) -> None:
    page = browser.post(f"/endpoints/promote/{tested.pk}/", {"endpoint": "words", "prompt": text})
    said = page.content.decode()
    assert page.status_code == 422
    assert error in said and f'value="{text}"' in said
    assert not Release.objects.exists()


def test_the_prompt_that_its_conversations_used_is_suggested(
    browser: Client, tested: Deployment, team: Team, house: Prompt
) -> None:
    talk = Conversation.objects.create(team=team, prompt_version=house.versions.get(number=1))
    talk.columns.create(deployment=tested, position=0)
    page = browser.get(f"/endpoints/promote/{tested.pk}/")
    assert page.context["typed"]["prompt"] == "support triage v1"
    assert 'value="support triage v1"' in page.content.decode()


def test_another_team_s_prompt_is_not_found(tested: Deployment, user: User, stranger: User) -> None:
    theirs = prompts.create(
        stranger.memberships.get().team, stranger, "theirs", prompts.Said([{"role": "user", "content": "x"}])
    )
    with pytest.raises(promotion.PromotionRefused):
        find_tested(tested.team, "theirs")
    with pytest.raises(promotion.PromotionRefused):
        promotion.promote(tested, endpoint="words", user=user, prompt=theirs.versions.get())


def test_a_prompt_that_a_release_names_stays_and_says_where_it_is_used(
    launch: Callable[..., Release], user: User, house: Prompt
) -> None:
    launch(prompt=house.versions.get(number=1))
    used = [(use.kind, use.number, use.title) for use in prompts.uses(house, user)]
    assert used == [("endpoint", 1, "words, release 1")]
    with pytest.raises(prompts.PromptRefused):
        prompts.delete(house, user)


def test_the_command_names_a_prompt(tested: Deployment, house: Prompt) -> None:
    call_command(
        "promote", str(tested.pk), "--endpoint", "words", "--prompt", "support triage@1", "--no-wait"
    )
    version = Release.objects.get().prompt_version
    assert version is not None and version.number == 1
    with pytest.raises(shell.Failed, match="No prompt that the team may read is called"):
        call_command("promote", str(tested.pk), "--endpoint", "other", "--prompt", "nothing", "--no-wait")
