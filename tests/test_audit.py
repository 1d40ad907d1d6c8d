"""The audit log: who reads which entries, finding and taking them away.

That no change is without one: tests/test_audit_walk.py.
"""

import csv
import io
import json
import re
from typing import Any

import pytest
from django.test import Client

from playground import access, acting, nodes, tokens
from playground.models import (
    AuditEntry,
    Membership,
    Model,
    Node,
    Team,
    User,
)

pytestmark = pytest.mark.django_db


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person, "django.contrib.auth.backends.ModelBackend")
    return client


def entry(user: User | None, team: Team | None, action: str, **more: Any) -> AuditEntry:
    access.audit(user, team, action, more.pop("object", "model:1"), **more)
    found = AuditEntry.objects.order_by("-pk").first()
    assert found is not None
    return found


def page(client: Client, **query: Any) -> str:
    answer = client.get("/team/audit/", query)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


# The page


def test_it_shows_what_changed_before_and_after(user: User, team: Team) -> None:
    entry(
        user,
        team,
        "set price",
        object="node:1",
        name="gpu-1",
        before={"price": "2.10"},
        after={"price": "2.49"},
    )
    shown = page(signed_in(user))
    assert "<del>2.10</del>" in shown and "<ins>2.49</ins>" in shown
    assert "gpu-1" in shown and "set price" in shown


def test_names_in_it_are_text(user: User, team: Team) -> None:
    entry(user, team, "rename", name="<script>alert(1)</script>", before={"<b>": "<i>"}, after={})
    shown = page(signed_in(user))
    assert "<script>alert" not in shown and "<b>" not in shown and "<i>" not in shown


def test_it_links_what_is_still_there_and_names_what_is_gone(user: User, team: Team) -> None:
    there = Model.objects.create(team=team, name="here", source="local:here")
    entry(user, team, "add model", object=f"model:{there.pk}", name="here")
    entry(user, team, "remove model", object="model:987654", name="bygone")
    shown = page(signed_in(user))
    assert f'href="/models/{there.pk}/"' in shown
    assert "bygone" in shown and "/models/987654/" not in shown


def test_its_entries_outlive_person_and_team(user: User, team: Team) -> None:
    other = Team.objects.create(name="Short", slug="short")
    gone = User.objects.create_user("leaver")
    kept = entry(gone, other, "add model", name="theirs")
    gone.delete()
    other.delete()
    kept.refresh_from_db()
    assert (kept.who, kept.team_name, kept.name) == ("leaver", "Short", "theirs")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"who": "ada"}, {"one"}),
        ({"action": "pause batch"}, {"two"}),
        ({"kind": "batch"}, {"two"}),
        ({"via": "api"}, {"two"}),
        ({"text": "tw"}, {"two"}),
        ({"refused": "yes"}, {"three"}),
        ({"since": "2020-01-01", "until": "2020-01-02"}, set()),
        ({"text": "\x00"}, {"one", "two", "three"}),
        ({}, {"one", "two", "three"}),
    ],
)
def test_it_finds(user: User, team: Team, query: dict[str, str], found: set[str]) -> None:
    entry(user, team, "add model", name="one")
    with acting.acting("api", "10.1.2.3", "nightly"):
        entry(None, team, "pause batch", object="batch:5", name="two")
    entry(None, team, "refused stop", name="three")
    shown = page(signed_in(user), **query)
    names = set(re.findall(r'audit-name">(\w+)<', shown))
    assert names == found


def test_a_day_that_is_none_is_told(user: User) -> None:
    shown = page(signed_in(user), since="yesterday")
    assert "A day like 2026-11-25." in shown


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01"])
def test_the_first_and_the_last_day_there_are_do_no_harm(user: User, day: str) -> None:
    for query in ({"until": day}, {"since": day}):
        assert signed_in(user).get("/team/audit/", query).status_code == 200


def test_it_goes_on_page_by_page(user: User, team: Team) -> None:
    for number in range(53):
        access.audit(user, team, "add model", f"model:{number}", name=f"number-{number}")
    client = signed_in(user)
    first = page(client)
    assert "number-52<" in first and "number-2<" not in first
    older = re.search(r"before=(\d+)", first)
    assert older
    rest = page(client, before=older[1])
    assert "number-2<" in rest and "number-3<" not in rest


