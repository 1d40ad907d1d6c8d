"""The management API's side of comparison, sharing and production: what the pages do can be done by it.

That its description holds: tests/test_management_fuzz.py; who may what: test_matrix.py.
"""

from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from endpoints.models import Endpoint
from playground import access, deployments, load, load_form, load_report, noise_order, noise_report, prompts
from playground.models import (
    AuditEntry,
    Batch,
    Conversation,
    DatasetRow,
    Deployment,
    Generation,
    Measurement,
    Membership,
    Node,
    Replica,
    Sample,
    Team,
    Turn,
    User,
)
from tests import chats, fleet, gateway_site, matrix_world
from tests.test_management_api import BASE, caller, colleague, error, send

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(user: User) -> Client:
    return caller(user)


def serving(row: Deployment) -> Deployment:
    """It looks ready; nothing is asked of it here."""
    node, _ = Node.objects.get_or_create(name=settings.NODE_NAME)
    Replica.objects.create(
        deployment=row,
        node=node,
        configuration=row.configuration,
        state=Replica.State.READY,
        served_name="fake",
        port=1,
        engine_key="k",
    )
    return row


def ready(team: Team, name: str) -> Deployment:
    return serving(chats.deployment(team, name))


@pytest.fixture
def chat(team: Team, user: User) -> Conversation:
    return chats.conversation(team, ready(team, "first"), ready(team, "second"), created_by=user)


def asked(chat: Conversation, **inputs: Any) -> Turn:
    turn = chat.turns.create(text="Which?", client_id=f"c{chat.turns.count()}", inputs=inputs)
    for column in chat.columns.all():
        Generation.objects.create(turn=turn, column=column, state="complete", text=f"by {column.position}")
    return turn


# Columns


def test_columns_are_added_set_up_moved_and_closed(client: Client, chat: Conversation, team: Team) -> None:
    third = ready(team, "third")
    made = send(client, "POST", f"/conversations/{chat.pk}/columns", {"deployment": third.pk}).json()
    assert [one["name"] for one in made["columns"]] == ["first", "second", "third"]
    path = f"/columns/{made['columns'][2]['id']}"
    changed = send(client, "PATCH", path, {"parameters": {"temperature": 0}, "place": 1}).json()
    first = sorted(changed["columns"], key=lambda one: one["position"])[0]
    assert (first["name"], first["parameters"]) == ("third", {"temperature": 0})
    assert send(client, "PATCH", path, {"parameters": {"temperature": "hot"}}).status_code == 422
    unknown = {"deployment": third.pk, "adapter": "none"}
    assert send(client, "POST", f"/conversations/{chat.pk}/columns", unknown).status_code == 422
    assert chat.columns.filter(closed=False).count() == 3, "what is refused leaves no column"
    assert send(client, "DELETE", path).status_code == 204
    assert chat.columns.filter(closed=False).count() == 2


def test_a_column_takes_no_other_teams_deployment(client: Client, chat: Conversation, stranger: User) -> None:
    theirs = ready(access.team_of(stranger), "theirs")
    answer = send(client, "POST", f"/conversations/{chat.pk}/columns", {"deployment": theirs.pk})
    assert answer.status_code == 422 and error(answer)["field"] == "deployment"


# Runs


def measured(column: int, arm: str, prompt: int, ttft: float) -> Sample:
    timings = {"ttft": ttft, "e2e": ttft + 630.0, "chunks": 64, "first_chunk_tokens": 1}
    usage = {"completion_tokens": 64}
    text = f"text {prompt}"
    return Sample(
        column_id=column, arm=arm, prompt=prompt, state="complete", text=text, usage=usage, timings=timings
    )


