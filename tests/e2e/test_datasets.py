"""Datasets in a real browser: a table with two bad lines, told, mended, kept; what was typed stays."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from playground import arriving, datasets
from playground.models import (
    Conversation,
    Dataset,
    DatasetVersion,
    Generation,
    Membership,
    Team,
    Turn,
    User,
)
from tests.e2e.axe import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
Opener = Callable[..., Page]
# Where to leave pictures of the pages, for a person to judge: SLIPWAY_SHOTS=/tmp/shots.
SHOTS = os.environ.get("SLIPWAY_SHOTS", "")
BAD = 'question,answer\n"What is 1+1, in one word?",two\nbroken\n2+2?,four\nalso,broken,row\n'
MENDED = 'question,answer\n"What is 1+1, in one word?",two\n2+2?,four\n3+3?,six\n4+4?,eight\n'


def shot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def choose(page: Page, path: Path) -> None:
    page.locator("#dataset-upload").set_input_files(path)


def test_two_bad_lines_are_told_mended_and_the_table_is_kept(
    open_page: Opener, user: User, team: Team, tmp_path: Path
) -> None:
    page = open_page(user)
    page.goto("/datasets/")
    shot(page, "empty")
    page.get_by_role("main").get_by_role("link", name="New dataset").first.click()
    shot(page, "new")
    assert violations(page) == []
    choose(page, written(tmp_path, "sums.csv", BAD))
    expect(page.get_by_role("heading", name="2 lines cannot be used")).to_be_visible()
    lines = page.locator(".bad-lines tbody tr td:first-child")
    expect(lines).to_have_text(["3", "5"])
    expect(page.get_by_label("Name")).to_have_value("sums")
    expect(page.locator("#preview dd").first).to_have_text("What is 1+1, in one word?")
    shot(page, "bad")
    assert violations(page) == []
    page.get_by_label("Name").fill("Sums")
    page.get_by_label("Message", exact=True).fill("Answer in one word: {{question}}")
    expect(page.locator("#preview dd").first).to_have_text("Answer in one word: What is 1+1, in one word?")
    page.get_by_label("System message").fill("You are {{nobody}}.")
    expect(page.locator("#preview")).to_contain_text("{{nobody}} is no column")
    page.get_by_label("System message").fill("You are brief.")
    expect(page.locator("#preview dd").first).to_have_text("You are brief.")
    choose(page, written(tmp_path, "mended.csv", MENDED))
    expect(page.get_by_role("button", name="Save 4 rows")).to_be_visible()
    expect(page.locator("#bad")).to_have_count(0)
    expect(page.get_by_label("Name")).to_have_value("Sums")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Answer in one word: {{question}}")
    expect(page.get_by_label("Right answer")).to_have_value("answer")
    shot(page, "mended")
    page.get_by_role("button", name="Save 4 rows").click()
    expect(page.get_by_role("heading", name="Sums", exact=True)).to_be_visible()
    shot(page, "kept")
    assert violations(page) == []
    version = DatasetVersion.objects.get(dataset__name="Sums", dataset__team=team)
    assert version.bad_rows == 0 and list(
        version.rows.order_by("number").values_list("expected", flat=True)
    ) == ["two", "four", "six", "eight"]
    page.goto("/datasets/")
    expect(page.get_by_role("link", name="Sums")).to_be_visible()
    shot(page, "list")
    assert violations(page) == []


def test_a_file_in_pieces_goes_on_after_a_broken_connection(
    open_page: Opener, user: User, tmp_path: Path
) -> None:
    page = open_page(user)
    broken: list[str] = []

    def cut(route: Route) -> None:
        """The second piece arrives, its answer does not."""
        if route.request.headers["x-offset"] == str(arriving.PIECE) and not broken:
            broken.append(route.request.url)
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route(re.compile(r"/datasets/files/.+/$"), cut)
    page.goto("/datasets/new/")
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for at in range(2400):
            file.write(json.dumps({"prompt": f"{at} {'x' * 9000}"}) + "\n")
    choose(page, path)
    expect(page.get_by_role("button", name="Save 2,400 rows")).to_be_visible(timeout=30_000)
    assert broken and path.stat().st_size > 2 * arriving.PIECE
    page.get_by_role("button", name="Save 2,400 rows").click()
    expect(page.get_by_role("heading", name="large", exact=True)).to_be_visible(timeout=30_000)
    assert DatasetVersion.objects.get(dataset__name="large").row_count == 2400


def test_an_archive_is_refused_where_the_file_is_chosen(
    open_page: Opener, user: User, tmp_path: Path
) -> None:
    page = open_page(user, width=400, color_scheme="dark")
    page.goto("/datasets/new/")
    page.get_by_label("Name").fill("Kept")
    choose(page, written(tmp_path, "in.jsonl", "PK\x03\x04archive"))
    expect(page.locator("#file-error")).to_contain_text("ZIP archive")
    expect(page.get_by_label("Name")).to_have_value("Kept")
    shot(page, "refused-narrow-dark")
    choose(page, written(tmp_path, "none.jsonl", ""))
    expect(page.locator("#file-error")).to_contain_text("empty")
    choose(page, written(tmp_path, "bad.csv", BAD))
    page.get_by_role("button", name="Save 2 rows without the 2 bad lines").click()
    expect(page.get_by_role("heading", name="Kept", exact=True)).to_be_visible()
    shot(page, "kept-narrow-dark")
    assert violations(page) == []
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


def test_a_new_version_begins_with_the_last_template_and_others_see_it(
    open_page: Opener, user: User, team: Team, tmp_path: Path
) -> None:
    dataset = datasets.create(team, user, "Shared")
    path = written(tmp_path, "a.csv", MENDED)
    template = [{"role": "user", "content": "Q: {{question}}"}]
    datasets.add_version(dataset, user, path, "a.csv", None, template, expected="answer")
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    other = open_page(viewer)
    other.goto(f"/datasets/{dataset.pk}/")
    expect(other.locator("html")).to_have_attribute("data-socket", "open")
    expect(other.get_by_role("link", name="New version")).to_have_count(0)
    page = open_page(user)
    page.goto(f"/datasets/{dataset.pk}/")
    page.get_by_role("link", name="New version").click()
    choose(page, path)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Q: {{question}}")
    page.get_by_role("button", name="Save 4 rows").click()
    expect(page.get_by_role("heading", name="Rows of version 2")).to_be_visible()
    expect(other.get_by_role("heading", name="Rows of version 2")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No datasets yet")).to_be_visible()
    assert not Dataset.objects.exists()


def test_a_conversations_share_leads_to_a_dataset(open_page: Opener, user: User, team: Team) -> None:
    talk = Conversation.objects.create(team=team, created_by=user, title="Capitals")
    turn = Turn.objects.create(conversation=talk, text="France?", client_id="1")
    Generation.objects.create(turn=turn, column=talk.columns.create(), state="complete", text="Paris")
    page = open_page(user)
    page.goto(f"/playground/{talk.pk}/share/")
    page.get_by_role("link", name="Add to a dataset…").click()
    expect(page.get_by_role("heading", name="1 message with an answer")).to_be_visible()
    shot(page, "add")
    assert violations(page) == []
    page.get_by_label("Name of a new one").fill("")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("Give the dataset a name")
    page.get_by_label("Name of a new one").fill("Capitals")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", name="Capitals", exact=True)).to_be_visible()
    expect(page.locator(".given-rows dd")).to_have_text(["France?", "Paris"])
