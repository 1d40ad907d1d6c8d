"""The site's pages: complete on their first GET, closed to strangers, honest about what went wrong."""

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from endpoints.models import Endpoint
from playground import teams
from playground.models import (
    AuditEntry,
    Deployment,
    EngineEnvironment,
    Job,
    Membership,
    Node,
    Replica,
    Team,
    User,
)
from tests import rows
from tests.rows import Rows

WRITES = [
    ("deployment-start", "ready"),
    ("deployment-stop", "ready"),
    ("deployment-restart", "ready"),
    ("deployment-delete", "ready"),
    ("deployment-idle", "ready"),
    ("model-start", "model"),
    ("job-cancel", "install"),
]


@pytest.fixture
def full(team: Team, user: User, stranger: User) -> Rows:
    return rows.full(team, user, stranger.memberships.get().team)


@pytest.fixture
def page(user: User) -> Client:
    """A browser signed in as an administrator."""
    return signed_in(user)


@pytest.fixture
def viewer(team: Team) -> Iterator[Client]:
    person = User.objects.create_user(username="vera")
    Membership.objects.create(user=person, team=team, role=Membership.Role.VIEWER)
    yield signed_in(person)


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def addresses(full: Rows) -> list[str]:
    """Every page and fragment that a GET shows."""
    of = [full.ready, full.starting, full.failed, full.stopped]
    return [
        *(reverse(name) for name in ("home", "models", "running", "nodes", "bar", "find")),
        *(reverse("model", args=[model.pk]) for model in (full.model, full.refused)),
        *(reverse("deployment", args=[row.pk]) for row in of),
        *(reverse("deployment-status", args=[row.pk]) for row in of),
        *(reverse("deployment-logs", args=[row.pk]) for row in of),
    ]


# What no number is, and yet of digits alone: Python makes none of more than 4,300.
LONG = "9" * 5000


def test_digits_that_are_no_number_are_no_row(page: Client, full: Rows, team: Team) -> None:
    logs = reverse("deployment-logs", args=[full.ready.pk])
    assert page.get(logs, {"replica": LONG}).status_code in (200, 404)
    assert page.post(reverse("running-stop"), {"chosen": LONG}).status_code == 302
    Endpoint.objects.create(team=team, name="capitals")
    back = reverse("endpoints:rollback", args=["capitals"])
    assert page.post(back, {"release": LONG}).status_code == 404


# Signing in


def test_it_leads_to_sign_in_without_a_session(client: Client, db: None) -> None:
    answer = client.get(reverse("home"))
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(reverse("sign-in"))
    assert client.get(reverse("sign-in")).status_code == 200


def test_it_signs_in_by_a_link_once(client: Client, user: User) -> None:
    token = teams.make_login_link(user)
    assert client.get(reverse("sign-in-link", args=[token])).headers["Location"] == "/"
    assert client.get("/").status_code == 200
    again = Client().get(reverse("sign-in-link", args=[token]))
    assert again.status_code == 410
    assert b"manage.py signin" in again.content


def test_it_refuses_an_old_link_and_one_that_never_was(client: Client, user: User) -> None:
    for token in (teams.make_login_link(user, minutes=-1), "x" * 43, "é"):
        assert client.get(reverse("sign-in-link", args=[token])).status_code == 410
    assert client.get("/").status_code == 302


def test_it_goes_on_to_where_the_person_was_going_but_never_elsewhere(client: Client, user: User) -> None:
    for wish, target in (("/nodes/", "/nodes/"), ("https://evil.example/", "/"), ("//evil.example", "/")):
        client.get(reverse("sign-in"), {"next": wish})
        answer = client.get(reverse("sign-in-link", args=[teams.make_login_link(user)]))
        assert answer.headers["Location"] == target
        client.post(reverse("sign-out"))


def test_it_signs_out_only_by_post(page: Client) -> None:
    assert page.get(reverse("sign-out")).status_code == 405
    page.post(reverse("sign-out"))
    assert page.get("/").status_code == 302


def test_a_fragment_asked_for_after_sign_out_reloads_its_page(client: Client, db: None) -> None:
    answer = client.get(reverse("bar"), headers={"HX-Request": "true"}, follow=True)
    assert answer.headers["HX-Refresh"] == "true"


# Seeing


def test_every_page_is_whole_for_a_member(page: Client, full: Rows) -> None:
    for address in addresses(full):
        answer = page.get(address)
        assert answer.status_code == 200, address
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        if b"<html" in answer.content:
            assert b"5 GiB/16 GiB" in answer.content, f"{address}: what the bar says of the nodes is lost"