def test_a_noise_run_is_asked_for_read_and_ended(client: Client, chat: Conversation) -> None:
    body = {"prompts": [f"prompt {number}\nof two lines" for number in range(12)], "max_tokens": 64}
    estimate = send(client, "POST", f"/conversations/{chat.pk}/noise/estimate", body).json()
    assert (estimate["requests"], estimate["pairs"], estimate["seconds"]) == (48, 12, None)
    answer = send(client, "POST", f"/conversations/{chat.pk}/noise", body)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["state"], made["noise"]) == ("queued", None)
    assert made["settings"]["prompts"] == body["prompts"]
    again = send(client, "POST", f"/conversations/{chat.pk}/noise", body)
    assert again.status_code == 409 and "not over yet" in error(again)["message"]

    row = Measurement.objects.get(pk=made["id"])
    fast, slow = (one["column"] for one in made["columns"])
    for prompt in range(12):
        for arm in noise_order.ARMS:
            nudge = prompt + (0.1 if arm == "A2" else 0.0) * (-1) ** prompt
            for column, ttft in ((fast, 50.0), (slow, 100.0)):
                sample = measured(column, arm, prompt, ttft + nudge)
                sample.measurement = row
                sample.save()
    Measurement.objects.filter(pk=row.pk).update(result=noise_report.evaluate(row))
    told = client.get(f"{BASE}/runs/{row.pk}").json()["noise"]
    first = next(t for t in told["speed"] if (t["metric"], t["a"], t["b"]) == ("ttft", fast, slow))
    assert first["found"] and first["n"] == 12 and 1.5 < first["ratio"] < 2.1
    assert {one["column"] for one in told["columns"]} == {fast, slow}

    ended = send(client, "POST", f"/runs/{row.pk}/cancel")
    assert ended.status_code == 200 and ended.json()["state"] == "cancelled"
    assert send(client, "POST", f"/runs/{row.pk}/cancel").status_code == 409
    listed = client.get(f"{BASE}/conversations/{chat.pk}/runs", {"kind": "noise"}).json()["items"]
    assert [one["id"] for one in listed] == [row.pk]
    assert not client.get(f"{BASE}/conversations/{chat.pk}/runs", {"kind": "load"}).json()["items"]