# Who reads it


def test_a_member_is_refused_in_words(user: User, team: Team) -> None:
    member = User.objects.create_user("member")
    Membership.objects.create(user=member, team=team, role=Membership.Role.OPERATOR)
    answer = signed_in(member).get("/team/audit/")
    assert answer.status_code == 403
    assert b"administrator" in answer.content


@pytest.mark.django_db(transaction=True)
def test_a_team_administrator_sees_their_teams_alone(user: User, stranger: User, team: Team) -> None:
    entry(user, team, "add model", name="ours")
    theirs = entry(stranger, access.team_of(stranger), "add model", name="theirs")
    shown = page(signed_in(stranger))
    assert "theirs" in shown and ">ours<" not in shown
    assert signed_in(stranger).get("/team/audit/", {"team": team.slug}).status_code == 404
    assert signed_in(stranger).get("/team/audit/", {"team": "*"}).status_code == 403
    exported = b"".join(signed_in(stranger).get("/team/audit/export/"))  # type: ignore[arg-type]
    assert b"theirs" in exported and b"ours," not in exported
    assert theirs.team_id != team.pk


def test_a_site_administrator_sees_everything(user: User, stranger: User, team: Team) -> None:
    assert user.is_staff
    entry(stranger, access.team_of(stranger), "add model", name="theirs")
    entry(None, None, "delete team", object="team:9", name="Bygones")
    shown = page(signed_in(user), team="*")
    assert "theirs" in shown and "Bygones" in shown


# As a file


def exported(client: Client, kind: str) -> str:
    answer: Any = client.get("/team/audit/export/", {"format": kind})
    assert answer.status_code == 200
    assert "attachment" in answer["Content-Disposition"]
    return b"".join(answer).decode()


@pytest.mark.django_db(transaction=True)
def test_it_is_taken_away_whole(user: User, team: Team) -> None:
    for number in range(1203):
        access.audit(
            user, team, "set price", f"node:{number}", name=f"n{number}", before={"p": 1}, after={"p": 2}
        )
    client = signed_in(user)
    lines = [json.loads(line) for line in exported(client, "jsonl").splitlines()]
    assert [line["object"] for line in lines] == [f"node:{number}" for number in range(1202, -1, -1)]
    assert lines[0]["before"] == {"p": 1} and lines[0]["after"] == {"p": 2} and lines[0]["who"] == "ada"
    rows = list(csv.DictReader(io.StringIO(exported(client, "csv"))))
    assert len(rows) == 1203 and json.loads(rows[0]["after"]) == {"p": 2}
    assert client.get("/team/audit/export/", {"format": "xls"}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_no_cell_of_it_is_a_formula(user: User, team: Team) -> None:
    for name in ("=1+1", "+1", "-1", "@x", "\tx"):
        access.audit(user, team, "rename", "model:1", name=name)
    rows = list(csv.DictReader(io.StringIO(exported(signed_in(user), "csv"))))
    assert {row["name"] for row in rows} == {"'=1+1", "'+1", "'-1", "'@x", "'\tx"}


# What verbs leave


def test_a_price_is_told_before_and_after(user: User, team: Team) -> None:
    node = Node.objects.create(name="gpu-9", price_per_hour="2.10")
    nodes.set_price(node, None, user, team)
    kept = AuditEntry.objects.get(action="set price")
    assert (kept.name, kept.before, kept.after) == (
        "gpu-9",
        {"price_per_hour": "2.10"},
        {"price_per_hour": None},
    )


def test_a_token_names_itself_but_not_its_secret(user: User, team: Team) -> None:
    _, secret = tokens.make(user, "nightly", "write")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    answer = client.post("/api/v1/datasets", {"name": "Sums"}, content_type="application/json")
    assert answer.status_code == 201
    kept = AuditEntry.objects.get(action="create dataset")
    assert (kept.via, kept.detail["token"], kept.who, kept.address) == ("api", "nightly", "ada", "127.0.0.1")
    assert not AuditEntry.objects.filter(detail__icontains=secret[13:]).exists()