def test_a_viewer_sees_every_page_and_why_starting_is_not_theirs(viewer: Client, full: Rows) -> None:
    for address in addresses(full):
        assert viewer.get(address).status_code == 200, address
    shown = viewer.get(reverse("model", args=[full.model.pk])).content.decode()
    assert "needs the role of operator" in shown
    assert "ada" in shown


def test_nobody_without_a_session_sees_a_page(client: Client, full: Rows) -> None:
    for address in addresses(full):
        assert client.get(address).status_code == 302, address


def test_a_stranger_sees_nothing_of_another_teams_rows(stranger: User, full: Rows) -> None:
    other = signed_in(stranger)
    for name, row in (("model", full.model), ("deployment", full.ready), ("deployment-logs", full.ready)):
        assert other.get(reverse(name, args=[row.pk])).status_code == 404
    for name in ("models", "running", "nodes"):
        assert full.ready.name not in other.get(reverse(name)).content.decode()
    assert full.failed.name not in other.get(reverse("find"), {"q": "org-with"}).content.decode()


def test_another_teams_replica_is_shown_without_its_name(page: Client, full: Rows) -> None:
    for name in ("running", "nodes"):
        shown = page.get(reverse(name)).content.decode()
        assert "another team" in shown
        assert "secret" not in shown


def test_the_bar_counts_replicas_and_says_what_needs_a_person(page: Client, full: Rows) -> None:
    shown = page.get(reverse("bar")).content.decode()
    assert "need you" in shown
    assert 'data-state="ready"' in shown
    assert "5 GiB/16 GiB" in shown


def test_with_nothing_running_home_starts_the_demo(page: Client) -> None:
    shown = page.get("/").content.decode()
    assert "SmolLM2-135M-Instruct" in shown
    assert "capital of France" in shown


def test_the_finder_finds_by_part_of_a_name(page: Client, full: Rows) -> None:
    shown = page.get(reverse("find"), {"q": "smol"}).content.decode()
    assert reverse("model", args=[full.model.pk]) in shown
    assert reverse("deployment", args=[full.ready.pk]) in shown
    assert "Nothing here" in page.get(reverse("find"), {"q": "no-such-thing"}).content.decode()


def test_a_failure_says_why_and_shows_the_last_log_lines(page: Client, full: Rows) -> None:
    shown = page.get(reverse("deployment", args=[full.failed.pk])).content.decode()
    assert "lower the context, to 65,536" in shown
    assert "failed to allocate CPU buffer" in shown


def test_a_start_is_a_list_of_steps_with_their_times(page: Client, full: Rows) -> None:
    shown = page.get(reverse("deployment-status", args=[full.ready.pk])).content.decode()
    assert "ready in" in shown
    assert "4.4 s" in shown
    live = page.get(reverse("deployment-status", args=[full.starting.pk])).content.decode()
    assert "installing packages, 58 of 93 packages" in live


def test_the_log_of_this_node_comes_from_its_file_with_the_keys_hidden(
    page: Client, full: Rows, home, settings
) -> None:
    replica = full.ready.replicas.get()
    settings.NODE_NAME = "node-1"
    Replica.objects.filter(pk=replica.pk).update(engine_key="very-secret-key")
    folder = home / "replicas" / str(replica.pk)
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text("first line\nBearer very-secret-key\n<script>alert(1)</script>\n")
    shown = page.get(reverse("deployment-logs", args=[full.ready.pk])).content.decode()
    assert "first line" in shown
    assert "very-secret-key" not in shown
    assert "<script>" not in shown


def test_hostile_names_are_inert(page: Client, full: Rows) -> None:
    Deployment.objects.filter(pk=full.ready.pk).update(name='"><img src=x onerror=alert(1)>')
    for address in (reverse("running"), reverse("deployment", args=[full.ready.pk]), reverse("home")):
        assert "<img" not in page.get(address).content.decode()


def test_missing_pages_and_refusals_are_pages_of_the_site(page: Client, viewer: Client, full: Rows) -> None:
    missing = page.get("/nothing/here/")
    assert missing.status_code == 404
    assert b"Nothing is here" in missing.content
    refused = viewer.post(reverse("deployment-stop", args=[full.ready.pk]))
    assert refused.status_code == 403
    assert "needs the role of operator" in refused.content.decode()


# Changing


def test_it_refuses_every_change_without_a_csrf_token(user: User, full: Rows) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    for name, row in WRITES:
        answer = client.post(reverse(name, args=[getattr(full, row).pk]))
        assert answer.status_code == 403, name
        assert b"too old" in answer.content
    for name in ("start-demo", "running-stop", "sign-out"):
        assert client.post(reverse(name)).status_code == 403, name