def test_a_load_run_is_asked_for_and_its_requests_are_told(client: Client, chat: Conversation) -> None:
    body: dict[str, Any] = {
        "levels": ["2", "0.5/s"],
        "requests": 3,
        "prompts": ["Hi", [{"role": "user", "content": "Ho"}]],
    }
    made = send(client, "POST", f"/conversations/{chat.pk}/load", body).json()
    row = Measurement.objects.get(pk=made["id"])
    wanted = load_form.Wanted.of(row.settings)
    assert [level.label for level in wanted.levels] == ["2", "0.5/s"] and len(wanted.prompts) == 2

    column = made["columns"][0]["column"]
    samples = [measured(column, "closed", 0, 40.0 + number) for number in range(3)]
    for number, one in enumerate(samples):
        one.measurement, one.level, one.sent_ms = row, 2.0, number * 1000.0
        one.save()
    found = [load_report.request(load.taken(one), None, one.sent_ms or 0.0) for one in samples]
    figures = load_report.row(found, load_report.Limits())
    rows = [{"column": column, "level": 0, "open": False, "value": 2.0, **figures}]
    Measurement.objects.filter(pk=row.pk).update(result={"rows": rows, "left": {}})

    told = client.get(f"{BASE}/runs/{row.pk}").json()["load"]["levels"]
    assert [(one["level"], one["completed"], one["good"]) for one in told] == [("2", 3, None)]
    stricter = client.get(f"{BASE}/runs/{row.pk}/goodput", {"ttft": 41}).json()
    assert (stricter["levels"][0]["good"], stricter["limits"]["ttft"]) == (2, 41)
    page = client.get(f"{BASE}/runs/{row.pk}/samples", {"limit": 2}).json()
    assert [one["ttft"] for one in page["items"]] == [40.0, 41.0]
    rest = client.get(f"{BASE}/runs/{row.pk}/samples", {"after": page["next"]}).json()
    assert [one["level"] for one in rest["items"]] == ["2"] and rest["next"] is None

    Replica.objects.update(state=Replica.State.STOPPED)
    unknown = send(client, "POST", f"/conversations/{chat.pk}/load/estimate", body).json()
    assert unknown == {"least": None, "most": None, "too_long": False}


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("noise", {}, 422, "prompts"),
        ("noise", {"prompts": ["one", "one"]}, 422, "prompts"),
        ("noise", {"prompts": ["one"], "version": 1}, 422, "version"),
        ("noise", {"version": 10**9}, 422, "version"),
        ("load", {"levels": ["many"], "prompts": ["one"]}, 422, "levels"),
        ("load", {"levels": ["1"]}, 422, "prompts"),
        ("load", {"levels": ["1"], "prompts": [[{"role": "user", "content": 5}]]}, 422, "prompts"),
        ("plan", {"prompts": ["one"], "seal": "old"}, 409, None),
    ],
)
def test_a_run_that_cannot_be_says_why(
    client: Client, chat: Conversation, path: str, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = send(client, "POST", f"/conversations/{chat.pk}/{path}", body)
    assert (answer.status_code, error(answer)["field"]) == (status, field), answer.content
    assert not Measurement.objects.exists()


def test_a_plan_is_shown_before_it_is_run(client: Client, chat: Conversation) -> None:
    made = client.get(f"{BASE}/conversations/{chat.pk}/plan", {"prompts": 2}).json()
    assert made["fits"] and not made["refusal"]
    assert [one["name"] for stage in made["stages"] for one in stage["columns"]] == ["first", "second"]


# Votes and comments


def test_a_vote_is_cast_by_letter_and_tells_whose_answers_they_are(
    client: Client, chat: Conversation
) -> None:
    assert send(client, "PUT", f"/conversations/{chat.pk}/blind", {"on": True}).json()["blind"]
    turn = asked(chat, blind=True)
    ballot = client.get(f"{BASE}/messages/{turn.pk}/ballot").json()
    assert ballot["state"] == "open" and [one["letter"] for one in ballot["answers"]] == ["A", "B"]
    assert {(one["answer"], one["column"], one["name"]) for one in ballot["answers"]} == {(None, None, None)}
    answer = turn.generations.first()
    assert answer and client.get(f"{BASE}/answers/{answer.pk}/comments").status_code == 404
    other = send(client, "POST", f"/messages/{turn.pk}/vote", {"choice": "A", "mark": "of others"})
    assert other.status_code == 409 and "Other answers" in error(other)["message"]
    cast = send(client, "POST", f"/messages/{turn.pk}/vote", {"choice": "A", "mark": ballot["mark"]}).json()
    assert cast["vote"]["letter"] == "A" and {one["name"] for one in cast["answers"]} == {"first", "second"}
    assert send(client, "POST", f"/messages/{turn.pk}/vote", {"choice": "B"}).status_code == 409
    assert client.get(f"{BASE}/votes").json()["votes"] == 1


def test_comments_are_ones_own_to_change(client: Client, chat: Conversation, team: Team) -> None:
    answer = asked(chat).generations.get(column__position=0)
    other = caller(colleague(team, "grace"))
    made = send(other, "POST", f"/answers/{answer.pk}/comments", {"text": "Too long."}).json()
    assert (made["created_by"], made["edited_at"]) == ("grace", None)
    assert send(client, "PATCH", f"/comments/{made['id']}", {"text": "Fine."}).status_code == 403
    changed = send(other, "PATCH", f"/comments/{made['id']}", {"text": "Too short."}).json()
    assert changed["text"] == "Too short." and changed["edited_at"]
    assert client.get(f"{BASE}/answers/{answer.pk}/comments").json()["items"] == [changed]
    assert send(other, "PATCH", f"/comments/{made['id']}", {"text": " "}).status_code == 422
    assert send(client, "DELETE", f"/comments/{made['id']}").status_code == 204


def test_two_answers_are_compared_and_the_whole_is_a_file(client: Client, chat: Conversation) -> None:
    turn = asked(chat)
    told = client.get(f"{BASE}/messages/{turn.pk}/difference").json()
    assert not told["same"] and [(one["kind"], one["text"]) for one in told["pieces"]] == [
        ("same", "by "),
        ("gone", "0"),
        ("new", "1"),
    ]
    assert (told["parting"]["word"], told["parting"]["first"], told["divergence"]) == (2, ["0", "1"], None)
    file = client.get(f"{BASE}/conversations/{chat.pk}/export", {"format": "md"}).json()
    assert file["name"].endswith(".md") and "by 0" in file["text"]
    assert client.get(f"{BASE}/conversations/{chat.pk}/export", {"format": "exe"}).status_code == 422


# Links


def test_a_public_link_is_made_opened_and_taken_back(client: Client, chat: Conversation, team: Team) -> None:
    asked(chat)
    other = caller(colleague(team, "grace"))
    refused = send(other, "POST", f"/conversations/{chat.pk}/links", {})
    assert refused.status_code == 403 and "owner" in error(refused)["message"]
    made = send(client, "POST", f"/conversations/{chat.pk}/links", {"days": 1}).json()
    path = made["url"].removeprefix("http://testserver")
    assert Client().get(path).status_code == 200
    assert client.get(f"{BASE}/conversations/{chat.pk}/links").json()["links"][0]["url"] == made["url"]
    hidden = other.get(f"{BASE}/conversations/{chat.pk}/links").json()
    assert (hidden["holding"], hidden["may_share"], hidden["links"]) == (1, False, [])
    assert send(client, "DELETE", f"/links/{made['id']}").status_code == 204
    assert Client().get(path).status_code == 404
    assert send(client, "DELETE", f"/links/{made['id']}").status_code == 409


# Wishes


def test_who_may_not_start_asks_and_is_answered(client: Client, user: User, team: Team) -> None:
    model = fleet.tiny_model(team)
    vera = caller(colleague(team, "vera", Membership.Role.VIEWER))
    wrong = send(vera, "POST", f"/models/{model.pk}/wishes", {"engine": "fake", "options": {"tokens": "x"}})
    assert wrong.status_code == 422 and error(wrong)["fields"].keys() == {"tokens"}
    made = send(vera, "POST", f"/models/{model.pk}/wishes", {"engine": "fake", "text": "for the demo"})
    assert made.status_code == 201, made.content
    wish = made.json()
    assert (wish["state"], wish["what"], wish["text"]) == ("open", f"{model.name} on fake", "for the demo")
    assert send(vera, "POST", f"/wishes/{wish['id']}/start").status_code == 403
    assert [one["id"] for one in client.get(f"{BASE}/wishes").json()["items"]] == [wish["id"]]
    started = send(client, "POST", f"/wishes/{wish['id']}/start").json()
    row = Deployment.objects.get(pk=started["deployment"])
    assert (started["state"], row.desired, row.created_by) == ("done", "running", user)
    late = send(client, "POST", f"/wishes/{wish['id']}/decline", {"answer": "No room."})
    assert late.status_code == 409
    deployments.stop(row, user)
    second = send(vera, "POST", f"/deployments/{row.pk}/wishes", {}).json()
    declined = send(client, "POST", f"/wishes/{second['id']}/decline", {"answer": "No room."}).json()
    assert (declined["state"], declined["answer"], declined["answered_by"]) == ("declined", "No room.", "ada")
    others = send(client, "DELETE", f"/wishes/{second['id']}")
    assert others.status_code == 409 and "whoever asked" in error(others)["message"]
    assert send(vera, "DELETE", f"/wishes/{second['id']}").status_code == 204


# Limits


def test_limits_of_teams_and_people_are_set_and_told(client: Client, user: User, team: Team) -> None:
    colleague(team, "grace")
    User.objects.filter(pk=user.pk).update(is_staff=True)
    whole = send(client, "PUT", f"/site/teams/{team.slug}/limits", {"replicas": 3, "gpu_hours_day": 1.5})
    assert whole.json()["limits"]["gpu_hours_day"] == 1.5
    assert {one["name"]: one["most"] for one in whole.json()["use"]}["replicas"] == 3
    each = send(client, "PUT", "/team/person-limits", {"batch_rows_day": 100}).json()
    assert each["batch_rows_day"] == 100 and each["replicas"] is None
    one = send(client, "PUT", "/members/grace/limits", {"batch_rows_day": 5}).json()
    assert {line["name"]: line["most"] for line in one["use"]}["batch_rows_day"] == 5
    back = send(client, "PUT", "/members/grace/limits", {}).json()
    assert {line["name"]: line["most"] for line in back["use"]}["batch_rows_day"] == 100
    assert send(client, "PUT", "/team/person-limits", {"replicas": -1}).status_code == 422
    assert client.get(f"{BASE}/members/nobody/use").status_code == 404
    assert not AuditEntry.objects.filter(object="member:nobody").exists(), "reading is no refused write"
    acts = AuditEntry.objects.filter(action__startswith="set quotas").values_list("action", flat=True)
    assert sorted(acts) == ["set quotas", "set quotas", "set quotas of person", "set quotas of person"]


def test_a_teams_limits_are_for_site_administrators_by_a_token_for_every_team(user: User, team: Team) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=False)
    assert send(caller(user), "PUT", f"/site/teams/{team.slug}/limits", {}).status_code == 403
    assert caller(user).get(f"{BASE}/site/teams").status_code == 403
    User.objects.filter(pk=user.pk).update(is_staff=True)
    other = Team.objects.create(name="Other", slug="other")
    narrow = caller(user, team=team)
    assert send(narrow, "PUT", f"/site/teams/{other.slug}/limits", {}).status_code == 403
    assert team.name in error(narrow.get(f"{BASE}/site/teams"))["message"]
    assert send(caller(user), "PUT", f"/site/teams/{other.slug}/limits", {}).status_code == 200


