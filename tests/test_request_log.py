"""An endpoint's requests one by one, and what is kept of what was said: only where it is turned on."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from endpoints import logged, request_log, usage, usage_store
from endpoints.models import Endpoint, LoggedRequest, Usage
from playground import history
from playground.models import (
    AuditEntry,
    Conversation,
    Dataset,
    DatasetRow,
    Deployment,
    Generation,
    Membership,
    Team,
    User,
)
from tests import rows as team_rows
from tests import usage_rows
from tests.fakes import RunningFake, fake_engine
from tests.gateway_site import Site, ask, deployment, endpoint, replica, running_site
from tests.rows import Rows

__all__ = ["fake_engine"]
pytestmark = pytest.mark.django_db(transaction=True)
Engines = Callable[..., RunningFake]
PIXEL = f"data:image/png;base64,{'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ' * 9}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(served: Site, team: Team, fake_engine: Engines) -> Site:
    """The endpoint `words`, of which nothing is kept yet."""
    behind = deployment(team, released=True)
    endpoint(team, "words", behind, temperature=0.25)
    replica(behind, fake_engine(key="engine-secret", tokens=8))
    served.key(team)
    served.until(lambda: served.get("/v1/models/words").status_code == 200)
    return served


def keep_all(site: Site, user: User) -> None:
    """Turn the log on, and wait until the web process knows."""
    row = Endpoint.objects.get(name="words")
    logged.set_log(row, user, 1, 7)
    site.until(lambda: _kept_now(site))
    LoggedRequest.objects.all().delete()
    Usage.objects.all().delete()


def _kept_now(site: Site) -> bool:
    before = Usage.objects.count()
    site.post(json=ask("is it on?"))
    site.until(lambda: Usage.objects.count() > before)
    return LoggedRequest.objects.exists()


def kept(site: Site, count: int = 1) -> list[LoggedRequest]:
    site.until(lambda: LoggedRequest.objects.count() >= count)
    return list(LoggedRequest.objects.select_related("usage").order_by("pk"))


# Through the gateway


def test_nothing_is_kept_until_it_is_turned_on(site: Site) -> None:
    site.post(json=ask("a secret"))
    site.until(lambda: Usage.objects.exists())
    assert not LoggedRequest.objects.exists()
    assert not [path for path in usage_store.folder().glob("*.jsonl") if "a secret" in path.read_text()]


def test_what_is_asked_and_answered_is_kept_as_it_came(site: Site, user: User) -> None:
    keep_all(site, user)
    body = ask("hello [[tokens=3]]", temperature=0.5, metadata={"ticket": "7"})
    answer = site.post(json=body).json()
    (row,) = kept(site)
    assert row.request == body
    assert row.answer == answer
    assert not row.cut and row.usage.status == 200


def test_a_streams_pieces_are_put_together(site: Site, user: User) -> None:
    keep_all(site, user)
    list(site.client().chat.completions.create(**ask("[[tokens=5]]"), stream=True))
    (row,) = kept(site)
    assert row.answer
    assert row.answer["object"] == "chat.completion"
    assert row.answer["choices"][0]["message"]["content"] == "word0 word1 word2 word3 word4"
    assert row.answer["choices"][0]["finish_reason"]


def test_of_a_stream_that_is_cut_what_came_is_kept(site: Site, user: User) -> None:
    keep_all(site, user)
    body = ask("[[tokens=5000]] [[delay=10]]")
    with site.client().chat.completions.create(**body, stream=True) as stream:
        for _, _ in zip(stream, range(6), strict=False):
            pass
    (row,) = kept(site)
    assert row.usage.status == 499
    assert row.answer and row.answer["choices"][0]["message"]["content"].startswith("word0 word1")


def test_an_error_is_kept_with_its_words(site: Site, user: User) -> None:
    keep_all(site, user)
    site.post(json=ask("[[error=500]]"))
    (row,) = kept(site)
    assert row.usage.status == 502 and row.answer
    assert row.answer["error"]["code"] == "engine_failed"


def test_no_key_is_ever_kept(site: Site, user: User) -> None:
    keep_all(site, user)
    site.post(json=ask(f"my key is {site.secret}, [[echo]]"))
    (row,) = kept(site)
    written = json.dumps([row.request, row.answer])
    assert site.secret not in written and site.secret[20:] not in written
    assert row.request["messages"][0]["content"] == "my key is sk-slip-…, [[echo]]"


# What is kept


def test_pictures_are_left_out() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    value, cut = request_log.kept({"messages": [{"role": "user", "content": parts}], "input": PIXEL})
    assert "iVBOR" not in json.dumps(value) and not cut
    assert request_log.has_pictures(value)
    assert value["messages"][0]["content"][0] == {"type": "text", "text": "see"}


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"role": "user", "content": "é" * 200_000}]},
        {"input": ["text"] * 100_000},
        {"data": [{"embedding": [0.123456789] * 50_000}]},
        {"a" * 200_000: 1},
    ],
)
def test_what_is_long_is_cut_to_the_limit_and_says_so(value: dict[str, Any]) -> None:
    found, cut = request_log.kept(value)
    assert cut
    assert len(json.dumps(found, ensure_ascii=False).encode()) <= request_log.LIMIT


def test_characters_and_depths_that_postgresql_refuses_are_replaced(team: Team) -> None:
    deep: Any = "end"
    for _ in range(500):
        deep = [deep]
    record = usage_rows.request(team, 1) | {"logged": ({"a": "\0\ud800", "deep": deep}, lambda: "\0")}
    usage.settle(record)
    assert usage_store.keep([record]) == 1
    assert LoggedRequest.objects.get().request["a"] == "\N{REPLACEMENT CHARACTER}?"


def test_a_share_keeps_about_that_many() -> None:
    assert not any(request_log.chosen(0) for _ in range(100))
    assert all(request_log.chosen(1) for _ in range(100))
    assert 350 < sum(request_log.chosen(0.5) for _ in range(1000)) < 650


# The pages


@pytest.fixture
def full(team: Team, user: User) -> Rows:
    return team_rows.full(team, user)


@pytest.fixture
def one(full: Rows, team: Team) -> LoggedRequest:
    """A kept request of support-triage."""
    endpoint(team, "support-triage", full.ready, temperature=0.25)
    return keep(team, full.ready, 1)


def keep(team: Team, behind: Deployment, number: int, **more: Any) -> LoggedRequest:
    said = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": f"Ticket {number}?"},
    ]
    answer = {"choices": [{"message": {"content": f"Answer {number}"}, "finish_reason": "stop"}]}
    body = {
        "model": "support-triage",
        "messages": said,
        "top_p": 0.5,
        "max_completion_tokens": 9,
        "stream": True,
    }
    release = Endpoint.objects.get(name="support-triage").live_id
    record = usage_rows.request(team, number, deployment=behind.pk, release=release)
    usage_store.keep([record | {"request": body, "answer": answer, "cut": False} | more])
    return LoggedRequest.objects.select_related("usage").get(usage__request_id=f"row-{number}")


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def viewer(team: Team) -> User:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    return person


def at(name: str, *more: int) -> str:
    return reverse(f"endpoints:{name}", args=["support-triage", *more])


def test_turning_it_on_is_an_operators_and_is_remembered(one: LoggedRequest, team: Team, user: User) -> None:
    assert signed_in(viewer(team)).post(at("logging"), {"share": "5", "days": "3"}).status_code == 403
    assert signed_in(user).post(at("logging"), {"share": "5", "days": "3"}).status_code == 302
    row = Endpoint.objects.get(name="support-triage")
    assert (row.log_share, row.log_days) == (0.05, 3)
    entry = AuditEntry.objects.get(action="log requests")
    assert (entry.before, entry.after) == ({"share": 0, "days": 7}, {"share": 0.05, "days": 3})


@pytest.mark.parametrize(
    ("share", "days", "field"),
    [
        ("101", "3", "share"),
        ("-1", "3", "share"),
        ("nan", "3", "share"),
        ("x", "3", "share"),
        ("5", "0", "days"),
    ],
)
def test_a_wrong_share_is_refused_where_it_was_typed(
    one: LoggedRequest, user: User, share: str, days: str, field: str
) -> None:
    answer = signed_in(user).post(at("logging"), {"share": share, "days": days})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert f'id="{field}-error"' in text and f'value="{share}"' in text and f'value="{days}"' in text
    assert Endpoint.objects.get(name="support-triage").log_share == 0


def test_the_list_shows_figures_and_opens_what_is_kept(one: LoggedRequest, team: Team, user: User) -> None:
    usage_store.keep([usage_rows.request(team, 2, status=502, code="died_midway", completion_tokens=None)])
    text = signed_in(user).get(at("requests")).content.decode()
    assert "died_midway" in text and "n/a" in text
    assert at("request", one.usage_id) in text
    assert text.count('name="request"') == 1
    shown = signed_in(user).get(at("request", one.usage_id)).content.decode()
    assert "Ticket 1?" in shown and "Answer 1" in shown


def test_filters_and_pages(one: LoggedRequest, full: Rows, team: Team, user: User) -> None:
    desk = usage_rows.key(team, user, "desk")
    found = [usage_rows.request(team, n, key=desk.pk if n % 2 else None) for n in range(10, 130)]
    found[0] |= {"status": 502}
    found[1] |= {"status": 499}
    found[2] |= {"ttft_ms": 6000.0}
    found[3] |= {"ttft_ms": None, "e2e_ms": 31_000.0}
    usage_store.keep(found)
    client = signed_in(user)

    def names(**query: str) -> list[str]:
        shown = client.get(at("requests"), query)
        return [row.request_id for row in shown.context["rows"]]

    assert names(status="errors") == ["row-10"]
    assert names(status="left") == ["row-11"]
    assert names(slow="5") == ["row-13", "row-12"]
    assert names(slow="30") == ["row-13"]
    assert names(id="req_77") == ["row-77"]
    assert len(names(key=str(desk.pk))) == 50
    seen: list[str] = []
    query: dict[str, str] = {}
    while True:
        page = client.get(at("requests"), query)
        seen += [row.request_id for row in page.context["rows"]]
        if not page.context["next"]:
            break
        query = dict(pair.split("=") for pair in page.context["next"].split("&"))
    assert len(seen) == len(set(seen)) == 121


def test_what_was_said_is_for_members_and_figures_for_viewers(one: LoggedRequest, team: Team) -> None:
    client = signed_in(viewer(team))
    text = client.get(at("requests")).content.decode()
    assert "req_1" in text and at("request", one.usage_id) not in text and "Add to dataset" not in text
    assert client.get(at("request", one.usage_id)).status_code == 403
    assert client.post(at("request-open", one.usage_id)).status_code == 403
    assert client.post(at("requests-add"), {"request": one.usage_id, "name": "mine"}).status_code == 403
    assert not Conversation.objects.exists() and not Dataset.objects.exists()


def test_a_stranger_finds_none_of_it(one: LoggedRequest, stranger: User) -> None:
    client = signed_in(stranger)
    for name, more in (("requests", ()), ("request", (one.usage_id,))):
        assert client.get(at(name, *more)).status_code == 404
    for name, more in (("logging", ()), ("requests-add", ()), ("request-open", (one.usage_id,))):
        assert client.post(at(name, *more)).status_code == 404
    assert AuditEntry.objects.filter(action="refused write", user=stranger).count() == 3


def test_a_request_of_another_endpoint_is_not_this_ones(
    one: LoggedRequest, full: Rows, team: Team, user: User
) -> None:
    endpoint(team, "other", full.ready)
    address = reverse("endpoints:request", args=["other", one.usage_id])
    assert signed_in(user).get(address).status_code == 404
    chosen = {"request": one.usage_id, "name": "mine"}
    answer = signed_in(user).post(reverse("endpoints:requests-add", args=["other"]), chosen)
    assert answer.status_code == 422 and not Dataset.objects.exists()


def test_what_is_older_than_its_days_is_not_shown_though_it_is_not_deleted_yet(
    one: LoggedRequest, user: User
) -> None:
    Usage.objects.update(at=timezone.now() - timedelta(days=8))
    assert signed_in(user).get(at("request", one.usage_id)).status_code == 404
    assert signed_in(user).post(at("request-open", one.usage_id)).status_code == 404


def test_it_opens_in_the_playground_as_it_was_asked(one: LoggedRequest, full: Rows, user: User) -> None:
    answer = signed_in(user).post(at("request-open", one.usage_id))
    row = Conversation.objects.get()
    assert answer.headers["Location"] == reverse("conversation", args=[row.pk])
    assert row.parameters == {"temperature": 0.25, "top_p": 0.5, "max_tokens": 9}
    assert row.columns.get().deployment == full.ready
    last = Generation.objects.order_by("pk").last()
    assert last and last.text == "Answer 1" and last.configuration == full.ready.configuration
    assert history.messages(last) == one.request["messages"]
    assert signed_in(user).get(reverse("conversation", args=[row.pk])).status_code == 200


def test_it_opens_on_another_deployment_of_the_same_configuration(
    one: LoggedRequest, full: Rows, user: User
) -> None:
    full.ready.desired = Deployment.Desired.STOPPED
    full.ready.save()
    Deployment.objects.filter(pk=full.failed.pk).update(problem="")
    signed_in(user).post(at("request-open", one.usage_id))
    chosen = Conversation.objects.get().columns.get().deployment
    assert chosen and chosen.configuration == full.ready.configuration
    assert chosen.desired == Deployment.Desired.RUNNING


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "not_kept": True}]}], "picture"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], "tools"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "take turns"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "middle"),
        ("nonsense", "take turns"),
    ],
)
def test_what_a_conversation_cannot_hold_is_refused_in_words(
    one: LoggedRequest, full: Rows, team: Team, user: User, said: Any, why: str
) -> None:
    row = keep(team, full.ready, 2, request={"messages": said})
    answer = signed_in(user).post(at("request-open", row.usage_id))
    assert answer.status_code == 422 and why in answer.content.decode()
    assert not Conversation.objects.exists()


def test_parameters_that_a_conversation_lacks_are_named(
    one: LoggedRequest, full: Rows, team: Team, user: User
) -> None:
    body = {**one.request, "response_format": {"type": "json_object"}, "logit_bias": {"1": 2}}
    row = keep(team, full.ready, 2, request=body)
    answer = signed_in(user).post(at("request-open", row.usage_id), follow=True)
    assert "logit_bias, response_format" in answer.content.decode()


def test_chosen_ones_become_rows_of_a_new_version(
    one: LoggedRequest, full: Rows, team: Team, user: User
) -> None:
    two = keep(team, full.ready, 2)
    client = signed_in(user)
    given = {"request": [one.usage_id, two.usage_id], "name": "tickets", "answers": "on"}
    assert client.post(at("requests-add"), given).status_code == 302
    dataset = Dataset.objects.get()
    first, second = DatasetRow.objects.order_by("number")
    assert first.body == {name: one.request[name] for name in ("messages", "top_p", "max_completion_tokens")}
    assert (first.expected, second.expected) == ("Answer 1", "Answer 2")
    three = keep(team, full.ready, 3)
    again = {"request": [two.usage_id, three.usage_id], "dataset": dataset.pk}
    client.post(at("requests-add"), again)
    newest = dataset.versions.order_by("-number").first()
    assert newest and newest.row_count == 3 and newest.rows.get(number=3).expected is None


def test_nothing_ticked_or_nothing_whole_loses_nothing_typed(
    one: LoggedRequest, full: Rows, team: Team, user: User
) -> None:
    client = signed_in(user)
    for ticked, why in (
        ([], "Choose at least one"),
        ([keep(team, full.ready, 2, cut=True).usage_id], "longer than"),
    ):
        answer = client.post(at("requests-add"), {"request": ticked, "name": "tickets"})
        text = answer.content.decode()
        assert answer.status_code == 422 and why in text and 'value="tickets"' in text
        assert text.count(" checked>") == len(ticked), "what was ticked stays so"
    assert not Dataset.objects.exists()


def test_hostile_text_is_inert(one: LoggedRequest, full: Rows, team: Team, user: User) -> None:
    evil = "<script>alert(1)</script>"
    row = keep(team, full.ready, 2, request={"messages": [{"role": "user", "content": evil}]}, client_id=evil)
    client = signed_in(user)
    for address in (at("requests"), at("request", row.usage_id)):
        assert evil not in client.get(address).content.decode()