def test_it_changes_nothing_by_get(page: Client, full: Rows) -> None:
    for name, row in WRITES:
        assert page.get(reverse(name, args=[getattr(full, row).pk])).status_code == 405, name


def test_a_stranger_changes_nothing_and_is_remembered(stranger: User, full: Rows) -> None:
    other = signed_in(stranger)
    for name, row in WRITES:
        assert other.post(reverse(name, args=[getattr(full, row).pk])).status_code == 404, name
    assert AuditEntry.objects.filter(action="refused write", user=stranger).count() == len(WRITES)


def test_a_viewer_changes_nothing(viewer: Client, full: Rows) -> None:
    for name, row in WRITES:
        assert viewer.post(reverse(name, args=[getattr(full, row).pk])).status_code == 403, name
    assert viewer.post(reverse("start-demo")).status_code == 403
    full.ready.refresh_from_db()
    assert full.ready.desired == Deployment.Desired.RUNNING


def test_start_makes_a_deployment_with_only_what_was_set(page: Client, full: Rows) -> None:
    posted = {"engine": "llama.cpp", "name": "mine", "option.context": "2048", "option.warmup": "false"}
    answer = page.post(reverse("model-start", args=[full.model.pk]), posted | {"option.parallel": ""})
    row = Deployment.objects.get(name="mine")
    assert answer.headers["Location"] == reverse("deployment", args=[row.pk])
    assert row.wanted["options"] == {"context": 2048, "warmup": False}


def test_a_wrong_field_is_named_and_what_was_typed_stays(page: Client, full: Rows) -> None:
    posted = {"engine": "llama.cpp", "name": "kept-name", "option.context": "-5", "idle_timeout_s": "600"}
    answer = page.post(reverse("model-start", args=[full.model.pk]), posted)
    shown = answer.content.decode()
    assert answer.status_code == 422
    assert 'value="kept-name"' in shown
    assert 'value="-5"' in shown
    assert 'id="id-option-context-error"' in shown
    assert not Deployment.objects.filter(name="kept-name").exists()


def test_hostile_options_are_refused(page: Client, full: Rows) -> None:
    for posted in (
        {"engine": "no-such-engine"},
        {"engine": "llama.cpp", "version": "1; rm -rf /"},
        {"engine": "llama.cpp", "option.rope_scaling": "--host"},
        {"engine": "llama.cpp", "idle_timeout_s": "soon"},
    ):
        answer = page.post(reverse("model-start", args=[full.model.pk]), posted)
        assert answer.status_code == 422, posted
    assert (
        page.post(reverse("model-start", args=[full.refused.pk]), {"engine": "llama.cpp"}).status_code == 422
    )


def test_the_preview_follows_the_form_and_changes_nothing(page: Client, full: Rows) -> None:
    before = Deployment.objects.count()
    form = reverse("model-form", args=[full.model.pk])
    small = page.post(form, {"engine": "llama.cpp", "option.context": "1024"}).content.decode()
    assert "--ctx-size 1024" in small
    wrong = page.post(form, {"engine": "llama.cpp", "option.context": "many"}).content.decode()
    assert 'href="#id-option-context"' in wrong
    assert Deployment.objects.count() == before


def test_options_that_mean_the_same_survive_a_change_of_engine(page: Client, full: Rows) -> None:
    posted = {"engine": "vllm", "options-of": "llama.cpp", "option.context": "2048"}
    shown = page.post(reverse("model-form", args=[full.model.pk]), posted).content.decode()
    assert 'value="2048"' in shown


def test_stop_start_restart_and_delete_reach_the_row(page: Client, full: Rows) -> None:
    def desired() -> str:
        return Deployment.objects.get(pk=full.ready.pk).desired

    for name, expected in (
        ("deployment-stop", "stopped"),
        ("deployment-start", "running"),
        ("deployment-restart", "running"),
        ("deployment-delete", "deleted"),
    ):
        assert page.post(reverse(name, args=[full.ready.pk])).status_code == 302
        assert desired() == expected, name
    assert page.get(reverse("deployment", args=[full.ready.pk])).status_code == 404


def test_what_serves_an_endpoint_is_not_stopped_here(page: Client, full: Rows) -> None:
    Deployment.objects.filter(pk=full.ready.pk).update(released=True)
    answer = page.post(reverse("deployment-stop", args=[full.ready.pk]), follow=True)
    assert "serves an endpoint" in answer.content.decode()
    assert Deployment.objects.get(pk=full.ready.pk).desired == Deployment.Desired.RUNNING


def test_the_chosen_are_stopped_together(page: Client, full: Rows) -> None:
    answer = page.post(
        reverse("running-stop"), {"chosen": [full.ready.pk, full.starting.pk, "x"]}, follow=True
    )
    assert "2 deployments stop" in answer.content.decode()
    assert Deployment.objects.filter(desired=Deployment.Desired.STOPPED).count() == 3