# Production


@pytest.fixture
def words(team: Team, user: User) -> Endpoint:
    behind = gateway_site.deployment(team, released=True, name="behind")
    return gateway_site.endpoint(team, "words", behind)


def test_an_endpoints_requests_are_told_and_become_rows_of_a_dataset(
    client: Client, words: Endpoint, team: Team, user: User
) -> None:
    logging = send(client, "PUT", "/endpoints/words/log", {"share": 0.5, "days": 3}).json()
    assert (logging["log_share"], logging["log_days"]) == (0.5, 3)
    assert send(client, "PUT", "/endpoints/words/log", {"share": 50, "days": 3}).status_code == 422
    key = matrix_world.logged(matrix_world.World(team, team, {}, {Endpoint: words})).usage_id
    found = client.get(f"{BASE}/endpoints/words/requests", {"status": "ok"}).json()["items"]
    assert [(one["id"], one["kept"], one["status"]) for one in found] == [(key, True, 200)]
    assert client.get(f"{BASE}/endpoints/words/requests", {"slower_ms": 1e6}).json()["items"] == []
    text = client.get(f"{BASE}/endpoints/words/requests/{key}").json()
    assert text["request"]["messages"][0]["content"] == matrix_world.MARK and text["cut"] is False
    viewer = caller(colleague(team, "vera", Membership.Role.VIEWER))
    assert viewer.get(f"{BASE}/endpoints/words/requests").status_code == 200
    assert viewer.get(f"{BASE}/endpoints/words/requests/{key}").status_code == 403
    opened = send(client, "POST", f"/endpoints/words/requests/{key}/open").json()
    said = client.get(f"{BASE}/conversations/{opened['conversation']}/messages").json()["items"]
    assert said[0]["text"] == matrix_world.MARK
    target = send(client, "POST", "/datasets", {"name": "From production"}).json()
    body = {"endpoint": "words", "requests": [key]}
    made = send(client, "POST", f"/datasets/{target['id']}/requests", body)
    assert made.status_code == 201 and made.json()["row_count"] == 1, made.content
    none = send(client, "POST", f"/datasets/{target['id']}/requests", body | {"requests": [10**9]})
    assert none.status_code == 422