def test_the_idle_time_out_is_edited_within_limits(page: Client, full: Rows) -> None:
    address = reverse("deployment-idle", args=[full.ready.pk])
    for text, expected in (("600", 600), ("999999999", 600), ("", None)):
        page.post(address, {"idle_timeout_s": text})
        assert Deployment.objects.get(pk=full.ready.pk).idle_timeout_s == expected


def test_an_install_is_asked_for_once_and_cancelled(page: Client, full: Rows) -> None:
    address = reverse("node-install", args=[full.node.pk])
    for _ in range(2):
        assert page.post(address, {"engine": "vllm", "version": ""}).status_code == 302
    job = Job.objects.get(target__startswith="environment:vllm", state__in=Job.ACTIVE)
    page.post(reverse("job-cancel", args=[job.pk]))
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED


def test_a_wrong_version_is_said_beside_the_field(page: Client, full: Rows) -> None:
    answer = page.post(
        reverse("node-install", args=[full.node.pk]), {"engine": "vllm", "version": "latest; x"}
    )
    shown = answer.content.decode()
    assert answer.status_code == 422
    assert 'value="latest; x"' in shown
    assert "A version looks like" in shown


def test_start_on_home_opens_a_conversation_with_what_was_typed(page: Client, team: Team) -> None:
    answer = page.post(reverse("start-demo"), {"message": "What is 2 & 2?"})
    row = Deployment.objects.get(team=team)
    assert row.model.name == "SmolLM2-135M-Instruct"
    assert answer.headers["Location"].endswith("?text=What+is+2+%26+2%3F")
    page.post(reverse("start-demo"), {"message": "again"})
    assert Deployment.objects.count() == 1


def test_home_shows_the_endpoints_there_are(page: Client, team: Team, full: Rows) -> None:
    assert "All endpoints" not in page.get("/").content.decode()
    Endpoint.objects.create(team=team, name="capitals")
    shown = page.get("/").content.decode()
    assert "capitals" in shown
    assert "no live release" in shown


def test_the_price_of_a_machine_is_edited_within_limits(page: Client, viewer: Client, full: Rows) -> None:
    address = reverse("node-price", args=[full.node.pk])
    for text, status, expected in (
        ("2.49", 302, "2.4900"),
        ("free", 422, "2.4900"),
        ("-1", 422, "2.4900"),
        ("1e5", 422, "2.4900"),
        ("", 302, "None"),
    ):
        assert page.post(address, {"price_per_hour": text}).status_code == status, text
        full.node.refresh_from_db()
        assert str(full.node.price_per_hour) == expected, text
    assert "A number like 2.49" in page.post(address, {"price_per_hour": "free"}).content.decode()
    assert viewer.post(address, {"price_per_hour": "1"}).status_code == 403
    assert page.get(address).status_code == 405


def test_the_bar_says_a_state_as_the_list_it_links_to_does(page: Client, full: Rows) -> None:
    Replica.objects.filter(deployment=full.starting).update(state=Replica.State.PENDING, node=None)
    bar = page.get(reverse("bar")).content.decode()
    assert "pending" not in bar
    assert "?state=queued" in bar
    assert full.starting.name in page.get(reverse("running"), {"state": "queued"}).content.decode()


def test_home_says_what_must_be_installed_first(page: Client, team: Team) -> None:
    says = "llama.cpp is not installed yet"
    assert says in page.get("/").content.decode()
    held = EngineEnvironment.objects.create(engine="llama.cpp", version="1", digest="d" * 64, packages="")
    Node.objects.create(name="n", heartbeat_at=timezone.now(), inventory={"environments": [held.digest]})
    assert says not in page.get("/").content.decode()


def test_a_wrong_option_is_told_in_words(page: Client, full: Rows) -> None:
    for text, words in (("-4", "at least 256."), ("abc", "a whole number is needed.")):
        posted = {"engine": "llama.cpp", "option.context": text}
        answer = page.post(reverse("model-start", args=[full.model.pk]), posted)
        assert words in answer.content.decode()


def test_a_replica_that_is_ready_but_reported_no_figures_yet_is_shown(page: Client, full: Rows) -> None:
    Replica.objects.filter(deployment=full.ready).update(health={})
    for name in ("deployment", "deployment-status"):
        answer = page.get(reverse(name, args=[full.ready.pk]))
        assert answer.status_code == 200
        assert "KV cache" in answer.content.decode()
    assert page.get(reverse("running")).status_code == 200
    assert page.get(reverse("nodes")).status_code == 200