def test_a_batch_fills_a_prompt_of_the_library(client: Client, team: Team, user: User) -> None:
    what = prompts.Said([{"role": "user", "content": "The capital of {{country}}?"}])
    version = prompts.create(team, user, "Capitals", what).versions.get()
    made = send(client, "POST", "/datasets", {"name": "Countries"}).json()
    csv = {"source": "rows.csv", "text": "country\nPeru\n", "kind": "table"}
    csv["template"] = [{"role": "user", "content": "{{country}}"}]  # type: ignore[assignment]
    table = send(client, "POST", f"/datasets/{made['id']}/versions", csv).json()
    body = {"version": table["id"], "columns": [{"deployment": ready(team, "one").pk}]}
    begun = send(client, "POST", "/batches", body | {"prompt_version": version.pk})
    assert begun.status_code == 201, begun.content
    assert begun.json()["prompt_version"] == version.pk
    batch = Batch.objects.get(pk=begun.json()["id"])
    asked = DatasetRow.objects.get(version=batch.version).body["messages"]
    assert asked[0]["content"] == "The capital of Peru?"
    other = send(client, "POST", "/batches", body | {"prompt_version": 10**9})
    assert other.status_code == 422 and error(other)["field"] == "prompt_version"


def test_a_release_names_the_prompt_it_was_tested_with(client: Client, team: Team, user: User) -> None:
    what = prompts.Said([{"role": "user", "content": "Sort {{mail}}."}])
    version = prompts.create(team, user, "triage", what).versions.get()
    tested = serving(gateway_site.deployment(team))
    body = {"deployment": tested.pk, "endpoint": "support", "prompt": "triage@2"}
    wrong = send(client, "POST", "/endpoints", body)
    assert wrong.status_code == 422 and error(wrong)["field"] == "prompt"
    made = send(client, "POST", "/endpoints", body | {"prompt": "triage@1"})
    assert made.status_code == 201, made.content
    assert made.json()["prompt_version"] == version.pk
